//! What is promised to be zero.

use kmem_core::gfp::Gfp;
use kmem_core::platform::PAGE_SIZE;

use crate::Driver;
use crate::bench::{Bench, fill, is_filled, is_zero};
use crate::failure::{Outcome, ensure};

const ZERO: Gfp = Gfp::KERNEL.union(Gfp::ZERO);

pub(super) fn zeroed_objects_are_zero<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    for size in [1, 8, 20, 63, 64, 200, 1000, 5000] {
        let cache = b.cache("zeroed", size)?;
        let mut objects = [core::ptr::null_mut(); 40];
        for round in 0..3 {
            if round == 1 {
                ensure!(b.alloc_bulk(cache, ZERO, &mut objects), "no memory for a bulk");
            } else {
                for (i, object) in objects.iter_mut().enumerate() {
                    *object = match i % 3 {
                        0 => b.alloc(cache, ZERO),
                        1 => b.alloc_node(cache, ZERO, Some(0)),
                        // SAFETY: the cache is alive.
                        _ => unsafe { b.heap().zalloc(cache, Gfp::KERNEL) },
                    };
                    ensure!(!object.is_null(), "no memory for an object");
                }
            }
            for &object in &objects {
                ensure!(is_zero(object, size), "an object of {size} bytes is dirty, round {round}");
                fill(object, size, 7);
            }
            b.free_all(cache, &objects)?;
        }
        b.destroy(cache)?;
    }
    Ok(())
}

pub(super) fn zeroed_blocks_are_zero<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let heap = b.heap();
    for size in [1, 8, 40, 64, 100, 190, 500, 1000, 2000, 4000, 8192, 9000, 70_000, 1 << 20] {
        for round in 0..3 {
            let blocks = [
                heap.kmalloc(size, ZERO),
                heap.kzalloc(size, Gfp::KERNEL),
                heap.kcalloc(1, size, Gfp::KERNEL),
                heap.kvzalloc(size, Gfp::KERNEL),
                heap.allocate_aligned(64, size, ZERO),
            ];
            for (i, block) in blocks.into_iter().enumerate() {
                ensure!(!block.is_null(), "no memory for {size} bytes");
                ensure!(is_zero(block, size), "{size} bytes are dirty, way {i}, round {round}");
                fill(block, b.ksize(block)?, 9);
            }
            blocks.into_iter().try_for_each(|block| b.kfree(block))?;
        }
    }
    Ok(())
}

/// Zeroed at every step: whatever was not written is zero, as far as the block reaches.
pub(super) fn grown_blocks_stay_zero<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    for size in [64, 128, 200, 1000, 30_000] {
        let dirty = b.kmalloc(size)?;
        fill(dirty, b.ksize(dirty)?, 0x77);
        b.kfree(dirty)?;
    }
    let mut block = b.heap().kmalloc(50, ZERO);
    ensure!(!block.is_null(), "no memory");
    let mut old = 50;
    for size in [60, 40, 64, 100, 70, 128, 200, 150, 900, 10, 1000, 3 * PAGE_SIZE, 30_000, 25_000] {
        fill(block, old, 9);
        let new = b.krealloc(block, size, ZERO)?;
        ensure!(!new.is_null(), "no memory for {size} bytes");
        let common = old.min(size);
        ensure!(is_filled(new, common, 9), "from {old} to {size} bytes the contents changed");
        let rest = b.ksize(new)? - common;
        ensure!(is_zero(new.wrapping_add(common), rest), "from {old} to {size} bytes the rest is dirty");
        (block, old) = (new, size);
    }
    b.kfree(block)
}
