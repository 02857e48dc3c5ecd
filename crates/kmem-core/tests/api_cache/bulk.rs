//! Many objects at once: all or nothing.

use std::collections::BTreeSet;
use std::ptr::null_mut;

use kmem_core::config::Config;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::FreeError;

use crate::support::{Cache, QUIET, Rig, fill, for_each_config, is_zero, small_machine};

for_each_config! {
    kmem_cache_alloc_bulk
    kmem_cache_alloc_bulk_without_memory
    kmem_cache_alloc_bulk_on_two_nodes
    kmem_cache_free_bulk
    kmem_cache_free_bulk_with_bad_objects
    kmem_cache_free_bulk_of_any_cache
}

crate::support::for_slob! {
    kmem_cache_alloc_bulk
    kmem_cache_alloc_bulk_without_memory
    kmem_cache_free_bulk
}

fn bulk<C: Config>(rig: &Rig<C>, cache: Cache<C>, gfp: Gfp, out: &mut [*mut u8]) -> bool {
    // SAFETY: the cache is alive.
    unsafe { rig.heap.alloc_bulk(cache, gfp, out) }
}

fn free<C: Config>(rig: &Rig<C>, cache: Option<Cache<C>>, objects: &mut [*mut u8]) -> Result<(), FreeError> {
    // SAFETY: the cache is alive and the test holds the objects, or asks for the error.
    unsafe { rig.heap.free_bulk(cache, objects) }
}

fn kmem_cache_alloc_bulk<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("c", 40);
    assert!(bulk(&rig, cache, Gfp::KERNEL, &mut []), "no objects can always be had");
    assert_eq!(rig.counts(cache).slabs, 0);
    for n in [1, 2, 63, 64, 65, 1000] {
        let mut objects = vec![null_mut(); n];
        assert!(bulk(&rig, cache, Gfp::KERNEL, &mut objects));
        assert_eq!(objects.iter().collect::<BTreeSet<_>>().len(), n, "each once");
        objects.iter().for_each(|&object| fill(object, 40, 1));
        assert_eq!(rig.in_use(cache), n as u64);
        assert_eq!(free(&rig, Some(cache), &mut objects), Ok(()));
        assert!(bulk(&rig, cache, Gfp::KERNEL | Gfp::ZERO, &mut objects));
        assert!(objects.iter().all(|&object| is_zero(object, 40)));
        assert_eq!(free(&rig, Some(cache), &mut objects), Ok(()));
        assert_eq!(rig.in_use(cache), 0);
    }
}

fn kmem_cache_alloc_bulk_without_memory<C: Config>() {
    let rig = Rig::<C>::on(small_machine());
    let cache = rig.cache("c", 512);
    let held = rig.take(cache, 3);
    let before = rig.holdings();
    // More than the machine has: some are had before it shows.
    let mut objects = vec![null_mut(); 4 << 20 >> 9];
    assert!(!bulk(&rig, cache, QUIET, &mut objects));
    assert_eq!(rig.holdings(), before, "nothing was lost");
    // As many as are left, with all pages taken but a few.
    let mut pages = rig.exhaust();
    let rest = pages.split_off(pages.len().min(20));
    rig.relent(pages);
    let mut objects = vec![null_mut(); 400];
    assert!(!bulk(&rig, cache, QUIET, &mut objects));
    assert_eq!(rig.in_use(cache), 3);
    let mut objects = vec![null_mut(); 40];
    assert!(bulk(&rig, cache, QUIET, &mut objects), "so many there are");
    assert_eq!(rig.in_use(cache), 43);
    assert_eq!(free(&rig, Some(cache), &mut objects), Ok(()));
    rig.relent(rest);
    rig.give(cache, held);
    assert_eq!(rig.destroy(cache), Ok(true));
    rig.holdings();
}

fn kmem_cache_alloc_bulk_on_two_nodes<C: Config>() {
    let rig = Rig::<C>::two_nodes();
    let cache = rig.cache("c", 128);
    for cpu in 0..4 {
        rig.machine.set_cpu(cpu);
        let mut objects = vec![null_mut(); 300];
        assert!(bulk(&rig, cache, Gfp::KERNEL, &mut objects));
        let here = rig.machine.node_of_cpu(cpu);
        assert!(objects.iter().all(|&object| rig.node_of(object) == here));
        // Freed on the other node: they return to their own.
        rig.machine.set_cpu(3 - cpu);
        assert_eq!(free(&rig, Some(cache), &mut objects), Ok(()));
        let object = rig.alloc(cache, Gfp::KERNEL);
        assert_eq!(rig.node_of(object), 1 - here);
        assert_eq!(rig.free(cache, object), Ok(()));
    }
    assert_eq!(rig.in_use(cache), 0);
}

fn kmem_cache_free_bulk<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("c", 40);
    assert_eq!(free(&rig, Some(cache), &mut []), Ok(()));
    // From all slabs in a jumble, more than a stack holds.
    let mut objects = rig.take(cache, 2000);
    for i in 0..objects.len() {
        objects.swap(i, (i * 7919) % 2000);
    }
    for part in objects.chunks_mut(333) {
        assert_eq!(free(&rig, Some(cache), part), Ok(()));
    }
    assert_eq!(rig.in_use(cache), 0);
    assert!(!rig.shrink(cache));
}

fn kmem_cache_free_bulk_with_bad_objects<C: Config>() {
    let rig = Rig::<C>::new();
    let (cache, other) = (rig.cache("c", 40), rig.cache("other", 40));
    let mut objects = rig.take(cache, 100);
    let stranger = rig.alloc(other, Gfp::KERNEL);
    let inside = objects[50].wrapping_add(8);
    objects.insert(20, inside);
    objects.insert(70, stranger);
    let error = FreeError::Interior { address: inside.addr(), cache: "c" };
    assert_eq!(free(&rig, Some(cache), &mut objects), Err(error), "the bad one is told");
    assert_eq!((rig.in_use(cache), rig.in_use(other)), (0, 0), "the good ones are freed");
    assert!(rig.said().contains("Wrong slab cache"));
}

fn kmem_cache_free_bulk_of_any_cache<C: Config>() {
    let rig = Rig::<C>::new();
    let before = rig.holdings();
    let (one, two) = (rig.cache("one", 40), rig.cache("two", 1000));
    let mut mixed = Vec::new();
    for i in 0..50 {
        mixed.extend([rig.alloc(one, Gfp::KERNEL), rig.alloc(two, Gfp::KERNEL), rig.kmalloc(i * 37)]);
    }
    // Blocks of pages, a mapping, and what is no block at all but may be freed.
    mixed.extend([
        rig.kmalloc(20_000),
        rig.kmalloc(1 << 20),
        rig.heap.kvmalloc(5 << 20, Gfp::KERNEL),
        null_mut(),
    ]);
    assert_eq!(free(&rig, None, &mut mixed), Ok(()));
    assert_eq!((rig.in_use(one), rig.in_use(two)), (0, 0));
    assert_eq!((rig.destroy(one), rig.destroy(two)), (Ok(true), Ok(true)));
    assert_eq!(rig.holdings(), before);
    let mut some = vec![rig.kmalloc(8), rig.kmalloc(8).wrapping_add(1), rig.kmalloc(8)];
    let bad = some[1].addr();
    let answer = free(&rig, None, &mut some);
    assert!(matches!(answer, Err(FreeError::Interior { address, .. }) if address == bad), "{answer:?}");
}
