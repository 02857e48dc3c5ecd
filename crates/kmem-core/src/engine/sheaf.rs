//! The layer of CPU stacks (sheaves) and node barns in front of an engine.
//!
//! # Theory
//! An allocation pops this CPU's stack; a free pushes it. When the stack runs empty the CPU takes a
//! whole sheaf from its node's barn, or a batch from the slabs, slab by slab; when it runs full, half of
//! it goes to the barn, or back to the slabs, grouped by slab. The batch starts small and doubles with
//! each refill up to half a stack, so that a program that needs ten objects does not carve a hundred.
//!
//! Refilling never owns a CPU: it fills a local array and pushes that to whichever CPU the thread
//! is on by then. What does not fit any more goes back to the slabs.
//!
//! # Never
//! No lock is held while memory is fetched. The arrays behind the stacks come from caches that have no
//! stacks themselves, so a refill cannot need a refill.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::engine::Floor;
use crate::engine::slub::{self, Cache};
use crate::gfp::Gfp;
use crate::page::Page;
use crate::percpu::barn::BarnSheaf;
use crate::percpu::{CpuArea, FULL, Pushed, install};
use crate::platform::Platform;

/// Objects that move between a stack and anything else at once, at most.
pub const MAX_BATCH: usize = 64;

/// Objects that travel together between a stack of this capacity and anything else.
#[must_use]
pub const fn sheaf_objects(capacity: u32) -> usize {
    match capacity as usize / 2 {
        0 => 1,
        half if half > MAX_BATCH => MAX_BATCH,
        half => half,
    }
}

/// Objects that the first refill of a CPU asks for.
const FIRST_BATCH: u32 = 4;

/// Sizes of the arrays behind stacks and barn sheaves, in bytes.
pub const ARRAY_SIZES: [usize; 5] = [64, 128, 256, 512, 1024];

/// The largest capacity of a stack: the largest array less its two sentinels.
pub const MAX_CAPACITY: usize = ARRAY_SIZES[ARRAY_SIZES.len() - 1] / size_of::<*mut u8>() - 2;

/// Caches without stacks, one for each of [`ARRAY_SIZES`]; null before bootstrap made them.
pub struct Arrays<P: Platform>([AtomicPtr<Cache<P>>; ARRAY_SIZES.len()]);

impl<P: Platform> Arrays<P> {
    /// No caches yet.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicPtr::new(ptr::null_mut()) }; ARRAY_SIZES.len()])
    }

    /// Makes the cache for `ARRAY_SIZES[class]` known. It must live as long as the heap.
    pub fn set(&self, class: usize, cache: &Cache<P>) {
        // Release pairs with the Acquire of `cache`.
        self.0[class].store(ptr::from_ref(cache).cast_mut(), Ordering::Release);
    }

    /// The cache for arrays of so many bytes.
    fn cache(&self, bytes: usize) -> Option<&Cache<P>> {
        let class = ARRAY_SIZES.iter().position(|&size| size >= bytes)?;
        // SAFETY: `set` stores caches that live as long as the heap.
        unsafe { self.0[class].load(Ordering::Acquire).as_ref() }
    }
}

impl<P: Platform> Default for Arrays<P> {
    fn default() -> Self {
        Self::new()
    }
}

/// True when there is a cache for arrays of so many bytes.
pub(crate) fn array_fits<P: Platform>(floor: Floor<'_, P>, bytes: usize) -> bool {
    floor.arrays.cache(bytes).is_some()
}

/// An array of at least `bytes` bytes; null: no memory, or larger than any of [`ARRAY_SIZES`].
pub(crate) fn alloc_array<P: Platform>(floor: Floor<'_, P>, bytes: usize, gfp: Gfp) -> *mut u8 {
    match floor.arrays.cache(bytes) {
        Some(cache) => alloc_one(floor, cache, gfp, None),
        None => ptr::null_mut(),
    }
}

/// Gives an array back.
///
/// # Safety
/// It came from [`alloc_array`] with the same `bytes`, and nobody uses it any more.
pub(crate) unsafe fn free_array<P: Platform>(floor: Floor<'_, P>, array: *mut u8, bytes: usize) {
    if let Some(cache) = floor.arrays.cache(bytes) {
        // SAFETY: the caller's promise.
        unsafe { slub::free_many(floor, cache, &mut [array]) };
    }
}

