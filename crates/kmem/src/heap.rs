//! The process-wide heap: malloc, free, and what they hold.
//!
//! # Theory
//! One static [`Kmem`] on the Linux [`Host`], made at the first request, without any constructor: a
//! library may allocate before ours is initialised. Until then every CPU stack is empty and full
//! at once and the window ends where it begins, so both fast paths fail into slow ones by themselves
//! and spend no instruction on the question.
//!
//! # The two fast paths
//! [`malloc`]: size to class by a table, pop the class's stack. [`free`]: distance from the window's
//! base, the page's tag (the number of its class), one multiplication that proves an object starts here,
//! the mark of a freed block, push.
//!
//! # The mark
//! While a block is free its second word holds a secret mixed with its address; malloc clears it. A
//! free that finds the mark is a double free, however many other frees came between. Free pointers of
//! these classes lie in the first word, so the mark survives on the lists of slabs too.
//!
//! Blocks of this module must be freed by this module: [`Kmem::kfree`] on the same heap knows no marks.
//!
//! # Errors
//! A wrong free is reported to standard error with address and cache, and the process aborts, as with the C library.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use kmem_core::Kmem;
use kmem_core::engine::proof::Proof;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::FreeError;
use kmem_core::kmalloc::aligned::{MAPPED, Resized};
use kmem_core::kmalloc::classes::{ClassSet, FineSet, Kind, MAX_BYTES};
use kmem_core::percpu::{CpuArea, Pushed, StackId};
use kmem_core::platform::{PAGE_SHIFT, Platform};

use crate::debugging;
use crate::engine::{self, PLACES, REGULAR, TABLE_LIMIT};
use crate::host::{Host, HostCpus, Options, Ownership};

pub use crate::engine::Heap;

static HEAP: Heap = Kmem::new(Host::new());

/// Secret of the marks; 0 until the heap is made, when nothing can be freed yet.
static SECRET: AtomicU64 = AtomicU64::new(0);

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
        register_fork_handlers();
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
        }
        host_ready && HEAP.init().is_ok()
    };
    if made {
        HEAP.pages().set_block_reserve(FREE_BLOCKS);
        SECRET.store(HEAP.platform().entropy() | 1, Ordering::Relaxed);
    }
    // Release publishes all that was made.
    MADE.store(made, Ordering::Release);
    made
}

/// Set when somebody calls [`prefork`] and its companions without being asked.
static FORKS_HANDLED: AtomicBool = AtomicBool::new(false);

/// Says that the caller registers fork handlers itself: the heap then registers none of its own. For libraries that know
/// better when to register: handlers that were registered later run before ours and may allocate.
/// False when it is too late: the heap was made before and has its handlers, and the caller must do nothing.
pub fn take_over_forks() -> bool {
    // Relaxed: said by a constructor, before there are threads.
    !FORKS_HANDLED.swap(true, Ordering::Relaxed)
}

/// A program that uses this heap as its allocator has nobody else to do it.
fn register_fork_handlers() {
    if FORKS_HANDLED.swap(true, Ordering::Relaxed) {
        return;
    }
    extern "C" fn before() {
        prefork();
    }
    extern "C" fn parent() {
        postfork_parent();
    }
    extern "C" fn child() {
        postfork_child();
    }
    debugging::register_exit();
    // SAFETY: the handlers are functions of this program, or of a library that is never unloaded. Without memory for
    // the registration a fork is as safe as the moment it happens at.
    unsafe { libc::pthread_atfork(Some(before), Some(parent), Some(child)) };
}

/// The class of the block at `ptr`; see [`engine::tag_at`].
#[inline(always)]
fn class_at(ptr: *const u8) -> Option<usize> {
    engine::tag_at(HEAP.platform().span(), ptr).map(|tag| tag - 1)
}

#[inline(always)]
fn mark_of(ptr: *const u8) -> u64 {
    SECRET.load(Ordering::Relaxed) ^ ptr.addr() as u64
}

#[inline(always)]
fn mark_place(ptr: *mut u8) -> *mut u64 {
    ptr.wrapping_add(8).cast()
}

