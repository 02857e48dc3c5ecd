//! Objects inside a slab: where they are, and the links between free ones.
//!
//! This is the only file of the engine that turns numbers into object addresses and reads or writes
//! a free object's memory.
//!
//! A link is the address of the next free object, or 0, at `geometry.offset` in the object. With a
//! secret it is stored as `address ^ secret ^ byteswap(where it is stored)`: an overflow that runs
//! into a free object cannot choose what is allocated next.

use crate::engine::slub::Cache;
use crate::fetch;

/// Where the memory of a slab lies.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    /// First byte of the slab.
    pub base: usize,
    /// Bytes that hold objects.
    pub len: usize,
}

impl Cache {
    /// Address of object number `index` of the slab at `base`.
    #[inline]
    pub(crate) fn object(&self, base: usize, index: usize) -> *mut u8 {
        (base + self.geometry.red_left_pad + index * self.geometry.size) as *mut u8
    }

    #[inline]
    fn code(&self, place: *mut u64) -> u64 {
        if self.own.random == 0 { 0 } else { self.own.random ^ place.addr().swap_bytes() as u64 }
    }

    #[inline]
    fn place(&self, object: *mut u8) -> *mut u64 {
        object.wrapping_add(self.geometry.offset).cast()
    }

    /// Writes a link at a place that need not be where this cache's geometry has it.
    ///
    /// # Safety
    /// The place of the link of a free object that the caller owns.
    pub(crate) unsafe fn store_link(&self, place: *mut u64, next: usize) {
        // SAFETY: the caller's promise.
        unsafe { place.write(next as u64 ^ self.code(place)) };
    }

    /// Reads a link at such a place; damaged or not.
    ///
    /// # Safety
    /// The place is mapped and aligned.
    pub(crate) unsafe fn load_link(&self, place: *mut u64) -> usize {
        // SAFETY: the caller's promise; volatile, because who damages it may be at it now.
        (unsafe { place.read_volatile() } ^ self.code(place)) as usize
    }

    /// Asks the processor for where an object's link is.
    #[inline]
    pub(crate) fn fetch_link(&self, object: *mut u8) {
        fetch::line(self.place(object));
    }

    /// Links the free object to `next` (null ends the chain).
    ///
    /// # Safety
    /// `object` is a free object of this cache that the caller owns.
    #[inline]
    pub(crate) unsafe fn set_link(&self, object: *mut u8, next: *mut u8) {
        let place = self.place(object);
        // SAFETY: the free pointer lies within the object's slot (geometry), the caller owns it, and it is aligned to 8.
        unsafe { place.write(next as u64 ^ self.code(place)) };
    }

    /// The object that follows `object` in its chain; null at the end.
    ///
    /// # Safety
    /// `object` is an object of this cache in mapped memory. When it is not a free object in the
    /// caller's hands the answer means nothing, and the caller must not follow it.
    #[inline]
    pub(crate) unsafe fn link(&self, object: *mut u8) -> *mut u8 {
        let place = self.place(object);
        // SAFETY: the place is mapped and aligned. A racing owner may write it: the read is volatile and the
        // value is used only after a compare-and-swap proved that the object was still free.
        let link = unsafe { place.read_volatile() } ^ self.code(place);
        // Where addresses are narrower than a link, one that does not fit was overwritten: it leads nowhere.
        usize::try_from(link).unwrap_or(usize::MAX) as *mut u8
    }

    /// Offset in the slab of the object that follows, when the link is sound: within the slab, on an object boundary of 8 bytes.
    ///
    /// # Safety
    /// As [`Cache::link`].
    #[inline]
    pub(crate) unsafe fn checked_link(&self, object: *mut u8, slab: Extent) -> Result<Option<u32>, BadLink> {
        // SAFETY: the caller's promise.
        let next = unsafe { self.link(object) } as usize;
        if next == 0 {
            return Ok(None);
        }
        let offset = next.wrapping_sub(slab.base);
        if offset < slab.len && offset.is_multiple_of(8) {
            Ok(Some(offset as u32))
        } else {
            Err(BadLink { next })
        }
    }
}

/// A free pointer that leads out of its slab: the free object was written to.
#[derive(Clone, Copy, Debug)]
pub struct BadLink {
    /// Where it leads.
    pub next: usize,
}
