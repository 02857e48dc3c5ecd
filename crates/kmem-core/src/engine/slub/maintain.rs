//! Moving slabs between owners, shrinking, counting, checking.

use core::sync::atomic::Ordering;

use crate::engine::Floor;
use crate::engine::slub::alloc::tail;
use crate::engine::slub::cpu::{CpuSlab, Inner};
use crate::engine::slub::node::{self, NodeList};
use crate::engine::slub::word::{self, Word};
use crate::engine::slub::{Cache, free_many, slab};
use crate::flags::SlabFlags;
use crate::page::Page;
use crate::percpu::{CpuArea, empty, install};
use crate::platform::{MAX_NODES, Platform};

/// Takes the CPU slab away from the CPU and puts it where its state belongs. The caller holds `inner`.
/// An empty slab stays on its node's list: nothing is given back while a lock is held.
pub(crate) fn deactivate<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>, cpu: &CpuSlab<P>) {
    let Some(slab) = cpu.slab(floor.pages) else { return };
    // I-CSLAB-1: first the slab, then its objects.
    cpu.set_slab(0);
    let chain = cpu.take_all(floor.pages);
    let extent = slab::extent(floor, slab);
    let objects = slab.objects.load(Ordering::Relaxed);
    let fresh = objects - slab.carved.load(Ordering::Relaxed);
    let (last, linked) = if chain.is_null() { (chain, 0) } else { tail(floor, cache, extent, chain) };
    let home = cache.node(slab.node());
    let mut lock: Option<crate::sync::Guard<'_, NodeList, P, { crate::sync::rank::NODE }>> = None;
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
            lock = Some(home.list.lock(floor.platform));
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
                        list.push_back(floor.pages, slab);
                    } else {
                        list.push_front(floor.pages, slab);
                    }
                }
                return;
            }
            Err(now) => old = now,
        }
    }
}

/// Adds a slab that a free froze to this CPU's chain; a chain that is too long goes to the nodes.
pub(crate) fn push_chain<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>, cpu: &CpuSlab<P>, slab: &Page) {
    let overflow = {
        let mut inner = cpu.inner.lock(floor.platform);
        let overflow = if inner.chain_slabs >= cache.cpu_partial_slabs.load(Ordering::Relaxed) {
            inner.chain_slabs = 0;
            core::mem::take(&mut inner.chain)
        } else {
            0
        };
        slab.chain.store(u64::from(inner.chain), Ordering::Relaxed);
        inner.chain = node::number(floor.pages, slab);
        inner.chain_slabs += 1;
        overflow
    };
    thaw_chain(floor, cache, overflow);
}

/// Gives a whole chain of frozen slabs to their nodes. No lock is held.
fn thaw_chain<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>, mut chain: u32) {
    let keep_pages = cache.flags().contains(SlabFlags::TYPESAFE_BY_RCU);
    while let Some(slab) = node::slab_at(floor.pages, chain) {
        chain = slab.chain.load(Ordering::Relaxed) as u32;
        let objects = slab.objects.load(Ordering::Relaxed);
        let mut list = cache.node(slab.node()).list.lock(floor.platform);
        let mut old = word::load(slab);
        let new = loop {
            let new = Word::new(old.head(), old.inuse(), false);
            match word::swap_if(slab, old, new) {
                Ok(()) => break new,
                Err(now) => old = now,
            }
        };
        if new.inuse() == 0 && !keep_pages && list.partial >= cache.min_partial.load(Ordering::Relaxed) {
            drop(list);
            // SAFETY: all objects are free and the slab is on no list.
            unsafe { slab::discard(floor, cache, slab) };
        } else if new.inuse() < objects {
            list.push_back(floor.pages, slab);
        }
    }
}

/// Sends everything that `cpu` keeps of the cache back to the nodes: its stack, its slab, its chain.
pub fn flush_cpu<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>, cpu_number: usize) {
    let Some(cpu) = cache.cpu(floor.platform, cpu_number) else { return };
    let area = floor.platform.cpu_area();
    let (base, len, chain) = {
        let mut inner = cpu.inner.lock(floor.platform);
        // A stack without objects stays where it is: to seize one interrupts every CPU that runs the process.
        // Relaxed: nothing is read through it, and what is pushed meanwhile might as well have come later.
        let idle = area.hot(cpu_number, cache.id).top.load(Ordering::Relaxed) == inner.base;
        let (base, len) =
            if idle { (core::ptr::null_mut(), 0) } else { take_stack(floor, cache, cpu_number, &mut inner) };
        deactivate(floor, cache, cpu);
        inner.chain_slabs = 0;
        (base, len, core::mem::take(&mut inner.chain))
    };
    thaw_chain(floor, cache, chain);
    if base.is_null() {
        return;
    }
    // SAFETY: entries below the old top are free objects of this cache (I-CPU-1), and the array was detached, so this
    // thread owns both.
    unsafe { free_many(floor, cache, core::slice::from_raw_parts_mut(base, len)) };
    let spare = {
        let mut inner = cpu.inner.lock(floor.platform);
        // SAFETY: the array was this stack's until a moment ago; its sentinels are where they were.
        if inner.base.is_null() && unsafe { install(area.hot(cpu_number, cache.id), base, 0) } {
            inner.base = base;
            inner.batch = 0;
            None
        } else {
            Some(base)
        }
    };
    if let Some(base) = spare {
        // SAFETY: the array was allocated for this cache's capacity and is not installed anywhere.
        unsafe { crate::engine::sheaf::free_stack(floor, cache, base) };
    }
}

