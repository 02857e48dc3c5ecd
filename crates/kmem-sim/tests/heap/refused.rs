//! Each request refused by fault injection: what is asked for is not there, and nothing else happened.
//!
//! [`each_request`] runs a scenario once for each request for an object and once for each for pages, refusing that one. The
//! scenarios of `memory` go through it too; those here are the ways into the heap that those do not take.

use kmem_core::config::Config;
use kmem_core::engine::Engine;
use kmem_core::fault::{Attributes, Fault, Kind};
use kmem_core::gfp::Gfp;
use kmem_core::platform::BLOCK_PAGES;
use kmem_sim::{Machine, Shadow};

use crate::rig::{Rig, enter, is_zero, leave};

crate::for_each_config! {
    sheaves
    nodes
    kvmalloc
    krealloc
    observers
    upkeep
}

crate::for_slob! {
    nodes
    kvmalloc
    krealloc
    observers
}

const QUIET: Gfp = Gfp::KERNEL.union(Gfp::NOWARN);

/// Refuses each request of a scenario in turn, until a run has none left to refuse. Nothing may be lost by a run, every
/// structure must be sound after it, a run whose request was not refused must succeed, and so must the one after the last.
///
/// Returns how many requests of objects and of pages were refused.
pub(crate) fn each_request<C: Config>(rig: &Rig<C>, scenario: impl Fn(&Rig<C>) -> bool) -> [u64; 2] {
    assert!(scenario(rig), "it fails with memory to spare");
    let before = rig.holdings();
    let refused = [Kind::Slab, Kind::Page].map(|kind| {
        let mut n = 1;
        loop {
            // So that slabs must be made anew.
            rig.heap.trim(0);
            let fault: &Fault = Box::leak(Box::new(Fault::new(Attributes::nth(n))));
            rig.heap.inject(kind, Some(fault));
            let done = scenario(rig);
            rig.heap.inject(kind, None);
            rig.hush();
            assert!(done || fault.failed() > 0, "failed although request {n} was not refused");
            assert_eq!(rig.holdings(), before, "after {} {n}", kind.name());
            if fault.failed() == 0 {
                return n - 1;
            }
            n += 1;
            assert!(n < 10_000, "it asks without end");
        }
    });
    assert!(scenario(rig), "the next run has all it asks for");
    assert_eq!(rig.holdings(), before);
    refused
}

fn rig<C: Config>() -> Rig<C> {
    Rig::new(
        &Machine::builder().cpus(2).nodes(2).memory_per_node(4 * BLOCK_PAGES).map_limit(64 << 20).build(),
    )
}

/// Sweeps a scenario, which must meet refusals of both kinds.
fn sweep<C: Config>(scenario: impl Fn(&Rig<C>) -> bool) {
    let refused = each_request(&rig::<C>(), scenario);
    assert!(refused.iter().all(|&refused| refused > 0), "{refused:?} requests of objects, of pages");
}

fn sheaves<C: Config>() {
    sweep::<C>(|rig| {
        let Ok(cache) = rig.create("sheaves", 100, Default::default()) else { return false };
        let mut done = true;
        // SAFETY: the cache lives until the sheaves were returned.
        unsafe {
            match rig.heap.prefill_sheaf(cache, QUIET, 20) {
                None => done = false,
                Some(mut sheaf) => {
                    // One that fits in the array, and one for which there must be a larger.
                    for n in [25, 600] {
                        let size = sheaf.size();
                        if rig.heap.refill_sheaf(&mut sheaf, QUIET, n).is_err() {
                            done = false;
                            assert_eq!(sheaf.size(), size, "it is as it was");
                        }
                    }
                    let object = rig.heap.alloc_from_sheaf(&mut sheaf, QUIET);
                    assert!(!object.is_null(), "a sheaf has what it has");
                    rig.free(cache, object);
                    rig.heap.return_sheaf(sheaf);
                }
            }
        }
        assert_eq!(rig.in_use(cache), 0);
        assert_eq!(rig.destroy(cache), Ok(true));
        done
    });
}

