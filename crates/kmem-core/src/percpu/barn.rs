//! A node's stock of full sheaves.
//!
//! A CPU whose stack ran empty takes a whole sheaf of free objects; a CPU whose stack ran full leaves
//! one. Objects move as pointers in arrays, their memory is not touched, and one short lock covers
//! dozens of objects. What the barn has no room for goes to the slabs.
//!
//! # How many
//! Objects in the barn are free, but each keeps the slab it lies in from being given back: a thousand of
//! them, freed in random order, can hold a thousand slabs. So a barn starts small and learns how many sheaves its
//! node really trades: when one is missed that was turned away before, it may hold twice as many; when many
//! were turned away and none was asked for in between, the node is freeing and not allocating, and it may hold half.

use core::ptr;

/// An array of free objects in the barn. Memory of a fixed size class; entries follow the header.
#[repr(C)]
pub struct BarnSheaf {
    next: *mut BarnSheaf,
    len: u32,
    /// Entries that fit.
    pub room: u32,
}

impl BarnSheaf {
    /// Bytes of a sheaf with room for `room` objects.
    #[must_use]
    pub const fn bytes(room: usize) -> usize {
        size_of::<Self>() + room * size_of::<*mut u8>()
    }

    fn entries(this: *mut Self) -> *mut *mut u8 {
        this.wrapping_add(1).cast()
    }
}

/// Full sheaves, and empty ones kept for the next exchange.
pub struct Barn {
    full: *mut BarnSheaf,
    empty: *mut BarnSheaf,
    /// Number of full sheaves.
    pub full_count: u32,
    /// Number of empty sheaves.
    pub empty_count: u32,
    /// Objects in the full sheaves.
    pub objects: u32,
    /// Full sheaves that it may hold now, up to the cache's limit.
    allowed: u32,
    /// Sheaves turned away since one was last taken.
    refused: u32,
    /// A sheaf was turned away since the allowance last grew.
    missed: bool,
}

/// Full sheaves that a new barn may hold.
const FIRST_ALLOWANCE: u32 = 2;
/// Sheaves turned away in a row after which the allowance shrinks.
const PATIENCE: u32 = 48;

// SAFETY: the sheaves belong to the barn, which is used under a lock.
unsafe impl Send for Barn {}

impl Barn {
    /// An empty barn.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            full: ptr::null_mut(),
            empty: ptr::null_mut(),
            full_count: 0,
            empty_count: 0,
            objects: 0,
            allowed: FIRST_ALLOWANCE,
            refused: 0,
            missed: false,
        }
    }

    /// Moves the objects of one full sheaf to `out` for a CPU that needs them; returns how many. `out` must have room
    /// for a sheaf.
    pub fn trade(&mut self, out: &mut [*mut u8], limit: u32) -> usize {
        self.refused = 0;
        let got = self.take(out);
        if got == 0 && self.missed {
            self.missed = false;
            self.allowed = (self.allowed * 2).min(limit.max(1));
        }
        got
    }

    /// Notes that a sheaf was turned away.
    pub fn refuse(&mut self) {
        self.missed = true;
        self.refused += 1;
        if self.refused >= PATIENCE {
            self.refused = 0;
            self.allowed = (self.allowed / 2).max(1);
        }
    }

    /// As [`Barn::take`], for one of the sheaves that are more than the barn may hold; nothing when there is none.
    pub fn take_surplus(&mut self, out: &mut [*mut u8]) -> usize {
        if self.full_count > self.allowed { self.take(out) } else { 0 }
    }

    /// Moves the objects of one full sheaf to `out`, which must have room for a sheaf; returns how many.
    pub fn take(&mut self, out: &mut [*mut u8]) -> usize {
        let sheaf = self.full;
        if sheaf.is_null() {
            return 0;
        }
        // SAFETY: sheaves on the full list are valid and belong to the barn; `len` entries were written by `give`.
        unsafe {
            let len = (*sheaf).len as usize;
            debug_assert!(len <= out.len());
            ptr::copy_nonoverlapping(BarnSheaf::entries(sheaf), out.as_mut_ptr(), len);
            self.full = (*sheaf).next;
            self.full_count -= 1;
            self.objects -= len as u32;
            (*sheaf).next = self.empty;
            self.empty = sheaf;
            self.empty_count += 1;
            len
        }
    }

    /// Stores `objects` as one full sheaf. False when there is no empty sheaf or no room.
    pub fn give(&mut self, objects: &[*mut u8], limit: u32) -> bool {
        let sheaf = self.empty;
        if sheaf.is_null() || self.full_count >= self.allowed.min(limit) {
            return false;
        }
        // SAFETY: sheaves on the empty list are valid and belong to the barn.
        unsafe {
            if objects.len() > (*sheaf).room as usize {
                return false;
            }
            ptr::copy_nonoverlapping(objects.as_ptr(), BarnSheaf::entries(sheaf), objects.len());
            (*sheaf).len = objects.len() as u32;
            self.empty = (*sheaf).next;
            self.empty_count -= 1;
            (*sheaf).next = self.full;
            self.full = sheaf;
            self.full_count += 1;
            self.objects += objects.len() as u32;
        }
        true
    }

    /// True when the object is in a full sheaf.
    #[must_use]
    pub fn contains(&self, object: *mut u8) -> bool {
        let mut sheaf = self.full;
        while !sheaf.is_null() {
            // SAFETY: sheaves on the full list are valid; `len` entries of each were written.
            unsafe {
                let entries = core::slice::from_raw_parts(BarnSheaf::entries(sheaf), (*sheaf).len as usize);
                if entries.contains(&object) {
                    return true;
                }
                sheaf = (*sheaf).next;
            }
        }
        false
    }

    /// True when a full sheaf could be stored if there were an empty one.
    #[must_use]
    pub fn wants_sheaf(&self, limit: u32) -> bool {
        self.empty.is_null() && self.full_count < self.allowed.min(limit)
    }

    /// Adds an empty sheaf.
    ///
    /// # Safety
    /// `memory` is owned by the caller, aligned to 8, and holds [`BarnSheaf::bytes`]`(room)` bytes.
    pub unsafe fn add_empty(&mut self, memory: *mut u8, room: u32) {
        let sheaf = memory.cast::<BarnSheaf>();
        // SAFETY: the caller's promise.
        unsafe { sheaf.write(BarnSheaf { next: self.empty, len: 0, room }) };
        self.empty = sheaf;
        self.empty_count += 1;
    }

    /// Takes an empty sheaf out, to give its memory back: that of [`BarnSheaf::bytes`] of the room told beside it.
    pub fn remove_empty(&mut self) -> Option<(*mut u8, usize)> {
        let sheaf = self.empty;
        if sheaf.is_null() {
            return None;
        }
        // SAFETY: sheaves on the empty list are valid and belong to the barn.
        let room = unsafe {
            self.empty = (*sheaf).next;
            (*sheaf).room as usize
        };
        self.empty_count -= 1;
        Some((sheaf.cast(), room))
    }
}

impl Default for Barn {
    fn default() -> Self {
        Self::new()
    }
}
