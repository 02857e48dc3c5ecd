//! The rules of Linux 2.6: a linked index, general caches with twins for DMA, destructors.

use std::sync::atomic::{AtomicUsize, Ordering};

use kmem_core::cache::CacheArgs;
use kmem_core::config::SeedConfig;
use kmem_core::engine::slab::geometry::IndexKind;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::classes::Kind;
use kmem_core::page::ZoneKind;
use kmem_core::platform::BLOCK_PAGES;
use kmem_sim::Machine;

type Rig = crate::support::Rig<SeedConfig>;

/// Objects of all sizes, from all places of the index, freed in another order, some of it twice over.
#[test]
fn linked_indexes_work() {
    let rig = Rig::new();
    let before = rig.holdings();
    for size in [1, 8, 20, 64, 200, 512, 600, 1024, 3000, 4096, 10_000, 100_000] {
        let cache = rig.cache("c", size);
        let mut objects = rig.take(cache, 100);
        objects.sort_unstable();
        assert!(objects.windows(2).all(|pair| pair[1].addr() - pair[0].addr() >= size), "{size}");
        let (evens, odds): (Vec<_>, Vec<_>) = objects.iter().enumerate().partition(|(i, _)| i % 2 == 0);
        rig.give(cache, evens.into_iter().map(|(_, &object)| object).collect());
        rig.shrink(cache);
        // SAFETY: the cache is alive, and nobody else works on it.
        let checked = unsafe { rig.heap.validate_cache(cache) };
        assert!(checked.is_ok_and(|slabs| slabs > 0), "{size}: {checked:?}");
        let mut again = rig.take(cache, 50);
        again.extend(odds.into_iter().map(|(_, &object)| object));
        rig.give(cache, again);
        assert_eq!(rig.in_use(cache), 0, "{size}");
        assert_eq!(rig.destroy(cache), Ok(true), "{size}");
    }
    assert_eq!(rig.holdings(), before);
}

/// The first slab has colour 0 and its descriptor and index before the objects, which come in the order of a batch.
#[test]
fn a_slab_opens_with_its_descriptor() {
    let rig = Rig::new();
    let cache = rig.cache("c", 64);
    let objects = rig.take(cache, 16);
    let (base, pages) = rig.slab_of(objects[0]);
    // 48 bytes and 4 for each of 59 objects, up to the next word.
    assert_eq!((objects[15].addr() - base, pages), (288, 1));
    assert_eq!(objects[0].addr() - objects[15].addr(), 15 * 64);
    // SAFETY: the cache is alive.
    let geometry = *unsafe { cache.get() }.geometry();
    assert_eq!(geometry.objects, 59);
    let rules = <SeedConfig as kmem_core::config::Config>::rules(4);
    let request = kmem_core::engine::geometry::Request::new(64);
    let layout = kmem_core::engine::slab::shape(&request, &rules).expect("fits").layout;
    assert_eq!(layout.index, IndexKind::Linked);
}

#[test]
fn general_caches_and_their_twins() {
    let rig = Rig::on(Machine::builder().cpus(2).memory(0, ZoneKind::Dma, 4 * BLOCK_PAGES).build());
    for (class, log2) in (5..=17).enumerate() {
        let size = 1_usize << log2;
        for (kind, gfp, suffix) in
            [(Kind::Normal, Gfp::KERNEL, ""), (Kind::Dma, Gfp::KERNEL | Gfp::DMA, "(DMA)")]
        {
            let cache = rig.heap.kmalloc_cache(kind, class).expect("made at the start");
            assert_eq!(cache.name(), format!("size-{size}{suffix}"));
            let block = rig.heap.kmalloc(size, gfp);
            assert!(!block.is_null(), "{size}");
            assert_eq!(rig.ksize(block), size);
            let pages = rig.heap.pages();
            let zone = pages.head(pages.at(block.addr()).expect("of the heap")).zone();
            assert_eq!(zone == ZoneKind::Dma, kind == Kind::Dma, "{size}{suffix}");
            assert_eq!(rig.kfree(block), Ok(()));
        }
    }
    // To 2^22 by pages, to 2^25 by mappings.
    for log2 in 18..=25 {
        let block = rig.heap.kvmalloc(1 << log2, Gfp::KERNEL);
        assert!(!block.is_null(), "2^{log2}");
        assert_eq!((rig.ksize(block), rig.kfree(block)), (1 << log2, Ok(())));
    }
}

static MADE: AtomicUsize = AtomicUsize::new(0);
static ENDED: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn construct(object: *mut u8) {
    MADE.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the constructor of a cache of larger objects.
    unsafe { object.write_bytes(0x5a, 40) };
}

unsafe extern "C" fn destruct(object: *mut u8) {
    ENDED.fetch_add(1, Ordering::Relaxed);
    // SAFETY: as above; the object is constructed and free.
    assert!((0..40).all(|i| unsafe { object.add(i).read() } == 0x5a), "the state that it was freed in");
}

/// Each object is constructed once, when its slab is made, and destructed once, when its slab goes.
#[test]
fn constructors_and_destructors_run_once_a_slab() {
    let rig = Rig::new();
    let args = CacheArgs { ctor: Some(construct), dtor: Some(destruct), ..CacheArgs::default() };
    let cache = rig.create("c", 40, args).expect("a cache");
    for _ in 0..10 {
        let objects = rig.take(cache, 200);
        rig.give(cache, objects);
    }
    let slabs = rig.counts(cache);
    assert_eq!(MADE.load(Ordering::Relaxed) - ENDED.load(Ordering::Relaxed), slabs.objects as usize);
    assert!(MADE.load(Ordering::Relaxed) < 1000, "not once for each allocation");
    assert!(!rig.shrink(cache));
    assert_eq!(MADE.load(Ordering::Relaxed), ENDED.load(Ordering::Relaxed));
    assert_eq!(rig.destroy(cache), Ok(true));
}
