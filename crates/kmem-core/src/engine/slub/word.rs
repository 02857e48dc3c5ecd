//! The state of a slab that several CPUs may change, in one word.
//!
//! ```text
//!  63            37  36      35 .. 20   19 .. 0
//! +-----------------+------+-----------+------------------------------+
//! | 0               |frozen| inuse     | head: 0, or 1 + offset / 8   |
//! +-----------------+------+-----------+------------------------------+
//! ```
//! A slab is at most 4 MiB and holds at most 32767 objects, so an offset in words and a count fit
//! beside each other, and one 8-byte compare-and-swap does what the kernel needs 16 bytes for.

use crate::page::Page;
use core::sync::atomic::Ordering;

const HEAD_BITS: u32 = 20;
const HEAD_MASK: u64 = (1 << HEAD_BITS) - 1;
const INUSE_SHIFT: u32 = HEAD_BITS;
const INUSE_MASK: u64 = 0xffff;
const FROZEN: u64 = 1 << 36;

/// A value of the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(u64);

impl Word {
    /// A word from its parts. `head` is an offset in bytes of the first free object, a multiple of 8.
    #[inline]
    #[must_use]
    pub const fn new(head: Option<u32>, inuse: u16, frozen: bool) -> Self {
        let head = match head {
            Some(offset) => (offset as u64 >> 3) + 1,
            None => 0,
        };
        Self(head | (inuse as u64) << INUSE_SHIFT | if frozen { FROZEN } else { 0 })
    }

    /// Offset in bytes of the first free object.
    #[inline]
    #[must_use]
    pub const fn head(self) -> Option<u32> {
        match self.0 & HEAD_MASK {
            0 => None,
            head => Some(((head - 1) << 3) as u32),
        }
    }

    /// Objects in use.
    #[inline]
    #[must_use]
    pub const fn inuse(self) -> u16 {
        (self.0 >> INUSE_SHIFT & INUSE_MASK) as u16
    }

    /// True while a CPU owns the slab.
    #[inline]
    #[must_use]
    pub const fn frozen(self) -> bool {
        self.0 & FROZEN != 0
    }
}

/// Reads the word of a slab.
#[inline]
pub(crate) fn load(slab: &Page) -> Word {
    // Acquire pairs with the Release of `swap_if`: links written before a head was published are visible.
    Word(slab.word.load(Ordering::Acquire))
}

/// Sets the word of a slab that nobody else can see yet.
#[inline]
pub(crate) fn store(slab: &Page, word: Word) {
    slab.word.store(word.0, Ordering::Release);
}

/// Replaces `old` by `new`; gives the present value back when it is not `old`.
#[inline]
pub(crate) fn swap_if(slab: &Page, old: Word, new: Word) -> Result<(), Word> {
    // Release pairs with the Acquire of `load`; Acquire on both outcomes for the links behind the head.
    match slab.word.compare_exchange_weak(old.0, new.0, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(()),
        Err(now) => Err(Word(now)),
    }
}

#[cfg(test)]
mod tests {
    use super::Word;

    #[test]
    fn parts_come_back() {
        for head in [None, Some(0), Some(8), Some((4 << 20) - 8)] {
            for inuse in [0, 1, 32767] {
                for frozen in [false, true] {
                    let word = Word::new(head, inuse, frozen);
                    assert_eq!((word.head(), word.inuse(), word.frozen()), (head, inuse, frozen));
                }
            }
        }
    }
}
