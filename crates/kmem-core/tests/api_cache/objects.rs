//! One object at a time: allocation, nodes, zeroing, frees good and bad, shrinking.

use kmem_core::cache::CacheArgs;
use kmem_core::config::Config;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::FreeError;
use kmem_core::page::ZoneKind;
use kmem_core::platform::BLOCK_PAGES;
use kmem_sim::Machine;

use crate::support::{QUIET, Rig, bytes, fill, filled, for_each_config, is_zero, small_machine};

for_each_config! {
    kmem_cache_alloc
    kmem_cache_alloc_strips_bad_flags
    kmem_cache_alloc_without_memory
    kmem_cache_zalloc
    kmem_cache_alloc_node
    kmem_cache_alloc_node_on_a_node_without_memory
    kmem_cache_free
    kmem_cache_free_twice
    kmem_cache_free_to_the_wrong_cache
    kmem_cache_free_of_no_object
    kmem_cache_free_to_a_small_slab
    kmem_cache_shrink
    kmem_cache_shrink_sorts
}

crate::support::for_slob! {
    kmem_cache_alloc_strips_bad_flags
    kmem_cache_alloc_without_memory
    kmem_cache_alloc_node_on_a_node_without_memory
    kmem_cache_shrink_sorts
}

fn kmem_cache_alloc<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("c", 56);
    let objects = rig.take(cache, 1000);
    for (i, &object) in objects.iter().enumerate() {
        fill(object, 56, i as u8);
    }
    assert!(objects.iter().enumerate().all(|(i, &object)| filled(object, 56, i as u8)), "none overlap");
    assert_eq!(rig.in_use(cache), 1000);
    // The object freed last is the next one out.
    assert_eq!(rig.free(cache, objects[500]), Ok(()));
    assert_eq!(rig.alloc(cache, Gfp::KERNEL), objects[500]);
    rig.give(cache, objects);
    assert_eq!(rig.in_use(cache), 0);
}

fn kmem_cache_alloc_strips_bad_flags<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("c", 56);
    for bad in [Gfp::HIGHMEM, Gfp::DMA32, Gfp::MOVABLE] {
        let object = rig.alloc(cache, Gfp::KERNEL | bad);
        assert!(!object.is_null(), "served all the same");
        assert!(rig.said().contains("Unexpected gfp"));
        assert_eq!(rig.free(cache, object), Ok(()));
    }
    assert!(!rig.alloc(cache, Gfp::ATOMIC).is_null());
    assert_eq!(rig.said(), "");
}

fn kmem_cache_alloc_without_memory<C: Config>() {
    let rig = Rig::<C>::on(small_machine());
    let cache = rig.cache("c", 1024);
    let held = rig.exhaust();
    let mut objects = Vec::new();
    while let object = rig.alloc(cache, QUIET)
        && !object.is_null()
    {
        objects.push(object);
    }
    assert!(rig.alloc(cache, QUIET).is_null());
    assert_eq!(rig.in_use(cache), objects.len() as u64);
    rig.relent(held);
    let object = rig.alloc(cache, QUIET);
    assert!(!object.is_null(), "memory came back");
    objects.push(object);
    rig.give(cache, objects);
    assert_eq!(rig.destroy(cache), Ok(true));
}

fn kmem_cache_zalloc<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("c", 20);
    let object = rig.alloc(cache, Gfp::KERNEL);
    // SAFETY: the slot has 24 bytes, of which 4 are padding.
    unsafe { object.write_bytes(0xff, 24) };
    assert_eq!(rig.free(cache, object), Ok(()));
    // SAFETY: the cache is alive.
    let again = unsafe { rig.heap.zalloc(cache, Gfp::KERNEL) };
    assert_eq!(again, object);
    assert!(is_zero(again, 20));
    assert_eq!(bytes(again, 24)[20..], [0xff; 4], "the padding is not cleared");
}

fn kmem_cache_alloc_node<C: Config>() {
    let rig = Rig::<C>::two_nodes();
    let cache = rig.cache("c", 128);
    // SAFETY: the cache is alive.
    let alloc = |gfp, node| unsafe { rig.heap.alloc_node(cache, gfp, node) };
    let mut objects = Vec::new();
    for cpu in 0..4 {
        rig.machine.set_cpu(cpu);
        let here = rig.machine.node_of_cpu(cpu);
        for _ in 0..100 {
            for node in 0..2 {
                for gfp in [Gfp::KERNEL, Gfp::KERNEL | Gfp::THISNODE] {
                    let object = alloc(gfp, Some(node));
                    assert_eq!(rig.node_of(object), node);
                    objects.push(object);
                }
            }
            // No preference: none given, or a node that is not there.
            for node in [None, Some(2), Some(usize::MAX)] {
                let object = alloc(Gfp::KERNEL, node);
                assert_eq!(rig.node_of(object), here);
                objects.push(object);
            }
        }
    }
    let zeroed = alloc(Gfp::KERNEL | Gfp::ZERO, Some(1));
    assert!(is_zero(zeroed, 128));
    objects.push(zeroed);
    rig.give(cache, objects);
    assert_eq!(rig.in_use(cache), 0);
    rig.holdings();
}

