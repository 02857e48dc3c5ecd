//! `calloc`: blocks of zero bytes, cleared only where they may be anything else.
//!
//! # Theory
//! A small block is cleared: to know that it is zero would cost more. Beyond 32 KiB fresh pages are worth a way of their own:
//! what lies on this CPU's stack was used a moment ago and is cleared where the cache holds it, and all else comes
//! from the page allocator, which knows what is zero already.

use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::classes::ClassSet;

use super::{HARDENED, hardened, heap, malloc_at_hand, malloc_slow, pop_near, retry};
use crate::engine::{Classes, REGULAR};

/// A block of `size` zero bytes; otherwise as [`malloc`](super::malloc).
#[inline]
pub fn calloc(size: usize) -> *mut u8 {
    let block = malloc_at_hand(size);
    if block.is_null() {
        return calloc_slow(size);
    }
    // SAFETY: just allocated.
    unsafe { clear(block, size) };
    block
}

/// Makes a block of [`malloc_at_hand`] zero, up to the `size` bytes asked for. Those of a hardened heap are.
///
/// # Safety
/// The block is the caller's, and has that many bytes.
#[inline(always)]
pub unsafe fn clear(block: *mut u8, size: usize) {
    if !HARDENED {
        // SAFETY: the caller's promise.
        unsafe { block.write_bytes(0, size) };
    }
}

/// [`calloc`] where [`malloc_at_hand`] gave nothing.
#[cold]
#[inline(never)]
pub fn calloc_slow(size: usize) -> *mut u8 {
    if HARDENED {
        return hardened::calloc_slow(size);
    }
    if size > ZEROED_BY_PAGES {
        return calloc_large(size);
    }
    let block = malloc_slow(size);
    if !block.is_null() {
        // SAFETY: the block has that many bytes.
        unsafe { block.write_bytes(0, size) };
    }
    block
}

/// Beyond so many bytes, fresh pages that need no clearing are worth a way of their own.
pub(super) const ZEROED_BY_PAGES: usize = 32 << 10;

fn calloc_large(size: usize) -> *mut u8 {
    if size > isize::MAX as usize {
        return core::ptr::null_mut();
    }
    // What was used a moment ago and lies in this CPU's cache before what must be looked for.
    if REGULAR && size <= Classes::LARGEST {
        let block = pop_near(size);
        if !block.is_null() {
            // SAFETY: the block has that many bytes.
            unsafe { block.write_bytes(0, size) };
            return block;
        }
    }
    // Whole pages know whether they are zero.
    let Some(heap) = heap() else { return core::ptr::null_mut() };
    if heap.refuses_program(size, Gfp::KERNEL) {
        return core::ptr::null_mut();
    }
    retry(heap, size, || heap.allocate(size, Gfp::KERNEL | Gfp::ZERO))
}
