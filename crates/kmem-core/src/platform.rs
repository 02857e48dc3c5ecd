//! What the world below must give: memory, CPUs, nodes, time, entropy, a console.
//!
//! The core asks a platform for facts and for memory; it never tests for an operating system.
//!
//! # The window
//! A platform manages one contiguous *window* of addresses. Page `i` of the window starts at
//! `base + i * PAGE_SIZE` and has one descriptor `descs[i]` and one cache tag `tags[i]`: from any
//! address the core reaches both by a subtraction and a shift. The window may be mostly unmapped:
//! memory is added to it in *blocks* (a multiple of [`BLOCK_PAGES`], aligned to it) by
//! [`Platform::grow`], and only then need the descriptors and tags of those pages be readable.
//!
//! # What a platform never does
//! It never calls back into the heap from any of these functions, and it never unwinds.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32};

use crate::page::Page;
use crate::page::ZoneKind;
use crate::percpu::CpuArea;

/// log2 of the page size in bytes.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
/// The largest order of the buddy allocator: 2^10 pages, 4 MiB.
pub const MAX_ORDER: u32 = 10;
/// Pages in the largest buddy block. Memory is added and removed in multiples of this.
pub const BLOCK_PAGES: usize = 1 << MAX_ORDER;
/// Bytes in a cache line.
pub const CACHE_LINE: usize = 64;
/// How many nodes a heap can tell apart.
pub const MAX_NODES: usize = 16;
/// How many CPUs a heap can tell apart.
pub const MAX_CPUS: usize = 1024;

/// Where the managed memory lies. Constant for the life of a heap.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// First address; a multiple of the largest block size (4 MiB).
    pub base: usize,
    /// Pages in the window; a multiple of [`BLOCK_PAGES`], at most 2^31.
    pub pages: usize,
    /// Array of `pages` descriptors. Readable, writable and zero where memory was added.
    pub descs: *mut Page,
    /// Array of `pages` cache tags. Readable, writable and zero where memory was added.
    pub tags: *const AtomicU16,
}

/// A run of pages of the window, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRange {
    /// Index of the first page.
    pub first: usize,
    /// Number of pages.
    pub count: usize,
}

