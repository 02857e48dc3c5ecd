//! The window: which blocks of memory the machine has, and which of them the heap was given.
//!
//! # Theory
//! Each (zone, node) pair of the machine is one run of blocks of the window, low zones first, as
//! physical memory lies:
//!
//! ```text
//!  page 0                zone_ends[0]            zone_ends[1]
//!  | DMA n0 | DMA n1 ... | DMA32 n0 | DMA32 n1 ... | NORMAL n0 | NORMAL n1 ...      |
//! ```
//! Everything is reserved at first and accessible nowhere. Giving a block opens its pages, descriptors
//! and tags; taking it back closes pages and descriptors (tags of two blocks share a page, so they
//! stay open and are zeroed).

use std::ops::Range;
use std::sync::atomic::AtomicU16;
use std::sync::{Mutex, PoisonError};

use kmem_core::page::{Page, ZoneKind};
use kmem_core::platform::{BLOCK_PAGES, PAGE_SIZE, PageRange, Window};

use crate::os::Region;
use crate::rng::Rng;

const ZONES: [ZoneKind; 3] = [ZoneKind::Dma, ZoneKind::Dma32, ZoneKind::Normal];
const BLOCK_BYTES: usize = BLOCK_PAGES * PAGE_SIZE;
const DESC_BYTES: usize = BLOCK_PAGES * size_of::<Page>();
const TAG_BYTES: usize = BLOCK_PAGES * size_of::<AtomicU16>();
const _: () = assert!(DESC_BYTES.is_multiple_of(PAGE_SIZE), "descriptors of a block fill whole pages");

/// Pages of each zone of each node.
pub(crate) type Layout = Vec<[usize; 3]>;

#[derive(Debug)]
pub(crate) struct Memory {
    window: Region,
    descs: Region,
    tags: Region,
    zone_ends: [usize; 2],
    /// Blocks of each (zone, node), in units of blocks.
    pools: Vec<[Range<usize>; 3]>,
    given: Mutex<Given>,
}

#[derive(Debug)]
struct Given {
    /// By block: is it the heap's?
    blocks: Vec<bool>,
    /// Present when the machine gives any block that fits instead of the lowest.
    scatter: Option<Rng>,
}

fn round_up(len: usize) -> usize {
    len.next_multiple_of(PAGE_SIZE)
}

impl Memory {
    /// Reserves the address space.
    ///
    /// # Panics
    /// When the layout has no memory at all, or the system has no room for it.
    pub(crate) fn new(layout: &Layout, scatter: Option<Rng>) -> Self {
        let mut pools = vec![[0..0, 0..0, 0..0]; layout.len()];
        let mut zone_ends = [0; 2];
        let mut next = 0;
        for zone in 0..ZONES.len() {
            for (node, pages) in layout.iter().enumerate() {
                let blocks = pages[zone].div_ceil(BLOCK_PAGES);
                pools[node][zone] = next..next + blocks;
                next += blocks;
            }
            if let Some(end) = zone_ends.get_mut(zone) {
                *end = next * BLOCK_PAGES;
            }
        }
        assert!(next > 0, "a machine needs memory");
        let reserve =
            |len, align| Region::reserve(len, align).expect("address space for the simulated memory");
        Self {
            window: reserve(next * BLOCK_BYTES, BLOCK_BYTES),
            descs: reserve(next * DESC_BYTES, PAGE_SIZE),
            tags: reserve(round_up(next * TAG_BYTES), PAGE_SIZE),
            zone_ends,
            pools,
            given: Mutex::new(Given { blocks: vec![false; next], scatter }),
        }
    }

    pub(crate) fn window(&self) -> Window {
        Window {
            base: self.window.base().as_ptr() as usize,
            pages: self.window.len() / PAGE_SIZE,
            descs: self.descs.base().as_ptr().cast(),
            tags: self.tags.base().as_ptr().cast_const().cast(),
        }
    }

    pub(crate) fn zone_ends(&self) -> [usize; 2] {
        self.zone_ends
    }

    /// Pages of the window that belong to this zone of this node.
    pub(crate) fn pool(&self, node: usize, zone: ZoneKind) -> PageRange {
        let blocks = &self.pools[node][zone as usize];
        PageRange { first: blocks.start * BLOCK_PAGES, count: blocks.len() * BLOCK_PAGES }
    }

