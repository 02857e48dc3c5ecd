//! By which calls a block was asked for (`KMEM_ORIGINS=1`).
//!
//! # Theory
//! C++ promises nothing of a block of `new` that is given to `free`, and the other way round. It works on every heap that keeps no
//! lists of its own for each, so many programs do it, often by two libraries that are linked in different ways: to stop them is
//! for those who ask. A block's seal has room: above the number of bytes it keeps the call. That of `malloc` is 0, so the seal of a
//! block of `malloc` is what it is without, and nothing on its way changes. The seal of another is no seal to the fast half of
//! free, and everything else happens in the slow one.

use core::sync::atomic::{AtomicU64, Ordering};

use kmem_core::debug::Origin;

use super::words::WORDS;
use crate::host::misc;

/// What an origin's number is multiplied by in a seal: a bit above every size, or 0 where origins are not kept.
static UNIT: AtomicU64 = AtomicU64::new(0);

/// Above the bytes of any class.
const SHIFT: u32 = 32;

const ORIGINS: [Origin; 5] =
    [Origin::Malloc, Origin::New, Origin::NewArray, Origin::AlignedNew, Origin::AlignedNewArray];

/// Reads what the environment asks for. The heap is being made.
///
/// # Safety
/// As [`misc::getenv`].
pub(super) unsafe fn start() {
    // SAFETY: the caller's promise.
    if unsafe { misc::getenv("KMEM_ORIGINS") } == Some(b"1") {
        // Relaxed: published with the heap.
        UNIT.store(1 << SHIFT, Ordering::Relaxed);
        WORDS.specially();
    }
}

/// Origins are kept and compared.
#[inline(always)]
pub(super) fn kept() -> bool {
    UNIT.load(Ordering::Relaxed) != 0
}

/// What an origin adds to a block's size in its seal.
#[inline(always)]
pub(super) fn bits(origin: Origin) -> u64 {
    UNIT.load(Ordering::Relaxed) * origin as u64
}

/// The origin that the size in a seal was kept with, and the size alone. Nothing when it was none.
pub(super) fn split(word: u64) -> Option<(Origin, u64)> {
    let origin = ORIGINS.get((word >> SHIFT) as usize)?;
    (kept() || *origin == Origin::Malloc).then_some((*origin, word & ((1 << SHIFT) - 1)))
}
