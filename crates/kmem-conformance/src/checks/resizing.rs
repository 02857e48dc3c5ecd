//! Blocks that change their size.

use core::ptr::null_mut;

use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::ZERO_SIZE_PTR;
use kmem_core::kmalloc::classes::MAX_BYTES;

use crate::Driver;
use crate::bench::{Bench, QUIET, fill, is_filled};
use crate::failure::{Outcome, ensure, equal, fail};

pub(super) fn krealloc_keeps_what_fits<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    for size in [1, 10, 64, 100, 1000, 5000, 20_000, 200_000] {
        let block = b.kmalloc(size)?;
        let usable = b.ksize(block)?;
        fill(block, usable, 7);
        for fits in [1, size / 2 + 1, size, usable] {
            equal!(b.krealloc(block, fits, Gfp::KERNEL)?, block, "from {size} to {fits} bytes of {usable}");
        }
        let moved = b.krealloc(block, usable + 1, Gfp::KERNEL)?;
        ensure!(!moved.is_null(), "no memory for {} bytes", usable + 1);
        ensure!(b.ksize(moved)? > usable, "{} bytes are {}", usable + 1, b.ksize(moved)?);
        ensure!(is_filled(moved, usable, 7), "the contents did not come along from {usable} bytes");
        b.kfree(moved)?;
    }
    if !b.knows_caches() {
        return Ok(());
    }
    let cache = b.cache("object", 60)?;
    let object = b.take(cache)?;
    fill(object, 60, 3);
    let block = b.krealloc(object, 500, Gfp::KERNEL)?;
    ensure!(is_filled(block, 60, 3), "an object that became a block");
    equal!(b.in_use(cache), 0, "objects in use");
    b.kfree(block)?;
    b.destroy(cache)
}

pub(super) fn krealloc_of_and_to_nothing<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    for nothing in [null_mut(), ZERO_SIZE_PTR] {
        equal!(b.krealloc(nothing, 0, Gfp::KERNEL)?, ZERO_SIZE_PTR, "nothing to nothing");
        let block = b.krealloc(nothing, 100, Gfp::KERNEL)?;
        ensure!(b.ksize(block)? >= 100, "as kmalloc");
        equal!(b.krealloc(block, 0, Gfp::KERNEL)?, ZERO_SIZE_PTR, "freed");
    }
    Ok(())
}

pub(super) fn krealloc_that_fails_leaves_the_block<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let block = b.kmalloc(3000)?;
    fill(block, 3000, 4);
    for size in [MAX_BYTES + 1, usize::MAX] {
        ensure!(b.krealloc(block, size, QUIET)?.is_null(), "{size} bytes");
        ensure!(is_filled(block, 3000, 4), "the old block changed");
    }
    // SAFETY: the check holds the block.
    let overflow = unsafe { b.heap().krealloc_array(block, usize::MAX, 2, Gfp::KERNEL) };
    equal!(overflow, Ok(null_mut()), "an overflow");
    let mut local = [7_u8; 64];
    // SAFETY: asks for the error.
    let foreign = unsafe { b.heap().krealloc(local.as_mut_ptr(), 100, Gfp::KERNEL) };
    ensure!(foreign.is_err() && local == [7; 64], "foreign memory: {foreign:?}");
    // SAFETY: as above.
    let inside = unsafe { b.heap().krealloc(block.wrapping_add(8), 100, Gfp::KERNEL) };
    ensure!(inside.is_err() && is_filled(block, 3000, 4), "inside of a block: {inside:?}");
    b.kfree(block)
}

pub(super) fn reallocate_moves_to_shrink<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let heap = b.heap();
    let sizes =
        [16, 40, 100, 90, 500, 30, 3000, 2000, 9000, 70_000, 300_000, 5 << 20, 6 << 20, 100_000, 5000, 1];
    let mut block = heap.allocate(sizes[0], Gfp::KERNEL);
    let mut old = sizes[0];
    for size in sizes {
        fill(block, old.min(10_000), 6);
        // SAFETY: the check holds the block.
        let new = match unsafe { heap.reallocate(block, size, Gfp::KERNEL) } {
            Ok(new) if !new.is_null() => new,
            other => fail!("from {old} to {size} bytes: {other:?}"),
        };
        let usable = b.ksize(new)?;
        ensure!(usable >= size, "{size} bytes became {usable}");
        ensure!(usable < 4 * size.max(64) + 16_384, "{size} bytes hold {usable}");
        ensure!(
            is_filled(new, old.min(size).min(10_000), 6),
            "from {old} to {size} bytes the contents changed"
        );
        (block, old) = (new, size);
    }
    b.kfree(block)
}
