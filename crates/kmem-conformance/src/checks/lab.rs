//! The classic laboratory: a cache of twenty bytes, and what its addresses and its line in slabinfo say.

use core::ptr::null_mut;

use kmem_core::cache::CacheArgs;
use kmem_core::config::Config;
use kmem_core::engine::geometry::KernelVersion;
use kmem_core::flags::SlabFlags;
use kmem_core::platform::PAGE_SIZE;

use crate::Driver;
use crate::bench::Bench;
use crate::expected::Order;
use crate::failure::{Outcome, ensure, equal};

pub(super) fn a_fresh_cache_has_the_engines_order<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    for (flags, distance) in [(SlabFlags::empty(), 24), (SlabFlags::HWCACHE_ALIGN, 32)] {
        let cache =
            b.create("mycache", 20, CacheArgs { align: 8, flags: Some(flags), ..CacheArgs::default() })?;
        let mut objects = [null_mut(); 12];
        b.take_all(cache, &mut objects)?;
        let mut sorted = objects;
        sorted.sort_unstable();
        for pair in sorted.windows(2) {
            ensure!(pair[1].addr() - pair[0].addr() >= distance, "objects overlap");
        }
        if !b.is_random() {
            let steps = objects.windows(2).map(|pair| pair[1].addr().wrapping_sub(pair[0].addr()));
            match b.expected.order {
                Order::Ascending => {
                    ensure!(steps.into_iter().all(|step| step == distance), "not in ascending order");
                    equal!(objects[0].addr() % PAGE_SIZE, 0, "where the first object lies");
                }
                Order::Batches(batch) => {
                    let descending = distance.wrapping_neg();
                    ensure!(steps.into_iter().all(|step| step == descending), "not in descending order");
                    // In 2.6 a slab begins with its descriptor.
                    if D::Config::rules(1).version > KernelVersion::V2_6 {
                        let place = (batch - 1) * distance;
                        equal!(objects[0].addr() % PAGE_SIZE, place, "where the first object lies");
                    }
                }
                Order::FirstFit => {
                    // Others may have left holes; in one page the search goes upwards.
                    let upward = steps.into_iter().filter(|&step| step == distance).count();
                    ensure!(upward >= 6, "{upward} of 11 objects lie behind the one before");
                }
            }
        }
        b.free_all(cache, &objects)?;
        b.destroy(cache)?;
    }
    Ok(())
}

/// On every engine whose CPUs keep objects; elsewhere an object may go back to its page at once.
pub(super) fn what_was_freed_last_comes_first<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    for size in [20, 64, 256, 1000] {
        let cache = b.cache("lifo", size)?;
        let mut objects = [null_mut(); 12];
        b.take_all(cache, &mut objects)?;
        // SAFETY: the cache is alive.
        let stacked = unsafe { cache.stack_id() } != 0;
        for position in [2, 6, 4] {
            b.free(cache, objects[position])?;
        }
        let mut again = [null_mut(); 3];
        b.take_all(cache, &mut again)?;
        if stacked {
            equal!(again, [objects[4], objects[6], objects[2]], "freed 3rd, 7th, 5th; taken again");
        }
        for object in [4, 6, 2] {
            objects[object] = null_mut();
        }
        for &object in objects.iter().chain(&again).filter(|object| !object.is_null()) {
            b.free(cache, object)?;
        }
        b.destroy(cache)?;
    }
    Ok(())
}

pub(super) fn observers_see_what_is_there<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let cache = b.cache("mycache", 200)?;
    // SAFETY: the cache is alive.
    let descriptor = unsafe { cache.get() };
    let mut objects = [null_mut(); 100];
    b.take_all(cache, &mut objects)?;
    let (row, counts) = (b.heap().slabinfo_row(descriptor), b.counts(cache));
    equal!(counts.in_use(), 100, "objects in use");
    equal!(row.objsize, descriptor.geometry().size, "objsize");
    equal!(row.objperslab, descriptor.geometry().objects, "objperslab");
    equal!(row.pagesperslab, descriptor.pages_per_slab(), "pagesperslab");
    if b.expected.tells_slabs {
        equal!(row.num_slabs, counts.slabs, "num_slabs");
        equal!(row.num_objs, counts.objects, "num_objs");
        ensure!(
            (100..=row.num_objs).contains(&row.active_objs),
            "{} of {} active",
            row.active_objs,
            row.num_objs
        );
        ensure!(row.active_slabs <= row.num_slabs, "{} of {} slabs", row.active_slabs, row.num_slabs);
        ensure!(
            row.num_slabs * row.objperslab as u64 >= row.num_objs,
            "{} slabs hold {}",
            row.num_slabs,
            row.num_objs
        );
    }
    b.free_all(cache, &objects)?;
    equal!(b.in_use(cache), 0, "objects in use");
    b.shrink(cache);
    let row = b.heap().slabinfo_row(descriptor);
    equal!((row.active_objs, row.num_objs, row.num_slabs), (0, 0, 0), "a cache that was shrunk");
    b.destroy(cache)
}
