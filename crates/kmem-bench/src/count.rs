//! Loops whose instructions are counted under callgrind (`--count`), not timed.
//!
//! Each loop is a function of its own under a fixed name, so that its inclusive cost can be read off; the cost of
//! [`count_loop`] is that of the loop alone. What they measure is warm: the same was done once before.

use std::hint::black_box;
use std::process::ExitCode;

use libc::c_void;

use crate::rows::typed;

/// Operations that each loop does: the divisor of its cost.
pub(crate) const OPERATIONS: u64 = 1600;
/// Blocks that [`count_malloc_64`] takes at a time: fewer than any CPU's stack holds.
const FEW: usize = 16;

/// The loop alone.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_loop(n: u64) {
    for _ in 0..n {
        black_box(std::ptr::null_mut::<c_void>());
    }
}

/// malloc and free of 64 bytes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_pair_64(n: u64) {
    for _ in 0..n {
        // SAFETY: freed once; free takes null.
        unsafe { libc::free(black_box(libc::malloc(64))) };
    }
}

/// malloc and free of 1024 bytes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_pair_1024(n: u64) {
    for _ in 0..n {
        // SAFETY: freed once; free takes null.
        unsafe { libc::free(black_box(libc::malloc(1024))) };
    }
}

/// malloc alone.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_malloc_64(blocks: &mut [*mut c_void; FEW]) {
    for block in blocks {
        // SAFETY: malloc takes any size.
        *block = black_box(unsafe { libc::malloc(64) });
    }
}

/// free alone.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_free_64(blocks: &[*mut c_void; FEW]) {
    for &block in blocks {
        // SAFETY: each is a live block and freed once: see `run`.
        unsafe { libc::free(black_box(block)) };
    }
}

/// calloc and free of 64 bytes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_calloc_64(n: u64) {
    for _ in 0..n {
        // SAFETY: freed once; free takes null.
        unsafe { libc::free(black_box(libc::calloc(1, 64))) };
    }
}

/// realloc to a size that the block has room for.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_realloc_stay(block: *mut c_void, n: u64) -> *mut c_void {
    let mut block = block;
    for _ in 0..n {
        // SAFETY: the last result, or the block given.
        block = black_box(unsafe { libc::realloc(block, 60) });
    }
    block
}

/// An object of a typed cache, made and dropped.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_typed_pair(n: u64) {
    for _ in 0..n {
        drop(typed::take());
    }
}

/// All loops, each for [`OPERATIONS`]: of the typed cache linked in, or of malloc.
fn round(typed: bool) {
    count_loop(OPERATIONS);
    if typed {
        return count_typed_pair(OPERATIONS);
    }
    count_pair_64(OPERATIONS);
    count_pair_1024(OPERATIONS);
    count_calloc_64(OPERATIONS);
    let mut blocks = [std::ptr::null_mut(); FEW];
    for _ in 0..OPERATIONS / FEW as u64 {
        count_malloc_64(&mut blocks);
        count_free_64(&blocks);
    }
    // SAFETY: malloc takes any size; the block is freed once.
    unsafe { libc::free(count_realloc_stay(libc::malloc(64), OPERATIONS)) };
}

/// The round that callgrind collects, by this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn counted(typed: bool) {
    round(black_box(typed));
}

/// One round to warm up, one to be counted; prints the operations of each loop.
pub(crate) fn run(typed: bool) -> ExitCode {
    round(typed);
    counted(typed);
    println!("{OPERATIONS}");
    ExitCode::SUCCESS
}
