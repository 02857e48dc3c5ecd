//! Giving objects back to their slabs.
//!
//! A slab that was full, or still has objects out, goes to the tail of the partial slabs; one that became empty to the free
//! ones. When the free objects of a node are more than its limit, free slabs are given back right there.
//!
//! Every object that comes here is looked up: whose slab it lies in, whether one starts there, whether it is free
//! already. What is wrong is reported and left alone.

use core::sync::atomic::Ordering;

use crate::engine::list::{self, SlabList};
use crate::engine::sheaf::MAX_BATCH;
use crate::engine::slab::node::Lists;
use crate::engine::slab::{Cache, Floor, desc};
use crate::flags::SlabFlags;
use crate::page::Page;
use crate::platform::{PAGE_SHIFT, Platform};
use crate::report;
use crate::sync::{Guard, rank};

/// The slab of an object and the object's number; reports an object that is none of this cache.
pub(super) fn slab_of<'a, P: Platform>(
    floor: Floor<'a, P>,
    cache: &Cache,
    object: *mut u8,
) -> Option<(&'a Page, u32)> {
    let found = floor.pages.at(object as usize).map(|page| floor.pages.head(page));
    let Some(slab) = found.filter(|slab| is_mine(cache, slab)) else {
        bad_free(floor, cache, object, "is in no slab of this cache");
        return None;
    };
    let objects = slab.objects.load(Ordering::Relaxed);
    let Some(index) = cache.geometry.index_of(desc::slots(floor, slab), object as usize, objects.into())
    else {
        bad_free(floor, cache, object, "starts between objects");
        return None;
    };
    Some((slab, index as u32))
}

/// The slab is one of this cache.
#[inline]
pub(super) fn is_mine(cache: &Cache, slab: &Page) -> bool {
    slab.kind() == crate::page::Kind::Slab
        && slab.cache.load(Ordering::Relaxed) == core::ptr::from_ref(cache).cast_mut().cast()
}

/// The slab of an object, if it lies in one of this cache.
#[inline]
pub(super) fn home_of<'a, P: Platform>(
    floor: Floor<'a, P>,
    cache: &Cache,
    object: *mut u8,
) -> Option<&'a Page> {
    if let Some(page) = floor.pages.tagged(object.addr())
        && page.tag == cache.trusted.load(Ordering::Relaxed)
    {
        // I-PROOF-1.
        return Some(floor.pages.by_index(cache.proof.head_of(page.index)));
    }
    let found = floor.pages.at(object.addr()).map(|page| floor.pages.head(page));
    found.filter(|slab| is_mine(cache, slab))
}

/// Gives objects back that were on a CPU's array, and so were proved when they came: as [`free_many`], but where slabs have bits
/// each is put back with one look at its descriptor, and each slab settled once, in the order in which they were first met.
///
/// # Safety
/// As [`free_many`]; all objects are of `node`.
pub(super) unsafe fn free_stacked<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    node: usize,
    objects: &[*mut u8],
) {
    let mut rest = objects;
    while cache.own.has_bits(cache) && !rest.is_empty() {
        let (some, others) = rest.split_at(rest.len().min(MAX_BATCH));
        let mut met = [0; MAX_BATCH];
        let mut slabs = 0;
        let mut lists = cache.node(node).own.lists.lock(floor.platform);
        let (proof, lens, own) =
            (cache.proof, floor.pages.lens(), core::ptr::from_ref(cache).cast_mut().cast());
        let mut done = 0;
        for &object in some {
            // I-PROOF-1 where the cache is trusted; elsewhere nothing is proved, and all is looked up.
            let start = proof.slab_of(object.addr());
            let Some(slab) = lens.descriptor(start) else { break };
            if slab.cache.load(Ordering::Relaxed) != own {
                break;
            }
            // SAFETY: the slab is the cache's, the lock of its node is held, and the caller gives the object up.
            if !unsafe { desc::put_one(proof, slab, start, object) } {
                break;
            }
            done += 1;
            if desc::mark(slab) {
                met[slabs] = list::number(floor.pages, slab);
                slabs += 1;
            }
        }
        lists.free_objects += done as u64;
        for &number in &met[..slabs] {
            if let Some(slab) = list::at(floor.pages, number) {
                if desc::unmark(slab) {
                    lists.partial.move_to_tail(floor.pages, slab);
                } else {
                    lists.settle(floor.pages, slab, true);
                }
            }
        }
        drop_surplus(floor, cache, lists);
        if done < some.len() {
            rest = &rest[done..];
            break;
        }
        rest = others;
    }
    // SAFETY: the caller's promise.
    unsafe { free_many(floor, cache, rest) };
}

