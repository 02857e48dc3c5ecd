//! Small blocks on one thread.

use std::hint::black_box;

use libc::c_void;

use super::floor::ring;
use super::{give, take};
use crate::clock::{Random, per_operation, pin};

/// Blocks of one batch.
pub(super) const BATCH: usize = 1000;
/// Blocks of the working set.
const WORKING_SET: usize = 10_000;

pub(super) fn pair<const SIZE: usize>() -> f64 {
    pin();
    ring(SIZE, 1);
    per_operation(|n| pairs(SIZE, n))
}

/// `n` pairs of `size` bytes.
#[inline]
pub(super) fn pairs(size: usize, n: u64) {
    for _ in 0..n {
        let block = take(size);
        // SAFETY: just taken.
        unsafe { give(block) };
    }
}

pub(super) fn batch_fifo<const SIZE: usize>() -> f64 {
    batch(SIZE, &(0..BATCH).collect::<Vec<_>>())
}

pub(super) fn batch_lifo<const SIZE: usize>() -> f64 {
    batch(SIZE, &(0..BATCH).rev().collect::<Vec<_>>())
}

pub(super) fn batch_rand<const SIZE: usize>() -> f64 {
    batch(SIZE, &shuffled())
}

/// The order of random frees.
pub(super) fn shuffled() -> Vec<usize> {
    let mut random = Random(99);
    let mut order: Vec<usize> = (0..BATCH).collect();
    (1..BATCH).rev().for_each(|at| order.swap(at, random.below(at + 1)));
    order
}

/// Takes a batch and frees it in `order`, per pair.
fn batch(size: usize, order: &[usize]) -> f64 {
    pin();
    ring(size, BATCH);
    let mut blocks = [std::ptr::null_mut(); BATCH];
    let whole = per_operation(|n| {
        for _ in 0..n {
            blocks.iter_mut().for_each(|block| *block = take(size));
            for &at in order {
                // SAFETY: each index stands once in the order.
                unsafe { give(blocks[at]) };
            }
        }
    });
    whole / BATCH as f64
}

pub(super) fn working_set() -> f64 {
    pin();
    ring(1024, WORKING_SET);
    let mut set = Set::new(5);
    per_operation(|n| set.replace(n))
}

/// Live blocks of 8 to 1024 bytes.
pub(super) struct Set {
    random: Random,
    blocks: Vec<*mut u8>,
}

impl Set {
    pub(super) fn new(seed: u64) -> Self {
        Self::of(WORKING_SET, seed)
    }

    /// This many of them.
    pub(super) fn of(blocks: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let blocks = (0..blocks).map(|_| take(8 + random.below(1017))).collect();
        Self { random, blocks }
    }

    /// Exchanges the blocks with another's.
    pub(super) fn swap(&mut self, other: &mut Self) {
        std::mem::swap(&mut self.blocks, &mut other.blocks);
    }

    /// Replaces `n` random ones.
    pub(super) fn replace(&mut self, n: u64) {
        for _ in 0..n {
            let at = self.random.below(self.blocks.len());
            let slot = &mut self.blocks[at];
            // SAFETY: every slot holds a live block, and this one is written over at once.
            unsafe { give(*slot) };
            *slot = take(8 + self.random.below(1017));
        }
    }
}

// SAFETY: the blocks belong to the set alone, and malloc's blocks may be freed by any thread.
unsafe impl Send for Set {}

impl Drop for Set {
    fn drop(&mut self) {
        for &block in &self.blocks {
            // SAFETY: every slot holds a live block, and the set is gone after this.
            unsafe { give(block) };
        }
    }
}

/// A zeroed block of `size` bytes, first byte written.
#[inline]
fn take_zeroed(size: usize) -> *mut u8 {
    // SAFETY: calloc takes any size; the block is checked and at least one byte long.
    unsafe {
        let block = black_box(libc::calloc(1, size)).cast::<u8>();
        assert!(!block.is_null() && *block == 0, "out of memory or not zero");
        block.write_volatile(1);
        block
    }
}

pub(super) fn zeroed<const SIZE: usize>() -> f64 {
    pin();
    ring(SIZE, 1);
    per_operation(|n| {
        for _ in 0..n {
            let block = take_zeroed(SIZE);
            // SAFETY: just taken.
            unsafe { give(block) };
        }
    })
}

pub(super) fn zeroed_batch<const SIZE: usize>() -> f64 {
    pin();
    ring(SIZE, BATCH);
    let mut blocks = [std::ptr::null_mut(); BATCH];
    let whole = per_operation(|n| {
        for _ in 0..n {
            blocks.iter_mut().for_each(|block| *block = take_zeroed(SIZE));
            // SAFETY: each is freed once.
            blocks.iter().for_each(|&block| unsafe { give(block) });
        }
    });
    whole / BATCH as f64
}

/// Pairs of blocks of `SIZE` bytes that begin at a multiple of `ALIGN`.
pub(super) fn aligned<const ALIGN: usize, const SIZE: usize>() -> f64 {
    pin();
    ring(SIZE, 1);
    per_operation(|n| {
        for _ in 0..n {
            // SAFETY: the alignment is a power of two, the size a multiple of it; the block is checked, and freed once.
            unsafe {
                let block = black_box(libc::aligned_alloc(ALIGN, SIZE)).cast::<u8>();
                assert!(!block.is_null() && block.addr() % ALIGN == 0, "out of memory or misaligned");
                block.write_volatile(1);
                give(block);
            }
        }
    })
}

/// `block` grown to `size`, last byte written.
///
/// # Safety
/// `block` is null or live, and is not used again.
#[inline]
pub(super) unsafe fn grow(block: *mut u8, size: usize) -> *mut u8 {
    // SAFETY: the caller's promise; the result is checked and `size` bytes long.
    unsafe {
        let block = black_box(libc::realloc(block.cast::<c_void>(), size)).cast::<u8>();
        assert!(!block.is_null(), "out of memory");
        block.add(size - 1).write_volatile(1);
        block
    }
}

pub(super) fn doubling<const TO: usize>() -> f64 {
    pin();
    steps(|| std::iter::successors(Some(16), |&size| (size < TO).then_some(size * 2)))
}

pub(super) fn growing() -> f64 {
    pin();
    steps(|| (16..=4096).step_by(16))
}

/// Grows a block from nothing through `sizes` and frees it, per call of realloc.
fn steps<I: Iterator<Item = usize>>(sizes: impl Fn() -> I) -> f64 {
    let calls = sizes().count() as f64;
    let sequence = per_operation(|n| {
        for _ in 0..n {
            let mut block = std::ptr::null_mut();
            for size in sizes() {
                // SAFETY: null or the last result.
                block = unsafe { grow(block, size) };
            }
            // SAFETY: the last result.
            unsafe { give(block) };
        }
    });
    sequence / calls
}