/// The world below a heap.
///
/// # Safety
/// An implementation promises that
/// - [`Platform::window`] returns the same window at every call after the heap's initialisation;
/// - ranges returned by [`Platform::grow`] lie in the window, are aligned to [`BLOCK_PAGES`], are
///   readable, writable and zero, belong to nobody else, overlap no range given before and not
///   removed since, and that their descriptors and tags are readable, writable and zero;
/// - after [`Platform::discard`] the range is readable, writable and zero;
/// - memory returned by [`Platform::map`] and [`Platform::remap`] is readable, writable,
///   page aligned, outside the window, and belongs to nobody else until [`Platform::unmap`];
/// - [`Platform::cpus`] is at least 1, at most [`MAX_CPUS`] and constant, [`Platform::nodes`] is at
///   least 1, at most [`MAX_NODES`] and constant, and [`Platform::current_cpu`] and
///   [`Platform::current_node`] stay below them;
/// - the CPU operations of [`Platform::cpu_area`] keep the contract of [`CpuArea`].
pub unsafe trait Platform: Sized + Sync + 'static {
    /// The CPU layer: how this platform owns a CPU for an instant.
    type Cpu: CpuArea;

    /// True where objects of several nodes can meet on one CPU. A constant `false` removes the
    /// node test from the paths of single-node platforms.
    const NUMA: bool;

    /// The CPU layer.
    fn cpu_area(&self) -> &Self::Cpu;

    /// Where the managed memory lies.
    fn window(&self) -> Window;

    /// One byte for each [`GRAIN`](crate::engine::watch::GRAIN) of the window, readable, writable and zero where memory was
    /// added: the states of a guarded heap's objects. Null, the default: the heap maps them itself, for all of the window.
    fn states(&self) -> *mut AtomicU8 {
        core::ptr::null_mut()
    }

    /// No other thread (or CPU) uses the heap, and none will before the caller knows of it. False, the default, is always right.
    #[inline(always)]
    fn alone(&self) -> bool {
        false
    }

    /// Number of CPUs that can ever run (CPU numbers are below this).
    fn cpus(&self) -> usize;

    /// The CPU the caller runs on; may be stale when it returns.
    fn current_cpu(&self) -> usize;

    /// Number of nodes.
    fn nodes(&self) -> usize;

    /// The node the caller runs on; may be stale when it returns.
    fn current_node(&self) -> usize;

    /// Nodes in order of distance from `node`: the `i`-th nearest (`i == 0` is `node` itself).
    /// The default is by number, wrapping round.
    fn nearest_node(&self, node: usize, i: usize) -> usize {
        (node + i) % self.nodes()
    }

    /// Window page indices at which the DMA and the DMA32 zones end: pages below the first are of
    /// the DMA zone, pages from the first to the second of DMA32, all others NORMAL. Multiples of
    /// [`BLOCK_PAGES`]. `[0, 0]` on a machine with one zone.
    fn zone_ends(&self) -> [usize; 2];

    /// Pages that each CPU may keep on lists of its own, in front of the zones: at least 64, and the same at every call once the
    /// first CPU frees some. What is kept there serves that CPU alone, until some request would fail without it.
    #[inline]
    fn listed_pages(&self) -> usize {
        64
    }

    /// Fetches more memory for `zone` of `node`: at least `pages` pages, rounded up to blocks.
    /// `None` when there is none; the core then tries other zones and nodes.
    /// May be called from several CPUs at once. The core holds no lock during the call.
    fn grow(&self, node: usize, zone: ZoneKind, pages: usize) -> Option<PageRange>;

    /// The content of these pages is not needed: return the memory to the world, keep the range.
    /// They must read as zero afterwards. `false`: nothing was done. The core holds no lock during the call.
    ///
    /// # Safety
    /// The caller owns the pages; nobody reads or writes them during the call.
    unsafe fn discard(&self, range: PageRange) -> bool;

    /// Where a link between two pages leads is compared with the link back before it is followed, as with a kernel's
    /// `CONFIG_LIST_HARDENED`: one that was written over is told, and its list mended. It takes ten instructions for each page that leaves a
    /// list of pages or of slabs. SLOB's rings are compared in any case.
    const CHECKS_LINKS: bool = true;

    /// [`Platform::back`] does something.
    const BACKS: bool = false;

    /// These pages, which are zero and of which none may be backed yet, are all about to be written to: back them now, where that costs
    /// less than one by one. They stay zero. `false`, the default: nothing was done. The core holds no lock during the call.
    fn back(&self, _range: PageRange) -> bool {
        false
    }

    /// [`Platform::back`] of a whole pageblock, aligned to its size, that nobody has yet, by one large page where that is to be had.
    /// Also where it is not all of it may be backed.
    fn back_whole(&self, _range: PageRange) -> bool {
        false
    }

    /// Nobody may reach these pages of the window any more, not even by mistake: any access stops the program. False, the default:
    /// nothing was done. The core holds no lock during the call.
    fn wall(&self, _range: PageRange) -> bool {
        false
    }

    /// Ends what [`Platform::wall`] did: the pages are readable and writable again. False: they are not. The core holds no lock during
    /// the call.
    fn unwall(&self, _range: PageRange) -> bool {
        true
    }

    /// The range left the heap for good (memory hot-remove); it may be given again by [`Platform::grow`].
    ///
    /// # Safety
    /// The heap holds no pointer into the range any more.
    unsafe fn release(&self, range: PageRange);

    /// Memory outside the window for a request beyond the largest block: `len` bytes, a multiple of the page size,
    /// aligned to `align` (a power of two, at least the page size), zero.
    fn map(&self, len: usize, align: usize) -> Option<NonNull<u8>>;

    /// [`Platform::unmap`] also takes the end of a mapping, page by page if need be; what is before it stays.
    const CUTS: bool = false;

    /// Gives back memory of [`Platform::map`].
    ///
    /// # Safety
    /// `ptr` and `len` are those of a live mapping, or, with [`Platform::CUTS`], of its end; nobody uses that any more.
    unsafe fn unmap(&self, ptr: NonNull<u8>, len: usize);

    /// Resizes a mapping; contents up to the smaller length stay, new bytes are zero. It may move unless
    /// `may_move` is false. `None`: nothing changed.
    ///
    /// # Safety
    /// As for [`Platform::unmap`]; on success the old pointer must not be used.
    unsafe fn remap(&self, ptr: NonNull<u8>, old: usize, new: usize, may_move: bool) -> Option<NonNull<u8>>;

    /// Forbids every access to whole pages of a mapping of [`Platform::map`], or allows it again. False: nothing changed,
    /// for now or for ever.
    ///
    /// # Safety
    /// The caller owns the pages; while they are forbidden who touches them is to be reported.
    unsafe fn protect(&self, _ptr: NonNull<u8>, _len: usize, _allow: bool) -> bool {
        false
    }

    /// From now on accesses to forbidden pages must be shown to [`crate::heap::Kmem::report_fault`]. False: nobody would.
    fn watch_faults(&self) -> bool {
        false
    }

    /// A request asks the sampling guard whether it is its turn: who was to have one come by need not any more.
    fn sampling(&self) {}

    /// [`Platform::map`], between pages that nobody may touch where the platform can do that: for [`Config::APART`].
    ///
    /// [`Config::APART`]: crate::config::Config::APART
    fn map_apart(&self, len: usize, align: usize) -> Option<NonNull<u8>> {
        self.map(len, align)
    }

    /// Gives back memory of [`Platform::map_apart`]. Its addresses may stay unusable for a while. `asked`: how many bytes its
    /// holder had asked for, for who tells of an access that comes too late.
    ///
    /// # Safety
    /// As [`Platform::unmap`].
    unsafe fn unmap_apart(&self, ptr: NonNull<u8>, len: usize, _asked: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.unmap(ptr, len) };
    }

    /// [`Platform::remap`] of memory of [`Platform::map_apart`]; it may move. `asked`: as there, before.
    ///
    /// # Safety
    /// As [`Platform::remap`].
    unsafe fn remap_apart(
        &self,
        ptr: NonNull<u8>,
        old: usize,
        new: usize,
        _asked: usize,
    ) -> Option<NonNull<u8>> {
        // SAFETY: the caller's promise.
        unsafe { self.remap(ptr, old, new, true) }
    }

    /// Monotonic time in nanoseconds. Coarse is fine.
    fn now(&self) -> u64;

    /// An unpredictable number.
    fn entropy(&self) -> u64;

    /// Shows a message to whoever watches. Never allocates.
    fn console(&self, text: &str);

    /// Shows a message of one line that is no part of a report. Where many programs write to one place it is given the name and
    /// the number of this one. Never allocates. The default is [`Platform::console`].
    fn message(&self, text: &str) {
        self.console(text);
    }

    /// Stops the program after a fatal report.
    fn fatal(&self) -> !;

    /// Runs `work`, which is part of a report or of a repair, on a stack that has room for it where the present one may have none: that of a signal
    /// handler, of a few KiB. Called with locks held, and within itself: who cannot have another stack stays on the present one. `work` comes
    /// back. The default runs it in its place.
    fn with_room<R>(&self, work: impl FnOnce() -> R) -> R {
        work()
    }

    /// Fills `out` with the return addresses of the calls that led into the heap, the nearest first; returns
    /// how many there are. 0 where the platform cannot tell. Called with locks held: it takes none, and never
    /// allocates.
    fn backtrace(&self, _out: &mut [usize]) -> usize {
        0
    }

    /// Writes the name of the code at `address`, as `function+0x<offset>/0x<size>`. The default writes the number.
    ///
    /// # Errors
    /// What `out` answers.
    fn symbol(&self, address: usize, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        write!(out, "{address:#x}")
    }

    /// Writes a frame of a stack: [`Platform::symbol`], and behind it what else is known of the place, as a source line.
    ///
    /// # Errors
    /// What `out` answers.
    fn frame(&self, address: usize, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        self.symbol(address, out)
    }

    /// Writes the name of the running program, if there is such a thing.
    ///
    /// # Errors
    /// What `out` answers.
    fn program(&self, _out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        Ok(())
    }

    /// The number of the running thread as reports show it.
    fn thread(&self) -> u32 {
        self.lock_token()
    }

    /// A number that tells the running thread (or CPU, where threads do not exist) from all others: not 0, at most `i32::MAX`.
    fn lock_token(&self) -> u32;

    /// Sleeps while `word` holds `value`; may return early. Spins where there is nothing to sleep on.
    fn lock_wait(&self, word: &AtomicU32, value: u32);

    /// Wakes one sleeper of `word`.
    fn lock_wake(&self, word: &AtomicU32);

    /// Called before a lock is taken or tried: until the [`Platform::lock_exit`] that belongs to it, nothing that uses the heap
    /// may interrupt the caller on its CPU. A kernel turns interrupts off. Calls nest, and end in any order.
    ///
    /// The default does nothing, for worlds where who interrupts the heap does not use it, or where [`Platform::lock_token`] tells
    /// the interrupter from the interrupted.
    #[inline]
    fn lock_enter(&self) {}

    /// Called after the lock was released, or could not be had. When as many ended as began, interrupts are as they were
    /// before the first.
    #[inline]
    fn lock_exit(&self) {}

    /// Called after a lock of this rank was taken. For checkers; the default does nothing.
    #[inline]
    fn lock_taken(&self, _rank: u8) {}

    /// Called before a lock of this rank is released.
    #[inline]
    fn lock_released(&self, _rank: u8) {}
}
