//! The process-wide heap: malloc, free, and what they hold.
//!
//! # Theory
//! One static [`Kmem`] on the Linux [`Host`], made at the first request, without any constructor: a
//! library may allocate before ours is initialised. Until then every CPU stack is empty and full
//! at once and the window ends where it begins, so both fast paths fail into slow ones by themselves
//! and spend no instruction on the question.
//!
//! # The fast paths
//! [`malloc`]: size to class by a table, beyond 32 KiB by arithmetic, pop the class's stack. [`memalign`]: the same with one table
//! more. [`free`]: distance from the window's base, the page's tag (the number of its class), the header, push; where blocks have no
//! header one multiplication that proves an object starts here, and the mark of a freed block.
//!
//! # What tells that a block is free
//! Its header, or the mark in its second word (module `state`): a free that finds it is a double free. A block must still have it
//! when it is handed out. The mark is taken off by mixing it in once more, so whether it was there is what is left; and below the
//! lowest block of a stack lies what never has one, so the same look tells whether there is a block at all (module `quick`).
//!
//! # Errors
//! What a wrong call did is reported to standard error with address and cache, and the process aborts, as with the C library
//! (module `misuse`).

mod aging;
mod fork;
mod freeing;
mod growing;
mod hardened;
#[cfg(target_arch = "x86_64")]
mod quick;
mod reserve;
mod resize;
mod state;
mod tell;
mod zeroed;

use core::fmt;
use core::hint::cold_path;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use kmem_core::Kmem;
pub use kmem_core::debug::Origin;
use kmem_core::engine::beside;
use kmem_core::gfp::Gfp;
pub use kmem_core::kmalloc::claim::Claim;
use kmem_core::kmalloc::classes::{ClassSet, MAX_BYTES};
use kmem_core::kmalloc::{FreeError, zero_or_null};
use kmem_core::percpu::{CpuArea, StackId};
use kmem_core::platform::{PAGE_SHIFT, PAGE_SIZE, Platform};

use crate::debugging;
use crate::engine::{self, Classes, REGULAR, RunPlace, TABLE_LIMIT};
use crate::fault;
use crate::guard;
use crate::host::{Host, HostCpus, Options};
use crate::live;
use crate::misuse::{self, Call, Damage};
use freeing::{check_claim, freed_before};
use state::State;

pub use crate::engine::Heap;
pub use fork::{postfork_child, postfork_parent, prefork, take_over_forks};
pub use freeing::{free, free_as};
pub use hardened::name_faults;
pub(crate) use hardened::tell_of_fault;
pub use resize::{realloc, stays};
pub(crate) use tell::write_report_with;
pub use tell::{HeapStats, ownership, stats, write_report, write_slabinfo};
pub use zeroed::{calloc, calloc_slow, clear};

/// The heap stops what misuses it: each call is the one of the same name in the private module `hardened`.
pub const HARDENED: bool = cfg!(feature = "hardened");

static HEAP: Heap = Kmem::new(Host::new());

/// Secret of the marks; [`NO_SECRET`] until the heap is made, when nothing can be freed yet. Odd, so never 0.
static SECRET: AtomicU64 = AtomicU64::new(NO_SECRET);
const NO_SECRET: u64 = 1;
/// The secret of the headers of free blocks, the complement, for the fast path.
static FREE_SECRET: AtomicU64 = AtomicU64::new(!NO_SECRET);

/// The heap was made.
static MADE: AtomicBool = AtomicBool::new(false);
/// Token of the thread that makes the heap; 0: nobody does.
static MAKER: AtomicU32 = AtomicU32::new(0);

/// Free blocks of 4 MiB that stay mapped for the next growth.
const FREE_BLOCKS: usize = 4;

/// There is no memory for this request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory")
    }
}

impl core::error::Error for OutOfMemory {}

/// The process-wide heap, made at the first call. `None`: not even its first page could be had.
#[inline]
pub fn heap() -> Option<&'static Heap> {
    // Acquire pairs with the Release of `make`.
    if MADE.load(Ordering::Acquire) { Some(&HEAP) } else { make() }
}

