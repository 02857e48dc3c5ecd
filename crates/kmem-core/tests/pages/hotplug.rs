//! Memory added and removed while the heap runs.

use kmem_core::gfp::Gfp;
use kmem_core::page::PageError;
use kmem_core::page::ZoneKind::{Dma32, Normal};
use kmem_core::platform::{BLOCK_PAGES, PageRange, Platform};

use super::{Heap, fill, small};

#[test]
fn memory_comes_and_goes() {
    let heap = Heap::new(small(8));
    let (m, pages) = (&heap.machine, &heap.pages);
    let first = heap.alloc(0).expect("memory");
    let range = m.grow(0, Normal, 2 * BLOCK_PAGES).expect("memory");
    assert!(pages.page(range.first).is_none());
    // SAFETY: the machine just gave the range, to this test alone.
    unsafe { pages.add_memory(m, range, 0, Normal) }.expect("fresh");
    assert!(pages.page(range.first).is_some());
    let stats = heap.check(1);
    assert_eq!(stats.managed + stats.reserved, 3 * BLOCK_PAGES);
    // SAFETY: refused: the range is the heap's already.
    assert_eq!(unsafe { pages.add_memory(m, range, 0, Normal) }, Err(PageError::Present));

    // In use: all of it stays.
    let mut held = heap.exhaust_in(range);
    assert_eq!(pages.remove_memory(m, range), Err(PageError::Busy));
    let one = held.pop().expect("a run");
    let busy = held.len();
    heap.free_all(held);
    fill(&one, 3);
    assert_eq!(pages.remove_memory(m, range), Err(PageError::Busy));
    heap.check(1 + 64);
    assert!(busy > 0);
    heap.free(one);
    pages.remove_memory(m, range).expect("free");
    assert_eq!(m.outstanding().pages, BLOCK_PAGES);
    assert!(pages.page(range.first).is_none() && pages.page(range.first + 2 * BLOCK_PAGES - 1).is_none());
    assert_eq!(pages.remove_memory(m, range), Err(PageError::Absent));
    let stats = heap.check(1);
    assert_eq!(stats.managed + stats.reserved, BLOCK_PAGES);

    // It can come again, zero.
    let runs = heap.exhaust(Gfp::KERNEL | Gfp::MEMALLOC, 9);
    assert!(runs.len() >= 14);
    assert!(runs.iter().all(|run| super::is_filled(run, 0)));
    heap.free_all(runs);
    heap.free(first);
    heap.check(0);
}

impl Heap {
    /// Runs of order 6 until at least one lies in the range; frees the others.
    fn exhaust_in(&self, range: PageRange) -> Vec<kmem_core::page::PageRun> {
        let mut inside = Vec::new();
        let mut outside = Vec::new();
        while inside.len() < 20 {
            let run = self.alloc(6).expect("memory");
            let index = self.pages.index(run.head());
            let list = if (range.first..range.first + range.count).contains(&index) {
                &mut inside
            } else {
                &mut outside
            };
            list.push(run);
        }
        self.free_all(outside);
        inside
    }
}

#[test]
fn a_range_is_removed_as_a_whole_or_not_at_all() {
    let heap = Heap::new(small(8));
    let mut runs = heap.exhaust(Gfp::KERNEL | Gfp::MEMALLOC, 10);
    runs.sort_by_key(|run| run.address());
    let last = runs.pop().expect("a run");
    let index = heap.pages.index(last.head());
    heap.free_all(runs);
    let managed = heap.check(BLOCK_PAGES).managed;
    // The last of the range's blocks is in use: those before it come back.
    let range = PageRange { first: index - 3 * BLOCK_PAGES, count: 4 * BLOCK_PAGES };
    assert_eq!(heap.pages.remove_memory(&heap.machine, range), Err(PageError::Busy));
    assert_eq!(heap.check(BLOCK_PAGES).managed, managed);
    heap.free(last);
    heap.pages.remove_memory(&heap.machine, range).expect("free");
    assert_eq!(heap.check(0).managed, managed - 4 * BLOCK_PAGES);
}

#[test]
fn bad_ranges_are_refused() {
    let heap = Heap::new(small(4).zones([0, BLOCK_PAGES]));
    let (m, pages) = (&heap.machine, &heap.pages);
    let run = heap.alloc(0).expect("memory");
    let window = m.window().pages;
    let whole = m.zone_range(0, Normal).first + BLOCK_PAGES;
    for (first, count) in [
        (whole, 0),
        (whole + 1, BLOCK_PAGES),
        (whole, BLOCK_PAGES - 1),
        (window, BLOCK_PAGES),
        (0, window + BLOCK_PAGES),
        (usize::MAX - BLOCK_PAGES + 1, BLOCK_PAGES),
    ] {
        let range = PageRange { first, count };
        // SAFETY: refused before anything is touched.
        assert_eq!(unsafe { pages.add_memory(m, range, 0, Normal) }, Err(PageError::BadRange), "{range:?}");
        assert_eq!(pages.remove_memory(m, range), Err(PageError::BadRange), "{range:?}");
    }
    let range = PageRange { first: whole, count: BLOCK_PAGES };
    // SAFETY: as above.
    assert_eq!(unsafe { pages.add_memory(m, range, 1, Normal) }, Err(PageError::BadNode));
    // SAFETY: as above.
    assert_eq!(unsafe { pages.add_memory(m, range, 0, Dma32) }, Err(PageError::BadZone));
    assert_eq!(pages.remove_memory(m, range), Err(PageError::Absent));
    let books = PageRange { first: whole - BLOCK_PAGES, count: BLOCK_PAGES };
    heap.free(run);
    assert_eq!(pages.remove_memory(m, books), Err(PageError::Busy), "the books stay");
    heap.check(0);
}
