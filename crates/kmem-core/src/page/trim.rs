//! Giving memory back to the world without giving up its addresses.
//!
//! Free memory that was used is still resident: it costs the world as much as used memory. Each free that
//! reaches a zone looks at the amount of it; beyond a bound, the largest blocks are *lifted* off
//! the lists, discarded with no lock held, and *landed* again, now known to be zero.
//!
//! The bound is the largest of a floor (2 MiB at first), of one eighth of what is in use, and of the largest run
//! that was freed: a program that breathes, or that needs the same large buffer again and
//! again, does not fault its memory in each time, and an idle one ends near what it uses. Trimming
//! goes down to three quarters of the bound, so that the next free does not trim again. Only blocks from 64 KiB upward
//! are lifted: smaller ones save less than the call costs.
//!
//! That bound is for a program that is busy. What lay free for a time although the program had the occasion to ask for it, or because
//! it did nothing at all, is not missed: whoever runs a heap calls [`Pages::age`] now and then, which discards as many pages as were
//! free and resident all the time since the call before, in smaller blocks too.
//!
//! The other way round, what is asked for soon after it was discarded was missed. The bound rises by as many pages, up to what is in
//! use, and falls by those that turn out to be idle. No page tells whether it was resident before: untouched memory that is taken while
//! discarded memory could have served counts as much.
//!
//! Discarded blocks still cost their descriptors, 64 KiB for each block of 4 MiB. Where the platform can take
//! whole blocks back ([`Pages::set_block_reserve`]) a trim also returns free ones beyond a reserve, and their
//! descriptors with them.

use core::sync::atomic::Ordering::Relaxed;

use super::Pages;
use super::zone::Areas;
use crate::platform::{BLOCK_PAGES, PageRange, Platform};

/// How many resident free pages a zone is to keep, if it has too many.
pub(super) type Excess = Option<usize>;

/// In [`Pages::trim_floor`]: set by hand.
const FIXED: usize = 1 << (usize::BITS - 1);

/// The smallest block a free discards: 64 KiB.
const MIN_ORDER: u32 = 4;
/// The smallest block that is discarded by its age: 16 KiB.
const AGED_ORDER: u32 = 2;
/// Blocks of a zone that are discarded by their age at one time, at most: whoever comes by does it before his own work.
const AGED_BLOCKS: usize = 128;
/// Resident free pages of a zone that are not worth looking at: 256 KiB.
const UNAGED: usize = 64;

impl<P: Platform> Pages<P> {
    /// How many resident free pages a zone may keep at least. Takes effect at the next free.
    /// The size of the runs that were freed plays no role from then on.
    pub fn set_trim_floor(&self, pages: usize) {
        self.trim_floor.store(pages.min(FIXED - 1) | FIXED, Relaxed);
    }

    /// Looks at a zone after a free: how far its resident free memory is to go down, if there is too much.
    #[inline]
    pub(super) fn excess(&self, areas: &Areas) -> Excess {
        let floor = self.trim_floor.load(Relaxed);
        let least = if floor & FIXED == 0 { floor.max(areas.largest_freed) } else { floor & !FIXED };
        let missed = if floor & FIXED == 0 { areas.missed.min(areas.in_use()) } else { 0 };
        let bound = least.max(areas.in_use() >> 3) + missed;
        // Relaxed: a hint, for who looks now and then. Read first, as it is nearly always set or not to be set.
        if areas.dirty > UNAGED && !self.aging.load(Relaxed) {
            self.aging.store(true, Relaxed);
        }
        (areas.dirty > bound).then_some(bound - bound / 4)
    }

    /// Acts on what [`Pages::excess`] found in zone number `zone`. No lock may be held.
    #[inline]
    pub(super) fn relieve(&self, p: &P, zone: usize, excess: Excess) {
        if let Some(keep) = excess
            && !self.discard_refused.load(Relaxed)
        {
            self.discard_down_to(p, zone, keep, MIN_ORDER, usize::MAX);
        }
    }

    /// There may be something for [`Pages::age`] to discard, now or later.
    #[inline]
    #[must_use]
    pub fn ages(&self) -> bool {
        self.aging.load(Relaxed)
    }

