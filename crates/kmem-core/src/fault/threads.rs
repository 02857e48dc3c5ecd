//! Threads that count their own requests: a kernel's `/proc/self/fail-nth`.
//!
//! # Theory
//! A number that counts the requests of a whole program says nothing where threads run side by side: which request is the n-th
//! depends on who was faster. So a thread may count for itself. A rule with [`Task::Each`](super::Task::Each) has a place for each
//! thread: how many requests there are until one of its own fails. A thread takes a place when it arms itself, or with its first request
//! where the rule names a number for all; what it counts down is its own affair.
//!
//! # Invariants
//! - I-NTH-1: only the thread itself (and its signal handlers) changes what its place counts. So a place needs no lock.
//! - I-NTH-2: a place that was taken stays its thread's until that gives it up; threads beyond [`PLACES`] have no failures.
//!
//! # Never
//! Nothing here waits, allocates, or looks at other threads' counts but their numbers.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Threads that one rule can count at a time.
pub const PLACES: usize = 256;

struct Place {
    /// 0: nobody's.
    thread: AtomicU32,
    /// The request with this number, from now, fails; 0: it did.
    left: AtomicU64,
}

/// The places of a rule.
pub(super) struct Threads([Place; PLACES]);

impl Threads {
    pub(super) const fn new() -> Self {
        Self([const { Place { thread: AtomicU32::new(0), left: AtomicU64::new(0) } }; PLACES])
    }

    fn places(&self, thread: u32) -> impl Iterator<Item = &Place> {
        let home = thread as usize % PLACES;
        self.0[home..].iter().chain(&self.0[..home])
    }

    fn find(&self, thread: u32) -> Option<&Place> {
        // Relaxed, here and below: a thread looks for what it wrote itself (I-NTH-1).
        self.places(thread).find(|place| place.thread.load(Ordering::Relaxed) == thread)
    }

    /// Has the n-th request of this thread fail, from now on. False: there is no place for it.
    pub(super) fn arm(&self, thread: u32, n: u64) -> bool {
        let known = self.find(thread);
        let mut free = self.places(thread).filter(|place| {
            place.thread.compare_exchange(0, thread, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        });
        let Some(place) = known.or_else(|| free.next()) else { return false };
        place.left.store(n, Ordering::Relaxed);
        true
    }

    /// Gives the place of a thread up.
    pub(super) fn disarm(&self, thread: u32) {
        if let Some(place) = self.find(thread) {
            place.left.store(0, Ordering::Relaxed);
            place.thread.store(0, Ordering::Relaxed);
        }
    }

    /// How many requests of a thread there are until one fails; 0: one did. Nothing for a thread that does not count.
    pub(super) fn left(&self, thread: u32) -> Option<u64> {
        self.find(thread).map(|place| place.left.load(Ordering::Relaxed))
    }

    /// A thread asks: true for the request that fails. `n`: what a thread counts that did not arm itself; 0: it does not.
    pub(super) fn ask(&self, thread: u32, n: u64) -> bool {
        let Some(place) = self.find(thread) else {
            return n != 0 && self.arm(thread, n) && self.ask(thread, 0);
        };
        let left = place.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left == Ok(1)
    }

    /// Some thread has a place.
    pub(super) fn any(&self) -> bool {
        self.0.iter().any(|place| place.thread.load(Ordering::Relaxed) != 0)
    }

    pub(super) fn clear(&self) {
        for place in &self.0 {
            place.left.store(0, Ordering::Relaxed);
            place.thread.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counts_for_itself() {
        let threads = Threads::new();
        assert!(threads.arm(7, 3) && threads.arm(7 + PLACES as u32, 1) && threads.any());
        let asks = |thread| (0..5).map(|_| threads.ask(thread, 0)).collect::<Vec<_>>();
        assert_eq!(asks(7), [false, false, true, false, false]);
        assert_eq!(asks(7 + PLACES as u32), [true, false, false, false, false]);
        assert_eq!(asks(8), [false; 5], "does not count");
        assert_eq!((threads.left(7), threads.left(8)), (Some(0), None));
        assert!(threads.arm(7, 2), "again, in the same place");
        assert_eq!(asks(7), [false, true, false, false, false]);
        threads.disarm(7);
        assert_eq!((threads.left(7), threads.any()), (None, true));
        threads.clear();
        assert!(!threads.any());
    }

    #[test]
    fn there_are_so_many_places() {
        let threads = Threads::new();
        assert!((1..=PLACES as u32).all(|thread| threads.arm(thread, 1)));
        assert!(!threads.arm(1000, 1) && !threads.ask(1000, 1));
        threads.disarm(12);
        assert!(threads.ask(1000, 1), "a place that became free");
        assert!(!threads.ask(1000, 1), "and once");
    }
}
