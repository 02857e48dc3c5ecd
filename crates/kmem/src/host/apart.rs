//! Mappings apart: large blocks of a hardened heap, each between pages that nobody may touch.
//!
//! # Theory
//! ```text
//!   | 1 page |  the block, whole pages  | 1 to 8 pages |
//!   | nobody |                          |    nobody    |
//! ```
//! How many pages follow is a secret of the process and the length, so that the distance from one block to the next cannot be
//! known. A block that is freed loses its memory at once and its addresses later: it waits among [`HELD`] others, and each
//! new one takes the place of one at random. Until then every access to it stops the program, and so does a second free.
//!
//! # Invariants
//! - I-APART-1: what is held is mapped, without access, and nobody else's; each range is held once.
//!
//! # Locks
//! One, above all of the core's. No system call is made under it.

use core::ptr::NonNull;

use kmem_core::sync::Lock;

use super::window::WINDOW_RANK;
use super::{Host, sys};

/// Ranges that wait.
const HELD: usize = 128;
/// A range of more bytes does not wait: addresses are not endless everywhere.
const LARGEST: usize = 32 << 20;
/// Pages behind a block, at most; a power of two.
const MOST_BEHIND: usize = 8;

/// Ranges of addresses that were blocks, by address and length.
pub(super) struct Held(Lock<[(usize, usize); HELD], WINDOW_RANK>);

impl Held {
    /// None.
    pub(super) const fn new() -> Self {
        Self(Lock::new([(0, 0); HELD]))
    }

    pub(super) fn lock_for_fork(&self, host: &Host) {
        self.0.lock_for_fork(host);
    }

    /// # Safety
    /// As [`Lock::unlock_after_fork`].
    pub(super) unsafe fn unlock_after_fork(&self, host: &Host) {
        // SAFETY: the caller's promise.
        unsafe { self.0.unlock_after_fork(host) };
    }
}

impl Host {
    /// Bytes behind a block of `len` bytes.
    fn behind(&self, len: usize) -> usize {
        let mixed = (len as u64 >> 12 ^ self.apart_secret()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (1 + (mixed >> 60) as usize % MOST_BEHIND) * self.system_page()
    }

    /// See `Platform::map_apart`. Addresses that wait are given up before a request fails: they count for limits.
    pub(super) fn new_apart(&self, len: usize, align: usize) -> Option<NonNull<u8>> {
        self.try_apart(len, align)
            .or_else(|| if self.drop_held() { self.try_apart(len, align) } else { None })
    }

    /// Gives up all addresses that wait. False: there were none.
    pub(super) fn drop_held(&self) -> bool {
        let held = core::mem::replace(&mut *self.held.0.lock(self), [(0, 0); HELD]);
        for &(start, len) in held.iter().filter(|(_, len)| *len > 0) {
            // SAFETY: I-APART-1: it was taken off the list just now.
            let _ = unsafe { sys::unmap(start, len) };
        }
        held.iter().any(|(_, len)| *len > 0)
    }

    fn try_apart(&self, len: usize, align: usize) -> Option<NonNull<u8>> {
        let page = self.system_page();
        let len = self.round_up(len)?;
        let behind = self.behind(len);
        let spare = if align <= page { 0 } else { align };
        let total = len.checked_add(page + behind)?.checked_add(spare)?;
        if len == 0 || total > isize::MAX as usize {
            return None;
        }
        let got = sys::reserve(total).ok()?;
        let start = if spare == 0 { got + page } else { (got + page).next_multiple_of(align) };
        // SAFETY: all of it was mapped just now, for nobody.
        unsafe {
            if start - page > got {
                let _ = sys::unmap(got, start - page - got);
            }
            let (end, wanted) = (got + total, start + len + behind);
            if end > wanted {
                let _ = sys::unmap(wanted, end - wanted);
            }
            if self.in_window(start, len) || sys::protect(start, len, true).is_err() {
                let _ = sys::unmap(start - page, page + len + behind);
                return None;
            }
        }
        NonNull::new(start as *mut u8)
    }

    /// See `Platform::unmap_apart`.
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn drop_apart(&self, block: NonNull<u8>, len: usize) {
        let (page, Some(len)) = (self.system_page(), self.round_up(len)) else { return };
        let (start, total) = (block.as_ptr() as usize - page, page + len + self.behind(len));
        // SAFETY: the caller's promise.
        unsafe {
            let mut gone = (start, total);
            if total <= LARGEST && sys::fence(start + page, len).is_ok() {
                let place = self.random() as usize % HELD;
                gone = core::mem::replace(&mut self.held.0.lock(self)[place], gone);
            }
            if gone.1 > 0 && sys::unmap(gone.0, gone.1).is_err() {
                // No room to split a mapping: it stays as it is, without access or at least without memory.
                let _ = sys::advise(gone.0, gone.1, libc::MADV_DONTNEED);
            }
        }
    }

    /// See `Platform::remap_apart`.
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn move_apart(
        &self,
        block: NonNull<u8>,
        old: usize,
        new: usize,
    ) -> Option<NonNull<u8>> {
        let (page, old, new) = (self.system_page(), self.round_up(old)?, self.round_up(new)?);
        let home = self.new_apart(new, page)?;
        let from = block.as_ptr() as usize;
        // SAFETY: the new place is this thread's; the old block is the caller's, its fences too.
        unsafe {
            if sys::remap_to(from, old, new, home.as_ptr() as usize).is_err() {
                let _ = sys::unmap(home.as_ptr() as usize - page, page + new + self.behind(new));
                return None;
            }
            let _ = sys::unmap(from - page, page);
            let _ = sys::unmap(from + old, self.behind(old));
        }
        Some(home)
    }
}
