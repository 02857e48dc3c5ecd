//! Having a thread come by a slow path, from a signal's handler.
//!
//! # Theory
//! A thread that finds all it needs at its CPU's hand takes the fast paths only, which know nothing of anybody who waits. But they begin at the
//! thread's word (see `rseq`): a thread that forgot how it owns a CPU takes a slow half once, and there is told that it found nothing.
//!
//! Two can wait. Who wants any malloc or free to look about is served by the first failure (`expect`). The guard wants a request that comes to
//! a refill, which is the second that looks at the stack, and a free is of no use to it: so for it operations go on failing,
//! or leave the thread without knowledge of its CPU, until a request asked for its turn (`request`, `came_by`).
//!
//! # Never
//! Anything but stores to the thread's own word and to this file's.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

#[cfg(target_arch = "x86_64")]
use super::rseq;

/// The next operation of a thread that does not know how it owns a CPU is to fail.
static EXPECTED: AtomicBool = AtomicBool::new(false);

/// Has the calling thread come by a slow path at its next malloc or free, or another thread before it. Allowed in signal handlers, wherever
/// they interrupted the thread: it only forgets how it owns a CPU, as if it was new.
///
/// An operation that began knows its area or its slot, and goes on with that.
pub(crate) fn expect() {
    // Relaxed: the thread sees its own store.
    EXPECTED.store(true, Ordering::Relaxed);
    forget();
}

/// True once after each [`expect`].
#[inline]
pub(super) fn is_expected() -> bool {
    EXPECTED.load(Ordering::Relaxed) && EXPECTED.swap(false, Ordering::Relaxed)
}

/// So many operations on the slow halves more are to bring a request to the guard; 0: it needs none.
static WANTED: AtomicU32 = AtomicU32::new(0);
/// What comes by meanwhile are frees, or requests that no guard asks.
const CHANCES: u32 = 64;

/// Has the calling thread, or another one before it, come by the sampling guard with its next request: until one came, what is popped is
/// nothing, and threads that come by the slow halves forget how they own a CPU. Allowed in signal handlers, as [`expect`].
pub(super) fn request() {
    // Relaxed: the thread sees its own store; what others miss is made up for by the next signal.
    WANTED.store(CHANCES, Ordering::Relaxed);
    forget();
}

/// A request came by the guard.
pub(super) fn came_by() {
    if WANTED.load(Ordering::Relaxed) != 0 {
        WANTED.store(0, Ordering::Relaxed);
    }
}

/// An operation of a slow half is not enough: the guard wants to be asked. The thread's next operation comes by the slow halves too.
#[inline]
pub(super) fn is_wanted() -> bool {
    let left = WANTED.load(Ordering::Relaxed);
    left != 0 && {
        // Two threads may count one chance, or give back a few of those that are over.
        WANTED.store(left - 1, Ordering::Relaxed);
        forget();
        true
    }
}

/// The calling thread finds out anew how it owns a CPU at its next operation. Allowed in signal handlers.
pub(super) fn forget() {
    #[cfg(target_arch = "x86_64")]
    rseq::forget_area();
}
