//! What every engine's geometry speaks with: the request, the rules in force, the shape that results.
//!
//! Each engine turns a [`Request`] into a [`Geometry`] by rules of its own, as [`crate::engine::slub::geometry`]; what an
//! engine needs beyond that shape is its own affair.
//!
//! Pure types and functions: no memory, no lock, no state.

use crate::engine::beside::Beside;
use crate::flags::SlabFlags;
use crate::platform::{CACHE_LINE, MAX_ORDER, PAGE_SIZE};

/// Bytes in a word: the size of a free pointer, and the least alignment of an object.
///
/// That of the 64-bit kernel on every target, so that there is one geometry: where pointers have 4 bytes, an object smaller
/// than 8 bytes costs 8.
pub const WORD: usize = 8;
const _: () = assert!(size_of::<usize>() <= WORD);
/// The largest slot: one block of the page allocator.
pub const MAX_SIZE: usize = PAGE_SIZE << MAX_ORDER;
/// Whose rules to follow where versions of the kernel differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelVersion {
    /// Linux 2.6, x86-64: SLAB with a descriptor and a list of free objects in each slab. SLUB has no rules of its
    /// own for it and follows those of 6.1.
    V2_6,
    /// Linux 6.1.
    V6_1,
    /// Linux 6.12: another search for the order, aligned kmalloc classes, a free pointer at a place of one's choice.
    V6_12,
    /// Linux 7.0: as 6.12, and the place of the free pointer may be chosen for constructed objects too.
    V7_0,
}

/// The settings of a heap that geometry depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whose rules.
    pub version: KernelVersion,
    /// CPUs there are at start.
    pub cpus_present: u32,
    /// CPUs there may ever be. Counts only where one CPU is present.
    pub cpus_possible: u32,
    /// No slab is smaller than this order (option `slab_min_order`).
    pub min_order: u32,
    /// No slab is larger than this order unless a single object is (option `slab_max_order`).
    pub max_order: u32,
    /// Objects a slab should hold (option `slab_min_objects`); 0: by the number of CPUs.
    pub min_objects: u32,
    /// Bytes in a cache line, a power of two.
    pub cache_line: usize,
    /// False where no groups are charged: [`SlabFlags::ACCOUNT`] then means nothing.
    pub accounting: bool,
    /// False (letter `O`): a cache drops its metadata where they would raise the order of one object.
    pub metadata_may_raise_order: bool,
    /// The variant for very small machines: no reserves, slabs of at most two pages.
    pub tiny: bool,
    /// True: an alignment that is no power of two is not refused, as the kernel never looks. Objects
    /// are then *not* aligned to it, only to a word; see [`round_up`].
    pub odd_alignments: bool,
    /// SLAB was built with its checks: caches have red zones, poison and a word for the last user without being
    /// asked. False: requests for them mean nothing. SLUB looks at the request alone.
    pub debug: bool,
    /// SLAB: letters that the creator or the heap's options ask for count, each for itself, whatever `debug` says.
    pub letters: bool,
    /// SLAB: a slab of this order is accepted however much of it is lost (option `slab_max_order`). 1, and 0 on
    /// machines of at most 32 MiB.
    pub break_order: u32,
    /// SLAB: free objects are cleared, so that none can hold the index of its slab.
    pub init_on_free: bool,
}

impl Rules {
    /// One CPU, no options, the rules of 6.12.
    pub const DEFAULT: Self = Self {
        version: KernelVersion::V6_12,
        cpus_present: 1,
        cpus_possible: 1,
        min_order: 0,
        // 32 KiB: the largest order that the page allocator does not count as costly.
        max_order: 3,
        min_objects: 0,
        cache_line: CACHE_LINE,
        accounting: true,
        metadata_may_raise_order: true,
        tiny: false,
        odd_alignments: false,
        debug: false,
        letters: false,
        break_order: 1,
        init_on_free: false,
    };

    /// One CPU, no options, the rules of 6.1.
    pub const LINUX_6_1: Self = Self { version: KernelVersion::V6_1, ..Self::DEFAULT };

    /// The same rules on a machine whose `cpus` CPUs are all present.
    #[must_use]
    pub const fn with_cpus(self, cpus: u32) -> Self {
        Self { cpus_present: cpus, cpus_possible: cpus, ..self }
    }

