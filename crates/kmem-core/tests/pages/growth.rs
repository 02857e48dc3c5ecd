//! Memory that comes in on demand, or does not.

use kmem_core::gfp::Gfp;
use kmem_core::page::PageRun;
use kmem_core::platform::BLOCK_PAGES;
use kmem_sim::Machine;

use super::{Heap, small};

/// A bit of everything. Returns the runs it got.
fn scenario(heap: &Heap) -> Vec<PageRun> {
    let mut runs = Vec::new();
    for i in 0..24u32 {
        let gfp = match i % 4 {
            0 => Gfp::KERNEL,
            1 => Gfp::KERNEL | Gfp::DMA32,
            2 => Gfp::NOWAIT | Gfp::RECLAIMABLE,
            _ => Gfp::ATOMIC,
        };
        let node = (i % 3 == 0).then_some(i as usize % 2);
        runs.extend(heap.pages.alloc(&heap.machine, gfp, i % 11, node));
        runs.extend(heap.pages.alloc_exact(&heap.machine, gfp, 1 + 37 * i as usize, node));
        if i % 5 == 4 && !runs.is_empty() {
            heap.free(runs.swap_remove(i as usize % runs.len()));
        }
    }
    runs
}

fn machine() -> kmem_sim::Builder {
    Machine::builder().cpus(2).nodes(2).memory_per_node(8 * BLOCK_PAGES).zones([BLOCK_PAGES, 2 * BLOCK_PAGES])
}

#[test]
fn each_refused_growth_costs_nothing_but_the_request() {
    let runs = machine().each_failure(|machine| {
        let heap = Heap::on(machine);
        let runs = scenario(&heap);
        heap.check(runs.iter().map(PageRun::pages).sum());
        heap.free_all(runs);
        heap.check(0);
        // One refusal does not cure or break the heap for good.
        machine.fail_none();
        let run = heap.alloc(10).expect("memory");
        heap.free(run);
        heap.check(0);
    });
    assert!(runs >= 4, "only {runs} requests for memory");
}

#[test]
fn a_world_that_runs_dry_at_any_point_loses_nothing() {
    let runs = machine().each_exhaustion(|machine| {
        let heap = Heap::on(machine);
        let runs = scenario(&heap);
        heap.check(runs.iter().map(PageRun::pages).sum());
        heap.free_all(runs);
        let stats = heap.check(0);
        assert_eq!(stats.free, stats.managed);
        machine.fail_none();
        let run = heap.alloc(10).expect("memory");
        heap.free(run);
    });
    assert!(runs >= 4, "only {runs} requests for memory");
}

#[test]
fn a_world_without_memory_gives_none_until_it_has_some() {
    let heap = Heap::new(small(4));
    heap.machine.fail_after(1);
    for order in 0..=10 {
        assert!(heap.alloc(order).is_none());
    }
    assert!(heap.pages.at(heap.pages.base_address()).is_none());
    assert_eq!(heap.check(0).managed, 0);
    assert_eq!(heap.pages.trim(&heap.machine, 0), 0);
    heap.machine.fail_none();
    let run = heap.alloc(0).expect("memory");
    heap.free(run);
    heap.check(0);
}

#[test]
fn all_memory_but_the_reserve_can_be_had() {
    for order in 0..=10 {
        let heap = Heap::new(small(8));
        let runs = heap.exhaust(Gfp::KERNEL, order);
        let stats = heap.check(runs.len() << order);
        assert_eq!(stats.managed + stats.reserved, 8 * BLOCK_PAGES, "everything was fetched");
        // The books spoil one block of each order; the reserve is 1/256.
        let lost = stats.managed - stats.in_use;
        assert!(lost < (2 << order) + 8 * BLOCK_PAGES / 128, "order {order}: {lost} pages left");
        heap.free_all(runs);
        assert_eq!(heap.check(0).free, stats.managed);
    }
}

#[test]
fn scattered_memory_is_as_good() {
    let heap = Heap::new(small(16).scattered());
    let runs = heap.exhaust(Gfp::KERNEL | Gfp::MEMALLOC, 0);
    assert_eq!(runs.len() + heap.check(runs.len()).reserved, 16 * BLOCK_PAGES);
    heap.free_all(runs);
    heap.check(0);
}

#[test]
fn a_request_asks_for_no_more_than_it_needs() {
    let heap = Heap::new(small(16));
    let run = heap.alloc(0).expect("memory");
    assert_eq!(heap.machine.outstanding().pages, BLOCK_PAGES);
    heap.free(run);
    for _ in 0..100 {
        let runs: Vec<_> = (0..100).map(|_| heap.alloc(0).expect("memory")).collect();
        heap.free_all(runs);
    }
    assert_eq!(heap.machine.outstanding().pages, BLOCK_PAGES);
    heap.check(0);
}
