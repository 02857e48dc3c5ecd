//! Flags of a cache, given when it is created (`SLAB_*`).
//!
//! The bit values are those of Linux 6.1, so that the `flags` columns of captured tables compare equal.

use bitflags::bitflags;

bitflags! {
    /// Properties of a cache.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct SlabFlags: u32 {
        /// Full object and slab checks at every allocation and free (letter F).
        const CONSISTENCY_CHECKS = 0x100;
        /// Guard bytes on both sides of each object (letter Z).
        const RED_ZONE = 0x400;
        /// Free objects are filled with a pattern (letter P).
        const POISON = 0x800;
        /// Internal: one of the size classes of kmalloc.
        const KMALLOC = 0x1000;
        /// Objects start at cache lines; small objects at halves, quarters, … of one.
        const HWCACHE_ALIGN = 0x2000;
        /// Pages come from the DMA zone.
        const CACHE_DMA = 0x4000;
        /// Pages come from the DMA32 zone.
        const CACHE_DMA32 = 0x8000;
        /// The last allocating and freeing call site of each object is kept (letter U).
        const STORE_USER = 0x1_0000;
        /// Objects can be reclaimed: their pages are grouped and counted apart.
        const RECLAIM_ACCOUNT = 0x2_0000;
        /// Creation that fails stops the program.
        const PANIC = 0x4_0000;
        /// Pages are freed only after a grace period: a stale pointer stays of its type.
        const TYPESAFE_BY_RCU = 0x8_0000;
        /// Every allocation and free is logged (letter T).
        const TRACE = 0x20_0000;
        /// Objects are watched by a debug-objects layer.
        const DEBUG_OBJECTS = 0x40_0000;
        /// Leak tracers pass over this cache; it has no CPU stacks.
        const NOLEAKTRACE = 0x80_0000;
        /// Never share slabs with another cache.
        const NO_MERGE = 0x100_0000;
        /// Fault injection may hit this cache (letter A).
        const FAILSLAB = 0x200_0000;
        /// Objects are charged to the caller's group.
        const ACCOUNT = 0x400_0000;
        /// Debug options given by the user are ignored for this cache.
        const NO_USER_FLAGS = 0x1000_0000;
        /// Internal to SLUB: (freelist, counters) of a slab change by one compare-and-swap.
        const CMPXCHG_DOUBLE = 0x4000_0000;
        /// Internal to SLUB: the body of a free object is poisoned.
        const OBJECT_POISON = 0x8000_0000;

        /// The letters that change the layout of an object.
        const DEBUG = Self::RED_ZONE.bits() | Self::POISON.bits() | Self::STORE_USER.bits()
            | Self::TRACE.bits() | Self::CONSISTENCY_CHECKS.bits();
        /// What a caller of `kmem_cache_create` may pass. Anything else is refused.
        const CREATE = Self::HWCACHE_ALIGN.bits() | Self::CACHE_DMA.bits() | Self::CACHE_DMA32.bits()
            | Self::PANIC.bits() | Self::TYPESAFE_BY_RCU.bits() | Self::DEBUG.bits()
            | Self::NOLEAKTRACE.bits() | Self::RECLAIM_ACCOUNT.bits() | Self::ACCOUNT.bits()
            | Self::KMALLOC.bits() | Self::NO_MERGE.bits() | Self::NO_USER_FLAGS.bits()
            | Self::DEBUG_OBJECTS.bits();
        /// Flags that keep a cache from being merged with another.
        const NEVER_MERGE = Self::RED_ZONE.bits() | Self::POISON.bits() | Self::STORE_USER.bits()
            | Self::TRACE.bits() | Self::TYPESAFE_BY_RCU.bits() | Self::NOLEAKTRACE.bits()
            | Self::FAILSLAB.bits() | Self::NO_MERGE.bits();
        /// Flags that must be equal in caches that merge.
        const MERGE_SAME = Self::RECLAIM_ACCOUNT.bits() | Self::CACHE_DMA.bits()
            | Self::CACHE_DMA32.bits() | Self::ACCOUNT.bits();
    }
}
