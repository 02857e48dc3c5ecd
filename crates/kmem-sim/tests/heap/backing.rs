//! Untouched pages are backed in batches once the heap is large, and none of them escapes the account of what is resident.

use kmem_core::config::Config;
use kmem_core::gfp::Gfp;
use kmem_core::page::{PAGEBLOCK_PAGES, PageRun};
use kmem_core::platform::BLOCK_PAGES;
use kmem_sim::Machine;

use crate::rig::Rig;

crate::for_each_config! {
    a_large_heap_is_backed_in_batches
    a_larger_heap_is_backed_by_pageblocks
    so_is_one_that_grows_fast
    idle_memory_goes_by_its_age
    missed_memory_stays_next_time
}

/// Pages in use from which on the heap has its batches backed.
const LARGE: usize = 4096;

/// What a request of a heap that grows slowly takes: two thousand to a pageblock, so longer than the break that ends fast growth.
const SLOW: u64 = 100_000;

fn a_large_heap_is_backed_in_batches<C: Config>() {
    let machine = Machine::builder().memory_per_node(10 * BLOCK_PAGES).build();
    let rig = Rig::<C>::new(&machine);
    let cache = rig.cache("growing", 1000);
    let mut objects = Vec::new();
    let mut grow_to = |pages: usize| {
        while rig.heap.pages().stats(&machine).in_use < pages {
            let object = rig.alloc(cache, Gfp::KERNEL);
            assert!(!object.is_null(), "no memory at {pages} pages");
            objects.push(object);
            machine.advance(SLOW);
        }
    };
    grow_to(LARGE - 64);
    assert_eq!(machine.counters().backed_pages, 0, "a small heap touches its pages one by one");
    grow_to(2 * LARGE);
    let backed = machine.counters().backed_pages as usize;
    assert!((LARGE / 2..=LARGE + 64).contains(&backed), "{backed} pages of {LARGE}");

    // One batch more. What of it waits on the CPU's list then goes back to the zone, which knows that it is resident.
    while machine.counters().backed_pages as usize == backed {
        objects.push(rig.alloc(cache, Gfp::KERNEL));
    }
    let resident_free = || {
        let stats = rig.heap.pages().stats(&machine);
        stats.resident_free - stats.on_cpu_lists
    };
    let before = resident_free();
    rig.heap.pages().trim(&machine, usize::MAX);
    assert!(resident_free() > before, "backed pages count as untouched ones: {before}");

    objects.into_iter().for_each(|object| rig.free(cache, object));
    rig.check();
}

/// Pages in use from which on whole pageblocks are backed.
const WHOLE: usize = 16384;

/// In a heap that grows beyond that, what becomes resident before it is needed is a pageblock at most, the zone knows of it, and a trim takes
/// it back.
fn a_larger_heap_is_backed_by_pageblocks<C: Config>() {
    let machine = Machine::builder().memory_per_node(20 * BLOCK_PAGES).build();
    let rig = Rig::<C>::new(&machine);
    let cache = rig.cache("growing", 4000);
    let mut objects = Vec::new();
    let stats = || rig.heap.pages().stats(&machine);
    let mut grow_to = |pages: usize| {
        while stats().in_use < pages {
            let object = rig.alloc(cache, Gfp::KERNEL);
            assert!(!object.is_null(), "no memory at {pages} pages");
            objects.push(object);
            machine.advance(SLOW);
        }
    };
    grow_to(WHOLE - PAGEBLOCK_PAGES);
    assert_eq!(machine.counters().backed_whole, 0, "two MiB are much beside what is in use");
    grow_to(WHOLE + 2 * PAGEBLOCK_PAGES);
    let whole = machine.counters().backed_whole;
    assert!((1..=3).contains(&whole), "{whole} pageblocks for two");
    let resident = machine.resident_pages();
    let now = stats();
    assert!(
        resident <= now.in_use + now.resident_free && now.resident_free <= PAGEBLOCK_PAGES + 64,
        "{resident} resident, {} in use, {} free and resident",
        now.in_use,
        now.resident_free
    );
    rig.heap.pages().trim(&machine, 0);
    assert!(stats().resident_free == 0 && machine.resident_pages() <= now.in_use);

    objects.into_iter().for_each(|object| rig.free(cache, object));
    rig.check();
}

