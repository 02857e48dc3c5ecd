//! What is written around objects: patterns, links, tracks, sizes.

use core::sync::atomic::Ordering;

use crate::debug::pattern::{POISON_END, POISON_FREE, POISON_INUSE, RED_ACTIVE, RED_INACTIVE};
use crate::debug::{Asked, Origin, Track, Which};
use crate::engine::slub::checked::{Checked, is_checked_slab};
use crate::engine::slub::{Cache, Floor, slab};
use crate::flags::SlabFlags;
use crate::page::Page;
use crate::platform::Platform;

/// The state that an object's surroundings show.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// In nobody's hands.
    Free,
    /// In a user's hands.
    Used,
}

impl State {
    /// The byte of the red zones.
    pub(super) const fn red(self) -> u8 {
        match self {
            Self::Free => RED_INACTIVE,
            Self::Used => RED_ACTIVE,
        }
    }
}

/// Fills a new slab with the patterns of free objects. Before the constructor runs.
pub(in crate::engine::slub) fn lay_out<P: Platform>(floor: Floor<'_, P>, cache: &Cache, slab: &Page) {
    let slab = Checked::new(floor, cache, slab);
    if slab.flags.contains(SlabFlags::POISON) {
        // SAFETY: the new slab's own pages, which nobody else knows.
        unsafe { (slab.extent.base as *mut u8).write_bytes(POISON_INUSE, slab.extent.len) };
    }
    for index in 0..usize::from(slab.objects()) {
        let object = slab.object(index);
        // SAFETY: an object of the new slab.
        unsafe {
            slab.mark(object, State::Free);
            slab.set_track(object, Which::Alloc, &Track::default());
            slab.set_track(object, Which::Free, &Track::default());
            slab.set_size(object, slab.geometry.object_size);
        }
    }
}

/// Links all objects of a new slab, in the cache's order, and makes the first of them its head. After the
/// constructor ran.
pub(in crate::engine::slub) fn link_all<P: Platform>(floor: Floor<'_, P>, cache: &Cache, slab: &Page) {
    let this = Checked::new(floor, cache, slab);
    let objects = usize::from(this.objects());
    let start = usize::from(slab.start.load(Ordering::Relaxed));
    let at = |position| match position < objects {
        true => this.object(slab::index_at(cache, objects, start, position)),
        false => 0,
    };
    for position in 0..objects {
        // SAFETY: an object of the new slab, which nobody else knows.
        unsafe { this.set_next(at(position), at(position + 1)) };
    }
    slab.carved.store(objects as u16, Ordering::Relaxed);
    this.set(at(0), 0, false);
}

