//! Request flags: what a caller tells the allocator about one request.
//!
//! The names and the meaning are the kernel's (`GFP_*`, "get free page"); the bit order is that of
//! Linux 6.12. Bits that user space has no use for (`IO`, `FS`) pass through untouched.

use bitflags::bitflags;

bitflags! {
    /// How one request may be served.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Gfp: u32 {
        /// Memory of the DMA zone.
        const DMA = 1 << 0;
        /// Memory that need not be mapped. Not valid for slabs: stripped with a warning.
        const HIGHMEM = 1 << 1;
        /// Memory of the DMA or the DMA32 zone.
        const DMA32 = 1 << 2;
        /// The pages can be moved. Not valid for slabs.
        const MOVABLE = 1 << 3;
        /// The pages can be reclaimed: they are grouped with others of that kind.
        const RECLAIMABLE = 1 << 4;
        /// An urgent request: it may use part of the reserve.
        const HIGH = 1 << 5;
        /// May start input or output. Passed through.
        const IO = 1 << 6;
        /// May call into a file system. Passed through.
        const FS = 1 << 7;
        /// The memory reads as zero.
        const ZERO = 1 << 8;
        /// The caller may wait: memory may be fetched from the platform and reclaimed.
        const DIRECT_RECLAIM = 1 << 10;
        /// Background reclaim may be woken.
        const KSWAPD_RECLAIM = 1 << 11;
        /// The caller will write to the page. Passed through.
        const WRITE = 1 << 12;
        /// No report when the request fails.
        const NOWARN = 1 << 13;
        /// Try harder before failing.
        const RETRY_MAYFAIL = 1 << 14;
        /// The request is never meant to fail. It still returns nothing when the platform has no memory.
        const NOFAIL = 1 << 15;
        /// Do not try hard.
        const NORETRY = 1 << 16;
        /// May use all of the reserve.
        const MEMALLOC = 1 << 17;
        /// The pages form one unit. Implied for every order above 0 here.
        const COMP = 1 << 18;
        /// Never use the reserve, whatever else is set.
        const NOMEMALLOC = 1 << 19;
        /// Stay within the caller's set of nodes. Passed through.
        const HARDWALL = 1 << 20;
        /// The node asked for, or nothing.
        const THISNODE = 1 << 21;
        /// Charge the memory to the caller's group.
        const ACCOUNT = 1 << 22;

        /// Both kinds of reclaim.
        const RECLAIM = Self::DIRECT_RECLAIM.bits() | Self::KSWAPD_RECLAIM.bits();
        /// A request that must not wait and may use part of the reserve.
        const ATOMIC = Self::HIGH.bits() | Self::KSWAPD_RECLAIM.bits();
        /// The usual request.
        const KERNEL = Self::RECLAIM.bits() | Self::IO.bits() | Self::FS.bits();
        /// A request that must not wait.
        const NOWAIT = Self::KSWAPD_RECLAIM.bits() | Self::NOWARN.bits();
        /// May reclaim, but not by input or output.
        const NOIO = Self::RECLAIM.bits();
        /// May reclaim, but not through a file system.
        const NOFS = Self::RECLAIM.bits() | Self::IO.bits();
        /// On behalf of user space.
        const USER = Self::KERNEL.bits() | Self::HARDWALL.bits();
    }
}

impl Gfp {
    /// Flags that have no meaning for slab memory. A request that carries one is served without it.
    pub const SLAB_BUG: Self = Self::DMA32.union(Self::HIGHMEM).union(Self::MOVABLE);

    /// True when the caller may wait for memory.
    #[must_use]
    pub const fn may_block(self) -> bool {
        self.contains(Self::DIRECT_RECLAIM)
    }
}