/// The process-wide heap, if it was made.
#[inline]
pub(crate) fn made() -> Option<&'static Heap> {
    MADE.load(Ordering::Acquire).then_some(&HEAP)
}

/// The platform of the process-wide heap, which works before the heap does.
pub(crate) fn host() -> &'static Host {
    HEAP.platform()
}

/// The CPU layer of the process-wide heap. Before the heap is made, every stack of its own classes is empty and full there.
#[inline(always)]
pub(crate) fn cpus() -> &'static HostCpus {
    HEAP.platform().cpus_layer()
}

#[cold]
#[inline(never)]
fn make() -> Option<&'static Heap> {
    let host = HEAP.platform();
    let me = host.lock_token();
    // Acquire pairs with the Release of the last maker.
    while let Err(maker) = MAKER.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed) {
        if maker == me {
            // A signal handler interrupted this very thread in here: there is no memory for it.
            return None;
        }
        host.lock_wait(&MAKER, maker);
    }
    let known = MADE.load(Ordering::Acquire);
    let made = known || make_alone();
    MAKER.store(0, Ordering::Release);
    host.lock_wake(&MAKER);
    if made && !known {
        fork::register_fork_handlers();
    }
    made.then_some(&HEAP)
}

/// Makes the heap. The caller is the maker.
fn make_alone() -> bool {
    // SAFETY: the maker is one thread at a time; the heap is a static. The environment is read where the C
    // library has it from the start of the process.
    let made = unsafe {
        let host = HEAP.platform();
        // A host that was initialised by an attempt that then found no memory stays as it is.
        let host_ready = host.span().base() != 0 || host.init(&Options::from_env()).is_ok();
        if host_ready {
            debugging::configure(&HEAP);
            // An attempt before this one may have made slabs already: their marks stay.
            if SECRET.load(Ordering::Relaxed) == NO_SECRET {
                let mut secret = host.entropy() | 1;
                // Addresses leave the last byte of a header as it is: so a zero written there, by whoever ends a text too
                // early, changes it, in a free block's too.
                if matches!(secret >> 56, 0 | 0xff) {
                    secret ^= 0x5a << 56;
                }
                SECRET.store(secret, Ordering::Relaxed);
                FREE_SECRET.store(!SECRET.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            HEAP.set_free_mark(SECRET.load(Ordering::Relaxed));
        }
        host_ready && HEAP.init().is_ok()
    };
    if made {
        // SAFETY: as above. The heap's own start is never made to fail.
        unsafe { fault::configure(&HEAP) };
        HEAP.pages().set_block_reserve(FREE_BLOCKS);
        // SAFETY: as above.
        unsafe { guard::configure(&HEAP) };
        // SAFETY: as above.
        unsafe { live::configure(&HEAP) };
        if HARDENED {
            // SAFETY: as above.
            unsafe { hardened::start() };
        }
    }
    // Release publishes all that was made.
    MADE.store(made, Ordering::Release);
    made
}

/// The class of the block at `ptr`; see [`engine::tag_at`].
#[inline(always)]
fn class_at(ptr: *const u8) -> Option<usize> {
    engine::tag_at(HEAP.platform().span(), ptr).map(|tag| tag - 1)
}

/// Makes a block that is about to be handed out one in use. If it is not as its free left it, it was used after that, and may have been
/// freed twice, or its header was written over: that is reported, and it is given to nobody.
#[inline(always)]
fn unmark(block: *mut u8, place: usize) -> bool {
    // SAFETY: a block of a class, which nobody else has.
    let taken = unsafe { state::take(block, place) };
    if !taken {
        unmarked(block, place);
    }
    taken
}

/// Reports a block whose mark was something else.
#[cold]
#[inline(never)]
fn unmarked(block: *mut u8, place: usize) {
    if engine::is_headed(place) {
        misuse::damaged(&HEAP, Call::Malloc, block, class_at(block), Damage::Header);
    } else {
        misuse::written_when_free(&HEAP, block, class_at(block));
    }
}

/// The place of a class's stack.
#[inline(always)]
const fn place_of(class: usize) -> usize {
    HostCpus::place(Heap::class_id(class))
}

/// A block of at least `size` bytes, aligned to 16. Null: no memory, or `size` exceeds `isize::MAX`.
/// 0 bytes: a block of its own.
#[inline(always)]
pub fn malloc(size: usize) -> *mut u8 {
    let block = malloc_at_hand(size);
    if block.is_null() { malloc_slow(size) } else { block }
}

/// The fast half of [`malloc`]: what restartable sequences find on this CPU's stack. Null says nothing: ask [`malloc_slow`].
#[inline(always)]
pub fn malloc_at_hand(size: usize) -> *mut u8 {
    if HARDENED {
        return hardened::malloc_at_hand(size);
    }
    if !REGULAR {
        return core::ptr::null_mut();
    }
    if HEADED && !is_small(size) {
        // So the usual way has no jump in it.
        cold_path();
        return long_at_hand(size);
    }
    // SAFETY: as above.
    unsafe { pop_at_hand(engine::place_for(size), HEADED) }
}

/// The one half of [`malloc_at_hand`] serves blocks of so many bytes, the other all others: who asks first may have each in a
/// function of its own.
#[inline(always)]
pub fn is_small(size: usize) -> bool {
    size <= if HARDENED { hardened::SMALL } else { TABLE_LIMIT }
}

/// Small blocks have headers.
const HEADED: bool = Classes::HEADED != 0;

/// The block on top of this CPU's stack at that place, as restartable sequences find it. Null: there is none, or it was damaged.
///
/// # Safety
/// The place is that of a class's stack, with headers if `headed`, or of none.
#[inline(always)]
unsafe fn pop_at_hand(place: usize, headed: bool) -> *mut u8 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the caller's promise. The numbers of kmalloc's classes are always in use, and their blocks have marks or headers.
        let (block, taken) =
            unsafe { if headed { quick::malloc_headed(place) } else { quick::malloc(place) } };
        if !taken {
            // No block, or one whose mark was damaged: the slow half meets it again, reports it, and gives it to nobody.
            return core::ptr::null_mut();
        }
        block
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (place, headed);
        core::ptr::null_mut()
    }
}

