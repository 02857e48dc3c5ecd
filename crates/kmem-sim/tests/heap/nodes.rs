//! Several nodes: objects come from where they should, go back to where they belong, and a node without memory borrows.

use kmem_core::cache::CacheArgs;
use kmem_core::config::Config;
use kmem_core::gfp::Gfp;
use kmem_core::page::ZoneKind;
use kmem_core::platform::BLOCK_PAGES;
use kmem_sim::{Machine, Rng, Shadow};

use crate::rig::{Rig, enter, leave};

crate::for_each_config! {
    objects_come_from_the_running_node
    a_strict_request_gets_its_node_or_nothing
    a_strict_request_is_strict_after_any_migration
    a_node_without_memory_borrows
    a_full_node_borrows
    remote_frees_return_to_their_node
    a_dead_cpu_leaves_nothing_behind
}

crate::for_slob! {
    a_strict_request_gets_its_node_or_nothing
    a_node_without_memory_borrows
    a_full_node_borrows
}

fn machine() -> Machine {
    Machine::builder().cpus(4).nodes(2).memory_per_node(4 * BLOCK_PAGES).build()
}

fn objects_come_from_the_running_node<C: Config>() {
    let machine = machine();
    let rig = Rig::<C>::new(&machine);
    let cache = rig.cache("local", 128);
    let mut book = Shadow::new();
    for cpu in [0, 3, 1, 2] {
        machine.set_cpu(cpu);
        for _ in 0..500 {
            let object = rig.alloc(cache, Gfp::KERNEL);
            assert_eq!(rig.node_of(object), machine.node_of_cpu(cpu));
            enter(&mut book, object, 128);
            let other = rig.alloc_node(cache, Gfp::KERNEL, 1 - machine.node_of_cpu(cpu));
            assert_eq!(rig.node_of(other), 1 - machine.node_of_cpu(cpu), "there is memory there");
            enter(&mut book, other, 128);
        }
    }
    rig.check();
    let all: Vec<*mut u8> = book.addresses().collect();
    assert_eq!(rig.in_use(cache), all.len() as u64);
    for object in all {
        leave(&mut book, object);
        rig.free(cache, object);
    }
    assert_eq!(rig.destroy(cache), Ok(true));
    rig.check();
}

fn a_strict_request_gets_its_node_or_nothing<C: Config>() {
    let machine = Machine::builder().cpus(4).nodes(2).memory_per_node(2 * BLOCK_PAGES).build();
    let rig = Rig::<C>::new(&machine);
    let cache = rig.cache("strict", 4096);
    let mut held = Vec::new();
    loop {
        let object = rig.alloc_node(cache, Gfp::KERNEL | Gfp::THISNODE | Gfp::NOWARN, 1);
        if object.is_null() {
            break;
        }
        assert_eq!(rig.node_of(object), 1);
        held.push(object);
    }
    assert!(held.len() > 1500, "node 1 has 2048 pages, of which only {} were had", held.len());
    assert!(rig.alloc_node(cache, Gfp::KERNEL | Gfp::THISNODE | Gfp::NOWARN, 1).is_null());
    let here = rig.alloc_node(cache, Gfp::KERNEL | Gfp::THISNODE, 0);
    assert!(!here.is_null() && rig.node_of(here) == 0, "node 0 has memory");
    let borrowed = rig.alloc_node(cache, Gfp::KERNEL, 1);
    assert!(!borrowed.is_null() && rig.node_of(borrowed) == 0, "without strictness the other node serves");
    held.extend([here, borrowed]);
    rig.check();
    held.into_iter().for_each(|object| rig.free(cache, object));
    assert_eq!(rig.destroy(cache), Ok(true));
    rig.check();
}

fn a_strict_request_is_strict_after_any_migration<C: Config>() {
    let machine = machine();
    let rig = Rig::<C>::new(&machine);
    let cache = rig.cache("strict", 64);
    // CPUs of both nodes have stacks, slabs and partial slabs of their own node.
    let mut warm = Vec::new();
    for cpu in 0..4 {
        machine.on_cpu(cpu, || (0..200).for_each(|_| warm.push(rig.alloc(cache, Gfp::KERNEL))));
    }
    warm.drain(..).step_by(3).for_each(|object| rig.free(cache, object));
    let mut visited = 0;
    for node in 0..2 {
        for start in 0..4 {
            for target in 0..4 {
                for n in 1.. {
                    machine.set_cpu(start);
                    let before = machine.points();
                    let object = machine
                        .migrating(n, target, || rig.alloc_node(cache, Gfp::KERNEL | Gfp::THISNODE, node));
                    let points = machine.points() - before;
                    assert_eq!(rig.node_of(object), node, "from CPU {start} to {target} at point {n}");
                    visited += 1;
                    if points < n {
                        break;
                    }
                }
            }
        }
    }
    assert!(visited > 100, "only {visited} migrations were tried");
    rig.check();
}