/// Clears the mark of a block that is about to be handed out.
#[inline(always)]
fn unmark(ptr: *mut u8) {
    // SAFETY: every block has at least 16 bytes and is the caller's.
    unsafe { mark_place(ptr).write(0) };
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
    if !REGULAR || size > TABLE_LIMIT {
        return core::ptr::null_mut();
    }
    let place = usize::from(PLACES[(size + 15) >> 4]);
    // SAFETY: the numbers of kmalloc's classes are always in use; before the heap is made every stack is empty.
    let block = unsafe { cpus().try_pop(place) };
    if !block.is_null() {
        unmark(block);
    }
    block
}

/// The other half of [`malloc`], which serves every size.
#[cold]
#[inline(never)]
pub fn malloc_slow(size: usize) -> *mut u8 {
    if REGULAR && size <= FineSet::LARGEST {
        let id = Heap::class_id(FineSet::class_of(size));
        // SAFETY: as in `malloc_at_hand`. Sizes of its table were tried there.
        let block = unsafe { if size <= TABLE_LIMIT { cpus().pop_cold(id) } else { cpus().pop(id) } };
        if !block.is_null() {
            unmark(block);
            return block;
        }
    } else if size > isize::MAX as usize {
        return core::ptr::null_mut();
    }
    let Some(heap) = heap() else { return core::ptr::null_mut() };
    debugging::pace::tick(heap);
    retry(heap, size, || heap.allocate(size, Gfp::KERNEL))
}

/// Tries again after everything that caches hold in reserve was given back.
#[inline]
fn retry(heap: &Heap, size: usize, get: impl Fn() -> *mut u8) -> *mut u8 {
    let mut block = get();
    if block.is_null() && size <= MAX_BYTES {
        give_everything_back(heap);
        block = get();
    }
    // Only blocks of size classes carry marks; the first page of a larger one need not be touched.
    if !block.is_null() && class_at(block).is_some() {
        unmark(block);
    }
    block
}

#[cold]
#[inline(never)]
fn give_everything_back(heap: &Heap) {
    heap.trim(0);
}

/// A block of `size` zero bytes; otherwise as [`malloc`].
#[inline]
pub fn calloc(size: usize) -> *mut u8 {
    let block = malloc_at_hand(size);
    if block.is_null() {
        return calloc_slow(size);
    }
    // SAFETY: the block has that many bytes.
    unsafe { block.write_bytes(0, size) };
    block
}

/// [`calloc`] where [`malloc_at_hand`] gave nothing.
#[cold]
#[inline(never)]
pub fn calloc_slow(size: usize) -> *mut u8 {
    if size > FineSet::LARGEST {
        return calloc_large(size);
    }
    let block = malloc_slow(size);
    if !block.is_null() {
        // SAFETY: the block has that many bytes.
        unsafe { block.write_bytes(0, size) };
    }
    block
}

fn calloc_large(size: usize) -> *mut u8 {
    if size > isize::MAX as usize {
        return core::ptr::null_mut();
    }
    // Whole pages know whether they are zero.
    let Some(heap) = heap() else { return core::ptr::null_mut() };
    retry(heap, size, || heap.allocate(size, Gfp::KERNEL | Gfp::ZERO))
}

/// A block of at least `size` bytes, aligned to `align`, which is a power of two. Null as for [`malloc`].
pub fn memalign(align: usize, size: usize) -> *mut u8 {
    if align <= FineSet::MIN_ALIGN {
        return malloc(size);
    }
    if size > isize::MAX as usize || align > isize::MAX as usize {
        return core::ptr::null_mut();
    }
    let Some(heap) = heap() else { return core::ptr::null_mut() };
    retry(heap, size.max(align), || heap.allocate_aligned(align, size, Gfp::KERNEL))
}

/// Frees a block. Null is fine. A block that is free already, or an address where no block starts, is reported and
/// the process aborts.
///
/// # Safety
/// The block came from this module, and nobody uses it any more.
#[inline(always)]
pub unsafe fn free(ptr: *mut u8) {
    if let Some(tag) = engine::tag_at(HEAP.platform().span(), ptr) {
        let mark = mark_of(ptr);
        // SAFETY: a block of a class starts here, so its first 16 bytes are memory.
        unsafe {
            if mark_place(ptr).read() != mark {
                mark_place(ptr).write(mark);
                let place = tag * size_of::<Proof>();
                if cpus().try_push(place, ptr) == Pushed::Done {
                    return;
                }
                return free_rest(ptr, place);
            }
        }
    }
    // SAFETY: the caller's promise.
    unsafe { free_slow(ptr) }
}