/// [`malloc_at_hand`] of more than what is small, where small blocks have headers.
#[inline(always)]
fn long_at_hand(size: usize) -> *mut u8 {
    if size >= engine::UNHEADED_FROM {
        return run_at_hand(size);
    }
    // SAFETY: a place for requests of that size.
    unsafe { pop_any_at_hand(engine::place_for(size)) }
}

/// [`malloc_at_hand`] of at least [`engine::UNHEADED_FROM`] bytes, where small blocks have headers.
#[inline(always)]
fn run_at_hand(size: usize) -> *mut u8 {
    // SAFETY: places for requests of that size.
    unsafe {
        match engine::run_for(size) {
            RunPlace::Tailed(place) => pop_tailed_at_hand(place),
            RunPlace::Bare(place) => pop_at_hand(place, false),
            RunPlace::Nowhere => core::ptr::null_mut(),
        }
    }
}

/// [`pop_at_hand`] of a class whose blocks have tails; the block has its own.
///
/// # Safety
/// The place is that of such a class's stack.
#[inline(always)]
unsafe fn pop_tailed_at_hand(place: usize) -> *mut u8 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the caller's promise; as in `pop_at_hand`.
        unsafe { quick::malloc_tailed(place) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = place;
        core::ptr::null_mut()
    }
}

/// The same where it is not known whether the place is that of blocks with headers.
///
/// # Safety
/// The place is that of a class's stack, or of none.
#[inline(always)]
unsafe fn pop_any_at_hand(place: usize) -> *mut u8 {
    if HEADED && engine::is_headed(place) {
        // SAFETY: the caller's promise.
        return unsafe { pop_at_hand(place, true) };
    }
    // SAFETY: the caller's promise.
    unsafe { pop_long_at_hand(place) }
}

