//! Regions of a pool that grows: how long they are, what is in memory before anybody asks for it, and that it goes again.

use kmem_core::gfp::Gfp;
use kmem_core::page::{Kind, PAGEBLOCK_PAGES, PageRun, Pool, Wall};
use kmem_core::platform::{BLOCK_PAGES, PAGE_SIZE, PageRange};
use kmem_sim::Builder;

use super::{Heap, fill, is_filled, small};

/// The least region, in pages.
const REGION: usize = 64;

/// A heap with one pool and what was taken from it.
struct Grown {
    /// Gone first, should a test fail: they are marked in the heap's memory.
    runs: Vec<PageRun>,
    heap: Heap,
    pool: Pool,
    order: u32,
    /// So many of all that were ever taken were said to be zero.
    zeroed: usize,
}

impl Grown {
    fn new(builder: Builder, order: u32) -> Self {
        Self { heap: Heap::new(builder), pool: Pool::new(), order, runs: Vec::new(), zeroed: 0 }
    }

    fn take(&self) -> PageRun {
        let pages = 1 << self.order;
        let run = self.heap.pages.alloc_pinned(
            &self.heap.machine,
            Gfp::KERNEL,
            self.order,
            pages,
            None,
            &self.pool,
        );
        let run = run.expect("memory");
        assert!(!run.is_zeroed() || is_filled(&run, 0));
        run
    }

    /// Takes slots until so many pages are in use, each a little later than the one before.
    fn grow(&mut self, pages: usize, pause: u64) {
        while self.runs.len() << self.order < pages {
            self.heap.machine.advance(pause << self.order);
            let run = self.take();
            self.zeroed += usize::from(run.is_zeroed());
            fill(&run, 0x5a);
            self.runs.push(run);
        }
    }

    fn give(&self, run: PageRun) {
        self.heap.pages.free_pinned(&self.heap.machine, run, &self.pool);
    }

    /// Pages of the heap's memory that are resident, its own books aside.
    fn resident(&self) -> usize {
        let all = PageRange { first: 0, count: self.heap.machine.outstanding().pages };
        self.heap.machine.resident_in(all) - self.heap.check(self.runs.len() << self.order).reserved
    }

    /// The length of each region, in pages; all memory but the books is the pool's or free.
    fn regions(&self) -> Vec<usize> {
        let (mut regions, mut slots) = (Vec::new(), 0);
        for index in (0..self.heap.machine.outstanding().pages).step_by(1 << self.order) {
            match self.heap.pages.page(index).map(|page| page.kind()) {
                Some(Kind::Wall) => {
                    regions.push((slots + 1) << self.order);
                    slots = 0;
                    let address = self.heap.pages.base_address() + index * PAGE_SIZE;
                    assert!(matches!(self.heap.pages.wall_at(address), Some(Wall::Behind { .. })));
                }
                Some(Kind::Pinned | Kind::Allocated) if index >= REGION => slots += 1,
                _ => assert_eq!(slots, 0, "a region without a wall before page {index}"),
            }
        }
        regions
    }

    fn end(self) {
        for run in self.runs {
            self.heap.pages.free_pinned(&self.heap.machine, run, &self.pool);
        }
        self.heap.pages.close_pool(&self.heap.machine, &self.pool);
        self.heap.check(0);
    }
}

/// Fast: all of a pageblock in a quarter of the time that is a break. Slow: each page is a break of its own.
const FAST: u64 = 4_000;
const SLOW: u64 = 20_000_000;

#[test]
fn a_small_pool_has_short_regions_and_nothing_in_memory_that_it_did_not_ask_for() {
    for order in [0, 1] {
        let mut grown = Grown::new(small(8), order);
        grown.grow(REGION / 2, FAST);
        assert_eq!(grown.regions(), [REGION]);
        assert_eq!(grown.resident(), REGION / 2);
        // And up to 1 MiB.
        grown.grow(4 * (REGION - (1 << order)), FAST);
        assert_eq!(grown.regions(), [REGION; 4]);
        assert_eq!(grown.resident(), grown.runs.len() << order);
        grown.end();
    }
}

