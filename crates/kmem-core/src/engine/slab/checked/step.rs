//! Taking objects and giving them back, checked.

use crate::debug::{Track, Which};
use crate::engine::cache::count;
use crate::engine::list;
use crate::engine::slab::checked::Checked;
use crate::engine::slab::checked::layout::{ACTIVE, INACTIVE};
use crate::engine::slab::{Cache, Floor, alloc, desc, free};
use crate::gfp::Gfp;
use crate::page::Page;
use crate::platform::Platform;

/// Fills `out` up to `at_least` objects; returns how many there are.
pub(in crate::engine::slab) fn alloc_many<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    gfp: Gfp,
    node: Option<usize>,
    out: &mut [*mut u8],
    at_least: usize,
) -> usize {
    for (got, place) in out[..at_least].iter_mut().enumerate() {
        // I-SLABCHECK-3: saved before any lock is taken.
        let who = Checked::capture(floor, cache);
        let mut poisoned = false;
        let mut hand_out = |slab: &Page, object: *mut u8| {
            poisoned = super::modes::is_poisoned_slab(slab);
            // SAFETY: the lock is held or the slab is new, and the object was taken off its index just now.
            unsafe { Checked::new(floor, cache, slab).hand_out(object as usize, &who) };
        };
        *place = alloc::alloc_checked(floor, cache, gfp, node, &mut hand_out);
        if place.is_null() {
            return got;
        }
        if poisoned && let Some(ctor) = cache.ctor {
            // SAFETY: the object is this caller's alone, and the constructor is the cache's own.
            unsafe { ctor(*place) };
        }
        if let Some(cpu) = cache.here(floor.platform) {
            count(&cpu.stats.alloc_slow, 1);
        }
    }
    at_least
}

/// Gives objects back to their slabs; one that is free already is reported and left alone.
///
/// # Safety
/// Nobody uses the objects any more.
pub(in crate::engine::slab) unsafe fn free_many<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    objects: &[*mut u8],
) {
    // I-SLABCHECK-3.
    let who = Checked::capture(floor, cache);
    for &object in objects {
        let Some((page, index)) = free::slab_of(floor, cache, object) else { continue };
        let mut lists = cache.node(page.node()).own.lists.lock(floor.platform);
        // SAFETY: the lock of the slab's node is held, and the caller gives the object up.
        if unsafe { Checked::new(floor, cache, page).take_back(object as usize, index, &who) } {
            lists.free_objects += 1;
            if !lists.settle(floor.pages, page, true) {
                lists.events.errors += 1;
                list::tell_damaged(floor, cache, page);
            }
        } else {
            lists.events.errors += 1;
        }
        free::drop_surplus(floor, cache, page.node(), lists);
    }
}

impl<P: Platform> Checked<'_, P> {
    /// # Safety
    /// I-SLABCHECK-1; the object was taken off its slab's index just now.
    unsafe fn hand_out(&self, object: usize, who: &Track) {
        // The last object to leave a slab may have held its index.
        let home = self.cache.own.is_in_object() && desc::free(self.slab) == 0;
        self.check_index();
        self.check_poison(object, home);
        // SAFETY: the caller's promise.
        unsafe { self.fill_for_use(object) };
        self.check_words_of_free(object);
        // SAFETY: as above.
        unsafe {
            self.set_user(object, Which::Alloc, who);
            self.set_words(object, ACTIVE);
        }
        self.trace(object, Which::Alloc);
    }

    /// False: the object was free already, and nothing changed.
    ///
    /// # Safety
    /// I-SLABCHECK-1; the caller gives the object up.
    unsafe fn take_back(&self, object: usize, index: u32, who: &Track) -> bool {
        if !self.check_index() {
            return false;
        }
        // SAFETY: I-SLABCHECK-1.
        if unsafe { desc::is_free(self.cache, self.slab, index) } {
            self.double_free(object);
            return false;
        }
        self.check_words_of_used(object);
        self.trace(object, Which::Free);
        // SAFETY: the caller's promise. The poison is there before the index may come to lie on it.
        unsafe {
            self.set_user(object, Which::Free, who);
            self.set_words(object, INACTIVE);
            self.poison(object);
            desc::put(self.floor, self.cache, self.slab, index)
        }
    }
}
