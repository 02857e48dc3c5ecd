//! What the addresses promise.

use kmem_core::cache::{CacheArgs, CreateError};
use kmem_core::config::Config;
use kmem_core::engine::geometry::{GeometryError, MAX_SIZE, effective_align};
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::classes::ClassSet;
use kmem_core::platform::PAGE_SIZE;

use crate::bench::{Bench, QUIET, fill, is_filled};
use crate::failure::{Outcome, ensure, equal, fail};
use crate::{Cache, Driver};

const SIZES: [usize; 15] = [1, 7, 8, 20, 24, 33, 64, 96, 100, 192, 700, 1000, 3000, 4096, 9000];
const ALIGNS: [usize; 8] = [0, 8, 16, 32, 64, 256, 1024, 4096];

fn args(align: usize, flags: SlabFlags) -> CacheArgs {
    CacheArgs { align, flags: Some(flags), ..CacheArgs::default() }
}

/// Objects are aligned, lie beside each other, and are as large as was asked.
fn look<D: Driver>(b: &Bench<'_, D>, cache: Cache<D>, size: usize, align: usize) -> Outcome {
    let mut objects = [core::ptr::null_mut(); 9];
    b.take_all(cache, &mut objects)?;
    for (i, &object) in objects.iter().enumerate() {
        ensure!(
            object.addr().is_multiple_of(align),
            "{object:p}, an object of {size} bytes, is not at a multiple of {align}"
        );
        fill(object, size, i);
    }
    for (i, &object) in objects.iter().enumerate() {
        ensure!(
            is_filled(object, size, i),
            "an object of {size} bytes at {align} was overwritten by another"
        );
    }
    b.free_all(cache, &objects)
}

pub(super) fn objects_have_the_alignment_asked_for<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let kinds = [
        SlabFlags::empty(),
        SlabFlags::HWCACHE_ALIGN,
        SlabFlags::TYPESAFE_BY_RCU,
        SlabFlags::RECLAIM_ACCOUNT,
        SlabFlags::NOLEAKTRACE,
        SlabFlags::RED_ZONE | SlabFlags::POISON | SlabFlags::STORE_USER,
    ];
    for size in SIZES {
        for align in ALIGNS {
            for flags in kinds {
                let cache = b.create("aligned", size, args(align, flags))?;
                // SAFETY: the cache is alive.
                equal!(unsafe { b.heap().cache_size(cache) }, size, "the size asked for");
                look(b, cache, size, effective_align(flags, align, size, 64))?;
                b.destroy(cache)?;
            }
        }
    }
    Ok(())
}

pub(super) fn alignments_beyond_a_page<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    for align in [2 * PAGE_SIZE, 16 * PAGE_SIZE] {
        for size in [20_usize, 5000, 20_000] {
            // Whole pages can be aligned to as many pages; smaller objects only where they lie in slabs.
            let possible = b.expected.beyond_a_page || size.next_power_of_two() >= align;
            match b.try_create("aligned", size, args(align, SlabFlags::empty())) {
                Ok(cache) => {
                    look(b, cache, size, align)?;
                    b.destroy(cache)?;
                    ensure!(possible, "{size} bytes at {align} were accepted");
                }
                Err(CreateError::Geometry(_)) if !possible => {}
                Err(error) => fail!("{size} bytes at {align}: {error}"),
            }
        }
    }
    Ok(())
}

pub(super) fn requests_that_are_refused<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let plain = CacheArgs::default();
    let refused = |name: &str, size, args: CacheArgs| {
        let said = b.faults().messages();
        match b.heap().create(name, size, args) {
            Ok(cache) => {
                let _ = b.try_destroy(cache);
                fail!("{size} bytes at {} under {} letters were accepted", args.align, name.len())
            }
            Err(error) => {
                ensure!(b.faults().messages() > said, "{error} was not reported");
                Ok(error)
            }
        }
    };
    for align in [3, 12, 24, 100, usize::MAX] {
        let error = refused("bad", 64, CacheArgs { align, ..plain })?;
        equal!(error, CreateError::Geometry(GeometryError::BadAlign), "alignment {align}");
    }
    equal!(refused("bad", 0, plain)?, CreateError::Geometry(GeometryError::ZeroSize), "no bytes");
    for size in [MAX_SIZE + 1, usize::MAX / 2, usize::MAX] {
        let error = refused("bad", size, plain)?;
        equal!(error, CreateError::Geometry(GeometryError::TooLarge), "{size} bytes");
    }
    for bad in [SlabFlags::FAILSLAB, SlabFlags::CMPXCHG_DOUBLE, SlabFlags::from_bits_retain(1)] {
        equal!(refused("bad", 64, args(0, bad))?, CreateError::BadFlags(bad), "flags");
    }
    equal!(refused("", 64, plain)?, CreateError::BadName, "no name");
    Ok(())
}

pub(super) fn blocks_have_the_alignment_of_their_size<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let least = <D::Config as Config>::Classes::MIN_ALIGN;
    for size in (1..=300).chain([511, 513, 1000, 2500, 5000, 8191, 8193, 10_000, 100_000]) {
        let block = b.kmalloc(size)?;
        ensure!(block.addr().is_multiple_of(least), "{size} bytes at {block:p}");
        b.kfree(block)?;
    }
    for shift in 3..=20 {
        let size = 1 << shift;
        let mut blocks = [core::ptr::null_mut(); 12];
        for block in &mut blocks {
            *block = b.kmalloc(size)?;
            let align = b.natural_alignment(size);
            ensure!(
                block.addr().is_multiple_of(align),
                "{size} bytes at {block:p}, not at a multiple of {align}"
            );
            // Odd neighbours, so that it is no chance.
            let odd = b.kmalloc(40)?;
            b.kfree(odd)?;
        }
        blocks.iter().try_for_each(|&block| b.kfree(block))?;
    }
    Ok(())
}

pub(super) fn any_alignment_can_be_asked_of_a_block<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    for shift in 0..=22 {
        for size in [1, 17, 100, 1000, 5000, 40_000] {
            let align = 1 << shift;
            let block = b.heap().allocate_aligned(align, size, QUIET);
            ensure!(!block.is_null() && block.addr().is_multiple_of(align), "{size} at {align}: {block:p}");
            ensure!(b.ksize(block)? >= size, "{size} at {align}: {} bytes", b.ksize(block)?);
            fill(block, size, shift);
            // SAFETY: the check holds no block here.
            let other = unsafe {
                b.heap().krealloc_node_align(core::ptr::null_mut(), size, align, Gfp::KERNEL, None)
            };
            let Ok(other) = other else { fail!("krealloc of nothing: {other:?}") };
            ensure!(!other.is_null() && other.addr().is_multiple_of(align), "{size} at {align}: {other:p}");
            fill(other, size, shift + 1);
            ensure!(is_filled(block, size, shift), "{size} at {align} was overwritten by another");
            b.kfree(block)?;
            b.kfree(other)?;
        }
    }
    Ok(())
}
