//! `free`: a block goes back to its stack, or to where the slow half finds that it belongs.
//!
//! # Theory
//! The fast half knows blocks by their headers, or by tag, proof and mark (modules `quick` and `state`). What it does not know goes on
//! from one half to the next: blocks without headers, blocks for which the stack has no room, and all else, which the core takes or
//! refuses. A call may claim more of a block than its address; that is compared only where debug options keep what is known.
//!
//! # Invariants
//! - I-FREE-1: a block is made a free one before it is where another may find it, once (I-BESIDE-2).
//!
//! # Never
//! A refused free changes nothing of the heap.

use kmem_core::debug::Origin;
use kmem_core::kmalloc::claim::Claim;
use kmem_core::kmalloc::classes::{ClassSet, Kind};
use kmem_core::kmalloc::{FreeError, zero_or_null};
use kmem_core::percpu::Pushed;

#[cfg(target_arch = "x86_64")]
use super::quick;
use super::state::State;
use super::{HARDENED, HEAP, aging, class_at, cpus, hardened, heap, place_of, reserve, state};
use crate::debugging;
#[cfg(target_arch = "x86_64")]
use crate::engine::QUICK;
use crate::engine::{self, Classes, Heap};
use crate::live;
use crate::misuse::{self, Call, Damage};

/// Frees a block. Null is fine. A block that is free already, or an address where no block starts, is reported and
/// the process aborts.
///
/// # Safety
/// The block came from this module, and nobody uses it any more.
#[inline(always)]
pub unsafe fn free(ptr: *mut u8) {
    if HARDENED {
        // SAFETY: the caller's promise.
        return unsafe { hardened::free(ptr) };
    }
    // SAFETY: the caller's promise.
    unsafe { free_or(ptr, |ptr| free_slow(ptr)) }
}

/// [`free`] by a call that says more than an address. With debug options what it says is compared with how the block was asked for;
/// a mismatch is reported and the process aborts, or goes on and frees the block all the same.
///
/// # Safety
/// As [`free`].
#[inline(always)]
pub unsafe fn free_as(ptr: *mut u8, claim: Claim) {
    if HARDENED {
        // SAFETY: the caller's promise.
        return unsafe {
            if claim.size.is_none() && claim.align.is_none() {
                hardened::free_by(ptr, claim.origin)
            } else {
                hardened::free_as(ptr, claim)
            }
        };
    }
    // Single words, so that the fast half needs no place in memory for them.
    let (size, align) = (claim.size.unwrap_or(NOT_TOLD), claim.align.unwrap_or(NOT_TOLD));
    // SAFETY: the caller's promise.
    unsafe {
        free_or(ptr, |ptr| free_claimed(ptr, claim.origin, size, align));
    }
}

/// The fast half of [`free`]; `other` is called where it does not know what to do.
///
/// # Safety
/// As [`free`].
#[inline(always)]
unsafe fn free_or(ptr: *mut u8, other: impl FnOnce(*mut u8)) {
    #[cfg(target_arch = "x86_64")]
    if QUICK {
        // SAFETY: the caller's promise.
        return unsafe {
            match quick::free(ptr) {
                quick::Freed::Done => {}
                quick::Freed::Full => free_full(ptr),
                quick::Freed::Other => other(ptr),
            }
        };
    }
    if let Some(place) = engine::place_at(HEAP.platform().span(), ptr) {
        // SAFETY: a block of a class starts here.
        unsafe {
            if state::is_in_use(ptr, place) {
                state::give(ptr, place);
                if cpus().try_push(place, ptr) == Pushed::Done {
                    return;
                }
                return free_rest(ptr, place);
            }
        }
    }
    other(ptr);
}

/// A size or alignment that a free does not tell.
const NOT_TOLD: usize = usize::MAX;

#[cold]
#[inline(never)]
unsafe fn free_claimed(ptr: *mut u8, origin: Origin, size: usize, align: usize) {
    if !ptr.is_null() {
        let told = |value| (value != NOT_TOLD).then_some(value);
        check_claim(ptr, Claim { origin, size: told(size), align: told(align) });
    }
    // SAFETY: the caller's promise.
    unsafe { free_slow(ptr) }
}

