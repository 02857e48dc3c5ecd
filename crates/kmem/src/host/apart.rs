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
//! system where a new one takes two. What then goes, or never waited, is remembered for a while, for who tells of an access to it.
//!
//! Of a length that comes back ([`lengths`]) such a block is a mapping of its own from then on, open or shut: its walls are reserved
//! without a claim on memory, which is a difference that the kernel joins no mappings over. So opening and shutting it takes none
//! apart. And where all of such blocks is written to, the next one's pages are made by one call.
//!
//! # Invariants
//! - I-APART-1: what is held or spare is mapped, without access, and nobody else's; each range is listed once.
//!
//! # Locks
//! One, above all of the core's. No system call is made under it.

mod lengths;
mod stash;

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use kmem_core::kmalloc::huge::Busy;
use kmem_core::sync::Lock;

use lengths::{Last, Lengths};
use stash::{Place, Stash};

use super::window::WINDOW_RANK;
use super::{Host, sys};

/// Ranges that wait.
const HELD: usize = 128;
/// Ranges that have waited.
const SPARE: usize = 64;
/// Ranges that are remembered when they are gone.
const GONE: usize = 16;
/// A range of more bytes does not wait: addresses are not endless everywhere.
const LARGEST: usize = 32 << 20;
/// A block of more bytes is left to its faults where there are no pages for it: they are an eighth dearer, and not in vain.
const MADE: usize = 4 << 20;
/// Bytes that a block had before it grew, from which on it may have huge pages: one that comes for a single byte is half of that.
const HUGE_FROM: usize = 4 << 20;
/// Pages behind a block, at most; a power of two.
const MOST_BEHIND: usize = 8;

/// A range that was a block with its walls; none where the length is 0.
#[derive(Clone, Copy, Default)]
struct Range {
    start: usize,
    len: usize,
    /// Bytes of the block that were asked for.
    asked: usize,
}

impl Range {
    const NONE: Self = Self { start: 0, len: 0, asked: 0 };

    fn holds(&self, address: usize) -> bool {
        address.wrapping_sub(self.start) < self.len
    }
}

/// Those that wait, those that have waited, and the last that are gone; the lengths that they come in, and pages for some.
struct Ranges {
    waiting: [Range; HELD],
    spare: [Range; SPARE],
    gone: [Range; GONE],
    /// The place of the one that is forgotten next.
    oldest: usize,
    lengths: Lengths,
    stash: Stash,
}

impl Ranges {
    const NONE: Self = Self {
        waiting: [Range::NONE; HELD],
        spare: [Range::NONE; SPARE],
        gone: [Range::NONE; GONE],
        oldest: 0,
        lengths: Lengths::NONE,
        stash: Stash::NONE,
    };

    /// A range of exactly so many bytes, looked for from a place at random.
    fn take_spare(&mut self, total: usize, random: usize) -> Option<Range> {
        let place = (0..SPARE).map(|i| (i + random) % SPARE).find(|&place| self.spare[place].len == total)?;
        Some(core::mem::take(&mut self.spare[place]))
    }

    /// Has a range wait; the one that must go for it, if any.
    fn wait(&mut self, range: Range, random: usize) -> Range {
        let waited = core::mem::replace(&mut self.waiting[random % HELD], range);
        if waited.len == 0 {
            return waited;
        }
        let gone = core::mem::replace(&mut self.spare[(random / HELD) % SPARE], waited);
        if gone.len > 0 {
            self.remember(gone);
        }
        gone
    }

    /// Remembers a range that goes.
    fn remember(&mut self, gone: Range) {
        self.gone[self.oldest] = gone;
        self.oldest = (self.oldest + 1) % GONE;
    }

    /// The range around an address: of those that nobody may touch, or that are gone; of these the last.
    fn around(&self, address: usize, gone: bool) -> Option<&Range> {
        if gone {
            let (older, newer) = (&self.gone[self.oldest..], &self.gone[..self.oldest]);
            return newer.iter().rev().chain(older.iter().rev()).find(|range| range.holds(address));
        }
        self.waiting.iter().chain(&self.spare).find(|range| range.holds(address))
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
        self.find_apart(len, align, true)
    }

    fn find_apart(&self, len: usize, align: usize, keeps: bool) -> Option<NonNull<u8>> {
        let find = || self.try_apart(len, align, keeps);
        find().or_else(|| if self.drop_held() { find() } else { None })
    }

