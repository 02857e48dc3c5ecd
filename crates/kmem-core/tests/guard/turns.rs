//! Who is sampled, and when.

use std::collections::BTreeSet;

use kmem_core::config::{Config, KernelConfig};
use kmem_core::engine::Engine;
use kmem_core::engine::slab::Slab;
use kmem_core::gfp::Gfp;
use kmem_core::guard::OBJECTS;
use kmem_sim::Machine;

use crate::rig::{Bed, Rig, for_each_engine};

const MS: u64 = 1_000_000;

for_each_engine! {
    one_an_interval
    a_crowded_pool_takes_one_of_each_stack
}

/// A program that allocates all the time has one object guarded in an interval.
fn one_an_interval<C: Config>() {
    let rig = Rig::<C>::on(Machine::builder().cpus(1).build());
    rig.heap.set_guard_interval(100 * MS);
    let mut held = Vec::new();
    for _ in 0..1000 {
        for _ in 0..30 {
            held.push(rig.kmalloc(200));
            if held.len() > 200 {
                assert_eq!(rig.kfree(held.swap_remove(17)), Ok(()));
            }
        }
        // Frees in a batch bring the stacks to move.
        held.drain(..).for_each(|block| assert_eq!(rig.kfree(block), Ok(())));
        rig.machine.advance(10 * MS);
        held.extend((0..200).map(|_| rig.kmalloc(200)));
    }
    let placed = rig.heap.guard().stats().placed;
    assert!((90..=101).contains(&placed), "{placed} in 100 intervals");
    rig.heap.set_guard_interval(0);
    rig.machine.advance(1000 * MS);
    held.extend((0..500).map(|_| rig.kmalloc(200)));
    assert_eq!(rig.heap.guard().stats().placed, placed, "off is off");
    held.into_iter().for_each(|block| assert_eq!(rig.kfree(block), Ok(())));
    assert_eq!(rig.said(), "");
}

/// With three quarters of the pages in use, what is guarded already is not guarded again.
fn a_crowded_pool_takes_one_of_each_stack<C: Config>() {
    let bed = Bed::<C>::kmalloc(64);
    let guard = bed.rig.heap.guard();
    let mut held: Vec<_> = (0..600).map(|_| bed.rig.kmalloc(64)).collect();
    let stats = guard.stats();
    assert!(stats.live == OBJECTS as u64 * 75 / 100 + 1 && stats.covered > 0, "{stats:?}");
    bed.rig.machine.set_calls(&["another+0x1/0x2"]);
    held.extend((0..600).map(|_| bed.rig.kmalloc(64)));
    assert_eq!(guard.stats().live, stats.live + 1);
    held.into_iter().for_each(|block| assert_eq!(bed.rig.kfree(block), Ok(())));
    bed.assert_silent();
}

/// A class whose objects come and go in balance never finds its stack empty. It is sampled all the same, because others come by.
fn balanced_classes_are_reached<C: Config>() {
    assert!(C::Engine::STACKS);
    let rig = Rig::<C>::on(Machine::builder().cpus(1).build());
    let sizes = [24, 40, 90, 100, 500];
    // Each has something on its stack.
    let blocks: Vec<_> =
        sizes.iter().flat_map(|&size| (0..8).map(move |_| size)).map(|size| rig.kmalloc(size)).collect();
    blocks.into_iter().for_each(|block| assert_eq!(rig.kfree(block), Ok(())));
    rig.heap.set_guard_interval(100 * MS);
    let mut sampled = BTreeSet::new();
    let mut growing = Vec::new();
    for _ in 0..400 {
        for size in sizes {
            let block = rig.kmalloc(size);
            if rig.heap.guard().holds(block.addr()) {
                sampled.insert(size);
            }
            assert_eq!(rig.kfree(block), Ok(()));
        }
        // The only one that comes by.
        growing.extend((0..40).map(|_| rig.heap.kmalloc(1000, Gfp::KERNEL)));
        rig.machine.advance(25 * MS);
    }
    assert_eq!(sampled, BTreeSet::from(sizes));
    growing.into_iter().for_each(|block| assert_eq!(rig.kfree(block), Ok(())));
}

#[test]
fn balanced_classes_are_reached_on_slub() {
    balanced_classes_are_reached::<KernelConfig>();
}

#[test]
fn balanced_classes_are_reached_on_slab() {
    balanced_classes_are_reached::<KernelConfig<Slab>>();
}
