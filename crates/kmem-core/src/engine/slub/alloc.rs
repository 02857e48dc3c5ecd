//! Taking objects out of slabs.
//!
//! The order in which places are tried is the point of SLUB: the CPU slab's own chain, what others
//! freed into it meanwhile, what was never carved, the CPU's partial slabs, the node's partial
//! slabs, other nodes, and only then a new slab.

use core::sync::atomic::Ordering;

use crate::debug::report::brief;
use crate::engine::cache::count;
use crate::engine::list;
use crate::engine::slub::Floor;
use crate::engine::slub::object::Extent;
use crate::engine::slub::slab::SlabKind;
use crate::engine::slub::word::{self, Word};
use crate::engine::slub::{Cache, Cpu, Stack, maintain, slab};
use crate::fetch;
use crate::gfp::Gfp;
use crate::page::Page;
use crate::platform::{PAGE_SIZE, Platform};

/// Clears what the chains of slabs left in objects that were taken off them, where a free object is zero (I-GUARD-3).
pub(super) fn clear_links<P: Platform>(floor: Floor<'_, P>, cache: &Cache, objects: &[*mut u8]) {
    if floor.guarded && cache.zeroed() != 0 {
        for &object in objects {
            // SAFETY: this thread took the object; the end of its chain and its slab are not reached through it any more.
            unsafe { object.wrapping_add(cache.geometry.offset).cast::<u64>().write(0) };
        }
    }
}

/// How many objects a cache without stacks links at once when it carves, at most.
const CARVE: usize = 32;

/// How many of this size it links: a link is a touch, and large objects should not all be touched for the first one's sake.
const fn linked_at_once(size: usize) -> usize {
    match PAGE_SIZE / size {
        fit if fit < CARVE => fit,
        _ => CARVE,
    }
}

/// True when the node of an object must be looked at: always where the platform keeps nodes apart, elsewhere for strict
/// requests on a machine with several.
fn needs_node<P: Platform>(floor: Floor<'_, P>, gfp: Gfp) -> bool {
    P::NUMA || (gfp.contains(Gfp::THISNODE) && floor.platform.nodes() > 1)
}

/// One object without the stacks: from the CPU slab's transaction, or from wherever there is one.
pub(super) fn alloc_one<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    gfp: Gfp,
    node: Option<usize>,
) -> *mut u8 {
    // A CPU slab may be of another node: its thread migrated while it was fetched. Who asks for a node goes where that
    // is looked at.
    let any = node.is_none() || !needs_node(floor, gfp);
    if any && let Some(cpu) = cache.here(floor.platform) {
        let object = {
            let _own = cpu.stack.lock(floor.platform);
            cpu.take_one(floor.pages, cache)
        };
        if !object.is_null() {
            count(&cpu.stats.alloc_slow, 1);
            return object;
        }
    }
    let mut one = [core::ptr::null_mut()];
    if alloc_many(floor, cache, gfp, node, &mut one, 1) == 0 {
        return core::ptr::null_mut();
    }
    if let Some(cpu) = cache.here(floor.platform) {
        count(&cpu.stats.alloc_slow, 1);
    }
    one[0]
}

/// Takes up to `out.len()` objects; makes a new slab only while it has fewer than `at_least`.
/// Returns how many. `node`: `None` for the caller's own; strict with [`Gfp::THISNODE`].
pub(super) fn alloc_many<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    gfp: Gfp,
    node: Option<usize>,
    out: &mut [*mut u8],
    at_least: usize,
) -> usize {
    let here = floor.platform.current_node();
    let wanted = node.unwrap_or(here);
    let strict = gfp.contains(Gfp::THISNODE);
    let cpu = cache.here(floor.platform);
    // A slab of one object has nothing more to offer to its CPU, which would only keep it from others when it is free.
    let runs = !floor.pinned && cache.is_of_runs();
    let Some(cpu) = cpu.filter(|_| !runs && (wanted == here && P::NUMA || !needs_node(floor, gfp))) else {
        return alloc_from_node(floor, cache, gfp, wanted, strict, out, at_least);
    };
    let mut got = 0;
    loop {
        if got < at_least {
            let mut inner = cpu.stack.lock(floor.platform);
            got += take(floor, cache, cpu, &mut inner, wanted, &mut out[got..]);
        }
        if got >= at_least {
            return got;
        }
        if P::NUMA && !strict {
            got += from_other_nodes(floor, cache, wanted, &mut out[got..at_least]);
            if got >= at_least {
                return got;
            }
        }
        let Some(new) = slab::create(floor, cache, gfp, wanted, strict, SlabKind::Frozen) else { return got };
        let home = new.node();
        if P::NUMA && home != wanted {
            // The node has no memory and the request allows another's: that slab serves from its own node's list.
            {
                let mut list = cache.node(home).own.list.lock(floor.platform);
                thaw(new);
                list.partial.push_front(floor.pages, new);
            }
            got += take_from_list(floor, cache, home, &mut out[got..at_least]);
            continue;
        }
        let number = list::number(floor.pages, new);
        let mut inner = cpu.stack.lock(floor.platform);
        if cpu.slab_number() == 0 {
            own(new);
            cpu.set_slab(number);
        } else {
            // Another thread on this CPU was faster.
            new.chain.store(u64::from(inner.own.chain), Ordering::Relaxed);
            inner.own.chain = number;
            inner.own.chain_slabs += 1;
        }
    }
}

