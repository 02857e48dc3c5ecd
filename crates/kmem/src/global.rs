//! kmem as Rust's global allocator.

use core::alloc::{GlobalAlloc, Layout};

use crate::heap;

/// `#[global_allocator]`: every `Box`, `Vec` and `String` of the program on slabs.
///
/// ```
/// #[global_allocator]
/// static GLOBAL: kmem::Kmalloc = kmem::Kmalloc;
///
/// let words = vec![String::from("on"), String::from("slabs")];
/// assert_eq!(words.concat(), "onslabs");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Kmalloc;

// SAFETY: blocks are at least as large and as aligned as the layout asks, belong to one owner from allocation to
// deallocation, and nothing here unwinds.
unsafe impl GlobalAlloc for Kmalloc {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= 16 {
            heap::malloc(layout.size())
        } else {
            heap::memalign(layout.align(), layout.size())
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= 16 {
            return heap::calloc(layout.size());
        }
        let block = heap::memalign(layout.align(), layout.size());
        if !block.is_null() {
            // SAFETY: the block has that many bytes.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, _layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { heap::free(ptr) }
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() <= 16 {
            // SAFETY: the caller's promise; a layout's new size is not 0.
            return unsafe { heap::realloc(ptr, size) };
        }
        let new = heap::memalign(layout.align(), size);
        if !new.is_null() {
            // SAFETY: both blocks have that many bytes; the old one is the caller's.
            unsafe {
                core::ptr::copy_nonoverlapping(ptr, new, layout.size().min(size));
                heap::free(ptr);
            }
        }
        new
    }
}