/// Compares a claim with what is known of a block that is in no unchecked slab, where there are debug options.
pub(super) fn check_claim(ptr: *mut u8, claim: Claim) {
    if class_at(ptr).is_none()
        && let Some(heap) = heap()
        && heap.debug().options().is_some()
    {
        heap.check_claim(ptr, &claim);
    }
}

/// Frees a block that has its mark, where this CPU's stack has no room, or has it already.
#[cfg(target_arch = "x86_64")]
#[cold]
#[inline(never)]
unsafe fn free_full(ptr: *mut u8) {
    if let Some(place) = engine::place_at(HEAP.platform().span(), ptr) {
        // SAFETY: the caller's promise.
        unsafe { free_rest(ptr, place) }
    }
}

#[cold]
#[inline(never)]
unsafe fn free_rest(ptr: *mut u8, place: usize) {
    let id = engine::stack_of(place);
    // SAFETY: the caller's promise.
    if unsafe { cpus().push_cold(id, ptr) } == Pushed::Done {
        return;
    }
    live::tick(&HEAP);
    aging::tick(&HEAP);
    reserve::tick(&HEAP);
    // Out of room on this CPU. The slow path knows nothing of marks, so the mark may stay.
    // SAFETY: the caller's promise.
    if let Err(error) = unsafe { HEAP.kfree(ptr) } {
        misuse::refused(&HEAP, Call::Free, error);
    }
}

#[cold]
#[inline(never)]
unsafe fn free_slow(ptr: *mut u8) {
    if ptr.is_null() {
        return;
    }
    if let Some(class) = class_at(ptr) {
        let place = place_of(class);
        // SAFETY: a block of that class.
        let state = unsafe { state::state_of(ptr, place) };
        if state == State::Free {
            return misuse::refused(&HEAP, Call::Free, freed_before(ptr, class));
        }
        // What is whole is the last block of a slab.
        if let Some(damage) = Damage::of(state) {
            misuse::damaged(&HEAP, Call::Free, ptr, Some(class), damage);
            // The program goes on all the same. The block is its own, as far as anybody can tell.
            // SAFETY: a block of that class, the caller's.
            unsafe { state::mend(ptr, place) };
        }
        // SAFETY: as above.
        return unsafe {
            state::give(ptr, place);
            free_rest(ptr, place);
        };
    }
    // Not made yet: it is made now, since its options say what is done about errors.
    let freed = match heap() {
        Some(heap) if !zero_or_null(ptr) => {
            debugging::pace::tick(heap);
            live::tick(heap);
            reserve::tick(heap);
            // SAFETY: the caller's promise.
            let freed = unsafe { free_whole(heap, ptr) };
            if heap.ages() {
                reserve::expect();
            }
            freed
        }
        _ => Err(FreeError::Foreign(ptr.addr())),
    };
    if let Err(error) = freed {
        misuse::refused(&HEAP, Call::Free, error);
    }
}

/// Frees what the core knows. A block that was written past its end is the program's own all the same, if it goes on.
///
/// # Safety
/// As [`free`].
#[inline(always)]
unsafe fn free_whole(heap: &Heap, ptr: *mut u8) -> Result<(), FreeError> {
    if Classes::TAILED == 0 {
        // SAFETY: the caller's promise.
        return unsafe { heap.kfree(ptr) };
    }
    // SAFETY: the caller's promise; what was refused is still the caller's.
    unsafe {
        match heap.kfree(ptr) {
            Err(FreeError::Overflow { cache, .. }) => {
                misuse::overflowed(heap, Call::Free, ptr, cache);
                heap.kfree(ptr)
            }
            freed => freed,
        }
    }
}

pub(super) fn freed_before(ptr: *const u8, class: usize) -> FreeError {
    FreeError::Double { address: ptr.addr(), cache: Classes::name(Kind::Normal, class) }
}
