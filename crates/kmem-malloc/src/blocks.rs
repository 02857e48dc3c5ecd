//! Blocks: `malloc` and its nearest family.
//!
//! Each entry point is a thin skin over [`kmem::heap`]: it decides the `errno`, the meaning of a
//! zero size and the product overflow, and nothing else. The heap refuses sizes above `PTRDIFF_MAX`
//! and aborts on a double or foreign free, naming the address and the cache.
//!
//! | call | result |
//! |---|---|
//! | `malloc(0)`, `calloc(0, n)` | a block of its own, to be freed |
//! | `realloc(NULL, n)` | `malloc(n)` |
//! | `realloc(p, 0)`, `p` not null | frees `p`, returns null, leaves `errno` alone |
//! | no memory, size above `PTRDIFF_MAX`, product overflow | null and `ENOMEM`; a block passed in stays whole |
//! | `free` | leaves `errno` alone |

use core::ptr::null_mut;

use kmem::heap::{self, Claim, Origin};
use libc::{c_void, size_t};

use crate::record;
use crate::runtime::set_errno;

/// Null, with `errno` set to `ENOMEM`: how every entry point fails for want of memory.
#[cold]
#[inline(never)]
pub(crate) fn no_memory() -> *mut c_void {
    set_errno(libc::ENOMEM);
    null_mut()
}

/// `block` as C sees it: null becomes null with `ENOMEM`.
#[inline(always)]
pub(crate) fn or_no_memory(block: *mut u8) -> *mut c_void {
    if block.is_null() { no_memory() } else { block.cast() }
}

/// A block for a request by these calls; null when there is no memory. Sets no `errno`.
#[inline]
pub(crate) fn block_by(size: size_t, origin: Origin) -> *mut u8 {
    let mut block = heap::malloc_at_hand(size);
    if block.is_null() {
        block = heap::malloc_slow(size);
        // SAFETY: the heap just gave the block.
        unsafe { heap::note_origin(block, origin, 1) };
    } else {
        // SAFETY: as above.
        unsafe { heap::note_origin_at_hand(block, origin) };
    }
    record::made(block, size);
    block
}

/// A block of at least `size` bytes aligned to 16; null with `ENOMEM` when there is no memory or
/// `size` is above `PTRDIFF_MAX`.
#[unsafe(no_mangle)]
pub extern "C" fn malloc(size: size_t) -> *mut c_void {
    if !heap::is_small(size) {
        return malloc_beyond(size);
    }
    let block = heap::malloc_at_hand(size);
    // The rest is a tail call, so that the usual way saves no register.
    if block.is_null() {
        return malloc_rest(size);
    }
    record::made(block, size);
    block.cast()
}

/// [`malloc`] of more than what is small: in a function of its own, so that the usual way ends where it is done.
#[inline(never)]
extern "C" fn malloc_beyond(size: size_t) -> *mut c_void {
    let block = heap::malloc_at_hand(size);
    if block.is_null() {
        return malloc_rest(size);
    }
    record::made(block, size);
    block.cast()
}

#[cold]
#[inline(never)]
extern "C" fn malloc_rest(size: size_t) -> *mut c_void {
    let block = heap::malloc_slow(size);
    record::made(block, size);
    or_no_memory(block)
}

/// A zeroed block for `count` elements of `size` bytes; null with `ENOMEM` when there is no memory
/// or the product does not fit.
#[unsafe(no_mangle)]
pub extern "C" fn calloc(count: size_t, size: size_t) -> *mut c_void {
    let Some(total) = count.checked_mul(size) else { return no_memory() };
    let block = heap::malloc_at_hand(total);
    if block.is_null() {
        return calloc_rest(total);
    }
    // SAFETY: a block of at least `total` bytes, just allocated.
    unsafe { heap::clear(block, total) };
    record::made_zeroed(block, total);
    block.cast()
}

#[cold]
#[inline(never)]
extern "C" fn calloc_rest(total: size_t) -> *mut c_void {
    let block = heap::calloc_slow(total);
    record::made_zeroed(block, total);
    or_no_memory(block)
}