/// The same of a class whose blocks have no headers; the block has its tail, if it has one.
///
/// # Safety
/// As [`pop_any_at_hand`], but the class's blocks have no headers.
#[inline(always)]
unsafe fn pop_long_at_hand(place: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    let block = unsafe { pop_at_hand(place, false) };
    if !block.is_null() {
        // SAFETY: a block of that class, the caller's.
        unsafe { state::set_tail(block, place) };
    }
    block
}

/// The other half of [`malloc`], which serves every size.
#[cold]
#[inline(never)]
pub fn malloc_slow(size: usize) -> *mut u8 {
    if HARDENED {
        return hardened::malloc_slow(size);
    }
    if REGULAR && size <= TABLE_LIMIT {
        let place = engine::place_for(size);
        // SAFETY: as in `malloc_at_hand`, which tried these sizes.
        let block = unsafe { cpus().pop_cold(engine::stack_of(place)) };
        if !block.is_null() && unmark(block, place) {
            return block;
        }
    }
    // A tail call, so that the usual way saves no register.
    malloc_rest(size)
}

/// What no table and no stack of small blocks has.
#[inline(never)]
fn malloc_rest(size: usize) -> *mut u8 {
    if REGULAR && size > TABLE_LIMIT && size <= Classes::LARGEST {
        let block = pop_near(size);
        if !block.is_null() {
            return block;
        }
    } else if size > isize::MAX as usize {
        return core::ptr::null_mut();
    }
    let Some(heap) = heap() else { return core::ptr::null_mut() };
    debugging::pace::tick(heap);
    live::tick(heap);
    aging::tick(heap);
    reserve::tick(heap);
    if size > Classes::size_of(Classes::SLAB_CLASSES - 1) {
        reserve::expect();
    }
    if heap.refuses_program(size, Gfp::KERNEL) {
        return core::ptr::null_mut();
    }
    retry(heap, size, || heap.allocate(size, Gfp::KERNEL))
}

/// A block for more bytes than the table has, from this CPU's stacks; null when there is none. Where blocks are large, one of the
/// next class is rather taken than a new one made: it is a quarter longer at most, and the system backs it already.
#[inline]
fn pop_near(size: usize) -> *mut u8 {
    let class = Classes::class_of(size);
    let block = pop_checked(Heap::class_id(class));
    if block.is_null() && size > zeroed::ZEROED_BY_PAGES {
        // Not one that is for blocks that grow.
        let next = class + if Classes::GROWING == Some(class + 1) { 2 } else { 1 };
        if next < Classes::COUNT {
            return pop_checked(Heap::class_id(next));
        }
    }
    block
}

/// A block of this CPU's stack that is as its free left it; null when there is none.
#[inline]
fn pop_checked(id: StackId) -> *mut u8 {
    loop {
        // SAFETY: as in `malloc_at_hand`.
        let block = unsafe { cpus().pop(id) };
        if block.is_null() || unmark(block, HostCpus::place(id)) {
            return block;
        }
    }
}

/// Tries again after everything that caches hold in reserve was given back.
#[inline]
fn retry(heap: &Heap, size: usize, get: impl Fn() -> *mut u8) -> *mut u8 {
    loop {
        let mut block = get();
        if block.is_null() && (size <= MAX_BYTES || heap.ages()) {
            give_everything_back(heap);
            block = get();
        }
        // Only blocks of size classes carry marks; the first page of a larger one need not be touched.
        if block.is_null() || class_at(block).is_none_or(|class| unmark(block, place_of(class))) {
            return block;
        }
    }
}

#[cold]
#[inline(never)]
fn give_everything_back(heap: &Heap) {
    if HARDENED {
        hardened::release_waiting();
    }
    heap.trim(0);
}

/// A block of at least `size` bytes, aligned to `align`, which is a power of two. Null as for [`malloc`].
#[inline]
pub fn memalign(align: usize, size: usize) -> *mut u8 {
    let block = memalign_at_hand(align, size);
    if block.is_null() { memalign_slow(align, size) } else { block }
}

