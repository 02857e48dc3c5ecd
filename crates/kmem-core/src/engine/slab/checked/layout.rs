//! What is written around objects and into free ones: words, fillings, tracks.

use crate::debug::pattern::{POISON_END, POISON_FREE, POISON_INUSE};
use crate::debug::{Track, Which};
use crate::engine::slab::checked::Checked;
use crate::engine::slab::geometry::RED_ZONE_BYTES;
use crate::engine::slab::{Cache, Floor};
use crate::flags::SlabFlags;
use crate::page::Page;
use crate::platform::Platform;

/// Both words of an object in use.
pub(super) const ACTIVE: u64 = 0xD841_56C5_6356_88C0;
/// Both words of a free object.
pub(super) const INACTIVE: u64 = 0x09F9_1102_9D74_E35B;

/// Lays out all objects of a new slab as free ones. Constructed objects are what their constructor made.
pub(in crate::engine::slab) fn lay_out<P: Platform>(floor: Floor<'_, P>, cache: &Cache, slab: &Page) {
    let slab = Checked::new(floor, cache, slab);
    for index in 0..slab.objects() {
        let object = slab.object(index);
        // SAFETY: an object of a new slab, which nobody else knows.
        unsafe {
            slab.set_words(object, INACTIVE);
            slab.set_user(object, Which::Alloc, &Track::default());
            slab.set_user(object, Which::Free, &Track::default());
            if !slab.holds_index(object) {
                slab.poison(object);
            }
        }
    }
}

impl<P: Platform> Checked<'_, P> {
    /// Where the words of an object lie; nothing in a cache without.
    pub(super) fn word_places(&self, object: usize) -> Option<[usize; 2]> {
        self.cache.own.layout.red_zone.map(|right| [object - RED_ZONE_BYTES, object + right])
    }

    /// The words of an object.
    pub(super) fn words(&self, object: usize) -> Option<[u64; 2]> {
        Some(self.word_places(object)?.map(|place| self.word(place)))
    }

    /// Eight bytes of the slab, whatever they are; 0 outside of it.
    pub(super) fn word(&self, at: usize) -> u64 {
        if at < self.base || at + 8 > self.base + self.len {
            return 0;
        }
        // SAFETY: memory of this slab, which stays mapped; volatile, because a faulty program may be writing there.
        u64::from_ne_bytes(core::array::from_fn(|i| unsafe { ((at + i) as *const u8).read_volatile() }))
    }

    /// # Safety
    /// An object of this slab that the caller may mark (I-SLABCHECK-1).
    pub(super) unsafe fn set_words(&self, object: usize, value: u64) {
        for place in self.word_places(object).into_iter().flatten() {
            // SAFETY: a word of the object's slot (I-SLABGEO-1), at a word.
            unsafe { (place as *mut u64).write(value) };
        }
    }

    /// # Safety
    /// A free object of this slab that does not hold the index.
    pub(super) unsafe fn poison(&self, object: usize) {
        if self.is_poisoned() {
            let size = self.cache.geometry.object_size;
            let at = object as *mut u8;
            // SAFETY: the object's own bytes.
            unsafe {
                at.write_bytes(POISON_FREE, size - 1);
                at.add(size - 1).write(POISON_END);
            }
        }
    }

    /// # Safety
    /// An object of this slab that nobody uses yet, taken off its index.
    pub(super) unsafe fn fill_for_use(&self, object: usize) {
        if self.is_poisoned() {
            let (at, size) = (object as *mut u8, self.cache.geometry.object_size);
            // SAFETY: the object's own bytes.
            unsafe {
                at.write_bytes(POISON_INUSE, size - 1);
                at.add(size - 1).write(POISON_END);
            }
        }
    }

    /// Notes who allocated or freed an object.
    ///
    /// # Safety
    /// As [`Self::set_words`].
    pub(super) unsafe fn set_user(&self, object: usize, which: Which, who: &Track) {
        // SAFETY: places in the object's slot, at a word.
        unsafe {
            if let Some(tracks) = self.cache.geometry.tracks {
                ((object + tracks + which.offset()) as *mut Track).write(*who);
            } else if let Some(word) = self.cache.own.layout.user_word {
                ((object + word) as *mut usize).write(who.address);
            }
        }
    }

    /// One of an object's tracks; an unknown one in a cache without.
    pub(super) fn track(&self, object: usize, which: Which) -> Track {
        let Some(tracks) = self.cache.geometry.tracks else { return Track::default() };
        let at = object + tracks + which.offset();
        if at + size_of::<Track>() > self.base + self.len {
            return Track::default();
        }
        // SAFETY: memory of this slab, at a word; any bytes are a track, so damage is only shown.
        unsafe { (at as *const Track).read_volatile() }
    }

    /// The call site of the last user, and 0 when there was none; nothing in a cache that does not keep it.
    pub(super) fn last_user(&self, object: usize) -> Option<usize> {
        if self.cache.geometry.tracks.is_some() {
            let (allocated, freed) = (self.track(object, Which::Alloc), self.track(object, Which::Free));
            let later = if freed.known != 0 && freed.time >= allocated.time { freed } else { allocated };
            return Some(later.address);
        }
        self.cache.own.layout.user_word.map(|word| self.word(object + word) as usize)
    }

    /// Who is here, in a cache that keeps it.
    pub(super) fn capture(floor: super::Floor<'_, P>, cache: &Cache) -> Track {
        if super::letters(cache).contains(SlabFlags::STORE_USER) {
            Track::capture(floor.debug, floor.platform, floor.pages)
        } else {
            Track::default()
        }
    }
}
