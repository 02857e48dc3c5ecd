//! What lies between the CPUs and the slabs: arrays, the shared array, alien arrays, the limit of free objects.

use kmem_core::cache::CacheArgs;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_sim::Machine;

use super::{Rig, check, flags, row};

/// The oldest batch leaves a full array for the shared one; another CPU of the node is refilled from there.
#[test]
fn the_shared_array_feeds_other_cpus() {
    let rig = Rig::new();
    let cache = rig.cache("c", 64);
    let objects = rig.take(cache, 200);
    rig.give(cache, objects.clone());
    let counts = rig.counts(cache);
    // 200 objects are freed in a row: the array of 120 overflows by batches of 60.
    assert_eq!(counts.free_barn % 60, 0);
    assert!(counts.free_barn > 0 && row(&rig, cache).sharedavail == counts.free_barn, "{counts:?}");
    let slabs = counts.slabs;
    let other = rig.machine.on_cpu(1, || rig.take(cache, 16));
    let after = rig.counts(cache);
    // The first refill is of 16: the array was not touched before.
    assert_eq!((after.free_barn, after.slabs), (counts.free_barn - 16, slabs));
    let more = rig.machine.on_cpu(1, || rig.take(cache, 1));
    let touched = rig.counts(cache);
    assert_eq!(
        after.free_barn - touched.free_barn,
        after.free_barn.min(60),
        "a whole batch once it is touched"
    );
    rig.machine.on_cpu(1, || rig.give(cache, [other, more].concat()));
    assert_eq!(rig.in_use(cache), 0);
    check(&rig, cache);
}

/// A node keeps a batch for each CPU and one more, and a slab; what is more goes back at once.
#[test]
fn free_objects_beyond_the_limit_go_back() {
    let rig = Rig::new();
    let cache = rig.cache("c", 64);
    // Without a shared array, so that nearly all that is free lies in free slabs.
    assert_eq!(rig.heap.write_slabinfo_tunables(b"c 60 60 0"), Ok(()));
    let kept = |cpu| {
        rig.machine.on_cpu(cpu, || {
            let objects = rig.take(cache, 5000);
            rig.give(cache, objects);
        });
        let counts = rig.counts(cache);
        assert_eq!(row(&rig, cache).active_slabs, counts.slabs - counts.free_slabs);
        counts.free_partial
    };
    let limit = |cpus: u64| (1 + cpus) * 60 + 64;
    let around = |cpus: u64| limit(cpus) - 2 * 64..=limit(cpus);
    let all = kept(0);
    assert!(around(4).contains(&all), "{all}");
    // A CPU that goes away takes its batch of the reserve along; it goes once.
    for cpu in [1, 2, 3] {
        rig.heap.cpu_dead(cpu);
        rig.heap.cpu_dead(cpu);
    }
    let one = kept(0);
    assert!(around(1).contains(&one), "{one}");
    // And is counted again when it is back.
    let two = kept(2);
    assert!(around(2).contains(&two), "{two}");
    check(&rig, cache);
    rig.holdings();
}

/// Pages of a cache whose free objects may still be read stay until it is destroyed.
#[test]
fn typesafe_pages_stay() {
    let rig = Rig::new();
    let cache = rig.create("c", 256, flags(SlabFlags::TYPESAFE_BY_RCU)).expect("a cache");
    let objects = rig.take(cache, 1000);
    let slabs = rig.counts(cache).slabs;
    rig.give(cache, objects);
    assert!(rig.shrink(cache));
    assert_eq!(rig.counts(cache).slabs, slabs);
    assert_eq!(rig.destroy(cache), Ok(true));
    rig.holdings();
}

/// Objects of another node gather by the dozen and then go to that node's shared array.
#[test]
fn objects_of_other_nodes_go_home_by_the_dozen() {
    let rig = Rig::two_nodes();
    let cache = rig.cache("c", 128);
    // CPUs 0 and 1 are on node 0.
    let mine = rig.take(cache, 300);
    assert!(mine.iter().all(|&object| rig.node_of(object) == 0));
    let before = rig.counts(cache);
    let mut objects = mine.into_iter();
    rig.machine.on_cpu(3, || {
        for i in 1..=12 {
            assert_eq!(rig.free(cache, objects.next().expect("an object")), Ok(()));
            assert_eq!(rig.counts(cache).free_alien, i);
        }
        assert_eq!(rig.free(cache, objects.next().expect("an object")), Ok(()));
        assert_eq!(rig.counts(cache).free_alien, 1, "a full array goes home before the next object comes");
    });
    let after = rig.counts(cache);
    assert_eq!(after.free_partial - before.free_partial, 12, "node 0 had no shared array yet");
    assert_eq!(before.in_use() - after.in_use(), 13);
    // With one, they go there.
    let full: Vec<_> = objects.by_ref().take(250).collect();
    rig.give(cache, full);
    let shared = rig.counts(cache).free_barn;
    assert!(shared > 0 && shared < 480);
    rig.machine.on_cpu(2, || {
        for object in objects.by_ref().take(12) {
            assert_eq!(rig.free(cache, object), Ok(()));
        }
    });
    assert_eq!(rig.counts(cache).free_barn, shared + 12);
    rig.give(cache, objects.collect());
    check(&rig, cache);
    assert!(!rig.shrink(cache), "alien and shared arrays are flushed too");
    assert_eq!(rig.counts(cache).free_alien, 0);
    assert_eq!(rig.destroy(cache), Ok(true));
    rig.holdings();
}

