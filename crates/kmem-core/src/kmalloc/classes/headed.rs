//! Classes whose blocks have a word of the heap's beside them.

use super::{ClassSet, Kind, LargeRule, MAX_BYTES, PAGE_AND_MORE, PAGES_AND_MORE, SealedSet, names, table};
use crate::engine::beside::Beside;
use crate::engine::slub::geometry::KernelVersion;
use crate::platform::{PAGE_SHIFT, PAGE_SIZE};

/// The classes of [`FineSet`](super::FineSet) for slots with a [word beside each block](crate::engine::beside): a block is 8 bytes
/// shorter than its slot, and a slot of 16 bytes more than a power of two is there for each power that many programs ask for. Between 128 and 512 bytes
/// there are eight classes to a doubling, up to 256 that is each multiple of 16: it makes up for a third of what headers cost. Blocks of
/// about 1 KiB and less have headers, longer ones up to 32 KiB tails.
///
/// Beyond 9 KiB blocks are runs of whole pages: a class for each number of pages up to eight, then four for each doubling. Those up to
/// 128 KiB have tails too, so whoever asks for whole pages gets a page more; longer ones are mappings in other heaps, with nothing
/// of theirs behind them.
///
/// Two classes are for blocks aligned to pages alone, which a tail would make a page longer: one and two whole pages. One more
/// has no tail although all may get it: a page and 272 bytes, which a database asks for. And one, of 63 pages, is chosen for no size
/// at all: blocks that grow by resizing have room there.
#[derive(Clone, Copy, Debug)]
pub struct HeadedSet;

/// Bytes from one block with a header to the next.
#[rustfmt::skip]
const SLOTS: [u32; HEADED] = [
    16, 32, 48, 64, 80, 96, 112, 128,
    144, 160, 176, 192, 208, 224, 240, 256,
    272, 288, 320, 352, 384, 416, 448, 512,
    528, 640, 768, 896, 1024, 1040,
];
const HEADED: usize = 30;

/// Bytes from one longer block to the next, in slabs; where one of these stands twice, blocks of the second class have no tail.
#[rustfmt::skip]
const LONG_SLOTS: [u32; 20] = [
    1280, 1536, 1792, 2048,
    2064, 2304, 2688, 2944, 3264, 3584, 4096, 4096,
    PAGE_AND_MORE, PAGE_AND_MORE, 4672, 5440, 6528, 8192, 8192,
    PAGES_AND_MORE,
];

/// The classes in slabs.
const SLABS: usize = HEADED + LONG_SLOTS.len();

/// From three pages on, a run of each number of pages, then four for each doubling from 32 KiB on.
#[rustfmt::skip]
const RUNS: [u32; 35] = [
    12 << 10, 16 << 10, 20 << 10, 24 << 10, 28 << 10, 32 << 10,
    40 << 10, 48 << 10, 56 << 10, 64 << 10,
    80 << 10, 96 << 10, 112 << 10, 128 << 10,
    160 << 10, 192 << 10, 224 << 10, 252 << 10, 256 << 10,
    320 << 10, 384 << 10, 448 << 10, 512 << 10,
    640 << 10, 768 << 10, 896 << 10, 1024 << 10,
    1280 << 10, 1536 << 10, 1792 << 10, 2048 << 10,
    2560 << 10, 3072 << 10, 3584 << 10, 4096 << 10,
];
/// The longest slots that have tails.
const TAILED: u32 = 128 << 10;

const COUNT: usize = SLABS + RUNS.len();

/// The class of blocks that grow.
const GROWING: usize = {
    let mut class = SLABS;
    while slot(class) != 252 << 10 {
        class += 1;
    }
    class
};

/// Bytes from one block to the next.
const fn slot(class: usize) -> u32 {
    match class {
        0..HEADED => SLOTS[class],
        HEADED..SLABS => LONG_SLOTS[class - HEADED],
        _ => RUNS[class - SLABS],
    }
}

