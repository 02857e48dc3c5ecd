//! kvmalloc: blocks of any size, from kmalloc where that can and from a mapping where it cannot.
//!
//! The kernel's second source is memory that is contiguous only in virtual addresses. Here it is a mapping of the
//! platform's, outside the window, kept in the table of [`super::huge`]: page aligned, zero, of any length, and of
//! no node that anybody could promise.
//!
//! # When a mapping
//! Never for a page or less, nor for a caller that may not wait: asking the platform for address space takes its
//! time. For the rest kmalloc is asked first, without a message and without trying hard.
//!
//! # Invariants
//! - I-KV-1: a block that a mapping serves is freed by [`Kmem::kvfree`] (which is [`Kmem::kfree`]: the address tells).
//! - I-KV-2: a request that insists on a node ([`Gfp::THISNODE`]) is not served by a mapping where there are several.

use core::ptr;

use crate::config::Config;
use crate::gfp::Gfp;
use crate::heap::Kmem;
use crate::kmalloc::family::wipe;
use crate::kmalloc::{Block, FreeError, ZERO_SIZE_PTR, zero_or_null};
use crate::platform::{PAGE_SIZE, Platform};
use crate::report;

/// The most that kvmalloc serves: larger sizes are taken for mistakes.
pub const KVMALLOC_MAX: usize = i32::MAX as usize;

impl<P: Platform, C: Config> Kmem<P, C> {
    /// A block of at least `size` bytes; null when there is no memory, or `size` exceeds [`KVMALLOC_MAX`] (with a message,
    /// unless [`Gfp::NOWARN`]). 0 bytes: [`ZERO_SIZE_PTR`].
    pub fn kvmalloc(&self, size: usize, gfp: Gfp) -> *mut u8 {
        self.kvmalloc_node_align(size, 1, gfp, None)
    }

    /// [`Kmem::kvmalloc`] from memory of `node` if that has any. A mapping is of no node.
    pub fn kvmalloc_node(&self, size: usize, gfp: Gfp, node: Option<usize>) -> *mut u8 {
        self.kvmalloc_node_align(size, 1, gfp, node)
    }

    /// [`Kmem::kvmalloc_node`], aligned to `align`. An `align` that is no power of two: null.
    pub fn kvmalloc_node_align(&self, size: usize, align: usize, gfp: Gfp, node: Option<usize>) -> *mut u8 {
        if !align.is_power_of_two() {
            return ptr::null_mut();
        }
        self.kv_fallback(size, align, gfp, |gfp| self.kmalloc_aligned_node(size, align, gfp, node))
    }

    /// [`Kmem::kvmalloc`], cleared.
    pub fn kvzalloc(&self, size: usize, gfp: Gfp) -> *mut u8 {
        self.kvmalloc(size, gfp | Gfp::ZERO)
    }

    /// [`Kmem::kvmalloc_node`], cleared.
    pub fn kvzalloc_node(&self, size: usize, gfp: Gfp, node: Option<usize>) -> *mut u8 {
        self.kvmalloc_node(size, gfp | Gfp::ZERO, node)
    }

    /// [`Kmem::kvmalloc`] for `n` elements of `size` bytes. A product that overflows: null, no message.
    pub fn kvmalloc_array(&self, n: usize, size: usize, gfp: Gfp) -> *mut u8 {
        n.checked_mul(size).map_or(ptr::null_mut(), |bytes| self.kvmalloc(bytes, gfp))
    }

    /// [`Kmem::kvmalloc_array`], cleared.
    pub fn kvcalloc(&self, n: usize, size: usize, gfp: Gfp) -> *mut u8 {
        self.kvmalloc_array(n, size, gfp | Gfp::ZERO)
    }

    /// [`Kmem::kvcalloc`] from memory of `node` if that has any.
    pub fn kvcalloc_node(&self, n: usize, size: usize, gfp: Gfp, node: Option<usize>) -> *mut u8 {
        n.checked_mul(size).map_or(ptr::null_mut(), |bytes| self.kvzalloc_node(bytes, gfp, node))
    }

