//! A function of the program and its context, which belong together.
//!
//! # Theory
//! Errors are found under any lock, in any thread, also in a handler that interrupted the thread that sets another pair. So who reads waits
//! for nobody: there are two places, a number tells which of them holds, and a new pair is written to the other one. A
//! reader that finds the number changed reads again: only then may its place have been written to meanwhile.
//!
//! # Invariants
//! - I-PAIR-1: one thread at a time sets pairs: it holds [`Setting`].

use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence};

use libc::c_void;

/// A function, of a type that whoever keeps it here knows, and what it is called with.
pub(super) struct Pair {
    /// How many were set; the last one is in the place of this number.
    count: AtomicUsize,
    places: [Place; 2],
}

struct Place {
    function: AtomicPtr<()>,
    context: AtomicPtr<c_void>,
}

impl Place {
    const fn empty() -> Self {
        Self { function: AtomicPtr::new(null_mut()), context: AtomicPtr::new(null_mut()) }
    }
}

impl Pair {
    /// No function.
    pub(super) const fn none() -> Self {
        Self { count: AtomicUsize::new(0), places: [const { Place::empty() }; 2] }
    }

    /// Another one from now on; null: none.
    pub(super) fn set(&self, _: &Setting, function: *mut (), context: *mut c_void) {
        // Relaxed: only who holds the lock writes it (I-PAIR-1).
        let next = self.count.load(Ordering::Relaxed).wrapping_add(1);
        // Pairs with the fence of `get`: who reads what is written below sees that the number before is over.
        fence(Ordering::Release);
        let place = &self.places[next % 2];
        place.function.store(function, Ordering::Relaxed);
        place.context.store(context, Ordering::Relaxed);
        // Release pairs with the Acquire of `get`: the place was written before, and what the context points to.
        self.count.store(next, Ordering::Release);
    }

    /// The function, never null, and its context.
    pub(super) fn get(&self) -> Option<(*mut (), *mut c_void)> {
        loop {
            let count = self.count.load(Ordering::Acquire);
            let place = &self.places[count % 2];
            let found = (place.function.load(Ordering::Relaxed), place.context.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if self.count.load(Ordering::Relaxed) == count {
                return (!found.0.is_null()).then_some(found);
            }
        }
    }
}

static SET: AtomicBool = AtomicBool::new(false);

/// The right to set pairs and what of the heap leads to them, and to give letters. No callback runs, and no lock of the heap is held, when it is asked for.
pub(super) struct Setting(());

impl Setting {
    pub(super) fn begin() -> Self {
        // Acquire pairs with the Release of `drop`.
        while SET.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            // SAFETY: sched_yield has no requirements.
            unsafe { libc::sched_yield() };
        }
        Self(())
    }

    /// In the child of a fork: the thread that held it is not here. What it wrote does not hold yet.
    pub(super) fn forget() {
        SET.store(false, Ordering::Relaxed);
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        SET.store(false, Ordering::Release);
    }
}
