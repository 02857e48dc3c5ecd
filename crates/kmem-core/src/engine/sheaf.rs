//! The layer of CPU stacks (sheaves, array caches) in front of every engine.
//!
//! # Theory
//! An allocation pops this CPU's stack; a free pushes it. When the stack runs empty the engine fetches a batch: from what
//! the node has at hand, else from its slabs. When it runs full a batch leaves it for the engine to keep. How large the batches are,
//! which end of the stack they leave from, and where they go is the engine's policy; the stacks themselves, their arrays and
//! how they are owned are here, once.
//!
//! A stack starts small. Where the heap's configuration allows more, it grows while its CPU both misses objects and has no room
//! for them (module `growth`), and is small again when that is over.
//!
//! Refilling never owns a CPU: it fills a local array and pushes that to whichever CPU the thread
//! is on by then. What does not fit any more goes back to the slabs.
//!
//! # Runs
//! An object of a cache of runs is pages, and every class of runs that keeps one keeps it from all other sizes. A program that starts,
//! or whose buffers grow, comes by dozens of such classes a few times each. So a CPU has no stack for one before
//! 32 requests came by (`proved`): until then its runs go back to the page floor at once, where the next
//! request of whatever size finds them. The class for blocks that grow has few, and keeps them from the first on
//! ([`crate::kmalloc::growing`]). Whoever runs a heap takes the stacks of idle ones away again ([`crate::kmalloc::runs`]).
//!
//! # Never
//! No lock is held while memory is fetched. The arrays behind the stacks come from caches that have no
//! stacks themselves, so a refill cannot need a refill.

pub(crate) mod growth;

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::engine::cache::count;
use crate::engine::{Cache, Engine, Floor, Stack};
use crate::gfp::Gfp;
use crate::page::Page;
use crate::percpu::{CpuArea, FULL, Pushed, empty, install, nothing};
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

/// Sizes of the arrays behind stacks and of what nodes keep in front of their slabs, in bytes.
pub const ARRAY_SIZES: [usize; 8] = [64, 128, 256, 512, 1024, 2048, 4096, 8192];

/// The largest array behind a stack that has not grown, in bytes. Larger ones are for nodes and grown stacks: with some engines a
/// stack that runs full is copied to the program's own stack, which may be that of a signal handler.
const LARGEST_STACK: usize = 1024;

/// The largest capacity of a stack: the array of that size less its two sentinels.
pub const MAX_CAPACITY: usize = LARGEST_STACK / size_of::<*mut u8>() - 2;

/// The most objects that a grown stack holds: the largest array less its two sentinels.
pub const MAX_ROOM: usize = ARRAY_SIZES[ARRAY_SIZES.len() - 1] / size_of::<*mut u8>() - 2;

/// Requests to a cache of runs after which a CPU gets a stack.
const PROVES: u8 = 32;

/// Caches without stacks, one for each of [`ARRAY_SIZES`]; null before bootstrap made them.
pub struct Arrays<E: Engine> {
    caches: [AtomicPtr<Cache<E>>; ARRAY_SIZES.len()],
    /// What stacks have grown by.
    pub(crate) grown: growth::Budget,
}

impl<E: Engine> Arrays<E> {
    /// No caches yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            caches: [const { AtomicPtr::new(ptr::null_mut()) }; ARRAY_SIZES.len()],
            grown: growth::Budget::new(),
        }
    }

    /// Makes the cache for `ARRAY_SIZES[class]` known. It must live as long as the heap.
    pub fn set(&self, class: usize, cache: &Cache<E>) {
        // Release pairs with the Acquire of `cache`.
        self.caches[class].store(ptr::from_ref(cache).cast_mut(), Ordering::Release);
    }

    /// The cache for arrays of so many bytes.
    fn cache(&self, bytes: usize) -> Option<&Cache<E>> {
        let class = ARRAY_SIZES.iter().position(|&size| size >= bytes)?;
        // SAFETY: `set` stores caches that live as long as the heap.
        unsafe { self.caches[class].load(Ordering::Acquire).as_ref() }
    }
}

impl<E: Engine> Default for Arrays<E> {
    fn default() -> Self {
        Self::new()
    }
}

/// True when there is a cache for arrays of so many bytes.
pub(crate) fn array_fits<P: Platform, E: Engine>(floor: Floor<'_, P, E>, bytes: usize) -> bool {
    floor.arrays.cache(bytes).is_some()
}

