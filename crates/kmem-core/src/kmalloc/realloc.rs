//! krealloc: blocks of kmalloc that change their size.
//!
//! A block stays where it is as long as the request fits in it: it never moves to a smaller class. (`realloc` of
//! programs, which gives memory back by moving, is [`Kmem::reallocate`].)
//!
//! # Zeroes
//! With [`Gfp::ZERO`] at every step of a block's life, from its allocation on, all bytes beyond the size last asked
//! are zero up to [`Kmem::ksize`] (I-FAM-1). A step without the flag ends that.
//!
//! # Invariants
//! - I-REALLOC-1: a move copies the lesser of the old block's bytes and the new size, also when it moves to shrink
//!   (for an alignment or a node).
//! - I-REALLOC-2: when the answer is null the old block is as it was.

use core::ptr;

use crate::config::Config;
use crate::gfp::Gfp;
use crate::heap::Kmem;
use crate::kmalloc::{FreeError, ZERO_SIZE_PTR, zero_or_null};
use crate::platform::Platform;

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Gives a block another size. Null: no memory or more than 4 MiB, the old block is as it was.
    ///
    /// `ptr` null or [`ZERO_SIZE_PTR`]: as [`Kmem::kmalloc`]. `size` 0: frees the block and returns [`ZERO_SIZE_PTR`].
    ///
    /// # Errors
    /// As [`Kmem::kfree`]: nothing starts at `ptr`.
    ///
    /// # Safety
    /// The block belongs to the caller; unless the answer is null or an error, only the answer may be used afterwards.
    pub unsafe fn krealloc(&self, ptr: *mut u8, size: usize, gfp: Gfp) -> Result<*mut u8, FreeError> {
        // SAFETY: the caller's promise.
        unsafe { self.krealloc_node_align(ptr, size, 1, gfp, None) }
    }

    /// [`Kmem::krealloc`] to `n` elements of `size` bytes. A product that overflows: null, the old block is as it was.
    ///
    /// # Errors
    /// As [`Kmem::krealloc`].
    ///
    /// # Safety
    /// As [`Kmem::krealloc`].
    pub unsafe fn krealloc_array(
        &self,
        ptr: *mut u8,
        n: usize,
        size: usize,
        gfp: Gfp,
    ) -> Result<*mut u8, FreeError> {
        match n.checked_mul(size) {
            // SAFETY: the caller's promise.
            Some(bytes) => unsafe { self.krealloc(ptr, bytes, gfp) },
            None => Ok(ptr::null_mut()),
        }
    }

    /// [`Kmem::krealloc`], and the answer is aligned to `align`. A block that fits moves all the same when it is not,
    /// or when [`Gfp::THISNODE`] asks for another node than the block's. An `align` that is no power of two: null.
    ///
    /// # Errors
    /// As [`Kmem::krealloc`].
    ///
    /// # Safety
    /// As [`Kmem::krealloc`].
    pub unsafe fn krealloc_node_align(
        &self,
        ptr: *mut u8,
        size: usize,
        align: usize,
        gfp: Gfp,
        node: Option<usize>,
    ) -> Result<*mut u8, FreeError> {
        if !align.is_power_of_two() {
            return Ok(ptr::null_mut());
        }
        if size == 0 {
            // SAFETY: the caller's promise.
            unsafe { self.kfree(ptr) }?;
            return Ok(ZERO_SIZE_PTR);
        }
        if zero_or_null(ptr) {
            return Ok(self.kmalloc_aligned_node(size, align, gfp, node));
        }
        let usable = self.ksize(ptr)?;
        let there = size <= usable && ptr.addr().is_multiple_of(align);
        if there && self.node_suits(ptr, gfp, node) {
            if gfp.contains(Gfp::ZERO) {
                // SAFETY: the block has `usable` bytes and is the caller's.
                unsafe { ptr.add(size).write_bytes(0, usable - size) };
            }
            return Ok(ptr);
        }
        let new = self.kmalloc_aligned_node(size, align, gfp, node);
        if !new.is_null() {
            // SAFETY: two blocks of at least that many bytes, both in use, so they do not overlap; the old one is the caller's.
            unsafe {
                ptr::copy_nonoverlapping(ptr, new, usable.min(size));
                self.kfree(ptr)?;
            }
        }
        Ok(new)
    }

    /// False when the flags insist on a node that this block is not of.
    fn node_suits(&self, ptr: *const u8, gfp: Gfp, node: Option<usize>) -> bool {
        let Some(node) = node.filter(|&node| P::NUMA && node < self.platform.nodes()) else { return true };
        let home = self.pages.at(ptr.addr()).map(|page| self.pages.head(page).node());
        !gfp.contains(Gfp::THISNODE) || home == Some(node)
    }
}