    fn given(&self) -> std::sync::MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives blocks for at least `pages` pages of this zone of this node.
    pub(crate) fn grow(&self, node: usize, zone: ZoneKind, pages: usize) -> Option<PageRange> {
        let wanted = pages.max(1).div_ceil(BLOCK_PAGES);
        let pool = self.pools.get(node)?[zone as usize].clone();
        let mut given = self.given();
        let fits = |first: &usize| given.blocks[*first..*first + wanted].iter().all(|taken| !taken);
        let starts = pool.start..(pool.end + 1).saturating_sub(wanted).max(pool.start);
        let candidates: Vec<usize> = starts.filter(fits).collect();
        let first = match &mut given.scatter {
            _ if candidates.is_empty() => return None,
            Some(rng) => candidates[rng.below(candidates.len())],
            None => candidates[0],
        };
        let tags = (first * TAG_BYTES / PAGE_SIZE) * PAGE_SIZE..round_up((first + wanted) * TAG_BYTES);
        if !(self.window.open(first * BLOCK_BYTES, wanted * BLOCK_BYTES)
            && self.descs.open(first * DESC_BYTES, wanted * DESC_BYTES)
            && self.tags.open(tags.start, tags.len()))
        {
            return None;
        }
        given.blocks[first..first + wanted].fill(true);
        Some(PageRange { first: first * BLOCK_PAGES, count: wanted * BLOCK_PAGES })
    }

    /// Whether every page of the range is the heap's.
    fn owned(given: &Given, range: PageRange) -> bool {
        range.count > 0
            && range.first.checked_add(range.count).is_some_and(|end| {
                given
                    .blocks
                    .get(range.first / BLOCK_PAGES..end.div_ceil(BLOCK_PAGES))
                    .is_some_and(|part| part.iter().all(|&b| b))
            })
    }

    /// Drops the content of pages that the heap keeps.
    ///
    /// # Safety
    /// Nobody uses the content.
    pub(crate) unsafe fn discard(&self, range: PageRange) {
        assert!(Self::owned(&self.given(), range), "discard of {range:?}, which the heap was not given");
        // SAFETY: passed on to the caller.
        unsafe { self.window.clear(range.first * PAGE_SIZE, range.count * PAGE_SIZE) };
    }

    /// Takes blocks back.
    ///
    /// # Safety
    /// Nobody uses them or their descriptors and tags.
    pub(crate) unsafe fn release(&self, range: PageRange) {
        let mut given = self.given();
        assert!(Self::owned(&given, range), "release of {range:?}, which the heap was not given");
        assert!(
            range.first.is_multiple_of(BLOCK_PAGES) && range.count.is_multiple_of(BLOCK_PAGES),
            "release of {range:?}, which is not made of whole blocks"
        );
        let (first, count) = (range.first / BLOCK_PAGES, range.count / BLOCK_PAGES);
        // SAFETY: the blocks are given, so pages, descriptors and tags are open, and the caller is done with them.
        unsafe {
            self.window.close(first * BLOCK_BYTES, count * BLOCK_BYTES);
            self.descs.close(first * DESC_BYTES, count * DESC_BYTES);
            self.tags.base().add(first * TAG_BYTES).write_bytes(0, count * TAG_BYTES);
        }
        given.blocks[first..first + count].fill(false);
    }

    /// Pages that the heap holds.
    pub(crate) fn outstanding(&self) -> usize {
        self.given().blocks.iter().filter(|&&given| given).count() * BLOCK_PAGES
    }

    /// Brings pages into real memory, which the heap owns and nobody else touches.
    ///
    /// # Panics
    /// When one of them is not zero.
    pub(crate) fn back(&self, range: PageRange) {
        for page in range.first..range.first + range.count {
            // SAFETY: a page that was given to the heap, which passes it on as untouched memory of its own.
            unsafe {
                let page = self.window.base().add(page * PAGE_SIZE);
                assert_eq!(page.read(), 0, "memory to be backed was written to");
                page.write_volatile(0);
            }
        }
    }

    /// Pages of the range that are in real memory.
    pub(crate) fn resident(&self, range: PageRange) -> usize {
        self.window.resident(range.first * PAGE_SIZE, range.count * PAGE_SIZE)
    }
}
