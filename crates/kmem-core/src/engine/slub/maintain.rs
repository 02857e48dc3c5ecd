//! Moving slabs between owners, shrinking, counting, checking.

use core::sync::atomic::Ordering;

use crate::debug::report;
use crate::engine::list::{self, SlabList};
use crate::engine::slub::Floor;
pub(crate) use crate::engine::slub::alloc::tail;
use crate::engine::slub::node::NodeLists;
use crate::engine::slub::word::{self, Word};
use crate::engine::slub::{Cache, Cpu, checked, slab};
use crate::engine::{Counts, Fault};
use crate::flags::SlabFlags;
use crate::page::Page;
use crate::platform::{MAX_NODES, Platform};

/// Takes the CPU slab away from the CPU and puts it where its state belongs. The caller holds `inner`.
/// An empty slab stays on its node's list: nothing is given back while a lock is held.
pub(crate) fn deactivate<P: Platform>(floor: Floor<'_, P>, cache: &Cache, cpu: &Cpu) {
    let Some(slab) = cpu.slab(floor.pages) else { return };
    // I-CSLAB-1: first the slab, then its objects.
    cpu.set_slab(0);
    let chain = cpu.take_all(floor.pages);
    let extent = slab::extent(floor, slab);
    let objects = slab.objects.load(Ordering::Relaxed);
    let fresh = objects - slab.carved.load(Ordering::Relaxed);
    let (last, linked) = if chain.is_null() { (chain, 0) } else { tail(floor, cache, extent, chain) };
    let home = cache.node(slab.node());
    let mut lock: Option<crate::sync::Guard<'_, NodeLists, P, { crate::sync::rank::NODE }>> = None;
    let mut old = word::load(slab);
    loop {
        let head = if chain.is_null() {
            old.head()
        } else {
            let behind =
                old.head().map_or(core::ptr::null_mut(), |offset| (extent.base + offset as usize) as *mut u8);
            // SAFETY: the chain was taken from the CPU's word, so this thread owns its last object.
            unsafe { cache.set_link(last, behind) };
            Some((chain as usize - extent.base) as u32)
        };
        // Saturating: a damaged chain was reported and cut short, and what it counted is anybody's guess.
        let inuse = old.inuse().saturating_sub(linked).saturating_sub(fresh);
        let new = Word::new(head, inuse, false);
        if new.inuse() < objects && lock.is_none() {
            lock = Some(home.own.list.lock(floor.platform));
            old = word::load(slab);
            continue;
        }
        match word::swap_if(slab, old, new) {
            Ok(()) => {
                if new.inuse() < objects
                    && let Some(list) = &mut lock
                {
                    // Remote frees were seen: give them time to become more.
                    if old.head().is_some() {
                        list.partial.push_back(floor.pages, slab);
                    } else {
                        list.partial.push_front(floor.pages, slab);
                    }
                }
                return;
            }
            Err(now) => old = now,
        }
    }
}

/// Adds a slab that a free froze to this CPU's chain; a chain that is too long goes to the nodes.
pub(crate) fn push_chain<P: Platform>(floor: Floor<'_, P>, cache: &Cache, cpu: &Cpu, slab: &Page) {
    let overflow = {
        let mut inner = cpu.stack.lock(floor.platform);
        let overflow = if inner.own.chain_slabs >= cache.own.cpu_partial_slabs.load(Ordering::Relaxed) {
            inner.own.chain_slabs = 0;
            core::mem::take(&mut inner.own.chain)
        } else {
            0
        };
        slab.chain.store(u64::from(inner.own.chain), Ordering::Relaxed);
        inner.own.chain = list::number(floor.pages, slab);
        inner.own.chain_slabs += 1;
        overflow
    };
    thaw_chain(floor, cache, overflow);
}

/// Gives a whole chain of frozen slabs to their nodes. No lock is held.
fn thaw_chain<P: Platform>(floor: Floor<'_, P>, cache: &Cache, mut chain: u32) {
    let keep_pages = cache.flags().contains(SlabFlags::TYPESAFE_BY_RCU);
    while let Some(slab) = list::at(floor.pages, chain) {
        chain = slab.chain.load(Ordering::Relaxed) as u32;
        let objects = slab.objects.load(Ordering::Relaxed);
        let mut list = cache.node(slab.node()).own.list.lock(floor.platform);
        let mut old = word::load(slab);
        let new = loop {
            let new = Word::new(old.head(), old.inuse(), false);
            match word::swap_if(slab, old, new) {
                Ok(()) => break new,
                Err(now) => old = now,
            }
        };
        if new.inuse() == 0
            && !keep_pages
            && list.partial.len >= cache.own.min_partial.load(Ordering::Relaxed)
        {
            drop(list);
            // SAFETY: all objects are free and the slab is on no list.
            unsafe { slab::discard(floor, cache, slab) };
        } else if new.inuse() < objects {
            list.partial.push_back(floor.pages, slab);
        }
    }
}

