//! The slab allocator in user space: process-wide heap, typed object caches, global allocator.
//!
//! | module | gives |
//! |---|---|
//! | [`cache`] | [`Cache<T>`]: a named cache of objects of one type; [`Sheaf`]: slots of it at one owner's hand |
//! | [`engine`] | the engine of this build, chosen by a feature: SLUB, `slab` or `slob` |
//! | [`fault`] | requests that fail although there is memory, as the environment says |
//! | [`global`] | [`Kmalloc`], a `#[global_allocator]` |
//! | [`guard`] | the sampling guard: blocks beside pages that nobody may touch |
//! | [`heap`] | malloc and free on the process-wide heap, and what it holds |
//! | [`live`] | a heap that can be looked at, and spoken to, while its program runs |
//! | [`host`] | the Linux process as a platform: memory, CPUs, restartable sequences |
//!
//! ```
//! use kmem::Cache;
//!
//! static POINTS: Cache<[u64; 3]> = Cache::new("point");
//! let mut point = POINTS.alloc([1, 2, 3])?;
//! point[0] += 1;
//! assert_eq!(*point, [2, 2, 3]);
//! # Ok::<(), kmem::OutOfMemory>(())
//! ```
#![cfg_attr(not(test), no_std)]

pub mod cache;
pub mod debugging;
mod due;
pub mod engine;
pub mod fault;
pub mod global;
pub mod guard;
pub mod heap;
pub mod host;
pub mod live;
mod misuse;

pub use cache::{Cache, KBox, Sheaf};
pub use global::Kmalloc;
pub use heap::OutOfMemory;
