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
//! What has waited is *spare*: still without access, until a block of the same length takes it, walls and all, with one call into the
//! system where a new one takes three.
//!
//! # Invariants
//! - I-APART-1: what is held or spare is mapped, without access, and nobody else's; each range is listed once.
//!
//! # Locks
//! One, above all of the core's. No system call is made under it.

use core::ptr::NonNull;

use kmem_core::sync::Lock;

use super::window::WINDOW_RANK;
use super::{Host, sys};

/// Ranges that wait.
const HELD: usize = 128;
/// Ranges that have waited.
const SPARE: usize = 64;
/// A range of more bytes does not wait: addresses are not endless everywhere.
const LARGEST: usize = 32 << 20;
/// Pages behind a block, at most; a power of two.
const MOST_BEHIND: usize = 8;

/// A range that was a block with its walls: address and length; none where the length is 0.
type Range = (usize, usize);

/// Those that wait, and those that have waited.
struct Ranges {
    waiting: [Range; HELD],
    spare: [Range; SPARE],
}

impl Ranges {
    const NONE: Self = Self { waiting: [(0, 0); HELD], spare: [(0, 0); SPARE] };

    /// A range of exactly so many bytes, looked for from a place at random.
    fn take_spare(&mut self, total: usize, random: usize) -> Option<Range> {
        let place = (0..SPARE).map(|i| (i + random) % SPARE).find(|&place| self.spare[place].1 == total)?;
        Some(core::mem::take(&mut self.spare[place]))
    }

    /// Has a range wait; the one that must go for it, if any.
    fn wait(&mut self, range: Range, random: usize) -> Range {
        let waited = core::mem::replace(&mut self.waiting[random % HELD], range);
        if waited.1 == 0 {
            return waited;
        }
        core::mem::replace(&mut self.spare[(random / HELD) % SPARE], waited)
    }
}

/// The ranges of a host.
pub(super) struct Held(Lock<Ranges, WINDOW_RANK>);

impl Held {
    /// None.
    pub(super) const fn new() -> Self {
        Self(Lock::new(Ranges::NONE))
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
        let Ranges { waiting, spare } = core::mem::replace(&mut *self.held.0.lock(self), Ranges::NONE);
        let mut some = false;
        for (start, len) in waiting.into_iter().chain(spare).filter(|(_, len)| *len > 0) {
            some = true;
            // SAFETY: I-APART-1: it was taken off the list just now.
            let _ = unsafe { sys::unmap(start, len) };
        }
        some
    }

    fn take_spare(&self, total: usize) -> Option<Range> {
        let random = self.random() as usize;
        self.held.0.lock(self).take_spare(total, random)
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
        if spare == 0
            && total <= LARGEST
            && let Some(range) = self.take_spare(total)
        {
            // SAFETY: I-APART-1: it was taken off the list just now.
            unsafe {
                if sys::protect(range.0 + page, len, true).is_ok() {
                    return NonNull::new((range.0 + page) as *mut u8);
                }
                let _ = sys::unmap(range.0, range.1);
            }
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
                let random = self.random() as usize;
                gone = self.held.0.lock(self).wait(gone, random);
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
