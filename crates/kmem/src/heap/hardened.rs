//! malloc and free of a build with the feature `hardened`.
//!
//! # Theory
//! The same two fast paths as the usual ones, with more on them:
//!
//! | malloc | free |
//! |---|---|
//! | pop the class's stack | tag and multiplication prove that a block of a class starts here |
//! | the block's state must be free, and becomes used | the seal at the block's end must be whole, and the word before its start |
//! | all of the block must be zero | the state must be used, and becomes free |
//! | seal it behind the last byte asked for | clear the block, push |
//!
//! States and zeros are [`kmem_core::engine::watch`]; the seal is [`mod@seal`].
//!
//! # Invariants
//! - I-HARD-1: every block of a class that this module handed out is sealed; so only this module may free it.
//! - I-HARD-2: what a caller asked for is zero when the block is handed out, but for aligned blocks and resized ones too.
//! - I-HARD-3: of a block in use, what lies between the filler and the last word is zero, unless its holder jumped over the filler.
//!
//! # Errors
//! As in [`super`]: a message with address and cache, and the process aborts.

mod look;
mod origin;
mod quarantine;
#[cfg(target_arch = "x86_64")]
mod quick;
mod resize;
mod seal;
mod touched;
mod words;

use core::hint::cold_path;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use kmem_core::engine::watch;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::FreeError;
use kmem_core::kmalloc::classes::{ClassSet, Kind};
use kmem_core::percpu::Pushed;
use kmem_core::platform::{PAGE_SIZE, Platform};

use super::{Claim, HEAP, MADE, Origin, aging, give_everything_back, heap, reserve};
use crate::debugging;
use crate::engine::check::Check;
use crate::engine::{self, Classes, NO_PLACE, PLACES, TABLE_LIMIT};
use crate::host::misc;
use crate::live;
use crate::misuse::{self, Call, Damage};

use look::Pieces;
pub(super) use resize::realloc;
use seal::{TRAILER, asked, asked_with, clear, follows, follows_any, key, seal};
pub use touched::name_faults;
pub(crate) use touched::tell_of_fault;
use words::WORDS;

/// Requests up to here find their class in [`ROWS`].
pub(super) const SMALL: usize = TABLE_LIMIT - TRAILER;

/// The class of a small request.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Row {
    /// The place of its stack.
    place: u16,
    /// Bytes of a slot.
    slot: u16,
    /// Where it is looked at.
    pieces: Pieces,
}

/// By bytes, seal included, in steps of 16.
static ROWS: [Row; TABLE_LIMIT / 16 + 1] = {
    let mut table = [Row { place: 0, slot: 0, pieces: Pieces::of(0) }; TABLE_LIMIT / 16 + 1];
    let mut class = 0;
    let mut i = 0;
    while i < table.len() {
        while (Classes::SIZES[class] as usize) < i * 16 {
            class += 1;
        }
        let slot = Classes::SIZES[class] as usize;
        table[i] = Row { place: PLACES[i], slot: slot as u16, pieces: Pieces::of(slot) };
        i += 1;
    }
    table
};

/// The row of a small request.
#[inline(always)]
fn row_of(size: usize) -> &'static Row {
    debug_assert!(size <= SMALL);
    // SAFETY: the table has a row for each step up to the limit's.
    unsafe { ROWS.get_unchecked((size + TRAILER + 15) >> 4) }
}

/// Draws the secrets, and reads what the environment asks for. The heap is being made.
///
/// # Safety
/// As [`misc::getenv`].
pub(super) unsafe fn start() {
    WORDS.start();
    look::start();
    if !misc::secure_exec() {
        // SAFETY: the caller's promise.
        unsafe {
            origin::start();
            quarantine::start();
        }
    }
}

/// See [`super::malloc_at_hand`].
#[inline(always)]
pub(super) fn malloc_at_hand(size: usize) -> *mut u8 {
    if !super::is_small(size) {
        cold_path();
        return long_at_hand(size);
    }
    let row = row_of(size);
    // SAFETY: as in the usual path.
    let block = unsafe { super::cpus().try_pop(usize::from(row.place)) };
    if block.is_null() {
        return block;
    }
    let slot = usize::from(row.slot);
    // SAFETY: a block of the class of that row, from a stack; it has room for the size and a seal.
    unsafe { hand_out::<false>(block, slot, size, row.pieces) }
}

