//! The sampling guard: now and then one object is placed at the edge of a page, beside pages that nobody may touch.
//!
//! # Theory
//! A pool of [`OBJECTS`] pages, each between two pages that are always protected, takes one object a page. An access beyond
//! the object's end of the page, and any access after the free (its page is protected then), faults at the very instruction; the
//! platform shows the fault, and the report names the object, who allocated it and who freed it. The rest of the page
//! holds a pattern that is looked at when the object is freed: that finds writes between the object and the far edge.
//!
//! Few objects are guarded, so it costs next to nothing, and finds what happens often enough, on as many machines as the program
//! runs on. Which allocation is next is a question of time ([`turn`]): one an interval.
//!
//! # Invariants
//! - I-GUARD-1: who moved an entry's state to BUSY owns the entry and its page until the next move; nobody else writes them.
//! - I-GUARD-2: the pages beside an object are protected, unless a report let an access through; then the next free of the
//!   object protects them again.
//! - I-GUARD-3: pages are used again in the order in which they were freed, so that a stale pointer meets a protected
//!   page as long as possible.
//! - I-GUARD-4: an entry in use leads to a live cache, or to none.
//!
//! # Never
//! No lock: a signal handler that interrupted any of this may allocate, free and fault. Before the first sample there is no pool
//! and no memory is taken. Nothing of it is on a fast path.

pub mod canary;
pub(crate) mod entry;
pub(crate) mod pool;
pub(crate) mod report;
pub mod turn;

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::platform::{PAGE_SIZE, Platform};
use entry::Entry;
use pool::{Book, POOL_BYTES};

pub use turn::{EVERY, Turn};

/// Objects that can be guarded at once.
pub const OBJECTS: usize = 255;

/// What an access that faulted wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read.
    Read,
    /// To write.
    Write,
    /// The platform cannot tell.
    Unknown,
}

impl Access {
    /// As reports call it.
    #[must_use]
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Unknown => "access",
        }
    }
}

/// What an object is to be.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its bytes: 1 to a page.
    pub size: usize,
    /// Its alignment: a power of two, at most a page.
    pub align: usize,
    /// Stands for its cache; null where it has none.
    pub cache: *const (),
    /// The cache's name.
    pub name: &'a str,
}

/// What the guard has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Objects in use.
    pub live: u64,
    /// Objects placed.
    pub placed: u64,
    /// Objects freed.
    pub freed: u64,
    /// Objects in use whose cache was destroyed: nobody may use them any more.
    pub orphaned: u64,
    /// Reports.
    pub bugs: u64,
    /// Samples that were not taken: too large, of a special zone, or of a cache that must not be sampled.
    pub unsuitable: u64,
    /// Samples that were not taken: all pages are in use, or could not be opened.
    pub full: u64,
    /// Samples that were not taken: the pool was well used, and an object from the same stack was in it.
    pub covered: u64,
}

/// Counters, in the order of [`Stats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) live: AtomicU64,
    pub(crate) placed: AtomicU64,
    pub(crate) freed: AtomicU64,
    pub(crate) orphaned: AtomicU64,
    pub(crate) bugs: AtomicU64,
    pub(crate) unsuitable: AtomicU64,
    pub(crate) full: AtomicU64,
    pub(crate) covered: AtomicU64,
}

/// What became of the pool.
mod stage {
    pub(super) const NONE: u32 = 0;
    pub(super) const MAKING: u32 = 1;
    pub(super) const MADE: u32 = 2;
    /// The platform cannot protect pages, or would tell nobody of a fault.
    pub(super) const REFUSED: u32 = 3;
}

/// The guard of one heap. Off at first.
pub struct Guard {
    pub(crate) time: turn::Time,
    stage: AtomicU32,
    book: AtomicPtr<Book>,
    /// The first byte of the pool.
    pool: AtomicPtr<u8>,
    /// Its bytes; 0 while there is none, when it holds no address.
    bytes: AtomicUsize,
    pub(crate) counters: Counters,
}

