//! `realloc` of a hardened heap.
//!
//! # Theory
//! A block of a class stays while it fits and fills half of its class: its seal is opened, what it no longer holds is cleared, and it is
//! sealed again. What lies behind the old filler is zero already (I-HARD-3). All else moves, or is resized by the core.
//!
//! # Never
//! A smaller size is not refused for want of memory: then the block stays where it is.

use kmem_core::fault::Kind as Injected;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::aligned::Resized;
use kmem_core::kmalloc::classes::ClassSet;

use super::super::{HEAP, class_at};
use super::seal::{TRAILER, open, seal};
use super::{asked_of, free, granted, granted_apart, malloc_at_hand, malloc_slow, stop};
use crate::engine::{self, Classes};
use crate::misuse::Call;

/// See [`super::super::realloc`].
///
/// # Safety
/// As there.
pub(in crate::heap) unsafe fn realloc(ptr: *mut u8, size: usize) -> *mut u8 {
    if size > isize::MAX as usize {
        return core::ptr::null_mut();
    }
    let mut grows = false;
    let usable = if let Some(class) = class_at(ptr) {
        let (old, slot) = (asked_of(Call::Realloc, ptr, class), Classes::size_of(class));
        let room = slot - TRAILER;
        if size <= room && (size > room / 2 || room <= 2 * Classes::MIN_ALIGN) {
            // SAFETY: the block is the caller's. What it no longer holds, and the old seal, go; the rest of the slot is zero (I-HARD-3).
            unsafe {
                open(ptr, slot);
                if size < old {
                    ptr.add(size).write_bytes(0, old - size);
                }
                ptr.add(old).cast::<u64>().write_unaligned(0);
                seal(ptr, slot, size);
            }
            return ptr;
        }
        old
    } else {
        // Growth is one request, wherever the block then is.
        grows = HEAP.fault(Injected::Malloc).is_some() && HEAP.ksize(ptr).is_ok_and(|room| size > room);
        if grows && HEAP.refuses_program(size, Gfp::KERNEL) {
            return core::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        match unsafe { HEAP.resize(ptr, size) } {
            Ok(Resized::Here) => return ptr,
            Ok(Resized::Moved(block)) => return block,
            Ok(Resized::Copy { usable }) => usable,
            Err(error) => stop(Call::Realloc, error),
        }
    };
    let new = match malloc_at_hand(size) {
        block if block.is_null() && grows => {
            let allocate = |heap: &engine::Heap, bytes| heap.allocate(bytes, Gfp::KERNEL);
            if size > Classes::LARGEST - TRAILER {
                granted_apart(&HEAP, size, allocate)
            } else {
                granted(&HEAP, Classes::MIN_ALIGN, size, allocate)
            }
        }
        block if block.is_null() => malloc_slow(size),
        block => block,
    };
    if new.is_null() {
        // A smaller size is granted where the block stands rather than refused.
        return if size <= usable { ptr } else { new };
    }
    // SAFETY: both blocks have that many bytes and are different; the old one is the caller's.
    unsafe {
        core::ptr::copy_nonoverlapping(ptr, new, usable.min(size));
        free(ptr);
    }
    new
}
