//! Destruction: clean, with objects in use, twice, and of what is not one's own.

use kmem_core::cache::{CacheRef, DestroyError};
use kmem_core::config::Config;
use kmem_core::gfp::Gfp;

use crate::support::{Rig, fill, filled, for_each_config};

for_each_config! {
    kmem_cache_destroy
    kmem_cache_destroy_with_live_objects
    kmem_cache_destroy_twice
    kmem_cache_destroy_refuses_the_heaps_own
    a_destroyed_name_and_number_may_be_used_again
}

crate::support::for_slob! {
    kmem_cache_destroy
    kmem_cache_destroy_twice
}

/// Objects that CPUs and barns keep are no objects in use, whichever CPU keeps them.
fn kmem_cache_destroy<C: Config>() {
    let rig = Rig::<C>::two_nodes();
    let before = rig.holdings();
    for size in [8, 100, 1000, 9000, 300_000] {
        let cache = rig.cache("doomed", size);
        for cpu in 0..4 {
            rig.machine.set_cpu(cpu);
            let mut objects = rig.take(cache, if size > 5000 { 5 } else { 300 });
            // Half of them are freed by somebody else.
            let half = objects.split_off(objects.len() / 2);
            rig.give(cache, half);
            rig.machine.on_cpu(3 - cpu, || rig.give(cache, objects));
        }
        assert_eq!(rig.destroy(cache), Ok(true), "{size}");
    }
    assert_eq!(rig.holdings(), before);
    assert_eq!(rig.said(), "");
}

fn kmem_cache_destroy_with_live_objects<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("leaky", 100);
    let mut objects = rig.take(cache, 60);
    let live = objects.split_off(50);
    rig.give(cache, objects);
    live.iter().for_each(|&object| fill(object, 100, 3));
    assert_eq!(rig.destroy(cache), Err(DestroyError::ObjectsRemain(10)));
    let said = rig.said();
    assert!(said.contains("): Objects remaining in leaky on __kmem_cache_shutdown()"), "{said}");
    assert!(
        said.contains("kmem_cache_destroy leaky: Slab cache still has objects when called from"),
        "{said}"
    );
    let mut listed = false;
    rig.heap.for_each_cache(|cache| listed |= cache.name() == "leaky");
    assert!(!listed, "the cache has left the list");
    // The memory stays, and late frees are accepted, by either door and on any CPU.
    assert!(live.iter().all(|&object| filled(object, 100, 3)));
    for (i, object) in live.into_iter().enumerate() {
        rig.machine.set_cpu(i % 4);
        let freed = if i % 2 == 0 { rig.kfree(object) } else { rig.free(cache, object) };
        assert_eq!(freed, Ok(()));
    }
    assert_eq!(rig.in_use(cache), 0);
    assert_eq!(rig.said(), "");
    // The name is free for another.
    let heir = rig.cache("leaky", 100);
    let objects = rig.take(heir, 100);
    rig.give(heir, objects);
    assert_eq!(rig.destroy(heir), Ok(true));
    rig.holdings();
}

fn kmem_cache_destroy_twice<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("leaky", 100);
    let object = rig.alloc(cache, Gfp::KERNEL);
    assert_eq!(rig.destroy(cache), Err(DestroyError::ObjectsRemain(1)));
    assert_eq!(rig.destroy(cache), Err(DestroyError::Destroyed), "its descriptor stays, so this can be told");
    assert_eq!(rig.free(cache, object), Ok(()));
    assert_eq!(rig.destroy(cache), Err(DestroyError::Destroyed));
}

fn kmem_cache_destroy_refuses_the_heaps_own<C: Config>() {
    let rig = Rig::<C>::new();
    rig.kmalloc(100);
    let mut own = Vec::new();
    rig.heap.for_each_cache(|cache| own.push(CacheRef::new(cache)));
    assert!(own.len() >= 8, "descriptors, nodes, arrays and a class");
    for cache in &own {
        for _ in 0..2 {
            assert_eq!(rig.destroy(*cache), Err(DestroyError::Internal));
        }
    }
    let mut left = 0;
    rig.heap.for_each_cache(|_| left += 1);
    assert_eq!(left, own.len());
    assert_eq!(rig.kfree(rig.kmalloc(100)), Ok(()));
    rig.holdings();
}

fn a_destroyed_name_and_number_may_be_used_again<C: Config>() {
    let rig = Rig::<C>::new();
    let before = rig.holdings();
    let mut numbers = std::collections::BTreeSet::new();
    for i in 0..5000 {
        let cache = rig.cache("phoenix", 24 + i % 64);
        // SAFETY: the cache is alive.
        numbers.insert(unsafe { cache.stack_id() });
        let objects = rig.take(cache, 1 + i % 7);
        rig.give(cache, objects);
        assert_eq!(rig.destroy(cache), Ok(true));
    }
    assert!(numbers.len() == 1 && !numbers.contains(&0), "one number serves them all: {numbers:?}");
    assert_eq!(rig.holdings(), before);
}