fn nodes<C: Config>() {
    sweep::<C>(|rig| {
        let Ok(cache) = rig.create("nodes", 300, Default::default()) else { return false };
        let mut book = Shadow::new();
        let mut objects = Vec::new();
        for i in 0..40 {
            let gfp = if i % 3 == 0 { QUIET | Gfp::THISNODE } else { QUIET };
            let object = rig.machine.on_cpu(i % 2, || rig.alloc_node(cache, gfp, i / 2 % 2));
            if !object.is_null() {
                assert!(i % 3 != 0 || rig.node_of(object) == i / 2 % 2, "another node than this");
                enter(&mut book, object, 300);
                objects.push(object);
            }
        }
        let done = objects.len() == 40;
        for object in objects {
            leave(&mut book, object);
            rig.free(cache, object);
        }
        assert_eq!(rig.destroy(cache), Ok(true));
        done
    });
}

fn kvmalloc<C: Config>() {
    sweep::<C>(|rig| {
        let mut done = true;
        let mut book = Shadow::new();
        for size in [50, 5000, 40_000, 5 << 20] {
            let block = rig.heap.kvzalloc(size, QUIET);
            if block.is_null() {
                done = false;
                continue;
            }
            assert!(is_zero(block, size));
            enter(&mut book, block, size);
            leave(&mut book, block);
            rig.kfree(block);
        }
        done
    });
}

fn krealloc<C: Config>() {
    sweep::<C>(|rig| {
        let block = rig.heap.kmalloc(40, QUIET | Gfp::ZERO);
        if block.is_null() {
            return false;
        }
        let mut done = true;
        let mut held = (block, 40);
        for size in [90, 700, 10, 5000, 60_000, 3000] {
            // SAFETY: the scenario holds the block.
            let new = unsafe { rig.heap.krealloc(held.0, size, QUIET | Gfp::ZERO) }.expect("a good block");
            if new.is_null() {
                done = false;
                assert!(is_zero(held.0, held.1), "a resize that failed changed the block");
            } else {
                assert!(is_zero(new, size));
                held = (new, size);
            }
        }
        rig.kfree(held.0);
        done
    });
}

/// Who only looks needs no memory, or does with less.
fn observers<C: Config>() {
    let rig = rig::<C>();
    let cache = rig.cache("watched", 100);
    let objects: Vec<*mut u8> = (0..50).map(|_| rig.alloc(cache, QUIET)).collect();
    let refuse = |kind| {
        let fault: &Fault = Box::leak(Box::new(Fault::new(Attributes::ALWAYS)));
        rig.heap.inject(kind, Some(fault));
    };
    let look = || {
        let mut text = String::new();
        rig.heap.write_slabinfo(&mut text).expect("a string takes it");
        rig.heap.write_report(&mut text, 2, "simulated").expect("a string takes it");
        (text, rig.in_use(cache))
    };
    assert_eq!(look().1, 50);
    [Kind::Slab, Kind::Page].into_iter().for_each(refuse);
    let (text, in_use) = look();
    assert!(text.contains("watched") && in_use == 50);
    rig.check();
    objects.into_iter().for_each(|object| rig.free(cache, object));
    assert_eq!(rig.destroy(cache), Ok(true), "what is given back needs nothing");
    [Kind::Slab, Kind::Page].into_iter().for_each(|kind| rig.heap.inject(kind, None));
    rig.check();
}

/// Shrinking, trimming, a CPU's end: they give back, and ask for nothing that they cannot do without.
fn upkeep<C: Config>() {
    let rig = rig::<C>();
    let cache = rig.cache("kept", 200);
    let before = rig.holdings();
    for kind in [Kind::Slab, Kind::Page] {
        let mut objects: Vec<*mut u8> = (0..300).map(|_| rig.alloc(cache, QUIET)).collect();
        assert!(objects.iter().all(|object| !object.is_null()));
        let fault: &Fault = Box::leak(Box::new(Fault::new(Attributes::ALWAYS)));
        rig.heap.inject(kind, Some(fault));
        for (i, object) in objects.drain(..200).enumerate() {
            rig.machine.on_cpu(i % 2, || rig.free(cache, object));
        }
        rig.heap.cpu_dead(1);
        assert!(rig.shrink(cache), "some are in use");
        rig.heap.trim(0);
        assert_eq!(rig.in_use(cache), 100);
        objects.into_iter().for_each(|object| rig.free(cache, object));
        assert!(!rig.shrink(cache), "all slabs are gone");
        rig.heap.inject(kind, None);
        assert_eq!(rig.holdings(), before, "{}", kind.name());
    }
    assert!(C::Engine::STACKS, "an engine without stacks has nothing to keep up");
    assert_eq!(rig.destroy(cache), Ok(true));
}