/// Sends a CPU's slab and chain back to the nodes.
pub(super) fn flush_cpu<P: Platform>(floor: Floor<'_, P>, cache: &Cache, number: usize) {
    let Some(cpu) = cache.cpu(floor.platform, number) else { return };
    let chain = {
        let mut inner = cpu.stack.lock(floor.platform);
        deactivate(floor, cache, cpu);
        inner.own.chain_slabs = 0;
        core::mem::take(&mut inner.own.chain)
    };
    thaw_chain(floor, cache, chain);
}

/// Tells the slabs on the nodes' lists the address of their cache, which moved.
pub(super) fn rename_slabs<P: Platform>(floor: Floor<'_, P>, cache: &Cache) {
    for node in 0..floor.platform.nodes() {
        let list = cache.node(node).own.list.lock(floor.platform);
        for list in [&list.partial, &list.checked, &list.full] {
            let mut next = list.first(floor.pages);
            while let Some(slab) = next {
                slab.cache.store(core::ptr::from_ref(cache).cast_mut().cast(), Ordering::Relaxed);
                next = list.after(floor.pages, slab);
            }
        }
    }
}

const BUCKETS: usize = 32;

/// Takes a slab off a list of its node. One that is not on it, by its links, was taken out before, or the links were written over,
/// and whoever follows them is led anywhere: that ends the program in a guarded heap. Elsewhere it is told, and the list is
/// mended.
pub(super) fn take_out<P: Platform>(floor: Floor<'_, P>, cache: &Cache, list: &mut SlabList, slab: &Page) {
    if floor.guarded && !list.holds(floor.pages, slab) {
        unlinked(floor, cache, slab);
    }
    if !list.take_out(floor.pages, slab) {
        list::tell_damaged(floor, cache, slab);
    }
}

#[cold]
#[inline(never)]
fn unlinked<P: Platform>(floor: Floor<'_, P>, cache: &Cache, slab: &Page) -> ! {
    let start = floor.pages.address(slab);
    let text = format_args!("kmem: the list of slabs of cache {} is damaged at {start:p}", cache.name);
    report::tell(floor.platform, floor.debug, cache.name, text);
    floor.platform.fatal()
}

/// Frees the empty slabs of one node and sorts the rest. `keep_pages`: empty slabs stay (they are sorted last).
pub(super) fn release_empty<P: Platform>(floor: Floor<'_, P>, cache: &Cache, node: usize, keep_pages: bool) {
    let mut empty = SlabList::new();
    {
        let mut lists = cache.node(node).own.list.lock(floor.platform);
        let lists = &mut *lists;
        for list in [&mut lists.partial, &mut lists.checked] {
            let mut buckets = [const { SlabList::new() }; BUCKETS];
            let mut rest = SlabList::new();
            while let Some(slab) = list.first(floor.pages) {
                take_out(floor, cache, list, slab);
                let inuse = word::load(slab).inuse();
                let free = usize::from(slab.objects.load(Ordering::Relaxed) - inuse);
                if inuse == 0 && !keep_pages {
                    empty.push_back(floor.pages, slab);
                } else if (1..=BUCKETS).contains(&free) {
                    buckets[free - 1].push_back(floor.pages, slab);
                } else {
                    rest.push_back(floor.pages, slab);
                }
            }
            for bucket in buckets.iter_mut().chain(core::iter::once(&mut rest)) {
                while let Some(slab) = bucket.first(floor.pages) {
                    bucket.remove(floor.pages, slab);
                    list.push_back(floor.pages, slab);
                }
            }
        }
    }
    while let Some(slab) = empty.first(floor.pages) {
        empty.remove(floor.pages, slab);
        // SAFETY: it was empty under the lock and on no CPU, so no object of it exists that could be freed or allocated.
        unsafe { slab::discard(floor, cache, slab) };
    }
}

/// Adds barns, partial lists, CPU slabs and chains to `counts`.
pub(super) fn count<P: Platform>(floor: Floor<'_, P>, cache: &Cache, counts: &mut Counts) {
    for node in 0..floor.platform.nodes().min(MAX_NODES) {
        let state = cache.node(node);
        if let Some(barn) = state.own.barn.lock_unless_held(floor.platform) {
            counts.free_barn += u64::from(barn.objects);
        }
        let Some(list) = state.own.list.lock_unless_held(floor.platform) else { continue };
        for list in [&list.partial, &list.checked] {
            counts.partial += u64::from(list.len);
            for slab in list.iter(floor.pages) {
                let free = slab.objects.load(Ordering::Relaxed) - word::load(slab).inuse();
                counts.free_partial += u64::from(free);
            }
        }
    }
    for number in 0..floor.platform.cpus() {
        let Some(cpu) = cache.cpu(floor.platform, number) else { continue };
        let Some(inner) = cpu.stack.lock_unless_held(floor.platform) else { continue };
        if let Some(slab) = cpu.slab(floor.pages) {
            counts.cpu_slabs += 1;
            let objects = slab.objects.load(Ordering::Relaxed);
            counts.free_cpu += u64::from(objects - slab.carved.load(Ordering::Relaxed))
                + u64::from(objects - word::load(slab).inuse());
            let chain = cpu.take_all(floor.pages);
            if !chain.is_null() {
                let (last, len) = tail(floor, cache, slab::extent(floor, slab), chain);
                counts.free_cpu += u64::from(len);
                // SAFETY: the chain was just taken, and the slab cannot change under the lock.
                unsafe { cpu.give(floor.pages, cache, list::number(floor.pages, slab), chain, last) };
            }
        }
        let mut next = inner.own.chain;
        while let Some(slab) = list::at(floor.pages, next) {
            counts.cpu_slabs += 1;
            counts.free_cpu += u64::from(slab.objects.load(Ordering::Relaxed) - word::load(slab).inuse());
            next = slab.chain.load(Ordering::Relaxed) as u32;
        }
    }
}