/// What [`malloc_at_hand`] is to requests that fit in the tables, to the others.
#[inline(never)]
fn long_at_hand(size: usize) -> *mut u8 {
    let place = engine::place_for(size.saturating_add(TRAILER));
    if place == NO_PLACE {
        return core::ptr::null_mut();
    }
    let slot = Classes::size_of(place / size_of::<Check>() - 1);
    // SAFETY: as in the usual path.
    let block = unsafe { super::cpus().try_pop(place) };
    if block.is_null() {
        return block;
    }
    // SAFETY: a block of the class of `slot` bytes, from a stack; it has room for the size and a seal, and is long.
    unsafe { hand_out::<true>(block, slot, size, Pieces::of(slot)) }
}

/// See [`super::memalign_at_hand`]: a class that has room for the seal too, and is aligned so.
#[inline(always)]
pub(super) fn memalign_at_hand(align: usize, size: usize) -> *mut u8 {
    let place = engine::place_aligned(align, size.saturating_add(TRAILER));
    if place == NO_PLACE {
        cold_path();
        return core::ptr::null_mut();
    }
    let slot = Classes::size_of(place / size_of::<Check>() - 1);
    // SAFETY: as in `malloc_at_hand`: a block of that class has room for the size and a seal.
    unsafe {
        let block = super::cpus().try_pop(place);
        if block.is_null() { block } else { hand_out_any(block, slot, size) }
    }
}

/// Looks at a block that a stack gave, and seals it. What it answers is the block; it does not return with one that was damaged.
///
/// # Safety
/// The block is this thread's, of a class of `slot` bytes, in mapped memory; `size` is at most `slot - TRAILER`. `LONG`: it has more
/// than [`look::LONG`] bytes. The pieces are those of `slot`.
#[inline(always)]
unsafe fn hand_out<const LONG: bool>(block: *mut u8, slot: usize, size: usize, pieces: Pieces) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        // Without closures: the compiler makes functions of them.
        let mut sound = watch::take(WORDS.state(block.addr()));
        if sound {
            sound = if LONG { look::is_zero(block, slot) } else { look::is_zero_short(block, slot, pieces) };
        }
        if !sound {
            return damaged(block, slot).as_ptr();
        }
        seal(block, slot, size);
    }
    block
}

/// A block of a class that was about to be handed out is not as it was left. Ends the process; that is kept from the compiler, so that
/// this is a tail call and malloc has no frame.
#[cold]
#[inline(never)]
fn damaged(block: *mut u8, slot: usize) -> NonNull<u8> {
    let cache = Classes::name(Kind::Normal, Classes::class_of(slot));
    // SAFETY: as in `malloc_at_hand`.
    let written = unsafe { !watch::is_zero::<true>(block, slot) };
    let address = block.addr();
    let error =
        if written { FreeError::Written { address, cache } } else { FreeError::Double { address, cache } };
    HEAP.debug().note(debugging::Error::Bug, cache, format_args!("{error}"));
    kmem_core::report::say(HEAP.platform(), format_args!("kmem: malloc(): {error}"));
    if core::hint::black_box(true) {
        HEAP.platform().fatal()
    }
    NonNull::dangling()
}

/// [`hand_out`] of a block of any length.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn hand_out_any(block: *mut u8, slot: usize, size: usize) -> *mut u8 {
    // SAFETY: the caller's promise, and the length says which.
    unsafe {
        if slot > look::LONG {
            cold_path();
            hand_out::<true>(block, slot, size, Pieces::of(slot))
        } else {
            hand_out::<false>(block, slot, size, Pieces::of(slot))
        }
    }
}

/// See [`super::malloc_slow`].
pub(super) fn malloc_slow(size: usize) -> *mut u8 {
    if super::is_small(size) {
        let row = row_of(size);
        // SAFETY: as in `malloc_at_hand`, which tried the other way to own a CPU.
        unsafe {
            let block = super::cpus().pop_cold(engine::stack_of(usize::from(row.place)));
            if !block.is_null() {
                return hand_out::<false>(block, usize::from(row.slot), size, row.pieces);
            }
        }
    }
    get(Classes::MIN_ALIGN, size, |heap, bytes| heap.allocate(bytes, Gfp::KERNEL))
}

