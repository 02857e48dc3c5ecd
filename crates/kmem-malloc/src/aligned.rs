//! Blocks with an alignment of the caller's choice.
//!
//! The five calls differ only in what they make of a bad alignment:
//!
//! | call | alignment accepted | otherwise |
//! |---|---|---|
//! | `posix_memalign` | power of two, multiple of the pointer size | returns `EINVAL`, touches neither `errno` nor the result |
//! | `aligned_alloc` | power of two | null, `EINVAL` |
//! | `memalign` | rounded up to a power of two | null, `EINVAL` when there is none that large |
//! | `valloc`, `pvalloc` | the page size | - |
//!
//! The size need not be a multiple of the alignment anywhere; `pvalloc` rounds it up to whole pages.

use core::ptr::null_mut;

use kmem::heap::{self, Origin};
use libc::{c_int, c_void, size_t};

use crate::blocks::{block_by, no_memory, or_no_memory};
use crate::record;
use crate::runtime::set_errno;

/// What `malloc` gives without being asked.
const MALLOC_ALIGN: usize = 16;

/// The system's page size, a power of two: the alignment of `valloc` and `pvalloc`.
fn page_size() -> usize {
    // SAFETY: getauxval reads a table the kernel gave at program start; it has no requirements.
    unsafe { libc::getauxval(libc::AT_PAGESZ) as usize }
}

/// A block for an alignment that is a power of two, of those that wait for it; null: ask [`aligned_rest`].
#[inline(always)]
fn aligned_at_hand(align: usize, size: usize) -> *mut u8 {
    debug_assert!(align.is_power_of_two());
    let block = heap::memalign_at_hand(align, size);
    if block.is_null() {
        return block;
    }
    if align <= MALLOC_ALIGN {
        record::made(block, size);
    } else {
        record::made_aligned(block, align, size);
    }
    block
}

/// [`aligned_at_hand`] where that gave nothing. Null when there is no memory; sets no `errno`.
#[cold]
#[inline(never)]
fn aligned_rest(align: usize, size: usize, origin: Origin) -> *mut u8 {
    if align <= MALLOC_ALIGN {
        return block_by(size, origin);
    }
    // The sum bounds what the heap has to search for, and keeps its arithmetic from wrapping.
    let block = match align.checked_add(size) {
        Some(sum) if sum <= isize::MAX as usize => heap::memalign_slow(align, size),
        _ => null_mut(),
    };
    // SAFETY: the heap just gave the block.
    unsafe { heap::note_origin(block, origin, align) };
    record::made_aligned(block, align, size);
    block
}

/// A block for an alignment that is a power of two; null when there is no memory. Sets no `errno`. For the operators, which other
/// architectures do not have.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn aligned_block(align: usize, size: usize, origin: Origin) -> *mut u8 {
    let block = aligned_at_hand(align, size);
    // The rest is a tail call, so that the usual way saves no register.
    if block.is_null() { aligned_rest(align, size, origin) } else { block }
}

/// A block for an alignment that is a power of two, as C sees it: null comes with `ENOMEM`.
#[inline(always)]
fn aligned_or_no_memory(align: usize, size: usize) -> *mut c_void {
    if !heap::is_small_aligned(align, size) {
        return aligned_beyond(align, size);
    }
    let block = aligned_at_hand(align, size);
    // The rest is a tail call, so that the usual way saves no register.
    if block.is_null() { aligned_rest_or_no_memory(align, size) } else { block.cast() }
}

/// [`aligned_or_no_memory`] of more than what is small, as `malloc_beyond`.
#[inline(never)]
extern "C" fn aligned_beyond(align: usize, size: usize) -> *mut c_void {
    let block = aligned_at_hand(align, size);
    if block.is_null() { aligned_rest_or_no_memory(align, size) } else { block.cast() }
}

#[cold]
#[inline(never)]
extern "C" fn aligned_rest_or_no_memory(align: usize, size: usize) -> *mut c_void {
    or_no_memory(aligned_rest(align, size, Origin::Malloc))
}

/// Null, with `errno` set to `EINVAL`.
#[cold]
#[inline(never)]
fn bad_argument() -> *mut c_void {
    set_errno(libc::EINVAL);
    // Not known to the callers, which would keep registers for it otherwise instead of ending here.
    core::hint::black_box(null_mut())
}

/// Stores an aligned block in `*result`. Returns 0, `EINVAL` for an alignment that is not a power of
/// two multiple of the pointer size, or `ENOMEM`; `*result` is written only on success.
///
/// # Safety
/// `result` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(result: *mut *mut c_void, align: size_t, size: size_t) -> c_int {
    if !align.is_power_of_two() || align < size_of::<*mut c_void>() {
        return libc::EINVAL;
    }
    let block = aligned_or_no_memory(align, size);
    if block.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller lets us write the result.
    unsafe { *result = block };
    0
}

/// An aligned block; null with `EINVAL` when `align` is not a power of two, with `ENOMEM` when there
/// is no memory.
#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(align: size_t, size: size_t) -> *mut c_void {
    if !align.is_power_of_two() {
        return bad_argument();
    }
    aligned_or_no_memory(align, size)
}

/// An aligned block; `align` is rounded up to a power of two. Null with `EINVAL` when no power of two
/// is that large, with `ENOMEM` when there is no memory.
#[unsafe(no_mangle)]
pub extern "C" fn memalign(align: size_t, size: size_t) -> *mut c_void {
    match align.checked_next_power_of_two() {
        Some(align) => aligned_or_no_memory(align, size),
        None => bad_argument(),
    }
}

/// A block aligned to the page size; null with `ENOMEM` when there is no memory.
#[unsafe(no_mangle)]
pub extern "C" fn valloc(size: size_t) -> *mut c_void {
    aligned_or_no_memory(page_size(), size)
}

/// Whole pages for `size` bytes; null with `ENOMEM` when the rounded size does not fit or there is no
/// memory.
#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(size: size_t) -> *mut c_void {
    let page = page_size();
    match size.checked_next_multiple_of(page) {
        Some(rounded) => aligned_or_no_memory(page, rounded),
        None => no_memory(),
    }
}

/// The C library's second name of [`memalign`].
#[unsafe(no_mangle)]
pub extern "C" fn __libc_memalign(align: size_t, size: size_t) -> *mut c_void {
    memalign(align, size)
}

/// The C library's second name of [`valloc`].
#[unsafe(no_mangle)]
pub extern "C" fn __libc_valloc(size: size_t) -> *mut c_void {
    valloc(size)
}

/// The C library's second name of [`pvalloc`].
#[unsafe(no_mangle)]
pub extern "C" fn __libc_pvalloc(size: size_t) -> *mut c_void {
    pvalloc(size)
}