impl<P: Platform> Checked<'_, P> {
    /// Writes the patterns of this state over and around an object.
    ///
    /// # Safety
    /// An object of this slab that nobody uses (yet, or any more).
    pub(super) unsafe fn mark(&self, object: usize, state: State) {
        let geometry = self.geometry;
        let at = object as *mut u8;
        // SAFETY: the ranges lie in the object's slot (I-GEO-4), which the caller may write.
        unsafe {
            if self.flags.contains(SlabFlags::RED_ZONE) {
                at.sub(geometry.red_left_pad).write_bytes(state.red(), geometry.red_left_pad);
                let right = geometry.inuse - geometry.object_size;
                at.add(geometry.object_size).write_bytes(state.red(), right);
            }
            // A new user finds the poison too: what was never written shows.
            if self.flags.contains(SlabFlags::OBJECT_POISON) {
                at.write_bytes(POISON_FREE, geometry.object_size - 1);
                at.add(geometry.object_size - 1).write(POISON_END);
            }
        }
    }

    /// Where one of an object's tracks lies; nothing in a cache without.
    fn track_place(&self, object: usize, which: Which) -> Option<*mut Track> {
        self.geometry.tracks.map(|tracks| (object + tracks + which.offset()) as *mut Track)
    }

    /// Writes one of an object's tracks.
    ///
    /// # Safety
    /// An object of this slab.
    pub(super) unsafe fn set_track(&self, object: usize, which: Which, track: &Track) {
        if let Some(place) = self.track_place(object, which) {
            // SAFETY: the place is in the object's slot, at a word, and is written under the node's lock only.
            unsafe { place.write(*track) };
        }
    }

    /// Writes how the object was asked for, where that is kept.
    ///
    /// # Safety
    /// An object of this slab; nobody else writes the place now.
    unsafe fn set_request(&self, object: usize, asked: Asked) {
        if let Some(place) = self.geometry.original_size {
            // SAFETY: four bytes of the object's slot, at a word.
            unsafe { ((object + place) as *mut u32).write_volatile(asked.pack()) };
        }
    }

    /// Writes how many bytes of the object were asked for, by nobody knows whom.
    ///
    /// # Safety
    /// As `set_request`.
    pub(super) unsafe fn set_size(&self, object: usize, size: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.set_request(object, Asked { size, ..Asked::default() }) };
    }

    /// The bytes between what was asked and the object's end are a red zone too: in size classes that keep the
    /// size, since Linux 6.2.
    pub(super) fn guards_slack(&self) -> bool {
        self.cache.own.guards_slack
            && self.flags.contains(SlabFlags::RED_ZONE)
            && self.geometry.original_size.is_some()
    }
}

/// Notes that only `size` bytes were asked for, and guards the rest where the cache does that. More than the object has means that
/// nobody knows.
///
/// # Safety
/// As [`crate::engine::Engine::note_size`].
pub(in crate::engine::slub) unsafe fn note_size<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    object: *mut u8,
    size: usize,
) {
    let Some(page) = floor.pages.at(object as usize).map(|page| floor.pages.head(page)) else { return };
    if !is_checked_slab(page) {
        return;
    }
    let slab = Checked::new(floor, cache, page);
    let most = slab.geometry.object_size;
    let (size, exact) = (size.min(most), size <= most);
    // SAFETY: bytes of the object and its red zone, and the place of its size; the caller owns the object. The
    // pattern is there before the size says so: a check that runs meanwhile finds either the old size or the
    // new pattern.
    unsafe {
        if slab.guards_slack() {
            object.add(size).write_bytes(RED_ACTIVE, slab.geometry.inuse - size);
        }
        core::sync::atomic::fence(Ordering::Release);
        slab.set_request(object as usize, Asked { size, exact, ..slab.request(object as usize) });
    }
}

/// Notes by which calls, and with which alignment, an object was asked for.
///
/// # Safety
/// As [`crate::engine::Engine::note_origin`].
pub(in crate::engine::slub) unsafe fn note_origin<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    object: *mut u8,
    origin: Origin,
    align: usize,
) {
    let Some(page) = floor.pages.at(object as usize).map(|page| floor.pages.head(page)) else { return };
    if is_checked_slab(page) {
        let slab = Checked::new(floor, cache, page);
        // SAFETY: the caller owns the object.
        unsafe {
            slab.set_request(object as usize, Asked { origin, align, ..slab.request(object as usize) })
        };
    }
}

/// How an object was asked for, where that is kept. What lies behind a damaged red zone is no evidence: nothing then, and the free
/// will tell of the damage.
pub(in crate::engine::slub) fn request_of<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    page: &Page,
    address: usize,
) -> Option<Asked> {
    if !is_checked_slab(page) {
        return None;
    }
    let slab = Checked::new(floor, cache, page);
    let geometry = slab.geometry;
    geometry.original_size?;
    let (end, zone) = (address + geometry.object_size, geometry.inuse - geometry.object_size);
    if slab.flags.contains(SlabFlags::RED_ZONE) && slab.others(end, zone, RED_ACTIVE).is_some() {
        return None;
    }
    Some(slab.request(address))
}
