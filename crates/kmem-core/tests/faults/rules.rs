//! What each attribute decides.

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use kmem_core::cache::{CacheArgs, CacheRef};
use kmem_core::config::{Config, KernelConfig};
use kmem_core::fault::{Attributes, Fault, Injection, Kind};
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::percpu::{CpuArea, empty};
use kmem_core::platform::Platform;
use kmem_sim::Machine;

use crate::rule;
use crate::support::{Cache, QUIET, Rig, for_each_config, for_slob};

for_each_config! {
    the_nth_request_fails_and_no_other
    an_interval_counts_requests
    no_more_than_so_many_fail
    the_first_bytes_are_served
    a_probability_is_drawn_and_repeats
    sizes_and_names_choose
    some_requests_never_fail
    stacks_go_and_come_back
}
for_slob! {
    the_nth_request_fails_and_no_other
    a_probability_is_drawn_and_repeats
}

/// Which of `count` objects could not be had, by number from 1. All are given back.
fn failures<C: Config>(rig: &Rig<C>, cache: Cache<C>, count: u64, gfp: Gfp) -> Vec<u64> {
    let objects: Vec<*mut u8> = (0..count).map(|_| rig.alloc(cache, gfp)).collect();
    let failed = (1..=count).zip(&objects).filter(|(_, object)| object.is_null()).map(|(n, _)| n).collect();
    rig.give(cache, objects.into_iter().filter(|object| !object.is_null()).collect());
    failed
}

fn the_nth_request_fails_and_no_other<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("some", 100);
    let before = rig.holdings();
    for n in [1, 2, 17, 60] {
        let fault = rule(Attributes::nth(n));
        rig.heap.inject(Kind::Slab, Some(fault));
        assert_eq!(failures(&rig, cache, 50, QUIET), if n <= 50 { vec![n] } else { vec![] });
        assert_eq!((fault.asked(), fault.failed()), (50, u64::from(n <= 50)));
    }
    rig.heap.inject(Kind::Slab, None);
    assert_eq!(failures(&rig, cache, 200, QUIET), []);
    assert_eq!(rig.holdings(), before);
}

fn an_interval_counts_requests<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("some", 100);
    rig.heap.inject(Kind::Slab, Some(rule(Attributes { interval: 7, ..Attributes::ALWAYS })));
    assert_eq!(failures(&rig, cache, 30, QUIET), [7, 14, 21, 28]);
}

fn no_more_than_so_many_fail<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("some", 100);
    let fault = rule(Attributes { times: 3, ..Attributes::ALWAYS });
    rig.heap.inject(Kind::Slab, Some(fault));
    assert_eq!(failures(&rig, cache, 30, QUIET), [1, 2, 3]);
    assert_eq!(failures(&rig, cache, 30, QUIET), []);
    fault.restart();
    assert_eq!(failures(&rig, cache, 2, QUIET), [1, 2]);
    rig.heap.inject(Kind::Slab, Some(rule(Attributes { times: 0, ..Attributes::ALWAYS })));
    assert_eq!(failures(&rig, cache, 5, QUIET), []);
}

fn the_first_bytes_are_served<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("some", 100);
    // Ten objects leave 24 bytes of space, which the eleventh does not fit in.
    rig.heap.inject(Kind::Slab, Some(rule(Attributes { space: 1024, ..Attributes::ALWAYS })));
    assert_eq!(failures(&rig, cache, 13, QUIET), [11, 12, 13]);
}

fn a_probability_is_drawn_and_repeats<C: Config>() {
    let run = |seed| {
        let rig = Rig::<C>::new();
        let cache = rig.cache("some", 100);
        rig.heap.inject(Kind::Slab, Some(rule(Attributes::percent(20, seed))));
        failures(&rig, cache, 500, QUIET)
    };
    let first = run(1);
    assert!((60..140).contains(&first.len()), "{} of 500", first.len());
    assert_eq!(first, run(1));
    assert_ne!(first, run(2));
}

