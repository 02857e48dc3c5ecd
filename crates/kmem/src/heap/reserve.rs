//! The end of what large blocks leave in reserve.
//!
//! # Theory
//! Free blocks of whole pages wait where the next request finds them ([`kmem_core::kmalloc::runs`]); those that nobody wanted for
//! a second or two go back. No thread of ours sees to that and no timer: a program would notice both. Instead whoever comes
//! to a slow path of malloc or free looks at the clock, while there may be something to give back; so a program that makes no
//! such call keeps what it has, which is bounded (`Config::capacity`).
//!
//! # Never
//! The fast paths know nothing of this. No lock is held when the work is done.

use core::sync::atomic::{AtomicU64, Ordering};

use kmem_core::kmalloc::runs::RunAges;

use crate::engine::Heap;
use crate::host::misc;

/// Nanoseconds between two looks: what was not used from one to the next goes, so it is gone within two seconds.
const INTERVAL: u64 = 900_000_000;

/// When to look next, in the platform's nanoseconds; 0: nothing is in reserve.
static DUE: AtomicU64 = AtomicU64::new(0);

/// What the last look saw.
static AGES: RunAges = RunAges::new();

/// A block of whole pages is made: some day it will be in reserve.
#[inline]
pub(super) fn expect() {
    // Relaxed, here and below: a time, by which nothing else is ordered.
    if DUE.load(Ordering::Relaxed) == 0 {
        DUE.store(misc::now() + INTERVAL, Ordering::Relaxed);
    }
}

/// A call came to a slow path, without any lock.
#[inline]
pub(super) fn tick(heap: &Heap) {
    let due = DUE.load(Ordering::Relaxed);
    if due != 0 {
        look(heap, due);
    }
}

#[cold]
#[inline(never)]
fn look(heap: &Heap, due: u64) {
    let now = misc::now();
    // One thread does it.
    if now < due || DUE.compare_exchange(due, now + INTERVAL, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        return;
    }
    if !heap.age_large(&AGES) {
        // A block that another thread makes right now is seen at the next one's making.
        DUE.store(0, Ordering::Relaxed);
    }
}