/// See [`super::calloc_slow`]: blocks of classes are zero whenever they are handed out.
pub(super) fn calloc_slow(size: usize) -> *mut u8 {
    get(Classes::MIN_ALIGN, size, |heap, bytes| heap.allocate(bytes, Gfp::KERNEL | Gfp::ZERO))
}

/// See [`super::memalign_slow`].
pub(super) fn memalign_slow(align: usize, size: usize) -> *mut u8 {
    let place = engine::place_aligned(align, size.saturating_add(TRAILER));
    if place != NO_PLACE {
        let class = place / size_of::<Check>() - 1;
        // SAFETY: as in `memalign_at_hand`, which tried the other way to own a CPU.
        unsafe {
            let block = super::cpus().pop_cold(engine::stack_of(place));
            if !block.is_null() {
                return hand_out_any(block, Classes::size_of(class), size);
            }
        }
    }
    get(align, size, |heap, bytes| heap.allocate_aligned(align, bytes, Gfp::KERNEL))
}

/// A block of the heap for `size` bytes, sealed if it is one of a class. Tries again after everything that caches hold in
/// reserve was given back.
#[inline]
fn get(align: usize, size: usize, allocate: impl Fn(&engine::Heap, usize) -> *mut u8) -> *mut u8 {
    if size > isize::MAX as usize {
        return core::ptr::null_mut();
    }
    let Some(heap) = heap() else { return core::ptr::null_mut() };
    debugging::pace::tick(heap);
    live::tick(heap);
    aging::tick(heap);
    reserve::tick(heap);
    if heap.refuses_program(size, Gfp::KERNEL) {
        return core::ptr::null_mut();
    }
    if size > Classes::size_of(Classes::SLAB_CLASSES - 1) {
        reserve::expect();
        if size > Classes::LARGEST - TRAILER {
            return granted_apart(heap, size, allocate);
        }
    }
    granted(heap, align, size, allocate)
}

/// [`get`], whatever the rules of fault injection say.
#[inline]
fn granted(
    heap: &engine::Heap,
    align: usize,
    size: usize,
    allocate: impl Fn(&engine::Heap, usize) -> *mut u8,
) -> *mut u8 {
    if (heap.debug().options().is_some() || heap.guard().is_on())
        && let Some(block) = checked(heap, size, &allocate)
    {
        return block;
    }
    let bytes = size + TRAILER;
    let mut block = allocate(heap, bytes);
    if block.is_null() {
        give_everything_back(heap);
        block = allocate(heap, bytes);
    }
    if !block.is_null()
        && let Some(class) = super::class_at(block)
    {
        // SAFETY: a fresh block of that class, which has at least `bytes` bytes.
        unsafe { seal(block, Classes::size_of(class), size) };
    } else {
        if heap.guard().is_on() && !block.is_null() {
            // A guarded object has no seal: it ends where its user's bytes do.
            // SAFETY: a fresh block, aligned so.
            block = unsafe { heap.shorten_guarded(block, size, align) };
        }
        // Nothing, or a mapping: no class is aligned as was asked.
        noted(heap, block, size);
    }
    block
}

/// [`granted`] for a block that is longer than every class, or would be with a seal: guard pages take its place. A length of whole pages
/// ends where they begin.
#[cold]
#[inline(never)]
fn granted_apart(
    heap: &engine::Heap,
    size: usize,
    allocate: impl Fn(&engine::Heap, usize) -> *mut u8,
) -> *mut u8 {
    let bytes = if size > Classes::LARGEST { size } else { size + TRAILER };
    let mut block = allocate(heap, bytes);
    if block.is_null() {
        give_everything_back(heap);
        block = allocate(heap, bytes);
    }
    noted(heap, block, size);
    block
}

/// Notes of a block that is none of a class, if there is one, how many bytes were asked for.
#[cold]
#[inline(never)]
fn noted(heap: &engine::Heap, block: *mut u8, size: usize) {
    if !block.is_null() {
        name_faults();
        heap.note_mapping(block, size);
    }
}