const BESIDE: [Beside; COUNT] = {
    let mut beside = [Beside::Header; COUNT];
    let mut class = HEADED;
    while class < COUNT {
        let twin = slot(class) == slot(class - 1);
        beside[class] = if twin || slot(class) > TAILED { Beside::Nothing } else { Beside::Tail };
        class += 1;
    }
    beside
};

const SIZES: [u32; COUNT] = {
    let mut sizes = [0; COUNT];
    let mut class = 0;
    while class < COUNT {
        sizes[class] = slot(class) - BESIDE[class].bytes() as u32;
        class += 1;
    }
    sizes
};

/// Up to here a table has the class of each multiple of 8 bytes.
const TABLE_LIMIT: usize = SIZES[SLABS - 1] as usize;
static TABLE: [u8; TABLE_LIMIT / 8 + 1] = table(&CHOSEN, 3);

const CHOSEN: [u32; COUNT] = {
    let mut chosen = SIZES;
    let mut class = 0;
    while class < COUNT {
        // No size is beyond that of the class before and within this.
        if is_whole_pages(class) || class == GROWING {
            chosen[class] = SIZES[class - 1];
        }
        class += 1;
    }
    chosen
};

/// The class of each number of pages, less one.
static RUN_TABLE: [u8; MAX_BYTES >> PAGE_SHIFT] = {
    let mut table = [0; MAX_BYTES >> PAGE_SHIFT];
    let mut class = SLABS;
    let mut page = 0;
    while page < table.len() {
        while class == GROWING || (slot(class) as usize) < (page + 1) << PAGE_SHIFT {
            class += 1;
        }
        table[page] = class as u8;
        page += 1;
    }
    table
};

/// The class is one for aligned blocks alone.
const fn is_whole_pages(class: usize) -> bool {
    class < SLABS && (SIZES[class] as usize).is_multiple_of(PAGE_SIZE)
}

/// What slots of so many bytes are aligned to, and where the first block of their slabs begins if it has a header: the largest
/// power of two that divides them.
#[must_use]
pub const fn lead_of(slot: usize) -> usize {
    1 << slot.trailing_zeros()
}

impl ClassSet for HeadedSet {
    const LABEL: &'static str = "headed";
    const SIZES: &'static [u32] = &SIZES;
    const CHOSEN: &'static [u32] = &CHOSEN;
    const SLAB_CLASSES: usize = SLABS;
    const HEADED: usize = HEADED;
    const BESIDE: &'static [Beside] = &BESIDE;
    const TAILED: usize = TAILED as usize;
    const MIN_ALIGN: usize = 16;
    const GROWING: Option<usize> = Some(GROWING);
    const LARGE: LargeRule = LargeRule::Pages;
    type Apart = SealedSet;

    #[inline]
    fn class_of(size: usize) -> usize {
        if size <= TABLE_LIMIT {
            return TABLE[size.div_ceil(8)] as usize;
        }
        // A class without a tail is as long as its slot.
        let last = if size <= TAILED as usize { size + Beside::Tail.bytes() - 1 } else { size - 1 };
        RUN_TABLE.get(last >> PAGE_SHIFT).map_or(COUNT, |&class| class as usize)
    }

    #[inline]
    fn class_of_aligned(align: usize, size: usize) -> usize {
        if align >= PAGE_SIZE && size.wrapping_sub(1) < SIZES[SLABS - 1] as usize {
            let class = Self::class_of(size);
            // What is too long by a word for whole pages with a tail.
            if class > 0 && is_whole_pages(class - 1) && size <= SIZES[class - 1] as usize {
                return class - 1;
            }
        }
        Self::class_of(size)
    }

    fn name(kind: Kind, index: usize) -> &'static str {
        names::HEADED[kind as usize][index]
    }

    fn align_of(index: usize, _version: KernelVersion) -> usize {
        lead_of(SIZES[index] as usize + Self::beside(index).bytes())
    }
}
