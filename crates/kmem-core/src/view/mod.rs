//! What an observer sees. Reads, never changes.
//!
//! | file | shows |
//! |---|---|
//! | [`slabinfo`] | `/proc/slabinfo`, version 2.1, to the byte |
//! | [`statistics`] | the same with what SLAB counts |
//! | [`report`] | one process's heap for `kmem run`: honest counts, CPU-cached objects apart |
//! | [`picture`] | one slab, object by object, for teaching |
//! | `slob` | the shared pages of SLOB, which has no slabs to show |
//!
//! Everything is written to a [`core::fmt::Write`] and allocates nothing.

pub mod picture;
pub mod report;
pub mod slabinfo;
mod slob;
pub mod statistics;
