//! The word beside a block: what lies between it and the next one, and tells whether it is whole.
//!
//! # Theory
//! A write past the end of a block, or before its start, goes unnoticed as long as it hits nothing but other blocks. A word of the
//! heap's own between two blocks notices: who comes by next finds something else there than was left.
//!
//! *Before* a block lies a **header**. A free must see that a block starts at its address and is not free already; the word just
//! before the block answers both at once, in the cache line that the free touches anyway. That is for small blocks:
//!
//! ```text
//!   ... block k-1 ...][header k][ block k ... ][header k+1][ block k+1 ...
//!                     8 bytes    slot - 8 bytes
//! ```
//! The first block of a slab begins a whole alignment unit behind the slab's start, so that its header has room and blocks are
//! aligned; each other header lies in the last word of the slot before. So a block is a word shorter than its slot is long.
//!
//! *Behind* a block, in the last word of its own slot, lies a **tail**. Longer blocks have it: of one whose end is pages away from
//! the next header nobody would notice an overflow before the slab is full, and runs of pages start at a page. A free looks at a cache
//! line more, which is little beside what a user does with so long a block. Blocks of pages that have no class have one too.
//!
//! The header of a block in use is a secret mixed with the block's address (exclusive or), that of a free one the complement. Who does
//! not know the secret cannot make either, and one that was copied to another place is none there. While memory is reused by
//! blocks of another length, old headers lie inside of them; those are of free blocks, so none of them makes a free pass. The
//! tail is written when a block is handed out, and is a header's complement too.
//!
//! Behind a slab's *last* block comes no header that anybody would look at. So it has a tail too, written once, when its page is
//! opened; and the three highest bits of its header, free or in use, are a number: at so many frees to come the tail is looked
//! at. (An overflow of the block before begins with the lowest bits.) Each free counts one down from [`LIVES`]. More would cost too much: no
//! processor foresees which of the blocks that are freed at random are last ones, and it waits 30 ns for each. A block that was freed
//! so often is not looked behind any more until its slab is made anew; what an overflow of up to eight bytes hits there is nobody's.
//!
//! # Invariants
//! - I-BESIDE-1: the header of each block of an open page of a slab (I-OPEN-1) is that of a free block or of one in use, but for
//!   the number of a last one ([`numbered`]), unless the program damaged it.
//! - I-BESIDE-2: who hands a block out turns its header to *in use*, who takes it back to *free*, before the block is where another
//!   may find it. What the heap allocates for itself stays *free*: nobody else may free that.
//!
//! # Never
//! Nothing here reads or writes memory.

/// Where a block's word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// It has none.
    Nothing,
    /// A header before it.
    Header,
    /// A tail behind it.
    Tail,
}

impl Beside {
    /// Bytes of a slot that are not the block's.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Header | Self::Tail => BYTES,
        }
    }
}

/// How many bits of a header, the highest, have the number of frees that look at the tail of a slab's last block.
pub const NUMBER_BITS: u32 = 3;

/// That number in a new slab.
pub const LIVES: u64 = (1 << NUMBER_BITS) - 1;

/// What a number turns in a header.
#[inline(always)]
#[must_use]
pub const fn numbered(number: u64) -> u64 {
    number << (u64::BITS - NUMBER_BITS)
}

/// The number by which two headers differ, if that is all.
#[inline(always)]
#[must_use]
pub const fn number(difference: u64) -> Option<u64> {
    if difference << NUMBER_BITS == 0 { Some(difference >> (u64::BITS - NUMBER_BITS)) } else { None }
}

/// Bytes of the word. A header ends where its block begins.
pub const BYTES: usize = 8;

/// The header of a block in use.
#[inline(always)]
#[must_use]
pub const fn in_use(secret: u64, address: usize) -> u64 {
    secret ^ address as u64
}

/// The header of a free block, and the tail of one in use.
#[inline(always)]
#[must_use]
pub const fn free(secret: u64, address: usize) -> u64 {
    !in_use(secret, address)
}
