//! Blocks of memory that enter and leave a zone.

use core::sync::atomic::Ordering::Relaxed;

use super::super::desc::Kind;
use super::super::list::Descs;
use super::super::mobility::{Mobility, PAGEBLOCK_PAGES};
use super::{Areas, Watermarks};
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

    fn update_marks(&mut self) {
        if !self.fixed_marks {
            self.marks = Watermarks::of(self.managed);
        }
    }
}