    /// Discards as many pages of each zone as were free and resident all the time since the call before; with `quiet`, because nobody
    /// asked for any for so long, all of them, as far as that is possible in blocks of 16 KiB and more.
    /// Then [`Pages::ages`] tells whether to call again, about a second later.
    pub fn age(&self, p: &P, quiet: bool) {
        if self.discard_refused.load(Relaxed) {
            return self.aging.store(false, Relaxed);
        }
        let mut some = false;
        for (number, zone) in self.zones.iter().enumerate().filter(|(_, zone)| zone.is_populated()) {
            let (dirty, idle) = zone.areas.lock(p).age(quiet);
            if idle > UNAGED {
                self.discard_down_to(p, number, dirty - idle, AGED_ORDER, AGED_BLOCKS);
                zone.areas.lock(p).nothing_is_missed();
            }
            // What was discarded just now, too: the rest of it may be had next time.
            some |= dirty > UNAGED;
        }
        self.aging.store(some, Relaxed);
    }

    /// Discards resident free memory of all zones until at most `keep_pages` pages of it are left, as far as
    /// possible. Returns how many pages were discarded. Pages on CPU lists are free for this.
    pub fn trim(&self, p: &P, keep_pages: usize) -> usize {
        for cpu in 0..p.cpus() {
            self.drain_cpu(p, cpu);
        }
        self.discard_refused.store(false, Relaxed);
        let mut keep = keep_pages;
        let mut discarded = 0;
        for (number, zone) in self.zones.iter().enumerate().filter(|(_, zone)| zone.is_populated()) {
            discarded += self.discard_down_to(p, number, keep, 0, usize::MAX);
            let mut areas = zone.areas.lock(p);
            areas.largest_freed = 0;
            areas.nothing_is_missed();
            keep = keep.saturating_sub(areas.dirty);
        }
        discarded
    }

    /// Lifts, discards and lands blocks of a zone, `most` of them and largest first, until `keep` dirty pages are left.
    #[cold]
    fn discard_down_to(&self, p: &P, zone: usize, keep: usize, min_order: u32, most: usize) -> usize {
        let descs = self.descs();
        let number = zone;
        let zone = &self.zones[zone].areas;
        let (mut discarded, mut blocks) = (0, 0);
        let mut lifted = {
            let mut areas = zone.lock(p);
            if areas.dirty > keep { areas.lift_dirty(descs, min_order) } else { None }
        };
        while let Some((index, order)) = lifted {
            // SAFETY: a lifted block is on no list and in no run: this thread alone has it.
            let zeroed = unsafe { p.discard(PageRange { first: index, count: 1 << order }) };
            let mut areas = zone.lock(p);
            discarded += areas.land(descs, index, order, zeroed);
            if !zeroed {
                self.discard_refused.store(true, Relaxed);
                break;
            }
            blocks += 1;
            let more = blocks < most && areas.dirty > keep;
            lifted = if more { areas.lift_dirty(descs, min_order) } else { None };
        }
        self.return_blocks(p, number);
        discarded
    }

    /// How many free blocks of 4 MiB a zone keeps when it trims, beside one for each 32 MiB in use; the others go back to
    /// the platform. Without this call all are kept.
    pub fn set_block_reserve(&self, blocks: usize) {
        self.block_reserve.store(blocks, Relaxed);
    }

    /// Gives free blocks beyond the reserve back to the platform. No lock may be held.
    fn return_blocks(&self, p: &P, zone: usize) {
        let reserve = self.block_reserve.load(Relaxed);
        if reserve == usize::MAX {
            return;
        }
        loop {
            let surplus = {
                let areas = self.zones[zone].areas.lock(p);
                let keep = reserve + areas.in_use() / (8 * BLOCK_PAGES);
                areas.surplus_block(self.descs(), keep)
            };
            // Another thread may take the block meanwhile; then this trim has done enough.
            let Some(first) = surplus.filter(|&first| self.expel(p, first)) else { return };
            // SAFETY: the block left its zone as one free block, and no look-up finds it any more.
            unsafe { p.release(PageRange { first, count: BLOCK_PAGES }) };
        }
    }
}
