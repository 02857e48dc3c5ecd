//! The end of what large blocks leave in reserve.
//!
//! # Theory
//! Free blocks of whole pages wait where the next request finds them ([`kmem_core::kmalloc::runs`]); those that nobody wanted for
//! a second or two go back. Whoever comes to a slow path of malloc or free sees to that, while there may be something to give
//! back (`due.rs`); a program that makes no such call keeps what it has, which is bounded
//! (`Config::capacity`).
//!
//! # Never
//! The fast paths know nothing of this. No lock is held when the work is done.

use kmem_core::kmalloc::runs::RunAges;

use crate::due::Due;
use crate::engine::Heap;

/// Nanoseconds between two looks: what was not used from one to the next goes, so it is gone within two seconds.
const INTERVAL: u64 = 900_000_000;

/// When to look next; never while nothing is in reserve.
static DUE: Due = Due::never();

/// What the last look saw.
static AGES: RunAges = RunAges::new();

/// A block of whole pages is made: some day it will be in reserve.
#[inline]
pub(super) fn expect() {
    if !DUE.is_set() {
        DUE.after(INTERVAL);
    }
}

/// A call came to a slow path, without any lock.
#[inline]
pub(super) fn tick(heap: &Heap) {
    if DUE.is_set() {
        look(heap);
    }
}

#[cold]
#[inline(never)]
fn look(heap: &Heap) {
    if DUE.take(INTERVAL) && !heap.age_large(&AGES) {
        // A block that another thread makes right now is seen at the next one's making.
        DUE.after(0);
    }
}
