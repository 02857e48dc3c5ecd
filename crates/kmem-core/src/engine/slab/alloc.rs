//! Taking objects from the slabs of a node, and making slabs.
//!
//! Partial slabs first, then free ones; when there are none a new slab is made, which serves the request at once and
//! is listed afterwards. Where the node has no memory, free objects of other nodes come before new slabs there.

use core::sync::atomic::Ordering;

use crate::debug::report::brief;
use crate::engine::cache::count;
use crate::engine::list;
use crate::engine::slab::grow::{self, Wish};
use crate::engine::slab::node::Lists;
use crate::engine::slab::{Cache, Floor, desc};
use crate::gfp::Gfp;
use crate::page::Page;
use crate::platform::Platform;

/// Takes up to `out.len()` objects; makes a new slab only while it has fewer than `at_least`. Returns how many, those
/// taken first first. `node`: `None` for the caller's own; strict with [`Gfp::THISNODE`].
pub(super) fn alloc_many<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    gfp: Gfp,
    node: Option<usize>,
    out: &mut [*mut u8],
    at_least: usize,
) -> usize {
    alloc_with(floor, cache, gfp, node, out, at_least, &mut |_, _| {})
}

/// One object of a checked cache, shown to `hand_out` with its slab before anybody else can look at either; null: no
/// memory.
pub(super) fn alloc_checked<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    gfp: Gfp,
    node: Option<usize>,
    hand_out: &mut impl FnMut(&Page, *mut u8),
) -> *mut u8 {
    let mut one = [core::ptr::null_mut()];
    match alloc_with(floor, cache, gfp, node, &mut one, 1, hand_out) {
        0 => core::ptr::null_mut(),
        _ => one[0],
    }
}

/// [`alloc_many`], showing each object to `hand_out`: under the lock of its node, or while only this thread knows its slab.
fn alloc_with<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    gfp: Gfp,
    node: Option<usize>,
    out: &mut [*mut u8],
    at_least: usize,
    hand_out: &mut impl FnMut(&Page, *mut u8),
) -> usize {
    let wanted = node.unwrap_or_else(|| floor.platform.current_node());
    let got = take_from_node(floor, cache, wanted, out, hand_out);
    if got >= at_least { got } else { grow_until(floor, cache, gfp, wanted, out, got, at_least, hand_out) }
}

/// Makes slabs until `out`, of which `got` places are filled, has `at_least` objects or there is no memory. How many it has.
#[allow(clippy::too_many_arguments, reason = "the rest of two callers")]
fn grow_until<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    gfp: Gfp,
    wanted: usize,
    out: &mut [*mut u8],
    mut got: usize,
    at_least: usize,
    hand_out: &mut impl FnMut(&Page, *mut u8),
) -> usize {
    let strict = gfp.contains(Gfp::THISNODE);
    let mut exhausted = strict || floor.platform.nodes() == 1;
    while got < at_least {
        let wish = if exhausted {
            Wish { gfp, node: wanted, strict }
        } else {
            // The rest of the world is still there to fall back to: no message, no effort.
            Wish { gfp: (gfp | Gfp::NOWARN | Gfp::NORETRY) - Gfp::NOFAIL, node: wanted, strict: true }
        };
        let room = &mut out[got..];
        let more = if grow::goes_out(cache, room.len()) {
            grow::create_full(floor, cache, wish, room)
        } else {
            grow::create(floor, cache, wish).map(|new| take_and_list(floor, cache, new, room, hand_out))
        };
        match more {
            Some(more) => got += more,
            None if exhausted => break,
            None => {
                exhausted = true;
                got += from_other_nodes(floor, cache, wanted, &mut out[got..at_least], hand_out);
            }
        }
    }
    got
}

/// Objects for an empty CPU array: what the node's shared array has, else its slabs, else new ones. How many; the last is
/// to be handed out first.
///
/// A node without free objects gets one new slab. When the CPU's refill before this one came to that too, it gets more, as long as all
/// their objects fit in the batch: a slab of few objects would otherwise make each of them a batch of its own. Each such refill in a
/// row may make twice as many as the one before, so that what was never asked for stays less than what was.
pub(super) fn refill<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    gfp: Gfp,
    out: &mut [*mut u8],
) -> usize {
    let wanted = floor.platform.current_node();
    let node = cache.node(wanted);
    let here = cache.here(floor.platform);
    {
        let mut lists = node.own.lists.lock(floor.platform);
        let got = lists.shared.pop(out);
        if got > 0 {
            lists.shared.touched = true;
            drop(lists);
            out[..got].reverse();
            if let Some(cpu) = here {
                cpu.own.served();
                count(&cpu.stats.stock_get, 1);
            }
            return got;
        }
        let got = take_from_lists(floor, cache, &mut lists, out, &mut |_, _| {});
        if got > 0 {
            lists.count_taken(got, node.objects.load(Ordering::Relaxed));
            drop(lists);
            if let Some(cpu) = here {
                cpu.own.served();
            }
            return got;
        }
    }
    let most = here.map_or(1, |cpu| cpu.own.grows());
    if most == 1 || !grow::goes_out(cache, out.len()) {
        return grow_until(floor, cache, gfp, wanted, out, 0, 1, &mut |_, _| {});
    }
    let objects = cache.geometry.objects;
    let end = (out.len() / objects).min(most) * objects;
    // The slab made first is to be used first, so it lies last.
    let mut from = end - objects;
    let got = grow_until(floor, cache, gfp, wanted, &mut out[from..end], 0, 1, &mut |_, _| {});
    let plain = (gfp | Gfp::NOWARN | Gfp::NORETRY) - Gfp::NOFAIL - Gfp::HIGH - Gfp::MEMALLOC;
    let wish = Wish { gfp: plain, node: wanted, strict: true };
    let end = from + got;
    while from > 0 && got == objects {
        if grow::create_full(floor, cache, wish, &mut out[from - objects..from]).is_none() {
            break;
        }
        from -= objects;
    }
    if from > 0 {
        out.copy_within(from..end, 0);
    }
    end - from
}

