//! rusty_alloc, whose functions are malloc's already.

pub use rusty_alloc::alloc::{free, malloc, realloc, zalloc as zeroed};

pub fn aligned(size: usize, align: usize) -> *mut u8 {
    rusty_alloc::alloc::malloc_aligned(size, align)
}

pub unsafe fn usable(block: *const u8) -> usize {
    // SAFETY: the caller's promise.
    unsafe { rusty_alloc::alloc::usable_size(block) }
}