    /// Gives up all addresses that wait, and the pages for blocks to come. False: there were none.
    pub(super) fn drop_held(&self) -> bool {
        let (waiting, spare) = {
            let mut ranges = self.held.0.lock(self);
            let waiting = core::mem::replace(&mut ranges.waiting, Ranges::NONE.waiting);
            (waiting, core::mem::replace(&mut ranges.spare, Ranges::NONE.spare))
        };
        let mut some = self.drop_stash();
        for range in waiting.into_iter().chain(spare).filter(|range| range.len > 0) {
            some = true;
            // SAFETY: I-APART-1: it was taken off the list just now.
            let _ = unsafe { sys::unmap(range.start, range.len) };
        }
        some
    }

    /// `keeps`: what the pages of the new block are now is of use to its caller.
    fn try_apart(&self, len: usize, align: usize, keeps: bool) -> Option<NonNull<u8>> {
        let page = self.system_page();
        let len = self.round_up(len)?;
        let total = len.checked_add(page + self.behind(len))?;
        if len == 0 || total > isize::MAX as usize {
            return None;
        }
        let spare = (align <= page && total <= LARGEST).then(|| {
            let random = self.random() as usize;
            self.held.0.lock(self).take_spare(total, random)
        });
        let start = match spare.flatten() {
            Some(range) => range.start + page,
            None => self.closed(len, align)?,
        };
        let (written, pages) = if keeps && total <= LARGEST {
            let mut ranges = self.held.0.lock(self);
            let written = ranges.lengths.back(len, start);
            (written, if written { ranges.stash.take_full(len) } else { None })
        } else {
            (false, None)
        };
        // SAFETY: a range of this thread's, which nobody knows.
        unsafe { self.open(start, len, pages) }.then(|| {
            if written && pages.is_none() && len <= MADE {
                self.fault_in(start, len);
            }
        })?;
        NonNull::new(start as *mut u8)
    }

