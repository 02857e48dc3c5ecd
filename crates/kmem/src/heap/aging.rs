//! Grown CPU stacks become small again while the program runs.
//!
//! # Theory
//! No thread of ours and no timer: a program would notice both. Who comes to the slow paths of malloc and free, with no lock held,
//! looks at the clock when any stack has grown at all, and twice a second one of them has the heap look through its
//! stacks. A program that stops allocating and freeing altogether keeps what it has; that is bounded (`engine/sheaf/growth.rs`).

use core::sync::atomic::{AtomicU64, Ordering};

use super::Heap;
use crate::host::misc;

/// Nanoseconds between two looks.
const PERIOD: u64 = 500_000_000;

/// When the next look is due, in the platform's nanoseconds.
static DUE: AtomicU64 = AtomicU64::new(0);

/// A call came to a slow path, without any lock.
#[inline]
pub(super) fn tick(heap: &Heap) {
    if heap.has_grown_stacks() {
        look(heap);
    }
}

#[cold]
#[inline(never)]
fn look(heap: &Heap) {
    let now = misc::now();
    let due = DUE.load(Ordering::Relaxed);
    // One thread does it. Relaxed: nothing is handed over.
    if now >= due && DUE.compare_exchange(due, now + PERIOD, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        heap.age_stacks();
    }
}