/// One object without the stacks: from the CPU slab's transaction, or from wherever there is one.
pub fn alloc_one<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache<P>,
    gfp: Gfp,
    node: Option<usize>,
) -> *mut u8 {
    // A CPU slab may be of another node: its thread migrated while it was fetched. Who asks for a node goes where that
    // is looked at.
    let any = node.is_none() || !slub::needs_node(floor, gfp);
    if any && let Some(cpu) = cache.cpu(floor.platform, floor.platform.current_cpu()) {
        let object = {
            let _inner = cpu.inner.lock(floor.platform);
            cpu.take_one(floor.pages, cache)
        };
        if !object.is_null() {
            slub_count(&cpu.stats.alloc_slow);
            return object;
        }
    }
    let mut one = [ptr::null_mut()];
    if slub::alloc_many(floor, cache, gfp, node, &mut one, 1) == 1 {
        if let Some(cpu) = cache.cpu(floor.platform, floor.platform.current_cpu()) {
            slub_count(&cpu.stats.alloc_slow);
        }
        one[0]
    } else {
        ptr::null_mut()
    }
}

fn slub_count(counter: &AtomicU64) {
    slub_count_by(counter, 1);
}

/// A plain add, as everywhere in these counters.
fn slub_count_by(counter: &AtomicU64, by: usize) {
    counter.store(counter.load(Ordering::Relaxed) + by as u64, Ordering::Relaxed);
}

/// One object; null when there is no memory. Its contents are undefined, or what the constructor left.
#[inline]
pub fn alloc<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>, gfp: Gfp) -> *mut u8 {
    if cache.capacity != 0 {
        // SAFETY: the cache is alive and has this number.
        let object = unsafe { floor.platform.cpu_area().pop(cache.id) };
        if !object.is_null() {
            return object;
        }
        return refill(floor, cache, gfp);
    }
    alloc_one(floor, cache, gfp, None)
}

/// One object when this CPU's stack is empty.
#[cold]
#[inline(never)]
pub fn refill<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>, gfp: Gfp) -> *mut u8 {
    let mut objects = [ptr::null_mut(); MAX_BATCH];
    let batch = prepare(floor, cache, gfp);
    let node = floor.platform.current_node();
    let mut got = cache.node(node).barn.lock(floor.platform).trade(&mut objects, cache.barn_sheaves);
    if let Some(cpu) = cache.cpu(floor.platform, floor.platform.current_cpu()) {
        slub_count(&cpu.stats.alloc_slow);
        if got > 0 {
            slub_count(&cpu.stats.barn_get);
        }
    }
    if got == 0 {
        got = slub::alloc_many(floor, cache, gfp, None, &mut objects[..batch], 1);
    }
    if got == 0 {
        return ptr::null_mut();
    }
    let first = objects[0];
    let rest = &mut objects[1..got];
    if P::NUMA {
        // Only objects of this node belong on the stack; others came because this node had none.
        let node = floor.platform.current_node();
        let mut i = 0;
        let mut keep = rest.len();
        while i < keep {
            if floor.pages.at(rest[i] as usize).is_some_and(|page| floor.pages.head(page).node() != node) {
                keep -= 1;
                rest.swap(i, keep);
            } else {
                i += 1;
            }
        }
        let (mine, foreign) = rest.split_at_mut(keep);
        // SAFETY: the objects were just taken from the slabs, so they are this thread's.
        unsafe {
            stow(floor, cache, mine);
            slub::free_many(floor, cache, foreign);
        }
    } else {
        // SAFETY: as above.
        unsafe { stow(floor, cache, rest) };
    }
    first
}

/// Pushes objects so that the first is popped first; what the stack has no room for goes to the slabs.
///
/// # Safety
/// The objects are free objects of this cache, owned by the caller.
unsafe fn stow<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>, objects: &mut [*mut u8]) {
    objects.reverse();
    // SAFETY: the caller's promise.
    unsafe {
        let pushed = floor.platform.cpu_area().push_many(cache.id, objects);
        slub::free_many(floor, cache, &mut objects[pushed..]);
    }
}

