//! The Linux kernel's slab allocator, for every platform.
//!
//! Data falls through the floors of this crate in one direction; each floor knows only those below it:
//!
//! | floor | decides |
//! |---|---|
//! | [`view`] | what an observer sees: slabinfo, snapshots. Reads, never changes |
//! | [`kmalloc`] | which cache serves a request of `n` bytes, and what is too large for any |
//! | [`cache`] | `kmem_cache`: parameters, geometry, aliases, registry, bulk, shrinking, destruction, bootstrap |
//! | [`engine`] | how objects lie in slabs: SLUB |
//! | [`debug`] | what checking shares: options, patterns, tracks, stacks, reports |
//! | [`guard`] | which objects are placed beside protected pages, and what is said when those are touched |
//! | [`percpu`] | each CPU's stacks of free objects, and the ways to own a CPU for an instant |
//! | [`page`] | page descriptors, buddy, zones, nodes, per-CPU page lists |
//! | [`fault`] | which requests fail although there is memory |
//! | [`platform`] | what the world below must give |
//!
//! A heap is a value, [`Kmem`]: the core has no hidden globals, so a test can make a small machine
//! of its own. Everything is monomorphised over the [`platform::Platform`].
#![cfg_attr(not(test), no_std)]

#[cfg(not(target_has_atomic = "64"))]
compile_error!(
    "kmem-core keeps the state of a slab, and a CPU's free objects with their version, in one word of 64 bits each that \
     several CPUs exchange: the target needs atomic compare-and-swap of 64 bits"
);

pub mod cache;
pub mod config;
pub mod debug;
pub mod engine;
pub mod fault;
mod fetch;
pub mod flags;
pub mod gfp;
pub mod guard;
pub mod heap;
pub mod kmalloc;
pub mod page;
pub mod percpu;
pub mod platform;
pub mod report;
pub mod sync;
pub mod view;

pub use config::{Config, KernelConfig, UserConfig};
pub use heap::{Kmem, State};
