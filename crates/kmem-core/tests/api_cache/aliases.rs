//! Caches that share slabs.

use kmem_core::cache::CacheArgs;
use kmem_core::config::Config;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;

use crate::support::{Cache, Rig, fill, for_each_config, is_zero};

for_each_config! {
    a_cache_that_asks_for_the_same_is_an_alias
    the_larger_object_counts
    destroying_an_alias_leaves_the_others
    some_caches_never_merge
}

fn plain<C: Config>(rig: &Rig<C>, name: &str, size: usize) -> Cache<C> {
    rig.heap.create(name, size, CacheArgs::default()).expect("a cache")
}

fn aliases<C: Config>(cache: Cache<C>) -> u32 {
    // SAFETY: the tests of this file ask while the cache lives.
    unsafe { cache.get() }.aliases()
}

fn size<C: Config>(rig: &Rig<C>, cache: Cache<C>) -> usize {
    // SAFETY: as above.
    unsafe { rig.heap.cache_size(cache) }
}

fn a_cache_that_asks_for_the_same_is_an_alias<C: Config>() {
    let rig = Rig::<C>::new();
    let first = plain(&rig, "first", 200);
    assert_eq!(aliases::<C>(first), 0);
    for (i, size) in (193..=200).enumerate() {
        assert_eq!(plain(&rig, "another", size), first, "{size}");
        assert_eq!(aliases::<C>(first), i as u32 + 1);
    }
    for size in [192, 201] {
        assert_ne!(plain(&rig, "other", size), first, "{size}");
    }
    // SAFETY: the cache is alive.
    assert_eq!(unsafe { first.get() }.name(), "first", "the name of the oldest");
    let mut named = 0;
    rig.heap.for_each_cache(|cache| named += u32::from(cache.name() == "another"));
    assert_eq!(named, 0, "an alias is no cache of the list");
}

fn the_larger_object_counts<C: Config>() {
    let rig = Rig::<C>::new();
    let small = plain(&rig, "small", 194);
    assert_eq!(size(&rig, small), 194);
    assert_eq!(plain(&rig, "large", 199), small);
    assert_eq!(size(&rig, small), 199);
    assert_eq!(plain(&rig, "middle", 196), small);
    assert_eq!(size(&rig, small), 199);
    // What is cleared for one covers the others.
    let object = rig.alloc(small, Gfp::KERNEL);
    fill(object, 200, 7);
    assert_eq!(rig.free(small, object), Ok(()));
    // SAFETY: the cache is alive.
    let again = unsafe { rig.heap.zalloc(small, Gfp::KERNEL) };
    assert!(again == object && is_zero(again, 199));
}

fn destroying_an_alias_leaves_the_others<C: Config>() {
    let rig = Rig::<C>::new();
    let before = rig.holdings();
    let cache = plain(&rig, "first", 200);
    assert_eq!(plain(&rig, "second", 200), cache);
    assert_eq!(plain(&rig, "third", 200), cache);
    let object = rig.alloc(cache, Gfp::KERNEL);
    // Objects in use matter only when the last user leaves.
    assert_eq!(rig.destroy(cache), Ok(false));
    assert_eq!(rig.destroy(cache), Ok(false));
    assert_eq!(rig.said(), "");
    assert_eq!(rig.free(cache, object), Ok(()));
    assert_eq!(rig.destroy(cache), Ok(true));
    assert_eq!(rig.holdings(), before);
}

fn some_caches_never_merge<C: Config>() {
    unsafe extern "C" fn construct(_object: *mut u8) {}
    let rig = Rig::<C>::new();
    let base = CacheArgs::default();
    let first = plain(&rig, "first", 200);
    let with = |flags| CacheArgs { flags: Some(flags), ..base };
    let apart = [
        with(SlabFlags::NO_MERGE),
        with(SlabFlags::TYPESAFE_BY_RCU),
        with(SlabFlags::NOLEAKTRACE),
        with(SlabFlags::POISON),
        with(SlabFlags::RECLAIM_ACCOUNT),
        with(SlabFlags::CACHE_DMA),
        CacheArgs { ctor: Some(construct), ..base },
        CacheArgs { useroffset: 8, usersize: 8, ..base },
        CacheArgs { sheaf_capacity: 100, ..base },
    ];
    let mut known = vec![first];
    for (i, args) in apart.iter().cycle().take(2 * apart.len()).enumerate() {
        let cache = rig.heap.create("apart", 200, *args).expect("a cache");
        // Caches whose pages are of another kind merge among themselves, with the one of their own kind.
        let kind = SlabFlags::RECLAIM_ACCOUNT | SlabFlags::CACHE_DMA;
        let own_kind = args.flags.is_some_and(|flags| flags.intersects(kind)) && i >= apart.len();
        assert_eq!(known.contains(&cache), own_kind, "{i}");
        known.push(cache);
    }
    // And kmalloc's classes take nobody in, although one has the same slots.
    let class = plain(&rig, "class", 64);
    // SAFETY: the cache is alive.
    assert_eq!(unsafe { class.get() }.name(), "class");
}
