//! Grown CPU stacks become small again while the program runs.
//!
//! # Theory
//! While any stack has grown at all, who comes to the slow paths of malloc and free has the heap look through its stacks twice
//! a second (`due.rs`). A program that stops allocating and freeing altogether keeps what it has; that is bounded
//! (`engine/sheaf/growth.rs`).

use super::Heap;
use crate::due::Due;

/// Nanoseconds between two looks.
const PERIOD: u64 = 500_000_000;

static DUE: Due = Due::at_once();

/// A call came to a slow path, without any lock.
#[inline]
pub(super) fn tick(heap: &Heap) {
    if heap.has_grown() {
        look(heap);
    }
}

#[cold]
#[inline(never)]
fn look(heap: &Heap) {
    if DUE.take(PERIOD) {
        heap.age_stacks();
    }
}
