//! Every way into the heap meets the rules, and says so as it says that there is no memory.

use std::ptr;

use kmem_core::cache::{CacheArgs, CreateError};
use kmem_core::config::{Config, KernelConfig, UserConfig};
use kmem_core::engine::Engine;
use kmem_core::fault::{Attributes, Kind};
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;

use crate::rule;
use crate::support::{QUIET, Rig, fill, filled, for_each_config, for_slob};

for_each_config! {
    objects_fail_by_every_call
    blocks_fail_by_every_call
    pages_fail_where_they_are_asked_for
    a_resize_that_fails_leaves_the_block
    small_orders_may_be_spared
}
for_slob! {
    blocks_fail_by_every_call
    pages_fail_where_they_are_asked_for
    a_resize_that_fails_leaves_the_block
}

fn objects_fail_by_every_call<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("some", 64);
    rig.give(cache, rig.take(cache, 50));
    let before = rig.holdings();
    rig.heap.inject(Kind::Slab, Some(rule(Attributes::ALWAYS)));
    let heap = &rig.heap;
    // SAFETY: the cache is alive.
    unsafe {
        assert!(heap.alloc(cache, QUIET).is_null());
        assert!(heap.zalloc(cache, QUIET).is_null());
        assert!(heap.alloc_node(cache, QUIET, Some(0)).is_null());
        assert!(heap.alloc_node(cache, QUIET | Gfp::THISNODE, Some(0)).is_null());
        let mut objects = [ptr::null_mut(); 9];
        assert!(!heap.alloc_bulk(cache, QUIET, &mut objects));
        assert!(heap.alloc_bulk(cache, QUIET, &mut []), "nothing is not much to ask");
        assert!(heap.prefill_sheaf(cache, QUIET, 5).is_none());
    }
    assert!(matches!(heap.create("late", 32, CacheArgs::default()), Err(CreateError::NoMemory)));
    heap.inject(Kind::Slab, None);
    rig.said();
    assert_eq!(rig.holdings(), before);
}

fn blocks_fail_by_every_call<C: Config>() {
    let rig = Rig::<C>::new();
    rig.give_back(&[100, 3000]);
    let before = rig.holdings();
    let heap = &rig.heap;
    heap.inject(Kind::Slab, Some(rule(Attributes::ALWAYS)));
    assert!(heap.kmalloc(100, QUIET).is_null());
    assert!(heap.kmalloc(100, QUIET | Gfp::ZERO).is_null());
    assert!(heap.kmalloc_node(100, QUIET, Some(0)).is_null());
    assert!(heap.kmalloc_nolock(100, Gfp::empty(), None).is_null());
    assert!(heap.allocate(100, QUIET).is_null());
    if C::Engine::CLASSES {
        assert!(heap.allocate_aligned(256, 100, QUIET).is_null());
    }
    assert!(heap.kvmalloc(100, QUIET).is_null());
    assert_eq!(heap.kmalloc(0, QUIET), kmem_core::kmalloc::ZERO_SIZE_PTR, "nothing is always there");
    heap.inject(Kind::Slab, None);
    rig.said();
    assert_eq!(rig.holdings(), before);
}

fn pages_fail_where_they_are_asked_for<C: Config>() {
    let rig = Rig::<C>::new();
    rig.give_back(&[100, 20_000, 300_000]);
    let before = rig.holdings();
    let heap = &rig.heap;
    let cache = rig.cache("some", 64);
    let fault = rule(Attributes::ALWAYS);
    heap.inject(Kind::Page, Some(fault));
    assert!(heap.pages().alloc(&rig.machine, QUIET, 0, None).is_none());
    assert!(heap.pages().alloc_exact(&rig.machine, QUIET, 3, None).is_none());
    assert!(heap.kmalloc(300_000, QUIET).is_null(), "a large block");
    assert!(heap.allocate_aligned(1 << 16, 20_000, QUIET).is_null());
    assert!(heap.kvmalloc(6 << 20, QUIET).is_null(), "a mapping");
    assert!(heap.allocate(6 << 20, QUIET).is_null());
    // A slab needs pages, an object in one does not.
    if C::Engine::KNOWS_CACHE {
        assert!(rig.alloc(cache, QUIET).is_null());
    }
    heap.inject(Kind::Page, None);
    rig.give(cache, rig.take(cache, 1));
    heap.inject(Kind::Page, Some(fault));
    rig.give(cache, rig.take(cache, 2));
    // Nor does what must not fail.
    let asked = fault.asked();
    let run = heap.pages().alloc(&rig.machine, QUIET | Gfp::NOFAIL, 2, None).expect("pages");
    heap.pages().free(&rig.machine, run);
    assert_eq!(fault.asked(), asked);
    heap.inject(Kind::Page, None);
    assert_eq!(rig.destroy(cache), Ok(true));
    rig.said();
    assert_eq!(rig.holdings(), before);
}