/// With debug options, or with the sampling guard: a block of a checked class, or a guarded one. Those have an edge of their own,
/// so they are as long as was asked. Nothing when the block would be a usual one.
#[cold]
fn checked(
    heap: &engine::Heap,
    size: usize,
    allocate: impl Fn(&engine::Heap, usize) -> *mut u8,
) -> Option<*mut u8> {
    let block = allocate(heap, size);
    if block.is_null() {
        return None;
    }
    if size <= Classes::LARGEST && super::class_at(block).is_none() {
        return Some(block);
    }
    // SAFETY: a block that nobody knows yet, straight from the heap, so not sealed.
    let _ = unsafe { heap.kfree(block) };
    None
}

/// See [`super::free`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn free(ptr: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { free_by(ptr, Origin::Malloc) }
}

/// [`free`] by a call that tells where the block should have come from.
///
/// # Safety
/// As [`free`].
#[inline(always)]
pub(super) unsafe fn free_by(ptr: *mut u8, origin: Origin) {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        match quick::free(ptr) {
            quick::Freed::Done => {}
            quick::Freed::Full => free_rest(ptr),
            quick::Freed::Long => free_long(ptr),
            quick::Freed::Parts => free_in_parts(ptr, origin),
        }
        #[cfg(not(target_arch = "x86_64"))]
        free_in_parts(ptr, origin);
    }
}

/// All of [`free_by`], one thing after the other: where there is no piece for it, or that stopped before it changed anything.
///
/// # Safety
/// As [`free`].
#[inline(never)]
unsafe fn free_in_parts(ptr: *mut u8, origin: Origin) {
    // SAFETY: the caller's promise.
    unsafe {
        if origin != Origin::Malloc && origin::kept() {
            return free_claimed(ptr, origin);
        }
        free_or(ptr, |ptr| free_claimed(ptr, origin));
    }
}

/// The rest of a free whose block is free already, but not cleared.
///
/// # Safety
/// The block is the caller's, and no longer in use.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
unsafe fn free_long(ptr: *mut u8) {
    let Some(tag) = HEAP.platform().span().tag(ptr.addr()).map(usize::from) else { return };
    // SAFETY: the tag of a class, which has such a slot here; the block is the caller's.
    unsafe {
        // What lies in the block's page has the tag of its class for as long as the block is somebody's.
        core::hint::assert_unchecked(tag - 1 < Classes::COUNT);
        seal::clear_rest(ptr, Classes::size_of(tag - 1));
        if super::cpus().try_push(tag * size_of::<Check>(), ptr) != Pushed::Done {
            free_rest(ptr);
        }
    }
}

/// The slow half of [`free_by`]: compares the origin with what is kept in the block's seal, or by the debug layer.
///
/// # Safety
/// As [`free`].
#[cold]
#[inline(never)]
unsafe fn free_claimed(ptr: *mut u8, told: Origin) {
    if !ptr.is_null() && HEAP.debug().options().is_some() {
        super::check_claim(ptr, Claim { origin: told, ..Claim::default() });
    }
    if let Some(class) = super::class_at(ptr)
        && let Some((made, _)) = kept(ptr, class)
    {
        if made != told {
            stop(Call::Free, FreeError::Origin { address: ptr.addr(), made, told });
        }
        // SAFETY: the block is the caller's, sealed with those bits. Without them it is one of `malloc`.
        unsafe { mix(ptr, class, origin::bits(made)) };
    }
    // SAFETY: the caller's promise.
    unsafe { free_or(ptr, |ptr| free_slow(ptr)) }
}

/// Origin and size of a block of a class whose seal is whole, and which is in use; otherwise nothing. Where origins are not kept
/// they are all that of `malloc`.
fn kept(ptr: *const u8, class: usize) -> Option<(Origin, usize)> {
    let slot = Classes::size_of(class);
    // SAFETY: a slot of that class starts here.
    unsafe {
        let used = WORDS.state(ptr.addr()).load(Ordering::Relaxed) == watch::USED;
        let word = ptr.add(slot - TRAILER).cast::<u64>().read() ^ key(ptr);
        let (origin, _) = origin::split(word).filter(|_| used)?;
        Some((origin, asked_with(ptr, slot, origin::bits(origin))?))
    }
}

