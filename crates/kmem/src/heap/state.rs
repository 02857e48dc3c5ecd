//! Whether a block is in use, and whole: its header, or its mark and its tail.
//!
//! # Theory
//! A free block has one of two things. Small blocks of SLUB's usual heap have a *header* before them
//! ([`kmem_core::engine::beside`]), in use or free; one that is neither was written over, by a write past the end of the block before or
//! before the start of its own. All others have a *mark* in their second word while they are free: a secret mixed with their
//! address, from the moment on that a block of their page was first wanted; malloc takes it off.
//!
//! A free that finds a block free already is a double free, however many other frees came between, or that of a block that was never
//! handed out. Free pointers of these classes lie in the first word, so the mark survives on the lists of slabs too. A block
//! must still be free when it is handed out: one that was written over while it was free, and freed again, would be handed out
//! twice, and an overflow from the block before ends there.
//!
//! Longer blocks of the same heap have a *tail* behind them while they are in use, which free and realloc look at.
//!
//! # Never
//! Nothing here reports; who asks does.

use core::sync::atomic::Ordering;

use kmem_core::engine::beside;
use kmem_core::engine::cache::MARK_AT;

use super::{FREE_SECRET, SECRET};
use crate::engine;
use crate::misuse::Damage;

/// What the words of a block say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Somebody has it, as far as they tell.
    InUse,
    /// It is free.
    Free,
    /// The header was written over.
    NoHeader,
    /// The tail was written over.
    NoTail,
}

impl Damage {
    /// What of a block in this state was written over, if anything was.
    pub(super) const fn of(state: State) -> Option<Self> {
        match state {
            State::InUse | State::Free => None,
            State::NoHeader => Some(Self::Header),
            State::NoTail => Some(Self::Tail),
        }
    }
}

/// Where a block has the word that tells whether it is in use.
#[inline(always)]
fn word_at(block: *mut u8, place: usize) -> *mut u64 {
    let headed = engine::is_headed(place);
    if headed { block.wrapping_sub(beside::BYTES) } else { block.wrapping_add(MARK_AT) }.cast()
}

/// That word of a free block, but for the number of a slab's last one.
#[inline(always)]
fn free_word(block: *const u8) -> u64 {
    // `beside::free`.
    FREE_SECRET.load(Ordering::Relaxed) ^ block.addr() as u64
}

/// The tail of a block in use, and where it is, if blocks of that place have one, or the last ones of slabs.
#[inline(always)]
fn tail_of(block: *mut u8, place: usize) -> Option<(*mut u64, u64)> {
    let tail = engine::tail_at(place);
    (tail != 0).then(|| {
        // What a mark is made of too: it is at another place.
        (block.wrapping_add(tail).cast(), free_word(block))
    })
}

/// Somebody has the block, and it is whole, as far as its words tell.
///
/// # Safety
/// A block of the class at this place starts there.
#[inline(always)]
pub(super) unsafe fn is_in_use(block: *const u8, place: usize) -> bool {
    let (block, free) = (block.cast_mut(), free_word(block));
    // SAFETY: as in `state_of`.
    unsafe {
        let word = word_at(block, place).read();
        if engine::is_headed(place) {
            return match beside::number(word ^ !free) {
                Some(number) => number == 0 || has_tail(block, place),
                None => false,
            };
        }
        word != free && has_tail(block, place)
    }
}

/// The tail is whole, if blocks of that place have one, or the last ones of slabs.
///
/// # Safety
/// As [`is_in_use`], and where blocks have headers this one's says that it is the last.
#[inline(always)]
unsafe fn has_tail(block: *mut u8, place: usize) -> bool {
    // SAFETY: the caller's promise: the word is there.
    tail_of(block, place).is_none_or(|(at, tail)| unsafe { at.read() } == tail)
}

/// The header of a block in use lies before this address.
///
/// # Safety
/// What lies there is memory.
#[inline(always)]
pub(super) unsafe fn has_header_in_use(block: *const u8) -> bool {
    let secret = SECRET.load(Ordering::Relaxed);
    // SAFETY: the caller's promise. The address of no block need not be aligned.
    unsafe {
        block.wrapping_sub(beside::BYTES).cast::<u64>().read_unaligned()
            == beside::in_use(secret, block.addr())
    }
}

/// The block's state.
///
/// # Safety
/// As [`is_in_use`].
#[cold]
pub(super) unsafe fn state_of(block: *const u8, place: usize) -> State {
    let block = block.cast_mut();
    let free = free_word(block);
    // SAFETY: a block of a class has the word, and the tail if its class has tails.
    unsafe {
        let word = word_at(block, place).read();
        if engine::is_headed(place) {
            let (free, in_use) = (beside::number(word ^ free), beside::number(word ^ !free));
            match (free, in_use) {
                (Some(0), _) => return State::Free,
                (_, Some(0)) => return State::InUse,
                // The others have no number.
                _ if !engine::is_last(block, place) => return State::NoHeader,
                (Some(_), _) => return State::Free,
                (_, Some(_)) => {}
                (None, None) => return State::NoHeader,
            }
        } else if word == free {
            return State::Free;
        }
        if has_tail(block, place) { State::InUse } else { State::NoTail }
    }
}

/// Makes a free block one in use. False, and nothing changed: it is not as its free left it.
///
/// # Safety
/// A block of the class at this place starts there, and nobody else has it.
#[inline(always)]
pub(super) unsafe fn take(block: *mut u8, place: usize) -> bool {
    let at = word_at(block, place);
    // SAFETY: as in `state_of`; the caller's block.
    unsafe {
        let word = at.read();
        let left = word ^ free_word(block);
        if engine::is_headed(place) {
            if beside::number(left).is_none() {
                return false;
            }
            at.write(!word);
            return true;
        }
        if left != 0 {
            return false;
        }
        at.write(0);
        set_tail(block, place);
    }
    true
}

/// Writes the tail of a block in use, if it has one.
///
/// # Safety
/// As [`take`], but blocks of the class have no headers.
#[inline(always)]
pub(super) unsafe fn set_tail(block: *mut u8, place: usize) {
    if let Some((at, tail)) = tail_of(block, place) {
        // SAFETY: the slot's last word, behind all that its holder may use.
        unsafe { at.write(tail) };
    }
}

/// Makes a block in use a free one.
///
/// # Safety
/// As [`take`]; its header, if it has one, is whole.
#[inline(always)]
pub(super) unsafe fn give(block: *mut u8, place: usize) {
    let (at, free) = (word_at(block, place), free_word(block));
    // SAFETY: as in `take`.
    unsafe {
        // The last block of a slab is looked behind once less.
        let number =
            if engine::is_headed(place) { beside::number(at.read() ^ !free).unwrap_or(0) } else { 0 };
        at.write(free ^ beside::numbered(number.saturating_sub(1)));
    }
}

/// Makes a block in use that was damaged whole again, as far as its free looks at it.
///
/// # Safety
/// As [`take`].
#[cold]
pub(super) unsafe fn mend(block: *mut u8, place: usize) {
    if engine::is_headed(place) {
        let last = engine::is_last(block, place);
        let word = !free_word(block) ^ if last { beside::numbered(1) } else { 0 };
        // SAFETY: as in `take`; the last block of a slab has a tail.
        unsafe {
            word_at(block, place).write(word);
            if let Some((at, tail)) = tail_of(block, place).filter(|_| last) {
                at.write(tail);
            }
        }
    }
}