/// An array of at least `bytes` bytes; null: no memory, or larger than any of [`ARRAY_SIZES`].
pub(crate) fn alloc_array<P: Platform, E: Engine>(floor: Floor<'_, P, E>, bytes: usize, gfp: Gfp) -> *mut u8 {
    match floor.arrays.cache(bytes) {
        Some(cache) => E::alloc_one(floor, cache, gfp, None),
        None => ptr::null_mut(),
    }
}

/// Gives an array back.
///
/// # Safety
/// It came from [`alloc_array`] with the same `bytes`, and nobody uses it any more.
pub(crate) unsafe fn free_array<P: Platform, E: Engine>(
    floor: Floor<'_, P, E>,
    array: *mut u8,
    bytes: usize,
) {
    if let Some(cache) = floor.arrays.cache(bytes) {
        // SAFETY: the caller's promise.
        unsafe { E::free_many(floor, cache, &mut [array]) };
    }
}

/// One object; null when there is no memory. Its contents are undefined, or what the constructor left.
#[inline]
pub fn alloc<P: Platform, E: Engine>(floor: Floor<'_, P, E>, cache: &Cache<E>, gfp: Gfp) -> *mut u8 {
    if cache.capacity() != 0 {
        // SAFETY: the cache is alive and has this number.
        let object = unsafe { floor.platform.cpu_area().pop(cache.id) };
        if !object.is_null() {
            return object;
        }
        return refill(floor, cache, gfp);
    }
    E::alloc_one(floor, cache, gfp, None)
}

/// One object when this CPU's stack is empty.
#[cold]
#[inline(never)]
pub fn refill<P: Platform, E: Engine>(floor: Floor<'_, P, E>, cache: &Cache<E>, gfp: Gfp) -> *mut u8 {
    let mut objects = [ptr::null_mut(); MAX_BATCH];
    let batch = prepare(floor, cache, gfp);
    if let Some(cpu) = cache.here(floor.platform) {
        count(&cpu.stats.alloc_slow, 1);
    }
    let got = E::refill(floor, cache, gfp, &mut objects, batch);
    let Some((&mut first, rest)) = objects[..got].split_last_mut() else { return ptr::null_mut() };
    if P::NUMA && floor.platform.nodes() > 1 {
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
            E::free_many(floor, cache, foreign);
        }
    } else {
        // SAFETY: as above.
        unsafe { stow(floor, cache, rest) };
    }
    first
}

/// Pushes objects so that the last is popped first; what the stack has no room for goes to the slabs.
///
/// # Safety
/// The objects are free objects of this cache, owned by the caller.
unsafe fn stow<P: Platform, E: Engine>(floor: Floor<'_, P, E>, cache: &Cache<E>, objects: &mut [*mut u8]) {
    // SAFETY: the caller's promise.
    unsafe {
        let pushed = floor.platform.cpu_area().push_many(cache.id, objects);
        E::free_many(floor, cache, &mut objects[pushed..]);
    }
}

/// Makes sure that this CPU has a stack, and says how many objects to fetch.
pub(crate) fn prepare<P: Platform, E: Engine>(floor: Floor<'_, P, E>, cache: &Cache<E>, gfp: Gfp) -> usize {
    let number = floor.platform.current_cpu();
    let Some(cpu) = cache.cpu(floor.platform, number).filter(|_| !cache.is_closed()) else { return 1 };
    {
        let mut stack = cpu.stack.lock(floor.platform);
        stack.trade.ran_empty();
        if !stack.base.is_null() {
            return E::batch(floor, cache, number, &mut stack);
        }
        stack.wanted = stack.wanted.saturating_add(1);
        if !proved(floor, cache, &stack) {
            return 1;
        }
    }
    let room = cache.capacity();
    let base = alloc_stack(floor, room, gfp);
    if base.is_null() {
        return 1;
    }
    let (installed, batch) = {
        let mut stack = cpu.stack.lock(floor.platform);
        let hot = floor.platform.cpu_area().hot(number, cache.id);
        // SAFETY: the array was made above, sentinels and all; it stays until it was seized under this lock.
        let installed = stack.base.is_null() && !cache.is_closed() && unsafe { install(hot, base, 0) };
        if installed {
            stack.base = base;
            stack.room = room;
        }
        (installed, E::batch(floor, cache, number, &mut stack))
    };
    if !installed {
        // SAFETY: nobody else saw the array.
        unsafe { free_stack(floor, base, room) };
    }
    batch
}

