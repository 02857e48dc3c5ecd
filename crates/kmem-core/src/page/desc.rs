//! The descriptor of one page.
//!
//! 64 bytes, one cache line. What a field means depends on [`Kind`]: the page allocator and the
//! engines share the line, never at the same time. All fields are atomics so that a descriptor can
//! be looked at from any thread; every access is `Relaxed`, because what orders them lies elsewhere:
//! the zone's lock, a CPU list's lock, or whatever passed the owner of a run from thread to thread.
//!
//! # Invariants
//! - I-PAGE-1: only the head page of a block has a [`Kind`] other than [`Kind::None`] and [`Kind::Tail`].
//! - I-PAGE-2: while a page is [`Kind::Slab`] or [`Kind::Slob`], its slab fields belong to the engine; while it is
//!   [`Kind::Buddy`] or [`Kind::List`], its links belong to the page allocator.
//! - I-PAGE-3: `flags` and `dirty` are written under the lock of the page's zone only: they hold facts
//!   about the neighbourhood (a pageblock, 64 pages), whoever owns the page itself.

use core::sync::atomic::Ordering::{Acquire, Relaxed};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use super::mobility::Mobility;

/// What a page is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Inside a block, not marked: the aligned pages before it lead to its head. Or not managed.
    None = 0,
    /// Head of a free block of the buddy allocator.
    Buddy = 1,
    /// Head of a free block on a CPU's page list, or on its way to be discarded.
    List = 2,
    /// Head of an allocated run of pages.
    Allocated = 3,
    /// Head of a slab.
    Slab = 4,
    /// Head of a large kmalloc block.
    Large = 5,
    /// Inside a run, marked: `span` pages back is its head.
    Tail = 6,
    /// Head of a run that its owner is freeing right now.
    Freeing = 7,
    /// Head of a run whose token was dropped: nobody owns it, nobody can free it.
    Leaked = 8,
    /// A page that blocks of all sizes share, or the head of a run that is one object of SLOB.
    Slob = 9,
    /// Head of a free slot of a region: no other user gets it.
    Pinned = 12,
    /// Pages of a region that nobody gets.
    Wall = 13,
    /// Head of a region whose user is gone: nobody gets it for a while.
    Ended = 14,
}

impl Kind {
    const fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Self::Buddy,
            2 => Self::List,
            3 => Self::Allocated,
            4 => Self::Slab,
            5 => Self::Large,
            6 => Self::Tail,
            7 => Self::Freeing,
            8 => Self::Leaked,
            9 => Self::Slob,
            12 => Self::Pinned,
            13 => Self::Wall,
            14 => Self::Ended,
            _ => Self::None,
        }
    }

    /// True for the head of a run that somebody owns.
    #[must_use]
    pub const fn is_run(self) -> bool {
        matches!(self, Self::Allocated | Self::Slab | Self::Large | Self::Slob)
    }
}

/// The ranges of memory that requests can be tied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ZoneKind {
    /// The lowest memory.
    Dma = 0,
    /// Memory below the DMA32 limit.
    Dma32 = 1,
    /// All other memory.
    Normal = 2,
}

impl ZoneKind {
    /// All kinds, lowest first.
    pub const ALL: [Self; 3] = [Self::Dma, Self::Dma32, Self::Normal];

    pub(crate) const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Dma,
            1 => Self::Dma32,
            _ => Self::Normal,
        }
    }

    /// The kernel's name of the zone.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dma => "DMA",
            Self::Dma32 => "DMA32",
            Self::Normal => "Normal",
        }
    }
}

/// Set in [`Page::order`] of an owned run: some of its pages are marked [`Kind::Tail`].
pub(super) const HAS_TAILS: u8 = 1 << 7;
/// Set in [`Page::order`] of an owned run: its tags are not all 0.
pub(super) const HAS_TAGS: u8 = 1 << 6;
/// Set in [`Page::order`] of a block on a CPU's list: its content is zero.
pub(super) const IS_ZERO: u8 = 1 << 5;
/// Set in [`Page::order`] of an owned run: its first page has a tag, the others have none.
pub(super) const HAS_HEAD_TAG: u8 = 1 << 4;
const ORDER_MASK: u8 = 0x0f;

const ZONE_MASK: u8 = 0b0000_0011;
const MOBILITY_SHIFT: u8 = 2;
const MOBILITY_MASK: u8 = 0b0000_1100;
const BLOCK_SHIFT: u8 = 4;
const BLOCK_MASK: u8 = 0b0011_0000;

