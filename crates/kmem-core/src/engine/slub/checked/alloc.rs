//! Taking one object, checked.

use crate::debug::{Track, Which};
use crate::engine::cache::count;
use crate::engine::slub::checked::Checked;
use crate::engine::slub::checked::layout::State;
use crate::engine::slub::checked::modes::has_layout_of_today;
use crate::engine::slub::node::NodeLists;
use crate::engine::slub::slab::{self, SlabKind};
use crate::engine::slub::{Cache, Floor};
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::platform::Platform;
use core::ptr;
use core::sync::atomic::Ordering;

/// One object; null: no memory.
pub(in crate::engine::slub) fn alloc_one<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    gfp: Gfp,
    node: Option<usize>,
) -> *mut u8 {
    // I-CHECK-3: saved before any lock is taken.
    let who = capture(floor, cache);
    let wanted = node.unwrap_or_else(|| floor.platform.current_node());
    let strict = gfp.contains(Gfp::THISNODE);
    if let Some(cpu) = cache.here(floor.platform) {
        count(&cpu.stats.alloc_slow, 1);
    }
    let mut object = from_list(floor, cache, wanted, &who);
    if object.is_null() && P::NUMA && !strict {
        object = from_other_nodes(floor, cache, wanted, &who);
    }
    while object.is_null() {
        let Some(new) = slab::create(floor, cache, gfp, wanted, strict, SlabKind::Checked) else { break };
        let home = cache.node(new.node());
        let mut list = home.own.list.lock(floor.platform);
        let slab = Checked::new(floor, cache, new);
        slab.settle(&mut list, true);
        // Null when the new slab was damaged already: then another.
        object = slab.take(&mut list, &who);
    }
    object
}

/// Fills `out` up to `at_least` objects; returns how many there are.
pub(in crate::engine::slub) fn alloc_many<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    gfp: Gfp,
    node: Option<usize>,
    out: &mut [*mut u8],
    at_least: usize,
) -> usize {
    for (got, place) in out[..at_least].iter_mut().enumerate() {
        *place = alloc_one(floor, cache, gfp, node);
        if place.is_null() {
            return got;
        }
    }
    at_least
}

/// The caller's track, in a cache that keeps tracks.
pub(super) fn capture<P: Platform>(floor: Floor<'_, P>, cache: &Cache) -> Track {
    if cache.own.modes.letters().contains(SlabFlags::STORE_USER) {
        Track::capture(floor.debug, floor.platform, floor.pages)
    } else {
        Track::default()
    }
}

fn from_list<P: Platform>(floor: Floor<'_, P>, cache: &Cache, node: usize, who: &Track) -> *mut u8 {
    let mut list = cache.node(node).own.list.lock(floor.platform);
    let mut next = list.checked.first(floor.pages);
    while let Some(slab) = next {
        // A slab that gives nothing leaves the list.
        next = list.checked.after(floor.pages, slab);
        // Slabs of former letters only take objects back: what is handed out has the letters of today.
        if has_layout_of_today(cache, slab) {
            let object = Checked::new(floor, cache, slab).take(&mut list, who);
            if !object.is_null() {
                return object;
            }
        }
    }
    ptr::null_mut()
}

/// From a node that has more partial slabs than it keeps, when the cache's ratio allows the look.
fn from_other_nodes<P: Platform>(floor: Floor<'_, P>, cache: &Cache, wanted: usize, who: &Track) -> *mut u8 {
    let ratio = u64::from(cache.own.remote_ratio.load(Ordering::Relaxed));
    if ratio == 0 || floor.platform.nodes() == 1 || floor.platform.entropy() % 1024 > ratio {
        return ptr::null_mut();
    }
    for i in 1..floor.platform.nodes() {
        let near = floor.platform.nearest_node(wanted, i);
        let partial = cache.node(near).own.list.lock(floor.platform).checked.len;
        if partial > cache.own.min_partial.load(Ordering::Relaxed) {
            let object = from_list(floor, cache, near, who);
            if !object.is_null() {
                return object;
            }
        }
    }
    ptr::null_mut()
}

impl<P: Platform> Checked<'_, P> {
    /// Takes the first free object. Null: the slab has none that can be trusted, and has left the list of
    /// partial slabs.
    fn take(&self, list: &mut NodeLists, who: &Track) -> *mut u8 {
        let object = self.head();
        if object == 0 {
            // Objects that nobody has and no chain leads to: the count is wrong.
            self.on_freelist(None);
            self.set(0, self.objects(), false);
            self.settle(list, false);
            return ptr::null_mut();
        }
        let sound = self.is_object(object);
        let next = if sound { self.next(object) } else { 0 };
        self.set(if sound { next } else { object }, self.inuse().saturating_add(1), false);
        if !self.check_before_use(object, next) {
            self.isolate(list);
            return ptr::null_mut();
        }
        self.trace(object, Which::Alloc);
        // SAFETY: a free object of this slab, taken off its chain just now.
        unsafe {
            self.mark(object, State::Used);
            self.set_track(object, Which::Alloc, who);
            self.set_size(object, self.geometry.object_size);
        }
        self.settle(list, true);
        object as *mut u8
    }

    /// With F all checks; without, only what must hold for the slab to be used at all.
    fn check_before_use(&self, object: usize, next: usize) -> bool {
        let thorough = self.flags.contains(SlabFlags::CONSISTENCY_CHECKS);
        if thorough && !self.check_slab() {
            return false;
        }
        if !self.is_object(object) {
            self.object_error(object, format_args!("Freelist Pointer check fails"));
            return false;
        }
        if thorough {
            return self.check_object(object, State::Free);
        }
        if next != 0 && !self.is_object(next) {
            self.object_error(object, format_args!("Freepointer corrupt"));
            return false;
        }
        true
    }
}
