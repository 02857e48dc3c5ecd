//! Blocks of memory that enter and leave a zone, and untouched ones that become resident.

use core::sync::atomic::Ordering::Relaxed;

use super::super::desc::Kind;
use super::super::list::Descs;
use super::super::mobility::{Mobility, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES};
use super::super::pcp::MAX_LIST_ORDER;
use super::{Areas, Watermarks, step};
use crate::platform::{BLOCK_PAGES, MAX_ORDER};

impl Areas {
    /// Admits a block of fresh, zero memory whose first `reserved` pages are spoken for.
    pub(in crate::page) fn admit(&mut self, descs: Descs, first: usize, reserved: usize) {
        for block in (first..first + BLOCK_PAGES).step_by(PAGEBLOCK_PAGES) {
            for word in 0..PAGEBLOCK_PAGES / 64 {
                descs.page(block + word).dirty.store(0, Relaxed);
            }
            // The books never move, and neither should what lies beside them.
            let mobility = if block < first + reserved { Mobility::Unmovable } else { Mobility::Movable };
            descs.page(block).set_block_mobility(mobility);
            self.pageblocks[mobility as usize] += 1;
        }
        self.managed += BLOCK_PAGES - reserved;
        descs.set_dirty(first, reserved);
        if reserved == 0 {
            self.join(descs, first, MAX_ORDER, 0);
        } else {
            self.link_range(descs, first + reserved, BLOCK_PAGES - reserved);
        }
        self.update_marks();
    }

    /// Takes a block of memory out of the zone. False when a part of it is in use.
    pub(in crate::page) fn expel(&mut self, descs: Descs, first: usize) -> bool {
        let page = descs.page(first);
        if page.kind() != Kind::Buddy || page.order() != MAX_ORDER {
            return false;
        }
        self.unlink(descs, first, MAX_ORDER, descs.block_mobility(first));
        // Its descriptors may go as well.
        self.whole = self.whole.filter(|&block| block & !(BLOCK_PAGES - 1) != first);
        self.blank.leave(first, BLOCK_PAGES);
        for block in (first..first + BLOCK_PAGES).step_by(PAGEBLOCK_PAGES) {
            self.pageblocks[descs.block_mobility(block) as usize] -= 1;
        }
        self.managed -= BLOCK_PAGES;
        self.update_marks();
        true
    }

    /// Takes back what [`Areas::expel`] took out, as it was.
    pub(in crate::page) fn readmit(&mut self, descs: Descs, first: usize) {
        for block in (first..first + BLOCK_PAGES).step_by(PAGEBLOCK_PAGES) {
            self.pageblocks[descs.block_mobility(block) as usize] += 1;
        }
        self.managed += BLOCK_PAGES;
        self.join(descs, first, MAX_ORDER, descs.dirty_count(first, BLOCK_PAGES));
        self.update_marks();
    }

    /// Takes an untouched pageblock off the lists, if a request of this order would split one now, to be backed. Give it back with
    /// [`Areas::land_fresh`].
    ///
    /// Only a large zone, or one that grows fast. Not while much of what is free is resident: it would be given up for the pageblock, or the pageblock for it. Nor where
    /// more than a thirtieth of the last one went to large runs: they would have much of this one, and many programs leave
    /// much of a large buffer untouched. Then the next one is judged by what becomes of this.
    pub(in crate::page) fn lift_fresh(
        &mut self,
        descs: Descs,
        order: u32,
        mobility: Mobility,
        large: usize,
        now: impl FnOnce() -> u64,
    ) -> Option<usize> {
        if order > PAGEBLOCK_ORDER {
            return None;
        }
        let fits = |areas: &Self| areas.nonempty[mobility as usize] >> order << order;
        let smaller = (1 << PAGEBLOCK_ORDER) - 1;
        if fits(self) & smaller != 0 {
            return None;
        }
        let fast = self.pace.another(now());
        // What a pageblock makes resident is no more than that while it is about to be used at once.
        let spare = if fast { 0 } else { PAGEBLOCK_PAGES };
        if !fast && self.in_use() < large || self.dirty + spare > self.in_use() >> 4 {
            return None;
        }
        if fits(self) == 0 && !self.claim(descs, PAGEBLOCK_ORDER, mobility) {
            return None;
        }
        let from = fits(self).trailing_zeros() as usize;
        // Dirty blocks stand before clean ones.
        let untouched = |&index: &usize| descs.page(index).pages() == 0;
        let next = self.lists[mobility as usize].get(from)?.first().filter(untouched)?;
        if self.whole.replace(next).is_some_and(|last| in_large_runs(descs, last) > PAGEBLOCK_PAGES / 32) {
            return None;
        }
        let (index, _) = self.take_from(descs, PAGEBLOCK_ORDER, mobility)?;
        let page = descs.page(index);
        page.set_order(PAGEBLOCK_ORDER);
        // As in `lift_dirty`.
        page.set_kind(Kind::List);
        self.in_flight += PAGEBLOCK_PAGES;
        Some(index)
    }

