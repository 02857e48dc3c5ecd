//! The end of what is kept in reserve: blocks of whole pages, free pages, and in a hardened heap pages of freed large blocks.
//!
//! # Theory
//! Free blocks of whole pages wait where the next request finds them ([`kmem_core::kmalloc::runs`]); those that nobody wanted for
//! a second or two go back. Whoever comes to a slow path of malloc or free sees to that, while there may be something to give
//! back (`due.rs`); a program that makes no such call keeps what it has, which is bounded
//! (`Config::capacity`).
//!
//! Free pages that are resident go by the same clock: as many as nobody needed from one look to the next, and all of them when
//! nobody came by a slow path for half of that time. Such a program sleeps, and what it wakes up to is a page fault for each four KiB of an
//! eighth of its heap at most.
//!
//! # Never
//! The fast paths know nothing of this. No lock is held when the work is done.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kmem_core::kmalloc::runs::RunAges;

use super::HARDENED;
use crate::due::Due;
use crate::engine::Heap;
use crate::host::misc;

/// Nanoseconds between two looks: what was not used from one to the next goes, so it is gone within two seconds.
const INTERVAL: u64 = 900_000_000;

/// When to look next; never while nothing is in reserve.
static DUE: Due = Due::never();

/// Nanoseconds without any slow path after which the program was quiet.
const QUIET: u64 = INTERVAL / 2;
/// How old the time in [`LAST`] may be: it is not written at each call.
const GRAIN: u64 = INTERVAL / 20;

/// When somebody came by last. Relaxed everywhere: it tells the time and nothing else.
static LAST: AtomicU64 = AtomicU64::new(0);

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
    } else if heap.pages().ages() {
        expect();
    }
}

#[cold]
#[inline(never)]
fn look(heap: &Heap) {
    let (last, now) = (LAST.load(Relaxed), misc::now());
    if now.wrapping_sub(last) > GRAIN {
        LAST.store(now, Relaxed);
    }
    if DUE.take_at(now, INTERVAL) {
        let runs = heap.age_large(&AGES);
        let pages = heap.age_pages(now.wrapping_sub(last) > QUIET);
        // Nothing of it in a usual build.
        let stash = HARDENED && heap.platform().age_stash();
        if !runs && !pages && !stash {
            // A block that another thread makes right now is seen at the next one's making.
            DUE.after(0);
        }
    }
}
