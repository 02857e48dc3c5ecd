//! The random order in which the objects of a cache's slabs are carved.

use core::ptr;

use crate::engine::slub::{Cache, Floor};
use crate::engine::{Setup, sheaf};
use crate::gfp::Gfp;
use crate::platform::{PAGE_SIZE, Platform};

/// There is no memory for the order.
pub(super) struct NoMemory;

/// A random order for the objects of the cache's slabs; null when the heap hands them out in ascending
/// order.
///
/// Indices are shuffled within windows of about a page: the order in a page cannot be guessed, and the pages of
/// a slab that nobody asked for yet stay untouched. The memory comes from the caches of arrays, not from kmalloc:
/// kmalloc's own classes are made here too. A slab with more objects than the largest array has entries is not
/// shuffled.
pub(super) fn make<P: Platform>(floor: Floor<'_, P>, setup: &Setup<'_>) -> Result<*const u16, NoMemory> {
    let objects = setup.geometry.objects;
    let bytes = objects * size_of::<u16>();
    if !setup.random || objects < 2 || setup.exact_pages != 0 || !sheaf::array_fits(floor, bytes) {
        return Ok(ptr::null());
    }
    let sequence = sheaf::alloc_array(floor, bytes, Gfp::KERNEL).cast::<u16>();
    if sequence.is_null() {
        return Err(NoMemory);
    }
    // SAFETY: a fresh array of that many entries.
    let entries = unsafe {
        for i in 0..objects {
            sequence.add(i).write(i as u16);
        }
        core::slice::from_raw_parts_mut(sequence, objects)
    };
    let window = (PAGE_SIZE / setup.geometry.size).max(2);
    for part in entries.chunks_mut(window) {
        for i in (1..part.len()).rev() {
            part.swap(i, (floor.platform.entropy() % (i as u64 + 1)) as usize);
        }
    }
    Ok(sequence)
}

/// Gives a cache's order back.
pub(super) fn free<P: Platform>(floor: Floor<'_, P>, cache: &Cache) {
    if !cache.own.sequence.is_null() {
        let bytes = cache.geometry.objects * size_of::<u16>();
        // SAFETY: made by `make` with that many bytes; nobody carves from this cache any more.
        unsafe { sheaf::free_array(floor, cache.own.sequence.cast_mut().cast(), bytes) };
    }
}
