//! Regions whose pool has ended: their addresses wait, and go when too many do, or when nothing else is left.

use std::collections::BTreeSet;

use kmem_core::gfp::Gfp;
use kmem_core::page::{Kind, PageRun, Pool};
use kmem_core::platform::{BLOCK_PAGES, PAGE_SIZE, PageRange};

use super::{Heap, fill, is_filled, small};

/// Slots for which a region is a block of the largest order.
const ORDER: u32 = 6;
const PAGES: usize = 1 << ORDER;
/// So many regions wait at most, of 4 MiB each.
const MOST: usize = 16;

/// A region of a pool of its own comes, is written to, and goes with its pool; where it lies.
fn end_one(heap: &Heap) -> usize {
    let pool = Pool::new();
    let run = heap
        .pages
        .alloc_pinned(&heap.machine, Gfp::KERNEL, ORDER, PAGES, None, &pool)
        .expect("memory for a region");
    fill(&run, 0x5a);
    let region = run.address().addr() & !(BLOCK_PAGES * PAGE_SIZE - 1);
    heap.pages.free_pinned(&heap.machine, run, &pool);
    heap.pages.close_pool(&heap.machine, &pool);
    region
}

fn kind(heap: &Heap, address: usize) -> Kind {
    heap.pages.at(address).map_or(Kind::None, |page| page.kind())
}

fn block_of(run: &PageRun) -> usize {
    run.address().addr() & !(BLOCK_PAGES * PAGE_SIZE - 1)
}

#[test]
fn nobody_gets_the_addresses_while_few_regions_wait() {
    let heap = Heap::new(small(MOST + 8));
    let first = end_one(&heap);
    assert_eq!(kind(&heap, first), Kind::Ended);
    heap.check(0);
    let runs: Vec<PageRun> = (0..BLOCK_PAGES).filter_map(|_| heap.alloc(0)).collect();
    assert!(!runs.iter().any(|run| block_of(run) == first));
    heap.check(runs.len());
    heap.free_all(runs);
    // The others are other ones, and behind the last that may wait the first goes.
    let others: BTreeSet<usize> = (1..MOST).map(|_| end_one(&heap)).collect();
    assert!(others.len() == MOST - 1 && !others.contains(&first));
    assert_eq!(kind(&heap, first), Kind::Ended);
    let last = end_one(&heap);
    assert!(!others.contains(&last) && last != first);
    assert_ne!(kind(&heap, first), Kind::Ended);
    assert!(others.iter().all(|&region| kind(&heap, region) == Kind::Ended));
    heap.check(0);
}

#[test]
fn what_waits_is_not_in_memory_and_serves_who_finds_nothing_else() {
    let heap = Heap::new(small(2));
    let region = end_one(&heap);
    let index = (region - heap.pages.base_address()) / PAGE_SIZE;
    assert_eq!(heap.machine.resident_in(PageRange { first: index, count: BLOCK_PAGES }), 0);
    assert_eq!(heap.check(0).resident_free, 0);
    let runs = heap.exhaust(Gfp::KERNEL | Gfp::MEMALLOC, 0);
    let again: Vec<&PageRun> = runs.iter().filter(|run| block_of(run) == region).collect();
    assert_eq!(again.len(), BLOCK_PAGES);
    assert!(again.iter().all(|run| is_filled(run, 0)));
    heap.free_all(runs);
    heap.check(0);
}

#[test]
fn who_may_not_wait_does_not_get_them() {
    let heap = Heap::new(small(2));
    let region = end_one(&heap);
    let runs = heap.exhaust(Gfp::NOWAIT, 0);
    assert!(!runs.is_empty() && runs.iter().all(|run| block_of(run) != region));
    assert_eq!(kind(&heap, region), Kind::Ended);
    heap.free_all(runs);
    heap.check(0);
}

#[test]
fn memory_where_some_wait_can_be_removed() {
    let heap = Heap::new(small(2));
    let region = end_one(&heap);
    let index = (region - heap.pages.base_address()) / PAGE_SIZE;
    let block = PageRange { first: index, count: BLOCK_PAGES };
    assert_eq!(heap.pages.remove_memory(&heap.machine, block), Ok(()));
    assert!(heap.pages.at(region).is_none());
    heap.check(0);
}

#[test]
fn what_nobody_takes_back_does_not_wait_for_long() {
    let heap = Heap::new(small(8));
    heap.machine.refuse_discards(true);
    let pools: Vec<Pool> = (0..6).map(|_| Pool::new()).collect();
    // All memory, so that a sixteenth of it is less than a region.
    let runs: Vec<PageRun> = pools
        .iter()
        .map(|pool| {
            let run = heap.pages.alloc_pinned(&heap.machine, Gfp::KERNEL, ORDER, PAGES, None, pool);
            run.expect("memory for a region")
        })
        .collect();
    let regions: Vec<usize> = runs.iter().map(block_of).collect();
    for (pool, run) in pools.iter().zip(runs) {
        fill(&run, 0x5a);
        heap.pages.free_pinned(&heap.machine, run, pool);
        heap.pages.close_pool(&heap.machine, pool);
    }
    assert!(!regions.iter().any(|&region| kind(&heap, region) == Kind::Ended));
    heap.check(0);
    // Nor does anybody take what was written to for zero.
    let runs = heap.exhaust(Gfp::KERNEL | Gfp::MEMALLOC, 0);
    assert!(runs.iter().all(|run| !run.is_zeroed() || is_filled(run, 0)));
    heap.free_all(runs);
}