    /// The flags that have a meaning under these rules.
    #[must_use]
    pub const fn known_flags(&self, flags: SlabFlags) -> SlabFlags {
        if self.accounting { flags } else { flags.difference(SlabFlags::ACCOUNT) }
    }
}

/// What the creator of a cache asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bytes of an object.
    pub size: usize,
    /// Alignment of an object, a power of two; 0: a word.
    pub align: usize,
    /// Properties; the two internal bits are ignored.
    pub flags: SlabFlags,
    /// Objects are constructed once and keep that state while free.
    pub has_ctor: bool,
    /// Where in the object the free pointer may lie, for caches whose free objects are still read.
    pub freeptr_offset: Option<usize>,
    /// Objects a sheaf should hold at least; 0: no wish.
    pub sheaf_capacity: u32,
}

impl Request {
    /// A plain cache of objects of `size` bytes.
    #[must_use]
    pub const fn new(size: usize) -> Self {
        Self {
            size,
            align: 0,
            flags: SlabFlags::empty(),
            has_ctor: false,
            freeptr_offset: None,
            sheaf_capacity: 0,
        }
    }
}

/// Why a cache cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeometryError {
    /// Objects of no bytes have no addresses of their own.
    ZeroSize,
    /// The alignment is not a power of two.
    BadAlign,
    /// One slot is larger than the largest block of pages.
    TooLarge,
    /// The place of the free pointer is outside the object or not at a word, or the cache is of a
    /// kind that may not choose.
    BadFreePointer,
}

impl core::fmt::Display for GeometryError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::ZeroSize => "object size is zero",
            Self::BadAlign => "alignment is not a power of two",
            Self::TooLarge => "object does not fit in the largest block of pages",
            Self::BadFreePointer => "free pointer cannot be placed there",
        })
    }
}

impl core::error::Error for GeometryError {}

/// The shape of a cache's slots and slabs. Offsets are in bytes from the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes the user may touch.
    pub object_size: usize,
    /// Bytes from one object to the next, metadata included.
    pub size: usize,
    /// End of the object and its right red zone: where metadata begins.
    pub inuse: usize,
    /// Where a free object keeps the link to the next one.
    pub offset: usize,
    /// Bytes of the slot before the object.
    pub red_left_pad: usize,
    /// The word of the heap's beside each object.
    pub beside: Beside,
    /// Alignment of every object.
    pub align: usize,
    /// The request's flags with those that the geometry decides.
    pub flags: SlabFlags,
    /// Order of a normal slab.
    pub order: u32,
    /// Objects in a normal slab.
    pub objects: usize,
    /// Order of the smallest slab, for when no normal one can be had.
    pub min_order: u32,
    /// Objects in the smallest slab.
    pub min_objects: usize,
    /// Partial slabs that a node keeps even when empty.
    pub min_partial: u32,
    /// Free objects that a CPU may keep in partial slabs.
    pub cpu_partial: u32,
    /// The same in slabs.
    pub cpu_partial_slabs: u32,
    /// Objects in a sheaf; 0: the cache has none.
    pub sheaf_capacity: u32,
    /// Where the two tracks lie, that of allocation first; present with [`SlabFlags::STORE_USER`].
    pub tracks: Option<usize>,
    /// Where the size asked of kmalloc lies: 4 bytes in 6.1, a word later. Present in size classes with tracks.
    pub original_size: Option<usize>,
    /// End of the metadata: padding from here to [`Geometry::slot_end`].
    pub metadata_end: usize,
}

impl Geometry {
    /// Bytes from the start of a slab to its first object.
    #[must_use]
    pub const fn first_object(&self) -> usize {
        self.red_left_pad
    }

    /// Number of the object that starts at `address`, where the first of `objects` slots is at `slots`; nothing when none
    /// does.
    #[must_use]
    pub const fn index_of(&self, slots: usize, address: usize, objects: usize) -> Option<usize> {
        let Some(offset) = address.checked_sub(slots + self.red_left_pad) else { return None };
        let index = offset / self.size;
        if index < objects && index * self.size == offset { Some(index) } else { None }
    }

