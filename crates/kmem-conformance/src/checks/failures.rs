//! Out of memory at every point: the request fails cleanly, nothing is lost, the next one succeeds.

use core::ptr::null_mut;

use kmem_core::cache::{CacheArgs, CreateError};
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;

use crate::bench::{Bench, QUIET, fill, is_filled, is_zero};
use crate::failure::{Failure, Outcome, ensure, equal, fail};
use crate::shortage::everywhere;
use crate::{Cache, Driver};

unsafe extern "C" fn construct(object: *mut u8) {
    fill(object, 64, 0xC0);
}

/// A cache, or nothing for want of memory; any other refusal is wrong.
fn make<D: Driver>(
    b: &Bench<'_, D>,
    name: &str,
    size: usize,
    args: CacheArgs,
) -> Result<Option<Cache<D>>, Failure> {
    match b.try_create(name, size, args) {
        Ok(cache) => Ok(Some(cache)),
        Err(CreateError::NoMemory) => Ok(None),
        Err(error) => fail!("{error}, not out of memory"),
    }
}

pub(super) fn creation_at_every_point<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    everywhere(b, |b| {
        let plain = CacheArgs::default();
        let with = |flags| CacheArgs { flags: Some(flags), ..plain };
        let requests = [
            (24, plain),
            (200, CacheArgs { align: 64, ..plain }),
            (72, CacheArgs { ctor: Some(construct), ..plain }),
            (256, CacheArgs { ctor: Some(construct), ..plain }),
            (5000, plain),
            (128, with(SlabFlags::TYPESAFE_BY_RCU)),
            (128, with(SlabFlags::NOLEAKTRACE)),
        ];
        let mut done = true;
        for (size, args) in requests {
            let Some(cache) = make(b, "starved", size, args)? else {
                done = false;
                continue;
            };
            let object = b.alloc(cache, QUIET);
            if object.is_null() {
                done = false;
            } else {
                ensure!(args.ctor.is_none() || is_filled(object, 64, 0xC0), "not constructed");
                b.free(cache, object)?;
            }
            b.destroy(cache)?;
        }
        Ok(done)
    })
}

/// So many that descriptors, node structures and names each need new slabs on the way.
pub(super) fn many_creations_at_every_point<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    everywhere(b, |b| {
        let name = "a name that is long enough to come from a class that holds few of them, to be out of memory sooner";
        let mut caches = [None; 60];
        let mut done = true;
        for (i, place) in caches.iter_mut().enumerate() {
            *place = make(b, name, 40 + 8 * (i % 20), CacheArgs::default())?;
            done &= place.is_some();
        }
        caches.into_iter().flatten().try_for_each(|cache| b.destroy(cache))?;
        Ok(done)
    })
}

fn fill_cache<D: Driver>(b: &Bench<'_, D>, size: usize, count: usize) -> Result<bool, Failure> {
    let Some(cache) = make(b, "filled", size, CacheArgs::default())? else { return Ok(false) };
    let mut objects = [null_mut(); 300];
    let mut got = 0;
    while got < count {
        let object = b.alloc(cache, QUIET);
        if object.is_null() {
            break;
        }
        fill(object, size, got);
        objects[got] = object;
        got += 1;
    }
    equal!(b.in_use(cache), got as u64, "objects in use");
    for (i, &object) in objects[..got].iter().enumerate() {
        ensure!(is_filled(object, size, i), "object {i} of {size} bytes was overwritten");
    }
    objects[got / 2..got].reverse();
    b.free_all(cache, &objects[..got])?;
    b.destroy(cache)?;
    Ok(got == count)
}

pub(super) fn objects_at_every_point<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    everywhere(b, |b| Ok(fill_cache(b, 40, 300)? & fill_cache(b, 700, 60)? & fill_cache(b, 3000, 12)?))
}

pub(super) fn bulks_at_every_point<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    everywhere(b, |b| {
        let mut done = true;
        for (size, count) in [(64, 250), (1000, 40), (9000, 3)] {
            let Some(cache) = make(b, "bulk", size, CacheArgs::default())? else {
                done = false;
                continue;
            };
            let mut objects = [null_mut(); 250];
            let objects = &mut objects[..count];
            let filled = b.alloc_bulk(cache, QUIET, objects);
            equal!(b.in_use(cache), if filled { count as u64 } else { 0 }, "objects in use: all or nothing");
            if filled {
                b.free_bulk(Some(cache), objects)?;
            }
            done &= filled;
            b.destroy(cache)?;
        }
        Ok(done)
    })
}

pub(super) fn blocks_at_every_point<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    everywhere(b, |b| {
        let heap = b.heap();
        let mut blocks = [null_mut(); 24];
        let mut done = true;
        for (i, block) in blocks.iter_mut().enumerate() {
            let size = [10, 70, 200, 700, 3000, 9000, 40_000, 300_000][i % 8];
            *block = match i / 8 {
                0 => heap.kmalloc(size, QUIET),
                1 => heap.allocate_aligned(256, size, QUIET),
                _ => heap.kvmalloc(if i % 8 == 7 { 5 << 20 } else { size }, QUIET),
            };
            done &= !block.is_null();
            if !block.is_null() {
                fill(*block, size, i);
            }
        }
        for (i, &block) in blocks.iter().enumerate() {
            let size = [10, 70, 200, 700, 3000, 9000, 40_000, 300_000][i % 8];
            ensure!(block.is_null() || is_filled(block, size, i), "block {i} was overwritten");
            b.kfree(block)?;
        }
        Ok(done)
    })
}

pub(super) fn resizing_at_every_point<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    everywhere(b, |b| {
        let mut done = true;
        for by_program in [false, true] {
            let mut block = b.heap().kmalloc(20, QUIET);
            if block.is_null() {
                done = false;
                continue;
            }
            let mut held = 20;
            fill(block, held, 5);
            for size in [60, 200, 1000, 9000, 500, 70_000, 400_000, 100] {
                let new = if by_program {
                    // SAFETY: the check holds the block.
                    match unsafe { b.heap().reallocate(block, size, QUIET) } {
                        Ok(new) => new,
                        Err(error) => fail!("reallocate of a good block: {error}"),
                    }
                } else {
                    b.krealloc(block, size, QUIET)?
                };
                if new.is_null() {
                    done = false;
                    ensure!(is_filled(block, held, 5), "a resize that failed changed the block");
                    continue;
                }
                ensure!(
                    is_filled(new, held.min(size), 5),
                    "from {held} to {size} bytes the contents changed"
                );
                (block, held) = (new, size);
                fill(block, held, 5);
            }
            b.kfree(block)?;
        }
        Ok(done)
    })
}

pub(super) fn zeroes_at_every_point<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    everywhere(b, |b| {
        let Some(cache) = make(b, "zeroed", 300, CacheArgs::default())? else { return Ok(false) };
        let mut objects = [null_mut(); 60];
        let mut done = true;
        for object in &mut objects {
            *object = b.alloc(cache, QUIET | Gfp::ZERO);
            ensure!(object.is_null() || is_zero(*object, 300), "a zeroed object is dirty");
            if object.is_null() {
                done = false;
            } else {
                fill(*object, 300, 2);
            }
        }
        for &object in objects.iter().filter(|object| !object.is_null()) {
            b.free(cache, object)?;
        }
        b.destroy(cache)?;
        Ok(done)
    })
}
