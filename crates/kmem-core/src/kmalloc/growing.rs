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
//! What is freed stays on its CPU's stack from the first one on, where other classes of runs must prove that they need that
//! ([`sheaf`](crate::engine::sheaf)): as there are few it is little, and who frees one twice, or writes to one that is free, is told
//! of it by its mark. When nobody took one for a second the reserve goes back, as all of [`runs`](super::runs) do.
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
use crate::percpu::CpuArea;
use crate::platform::{MAX_NODES, Platform};

/// How many blocks may be made for what grows: a mebibyte in all. As many fit on a CPU's stack.
pub(super) const MOST: u32 = 4;

impl<P: Platform, C: Config> Kmem<P, C> {
    /// A block with room to grow, of the class for those. Null: the configuration has none, or there are enough and none is free on
    /// this CPU, or the class is checked, or no memory.
    pub fn kmalloc_growing(&self, gfp: Gfp) -> *mut u8 {
        let Some(cache) = C::Classes::GROWING.and_then(|class| self.class_cache(Kind::Normal, class)) else {
            return core::ptr::null_mut();
        };
        let checked = C::Engine::letters(&cache.engine).intersects(SlabFlags::DEBUG);
        if checked {
            return core::ptr::null_mut();
        }
        // SAFETY: the cache is alive and has this number.
        let free = unsafe { self.platform.cpu_area().pop(cache.engine.id) };
        if !free.is_null() {
            self.guard_out(&cache.engine, free);
            return free;
        }
        if self.slabs_of(cache) >= u64::from(MOST) {
            return free;
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