/// Checks every slab on the nodes' lists. Call it when nobody works on the cache.
pub(super) fn validate<P: Platform>(floor: Floor<'_, P>, cache: &Cache) -> Result<u64, Fault> {
    let mut checked = 0;
    for node in 0..floor.platform.nodes() {
        let list = cache.node(node).own.list.lock(floor.platform);
        let mut listed = 0;
        for slab in list.partial.iter(floor.pages) {
            let extent = slab::extent(floor, slab);
            let state = word::load(slab);
            let objects = slab.objects.load(Ordering::Relaxed);
            let mine = slab.cache.load(Ordering::Relaxed) == core::ptr::from_ref(cache).cast_mut().cast();
            if state.frozen() || state.inuse() >= objects || !mine || !list.partial.holds(floor.pages, slab) {
                return Err(Fault::State(extent.base));
            }
            if !cache.is_on_map(floor.pages, slab) {
                return Err(Fault::Map(extent.base));
            }
            let mut free = objects - slab.carved.load(Ordering::Relaxed);
            let mut head = state.head();
            while let Some(offset) = head {
                if cache
                    .geometry
                    .index_of(extent.base, extent.base + offset as usize, objects.into())
                    .is_none()
                    || free >= objects
                {
                    return Err(Fault::Freelist(extent.base));
                }
                free += 1;
                // SAFETY: the object is on the slab's list, and the caller promised quiet.
                match unsafe { cache.checked_link((extent.base + offset as usize) as *mut u8, extent) } {
                    Ok(link) => head = link,
                    Err(_) => return Err(Fault::Freelist(extent.base)),
                }
            }
            if objects - free != state.inuse() {
                return Err(Fault::Count(extent.base, state.inuse(), objects - free));
            }
            listed += 1;
        }
        if listed != list.partial.len {
            return Err(Fault::State(0));
        }
        checked += u64::from(listed);
        checked += checked::verify(floor, cache, &list)?;
    }
    Ok(checked)
}

/// Objects of the largest slab, in words of a map.
const MAP: usize = 32768 / 64;
/// How often a slab is looked at that changes meanwhile.
const LOOKS: usize = 3;

/// Shows the objects in use of a slab that no CPU owns: all but those on its list, and those that were never carved.
pub(super) fn visit_in_use<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    slab: &Page,
    visit: &mut dyn FnMut(usize),
) {
    if checked::is_checked_slab(slab) {
        return checked::visit_in_use(floor, cache, slab, visit);
    }
    let mut free = [0_u64; MAP];
    let objects = usize::from(slab.objects.load(Ordering::Relaxed));
    let sound = (0..LOOKS).any(|_| {
        free = [0; MAP];
        let before = word::load(slab);
        !before.frozen() && map_free(floor, cache, slab, before, &mut free) && before == word::load(slab)
    });
    if sound {
        let extent = slab::extent(floor, slab);
        for index in (0..objects).filter(|index| free[index / 64] >> (index % 64) & 1 == 0) {
            visit(cache.object(extent.base, index).addr());
        }
    }
}

/// Notes which objects of a slab are free. False: its list leads nowhere.
fn map_free<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    slab: &Page,
    word: Word,
    free: &mut [u64; MAP],
) -> bool {
    let extent = slab::extent(floor, slab);
    let geometry = &cache.geometry;
    let objects = usize::from(slab.objects.load(Ordering::Relaxed));
    let start = usize::from(slab.start.load(Ordering::Relaxed));
    let mut count = 0;
    let mut note = |index: usize| {
        count += 1;
        let fits = index < objects && count <= objects;
        if fits {
            free[index / 64] |= 1 << (index % 64);
        }
        fits
    };
    for position in usize::from(slab.carved.load(Ordering::Relaxed))..objects {
        if !note(slab::index_at(cache, objects, start, position)) {
            return false;
        }
    }
    let mut next = word.head();
    while let Some(offset) = next {
        let Some(place) = (offset as usize).checked_sub(geometry.red_left_pad) else { return false };
        if !note(place / geometry.size) {
            return false;
        }
        // SAFETY: the link of an object of this slab, whose memory stays mapped; a value that somebody else put there meanwhile is
        // refused, or found out by the slab's word.
        match unsafe { cache.checked_link((extent.base + offset as usize) as *mut u8, extent) } {
            Ok(link) => next = link,
            Err(_) => return false,
        }
    }
    true
}
