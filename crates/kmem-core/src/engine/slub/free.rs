//! Giving objects back to their slabs.

use core::sync::atomic::Ordering;

use crate::debug::report::brief;
use crate::engine::slub::Floor;
use crate::engine::slub::word::{self, Word};
use crate::engine::slub::{Cache, checked, maintain, slab};
use crate::engine::{list, sheaf};
use crate::flags::SlabFlags;
use crate::page::Page;
use crate::platform::Platform;

/// How many objects ahead are asked for. Of those of one slab most are never asked for: they are found with the first.
const AHEAD: usize = 6;

/// Gives free objects back, those of one slab together by one compare-and-swap. The order of the array is lost.
///
/// # Safety
/// Every entry is a free object of this cache that the caller owns, each one once.
pub(super) unsafe fn free_many<P: Platform>(floor: Floor<'_, P>, cache: &Cache, objects: &mut [*mut u8]) {
    let fetch = |object: *mut u8| {
        floor.pages.fetch_head(object.addr(), cache.geometry.order);
        cache.fetch_link(object);
    };
    objects.iter().skip(1).take(AHEAD).for_each(|&object| fetch(object));
    let mut rest = objects;
    while let Some((&mut head, others)) = rest.split_first_mut() {
        if let Some(&object) = others.get(AHEAD) {
            fetch(object);
        }
        let Some(slab) = slab_of(floor, cache, head) else {
            rest = others;
            continue;
        };
        if checked::is_checked_slab(slab) {
            // SAFETY: the caller's promise.
            unsafe { checked::free_one(floor, cache, slab, head) };
            rest = others;
            continue;
        }
        // Objects of the same slab move to the front and are linked behind the first.
        let extent = slab::extent(floor, slab);
        let mut tail = head;
        let mut same = 0;
        for i in 0..others.len() {
            let object = others[i];
            if (object as usize).wrapping_sub(extent.base) < extent.len {
                others.swap(i, same);
                same += 1;
                // SAFETY: the caller owns both objects.
                unsafe { cache.set_link(tail, object) };
                tail = object;
            }
        }
        // SAFETY: a chain of `same + 1` free objects of this slab, owned by the caller.
        unsafe { free_chain(floor, cache, slab, head, tail, same as u16 + 1) };
        rest = &mut others[same..];
    }
}

/// The slab of an object; reports and leaks an object that is in no slab of this cache.
fn slab_of<'a, P: Platform>(floor: Floor<'a, P>, cache: &Cache, object: *mut u8) -> Option<&'a Page> {
    if let Some(slab) = floor.pages.head_around(object.addr(), cache.geometry.order)
        && slab.cache.load(Ordering::Relaxed) == core::ptr::from_ref(cache).cast_mut().cast()
    {
        return Some(slab);
    }
    brief(
        floor.platform,
        floor.debug,
        cache.name,
        format_args!(
            "BUG {}: object {object:p} is in no slab of this cache; FIX {}: Object at {object:p} not freed",
            cache.name, cache.name
        ),
    );
    None
}

/// Puts a chain of `count` free objects on their slab and does what the slab's new state asks for.
///
/// # Safety
/// `head` to `tail` are linked free objects of `slab`, owned by the caller.
unsafe fn free_chain<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    slab: &Page,
    head: *mut u8,
    tail: *mut u8,
    count: u16,
) {
    let number = list::number(floor.pages, slab);
    let cpu = cache.here(floor.platform);
    if let Some(cpu) = cpu {
        // SAFETY: the caller's promise.
        if cpu.slab_number() == number && unsafe { cpu.give(floor.pages, cache, number, head, tail) } {
            return;
        }
    }
    let base = floor.pages.address(slab) as usize;
    let objects = slab.objects.load(Ordering::Relaxed);
    let chains = cache.own.cpu_partial_slabs.load(Ordering::Relaxed) > 0;
    let keep_pages = cache.flags().contains(SlabFlags::TYPESAFE_BY_RCU);
    let home = cache.node(slab.node());
    let mut lock = None;
    let mut old = word::load(slab);
    let (old, new) = loop {
        let behind = old.head().map_or(core::ptr::null_mut(), |offset| (base + offset as usize) as *mut u8);
        // SAFETY: the caller owns the tail until the compare-and-swap succeeds.
        unsafe { cache.set_link(tail, behind) };
        let Some(inuse) = old.inuse().checked_sub(count) else {
            drop(lock);
            return overflow(floor, cache, old.inuse(), count, head);
        };
        let was_full = old.inuse() == objects;
        let to_chain = !old.frozen() && was_full && inuse > 0 && chains && cpu.is_some();
        if !old.frozen() && !to_chain && (inuse == 0 || was_full) && lock.is_none() {
            // I-SLUB-3: the list may have to change, so the lock comes before the compare-and-swap.
            lock = Some(home.own.list.lock(floor.platform));
            old = word::load(slab);
            continue;
        }
        let new = Word::new(Some((head as usize - base) as u32), inuse, old.frozen() || to_chain);
        match word::swap_if(slab, old, new) {
            Ok(()) => break (old, new),
            Err(now) => old = now,
        }
    };
    if old.frozen() {
        return;
    }
    let was_full = old.inuse() == objects;
    if new.frozen() {
        drop(lock);
        if let Some(cpu) = cpu {
            maintain::push_chain(floor, cache, cpu, slab);
        }
        return;
    }
    let Some(mut list) = lock else { return };
    let enough = |partial: u32| {
        partial >= cache.own.min_partial.load(Ordering::Relaxed)
            // A run that no stack had room for yet: any other size may have it.
            || !floor.pinned && cache.is_of_runs() && !sheaf::has_stack(floor, cache)
    };
    if new.inuse() == 0 && !keep_pages && enough(list.partial.len) {
        if !was_full {
            maintain::take_out(floor, cache, &mut list.partial, slab);
        }
        drop(list);
        // SAFETY: all objects are free and the slab is on no list, so nobody can reach it.
        unsafe { slab::discard(floor, cache, slab) };
    } else if was_full {
        list.partial.push_back(floor.pages, slab);
    }
}

#[cold]
fn overflow<P: Platform>(floor: Floor<'_, P>, cache: &Cache, inuse: u16, count: u16, object: *mut u8) {
    brief(
        floor.platform,
        floor.debug,
        cache.name,
        format_args!(
            "BUG {}: Slab has {inuse} allocated objects but {count} are to be freed; FIX {}: Object at {object:p} not freed",
            cache.name, cache.name
        ),
    );
}