/// One object without the stacks; null: no memory.
pub(super) fn alloc_one<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    gfp: Gfp,
    node: Option<usize>,
) -> *mut u8 {
    let mut one = [core::ptr::null_mut()];
    if alloc_many(floor, cache, gfp, node, &mut one, 1) == 0 {
        return core::ptr::null_mut();
    }
    if let Some(cpu) = cache.here(floor.platform) {
        count(&cpu.stats.alloc_slow, 1);
    }
    one[0]
}

/// Takes what a new slab can give before anybody else knows it, and lists it.
fn take_and_list<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    new: &Page,
    out: &mut [*mut u8],
    hand_out: &mut impl FnMut(&Page, *mut u8),
) -> usize {
    // SAFETY: the slab is on no list, so only this thread knows it.
    let (got, _) = unsafe { desc::take(floor, cache, new, out) };
    out[..got].iter().for_each(|&object| hand_out(new, object));
    let node = cache.node(new.node());
    let objects = node.objects.load(Ordering::Relaxed);
    let mut lists = node.own.lists.lock(floor.platform);
    lists.add(floor.pages, new);
    lists.count_taken(got, objects);
    lists.events.served_away += u64::from(P::NUMA && new.node() != floor.platform.current_node());
    got
}

fn take_from_node<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    node: usize,
    out: &mut [*mut u8],
    hand_out: &mut impl FnMut(&Page, *mut u8),
) -> usize {
    let state = cache.node(node);
    let mut lists = state.own.lists.lock(floor.platform);
    let got = take_from_lists(floor, cache, &mut lists, out, hand_out);
    lists.count_taken(got, state.objects.load(Ordering::Relaxed));
    lists.events.served_away += u64::from(P::NUMA && got > 0 && node != floor.platform.current_node());
    got
}

/// Fills `out` as far as the slabs of the locked node have free objects.
fn take_from_lists<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    lists: &mut Lists,
    out: &mut [*mut u8],
    hand_out: &mut impl FnMut(&Page, *mut u8),
) -> usize {
    let mut got = 0;
    while got < out.len() {
        let slab = match lists.partial.first(floor.pages) {
            Some(slab) => slab,
            None => {
                let Some(slab) = lists.free.first(floor.pages) else { break };
                lists.free_touched = true;
                slab
            }
        };
        let before = desc::free(slab);
        // SAFETY: the caller holds the lock of the slab's node.
        let (taken, damaged) = unsafe { desc::take(floor, cache, slab, &mut out[got..]) };
        out[got..got + taken].iter().for_each(|&object| hand_out(slab, object));
        got += taken;
        lists.free_objects -= u64::from(before - desc::free(slab));
        if !lists.settle(floor.pages, slab, false) {
            lists.events.errors += 1;
            list::tell_damaged(floor, cache, slab);
        }
        if damaged {
            lists.events.errors += 1;
            report_damage(floor, cache, slab);
        }
    }
    got
}

/// Free objects of any other node, the nearest first, when the wanted one has no memory.
fn from_other_nodes<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    wanted: usize,
    out: &mut [*mut u8],
    hand_out: &mut impl FnMut(&Page, *mut u8),
) -> usize {
    let mut got = 0;
    for i in 1..floor.platform.nodes() {
        got +=
            take_from_node(floor, cache, floor.platform.nearest_node(wanted, i), &mut out[got..], hand_out);
    }
    got
}

/// One object, if the node's lock is free and its slabs have one.
pub(super) fn take_at_once<P: Platform>(floor: Floor<'_, P>, cache: &Cache) -> *mut u8 {
    let node = cache.node(floor.platform.current_node());
    let mut one = [core::ptr::null_mut()];
    if let Some(mut lists) = node.own.lists.try_lock(floor.platform)
        && take_from_lists(floor, cache, &mut lists, &mut one, &mut |_, _| {}) == 1
    {
        drop(lists);
        if let Some(cpu) = cache.here(floor.platform) {
            count(&cpu.stats.alloc_slow, 1);
        }
    }
    one[0]
}

/// Says that a slab's index was written to; ends the program where the heap is built to.
#[cold]
fn report_damage<P: Platform>(floor: Floor<'_, P>, cache: &Cache, slab: &Page) {
    brief(
        floor.platform,
        floor.debug,
        cache.name,
        format_args!(
            "BUG {}: the index of free objects of slab {:p} was written to; FIX {}: Marking all objects used ({})",
            cache.name,
            floor.pages.address(slab),
            cache.name,
            slab.objects.load(Ordering::Relaxed)
        ),
    );
}