/// The fast half of [`memalign`]: a class whose blocks are aligned so by their place in the slab serves the request as any other.
/// Null says nothing: ask [`memalign_slow`].
#[inline(always)]
pub fn memalign_at_hand(align: usize, size: usize) -> *mut u8 {
    if HARDENED {
        return hardened::memalign_at_hand(align, size);
    }
    if !REGULAR {
        return core::ptr::null_mut();
    }
    if HEADED && align >= PAGE_SIZE {
        cold_path();
        if size >= engine::UNHEADED_FROM {
            // A run is cut from the front of a block of the next power of two, which is aligned to itself.
            return if align <= size { run_at_hand(size) } else { core::ptr::null_mut() };
        }
        if align > PAGE_SIZE {
            return core::ptr::null_mut();
        }
        // SAFETY: a place for requests of that size.
        return unsafe { pop_long_at_hand(engine::page_place(size)) };
    }
    let place = engine::place_aligned(align, size);
    // SAFETY: a place for requests of that size, or none.
    unsafe { pop_any_at_hand(place) }
}

/// The one half of [`memalign_at_hand`] serves blocks of so many bytes and such alignments, the other all others; as [`is_small`].
#[inline(always)]
pub fn is_small_aligned(align: usize, size: usize) -> bool {
    !HEADED || align < PAGE_SIZE && is_small(size)
}

/// The other half of [`memalign`], which serves every size and alignment.
#[cold]
#[inline(never)]
pub fn memalign_slow(align: usize, size: usize) -> *mut u8 {
    if align <= Classes::MIN_ALIGN {
        return malloc_slow(size);
    }
    if size > isize::MAX as usize || align > isize::MAX as usize {
        return core::ptr::null_mut();
    }
    if HARDENED {
        return hardened::memalign_slow(align, size);
    }
    if REGULAR {
        let place = engine::place_aligned(align, size);
        // The portable half of the fast path.
        let block = if place == engine::NO_PLACE {
            core::ptr::null_mut()
        } else {
            pop_checked(engine::stack_of(place))
        };
        if !block.is_null() {
            return block;
        }
    }
    let Some(heap) = heap() else { return core::ptr::null_mut() };
    debugging::pace::tick(heap);
    live::tick(heap);
    aging::tick(heap);
    reserve::tick(heap);
    if size > Classes::size_of(Classes::SLAB_CLASSES - 1) {
        reserve::expect();
    }
    if heap.refuses_program(size, Gfp::KERNEL) {
        return core::ptr::null_mut();
    }
    retry(heap, size.max(align), || heap.allocate_aligned(align, size, Gfp::KERNEL))
}

/// Notes how a block of [`malloc_at_hand`] was asked for, where a hardened heap keeps that.
///
/// # Safety
/// As [`note_origin`].
#[inline(always)]
pub unsafe fn note_origin_at_hand(ptr: *mut u8, origin: Origin) {
    if HARDENED {
        // SAFETY: the caller's promise.
        unsafe { hardened::note_origin(ptr, origin) };
    }
}

/// Notes how a block was asked for, where there are debug options: for what [`malloc_slow`] and [`memalign`] gave.
///
/// # Safety
/// `ptr` is null or a block of this module that the caller just got.
#[cold]
#[inline(never)]
pub unsafe fn note_origin(ptr: *mut u8, origin: Origin, align: usize) {
    // SAFETY: the caller's promise.
    unsafe { note_origin_at_hand(ptr, origin) };
    // Blocks of unchecked classes keep nothing of that.
    if class_at(ptr).is_none()
        && let Some(heap) = made()
        && heap.debug().options().is_some()
        && !ptr.is_null()
    {
        // SAFETY: the caller's promise.
        unsafe { heap.note_origin(ptr, origin, align) };
    }
}

/// The class of a block in use with a header, which proves by itself that the block starts there. Nothing: ask [`class_at`].
#[inline(always)]
fn headed_at(ptr: *const u8) -> Option<usize> {
    if !HEADED {
        return None;
    }
    let tag = usize::from(HEAP.platform().span().tag(ptr.addr())?);
    // SAFETY: the page's tag.
    unsafe { is_headed_in(ptr, tag) }.then(|| tag - 1)
}

