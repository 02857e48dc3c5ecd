//! Geometry of SLAB: where everything in a slab of one cache lies, and how much its CPUs keep at hand.
//!
//! From the [`Request`] and the [`Rules`], [`compute`] derives every number that the engine, the checks and the
//! views use. It is a pure function and can run at compile time.
//!
//! # A slab
//! A slab is an array of slots, and beside it the *index*: which objects are free. Nothing of the index lies
//! in an object that is in use, so that objects stay as dense as they can. The index lies
//!
//! ```text
//! InObject:  | colour | slot | slot | slot | … | slot with the index | tail |      one free object holds it
//! OffSlab:   | colour | slot | slot | slot | … | slot | tail |        + a block of kmalloc
//! OnSlab:    | colour | slot | slot | slot | … | slot | tail | index |             since Linux 3.13
//! OnSlab:    | colour | descriptor, index | slot | slot | slot | … | tail |        Linux 2.6
//! ```
//! What is left over is the tail. It is not lost for nothing: slabs of one cache begin their objects at
//! different *colours*, multiples of [`Layout::colour_step`] up to the tail, so that the first objects of all
//! slabs do not compete for the same cache lines; see [`ColourCursor`].
//!
//! # A slot
//! ```text
//!        [left red zone]   red_left_pad bytes
//!  0  -> object            object_size bytes, then up to the next word
//!        [right red zone]  Layout::red_zone
//!        inuse
//!        [last user]       Layout::user_word; under Rules::letters two tracks, Geometry::tracks
//!        metadata_end
//!        [padding]         up to the end of the slot
//! ```
//! Red zones and the last user exist under [`Rules::debug`], and there only where nobody asked for objects aligned
//! to more than a word; and under [`Rules::letters`] where they are asked for, with objects aligned as they should be. Free objects keep no link: [`Geometry::offset`] means nothing here.
//!
//! # Invariants
//! - I-SLABGEO-1: `objects` slots, the index of an on-slab cache and the last colour fit in a slab of `order`.
//! - I-SLABGEO-2: `size` is a multiple of `align`, and so is every colour: every object of a slab without red
//!   zones is aligned to `align`, one with red zones to a word. (Under [`Rules::odd_alignments`] to a word only.)
//! - I-SLABGEO-3: an index inside an object is no larger than the object.
//! - I-SLABGEO-4: an off-slab index needs at most half of an object's bytes, and would not have fitted in the tail.
//! - I-SLABGEO-5: under the rules of 6.1 a slab has at most [`MAX_OBJECTS`] objects.
//!
//! Pure functions: no memory, no lock, no state.

mod colour;
mod slot;
mod v2_6;
mod v6_1;

pub use crate::engine::geometry::{
    Geometry, GeometryError, KernelVersion, MAX_SIZE, Request, Rules, WORD, effective_align, round_up,
};
pub use colour::{ColourCursor, Rotation};
pub use v2_6::DESCRIPTOR_BYTES;
pub use v6_1::{INDEX_BYTES, MAX_OBJECTS};

use super::tunables::Tunables;
use crate::flags::SlabFlags;
use crate::platform::PAGE_SIZE;
use slot::Slot;

/// Internal flag: the index lies in a free object. (The bit means another thing in SLUB.)
pub const INDEX_IN_OBJECT: SlabFlags = SlabFlags::CMPXCHG_DOUBLE;
/// Internal flag: the index lies in a block of kmalloc. (The bit means another thing in SLUB.)
pub const INDEX_OFF_SLAB: SlabFlags = SlabFlags::OBJECT_POISON;

/// Bytes of one red zone: the left one lies right before the object.
pub const RED_ZONE_BYTES: usize = 8;

/// Where the index of a slab lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Management {
    /// In the slab, beside the objects.
    OnSlab,
    /// In a block of [`Layout::management_bytes`] bytes from kmalloc.
    OffSlab,
    /// In one of the free objects: that which is taken last.
    InObject,
}

/// How the index tells which objects are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexKind {
    /// An array of object numbers, those of free objects at its end: [`Packed`](super::index::Packed).
    Packed,
    /// For each object the number of the next free one: [`Linked`](super::index::Linked).
    Linked,
}

/// What SLAB needs beyond the shared [`Geometry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Where the index lies.
    pub management: Management,
    /// How it is kept.
    pub index: IndexKind,
    /// Bytes of the index alone.
    pub index_bytes: usize,
    /// Bytes of the index with what else is kept beside it: in 2.6 a descriptor and, on the slab, padding.
    pub management_bytes: usize,
    /// How many colours there are; 0 and 1 mean that every slab begins alike.
    pub colours: usize,
    /// Bytes from one colour to the next: a cache line, or the alignment of objects when that is more.
    pub colour_step: usize,
    /// When a node moves on to the next colour.
    pub rotation: Rotation,
    /// Free objects that a CPU may keep, how many move at a time, and the size of the shared array.
    pub tunables: Tunables,
    /// Offset of the right red zone from the object; the left one lies [`RED_ZONE_BYTES`] before the object.
    pub red_zone: Option<usize>,
    /// Offset from the object of the word that remembers the last user.
    pub user_word: Option<usize>,
}

/// The whole shape of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What all engines share.
    pub geometry: Geometry,
    /// What is SLAB's own.
    pub layout: Layout,
}