/// Without memory on its node a request takes what others have free before it makes slabs there.
#[test]
fn other_nodes_help_out() {
    let machine = Machine::builder().cpus(2).nodes(2).memory_per_node(1024).build();
    let rig = Rig::on(machine);
    let cache = rig.cache("c", 2048);
    // What is freed goes to its slab but for the last object or two.
    assert_eq!(rig.heap.write_slabinfo_tunables(b"c 2 1 0"), Ok(()));
    let spare = rig.machine.on_cpu(1, || rig.take(cache, 40));
    assert!(spare.iter().all(|&object| rig.node_of(object) == 1));
    let mut all = Vec::new();
    loop {
        let object = rig.alloc(cache, Gfp::KERNEL | Gfp::NOWARN | Gfp::THISNODE);
        // SAFETY: the cache is alive.
        let strict =
            unsafe { rig.heap.alloc_node(cache, Gfp::KERNEL | Gfp::NOWARN | Gfp::THISNODE, Some(0)) };
        all.extend([object, strict].into_iter().filter(|object| !object.is_null()));
        if strict.is_null() {
            break;
        }
    }
    assert!(all.iter().all(|&object| rig.node_of(object) == 0));
    rig.machine.on_cpu(1, || rig.give(cache, spare));
    let slabs = rig.counts(cache).slabs;
    let helped = rig.alloc(cache, Gfp::KERNEL | Gfp::NOWARN);
    assert_eq!(rig.node_of(helped), 1);
    assert_eq!(rig.counts(cache).slabs, slabs, "free objects come before new slabs");
    all.push(helped);
    rig.give(cache, all);
    check(&rig, cache);
    rig.holdings();
}

/// A node that is to go away gives up all that is free, also what lies in alien arrays, and says when objects are left.
#[test]
fn a_node_goes_offline_when_nothing_is_in_use() {
    let rig = Rig::two_nodes();
    let cache = rig.cache("c", 128);
    let mut there = rig.machine.on_cpu(3, || rig.take(cache, 100));
    assert!(there.iter().all(|&object| rig.node_of(object) == 1));
    let last = there.pop().expect("objects");
    // Freed on the other node: some wait in its alien array.
    rig.give(cache, there);
    assert!(rig.counts(cache).free_alien > 0);
    let busy = rig.heap.node_offline(1).expect_err("an object is in use");
    assert!(busy.0 >= 1, "{busy}");
    assert_eq!((rig.counts(cache).free_alien, rig.counts(cache).slabs), (0, 1));
    rig.give(cache, vec![last]);
    // What the heap itself keeps on the node stays: descriptors of caches and their nodes.
    let heap_only = rig.heap.node_offline(1).map_or_else(|busy| busy.0, |()| 0);
    assert!(heap_only < busy.0, "{heap_only} slabs, {busy} before");
    assert_eq!(rig.counts(cache).slabs, 0);
    // It may be used again.
    let again = rig.machine.on_cpu(3, || rig.take(cache, 10));
    assert!(again.iter().all(|&object| rig.node_of(object) == 1));
    rig.give(cache, again);
    assert_eq!(rig.heap.node_offline(7), Ok(()));
    check(&rig, cache);
}

/// Slabs begin at colours, so a cache serves only names that ask for no more alignment than it has itself.
#[test]
fn an_alias_is_aligned_to_what_it_asked() {
    let rig = Rig::new();
    let size = 320;
    let plain = rig.heap.create("plain", size, CacheArgs::default()).expect("a cache");
    let same =
        rig.heap.create("same", size, CacheArgs { align: 8, ..CacheArgs::default() }).expect("a cache");
    assert_eq!(plain, same);
    // 320 is a multiple of 64 and of 16, but the slots of the first cache are aligned to 8 by promise.
    for align in [16, 64] {
        let cache =
            rig.heap.create("aligned", size, CacheArgs { align, ..CacheArgs::default() }).expect("a cache");
        assert_ne!(cache, plain, "{align}");
        let objects = rig.take(cache, 100);
        assert!(objects.iter().all(|object| object.addr().is_multiple_of(align)));
        rig.give(cache, objects);
    }
}
