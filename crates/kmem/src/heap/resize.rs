//! `realloc`: a block gets another size, where it stands or elsewhere.
//!
//! # Theory
//! A block of a class stays while it fits and fills half of its class ([`stays`], which most calls end with); else its contents move to
//! a block of another. What is no block of a class is resized by the core: pages in place, mappings by the system. A block that grows to
//! [`MAPPED`] bytes becomes a mapping, which grows without being copied. On its way there it may get a block with room to grow
//! ([`growing`]), where it stays until it is that long, or short again.
//!
//! # Invariants
//! - I-RESIZE-1: when the answer is null the old block is as it was.
//!
//! # Never
//! A smaller size is not refused for want of memory: then the block stays where it is.

use kmem_core::fault::Kind as Injected;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::aligned::{MAPPED, Resized};
use kmem_core::kmalloc::claim::Claim;
use kmem_core::kmalloc::classes::ClassSet;
use kmem_core::kmalloc::{FreeError, MAX_CLASSES};

use super::{
    HARDENED, HEAP, check_claim, free, growing, hardened, heap, is_headed_in, malloc, reserve, retry,
    size_at, state,
};
use crate::engine::{self, Classes, REGULAR};
use crate::live;
use crate::misuse::{self, Call};

/// Which sizes leave a block where it is.
#[derive(Clone, Copy)]
struct Bounds {
    least: u32,
    /// What the most is more than the least.
    span: u32,
}

/// By tag. That of no class leaves none where it is: nothing starts in its pages.
static BOUNDS: [Bounds; MAX_CLASSES + 1] = {
    let mut table = [Bounds { least: 1, span: 0 }; MAX_CLASSES + 1];
    let mut class = 0;
    while class < Classes::COUNT {
        let most = Classes::SIZES[class];
        let least = if engine::is_growing(class) {
            growing::FROM as u32 + 1
        } else if most as usize <= 2 * Classes::MIN_ALIGN {
            // Moving it would gain nothing.
            1
        } else {
            most / 2 + 1
        };
        table[class + 1] = Bounds { least, span: most - least };
        class += 1;
    }
    table
};

/// The tag of the page around a block, if that is a class's and its blocks stay where they are when they get `size` bytes.
#[inline(always)]
fn tag_that_stays(ptr: *const u8, size: usize) -> Option<usize> {
    let tag = usize::from(HEAP.platform().span().tag(ptr.addr())?);
    if tag > Classes::COUNT {
        return None;
    }
    let Bounds { least, span } = BOUNDS[tag];
    (size.wrapping_sub(least as usize) <= span as usize).then_some(tag)
}

/// The block in use of a class at `ptr` stays where it is when it gets `size` bytes. False: ask [`realloc`], which knows what to do with
/// whatever this is.
///
/// # Safety
/// `ptr` is null or was a block of this module.
#[inline(always)]
#[must_use]
pub unsafe fn stays(ptr: *const u8, size: usize) -> bool {
    // A hardened block has its size beside it.
    if HARDENED || !REGULAR {
        return false;
    }
    let Some(tag) = tag_that_stays(ptr, size) else { return false };
    // SAFETY: the page's tag, and a block of the class at that place.
    unsafe {
        is_headed_in(ptr, tag)
            || engine::place_in(HEAP.platform().span(), ptr, tag)
                .is_some_and(|place| state::is_in_use(ptr, place))
    }
}

/// Gives a block another size; its contents move if need be. Null: no memory, the old block is as it was. What is no block is
/// reported and the process aborts; where its user wants to go on after errors the answer is null.
///
/// # Safety
/// `ptr` is a block of this module and `size` is not 0; after success only the answer may be used.
#[inline]
pub unsafe fn realloc(ptr: *mut u8, size: usize) -> *mut u8 {
    if HARDENED {
        // SAFETY: the caller's promise.
        return unsafe { hardened::realloc(ptr, size) };
    }
    // SAFETY: the caller's promise.
    unsafe { if stays(ptr, size) { ptr } else { realloc_rest(ptr, size) } }
}