/// Marks all objects of a frozen slab as in the CPU's hands; returns the first of those on its list.
fn own(slab: &Page) -> Option<u32> {
    let objects = slab.objects.load(Ordering::Relaxed);
    let mut old = word::load(slab);
    loop {
        match word::swap_if(slab, old, Word::new(None, objects, true)) {
            Ok(()) => return old.head(),
            Err(now) => old = now,
        }
    }
}

/// Fills `out` from everything within reach of the CPU without making a slab.
fn take<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    cpu: &Cpu,
    inner: &mut Stack,
    wanted: usize,
    out: &mut [*mut u8],
) -> usize {
    let mut got = 0;
    while got < out.len() {
        if let Some(slab) = cpu.slab(floor.pages) {
            if P::NUMA && slab.node() != wanted {
                super::maintain::deactivate(floor, cache, cpu);
                continue;
            }
            let chain = cpu.take_all(floor.pages);
            if !chain.is_null() {
                got += walk(floor, cache, cpu, slab, chain, &mut out[got..]);
                continue;
            }
            let base = floor.pages.address(slab) as usize;
            if word::load(slab).head().is_some()
                && let Some(head) = own(slab)
            {
                got += walk(floor, cache, cpu, slab, (base + head as usize) as *mut u8, &mut out[got..]);
                continue;
            }
            got += slab::carve(floor, cache, slab, &mut out[got..]);
            if got == out.len() {
                if cache.capacity() == 0 {
                    link_some(floor, cache, cpu, slab);
                }
                break;
            }
            // Nothing is left: let it go as a full slab. What comes back meanwhile goes with it.
            super::maintain::deactivate(floor, cache, cpu);
            continue;
        }
        if let Some(slab) = list::at(floor.pages, inner.own.chain) {
            inner.own.chain = slab.chain.load(Ordering::Relaxed) as u32;
            inner.own.chain_slabs -= 1;
            fetch_next(floor, cache, inner.own.chain);
            adopt(floor, cache, cpu, slab);
            continue;
        }
        if !from_node(floor, cache, cpu, inner, wanted) {
            break;
        }
    }
    got
}

/// Asks the processor for the first free object of the slab that will be the CPU's next, and for the descriptor of the one after that.
fn fetch_next<P: Platform>(floor: Floor<'_, P>, cache: &Cache, number: u32) {
    let Some(next) = list::at(floor.pages, number) else { return };
    if let Some(head) = word::load(next).head() {
        cache.fetch_link(floor.pages.address(next).wrapping_add(head as usize));
    }
    if let Some(behind) = list::at(floor.pages, next.chain.load(Ordering::Relaxed) as u32) {
        fetch::line(behind);
    }
}

/// Makes a frozen slab the CPU slab and hangs its free objects on the transaction word.
fn adopt<P: Platform>(floor: Floor<'_, P>, cache: &Cache, cpu: &Cpu, slab: &Page) {
    let head = own(slab);
    cpu.set_slab(list::number(floor.pages, slab));
    if let Some(head) = head {
        let base = floor.pages.address(slab) as usize;
        publish(floor, cache, cpu, slab, (base + head as usize) as *mut u8);
    }
}

