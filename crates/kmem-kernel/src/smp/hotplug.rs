//! A CPU leaves and comes back; what it does while there is nothing to do.
//!
//! # The way out
//! The CPU that is asked to leave does so from its idle loop, where it is in no call of the heap: timer off,
//! [`State::Offline`], one last look into the inbox (I-CALL-2), halt. Then the one that asked hands what the heap kept
//! for it back to all ([`kmem_core::Kmem::cpu_dead`]).

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::{State, block, call, start, this};
use crate::cpu::{self, apic, time};
use crate::heap;
use crate::spin::{Spin, SpinGuard};

static COMINGS: Spin<()> = Spin::new(());

/// CPUs that shall leave, a bit each.
static LEAVE: AtomicU64 = AtomicU64::new(0);

/// While this is held no CPU comes online.
pub(crate) fn lock() -> SpinGuard<'static, ()> {
    COMINGS.lock()
}

/// Waits for work and does it, until the CPU is asked to leave.
pub(crate) fn idle() -> ! {
    let me = this();
    let bit = 1_u64 << me.number();
    loop {
        cpu::mask();
        if LEAVE.load(Ordering::Acquire) & bit != 0 {
            leave();
        }
        let work = me.work.swap(core::ptr::null_mut(), Ordering::AcqRel);
        if work.is_null() {
            cpu::wait_for_interrupt();
            continue;
        }
        // SAFETY: no lock is held here.
        unsafe { cpu::unmask() };
        run(work);
    }
}

fn run(work: *mut ()) {
    // SAFETY: only functions of this type are stored there.
    let work: fn() = unsafe { core::mem::transmute(work) };
    work();
    DONE.fetch_add(1, Ordering::Release);
}

/// Pieces of work that were done.
static DONE: AtomicU64 = AtomicU64::new(0);

fn leave() -> ! {
    let me = this();
    apic::timer(0);
    me.set_state(State::Offline);
    call::answer();
    LEAVE.fetch_and(!(1 << me.number()), Ordering::Release);
    cpu::stop()
}

/// Gives work to a CPU that is idle and online, and does not wait for it.
#[cfg(feature = "conformance")]
pub(crate) fn give(number: usize, work: fn()) {
    // Release pairs with the Acquire in `idle`.
    block(number).work.store(work as *mut (), Ordering::Release);
    apic::interrupt(block(number).apic());
}

/// Runs `work` on all online CPUs, this one too, and returns when all are done.
pub(crate) fn everywhere(work: fn()) {
    let before = DONE.load(Ordering::Acquire);
    let mut given = 0;
    for number in (0..super::count()).filter(|&number| number != super::number()) {
        let other = block(number);
        if other.state() == State::Online {
            let place: &AtomicPtr<()> = &other.work;
            // Release pairs with the Acquire in `idle`.
            place.store(work as *mut (), Ordering::Release);
            apic::interrupt(other.apic());
            given += 1;
        }
    }
    work();
    // Acquire pairs with the Release in `run`: what the others did is visible here.
    while DONE.load(Ordering::Acquire) != before + given {
        call::answer();
        core::hint::spin_loop();
    }
}

/// Takes a CPU down. False when it did not leave within a second: it is not idle.
pub(crate) fn offline(number: usize) -> bool {
    assert!(number != super::number(), "a CPU does not take itself down");
    LEAVE.fetch_or(1 << number, Ordering::Release);
    apic::interrupt(block(number).apic());
    let deadline = time::nanoseconds() + 1_000_000_000;
    while LEAVE.load(Ordering::Acquire) & 1 << number != 0 {
        if time::nanoseconds() > deadline {
            LEAVE.fetch_and(!(1 << number), Ordering::Release);
            return false;
        }
        call::answer();
        core::hint::spin_loop();
    }
    heap::with(|heap| heap.cpu_dead(number));
    true
}

/// Brings a CPU back, as when it was first started.
pub(crate) fn online(number: usize) -> bool {
    start::start(number, None)
}
