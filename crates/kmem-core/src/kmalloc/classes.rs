//! Size classes: which cache serves a request of `n` bytes, and what `n` is rounded to.
//!
//! A request is rounded up to the size of a class; each class is a cache. Few classes keep memory in
//! few slabs and waste the difference inside each block; many do the reverse. Two sets are here,
//! chosen by type, so that a heap's tables are constants of its code:
//!
//! | set | classes | average waste, requests of 1 to 4096 bytes alike |
//! |---|---|---|
//! | [`KernelSet`] | the kernel's: 8 to 8192, powers of two, 96 and 192 | 24.9 % |
//! | [`FineSet`] | 16 to 128 by 16, four for each doubling, what divides a slab well, then runs of pages up to 4 MiB | 6.1 % |
//! | [`HeadedSet`] | the same for slots with a word of the heap's beside each block: sizes 8 bytes less, and more of them | 6.0 %, and the word |
//! | [`ShortSet`] | the same, up to 32 KiB | 6.1 % |
//! | [`SealedSet`] | the same, up to 80 KiB | 6.1 % |
//!
//! Finding a class takes no division and no loop: a byte table, or the position of the highest bit.
//!
//! # Invariants
//! - I-CLASS-1: sizes ascend strictly; `class_of(n)` is the smallest class of at least `n` bytes.
//! - I-CLASS-2: `align_of(i)` divides the slot, `size_of(i)` and what lies beside the block, so that every slot keeps the alignment
//!   of the first.
//!
//! Pure functions and constants: no memory, no lock, no state.

mod headed;
mod names;
mod seed;

pub use headed::{HeadedSet, lead_of};
pub use seed::SeedSet;

use crate::engine::beside::Beside;
use crate::engine::geometry::Rules;
use crate::engine::slub::geometry::KernelVersion;
use crate::engine::slub::geometry::order::order_of;
use crate::gfp::Gfp;
use crate::platform::{MAX_ORDER, PAGE_SHIFT, PAGE_SIZE};

/// The largest block of kmalloc: one block of the page allocator, 4 MiB.
pub const MAX_BYTES: usize = PAGE_SIZE << MAX_ORDER;

/// Which copy of the size classes serves a request. Pages of different copies never mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The usual one.
    Normal = 0,
    /// Blocks charged to the caller's group.
    Account = 1,
    /// Blocks that can be reclaimed.
    Reclaim = 2,
    /// Blocks in the DMA zone.
    Dma = 3,
}

impl Kind {
    /// How many there are.
    pub const COUNT: usize = 4;
    /// All, in the order in which their caches are created.
    pub const ALL: [Self; Self::COUNT] = [Self::Normal, Self::Account, Self::Reclaim, Self::Dma];

    /// Flags that select another copy than the usual one.
    pub const SELECTORS: Gfp = Gfp::DMA.union(Gfp::RECLAIMABLE).union(Gfp::ACCOUNT);

    /// The copy that a request's flags select. Where several would, the one that restricts more: the
    /// zone, then the grouping, then the charge.
    #[inline]
    #[must_use]
    pub const fn of(gfp: Gfp) -> Self {
        // One test for nearly all requests.
        if !gfp.intersects(Self::SELECTORS) {
            Self::Normal
        } else if gfp.contains(Gfp::DMA) {
            Self::Dma
        } else if gfp.contains(Gfp::RECLAIMABLE) {
            Self::Reclaim
        } else {
            Self::Account
        }
    }
}

/// How blocks larger than every class are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LargeRule {
    /// To a power of two of pages, and aligned to it.
    Orders,
    /// To whole pages.
    Pages,
}