/// Hangs a chain on the CPU's word; others may have given objects to it already.
fn publish<P: Platform>(floor: Floor<'_, P>, cache: &Cache, cpu: &Cpu, slab: &Page, chain: *mut u8) {
    let number = list::number(floor.pages, slab);
    // SAFETY: as below.
    if unsafe { cpu.give_first(floor.pages, number, chain) } {
        return;
    }
    let extent = slab::extent(floor, slab);
    let (tail, _) = tail(floor, cache, extent, chain);
    // SAFETY: the chain was taken by this CPU, which owns all of it; the slab cannot change: the caller holds `inner`.
    let given = unsafe { cpu.give(floor.pages, cache, number, chain, tail) };
    debug_assert!(given);
}

/// The last object of a chain and its length. A damaged link, or one that leads back into the chain, ends it with a report:
/// the rest is lost, not used.
pub(crate) fn tail<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    extent: Extent,
    chain: *mut u8,
) -> (*mut u8, u16) {
    let most = extent.len / cache.geometry.size;
    let mut last = chain;
    let mut len = 1;
    while let Some(next) = follow(floor, cache, extent, last) {
        if len == most {
            damaged(floor, cache, format_args!("Freelist cycle detected at object {last:p}"));
            break;
        }
        last = next;
        len += 1;
    }
    (last, len as u16)
}

/// Reports damage in free memory; ends the program where the heap is built to.
#[cold]
fn damaged<P: Platform>(floor: Floor<'_, P>, cache: &Cache, what: core::fmt::Arguments<'_>) {
    brief(
        floor.platform,
        floor.debug,
        cache.name,
        format_args!("BUG {}: {what}; FIX {}: Isolate corrupted freechain", cache.name, cache.name),
    );
}

/// The object after `object`; nothing at the end or after a damaged link, which is reported.
fn follow<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    extent: Extent,
    object: *mut u8,
) -> Option<*mut u8> {
    // SAFETY: the caller owns the chain that `object` is on.
    match unsafe { cache.checked_link(object, extent) } {
        Ok(next) => next.map(|offset| (extent.base + offset as usize) as *mut u8),
        Err(bad) => {
            damaged(
                floor,
                cache,
                format_args!(
                    "Freechain corrupt: free object {object:p} was written to (its free pointer leads to {:#x})",
                    bad.next
                ),
            );
            None
        }
    }
}

/// Moves objects from a chain to `out`; hangs the rest on the CPU's word.
fn walk<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    cpu: &Cpu,
    slab: &Page,
    chain: *mut u8,
    out: &mut [*mut u8],
) -> usize {
    let extent = slab::extent(floor, slab);
    let mut next = Some(chain);
    let mut got = 0;
    while let Some(object) = next {
        if got == out.len() {
            publish(floor, cache, cpu, slab, object);
            break;
        }
        next = follow(floor, cache, extent, object);
        out[got] = object;
        got += 1;
    }
    got
}

/// Carves a few more objects and links them, for a cache whose fast path is the transaction.
fn link_some<P: Platform>(floor: Floor<'_, P>, cache: &Cache, cpu: &Cpu, slab: &Page) {
    let mut some = [core::ptr::null_mut(); CARVE];
    let got = slab::carve(floor, cache, slab, &mut some[..linked_at_once(cache.geometry.size)]);
    if got == 0 {
        return;
    }
    for pair in some[..got].windows(2) {
        // SAFETY: carved objects belong to the carver.
        unsafe { cache.set_link(pair[0], pair[1]) };
    }
    // SAFETY: as above; the slab is the CPU slab and cannot change under `inner`.
    unsafe { cpu.give(floor.pages, cache, list::number(floor.pages, slab), some[0], some[got - 1]) };
}

/// Takes partial slabs from the node: the first becomes the CPU slab, a few more the CPU's chain.
fn from_node<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    cpu: &Cpu,
    inner: &mut Stack,
    wanted: usize,
) -> bool {
    let limit = cache.own.cpu_partial_slabs.load(Ordering::Relaxed) / 2;
    let node = cache.node(wanted);
    let first = {
        let mut list = node.own.list.lock(floor.platform);
        let Some(first) = list.partial.first(floor.pages) else { return false };
        maintain::take_out(floor, cache, &mut list.partial, first);
        freeze(first);
        while inner.own.chain_slabs < limit {
            let Some(more) = list.partial.first(floor.pages) else { break };
            maintain::take_out(floor, cache, &mut list.partial, more);
            freeze(more);
            more.chain.store(u64::from(inner.own.chain), Ordering::Relaxed);
            inner.own.chain = list::number(floor.pages, more);
            inner.own.chain_slabs += 1;
        }
        first
    };
    adopt(floor, cache, cpu, first);
    true
}

