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
//! What is not here: merging ([`crate::cache::merge`]) and any state of a living cache.

pub mod order;
mod slot;

pub use crate::engine::geometry::{
    Geometry, GeometryError, KernelVersion, MAX_SIZE, Request, Rules, WORD, effective_align, round_up,
};

use crate::engine::beside::Beside;
use crate::flags::SlabFlags;
use order::{cpu_partial, cpu_partial_slabs, min_partial, objects_in, order_of, sheaf_capacity, slab_order};
use slot::Slot;

/// Bytes of one track: call site, stack handle, CPU, thread, time.
pub const TRACK_SIZE: usize = 32;

/// What makes a cache one whose objects carry metadata.
const METADATA: SlabFlags = SlabFlags::RED_ZONE.union(SlabFlags::POISON).union(SlabFlags::STORE_USER);
/// What needs a whole list lock for each change of a slab, so that a compare-and-swap is no use.
const LOCKED: SlabFlags = SlabFlags::CONSISTENCY_CHECKS.union(SlabFlags::STORE_USER).union(SlabFlags::TRACE);
/// What [`compute`] decides, whatever the request says.
const INTERNAL: SlabFlags = SlabFlags::CMPXCHG_DOUBLE.union(SlabFlags::OBJECT_POISON);

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
        beside: Beside::Nothing,
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
            KernelVersion::V2_6 | KernelVersion::V6_1 => false,
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
