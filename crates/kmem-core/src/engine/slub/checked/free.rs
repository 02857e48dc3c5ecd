//! Giving one object back, checked.

use core::sync::atomic::Ordering;

use crate::debug::{Track, Which};
use crate::engine::slub::checked::layout::State;
use crate::engine::slub::checked::{Checked, alloc};
use crate::engine::slub::{Cache, Floor, slab};
use crate::flags::SlabFlags;
use crate::page::Page;
use crate::platform::Platform;

/// Gives one object back to its slab, unless a check fails: then it stays in use.
///
/// # Safety
/// An object starts there, in this slab of this cache, and nobody uses it any more. Whether it is free already
/// is found out.
pub(in crate::engine::slub) unsafe fn free_one<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    page: &Page,
    object: *mut u8,
) {
    // I-CHECK-3: saved before the lock is taken.
    let who = alloc::capture(floor, cache);
    let empty = {
        let mut list = cache.node(page.node()).own.list.lock(floor.platform);
        let slab = Checked::new(floor, cache, page);
        // SAFETY: the caller's promise.
        let freed = unsafe { slab.give(object as usize, &who) };
        let keep_pages = cache.flags().contains(SlabFlags::TYPESAFE_BY_RCU);
        let empty = freed
            && slab.inuse() == 0
            && !keep_pages
            && list.checked.len >= cache.own.min_partial.load(Ordering::Relaxed);
        if empty {
            slab.unlist(&mut list);
        } else {
            slab.settle(&mut list, false);
        }
        empty
    };
    if empty {
        // SAFETY: all objects are free and the slab is on no list, so nobody can reach it.
        unsafe { slab::discard(floor, cache, page) };
    }
}

impl<P: Platform> Checked<'_, P> {
    /// # Safety
    /// As [`free_one`].
    unsafe fn give(&self, object: usize, who: &Track) -> bool {
        if !self.isolated() {
            // The object is a chain of one from here on. When it is on the slab's chain already this cuts that,
            // and the count will tell.
            // SAFETY: the caller gives the object up.
            unsafe { self.set_next(object, 0) };
        }
        if !self.check_after_use(object) {
            self.report.fix(format_args!("Object at {object:#018x} not freed"));
            return false;
        }
        // SAFETY: an object of this slab that nobody uses any more.
        unsafe {
            self.set_track(object, Which::Free, who);
            self.trace(object, Which::Free);
            self.mark(object, State::Free);
            self.set_next(object, self.head());
        }
        self.set(object, self.inuse() - 1, false);
        true
    }

    fn check_after_use(&self, object: usize) -> bool {
        let thorough = self.flags.contains(SlabFlags::CONSISTENCY_CHECKS);
        if thorough && !self.check_slab() {
            return false;
        }
        if self.inuse() == 0 {
            self.slab_error(format_args!("Slab has 0 allocated objects but 1 are to be freed\n"));
            return false;
        }
        if !thorough {
            return !self.isolated();
        }
        if self.on_freelist(Some(object)) {
            self.object_error(object, format_args!("Object already free"));
            return false;
        }
        !self.isolated() && self.check_object(object, State::Used)
    }
}