    /// Serves `size` bytes by `kmalloc`, which is told with which flags, or by a mapping.
    pub(crate) fn kv_fallback(
        &self,
        size: usize,
        align: usize,
        gfp: Gfp,
        kmalloc: impl FnOnce(Gfp) -> *mut u8,
    ) -> *mut u8 {
        if size > KVMALLOC_MAX {
            if !gfp.contains(Gfp::NOWARN) {
                report::say(
                    &self.platform,
                    format_args!("kvmalloc of {size} bytes: more than {KVMALLOC_MAX}"),
                );
            }
            return ptr::null_mut();
        }
        let node_matters = P::NUMA && gfp.contains(Gfp::THISNODE);
        if size <= PAGE_SIZE || !gfp.may_block() || node_matters {
            return kmalloc(gfp);
        }
        let mut first = (gfp | Gfp::NOWARN) - Gfp::NOFAIL;
        if !gfp.contains(Gfp::RETRY_MAYFAIL) {
            first |= Gfp::NORETRY;
        }
        let block = kmalloc(first);
        // A mapping is zero anyway.
        if block.is_null() { self.alloc_huge(size, align) } else { block }
    }

    /// Frees a block of kvmalloc or kmalloc. Null and [`ZERO_SIZE_PTR`] are fine.
    ///
    /// # Errors
    /// As [`Kmem::kfree`].
    ///
    /// # Safety
    /// As [`Kmem::kfree`].
    pub unsafe fn kvfree(&self, ptr: *mut u8) -> Result<(), FreeError> {
        // SAFETY: the caller's promise.
        unsafe { self.kfree(ptr) }
    }

    /// Clears the first `len` bytes of a block, at most all of it, and frees it. Null and [`ZERO_SIZE_PTR`] are fine.
    ///
    /// # Errors
    /// As [`Kmem::kfree_sensitive`].
    ///
    /// # Safety
    /// As [`Kmem::kfree`].
    pub unsafe fn kvfree_sensitive(&self, ptr: *mut u8, len: usize) -> Result<(), FreeError> {
        let bytes = self.ksize(ptr)?.min(len);
        // SAFETY: a block of at least that many bytes, the caller's.
        unsafe { wipe(ptr, bytes) };
        // SAFETY: the caller's promise.
        unsafe { self.kfree(ptr) }
    }

    /// Gives a block of kvmalloc or kmalloc another size; null: no memory, the old block is as it was. The first bytes stay,
    /// as many as both sizes have. A mapping stays a mapping and grows or shrinks, in place where it can; a
    /// block of kmalloc stays where it is if the new size fits and moves to whatever serves that size if not.
    ///
    /// `ptr` null or [`ZERO_SIZE_PTR`]: as [`Kmem::kvmalloc`]. `size` 0: frees, and returns [`ZERO_SIZE_PTR`].
    /// [`Gfp::ZERO`] as for [`Kmem::krealloc`].
    ///
    /// # Errors
    /// As [`Kmem::kfree`]: nothing starts at `ptr`.
    ///
    /// # Safety
    /// As [`Kmem::krealloc`].
    pub unsafe fn kvrealloc(&self, ptr: *mut u8, size: usize, gfp: Gfp) -> Result<*mut u8, FreeError> {
        if size == 0 {
            // SAFETY: the caller's promise.
            unsafe { self.kfree(ptr) }?;
            return Ok(ZERO_SIZE_PTR);
        }
        if zero_or_null(ptr) {
            return Ok(self.kvmalloc(size, gfp));
        }
        let block = self.block_at(ptr)?;
        let usable = self.ksize(ptr)?;
        if size <= usable && gfp.contains(Gfp::ZERO) {
            // SAFETY: the block has `usable` bytes and is the caller's.
            unsafe { ptr.add(size).write_bytes(0, usable - size) };
        }
        if let Block::Huge(bytes) = block {
            if size > KVMALLOC_MAX {
                return Ok(self.kvmalloc(size, gfp));
            }
            // Growth asks the platform, as a new mapping would.
            if size > bytes && !gfp.may_block() {
                return Ok(ptr::null_mut());
            }
            // SAFETY: the caller's promise.
            let moved = unsafe { self.resize_huge(ptr, size, gfp.contains(Gfp::ZERO)) };
            // A mapping that the platform will not shrink serves as it is.
            return Ok(if moved.is_null() && size <= bytes { ptr } else { moved });
        }
        if size <= usable {
            return Ok(ptr);
        }
        let new = self.kvmalloc(size, gfp);
        if !new.is_null() {
            // SAFETY: two blocks in use of at least `usable` bytes; the old one is the caller's.
            unsafe {
                ptr::copy_nonoverlapping(ptr, new, usable);
                self.kfree(ptr)?;
            }
        }
        Ok(new)
    }
}