/// Gives free objects back, in order. One lock for neighbours of the same node, one look at the slab for neighbours in it.
///
/// # Safety
/// Every entry is a free object of this cache that the caller owns, each one once.
pub(super) unsafe fn free_many<P: Platform>(floor: Floor<'_, P>, cache: &Cache, objects: &[*mut u8]) {
    let mut held: Option<(usize, Guard<'_, Lists, P, { rank::NODE }>)> = None;
    let mut rest = objects;
    while let Some(&object) = rest.first() {
        let Some(slab) = home_of(floor, cache, object) else {
            bad_free(floor, cache, object, "is in no slab of this cache");
            rest = &rest[1..];
            continue;
        };
        let (base, bytes) = (floor.pages.address(slab).addr(), slab.pages() << PAGE_SHIFT);
        let together = rest.iter().position(|other| other.addr().wrapping_sub(base) >= bytes);
        let (here, others) = rest.split_at(together.unwrap_or(rest.len()));
        rest = others;
        let node = slab.node();
        if let Some((_, lists)) = held.take_if(|(other, _)| *other != node) {
            drop_surplus(floor, cache, lists);
        }
        let (_, lists) = held.get_or_insert_with(|| (node, cache.node(node).own.lists.lock(floor.platform)));
        let mut errors = 0;
        let refuse = |object, free| {
            errors += 1;
            let what =
                if free { "was freed before (double free detected)" } else { "starts between objects" };
            bad_free(floor, cache, object, what);
        };
        // SAFETY: the lock of the slab's node is held, and the caller gives the objects up.
        let fresh = unsafe { desc::put_all(floor, cache, slab, here, refuse) };
        lists.events.errors += errors;
        if fresh > 0 {
            lists.free_objects += u64::from(fresh);
            lists.settle(floor.pages, slab, true);
        }
    }
    if let Some((_, lists)) = held {
        drop_surplus(floor, cache, lists);
    }
}

/// Gives free slabs back while the node has more free objects than its limit. The lock ends before the first goes.
pub(super) fn drop_surplus<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    mut lists: Guard<'_, Lists, P, { rank::NODE }>,
) {
    let limit = cache.own.free_limit(floor.platform, cache.geometry.objects, lists.dead_cpus);
    if lists.free_objects <= limit || lists.free.len == 0 {
        return;
    }
    let excess = (lists.free_objects - limit).div_ceil(cache.geometry.objects as u64);
    let doomed = take_free(floor, cache, &mut lists, excess);
    drop(lists);
    discard_all(floor, cache, doomed);
}

/// Takes up to `count` free slabs off their list, those that have been there longest. Slabs that readers may still look at
/// stay for as long as the cache lives.
pub(super) fn take_free<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    lists: &mut Lists,
    count: u64,
) -> SlabList {
    let mut doomed = SlabList::new();
    if cache.flags().contains(SlabFlags::TYPESAFE_BY_RCU) {
        return doomed;
    }
    while u64::from(doomed.len) < count {
        let Some(slab) = lists.free.last(floor.pages) else { break };
        lists.remove(floor.pages, slab);
        doomed.push_back(floor.pages, slab);
    }
    doomed
}

/// Gives back slabs that were taken off their lists. No lock is held.
pub(super) fn discard_all<P: Platform>(floor: Floor<'_, P>, cache: &Cache, mut doomed: SlabList) {
    while let Some(slab) = doomed.first(floor.pages) {
        doomed.remove(floor.pages, slab);
        // SAFETY: it was free under the lock and is on no list, so nobody can reach it.
        unsafe { desc::discard(floor, cache, slab) };
    }
}

/// Reports an object that is not freed; ends the program where the heap is built to.
#[cold]
fn bad_free<P: Platform>(floor: Floor<'_, P>, cache: &Cache, object: *mut u8, what: &str) {
    report::say(
        floor.platform,
        format_args!(
            "BUG {}: object {object:p} {what}; FIX {}: Object at {object:p} not freed",
            cache.name, cache.name
        ),
    );
    if floor.debug.aborts() {
        floor.platform.fatal();
    }
}
