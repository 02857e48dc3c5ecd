//! Two threads that hand blocks to each other, and threads that come and go. These rows are noisy on a busy machine; two threads want two free CPUs.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::thread;

use super::{give, take};
use crate::clock::{Random, per_operation};

/// A ring of blocks from one thread to one other.
struct Ring {
    slots: Vec<AtomicPtr<u8>>,
    /// Written by the sender.
    head: Padded,
    /// Written by the receiver.
    tail: Padded,
}

/// Alone on its cache lines, so that the two threads disturb each other only where they must.
#[repr(align(128))]
#[derive(Default)]
struct Padded(AtomicUsize);

const RING: usize = 1024;

impl Ring {
    fn new() -> Self {
        Self {
            slots: (0..RING).map(|_| AtomicPtr::default()).collect(),
            head: Padded::default(),
            tail: Padded::default(),
        }
    }

    fn send(&self, block: *mut u8) {
        let head = self.head.0.load(Ordering::Relaxed); // written by this thread only
        // Acquire pairs with the Release in `receive`: the slot is free.
        wait_until(|| head - self.tail.0.load(Ordering::Acquire) < RING);
        self.slots[head % RING].store(block, Ordering::Relaxed);
        self.head.0.store(head + 1, Ordering::Release);
    }

    fn receive(&self) -> *mut u8 {
        let tail = self.tail.0.load(Ordering::Relaxed); // written by this thread only
        // Acquire pairs with the Release in `send`: the slot is filled.
        wait_until(|| self.head.0.load(Ordering::Acquire) > tail);
        let block = self.slots[tail % RING].load(Ordering::Relaxed);
        self.tail.0.store(tail + 1, Ordering::Release);
        block
    }
}

/// Spins, and lets others run when that takes long: with one free CPU the other side needs it.
fn wait_until(ready: impl Fn() -> bool) {
    let mut turns = 0;
    while !ready() {
        turns += 1;
        if turns % 256 == 0 { thread::yield_now() } else { std::hint::spin_loop() }
    }
}

/// One thread allocates `FROM` to `TO` bytes, the other frees.
pub(super) fn pass<const FROM: usize, const TO: usize>() -> f64 {
    per_operation(|n| {
        let ring = Ring::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: each block is received once.
                (0..n).for_each(|_| unsafe { give(ring.receive()) });
            });
            let mut random = Random(3);
            (0..n).for_each(|_| ring.send(take(FROM + random.below(TO - FROM + 1))));
        });
    })
}

/// Each of two threads sends blocks of 64 bytes and frees what the other sent; per block.
pub(super) fn exchange() -> f64 {
    let both = per_operation(|n| {
        let rings = [Ring::new(), Ring::new()];
        let side = |to: &Ring, from: &Ring| {
            for _ in 0..n {
                to.send(take(64));
                // SAFETY: each block is received once.
                unsafe { give(from.receive()) };
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| side(&rings[0], &rings[1]));
            side(&rings[1], &rings[0]);
        });
    });
    both / 2.0
}

/// Threads that come and go: each leaves half of its blocks to the one that joins it.
pub(super) fn churn() -> f64 {
    per_operation(|n| {
        for _ in 0..n {
            let left = thread::spawn(|| {
                let blocks: Vec<usize> = (0..100).map(|at| take(16 + at * 8) as usize).collect();
                // SAFETY: these stand in the first half, what is left in the second.
                blocks[..50].iter().for_each(|&block| unsafe { give(block as *mut u8) });
                blocks[50..].to_vec()
            });
            let left = left.join().expect("the thread cannot panic");
            // SAFETY: live, and freed once.
            left.iter().for_each(|&block| unsafe { give(block as *mut u8) });
        }
    })
}
