//! Zones, nodes, fallback, watermarks.

use kmem_core::gfp::Gfp;
use kmem_core::page::ZoneKind::{self, Dma, Dma32, Normal};
use kmem_core::page::{PageRun, Watermarks};
use kmem_core::platform::BLOCK_PAGES;
use kmem_sim::{Builder, Machine};

use super::{Heap, small};

/// One node with two blocks of each zone.
fn three_zones() -> Builder {
    small(2).zones([2 * BLOCK_PAGES, 2 * BLOCK_PAGES])
}

/// Two nodes with a CPU and four blocks each.
fn two_nodes() -> Builder {
    Machine::builder().cpus(2).nodes(2).memory_per_node(4 * BLOCK_PAGES)
}

fn of_zone(runs: &[PageRun], zone: ZoneKind) -> usize {
    runs.iter().filter(|run| run.zone() == zone).map(PageRun::pages).sum()
}

fn of_node(runs: &[PageRun], node: usize) -> usize {
    runs.iter().filter(|run| run.node() == node).map(PageRun::pages).sum()
}

#[test]
fn a_request_never_gets_a_higher_zone_than_it_named() {
    for (gfp, highest) in
        [(Gfp::DMA, Dma), (Gfp::DMA32, Dma32), (Gfp::empty(), Normal), (Gfp::DMA | Gfp::DMA32, Dma)]
    {
        let heap = Heap::new(three_zones());
        let runs = heap.exhaust(Gfp::KERNEL | Gfp::MEMALLOC | gfp, 0);
        assert!(runs.iter().all(|run| run.zone() <= highest));
        for zone in ZoneKind::ALL {
            let range = heap.machine.zone_range(0, zone);
            let got = of_zone(&runs, zone);
            // The zone that was grown first has the books.
            let wanted = if zone <= highest { range.count } else { 0 };
            let reserved = if zone == highest { heap.check(runs.len()).reserved } else { 0 };
            assert_eq!(got, wanted.saturating_sub(reserved), "{gfp:?} in {zone:?}");
        }
        heap.free_all(runs);
        heap.check(0);
    }
}

#[test]
fn the_highest_zone_is_used_first() {
    let heap = Heap::new(three_zones());
    let runs = heap.exhaust(Gfp::KERNEL, 2);
    let zones: Vec<_> = runs.iter().map(PageRun::zone).collect();
    assert!(of_zone(&runs, Dma) > 0 && of_zone(&runs, Dma32) > 0);
    // The first zone's reserve is touched last, so only the main part is in order.
    let first_low = zones.iter().position(|&zone| zone != Normal).expect("a fallback");
    let first_dma = zones.iter().position(|&zone| zone == Dma).expect("a fallback");
    assert!(first_low < first_dma && first_low > BLOCK_PAGES / 4, "{first_low} {first_dma}");
    heap.free_all(runs);
    heap.check(0);
}

#[test]
fn low_zones_keep_a_part_for_those_who_have_no_choice() {
    let heap = Heap::new(three_zones());
    let runs = heap.exhaust(Gfp::KERNEL, 0);
    let left = heap.free_in(0, Dma);
    let marks = heap.pages.zone_stats(&heap.machine, 0, Dma).expect("memory").watermarks;
    // 1/256 of the four blocks above it, beside its own reserve.
    assert!(left >= 4 * BLOCK_PAGES / 256 - 1, "{left}");
    let dma = heap.exhaust(Gfp::KERNEL | Gfp::DMA, 0);
    assert_eq!(dma.len(), left - marks.min);
    heap.free_all(runs);
    heap.free_all(dma);
    heap.check(0);
}

#[test]
fn local_memory_first_then_the_other_node() {
    let heap = Heap::new(two_nodes());
    for node in 0..2 {
        heap.machine.set_cpu(node);
        let runs = heap.exhaust(Gfp::KERNEL, 4);
        let local = of_node(&runs, node);
        assert!(runs[..local / 16 - 2].iter().all(|run| run.node() == node), "local memory first");
        assert!(local > 3 * BLOCK_PAGES && of_node(&runs, 1 - node) > 3 * BLOCK_PAGES);
        heap.free_all(runs);
        heap.check(0);
    }
}

