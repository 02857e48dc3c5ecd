//! Mappings that grew and were freed, kept for a while for the next block that grows.
//!
//! # Theory
//! A block that grows by resizing becomes a mapping, and grows without being copied; but each of its pages is faulted in and
//! cleared by the system, and when it is freed all of that is lost: a program that builds one large table after the other
//! pays for every page each time. So a mapping that grew is kept when it is freed, and given to the next block that begins
//! to grow, however much smaller that is: it grows into its *room* without any call into the platform.
//!
//! What is in a kept mapping is not zero, and what was in it last may still be read through a pointer that nobody should
//! have any more. Mappings that never grew are not kept: a use after their free ends at once.
//!
//! # Invariants
//! - I-KEPT-1: a kept mapping is in no table and nobody's block; the list is its only owner.
//! - I-KEPT-2: at most [`SLOTS`] mappings and [`MAX_KEPT`] bytes, when no call is under way.
//!
//! # Never
//! The lock is not held while the platform is called.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::config::Config;
use crate::heap::Kmem;
use crate::platform::Platform;
use crate::sync::{Lock, rank};

/// Mappings that are kept at once.
pub(crate) const SLOTS: usize = 4;

/// Bytes of all kept mappings.
const MAX_KEPT: usize = 128 << 20;

/// One mapping; none where it has no bytes.
#[derive(Clone, Copy)]
pub(crate) struct Mapping {
    pub(crate) address: usize,
    pub(crate) bytes: usize,
    /// It was here already when the list was last aged.
    old: bool,
}

impl Mapping {
    const NONE: Self = Self { address: 0, bytes: 0, old: false };

    pub(crate) fn start(self) -> Option<NonNull<u8>> {
        // The platform's memory, outside the language's own: its provenance is exposed.
        NonNull::new(core::ptr::with_exposed_provenance_mut(self.address))
    }
}

/// The kept mappings, the one that came last in front.
struct List([Mapping; SLOTS]);

impl List {
    fn bytes(&self) -> usize {
        self.0.iter().map(|mapping| mapping.bytes).sum()
    }

    fn remove(&mut self, slot: usize) -> Mapping {
        let mapping = self.0[slot];
        self.0.copy_within(slot + 1.., slot);
        self.0[SLOTS - 1] = Mapping::NONE;
        mapping
    }

    /// The shortest that has so many bytes.
    fn take(&mut self, least: usize) -> Option<Mapping> {
        let fits = (0..SLOTS).filter(|&slot| self.0[slot].bytes >= least);
        let slot = fits.min_by_key(|&slot| self.0[slot].bytes)?;
        Some(self.remove(slot))
    }

    /// Puts a mapping in front; the last one, if there is no place for it any more.
    fn put(&mut self, mapping: Mapping) -> Mapping {
        let last = self.0[SLOTS - 1];
        self.0.copy_within(..SLOTS - 1, 1);
        self.0[0] = mapping;
        last
    }

    /// What is too much, the last first.
    fn surplus(&mut self) -> Option<Mapping> {
        let last = (0..SLOTS).rev().find(|&slot| self.0[slot].bytes != 0)?;
        (self.bytes() > MAX_KEPT).then(|| self.remove(last))
    }

    /// One that was here when the list was last aged.
    fn aged(&mut self) -> Option<Mapping> {
        let slot = self.0.iter().position(|mapping| mapping.old)?;
        Some(self.remove(slot))
    }
}

/// The list of a heap.
pub(crate) struct Kept {
    list: Lock<List, { rank::HUGE }>,
    /// Bytes in it, for those who only want to know whether there are any.
    bytes: AtomicUsize,
}

impl Kept {
    pub(crate) const fn new() -> Self {
        Self { list: Lock::new(List([Mapping::NONE; SLOTS])), bytes: AtomicUsize::new(0) }
    }

    /// Bytes that are kept.
    pub(crate) fn bytes(&self) -> usize {
        // Relaxed: a hint.
        self.bytes.load(Ordering::Relaxed)
    }

    fn with<P: Platform, R>(&self, platform: &P, work: impl FnOnce(&mut List) -> R) -> R {
        let mut list = self.list.lock(platform);
        let result = work(&mut list);
        self.bytes.store(list.bytes(), Ordering::Relaxed);
        result
    }

    pub(crate) fn lock_for_fork<P: Platform>(&self, platform: &P) {
        self.list.lock_for_fork(platform);
    }

    /// # Safety
    /// As [`Lock::unlock_after_fork`].
    pub(crate) unsafe fn unlock_after_fork<P: Platform>(&self, platform: &P) {
        // SAFETY: the caller's promise.
        unsafe { self.list.unlock_after_fork(platform) };
    }
}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Mappings that grew are kept.
    pub(crate) const KEEPS: bool = P::CUTS && C::EXACT_LARGE && !C::APART;

    /// A kept mapping of at least so many bytes, whose owner is now the caller. Its contents are anything.
    pub(crate) fn take_kept(&self, least: usize) -> Option<Mapping> {
        if !Self::KEEPS || self.kept.bytes() < least {
            return None;
        }
        self.kept.with(&self.platform, |list| list.take(least))
    }

    /// Keeps a mapping, and gives back what is too much then.
    ///
    /// # Safety
    /// A mapping of the platform, of that length, that nobody uses and that is in no table.
    pub(crate) unsafe fn keep(&self, address: usize, bytes: usize) {
        let mut surplus =
            Some(self.kept.with(&self.platform, |list| list.put(Mapping { address, bytes, old: false })));
        while let Some(mapping) = surplus {
            self.unmap_kept(mapping);
            surplus = self.kept.with(&self.platform, List::surplus);
        }
    }

    /// Gives back what was kept since the call before. True: there is more.
    pub(crate) fn age_kept(&self) -> bool {
        if self.kept.bytes() == 0 {
            return false;
        }
        while let Some(mapping) = self.kept.with(&self.platform, List::aged) {
            self.unmap_kept(mapping);
        }
        self.kept.with(&self.platform, |list| {
            list.0.iter_mut().for_each(|mapping| mapping.old = mapping.bytes != 0);
            list.bytes() != 0
        })
    }

    /// Gives back all that is kept; how many bytes.
    pub(crate) fn drop_kept(&self) -> usize {
        let mut gone = 0;
        while let Some(mapping) = self.take_kept(1) {
            gone += mapping.bytes;
            self.unmap_kept(mapping);
        }
        gone
    }

    fn unmap_kept(&self, mapping: Mapping) {
        if let Some(start) = mapping.start().filter(|_| mapping.bytes != 0) {
            // SAFETY: it left the list, which was its owner (I-KEPT-1).
            unsafe { self.platform.unmap(start, mapping.bytes) };
        }
    }
}
