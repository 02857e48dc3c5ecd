//! A lock of the kernel's own, for what lies outside the heap: the console, the table of CPUs.
//!
//! # Theory
//! The owner runs without interrupts, so a handler never waits for the code it interrupted. A waiter answers calls from other
//! CPUs while it waits ([`crate::smp::call`]): the owner may be waiting for just that answer.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::{cpu, smp};

/// A lock around a `T`.
pub(crate) struct Spin<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the lock hands out the value to one owner at a time.
unsafe impl<T: Send> Sync for Spin<T> {}

impl<T> Spin<T> {
    /// A free lock.
    pub(crate) const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Takes the lock, waiting for it.
    pub(crate) fn lock(&self) -> SpinGuard<'_, T> {
        let interrupts = cpu::interrupts_on();
        cpu::mask();
        // Acquire pairs with the Release of the guard's drop.
        while self.taken.swap(true, Ordering::Acquire) {
            smp::call::answer();
            core::hint::spin_loop();
        }
        SpinGuard { lock: self, interrupts }
    }
}

/// Proof of owning a [`Spin`].
pub(crate) struct SpinGuard<'a, T> {
    lock: &'a Spin<T>,
    interrupts: bool,
}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard exists, so this CPU owns the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for SpinGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard exists, so this CPU owns the lock, and `&mut self` makes it the only access.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for SpinGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.taken.store(false, Ordering::Release);
        if self.interrupts {
            // SAFETY: they were on before the lock was taken, so no lock of a handler was held then.
            unsafe { cpu::unmask() };
        }
    }
}
