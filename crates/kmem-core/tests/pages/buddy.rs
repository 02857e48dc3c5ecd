//! Splitting, joining, alignment, exact runs, runs that grow and shrink in place.

use kmem_core::gfp::Gfp;
use kmem_core::page::{Kind, ZoneKind};
use kmem_core::platform::{BLOCK_PAGES, MAX_ORDER, PAGE_SIZE};

use super::{Heap, fill, is_filled, small};

#[test]
fn every_order_is_aligned_to_its_size() {
    let heap = Heap::new(small(16));
    for order in 0..=MAX_ORDER {
        let runs: Vec<_> = (0..3).map(|_| heap.alloc(order).expect("memory")).collect();
        for run in &runs {
            assert_eq!(
                run.address().addr() % (PAGE_SIZE << order),
                0,
                "order {order} at {:p}",
                run.address()
            );
            assert_eq!((run.pages(), run.order()), (1 << order, order));
            assert_eq!(run.head().kind(), Kind::Allocated);
        }
        heap.check(3 << order);
        heap.free_all(runs);
        heap.check(0);
    }
    assert!(heap.alloc(MAX_ORDER + 1).is_none());
    assert!(heap.alloc(u32::MAX).is_none());
}

#[test]
fn freed_pages_join_to_one_block_again() {
    let heap = Heap::new(small(4));
    // The books live in the first block, so a second one is needed to see a whole block.
    let first = heap.alloc(MAX_ORDER).expect("memory");
    let block = first.address().addr();
    heap.free(first);
    let mut runs = heap.exhaust(Gfp::MEMALLOC, 0);
    assert!(runs.len() > 3 * BLOCK_PAGES);
    // Worst order for joining: all even pages, then all odd ones.
    runs.sort_by_key(|run| (run.address().addr() / PAGE_SIZE % 2, run.address()));
    heap.free_all(runs);
    heap.drain();
    heap.check(0);
    let again = heap.exhaust(Gfp::MEMALLOC, MAX_ORDER);
    assert_eq!(again.len(), 3, "all but the block with the books");
    assert!(again.iter().any(|run| run.address().addr() == block));
    heap.free_all(again);
    heap.check(0);
}

#[test]
fn a_split_block_leaves_one_half_of_each_order() {
    let heap = Heap::new(small(4));
    let books = |heap: &Heap, held| BLOCK_PAGES - heap.check(held).reserved;
    // What lies beside the books is one block of some orders. The first runs use the small ones up.
    let first = heap.alloc(0).expect("memory");
    heap.drain();
    let remains = books(&heap, 1) - 1;
    let mut expected: Vec<usize> = (0..=MAX_ORDER as usize).map(|order| remains >> order & 1).collect();
    assert_eq!(table(&heap), expected);
    let mut runs = vec![first];
    for _ in 0..6 {
        runs.push(heap.alloc(4).expect("memory"));
        // The smallest block that fits goes, and leaves one half of each order below it.
        let from = (4..).find(|&order| expected[order] > 0).expect("a block");
        expected[from] -= 1;
        expected[4..from].iter_mut().for_each(|count| *count += 1);
        assert_eq!(table(&heap), expected);
    }
    heap.free_all(runs);
    heap.check(0);
}

fn table(heap: &Heap) -> Vec<usize> {
    let mut text = String::new();
    heap.pages.buddyinfo(&heap.machine, &mut text).expect("writing to a string");
    let mut counts = vec![0; MAX_ORDER as usize + 1];
    for line in text.lines() {
        for (count, word) in counts.iter_mut().zip(line.split_whitespace().skip(4)) {
            *count += word.parse::<usize>().expect("a number");
        }
    }
    counts
}

#[test]
fn runs_do_not_overlap() {
    let heap = Heap::new(small(4));
    let mut runs = Vec::new();
    for i in 0..200u8 {
        let run = heap.alloc(u32::from(i) % 5).expect("memory");
        fill(&run, i);
        runs.push(run);
    }
    for (i, run) in runs.iter().enumerate() {
        assert!(is_filled(run, i as u8), "run {i} was overwritten");
    }
    heap.free_all(runs);
    heap.check(0);
}

#[test]
fn an_exact_run_gives_its_tail_back() {
    let heap = Heap::new(small(4));
    for pages in [1, 2, 3, 5, 7, 9, 100, 255, 257, 513, 1000, 1023, 1024] {
        let run = heap.pages.alloc_exact(&heap.machine, Gfp::KERNEL, pages, None).expect("memory");
        assert_eq!(run.pages(), pages);
        assert_eq!(run.address().addr() % (pages.next_power_of_two() * PAGE_SIZE), 0);
        fill(&run, 0xaa);
        // Each page of it leads to its head, none after it does.
        let head = heap.pages.index(run.head());
        for i in 0..pages {
            let page = heap.pages.page(head + i).expect("managed");
            assert_eq!(heap.pages.index(heap.pages.head(page)), head, "page {i} of {pages}");
        }
        let after = heap.pages.page(head + pages);
        assert!(after.is_none_or(|page| heap.pages.index(heap.pages.head(page)) != head));
        heap.check(pages);
        heap.free(run);
        heap.check(0);
    }
    for pages in [0, BLOCK_PAGES + 1, usize::MAX] {
        assert!(heap.pages.alloc_exact(&heap.machine, Gfp::KERNEL, pages, None).is_none());
    }
}

