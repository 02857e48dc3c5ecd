//! The list of blocks that were freed where no lock could be waited for.
//!
//! Specifies `Deferred` (`kmalloc/nolock.rs`): blocks are pushed one by one from any context, and taken all at once.
//!
//! # Invariants checked
//! - I-NOLOCK-2: a compare-and-swap that succeeds never meets a recycled head: no block is lost or freed twice,
//!   also when a block that was taken comes back while a push is under way.
//! - A block that is pushed once is never taken for one that is pushed twice.

use std::rc::Rc;

use loom::cell::Cell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use crate::check;

/// Mistakes that a scenario must find.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// The push publishes nothing.
    RelaxedPush,
    /// Blocks are taken one by one.
    Pop,
}

const BLOCKS: usize = 3;

/// Blocks are 1 to `BLOCKS`; 0 is none.
struct Deferred {
    bug: Bug,
    head: AtomicUsize,
    /// The first words of the blocks.
    links: Vec<Cell<usize>>,
    /// Blocks in the hands of users.
    held: Vec<Cell<bool>>,
}

impl Deferred {
    fn new(bug: Bug) -> Self {
        Self {
            bug,
            head: AtomicUsize::new(0),
            links: (0..=BLOCKS).map(|_| Cell::new(0)).collect(),
            held: (0..=BLOCKS).map(|_| Cell::new(true)).collect(),
        }
    }

    fn push(&self, block: usize) -> bool {
        let success = if self.bug == Bug::RelaxedPush { Ordering::Relaxed } else { Ordering::Release };
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            if head == block {
                return false;
            }
            self.links[block].set(head);
            match self.head.compare_exchange_weak(head, block, success, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => head = now,
            }
        }
    }

    fn take(&self) -> usize {
        if self.head.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.head.swap(0, Ordering::Acquire)
    }

    fn free(&self, block: usize) {
        assert!(self.held[block].replace(false), "a block is freed twice");
        assert!(self.push(block), "a single free is taken for a second one");
    }

    /// Takes what there is; the blocks are with a user again.
    fn drain(&self) -> Vec<usize> {
        let mut got = Vec::new();
        if self.bug == Bug::Pop {
            got.extend(self.pop());
            got.extend(self.pop());
        } else {
            let mut next = self.take();
            while next != 0 {
                got.push(next);
                next = self.links[next].get();
            }
        }
        for &block in &got {
            assert!(!self.held[block].replace(true), "a block is taken twice");
        }
        got
    }

    fn pop(&self) -> Option<usize> {
        let mut head = self.head.load(Ordering::Acquire);
        while head != 0 {
            let next = self.links[head].get();
            match self.head.compare_exchange(head, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(head),
                Err(now) => head = now,
            }
        }
        None
    }
}

/// Some are freed, some drained and freed again, all at once; in the end every block can be had once.
fn run(bug: Bug, pieces: &[fn(&Deferred)]) {
    let deferred = Rc::new(Deferred::new(bug));
    deferred.free(1);
    deferred.free(2);
    let spawn = |&piece: &fn(&Deferred)| {
        let deferred = deferred.clone();
        thread::spawn(move || piece(&deferred))
    };
    let others: Vec<_> = pieces[1..].iter().map(spawn).collect();
    pieces[0](&deferred);
    others.into_iter().for_each(|other| other.join().unwrap());
    deferred.drain();
    let lost = (1..=BLOCKS).filter(|&block| !deferred.held[block].get()).count();
    assert_eq!(lost, 0, "blocks are lost");
}

fn drain(deferred: &Deferred) {
    deferred.drain();
}

/// Drains, and frees the first again: the head is the same, what it leads to is not.
fn drain_and_free(deferred: &Deferred) {
    if let Some(&first) = deferred.drain().first() {
        deferred.free(first);
    }
}

fn free(deferred: &Deferred) {
    deferred.free(3);
}

#[test]
fn blocks_come_and_go() {
    check(4, || run(Bug::None, &[drain_and_free, free]));
    check(3, || run(Bug::None, &[drain_and_free, free, drain]));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn finds_a_link_that_is_not_published() {
    check(2, || run(Bug::RelaxedPush, &[drain, free]));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn finds_a_head_that_came_back() {
    check(2, || run(Bug::Pop, &[drain, drain_and_free]));
}
