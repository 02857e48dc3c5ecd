//! The two places that say which cache a page belongs to, its tag and its slab's descriptor, do not say the same: one of them was
//! written over.

use std::sync::atomic::{AtomicPtr, AtomicU16, Ordering::Relaxed};

use kmem_core::cache::CacheArgs;
use kmem_core::config::Config;
use kmem_core::engine::Fault;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::FreeError;
use kmem_core::page::Page;
use kmem_core::platform::{PAGE_SHIFT, Platform};

use crate::support::{Cache, Rig, for_each_config};

for_each_config! { a_tag_of_another_cache a_descriptor_of_another_cache }

/// Where a descriptor has its slab's cache: `page::desc`.
const CACHE: usize = 24;

/// Two caches of the same size, and an object of the first.
fn two<C: Config>(rig: &Rig<C>) -> (Cache<C>, Cache<C>, *mut u8) {
    let [first, second] =
        ["first", "second"].map(|name| rig.create(name, 600, CacheArgs::default()).expect("a cache"));
    let object = rig.alloc(first, Gfp::KERNEL);
    // Its slab is on the node's list, where a check finds it.
    let rest: Vec<_> = (0..40).map(|_| rig.alloc(first, Gfp::KERNEL)).collect();
    rest.into_iter().for_each(|object| assert_eq!(rig.free(first, object), Ok(())));
    rig.shrink(first);
    (first, second, object)
}

fn tag<C: Config>(rig: &Rig<C>, object: *mut u8) -> &AtomicU16 {
    let index = (object.addr() - rig.heap.pages().base_address()) >> PAGE_SHIFT;
    // SAFETY: the platform keeps one tag per page of added memory.
    unsafe { &*rig.machine.window().tags.add(index) }
}

fn validate<C: Config>(rig: &Rig<C>, cache: Cache<C>) -> Result<u64, Fault> {
    // SAFETY: the cache is alive, and nobody else works on it.
    unsafe { rig.heap.validate_cache(cache) }
}

/// Both ways of freeing refuse the object, and say why.
fn refused<C: Config>(rig: &Rig<C>, cache: Cache<C>, object: *mut u8, named: &str) {
    for refused in [rig.free(cache, object), rig.kfree(object)] {
        let Err(FreeError::Disputed { address, cache }) = refused else { panic!("{refused:?}") };
        assert_eq!((address, cache), (object.addr(), named));
    }
    assert!(rig.heap.ksize(object).is_err());
}

fn a_tag_of_another_cache<C: Config>() {
    let rig = Rig::<C>::new();
    let (first, second, object) = two(&rig);
    // SAFETY: both are alive.
    let [mine, theirs] = [first, second].map(|cache| unsafe { cache.stack_id() });
    let before = tag(&rig, object).swap(theirs, Relaxed);
    assert_eq!(before, mine);
    refused(&rig, first, object, "first");
    let (start, _) = rig.slab_of(object);
    assert_eq!(validate(&rig, first), Err(Fault::Map(start)));
    // Nothing was changed.
    tag(&rig, object).store(before, Relaxed);
    assert!(validate(&rig, first).is_ok());
    assert_eq!(rig.free(first, object), Ok(()));
    assert_eq!(rig.said(), "");
    rig.holdings();
}

fn a_descriptor_of_another_cache<C: Config>() {
    let rig = Rig::<C>::new();
    let (first, second, object) = two(&rig);
    let pages = rig.heap.pages();
    let slab: *const Page = pages.head(pages.at(object.addr()).expect("memory of the heap"));
    // SAFETY: it is alive.
    let other = std::ptr::from_ref(unsafe { second.get() }).cast_mut().cast::<u8>();
    // SAFETY: a field of a descriptor, which is an atomic there too; the machine outlives the test's use of it.
    let named = unsafe { AtomicPtr::<u8>::from_ptr(slab.cast_mut().cast::<u8>().add(CACHE).cast()) };
    let before = named.swap(other, Relaxed);
    let refusal = rig.kfree(object);
    assert_eq!(refusal, Err(FreeError::Disputed { address: object.addr(), cache: "second" }));
    assert!(matches!(validate(&rig, first), Err(Fault::State(_))));
    // Its own cache takes it, as the tag says; on its way to its slab somebody looks.
    let home = || {
        assert_eq!(rig.free(first, object), Ok(()));
        rig.shrink(first);
    };
    let said = if C::ABORT {
        rig.machine.expect_fatal(home)
    } else {
        home();
        rig.said()
    };
    assert!(said.contains("is in no slab of this cache"), "{said}");
    named.store(before, Relaxed);
}