impl Shape {
    /// Bytes from the start of a slab to its first slot, when its colour is `colour` bytes.
    #[must_use]
    pub const fn slots_at(&self, colour: usize) -> usize {
        match (self.layout.management, self.layout.index) {
            (Management::OnSlab, IndexKind::Linked) => colour + self.layout.management_bytes,
            _ => colour,
        }
    }

    /// Bytes from the start of a slab to its first object, when its colour is `colour` bytes.
    #[must_use]
    pub const fn first_object_at(&self, colour: usize) -> usize {
        self.slots_at(colour) + self.geometry.red_left_pad
    }

    /// Bytes from the start of a slab to its index, when its colour is `colour` bytes; `None` when the
    /// index lies in an object or outside the slab.
    #[must_use]
    pub const fn index_at(&self, colour: usize) -> Option<usize> {
        match (self.layout.management, self.layout.index) {
            (Management::OnSlab, IndexKind::Packed) => Some(self.slab_bytes() - self.layout.index_bytes),
            (Management::OnSlab, IndexKind::Linked) => Some(colour + DESCRIPTOR_BYTES),
            _ => None,
        }
    }

    /// Bytes of a slab.
    #[must_use]
    pub const fn slab_bytes(&self) -> usize {
        PAGE_SIZE << self.geometry.order
    }
}

/// What the search for an order found.
#[derive(Clone, Copy)]
struct Found {
    management: Management,
    order: u32,
    objects: usize,
    /// Bytes neither slots nor an index on the slab need.
    tail: usize,
}

/// Derives the shape of a cache. Versions after 6.1 have the rules of 6.1: SLAB did not change until it went.
///
/// # Errors
/// - [`GeometryError::ZeroSize`]: `size` is 0.
/// - [`GeometryError::BadAlign`]: `align` is neither 0 nor a power of two, and the rules do not let that pass.
/// - [`GeometryError::TooLarge`]: no slab holds a slot with its metadata and index. The largest slab has
///   [`MAX_SIZE`] bytes, and 32 pages under the rules of 2.6.
/// - [`GeometryError::BadFreePointer`]: `freeptr_offset` is given: there is no free pointer to place.
pub const fn compute(request: &Request, rules: &Rules) -> Result<Shape, GeometryError> {
    if let Err(error) = check(request, rules) {
        return Err(error);
    }
    let old = matches!(rules.version, KernelVersion::V2_6);
    let mut slot = Slot::lay_out(request, rules);
    let mut found = if old { v2_6::search(&slot) } else { v6_1::search(request, &slot, rules) };
    if rules.letters && !rules.metadata_may_raise_order && slot.flags.intersects(SlabFlags::DEBUG) {
        // Letter O: checks that would make slabs larger are not worth it.
        let bare_request = Request { flags: request.flags.difference(SlabFlags::DEBUG), ..*request };
        let bare = Slot::lay_out(&bare_request, rules);
        let without = if old { v2_6::search(&bare) } else { v6_1::search(&bare_request, &bare, rules) };
        if let Some(small) = &without
            && match &found {
                Some(large) => large.order > small.order,
                None => true,
            }
        {
            (slot, found) = (bare, without);
        }
    }
    let Some(found) = found else {
        return Err(GeometryError::TooLarge);
    };

    let (index, index_bytes) = if old {
        (IndexKind::Linked, v2_6::index_bytes(found.objects))
    } else {
        (IndexKind::Packed, found.objects * INDEX_BYTES)
    };
    let management_bytes = if old { v2_6::management_bytes(&found, slot.align) } else { index_bytes };
    let colour_step = if slot.align > rules.cache_line { slot.align } else { rules.cache_line };
    let tunables = Tunables::default_for(slot.size, rules);
    let layout = Layout {
        management: found.management,
        index,
        index_bytes,
        management_bytes,
        colours: found.tail / colour_step,
        colour_step,
        rotation: if old { Rotation::AfterUse } else { Rotation::BeforeUse },
        tunables,
        red_zone: slot.red_zone,
        user_word: slot.user_word,
    };
    let geometry = Geometry {
        object_size: request.size,
        size: slot.size,
        inuse: slot.inuse,
        offset: 0,
        red_left_pad: slot.red_left_pad,
        beside: crate::engine::beside::Beside::Nothing,
        align: slot.align,
        flags: slot.flags.union(match found.management {
            Management::OnSlab => SlabFlags::empty(),
            Management::OffSlab => INDEX_OFF_SLAB,
            Management::InObject => INDEX_IN_OBJECT,
        }),
        order: found.order,
        objects: found.objects,
        // A slab has one size only: when it cannot be had, the allocation fails.
        min_order: found.order,
        min_objects: found.objects,
        min_partial: 0,
        cpu_partial: 0,
        cpu_partial_slabs: 0,
        // What is checked is checked at each step: nothing lies in arrays.
        sheaf_capacity: if rules.letters && slot.flags.intersects(SlabFlags::DEBUG) {
            0
        } else {
            tunables.limit
        },
        tracks: slot.tracks,
        original_size: None,
        metadata_end: slot.unaligned - slot.red_left_pad,
    };
    Ok(Shape { geometry, layout })
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
    if request.freeptr_offset.is_some() {
        return Err(GeometryError::BadFreePointer);
    }
    Ok(())
}

#[cfg(test)]
#[path = "geometry/tests.rs"]
mod tests;