impl Guard {
    /// Switched off, without a pool.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            time: turn::Time::new(),
            stage: AtomicU32::new(stage::NONE),
            book: AtomicPtr::new(ptr::null_mut()),
            pool: AtomicPtr::new(ptr::null_mut()),
            bytes: AtomicUsize::new(0),
            counters: Counters {
                live: AtomicU64::new(0),
                placed: AtomicU64::new(0),
                freed: AtomicU64::new(0),
                orphaned: AtomicU64::new(0),
                bugs: AtomicU64::new(0),
                unsuitable: AtomicU64::new(0),
                full: AtomicU64::new(0),
                covered: AtomicU64::new(0),
            },
        }
    }

    /// See [`crate::heap::Kmem::set_guard_interval`]. Objects that are guarded already stay so.
    pub(crate) fn set_interval(&self, interval: u64, now: u64) {
        self.time.set(interval, now);
    }

    /// Objects are being sampled.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.time.interval() != 0
    }

    /// A turn is due at this time, and whoever comes by gets it. Allowed in signal handlers.
    #[must_use]
    pub fn is_due(&self, now: u64) -> bool {
        self.time.is_due(now)
    }

    /// The address lies in the pool.
    #[inline]
    pub fn holds(&self, address: usize) -> bool {
        // Acquire pairs with the Release of `make`: who sees the length sees the start.
        let bytes = self.bytes.load(Ordering::Acquire);
        address.wrapping_sub(self.pool.load(Ordering::Relaxed).addr()) < bytes
    }

    /// What happened so far.
    pub fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        Stats {
            live: read(&counters.live),
            placed: read(&counters.placed),
            freed: read(&counters.freed),
            orphaned: read(&counters.orphaned),
            bugs: read(&counters.bugs),
            unsuitable: read(&counters.unsuitable),
            full: read(&counters.full),
            covered: read(&counters.covered),
        }
    }

    /// The entries and what else is written down beside the pool; made now if need be. `None`: the platform cannot.
    pub(crate) fn book<P: Platform>(&self, platform: &P) -> Option<&Book> {
        // Acquire pairs with the Release of `make`.
        match self.stage.load(Ordering::Acquire) {
            stage::MADE => self.known_book(),
            stage::NONE => self.make(platform),
            _ => None,
        }
    }

    pub(crate) fn known_book(&self) -> Option<&Book> {
        // Acquire pairs with the Release of `make`.
        // SAFETY: stored once it was complete; it stays for the life of the platform.
        unsafe { self.book.load(Ordering::Acquire).as_ref() }
    }

    /// Makes the pool. One thread does; others go without meanwhile.
    #[cold]
    fn make<P: Platform>(&self, platform: &P) -> Option<&Book> {
        let stage = &self.stage;
        stage.compare_exchange(stage::NONE, stage::MAKING, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        // Before any page is protected.
        let made = if platform.watch_faults() { pool::make(platform) } else { None };
        let Some((book, pool)) = made else {
            stage.store(stage::REFUSED, Ordering::Relaxed);
            return None;
        };
        self.pool.store(pool.as_ptr(), Ordering::Relaxed);
        // Release pairs with the Acquire of `known_book`.
        self.book.store(book.as_ptr(), Ordering::Release);
        // Release pairs with the Acquire of `holds`.
        self.bytes.store(POOL_BYTES, Ordering::Release);
        // Release pairs with the Acquire of `book`.
        stage.store(stage::MADE, Ordering::Release);
        self.known_book()
    }

    /// The pages of the pool that an address lies in: the entry of the object page, or on a protected page nothing; and the
    /// first byte of that page.
    pub(crate) fn page_at(&self, address: usize) -> Option<(Option<usize>, *mut u8)> {
        if !self.holds(address) {
            return None;
        }
        let pool = self.pool.load(Ordering::Relaxed);
        let number = (address - pool.addr()) / PAGE_SIZE;
        Some((pool::entry_of(number), pool.wrapping_add(number * PAGE_SIZE)))
    }

    /// The first byte of an entry's page.
    pub(crate) fn page_of(&self, index: usize) -> *mut u8 {
        self.pool.load(Ordering::Relaxed).wrapping_add(pool::page_of(index) * PAGE_SIZE)
    }

    /// The object around an address of the pool, in use or freed: its entry.
    pub(crate) fn entry_at(&self, address: usize) -> Option<&Entry> {
        let (index, _) = self.page_at(address)?;
        self.known_book()?.entries.get(index?)
    }

    /// The object in use that an address lies in: its first byte and its length.
    pub fn object_at(&self, address: usize) -> Option<(usize, usize)> {
        let entry = self.entry_at(address)?;
        let (start, size) = entry.range();
        (entry.is_live() && address >= start && address - start < size).then_some((start, size))
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self::new()
    }
}

const _: () = assert!(OBJECTS <= u8::MAX as usize, "a count of stacks is a byte");
