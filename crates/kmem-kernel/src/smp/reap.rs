//! Giving back what caches keep and nobody uses, on every CPU in turn, by an interrupt.
//!
//! # Theory
//! Unlike a call ([`super::call`]) a turn takes locks of the heap, so a CPU does not answer for it wherever it waits: it runs in
//! the interrupt's own handler, which never comes while the CPU holds such a lock (I-IRQ-1). A turn that finds the list of
//! caches locked does nothing, which is why the CPUs' turns come one after another.
//!
//! Who runs a kernel decides when: a clock that ticks, an idle loop, a shortage of memory.

use core::sync::atomic::Ordering;

use super::{State, block, call, count, number, this};
use crate::cpu::{self, apic, time};
use crate::heap;

/// This CPU's turn: from the interrupt's handler, or without interrupts.
pub(crate) fn turn() {
    heap::with(|heap| heap.cache_reap(number()));
    // Release pairs with the Acquire of who waits for the turn.
    this().turns.fetch_add(1, Ordering::Release);
}

/// Gives every CPU that is online its turn, one after another. Returns how many had one: a CPU that leaves meanwhile, or does not
/// answer within a second, has none.
pub(crate) fn all() -> usize {
    (0..count()).filter(|&target| one(target)).count()
}

fn one(target: usize) -> bool {
    if target == number() {
        cpu::without_interrupts(turn);
        return true;
    }
    let other = block(target);
    // Acquire pairs with the Release in `turn`.
    let before = other.turns.load(Ordering::Acquire);
    if other.state() == State::Offline {
        return false;
    }
    apic::reap(other.apic());
    let deadline = time::nanoseconds() + 1_000_000_000;
    while other.turns.load(Ordering::Acquire) == before {
        if other.state() == State::Offline || time::nanoseconds() > deadline {
            return false;
        }
        call::answer();
        core::hint::spin_loop();
    }
    true
}
