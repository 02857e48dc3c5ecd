//! Giving objects back to their slabs.
//!
//! A slab that was full, or still has objects out, goes to the tail of the partial slabs; one that became empty to the free
//! ones. When the free objects of a node are more than its limit, free slabs are given back right there.
//!
//! Every object that comes here is looked up: whose slab it lies in, whether one starts there, whether it is free
//! already. What is wrong is reported and left alone.

use core::sync::atomic::Ordering;

use crate::debug::report::brief;
use crate::engine::list;
use crate::engine::sheaf::MAX_BATCH;
use crate::engine::slab::node::Lists;
use crate::engine::slab::{Cache, Floor, desc};
use crate::flags::SlabFlags;
use crate::page::Page;
use crate::platform::{PAGE_SHIFT, Platform};
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
        // I-PROOF-1, unless the map of pages or the descriptor was written over.
        return Some(floor.pages.by_index(cache.proof.head_of(page.index)))
            .filter(|slab| is_mine(cache, slab));
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
        let mut lists = cache.node(node).own.lists.lock(floor.platform);
        // A hardened heap looks at the slab all the same: what lies in an array may have been written to. Relaxed: whoever
        // distrusts a cache does so before it hands out an object that lies otherwise.
        let proved =
            cache.trusted.load(Ordering::Relaxed) == cache.id && cache.mark.load(Ordering::Relaxed) == 0;
        // SAFETY: the lock of the slabs' node is held, and the caller gives the objects up. Objects in arrays of a trusted
        // cache lie in slabs of it, by I-PROOF-1 or by a look at them when they came.
        let done = unsafe {
            if proved {
                put_back::<P, true>(floor, cache, &mut lists, some)
            } else {
                put_back::<P, false>(floor, cache, &mut lists, some)
            }
        };
        lists.free_objects += done as u64;
        drop_surplus(floor, cache, node, lists);
        if done < some.len() {
            rest = &rest[done..];
            break;
        }
        rest = others;
    }
    if !rest.is_empty() {
        // SAFETY: the caller's promise.
        unsafe { free_many(floor, cache, rest) };
    }
}

/// Puts objects back, at most [`MAX_BATCH`], as far as that needs no closer look, and settles their slabs. How many.
///
/// # Safety
/// The cache [has bits](crate::engine::slab::Own::has_bits), the caller gives the objects up and holds the lock of their node.
/// If they are `PROVED`, their pages belong to slabs of the cache, of its proof.
#[inline]
unsafe fn put_back<P: Platform, const PROVED: bool>(
    floor: Floor<'_, P>,
    cache: &Cache,
    lists: &mut Lists,
    objects: &[*mut u8],
) -> usize {
    let mut met = [0; MAX_BATCH];
    let mut slabs = 0;
    let (proof, lens, own) = (cache.proof, floor.pages.lens(), core::ptr::from_ref(cache).cast_mut().cast());
    let mut done = 0;
    for &object in objects {
        let start = proof.slab_of(object.addr());
        let (number, inside) = lens.index_of(start);
        if !PROVED && !inside {
            break;
        }
        let slab = lens.page(number);
        if !PROVED && slab.cache.load(Ordering::Relaxed) != own {
            break;
        }
        // SAFETY: the slab is the cache's, and the caller's promise.
        if !unsafe { desc::put_one(proof, slab, start, object) } {
            break;
        }
        done += 1;
        if desc::mark(slab)
            && let Some(place) = met.get_mut(slabs)
        {
            *place = number;
            slabs += 1;
        }
    }
    for &number in &met[..slabs.min(MAX_BATCH)] {
        let slab = lens.page(number);
        let sound = match desc::unmark(slab) {
            desc::After::Partial => lists.partial.move_to_tail(floor.pages, lens, slab, number),
            desc::After::Freed => lists.settle_freed(floor.pages, slab),
            desc::After::Other => lists.settle(floor.pages, slab, true),
        };
        if !sound {
            lists.events.errors += 1;
            list::tell_damaged(floor, cache, slab);
        }
    }
    done
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
        if let Some((other, lists)) = held.take_if(|(other, _)| *other != node) {
            drop_surplus(floor, cache, other, lists);
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
            if !lists.settle(floor.pages, slab, true) {
                lists.events.errors += 1;
                list::tell_damaged(floor, cache, slab);
            }
        }
    }
    if let Some((node, lists)) = held {
        drop_surplus(floor, cache, node, lists);
    }
}

/// Gives free slabs back while the node has more free objects than its limit. The lock ends before the first goes.
pub(super) fn drop_surplus<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    node: usize,
    mut lists: Guard<'_, Lists, P, { rank::NODE }>,
) {
    let limit = cache.own.free_limit(floor.platform, cache.geometry.objects, lists.dead_cpus);
    if lists.free_objects <= limit || lists.free.len == 0 {
        return;
    }
    let excess = (lists.free_objects - limit).div_ceil(cache.geometry.objects as u64);
    let doomed = take_free(floor, cache, &mut lists, excess);
    drop(lists);
    discard_all(floor, cache, node, doomed);
}

/// Slabs on no list any more.
pub(super) struct Doomed {
    /// The number of the first to go; the others are [before](list::before) it.
    first: u32,
    /// How many there are.
    pub(super) len: u32,
}

/// Takes up to `count` free slabs off their list, those that have been there longest. Slabs that readers may still look at
/// stay for as long as the cache lives.
pub(super) fn take_free<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    lists: &mut Lists,
    count: u64,
) -> Doomed {
    if cache.flags().contains(SlabFlags::TYPESAFE_BY_RCU) {
        return Doomed { first: 0, len: 0 };
    }
    cut_free(floor, cache, lists, count)
}

/// [`take_free`], whoever may still look at them.
pub(super) fn cut_free<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    lists: &mut Lists,
    count: u64,
) -> Doomed {
    let (first, len, damaged) = lists.free.cut_tail(floor.pages, count);
    if let Some(slab) = damaged {
        lists.events.errors += 1;
        list::tell_damaged(floor, cache, slab);
    }
    // Slabs of a cache of this engine are all alike (I-SLABGEO-1), and these are free.
    lists.free_objects -= u64::from(len) * cache.geometry.objects as u64;
    Doomed { first, len }
}

/// Gives back slabs of a node that were taken off their lists. No lock is held.
pub(super) fn discard_all<P: Platform>(floor: Floor<'_, P>, cache: &Cache, node: usize, doomed: Doomed) {
    let Doomed { first, len } = doomed;
    if len == 0 {
        return;
    }
    cache.node(node).uncount_slabs(len, cache.geometry.objects);
    let slabs = || {
        let mut next = first;
        (0..len).map_while(move |_| {
            let slab = list::at(floor.pages, next)?;
            next = list::before(slab);
            Some(slab)
        })
    };
    if desc::has_end(cache) {
        // SAFETY: they were free under the lock and are on no list, so nobody can reach them.
        slabs().for_each(|slab| unsafe { desc::end(floor, cache, slab) });
    }
    // SAFETY: these are heads of runs, slabs until now, that nobody else knows.
    unsafe { floor.pages.free_heads(floor.platform, slabs()) };
}

/// Reports an object that is not freed; ends the program where the heap is built to.
#[cold]
fn bad_free<P: Platform>(floor: Floor<'_, P>, cache: &Cache, object: *mut u8, what: &str) {
    brief(
        floor.platform,
        floor.debug,
        cache.name,
        format_args!(
            "BUG {}: object {object:p} {what}; FIX {}: Object at {object:p} not freed",
            cache.name, cache.name
        ),
    );
}
