//! A link of a slab's descriptor that was written over: nobody follows it, it is told, and the list is mended.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use kmem_core::cache::CacheArgs;
use kmem_core::config::Config;
use kmem_core::gfp::Gfp;
use kmem_core::page::Page;

use crate::support::{Cache, Rig, for_each_config};

for_each_config! { a_damaged_link_is_told_and_the_list_is_mended }

/// Where a descriptor has its links: `page::desc`.
const NEXT: usize = 8;
const PREV: usize = 12;

fn link<C: Config>(rig: &Rig<C>, object: *mut u8, which: usize) -> &'static AtomicU32 {
    let pages = rig.heap.pages();
    let slab: &Page = pages.head(pages.at(object.addr()).expect("memory of the heap"));
    // SAFETY: a field of a descriptor, which is an atomic there too; the machine outlives the test's use of it.
    unsafe { AtomicU32::from_ptr(std::ptr::from_ref(slab).cast_mut().cast::<u8>().add(which).cast()) }
}

/// A cache with many slabs, each of which has objects in use and free ones; those in use.
fn half_used<C: Config>(rig: &Rig<C>) -> (Cache<C>, Vec<*mut u8>) {
    let cache = rig.create("linked", 1000, CacheArgs::default()).expect("a cache");
    let objects: Vec<_> = (0..600).map(|_| rig.alloc(cache, Gfp::KERNEL)).collect();
    let (kept, freed): (Vec<_>, Vec<_>) = objects.into_iter().enumerate().partition(|(at, _)| at % 2 == 0);
    for (_, object) in freed {
        assert_eq!(rig.free(cache, object), Ok(()));
    }
    rig.shrink(cache);
    (cache, kept.into_iter().map(|(_, object)| object).collect())
}

fn a_damaged_link_is_told_and_the_list_is_mended<C: Config>() {
    for (which, wild) in
        [(0, 0), (NEXT, u32::MAX), (PREV, u32::MAX), (NEXT, 0), (PREV, 0), (NEXT, 1), (PREV, 1)]
    {
        let rig = Rig::<C>::new();
        let (cache, objects) = half_used(&rig);
        let between =
            |object: &&*mut u8| [NEXT, PREV].iter().all(|&at| link(&rig, **object, at).load(Relaxed) != 0);
        let object = *objects.iter().find(between).expect("a slab between two");
        // SAFETY: the cache is alive, and nobody else works on it.
        let sound = || unsafe { rig.heap.validate_cache(cache) }.is_ok();
        assert!(sound());
        rig.said();
        if which != 0 {
            link(&rig, object, which).store(wild, Relaxed);
            assert!(!sound(), "{which} {wild:#x}");
        }
        let end = || {
            for &object in &objects {
                assert_eq!(rig.free(cache, object), Ok(()));
            }
            rig.shrink(cache);
        };
        let said = if which != 0 && C::ABORT {
            rig.machine.expect_fatal(end)
        } else {
            end();
            rig.said()
        };
        if which == 0 {
            assert_eq!(said, "");
        } else {
            assert_eq!(said.matches("Slab list corrupt at slab").count(), 1, "{which} {wild:#x}: {said}");
        }
        if which == 0 || !C::ABORT {
            // Nothing is lost.
            assert!(sound(), "{which} {wild:#x}");
            assert_eq!(rig.counts(cache).slabs, 0, "{which} {wild:#x}");
            rig.destroy(cache).expect("a cache without objects");
            rig.holdings();
        }
    }
}
