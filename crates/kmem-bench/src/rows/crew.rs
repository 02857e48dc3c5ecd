//! Many threads on the CPUs that there are, and the ways in which programs of many threads use their blocks.
//!
//! The number is wall-clock time over the operations of all threads together: with as many CPUs as before it must not grow when
//! threads are added.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;

use super::small::{self, Set};
use super::{give, take};
use crate::clock::{Random, per_operation};

/// What each thread does at least between two meetings of all, which take long when there are many.
const ROUND: u64 = 4000;

/// Runs `work(state, n)` on `count` threads at once, again and again, each with what `make` makes of its number; per operation of all.
fn crew<S>(count: u64, make: impl Fn(u64) -> S + Sync, work: impl Fn(&mut S, u64) + Sync) -> f64 {
    let (start, end) = (Barrier::new(count as usize + 1), Barrier::new(count as usize + 1));
    // What each does in this piece; 0: the end.
    let share = AtomicU64::new(0);
    thread::scope(|scope| {
        for id in 0..count {
            let (start, end, share, make, work) = (&start, &end, &share, &make, &work);
            scope.spawn(move || {
                let mut state = make(id);
                loop {
                    start.wait();
                    let n = share.load(Ordering::Relaxed); // the barrier orders it
                    if n == 0 {
                        break;
                    }
                    work(&mut state, n);
                    end.wait();
                }
            });
        }
        let time = per_operation(|n| {
            share.store(n * ROUND, Ordering::Relaxed); // the barrier orders it
            start.wait();
            end.wait();
        });
        share.store(0, Ordering::Relaxed);
        start.wait();
        time / (count * ROUND) as f64
    })
}

/// Each of `THREADS` replaces random ones of 1000 blocks of its own.
pub(super) fn working_sets<const THREADS: u64>() -> f64 {
    crew(THREADS, |id| Set::of(1000, id + 1), Set::replace)
}

/// Each of `THREADS` takes and gives one block of 64 bytes at a time.
pub(super) fn pairs<const THREADS: u64>() -> f64 {
    crew(THREADS, |_| (), |(), n| small::pairs(64, n))
}

/// A server's sessions: every 5000 replacements a thread hands its blocks over to another, which frees them one by one as it
/// goes on.
pub(super) fn sessions() -> f64 {
    const TURN: u64 = 5000;
    let waiting = Mutex::new(Some(Set::of(1000, 99)));
    crew(
        4,
        |id| Set::of(1000, id + 1),
        |set, n| {
            for at in (0..n).step_by(TURN as usize) {
                set.replace(TURN.min(n - at));
                let mut waiting = waiting.lock().expect("no thread panics");
                waiting.as_mut().expect("there is always one").swap(set);
            }
        },
    )
}

/// Blocks that meet in a thousand shared places: each thread puts one in and frees what was there. Most are small, a few are not.
pub(super) fn meeting_places() -> f64 {
    let places: Vec<AtomicPtr<u8>> = (0..1000).map(|_| AtomicPtr::default()).collect();
    let time = crew(
        4,
        |id| Random(id + 7),
        |random, n| {
            for _ in 0..n {
                let size = match random.below(100) {
                    0 => 1024 + random.below(31 << 10),
                    1..10 => 256 + random.below(768),
                    _ => 8 + random.below(248),
                };
                let block = take(size);
                // The exchange makes the block another thread's: AcqRel pairs with itself.
                let other = places[random.below(1000)].swap(block, Ordering::AcqRel);
                // SAFETY: null, or a block that nobody else has any more.
                unsafe { give(other) };
            }
        },
    );
    for place in places {
        // SAFETY: as above; the threads are gone.
        unsafe { give(place.into_inner()) };
    }
    time
}

/// Blocks that travel together.
struct Parcel([*mut u8; 100]);

// SAFETY: the blocks are the parcel's, and malloc's blocks may be freed by any thread.
unsafe impl Send for Parcel {}

/// Parcels of 100 blocks through one queue: each thread adds one and frees the oldest, whoever made it. Per block.
pub(super) fn parcels() -> f64 {
    let queue: Mutex<VecDeque<Parcel>> = Mutex::new(VecDeque::with_capacity(64));
    let open = |parcel: Parcel| {
        for block in parcel.0 {
            // SAFETY: the parcel's, and gone with it.
            unsafe { give(block) };
        }
    };
    let time = crew(
        4,
        |id| Random(id + 7),
        |random, n| {
            for _ in 0..n.div_ceil(100) {
                let parcel = Parcel(std::array::from_fn(|_| take(16 + random.below(500))));
                let mut queue = queue.lock().expect("no thread panics");
                queue.push_back(parcel);
                let oldest = if queue.len() > 16 { queue.pop_front() } else { None };
                drop(queue);
                oldest.map(open);
            }
        },
    );
    queue.into_inner().expect("no thread panics").into_iter().for_each(open);
    time
}

/// Words that two threads write to: each frees a small block that another thread made beside the other's, and goes on with its own.
/// Slow where the allocator hands out parts of one cache line to both. Per 100 writes and a pair.
pub(super) fn scratch() -> f64 {
    let first: Vec<AtomicPtr<u8>> = (0..2).map(|_| AtomicPtr::new(take(8))).collect();
    crew(
        2,
        |id| {
            // Relaxed: made before the threads were.
            // SAFETY: taken out of its place, so this thread's alone.
            unsafe { give(first[id as usize].swap(std::ptr::null_mut(), Ordering::Relaxed)) };
        },
        |(), n| {
            for _ in 0..n {
                let block = take(8);
                for value in 0..100 {
                    // SAFETY: the block is eight bytes long, live until it is given back.
                    unsafe { block.write_volatile(value) };
                }
                // SAFETY: just taken.
                unsafe { give(block) };
            }
        },
    )
}
