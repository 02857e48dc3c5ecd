//! Prefilled sheaves.

use std::collections::BTreeSet;

use kmem_core::cache::sheaves::{NotFilled, Sheaf};
use kmem_core::cache::{CacheArgs, DestroyError};
use kmem_core::config::Config;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;

use crate::support::{Cache, QUIET, Rig, fill, for_each_config, is_zero, small_machine};

for_each_config! {
    kmem_cache_prefill_sheaf
    kmem_cache_prefill_sheaf_without_memory
    kmem_cache_prefill_sheaf_of_a_checked_cache
    kmem_cache_alloc_from_sheaf
    kmem_cache_alloc_from_sheaf_never_fails
    kmem_cache_refill_sheaf
    kmem_cache_refill_sheaf_without_memory
    kmem_cache_return_sheaf
    a_cache_with_a_filled_sheaf_is_in_use
}

crate::support::for_slob! {
    kmem_cache_prefill_sheaf
    kmem_cache_prefill_sheaf_without_memory
    kmem_cache_alloc_from_sheaf
    kmem_cache_alloc_from_sheaf_never_fails
    kmem_cache_refill_sheaf
    kmem_cache_refill_sheaf_without_memory
    kmem_cache_return_sheaf
    a_cache_with_a_filled_sheaf_is_in_use
}

fn prefill<C: Config>(rig: &Rig<C>, cache: Cache<C>, n: usize) -> Option<Sheaf<C::Engine>> {
    // SAFETY: the tests return their sheaves before they destroy the cache.
    unsafe { rig.heap.prefill_sheaf(cache, QUIET, n) }
}

fn refill<C: Config>(rig: &Rig<C>, sheaf: &mut Sheaf<C::Engine>, n: usize) -> Result<(), NotFilled> {
    // SAFETY: a sheaf of this heap.
    unsafe { rig.heap.refill_sheaf(sheaf, QUIET, n) }
}

fn from<C: Config>(rig: &Rig<C>, sheaf: &mut Sheaf<C::Engine>, gfp: Gfp) -> *mut u8 {
    // SAFETY: a sheaf of this heap.
    unsafe { rig.heap.alloc_from_sheaf(sheaf, gfp) }
}

fn give_back<C: Config>(rig: &Rig<C>, sheaf: Sheaf<C::Engine>) {
    // SAFETY: a sheaf of this heap.
    unsafe { rig.heap.return_sheaf(sheaf) }
}

fn kmem_cache_prefill_sheaf<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("c", 64);
    // Up to what a stack holds, just above the largest array, and far beyond.
    for n in [0, 1, 10, 60, 126, 127, 128, 129, 1000, 20_000] {
        let sheaf = prefill(&rig, cache, n).expect("memory");
        assert_eq!(sheaf.size(), n, "kmem_cache_sheaf_size");
        assert!(sheaf.room() >= n && sheaf.cache() == cache);
        assert_eq!(rig.in_use(cache), n as u64);
        give_back(&rig, sheaf);
        assert_eq!(rig.in_use(cache), 0);
    }
    let before = rig.holdings();
    assert!(prefill(&rig, cache, usize::MAX).is_none());
    assert!(prefill(&rig, cache, usize::MAX / 8).is_none());
    assert_eq!(rig.holdings(), before);
}

fn kmem_cache_prefill_sheaf_without_memory<C: Config>() {
    let rig = Rig::<C>::on(small_machine());
    let cache = rig.cache("c", 4096);
    let before = rig.holdings();
    for n in [1100, 2000, 10_000] {
        assert!(prefill(&rig, cache, n).is_none(), "the machine has 1024 pages");
        assert_eq!(rig.holdings(), before);
    }
    let sheaf = prefill(&rig, cache, 500).expect("so many there are");
    give_back(&rig, sheaf);
    assert_eq!(rig.destroy(cache), Ok(true));
}

fn kmem_cache_prefill_sheaf_of_a_checked_cache<C: Config>() {
    let rig = Rig::<C>::new();
    for flags in [SlabFlags::RED_ZONE | SlabFlags::POISON, SlabFlags::NOLEAKTRACE] {
        let args = CacheArgs { flags: Some(flags), ..CacheArgs::default() };
        let cache = rig.create("without stacks", 64, args).expect("a cache");
        // In SLAB such caches have arrays as all others.
        // SAFETY: the cache is alive.
        assert_eq!(unsafe { cache.stack_id() } == 0, crate::support::is_slub::<C>());
        let mut sheaf = prefill(&rig, cache, 100).expect("memory");
        let object = from(&rig, &mut sheaf, Gfp::KERNEL);
        assert_eq!((sheaf.size(), rig.in_use(cache)), (99, 100));
        give_back(&rig, sheaf);
        assert_eq!(rig.free(cache, object), Ok(()));
        assert_eq!(rig.destroy(cache), Ok(true));
    }
}

