//! The bytes of a slab, read without fear: everything here stays inside the slab, whatever it is asked.
//!
//! Reading takes no promise. Memory of a slab stays mapped while its node's lock is held, and its bytes may be
//! anything. Writing does: it may be somebody's object.

use crate::debug::pattern;
use crate::debug::{Asked, Track, Which};
use crate::engine::slub::checked::Checked;
use crate::platform::Platform;

impl<P: Platform> Checked<'_, P> {
    /// The range, cut to what lies in the slab.
    fn inside(&self, start: usize, len: usize) -> (usize, usize) {
        let end = self.extent.base + self.extent.len;
        let first = start.clamp(self.extent.base, end);
        (first, start.saturating_add(len).clamp(first, end) - first)
    }

    /// The first and the last byte of a range that are not `value`.
    pub(super) fn others(&self, start: usize, len: usize, value: u8) -> Option<(usize, usize)> {
        let (start, len) = self.inside(start, len);
        // SAFETY: memory of this slab.
        unsafe { pattern::others(start, len, value) }
    }

    /// Prints a range.
    pub(super) fn section(&self, label: &str, start: usize, len: usize) {
        let (start, len) = self.inside(start, len);
        // SAFETY: memory of this slab.
        unsafe { self.report.section(label, start, len) };
    }

    /// A value that lies `offset` bytes behind an object, or `absent` where there is no such place.
    fn value<T: Copy>(&self, object: usize, offset: Option<usize>, absent: T) -> T {
        let Some(offset) = offset else { return absent };
        let at = object.wrapping_add(offset);
        if self.inside(at, size_of::<T>()) != (at, size_of::<T>()) || !at.is_multiple_of(align_of::<T>()) {
            return absent;
        }
        // SAFETY: memory of this slab, aligned; volatile, because somebody may be writing there.
        unsafe { (at as *const T).read_volatile() }
    }

    /// One byte.
    pub(super) fn byte(&self, at: usize) -> u8 {
        self.value(at, Some(0), 0)
    }

    /// One of an object's tracks; an unknown one in a cache without.
    pub(super) fn track(&self, object: usize, which: Which) -> Track {
        // Any bytes are a track, so damage is only shown.
        self.value(object, self.geometry.tracks.map(|tracks| tracks + which.offset()), Track::default())
    }

    /// How an object was asked for; its whole size, where that is not kept.
    pub(super) fn request(&self, object: usize) -> Asked {
        let most = self.geometry.object_size;
        let asked = Asked::unpack(self.value(object, self.geometry.original_size, most as u32));
        Asked { size: asked.size.min(most), ..asked }
    }

    /// The bytes of an object that were asked for.
    pub(super) fn size(&self, object: usize) -> usize {
        self.request(object).size
    }
}