fn kmem_cache_alloc_node_on_a_node_without_memory<C: Config>() {
    let machine = Machine::builder().cpus(2).nodes(2).memory_per_node(4 * BLOCK_PAGES);
    let rig = Rig::<C>::on(machine.memory(1, ZoneKind::Normal, 0).build());
    let cache = rig.cache("c", 128);
    for cpu in 0..2 {
        rig.machine.set_cpu(cpu);
        // SAFETY: the cache is alive.
        let (wish, strict) = unsafe {
            (
                rig.heap.alloc_node(cache, QUIET, Some(1)),
                rig.heap.alloc_node(cache, QUIET | Gfp::THISNODE, Some(1)),
            )
        };
        assert_eq!(rig.node_of(wish), 0, "another node serves");
        assert!(strict.is_null(), "unless that is forbidden");
        assert_eq!(rig.free(cache, wish), Ok(()));
    }
}

fn kmem_cache_free<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("c", 72);
    // Freed on another CPU, in another order, through the other door.
    let objects = rig.take(cache, 700);
    for (i, &object) in objects.iter().enumerate().rev() {
        rig.machine.set_cpu(i % 4);
        let freed = if i % 3 == 0 { rig.kfree(object) } else { rig.free(cache, object) };
        assert_eq!(freed, Ok(()));
    }
    assert_eq!(rig.in_use(cache), 0);
    assert!(!rig.shrink(cache));
    assert_eq!(rig.said(), "");
}

fn kmem_cache_free_twice<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("twice", 72);
    let objects = rig.take(cache, 10);
    let object = objects[4];
    assert_eq!(rig.free(cache, object), Ok(()));
    let error = FreeError::Double { address: object.addr(), cache: "twice" };
    assert_eq!(rig.free(cache, object), Err(error));
    assert_eq!(rig.kfree(object), Err(error));
    let text = error.to_string();
    assert!(text.contains("double free") && text.contains("twice"), "{text}");
    assert!(text.contains(&format!("{:#x}", object.addr())), "{text}");
    // It was freed once.
    assert_eq!(rig.in_use(cache), 9);
    assert_eq!(rig.alloc(cache, Gfp::KERNEL), object);
    assert_ne!(rig.alloc(cache, Gfp::KERNEL), object);
}

fn kmem_cache_free_to_the_wrong_cache<C: Config>() {
    let rig = Rig::<C>::new();
    let (right, wrong) = (rig.cache("right", 72), rig.cache("wrong", 72));
    let objects = rig.take(right, 5);
    assert_eq!(rig.free(wrong, objects[2]), Ok(()), "it goes to its own cache");
    let said = rig.said();
    assert!(said.contains("Wrong slab cache. wrong but object"), "{said}");
    assert!(said.contains("is from right"), "{said}");
    assert_eq!((rig.in_use(right), rig.in_use(wrong)), (4, 0));
    assert_eq!(rig.alloc(right, Gfp::KERNEL), objects[2]);
    // A block of kmalloc is no object of the cache either.
    let block = rig.kmalloc(72);
    assert_eq!(rig.free(wrong, block), Ok(()));
    assert!(rig.said().contains("Wrong slab cache"));
    assert_eq!(rig.kmalloc(72), block);
}

/// Slabs of the order that is left when memory is in pieces hold fewer objects: all the same is checked.
fn kmem_cache_free_to_a_small_slab<C: Config>() {
    let rig = Rig::<C>::on(small_machine());
    let cache = rig.cache("c", 1000);
    // SAFETY: the cache is alive.
    let geometry = *unsafe { cache.get() }.geometry();
    let normal = rig.take(cache, 1);
    // Every other page comes back, so no two of them lie side by side.
    let mut held = rig.exhaust();
    held.sort_by_key(|run| run.address().addr());
    let (even, odd): (Vec<_>, Vec<_>) = held.into_iter().enumerate().partition(|(i, _)| i % 2 == 0);
    rig.relent(even.into_iter().map(|(_, run)| run));
    let mut objects = Vec::new();
    while let object = rig.alloc(cache, QUIET)
        && !object.is_null()
    {
        objects.push(object);
    }
    let last = *objects.last().expect("an object");
    let small = rig.slab_of(last).1 < 1 << geometry.order;
    assert_eq!(small, geometry.min_order == 0 && geometry.order > 0);
    for &object in objects.iter().chain(&normal) {
        for inside in [1, geometry.size / 2, geometry.size - 1] {
            let error = FreeError::Interior { address: object.addr() + inside, cache: "c" };
            assert_eq!(rig.free(cache, object.wrapping_add(inside)), Err(error));
        }
    }
    assert_eq!(rig.free(cache, last), Ok(()));
    let error = FreeError::Double { address: last.addr(), cache: "c" };
    assert_eq!(rig.free(cache, last), Err(error));
    objects.pop();
    rig.give(cache, objects);
    rig.give(cache, normal);
    rig.relent(odd.into_iter().map(|(_, run)| run));
    assert_eq!(rig.in_use(cache), 0);
    assert_eq!(rig.destroy(cache), Ok(true));
}