/// A set of size classes.
pub trait ClassSet: Copy + Send + Sync + 'static {
    /// What the set is called in reports.
    const LABEL: &'static str;
    /// Bytes of each class, ascending.
    const SIZES: &'static [u32];
    /// The most bytes for which [`ClassSet::class_of`] chooses each class: less than it has where that is for aligned blocks alone.
    const CHOSEN: &'static [u32] = Self::SIZES;
    /// How many classes there are.
    const COUNT: usize = Self::SIZES.len();
    /// How many of them are kept in slabs; the rest, if any, are runs of whole pages.
    const SLAB_CLASSES: usize = Self::COUNT;
    /// How many of those, the first ones, have a header before each block ([`crate::engine::beside`]).
    const HEADED: usize = 0;
    /// What lies beside the blocks of the first classes, for which their slots are as much longer than a block; beside all others'
    /// nothing does.
    const BESIDE: &'static [Beside] = &[];
    /// The class of blocks that grow by resizing, which is chosen for no size ([`growing`](super::growing)); none where nobody resizes.
    const GROWING: Option<usize> = None;
    /// Up to so many bytes, tail included, a block of pages without a class has a [tail](Beside::Tail) too; 0: none has.
    const TAILED: usize = 0;
    /// Bytes of the largest class.
    const LARGEST: usize = Self::SIZES[Self::COUNT - 1] as usize;
    /// Every block is aligned to this.
    const MIN_ALIGN: usize;
    /// What happens to larger requests.
    const LARGE: LargeRule;
    /// The set of a heap that keeps its large blocks apart, as mappings between guard pages: it has no classes for those.
    type Apart: ClassSet;

    /// What lies beside the blocks of a class.
    #[inline]
    #[must_use]
    fn beside(index: usize) -> Beside {
        Self::BESIDE.get(index).copied().unwrap_or(Beside::Nothing)
    }

    /// The class that serves `size` bytes; 0 bytes are served by the smallest. The index is at least
    /// [`ClassSet::COUNT`] when `size` exceeds [`ClassSet::LARGEST`].
    fn class_of(size: usize) -> usize;

    /// The first class that may serve `size` bytes aligned to `align`, a power of two; which of the classes from there on
    /// is aligned so, [`ClassSet::align_of`] tells.
    #[inline]
    fn class_of_aligned(_align: usize, size: usize) -> usize {
        Self::class_of(size)
    }

    /// The name of a class's cache, in the kernel's style: `kmalloc-96`, `kmalloc-rcl-1k`, `dma-kmalloc-8`.
    ///
    /// # Panics
    /// When there is no class `index`.
    fn name(kind: Kind, index: usize) -> &'static str;

    /// What the blocks of a class are aligned to.
    ///
    /// # Panics
    /// When there is no class `index`.
    fn align_of(index: usize, version: KernelVersion) -> usize;

    /// Bytes of a class.
    ///
    /// # Panics
    /// When there is no class `index`.
    #[inline]
    #[must_use]
    fn size_of(index: usize) -> usize {
        Self::SIZES[index] as usize
    }

    /// Pages of a block for a request larger than every class; `None` above [`MAX_BYTES`].
    #[inline]
    #[must_use]
    fn large_pages(size: usize) -> Option<usize> {
        if size > MAX_BYTES {
            return None;
        }
        Some(match Self::LARGE {
            LargeRule::Orders => 1 << order_of(size),
            LargeRule::Pages => size.div_ceil(PAGE_SIZE),
        })
    }

    /// The bytes that a request of `size` would get (`kmalloc_size_roundup`): 0 for 0, and `size` itself for a
    /// request that kmalloc cannot serve.
    #[must_use]
    fn size_roundup(size: usize) -> usize {
        if size == 0 {
            0
        } else if size <= Self::LARGEST {
            Self::size_of(Self::class_of(size))
        } else {
            Self::large_pages(size).map_or(size, |pages| pages << PAGE_SHIFT)
        }
    }
}

/// No classes: for engines that keep each block as long as it was asked (SLOB). Every block is aligned to `MIN`.
#[derive(Clone, Copy, Debug)]
pub struct NoClasses<const MIN: usize = 8>;

impl<const MIN: usize> ClassSet for NoClasses<MIN> {
    const LABEL: &'static str = "none";
    const SIZES: &'static [u32] = &[];
    /// What fits in a page at that alignment, with a header before it.
    const LARGEST: usize = PAGE_SIZE - MIN;
    const MIN_ALIGN: usize = MIN;
    const LARGE: LargeRule = if MIN == 8 { LargeRule::Orders } else { LargeRule::Pages };
    type Apart = Self;

    fn class_of(_size: usize) -> usize {
        0
    }

    fn name(_kind: Kind, index: usize) -> &'static str {
        panic!("there is no class {index}")
    }

    fn align_of(index: usize, _version: KernelVersion) -> usize {
        panic!("there is no class {index}")
    }

    /// To the grain of blocks, also where that is less than what the block will have.
    fn size_roundup(size: usize) -> usize {
        if size > MAX_BYTES { size } else { size.next_multiple_of(MIN) }
    }
}

/// The kernel's classes: powers of two from `MIN` bytes to 8 KiB, and 96 and 192.
///
/// `MIN` is 8 in SLUB and 32 in SLAB.
#[derive(Clone, Copy, Debug)]
pub struct KernelSet<const MIN: usize = 8>;

/// The classes from 8 bytes on.
const KERNEL_SIZES: [u32; 13] = [8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192];
/// Up to here the steps are irregular, and a table has the class of each multiple of 8 bytes.
const KERNEL_TABLE_LIMIT: usize = 192;