/// Makes sure that this CPU has a stack, and says how many objects to fetch.
fn prepare<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>, gfp: Gfp) -> usize {
    let number = floor.platform.current_cpu();
    let Some(cpu) = cache.cpu(floor.platform, number) else { return 1 };
    let limit = (cache.capacity / 2).clamp(1, MAX_BATCH as u32);
    {
        let mut inner = cpu.inner.lock(floor.platform);
        if !inner.base.is_null() {
            let batch = inner.batch.clamp(FIRST_BATCH.min(limit), limit);
            inner.batch = (batch * 2).min(limit);
            return batch as usize;
        }
    }
    let array = alloc_array(floor, stack_bytes(cache), gfp).cast::<*mut u8>();
    if array.is_null() {
        return 1;
    }
    let base = array.wrapping_add(1);
    // SAFETY: the array has room for `capacity` entries and two sentinels, and belongs to this thread until it is installed.
    unsafe {
        array.write(ptr::null_mut());
        for i in 0..cache.capacity as usize {
            base.add(i).write(ptr::null_mut());
        }
        base.add(cache.capacity as usize).write(FULL);
    }
    let installed = {
        let mut inner = cpu.inner.lock(floor.platform);
        let hot = floor.platform.cpu_area().hot(number, cache.id);
        // SAFETY: the array was made above, sentinels and all; it stays until it was seized under this lock.
        if inner.base.is_null() && unsafe { install(hot, base, 0) } {
            inner.base = base;
            inner.batch = FIRST_BATCH.min(limit);
            true
        } else {
            false
        }
    };
    if !installed {
        // SAFETY: nobody else saw the array.
        unsafe { free_stack(floor, cache, base) };
    }
    FIRST_BATCH.min(limit) as usize
}

fn stack_bytes<P: Platform>(cache: &Cache<P>) -> usize {
    (cache.capacity as usize + 2) * size_of::<*mut u8>()
}

/// Gives back the array behind a stack.
///
/// # Safety
/// `base` is the first entry of an array made for this cache's capacity, and no CPU points at it.
pub(crate) unsafe fn free_stack<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>, base: *mut *mut u8) {
    // SAFETY: the array starts one entry before its base.
    unsafe { free_array(floor, base.wrapping_sub(1).cast(), stack_bytes(cache)) };
}

/// What a free found wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreedTwice;

/// Gives one object back.
///
/// # Errors
/// [`FreedTwice`] when it is the last object that was freed here already; nothing changes.
///
/// # Safety
/// `object` is an object of this cache, `page` the descriptor of its page, and the caller owns it.
#[inline]
pub unsafe fn free<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache<P>,
    page: &Page,
    object: *mut u8,
) -> Result<(), FreedTwice> {
    if cache.capacity == 0 || (P::NUMA && floor.pages.head(page).node() != floor.platform.current_node()) {
        if let Some(cpu) = cache.cpu(floor.platform, floor.platform.current_cpu()) {
            slub_count(&cpu.stats.free_slow);
        }
        // SAFETY: the caller's promise.
        unsafe { slub::free_many(floor, cache, &mut [object]) };
        return Ok(());
    }
    // SAFETY: the caller's promise.
    match unsafe { floor.platform.cpu_area().push(cache.id, object) } {
        Pushed::Done => Ok(()),
        Pushed::Double => Err(FreedTwice),
        Pushed::Full => {
            // SAFETY: the caller's promise.
            unsafe { flush_and_push(floor, cache, object) };
            Ok(())
        }
    }
}

/// Frees an object for which this CPU's stack has no room: half of the stack leaves first.
///
/// # Safety
/// As [`free`].
#[cold]
#[inline(never)]
pub unsafe fn flush_and_push<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>, object: *mut u8) {
    let area = floor.platform.cpu_area();
    if let Some(cpu) = cache.cpu(floor.platform, floor.platform.current_cpu()) {
        slub_count(&cpu.stats.free_slow);
    }
    prepare(floor, cache, Gfp::NOWAIT);
    let mut objects = [ptr::null_mut(); MAX_BATCH];
    let batch = sheaf_objects(cache.capacity);
    // SAFETY: the caller's promise; popped objects belong to this thread.
    unsafe {
        if area.push(cache.id, object) == Pushed::Done {
            return;
        }
        let got = area.pop_many(cache.id, &mut objects[..batch]);
        if got > 0 {
            store(floor, cache, &mut objects[..got]);
        }
        if area.push(cache.id, object) != Pushed::Done {
            slub::free_many(floor, cache, &mut [object]);
        }
    }
}