#[cold]
#[inline(never)]
unsafe fn free_rest(ptr: *mut u8, place: usize) {
    let id = (place / size_of::<Proof>()) as StackId;
    // SAFETY: the caller's promise.
    if unsafe { cpus().push_cold(id, ptr) } == Pushed::Done {
        return;
    }
    // Out of room on this CPU. The slow path knows nothing of marks, so the mark may stay.
    // SAFETY: the caller's promise.
    if let Err(error) = unsafe { HEAP.kfree(ptr) } {
        refused(error);
    }
}

#[cold]
#[inline(never)]
unsafe fn free_slow(ptr: *mut u8) {
    if ptr.is_null() {
        return;
    }
    if let Some(class) = class_at(ptr) {
        // Here because the mark was there.
        misuse(FreeError::Double { address: ptr.addr(), cache: FineSet::name(Kind::Normal, class) });
    }
    if !MADE.load(Ordering::Acquire) {
        misuse(FreeError::Foreign(ptr.addr()));
    }
    debugging::pace::tick(&HEAP);
    // SAFETY: the caller's promise.
    if let Err(error) = unsafe { HEAP.kfree(ptr) } {
        refused(error);
    }
}

/// A free was refused: the process ends, unless its user wants to go on after errors. Nothing was changed, so it can.
#[cold]
#[inline(never)]
fn refused(error: FreeError) {
    if HEAP.debug().aborts() {
        misuse(error);
    }
    kmem_core::report::say(HEAP.platform(), format_args!("kmem: free(): {error}"));
}

/// Reports what is wrong with a free and ends the process.
#[cold]
#[inline(never)]
fn misuse(error: FreeError) -> ! {
    let host = HEAP.platform();
    kmem_core::report::say(host, format_args!("kmem: free(): {error}"));
    host.fatal()
}

/// Bytes of a block that its holder may use; 0 for null. An address where no block starts is reported and the process aborts.
///
/// # Safety
/// `ptr` is null or a block of this module.
#[inline]
pub unsafe fn usable_size(ptr: *const u8) -> usize {
    if let Some(class) = class_at(ptr) {
        return FineSet::size_of(class);
    }
    if ptr.is_null() {
        return 0;
    }
    match HEAP.ksize(ptr) {
        Ok(size) => size,
        Err(error) => misuse(error),
    }
}

/// Gives a block another size; its contents move if need be. Null: no memory, the old block is as it was.
///
/// # Safety
/// `ptr` is a block of this module and `size` is not 0; after success only the answer may be used.
pub unsafe fn realloc(ptr: *mut u8, size: usize) -> *mut u8 {
    if size > isize::MAX as usize {
        return core::ptr::null_mut();
    }
    let usable = if let Some(class) = class_at(ptr) {
        let room = FineSet::size_of(class);
        // SAFETY: a block of a class starts here.
        if unsafe { mark_place(ptr).read() } == mark_of(ptr) {
            misuse(FreeError::Double { address: ptr.addr(), cache: FineSet::name(Kind::Normal, class) });
        }
        if size <= room && (size > room / 2 || room <= 2 * FineSet::MIN_ALIGN) {
            return ptr;
        }
        room
    } else {
        // SAFETY: the caller's promise.
        match unsafe { HEAP.resize(ptr, size) } {
            Ok(Resized::Here) => return ptr,
            Ok(Resized::Moved(block)) => return block,
            Ok(Resized::Copy { usable }) => usable,
            Err(error) => misuse(error),
        }
    };
    let new = if size < MAPPED { malloc(size) } else { grow_slow(usable, size) };
    if new.is_null() {
        // A smaller size is granted where the block stands rather than refused.
        return if size <= usable { ptr } else { new };
    }
    // SAFETY: both blocks have that many bytes and are different; the old one is the caller's.
    unsafe {
        core::ptr::copy_nonoverlapping(ptr, new, usable.min(size));
        free(ptr);
    }
    new
}