/// Changes bits above the size in a block's seal.
///
/// # Safety
/// The block is the caller's, of that class.
unsafe fn mix(ptr: *mut u8, class: usize, bits: u64) {
    // SAFETY: the last word of the slot.
    unsafe {
        let word = ptr.add(Classes::size_of(class) - TRAILER).cast::<u64>();
        word.write(word.read() ^ bits);
    }
}

/// Notes by which calls a new block was asked for, where that is wanted.
///
/// # Safety
/// The block is null, or was just handed out to the caller by this module.
#[inline(always)]
pub(super) unsafe fn note_origin(ptr: *mut u8, origin: Origin) {
    if origin != Origin::Malloc
        && origin::kept()
        && let Some(class) = super::class_at(ptr)
    {
        // SAFETY: the caller's promise.
        unsafe { mix(ptr, class, origin::bits(origin)) };
    }
}

/// What [`quick::free`] does, in parts; `other` is called where it does not know what to do.
///
/// # Safety
/// As [`free`].
#[inline(always)]
unsafe fn free_or(ptr: *mut u8, other: impl FnOnce(*mut u8)) {
    if let Some(tag) = engine::tag_at(HEAP.platform().span(), ptr) {
        let slot = Classes::size_of(tag - 1);
        // SAFETY: a slot of that class starts here, in mapped memory; who finds it used owns it.
        unsafe {
            // Before the exchange, so that the CPU fetches this line while it waits for that of the seal.
            let sealed =
                asked(ptr, slot).is_some() && (follows(ptr, slot) || look_before(Call::Free, ptr, slot));
            if sealed && watch::give(WORDS.state(ptr.addr()), HEAP.platform().alone()) {
                clear(ptr, slot);
                let ptr = if quarantine::on() { quarantine::wait(ptr, tag - 1) } else { ptr };
                if !ptr.is_null() && super::cpus().try_push(tag * size_of::<Check>(), ptr) != Pushed::Done {
                    free_rest(ptr);
                }
                return;
            }
        }
    }
    other(ptr);
}

/// The word before a block in use is not as usual: if it was written to, that is said, and the process ends.
///
/// # Safety
/// As [`follows_any`].
#[cold]
#[inline(never)]
unsafe fn look_before(call: Call, ptr: *const u8, slot: usize) -> bool {
    // SAFETY: the caller's promise.
    if !unsafe { follows_any(ptr, slot) } {
        misuse::damaged(&HEAP, call, ptr.cast_mut(), Some(Classes::class_of(slot)), Damage::Header);
        HEAP.platform().fatal()
    }
    true
}

/// The rest of a free whose block is clear already.
#[cold]
#[inline(never)]
unsafe fn free_rest(ptr: *mut u8) {
    if let Some(place) = engine::place_at(HEAP.platform().span(), ptr) {
        // SAFETY: a free block of the class of that place, zero, and the caller's until now.
        if unsafe { super::cpus().push_cold(engine::stack_of(place), ptr) } == Pushed::Done {
            return;
        }
    }
    live::tick(&HEAP);
    aging::tick(&HEAP);
    reserve::tick(&HEAP);
    // SAFETY: the block is one of a class, free and zero, and was the caller's until now.
    if let Err(error) = unsafe { HEAP.kfree_wiped(ptr) } {
        stop(Call::Free, error);
    }
}

#[cold]
#[inline(never)]
unsafe fn free_slow(ptr: *mut u8) {
    if ptr.is_null() {
        return;
    }
    if let Some(class) = super::class_at(ptr) {
        stop(Call::Free, broken(ptr, class));
    }
    if !MADE.load(Ordering::Acquire) {
        stop(Call::Free, FreeError::Foreign(ptr.addr()));
    }
    // SAFETY: the caller's promise.
    if let Err(error) = unsafe { HEAP.kfree(ptr) } {
        misuse::refused(&HEAP, Call::Free, error);
    }
}

/// What is wrong with a block of a class that cannot be freed.
#[cold]
fn broken(ptr: *const u8, class: usize) -> FreeError {
    let (address, cache) = (ptr.addr(), Classes::name(Kind::Normal, class));
    // SAFETY: a slot of that class starts here.
    match unsafe { WORDS.state(address) }.load(Ordering::Relaxed) {
        watch::USED => FreeError::Overflow { address, cache },
        _ => FreeError::Double { address, cache },
    }
}