#[test]
fn this_node_means_this_node() {
    let heap = Heap::new(two_nodes());
    for order in [0, 6] {
        let gfp = Gfp::KERNEL | Gfp::THISNODE;
        let runs: Vec<_> =
            std::iter::from_fn(|| heap.pages.alloc(&heap.machine, gfp, order, Some(1))).collect();
        assert!(runs.iter().all(|run| run.node() == 1));
        assert!(runs.len() > 3 * (BLOCK_PAGES >> order));
        let other =
            heap.pages.alloc(&heap.machine, Gfp::KERNEL, order, Some(1)).expect("the other node has memory");
        assert_eq!(other.node(), 0);
        heap.free(other);
        heap.free_all(runs);
        heap.check(0);
    }
    assert!(heap.pages.alloc(&heap.machine, Gfp::KERNEL, 0, Some(2)).is_none(), "no such node");
    assert!(heap.pages.alloc(&heap.machine, Gfp::KERNEL, 0, Some(usize::MAX)).is_none());
}

#[test]
fn a_cpus_list_does_not_serve_another_node() {
    let heap = Heap::new(two_nodes());
    for _ in 0..20 {
        // Freed on CPU 0, whose list must not keep the page of node 1.
        let run = heap.pages.alloc(&heap.machine, Gfp::KERNEL, 0, Some(1)).expect("memory");
        assert_eq!(run.node(), 1);
        heap.free(run);
        let run = heap.alloc(0).expect("memory");
        assert_eq!(run.node(), 0);
        heap.free(run);
    }
    heap.check(0);
}

#[test]
fn a_cpus_list_does_not_serve_dma() {
    let heap = Heap::new(three_zones());
    let (normal, dma) =
        (heap.alloc(0).expect("memory"), heap.alloc_with(Gfp::KERNEL | Gfp::DMA, 0).expect("memory"));
    assert_eq!((normal.zone(), dma.zone()), (Normal, Dma));
    heap.free(normal);
    heap.free(dma);
    let dma = heap.alloc_with(Gfp::KERNEL | Gfp::DMA, 0).expect("memory");
    assert_eq!(dma.zone(), Dma);
    heap.free(dma);
    heap.check(0);
}

#[test]
fn the_reserve_is_for_urgent_requests() {
    let heap = Heap::new(small(2));
    let first = heap.alloc(0).expect("memory");
    heap.pages.set_reserve(&heap.machine, 0, Normal, 64);
    let marks = heap.pages.zone_stats(&heap.machine, 0, Normal).expect("memory").watermarks;
    assert_eq!(marks, Watermarks { min: 64, low: 80, high: 96 });
    let mut runs = vec![first];
    let mut left_by = |gfp: Gfp| {
        runs.extend(heap.exhaust(gfp, 0));
        heap.drain();
        runs.extend(heap.exhaust(gfp, 0));
        heap.free_in(0, Normal)
    };
    assert_eq!(left_by(Gfp::KERNEL), 64);
    assert_eq!(left_by(Gfp::NOWAIT), 64, "not waiting is not being urgent");
    assert_eq!(left_by(Gfp::KERNEL | Gfp::MEMALLOC | Gfp::NOMEMALLOC), 64);
    assert_eq!(left_by(Gfp::ATOMIC), 32);
    assert_eq!(left_by(Gfp::KERNEL), 32);
    assert_eq!(left_by(Gfp::ATOMIC | Gfp::MEMALLOC), 0);
    heap.check(runs.len());
    heap.free_all(runs);
    heap.check(0);
}

