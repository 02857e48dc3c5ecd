//! What happened on a machine, counted.
//!
//! All counters only rise. They are kept with relaxed atomic additions: exact when the threads that
//! counted have been joined, and that join is what orders them before the reader.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use kmem_core::sync::rank;

use crate::thread::Happened;

/// How many lock ranks are counted apart.
pub const RANKS: usize = 16;

const NOBODY: usize = usize::MAX;

/// A snapshot of everything counted; see [`Machine::counters`](crate::Machine::counters).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that could fail (grow, map, growing remap), refused ones included.
    pub requests: u64,
    /// Requests refused because the test said so. Running out of memory is not counted here.
    pub refused: u64,
    /// Successful calls of `grow`.
    pub grows: u64,
    /// Pages given by `grow`.
    pub grown_pages: u64,
    /// Successful calls of `discard`.
    pub discards: u64,
    /// Pages discarded.
    pub discarded_pages: u64,
    /// Pages backed before they were touched, by `back`.
    pub backed_pages: u64,
    /// Pageblocks that the heap had backed as wholes.
    pub backed_whole: u64,
    /// Pages given back by `release`.
    pub released_pages: u64,
    /// Successful calls of `map`.
    pub maps: u64,
    /// Calls of `unmap`.
    pub unmaps: u64,
    /// Successful calls of `remap`.
    pub remaps: u64,
    /// Locks taken, by rank.
    pub locks: [u64; RANKS],
    /// Of those, taken on another CPU than the lock of this rank before: an upper bound of the cache lines
    /// that locks of the rank moved between CPUs.
    pub lock_transfers: [u64; RANKS],
    /// Times that a thread had to sleep for a lock.
    pub lock_waits: u64,
    /// Objects taken from CPU stacks one at a time; calls that found none are in `empty_pops`.
    pub pops: u64,
    /// Single takes that found the stack empty.
    pub empty_pops: u64,
    /// Objects put on CPU stacks one at a time; calls that found no room are in `full_pushes`.
    pub pushes: u64,
    /// Single puts that found the stack full.
    pub full_pushes: u64,
    /// Calls of `pop_many`.
    pub pop_batches: u64,
    /// Calls of `push_many`.
    pub push_batches: u64,
    /// Calls of `seize`.
    pub seizes: u64,
    /// Times that a thread was moved to another CPU by the schedule, not by the test's own word.
    pub migrations: u64,
    /// Interruptions that ran.
    pub interrupts: u64,
}

impl Counters {
    /// Locks taken, of every rank.
    #[must_use]
    pub fn total_locks(&self) -> u64 {
        self.locks.iter().sum()
    }

    /// Transfers of lock words between CPUs, of every rank.
    #[must_use]
    pub fn total_transfers(&self) -> u64 {
        self.lock_transfers.iter().sum()
    }
}

/// A counter that only rises.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The live counters of a machine; the fields are those of [`Counters`].
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) grows: Count,
    pub(crate) grown_pages: Count,
    pub(crate) discards: Count,
    pub(crate) discarded_pages: Count,
    pub(crate) backed_pages: Count,
    pub(crate) backed_whole: Count,
    pub(crate) released_pages: Count,
    pub(crate) maps: Count,
    pub(crate) unmaps: Count,
    pub(crate) remaps: Count,
    pub(crate) lock_waits: Count,
    pub(crate) pops: Count,
    pub(crate) empty_pops: Count,
    pub(crate) pushes: Count,
    pub(crate) full_pushes: Count,
    pub(crate) pop_batches: Count,
    pub(crate) push_batches: Count,
    pub(crate) seizes: Count,
    pub(crate) migrations: Count,
    pub(crate) interrupts: Count,
    locks: [Count; RANKS],
    lock_transfers: [Count; RANKS],
    last_cpu: [AtomicUsize; RANKS],
}

impl Tally {
    pub(crate) fn new() -> Self {
        let count = Count::default;
        Self {
            grows: count(),
            grown_pages: count(),
            discards: count(),
            discarded_pages: count(),
            backed_pages: count(),
            backed_whole: count(),
            released_pages: count(),
            maps: count(),
            unmaps: count(),
            remaps: count(),
            lock_waits: count(),
            pops: count(),
            empty_pops: count(),
            pushes: count(),
            full_pushes: count(),
            pop_batches: count(),
            push_batches: count(),
            seizes: count(),
            migrations: count(),
            interrupts: count(),
            locks: Default::default(),
            lock_transfers: Default::default(),
            last_cpu: [const { AtomicUsize::new(NOBODY) }; RANKS],
        }
    }

    pub(crate) fn lock_taken(&self, rank: u8, cpu: usize) {
        let rank = usize::from(rank).min(RANKS - 1);
        self.locks[rank].add(1);
        let last = self.last_cpu[rank].swap(cpu, Ordering::Relaxed);
        if last != cpu && last != NOBODY {
            self.lock_transfers[rank].add(1);
        }
    }

    pub(crate) fn happened(&self, what: Happened) {
        if what.migrated {
            self.migrations.add(1);
        }
        if what.interrupted {
            self.interrupts.add(1);
        }
    }

    pub(crate) fn snapshot(&self, requests: u64, refused: u64) -> Counters {
        let list = |counts: &[Count; RANKS]| std::array::from_fn(|rank| counts[rank].get());
        Counters {
            requests,
            refused,
            grows: self.grows.get(),
            grown_pages: self.grown_pages.get(),
            discards: self.discards.get(),
            discarded_pages: self.discarded_pages.get(),
            backed_pages: self.backed_pages.get(),
            backed_whole: self.backed_whole.get(),
            released_pages: self.released_pages.get(),
            maps: self.maps.get(),
            unmaps: self.unmaps.get(),
            remaps: self.remaps.get(),
            locks: list(&self.locks),
            lock_transfers: list(&self.lock_transfers),
            lock_waits: self.lock_waits.get(),
            pops: self.pops.get(),
            empty_pops: self.empty_pops.get(),
            pushes: self.pushes.get(),
            full_pushes: self.full_pushes.get(),
            pop_batches: self.pop_batches.get(),
            push_batches: self.push_batches.get(),
            seizes: self.seizes.get(),
            migrations: self.migrations.get(),
            interrupts: self.interrupts.get(),
        }
    }
}

/// The name of a lock rank, for messages.
pub(crate) fn rank_name(rank: u8) -> &'static str {
    match rank {
        rank::REGISTRY => "REGISTRY",
        rank::CPU_SLAB => "CPU_SLAB",
        rank::BARN => "BARN",
        rank::NODE => "NODE",
        rank::POOL => "POOL",
        rank::PAGE_LIST => "PAGE_LIST",
        rank::ZONE => "ZONE",
        rank::HUGE => "HUGE",
        _ => "unnamed",
    }
}
