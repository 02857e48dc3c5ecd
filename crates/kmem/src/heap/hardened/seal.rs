//! The seal of a block: what was asked for, and what stands behind it.
//!
//! # Theory
//! A block has [`TRAILER`] bytes more than were asked for. Its last word is the number of those bytes, mixed with a secret and
//! the block's address; and as many of the 8 bytes behind the last one asked for as lie before that word are a filler,
//! none of them zero. So the first byte too far is noticed when the block is freed, resized or measured, whatever the class
//! rounds to; and the size that a block was asked with is known, to the byte.
//!
//! Where blocks are as long as pages, guard pages take the seal's place.
//!
//! # Never
//! Nothing here writes outside of the block's own slot, or tells of what it found: who asks does.

use core::sync::atomic::{AtomicU64, Ordering};

use kmem_core::engine::watch;
use kmem_core::platform::Platform;

use super::super::HEAP;
use super::look;

/// Bytes that a block has beyond those asked for.
pub(super) const TRAILER: usize = 8;

/// Bytes that are cleared at once.
const LINE: usize = 64;
/// So many bytes behind those asked for are worth sparing.
const MUCH: usize = 128;

/// Secrets of the seals; 0 until the heap is made.
static SECRETS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Draws the secrets. The heap is being made.
pub(super) fn start() {
    for secret in &SECRETS {
        // Relaxed: published with the heap.
        secret.store(HEAP.platform().entropy() | 1, Ordering::Relaxed);
    }
}

/// What the seal of a block is mixed with.
#[inline(always)]
pub(super) fn key(block: *const u8) -> u64 {
    let [add, factor] = [SECRETS[0].load(Ordering::Relaxed), SECRETS[1].load(Ordering::Relaxed)];
    (block.addr() as u64 ^ add).wrapping_mul(factor)
}

/// What stands behind a block, given its key: no byte of it is zero, so that a string's end that is written too far is seen.
#[inline(always)]
const fn filler(key: u64) -> u64 {
    key | 0x0101_0101_0101_0101
}

/// Seals a block of `slot` bytes for a holder who may use `size` of them.
///
/// # Safety
/// The block is the caller's, and `size` is at most `slot - TRAILER`.
#[inline(always)]
pub(super) unsafe fn seal(block: *mut u8, slot: usize, size: usize) {
    let key = key(block);
    // SAFETY: both words end within the slot. Where they overlap the second wins.
    unsafe {
        block.add(size).cast::<u64>().write_unaligned(filler(key));
        block.add(slot - TRAILER).cast::<u64>().write(key ^ size as u64);
    }
}

/// How many bytes of a block of `slot` bytes were asked for; nothing when its seal is broken.
///
/// # Safety
/// A slot of so many bytes starts there.
#[inline(always)]
pub(super) unsafe fn asked(block: *const u8, slot: usize) -> Option<usize> {
    // SAFETY: the caller's promise.
    unsafe { asked_with(block, slot, 0) }
}

/// [`asked`] of a block whose seal has these bits above the size.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn asked_with(block: *const u8, slot: usize, bits: u64) -> Option<usize> {
    let key = key(block);
    // SAFETY: the last word of the slot; and 8 bytes that end within it, which the first check says.
    unsafe {
        let size = block.add(slot - TRAILER).cast::<u64>().read() ^ key ^ bits;
        let room = (slot - TRAILER) as u64;
        if size > room {
            return None;
        }
        let found = block.add(size as usize).cast::<u64>().read_unaligned();
        // Of the filler only what lies before the last word: from none of it to all.
        let bytes = (room - size).min(8) as u32;
        let half = 32 - 4 * bytes;
        // A shift in two halves: one by 64 would be none.
        (((found ^ filler(key)) << half) << half == 0).then_some(size as usize)
    }
}

/// Clears a block whose seal is whole.
///
/// # Safety
/// The block is the caller's, of a class of `slot` bytes.
#[inline(always)]
pub(super) unsafe fn clear(block: *mut u8, slot: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if slot <= watch::INLINE {
            watch::wipe::<true>(block, slot);
        } else {
            clear_rest(block, slot);
        }
    }
}

/// [`clear`] of all but short blocks. Of one with much behind the bytes asked for only those, and the seal: what lies between is zero
/// (I-HARD-3), or was written to over the seal, which whoever is handed the block finds.
///
/// # Safety
/// As there.
#[inline(never)]
unsafe fn clear_rest(block: *mut u8, slot: usize) {
    // SAFETY: the caller's promise: the slot's last word, and what lies within the slot. Whole lines are cleared, so that what is read
    // next, in pieces as long as the CPU likes, comes from one store each.
    unsafe {
        let size = block.add(slot - TRAILER).cast::<u64>().read() ^ key(block);
        // Somebody may have written to the seal since it was looked at.
        let used = size.min((slot - TRAILER) as u64) as usize + TRAILER;
        let used = used.next_multiple_of(LINE);
        if slot > look::LONG && slot - used.min(slot) >= MUCH {
            block.write_bytes(0, used);
            block.add(slot - LINE).cast::<[u128; LINE / 16]>().write([0; LINE / 16]);
        } else {
            block.write_bytes(0, slot);
        }
    }
}