/// The CPU is to have a stack: the cache's objects are not runs, or few, or it asked for enough of them. A pinned heap's pages
/// are for their cache alone, whoever keeps them.
fn proved<P: Platform, E: Engine>(floor: Floor<'_, P, E>, cache: &Cache<E>, stack: &Stack<E>) -> bool {
    cache.kept_at_once || floor.pinned || stack.wanted >= PROVES
}

/// The running CPU has a stack of this cache.
pub(crate) fn has_stack<P: Platform, E: Engine>(floor: Floor<'_, P, E>, cache: &Cache<E>) -> bool {
    let hot = floor.platform.cpu_area().hot(floor.platform.current_cpu(), cache.id);
    // Relaxed: nothing is read through it.
    hot.top.load(Ordering::Relaxed) != empty()
}

const fn stack_bytes(room: u32) -> usize {
    (room as usize + 2) * size_of::<*mut u8>()
}

/// The first entry of a new array for `room` objects, with its sentinels; null: no memory.
fn alloc_stack<P: Platform, E: Engine>(floor: Floor<'_, P, E>, room: u32, gfp: Gfp) -> *mut *mut u8 {
    let array = alloc_array(floor, stack_bytes(room), gfp).cast::<*mut u8>();
    if array.is_null() {
        return array;
    }
    let base = array.wrapping_add(1);
    // SAFETY: the array has room for so many entries and two sentinels, and belongs to this thread until it is installed.
    unsafe {
        array.write(nothing());
        for i in 0..room as usize {
            base.add(i).write(ptr::null_mut());
        }
        base.add(room as usize).write(FULL);
    }
    base
}

/// Gives back the array behind a stack.
///
/// # Safety
/// `base` is the first entry of an array of [`alloc_stack`] with the same `room`, and no CPU points at it.
unsafe fn free_stack<P: Platform, E: Engine>(floor: Floor<'_, P, E>, base: *mut *mut u8, room: u32) {
    // SAFETY: the array starts one entry before its base.
    unsafe { free_array(floor, base.wrapping_sub(1).cast(), stack_bytes(room)) };
}

/// Empties the running CPU's stack, so that the cache's next request comes by [`refill`]. False: it was empty.
pub(crate) fn empty_here<P: Platform, E: Engine>(floor: Floor<'_, P, E>, cache: &Cache<E>) -> bool {
    let mut some = false;
    // A thread that moves on meanwhile empties part of another stack; no harm is done.
    for _ in 0..MAX_ROOM.div_ceil(MAX_BATCH) {
        let mut objects = [ptr::null_mut(); MAX_BATCH];
        // SAFETY: the cache is alive and has this number; popped objects are free ones of it, and this thread's.
        unsafe {
            let got = floor.platform.cpu_area().pop_many(cache.id, &mut objects);
            if got == 0 {
                break;
            }
            E::store(floor, cache, &mut objects[..got]);
        }
        some = true;
    }
    some
}

/// Takes a CPU's stack away: its array, null when there is none or it cannot be taken now, how many objects it holds, and
/// its room.
fn take_stack<P: Platform, E: Engine>(
    floor: Floor<'_, P, E>,
    cache: &Cache<E>,
    number: usize,
    stack: &mut Stack<E>,
) -> (*mut *mut u8, usize, u32) {
    if stack.base.is_null() {
        return (stack.base, 0, 0);
    }
    // SAFETY: the cache is alive, and the stack's lock keeps two seizures apart.
    let top = unsafe { floor.platform.cpu_area().seize(number, cache.id) };
    if top == empty() {
        return (ptr::null_mut(), 0, 0);
    }
    let base = core::mem::replace(&mut stack.base, ptr::null_mut());
    floor.arrays.grown.give_back(core::mem::take(&mut stack.grown));
    (base, (top as usize - base as usize) / size_of::<*mut u8>(), stack.room)
}

/// Sends everything that `number` keeps of the cache back to the nodes: its stack, and what the engine keeps there.
pub fn flush_cpu<P: Platform, E: Engine>(floor: Floor<'_, P, E>, cache: &Cache<E>, number: usize) {
    drain_cpu(floor, cache, number, |held| held);
    E::flush_cpu(floor, cache, number);
}

/// Sends the objects that have been on `number`'s stack longest to their slabs: as many as `surplus` says of those it holds.
pub(crate) fn drain_cpu<P: Platform, E: Engine>(
    floor: Floor<'_, P, E>,
    cache: &Cache<E>,
    number: usize,
    surplus: impl Fn(usize) -> usize,
) {
    drain_stack(floor, cache, number, surplus, true);
}

