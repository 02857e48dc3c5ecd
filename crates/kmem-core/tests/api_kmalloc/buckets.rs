//! Size classes of one's own.

use kmem_core::cache::create::MAX_NAME;
use kmem_core::cache::{CacheArgs, DestroyError};
use kmem_core::config::Config;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::ZERO_SIZE_PTR;
use kmem_core::kmalloc::buckets::{BucketArgs, Buckets};
use kmem_core::kmalloc::classes::{ClassSet, MAX_BYTES};
use kmem_core::page::Kind;

use crate::support::{QUIET, Rig, fill, filled, for_each_config, is_zero, small_machine};

for_each_config! {
    kmem_buckets_create
    kmem_buckets_create_refuses
    kmem_buckets_create_without_memory
    kmem_buckets_alloc
    kmem_buckets_valloc
    kmem_buckets_destroy
}

crate::support::for_slob! {
    kmem_buckets_create
}

fn create<C: Config>(rig: &Rig<C>, args: BucketArgs) -> Option<Buckets<C::Engine>> {
    rig.heap.kmem_buckets_create("msg", args)
}

fn alloc<C: Config>(rig: &Rig<C>, set: &Buckets<C::Engine>, size: usize, gfp: Gfp) -> *mut u8 {
    // SAFETY: the set is alive and of this heap.
    unsafe { rig.heap.kmem_buckets_alloc(set, size, gfp, None) }
}

fn destroy<C: Config>(rig: &Rig<C>, set: Buckets<C::Engine>) -> Result<(), DestroyError> {
    // SAFETY: the set is not used afterwards.
    unsafe { rig.heap.kmem_buckets_destroy(set) }
}

fn cache_name<C: Config>(rig: &Rig<C>, block: *mut u8) -> String {
    let mut text = String::new();
    assert_eq!(rig.heap.dump_obj(block, &mut text), Ok(true));
    text.split(' ').nth(1).expect("a name").to_owned()
}

fn kmem_buckets_create<C: Config>() {
    let rig = Rig::<C>::new();
    let args = BucketArgs { useroffset: 16, usersize: 100, ..BucketArgs::default() };
    let set = create(&rig, args).expect("memory");
    assert_eq!(set.caches().count(), C::Classes::SLAB_CLASSES);
    for (class, cache) in set.caches().enumerate() {
        let size = C::Classes::size_of(class);
        // SAFETY: the cache is alive.
        let cache = unsafe { cache.get() };
        assert!(cache.name().starts_with("msg-"), "{}", cache.name());
        assert_eq!(cache.object_size(), size);
        // The window is cut to the class.
        let window = if size > 16 { (16, (size - 16).min(100)) } else { (0, 0) };
        assert_eq!(cache.usercopy(), window, "{size}");
    }
    // Nobody is merged into them, nor they into each other's.
    let other = create(&rig, BucketArgs::default()).expect("memory");
    for (a, b) in set.caches().zip(other.caches()) {
        assert_ne!(a, b);
        // SAFETY: the cache is alive.
        let size = unsafe { b.get() }.object_size();
        let plain = rig.heap.create("plain", size, CacheArgs::default()).expect("memory");
        assert!(plain != a && plain != b);
    }
    assert_eq!((destroy(&rig, set), destroy(&rig, other)), (Ok(()), Ok(())));
}

fn kmem_buckets_create_refuses<C: Config>() {
    let rig = Rig::<C>::new();
    let before = rig.holdings();
    assert!(rig.heap.kmem_buckets_create("", BucketArgs::default()).is_none());
    for name in ["n".repeat(MAX_NAME), "€".repeat(MAX_NAME), "n".repeat(MAX_NAME - 2)] {
        assert!(rig.heap.kmem_buckets_create(&name, BucketArgs::default()).is_none());
    }
    let flags = Some(SlabFlags::FAILSLAB);
    assert!(create(&rig, BucketArgs { flags, ..BucketArgs::default() }).is_none());
    assert_eq!(rig.holdings(), before, "nothing is left behind");
}

