//! Shrinking, counting, checking, moving.

use core::sync::atomic::Ordering;

use crate::engine::slab::desc::State;
use crate::engine::slab::{Cache, Floor, desc, free};
use crate::engine::{Counts, Fault};
use crate::platform::{MAX_NODES, Platform};

/// Gives back the free slabs of one node. The others stay in order: SLAB uses them as they come.
pub(super) fn release_empty<P: Platform>(floor: Floor<'_, P>, cache: &Cache, node: usize, keep_pages: bool) {
    if keep_pages {
        return;
    }
    let mut lists = cache.node(node).own.lists.lock(floor.platform);
    let doomed = free::cut_free(floor, cache, &mut lists, u64::MAX);
    drop(lists);
    free::discard_all(floor, cache, node, doomed);
}

/// Adds slabs and arrays of all nodes to `counts`.
pub(super) fn count<P: Platform>(floor: Floor<'_, P>, cache: &Cache, counts: &mut Counts) {
    for node in 0..floor.platform.nodes().min(MAX_NODES) {
        let own = &cache.node(node).own;
        if let Some(aliens) = own.aliens.lock_unless_held(floor.platform) {
            counts.free_alien += aliens.total();
            counts.events.freed_away += aliens.pushed;
            counts.events.alien_overflows += aliens.overflows;
        }
        let Some(lists) = own.lists.lock_unless_held(floor.platform) else { continue };
        counts.partial += u64::from(lists.partial.len + lists.free.len);
        counts.free_slabs += u64::from(lists.free.len);
        counts.free_partial += lists.free_objects;
        counts.free_barn += lists.shared.len() as u64;
        counts.events.add(&lists.events);
    }
}

/// Checks every slab of every list, and every list against its counts.
pub(super) fn validate<P: Platform>(floor: Floor<'_, P>, cache: &Cache) -> Result<u64, Fault> {
    let mut checked = 0;
    for node in 0..floor.platform.nodes() {
        let state = cache.node(node);
        let lists = state.own.lists.lock(floor.platform);
        let (mut slabs, mut free_objects) = (0, 0);
        for (list, kind) in
            [(&lists.partial, State::Partial), (&lists.full, State::Full), (&lists.free, State::Free)]
        {
            let mut length = 0;
            for slab in list.iter(floor.pages) {
                let base = floor.pages.address(slab) as usize;
                let active = desc::active(slab);
                if !free::is_mine(cache, slab)
                    || slab.node() != node
                    || !list.holds(floor.pages, slab)
                    || State::listed(slab) != kind
                    || State::of(slab) != kind
                    || active > desc::objects(slab)
                {
                    return Err(Fault::State(base));
                }
                if !cache.is_on_map(floor.pages, slab) {
                    return Err(Fault::Map(base));
                }
                // SAFETY: the lock of the slab's node is held.
                if !unsafe { desc::index_is_sound(cache, slab) } {
                    return Err(Fault::Freelist(base));
                }
                free_objects += u64::from(desc::free(slab));
                length += 1;
            }
            if length != list.len {
                return Err(Fault::State(0));
            }
            slabs += u64::from(length);
        }
        if slabs != state.slabs.load(Ordering::Relaxed) || free_objects != lists.free_objects {
            return Err(Fault::State(0));
        }
        // An object in the shared array is out of its slab, and of this node.
        for &object in lists.shared.objects() {
            let Some((slab, index)) = free::slab_of(floor, cache, object) else {
                return Err(Fault::State(0));
            };
            // SAFETY: as above.
            if slab.node() != node || unsafe { desc::is_free(cache, slab, index) } {
                return Err(Fault::State(floor.pages.address(slab) as usize));
            }
        }
        checked += slabs;
    }
    Ok(checked)
}

/// Tells all slabs the address of their cache, which moved.
pub(super) fn rename_slabs<P: Platform>(floor: Floor<'_, P>, cache: &Cache) {
    for node in 0..floor.platform.nodes() {
        let lists = cache.node(node).own.lists.lock(floor.platform);
        for list in [&lists.partial, &lists.full, &lists.free] {
            let mut next = list.first(floor.pages);
            while let Some(slab) = next {
                slab.cache.store(core::ptr::from_ref(cache).cast_mut().cast(), Ordering::Relaxed);
                next = list.after(floor.pages, slab);
            }
        }
    }
}
