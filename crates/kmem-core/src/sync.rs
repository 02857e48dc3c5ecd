//! The lock of the slow paths, and the order in which locks may be taken.
//!
//! # Theory
//! A [`Lock`] is one word: 0 when free, otherwise the token of its owner, plus a bit when somebody
//! sleeps on it. Waiters spin briefly and then sleep on the platform's wait queue, because the
//! owner may have been preempted (64 threads on 2 CPUs is normal life).
//!
//! The owner's token makes one odd thing possible: when a signal handler that interrupted the
//! allocator forks, the fork hooks must take every lock, and the interrupted frame below holds one
//! of them. [`Lock::lock_for_fork`] recognises its own token and leaves such a lock alone; the
//! interrupted frame releases it in parent and child alike.
//!
//! Where an interrupt handler may use the heap, the owner must not be interrupted on its CPU: the platform is told before a
//! lock is taken and after it was released ([`Platform::lock_enter`], [`Platform::lock_exit`]), each as often as the other.
//!
//! # Order
//! Locks are taken in rising [`rank`]; the simulator checks it through [`Platform::lock_taken`].
//! A lock is never held across a call that can enter the operating system for memory, except
//! [`rank::REGISTRY`], which guards cold administration.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use crate::platform::Platform;

/// The order of locks: a lock may be taken only while all held locks rank lower.
pub mod rank {
    /// The list of caches, their names and lives.
    pub const REGISTRY: u8 = 0;
    /// One CPU's slab of one cache.
    pub const CPU_SLAB: u8 = 1;
    /// One node's stock of full sheaves of one cache.
    pub const BARN: u8 = 2;
    /// One node's partial slabs of one cache.
    pub const NODE: u8 = 3;
    /// One node's regions of one cache.
    pub const POOL: u8 = 4;
    /// One CPU's page lists.
    pub const PAGE_LIST: u8 = 5;
    /// The free areas of one zone.
    pub const ZONE: u8 = 6;
    /// The table of huge mappings.
    pub const HUGE: u8 = 7;
}

const WAITERS: u32 = 1 << 31;
const FORK: u32 = 1 << 30;
const TOKEN: u32 = FORK - 1;
const SPINS: u32 = 100;

/// The caller's token: not 0, and without the two flag bits.
#[inline]
fn token<P: Platform>(platform: &P) -> u32 {
    (platform.lock_token() & TOKEN).max(1)
}

/// A mutual exclusion lock around a `T`. All-zero memory is a free lock around an all-zero `T`.
#[repr(C)]
pub struct Lock<T, const RANK: u8> {
    word: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the lock hands out the value to one owner at a time.
unsafe impl<T: Send, const RANK: u8> Sync for Lock<T, RANK> {}
// SAFETY: moving the lock moves the value, which is `Send`.
unsafe impl<T: Send, const RANK: u8> Send for Lock<T, RANK> {}

impl<T, const RANK: u8> Lock<T, RANK> {
    /// A free lock.
    pub const fn new(value: T) -> Self {
        Self { word: AtomicU32::new(0), value: UnsafeCell::new(value) }
    }

    /// Takes the lock, waiting for it.
    #[inline]
    pub fn lock<'a, P: Platform>(&'a self, platform: &'a P) -> Guard<'a, T, P, RANK> {
        platform.lock_enter();
        let token = token(platform);
        // Acquire pairs with the Release of `unlock`.
        if self.word.compare_exchange(0, token, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.lock_slow(platform, token);
        }
        platform.lock_taken(RANK);
        Guard { lock: self, platform }
    }

    /// True when the calling thread holds the lock: it is in a signal handler that interrupted its owner.
    pub fn held_by_caller<P: Platform>(&self, platform: &P) -> bool {
        // Relaxed: a thread sees its own store, and nobody else stores its token.
        self.word.load(Ordering::Relaxed) & TOKEN == token(platform)
    }