/// Marks a slab as owned by a CPU. The caller holds the node's lock and took it off the list.
pub(crate) fn freeze(slab: &Page) {
    let mut old = word::load(slab);
    while let Err(now) = word::swap_if(slab, old, Word::new(old.head(), old.inuse(), true)) {
        old = now;
    }
}

/// Objects of other nodes, when this one is out of partial slabs and the cache's ratio allows the look.
fn from_other_nodes<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    wanted: usize,
    out: &mut [*mut u8],
) -> usize {
    let ratio = u64::from(cache.own.remote_ratio.load(Ordering::Relaxed));
    if ratio == 0 || floor.platform.entropy() % 1024 > ratio {
        return 0;
    }
    for i in 1..floor.platform.nodes() {
        let near = floor.platform.nearest_node(wanted, i);
        let surplus = {
            let list = cache.node(near).own.list.lock(floor.platform);
            list.partial.len > cache.own.min_partial.load(Ordering::Relaxed)
        };
        if surplus {
            let got = take_from_list(floor, cache, near, out);
            if got > 0 {
                return got;
            }
        }
    }
    0
}

/// Takes objects one slab at a time under the node's lock, leaving the slabs there: for requests that a CPU slab cannot serve.
fn alloc_from_node<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    gfp: Gfp,
    wanted: usize,
    strict: bool,
    out: &mut [*mut u8],
    at_least: usize,
) -> usize {
    let mut got = 0;
    loop {
        got += take_from_list(floor, cache, wanted, &mut out[got..]);
        if got >= at_least {
            return got;
        }
        let Some(new) = slab::create(floor, cache, gfp, wanted, strict, SlabKind::Thawed) else { return got };
        let real = new.node();
        cache.node(real).own.list.lock(floor.platform).partial.push_front(floor.pages, new);
        if real != wanted {
            // The node has no memory and the request allows another's.
            got += take_from_list(floor, cache, real, &mut out[got..]);
            if got >= at_least {
                return got;
            }
        }
    }
}

/// Takes objects of the node's partial slabs. Each slab is off the list and frozen while it is worked on, so that
/// frees meanwhile touch nothing but its word.
fn take_from_list<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    node: usize,
    out: &mut [*mut u8],
) -> usize {
    let mut got = 0;
    let mut list = cache.node(node).own.list.lock(floor.platform);
    while got < out.len() {
        let Some(slab) = list.partial.first(floor.pages) else { break };
        maintain::take_out(floor, cache, &mut list.partial, slab);
        freeze(slab);
        got += drain(floor, cache, slab, &mut out[got..]);
        if thaw(slab).inuse() < slab.objects.load(Ordering::Relaxed) {
            list.partial.push_front(floor.pages, slab);
            if got < out.len() {
                // Somebody freed into it just now; the next round takes that.
                continue;
            }
        }
    }
    got
}

/// Takes up to `out.len()` objects of a frozen slab whose free objects are on its own list.
fn drain<P: Platform>(floor: Floor<'_, P>, cache: &Cache, slab: &Page, out: &mut [*mut u8]) -> usize {
    let extent = slab::extent(floor, slab);
    let mut got = 0;
    let mut old = word::load(slab);
    while got < out.len() {
        let Some(head) = old.head() else { break };
        let object = (extent.base + head as usize) as *mut u8;
        // I-SLUB-2: the slab is frozen by this thread, so nobody else removes the head.
        let next = follow(floor, cache, extent, object).map(|next| (next as usize - extent.base) as u32);
        match word::swap_if(slab, old, Word::new(next, old.inuse() + 1, true)) {
            Ok(()) => {
                out[got] = object;
                got += 1;
                old = word::load(slab);
            }
            Err(now) => old = now,
        }
    }
    let fresh = slab::carve(floor, cache, slab, &mut out[got..]) as u16;
    let mut old = word::load(slab);
    while let Err(now) = word::swap_if(slab, old, Word::new(old.head(), old.inuse() + fresh, true)) {
        old = now;
    }
    got + fresh as usize
}

/// Ends a CPU's (or a lock holder's) ownership; returns the word as it is then.
fn thaw(slab: &Page) -> Word {
    let mut old = word::load(slab);
    loop {
        let new = Word::new(old.head(), old.inuse(), false);
        match word::swap_if(slab, old, new) {
            Ok(()) => return new,
            Err(now) => old = now,
        }
    }
}
