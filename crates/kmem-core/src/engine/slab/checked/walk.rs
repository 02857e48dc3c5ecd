//! Looking at a whole slab or cache: on demand, and before pages are given back.

use crate::debug::{Track, Which};
use crate::engine::slab::checked::{Checked, is_checked};
use crate::engine::slab::node::Lists;
use crate::engine::slab::{Cache, Floor, desc};
use crate::flags::SlabFlags;
use crate::page::Page;
use crate::platform::Platform;

/// Shows each slab of a node, whose lock is held. A visit does not move slabs.
fn each_slab<'a, P: Platform>(floor: Floor<'a, P>, lists: &Lists, mut visit: impl FnMut(&'a Page)) {
    for list in [&lists.partial, &lists.full, &lists.free] {
        let mut next = list.first(floor.pages);
        while let Some(slab) = next {
            visit(slab);
            next = list.after(floor.pages, slab);
        }
    }
}

/// Checks every slab of a cache; returns how many. Nothing for a cache without letters.
pub(in crate::engine::slab) fn check_all<P: Platform>(floor: Floor<'_, P>, cache: &Cache) -> Option<u64> {
    if !is_checked(cache) {
        return None;
    }
    let mut slabs = 0;
    for node in 0..floor.platform.nodes() {
        let lists = cache.node(node).own.lists.lock(floor.platform);
        each_slab(floor, &lists, |slab| {
            Checked::new(floor, cache, slab).check_whole();
            slabs += 1;
        });
    }
    Some(slabs)
}

/// A slab's last look: its objects are free, and nobody else knows it any more.
pub(in crate::engine::slab) fn before_discard<P: Platform>(floor: Floor<'_, P>, cache: &Cache, slab: &Page) {
    let slab = Checked::new(floor, cache, slab);
    for index in 0..slab.objects() {
        slab.check_free(slab.object(index));
    }
}

impl<P: Platform> Checked<'_, P> {
    fn check_whole(&self) {
        if !self.check_index() {
            return;
        }
        for index in 0..self.objects() {
            let object = self.object(index);
            // SAFETY: the lock of the slab's node is held.
            if unsafe { desc::is_free(self.cache, self.slab, index) } {
                self.check_free(object);
            } else {
                self.check_words_in_use(object);
            }
        }
    }

    /// A free object's surroundings and content. Both are restored.
    fn check_free(&self, object: usize) {
        let home = self.holds_index(object);
        if !self.check_poison(object, home) {
            // SAFETY: a free object that does not hold the index (I-SLABCHECK-1).
            unsafe { self.poison(object) };
        }
        self.check_words_at_rest(object);
    }
}

/// Reports the free of an address where no object starts.
pub(in crate::engine::slab) fn invalid_free<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    page: &Page,
    address: usize,
) {
    if !is_checked(cache) {
        return;
    }
    let _lists = cache.node(page.node()).own.lists.lock(floor.platform);
    let slab = Checked::new(floor, cache, page);
    let checks = SlabFlags::RED_ZONE | SlabFlags::CONSISTENCY_CHECKS;
    if slab.flags.intersects(checks) {
        let message = format_args!("memory outside object was overwritten");
        slab.slab_error("verify_redzone_free", message, Some(address));
        slab.report.fix(format_args!("Object at {address:#018x} not freed"));
    }
}

/// Prints an object's tracks.
///
/// # Safety
/// An object of this cache starts there, in mapped memory.
pub(in crate::engine::slab) unsafe fn print_tracks<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    object: *mut u8,
) {
    if is_checked(cache)
        && let Some(page) = floor.pages.at(object as usize)
    {
        Checked::new(floor, cache, floor.pages.head(page)).tracks(object as usize);
    }
}

/// Shows the tracks of all objects in use.
pub(in crate::engine::slab) fn visit_tracks<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    which: Which,
    visit: &mut dyn FnMut(usize, &Track, usize, usize),
) {
    if !is_checked(cache) {
        return;
    }
    for node in 0..floor.platform.nodes() {
        let lists = cache.node(node).own.lists.lock(floor.platform);
        each_slab(floor, &lists, |page| {
            let slab = Checked::new(floor, cache, page);
            for index in 0..slab.objects() {
                let object = slab.object(index);
                let track = slab.track(object, which);
                // SAFETY: the lock of the slab's node is held.
                let in_use = !unsafe { desc::is_free(cache, page, index) };
                // Who freed what was never freed before is not known, and says so.
                let counts = track.known != 0 || which == Which::Free && cache.geometry.tracks.is_some();
                if in_use && counts {
                    visit(object, &track, 0, node);
                }
            }
        });
    }
}
