//! The lock that spins briefly and then sleeps: one word with the owner's token, a bit for sleepers, a bit for forks.
//!
//! Specifies `sync.rs` (`lock`, `try_lock`, `lock_slow`, `unlock`, `lock_for_fork`, `unlock_after_fork`), with the futex
//! of the system below: it compares the word and goes to sleep under a lock of its own, which a wake takes too.
//!
//! # Invariants checked
//! - Mutual exclusion, with the orderings written there: what the lock guards is a checked cell.
//! - No wake-up is lost: a thread that sleeps for ever is a deadlock, which the checker reports.
//! - Taking a lock for a fork loses no sleeper, and the fork's release leaves a lock alone that it did not take.
//!
//! # What is left out
//! The code spins 100 times, the model once: more would only repeat the same load.

use std::rc::Rc;

use loom::cell::Cell;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;

use crate::check;

const WAITERS: u32 = 1 << 31;
const FORK: u32 = 1 << 30;
const TOKEN: u32 = FORK - 1;
const SPINS: u32 = 1;

/// Mistakes that a scenario must find.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// The release looks for sleepers first and frees the word afterwards.
    UnlockInTwoSteps,
    /// Who was asleep takes the lock without the bit, though others may still sleep.
    ForgetSleepers,
    /// The system puts a thread to sleep without comparing the word.
    BlindSleep,
    /// The release orders nothing.
    RelaxedUnlock,
    /// The bit for the fork is set by a load and a store.
    BlindFork,
    /// The fork's release does not look whose lock it is.
    GreedyFork,
}

struct Lock {
    word: AtomicU32,
    value: Cell<u32>,
    bug: Bug,
    bucket: Mutex<()>,
    sleepers: Condvar,
}

impl Lock {
    fn new(bug: Bug) -> Self {
        Self {
            word: AtomicU32::new(0),
            value: Cell::new(0),
            bug,
            bucket: Mutex::new(()),
            sleepers: Condvar::new(),
        }
    }

    fn swap_if(&self, old: u32, new: u32, success: Ordering) -> bool {
        self.word.compare_exchange(old, new, success, Ordering::Relaxed).is_ok()
    }

    fn lock(&self, token: u32) {
        if !self.try_lock(token) {
            self.lock_slow(token);
        }
    }

    fn try_lock(&self, token: u32) -> bool {
        self.swap_if(0, token, Ordering::Acquire)
    }

    fn lock_slow(&self, token: u32) {
        for _ in 0..SPINS {
            if self.word.load(Ordering::Relaxed) == 0 && self.swap_if(0, token, Ordering::Acquire) {
                return;
            }
        }
        loop {
            let seen = self.word.load(Ordering::Relaxed);
            if seen == 0 {
                let bit = if self.bug == Bug::ForgetSleepers { 0 } else { WAITERS };
                if self.swap_if(0, token | bit, Ordering::Acquire) {
                    return;
                }
                continue;
            }
            if seen & WAITERS == 0 && !self.swap_if(seen, seen | WAITERS, Ordering::Relaxed) {
                continue;
            }
            self.lock_wait(seen | WAITERS);
        }
    }

    fn unlock(&self) {
        let old = match self.bug {
            Bug::UnlockInTwoSteps => {
                let old = self.word.load(Ordering::Relaxed);
                self.word.store(0, Ordering::Release);
                old
            }
            Bug::RelaxedUnlock => self.word.swap(0, Ordering::Relaxed),
            _ => self.word.swap(0, Ordering::Release),
        };
        if old & WAITERS != 0 {
            self.lock_wake();
        }
    }

    fn held_by(&self, token: u32) -> bool {
        self.word.load(Ordering::Relaxed) & TOKEN == token
    }

    fn lock_for_fork(&self, token: u32) {
        if self.held_by(token) {
            return;
        }
        self.lock(token);
        if self.bug == Bug::BlindFork {
            self.word.store(self.word.load(Ordering::Relaxed) | FORK, Ordering::Relaxed);
        } else {
            self.word.fetch_or(FORK, Ordering::Relaxed);
        }
    }

