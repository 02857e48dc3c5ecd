//! What the heap does beside serving requests: trims that leave idle stacks alone, and counts that add up.

use kmem_core::config::Config;
use kmem_core::gfp::Gfp;
use kmem_core::platform::BLOCK_PAGES;
use kmem_sim::Machine;

use crate::rig::Rig;

crate::for_each_config! {
    a_trim_seizes_no_stack_without_objects
    bulk_allocations_are_counted
    a_cpu_that_does_not_exist_cannot_die
}

crate::for_slob! {
    bulk_allocations_are_counted
    a_cpu_that_does_not_exist_cannot_die
}

const CPUS: usize = 4;

fn machine() -> Machine {
    Machine::builder().cpus(CPUS).memory_per_node(32 * BLOCK_PAGES).build()
}

/// To seize a stack stops every CPU of a process for a moment, and a trim looks at every cache on every CPU.
fn a_trim_seizes_no_stack_without_objects<C: Config>() {
    let machine = machine();
    let rig = Rig::<C>::new(&machine);
    let cache = rig.cache("upkeep", 192);
    for cpu in 0..CPUS {
        machine.on_cpu(cpu, || {
            let object = rig.alloc(cache, Gfp::KERNEL);
            rig.free(cache, object);
        });
    }
    let seizes = || machine.counters().seizes;
    let before = seizes();
    rig.shrink(cache);
    let first = seizes() - before;
    assert!((1..=2 * CPUS as u64).contains(&first), "one seizure takes at most two calls: {first}");
    rig.heap.trim(0);
    let settled = seizes();
    rig.heap.trim(0);
    assert_eq!(seizes(), settled, "nothing was left to take");
    // Stacks that were passed over still work, and die with their cache.
    for cpu in 0..CPUS {
        machine.on_cpu(cpu, || {
            let object = rig.alloc(cache, Gfp::KERNEL);
            rig.free(cache, object);
        });
    }
    assert_eq!(rig.in_use(cache), 0);
    assert_eq!(rig.destroy(cache), Ok(true));
    rig.check();
}

fn bulk_allocations_are_counted<C: Config>() {
    let machine = machine();
    let rig = Rig::<C>::new(&machine);
    let cache = rig.cache("upkeep", 192);
    let mut objects = [std::ptr::null_mut(); 100];
    machine.on_cpu(1, || {
        for round in 1..=5 {
            assert!(rig.alloc_bulk(cache, &mut objects));
            assert_eq!(rig.counts(cache).allocs, round * 100);
            rig.free_bulk(cache, &mut objects);
        }
        let object = rig.alloc(cache, Gfp::KERNEL);
        assert_eq!(rig.counts(cache).allocs, 501);
        rig.free(cache, object);
    });
}

fn a_cpu_that_does_not_exist_cannot_die<C: Config>() {
    let machine = machine();
    let rig = Rig::<C>::new(&machine);
    let cache = rig.cache("upkeep", 192);
    let object = rig.alloc(cache, Gfp::KERNEL);
    for cpu in [CPUS, usize::MAX] {
        rig.heap.cpu_dead(cpu);
    }
    rig.heap.cpu_dead(0);
    rig.free(cache, object);
    rig.check();
}
