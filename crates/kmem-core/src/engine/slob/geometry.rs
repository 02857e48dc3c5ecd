//! Geometry: what a cache is to SLOB.
//!
//! An object is a block of its size, rounded to 2 bytes, at the cache's alignment; there are no slabs and no
//! metadata. Objects that readers may still look at during a grace period end with a footer that keeps the
//! request to free them. Objects of a page or more are runs of pages.
//!
//! Flags: only those that say where memory comes from or how it is aligned mean anything; all others are
//! dropped, as the kernel does.

use super::room::UNIT;
pub use crate::engine::geometry::{Geometry, GeometryError, MAX_SIZE, Request, Rules};
use crate::engine::geometry::{WORD, effective_align};
use crate::flags::SlabFlags;
use crate::platform::PAGE_SIZE;

/// Bytes of the footer of objects of caches with [`SlabFlags::TYPESAFE_BY_RCU`]: two words for the callback,
/// and the size.
pub const RCU_FOOTER: usize = 3 * WORD;

/// The flags that have a meaning here.
pub const KNOWN_FLAGS: SlabFlags = SlabFlags::HWCACHE_ALIGN
    .union(SlabFlags::CACHE_DMA)
    .union(SlabFlags::CACHE_DMA32)
    .union(SlabFlags::PANIC)
    .union(SlabFlags::TYPESAFE_BY_RCU)
    .union(SlabFlags::FAILSLAB);

/// Derives the geometry of a cache. The fields about slabs tell of the page or run that one object needs at
/// most: its order, one object.
///
/// # Errors
/// - [`GeometryError::ZeroSize`]: `size` is 0.
/// - [`GeometryError::BadAlign`]: `align` is neither 0 nor a power of two, and the rules do not let that pass;
///   or it is more than a page (the kernel stops there), unless the object is a run of pages that is aligned to
///   it anyway.
/// - [`GeometryError::TooLarge`]: the object exceeds [`MAX_SIZE`]. (With a footer that does, the cache can be
///   made, as in the kernel: its order is beyond the largest block, and it never has an object.)
/// - [`GeometryError::BadFreePointer`]: `freeptr_offset` is given; there is no such thing.
pub const fn compute(request: &Request, rules: &Rules) -> Result<Geometry, GeometryError> {
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
    let flags = request.flags.intersection(KNOWN_FLAGS);
    let align = effective_align(flags, request.align, request.size, rules.cache_line);
    let footer = if flags.contains(SlabFlags::TYPESAFE_BY_RCU) { RCU_FOOTER } else { 0 };
    let inuse = request.size.next_multiple_of(UNIT);
    let size = inuse + footer;
    let order = size.div_ceil(PAGE_SIZE).next_power_of_two().trailing_zeros();
    if align > PAGE_SIZE && (size < PAGE_SIZE || align > PAGE_SIZE << order) {
        return Err(GeometryError::BadAlign);
    }
    Ok(Geometry {
        object_size: request.size,
        size,
        inuse,
        offset: 0,
        red_left_pad: 0,
        beside: crate::engine::beside::Beside::Nothing,
        align,
        flags,
        order,
        objects: 1,
        min_order: order,
        min_objects: 1,
        min_partial: 0,
        cpu_partial: 0,
        cpu_partial_slabs: 0,
        sheaf_capacity: 0,
        tracks: None,
        original_size: None,
        metadata_end: size,
    })
}
