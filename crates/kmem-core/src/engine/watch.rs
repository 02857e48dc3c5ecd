//! What a hardened heap knows of each object, out of reach of the objects.
//!
//! # Theory
//! One byte for every 16 bytes of the window says whether an object that starts there is in use ([`Config::WATCHED`] asks for
//! it). It lies apart from the objects, so no overflow reaches it, and it is found from an address by a subtraction and a shift,
//! as the page's tag is. An allocation sets it, a free clears it: whoever finds it clear frees what is free.
//!
//! Two threads that free one object in the same instant meet at the byte: it is cleared by an exchange, so one of them finds
//! it clear. A process of one thread has nobody to meet and saves the locked operation (`alone`).
//!
//! A free object is zero: the free clears it, and the allocation looks at all of it. What it finds there was written to after
//! the free. So a request for zeroed memory costs nothing more, and nothing that was freed can be read back.
//!
//! # Invariants
//! - I-GUARD-1: the byte of an object is [`USED`] exactly while the object belongs to a caller; of all addresses where no
//!   object in use starts, it is [`FREE`].
//! - I-GUARD-2: objects have at least [`GRAIN`] bytes, so no two share a byte.
//! - I-GUARD-3: the bytes of a free object that is on no chain of its slab are zero, [`zeroed_bytes`](super::Cache::zeroed) of
//!   them.
//!
//! # Never
//! Nothing here takes a lock or asks for memory.
//!
//! [`Config::WATCHED`]: crate::config::Config::WATCHED

use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};

/// Bytes of the window for which there is one byte of state.
pub const GRAIN: usize = 1 << GRAIN_SHIFT;
/// log2 of [`GRAIN`].
pub const GRAIN_SHIFT: u32 = 4;

/// No object in use starts there.
pub const FREE: u8 = 0;
/// An object in use starts there.
pub const USED: u8 = 1;

/// The states of a heap's objects.
pub struct States {
    base: AtomicUsize,
    map: AtomicPtr<AtomicU8>,
}

impl States {
    /// Of a heap without a window.
    pub(crate) const fn new() -> Self {
        Self { base: AtomicUsize::new(0), map: AtomicPtr::new(core::ptr::null_mut()) }
    }

    /// Takes a map into use: one byte for each [`GRAIN`] of the window from `base` on, readable, writable and zero where
    /// memory was added. Once, before the heap is shared.
    pub(crate) fn start(&self, base: usize, map: *mut AtomicU8) {
        // Relaxed: the caller publishes the heap to other threads afterwards.
        self.base.store(base, Ordering::Relaxed);
        self.map.store(map, Ordering::Relaxed);
    }

    /// The state of the object at an address.
    ///
    /// # Safety
    /// The address lies in added memory of the window, and the map was taken into use.
    #[inline(always)]
    pub(crate) unsafe fn of(&self, object: usize) -> &AtomicU8 {
        let at = object.wrapping_sub(self.base.load(Ordering::Relaxed)) >> GRAIN_SHIFT;
        // SAFETY: the caller's promise.
        unsafe { &*self.map.load(Ordering::Relaxed).add(at) }
    }
}

/// Marks an object that was just taken off the free ones as in use. False: it is in use already, so it was freed twice.
#[inline(always)]
pub fn take(state: &AtomicU8) -> bool {
    // Relaxed, and no exchange: the object is the caller's alone (I-CPU-1, I-SLUB-2). Whoever gets it from the caller sees
    // the byte as it sees the object.
    if state.load(Ordering::Relaxed) != FREE {
        return false;
    }
    state.store(USED, Ordering::Relaxed);
    true
}

/// Marks an object as free. False: it is free already. `alone`: no other thread can free it at the same time.
#[inline(always)]
pub fn give(state: &AtomicU8, alone: bool) -> bool {
    if alone {
        let used = state.load(Ordering::Relaxed) == USED;
        state.store(FREE, Ordering::Relaxed);
        return used;
    }
    // Relaxed: of all who free an object one finds it used; what orders the object itself is the way it came to its holder,
    // and the way it goes to the next.
    state.swap(FREE, Ordering::Relaxed) == USED
}

/// Up to here bytes are cleared in place; beyond by the platform's `memset`.
pub const INLINE: usize = 256;

