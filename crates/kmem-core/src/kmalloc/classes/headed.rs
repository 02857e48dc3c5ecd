//! Classes whose blocks have a word of the heap's beside them.

use super::{ClassSet, Kind, LargeRule, SealedSet, names, table};
use crate::engine::beside::Beside;
use crate::engine::slub::geometry::KernelVersion;
use crate::platform::{PAGE_SHIFT, PAGE_SIZE};

/// The classes of [`FineSet`](super::FineSet) for slots with a [word beside each block](crate::engine::beside): a block is 8 bytes
/// shorter than its slot, and a slot of 16 bytes more than a power of two is there for each power that many programs ask for. Between 128 and 512 bytes
/// there are eight classes to a doubling, up to 256 that is each multiple of 16: it makes up for a third of what headers cost. Blocks of
/// about 1 KiB and less have headers, longer ones up to 32 KiB tails.
///
/// From 8 KiB on blocks are runs of whole pages. There is one class with a tail for each number of pages, and one without for those who
/// ask for all of the last page, which a tail would make one more; so there is for one and two pages, and for a page and a few words,
/// which a database asks for. Beyond 32 KiB there are no tails.
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
const LONG_SLOTS: [u32; 19] = [
    1280, 1536, 1792, 2048,
    2064, 2304, 2688, 2944, 3264, 3584, 4096, 4096,
    4368, 4368, 4672, 5440, 6528, 8192, 8192,
];

/// The classes in slabs.
const SLABS: usize = HEADED + LONG_SLOTS.len();
/// Runs of 3 to 8 pages, each with a tail and without.
const FIRST_PAIR: usize = 3;
const LAST_PAIR: usize = 8;

/// Four runs for each doubling from 32 KiB on.
#[rustfmt::skip]
const RUNS: [u32; 28] = [
    40 << 10, 48 << 10, 56 << 10, 64 << 10,
    80 << 10, 96 << 10, 112 << 10, 128 << 10,
    160 << 10, 192 << 10, 224 << 10, 256 << 10,
    320 << 10, 384 << 10, 448 << 10, 512 << 10,
    640 << 10, 768 << 10, 896 << 10, 1024 << 10,
    1280 << 10, 1536 << 10, 1792 << 10, 2048 << 10,
    2560 << 10, 3072 << 10, 3584 << 10, 4096 << 10,
];
/// The first of them.
const QUARTERS: usize = SLABS + 2 * (LAST_PAIR - FIRST_PAIR + 1);
const STEP_LOG2: u32 = 15;
const _: () = assert!(LAST_PAIR * PAGE_SIZE == 1 << STEP_LOG2);

const COUNT: usize = QUARTERS + RUNS.len();

/// Bytes from one block to the next.
const fn slot(class: usize) -> u32 {
    match class {
        0..HEADED => SLOTS[class],
        HEADED..SLABS => LONG_SLOTS[class - HEADED],
        SLABS..QUARTERS => (FIRST_PAIR + (class - SLABS) / 2) as u32 * PAGE_SIZE as u32,
        _ => RUNS[class - QUARTERS],
    }
}

const BESIDE: [Beside; QUARTERS] = {
    let mut beside = [Beside::Header; QUARTERS];
    let mut class = HEADED;
    while class < QUARTERS {
        beside[class] = if slot(class) == slot(class - 1) { Beside::Nothing } else { Beside::Tail };
        class += 1;
    }
    beside
};

const SIZES: [u32; COUNT] = {
    let mut sizes = [0; COUNT];
    let mut class = 0;
    while class < COUNT {
        let beside = if class < QUARTERS { BESIDE[class].bytes() } else { 0 };
        sizes[class] = slot(class) - beside as u32;
        class += 1;
    }
    sizes
};

/// Up to here a table has the class of each multiple of 8 bytes.
const TABLE_LIMIT: usize = SIZES[SLABS - 1] as usize;
static TABLE: [u8; TABLE_LIMIT / 8 + 1] = table(&SIZES, 3);

/// What slots of so many bytes are aligned to, and where the first block of their slabs begins if it has a header: the largest
/// power of two that divides them.
#[must_use]
pub const fn lead_of(slot: usize) -> usize {
    1 << slot.trailing_zeros()
}

impl ClassSet for HeadedSet {
    const LABEL: &'static str = "headed";
    const SIZES: &'static [u32] = &SIZES;
    const SLAB_CLASSES: usize = SLABS;
    const HEADED: usize = HEADED;
    const BESIDE: &'static [Beside] = &BESIDE;
    const MIN_ALIGN: usize = 16;
    const LARGE: LargeRule = LargeRule::Pages;
    type Apart = SealedSet;

    #[inline]
    fn class_of(size: usize) -> usize {
        if size <= TABLE_LIMIT {
            return TABLE[size.div_ceil(8)] as usize;
        }
        let last = size - 1;
        if size <= 1 << STEP_LOG2 {
            let pages = (last >> PAGE_SHIFT) + 1;
            let whole = usize::from(size > (pages << PAGE_SHIFT) - Beside::Tail.bytes());
            return SLABS + 2 * pages + whole - 2 * FIRST_PAIR;
        }
        let log2 = last.ilog2();
        QUARTERS + ((log2 - STEP_LOG2) as usize * 4) + ((last >> (log2 - 2)) & 3)
    }

    fn name(kind: Kind, index: usize) -> &'static str {
        names::HEADED[kind as usize][index]
    }

    fn align_of(index: usize, _version: KernelVersion) -> usize {
        lead_of(SIZES[index] as usize + Self::beside(index).bytes())
    }
}