/// Takes the stack of `number` away, objects and all, until the CPU comes by for one again; of a cache of runs, until it proves
/// once more that it needs one.
pub(crate) fn retire_stack<P: Platform, E: Engine>(floor: Floor<'_, P, E>, cache: &Cache<E>, number: usize) {
    drain_stack(floor, cache, number, |held| held, false);
    if let Some(cpu) = cache.cpu(floor.platform, number) {
        cpu.stack.lock(floor.platform).wanted = 0;
    }
}

/// [`drain_cpu`], which leaves the stack where it is only if that is to `stay`.
fn drain_stack<P: Platform, E: Engine>(
    floor: Floor<'_, P, E>,
    cache: &Cache<E>,
    number: usize,
    surplus: impl Fn(usize) -> usize,
    stay: bool,
) {
    let Some(cpu) = cache.cpu(floor.platform, number) else { return };
    let hot = floor.platform.cpu_area().hot(number, cache.id);
    let (base, len, room) = {
        let mut stack = cpu.stack.lock(floor.platform);
        // A stack with nothing to send stays where it is: to seize one interrupts every CPU that runs the process.
        // Relaxed: nothing is read through it, and what is pushed meanwhile might as well have come later.
        let held = (hot.top.load(Ordering::Relaxed) as usize).wrapping_sub(stack.base as usize)
            / size_of::<*mut u8>();
        let idle = stack.base.is_null()
            || stay
                && stack.room == cache.capacity()
                && !cache.is_closed()
                && (held == 0 || held <= stack.room as usize && surplus(held) == 0);
        if idle { (ptr::null_mut(), 0, 0) } else { take_stack(floor, cache, number, &mut stack) }
    };
    if base.is_null() {
        return;
    }
    // An array of another size than the cache's stacks now start with is not put back.
    let fits = stay && room == cache.capacity() && !cache.is_closed();
    let gone = if fits { surplus(len).min(len) } else { len };
    // SAFETY: entries below the old top are free objects of this cache (I-CPU-1), and the array was detached, so this
    // thread owns both.
    unsafe {
        E::free_many(floor, cache, core::slice::from_raw_parts_mut(base, gone));
        ptr::copy(base.add(gone), base, len - gone);
    }
    let back = {
        let mut stack = cpu.stack.lock(floor.platform);
        // SAFETY: the array was this stack's until a moment ago; its sentinels are where they were, and so many objects are
        // left in it.
        let back =
            fits && stack.base.is_null() && !cache.is_closed() && unsafe { install(hot, base, len - gone) };
        if back {
            stack.base = base;
            stack.room = room;
            stack.batch = 0;
        }
        back
    };
    if !back {
        // SAFETY: what is left in it is this thread's as before. The array was allocated with that room and is not
        // installed anywhere.
        unsafe {
            E::free_many(floor, cache, core::slice::from_raw_parts_mut(base, len - gone));
            free_stack(floor, base, room);
        }
    }
}

/// Takes CPU `number`'s array away for good, when the cache dies. Its stack must have been flushed.
/// False when it could not be taken: then its number must not be used again.
pub(crate) fn remove_stack<P: Platform, E: Engine>(
    floor: Floor<'_, P, E>,
    cache: &Cache<E>,
    number: usize,
) -> bool {
    let Some(cpu) = cache.cpu(floor.platform, number) else { return true };
    let (base, room, gone) = {
        let mut stack = cpu.stack.lock(floor.platform);
        let (base, _, room) = take_stack(floor, cache, number, &mut stack);
        stack.batch = 0;
        (base, room, stack.base.is_null())
    };
    if !base.is_null() {
        // SAFETY: the array was allocated with that room and is not installed anywhere.
        unsafe { free_stack(floor, base, room) };
    }
    gone
}

/// Makes the CPUs' memory of a dying cache all zero again, for the next cache with its number.
pub(crate) fn reset_cpus<P: Platform, E: Engine>(floor: Floor<'_, P, E>, cache: &Cache<E>) {
    for number in 0..floor.platform.cpus() {
        let Some(cpu) = cache.cpu(floor.platform, number) else { continue };
        cpu.reset();
        floor.platform.cpu_area().hot(number, cache.id).allocs.store(0, Ordering::Relaxed);
    }
}

