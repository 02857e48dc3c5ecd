//! The list of all caches and the numbers of their CPU stacks.
//!
//! Everything here is under one lock, the lowest in the order: creation, destruction and listing are
//! rare and may take their time. Allocation and free never come here.

use core::sync::atomic::{AtomicPtr, Ordering};

use crate::cache::KmemCache;
use crate::engine::Engine;
use crate::percpu::{MAX_STACKS, StackId};

/// The caches, newest first.
pub struct Registry<E: Engine> {
    newest: AtomicPtr<KmemCache<E>>,
    /// Caches ever listed.
    listed: u64,
    /// Caches listed.
    pub count: usize,
    /// One bit a number: set while in use.
    used: [u64; MAX_STACKS / 64],
}

impl<E: Engine> Registry<E> {
    /// No caches.
    pub(crate) const fn new() -> Self {
        Self {
            newest: AtomicPtr::new(core::ptr::null_mut()),
            listed: 0,
            count: 0,
            used: [0; MAX_STACKS / 64],
        }
    }

    /// The cache created last.
    pub(crate) fn newest(&self) -> Option<&KmemCache<E>> {
        // SAFETY: listed caches are valid; the list stands still while the registry is borrowed.
        unsafe { self.newest.load(Ordering::Acquire).as_ref() }
    }

    /// The newest cache of those that were listed before the one with this serial number.
    pub(crate) fn newest_before(&self, serial: u64) -> Option<&KmemCache<E>> {
        core::iter::successors(self.newest(), |cache| cache.older())
            .find(|cache| cache.serial.load(Ordering::Relaxed) < serial)
    }

    /// Lists a complete cache.
    pub(crate) fn add(&mut self, cache: &KmemCache<E>) {
        // Relaxed: written and read under the registry's lock.
        cache.serial.store(self.listed, Ordering::Relaxed);
        self.listed += 1;
        cache.older.store(self.newest.load(Ordering::Relaxed), Ordering::Relaxed);
        // Release pairs with the Acquire of `newest` and `older`.
        self.newest.store(core::ptr::from_ref(cache).cast_mut(), Ordering::Release);
        self.count += 1;
    }

    /// Takes a cache off the list. False when it is not listed.
    pub(crate) fn remove(&mut self, cache: &KmemCache<E>) -> bool {
        let wanted = core::ptr::from_ref(cache).cast_mut();
        let mut link = &self.newest;
        loop {
            let here = link.load(Ordering::Relaxed);
            if here == wanted {
                link.store(cache.older.load(Ordering::Relaxed), Ordering::Release);
                self.count -= 1;
                return true;
            }
            // SAFETY: listed caches are valid while the registry is borrowed.
            match unsafe { here.as_ref() } {
                Some(cache) => link = &cache.older,
                None => return false,
            }
        }
    }

    /// A free number at or after `from`; 0 when all are in use.
    pub(crate) fn take_id(&mut self, from: StackId) -> StackId {
        (from.max(1)..MAX_STACKS as StackId).find(|&id| self.reserve_id(id)).unwrap_or(0)
    }

    /// Takes this very number. False when it is in use.
    pub(crate) fn reserve_id(&mut self, id: StackId) -> bool {
        let (word, bit) = (usize::from(id) / 64, 1 << (id % 64));
        let free = self.used[word] & bit == 0;
        self.used[word] |= bit;
        free
    }

    /// The number may be given to another cache.
    pub(crate) fn release_id(&mut self, id: StackId) {
        self.used[usize::from(id) / 64] &= !(1 << (id % 64));
    }
}