/// Says what is wrong, and ends the process whatever is to be done after errors: the heap is not to be trusted.
#[cold]
#[inline(never)]
fn stop(call: Call, error: FreeError) -> ! {
    misuse::refused(&HEAP, call, error);
    HEAP.platform().fatal()
}

/// How many bytes of a block of a class were asked for. A block that is free or was written past its end is reported, and one that
/// is resized by other calls than it was asked for.
fn asked_of(call: Call, ptr: *const u8, class: usize) -> usize {
    // SAFETY: a slot of that class starts here.
    let (size, state) =
        unsafe { (asked(ptr, Classes::size_of(class)), WORDS.state(ptr.addr()).load(Ordering::Relaxed)) };
    match size {
        Some(size) if state == watch::USED => {
            // SAFETY: a block of that class, in use.
            unsafe {
                let slot = Classes::size_of(class);
                let _ = follows(ptr, slot) || look_before(call, ptr, slot);
            }
            size
        }
        _ => asked_of_other(call, ptr, class),
    }
}

/// [`asked_of`] a block that is none of `malloc`'s, or none at all.
#[cold]
#[inline(never)]
fn asked_of_other(call: Call, ptr: *const u8, class: usize) -> usize {
    match kept(ptr, class) {
        Some((made, _)) if call == Call::Realloc => {
            stop(call, FreeError::Origin { address: ptr.addr(), made, told: Origin::Malloc })
        }
        Some((_, size)) => size,
        None => stop(call, broken(ptr, class)),
    }
}

/// See [`super::free_as`]: size and alignment are always compared. (Which call a block came from is the debug layer's affair.)
///
/// # Safety
/// As there.
pub(super) unsafe fn free_as(ptr: *mut u8, claim: Claim) {
    if let Some(told) = claim.align
        && !ptr.is_null()
        && (!told.is_power_of_two() || ptr.addr() & (told - 1) != 0)
    {
        stop(Call::Free, FreeError::Align { address: ptr.addr(), told });
    }
    if let Some(told) = claim.size
        && !ptr.is_null()
    {
        let (asked, exact) = match super::class_at(ptr) {
            Some(class) => (asked_of(Call::Free, ptr, class), true),
            None => (HEAP.ksize(ptr).unwrap_or_else(|error| stop(Call::Free, error)), false),
        };
        // A block of pages only knows how many it has: those of the size it was asked for with, or of that and a seal. What the
        // debug layer checks, or the sampling guard, is longer than asked for.
        let pages = |told: usize| told.max(1).checked_next_multiple_of(PAGE_SIZE);
        let whole = asked > Classes::LARGEST;
        let right = match exact {
            true => told == asked,
            false if whole => {
                pages(told) == Some(asked) || pages(told.saturating_add(TRAILER)) == Some(asked)
            }
            false => told <= asked,
        };
        if !right {
            stop(Call::Free, FreeError::Size { address: ptr.addr(), asked, told });
        }
    }
    // An address that fits may do so by chance; the class is what such a request has.
    if let Some(told) = claim.align
        && let Some(class) = super::class_at(ptr)
        && engine::Heap::class_aligned(told, asked_of(Call::Free, ptr, class) + TRAILER) != Some(class)
    {
        stop(Call::Free, FreeError::Align { address: ptr.addr(), told });
    }
    if HEAP.debug().options().is_some() {
        super::check_claim(ptr, claim);
    }
    // SAFETY: the caller's promise.
    unsafe { free_by(ptr, claim.origin) }
}

/// Frees what waits: memory is short.
pub(super) fn release_waiting() {
    // SAFETY: I-WAIT-1: a free block of a class, zero, and this thread's.
    quarantine::empty(|block| unsafe { free_rest(block) });
}

/// See [`super::usable_size`]: what was asked for, and not a byte more.
///
/// # Safety
/// As there.
pub(super) unsafe fn usable_size(ptr: *const u8) -> usize {
    match super::class_at(ptr) {
        Some(class) => asked_of(Call::UsableSize, ptr, class),
        None if ptr.is_null() => 0,
        None => HEAP.ksize(ptr).unwrap_or_else(|error| stop(Call::UsableSize, error)),
    }
}
