//! The everyday relatives of kmalloc: cleared blocks, arrays, many at once, and blocks that hold secrets.
//!
//! Everything here is arithmetic in front of [`Kmem::kmalloc`] and [`Kmem::kfree`]; no state of its own. What the
//! functions share:
//!
//! | case | answer |
//! |---|---|
//! | 0 bytes, or an array of no elements | [`ZERO_SIZE_PTR`], to be freed like any block |
//! | more than 4 MiB | null and a message, unless [`Gfp::NOWARN`] |
//! | `n * size` overflows | null, no message |
//! | no memory | null |
//! | a node that does not exist, `None` | no preference |
//!
//! # Invariants
//! - I-FAM-1: a block got with [`Gfp::ZERO`] is zero up to [`Kmem::ksize`], not just as far as was asked: the tail
//!   that a later `krealloc` in place uncovers is zero too.
//!
//! The kernel's `kmalloc_track_caller` and `kfree_const` are not here: the first is kmalloc unless call sites are
//! recorded, the second asks whether an address is read-only data, which only the program's linker knows.

use core::ptr;

use crate::cache::CacheRef;
use crate::config::Config;
use crate::engine::Engine;
use crate::gfp::Gfp;
use crate::heap::Kmem;
use crate::kmalloc::classes::{ClassSet, Kind, LargeRule, MAX_BYTES};
use crate::kmalloc::large::pages_for;
use crate::kmalloc::{FreeError, ZERO_SIZE_PTR};
use crate::platform::{PAGE_SHIFT, PAGE_SIZE, Platform};

impl<P: Platform, C: Config> Kmem<P, C> {
    /// [`Kmem::kmalloc`], cleared.
    pub fn kzalloc(&self, size: usize, gfp: Gfp) -> *mut u8 {
        self.kmalloc(size, gfp | Gfp::ZERO)
    }

    /// [`Kmem::kmalloc_node`], cleared.
    pub fn kzalloc_node(&self, size: usize, gfp: Gfp, node: Option<usize>) -> *mut u8 {
        self.kmalloc_node(size, gfp | Gfp::ZERO, node)
    }

    /// A block for `n` elements of `size` bytes. Null when the product overflows.
    pub fn kmalloc_array(&self, n: usize, size: usize, gfp: Gfp) -> *mut u8 {
        n.checked_mul(size).map_or(ptr::null_mut(), |bytes| self.kmalloc(bytes, gfp))
    }

    /// [`Kmem::kmalloc_array`] from memory of `node`, as [`Kmem::alloc_node`].
    pub fn kmalloc_array_node(&self, n: usize, size: usize, gfp: Gfp, node: Option<usize>) -> *mut u8 {
        n.checked_mul(size).map_or(ptr::null_mut(), |bytes| self.kmalloc_node(bytes, gfp, node))
    }

    /// [`Kmem::kmalloc_array`], cleared.
    pub fn kcalloc(&self, n: usize, size: usize, gfp: Gfp) -> *mut u8 {
        self.kmalloc_array(n, size, gfp | Gfp::ZERO)
    }

    /// [`Kmem::kmalloc_array_node`], cleared.
    pub fn kcalloc_node(&self, n: usize, size: usize, gfp: Gfp, node: Option<usize>) -> *mut u8 {
        self.kmalloc_array_node(n, size, gfp | Gfp::ZERO, node)
    }

    /// Fills all of `out` with blocks of at least `size` bytes, or nothing (null in each place): true when it did.
    ///
    /// Blocks of a class come in bulk, as [`Kmem::alloc_bulk`]; larger ones one after the other.
    pub fn kmalloc_bulk(&self, size: usize, gfp: Gfp, out: &mut [*mut u8]) -> bool {
        out.fill(if size == 0 { ZERO_SIZE_PTR } else { ptr::null_mut() });
        if size == 0 || out.is_empty() {
            return true;
        }
        if size > C::Classes::LARGEST || !C::Engine::CLASSES {
            for got in 0..out.len() {
                out[got] = self.kmalloc(size, gfp);
                if out[got].is_null() {
                    for block in &mut out[..got] {
                        // SAFETY: just allocated, and nobody else knows it. It is a good block, so this frees it.
                        let _ = unsafe { self.kfree(*block) };
                        *block = ptr::null_mut();
                    }
                    return false;
                }
            }
            return true;
        }
        let cache = self.class_cache(Kind::of(gfp), C::Classes::class_of(size));
        // SAFETY: caches of classes are never destroyed.
        let done = cache.is_some_and(|cache| unsafe { self.alloc_bulk(CacheRef::new(cache), gfp, out) });
        if !done {
            // The entries that were filled went back to their slabs.
            out.fill(ptr::null_mut());
        }
        done
    }

