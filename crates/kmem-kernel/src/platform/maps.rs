//! Memory for requests beyond the largest block of pages: runs of pages of a pool of their own.
//!
//! # Theory
//! The pool is one contiguous range, taken at boot from what there was before the heap, and reached at its own physical address,
//! which lies outside the heap's window. A bit for each page tells whether it is in use; a request takes the first run that fits.
//! A kernel that must not set memory aside would map scattered pages instead; the contract is the same.
//!
//! # Invariants
//! - I-MAP-1: a page's bit is set from the call that gives it until the call that takes it back.
//!
//! # Locks
//! A [`Spin`] around the bits. Memory is cleared outside it.

use core::ptr::NonNull;

use kmem_core::platform::PAGE_SIZE;

use crate::boot::{early, paging};
use crate::spin::Spin;

/// The largest pool, in pages: 64 MiB.
const MAX_PAGES: usize = 16 << 10;

struct Pool {
    base: usize,
    pages: usize,
    used: [u64; MAX_PAGES / 64],
}

static POOL: Spin<Pool> = Spin::new(Pool { base: 0, pages: 0, used: [0; MAX_PAGES / 64] });

impl Pool {
    fn is_used(&self, page: usize) -> bool {
        self.used[page / 64] & 1 << (page % 64) != 0
    }

    fn set(&mut self, first: usize, count: usize, used: bool) {
        for page in first..first + count {
            assert!(self.is_used(page) != used, "page {page} of the pool is given or taken twice");
            self.used[page / 64] ^= 1 << (page % 64);
        }
    }

    /// The first run of `count` free pages that begins at a multiple of `align` bytes.
    fn find(&self, count: usize, align: usize) -> Option<usize> {
        let mut first = 0;
        while first + count <= self.pages {
            let aligned = ((self.base + first * PAGE_SIZE).next_multiple_of(align) - self.base) / PAGE_SIZE;
            if aligned + count > self.pages {
                return None;
            }
            match (aligned..aligned + count).rev().find(|&page| self.is_used(page)) {
                Some(taken) => first = taken + 1,
                None => return Some(aligned),
            }
        }
        None
    }

    fn index(&self, at: NonNull<u8>) -> usize {
        (at.addr().get() - self.base) / PAGE_SIZE
    }
}

/// Sets a quarter of `memory` bytes aside, or less where no range is as long. Once, before the heap is given the rest.
pub(crate) fn init(memory: usize) {
    let mut pages = (memory / 4 / PAGE_SIZE).min(MAX_PAGES);
    while pages > 0 {
        // Below 4 GiB memory has an address outside the heap's window: its own.
        if let Some(base) = early::take_below(early::IDENTITY_END, pages * PAGE_SIZE, PAGE_SIZE, 0) {
            let mut pool = POOL.lock();
            pool.base = base;
            pool.pages = pages;
            return;
        }
        pages /= 2;
    }
}

/// See [`kmem_core::platform::Platform::map`].
pub(crate) fn map(len: usize, align: usize) -> Option<NonNull<u8>> {
    let at = {
        let mut pool = POOL.lock();
        let first = pool.find(len / PAGE_SIZE, align)?;
        pool.set(first, len / PAGE_SIZE, true);
        core::ptr::with_exposed_provenance_mut::<u8>(pool.base + first * PAGE_SIZE)
    };
    // SAFETY: I-MAP-1: the pages are this call's.
    unsafe { paging::clear(at, len) };
    NonNull::new(at)
}

/// See [`kmem_core::platform::Platform::unmap`].
///
/// # Safety
/// As there.
pub(crate) unsafe fn unmap(at: NonNull<u8>, len: usize) {
    let mut pool = POOL.lock();
    let first = pool.index(at);
    pool.set(first, len / PAGE_SIZE, false);
}

/// See [`kmem_core::platform::Platform::remap`].
///
/// # Safety
/// As there.
pub(crate) unsafe fn remap(at: NonNull<u8>, old: usize, new: usize, may_move: bool) -> Option<NonNull<u8>> {
    let (had, wants) = (old / PAGE_SIZE, new / PAGE_SIZE);
    {
        let mut pool = POOL.lock();
        let first = pool.index(at);
        if wants <= had {
            pool.set(first + wants, had - wants, false);
            return Some(at);
        }
        let fits = first + wants <= pool.pages;
        if fits && (first + had..first + wants).all(|page| !pool.is_used(page)) {
            pool.set(first + had, wants - had, true);
            drop(pool);
            // SAFETY: I-MAP-1: the new pages are this call's.
            unsafe { paging::clear(at.as_ptr().add(old), new - old) };
            return Some(at);
        }
    }
    if !may_move {
        return None;
    }
    let moved = map(new, PAGE_SIZE)?;
    // SAFETY: the caller's promise for the old run; the new one is this call's, and larger.
    unsafe {
        core::ptr::copy_nonoverlapping(at.as_ptr(), moved.as_ptr(), old);
        unmap(at, old);
    }
    Some(moved)
}
