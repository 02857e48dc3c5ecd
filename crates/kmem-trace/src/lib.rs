//! Recorded allocations of a program: what it asked of malloc, in the order it did.
//!
//! # What for
//! `kmem run --record` writes a trace from inside a program's malloc; `kmem replay` and the benchmarks read it and
//! ask the same of another heap. A trace has no addresses. Blocks are numbered in the order in which they were
//! made, so a trace of the same run is the same bytes wherever memory lay, and a reader needs an array, no map.
//!
//! # Format
//! A header of 256 bytes ([`header`]), then records ([`record`]). All numbers are little-endian.
//!
//! | record | means | fields |
//! |---|---|---|
//! | `Alloc` | the next block, of so many bytes | size |
//! | `Zeroed` | the same, zeroed (`calloc`) | size |
//! | `Aligned` | the same, aligned to `2^n` | n, size |
//! | `Free` | the end of a block | age |
//! | `Resize` | the end of a block, and the next block with its content (`realloc`) | age, size |
//! | `Thread` | the thread of what follows | its id less the process's |
//! | `Time` | time passed since the last such record | nanoseconds |
//!
//! The *age* of a block is the number of blocks made after it. Most blocks die young: a free is one or two bytes.
//!
//! # Order
//! - I-TRACE-1: records stand in an order in which the program can have made its calls: a block's free stands before
//!   every allocation that was given its memory again.
//! - I-TRACE-2: the header is true after each record: what `used` covers are whole records, so a trace whose
//!   writer was killed is a shorter trace.
//!
//! # What it never does
//! Nothing here allocates, calls the system, or keeps state of its own. The writer's part ([`encode`], [`live`]) runs
//! inside malloc.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod decode;
pub mod encode;
pub mod header;
pub mod live;
pub mod record;

pub use decode::{Error, Event, Events, Trace};
pub use header::Header;