impl<const MIN: usize> KernelSet<MIN> {
    /// Classes that this variant leaves out.
    const SKIP: usize = match MIN {
        8 => 0,
        16 => 1,
        32 => 2,
        _ => panic!("the smallest class is 8, 16 or 32"),
    };
    const TABLE: [u8; KERNEL_TABLE_LIMIT / 8 + 1] = table(Self::SIZES, 3);
}

impl<const MIN: usize> ClassSet for KernelSet<MIN> {
    const LABEL: &'static str = "kernel";
    const SIZES: &'static [u32] = KERNEL_SIZES.split_at(Self::SKIP).1;
    const MIN_ALIGN: usize = 8;
    const LARGE: LargeRule = LargeRule::Orders;
    type Apart = Self;

    #[inline]
    fn class_of(size: usize) -> usize {
        if size <= KERNEL_TABLE_LIMIT {
            return Self::TABLE[(size + 7) >> 3] as usize;
        }
        // 256 is 2^8 and the eighth of all classes; from there on one class a power.
        let log2 = usize::BITS - (size - 1).leading_zeros();
        log2 as usize - 1 - Self::SKIP
    }

    fn name(kind: Kind, index: usize) -> &'static str {
        names::KERNEL[kind as usize][index + Self::SKIP]
    }

    /// Powers of two are aligned to themselves. The others: to the minimum in 6.1; since then, to the
    /// largest power of two that divides them.
    fn align_of(index: usize, version: KernelVersion) -> usize {
        let size = Self::size_of(index);
        if size.is_power_of_two() || version > KernelVersion::V6_1 {
            largest_power_dividing(size).max(Self::MIN_ALIGN)
        } else {
            Self::MIN_ALIGN
        }
    }
}

/// The classes of user space: 16 to 128 by 16, four for each doubling up to 2 KiB, what divides a slab of eight pages well
/// up to 8 KiB, runs of 3 to 8 pages, and four runs for each doubling up to the largest block, 4 MiB.
///
/// Above 2 KiB a slab holds few objects, and quarters of a doubling would leave up to a fifth of it unused. Each class there is
/// the largest multiple of a cache line of which 14, 12, 11, 10, 9, … 4 fit in 32 KiB. One more is for a page and what a program
/// puts beside it, as databases do for each page of their caches: 15 in 64 KiB ([`slab_rules`]), where 14 would be 7 percent longer.
///
/// What a run has beyond the bytes asked for is never touched, and so costs addresses, not memory, while the run is new.
#[derive(Clone, Copy, Debug)]
pub struct FineSet;

/// The first `CLASSES` classes of [`FineSet`]: all that lie in slabs, and some runs.
#[derive(Clone, Copy, Debug)]
pub struct FinePrefix<const CLASSES: usize>;

/// [`FineSet`] up to 32 KiB: what is larger takes exactly the pages it needs, or a mapping of its own.
pub type ShortSet = FinePrefix<FINE_QUARTERS>;

/// [`FineSet`] up to 80 KiB, which holds a block of 64 KiB and its seal: what is larger is a mapping of its own. For heaps that keep
/// their large blocks apart: to clear and to look through a block of this length costs less than to have its pages made.
pub type SealedSet = FinePrefix<SEALED_CLASSES>;

#[rustfmt::skip]
const FINE_SIZES: [u32; 69] = [
    16, 32, 48, 64, 80, 96, 112, 128,
    160, 192, 224, 256,
    320, 384, 448, 512,
    640, 768, 896, 1024,
    1280, 1536, 1792, 2048,
    2304, 2688, 2944, 3264, 3584, 4096,
    PAGE_AND_MORE, 4672, 5440, 6528, 8192,
    12288, 16384, 20480, 24576, 28672, 32768,
    40 << 10, 48 << 10, 56 << 10, 64 << 10,
    80 << 10, 96 << 10, 112 << 10, 128 << 10,
    160 << 10, 192 << 10, 224 << 10, 256 << 10,
    320 << 10, 384 << 10, 448 << 10, 512 << 10,
    640 << 10, 768 << 10, 896 << 10, 1024 << 10,
    1280 << 10, 1536 << 10, 1792 << 10, 2048 << 10,
    2560 << 10, 3072 << 10, 3584 << 10, 4096 << 10,
];
/// Up to here a table has the class of each multiple of 16 bytes.
const FINE_TABLE_LIMIT: usize = 1024;
/// Up to here blocks lie in slabs, and a second table has the class of each multiple of 16 bytes.
const FINE_SLAB_LIMIT: usize = 8192;
/// The first class above [`FINE_SLAB_LIMIT`].
const FINE_RUNS: usize = 35;
/// Up to here there is a class for each number of pages, and from here on four for each doubling: 2^15.
const FINE_STEP_LIMIT: usize = 1 << FINE_STEP_LOG2;
const FINE_STEP_LOG2: u32 = 15;
/// The first class above [`FINE_STEP_LIMIT`].
const FINE_QUARTERS: usize = 41;
/// Classes up to 80 KiB.
const SEALED_CLASSES: usize = 46;
static FINE_TABLE: [u8; FINE_TABLE_LIMIT / 16 + 1] = table(&FINE_SIZES, 4);
static FINE_MIDDLING: [u8; FINE_SLAB_LIMIT / 16 + 1] = table(&FINE_SIZES, 4);