    /// Takes the lock, unless the calling thread holds it already: for observers that a signal handler may call.
    pub fn lock_unless_held<'a, P: Platform>(&'a self, platform: &'a P) -> Option<Guard<'a, T, P, RANK>> {
        if self.held_by_caller(platform) { None } else { Some(self.lock(platform)) }
    }

    /// Takes the lock if it is free.
    pub fn try_lock<'a, P: Platform>(&'a self, platform: &'a P) -> Option<Guard<'a, T, P, RANK>> {
        platform.lock_enter();
        let token = token(platform);
        // Acquire pairs with the Release of `unlock`.
        if self.word.compare_exchange(0, token, Ordering::Acquire, Ordering::Relaxed).is_err() {
            platform.lock_exit();
            return None;
        }
        platform.lock_taken(RANK);
        Some(Guard { lock: self, platform })
    }

    #[cold]
    #[inline(never)]
    fn lock_slow<P: Platform>(&self, platform: &P, token: u32) {
        for _ in 0..SPINS {
            if self.word.load(Ordering::Relaxed) == 0
                && self.word.compare_exchange(0, token, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return;
            }
            core::hint::spin_loop();
        }
        loop {
            let seen = self.word.load(Ordering::Relaxed);
            if seen == 0 {
                // Others may still sleep: keep the bit, at the price of one spare wake-up.
                if self
                    .word
                    .compare_exchange(0, token | WAITERS, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
                {
                    return;
                }
                continue;
            }
            if seen & WAITERS == 0
                && self
                    .word
                    .compare_exchange(seen, seen | WAITERS, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err()
            {
                continue;
            }
            platform.lock_wait(&self.word, seen | WAITERS);
        }
    }

    #[inline]
    fn unlock<P: Platform>(&self, platform: &P) {
        platform.lock_released(RANK);
        // Release pairs with the Acquire of the next owner.
        if self.word.swap(0, Ordering::Release) & WAITERS != 0 {
            platform.lock_wake(&self.word);
        }
        platform.lock_exit();
    }

    /// Takes the lock for the time of a fork, unless this very thread holds it already.
    /// Pair with [`Lock::unlock_after_fork`].
    pub fn lock_for_fork<P: Platform>(&self, platform: &P) {
        if self.held_by_caller(platform) {
            return;
        }
        core::mem::forget(self.lock(platform));
        // Others may set the waiters' bit meanwhile; nobody else changes the rest while it is held.
        self.word.fetch_or(FORK, Ordering::Relaxed);
    }

    /// Releases what [`Lock::lock_for_fork`] took, and nothing else.
    ///
    /// # Safety
    /// Called by the thread that called `lock_for_fork`, or by its copy in the child.
    pub unsafe fn unlock_after_fork<P: Platform>(&self, platform: &P) {
        if self.word.load(Ordering::Relaxed) & FORK != 0 {
            self.unlock(platform);
        }
    }

    /// The value, without taking the lock.
    ///
    /// # Safety
    /// The caller holds the lock by other means, or nobody can change the value.
    pub unsafe fn peek(&self) -> &T {
        // SAFETY: the caller's promise.
        unsafe { &*self.value.get() }
    }

    /// The value, when the caller can prove that nobody else is near it.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

/// Proof of owning a [`Lock`]; releases it when dropped.
pub struct Guard<'a, T, P: Platform, const RANK: u8> {
    lock: &'a Lock<T, RANK>,
    platform: &'a P,
}

impl<T, P: Platform, const RANK: u8> Deref for Guard<'_, T, P, RANK> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard exists, so this thread owns the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T, P: Platform, const RANK: u8> DerefMut for Guard<'_, T, P, RANK> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard exists, so this thread owns the lock, and `&mut self` makes it the only access.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T, P: Platform, const RANK: u8> Drop for Guard<'_, T, P, RANK> {
    #[inline]
    fn drop(&mut self) {
        self.lock.unlock(self.platform);
    }
}