/// Resizes a block, keeping its content up to the smaller size; it may move. Null with `ENOMEM`
/// leaves the old block untouched. `realloc(p, 0)` frees `p` and returns null.
///
/// # Safety
/// `ptr` is null or a live block of this heap; after success only the result may be used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(ptr: *mut c_void, size: size_t) -> *mut c_void {
    // Most blocks that are resized stay where they are. Neither null nor a size of 0 does.
    // SAFETY: the caller's promise.
    unsafe { if !record::EACH && heap::stays(ptr.cast(), size) { ptr } else { realloc_rest(ptr, size) } }
}

/// [`realloc`] of null, to nothing, of what moves, and of what is no sound block.
///
/// # Safety
/// As [`realloc`].
#[inline(never)]
unsafe fn realloc_rest(ptr: *mut c_void, size: size_t) -> *mut c_void {
    if ptr.is_null() {
        return malloc(size);
    }
    if size == 0 {
        record::freeing(ptr.cast());
        // SAFETY: `ptr` is a live block (contract).
        unsafe { heap::free_as(ptr.cast(), Claim::default()) };
        return null_mut();
    }
    // SAFETY: `ptr` is a live block (contract) and `size` is not zero.
    or_no_memory(record::resizing(ptr.cast(), size, || unsafe { heap::realloc(ptr.cast(), size) }))
}

/// `realloc(ptr, count * size)`; null with `ENOMEM` when the product does not fit.
///
/// # Safety
/// As for [`realloc`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(ptr: *mut c_void, count: size_t, size: size_t) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: the caller keeps realloc's contract.
        Some(total) => unsafe { realloc(ptr, total) },
        None => no_memory(),
    }
}

/// Ends the life of a block; null is ignored. `errno` stays as it was. A pointer that is not a live
/// block of this heap ends the process with a message.
///
/// # Safety
/// `ptr` is null or a live block of this heap and is not used afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(ptr: *mut c_void) {
    record::freeing(ptr.cast());
    // SAFETY: the caller's contract is the heap's.
    unsafe { heap::free_as(ptr.cast(), Claim::default()) }
}

/// The old BSD name of [`free`].
///
/// # Safety
/// As for [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cfree(ptr: *mut c_void) {
    record::freeing(ptr.cast());
    // SAFETY: the caller's contract is the heap's.
    unsafe { heap::free_as(ptr.cast(), Claim::default()) }
}

/// C23: frees a block of [`malloc`], [`calloc`] or [`realloc`] that was requested with `size`.
///
/// # Safety
/// As for [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(ptr: *mut c_void, size: size_t) {
    record::freeing(ptr.cast());
    // SAFETY: the caller's contract is the heap's; the heap finds the size from the address.
    unsafe { heap::free_as(ptr.cast(), Claim { size: Some(size), ..Claim::default() }) }
}

/// C23: frees a block of `aligned_alloc` that was requested with `alignment` and `size`.
///
/// # Safety
/// As for [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(ptr: *mut c_void, alignment: size_t, size: size_t) {
    record::freeing(ptr.cast());
    let claim = Claim { size: Some(size), align: Some(alignment), ..Claim::default() };
    // SAFETY: the caller's contract is the heap's; the heap finds size and alignment from the address.
    unsafe { heap::free_as(ptr.cast(), claim) }
}

/// How many bytes of the block may be used; 0 for null.
///
/// # Safety
/// `ptr` is null or a live block of this heap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(ptr: *mut c_void) -> size_t {
    // SAFETY: the caller's contract is the heap's.
    unsafe { heap::usable_size(ptr.cast()) }
}

// The C library also offers its allocator under these names, and hooks written against it call them. Left alone they
// would hand out blocks of the other heap, which then come to our `free`.

/// The C library's second name of [`malloc`].
#[unsafe(no_mangle)]
pub extern "C" fn __libc_malloc(size: size_t) -> *mut c_void {
    malloc(size)
}

/// The C library's second name of [`calloc`].
#[unsafe(no_mangle)]
pub extern "C" fn __libc_calloc(count: size_t, size: size_t) -> *mut c_void {
    calloc(count, size)
}

/// The C library's second name of [`realloc`].
///
/// # Safety
/// As for [`realloc`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __libc_realloc(ptr: *mut c_void, size: size_t) -> *mut c_void {
    // SAFETY: same contract.
    unsafe { realloc(ptr, size) }
}

/// The C library's second name of [`free`].
///
/// # Safety
/// As for [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __libc_free(ptr: *mut c_void) {
    // SAFETY: same contract.
    unsafe { free(ptr) }
}
