//! Geometry: where everything in a slab of one cache lies.
//!
//! From what the creator of a cache asked ([`Request`]) and the settings of the heap ([`Rules`]),
//! [`compute`] derives every number that the engine, the checks and the views use. It is a pure
//! function: the same request gives the same slab on every platform, and it can run at compile time.
//!
//! # A slot
//! A slab is an array of slots of `size` bytes. In address order, with what is there only sometimes in brackets:
//!
//! ```text
//!        [left red zone]   red_left_pad bytes, a whole alignment unit so that the object stays aligned
//!  0  -> object            object_size bytes: what the user may touch
//!        [right red zone]  up to the next word; one more word when the object ends at a word
//!        inuse
//!        [free pointer]    when it may not lie in the object
//!        info_end
//!        [tracks]          who allocated and who freed the object last
//!        [original size]   what was asked of kmalloc, which is less than object_size
//!        metadata_end
//!        [padding]         up to the end of the slot; with red zones at least one word of it
//! ```
//! All offsets are counted from the object, not from the slot.
//!
//! # The free pointer
//! A free object stores the link to the next one inside itself, in the middle, where neither an
//! overflow from the left nor one from the right neighbour reaches it first. It must move out of the
//! object when the object's bytes mean something while it is free: poison, a constructed state, an
//! object that readers may still look at during a grace period, or a red zone in an object smaller
//! than the link.
//!
//! # Invariants
//! - I-GEO-1: `size` is a multiple of `align`, `align` of the word, and every object is aligned to `align`.
//!   (Under [`Rules::odd_alignments`] all three are only sure of the word.)
//! - I-GEO-2: the free pointer lies inside the slot, at a word boundary.
//! - I-GEO-3: `objects` slots fit in a slab of `order`, and `min_objects >= 1` in that of `min_order`.
//! - I-GEO-4: regions (red zones, free pointer outside, tracks, original size) do not overlap.
//!
//! What is not here: merging ([`super::merge`]) and any state of a living cache.

pub mod order;
mod slot;

pub use slot::{effective_align, round_up};

use crate::flags::SlabFlags;
use crate::platform::{CACHE_LINE, MAX_ORDER, PAGE_SIZE};
use order::{cpu_partial, cpu_partial_slabs, min_partial, objects_in, order_of, sheaf_capacity, slab_order};
use slot::Slot;

/// Bytes in a machine word: the size of a free pointer, and the least alignment of an object.
pub const WORD: usize = size_of::<usize>();
/// The largest slot: one block of the page allocator.
pub const MAX_SIZE: usize = PAGE_SIZE << MAX_ORDER;
/// Bytes of one track: call site, stack handle, CPU, thread, time.
pub const TRACK_SIZE: usize = 32;

/// What makes a cache one whose objects carry metadata.
const METADATA: SlabFlags = SlabFlags::RED_ZONE.union(SlabFlags::POISON).union(SlabFlags::STORE_USER);
/// What needs a whole list lock for each change of a slab, so that a compare-and-swap is no use.
const LOCKED: SlabFlags = SlabFlags::CONSISTENCY_CHECKS.union(SlabFlags::STORE_USER).union(SlabFlags::TRACE);
/// What [`compute`] decides, whatever the request says.
const INTERNAL: SlabFlags = SlabFlags::CMPXCHG_DOUBLE.union(SlabFlags::OBJECT_POISON);

