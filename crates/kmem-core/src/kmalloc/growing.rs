//! Room for blocks that grow by resizing.
//!
//! # Theory
//! A text or a table that is built piece by piece is resized again and again, as a rule to twice its length, and each time its
//! contents are copied: to reach 64 KiB as many bytes are moved. A block that has room behind it need not move. So one class
//! ([`ClassSet::GROWING`]) is for such blocks alone: whoever resizes a block to more than a few pages may take one of these
//! instead of the next longer one, and from then on it grows where it stands, until it is so long that it becomes a mapping
//! ([`aligned`](super::aligned)), which grows without being copied too.
//!
//! What grows once and then stays would waste the rest of its room. Only what was written to costs memory while the room is new, but a
//! recycled one is in memory as a whole; hence there are few: a heap where more blocks grow at the same time, or stay, serves the others as ever.
//!
//! # Invariants
//! - I-GROWING-1: about four such blocks exist at a time, free ones included; a few more where several threads make one at once.
//!
//! # Never
//! A request fails because there is no such room: then it is for a block of its own size.

use core::sync::atomic::Ordering;

use crate::cache::KmemCache;
use crate::cache::objects::Part;
use crate::config::Config;
use crate::engine::Engine;
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::heap::Kmem;
use crate::kmalloc::classes::{ClassSet, Kind};
use crate::platform::{MAX_NODES, Platform};

/// How many blocks may be made for what grows: a mebibyte in all.
const MOST: u64 = 4;

impl<P: Platform, C: Config> Kmem<P, C> {
    /// A block with room to grow, of the class for those. Null: the configuration has none, or there are enough, or the class is
    /// checked, or no memory.
    pub fn kmalloc_growing(&self, gfp: Gfp) -> *mut u8 {
        let Some(cache) = C::Classes::GROWING.and_then(|class| self.class_cache(Kind::Normal, class)) else {
            return core::ptr::null_mut();
        };
        let checked = C::Engine::letters(&cache.engine).intersects(SlabFlags::DEBUG);
        if checked || self.slabs_of(cache) >= MOST {
            return core::ptr::null_mut();
        }
        self.alloc_part(cache, Part::ALL, gfp)
    }

    /// Slabs of a cache, on all nodes.
    pub(super) fn slabs_of(&self, cache: &KmemCache<C::Engine>) -> u64 {
        let nodes = 0..self.platform.nodes().min(MAX_NODES);
        // Relaxed: a count that orders nothing.
        nodes.map(|node| cache.engine.node(node).slabs.load(Ordering::Relaxed)).sum()
    }
}
