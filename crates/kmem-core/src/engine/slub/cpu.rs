//! One CPU's slab of one cache: its free objects, its transaction word, its chain of partial slabs.
//!
//! # The transaction
//! The free objects of the CPU slab hang on one word: the first of them, and a number that every
//! change raises. Whoever gives objects back reads the word, links them before its first, and replaces
//! it by (theirs, number + 1); if anything happened in between, on this CPU or after a migration to
//! another, the number differs and it starts again. Giving takes no lock. Taking does: it reads a link
//! inside the first object, which must not leave the heap meanwhile.
//!
//! ```text
//!  63 ........ 38   37 .................. 0
//! +--------------+--------------------------------------------+
//! | number       | 0, or 1 + (address - window base) / 8      |
//! +--------------+--------------------------------------------+
//! ```
//!
//! # Invariants
//! - I-CSLAB-1: `slab` changes only under the stack's lock, and never while objects hang on the word: taking the
//!   slab away clears `slab` first and takes the objects second; a slab is put in place before its objects.
//!   So an object that is given to the word while `slab` is seen unchanged belongs to that slab.
//! - I-CSLAB-2: all zero is a CPU without a slab.
//! - I-CSLAB-3: only holders of the stack's lock take objects from the word.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::engine::list;
use crate::engine::slub::{Cache, Cpu};
use crate::page::{Page, Pages};
use crate::platform::Platform;

const HEAD_BITS: u32 = 38;
const HEAD_MASK: u64 = (1 << HEAD_BITS) - 1;
const STEP: u64 = 1 << HEAD_BITS;

/// The largest window, in pages, whose objects fit in a transaction word.
pub(crate) const MAX_WINDOW_PAGES: usize = 1 << (HEAD_BITS - 1 + 3 - crate::platform::PAGE_SHIFT);

/// What SLUB keeps of a cache on a CPU and changes without a lock.
pub struct Transaction {
    transaction: AtomicU64,
    slab: AtomicU32,
}

impl Transaction {
    /// There is a CPU slab.
    pub(crate) fn has_slab(&self) -> bool {
        self.slab.load(Ordering::Relaxed) != 0
    }
}

/// What SLUB keeps of a cache on a CPU under the lock of its stack.
pub struct Chain {
    /// First slab of the partial chain (page number, 0 ends).
    pub(crate) chain: u32,
    /// Slabs in the chain.
    pub(crate) chain_slabs: u32,
}

impl Cpu {
    /// The CPU slab, by number.
    #[inline]
    pub(crate) fn slab_number(&self) -> u32 {
        // Acquire pairs with the Release of `set_slab`.
        self.own.slab.load(Ordering::Acquire)
    }

    /// The CPU slab.
    pub(crate) fn slab<'a, P: Platform>(&self, pages: &'a Pages<P>) -> Option<&'a Page> {
        list::at(pages, self.slab_number())
    }

    /// Sets or clears the CPU slab. Under the stack's lock.
    pub(crate) fn set_slab(&self, number: u32) {
        self.own.slab.store(number, Ordering::Release);
    }

    /// The first free object of the CPU slab's chain, as it is this instant.
    pub(crate) fn head_of_chain<P: Platform>(&self, pages: &Pages<P>) -> *mut u8 {
        Self::head(pages, self.own.transaction.load(Ordering::Acquire))
    }

    #[inline]
    fn head<P: Platform>(pages: &Pages<P>, word: u64) -> *mut u8 {
        match word & HEAD_MASK {
            0 => core::ptr::null_mut(),
            head => (pages.base_address() + (head as usize - 1) * 8) as *mut u8,
        }
    }

    #[inline]
    fn next<P: Platform>(pages: &Pages<P>, word: u64, head: *mut u8) -> u64 {
        let head = if head.is_null() { 0 } else { ((head as usize - pages.base_address()) as u64 >> 3) + 1 };
        (word & !HEAD_MASK).wrapping_add(STEP) | head
    }

    #[inline]
    fn replace(&self, old: u64, new: u64) -> bool {
        // Release publishes links written before; Acquire pairs with the Release of the last giver.
        self.own.transaction.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Takes the first free object. Under the stack's lock: while the lock is held the CPU slab stays, and with it the memory
    /// that the link is read from. (Without it the slab could empty meanwhile, and its block leave the heap.)
    #[inline]
    pub(crate) fn take_one<P: Platform>(&self, pages: &Pages<P>, cache: &Cache) -> *mut u8 {
        loop {
            let word = self.own.transaction.load(Ordering::Acquire);
            let object = Self::head(pages, word);
            if object.is_null() {
                return object;
            }
            // SAFETY: I-CSLAB-3, and the caller holds the lock: the object is free and lies in the CPU slab.
            let next = unsafe { cache.link(object) };
            if !next.is_null() && (!pages.contains(next as usize) || !(next as usize).is_multiple_of(8)) {
                // The link was overwritten: the slow path says so.
                return core::ptr::null_mut();
            }
            if self.replace(word, Self::next(pages, word, next)) {
                return object;
            }
        }
    }

    /// Takes the whole chain of free objects; null when there is none.
    pub(crate) fn take_all<P: Platform>(&self, pages: &Pages<P>) -> *mut u8 {
        loop {
            let word = self.own.transaction.load(Ordering::Acquire);
            if self.replace(word, Self::next(pages, word, core::ptr::null_mut())) {
                return Self::head(pages, word);
            }
        }
    }

    /// [`Cpu::give`] where nothing hangs on the word: then the chain's end, which is linked to nothing, need not be known. False
    /// when something does, or the slab is another.
    ///
    /// # Safety
    /// `head` begins a linked chain of free objects of that slab, owned by the caller.
    #[inline]
    pub(crate) unsafe fn give_first<P: Platform>(
        &self,
        pages: &Pages<P>,
        number: u32,
        head: *mut u8,
    ) -> bool {
        let word = self.own.transaction.load(Ordering::Acquire);
        word & HEAD_MASK == 0
            && self.slab_number() == number
            && self.replace(word, Self::next(pages, word, head))
    }

    /// Gives a chain of free objects of the slab `number` back, if that is the CPU slab.
    ///
    /// # Safety
    /// `head` to `tail` is a linked chain of free objects of that slab, owned by the caller.
    #[inline]
    pub(crate) unsafe fn give<P: Platform>(
        &self,
        pages: &Pages<P>,
        cache: &Cache,
        number: u32,
        head: *mut u8,
        tail: *mut u8,
    ) -> bool {
        loop {
            let word = self.own.transaction.load(Ordering::Acquire);
            if self.slab_number() != number {
                return false;
            }
            // SAFETY: the caller owns the tail.
            unsafe { cache.set_link(tail, Self::head(pages, word)) };
            if self.replace(word, Self::next(pages, word, head)) {
                return true;
            }
        }
    }
}