/// Takes a CPU's stack away: its array, null when there is none or it cannot be taken now, and how many objects it holds.
fn take_stack<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache<P>,
    cpu_number: usize,
    inner: &mut Inner,
) -> (*mut *mut u8, usize) {
    if inner.base.is_null() {
        return (inner.base, 0);
    }
    // SAFETY: the cache is alive, and `inner` keeps two seizures apart.
    let top = unsafe { floor.platform.cpu_area().seize(cpu_number, cache.id) };
    if top == empty() {
        return (core::ptr::null_mut(), 0);
    }
    let base = core::mem::replace(&mut inner.base, core::ptr::null_mut());
    (base, (top as usize - base as usize) / size_of::<*mut u8>())
}

/// Takes CPU `cpu_number`'s array away for good, when the cache dies. Its stack must have been flushed.
/// False when it could not be taken: then its number must not be used again.
pub(crate) fn remove_stack<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>, cpu_number: usize) -> bool {
    let Some(cpu) = cache.cpu(floor.platform, cpu_number) else { return true };
    let (base, gone) = {
        let mut inner = cpu.inner.lock(floor.platform);
        let (base, _) = take_stack(floor, cache, cpu_number, &mut inner);
        inner.batch = 0;
        (base, inner.base.is_null())
    };
    if !base.is_null() {
        // SAFETY: the array was allocated for this cache's capacity and is not installed anywhere.
        unsafe { crate::engine::sheaf::free_stack(floor, cache, base) };
    }
    gone
}

/// Frees the empty slabs of every node beyond none, and sorts the others so that the fullest come first.
/// Returns the slabs left. Flush the CPUs and barns first.
pub fn shrink<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>) -> u64 {
    let mut left = 0;
    for node in 0..floor.platform.nodes() {
        release_empty(floor, cache, node, cache.flags().contains(SlabFlags::TYPESAFE_BY_RCU));
        left += cache.node(node).slabs.load(Ordering::Relaxed);
    }
    left
}

/// As [`shrink`], also for caches that otherwise never give a page back: the cache is dying.
pub(crate) fn shrink_all<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>) -> u64 {
    let mut left = 0;
    for node in 0..floor.platform.nodes() {
        release_empty(floor, cache, node, false);
        left += cache.node(node).slabs.load(Ordering::Relaxed);
    }
    left
}

/// Makes the CPUs' memory of a dying cache all zero again, for the next cache with its number.
pub(crate) fn reset_cpus<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>) {
    for number in 0..floor.platform.cpus() {
        let Some(cpu) = cache.cpu(floor.platform, number) else { continue };
        cpu.reset();
        floor.platform.cpu_area().hot(number, cache.id).allocs.store(0, Ordering::Relaxed);
    }
}

/// Tells the slabs on the nodes' lists the address of their cache, which moved.
pub(crate) fn rename_slabs<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>) {
    for node in 0..floor.platform.nodes() {
        let list = cache.node(node).list.lock(floor.platform);
        let mut next = list.first(floor.pages);
        while let Some(slab) = next {
            slab.cache.store(core::ptr::from_ref(cache).cast_mut().cast(), Ordering::Relaxed);
            next = list.after(floor.pages, slab);
        }
    }
}

const BUCKETS: usize = 32;

