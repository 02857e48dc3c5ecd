//! When something is to be done by whoever comes by.
//!
//! # Theory
//! The library has no thread of its own, and no timer but the sampling guard's (`host::timer`): a program would notice both. What is to happen now and then, or after a
//! while, has a [`Due`]. Who comes to a slow path of malloc or free, with no lock held, asks it ([`Due::is_set`], one load);
//! where there is something to wait for he looks at the clock, and one of those who come after the time does the work
//! ([`Due::take`]), before his own. So work is late by one call to a slow path, and a program that makes no such call any more
//! is not looked after: what it then keeps is bounded by whoever has the [`Due`], not by time.
//!
//! # Never
//! No fast path asks. A time hands nothing over: all accesses are relaxed, and what the work needs has an order of its own.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::host::misc;

/// A time, or never.
pub(crate) struct Due(AtomicU64);

impl Due {
    /// Nothing is to be done.
    pub(crate) const fn never() -> Self {
        Self(AtomicU64::new(0))
    }

    /// It is to be done at once.
    pub(crate) const fn at_once() -> Self {
        Self(AtomicU64::new(1))
    }

    /// There is something to be done, now or later.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    /// It is to be done after so many nanoseconds; 0: never.
    pub(crate) fn after(&self, nanoseconds: u64) {
        self.0.store(later(misc::now(), nanoseconds), Relaxed);
    }

    /// It is to be done at once. Allowed in signal handlers.
    pub(crate) fn now(&self) {
        self.0.store(1, Relaxed);
    }

    /// What is to be done later is to be done at once. False: nothing is. Allowed in signal handlers.
    pub(crate) fn hurry(&self) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |due| (due != 0).then_some(1)).is_ok()
    }

    /// It is not to be done any more.
    pub(crate) fn cancel(&self) {
        self.0.store(0, Relaxed);
    }

    /// Its time has come, and this caller does it; the next time is after so many nanoseconds (0: never).
    pub(crate) fn take(&self, next: u64) -> bool {
        self.take_at(misc::now(), next)
    }

    /// [`Due::take`] by a caller who looked at the clock already.
    pub(crate) fn take_at(&self, now: u64, next: u64) -> bool {
        let due = self.0.load(Relaxed);
        due != 0 && now >= due && self.0.compare_exchange(due, later(now, next), Relaxed, Relaxed).is_ok()
    }
}

const fn later(now: u64, nanoseconds: u64) -> u64 {
    if nanoseconds == 0 { 0 } else { now + nanoseconds }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000_000_000;

    #[test]
    fn one_caller_takes_it_when_the_time_has_come() {
        let due = Due::never();
        assert!(!due.is_set() && !due.take(HOUR) && !due.is_set());
        due.after(HOUR);
        assert!(due.is_set() && !due.take(0) && due.is_set(), "not yet");
        due.now();
        let taken = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| due.take(HOUR))).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).filter(|&took| took).count()
        });
        assert_eq!(taken, 1);
        assert!(due.is_set() && !due.take(HOUR), "in an hour again");
        assert!(due.hurry() && due.take(HOUR) && !due.take(HOUR), "at once");
        due.cancel();
        assert!(!due.is_set() && !due.hurry() && !due.is_set());
        let once = Due::at_once();
        assert!(once.take(0) && !once.is_set() && !once.take(0));
    }
}
