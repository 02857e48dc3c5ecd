//! Whose turn it is to be guarded.
//!
//! # Theory
//! Only requests that find their CPU's stack of free objects empty come by here, so the fast paths know nothing of it. The first that
//! comes after an interval has passed is guarded. Classes that are refilled often would take all turns, and one whose objects come and go
//! in balance would never come by. So every other turn is given to a class that nobody sees: its stack on this CPU is emptied,
//! which makes its next request come by, and for up to an interval the turn waits for it. Where all stacks are in balance nobody comes by: a platform that
//! can may notice that a turn is due (`Time::is_due`), and have a request come by.
//!
//! # Never
//! No lock, and no look at the clock while the guard is off.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::percpu::StackId;

/// The interval that stands for "each request".
pub const EVERY: u64 = u64::MAX;

/// What a request is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is not its turn.
    Not,
    /// It is.
    Guard,
    /// It is, but better given to a class that does not come by: find one, and say so with [`Time::send_for`].
    Look,
}

/// When the next turn is.
#[derive(Debug)]
pub struct Time {
    /// Nanoseconds between turns; 0: off.
    interval: AtomicU64,
    due: AtomicU64,
    /// The number of the stacks that were emptied so that their cache comes by; 0: none.
    sent_for: AtomicU32,
    turns: AtomicU32,
}

impl Time {
    pub(super) const fn new() -> Self {
        Self {
            interval: AtomicU64::new(0),
            due: AtomicU64::new(0),
            sent_for: AtomicU32::new(0),
            turns: AtomicU32::new(0),
        }
    }

    pub(super) fn set(&self, interval: u64, now: u64) {
        self.due.store(now.saturating_add(interval), Ordering::Relaxed);
        self.sent_for.store(0, Ordering::Relaxed);
        self.interval.store(interval, Ordering::Relaxed);
    }

    /// Nanoseconds between turns; 0: off.
    #[inline]
    pub fn interval(&self) -> u64 {
        self.interval.load(Ordering::Relaxed)
    }

    /// Asks for a turn, for the cache with these stacks (0: it has none).
    pub fn ask(&self, now: u64, id: StackId) -> Turn {
        let interval = self.interval();
        if interval == EVERY {
            return Turn::Guard;
        }
        let due = self.due.load(Ordering::Relaxed);
        if interval == 0 || now < due {
            return Turn::Not;
        }
        let awaited = self.sent_for.load(Ordering::Relaxed);
        if awaited != 0 && awaited != u32::from(id) && now - due < interval {
            return Turn::Not;
        }
        // One of those that ask at once gets it.
        let next = Self::after(due, now, interval);
        if self.due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return Turn::Not;
        }
        self.sent_for.store(0, Ordering::Relaxed);
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        if awaited == 0 && turn % 2 == 1 { Turn::Look } else { Turn::Guard }
    }

    /// When the turn after one that was due at `due`, and is given `now`, is due: turns that come late do not put off those after them, so that there
    /// is one in each interval; those that nobody took in time are lost.
    fn after(due: u64, now: u64, interval: u64) -> u64 {
        let last = if now - due < interval { due } else { now };
        last.saturating_add(interval)
    }

    /// Whoever asks at this time gets a turn.
    pub(super) fn is_due(&self, now: u64) -> bool {
        let (interval, due) = (self.interval(), self.due.load(Ordering::Relaxed));
        if interval == 0 || interval == EVERY || now < due {
            return false;
        }
        self.sent_for.load(Ordering::Relaxed) == 0 || now - due >= interval
    }

    /// The turn that was given at `now` is for the cache with these stacks, which were emptied.
    pub fn send_for(&self, now: u64, id: StackId) {
        self.sent_for.store(u32::from(id), Ordering::Relaxed);
        self.due.store(now, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_an_interval() {
        let time = Time::new();
        assert_eq!(time.ask(1 << 60, 1), Turn::Not);
        time.set(100, 1000);
        assert_eq!([1000, 1099, 1100, 1101, 1199].map(|now| time.ask(now, 1)), {
            use Turn::{Guard, Not};
            [Not, Not, Guard, Not, Not]
        });
        time.set(0, 1200);
        assert_eq!(time.ask(5000, 1), Turn::Not);
    }

    #[test]
    fn every_other_turn_is_offered_to_somebody_else() {
        let time = Time::new();
        time.set(10, 0);
        assert_eq!([10, 20, 30, 40].map(|now| time.ask(now, 1)), {
            use Turn::{Guard, Look};
            [Guard, Look, Guard, Look]
        });
        // Nobody was sent for, so the turn is as good as used.
        assert_eq!(time.ask(49, 1), Turn::Not);
        assert_eq!(time.ask(50, 1), Turn::Guard);
    }

    #[test]
    fn a_turn_waits_an_interval_for_who_was_sent_for() {
        let time = Time::new();
        time.set(10, 0);
        assert_eq!(time.ask(10, 1), Turn::Guard);
        assert_eq!(time.ask(20, 1), Turn::Look);
        time.send_for(20, 7);
        assert_eq!([20, 21, 29].map(|now| time.ask(now, 1)), [Turn::Not; 3]);
        assert_eq!((time.ask(29, 7), time.ask(29, 7)), (Turn::Guard, Turn::Not));
        assert_eq!(time.ask(39, 1), Turn::Look);
        time.send_for(39, 7);
        assert_eq!((time.ask(48, 1), time.ask(49, 1)), (Turn::Not, Turn::Guard));
    }

    #[test]
    fn a_late_turn_does_not_put_off_the_next() {
        let time = Time::new();
        assert!(!time.is_due(1 << 60));
        time.set(10, 0);
        assert_eq!([9, 10, 30].map(|now| time.is_due(now)), [false, true, true]);
        // At 14 that of 10; that of 20 in time, for it was due at 20 all the same.
        assert_eq!([14, 19, 20].map(|now| time.ask(now, 1)), [Turn::Guard, Turn::Not, Turn::Look]);
        // What was due at 30 and 40 is lost.
        assert_eq!([47, 56, 57].map(|now| time.ask(now, 1)), [Turn::Guard, Turn::Not, Turn::Look]);
        time.send_for(57, 7);
        assert_eq!([57, 66, 67].map(|now| time.is_due(now)), [false, false, true], "it waits for another");
        time.set(EVERY, 0);
        assert!(!time.is_due(100), "all are");
    }

    #[test]
    fn each_request_when_each_is_wanted() {
        let time = Time::new();
        time.set(EVERY, 5);
        assert_eq!([0, 1, 1].map(|now| time.ask(now, 0)), [Turn::Guard; 3]);
    }
}