fn kmem_cache_free_of_no_object<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("c", 72);
    let objects = rig.take(cache, 10);
    let object = objects[3];
    for inside in [1, 8, 36, 71] {
        let address = object.addr() + inside;
        let error = FreeError::Interior { address, cache: "c" };
        assert_eq!(rig.free(cache, object.wrapping_add(inside)), Err(error));
        assert_eq!(rig.kfree(object.wrapping_add(inside)), Err(error));
        assert!(error.to_string().contains("no object of cache c starts there"), "{error}");
    }
    // The end of the slab, behind its last object.
    let (slab, pages) = rig.slab_of(object);
    let end = slab + pages * 4096 - 8;
    let error = FreeError::Interior { address: end, cache: "c" };
    assert_eq!(rig.free(cache, std::ptr::without_provenance_mut(end)), Err(error));
    // Other people's memory.
    let mut local = 0_u8;
    let on_the_stack = &raw mut local;
    let on_the_other_heap = Box::into_raw(Box::new(0_u8));
    let nowhere = std::ptr::without_provenance_mut(usize::MAX - 7);
    for foreign in [on_the_stack, on_the_other_heap, nowhere, std::ptr::null_mut()] {
        assert_eq!(rig.free(cache, foreign), Err(FreeError::Foreign(foreign.addr())));
    }
    // SAFETY: it came from a box.
    drop(unsafe { Box::from_raw(on_the_other_heap) });
    // Memory of the heap that is no slab.
    let large = rig.pages_block(100_000);
    assert_eq!(rig.free(cache, large), Err(FreeError::NotObject(large.addr())));
    assert_eq!(rig.kfree(large), Ok(()));
    assert_eq!(rig.free(cache, large), Err(FreeError::NotObject(large.addr())));
    assert_eq!(rig.in_use(cache), 10, "nothing was changed");
    rig.give(cache, objects);
    rig.holdings();
}

fn kmem_cache_shrink<C: Config>() {
    let rig = Rig::<C>::two_nodes();
    let cache = rig.cache("c", 200);
    assert!(!rig.shrink(cache), "a new cache has no slabs");
    let mut objects = Vec::new();
    for cpu in 0..4 {
        rig.machine.on_cpu(cpu, || objects.extend(rig.take(cache, 200)));
    }
    assert!(rig.shrink(cache));
    let last = objects.pop().expect("objects");
    rig.give(cache, objects);
    assert!(rig.shrink(cache), "an object is in use");
    assert_eq!(rig.counts(cache).slabs, 1, "and only its slab is left");
    assert_eq!(rig.free(cache, last), Ok(()));
    assert!(!rig.shrink(cache));
    let counts = rig.counts(cache);
    assert_eq!((counts.slabs, counts.objects, counts.in_use()), (0, 0, 0));
}

/// After shrinking, the fullest slab serves first. (A cache whose CPUs keep no partial slabs, so that one comes at a time.)
/// SLAB leaves its partial slabs as they come, as the kernel's did.
fn kmem_cache_shrink_sorts<C: Config>() {
    if !crate::support::is_slub::<C>() {
        return;
    }
    let rig = Rig::<C>::on(Machine::builder().build());
    let flags = Some(SlabFlags::CONSISTENCY_CHECKS);
    let cache = rig.create("c", 256, CacheArgs { flags, ..CacheArgs::default() }).expect("a cache");
    let mut slabs = std::collections::BTreeMap::<usize, Vec<*mut u8>>::new();
    for object in rig.take(cache, 16 * 8) {
        slabs.entry(rig.slab_of(object).0).or_default().push(object);
    }
    // Slab number i keeps as many objects as (5 * i) % 8 says: no order that a list could have by itself.
    let mut left = std::collections::BTreeMap::new();
    for (i, (slab, objects)) in slabs.into_iter().enumerate() {
        let keep = objects.len() - 1 - (5 * i) % 8;
        left.insert(slab, keep);
        rig.give(cache, objects[keep..].to_vec());
    }
    assert!(left.len() >= 4);
    assert!(rig.shrink(cache));
    let mut served = Vec::new();
    while served.len() < left.len() {
        let (slab, _) = rig.slab_of(rig.alloc(cache, Gfp::KERNEL));
        if served.last() != Some(&slab) {
            served.push(slab);
        }
    }
    let kept: Vec<usize> = served.iter().map(|slab| left[slab]).collect();
    assert!(kept.is_sorted_by(|a, b| a >= b), "objects in use of the slabs that served, in turn: {kept:?}");
    assert!(kept[0] > kept[kept.len() - 1]);
}