/// Empties CPUs and nodes of a cache down to its slabs.
pub fn flush<P: Platform, E: Engine>(floor: Floor<'_, P, E>, cache: &Cache<E>) {
    E::flush_nodes(floor, cache);
    // The frees of one CPU's flush may have left something on the CPU that flushed, or on a node: once more.
    for _ in 0..2 {
        for cpu in 0..floor.platform.cpus() {
            flush_cpu(floor, cache, cpu);
        }
    }
    E::flush_nodes(floor, cache);
}

/// Gives back the empty slabs of every node and puts the others in order. Returns the slabs left. Flush first.
/// `keep_pages`: empty slabs stay.
pub fn shrink<P: Platform, E: Engine>(floor: Floor<'_, P, E>, cache: &Cache<E>, keep_pages: bool) -> u64 {
    let mut left = 0;
    for node in 0..floor.platform.nodes() {
        E::release_empty(floor, cache, node, keep_pages);
        left += cache.node(node).slabs.load(Ordering::Relaxed);
    }
    left
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
pub unsafe fn free<P: Platform, E: Engine>(
    floor: Floor<'_, P, E>,
    cache: &Cache<E>,
    page: &Page,
    object: *mut u8,
) -> Result<(), FreedTwice> {
    if cache.capacity() == 0 || (P::NUMA && floor.pages.head(page).node() != floor.platform.current_node()) {
        if let Some(cpu) = cache.here(floor.platform) {
            count(&cpu.stats.free_slow, 1);
        }
        // SAFETY: the caller's promise.
        unsafe { E::free_away(floor, cache, object) };
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

/// Frees an object for which this CPU's stack has no room: a batch leaves the stack first.
///
/// # Safety
/// As [`free`].
#[cold]
#[inline(never)]
pub unsafe fn flush_and_push<P: Platform, E: Engine>(
    floor: Floor<'_, P, E>,
    cache: &Cache<E>,
    object: *mut u8,
) {
    let area = floor.platform.cpu_area();
    if let Some(cpu) = cache.here(floor.platform) {
        count(&cpu.stats.free_slow, 1);
    }
    ensure(floor, cache);
    // SAFETY: the caller's promise; popped objects belong to this thread.
    unsafe {
        if area.push(cache.id, object) == Pushed::Done {
            return;
        }
        if growth::grow(floor, cache) && area.push(cache.id, object) == Pushed::Done {
            return;
        }
        if E::SPILL_OLDEST {
            spill_oldest(floor, cache);
        } else {
            let mut objects = [ptr::null_mut(); MAX_BATCH];
            let got = area.pop_many(cache.id, &mut objects[..E::spill(cache).min(MAX_BATCH)]);
            if got > 0 {
                E::store(floor, cache, &mut objects[..got]);
            }
        }
        if area.push(cache.id, object) != Pushed::Done {
            E::free_many(floor, cache, &mut [object]);
        }
    }
}

/// Sends what has been on this CPU's stack longest to the engine.
fn spill_oldest<P: Platform, E: Engine>(floor: Floor<'_, P, E>, cache: &Cache<E>) {
    let mut objects = [ptr::null_mut(); MAX_BATCH];
    let batch = E::spill(cache);
    if let Some(cpu) = cache.here(floor.platform)
        && batch <= MAX_BATCH
    {
        let stack = cpu.stack.lock(floor.platform);
        // SAFETY: the cache is alive and has this number; under the lock nobody takes the array away or installs another.
        let taken =
            unsafe { floor.platform.cpu_area().pop_oldest(cache.id, stack.base, &mut objects[..batch]) };
        drop(stack);
        if let Some(taken) = taken {
            if taken > 0 {
                // SAFETY: popped objects are free ones of the cache, and this thread's.
                unsafe { E::store(floor, cache, &mut objects[..taken]) };
            }
            return;
        }
    }
    spill_by_turning(floor, cache, batch);
}

/// [`spill_oldest`] where the platform cannot take the oldest away by themselves: the rest is off the stack for an instant.
#[inline(never)]
fn spill_by_turning<P: Platform, E: Engine>(floor: Floor<'_, P, E>, cache: &Cache<E>, batch: usize) {
    let area = floor.platform.cpu_area();
    let mut objects = [ptr::null_mut(); MAX_CAPACITY];
    // SAFETY: the cache is alive and has this number; popped objects are free ones of it, and this thread's.
    unsafe {
        let got = area.pop_many(cache.id, &mut objects);
        // Newest first.
        objects[..got].reverse();
        let (oldest, rest) = objects[..got].split_at_mut(batch.min(got));
        if !oldest.is_empty() {
            E::store(floor, cache, oldest);
        }
        let back = area.push_many(cache.id, rest);
        E::free_many(floor, cache, &mut rest[back..]);
    }
}

/// Makes sure that this CPU has a stack, for a free: it must not wait, and does without when there is no memory.
fn ensure<P: Platform, E: Engine>(floor: Floor<'_, P, E>, cache: &Cache<E>) {
    let Some(cpu) = cache.here(floor.platform) else { return };
    let missing = {
        let stack = cpu.stack.lock(floor.platform);
        stack.base.is_null() && proved(floor, cache, &stack)
    };
    if missing {
        prepare(floor, cache, Gfp::NOWAIT);
    }
}

/// Fills all of `out`, or nothing. Contents as for [`alloc`]. Behind what the stack served, so many objects, `rest` fills:
/// with `fill`, or it frees them and answers false.
#[inline]
pub fn alloc_bulk<P: Platform, E: Engine>(
    floor: Floor<'_, P, E>,
    cache: &Cache<E>,
    out: &mut [*mut u8],
    rest: impl FnOnce(&mut [*mut u8], usize) -> bool,
) -> bool {
    let mut popped = 0;
    if cache.capacity() != 0 {
        // SAFETY: the cache is alive and has this number.
        popped = unsafe { floor.platform.cpu_area().pop_many(cache.id, out) };
    }
    if popped < out.len() && !rest(out, popped) {
        return false;
    }
    let number = floor.platform.current_cpu();
    if let Some(cpu) = cache.cpu(floor.platform, number) {
        count(&floor.platform.cpu_area().hot(number, cache.id).allocs, popped as u64);
        count(&cpu.stats.alloc_slow, (out.len() - popped) as u64);
    }
    true
}

/// Fills `out` from the slabs, behind the `got` objects that are there. False: it could not, and those were freed.
pub(crate) fn fill<P: Platform, E: Engine>(
    floor: Floor<'_, P, E>,
    cache: &Cache<E>,
    gfp: Gfp,
    out: &mut [*mut u8],
    mut got: usize,
) -> bool {
    while got < out.len() {
        let want = (out.len() - got).min(MAX_BATCH);
        let more = E::alloc_many(floor, cache, gfp, None, &mut out[got..got + want], want);
        if more == 0 {
            // SAFETY: these objects were just taken and are this thread's.
            unsafe { E::free_many(floor, cache, &mut out[..got]) };
            return false;
        }
        got += more;
    }
    true
}

/// Gives many objects of one cache back. The order of the array is lost.
///
/// # Safety
/// Every entry is an object of this cache that the caller owns, each one once.
pub unsafe fn free_bulk<P: Platform, E: Engine>(
    floor: Floor<'_, P, E>,
    cache: &Cache<E>,
    objects: &mut [*mut u8],
) {
    let mut done = 0;
    if cache.capacity() != 0 && !P::NUMA {
        // SAFETY: the caller's promise.
        done = unsafe { floor.platform.cpu_area().push_many(cache.id, objects) };
    }
    // SAFETY: the caller's promise.
    unsafe { free_groups(floor, cache, &mut objects[done..]) };
}

/// [`free_bulk`] for objects of the caller's node, of a cache with stacks.
///
/// # Safety
/// As [`free_bulk`].
#[inline]
pub(crate) unsafe fn free_bulk_near<P: Platform, E: Engine>(
    floor: Floor<'_, P, E>,
    cache: &Cache<E>,
    objects: &mut [*mut u8],
) {
    // SAFETY: the caller's promise.
    let done = unsafe { floor.platform.cpu_area().push_many(cache.id, objects) };
    if done < objects.len() {
        // SAFETY: the caller's promise.
        unsafe { free_groups(floor, cache, &mut objects[done..]) };
    }
}

/// Sends objects to their slabs.
///
/// # Safety
/// As [`free_bulk`].
#[cold]
#[inline(never)]
unsafe fn free_groups<P: Platform, E: Engine>(
    floor: Floor<'_, P, E>,
    cache: &Cache<E>,
    objects: &mut [*mut u8],
) {
    for group in objects.chunks_mut(MAX_BATCH) {
        // SAFETY: the caller's promise.
        unsafe { E::free_many(floor, cache, group) };
    }
}