fn sizes_and_names_choose<C: Config>() {
    let rig = Rig::<C>::new();
    let (small, large) = (rig.cache("inode_small", 100), rig.cache("inode_large", 600));
    let hits = |attributes| {
        rig.heap.inject(Kind::Slab, Some(rule(attributes)));
        [small, large].map(|cache| !failures(&rig, cache, 10, QUIET).is_empty())
    };
    let always = Attributes::ALWAYS;
    assert_eq!(hits(always), [true, true]);
    assert_eq!(hits(Attributes { sizes: (0, 100), ..always }), [true, false]);
    assert_eq!(hits(Attributes { sizes: (101, usize::MAX), ..always }), [false, true]);
    assert_eq!(hits(Attributes { caches: Some("inode_large"), ..always }), [false, true]);
    assert_eq!(hits(Attributes { caches: Some("dentry|inode_*"), ..always }), [true, true]);
    assert_eq!(hits(Attributes { caches: Some("inode"), ..always }), [false, false]);
    assert_eq!(hits(Attributes { marked_only: true, ..always }), [false, false]);
    assert_eq!(hits(Attributes { ignore_gfp_wait: true, ..always }), [false, false], "these may wait");
    assert_eq!(failures(&rig, small, 10, Gfp::NOWAIT).len(), 10);
}

fn some_requests_never_fail<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("some", 100);
    rig.heap.inject(Kind::Slab, Some(rule(Attributes::ALWAYS)));
    assert_eq!(failures(&rig, cache, 40, Gfp::KERNEL | Gfp::NOFAIL), []);
    // Of a creation only the copy of the name is anybody's object.
    let filtered = Attributes { caches: Some("kmem_cache*|sheaf-*"), ..Attributes::ALWAYS };
    let fault = rule(filtered);
    rig.heap.inject(Kind::Slab, Some(fault));
    let other = rig.cache("other", 50);
    assert_eq!(failures(&rig, other, 40, QUIET), []);
    assert_eq!(fault.asked(), 0, "the heap's own are not even asked");
}

fn stacks_go_and_come_back<C: Config>() {
    let rig = Rig::<C>::new();
    let (cache, other) = (rig.cache("some", 100), rig.cache("other", 100));
    let held = |cache| {
        // SAFETY: the cache is alive, and stands still.
        let id = unsafe { CacheRef::stack_id(cache) };
        let tops = (0..rig.machine.cpus())
            .map(|cpu| rig.machine.cpu_area().hot(cpu, id).top.load(Ordering::Relaxed));
        tops.filter(|&top| top != empty()).count()
    };
    for cache in [cache, other] {
        rig.give(cache, rig.take(cache, 20));
        assert_eq!(held(cache), 1);
    }
    let fault = rule(Attributes { caches: Some("some"), ..Attributes::count() });
    rig.heap.inject(Kind::Slab, Some(fault));
    rig.give(cache, rig.take(cache, 20));
    assert_eq!(held(cache), 0, "no stack: it is asked");
    assert_eq!(fault.asked(), 20);
    assert_eq!(held(other), 1, "of a cache that is not meant the stacks stay");
    let late = rig.create("some", 40, CacheArgs::default()).expect("a cache");
    rig.give(late, rig.take(late, 20));
    assert_eq!((fault.asked(), held(late)), (40, 0), "a cache made under the rule follows it");
    rig.heap.inject(Kind::Slab, None);
    rig.give(cache, rig.take(cache, 20));
    rig.give(late, rig.take(late, 20));
    assert_eq!((held(cache), held(late)), (1, 1));
    assert_eq!(fault.asked(), 40);
}

#[test]
fn the_letter_a_marks_a_cache() {
    let machine = Machine::builder().cpus(2).build();
    let rig = Rig::<KernelConfig>::raw(machine);
    assert!(rig.heap.set_debug_options("A,marked*"));
    assert!(rig.init());
    let (marked, plain) = (rig.cache("marked_one", 64), rig.cache("plain", 64));
    rig.heap.inject(Kind::Slab, Some(rule(Attributes { marked_only: true, ..Attributes::ALWAYS })));
    assert_eq!(failures(&rig, marked, 3, QUIET).len(), 3);
    assert_eq!(failures(&rig, plain, 3, QUIET).len(), 0);
    // Letters change while the rule is in place.
    // SAFETY: both caches are alive.
    unsafe {
        assert_eq!(rig.heap.set_debug_letters(plain, SlabFlags::FAILSLAB), Ok(()));
        assert_eq!(rig.heap.set_debug_letters(marked, SlabFlags::empty()), Ok(()));
    }
    assert_eq!(failures(&rig, marked, 3, QUIET).len(), 0);
    assert_eq!(failures(&rig, plain, 3, QUIET).len(), 3);
    assert_eq!(rig.said(), "");
}