#[test]
fn the_marks_follow_the_size_of_the_zone() {
    let heap = Heap::new(small(64));
    assert!(heap.pages.zone_stats(&heap.machine, 0, Normal).is_none(), "no memory yet");
    let runs: Vec<_> = (0..40).map(|_| heap.alloc(10).expect("memory")).collect();
    let zone = heap.pages.zone_stats(&heap.machine, 0, Normal).expect("memory");
    assert_eq!(zone.watermarks.min, zone.managed / 256);
    assert!(zone.watermarks.min >= 40 * 4 && zone.watermarks.low > zone.watermarks.min);
    heap.free_all(runs);
    heap.check(0);
}

#[test]
fn a_waiting_request_gets_what_other_cpus_keep() {
    let heap = Heap::new(small(2).cpus(4));
    heap.pages.set_trim_floor(usize::MAX);
    let mut runs = heap.exhaust(Gfp::KERNEL | Gfp::MEMALLOC, 0);
    let total = runs.len();
    for cpu in 0..4 {
        let some: Vec<_> = runs.drain(..40).collect();
        heap.machine.on_cpu(cpu, || heap.free_all(some));
    }
    assert_eq!(heap.check(total - 160).free, 160);
    assert!(heap.check(total - 160).on_cpu_lists >= 40);
    heap.pages.set_reserve(&heap.machine, 0, Normal, 0);
    let atomic = heap.machine.on_cpu(3, || heap.exhaust(Gfp::NOWAIT, 0));
    assert!(atomic.len() < 160, "without waiting only the own list and the zone are there");
    let rest = heap.machine.on_cpu(3, || heap.exhaust(Gfp::KERNEL, 0));
    assert_eq!(atomic.len() + rest.len(), 160);
    heap.free_all(runs);
    heap.free_all(atomic);
    heap.free_all(rest);
    heap.check(0);
}

#[test]
fn small_orders_stay_on_the_cpu() {
    let heap = Heap::new(small(4).cpus(2));
    for order in 0..=3 {
        let run = heap.alloc(order).expect("memory");
        let before = heap.pages.zone_stats(&heap.machine, 0, Normal).expect("memory").events;
        let address = run.address();
        heap.free(run);
        let again = heap.alloc(order).expect("memory");
        assert_eq!(again.address(), address, "the block freed last comes first");
        heap.free(again);
        let after = heap.pages.zone_stats(&heap.machine, 0, Normal).expect("memory").events;
        assert_eq!(before, after, "the zone was not asked");
    }
    // A second CPU has its own.
    let stats = heap.check(0);
    assert!(stats.on_cpu_lists > 0 && stats.on_cpu_lists <= 64);
    heap.machine.on_cpu(1, || {
        let run = heap.alloc(0).expect("memory");
        heap.free(run);
    });
    // A flood is handed on in batches: the lists stay small.
    let runs: Vec<_> = (0..500).map(|i| heap.alloc(i % 4).expect("memory")).collect();
    heap.free_all(runs);
    assert!(heap.check(0).on_cpu_lists <= 128);
    heap.drain();
    assert_eq!(heap.check(0).on_cpu_lists, 0);
}

#[test]
fn every_migration_in_the_middle_is_harmless() {
    // A thread may be moved to another CPU between any two questions it asks the machine.
    for n in 1.. {
        let heap = Heap::new(two_nodes());
        let before = heap.machine.points();
        let runs = heap.machine.migrating(n, 1, || {
            let runs: Vec<_> = (0..6).map(|order| heap.alloc(order % 4).expect("memory")).collect();
            let (keep, go): (Vec<_>, Vec<_>) = runs.into_iter().enumerate().partition(|(i, _)| i % 2 == 0);
            go.into_iter().for_each(|(_, run)| heap.free(run));
            keep
        });
        let passed = heap.machine.points() - before;
        heap.check(runs.iter().map(|(_, run)| run.pages()).sum());
        runs.into_iter().for_each(|(_, run)| heap.free(run));
        heap.check(0);
        if n > passed {
            assert!(n > 10, "the schedule had points to move at");
            break;
        }
    }
}