/// Sixteen bytes of an object, `at` from its start.
///
/// # Safety
/// They lie inside it; with `ALIGNED` both are multiples of 16.
#[inline(always)]
unsafe fn read<const ALIGNED: bool>(object: *const u8, at: usize) -> u128 {
    let place = object.wrapping_add(at).cast::<u128>();
    // SAFETY: the caller's promise.
    unsafe { if ALIGNED { place.read() } else { place.read_unaligned() } }
}

/// Clears sixteen bytes of an object.
///
/// # Safety
/// As [`read`].
#[inline(always)]
unsafe fn clear<const ALIGNED: bool>(object: *mut u8, at: usize) {
    let place = object.wrapping_add(at).cast::<u128>();
    // SAFETY: the caller's promise.
    unsafe { if ALIGNED { place.write(0) } else { place.write_unaligned(0) } }
}

/// Makes an object zero. What is left of it after whole pieces is done by a piece that ends where it ends and overlaps what
/// was done: there is no loop over the rest.
///
/// # Safety
/// The caller owns `bytes` bytes there, at least 16; with `ALIGNED` both are multiples of 16, without it of 8.
#[inline(always)]
pub unsafe fn wipe<const ALIGNED: bool>(object: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise; every piece starts and ends inside.
    unsafe {
        if bytes <= 32 {
            clear::<ALIGNED>(object, 0);
            clear::<ALIGNED>(object, bytes - 16);
        } else if bytes <= 64 {
            [0, 16, bytes - 32, bytes - 16].into_iter().for_each(|at| clear::<ALIGNED>(object, at));
        } else if bytes <= INLINE {
            let mut at = 0;
            while at < bytes - 64 {
                [at, at + 16, at + 32, at + 48].into_iter().for_each(|at| clear::<ALIGNED>(object, at));
                at += 64;
            }
            [bytes - 64, bytes - 48, bytes - 32, bytes - 16]
                .into_iter()
                .for_each(|at| clear::<ALIGNED>(object, at));
        } else {
            object.write_bytes(0, bytes);
        }
    }
}

/// An object is all zero.
///
/// # Safety
/// As [`wipe`]; nothing is written.
#[inline(always)]
pub unsafe fn is_zero<const ALIGNED: bool>(object: *const u8, bytes: usize) -> bool {
    // SAFETY: the caller's promise; every piece starts and ends inside.
    unsafe {
        let four = |at: usize| {
            (read::<ALIGNED>(object, at) | read::<ALIGNED>(object, at + 16))
                | (read::<ALIGNED>(object, at + 32) | read::<ALIGNED>(object, at + 48))
        };
        if bytes <= 32 {
            return read::<ALIGNED>(object, 0) | read::<ALIGNED>(object, bytes - 16) == 0;
        }
        if bytes <= 64 {
            let low = read::<ALIGNED>(object, 0) | read::<ALIGNED>(object, 16);
            return low | read::<ALIGNED>(object, bytes - 32) | read::<ALIGNED>(object, bytes - 16) == 0;
        }
        if bytes <= 128 {
            return four(0) | four(bytes - 64) == 0;
        }
        let mut at = 0;
        while at < bytes - 128 {
            if four(at) | four(at + 64) != 0 {
                return false;
            }
            at += 128;
        }
        four(bytes - 128) | four(bytes - 64) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_taken_once_and_given_once() {
        for alone in [false, true] {
            let state = AtomicU8::new(FREE);
            assert!(!give(&state, alone), "never taken");
            assert!(take(&state));
            assert!(!take(&state), "taken already");
            assert!(give(&state, alone));
            assert!(!give(&state, alone), "given already");
        }
    }

    #[test]
    fn every_byte_counts() {
        for bytes in (16..=640).step_by(8) {
            let mut memory = vec![u128::MAX; 45];
            let object = memory.as_mut_ptr().cast::<u8>();
            let aligned = bytes % 16 == 0;
            // SAFETY: 720 bytes, aligned to 16.
            unsafe {
                let zero =
                    || if aligned { is_zero::<true>(object, bytes) } else { is_zero::<false>(object, bytes) };
                if aligned {
                    wipe::<true>(object, bytes)
                } else {
                    wipe::<false>(object, bytes)
                }
                assert!(zero());
                assert_ne!(object.add(bytes).cast::<u64>().read(), 0, "{bytes}");
                for at in 0..bytes {
                    object.add(at).write(1);
                    assert!(!zero(), "byte {at} of {bytes}");
                    object.add(at).write(0);
                }
            }
        }
    }
}
