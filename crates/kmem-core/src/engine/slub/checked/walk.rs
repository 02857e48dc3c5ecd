//! Looking at a whole cache: checking all slabs, listing what is in use, adding up tracks.

use core::sync::atomic::Ordering;

use crate::debug::{Track, Which};
use crate::engine::Fault;
use crate::engine::slub::checked::layout::State;
use crate::engine::slub::checked::map::Map;
use crate::engine::slub::checked::{Checked, is_checked_slab};
use crate::engine::slub::node::NodeLists;
use crate::engine::slub::{Cache, Floor, word};
use crate::flags::SlabFlags;
use crate::page::Page;
use crate::platform::Platform;

/// Visits the checked slabs of a node, those with room first, under its lock. A visit may change the slab's
/// state and put it on another list.
fn each_slab<'a, P: Platform>(
    floor: Floor<'a, P>,
    list: &mut NodeLists,
    mut visit: impl FnMut(&mut NodeLists, &'a Page),
) {
    let full_before = list.full.len;
    let mut next = list.checked.first(floor.pages);
    while let Some(page) = next {
        next = list.checked.after(floor.pages, page);
        visit(list, page);
    }
    // What the visits found to be full stands at the front, and was seen.
    let mut seen = list.full.len - full_before;
    let mut next = list.full.first(floor.pages);
    while let Some(page) = next {
        next = list.full.after(floor.pages, page);
        if seen > 0 {
            seen -= 1;
        } else {
            visit(list, page);
        }
    }
}

/// Checks every slab on the nodes' lists; returns how many.
pub(in crate::engine::slub) fn check_all<P: Platform>(floor: Floor<'_, P>, cache: &Cache) -> u64 {
    let mut slabs = 0;
    for node in 0..floor.platform.nodes() {
        let mut list = cache.node(node).own.list.lock(floor.platform);
        each_slab(floor, &mut list, |list, page| {
            let slab = Checked::new(floor, cache, page);
            slab.check_whole();
            slab.settle(list, false);
            slabs += 1;
        });
    }
    slabs
}

impl<P: Platform> Checked<'_, P> {
    fn check_whole(&self) {
        if !self.check_slab() || !self.on_freelist(None) {
            return;
        }
        let free = Map::of(self);
        for index in 0..usize::from(self.objects()) {
            let object = self.object(index);
            let state = if free.has(index) { State::Free } else { State::Used };
            if !self.check_object(object, state) {
                break;
            }
        }
    }

    fn list_remaining(&self) {
        let name = self.cache.name;
        self.report.bug(format_args!("Objects remaining in {name} on __kmem_cache_shutdown()"));
        self.slab_line();
        self.report.here();
        let free = Map::of(self);
        for index in (0..usize::from(self.objects())).filter(|&index| !free.has(index)) {
            let object = self.object(index);
            let offset = object - self.extent.base;
            self.report.line(format_args!("Object {object:#018x} @offset={offset}"));
            self.tracks(object);
        }
        // A leak is no damage: the program may go on.
        self.report.found(false);
    }
}

/// Lists the objects in use of every slab on the nodes' lists.
pub(in crate::engine::slub) fn remaining<P: Platform>(floor: Floor<'_, P>, cache: &Cache) {
    for node in 0..floor.platform.nodes() {
        let mut list = cache.node(node).own.list.lock(floor.platform);
        let look = |page| {
            if word::load(page).inuse() > 0 {
                Checked::new(floor, cache, page).list_remaining();
            }
        };
        let mut next = list.partial.first(floor.pages);
        while let Some(page) = next {
            next = list.partial.after(floor.pages, page);
            look(page);
        }
        each_slab(floor, &mut list, |_, page| look(page));
    }
}

