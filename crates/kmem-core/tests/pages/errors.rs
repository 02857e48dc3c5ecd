//! Wrong frees are named, and change nothing.

use kmem_core::gfp::Gfp;
use kmem_core::page::{Kind, PageError};
use kmem_core::platform::PAGE_SIZE;

use super::{Heap, small};

/// `free_at` with an address that the test owns, or that is wrong on purpose.
fn free_at(heap: &Heap, addr: usize, order: Option<u32>) -> Result<(), PageError> {
    // SAFETY: every caller below owns the run at `addr` by its head, or expects a refusal.
    unsafe { heap.pages.free_at(&heap.machine, addr, order) }
}

#[test]
fn each_wrong_free_is_refused_by_its_name() {
    let heap = Heap::new(small(4));
    let run = heap.alloc(2).expect("memory");
    let addr = run.address().addr();
    let _head = heap.pages.into_head(run);
    let local = 0u8;
    for foreign in [0, 1, usize::MAX, (&raw const local).addr(), heap.pages.base_address() - PAGE_SIZE] {
        assert_eq!(free_at(&heap, foreign, None), Err(PageError::Foreign), "{foreign:#x}");
    }
    assert_eq!(free_at(&heap, addr + 1, None), Err(PageError::Misaligned));
    assert_eq!(free_at(&heap, addr + PAGE_SIZE, None), Err(PageError::Interior { head: addr }));
    for order in [0, 1, 3, 10, 63, 64, u32::MAX] {
        assert_eq!(
            free_at(&heap, addr, Some(order)),
            Err(PageError::WrongOrder { pages: 4 }),
            "order {order}"
        );
    }
    heap.check(4);
    assert_eq!(free_at(&heap, addr, Some(2)), Ok(()));
    heap.check(0);
    // On the CPU's list, and then in the zone; by head and from inside.
    for drained in [false, true] {
        for inside in 0..4 {
            let page = addr + inside * PAGE_SIZE;
            assert_eq!(free_at(&heap, page, None), Err(PageError::DoubleFree), "{drained} {inside}");
        }
        heap.check(0);
        heap.drain();
    }
}

#[test]
fn engines_pages_are_not_freed_by_address() {
    let heap = Heap::new(small(4));
    for kind in [Kind::Slab, Kind::Large] {
        let mut run = heap.alloc(1).expect("memory");
        run.set_kind(kind);
        assert_eq!(free_at(&heap, run.address().addr(), None), Err(PageError::NotPages(kind)));
        heap.check(2);
        run.set_kind(Kind::Allocated);
        let addr = run.address().addr();
        let _head = heap.pages.into_head(run);
        assert_eq!(free_at(&heap, addr, None), Ok(()));
    }
    heap.check(0);
}

#[test]
fn an_exact_run_is_freed_without_an_order() {
    let heap = Heap::new(small(4));
    let run = heap.pages.alloc_exact(&heap.machine, Gfp::KERNEL, 11, None).expect("memory");
    let addr = run.address().addr();
    let _head = heap.pages.into_head(run);
    assert_eq!(free_at(&heap, addr, Some(4)), Err(PageError::WrongOrder { pages: 11 }));
    assert_eq!(free_at(&heap, addr + 10 * PAGE_SIZE, None), Err(PageError::Interior { head: addr }));
    assert_eq!(free_at(&heap, addr + 11 * PAGE_SIZE, None), Err(PageError::DoubleFree), "the tail is free");
    assert_eq!(free_at(&heap, addr, None), Ok(()));
    heap.check(0);
}

#[test]
fn the_books_are_not_memory_of_anyone() {
    let heap = Heap::new(small(4));
    let run = heap.alloc(0).expect("memory");
    let books = heap.pages.base_address();
    let reserved = heap.check(1).reserved;
    assert!(reserved > 0);
    assert_eq!(free_at(&heap, books, Some(10)), Err(PageError::WrongOrder { pages: reserved }));
    heap.free(run);
}

#[test]
fn of_two_frees_at_once_one_wins() {
    let heap = Heap::new(small(4).cpus(2));
    for round in 0..300 {
        let run = heap.alloc(round % 6).expect("memory");
        let addr = run.address().addr();
        let _head = heap.pages.into_head(run);
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2)
                .map(|cpu| {
                    let heap = &heap;
                    scope.spawn(move || heap.machine.on_cpu(cpu, || free_at(heap, addr, None)))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
        assert!(results.contains(&Err(PageError::DoubleFree)), "{results:?}");
    }
    heap.check(0);
}
