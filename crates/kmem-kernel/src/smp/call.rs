//! A function, run on another CPU.
//!
//! # Theory
//! The caller writes what it wants into its own block, sets its bit in the other CPU's inbox, and interrupts it. The other
//! runs the function in the interrupt handler (so no piece of restartable code is under way there), and takes its bit out of the
//! caller's list of open answers. The caller waits for that, and answers calls itself meanwhile: two CPUs may call each other.
//!
//! A CPU that waits for a lock has interrupts off, and the lock's owner may be waiting for its answer. So waiting for a lock
//! answers calls too: [`answer`] is safe wherever no piece is under way.
//!
//! # Invariants
//! - I-CALL-1: a called function takes no lock and calls nobody.
//! - I-CALL-2: a CPU that goes offline becomes [`State::Offline`] first and looks into its inbox afterwards; a caller sets the bit
//!   first and looks at the state afterwards. So one of them sees the other, and who takes the bit out of the inbox acts.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{State, block, hotplug, this};
use crate::cpu::{self, apic};

/// A function and its argument.
type Errand = (fn(usize), usize);

/// What a CPU asks of others.
pub(crate) struct Request {
    what: UnsafeCell<Option<Errand>>,
    /// Those that did not answer yet.
    open: AtomicU64,
}

// SAFETY: `what` is written by its CPU while `open` is 0, and read by those that `open` names.
unsafe impl Sync for Request {}

impl Request {
    /// Nothing is asked.
    pub(crate) const fn new() -> Self {
        Self { what: UnsafeCell::new(None), open: AtomicU64::new(0) }
    }
}

/// Runs `function(argument)` on every CPU of the bit set `targets`, which must not hold the caller, and returns when all are
/// done. For one that is offline the caller runs it itself, and the other cannot come online meanwhile.
///
/// `function` obeys I-CALL-1.
pub(crate) fn on(targets: u64, function: fn(usize), argument: usize) {
    cpu::without_interrupts(|| {
        let me = this();
        let my_bit = 1_u64 << me.number();
        assert!(targets & my_bit == 0, "a CPU does not call itself");
        // SAFETY: nobody reads it while `open` is 0, and with interrupts off no handler of this CPU asks in between.
        unsafe { *me.request.what.get() = Some((function, argument)) };
        me.request.open.store(targets, Ordering::Relaxed);
        for target in bits(targets) {
            // SeqCst (I-CALL-2), which also publishes the request to the Acquire side of `answer`'s swap.
            block(target).inbox.fetch_or(my_bit, Ordering::SeqCst);
            if block(target).state() == State::Online {
                apic::interrupt(block(target).apic());
            }
        }
        // Acquire pairs with the Release in `answer`: what was done there is visible here.
        while me.request.open.load(Ordering::Acquire) != 0 {
            answer();
            for target in bits(me.request.open.load(Ordering::Relaxed)) {
                if block(target).state() == State::Offline {
                    act_for(target, my_bit, function, argument);
                }
            }
            core::hint::spin_loop();
        }
    });
}

/// Runs the function in place of a CPU that is offline, unless it saw the bit after all.
#[cold]
fn act_for(target: usize, my_bit: u64, function: fn(usize), argument: usize) {
    // Under the lock the CPU cannot come online.
    let _stays = hotplug::lock();
    if block(target).state() == State::Offline
        && block(target).inbox.fetch_and(!my_bit, Ordering::SeqCst) & my_bit != 0
    {
        function(argument);
        this().request.open.fetch_and(!(1 << target), Ordering::Release);
    }
}

/// Does what other CPUs ask of this one. From the interrupt of a call, and wherever this CPU waits for another.
#[inline]
pub(crate) fn answer() {
    if super::count() > 1 && this().inbox.load(Ordering::Relaxed) != 0 {
        answer_all();
    }
}

#[cold]
fn answer_all() {
    cpu::without_interrupts(|| {
        let me = this();
        for caller in bits(me.inbox.swap(0, Ordering::SeqCst)) {
            let request = &block(caller).request;
            // SAFETY: the caller waits for our bit, so it does not change the request.
            if let Some((function, argument)) = unsafe { *request.what.get() } {
                function(argument);
            }
            me.answered.fetch_add(1, Ordering::Relaxed);
            // Release pairs with the Acquire of the caller's wait.
            request.open.fetch_and(!(1 << me.number()), Ordering::Release);
        }
    });
}

/// The numbers of the bits that are set.
fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let lowest = set.trailing_zeros() as usize;
        if set == 0 {
            return None;
        }
        set &= set - 1;
        Some(lowest)
    })
}
