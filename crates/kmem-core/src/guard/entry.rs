//! What is known of one object of the pool.
//!
//! An entry's state says who may write the rest (I-GUARD-1):
//!
//! ```text
//!   FREE ----claim----> BUSY ----place----> LIVE
//!    ^                   |                   |
//!    +------release------+ <-----take--------+
//! ```
//! All of it is atomic, because a report reads what another thread may be writing: a wrong program is being reported, and what
//! is read may be half of two objects, but never of anything else.

use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::debug::Track;
use crate::guard::Wanted;
use crate::report::Text;

const FREE: u32 = 0;
const BUSY: u32 = 1;
const LIVE: u32 = 2;

/// Bytes of a cache's name that are kept.
pub(crate) const NAME_BYTES: usize = 48;

/// A copy of a cache's name, cut: the cache may be gone when it is read.
#[derive(Debug, Default)]
struct Name([AtomicU64; NAME_BYTES / 8]);

impl Name {
    fn set(&self, name: &str) {
        let mut bytes = name.bytes();
        for word in &self.0 {
            let mut next = [0; 8];
            for (place, byte) in next.iter_mut().zip(&mut bytes) {
                *place = byte;
            }
            word.store(u64::from_ne_bytes(next), Ordering::Relaxed);
        }
    }

    fn get(&self) -> Text<NAME_BYTES> {
        let mut text = Text::new();
        for word in &self.0 {
            let bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            for byte in bytes.into_iter().take_while(|&byte| byte != 0) {
                let shown = if byte.is_ascii_graphic() { byte as char } else { '?' };
                // A `Text` takes whatever comes.
                let _ = fmt::Write::write_char(&mut text, shown);
            }
        }
        text
    }
}

/// A track that can be read while it is written.
#[derive(Debug, Default)]
pub(crate) struct Kept([AtomicU64; 4]);

impl Kept {
    pub(crate) fn set(&self, track: &Track) {
        let words = [
            track.address as u64,
            u64::from(track.stack) | u64::from(track.cpu) << 32,
            u64::from(track.thread) | u64::from(track.known) << 32,
            track.time,
        ];
        for (place, word) in self.0.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self) -> Track {
        let [address, stack, thread, time] = [0, 1, 2, 3].map(|i| self.0[i].load(Ordering::Relaxed));
        Track {
            address: address as usize,
            stack: stack as u32,
            cpu: (stack >> 32) as u32,
            thread: thread as u32,
            known: (thread >> 32) as u32,
            time,
        }
    }
}

/// One object. All zero: never used.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    state: AtomicU32,
    /// Its place among the counts of stacks, while it is in use.
    pub(crate) stack: AtomicU32,
    /// Grows from free to free: the least one was freed longest ago.
    freed: AtomicU64,
    start: AtomicUsize,
    size: AtomicUsize,
    cache: AtomicPtr<()>,
    orphaned: AtomicU32,
    name: Name,
    /// A page beside it that a report opened; null: none.
    pub(crate) opened: AtomicPtr<u8>,
    pub(crate) allocated: Kept,
    pub(crate) freed_by: Kept,
}

impl Entry {
    /// Its order among the free ones; nothing while it is not free.
    pub(crate) fn freed(&self) -> Option<u64> {
        (self.state.load(Ordering::Relaxed) == FREE).then(|| self.freed.load(Ordering::Relaxed))
    }

    /// Makes a free entry the caller's.
    pub(crate) fn claim(&self) -> bool {
        self.move_state(FREE, BUSY)
    }

    /// Makes the entry of an object in use the caller's.
    pub(crate) fn take(&self) -> bool {
        self.move_state(LIVE, BUSY)
    }

    fn move_state(&self, from: u32, to: u32) -> bool {
        // Acquire pairs with the Releases of `place` and `release`: what the last owner wrote is seen.
        self.state.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Writes down what the object is, and that it was not freed yet. The caller owns the entry.
    pub(crate) fn describe(&self, start: usize, wanted: &Wanted<'_>) {
        self.start.store(start, Ordering::Relaxed);
        self.size.store(wanted.size, Ordering::Relaxed);
        self.cache.store(wanted.cache.cast_mut(), Ordering::Relaxed);
        self.orphaned.store(0, Ordering::Relaxed);
        self.name.set(wanted.name);
        self.freed_by.set(&Track::default());
    }

    /// The object is here, and so long. The caller owns the entry.
    pub(crate) fn shorten(&self, start: usize, size: usize) {
        self.start.store(start, Ordering::Relaxed);
        self.size.store(size, Ordering::Relaxed);
    }

    /// The object is in use from now on. The caller owns the entry.
    pub(crate) fn place(&self) {
        self.state.store(LIVE, Ordering::Release);
    }

    /// The entry is free from now on, the `order`-th. The caller owns it.
    pub(crate) fn release(&self, order: u64) {
        self.freed.store(order, Ordering::Relaxed);
        self.state.store(FREE, Ordering::Release);
    }

    /// The object is in use.
    pub(crate) fn is_live(&self) -> bool {
        self.state.load(Ordering::Acquire) == LIVE
    }

    /// There never was an object.
    pub(crate) fn is_unused(&self) -> bool {
        self.size.load(Ordering::Relaxed) == 0
    }

    /// First byte and length of the object, or of the last that was here.
    pub(crate) fn range(&self) -> (usize, usize) {
        (self.start.load(Ordering::Relaxed), self.size.load(Ordering::Relaxed))
    }

    /// What stands for its cache.
    pub(crate) fn cache(&self) -> *const () {
        self.cache.load(Ordering::Relaxed)
    }

    /// Its cache's name, and whether that cache was destroyed.
    pub(crate) fn name(&self) -> (Text<NAME_BYTES>, bool) {
        (self.name.get(), self.cache().is_null() && self.orphaned.load(Ordering::Relaxed) != 0)
    }

    /// Its cache is no more.
    pub(crate) fn orphan(&self) {
        self.cache.store(ptr::null_mut(), Ordering::Relaxed);
        self.orphaned.store(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_and_read_back() {
        let name = Name::default();
        for text in ["", "a", "kmalloc-64", "0123456789012345678901234567890123456789012345678901234567890"] {
            name.set(text);
            assert_eq!(name.get().as_str(), &text[..text.len().min(NAME_BYTES)]);
        }
        name.set("short");
        assert_eq!(name.get().as_str(), "short");
    }

    #[test]
    fn tracks_are_read_back() {
        let track = Track { address: 0x1234, stack: 7, cpu: 3, thread: 99, known: 1, time: 1 << 40 };
        let kept = Kept::default();
        kept.set(&track);
        assert_eq!(kept.get(), track);
    }

    #[test]
    fn an_entry_has_one_owner_at_a_time() {
        let entry = Entry::default();
        assert!(entry.is_unused() && !entry.is_live() && !entry.take());
        assert_eq!(entry.freed(), Some(0));
        assert!(entry.claim() && !entry.claim() && !entry.take());
        assert_eq!(entry.freed(), None);
        entry.place();
        assert!(entry.is_live() && !entry.claim() && entry.take());
        entry.release(9);
        assert_eq!(entry.freed(), Some(9));
    }
}
