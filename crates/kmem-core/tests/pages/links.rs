//! Links of free pages that were written over: nobody follows them, it is told once, and nothing is lost.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use kmem_core::gfp::Gfp;
use kmem_core::page::{Page, PageRun, Pool};

use super::{Heap, small};

/// Where a descriptor has its links: `page::desc`.
const NEXT: usize = 8;
const PREV: usize = 12;
/// None, and each link with a value that leads nowhere, out of the heap's memory, to its first page, and to another one.
const DAMAGE: [(usize, u32); 9] = [
    (0, 0),
    (NEXT, 0),
    (NEXT, u32::MAX),
    (NEXT, 1),
    (NEXT, 700),
    (PREV, 0),
    (PREV, u32::MAX),
    (PREV, 1),
    (PREV, 700),
];
const TOLD: &str = "List of pages corrupt";

fn link(page: *const Page, which: usize) -> &'static AtomicU32 {
    // SAFETY: a field of a descriptor, which is an atomic there too; the machine outlives the test's use of it.
    unsafe { AtomicU32::from_ptr(page.cast_mut().cast::<u8>().add(which).cast()) }
}

/// Of these pages one that has others before and behind it on its list.
fn between(pages: &[*const Page]) -> *const Page {
    let inside =
        |page: &&*const Page| [NEXT, PREV].iter().all(|&which| link(**page, which).load(Relaxed) != 0);
    *pages.iter().find(inside).expect("a page between two")
}

/// Blocks of an order, every other of them in use: the free ones, and those in use.
fn every_other(heap: &Heap, order: u32) -> (Vec<*const Page>, Vec<PageRun>) {
    let mut runs: Vec<PageRun> = (0..16).map(|_| heap.alloc(order).expect("memory")).collect();
    runs.sort_by_key(PageRun::address);
    let (mut free, mut used) = (Vec::new(), Vec::new());
    for (at, run) in runs.into_iter().enumerate() {
        if at % 2 == 0 {
            free.push(std::ptr::from_ref(run.head()));
            heap.free(run);
        } else {
            used.push(run);
        }
    }
    (free, used)
}

#[track_caller]
fn told(heap: &Heap, damaged: bool) {
    let said = heap.machine.take_console();
    assert_eq!(said.matches(TOLD).count(), usize::from(damaged), "{said}");
}

#[test]
fn of_the_buddy() {
    for (which, wild) in DAMAGE {
        let heap = Heap::new(small(2));
        let (free, used) = every_other(&heap, 5);
        let held: usize = used.iter().map(PageRun::pages).sum();
        heap.check(held);
        if which != 0 {
            link(between(&free), which).store(wild, Relaxed);
            assert!(heap.pages.validate(&heap.machine).is_err(), "{which} {wild:#x}");
        }
        // Each joins those that are free beside it.
        heap.free_all(used);
        told(&heap, which != 0);
        heap.check(0);
        let all = heap.exhaust(Gfp::KERNEL | Gfp::MEMALLOC, 0);
        told(&heap, false);
        let pages: usize = all.iter().map(PageRun::pages).sum();
        heap.check(pages);
        heap.free_all(all);
        heap.check(0);
    }
}

#[test]
fn of_a_cpu() {
    for (which, wild) in DAMAGE {
        let heap = Heap::new(small(2));
        let (free, used) = every_other(&heap, 0);
        if which != 0 {
            link(between(&free), which).store(wild, Relaxed);
        }
        heap.drain();
        told(&heap, which != 0);
        heap.free_all(used);
        told(&heap, false);
        heap.check(0);
    }
}

#[test]
fn of_regions() {
    for (which, wild) in DAMAGE {
        let heap = Heap::new(small(8));
        let pool = Pool::new();
        let take = || heap.pages.alloc_pinned(&heap.machine, Gfp::KERNEL, 2, 4, None, &pool).expect("memory");
        // Four regions, each with some slots free, listed by their walls: the last slot of each.
        let mut runs: Vec<PageRun> = (0..60).map(|_| take()).collect();
        runs.sort_by_key(PageRun::address);
        let mut walls = Vec::new();
        for region in (0..4).rev() {
            let run = runs.remove(region * 15);
            walls.push(
                heap.pages.at(run.address().addr() + (60 << 12)).map(std::ptr::from_ref).expect("a wall"),
            );
            heap.pages.free_pinned(&heap.machine, run, &pool);
        }
        if which != 0 {
            link(between(&walls), which).store(wild, Relaxed);
        }
        // As many as are free, and all of them back.
        runs.extend((0..4).map(|_| take()));
        told(&heap, which != 0);
        runs.into_iter().for_each(|run| heap.pages.free_pinned(&heap.machine, run, &pool));
        heap.pages.close_pool(&heap.machine, &pool);
        told(&heap, false);
        heap.check(0);
    }
}

#[test]
fn a_heap_that_is_to_stop_stops() {
    let heap = Heap::new(small(2));
    heap.pages.stop_at_damage(true);
    let (free, used) = every_other(&heap, 5);
    link(between(&free), NEXT).store(u32::MAX, Relaxed);
    let said = heap.machine.expect_fatal(|| heap.free_all(used));
    assert!(said.contains(TOLD), "{said}");
}