#[test]
fn a_run_grows_in_place_into_free_pages_only() {
    let heap = Heap::new(small(4));
    let (m, pages) = (&heap.machine, &heap.pages);
    let mut run = pages.alloc_exact(m, Gfp::KERNEL, 5, None).expect("memory");
    fill(&run, 1);
    let head = pages.index(run.head());
    assert!(pages.try_extend(m, &mut run, 5), "its own length");
    assert!(!pages.try_extend(m, &mut run, 4), "shorter is not longer");
    // Beyond the natural block of 8, and beyond what its alignment explains.
    for more in [6, 8, 13, 40, 41, 300] {
        assert!(pages.try_extend(m, &mut run, more), "to {more}");
        assert_eq!(run.pages(), more);
        for i in 0..more {
            let page = pages.page(head + i).expect("managed");
            assert_eq!(pages.index(pages.head(page)), head, "page {i} of {more}");
        }
        heap.check(more);
    }
    assert!(!pages.try_extend(m, &mut run, BLOCK_PAGES + 1), "beyond the 4 MiB block");
    assert!(!pages.try_extend(m, &mut run, usize::MAX));
    // SAFETY: the first five pages are still the run's.
    let kept = unsafe { std::slice::from_raw_parts(run.address(), 5 * PAGE_SIZE) };
    assert!(kept.iter().all(|&byte| byte == 1));
    pages.truncate(m, &mut run, 6);
    heap.check(6);
    // A page right after it is taken: no way.
    let blocker = heap.alloc(0).expect("memory");
    let mut blockers = vec![blocker];
    while blockers.last().is_some_and(|run| pages.index(run.head()) != head + 6) {
        blockers.push(heap.alloc(0).expect("memory"));
    }
    assert!(!pages.try_extend(m, &mut run, 7));
    assert_eq!(run.pages(), 6);
    heap.check(6 + blockers.len());
    heap.free_all(blockers);
    heap.free(run);
    heap.check(0);
}

#[test]
fn extending_leaves_the_reserve_alone() {
    let heap = Heap::new(small(2));
    let mut run = heap.alloc(0).expect("memory");
    let free = heap.free_in(0, ZoneKind::Normal);
    heap.pages.set_reserve(&heap.machine, 0, ZoneKind::Normal, free);
    heap.drain();
    assert!(!heap.pages.try_extend(&heap.machine, &mut run, 200));
    heap.pages.set_reserve(&heap.machine, 0, ZoneKind::Normal, 0);
    assert!(heap.pages.try_extend(&heap.machine, &mut run, 200));
    heap.free(run);
    heap.check(0);
}

#[test]
fn a_shortened_slab_forgets_its_tails() {
    let heap = Heap::new(small(4));
    let mut run = heap.alloc(3).expect("memory");
    run.set_kind(Kind::Slab);
    heap.pages.set_tag(&run, 7);
    let head = heap.pages.index(run.head());
    assert_eq!(heap.pages.page(head + 7).expect("managed").kind(), Kind::Tail);
    heap.pages.truncate(&heap.machine, &mut run, 3);
    heap.check(3);
    for (i, tag) in [(0, 7), (2, 7), (3, 0), (7, 0)] {
        assert_eq!(tag_of(&heap, head + i), tag, "tag of page {i}");
    }
    heap.free(run);
    assert_eq!(tag_of(&heap, head), 0);
    heap.check(0);
}

fn tag_of(heap: &Heap, index: usize) -> u16 {
    let window = kmem_core::platform::Platform::window(&heap.machine);
    // SAFETY: the page is managed, so it has a tag.
    unsafe { (*window.tags.add(index)).load(std::sync::atomic::Ordering::Relaxed) }
}

#[test]
fn a_slab_leads_from_any_page_to_its_head_in_one_step() {
    let heap = Heap::new(small(4));
    let mut run = heap.alloc(3).expect("memory");
    run.set_kind(Kind::Slab);
    let address = run.address().addr();
    let head = heap.pages.into_head(run);
    for offset in (0..8 * PAGE_SIZE).step_by(100) {
        let page = heap.pages.at(address + offset).expect("managed");
        assert!(matches!(page.kind(), Kind::Slab | Kind::Tail));
        assert!(std::ptr::eq(heap.pages.head(page), head));
    }
    heap.check(8);
    // SAFETY: the test owns the run, by its head.
    heap.free(unsafe { heap.pages.adopt(head) });
    assert!(heap.pages.at(address + PAGE_SIZE).is_some_and(|page| page.kind() == Kind::None));
    heap.check(0);
}

#[test]
#[should_panic(expected = "not the head of a run")]
fn adopting_a_free_page_panics() {
    let heap = Heap::new(small(4));
    let run = heap.alloc(5).expect("memory");
    let address = run.address().addr();
    heap.free(run);
    let page = heap.pages.at(address).expect("managed");
    // SAFETY: not kept, on purpose: the kind is checked first.
    heap.free(unsafe { heap.pages.adopt(page) });
}

#[test]
fn a_dropped_run_is_noticed() {
    let heap = Heap::new(small(4));
    let run = heap.alloc(2).expect("memory");
    let index = heap.pages.index(run.head());
    drop(run);
    let fault = heap.pages.validate(&heap.machine).expect_err("a leak");
    assert_eq!((fault.rule, fault.page, fault.found), ("a run was dropped", index, 4));
}
