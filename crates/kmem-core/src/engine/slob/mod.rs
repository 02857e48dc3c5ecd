//! SLOB: first fit in pages that all sizes share, for the smallest machines.
//!
//! # Theory
//! No slabs, no classes, no CPU layer: one lock, and pages in which blocks of any size lie side by side, each
//! as long as asked (rounded to 2 bytes). A free block says itself how long it is and where the next one lies
//! (`room`); a block in use says nothing. A page costs its descriptor, a heap three lists. Paid for in time:
//! a request looks at pages until one has room.
//!
//! ```text
//!   alloc(bytes, align)
//!     -> the ring of its size (< 256, < 1024, others)     heap.rs   pages with enough free units, from where
//!     -> in a page: the first hole that fits              room.rs   the last search on that ring succeeded
//!     -> none: a fresh page
//!   free(ptr, bytes)
//!     -> into the page's chain, joined at both sides      room.rs
//!     -> a page that was full: onto the ring of the freed size; one that is free from end to end: back at once
//! ```
//! [`kmalloc`] puts a header in front of each block, because its caller will not say how long it is; an object
//! of a cache has none. An object of a page or more is a run of pages of its own.
//!
//! # States of a page
//! A page is [`Kind::Slob`](crate::page::Kind::Slob) from its first block to its last, and in one of the states
//! of `pages::State`: on one of the three rings (it has a free unit), full, damaged (never used again), or
//! whole (the head of a run that is one object).
//!
//! # Invariants
//! I-SLOB-1 and 2 in `room`, I-SLOB-3 in `ring`. Of the heap:
//! - I-SLOB-4: a page becomes and ceases to be [`Kind::Slob`](crate::page::Kind::Slob) under the heap's lock
//!   only, which also guards its slab fields and the free memory in it.
//! - I-SLOB-5: a page has a block in use; it is on a ring exactly when it has a free unit and is not damaged.
//! - I-SLOB-6: the heap's counters are the sums over its pages.
//!
//! [`Heap::validate`] checks them all.
//!
//! # What is noticed
//! A block that is freed twice overlaps a free one, and is refused as long as nobody got its memory since. Of
//! kmalloc's blocks the header tells a block's start from its inside, also after its memory was handed out
//! anew. For an object of a cache nothing does: a free of its inside, in units, is believed. A write to the
//! first bytes of a free block breaks the chain: the page is put aside with a message, or the program stopped.
//!
//! # Locks
//! One, of rank [`rank::NODE`](crate::sync::rank::NODE). Pages are asked for and given back without it.
//!
//! # Never
//! It never keeps an empty page, never moves a block, and never counts per cache: there is nothing to shrink.

pub mod geometry;
pub mod heap;
pub mod kmalloc;

mod engine;
mod pages;
mod ring;
mod room;
mod show;
mod validate;

pub use engine::{Own, Slob};
pub use heap::{Ask, BlockError, Heap, World};
pub use show::{PageSight, Sight, Where};
pub use validate::{Fault, Stats};
