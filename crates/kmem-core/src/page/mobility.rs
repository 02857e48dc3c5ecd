//! Grouping pages by mobility: what can go away together lies together.
//!
//! A long-lived page in the middle of a large range keeps the range from ever becoming one block
//! again. So every *pageblock* (512 pages) has a mobility, each mobility has free lists of its own,
//! and a request is served from its own kind first. When its own kind has nothing, it converts a pageblock
//! of another kind that is wholly free; when there is none, the node gets more memory; and
//! only when there is none of that either, pageblocks become mixed: the one with the largest free block first,
//! so that as few as possible do.

use crate::gfp::Gfp;

/// log2 of the pages in a pageblock: 2 MiB, the kernel's choice on x86-64 (one huge page).
pub const PAGEBLOCK_ORDER: u32 = 9;
/// Pages in a pageblock.
pub const PAGEBLOCK_PAGES: usize = 1 << PAGEBLOCK_ORDER;
/// How many mobilities there are.
pub(super) const TYPES: usize = 3;

/// How far a request may go into pageblocks of other mobilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Not at all.
    Own,
    /// It may convert pageblocks that are wholly free.
    Whole,
    /// It may mix: convert a pageblock that is mostly free, or take single blocks.
    Any,
}

/// How willing pages are to go away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mobility {
    /// Stays until it is freed: kernel objects, all of malloc.
    Unmovable = 0,
    /// Could be moved elsewhere. Fresh memory starts as this.
    Movable = 1,
    /// Can be dropped under pressure: caches that say `RECLAIM_ACCOUNT`.
    Reclaimable = 2,
}

impl Mobility {
    /// All mobilities, in the order of `pagetypeinfo`.
    pub const ALL: [Self; TYPES] = [Self::Unmovable, Self::Movable, Self::Reclaimable];

    /// The group a request belongs to.
    #[inline]
    #[must_use]
    pub const fn of(gfp: Gfp) -> Self {
        if gfp.contains(Gfp::RECLAIMABLE) {
            Self::Reclaimable
        } else if gfp.contains(Gfp::MOVABLE) {
            Self::Movable
        } else {
            Self::Unmovable
        }
    }

    #[inline]
    pub(super) const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Unmovable,
            1 => Self::Movable,
            _ => Self::Reclaimable,
        }
    }

    /// Whom to take from when the own lists are empty, best first.
    pub(super) const fn fallbacks(self) -> [Self; 2] {
        match self {
            Self::Unmovable => [Self::Reclaimable, Self::Movable],
            Self::Movable => [Self::Reclaimable, Self::Unmovable],
            Self::Reclaimable => [Self::Unmovable, Self::Movable],
        }
    }

    /// The smallest order of a free block for which taking over its pageblock is considered.
    ///
    /// Pages that stay are worth a whole pageblock at any size: each small one left in a foreign
    /// pageblock spoils it for good. A movable page spoils nothing, so it takes over only for half a
    /// pageblock's order upward, and otherwise just borrows the block it needs.
    pub(super) const fn claims_from(self) -> u32 {
        match self {
            Self::Movable => PAGEBLOCK_ORDER / 2,
            Self::Unmovable | Self::Reclaimable => 0,
        }
    }
}