#[cold]
#[inline(never)]
fn grow_slow(usable: usize, size: usize) -> *mut u8 {
    let Some(heap) = heap() else { return core::ptr::null_mut() };
    retry(heap, size, || heap.allocate_resized(usable, size, Gfp::KERNEL))
}

/// Empties the caches' reserves and returns free pages to the system, but for about `keep` bytes of them. True when any
/// were returned.
pub fn trim(keep: usize) -> bool {
    heap().is_some_and(|heap| heap.trim(keep >> PAGE_SHIFT) > 0)
}

/// What the heap holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapStats {
    /// Blocks in the program's hands, rounded up to their classes, without mappings of their own.
    pub in_use: usize,
    /// Pages taken for slabs and large blocks, and free pages that the system still backs.
    pub held: usize,
    /// Mappings of their own.
    pub mapped_huge: usize,
    /// Number of those.
    pub n_huge: usize,
    /// Free pages that the system still backs.
    pub free_held: usize,
    /// The most page bytes in use at one time.
    pub peak: usize,
}

/// What the heap holds. All zero before it is made.
pub fn stats() -> HeapStats {
    if !MADE.load(Ordering::Acquire) {
        return HeapStats::default();
    }
    let totals = HEAP.totals();
    HeapStats {
        in_use: (totals.objects_bytes + totals.large_bytes) as usize,
        held: (totals.page_bytes + totals.resident_free_bytes) as usize,
        mapped_huge: totals.huge_bytes as usize,
        n_huge: totals.huge_blocks as usize,
        free_held: totals.resident_free_bytes as usize,
        peak: totals.peak_page_bytes as usize,
    }
}

/// How CPUs are owned, in one word.
pub fn ownership() -> &'static str {
    match HEAP.platform().cpus_layer().ownership() {
        Ownership::Rseq => "rseq",
        Ownership::Portable => "portable",
    }
}

/// Writes `/proc/slabinfo` of this heap.
pub fn write_slabinfo(out: &mut dyn Write) -> fmt::Result {
    match heap() {
        Some(heap) => heap.write_slabinfo(out),
        None => Err(fmt::Error),
    }
}

/// Writes the report that `kmem run` reads.
pub fn write_report(out: &mut dyn Write) -> fmt::Result {
    let Some(heap) = heap() else { return Err(fmt::Error) };
    writeln!(out, "kmem-report 1")?;
    // SAFETY: getpid has no requirements.
    write!(out, "process {} ", unsafe { libc::getpid() })?;
    write_comm(out)?;
    let layer = cpus();
    let cpus = if layer.indexed() > 0 { layer.indexed() } else { layer.count() };
    heap.write_report(out, cpus, ownership())?;
    writeln!(out, "end")
}

/// The program's name as the kernel has it, blanks replaced.
fn write_comm(out: &mut dyn Write) -> fmt::Result {
    let mut name = [0u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let len = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    for &byte in &name[..len] {
        out.write_char(if byte.is_ascii_graphic() { byte as char } else { '_' })?;
    }
    writeln!(out, "{}", if len == 0 { "?" } else { "" })
}

/// Before a fork: no other thread is inside the heap when this returns.
pub fn prefork() {
    if let Some(heap) = heap() {
        heap.lock_for_fork();
        heap.platform().prefork();
    }
}

/// After a fork, in the parent. Pairs with [`prefork`].
pub fn postfork_parent() {
    if MADE.load(Ordering::Acquire) {
        // SAFETY: pairs with `prefork` on the same thread.
        unsafe {
            HEAP.platform().postfork_parent();
            HEAP.unlock_after_fork();
        }
    }
}

/// After a fork, in the child. Pairs with [`prefork`].
pub fn postfork_child() {
    if MADE.load(Ordering::Acquire) {
        // SAFETY: pairs with `prefork` on the thread this one is the copy of.
        unsafe {
            HEAP.platform().postfork_child();
            HEAP.unlock_after_fork();
        }
        debugging::after_fork_child();
    }
}