/// Whose rules to follow where versions of the kernel differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelVersion {
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

    /// Bytes a holder of an object may use (`ksize`): the whole slot, unless something else is in it.
    #[must_use]
    pub const fn usable_size(&self) -> usize {
        if self.flags.intersects(SlabFlags::RED_ZONE.union(SlabFlags::POISON)) {
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

/// Derives the geometry of a cache.
///
/// # Errors
/// - [`GeometryError::ZeroSize`]: `size` is 0. (A kernel without checks divides by zero here.)
/// - [`GeometryError::BadAlign`]: `align` is neither 0 nor a power of two, and the rules do not let that pass.
/// - [`GeometryError::TooLarge`]: a slot with its metadata exceeds [`MAX_SIZE`].
/// - [`GeometryError::BadFreePointer`]: `freeptr_offset` is given and is not a word boundary inside
///   the object, or the version has no such choice, or neither [`SlabFlags::TYPESAFE_BY_RCU`] nor (since 7.0)
///   a constructor gives a reason for it.
pub const fn compute(request: &Request, rules: &Rules) -> Result<Geometry, GeometryError> {
    if let Err(error) = check(request, rules) {
        return Err(error);
    }
    let align = effective_align(request.flags, request.align, request.size, rules.cache_line);
    let mut flags = rules.known_flags(request.flags.difference(INTERNAL));
    let mut slot = Slot::lay_out(request, flags, align, rules.version);
    let raised = order_of(slot.size) > order_of(request.size);
    if raised && !rules.metadata_may_raise_order && flags.intersects(METADATA) {
        flags = flags.difference(METADATA);
        slot = Slot::lay_out(request, flags, align, rules.version);
    }
    let Some(order) = slab_order(slot.size, rules) else {
        return Err(GeometryError::TooLarge);
    };

    let debug = flags.intersects(SlabFlags::DEBUG);
    let objects = objects_in(order, slot.size);
    let min_order = order_of(slot.size);
    let cpu_partial = cpu_partial(slot.size, debug, rules);
    // A checked object goes through its slab each time; caches hidden from leak tracers hold nothing back either.
    let unsheaved = debug || flags.contains(SlabFlags::NOLEAKTRACE);
    Ok(Geometry {
        object_size: request.size,
        size: slot.size,
        inuse: slot.inuse,
        offset: slot.offset,
        red_left_pad: slot.red_left_pad,
        align,
        flags: with_internal(flags, request.has_ctor),
        order,
        objects,
        min_order,
        min_objects: objects_in(min_order, slot.size),
        min_partial: min_partial(slot.size, rules),
        cpu_partial,
        cpu_partial_slabs: cpu_partial_slabs(cpu_partial, objects),
        sheaf_capacity: sheaf_capacity(slot.size, request.sheaf_capacity, unsheaved, rules),
        tracks: slot.tracks,
        original_size: slot.original_size,
        metadata_end: slot.metadata_end,
    })
}

/// What can be refused before any arithmetic; afterwards nothing here can overflow.
const fn check(request: &Request, rules: &Rules) -> Result<(), GeometryError> {
    if request.size == 0 {
        return Err(GeometryError::ZeroSize);
    }
    if request.align != 0 && !request.align.is_power_of_two() && !rules.odd_alignments {
        return Err(GeometryError::BadAlign);
    }
    if request.size > MAX_SIZE || request.align > MAX_SIZE {
        return Err(GeometryError::TooLarge);
    }
    if let Some(offset) = request.freeptr_offset {
        let may_choose = match rules.version {
            KernelVersion::V6_1 => false,
            KernelVersion::V6_12 => request.flags.contains(SlabFlags::TYPESAFE_BY_RCU) && !request.has_ctor,
            KernelVersion::V7_0 => request.flags.contains(SlabFlags::TYPESAFE_BY_RCU) || request.has_ctor,
        };
        if !may_choose || offset >= request.size || !offset.is_multiple_of(WORD) {
            return Err(GeometryError::BadFreePointer);
        }
    }
    Ok(())
}

/// Adds the flags that follow from the others.
const fn with_internal(mut flags: SlabFlags, has_ctor: bool) -> SlabFlags {
    // A constructed object, or one that readers may still look at, keeps its content while free.
    let keeps_content = has_ctor || flags.contains(SlabFlags::TYPESAFE_BY_RCU);
    if flags.contains(SlabFlags::POISON) && !keeps_content {
        flags = flags.union(SlabFlags::OBJECT_POISON);
    }
    if !flags.intersects(LOCKED) {
        flags = flags.union(SlabFlags::CMPXCHG_DOUBLE);
    }
    flags
}

#[cfg(test)]
#[path = "geometry/tests.rs"]
mod tests;