#[test]
fn a_pool_that_grows_has_long_regions_with_a_wall_at_the_end_of_each() {
    let mut grown = Grown::new(small(64), 0);
    grown.grow(40 * PAGEBLOCK_PAGES, SLOW);
    let regions = grown.regions();
    assert!(regions.iter().all(|pages| pages.is_power_of_two() && *pages >= REGION), "{regions:?}");
    // No wall is further away than a pageblock, and a region is a small part of the pool.
    let mut before = 0;
    for &pages in &regions {
        assert!(pages <= PAGEBLOCK_PAGES && (pages == REGION || before >= pages * 16), "{regions:?}");
        before += pages;
    }
    assert!(regions.len() * REGION < before / 2, "{} regions for {before} pages", regions.len());
    grown.end();
}

#[test]
fn a_pool_that_grows_fast_is_backed_by_pageblocks() {
    for order in [0, 2] {
        let mut grown = Grown::new(small(64), order);
        grown.grow(20 * PAGEBLOCK_PAGES, FAST);
        assert_eq!(grown.zeroed, grown.runs.len(), "nobody wrote to any of it before");
        let whole = grown.heap.machine.counters().backed_whole;
        assert!((8..=12).contains(&whole), "order {order}: {whole} pageblocks");
        // What nobody asked for yet is a thirtieth of the pool, and a part of the last pageblock.
        let ahead = grown.resident() - 20 * PAGEBLOCK_PAGES;
        assert!(ahead <= 20 * PAGEBLOCK_PAGES / 32 + PAGEBLOCK_PAGES, "order {order}: {ahead} pages");
        let stats = grown.heap.check(20 * PAGEBLOCK_PAGES);
        assert_eq!(stats.resident_free - stats.on_cpu_lists, ahead, "order {order}: {stats:?}");
        grown.end();
    }
}

#[test]
fn one_that_grows_slowly_is_backed_so_when_it_is_large() {
    let mut grown = Grown::new(small(64), 0);
    grown.grow(23 * PAGEBLOCK_PAGES, SLOW);
    assert_eq!(grown.heap.machine.counters().backed_whole, 0);
    grown.grow(40 * PAGEBLOCK_PAGES, SLOW);
    assert!(grown.heap.machine.counters().backed_whole >= 12);
    grown.end();
}

#[test]
fn what_is_there_for_growth_goes_when_the_pool_shrinks() {
    let mut grown = Grown::new(small(64), 0);
    // In the middle of a pageblock.
    grown.grow(20 * PAGEBLOCK_PAGES + PAGEBLOCK_PAGES / 4, FAST);
    let kept = grown.resident() - grown.runs.len();
    assert!(kept > 0);
    // As many as a pool keeps, and some.
    let gone: Vec<PageRun> = grown.runs.drain(..200).collect();
    gone.into_iter().for_each(|run| grown.give(run));
    // What is left of the zone's own pageblock is for its turn.
    grown.heap.pages.age(&grown.heap.machine, true);
    assert_eq!(grown.resident(), grown.runs.len() + 128, "{kept} pages had been there");
    grown.end();
}

#[test]
fn all_of_it_goes_by_a_trim() {
    let mut grown = Grown::new(small(64), 0);
    grown.grow(20 * PAGEBLOCK_PAGES + PAGEBLOCK_PAGES / 4, FAST);
    let some: Vec<PageRun> = grown.runs.drain(..50).collect();
    some.into_iter().for_each(|run| grown.give(run));
    grown.heap.pages.trim_pool(&grown.heap.machine, &grown.pool);
    grown.heap.pages.trim(&grown.heap.machine, 0);
    assert_eq!(grown.resident(), grown.runs.len());
    // All of it is there again for who asks.
    grown.grow(21 * PAGEBLOCK_PAGES, FAST);
    grown.end();
}