/// Every engine knows the letter: it is none of the layout's.
#[test]
fn the_letter_a_is_every_engines() {
    fn marked<C: Config>() -> (usize, String) {
        let rig = Rig::<C>::raw(Machine::builder().build());
        assert!(rig.heap.set_debug_options("A"));
        assert!(rig.init());
        let cache = rig.cache("marked", 64);
        rig.heap.inject(Kind::Slab, Some(rule(Attributes { marked_only: true, ..Attributes::ALWAYS })));
        (failures(&rig, cache, 3, QUIET).len(), rig.said())
    }
    use kmem_core::engine::{slab::Slab, slob::Slob};
    assert_eq!(marked::<KernelConfig>(), (3, String::new()));
    assert_eq!(marked::<KernelConfig<Slab>>(), (3, String::new()));
    assert_eq!(marked::<KernelConfig<Slob>>(), (3, String::new()));
}

#[test]
fn threads_share_the_number_of_failures() {
    let rig = Rig::<KernelConfig>::new();
    let cache = rig.cache("some", 64);
    let fault = rule(Attributes { times: 100, ..Attributes::ALWAYS });
    rig.heap.inject(Kind::Slab, Some(fault));
    let failed: usize = std::thread::scope(|scope| {
        let heap = &rig.heap;
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    // SAFETY: the cache lives until the threads have ended; objects are freed once.
                    let object = || unsafe { heap.alloc(cache, QUIET) };
                    let objects: Vec<usize> = (0..60).map(|_| object().addr()).collect();
                    let failed = objects.iter().filter(|&&object| object == 0).count();
                    for object in objects.into_iter().filter(|&object| object != 0) {
                        let object = std::ptr::with_exposed_provenance_mut(object);
                        // SAFETY: as above.
                        assert_eq!(unsafe { heap.free(cache, object) }, Ok(()));
                    }
                    failed
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert_eq!((failed, fault.asked(), fault.failed()), (100, 240, 100));
}

static SEEN: Mutex<Vec<(String, usize, u64, u64)>> = Mutex::new(Vec::new());

fn remember(injection: &Injection<'_>) {
    let request = injection.request;
    let seen = (request.cache.to_owned(), request.size, injection.number, injection.before);
    SEEN.lock().expect("no panic").push(seen);
}

#[test]
fn failures_are_told_and_shown() {
    let rig = Rig::<KernelConfig>::new();
    let cache = rig.cache("some", 100);
    rig.machine.set_calls(&["parse+0x10/0x20", "main+0x8/0x90"]);
    let loud = Attributes { interval: 2, times: 2, verbose: 2, ..Attributes::ALWAYS };
    let fault = Box::leak(Box::new(Fault::new(loud).with_hook(remember)));
    rig.heap.inject(Kind::Slab, Some(fault));
    assert_eq!(failures(&rig, cache, 3, Gfp::KERNEL), [2]);
    assert_eq!(
        rig.said(),
        "FAULT_INJECTION: forcing a failure.\n\
         name failslab, interval 2, probability 100, space 0, times 2\n\
         request 2: 100 bytes of some\n\
         Call Trace:\n <TASK>\n parse+0x10/0x20\n main+0x8/0x90\n </TASK>\n"
    );
    assert_eq!(failures(&rig, cache, 3, QUIET), [1]);
    assert_eq!(rig.said(), "", "a request that fails quietly does so here");
    let seen = SEEN.lock().expect("no panic").clone();
    assert_eq!(seen, [("some".to_owned(), 100, 2, 0), ("some".to_owned(), 100, 4, 1)]);
}
