//! Which requests for memory the test wants refused.
//!
//! A *request* is a call of `grow`, `map`, or a `remap` that grows. Requests are numbered from 1 in the life of a
//! machine; the three rules below are independent, and a request is refused when any of them says so.
//! Atomics are relaxed throughout: rules are set before the threads that meet them are started.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::counters::Count;
use crate::rng::{SharedRng, hits, threshold};

const NEVER: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Faults {
    requests: AtomicU64,
    refused: Count,
    /// This one request.
    nth: AtomicU64,
    /// This request and all after it.
    from: AtomicU64,
    /// Each with this chance, out of 2^64.
    chance: AtomicU64,
    rng: SharedRng,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            requests: AtomicU64::new(0),
            refused: Count::default(),
            nth: AtomicU64::new(NEVER),
            from: AtomicU64::new(NEVER),
            chance: AtomicU64::new(0),
            rng: SharedRng::new(seed),
        }
    }

    /// Numbers the request and decides: true means refuse it.
    pub(crate) fn refuse(&self) -> bool {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let chance = self.chance.load(Ordering::Relaxed);
        let refuse = number == self.nth.load(Ordering::Relaxed)
            || number >= self.from.load(Ordering::Relaxed)
            || (chance > 0 && hits(chance, self.rng.next_u64()));
        if refuse {
            self.refused.add(1);
        }
        refuse
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.get()
    }

    fn number(&self, n: u64) -> u64 {
        assert!(n > 0, "requests are counted from 1");
        self.requests().saturating_add(n)
    }

    pub(crate) fn set_nth(&self, n: u64) {
        self.nth.store(self.number(n), Ordering::Relaxed);
    }

    pub(crate) fn set_from(&self, n: u64) {
        self.from.store(self.number(n), Ordering::Relaxed);
    }

    pub(crate) fn set_chance(&self, p: f64) {
        self.chance.store(threshold(p), Ordering::Relaxed);
    }

    pub(crate) fn clear(&self) {
        self.nth.store(NEVER, Ordering::Relaxed);
        self.from.store(NEVER, Ordering::Relaxed);
        self.chance.store(0, Ordering::Relaxed);
    }
}
