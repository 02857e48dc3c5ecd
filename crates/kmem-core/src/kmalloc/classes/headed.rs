//! Classes whose blocks have headers.

use super::{ClassSet, Kind, LargeRule, SealedSet, names, table};
use crate::engine::header;
use crate::engine::slub::geometry::KernelVersion;
use crate::platform::PAGE_SHIFT;

/// The classes of [`FineSet`](super::FineSet) for slots with a [`header`]: up to 8 KiB a block is 8 bytes shorter than its slot, and
/// a slot of 16 bytes more than a power of two is there for each that many programs ask for. Larger blocks are runs of whole
/// pages without a header, from two pages on.
///
/// Slots of 256, 512, 1024 and 2048 bytes serve requests that are aligned so.
#[derive(Clone, Copy, Debug)]
pub struct HeadedSet;

/// Bytes from one block to the next.
#[rustfmt::skip]
const SLOTS: [u32; HEADED] = [
    16, 32, 48, 64, 80, 96, 112, 128,
    144, 160, 192, 224, 256,
    272, 320, 384, 448, 512,
    528, 640, 768, 896, 1024,
    1040, 1280, 1536, 1792, 2048,
    2064, 2304, 2688, 2944, 3264, 3584,
    4368, 4672, 5440, 6528, 8176,
];
const HEADED: usize = 39;

/// Runs of pages: 2 to 8 of them, then four for each doubling.
#[rustfmt::skip]
const RUNS: [u32; 35] = [
    8192, 12288, 16384, 20480, 24576, 28672, 32768,
    40 << 10, 48 << 10, 56 << 10, 64 << 10,
    80 << 10, 96 << 10, 112 << 10, 128 << 10,
    160 << 10, 192 << 10, 224 << 10, 256 << 10,
    320 << 10, 384 << 10, 448 << 10, 512 << 10,
    640 << 10, 768 << 10, 896 << 10, 1024 << 10,
    1280 << 10, 1536 << 10, 1792 << 10, 2048 << 10,
    2560 << 10, 3072 << 10, 3584 << 10, 4096 << 10,
];

const COUNT: usize = HEADED + RUNS.len();

const SIZES: [u32; COUNT] = {
    let mut sizes = [0; COUNT];
    let mut class = 0;
    while class < COUNT {
        sizes[class] =
            if class < HEADED { SLOTS[class] - header::BYTES as u32 } else { RUNS[class - HEADED] };
        class += 1;
    }
    sizes
};

/// Up to here a table has the class of each multiple of 8 bytes.
const TABLE_LIMIT: usize = SIZES[HEADED - 1] as usize;
static TABLE: [u8; TABLE_LIMIT / 8 + 1] = table(&SIZES, 3);

/// Up to here there is a class for each number of pages, and from here on four for each doubling: 2^15.
const STEP_LIMIT: usize = 1 << STEP_LOG2;
const STEP_LOG2: u32 = 15;
/// The first class beyond [`STEP_LIMIT`].
const QUARTERS: usize = HEADED + 7;

/// What the slots of so many bytes are aligned to, and where the first block of their slabs begins: the largest power of two that
/// divides them.
#[must_use]
pub const fn lead_of(slot: usize) -> usize {
    1 << slot.trailing_zeros()
}

impl ClassSet for HeadedSet {
    const LABEL: &'static str = "headed";
    const SIZES: &'static [u32] = &SIZES;
    const SLAB_CLASSES: usize = HEADED;
    const HEADED: usize = HEADED;
    const MIN_ALIGN: usize = 16;
    const LARGE: LargeRule = LargeRule::Pages;
    type Apart = SealedSet;

    #[inline]
    fn class_of(size: usize) -> usize {
        if size <= TABLE_LIMIT {
            return TABLE[size.div_ceil(8)] as usize;
        }
        let last = size - 1;
        if size <= STEP_LIMIT {
            return HEADED + (last >> PAGE_SHIFT) - 1;
        }
        let log2 = last.ilog2();
        QUARTERS + ((log2 - STEP_LOG2) as usize * 4) + ((last >> (log2 - 2)) & 3)
    }

    fn name(kind: Kind, index: usize) -> &'static str {
        names::HEADED[kind as usize][index]
    }

    fn align_of(index: usize, _version: KernelVersion) -> usize {
        lead_of(if index < HEADED { SLOTS[index] } else { SIZES[index] } as usize)
    }
}