fn kmem_cache_alloc_from_sheaf<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("c", 64);
    let dirty = rig.take(cache, 200);
    dirty.iter().for_each(|&object| fill(object, 64, 9));
    rig.give(cache, dirty);
    let mut sheaf = prefill(&rig, cache, 100).expect("memory");
    let mut objects = BTreeSet::new();
    for left in (0..100).rev() {
        let object = from(&rig, &mut sheaf, Gfp::KERNEL | Gfp::ZERO);
        assert!(!object.is_null() && is_zero(object, 64));
        assert_eq!(sheaf.size(), left);
        assert!(objects.insert(object), "each once");
    }
    assert_eq!(rig.said(), "");
    assert!(from(&rig, &mut sheaf, Gfp::KERNEL).is_null());
    assert!(rig.said().contains("empty sheaf of cache c"));
    give_back(&rig, sheaf);
    assert_eq!(rig.in_use(cache), 100);
    // They are objects like all others.
    rig.give(cache, objects.into_iter().collect());
    assert_eq!(rig.in_use(cache), 0);
}

/// With no page left, on another CPU, and after the stacks were flushed.
fn kmem_cache_alloc_from_sheaf_never_fails<C: Config>() {
    let rig = Rig::<C>::on(small_machine());
    let cache = rig.cache("c", 64);
    let mut sheaf = prefill(&rig, cache, 300).expect("memory");
    rig.shrink(cache);
    let pages = rig.exhaust();
    rig.machine.fail_after(1);
    let locks = rig.machine.counters().total_locks();
    let objects: Vec<_> = (0..300).map(|_| from(&rig, &mut sheaf, Gfp::NOWAIT)).collect();
    assert_eq!(rig.machine.counters().total_locks(), locks, "no lock was taken");
    assert!(objects.iter().all(|object| !object.is_null()));
    rig.give(cache, objects);
    give_back(&rig, sheaf);
    rig.relent(pages);
    assert_eq!(rig.in_use(cache), 0);
}

fn kmem_cache_refill_sheaf<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("c", 64);
    let mut sheaf = prefill(&rig, cache, 10).expect("memory");
    assert_eq!(refill(&rig, &mut sheaf, 5), Ok(()));
    assert_eq!(sheaf.size(), 10, "it has them");
    let first = from(&rig, &mut sheaf, Gfp::KERNEL);
    assert_eq!(refill(&rig, &mut sheaf, 12), Ok(()));
    assert_eq!((sheaf.size(), rig.in_use(cache)), (12, 13));
    // Beyond its room: into a larger array, keeping what it has.
    assert_eq!(refill(&rig, &mut sheaf, 5000), Ok(()));
    assert_eq!((sheaf.size(), rig.in_use(cache)), (5000, 5001));
    let mut objects = BTreeSet::from([first]);
    while sheaf.size() > 0 {
        assert!(objects.insert(from(&rig, &mut sheaf, Gfp::KERNEL)));
    }
    assert_eq!(objects.len(), 5001);
    give_back(&rig, sheaf);
    rig.give(cache, objects.into_iter().collect());
    assert_eq!(rig.destroy(cache), Ok(true));
}

fn kmem_cache_refill_sheaf_without_memory<C: Config>() {
    let rig = Rig::<C>::on(small_machine());
    let cache = rig.cache("c", 1024);
    let mut sheaf = prefill(&rig, cache, 10).expect("memory");
    let before = rig.holdings();
    for n in [5000, 100_000, usize::MAX] {
        assert_eq!(refill(&rig, &mut sheaf, n), Err(NotFilled));
        assert_eq!((sheaf.size(), rig.in_use(cache)), (10, 10), "it is as it was");
        assert_eq!(rig.holdings(), before);
    }
    let objects: BTreeSet<_> = (0..10).map(|_| from(&rig, &mut sheaf, Gfp::KERNEL)).collect();
    assert_eq!(objects.len(), 10);
    objects.iter().for_each(|&object| fill(object, 1024, 5));
    assert_eq!(refill(&rig, &mut sheaf, 10), Ok(()));
    give_back(&rig, sheaf);
    rig.give(cache, objects.into_iter().collect());
}

/// What is returned is at hand for the next one who asks on this CPU.
fn kmem_cache_return_sheaf<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("c", 64);
    let before = rig.holdings();
    for n in [3, 500] {
        let mut sheaf = prefill(&rig, cache, n).expect("memory");
        let taken = from(&rig, &mut sheaf, Gfp::KERNEL);
        give_back(&rig, sheaf);
        assert_eq!(rig.in_use(cache), 1);
        assert_eq!(rig.free(cache, taken), Ok(()));
        assert_eq!(rig.holdings(), before, "the array went back too");
    }
}

fn a_cache_with_a_filled_sheaf_is_in_use<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("c", 64);
    let _sheaf = prefill(&rig, cache, 7).expect("memory");
    assert_eq!(rig.destroy(cache), Err(DestroyError::ObjectsRemain(7)));
}
