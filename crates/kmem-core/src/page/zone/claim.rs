//! Going into pageblocks of another mobility: converting them, or borrowing from them.
//!
//! All under the zone's lock; keeps I-ZONE-2: a pageblock's free blocks move to other lists with its mobility.

use super::super::desc::Kind;
use super::super::list::Descs;
use super::super::mobility::{Mobility, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES};
use super::{Areas, step};
use crate::platform::MAX_ORDER;

impl Areas {
    /// Makes the pageblock with the largest foreign free block, of at least this order, one of `mobility`.
    #[cold]
    pub(super) fn claim(&mut self, descs: Descs, order: u32, mobility: Mobility) -> bool {
        for from in (order..=MAX_ORDER).rev() {
            for other in mobility.fallbacks() {
                let Some(index) = self.lists[other as usize][from as usize].first() else { continue };
                if from >= PAGEBLOCK_ORDER {
                    let dirty = self.unlink(descs, index, from, other);
                    self.convert(descs, index, 1 << from, mobility);
                    self.link(descs, index, from, mobility, dirty);
                } else {
                    let block = index & !(PAGEBLOCK_PAGES - 1);
                    // Worth it only when most of the pageblock comes along.
                    if free_in_pageblock(descs, block) < PAGEBLOCK_PAGES / 2 {
                        continue;
                    }
                    self.convert(descs, block, PAGEBLOCK_PAGES, mobility);
                    self.relist_pageblock(descs, block, other, mobility);
                }
                self.events.claims += 1;
                return true;
            }
        }
        false
    }

    /// Takes the smallest foreign block that fits, whose pageblock stays what it is.
    #[cold]
    pub(super) fn borrow(&mut self, descs: Descs, order: u32, mobility: Mobility) -> Option<(usize, usize)> {
        let fits = |other: Mobility| self.nonempty[other as usize] >> order;
        let other = mobility
            .fallbacks()
            .into_iter()
            .filter(|&other| fits(other) != 0)
            .min_by_key(|&other| fits(other).trailing_zeros())?;
        self.events.borrows += 1;
        self.take_from(descs, order, other)
    }

    /// Changes the mobility of all pageblocks of a range. Their free blocks must be moved by the caller.
    pub(super) fn convert(&mut self, descs: Descs, first: usize, count: usize, mobility: Mobility) {
        for block in (first..first + count).step_by(PAGEBLOCK_PAGES) {
            let leader = descs.page(block);
            self.pageblocks[leader.block_mobility() as usize] -= 1;
            self.pageblocks[mobility as usize] += 1;
            leader.set_block_mobility(mobility);
        }
    }

    fn relist_pageblock(&mut self, descs: Descs, block: usize, from: Mobility, to: Mobility) {
        let mut at = block;
        while at < block + PAGEBLOCK_PAGES {
            let page = descs.page(at);
            if page.kind() == Kind::Buddy {
                let order = page.order();
                let dirty = self.unlink(descs, at, order, from);
                self.link(descs, at, order, to, dirty);
            }
            at += step(descs, at);
        }
    }
}

fn free_in_pageblock(descs: Descs, block: usize) -> usize {
    let (mut free, mut at) = (0, block);
    while at < block + PAGEBLOCK_PAGES {
        let page = descs.page(at);
        if page.kind() == Kind::Buddy {
            free += 1 << page.order();
        }
        at += step(descs, at);
    }
    free
}
