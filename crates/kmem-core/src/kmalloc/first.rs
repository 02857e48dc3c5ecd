//! Which large blocks are mappings of their own although pages would do.
//!
//! # Theory
//! Pages that are freed stay with the heap, and whoever still uses the block reads and writes what may be another's tomorrow. A
//! mapping that is freed is gone: the next access faults. It costs two calls of the system and fresh pages each time, too much for
//! programs that make and free large blocks all the time. Such programs show themselves by freeing: so the first large blocks are
//! mappings, and from the first free of one on only larger ones. What a program works with in a loop comes from pages after one
//! turn, and what it frees once faults.
//!
//! # Invariants
//! - I-FIRST-1: no more than [`Config::FIRST_MAPPED`] blocks of a heap are mappings for this reason; the size from which blocks
//!   are only grows.
//!
//! # Never
//! No lock is taken: two threads may both see the old size, and both have a mapping.
//!
//! [`Config::FIRST_MAPPED`]: crate::config::Config::FIRST_MAPPED

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Blocks of fewer bytes are never mappings for being first.
pub(crate) const LEAST: usize = 128 << 10;

/// How many blocks may still be mappings, and from which size on.
pub(crate) struct First {
    left: AtomicU32,
    above: AtomicUsize,
}

impl First {
    /// So many blocks, of [`LEAST`] bytes and more.
    pub(crate) const fn new(blocks: u32) -> Self {
        Self { left: AtomicU32::new(blocks), above: AtomicUsize::new(LEAST - 1) }
    }

    /// Whether a block of so many bytes is to be a mapping; it then counts as one.
    pub(crate) fn takes(&self, bytes: usize) -> bool {
        // Relaxed: advice, and a count that orders nothing.
        bytes > self.above.load(Ordering::Relaxed)
            && self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
    }

    /// A mapping of so many bytes was freed.
    pub(crate) fn freed(&self, bytes: usize) {
        // Relaxed: as above.
        self.above.fetch_max(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_blocks_are_taken_until_one_as_large_was_freed() {
        let first = First::new(4);
        assert!(!first.takes(LEAST - 1));
        assert!(first.takes(LEAST) && first.takes(LEAST));
        first.freed(2 * LEAST);
        assert!(!first.takes(2 * LEAST), "recycled from now on");
        assert!(first.takes(2 * LEAST + 1));
        first.freed(LEAST);
        assert!(first.takes(2 * LEAST + 1), "a smaller one says nothing new");
        assert!(!first.takes(8 * LEAST), "four there were");
    }

    #[test]
    fn none_where_none_is_wanted() {
        assert!(!First::new(0).takes(usize::MAX));
    }
}