/// [`realloc`] of what does not stay where it is, or is no sound block.
///
/// # Safety
/// As [`realloc`].
#[inline(never)]
unsafe fn realloc_rest(ptr: *mut u8, size: usize) -> *mut u8 {
    if size > isize::MAX as usize {
        return core::ptr::null_mut();
    }
    let usable = if let Some(room) = size_at(Call::Realloc, ptr) {
        let Some(room) = room else { return core::ptr::null_mut() };
        // The block was damaged, and that was told; or a header in the page before was not looked at.
        if tag_that_stays(ptr, size).is_some() {
            return ptr;
        }
        room
    } else {
        if HEAP.fault(Injected::Malloc).is_some() {
            // SAFETY: the caller's promise.
            return unsafe { realloc_asking(ptr, size) };
        }
        // SAFETY: the caller's promise.
        let resized = unsafe { resize_slow(ptr, size) };
        match resized {
            Ok(Resized::Here) => return ptr,
            Ok(Resized::Moved(block)) => return block,
            Ok(Resized::Copy { usable }) => usable,
            Err(error) => {
                misuse::refused(&HEAP, Call::Realloc, error);
                return core::ptr::null_mut();
            }
        }
    };
    let new = if size >= MAPPED {
        grow_slow(usable, size)
    } else if growing::suits(usable, size) {
        growing::malloc(size)
    } else {
        malloc(size)
    };
    if new.is_null() {
        // A smaller size is granted where the block stands rather than refused.
        return if size <= usable { ptr } else { new };
    }
    // SAFETY: both blocks are the caller's, and different; the old one has that many bytes.
    unsafe { move_to(new, ptr, usable.min(size)) }
}

/// Moves the first bytes of a block to another and frees it.
///
/// # Safety
/// Both blocks are the caller's, different, and have that many bytes.
#[inline(always)]
unsafe fn move_to(new: *mut u8, old: *mut u8, bytes: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        core::ptr::copy_nonoverlapping(old, new, bytes);
        free(old);
    }
    new
}

/// Resizes what is no block of an unchecked class.
///
/// # Safety
/// As [`realloc`].
#[cold]
#[inline(never)]
unsafe fn resize_slow(ptr: *mut u8, size: usize) -> Result<Resized, FreeError> {
    check_claim(ptr, Claim::default());
    match heap() {
        // SAFETY: the caller's promise; what was refused is still the caller's.
        Some(heap) => unsafe {
            match heap.resize(ptr, size) {
                Err(FreeError::Overflow { cache, .. }) if Classes::TAILED != 0 => {
                    misuse::overflowed(heap, Call::Realloc, ptr, cache);
                    heap.resize(ptr, size)
                }
                resized => resized,
            }
        },
        None => Err(FreeError::Foreign(ptr.addr())),
    }
}

/// [`realloc`] of a block that is of no class, under fault injection. Growth is one request, wherever the block then is; a
/// smaller size is none.
///
/// # Safety
/// As [`realloc`].
#[cold]
#[inline(never)]
unsafe fn realloc_asking(ptr: *mut u8, size: usize) -> *mut u8 {
    let grows = HEAP.ksize(ptr).is_ok_and(|room| size > room);
    if grows && HEAP.refuses_program(size, Gfp::KERNEL) {
        return core::ptr::null_mut();
    }
    // SAFETY: the caller's promise.
    let resized = unsafe { resize_slow(ptr, size) };
    let usable = match resized {
        Ok(Resized::Here) => return ptr,
        Ok(Resized::Moved(block)) => return block,
        Ok(Resized::Copy { usable }) => usable,
        Err(error) => {
            misuse::refused(&HEAP, Call::Realloc, error);
            return core::ptr::null_mut();
        }
    };
    let new = retry(&HEAP, size, || HEAP.allocate_resized(usable, size, Gfp::KERNEL));
    if new.is_null() {
        return if size <= usable { ptr } else { new };
    }
    // SAFETY: as in `realloc`.
    unsafe { move_to(new, ptr, usable.min(size)) }
}

#[cold]
#[inline(never)]
fn grow_slow(usable: usize, size: usize) -> *mut u8 {
    let Some(heap) = heap() else { return core::ptr::null_mut() };
    live::tick(heap);
    reserve::tick(heap);
    reserve::expect();
    if heap.refuses_program(size, Gfp::KERNEL) {
        return core::ptr::null_mut();
    }
    retry(heap, size, || heap.allocate_resized(usable, size, Gfp::KERNEL))
}
