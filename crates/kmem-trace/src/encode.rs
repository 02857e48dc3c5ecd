//! The writer's half: from calls to records.
//!
//! An [`Encoder`] knows how many blocks were made and who spoke last. It takes blocks by number; who has
//! addresses translates them with [`Live`](crate::live::Live).

use crate::record::{Bytes, Kind, zigzag};

/// Makes records. One for each trace.
#[derive(Clone, Copy, Debug, Default)]
pub struct Encoder {
    next: u64,
    thread: i64,
    time: u64,
}

impl Encoder {
    /// For a trace without records. Until told otherwise the process's first thread speaks, at time 0.
    #[must_use]
    pub const fn new() -> Self {
        Self { next: 0, thread: 0, time: 0 }
    }

    /// The number that the next block will have.
    #[must_use]
    pub const fn next_block(&self) -> u64 {
        self.next
    }

    /// A thread speaks, by its id less the process's. `None`: it spoke last, too.
    #[inline]
    pub fn thread(&mut self, thread: i64) -> Option<Bytes> {
        if thread == self.thread {
            return None;
        }
        self.thread = thread;
        Some(Bytes::one(Kind::Thread, zigzag(thread)))
    }

    /// It is now `nanoseconds` after the start.
    pub fn time(&mut self, nanoseconds: u64) -> Bytes {
        let passed = nanoseconds.saturating_sub(self.time);
        self.time += passed;
        Bytes::one(Kind::Time, passed)
    }

    /// The next block, as malloc makes it.
    #[inline]
    pub fn alloc(&mut self, size: u64) -> Bytes {
        self.next += 1;
        Bytes::one(Kind::Alloc, size)
    }

    /// The next block, zeroed.
    #[inline]
    pub fn zeroed(&mut self, size: u64) -> Bytes {
        self.next += 1;
        Bytes::one(Kind::Zeroed, size)
    }

    /// The next block, aligned to `1 << shift`.
    ///
    /// # Panics
    /// When `shift` exceeds 63 (debug builds).
    #[inline]
    pub fn aligned(&mut self, shift: u32, size: u64) -> Bytes {
        debug_assert!(shift < 64);
        self.next += 1;
        Bytes::two(Kind::Aligned, u64::from(shift), size)
    }

    /// The end of a block.
    ///
    /// # Panics
    /// When there is no such block (debug builds).
    #[inline]
    pub fn free(&mut self, block: u64) -> Bytes {
        Bytes::one(Kind::Free, self.age(block))
    }

    /// The end of a block, and the next one with its content and another size.
    ///
    /// # Panics
    /// When there is no such block (debug builds).
    #[inline]
    pub fn resize(&mut self, block: u64, size: u64) -> Bytes {
        let age = self.age(block);
        self.next += 1;
        Bytes::two(Kind::Resize, age, size)
    }

    #[inline]
    fn age(&self, block: u64) -> u64 {
        debug_assert!(block < self.next);
        self.next.wrapping_sub(block).wrapping_sub(1)
    }
}