/// Leaves a sheaf in the barn, or the objects in their slabs.
///
/// # Safety
/// The objects are free objects of this cache, owned by the caller.
unsafe fn store<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>, objects: &mut [*mut u8]) {
    let node = cache.node(floor.platform.current_node());
    let room = sheaf_objects(cache.capacity);
    let limit = cache.barn_sheaves;
    let wants = {
        let mut barn = node.barn.lock(floor.platform);
        if barn.give(objects, limit) {
            drop(barn);
            if let Some(cpu) = cache.cpu(floor.platform, floor.platform.current_cpu()) {
                slub_count(&cpu.stats.barn_put);
            }
            return;
        }
        barn.wants_sheaf(limit)
    };
    if wants {
        let memory = alloc_array(floor, BarnSheaf::bytes(room), Gfp::NOWAIT);
        if !memory.is_null() {
            let mut barn = node.barn.lock(floor.platform);
            // SAFETY: fresh memory of the right size.
            unsafe { barn.add_empty(memory, room as u32) };
            if barn.give(objects, limit) {
                return;
            }
        }
    }
    // SAFETY: the caller's promise.
    unsafe { slub::free_many(floor, cache, objects) };
    node.barn.lock(floor.platform).refuse();
    let mut surplus = [ptr::null_mut(); MAX_BATCH];
    loop {
        let got = node.barn.lock(floor.platform).take_surplus(&mut surplus);
        if got == 0 {
            return;
        }
        // SAFETY: a barn holds free objects of its cache only; they are this thread's now.
        unsafe { slub::free_many(floor, cache, &mut surplus[..got]) };
    }
}

/// Empties the barns: their objects go to the slabs, the sheaves' memory back to its cache.
pub fn flush_barns<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>) {
    if cache.capacity == 0 {
        return;
    }
    let room = sheaf_objects(cache.capacity);
    for node in 0..floor.platform.nodes() {
        let mut objects = [ptr::null_mut(); MAX_BATCH];
        loop {
            let got = cache.node(node).barn.lock(floor.platform).take(&mut objects);
            if got == 0 {
                break;
            }
            // SAFETY: a barn holds free objects of its cache only; they are this thread's now.
            unsafe { slub::free_many(floor, cache, &mut objects[..got]) };
        }
        while let Some(memory) = { cache.node(node).barn.lock(floor.platform).remove_empty() } {
            // SAFETY: the sheaf's memory was made with that many bytes.
            unsafe { free_array(floor, memory, BarnSheaf::bytes(room)) };
        }
    }
}

/// Fills all of `out`, or nothing. Contents as for [`alloc`].
pub fn alloc_bulk<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>, gfp: Gfp, out: &mut [*mut u8]) -> bool {
    let mut got = 0;
    if cache.capacity != 0 {
        // SAFETY: the cache is alive and has this number.
        got = unsafe { floor.platform.cpu_area().pop_many(cache.id, out) };
    }
    let popped = got;
    while got < out.len() {
        let want = (out.len() - got).min(MAX_BATCH);
        let more = slub::alloc_many(floor, cache, gfp, None, &mut out[got..got + want], want);
        if more == 0 {
            // SAFETY: these objects were just taken and are this thread's.
            unsafe { slub::free_many(floor, cache, &mut out[..got]) };
            return false;
        }
        got += more;
    }
    let number = floor.platform.current_cpu();
    if let Some(cpu) = cache.cpu(floor.platform, number) {
        slub_count_by(&floor.platform.cpu_area().hot(number, cache.id).allocs, popped);
        slub_count_by(&cpu.stats.alloc_slow, got - popped);
    }
    true
}

/// Gives many objects of one cache back. The order of the array is lost.
///
/// # Safety
/// Every entry is an object of this cache that the caller owns, each one once.
pub unsafe fn free_bulk<P: Platform>(floor: Floor<'_, P>, cache: &Cache<P>, objects: &mut [*mut u8]) {
    let mut done = 0;
    if cache.capacity != 0 && !P::NUMA {
        // SAFETY: the caller's promise.
        done = unsafe { floor.platform.cpu_area().push_many(cache.id, objects) };
    }
    for group in objects[done..].chunks_mut(MAX_BATCH) {
        // SAFETY: the caller's promise.
        unsafe { slub::free_many(floor, cache, group) };
    }
}