    /// New addresses for a block of `len` bytes, with walls; nobody may touch them yet.
    fn closed(&self, len: usize, align: usize) -> Option<usize> {
        let (page, behind) = (self.system_page(), self.behind(len));
        let spare = if align <= page { 0 } else { align };
        let total = len.checked_add(page + behind)?.checked_add(spare)?;
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
            if self.in_window(start, len) {
                let _ = sys::unmap(start - page, page + len + behind);
                return None;
            }
        }
        Some(start)
    }

    /// Opens a closed range for its block, and moves pages there if there are some for it. False: it is gone.
    ///
    /// # Safety
    /// The range is the caller's, with its walls, and nobody knows it; so is the place of the pages.
    unsafe fn open(&self, start: usize, len: usize, pages: Option<Place>) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(place) = pages {
                let moved = self.unstash_pages(place, start);
                if !moved {
                    self.forget_around(start, len);
                }
                return moved;
            }
            let open = sys::protect(start, len, true).is_ok();
            if !open {
                let page = self.system_page();
                let _ = sys::unmap(start - page, page + len + self.behind(len));
            }
            open
        }
    }

    /// Gives up the walls of a range where a move may have left nothing between them, or what is somebody else's by now.
    ///
    /// # Safety
    /// They are the caller's, and nobody uses them.
    unsafe fn forget_around(&self, start: usize, len: usize) {
        let page = self.system_page();
        // SAFETY: the caller's promise.
        unsafe {
            let _ = sys::unmap(start - page, page);
            let _ = sys::unmap(start + len, self.behind(len));
        }
    }

    /// See `Platform::unmap_apart`.
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn drop_apart(&self, block: NonNull<u8>, len: usize, asked: usize) {
        let (page, Some(len)) = (self.system_page(), self.round_up(len)) else { return };
        let (start, total) = (block.as_ptr() as usize - page, page + len + self.behind(len));
        let range = Range { start, len: total, asked };
        let last = if total <= LARGEST {
            self.held.0.lock(self).lengths.freed(len, start + page)
        } else {
            Last::default()
        };
        let written = if last.probe { self.tell_touched(start + page, len) } else { last.written };
        // SAFETY: the caller's promise.
        unsafe {
            let waits = total <= LARGEST
                && (written && self.stash_pages(start + page, len, last.probe)
                    || sys::fence(start + page, len, last.back).is_ok());
            let random = self.random() as usize;
            let gone = {
                let mut ranges = self.held.0.lock(self);
                if waits {
                    ranges.wait(range, random)
                } else {
                    ranges.remember(range);
                    range
                }
            };
            if gone.len > 0 && sys::unmap(gone.start, gone.len).is_err() {
                // No room to split a mapping: it stays as it is, without access or at least without memory.
                let _ = sys::advise(gone.start, gone.len, libc::MADV_DONTNEED);
            }
        }
    }

    /// Looks how much of a block its holder touched. True: all of it, or nearly so.
    fn tell_touched(&self, start: usize, len: usize) -> bool {
        let mut seen = [0; 1024];
        let (page, mut resident) = (self.system_page(), 0);
        let step = seen.len() * page;
        for at in (0..len).step_by(step) {
            let seen = &mut seen[..(len - at).min(step) / page];
            let Ok(there) = sys::resident(start + at, page, seen) else { return false };
            resident += there;
        }
        self.held.0.lock(self).lengths.tell(len, resident, len / page)
    }

    /// Where the walls of a block of `len` bytes are: bytes before it, and behind.
    pub(crate) fn walls_apart(&self, len: usize) -> (usize, usize) {
        (self.system_page(), self.behind(len))
    }

    /// The block that lay at an address, or beside it, until it was freed: its first byte, and how many were asked for. With `gone` one
    /// whose addresses the system has again, otherwise one that still keeps them. For a handler of faults: nothing is waited for.
    pub(crate) fn freed_apart(&self, address: usize, gone: bool) -> Result<Option<(usize, usize)>, Busy> {
        let ranges = self.held.0.try_lock(self).ok_or(Busy)?;
        let found = ranges.around(address, gone);
        Ok(found.map(|range| (range.start + self.system_page(), range.asked)))
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
        asked: usize,
    ) -> Option<NonNull<u8>> {
        let (page, old, new) = (self.system_page(), self.round_up(old)?, self.round_up(new)?);
        let home = self.find_apart(new, page, false)?;
        let from = block.as_ptr() as usize;
        // SAFETY: the new place is this thread's; the old block is the caller's, its fences too.
        unsafe {
            if sys::remap_to(from, old, new, home.as_ptr() as usize).is_err() {
                self.forget_around(home.as_ptr() as usize, new);
                return None;
            }
            let behind = self.behind(old);
            self.held.0.lock(self).remember(Range { start: from - page, len: page + old + behind, asked });
            let _ = sys::unmap(from - page, page);
            let _ = sys::unmap(from + old, behind);
        }
        self.expect_growth(home.as_ptr() as usize, old, new);
        Some(home)
    }

    /// Asks for huge pages for a long block that just grew, if it was full: it will be again. All of it is asked for, so that it stays one
    /// mapping; what is there already stays.
    fn expect_growth(&self, start: usize, old: usize, new: usize) {
        let mut seen = [0; 256];
        let end = seen.len() * self.system_page();
        // Relaxed: chosen in `init`.
        if self.huge_blocks.load(Ordering::Relaxed)
            && old >= HUGE_FROM.max(end)
            && new > old
            && sys::resident(start + old - end, self.system_page(), &mut seen) == Ok(seen.len())
        {
            // SAFETY: changes no content. Where there are no huge pages small ones come.
            let _ = unsafe { sys::advise(start, new, libc::MADV_HUGEPAGE) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn range(number: usize) -> Range {
        Range { start: number << 20, len: 1 << 20, asked: number }
    }

    /// Each range is known from its free until others took its place in memory: while it waits, when it has waited, when it is gone.
    #[test]
    fn a_freed_range_is_known_until_it_is_forgotten() {
        let mut ranges = Ranges::NONE;
        let asked =
            |ranges: &Ranges, number: usize, gone| ranges.around((number << 20) + 5, gone).map(|r| r.asked);
        assert_eq!(ranges.wait(range(1), 3).len, 0);
        assert_eq!((asked(&ranges, 1, false), asked(&ranges, 1, true)), (Some(1), None));
        assert_eq!(ranges.wait(range(2), 3).len, 0, "it has waited");
        assert_eq!((asked(&ranges, 1, false), asked(&ranges, 2, false)), (Some(1), Some(2)));
        assert_eq!(ranges.wait(range(3), 3).asked, 1);
        assert_eq!((asked(&ranges, 1, false), asked(&ranges, 1, true)), (None, Some(1)));
        assert_eq!(asked(&ranges, 3, true), None);
        for number in 10..10 + GONE - 1 {
            ranges.remember(range(number));
        }
        assert_eq!(asked(&ranges, 1, true), Some(1));
        // Where two were it was the later one.
        ranges.remember(Range { asked: 99, ..range(10) });
        assert_eq!((asked(&ranges, 1, true), asked(&ranges, 10, true)), (None, Some(99)));
        assert_eq!((asked(&ranges, 9, true), asked(&ranges, 10 + GONE, true)), (None, None));
    }
}