    /// Ends what [`Areas::lift_fresh`] began. Backed memory is resident, whether it is zero or not.
    pub(in crate::page) fn land_fresh(&mut self, descs: Descs, index: usize, backed: bool) {
        self.in_flight -= PAGEBLOCK_PAGES;
        if backed {
            descs.set_dirty(index, PAGEBLOCK_PAGES);
            self.blank = Blank { block: index, units: u8::MAX, left: false };
        }
        self.join(descs, index, PAGEBLOCK_ORDER, if backed { PAGEBLOCK_PAGES } else { 0 });
    }

    fn update_marks(&mut self) {
        if !self.fixed_marks {
            self.marks = Watermarks::of(self.managed);
        }
    }
}

/// What of the pageblock that was backed last nobody had yet: it is in memory, and zero all the same. In eighths, a region's least
/// length.
#[derive(Clone, Copy)]
pub(in crate::page) struct Blank {
    block: usize,
    /// A bit for each.
    units: u8,
    /// What left last was blank.
    left: bool,
}

impl Blank {
    const UNIT: usize = PAGEBLOCK_PAGES / 8;
    pub(super) const NONE: Self = Self { block: 0, units: 0, left: false };

    /// These pages leave the zone: they are blank no more when they come back, and neither is what lies in the same eighth.
    #[inline]
    pub(super) fn leave(&mut self, first: usize, count: usize) {
        if self.units | u8::from(self.left) != 0 {
            self.left = self.leave_pageblock(first, count);
        }
    }

    /// What left last was blank. Asked once.
    pub(in crate::page) fn has_left(&mut self) -> bool {
        core::mem::take(&mut self.left)
    }

    /// [`Blank::leave`], where there is any. Whether they were blank.
    #[cold]
    fn leave_pageblock(&mut self, first: usize, count: usize) -> bool {
        if self.units == 0 || first >= self.block + PAGEBLOCK_PAGES || first + count <= self.block {
            return false;
        }
        if first < self.block || first + count > self.block + PAGEBLOCK_PAGES {
            self.units = 0;
            return false;
        }
        let (from, to) =
            ((first - self.block) / Self::UNIT, (first + count - self.block).div_ceil(Self::UNIT));
        let theirs = ((1_u32 << to) - (1 << from)) as u8;
        let blank = self.units & theirs == theirs;
        self.units &= !theirs;
        blank
    }
}

/// Pages in use from which on a zone need not grow fast: 64 MiB, of which a pageblock is 3 %;
pub(in crate::page) const LARGE: usize = 32 * PAGEBLOCK_PAGES;
/// where it is for regions: 48 MiB. What is left of the pageblock goes to the next region, however short, and a fault costs more there.
pub(in crate::page) const LARGE_OF_REGIONS: usize = 24 * PAGEBLOCK_PAGES;

/// How fast a zone takes untouched pageblocks.
#[derive(Clone, Copy)]
pub(in crate::page) struct Pace {
    /// When the last one was taken; nanoseconds.
    last: u64,
    /// How many were taken without a break.
    streak: u32,
}

impl Pace {
    /// So long a time without another is a break. To touch a pageblock's pages one by one takes one or two milliseconds, and clocks may
    /// be as coarse as four.
    const BREAK: u64 = 8_000_000;
    /// So many, 8 MiB, and the zone grows fast.
    const FAST: u32 = 4;

    pub(super) const fn new() -> Self {
        Self { last: 0, streak: 0 }
    }

    /// One more is about to be taken. True while the zone grows fast.
    fn another(&mut self, now: u64) -> bool {
        let broken = now.wrapping_sub(self.last) > Self::BREAK;
        self.streak = if broken { 0 } else { self.streak.saturating_add(1) };
        self.last = now;
        self.streak >= Self::FAST
    }
}

/// How many pages of a pageblock are in runs that no CPU's list serves. About: others take and free blocks of it meanwhile.
fn in_large_runs(descs: Descs, block: usize) -> usize {
    let (mut pages, mut at) = (0, block);
    while at < block + PAGEBLOCK_PAGES {
        let (page, step) = (descs.page(at), step(descs, at));
        if page.kind().is_run() && page.order() > MAX_LIST_ORDER {
            pages += step;
        }
        at += step;
    }
    pages
}
