//! What lies beyond the usual: more caches than there are stacks, and caches that die with objects in use.

use kmem_core::cache::DestroyError;
use kmem_core::config::Config;
use kmem_core::gfp::Gfp;
use kmem_core::percpu::MAX_STACKS;
use kmem_core::platform::BLOCK_PAGES;
use kmem_sim::{Machine, Shadow};

use crate::rig::{Rig, enter, leave};

crate::for_each_config! {
    caches_beyond_the_numbers_of_stacks_work
    numbers_are_used_again
    a_cache_that_dies_too_early_still_takes_its_objects
}

crate::for_slob! {
    caches_beyond_the_numbers_of_stacks_work
}

fn machine() -> Machine {
    Machine::builder().cpus(2).memory_per_node(32 * BLOCK_PAGES).build()
}

fn caches_beyond_the_numbers_of_stacks_work<C: Config>() {
    let machine = machine();
    let rig = Rig::<C>::new(&machine);
    let caches: Vec<_> = (0..MAX_STACKS + 20).map(|i| rig.cache("many", 8 + 8 * (i % 64))).collect();
    // SAFETY: the cache is alive.
    let number = |&cache: &_| unsafe { kmem_core::cache::CacheRef::<C::Engine>::stack_id(cache) };
    let bare: Vec<_> = caches.iter().copied().filter(|cache| number(cache) == 0).collect();
    assert!(bare.len() >= 20, "{} caches have stacks", caches.len() - bare.len());
    let cache = *bare.last().expect("a cache without stacks");
    // SAFETY: the cache is alive.
    let size = unsafe { rig.heap.cache_size(cache) };
    let mut book = Shadow::new();
    for round in 0..3 {
        for i in 0..1000 {
            let object = machine.on_cpu(i % 2, || rig.alloc(cache, Gfp::KERNEL));
            enter(&mut book, object, size);
        }
        assert_eq!(rig.in_use(cache), 1000);
        let all: Vec<*mut u8> = book.addresses().collect();
        for (i, object) in all.into_iter().enumerate() {
            leave(&mut book, object);
            machine.on_cpu((i + round) % 2, || rig.free(cache, object));
        }
        assert_eq!(rig.in_use(cache), 0);
        rig.check();
    }
    assert_eq!(rig.destroy(cache), Ok(true));
    rig.check();
}

fn numbers_are_used_again<C: Config>() {
    let rig = Rig::<C>::new(&machine());
    for i in 0..2 * MAX_STACKS {
        let cache = rig.cache("fleeting", 64);
        // SAFETY: the cache is alive.
        assert_ne!(unsafe { cache.stack_id() }, 0, "cache {i} has no stacks");
        if i % 16 == 0 {
            let object = rig.machine.on_cpu(i / 16 % 2, || rig.alloc(cache, Gfp::KERNEL));
            rig.free(cache, object);
        }
        assert_eq!(rig.destroy(cache), Ok(true));
    }
    rig.check();
}

fn a_cache_that_dies_too_early_still_takes_its_objects<C: Config>() {
    let machine = machine();
    let rig = Rig::<C>::new(&machine);
    let cache = rig.cache("early", 80);
    let mut book = Shadow::new();
    for i in 0..500 {
        let object = machine.on_cpu(i % 2, || rig.alloc(cache, Gfp::KERNEL));
        enter(&mut book, object, 80);
    }
    let all: Vec<*mut u8> = book.addresses().collect();
    for &object in &all[..200] {
        leave(&mut book, object);
        rig.free(cache, object);
    }
    assert_eq!(rig.destroy(cache), Err(DestroyError::ObjectsRemain(300)));
    let text = machine.take_console();
    assert!(text.contains("): Objects remaining in early on __kmem_cache_shutdown()"), "{text}");
    // Its number and everything else may be used by others while its objects live on.
    let next = rig.cache("next", 80);
    for _ in 0..500 {
        enter(&mut book, rig.alloc(next, Gfp::KERNEL), 80);
    }
    for &object in &all[200..] {
        leave(&mut book, object);
        rig.kfree(object);
    }
    let rest: Vec<*mut u8> = book.addresses().collect();
    for object in rest {
        leave(&mut book, object);
        rig.free(next, object);
    }
    assert_eq!(rig.destroy(next), Ok(true));
    rig.check();
}