    fn unlock_after_fork(&self) {
        if self.bug == Bug::GreedyFork || self.word.load(Ordering::Relaxed) & FORK != 0 {
            self.unlock();
        }
    }

    /// The system: sleeps while the word has that value.
    fn lock_wait(&self, value: u32) {
        let bucket = self.bucket.lock().unwrap();
        if self.word.load(Ordering::Relaxed) == value || self.bug == Bug::BlindSleep {
            drop(self.sleepers.wait(bucket).unwrap());
        }
    }

    /// The system: wakes one.
    fn lock_wake(&self) {
        let _bucket = self.bucket.lock().unwrap();
        self.sleepers.notify_one();
    }

    /// What is done under the lock.
    fn work(&self) {
        self.value.set(self.value.get() + 1);
    }
}

/// As many threads as pieces, each with a token of its own; afterwards the lock is free and the work is done.
fn run(bug: Bug, work: u32, pieces: &[fn(&Lock, u32)]) {
    let lock = Rc::new(Lock::new(bug));
    let spawn = |(number, &piece): (usize, &fn(&Lock, u32))| {
        let lock = lock.clone();
        thread::spawn(move || piece(&lock, number as u32 + 2))
    };
    let others: Vec<_> = pieces[1..].iter().enumerate().map(spawn).collect();
    pieces[0](&lock, 1);
    others.into_iter().for_each(|other| other.join().unwrap());
    assert_eq!(lock.word.load(Ordering::Relaxed), 0);
    assert_eq!(lock.value.get(), work);
}

fn once(lock: &Lock, token: u32) {
    lock.lock(token);
    lock.work();
    lock.unlock();
}

fn twice(lock: &Lock, token: u32) {
    once(lock, token);
    once(lock, token);
}

/// Takes the lock if it is free, which is how a newcomer passes those that were just woken.
fn maybe(lock: &Lock, token: u32) {
    if lock.try_lock(token) {
        // Nothing to count: whether it got the lock depends on the others.
        lock.value.set(lock.value.get());
        lock.unlock();
    }
}

fn fork(lock: &Lock, token: u32) {
    lock.lock_for_fork(token);
    lock.work();
    lock.unlock_after_fork();
}

/// A signal handler forks while the thread below it holds the lock.
fn fork_inside(lock: &Lock, token: u32) {
    lock.lock(token);
    lock.work();
    lock.lock_for_fork(token);
    lock.work();
    lock.unlock_after_fork();
    lock.work();
    lock.unlock();
}

#[test]
fn three_threads() {
    check(3, || run(Bug::None, 3, &[once, once, once]));
}

#[test]
fn two_threads_twice() {
    check(3, || run(Bug::None, 4, &[twice, twice]));
}

#[test]
fn newcomers_pass() {
    check(3, || run(Bug::None, 2, &[once, once, maybe]));
}

#[test]
fn fork_among_users() {
    check(3, || run(Bug::None, 3, &[fork, once, once]));
}

#[test]
fn fork_by_the_owner() {
    check(3, || run(Bug::None, 5, &[fork_inside, once, fork]));
}

#[test]
#[should_panic(expected = "deadlock")]
fn finds_a_release_in_two_steps() {
    check(2, || run(Bug::UnlockInTwoSteps, 2, &[once, once]));
}

#[test]
#[should_panic(expected = "deadlock")]
fn finds_a_forgotten_sleeper() {
    check(2, || run(Bug::ForgetSleepers, 3, &[once, once, once]));
}

#[test]
#[should_panic(expected = "deadlock")]
fn finds_a_blind_sleep() {
    check(2, || run(Bug::BlindSleep, 2, &[once, once]));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn finds_a_release_that_orders_nothing() {
    check(2, || run(Bug::RelaxedUnlock, 2, &[once, once]));
}

#[test]
#[should_panic(expected = "deadlock")]
fn finds_a_sleeper_lost_by_a_fork() {
    check(2, || run(Bug::BlindFork, 2, &[fork, once]));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn finds_a_fork_that_releases_too_much() {
    check(2, || run(Bug::GreedyFork, 4, &[fork_inside, once]));
}