    /// Address of object number `index`, where the first slot is at `slots`.
    #[must_use]
    pub const fn object(&self, slots: usize, index: usize) -> usize {
        slots + self.red_left_pad + index * self.size
    }

    /// Bytes from the object to the end of its slot.
    #[must_use]
    pub const fn slot_end(&self) -> usize {
        self.size - self.red_left_pad
    }

    /// True when the free pointer lies behind the object rather than in it.
    #[must_use]
    pub const fn freeptr_outside(&self) -> bool {
        self.offset >= self.inuse
    }

    /// End of the object, its right red zone and a free pointer outside: where tracks would begin.
    #[must_use]
    pub const fn info_end(&self) -> usize {
        if self.freeptr_outside() { self.offset + WORD } else { self.inuse }
    }

    /// True when some letter of the debug options is on.
    #[must_use]
    pub const fn is_debug(&self) -> bool {
        self.flags.intersects(SlabFlags::DEBUG)
    }

    /// The same slots with a header before each object, the first of which is `lead` bytes from the start of a slab: a multiple
    /// of the alignment, not 0. The slots' last word becomes the next object's header, so what a holder may use is a word less.
    /// Behind the last object there is room for a tail.
    #[must_use]
    pub const fn with_header(self, lead: usize) -> Self {
        assert!(
            self.red_left_pad == 0 && self.size > WORD && lead.is_multiple_of(self.align) && lead >= WORD
        );
        // A slab's last word is left for the last object's tail. No slab has an object less for that: what the slab has behind
        // its lead, and a slot, are multiples of the lead.
        let objects = ((PAGE_SIZE << self.order) - lead) / self.size;
        Self {
            object_size: self.size - WORD,
            inuse: self.size - WORD,
            metadata_end: self.size - WORD,
            red_left_pad: lead,
            beside: Beside::Header,
            objects,
            min_objects: ((PAGE_SIZE << self.min_order) - lead) / self.size,
            ..self
        }
    }

    /// The same slots with a tail in the last word of each.
    #[must_use]
    pub const fn with_tail(self) -> Self {
        assert!(self.red_left_pad == 0 && self.size > WORD);
        Self {
            object_size: self.size - WORD,
            inuse: self.size - WORD,
            metadata_end: self.size - WORD,
            beside: Beside::Tail,
            ..self
        }
    }

    /// Bytes a holder of an object may use (`ksize`): the whole slot, unless something else is in it.
    #[must_use]
    pub const fn usable_size(&self) -> usize {
        let guarded = self.flags.intersects(SlabFlags::RED_ZONE.union(SlabFlags::POISON));
        if guarded || !matches!(self.beside, Beside::Nothing) {
            self.object_size
        } else if self.flags.intersects(SlabFlags::TYPESAFE_BY_RCU.union(SlabFlags::STORE_USER)) {
            self.inuse
        } else {
            self.size
        }
    }

    /// Bytes at the end of a normal slab that no slot covers.
    #[must_use]
    pub const fn tail(&self) -> usize {
        (PAGE_SIZE << self.order) - self.objects * self.size
    }
}

/// The alignment in effect for an object of `size` bytes: what was asked (0: nothing), at least a word.
///
/// With [`SlabFlags::HWCACHE_ALIGN`] also a cache line, halved as long as two objects fit in it: an
/// object then touches as few lines as it can without wasting more than half of its slot.
#[must_use]
pub const fn effective_align(flags: SlabFlags, align: usize, size: usize, cache_line: usize) -> usize {
    let mut result = if align > WORD { align } else { WORD };
    if flags.contains(SlabFlags::HWCACHE_ALIGN) {
        let mut line = cache_line;
        while line > 1 && size <= line / 2 {
            line /= 2;
        }
        if line > result {
            result = line;
        }
    }
    result.next_multiple_of(WORD)
}

/// The next number, `n` or larger, that has none of the bits of `align - 1`: for a power of two, the next
/// multiple. (For another multiple of the word it is at least a multiple of the word, which is all
/// that [`Rules::odd_alignments`] keeps of it.)
#[must_use]
pub const fn round_up(n: usize, align: usize) -> usize {
    (n + (align - 1)) & !(align - 1)
}