/// Four pageblocks without a break, and the next is backed as a whole where a slow heap's would not be; after a break it takes four more.
fn so_is_one_that_grows_fast<C: Config>() {
    let machine = Machine::builder().memory_per_node(20 * BLOCK_PAGES).build();
    let rig = Rig::<C>::new(&machine);
    let cache = rig.cache("growing", 4000);
    let mut objects = Vec::new();
    let mut grow_by = |pageblocks: usize| {
        let pages = rig.heap.pages().stats(&machine).in_use + pageblocks * PAGEBLOCK_PAGES;
        while rig.heap.pages().stats(&machine).in_use < pages {
            objects.push(rig.alloc(cache, Gfp::KERNEL));
        }
        machine.counters().backed_whole
    };
    assert_eq!(grow_by(7), 0, "one pageblock is much beside so few");
    let fast = grow_by(5);
    assert!((3..=5).contains(&fast), "{fast} pageblocks");
    machine.advance(20_000_000);
    let slow = grow_by(3);
    assert!(slow <= fast + 1, "{} pageblocks right after a break", slow - fast);
    assert!(grow_by(4) > slow + 1);
    objects.into_iter().for_each(|object| rig.free(cache, object));
    rig.check();
}

/// Free memory stays resident as long as it is needed from one look to the next; then it goes, and at once when nothing happened.
fn idle_memory_goes_by_its_age<C: Config>() {
    let machine = Machine::builder().memory_per_node(10 * BLOCK_PAGES).build();
    let rig = Rig::<C>::new(&machine);
    let pages = rig.heap.pages();
    // 384 pages: fewer than a free leaves resident whatever is in use.
    let breathe = || {
        let take = |_| pages.alloc(&machine, Gfp::KERNEL, 4, None).expect("memory");
        let runs: Vec<_> = (0..24).map(take).collect();
        runs.into_iter().for_each(|run| pages.free(&machine, run));
    };
    let resident = || pages.stats(&machine).resident_free;
    breathe();
    let all = resident();
    assert!(all >= 384 && pages.ages(), "{all} pages");
    pages.age(&machine, false);
    assert_eq!(resident(), all, "all of it was in use since the heap began");
    for _ in 0..3 {
        breathe();
        pages.age(&machine, false);
        assert_eq!(resident(), all, "all of it is in use from time to time");
    }
    pages.age(&machine, false);
    let left = resident();
    assert!(left + 300 < all, "{left} of {all} pages left");
    pages.age(&machine, false);
    assert!(!pages.ages(), "nothing is left that would be worth a look");

    breathe();
    assert!(resident() >= 384 && pages.ages());
    pages.age(&machine, true);
    assert!(resident() <= left, "what nobody asked for goes at the first look");
    rig.check();
}

/// What is asked for again soon after it was given back stays the next time; until nobody needs it any more.
fn missed_memory_stays_next_time<C: Config>() {
    let machine = Machine::builder().memory_per_node(10 * BLOCK_PAGES).build();
    let rig = Rig::<C>::new(&machine);
    let pages = rig.heap.pages();
    let take = |runs: usize| {
        let take = |_| pages.alloc(&machine, Gfp::KERNEL, 4, None).expect("memory");
        (0..runs).map(take).collect::<Vec<_>>()
    };
    let give = |runs: Vec<PageRun>| runs.into_iter().for_each(|run| pages.free(&machine, run));
    let live = take(256);
    // 1600 pages come and go; that many were discarded at that.
    let breathe = || {
        let before = machine.counters().discarded_pages;
        give(take(100));
        machine.counters().discarded_pages - before
    };
    let first = breathe();
    assert!(first > 800, "{first} pages of 1600");
    let second = breathe();
    assert!(second < first / 4, "{second} pages, although {first} were missed");
    assert_eq!(breathe(), 0);
    // Idle from one look to the next.
    pages.age(&machine, false);
    pages.age(&machine, false);
    assert!(pages.stats(&machine).resident_free < 200, "idle memory stays");
    let again = breathe();
    assert!(again > first / 2, "{again} pages, although nobody missed any");
    give(live);
    rig.check();
}