#[test]
fn a_class_that_is_hardly_used_has_nothing_of_a_backed_pageblock() {
    let mut grown = Grown::new(small(64), 0);
    grown.grow(20 * PAGEBLOCK_PAGES + PAGEBLOCK_PAGES / 4, FAST);
    let free_before = grown.resident() - grown.runs.len();
    let other = Pool::new();
    let run = grown.heap.pages.alloc_pinned(&grown.heap.machine, Gfp::KERNEL, 0, 1, None, &other);
    let run = run.expect("memory");
    assert!(run.is_zeroed() && is_filled(&run, 0));
    fill(&run, 1);
    let (heap, address) = (&grown.heap, run.address().addr());
    let region = (address - heap.pages.base_address()) / PAGE_SIZE / REGION * REGION;
    assert_eq!(heap.machine.resident_in(PageRange { first: region, count: REGION }), 1, "of {free_before}");
    heap.pages.free_pinned(&heap.machine, run, &other);
    heap.pages.close_pool(&heap.machine, &other);
    grown.end();
}

#[test]
fn where_nothing_can_be_discarded_zero_stays_known() {
    let mut grown = Grown::new(small(64), 1);
    grown.heap.machine.refuse_discards(true);
    grown.grow(12 * PAGEBLOCK_PAGES, FAST);
    grown.heap.pages.trim_pool(&grown.heap.machine, &grown.pool);
    // `take` looks at what is said to be zero.
    grown.grow(12 * PAGEBLOCK_PAGES + 200, FAST);
    while let Some(run) = grown.runs.pop() {
        grown.give(run);
    }
    grown.heap.pages.trim_pool(&grown.heap.machine, &grown.pool);
    grown.grow(8 * PAGEBLOCK_PAGES, FAST);
    grown.end();
}

#[test]
fn pools_that_grow_together_have_little_more_than_they_use() {
    const POOLS: usize = 40;
    let heap = Heap::new(small(64));
    let pools: Vec<Pool> = (0..POOLS).map(|_| Pool::new()).collect();
    let mut runs: Vec<Vec<PageRun>> = pools.iter().map(|_| Vec::new()).collect();
    let mut used = 0;
    for _ in 0..15 * REGION {
        for (pool, runs) in pools.iter().zip(&mut runs) {
            heap.machine.advance(FAST);
            let run = heap.pages.alloc_pinned(&heap.machine, Gfp::KERNEL, 0, 1, None, pool).expect("memory");
            fill(&run, 0x5a);
            runs.push(run);
        }
        used += POOLS;
        let stats = heap.pages.stats(&heap.machine);
        let ahead = stats.resident_free - stats.on_cpu_lists;
        assert!(ahead <= used / 32 + PAGEBLOCK_PAGES, "{ahead} pages beside {used}");
    }
    assert!(heap.machine.counters().backed_whole > 16);
    for (pool, runs) in pools.iter().zip(runs) {
        runs.into_iter().for_each(|run| heap.pages.free_pinned(&heap.machine, run, pool));
        heap.pages.close_pool(&heap.machine, pool);
    }
    heap.check(0);
}

#[test]
fn a_world_that_is_short_gives_short_regions() {
    const SHORT: u32 = 4;
    let mut grown = Grown::new(small(6), 0);
    let all = |grown: &mut Grown| {
        while let Some(run) =
            grown.heap.pages.alloc_pinned(&grown.heap.machine, Gfp::KERNEL, 0, 1, None, &grown.pool)
        {
            assert!(!run.is_zeroed() || is_filled(&run, 0));
            fill(&run, 0x5a);
            grown.runs.push(run);
        }
        grown.runs.len()
    };
    // Every other piece of memory is somebody else's, and then no more.
    let others: Vec<PageRun> = grown.heap.exhaust(Gfp::KERNEL, SHORT);
    let (odd, even): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|run| run.address().addr() >> 12 >> SHORT & 1 != 0);
    grown.heap.free_all(odd);
    assert!(all(&mut grown) > 2 * BLOCK_PAGES);
    grown.heap.free_all(even);
    let most = all(&mut grown);
    assert!(most > 5 * BLOCK_PAGES, "{most} pages");
    // Regions of two pieces lie side by side: what is backed is one's alone.
    for _ in 0..3 {
        while let Some(run) = grown.runs.pop() {
            grown.give(run);
        }
        grown.heap.pages.trim_pool(&grown.heap.machine, &grown.pool);
        grown.heap.check(0);
        assert_eq!(all(&mut grown), most);
    }
    grown.end();
}
