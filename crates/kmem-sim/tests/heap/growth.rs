//! Stacks grow while their CPU trades more than they hold, only then, and not for ever.

use kmem_core::config::{Config, KernelConfig, UserConfig};
use kmem_core::gfp::Gfp;
use kmem_core::platform::BLOCK_PAGES;
use kmem_sim::Machine;

use crate::rig::{Cache, Rig};

const CPUS: usize = 2;
const OBJECTS: usize = 1000;

/// A refill brings more than the last few objects that were missing, and so many too many come back: a batch each way.
const FEW: u64 = 4;

fn machine() -> Machine {
    Machine::builder().cpus(CPUS).memory_per_node(64 * BLOCK_PAGES).build()
}

/// Takes so many objects and gives them back; how many calls of both kinds missed the stack.
fn round<C: Config>(rig: &Rig<C>, cache: Cache<C>, objects: usize) -> u64 {
    let slow = || {
        let counts = rig.counts(cache);
        counts.alloc_slow + counts.free_slow
    };
    let before = slow();
    let taken: Vec<*mut u8> = (0..objects).map(|_| rig.alloc(cache, Gfp::KERNEL)).collect();
    assert!(taken.iter().all(|object| !object.is_null()));
    // Every second one first, so that slabs do not empty in the order in which they were filled.
    taken
        .iter()
        .step_by(2)
        .chain(taken.iter().skip(1).step_by(2))
        .for_each(|&object| rig.free(cache, object));
    slow() - before
}

#[test]
fn rounds_of_a_thousand_come_to_be_served_by_the_stack_alone() {
    let machine = machine();
    let rig = Rig::<UserConfig>::new(&machine);
    for size in [16, 64, 256, 1024] {
        let cache = rig.cache("rounds", size);
        let first = round(&rig, cache, OBJECTS);
        assert!(first > 10, "{size}: the first round has nothing: {first}");
        (0..10).for_each(|_| {
            round(&rig, cache, OBJECTS);
        });
        let last = round(&rig, cache, OBJECTS);
        assert!(last <= FEW, "{size}: {last} of {}", 2 * OBJECTS);
        assert_eq!(rig.in_use(cache), 0);
        assert_eq!(rig.destroy(cache), Ok(true));
    }
    assert!(!rig.heap.has_grown_stacks(), "what dead caches had went back");
    rig.check();
}

#[test]
fn the_kernels_stacks_stay_as_they_are() {
    let machine = machine();
    let rig = Rig::<KernelConfig>::new(&machine);
    let cache = rig.cache("rounds", 64);
    let rounds: Vec<u64> = (0..12).map(|_| round(&rig, cache, OBJECTS)).collect();
    assert!(rounds.iter().all(|&slow| slow > 10), "{rounds:?}");
    assert!(!rig.heap.has_grown_stacks());
    rig.check();
}

/// To build something and to take it down once is no reason to keep a thousand objects at hand.
#[test]
fn building_and_taking_down_grows_nothing() {
    let machine = machine();
    let rig = Rig::<UserConfig>::new(&machine);
    for size in [32, 64, 1024] {
        let cache = rig.cache("building", size);
        round(&rig, cache, 20 * OBJECTS);
    }
    assert!(!rig.heap.has_grown_stacks());
    rig.check();
}

/// What is not used any more goes to the slabs; what is used stays.
#[test]
fn grown_stacks_get_small_when_they_idle() {
    let machine = machine();
    let rig = Rig::<UserConfig>::new(&machine);
    let (busy, idle) = (rig.cache("busy", 64), rig.cache("idle", 128));
    for _ in 0..10 {
        round(&rig, busy, OBJECTS);
        round(&rig, idle, OBJECTS);
    }
    let held = |cache| rig.counts(cache).free_cpu;
    assert!(held(busy) > 900 && held(idle) > 900);
    rig.heap.age_stacks();
    round(&rig, busy, OBJECTS);
    rig.heap.age_stacks();
    assert!(round(&rig, busy, OBJECTS) <= FEW, "a stack in use is left alone");
    assert!(held(idle) < 300, "the other's objects went to the slabs: {}", held(idle));
    rig.heap.age_stacks();
    rig.heap.age_stacks();
    assert!(!rig.heap.has_grown_stacks());
    rig.check();
}

/// All stacks together grow by a bounded number of bytes.
#[test]
fn growth_has_a_budget() {
    let machine = machine();
    let rig = Rig::<UserConfig>::new(&machine);
    let caches: Vec<_> = (0..12).map(|i| rig.cache(&format!("large-{i}"), 1024)).collect();
    for _ in 0..10 {
        caches.iter().for_each(|&cache| {
            round(&rig, cache, OBJECTS);
        });
    }
    let held: u64 = caches.iter().map(|&cache| rig.counts(cache).free_cpu * 1024).sum();
    // What stacks hold without growing comes on top, and what lies in slabs of CPUs.
    let limit = (CPUS * (2 << 20) + caches.len() * 3 * (32 << 10)) as u64;
    assert!((1 << 20..=limit).contains(&held), "{held} bytes on stacks");
    rig.check();
}

/// A CPU whose stack has grown goes away, and another takes what it left.
#[test]
fn a_dead_cpus_stack_is_no_longer_grown() {
    let machine = machine();
    let rig = Rig::<UserConfig>::new(&machine);
    let cache = rig.cache("cpus", 64);
    machine.on_cpu(1, || {
        (0..10).for_each(|_| {
            round(&rig, cache, OBJECTS);
        });
    });
    assert!(rig.heap.has_grown_stacks());
    rig.heap.cpu_dead(1);
    assert!(!rig.heap.has_grown_stacks());
    assert_eq!(rig.in_use(cache), 0);
    rig.check();
}
