//! Large blocks on one thread.

use super::{give, small, take};
use crate::clock::{Random, per_operation, pin};

const PAGE: usize = 4096;

pub(super) fn pair<const SIZE: usize>() -> f64 {
    pin();
    per_operation(|n| small::pairs(SIZE, n))
}

pub(super) fn touched<const SIZE: usize>() -> f64 {
    pin();
    per_operation(|n| {
        for _ in 0..n {
            let block = take(SIZE);
            // SAFETY: the block is `SIZE` bytes long, live until it is given back.
            unsafe {
                touch(block, 0, SIZE);
                give(block);
            }
        }
    })
}

/// Writes a byte of each page from `from` to `to`.
///
/// # Safety
/// `block` is at least `to` bytes long.
unsafe fn touch(block: *mut u8, from: usize, to: usize) {
    for at in (from..to).step_by(PAGE) {
        // SAFETY: below `to`, by the caller's promise within the block.
        unsafe { block.add(at).write_volatile(1) };
    }
}

pub(super) fn working_set() -> f64 {
    pin();
    let mut random = Random(17);
    let size = |random: &mut Random| (16 << 10) + random.below((2 << 20) - (16 << 10));
    let mut blocks: Vec<*mut u8> = (0..64).map(|_| take(size(&mut random))).collect();
    per_operation(|n| {
        for _ in 0..n {
            let slot = &mut blocks[random.below(64)];
            // SAFETY: every slot holds a live block, and this one is written over at once.
            unsafe { give(*slot) };
            *slot = take(size(&mut random));
        }
    })
}

pub(super) fn doubling() -> f64 {
    pin();
    const TO: usize = 64 << 20;
    let sizes = || std::iter::successors(Some(16), |&size| (size < TO).then_some(size * 2));
    let sequence = per_operation(|n| {
        for _ in 0..n {
            let (mut block, mut before) = (std::ptr::null_mut(), 0);
            for size in sizes() {
                // SAFETY: null or the last result; the new block is `size` bytes long.
                unsafe {
                    block = small::grow(block, size);
                    touch(block, before, size);
                }
                before = size;
            }
            // SAFETY: the last result.
            unsafe { give(block) };
        }
    });
    sequence / sizes().count() as f64
}