fn kmem_buckets_create_without_memory<C: Config>() {
    let rig = Rig::<C>::on(small_machine());
    let mut refused = 0;
    for free in 0..40 {
        let mut runs = rig.exhaust();
        let rest = runs.split_off(free.min(runs.len()));
        rig.relent(runs);
        let before = rig.holdings();
        let set = create(&rig, BucketArgs::default());
        refused += u32::from(set.is_none());
        if let Some(set) = set {
            assert_eq!(destroy(&rig, set), Ok(()));
        }
        assert_eq!(rig.holdings(), before, "{free} free pages");
        rig.relent(rest);
    }
    assert!(refused > 0, "memory was never short");
}

fn kmem_buckets_alloc<C: Config>() {
    let rig = Rig::<C>::two_nodes();
    let set = create(&rig, BucketArgs::default()).expect("memory");
    let before = rig.holdings();
    assert_eq!(alloc(&rig, &set, 0, Gfp::KERNEL), ZERO_SIZE_PTR);
    // Sets are of the classes that lie in slabs.
    for size in [1, 8, 100, 1000, 4096] {
        let block = alloc(&rig, &set, size, Gfp::KERNEL);
        fill(block, size, 1);
        assert!(filled(block, size, 1) && rig.ksize(block) >= size);
        assert!(cache_name(&rig, block).starts_with("msg-"));
        assert!(cache_name(&rig, rig.kmalloc(size)).starts_with("kmalloc-"));
        if size.is_power_of_two() && C::Classes::HEADED == 0 {
            assert!(block.addr().is_multiple_of(size), "{size}");
        }
        assert_eq!(rig.kfree(block), Ok(()), "kfree knows where it is from");
        assert!(is_zero(alloc(&rig, &set, size, Gfp::KERNEL | Gfp::ZERO), size));
        // SAFETY: the set is alive and of this heap.
        let far = unsafe { rig.heap.kmem_buckets_alloc(&set, size, Gfp::KERNEL, Some(1)) };
        assert_eq!(rig.node_of(far), 1);
    }
    let large = alloc(&rig, &set, 20_000, Gfp::KERNEL);
    assert_eq!(rig.kind_of(large), Some(Kind::Large), "whole pages");
    assert_eq!(rig.kfree(large), Ok(()));
    assert!(alloc(&rig, &set, MAX_BYTES + 1, Gfp::KERNEL).is_null());
    assert!(rig.said().contains("more than the largest block"));
    assert_ne!(rig.holdings(), before, "some are still in use");
}

fn kmem_buckets_valloc<C: Config>() {
    let rig = Rig::<C>::new();
    let set = create(&rig, BucketArgs::default()).expect("memory");
    // SAFETY: the set is alive and of this heap.
    let valloc = |size, gfp| unsafe { rig.heap.kmem_buckets_valloc(&set, size, gfp) };
    assert_eq!(valloc(0, Gfp::KERNEL), ZERO_SIZE_PTR);
    assert!(cache_name(&rig, valloc(100, Gfp::KERNEL)).starts_with("msg-"));
    assert!(cache_name(&rig, valloc(5000, Gfp::KERNEL)).starts_with("msg-"));
    let mapping = valloc(MAX_BYTES + 1, Gfp::KERNEL);
    assert!(!mapping.is_null() && rig.kind_of(mapping).is_none());
    assert_eq!(rig.kfree(mapping), Ok(()));
    assert!(valloc(MAX_BYTES + 1, Gfp::NOWAIT).is_null());
    assert!(valloc(usize::MAX, QUIET).is_null());
    assert_eq!(rig.said(), "");
}

fn kmem_buckets_destroy<C: Config>() {
    let rig = Rig::<C>::new();
    let before = rig.holdings();
    let set = create(&rig, BucketArgs::default()).expect("memory");
    for size in [8, 500, 8000] {
        assert_eq!(rig.kfree(alloc(&rig, &set, size, Gfp::KERNEL)), Ok(()));
    }
    assert_eq!(destroy(&rig, set), Ok(()));
    assert_eq!(rig.holdings(), before);
    // With a block in use: its cache stays, all others go, and a late free is accepted.
    let set = create(&rig, BucketArgs::default()).expect("memory");
    let block = alloc(&rig, &set, 100, Gfp::KERNEL);
    assert_eq!(destroy(&rig, set), Err(DestroyError::ObjectsRemain(1)));
    let mut left = 0;
    rig.heap.for_each_cache(|cache| left += usize::from(cache.name().starts_with("msg-")));
    assert_eq!(left, 0);
    assert_eq!(rig.kfree(block), Ok(()));
}
