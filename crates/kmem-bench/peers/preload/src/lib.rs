//! The C library's malloc family, given by an allocator written in Rust: the one whose feature is on.
//!
//! rusty_alloc has functions of malloc's shape. The others are global allocators, which are told the size of what they free; so
//! each of their blocks has a header of 16 bytes here ([`headered`]), and what that costs is on their account.
#![allow(clippy::missing_safety_doc)]

#[cfg(not(feature = "rusty_alloc"))]
mod headered;
#[cfg(feature = "rusty_alloc")]
mod rusty;
#[cfg(feature = "talc")]
mod talcs;

#[cfg(not(feature = "rusty_alloc"))]
use headered as given;
use libc::{c_int, c_void};
#[cfg(feature = "rusty_alloc")]
use rusty as given;

fn or_errno(block: *mut u8) -> *mut c_void {
    if block.is_null() {
        // SAFETY: the C library's own place for it, of this thread.
        unsafe { *libc::__errno_location() = libc::ENOMEM };
    }
    block.cast()
}

#[unsafe(no_mangle)]
pub extern "C" fn malloc(size: usize) -> *mut c_void {
    or_errno(given::malloc(size))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(block: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { given::free(block.cast()) }
}

#[unsafe(no_mangle)]
pub extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    or_errno(count.checked_mul(size).map_or(std::ptr::null_mut(), given::zeroed))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    if block.is_null() {
        return malloc(size);
    }
    // SAFETY: the caller's promise.
    or_errno(unsafe { given::realloc(block.cast(), size) })
}

#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    or_errno(given::aligned(size, align))
}

#[unsafe(no_mangle)]
pub extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    or_errno(given::aligned(size, align.next_power_of_two()))
}

#[unsafe(no_mangle)]
pub extern "C" fn valloc(size: usize) -> *mut c_void {
    or_errno(given::aligned(size, 4096))
}

#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(size: usize) -> *mut c_void {
    or_errno(given::aligned(size.next_multiple_of(4096), 4096))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
    if !align.is_power_of_two() || align < size_of::<usize>() {
        return libc::EINVAL;
    }
    let block = given::aligned(size, align);
    if block.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller's place for the result.
    unsafe { *out = block.cast() };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(block: *mut c_void) -> usize {
    if block.is_null() {
        return 0;
    }
    // SAFETY: the caller's promise.
    unsafe { given::usable(block.cast()) }
}
