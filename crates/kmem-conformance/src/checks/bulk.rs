//! Many objects at once.

use core::ptr::null_mut;

use kmem_core::gfp::Gfp;

use crate::Driver;
use crate::bench::{Bench, QUIET, fill, is_filled};
use crate::failure::{Outcome, ensure, equal};
use crate::shortage::Shortage;

/// The most objects of a bulk here.
const MOST: usize = 500;

pub(super) fn bulks_are_complete_and_distinct<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    for size in [8, 40, 700] {
        let cache = b.cache("bulk", size)?;
        ensure!(b.alloc_bulk(cache, Gfp::KERNEL, &mut []), "no objects can always be had");
        let mut objects = [null_mut(); MOST];
        for n in [1, 2, 15, 16, 17, 63, 64, 65, 129, MOST] {
            let objects = &mut objects[..n];
            ensure!(b.alloc_bulk(cache, Gfp::KERNEL, objects), "no memory for {n} objects");
            equal!(b.in_use(cache), n as u64, "objects in use");
            for (i, &object) in objects.iter().enumerate() {
                ensure!(!object.is_null(), "object {i} of {n} is missing");
                fill(object, size, i);
            }
            for (i, &object) in objects.iter().enumerate() {
                ensure!(is_filled(object, size, i), "object {i} of {n} is there twice");
            }
            // From both ends, so that slabs and CPUs get them in no order.
            objects[n / 2..].reverse();
            b.free_bulk(Some(cache), objects)?;
            equal!(b.in_use(cache), 0, "objects in use after {n} were freed");
        }
        b.free_bulk(Some(cache), &mut [])?;
        b.destroy(cache)?;
    }
    Ok(())
}

pub(super) fn bulks_are_all_or_nothing<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    // So large that the regions which a hardened heap keeps for a cache, one of each node, do not hold so many.
    let cache = b.cache("bulk", 2500)?;
    let mut held = [null_mut(); 3];
    b.take_all(cache, &mut held)?;
    // And so that there are pages to relent: most of a small hardened heap's belong to regions of other caches.
    let heap = b.heap();
    let spare = [(); 2].map(|()| heap.pages().alloc(heap.platform(), QUIET, 9, None));
    spare.into_iter().flatten().for_each(|run| heap.pages().free(heap.platform(), run));
    let mut shortage = Shortage::begin(b, None);
    // With ever more pages left: some objects are had before it shows that there are not enough.
    let mut objects = [null_mut(); MOST];
    let result = (|| {
        for pages in 0.. {
            let filled = b.alloc_bulk(cache, QUIET, &mut objects);
            equal!(b.in_use(cache), if filled { 3 + MOST as u64 } else { 3 }, "objects in use");
            if filled {
                ensure!(pages > 0, "{MOST} objects from no pages");
                return b.free_bulk(Some(cache), &mut objects);
            }
            ensure!(shortage.pages() > 0, "{MOST} objects cannot be had from {pages} pages");
            shortage.relent(b, 7)?;
        }
        Ok(())
    })();
    shortage.end(b)?;
    result?;
    equal!(b.in_use(cache), 3, "objects in use");
    b.free_all(cache, &held)?;
    b.destroy(cache)
}

pub(super) fn bulks_of_any_cache_are_freed<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let mut blocks = [null_mut(); 60];
    for (i, block) in blocks.iter_mut().enumerate() {
        *block = match i % 6 {
            0 => null_mut(),
            1 => b.heap().kmalloc(0, Gfp::KERNEL),
            2 => b.kmalloc(20_000 * i)?,
            _ => b.kmalloc(i * 37)?,
        };
    }
    let mapping = b.heap().kvmalloc(5 << 20, Gfp::KERNEL);
    ensure!(!mapping.is_null(), "no memory for a mapping");
    blocks[0] = mapping;
    // SAFETY: the check holds the blocks.
    let freed = unsafe { b.heap().kfree_bulk(&mut blocks) };
    ensure!(freed.is_ok(), "free of good blocks: {freed:?}");
    let mut blocks = [null_mut(); 50];
    ensure!(b.heap().kmalloc_bulk(100, Gfp::KERNEL, &mut blocks), "no memory for a bulk");
    for (i, &block) in blocks.iter().enumerate() {
        fill(block, 100, i);
    }
    for (i, &block) in blocks.iter().enumerate() {
        ensure!(is_filled(block, 100, i), "block {i} is there twice");
    }
    b.free_bulk(None, &mut blocks)
}
