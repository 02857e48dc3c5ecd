//! Walls of regions, as a handler of faults finds them.

use kmem_core::gfp::Gfp;
use kmem_core::page::{Kind, Pool, Wall};
use kmem_core::platform::PAGE_SIZE;

use super::{Heap, small};

const ORDER: u32 = 2;
const SLOT: usize = PAGE_SIZE << ORDER;
/// Slots of a region that somebody gets: all of 64 pages but one.
const SLOTS: usize = 15;
const TAG: u16 = 7;

#[test]
fn a_wall_is_the_last_slot_of_its_region_and_nothing_else() {
    let heap = Heap::new(small(4));
    let pool = Pool::new();
    let take = || {
        heap.pages.alloc_pinned(&heap.machine, Gfp::KERNEL, ORDER, 1 << ORDER, None, &pool).expect("memory")
    };
    let runs: Vec<_> = (0..SLOTS).map(|_| take()).collect();
    let low = runs.iter().map(|run| run.address().addr()).min().expect("a run");
    let wall = low + SLOTS * SLOT;
    assert!(runs.iter().all(|run| run.address().addr() < wall), "one region");
    let seen = |address| heap.pages.wall_at(address);
    // Nobody has tags yet.
    assert_eq!(seen(wall), Some(Wall::Behind { tag: 0 }));
    let last = runs.iter().max_by_key(|run| run.address()).expect("a run");
    heap.pages.set_tag(last, TAG);
    for page in (wall..wall + SLOT).step_by(PAGE_SIZE) {
        assert_eq!(
            [seen(page), seen(page + PAGE_SIZE - 1)],
            [Some(Wall::Behind { tag: TAG }); 2],
            "{page:#x}"
        );
    }
    let outside = (low..wall).step_by(PAGE_SIZE).chain([wall - 1, wall + SLOT, 0, 1, usize::MAX]);
    for address in outside {
        assert_eq!(seen(address), None, "{address:#x}");
    }
    // Free slots are no walls, and with the tags of those in use the name is gone.
    runs.into_iter().for_each(|run| heap.pages.free_pinned(&heap.machine, run, &pool));
    assert_eq!([seen(low), seen(wall - 1), seen(wall)], [None, None, Some(Wall::Behind { tag: 0 })]);
    assert_eq!(heap.pages.at(low).expect("memory").kind(), Kind::Pinned);
    heap.pages.close_pool(&heap.machine, &pool);
    // Nobody uses the region, and nobody else has it yet.
    assert!((low..wall + SLOT).step_by(PAGE_SIZE).all(|page| seen(page) == Some(Wall::Ended)));
    assert_eq!([seen(low - 1), seen(wall + SLOT)], [None; 2]);
    heap.check(0);
}