/// Frees the empty slabs of one node and sorts the rest. `keep_pages`: empty slabs stay (they are sorted last).
pub fn release_empty<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>, node: usize, keep_pages: bool) {
    let mut empty = NodeList::new();
    {
        let mut list = cache.node(node).list.lock(floor.platform);
        let mut buckets = [const { NodeList::new() }; BUCKETS];
        let mut rest = NodeList::new();
        while let Some(slab) = list.first(floor.pages) {
            list.remove(floor.pages, slab);
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
    while let Some(slab) = empty.first(floor.pages) {
        empty.remove(floor.pages, slab);
        // SAFETY: it was empty under the lock and on no CPU, so no object of it exists that could be freed or allocated.
        unsafe { slab::discard(floor, cache, slab) };
    }
}

/// What a cache holds, counted without stopping anybody: exact when nobody works on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Slabs.
    pub slabs: u64,
    /// Objects that the slabs can hold.
    pub objects: u64,
    /// Slabs on the nodes' partial lists.
    pub partial: u64,
    /// Free objects in those.
    pub free_partial: u64,
    /// Free objects in the hands of CPUs: stacks, CPU slabs, chains.
    pub free_cpu: u64,
    /// Free objects in barns.
    pub free_barn: u64,
    /// Slabs owned by CPUs.
    pub cpu_slabs: u64,
    /// The most slabs each node ever had, added up.
    pub peak_slabs: u64,
    /// Objects handed out.
    pub allocs: u64,
    /// Of these, those that missed the CPU's stack.
    pub alloc_slow: u64,
    /// Frees that missed the CPU's stack.
    pub free_slow: u64,
    /// Slabs made.
    pub slabs_made: u64,
}

impl Counts {
    /// Objects in the hands of users.
    #[must_use]
    pub fn in_use(&self) -> u64 {
        self.objects.saturating_sub(self.free_partial + self.free_cpu + self.free_barn)
    }

    /// What slabinfo calls active: everything that is not on a partial list.
    #[must_use]
    pub fn active(&self) -> u64 {
        self.objects.saturating_sub(self.free_partial)
    }
}

/// Counts a cache. Called by a signal handler that interrupted the allocator it leaves out what is locked.
pub fn count<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>) -> Counts {
    let mut counts = Counts::default();
    for node in 0..floor.platform.nodes().min(MAX_NODES) {
        let state = cache.node(node);
        counts.slabs += state.slabs.load(Ordering::Relaxed);
        counts.objects += state.objects.load(Ordering::Relaxed);
        counts.peak_slabs += state.peak_slabs.load(Ordering::Relaxed);
        if let Some(barn) = state.barn.lock_unless_held(floor.platform) {
            counts.free_barn += u64::from(barn.objects);
        }
        let Some(list) = state.list.lock_unless_held(floor.platform) else { continue };
        counts.partial += u64::from(list.partial);
        let mut next = list.first(floor.pages);
        while let Some(slab) = next {
            counts.free_partial += u64::from(slab.objects.load(Ordering::Relaxed) - word::load(slab).inuse());
            next = list.after(floor.pages, slab);
        }
    }
    for number in 0..floor.platform.cpus() {
        let Some(cpu) = cache.cpu(floor.platform, number) else { continue };
        let hot = floor.platform.cpu_area().hot(number, cache.id);
        counts.allocs += hot.allocs.load(Ordering::Relaxed);
        let slow = cpu.stats.alloc_slow.load(Ordering::Relaxed);
        counts.alloc_slow += slow;
        counts.allocs += slow;
        counts.free_slow += cpu.stats.free_slow.load(Ordering::Relaxed);
        counts.slabs_made += cpu.stats.alloc_slab.load(Ordering::Relaxed);
        let Some(inner) = cpu.inner.lock_unless_held(floor.platform) else { continue };
        if !inner.base.is_null() {
            let top = hot.top.load(Ordering::Relaxed);
            counts.free_cpu +=
                ((top as usize).saturating_sub(inner.base as usize) / size_of::<*mut u8>()) as u64;
        }
        if let Some(slab) = cpu.slab(floor.pages) {
            counts.cpu_slabs += 1;
            let objects = slab.objects.load(Ordering::Relaxed);
            counts.free_cpu += u64::from(objects - slab.carved.load(Ordering::Relaxed))
                + u64::from(objects - word::load(slab).inuse());
            let chain = cpu.take_all(floor.pages);
            if !chain.is_null() {
                let (last, len) = tail(floor, cache, slab::extent(floor, slab), chain);
                counts.free_cpu += u64::from(len);
                // SAFETY: the chain was just taken, and the slab cannot change under `inner`.
                unsafe { cpu.give(floor.pages, cache, node::number(floor.pages, slab), chain, last) };
            }
        }
        let mut next = inner.chain;
        while let Some(slab) = node::slab_at(floor.pages, next) {
            counts.cpu_slabs += 1;
            counts.free_cpu += u64::from(slab.objects.load(Ordering::Relaxed) - word::load(slab).inuse());
            next = slab.chain.load(Ordering::Relaxed) as u32;
        }
    }
    counts
}

/// What [`validate`] found wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A slab's count of objects in use does not match its list: (slab address, counted, found).
    Count(usize, u16, u16),
    /// A free pointer leads out of its slab: (slab address).
    Freelist(usize),
    /// A slab on a partial list is frozen, full, or of another cache: (slab address).
    State(usize),
}

/// Checks every slab on the nodes' lists. Call it when nobody works on the cache.
pub fn validate<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>) -> Result<u64, Fault> {
    let mut checked = 0;
    for node in 0..floor.platform.nodes() {
        let list = cache.node(node).list.lock(floor.platform);
        let mut next = list.first(floor.pages);
        while let Some(slab) = next {
            let extent = slab::extent(floor, slab);
            let state = word::load(slab);
            let objects = slab.objects.load(Ordering::Relaxed);
            let mine = slab.cache.load(Ordering::Relaxed) == core::ptr::from_ref(cache).cast_mut().cast();
            if state.frozen() || state.inuse() >= objects || !mine {
                return Err(Fault::State(extent.base));
            }
            let mut free = objects - slab.carved.load(Ordering::Relaxed);
            let mut head = state.head();
            while let Some(offset) = head {
                if cache.index_of(extent.base, extent.base + offset as usize, objects.into()).is_none()
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
            checked += 1;
            next = list.after(floor.pages, slab);
        }
    }
    Ok(checked)
}