impl FineSet {
    /// The class of more than [`FINE_SLAB_LIMIT`] bytes.
    #[inline]
    const fn run_of(size: usize) -> usize {
        let last = size - 1;
        if size <= FINE_STEP_LIMIT {
            return FINE_RUNS + (last >> PAGE_SHIFT) - (FINE_SLAB_LIMIT >> PAGE_SHIFT);
        }
        let log2 = last.ilog2();
        FINE_QUARTERS + ((log2 - FINE_STEP_LOG2) as usize * 4) + ((last >> (log2 - 2)) & 3)
    }
}

impl ClassSet for FineSet {
    const LABEL: &'static str = "fine";
    const SIZES: &'static [u32] = &FINE_SIZES;
    const SLAB_CLASSES: usize = FINE_RUNS;
    const MIN_ALIGN: usize = 16;
    const LARGE: LargeRule = LargeRule::Pages;
    type Apart = SealedSet;

    #[inline]
    fn class_of(size: usize) -> usize {
        if size <= FINE_TABLE_LIMIT {
            return FINE_TABLE[(size + 15) >> 4] as usize;
        }
        if size <= FINE_SLAB_LIMIT {
            return FINE_MIDDLING[(size + 15) >> 4] as usize;
        }
        Self::run_of(size)
    }

    fn name(kind: Kind, index: usize) -> &'static str {
        names::FINE[kind as usize][index]
    }

    /// The largest power of two that divides the size: more than enough for any type of that size.
    fn align_of(index: usize, _version: KernelVersion) -> usize {
        largest_power_dividing(Self::size_of(index)).max(Self::MIN_ALIGN)
    }
}

impl<const CLASSES: usize> ClassSet for FinePrefix<CLASSES> {
    const LABEL: &'static str = match CLASSES {
        FINE_QUARTERS => "short",
        SEALED_CLASSES => "sealed",
        _ => panic!("a prefix without a name"),
    };
    const SIZES: &'static [u32] = FINE_SIZES.split_at(CLASSES).0;
    const SLAB_CLASSES: usize = FINE_RUNS;
    const MIN_ALIGN: usize = FineSet::MIN_ALIGN;
    const LARGE: LargeRule = FineSet::LARGE;
    type Apart = Self;

    #[inline]
    fn class_of(size: usize) -> usize {
        FineSet::class_of(size)
    }

    fn name(kind: Kind, index: usize) -> &'static str {
        FineSet::name(kind, index)
    }

    fn align_of(index: usize, version: KernelVersion) -> usize {
        FineSet::align_of(index, version)
    }
}

/// The slot for a page and a few words: 15 in 64 KiB.
const PAGE_AND_MORE: u32 = 4368;
/// That for two pages and a few words: 7 in 64 KiB.
const PAGES_AND_MORE: u32 = 9344;

/// The rules of geometry for the cache of a class: those of the heap, but for the classes whose slabs have an order more than
/// the others' where nobody asked for smaller ones.
#[must_use]
pub const fn slab_rules(size: usize, rules: Rules) -> Rules {
    let slot = size.next_multiple_of(2 * Beside::Tail.bytes()) as u32;
    if (slot == PAGE_AND_MORE || slot == PAGES_AND_MORE) && rules.max_order == Rules::DEFAULT.max_order {
        Rules { max_order: Rules::DEFAULT.max_order + 1, ..rules }
    } else {
        rules
    }
}

const fn largest_power_dividing(size: usize) -> usize {
    1 << size.trailing_zeros()
}

/// The table of the classes of 0, 1, 2, … times 2^`step` bytes.
const fn table<const N: usize>(sizes: &[u32], step: u32) -> [u8; N] {
    let mut result = [0; N];
    let mut class = 0;
    let mut i = 0;
    while i < N {
        while (sizes[class] as usize) < i << step {
            class += 1;
        }
        result[i] = class as u8;
        i += 1;
    }
    result
}

#[cfg(test)]
#[path = "classes/tests.rs"]
mod tests;
