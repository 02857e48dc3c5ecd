//! Headers: a word in front of each block of a size class that tells whether the block is in use.
//!
//! # Theory
//! A free must see that a block starts at its address and is not free already. A word just before the block answers both at once,
//! in the cache line that the free touches anyway. It also lies between two blocks, so that a write past the end of one, or
//! before the start of the other, changes it: whoever comes by next notices.
//!
//! ```text
//!   ... block k-1 ...][header k][ block k ... ][header k+1][ block k+1 ...
//!                     8 bytes    size - 8 bytes
//! ```
//! The first block of a slab begins a whole alignment unit behind the slab's start, so that its header has room and blocks are
//! aligned; each other header lies in the last word of the slot before. So a block is a word shorter than its slot is long.
//!
//! The header of a block in use is a secret mixed with the block's address (exclusive or), that of a free one the complement. Who does
//! not know the secret cannot make either, and one that was copied to another place is none there. While memory is reused by
//! blocks of another length, old headers lie inside of them; those are of free blocks, so none of them makes a free pass.
//!
//! # Invariants
//! - I-HEADER-1: the header of each block of an open page of a slab (I-OPEN-1) is that of a free block or of one in use, unless the
//!   program damaged it.
//! - I-HEADER-2: who hands a block out turns its header to *in use*, who takes it back to *free*, before the block is where another
//!   may find it. What the heap allocates for itself stays *free*: nobody else may free that.
//!
//! # Never
//! Nothing here reads or writes memory.

/// Bytes of a header. It ends where its block begins.
pub const BYTES: usize = 8;

/// The header of a block in use.
#[inline(always)]
#[must_use]
pub const fn in_use(secret: u64, address: usize) -> u64 {
    secret ^ address as u64
}

/// The header of a free block.
#[inline(always)]
#[must_use]
pub const fn free(secret: u64, address: usize) -> u64 {
    !in_use(secret, address)
}
