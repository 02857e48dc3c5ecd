//! How caches end, and how they are made smaller.

use core::ptr::null_mut;

use kmem_core::cache::{CacheRef, DestroyError};
use kmem_core::gfp::Gfp;
use kmem_core::platform::{BLOCK_PAGES, PAGE_SIZE};

use crate::Driver;
use crate::bench::{Bench, fill, is_filled};
use crate::failure::{Outcome, ensure, equal, fail};

pub(super) fn empty_caches_are_destroyed<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    for (size, count) in [(1, 400), (8, 400), (100, 400), (1000, 200), (9000, 20), (120_000, 5)] {
        let cache = b.cache("doomed", size)?;
        let mut objects = [null_mut(); 400];
        let objects = &mut objects[..count];
        b.take_all(cache, objects)?;
        objects[count / 3..].reverse();
        b.free_all(cache, objects)?;
        equal!(b.in_use(cache), 0, "objects of {size} bytes in use");
        b.destroy(cache)?;
    }
    let unused = b.cache("unused", 64)?;
    b.destroy(unused)
}

pub(super) fn live_objects_are_told<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let cache = b.cache("leaky", 100)?;
    let mut objects = [null_mut(); 60];
    b.take_all(cache, &mut objects)?;
    let (live, freed) = objects.split_at(10);
    b.free_all(cache, freed)?;
    live.iter().for_each(|&object| fill(object, 100, 3));
    let said = b.faults().messages();
    let answer = b.try_destroy(cache);
    // The kernel's SLOB cannot tell; here every engine counts.
    equal!(answer, Err(DestroyError::ObjectsRemain(10)), "destroying a cache with ten objects in use");
    ensure!(
        b.faults().messages() > said
            && b.faults().said("kmem_cache_destroy leaky: Slab cache still has objects"),
        "no report"
    );
    equal!(b.try_destroy(cache), Err(DestroyError::Destroyed), "destroying it again");
    let mut listed = false;
    b.heap().for_each_cache(|cache| listed |= cache.name() == "leaky");
    ensure!(!listed, "the cache is still listed");
    // The memory stays, and late frees are accepted, by either door.
    ensure!(live.iter().all(|&object| is_filled(object, 100, 3)), "objects in use changed");
    for (i, &object) in live.iter().enumerate() {
        if i % 2 == 0 && b.knows_caches() {
            b.kfree(object)?;
        } else {
            b.free(cache, object)?;
        }
    }
    let heir = b.cache("leaky", 100)?;
    b.take_all(heir, &mut objects)?;
    b.free_all(heir, &objects)?;
    b.destroy(heir)
}

pub(super) fn own_caches_are_not_destroyed<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let mut own: [Option<crate::Cache<D>>; 16] = [None; 16];
    let mut found = 0;
    b.heap().for_each_cache(|cache| {
        let name = cache.name();
        if name.starts_with("kmem_cache") || name.starts_with("sheaf-") || name.starts_with("kmalloc-") {
            own[found % 16] = Some(CacheRef::new(cache));
            found += 1;
        }
    });
    ensure!(found >= 2, "there are {found} caches of the heap's own");
    for cache in own.into_iter().flatten() {
        equal!(b.try_destroy(cache), Err(DestroyError::Internal), "destroying {}", b.name(cache));
    }
    let cache = b.cache("after", 100)?;
    b.destroy(cache)
}

pub(super) fn names_and_numbers_come_back<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let rounds = if cfg!(debug_assertions) { 300 } else { 6000 };
    for i in 0..rounds {
        let cache = b.cache("phoenix", 24 + i % 64)?;
        let mut objects = [null_mut(); 7];
        let objects = &mut objects[..1 + i % 7];
        b.take_all(cache, objects)?;
        b.free_all(cache, objects)?;
        b.destroy(cache)?;
    }
    Ok(())
}

pub(super) fn shrinking_tells_what_is_left<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let tells = b.expected.tells_slabs;
    for size in [24, 700, 5000] {
        let cache = b.cache("shrinking", size)?;
        ensure!(!b.shrink(cache), "a cache without objects has slabs left");
        let mut objects = [null_mut(); 300];
        b.take_all(cache, &mut objects)?;
        let full = b.counts(cache).slabs;
        equal!(b.shrink(cache), tells, "slabs are left under 300 objects of {size} bytes");
        // Of these one stays.
        b.free_all(cache, &objects[1..])?;
        equal!(b.shrink(cache), tells, "a slab is left under one object of {size} bytes");
        let counts = b.counts(cache);
        equal!(counts.in_use(), 1, "objects in use");
        ensure!(counts.slabs <= 1, "{} of {full} slabs are left under one object", counts.slabs);
        equal!(counts.free_cpu + counts.free_barn + counts.free_alien, 0, "objects kept in front of slabs");
        b.free(cache, objects[0])?;
        ensure!(!b.shrink(cache), "slabs are left without objects");
        equal!(b.counts(cache).slabs, 0, "slabs without objects");
        b.take_all(cache, &mut objects)?;
        b.free_all(cache, &objects)?;
        b.destroy(cache)?;
    }
    Ok(())
}

pub(super) fn trimming_gives_back<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let heap = b.heap();
    heap.trim(0);
    let before = heap.pages().stats(heap.platform());
    let cache = b.cache("large", PAGE_SIZE)?;
    // Chained through themselves, and a block and more of them.
    let count = BLOCK_PAGES + 500;
    let mut first: *mut u8 = null_mut();
    for _ in 0..count {
        let object = b.take(cache)?;
        // SAFETY: the object is a page of this check's.
        unsafe { object.cast::<*mut u8>().write(first) };
        first = object;
    }
    let full = heap.pages().stats(heap.platform());
    ensure!(full.in_use >= before.in_use + count, "{} pages in use", full.in_use);
    let mut freed = 0;
    while !first.is_null() {
        // SAFETY: as above.
        let next = unsafe { first.cast::<*mut u8>().read() };
        b.free(cache, first)?;
        first = next;
        freed += 1;
    }
    equal!(freed, count, "objects found again");
    heap.trim(0);
    let after = heap.pages().stats(heap.platform());
    ensure!(
        after.in_use <= before.in_use + 64,
        "{} pages are in use after trimming, {} were before",
        after.in_use,
        before.in_use
    );
    let block = heap.kmalloc(100, Gfp::KERNEL);
    if block.is_null() {
        fail!("no memory after trimming");
    }
    b.kfree(block)?;
    b.destroy(cache)
}