/// The page at `ptr` is one of blocks with headers, and there lies one in use.
///
/// # Safety
/// The page has this tag.
#[inline(always)]
unsafe fn is_headed_in(ptr: *const u8, tag: usize) -> bool {
    // What begins a page may have its header in the one before, of which nobody knows here whether it is memory.
    (0..Classes::HEADED).contains(&tag.wrapping_sub(1))
        && ptr.addr() % PAGE_SIZE >= beside::BYTES
        // SAFETY: the word lies in the page of the address, which has the tag of a slab's.
        && unsafe { state::has_header_in_use(ptr) }
}

/// The bytes of the block of a class at `ptr` for this call; `Some(None)` when it is free. That, and damage beside it, is
/// reported.
#[inline]
fn size_at(call: Call, ptr: *const u8) -> Option<Option<usize>> {
    match headed_at(ptr) {
        Some(class) => Some(Some(Classes::size_of(class))),
        None => class_at(ptr).map(|class| size_for(call, ptr, class)),
    }
}

#[inline]
fn size_for(call: Call, ptr: *const u8, class: usize) -> Option<usize> {
    // SAFETY: a block of that class.
    let sound = unsafe { state::is_in_use(ptr, place_of(class)) } || unsound(call, ptr, class);
    sound.then(|| Classes::size_of(class))
}

/// Reports a block of a class that is not as one in use. False: it is free.
#[cold]
#[inline(never)]
fn unsound(call: Call, ptr: *const u8, class: usize) -> bool {
    // SAFETY: a block of that class.
    let state = unsafe { state::state_of(ptr, place_of(class)) };
    if state == State::Free {
        misuse::refused(&HEAP, call, freed_before(ptr, class));
    } else if let Some(damage) = Damage::of(state) {
        misuse::damaged(&HEAP, call, ptr.cast_mut(), Some(class), damage);
    }
    state != State::Free
}

/// Bytes of a block that its holder may use; 0 for null. An address where no block starts is reported and the process aborts; where
/// its user wants to go on after errors the answer is 0.
///
/// # Safety
/// `ptr` is null or a block of this module.
#[inline]
pub unsafe fn usable_size(ptr: *const u8) -> usize {
    if HARDENED {
        // SAFETY: the caller's promise.
        return unsafe { hardened::usable_size(ptr) };
    }
    let size = if let Some(size) = size_at(Call::UsableSize, ptr) {
        return size.unwrap_or(0);
    } else if ptr.is_null() {
        return 0;
    } else {
        match heap() {
            // SAFETY: the caller's promise.
            Some(heap) if !zero_or_null(ptr) => unsafe { size_in_core(heap, ptr) },
            _ => Err(FreeError::Foreign(ptr.addr())),
        }
    };
    size.unwrap_or_else(|error| {
        misuse::refused(&HEAP, Call::UsableSize, error);
        0
    })
}

/// The usable bytes of a block that no class has.
///
/// # Safety
/// As [`usable_size`].
#[cold]
#[inline(never)]
unsafe fn size_in_core(heap: &Heap, ptr: *const u8) -> Result<usize, FreeError> {
    match heap.ksize(ptr) {
        Err(FreeError::Overflow { cache, .. }) if Classes::TAILED != 0 => {
            // SAFETY: the caller's block.
            unsafe { misuse::overflowed(heap, Call::UsableSize, ptr.cast_mut(), cache) };
            heap.ksize(ptr)
        }
        size => size,
    }
}

/// Empties the caches' reserves and returns free pages to the system, but for about `keep` bytes of them. True when any
/// were returned.
pub fn trim(keep: usize) -> bool {
    heap().is_some_and(|heap| {
        let stash = HARDENED && heap.platform().drop_stash();
        heap.trim(keep >> PAGE_SHIFT) > 0 || stash
    })
}
