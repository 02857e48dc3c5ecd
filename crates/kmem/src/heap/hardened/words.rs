//! What the fast paths of a hardened heap read at each call, on one cache line.
//!
//! # Invariants
//! - I-WORDS-1: all is written while the heap is being made, before anybody has a block of a class.

use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use kmem_core::platform::Platform;

use super::super::HEAP;
use crate::host::misc;

/// See the module.
#[repr(C, align(64))]
pub(super) struct Words {
    /// Secrets of the seals, 0 until the heap is made: what is mixed with an address,
    pub(super) add: AtomicU64,
    /// and what that is multiplied by.
    pub(super) factor: AtomicU64,
    /// Makes no byte of a filler zero.
    pub(super) ones: u64,
    /// What the states' place adds to a sixteenth of an address.
    states: AtomicUsize,
    /// The C library's flag of a process of one thread; 0 lies there where it has none, and where there is something special.
    alone: AtomicPtr<u8>,
    /// A free has more to do than it usually has, or this CPU can less: [`Words::specially`].
    special: AtomicU32,
}

/// The flag of who has none.
static NEVER: AtomicU8 = AtomicU8::new(0);

pub(super) static WORDS: Words = Words {
    add: AtomicU64::new(0),
    factor: AtomicU64::new(0),
    ones: 0x0101_0101_0101_0101,
    states: AtomicUsize::new(0),
    alone: AtomicPtr::new(NEVER.as_ptr()),
    special: AtomicU32::new(0),
};

#[cfg(target_arch = "x86_64")]
impl Words {
    /// Where each lies, for what is not written in Rust.
    pub(super) const ADD: usize = core::mem::offset_of!(Self, add);
    pub(super) const FACTOR: usize = core::mem::offset_of!(Self, factor);
    pub(super) const ONES: usize = core::mem::offset_of!(Self, ones);
    pub(super) const STATES: usize = core::mem::offset_of!(Self, states);
    pub(super) const ALONE: usize = core::mem::offset_of!(Self, alone);
    pub(super) const SPECIAL: usize = core::mem::offset_of!(Self, special);
}

// Relaxed everywhere: published with the heap.
impl Words {
    /// Draws the secrets, and learns where things are. The heap is being made.
    pub(super) fn start(&self) {
        for secret in [&self.add, &self.factor] {
            secret.store(HEAP.platform().entropy() | 1, Ordering::Relaxed);
        }
        // SAFETY: the address is only computed: nothing is read.
        self.states.store(HEAP.platform().span().states_of_all(), Ordering::Relaxed);
        let flag = misc::alone_flag();
        if !flag.is_null() {
            self.alone.store(flag.cast_mut(), Ordering::Relaxed);
        }
    }

    /// The secrets, read once: the compiler would read them anew each time.
    #[inline(always)]
    pub(super) fn secrets(&self) -> [u64; 2] {
        [self.add.load(Ordering::Relaxed), self.factor.load(Ordering::Relaxed)]
    }

    /// The state of the object at an address, as [`Span::state`](crate::host::Span::state) tells, by one word.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub(super) unsafe fn state(&self, address: usize) -> &AtomicU8 {
        let at = self
            .states
            .load(Ordering::Relaxed)
            .wrapping_add(address >> kmem_core::engine::watch::GRAIN_SHIFT);
        // SAFETY: the caller's promise; the sum is what is computed there.
        unsafe { &*(at as *const AtomicU8) }
    }

    /// From now on each free goes the way that looks at everything.
    pub(super) fn specially(&self) {
        self.special.store(1, Ordering::Relaxed);
        // So that the question is asked where there are several threads, and nowhere else.
        self.alone.store(NEVER.as_ptr(), Ordering::Relaxed);
    }
}