    /// Frees many blocks, of any caches and sizes; null and [`ZERO_SIZE_PTR`] are fine. The order of the array is lost.
    ///
    /// # Errors
    /// The first block that could not be freed; the others are freed all the same.
    ///
    /// # Safety
    /// As [`Kmem::kfree`] for each block, and each is there once.
    pub unsafe fn kfree_bulk(&self, blocks: &mut [*mut u8]) -> Result<(), FreeError> {
        // SAFETY: the caller's promise.
        unsafe { self.free_bulk(None, blocks) }
    }

    /// Clears all of a block, up to its [`Kmem::ksize`], and frees it. Null and [`ZERO_SIZE_PTR`] are fine.
    ///
    /// # Errors
    /// As [`Kmem::kfree`]; where nothing starts at `ptr` nothing is cleared either. (A block that was freed before
    /// is cleared before that is noticed.)
    ///
    /// # Safety
    /// As [`Kmem::kfree`].
    pub unsafe fn kfree_sensitive(&self, ptr: *mut u8) -> Result<(), FreeError> {
        let bytes = self.ksize(ptr)?;
        // SAFETY: a block of that many bytes, the caller's; none for null and the block of no bytes.
        unsafe { wipe(ptr, bytes) };
        // SAFETY: the caller's promise.
        unsafe { self.kfree(ptr) }
    }

    /// A copy of `bytes` in a block of its own (`kmemdup`); null: no memory, or more than 4 MiB.
    pub fn kmemdup(&self, bytes: &[u8], gfp: Gfp) -> *mut u8 {
        let copy = self.kmalloc(bytes.len(), gfp - Gfp::ZERO);
        if !copy.is_null() {
            // SAFETY: a fresh block of at least that many bytes; none are copied to the block of no bytes.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len()) };
        }
        copy
    }

    /// A block of at least `size` bytes aligned to `align`, a power of two, from memory of `node`. As
    /// [`Kmem::kmalloc_node`] otherwise.
    pub(crate) fn kmalloc_aligned_node(
        &self,
        size: usize,
        align: usize,
        gfp: Gfp,
        node: Option<usize>,
    ) -> *mut u8 {
        debug_assert!(align.is_power_of_two());
        if size == 0 || align <= C::Classes::MIN_ALIGN {
            return self.kmalloc_node(size, gfp, node);
        }
        if !C::Engine::CLASSES && size <= C::Classes::LARGEST {
            let block = self.kmalloc_unclassed(size, align, gfp, node);
            if !block.is_null() {
                return block;
            }
        }
        let version = C::rules(1).version;
        if C::Engine::CLASSES && size <= C::Classes::LARGEST && align <= PAGE_SIZE {
            let aligned = |&class: &usize| {
                let runs = class >= C::Classes::SLAB_CLASSES;
                align <= if runs { PAGE_SIZE } else { C::Classes::align_of(class, version) }
            };
            if let Some(class) = (C::Classes::class_of(size)..C::Classes::COUNT).find(aligned) {
                // The size of the class is served by that class.
                return self.kmalloc_node(C::Classes::size_of(class), gfp, node);
            }
        }
        self.kmalloc_pages(size, align, gfp, node)
    }

    /// Whole pages for a block of at least `size` bytes, aligned to `align`.
    fn kmalloc_pages(&self, size: usize, align: usize, gfp: Gfp, node: Option<usize>) -> *mut u8 {
        let natural = C::Classes::LARGE == LargeRule::Orders && align <= size;
        if align <= PAGE_SIZE || natural || size.max(align) > MAX_BYTES {
            return self.kmalloc_large(size.max(align), gfp, node);
        }
        let node = node.filter(|&node| node < self.platform.nodes());
        // A block of 2^n pages is aligned to itself; what is too much goes back.
        let tail = Self::tail_for_aligned(size);
        let pages = pages_for(size + tail);
        let order = pages.next_power_of_two().max(align >> PAGE_SHIFT).ilog2();
        let Some(mut run) = self.pages.alloc(&self.platform, gfp - Gfp::ZERO, order, node) else {
            return ptr::null_mut();
        };
        self.pages.truncate(&self.platform, &mut run, pages);
        self.hand_out(run, tail, gfp)
    }
}

/// Clears memory for the sake of not leaving its contents behind.
///
/// # Safety
/// `ptr` points to that many bytes that the caller owns.
pub(crate) unsafe fn wipe(ptr: *mut u8, bytes: usize) {
    if bytes > 0 {
        // SAFETY: the caller's promise.
        unsafe { ptr.write_bytes(0, bytes) };
        // The compiler must take it that somebody looks, or it might leave out stores to memory that is about to die.
        core::hint::black_box(ptr);
    }
}
