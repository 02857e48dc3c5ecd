//! The hooks of the library that does not record: nothing, and no instruction for it.

/// Each call must come by.
pub(crate) const EACH: bool = false;

/// malloc gave this block.
#[inline(always)]
pub(crate) fn made(_block: *mut u8, _size: usize) {}

/// calloc gave this block.
#[inline(always)]
pub(crate) fn made_zeroed(_block: *mut u8, _size: usize) {}

/// A call with an alignment gave this block.
#[inline(always)]
pub(crate) fn made_aligned(_block: *mut u8, _align: usize, _size: usize) {}

/// This block is about to be freed.
#[inline(always)]
pub(crate) fn freeing(_ptr: *mut u8) {}

/// Runs `resize`, which gives the block another size.
#[inline(always)]
pub(crate) fn resizing(_ptr: *mut u8, _size: usize, resize: impl FnOnce() -> *mut u8) -> *mut u8 {
    resize()
}

/// Before a fork, and before the heap is closed for it.
#[inline(always)]
pub(crate) fn prefork() {}

/// After a fork in the parent.
#[inline(always)]
pub(crate) fn postfork_parent() {}

/// After a fork in the child, when the heap is open again.
#[inline(always)]
pub(crate) fn postfork_child() {}

/// The process ends.
#[inline(always)]
pub(crate) fn finish() {}
