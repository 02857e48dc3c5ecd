//! Untouched pages are backed in batches once the heap is large, and none of them escapes the account of what is resident.

use kmem_core::config::Config;
use kmem_core::gfp::Gfp;
use kmem_core::platform::BLOCK_PAGES;
use kmem_sim::Machine;

use crate::rig::Rig;

crate::for_each_config! {
    a_large_heap_is_backed_in_batches
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
