//! Untouched pages are backed in batches once the heap is large, and none of them escapes the account of what is resident.

use kmem_core::config::Config;
use kmem_core::gfp::Gfp;
use kmem_core::page::PAGEBLOCK_PAGES;
use kmem_core::platform::BLOCK_PAGES;
use kmem_sim::Machine;

use crate::rig::Rig;

crate::for_each_config! {
    a_large_heap_is_backed_in_batches
    a_larger_heap_is_backed_by_pageblocks
}

/// Pages in use from which on the heap has its batches backed.
const LARGE: usize = 4096;

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
