//! Walls of regions, seen by a handler of faults.
//!
//! # Theory
//! Who touches a wall ([`super::region`]), or a region whose user is gone ([`super::ended`]), is stopped by the system, which knows an
//! address and no more. What lay in front of the wall is written in descriptors and tags: whoever tells of the fault reads them here.
//!
//! # Never
//! No lock is taken, and nothing is believed: the answer is for a message, and other threads change what is read meanwhile. Only
//! descriptors of added memory are looked at, and the answer is made of numbers, not of pointers found there.

use core::sync::atomic::Ordering::Relaxed;

use super::Pages;
use super::desc::Kind;
use crate::platform::{MAX_ORDER, PAGE_SHIFT, Platform};

/// What an address is that nobody may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wall {
    /// It lies behind a region.
    Behind {
        /// The tag of the region's slabs; 0: none of them is in use, or they have none.
        tag: u16,
    },
    /// It lies in a region whose user is gone.
    Ended,
}

impl<P: Platform> Pages<P> {
    /// The wall of a region, or the region whose user is gone, that an address lies in, if it lies in one.
    pub fn wall_at(&self, address: usize) -> Option<Wall> {
        let index = self.window_index(address)?;
        self.home_of(index)?;
        // A region lies in one block of the largest order, which was added as a whole.
        let block = index & !((1 << MAX_ORDER) - 1);
        let descs = self.descs();
        let wall = (block..=index).rev().find(|&page| descs.page(page).kind() != Kind::None)?;
        let head = descs.page(wall);
        let slot = head.pages();
        if index - wall >= slot {
            return None;
        }
        match head.kind() {
            Kind::Wall => {}
            Kind::Ended => return Some(Wall::Ended),
            _ => return None,
        }
        let slots = usize::from(head.objects.load(Relaxed));
        let first = wall.checked_sub(slots * slot).filter(|&first| first >= block)?;
        let tags = (0..slots).map(|i| self.tag_of(self.base_address() + ((first + i * slot) << PAGE_SHIFT)));
        Some(Wall::Behind { tag: tags.into_iter().find(|&tag| tag != 0).unwrap_or(0) })
    }
}