/// Compares the counts of a node's checked slabs with their lists, without a report. Returns how many.
pub(in crate::engine::slub) fn verify<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    list: &NodeLists,
) -> Result<u64, Fault> {
    let mut looked = 0;
    for page in list.checked.iter(floor.pages) {
        let slab = Checked::new(floor, cache, page);
        let mine = page.cache.load(Ordering::Relaxed) == core::ptr::from_ref(cache).cast_mut().cast();
        if slab.isolated() || slab.inuse() >= slab.objects() || !mine {
            return Err(Fault::State(slab.extent.base));
        }
        if !cache.is_on_map(floor.pages, page) {
            return Err(Fault::Map(slab.extent.base));
        }
        let used = slab.objects() - Map::of(&slab).count() as u16;
        if used != slab.inuse() {
            return Err(Fault::Count(slab.extent.base, slab.inuse(), used));
        }
        looked += 1;
    }
    if looked != u64::from(list.checked.len) {
        return Err(Fault::State(0));
    }
    Ok(looked)
}

/// Reports the free of an address where no object starts.
pub(in crate::engine::slub) fn invalid_free<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    page: &Page,
    address: usize,
) {
    let _list = cache.node(page.node()).own.list.lock(floor.platform);
    let slab = Checked::new(floor, cache, page);
    if !is_checked_slab(page) || !slab.flags.contains(SlabFlags::CONSISTENCY_CHECKS) {
        return;
    }
    slab.slab_error(format_args!("Invalid object pointer {address:#018x}"));
    slab.report.fix(format_args!("Object at {address:#018x} not freed"));
}

/// Whether the object at `address` is in use. What is free is reported.
pub(in crate::engine::slub) fn check_held<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    page: &Page,
    address: usize,
) -> bool {
    if !is_checked_slab(page) {
        return true;
    }
    let _list = cache.node(page.node()).own.list.lock(floor.platform);
    let slab = Checked::new(floor, cache, page);
    if slab.flags.contains(SlabFlags::CONSISTENCY_CHECKS) && slab.on_freelist(Some(address)) {
        slab.object_error(address, format_args!("Object already free"));
        return false;
    }
    true
}

/// Reports that something is wrong with an object.
pub(in crate::engine::slub) fn report_object<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    page: &Page,
    address: usize,
    title: core::fmt::Arguments<'_>,
) {
    let _list = cache.node(page.node()).own.list.lock(floor.platform);
    Checked::new(floor, cache, page).object_error(address, title);
}

/// Prints an object's tracks.
///
/// # Safety
/// An object of this cache starts there, in mapped memory.
pub(in crate::engine::slub) unsafe fn print_tracks<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    object: *mut u8,
) {
    if let Some(page) = floor.pages.at(object as usize) {
        let page = floor.pages.head(page);
        if is_checked_slab(page) {
            Checked::new(floor, cache, page).tracks(object as usize);
        }
    }
}

/// Shows the tracks of all objects in use.
pub(in crate::engine::slub) fn visit_tracks<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    which: Which,
    visit: &mut dyn FnMut(usize, &Track, usize, usize),
) {
    for node in 0..floor.platform.nodes() {
        let mut list = cache.node(node).own.list.lock(floor.platform);
        each_slab(floor, &mut list, |_, page| {
            let slab = Checked::new(floor, cache, page);
            let free = Map::of(&slab);
            for index in (0..usize::from(slab.objects())).filter(|&index| !free.has(index)) {
                let object = slab.object(index);
                let (track, size) = (slab.track(object, which), slab.size(object));
                // Who freed what was never freed before is not known, and says so.
                if track.known != 0 || which == Which::Free && slab.geometry.tracks.is_some() {
                    visit(object, &track, slab.geometry.object_size - size, node);
                }
            }
        });
    }
}

/// Shows the objects in use of a checked slab.
pub(in crate::engine::slub) fn visit_in_use<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    page: &Page,
    visit: &mut dyn FnMut(usize),
) {
    let _list = cache.node(page.node()).own.list.lock(floor.platform);
    let slab = Checked::new(floor, cache, page);
    let free = Map::of(&slab);
    (0..usize::from(slab.objects()))
        .filter(|&index| !free.has(index))
        .for_each(|index| visit(slab.object(index)));
}
