//! SLUB: free objects are chained inside the slab they lie in.
//!
//! # Theory
//! A slab is a naturally aligned block of pages holding objects of one cache, one after the other. Its whole state
//! that more than one CPU may change is one word in the descriptor of its head page: the first free
//! object, the number of objects in use, and whether a CPU owns it ([`word`]).
//!
//! Objects that were never handed out have no links: a slab remembers how many were *carved* and
//! the owner takes the next ones directly. A new slab therefore costs no walk over its memory, and
//! pages nobody asked for are never touched.
//!
//! # States of a slab
//! | state | on a list | frozen | who may take objects | who may give objects back |
//! |---|---|---|---|---|
//! | CPU slab | no | yes | the CPU, through its transaction word | anybody |
//! | CPU partial | the CPU's chain | yes | nobody until it becomes the CPU slab | anybody |
//! | partial | the node's list | no | whoever holds the node's lock | anybody |
//! | full | no | no | nobody: nothing is free | anybody: it then becomes partial |
//!
//! # Invariants
//! - I-SLUB-1: `inuse = objects - (free objects on the slab's own list) - (objects never carved)`, except
//!   that a CPU slab counts `inuse = objects` while its free objects are in the CPU's hands.
//! - I-SLUB-2: free objects are only ever *added* to a slab's list by a compare-and-swap; they are
//!   removed all at once by the owner (frozen), or one at a time under the node's lock (not frozen). So
//!   no removal can meet a recycled head.
//! - I-SLUB-3: a slab that is not frozen and has `0 < inuse < objects` is on the list of its node,
//!   except between the compare-and-swap and the list operation of one thread that holds that
//!   node's lock.
//! - I-SLUB-4: `carved` and `start` change only in the hands of the owner: the CPU that froze the
//!   slab (under its lock), or the holder of the node's lock.
//!
//! # Lock order
//! CPU slab, then barn, then node (see [`crate::sync::rank`]). None is held while pages are fetched.

pub mod geometry;
pub mod object;
pub mod word;

mod alloc;
mod cpu;
mod free;
mod maintain;
mod node;
mod slab;

pub use alloc::alloc_many;
pub(crate) use alloc::needs_node;
pub(crate) use cpu::MAX_WINDOW_PAGES;
pub use cpu::{CpuSlab, CpuStats};
pub use free::free_many;
pub use maintain::{Counts, Fault, count, flush_cpu, release_empty, shrink, validate};
pub(crate) use maintain::{remove_stack, rename_slabs, reset_cpus, shrink_all};
pub use node::{Node, NodeList};
pub(crate) use slab::extent;

use core::sync::atomic::{AtomicPtr, AtomicU32};

use crate::engine::geometry::Geometry;
use crate::flags::SlabFlags;
use crate::percpu::{CpuArea, StackId};
use crate::platform::{MAX_NODES, Platform};

/// Sets up one object when its slab is made. The argument is the object's first byte.
pub type Constructor = unsafe extern "C" fn(*mut u8);

/// What the engine knows of a cache. Constant after creation, but for the atomics.
#[repr(C)]
pub struct Cache<P: Platform> {
    /// The name given by its creator. The text lives as long as the cache.
    pub name: &'static str,
    /// The layout of objects and slabs.
    pub geometry: Geometry,
    /// Pages of a slab, where that is not a power of two; 0: the order of the geometry counts.
    pub exact_pages: usize,
    /// Runs once for each object of a new slab.
    pub ctor: Option<Constructor>,
    /// Secret of this cache's free pointers; 0 leaves them plain.
    pub random: u64,
    /// `geometry.objects` indices in the order in which a slab's objects are carved; null for ascending order.
    pub sequence: *const u16,
    /// Number of the CPU stacks and cold memory; 0 when the numbers ran out.
    pub id: StackId,
    /// Objects that each CPU's stack holds; 0: no stacks.
    pub capacity: u32,
    /// Full sheaves that each node's barn keeps.
    pub barn_sheaves: u32,
    /// Empty slabs that each node keeps.
    pub min_partial: AtomicU32,
    /// Slabs that each CPU keeps in its partial chain.
    pub cpu_partial_slabs: AtomicU32,
    /// Share (of 1000) of refills that may look at other nodes.
    pub remote_ratio: AtomicU32,
    /// Per-node state; null where the node has none. Not public: nobody but creation may make a cache.
    pub(crate) nodes: [AtomicPtr<Node<P>>; MAX_NODES],
}

// SAFETY: `sequence` points to memory that is written before the cache is shared and never after.
unsafe impl<P: Platform> Sync for Cache<P> {}
// SAFETY: as above; nothing in a cache belongs to a thread.
unsafe impl<P: Platform> Send for Cache<P> {}

impl<P: Platform> Cache<P> {
    /// The cache's flags in effect.
    #[inline]
    pub fn flags(&self) -> SlabFlags {
        self.geometry.flags
    }

    /// The per-node state of `node`.
    ///
    /// # Panics
    /// When the node has none: creation gives every node one.
    #[inline]
    pub(crate) fn node(&self, node: usize) -> &Node<P> {
        // Acquire pairs with the Release of the creation that stored it.
        let node = self.nodes[node].load(core::sync::atomic::Ordering::Acquire);
        debug_assert!(!node.is_null());
        // SAFETY: creation stored a valid pointer for every node of the machine before the cache was
        // shared, and it stays valid until the cache is destroyed.
        unsafe { &*node }
    }

    /// The state of this cache on `cpu`; nothing when its number is 0.
    #[inline]
    pub(crate) fn cpu<'a>(&self, platform: &'a P, cpu: usize) -> Option<&'a CpuSlab<P>> {
        if self.id == 0 {
            return None;
        }
        let cold = platform.cpu_area().cold(cpu, self.id);
        // SAFETY: cold memory is COLD_SIZE bytes, aligned to 64, lives as long as the platform, is zero at first (a
        // valid `CpuSlab`), and only the cache with this number uses it, always at this type.
        Some(unsafe { &*cold.cast::<CpuSlab<P>>() })
    }
}
