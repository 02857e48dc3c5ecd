//! A global allocator behind malloc's functions: the size and the alignment of a block stand before it.

use std::alloc::{GlobalAlloc, Layout};

#[cfg(feature = "dlmalloc")]
static HEAP: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;
#[cfg(feature = "rlsf")]
static HEAP: rlsf::SmallGlobalTlsf = rlsf::SmallGlobalTlsf::new();
#[cfg(feature = "talc")]
use crate::talcs::HEAP;

/// Of malloc's blocks, and the room for the header.
const ALIGN: usize = 16;

/// What stands in the 16 bytes before a block.
#[derive(Clone, Copy)]
struct Header {
    size: usize,
    /// Also the distance from the start of what the allocator gave.
    align: usize,
}

fn layout(header: Header) -> Option<Layout> {
    Layout::from_size_align(header.size.checked_add(header.align)?, header.align).ok()
}

fn make(header: Header, allocate: impl FnOnce(Layout) -> *mut u8) -> *mut u8 {
    let base = layout(header).map_or(std::ptr::null_mut(), allocate);
    if base.is_null() {
        return base;
    }
    // SAFETY: `align` bytes of the block lie before what is handed out, at least the header's 16.
    unsafe {
        let block = base.add(header.align);
        block.cast::<Header>().sub(1).write(header);
        block
    }
}

/// # Safety
/// `block` came from here and is live.
unsafe fn header(block: *const u8) -> Header {
    // SAFETY: the caller's promise.
    unsafe { block.cast::<Header>().sub(1).read() }
}

pub fn malloc(size: usize) -> *mut u8 {
    aligned(size, ALIGN)
}

pub fn zeroed(size: usize) -> *mut u8 {
    // SAFETY: the layout is not empty: it has a header.
    make(Header { size, align: ALIGN }, |layout| unsafe { HEAP.alloc_zeroed(layout) })
}

pub fn aligned(size: usize, align: usize) -> *mut u8 {
    // SAFETY: the layout is not empty: it has a header.
    make(Header { size, align: align.max(ALIGN) }, |layout| unsafe { HEAP.alloc(layout) })
}

pub unsafe fn free(block: *mut u8) {
    if block.is_null() {
        return;
    }
    // SAFETY: the caller's promise; the layout is the one that the block was made with.
    unsafe {
        let header = header(block);
        if let Some(layout) = layout(header) {
            HEAP.dealloc(block.sub(header.align), layout);
        }
    }
}

pub unsafe fn realloc(block: *mut u8, size: usize) -> *mut u8 {
    // SAFETY: as for `free`; the header is kept at the start and written anew.
    unsafe {
        let before = header(block);
        let after = Header { size, ..before };
        let (Some(old), Some(new)) = (layout(before), layout(after)) else { return std::ptr::null_mut() };
        let base = HEAP.realloc(block.sub(before.align), old, new.size());
        make(after, |_| base)
    }
}

pub unsafe fn usable(block: *const u8) -> usize {
    // SAFETY: the caller's promise.
    unsafe { header(block).size }
}
