//! How objects lie in slabs, and the stacks of free objects in front of them.
//!
//! An engine keeps objects in pages; [`sheaf`] is the layer of CPU stacks and node barns in front of
//! it. The engine here is [`slub`].
//!
//! # What the floors above see
//! [`sheaf::alloc`] and [`sheaf::free`] for one object, [`sheaf::alloc_bulk`] and [`sheaf::free_bulk`]
//! for many, flushing, shrinking and counting. Everything below those names belongs to this floor.

pub mod geometry;
pub mod sheaf;
pub mod slab;
pub mod slob;
pub mod slub;

use crate::page::Pages;
use crate::platform::Platform;

/// What an engine works with: the floors below it.
pub struct Floor<'a, P: Platform> {
    /// The world below.
    pub platform: &'a P,
    /// The page floor.
    pub pages: &'a Pages<P>,
    /// Caches of the arrays behind CPU stacks and barns, by size class; null before they exist.
    pub arrays: &'a sheaf::Arrays<P>,
    /// Damage found in free memory stops the program instead of being isolated.
    pub abort: bool,
}

impl<P: Platform> Clone for Floor<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform> Copy for Floor<'_, P> {}
