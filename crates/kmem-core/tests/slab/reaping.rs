//! Reaping: what nobody used is given back in turns, what is used stays.

use super::{Cache, Rig, check};

const SECOND: u64 = 1_000_000_000;

/// A cache that has everything: an array with objects, a shared array, free slabs.
fn full(rig: &Rig) -> Cache {
    let cache = rig.cache("c", 64);
    let objects = rig.take(cache, 2000);
    rig.give(cache, objects);
    let counts = rig.counts(cache);
    assert!(counts.free_cpu > 0 && counts.free_barn > 0 && counts.free_slabs > 0, "{counts:?}");
    cache
}

#[test]
fn a_quiet_cache_loses_all_it_keeps() {
    let rig = Rig::new();
    let cache = full(&rig);
    // The first turn only sees that it was used.
    let before = rig.counts(cache);
    assert!(rig.heap.cache_reap(0));
    assert_eq!(rig.counts(cache).free_cpu, before.free_cpu);
    // 24 of 120 a turn.
    assert!(rig.heap.cache_reap(0));
    assert_eq!(rig.counts(cache).free_cpu, before.free_cpu - 24);
    for _ in 0..40 {
        rig.machine.advance(2 * SECOND);
        assert!(rig.heap.cache_reap(0));
        check(&rig, cache);
    }
    let counts = rig.counts(cache);
    assert_eq!((counts.free_cpu, counts.free_barn, counts.slabs), (0, 0, 0), "{counts:?}");
}

#[test]
fn nodes_come_every_four_seconds() {
    let rig = Rig::new();
    let cache = full(&rig);
    // The first time is up to eight seconds away.
    let before = rig.counts(cache);
    assert!(rig.heap.cache_reap(0));
    assert_eq!((rig.counts(cache).free_barn, rig.counts(cache).slabs), (before.free_barn, before.slabs));
    rig.machine.advance(8 * SECOND);
    assert!(rig.heap.cache_reap(0));
    // Free slabs were touched when they were filled, so the first visit clears the mark; the second takes some.
    rig.machine.advance(4 * SECOND - 1);
    let marked = rig.counts(cache);
    assert!(rig.heap.cache_reap(0));
    assert_eq!(rig.counts(cache).free_barn, marked.free_barn, "not yet");
    rig.machine.advance(1);
    assert!(rig.heap.cache_reap(0));
    let after = rig.counts(cache);
    assert!(after.free_barn < marked.free_barn && after.slabs < marked.slabs, "{marked:?} {after:?}");
    assert_eq!(marked.free_barn - after.free_barn, 480 / 5);
}

#[test]
fn a_used_array_stays() {
    let rig = Rig::new();
    let cache = full(&rig);
    for _ in 0..10 {
        let objects = rig.take(cache, 3);
        rig.give(cache, objects);
        let before = rig.counts(cache).free_cpu;
        assert!(rig.heap.cache_reap(0));
        assert_eq!(rig.counts(cache).free_cpu, before);
    }
    // Another CPU's turn does not take from this one's array.
    let before = rig.counts(cache).free_cpu;
    assert!(rig.heap.cache_reap(1));
    assert!(rig.heap.cache_reap(1));
    assert_eq!(rig.counts(cache).free_cpu, before);
    assert!(!rig.heap.cache_reap(4), "there is no such CPU");
}

/// Alien arrays of all nodes are drained in turn.
#[test]
fn strays_go_home() {
    let rig = Rig::two_nodes();
    let cache = rig.cache("c", 64);
    let objects = rig.take(cache, 5);
    rig.machine.on_cpu(3, || rig.give(cache, objects));
    assert_eq!(rig.counts(cache).free_alien, 5);
    rig.machine.on_cpu(3, || {
        assert!(rig.heap.cache_reap(3));
        assert!(rig.heap.cache_reap(3));
    });
    assert_eq!(rig.counts(cache).free_alien, 0);
    check(&rig, cache);
}

/// While somebody holds the list of caches the turn is skipped.
#[test]
fn a_busy_list_is_left_alone() {
    let rig = Rig::new();
    full(&rig);
    let mut turns = Vec::new();
    rig.heap.for_each_cache(|_| turns.push(rig.heap.cache_reap(0)));
    assert!(!turns.is_empty() && turns.iter().all(|turn| !turn));
}