/// The descriptor of one page. All zero is a page that is not managed.
#[repr(C, align(64))]
pub struct Page {
    /// A [`Kind`].
    pub(crate) kind: AtomicU8,
    /// Bits 0-3: log2 of the pages of a free block, or of those of a run (rounded up). Bits 4-7:
    /// [`HAS_HEAD_TAG`], [`IS_ZERO`], [`HAS_TAGS`], [`HAS_TAILS`].
    pub(crate) order: AtomicU8,
    /// Node number. Valid in heads.
    pub(crate) node: AtomicU8,
    /// Zone in bits 0-1 and the mobility asked for in bits 2-3 (valid in heads of runs); mobility of the
    /// pageblock in bits 4-5 (valid in the first page of a pageblock).
    pub(crate) flags: AtomicU8,
    /// Tail: pages back to the head. Head of a run: its length in pages. Head of a free block:
    /// how many of its pages may be other than zero.
    pub(crate) span: AtomicU32,
    /// Links of whichever list the page is on (page index + 1; 0 ends the list).
    pub(crate) next: AtomicU32,
    /// See [`Page::next`].
    pub(crate) prev: AtomicU32,
    /// Slab: (freelist head, objects in use, frozen) in one word. See `engine::slub::word`. Slob: no free block has more
    /// units.
    pub(crate) word: AtomicU64,
    /// Slab: its cache. Large, where some have a tail: the bytes that its holder may use. Slob: the owner of a run that is one object.
    pub(crate) cache: AtomicPtr<()>,
    /// Slab: objects it can hold. Slob: free units of 2 bytes.
    pub(crate) objects: AtomicU16,
    /// Slab: objects that were handed out at least once; the rest has no links yet. Slob: the first
    /// free unit.
    pub(crate) carved: AtomicU16,
    /// Slab: where the walk of the cache's random sequence started. Slob: blocks in use.
    pub(crate) start: AtomicU16,
    /// Slab: for the engine. Slob: its state, see `engine::slob::pages`.
    pub(crate) slab_flags: AtomicU16,
    /// Slab: next slab of a CPU's chain (page index + 1), and how many slabs the chain has from here on.
    pub(crate) chain: AtomicU64,
    /// Checked slab of SLUB: address of the first free object, damaged or not; 0: none. Large block: the stack that
    /// allocated it, where that is kept.
    pub(crate) debug: AtomicU64,
    /// In the first 8 pages of a pageblock: one bit a page, 64 pages a word: "outside the zone, or other than zero".
    pub(crate) dirty: AtomicU64,
}

const _: () = assert!(size_of::<Page>() == 64);

impl Page {
    /// What the page is used for.
    #[inline]
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::from_bits(self.kind.load(Relaxed))
    }

    /// log2 of the pages of the block or run this page heads (rounded up).
    #[inline]
    #[must_use]
    pub fn order(&self) -> u32 {
        u32::from(self.order.load(Relaxed) & ORDER_MASK)
    }

    /// Pages of the run this page heads.
    #[inline]
    #[must_use]
    pub fn pages(&self) -> usize {
        self.span.load(Relaxed) as usize
    }

    /// The node of the run this page heads.
    #[inline]
    #[must_use]
    pub fn node(&self) -> usize {
        usize::from(self.node.load(Relaxed))
    }

    /// The zone of the run this page heads.
    #[inline]
    #[must_use]
    pub fn zone(&self) -> ZoneKind {
        ZoneKind::from_bits(self.flags.load(Relaxed) & ZONE_MASK)
    }

    /// The mobility that the run this page heads was allocated for.
    #[inline]
    #[must_use]
    pub fn mobility(&self) -> Mobility {
        Mobility::from_bits((self.flags.load(Relaxed) & MOBILITY_MASK) >> MOBILITY_SHIFT)
    }

    /// Turns a run of kind `from` into a plain one. False when it is of another kind: of several threads that
    /// want to end the same run, one gets it.
    pub(crate) fn claim(&self, from: Kind) -> bool {
        self.kind.compare_exchange(from as u8, Kind::Allocated as u8, Acquire, Relaxed).is_ok()
    }

    #[inline]
    pub(super) fn set_kind(&self, kind: Kind) {
        self.kind.store(kind as u8, Relaxed);
    }

    #[inline]
    pub(super) fn marks(&self) -> u8 {
        self.order.load(Relaxed) & !ORDER_MASK
    }

    #[inline]
    pub(super) fn add_mark(&self, mark: u8) {
        // The owner of the run is the only writer.
        self.order.store(self.order.load(Relaxed) | mark, Relaxed);
    }

    /// Sets the order and drops all marks.
    #[inline]
    pub(super) fn set_order(&self, order: u32) {
        self.order.store(order as u8, Relaxed);
    }

    #[inline]
    pub(super) fn set_span(&self, span: usize) {
        self.span.store(span as u32, Relaxed);
    }

    /// Notes where a run lies and what it is for. Under the zone's lock (I-PAGE-3).
    pub(super) fn set_home(&self, node: usize, zone: ZoneKind, mobility: Mobility) {
        self.node.store(node as u8, Relaxed);
        let block = self.flags.load(Relaxed) & BLOCK_MASK;
        self.flags.store(block | zone as u8 | (mobility as u8) << MOBILITY_SHIFT, Relaxed);
    }

    /// Mobility of the pageblock this page opens.
    pub(super) fn block_mobility(&self) -> Mobility {
        Mobility::from_bits((self.flags.load(Relaxed) & BLOCK_MASK) >> BLOCK_SHIFT)
    }

    /// See [`Page::block_mobility`]. Under the zone's lock (I-PAGE-3).
    pub(super) fn set_block_mobility(&self, mobility: Mobility) {
        let rest = self.flags.load(Relaxed) & !BLOCK_MASK;
        self.flags.store(rest | (mobility as u8) << BLOCK_SHIFT, Relaxed);
    }
}
