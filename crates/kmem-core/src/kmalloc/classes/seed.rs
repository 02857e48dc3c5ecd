//! The size classes of Linux 2.6.

use super::{ClassSet, Kind, LargeRule};
use crate::engine::geometry::KernelVersion;
use crate::platform::CACHE_LINE;

/// The general caches of Linux 2.6 (`size-32`, `size-32(DMA)` and so on): powers of two from 2^5 to 2^17 bytes, which is
/// as far as a slab of that kernel goes. What is larger, up to 2^22, is a block of pages, and a mapping beyond that
/// where the caller may have one.
#[derive(Clone, Copy, Debug)]
pub struct SeedSet;

/// log2 of the smallest class.
const FIRST: u32 = 5;

#[rustfmt::skip]
const SIZES: [u32; 13] = [
    1 << 5, 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16, 1 << 17,
];

macro_rules! names {
    ($($size:literal)*) => {
        [
            [$(concat!("size-", $size)),*],
            [$(concat!("size-", $size, "(ACCOUNT)")),*],
            [$(concat!("size-", $size, "(RECLAIM)")),*],
            [$(concat!("size-", $size, "(DMA)")),*],
        ]
    };
}

static NAMES: [[&str; SIZES.len()]; Kind::COUNT] =
    names!["32" "64" "128" "256" "512" "1024" "2048" "4096" "8192" "16384" "32768" "65536" "131072"];

impl ClassSet for SeedSet {
    const LABEL: &'static str = "2.6";
    const SIZES: &'static [u32] = &SIZES;
    const MIN_ALIGN: usize = 8;
    const LARGE: LargeRule = LargeRule::Orders;
    type Apart = Self;

    #[inline]
    fn class_of(size: usize) -> usize {
        let log2 = usize::BITS - size.saturating_sub(1).leading_zeros();
        log2.saturating_sub(FIRST) as usize
    }

    fn name(kind: Kind, index: usize) -> &'static str {
        NAMES[kind as usize][index]
    }

    /// Classes begin at cache lines. Natural alignment came later.
    fn align_of(index: usize, _version: KernelVersion) -> usize {
        Self::size_of(index).min(CACHE_LINE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_size_has_the_smallest_class_that_holds_it() {
        for size in 0..=1 << 17 {
            let class = SeedSet::class_of(size);
            assert!(SeedSet::size_of(class) >= size, "{size}");
            assert!(class == 0 || SeedSet::size_of(class - 1) < size, "{size}");
        }
        assert_eq!(SeedSet::class_of((1 << 17) + 1), SeedSet::COUNT);
        assert_eq!(SeedSet::name(Kind::Dma, 12), "size-131072(DMA)");
        assert_eq!(
            (SeedSet::size_roundup(1 << 18), SeedSet::size_roundup((1 << 18) + 1)),
            (1 << 18, 1 << 19)
        );
    }
}
