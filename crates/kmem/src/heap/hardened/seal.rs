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
//! # The word before a block
//! A write before a block's start hits the last word of the slot before: its seal, or a zero if that slot is free. Its holder may
//! never come to see it, so whoever gives back the block behind it looks. The other slot is another thread's, which may take,
//! resize or free it in the same instant: no look at its state says what the word must be a moment later. But the word is only
//! ever one of few (I-SEAL-1), whatever becomes of the slot, and an aligned word is read at once. So one read tells, and there is
//! nothing to wait for.
//!
//! # Invariants
//! - I-SEAL-1: the last word of each slot of a class's slab but the shortest, which may have a link there while it is free, is zero,
//!   or a seal, or the part of a filler that a seal is about to be written over ([`may_end`]). So whoever else takes blocks of classes
//!   (names and arrays of the heap's own) leaves the last word alone.
//!
//! # Never
//! Nothing here writes outside of the block's own slot, or tells of what it found: who asks does.

use core::sync::atomic::{AtomicU64, Ordering};

use kmem_core::engine::watch;
use kmem_core::platform::PAGE_SIZE;

use super::words::WORDS;
use super::{look, origin};

/// Bytes that a block has beyond those asked for.
pub(super) const TRAILER: usize = 8;

/// Bytes that are cleared at once.
const LINE: usize = 64;
/// So many bytes behind those asked for are worth sparing.
const MUCH: usize = 128;

/// By how many bytes lie between those asked for and the last word, from 8 on all the same: which bytes of a filler lie before that
/// word.
pub(super) static FILLED: [u64; TRAILER + 1] = {
    let mut table = [0; TRAILER + 1];
    let mut bytes = 1;
    while bytes < table.len() {
        table[bytes] = table[bytes - 1] << 8 | 0xff;
        bytes += 1;
    }
    table
};

/// What the seal of a block is mixed with.
#[inline(always)]
pub(super) fn key(block: *const u8) -> u64 {
    key_by(WORDS.secrets(), block)
}

/// [`key`], by secrets that were read before: the compiler reads them anew each time.
#[inline(always)]
fn key_by([add, factor]: [u64; 2], block: *const u8) -> u64 {
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
        let bytes = (room - size).min(8) as usize;
        ((found ^ filler(key)) & FILLED[bytes] == 0).then_some(size as usize)
    }
}

/// The shortest slots. Their free ones are linked by the last word.
pub(super) const SHORTEST: usize = 16;

/// The last word of the slot before a block is a seal of `malloc`'s, or zero. False says nothing yet: ask [`follows_any`]. Before a
/// block that begins a page may lie another slab, or none, so there nobody looks.
///
/// # Safety
/// A block of a class of `slot` bytes starts there, in a slab of that class, and is the caller's.
#[inline(always)]
pub(super) unsafe fn follows(block: *const u8, slot: usize) -> bool {
    if block.addr().is_multiple_of(PAGE_SIZE) || slot == SHORTEST {
        return true;
    }
    let (secrets, before) = (WORDS.secrets(), block.wrapping_sub(slot));
    // SAFETY: the caller's promise: slabs begin pages, so this slot is of the block's own slab, which stays for as long as the block.
    let word = unsafe { last_word(before, slot) };
    // No processor foresees which of the two it is, where blocks are freed at random, so there is one jump for both: of what is not
    // zero no product that anybody can foresee is as small as a size.
    let size = word ^ key_by(secrets, before);
    let none = word.wrapping_mul(secrets[1]);
    size.min(none) <= (slot - TRAILER) as u64
}

/// The last word of a slot.
///
/// # Safety
/// A slot of so many bytes starts there, in a slab of a class.
#[inline(always)]
unsafe fn last_word(slot: *const u8, bytes: usize) -> u64 {
    // SAFETY: the caller's promise; it is aligned to 8. Others may write to it.
    unsafe { AtomicU64::from_ptr(slot.cast_mut().add(bytes - TRAILER).cast()) }.load(Ordering::Relaxed)
}

/// [`follows`], with all that a legal program may bring about: seals of other calls, and those that are just being written.
///
/// # Safety
/// As [`follows`], of a block for which that was false.
#[cold]
pub(super) unsafe fn follows_any(block: *const u8, slot: usize) -> bool {
    let before = block.wrapping_sub(slot);
    // SAFETY: the caller's promise.
    let word = unsafe { last_word(before, slot) };
    may_end(word, key(before), slot)
}

/// The last word of a slot with this key may be this one (I-SEAL-1).
fn may_end(word: u64, key: u64, slot: usize) -> bool {
    let room = (slot - TRAILER) as u64;
    // How much of a filler lies there: all of it, or its last bytes.
    let part = |bytes: u32| filler(key) >> (u64::BITS - 8 * bytes);
    word == 0
        || origin::split(word ^ key).is_some_and(|(_, size)| size <= room)
        || (1..=8).any(|bytes| word == part(bytes))
}

/// Opens a block's seal, at once, so that what follows may write to all behind the bytes asked for (I-SEAL-1).
///
/// # Safety
/// The block is the caller's, of a class of `slot` bytes.
#[inline(always)]
pub(super) unsafe fn open(block: *mut u8, slot: usize) {
    // SAFETY: the last word of the slot.
    unsafe { AtomicU64::from_ptr(block.add(slot - TRAILER).cast()) }.store(0, Ordering::Relaxed);
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
pub(super) unsafe fn clear_rest(block: *mut u8, slot: usize) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every word that comes by while a block is taken, resized and freed, and none that differs from it by a byte.
    #[test]
    fn the_word_before_a_block_is_one_of_few() {
        for (slot, key) in
            [(32, 0x1234_5678_9abc_def1), (80, 0xfedc_ba98_7654_3211), (8192, 0x8000_0000_0000_0000)]
        {
            let room = (slot - TRAILER) as u64;
            for size in [0, 1, room - 1, room] {
                assert!(may_end(key ^ size, key, slot), "a seal of {size} of {slot}");
            }
            for size in [room + 1, 1 << 31, 1 << 32 | 1] {
                assert!(!may_end(key ^ size, key, slot), "a seal of {size} of {slot}");
            }
            for at in 0..TRAILER {
                assert!(!may_end(key ^ 0xff << (8 * at), key, slot) || at == 0 && room > 255, "byte {at}");
                assert!(!may_end(1 << (8 * at), key, slot), "byte {at} of a free one");
            }
            // What `seal` writes first.
            for size in 0..=room {
                let mut memory = [0_u8; 8192 + 8];
                memory[size as usize..][..8].copy_from_slice(&filler(key).to_le_bytes());
                let word = u64::from_le_bytes(memory[room as usize..][..8].try_into().expect("8 bytes"));
                assert!(may_end(word, key, slot), "a filler behind {size} of {slot}");
            }
        }
    }
}