fn a_resize_that_fails_leaves_the_block<C: Config>() {
    let rig = Rig::<C>::new();
    rig.give_back(&[100, 1000, 20_000, 80_000, 300_000]);
    let before = rig.holdings();
    let mapping = 5 << 20;
    for (size, larger) in [(100, 1000), (20_000, 80_000), (mapping, 2 * mapping)] {
        let block = rig.heap.allocate(size, QUIET);
        fill(block, size, 3);
        rig.heap.inject(Kind::Slab, Some(rule(Attributes::ALWAYS)));
        rig.heap.inject(Kind::Page, Some(rule(Attributes::ALWAYS)));
        // SAFETY: the test holds the block.
        assert_eq!(unsafe { rig.heap.reallocate(block, larger, QUIET) }, Ok(ptr::null_mut()), "{size}");
        if size < mapping {
            assert_eq!(rig.krealloc(block, larger, QUIET), Ok(ptr::null_mut()), "{size}");
        }
        assert!(filled(block, size, 3), "{size}");
        // SAFETY: as above. A smaller size is where the block is.
        let smaller = unsafe { rig.heap.reallocate(block, size / 8, QUIET) }.expect("a good block");
        assert!(filled(smaller, size / 8, 3), "{size}");
        rig.heap.inject(Kind::Slab, None);
        rig.heap.inject(Kind::Page, None);
        assert_eq!(rig.kfree(smaller), Ok(()));
    }
    rig.said();
    assert_eq!(rig.holdings(), before);
}

fn small_orders_may_be_spared<C: Config>() {
    let rig = Rig::<C>::new();
    let fault = rule(Attributes { min_order: 2, ..Attributes::ALWAYS });
    rig.heap.inject(Kind::Page, Some(fault));
    let orders: Vec<bool> = (0..4)
        .map(|order| {
            let run = rig.heap.pages().alloc(&rig.machine, QUIET, order, None);
            let there = run.is_some();
            run.into_iter().for_each(|run| rig.heap.pages().free(&rig.machine, run));
            there
        })
        .collect();
    assert_eq!((orders, fault.failed()), (vec![true, true, false, false], 2));
}

/// The requests of programs are a kind of their own, which only those who serve programs ask about.
#[test]
fn programs_requests_are_asked_for_by_size() {
    let rig = Rig::<UserConfig>::new();
    let refused = |attributes: Attributes, size| {
        rig.heap.inject(Kind::Malloc, Some(rule(attributes)));
        let refused = rig.heap.refuses_program(size, Gfp::KERNEL);
        let block = rig.heap.allocate(size, QUIET);
        assert!(!block.is_null() && rig.kfree(block) == Ok(()), "the heap itself serves");
        rig.heap.inject(Kind::Malloc, None);
        assert!(!rig.heap.refuses_program(size, Gfp::KERNEL));
        refused
    };
    let always = Attributes::ALWAYS;
    for size in [0, 1, 100, 20_000, 6 << 20] {
        assert!(refused(always, size), "{size}");
    }
    let class = Attributes { caches: Some("kmalloc-112"), ..always };
    assert!(refused(class, 100) && refused(class, 112) && !refused(class, 113) && !refused(class, 6 << 20));
    assert!(!refused(Attributes { marked_only: true, ..always }, 100));
}

/// So are programs' requests of their own caches, which are closed while such a rule is there.
#[test]
fn programs_requests_of_their_caches() {
    let rig = Rig::<UserConfig>::new();
    let args = || CacheArgs { flags: Some(SlabFlags::NO_MERGE), ..CacheArgs::default() };
    let [mine, other] = ["mine", "other"].map(|name| rig.heap.create(name, 40, args()).expect("memory"));
    // SAFETY: both live until the end.
    let refused = |cache, size| unsafe { rig.heap.refuses_programs_object(cache, size, Gfp::KERNEL) };
    // SAFETY: as above.
    let quick = |cache| unsafe { rig.heap.serves_quickly(cache) };
    assert!(!refused(mine, 40) && quick(mine) && quick(other));
    let second = rule(Attributes { caches: Some("mine"), sizes: (33, 40), ..Attributes::nth(2) });
    rig.heap.inject(Kind::Malloc, Some(second));
    assert!(!quick(mine) && quick(other));
    assert!(!refused(mine, 33) && !refused(other, 33) && !refused(mine, 32), "one of these counts");
    assert!(refused(mine, 40) && !refused(mine, 40));
    assert_eq!((second.asked(), second.failed()), (3, 1));
    rig.heap.inject(Kind::Malloc, None);
    assert!(!refused(mine, 40) && quick(mine) && quick(other));
    // SAFETY: both live.
    assert_eq!(unsafe { rig.heap.set_debug_letters(mine, SlabFlags::CONSISTENCY_CHECKS) }, Ok(()));
    assert!(!quick(mine));
    // SAFETY: both live.
    assert_eq!(unsafe { rig.heap.set_debug_letters(mine, SlabFlags::empty()) }, Ok(()));
    // SAFETY: both live.
    let mixed = [mine, other].map(|cache| unsafe { rig.heap.is_mixed(cache) });
    assert_eq!((quick(mine), mixed), (false, [true, false]), "for good");
    for cache in [mine, other] {
        // SAFETY: nobody uses them any more.
        assert_eq!(unsafe { rig.heap.destroy(cache) }, Ok(true));
    }
}

#[test]
fn classes_are_marked_by_the_letter_a() {
    let rig = Rig::<KernelConfig>::raw(kmem_sim::Machine::builder().build());
    assert!(rig.heap.set_debug_options("A,kmalloc-64"));
    assert!(rig.init());
    rig.heap.inject(Kind::Slab, Some(rule(Attributes { marked_only: true, ..Attributes::ALWAYS })));
    let failed = [32, 64, 65].map(|size| rig.heap.kmalloc(size, QUIET).is_null());
    assert_eq!(failed, [false, true, false]);
}

impl<C: Config> Rig<C> {
    /// Uses blocks of these sizes once, so that what comes with use is there.
    fn give_back(&self, sizes: &[usize]) {
        for &size in sizes {
            let block = self.heap.allocate(size, QUIET);
            assert_eq!(self.kfree(block), Ok(()));
        }
    }
}