fn a_node_without_memory_borrows<C: Config>() {
    // The CPUs of node 1 have no memory of their own, on either side of the node that has.
    for memoryless in 0..2 {
        let machine = Machine::builder()
            .cpus(4)
            .nodes(2)
            .memory_per_node(4 * BLOCK_PAGES)
            .memory(memoryless, ZoneKind::Normal, 0)
            .build();
        let rig = Rig::<C>::new(&machine);
        machine.set_cpu(machine.cpu_of_node(memoryless));
        let cache = rig.cache("borrower", 256);
        let mut book = Shadow::new();
        for i in 0..2000 {
            let object = if i % 2 == 0 {
                rig.alloc(cache, Gfp::KERNEL)
            } else {
                rig.alloc_node(cache, Gfp::KERNEL, memoryless)
            };
            assert!(!object.is_null(), "object {i}: the other node has memory");
            assert_eq!(rig.node_of(object), 1 - memoryless);
            enter(&mut book, object, 256);
        }
        assert!(rig.alloc_node(cache, Gfp::KERNEL | Gfp::THISNODE | Gfp::NOWARN, memoryless).is_null());
        let counts = rig.counts(cache);
        let least = 2000 / counts.objects.checked_div(counts.slabs).unwrap_or(1) + 1;
        assert!(counts.slabs <= 2 * least + 20, "{} slabs for what {least} could hold", counts.slabs);
        let mut bulk = vec![std::ptr::null_mut(); 100];
        assert!(rig.alloc_bulk(cache, &mut bulk));
        rig.free_bulk(cache, &mut bulk);
        let all: Vec<*mut u8> = book.addresses().collect();
        for object in all {
            leave(&mut book, object);
            rig.free(cache, object);
        }
        assert_eq!(rig.in_use(cache), 0);
        assert_eq!(rig.destroy(cache), Ok(true));
        rig.check();
    }
}

fn a_full_node_borrows<C: Config>() {
    let machine = Machine::builder().cpus(2).nodes(2).memory_per_node(2 * BLOCK_PAGES).build();
    let rig = Rig::<C>::new(&machine);
    let cache = rig.create("spread", 1000, CacheArgs::default()).expect("a cache");
    let mut per_node = [0; 2];
    let mut objects = Vec::new();
    loop {
        let object = rig.alloc(cache, Gfp::KERNEL | Gfp::NOWARN);
        if object.is_null() {
            break;
        }
        per_node[rig.node_of(object)] += 1;
        objects.push(object);
    }
    let [own, borrowed] = per_node;
    assert!(own > 6000 && borrowed > 6000, "{own} objects of the CPU's own node, {borrowed} borrowed");
    rig.check();
    // Half is given back, so that the next request finds room at home or next door.
    for object in objects.drain(..).step_by(2).collect::<Vec<_>>() {
        rig.free(cache, object);
    }
    assert!(!rig.alloc(cache, Gfp::KERNEL).is_null());
    rig.check();
}

fn remote_frees_return_to_their_node<C: Config>() {
    let machine = machine();
    let rig = Rig::<C>::new(&machine);
    let cache = rig.cache("remote", 96);
    let mut rng = Rng::new(8);
    let mut book = Shadow::new();
    let mut objects: Vec<*mut u8> = Vec::new();
    for _ in 0..6 {
        machine.on_cpu(0, || {
            for _ in 0..800 {
                let object = rig.alloc(cache, Gfp::KERNEL);
                assert_eq!(rig.node_of(object), 0);
                enter(&mut book, object, 96);
                objects.push(object);
            }
        });
        // All of it is freed from the other node: one at a time, and in bulk.
        machine.on_cpu(3, || {
            let mut bulk = Vec::new();
            while !objects.is_empty() {
                let object = objects.swap_remove(rng.below(objects.len()));
                leave(&mut book, object);
                if rng.chance(0.5) { rig.free(cache, object) } else { bulk.push(object) }
            }
            rig.free_bulk(cache, &mut bulk);
            let mine = rig.alloc_node(cache, Gfp::KERNEL | Gfp::THISNODE, 1);
            assert_eq!(rig.node_of(mine), 1, "an object of node 0 stayed on this CPU");
            rig.free(cache, mine);
        });
        assert_eq!(rig.in_use(cache), 0);
        rig.check();
    }
    let counts = rig.counts(cache);
    assert!(counts.slabs < counts.peak_slabs, "empty slabs beyond a few are given back: {counts:?}");
    assert_eq!(rig.destroy(cache), Ok(true));
}

fn a_dead_cpu_leaves_nothing_behind<C: Config>() {
    let machine = machine();
    let rig = Rig::<C>::new(&machine);
    let caches = [rig.cache("one", 32), rig.cache("two", 1024)];
    let mut held = Vec::new();
    for cpu in 0..4 {
        machine.on_cpu(cpu, || {
            for cache in caches {
                let objects: Vec<*mut u8> = (0..200).map(|_| rig.alloc(cache, Gfp::KERNEL)).collect();
                for (i, object) in objects.into_iter().enumerate() {
                    if i % 7 == 0 { held.push((cache, object)) } else { rig.free(cache, object) }
                }
            }
        });
    }
    let before = caches.map(|cache| rig.in_use(cache));
    assert!(caches.iter().all(|&cache| rig.counts(cache).free_cpu > 0), "the CPUs keep something");
    for cpu in 0..4 {
        machine.on_cpu(3 - cpu, || rig.heap.cpu_dead(cpu));
    }
    for cpu in 0..4 {
        // What one flush frees may have landed with the CPU that flushed.
        machine.on_cpu(3 - cpu, || rig.heap.cpu_dead(cpu));
    }
    assert_eq!(caches.map(|cache| rig.in_use(cache)), before);
    for cache in caches {
        let counts = rig.counts(cache);
        assert_eq!((counts.free_cpu, counts.cpu_slabs), (0, 0), "{counts:?}");
    }
    rig.check();
    held.into_iter().for_each(|(cache, object)| rig.free(cache, object));
    caches.into_iter().for_each(|cache| assert_eq!(rig.destroy(cache), Ok(true)));
    rig.check();
}
