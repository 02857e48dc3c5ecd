//! Grouping by mobility.

use kmem_core::gfp::Gfp;
use kmem_core::page::ZoneKind::Normal;
use kmem_core::page::{Mobility, PAGEBLOCK_PAGES, PageRun};
use kmem_core::platform::BLOCK_PAGES;

use super::{Heap, small};

const KINDS: [(Gfp, Mobility); 3] = [
    (Gfp::KERNEL, Mobility::Unmovable),
    (Gfp::KERNEL.union(Gfp::MOVABLE), Mobility::Movable),
    (Gfp::KERNEL.union(Gfp::RECLAIMABLE), Mobility::Reclaimable),
];

fn pageblock(heap: &Heap, run: &PageRun) -> usize {
    heap.pages.index(run.head()) / PAGEBLOCK_PAGES
}

#[test]
fn kinds_do_not_share_pageblocks_while_there_is_room() {
    let heap = Heap::new(small(8));
    let mut runs: Vec<Vec<PageRun>> = vec![Vec::new(), Vec::new(), Vec::new()];
    for i in 0..900 {
        let (gfp, mobility) = KINDS[i % 3];
        let run = heap.alloc_with(gfp, (i / 3 % 4) as u32).expect("memory");
        assert_eq!(run.head().mobility(), mobility);
        runs[i % 3].push(run);
    }
    let blocks: Vec<std::collections::BTreeSet<_>> =
        runs.iter().map(|runs| runs.iter().map(|run| pageblock(&heap, run)).collect()).collect();
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        assert!(blocks[a].is_disjoint(&blocks[b]), "kinds {a} and {b} share a pageblock");
    }
    let zone = heap.pages.zone_stats(&heap.machine, 0, Normal).expect("memory");
    assert!(zone.pageblocks.iter().all(|&count| count > 0), "{:?}", zone.pageblocks);
    assert_eq!(zone.events.borrows, 0);
    runs.into_iter().for_each(|runs| heap.free_all(runs));
    heap.check(0);
}

#[test]
fn freeing_one_kind_leaves_whole_blocks() {
    let heap = Heap::new(small(4));
    let (mut stay, mut go) = (Vec::new(), Vec::new());
    for i in 0..2400 {
        if i % 12 == 0 { stay.push(heap.alloc(0)) } else { go.push(heap.alloc_with(KINDS[2].0, 0)) }
    }
    let stay: Vec<_> = stay.into_iter().map(|run| run.expect("memory")).collect();
    heap.free_all(go.into_iter().map(|run| run.expect("memory")).collect());
    heap.drain();
    heap.check(stay.len());
    // 200 pages that stay, one for every eleven that went: without grouping no block of 2 MiB would be left whole.
    let large = heap.exhaust(Gfp::KERNEL, 9);
    assert!(large.len() >= 6, "{} blocks", large.len());
    heap.free_all(large);
    heap.free_all(stay);
    heap.check(0);
}

#[test]
fn a_kind_takes_over_whole_pageblocks_and_borrows_the_last() {
    let heap = Heap::new(small(2));
    let gfp = Gfp::KERNEL | Gfp::MEMALLOC;
    let runs = heap.exhaust(gfp, 0);
    let zone = heap.pages.zone_stats(&heap.machine, 0, Normal).expect("memory");
    assert_eq!(zone.pageblocks[Mobility::Unmovable as usize], 4, "all four pageblocks became unmovable");
    assert_eq!(runs.len(), zone.managed);
    heap.check(runs.len());
    heap.free_all(runs);
    heap.check(0);
    // Movable requests are content to borrow: small ones convert nothing when only small blocks are left.
    let mut runs = heap.exhaust(gfp, 4);
    runs.extend(heap.exhaust(gfp, 0));
    runs.sort_by_key(PageRun::address);
    let before = heap.pages.zone_stats(&heap.machine, 0, Normal).expect("memory");
    let every_other: Vec<_> = (0..8).map(|i| runs.remove(i * 8)).collect();
    heap.free_all(every_other);
    heap.drain();
    let movable: Vec<_> =
        (0..4).map(|_| heap.alloc_with(KINDS[1].0 | Gfp::MEMALLOC, 0).expect("memory")).collect();
    let after = heap.pages.zone_stats(&heap.machine, 0, Normal).expect("memory");
    assert_eq!(before.pageblocks, after.pageblocks, "movable pages convert nothing");
    assert!(after.events.borrows > before.events.borrows);
    heap.free_all(movable);
    heap.free_all(runs);
    heap.check(0);
    assert!(heap.check(0).managed < 2 * BLOCK_PAGES);
}

#[test]
fn a_pageblock_is_taken_over_when_most_of_it_is_free() {
    let heap = Heap::new(small(2));
    let gfp = Gfp::KERNEL | Gfp::MEMALLOC;
    let mut runs = heap.exhaust(gfp, 0);
    runs.sort_by_key(PageRun::address);
    // Three quarters of one pageblock, with a page in use every fourth: no block above order 1.
    let start = runs
        .iter()
        .position(|run| heap.pages.index(run.head()).is_multiple_of(PAGEBLOCK_PAGES))
        .expect("a pageblock");
    let mut kept = Vec::new();
    for (i, run) in runs.into_iter().enumerate() {
        let inside = (start..start + PAGEBLOCK_PAGES).contains(&i);
        if inside && (i - start) % 4 != 3 { heap.free(run) } else { kept.push(run) }
    }
    heap.drain();
    let before = heap.pages.zone_stats(&heap.machine, 0, Normal).expect("memory");
    let run = heap.alloc_with(KINDS[2].0 | Gfp::MEMALLOC, 0).expect("memory");
    let after = heap.pages.zone_stats(&heap.machine, 0, Normal).expect("memory");
    assert_eq!(after.events.claims, before.events.claims + 1);
    assert_eq!(after.pageblocks[Mobility::Reclaimable as usize], 1);
    heap.check(kept.len() + 1);
    heap.free(run);
    heap.free_all(kept);
    heap.check(0);
}
