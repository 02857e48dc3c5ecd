//! The heaps that a trace can be replayed on.
//!
//! [`Slabs`] is the core's own interface on any engine, so that engines are compared by what they do themselves; each heap is a
//! static of its own, with a window of addresses that nothing else of this command uses. [`Program`] is the heap as
//! programs have it, with the fast paths of malloc and free in front.

use std::fmt::Write;

use kmem::heap;
use kmem::host::{Host, Options};
use kmem_core::config::Config;
use kmem_core::engine::slab::Slab;
use kmem_core::engine::slob::Slob;
use kmem_core::engine::slub::Slub;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::classes::ClassSet;
use kmem_core::page::Page;
use kmem_core::{Kmem, UserConfig};

use crate::report::{Cache, Report};
use crate::slabinfo::PAGE_SIZE;

/// What a pass asks of a heap.
pub(crate) trait Heap {
    /// What every block is aligned to, in bytes.
    const ALIGN: usize;

    /// A block; null: refused.
    fn alloc(&self, size: usize) -> *mut u8;

    /// A zeroed block; null: refused.
    fn zeroed(&self, size: usize) -> *mut u8;

    /// A block aligned to `align`, a power of two; null: refused.
    fn aligned(&self, align: usize, size: usize) -> *mut u8;

    /// Ends a block.
    ///
    /// # Safety
    /// It is one of this heap, which nobody uses any more.
    unsafe fn free(&self, ptr: *mut u8);

    /// Gives a block another size, not 0. Null: refused, and the block is as it was.
    ///
    /// # Safety
    /// It is one of this heap; only the answer may be used afterwards, unless it is null.
    unsafe fn resize(&self, ptr: *mut u8, size: usize) -> *mut u8;

    /// Bytes taken from the system and not given back.
    fn held(&self) -> u64;

    /// Called when the most bytes are alive, for heaps that look at themselves then.
    fn at_peak(&self) {}

    /// What the heap knows about itself; `None`: nothing.
    fn counts(&self) -> Option<Counts>;
}

/// What a heap of ours counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Allocations from caches, large blocks and mappings.
    pub(crate) allocs: u64,
    /// Of these, served by a CPU's own stack.
    pub(crate) hits: u64,
    /// Slabs.
    pub(crate) slabs: u64,
    /// The most slabs there were, if all caches had theirs at the same time.
    pub(crate) peak_slabs: u64,
    /// Bytes of descriptors and tags of all mapped pages, and of the page allocator's books.
    pub(crate) metadata: u64,
}

/// A heap of ours.
pub(crate) struct Slabs<C: Config>(pub(crate) &'static Kmem<Host, C>);

static SLUB: Kmem<Host, UserConfig<Slub>> = Kmem::new(Host::new());
static SLAB: Kmem<Host, UserConfig<Slab>> = Kmem::new(Host::new());
static SLOB: Kmem<Host, UserConfig<Slob>> = Kmem::new(Host::new());

/// Free blocks of 4 MiB that stay mapped for the next growth: as in the heap of a program.
const FREE_BLOCKS: usize = 4;

/// A heap of SLUB. Called once.
///
/// # Errors
/// The system gives no memory.
pub(crate) fn slub() -> Result<Slabs<UserConfig<Slub>>, String> {
    make(&SLUB)
}

/// A heap of SLAB; as [`slub`].
pub(crate) fn slab() -> Result<Slabs<UserConfig<Slab>>, String> {
    make(&SLAB)
}

/// A heap of SLOB; as [`slub`].
pub(crate) fn slob() -> Result<Slabs<UserConfig<Slob>>, String> {
    make(&SLOB)
}

/// A heap that works, of one that has no memory yet. Called once for each.
///
/// # Errors
/// The system gives no memory.
fn make<C: Config>(heap: &'static Kmem<Host, C>) -> Result<Slabs<C>, String> {
    // SAFETY: it never moves, and this one thread makes it, once; nobody changes the environment.
    unsafe {
        let options = Options::from_env();
        heap.platform().init(&options).map_err(|error| format!("no heap can be made: {error:?}"))?;
        heap.init().map_err(|error| format!("no heap can be made: {error:?}"))?;
    }
    heap.pages().set_block_reserve(FREE_BLOCKS);
    Ok(Slabs(heap))
}

impl<C: Config> Heap for Slabs<C> {
    const ALIGN: usize = <C::Classes as ClassSet>::MIN_ALIGN;

    #[inline]
    fn alloc(&self, size: usize) -> *mut u8 {
        self.0.allocate(size, Gfp::KERNEL)
    }

    #[inline]
    fn zeroed(&self, size: usize) -> *mut u8 {
        self.0.allocate(size, Gfp::KERNEL | Gfp::ZERO)
    }

    #[inline]
    fn aligned(&self, align: usize, size: usize) -> *mut u8 {
        self.0.allocate_aligned(align, size, Gfp::KERNEL)
    }

    #[inline]
    unsafe fn free(&self, ptr: *mut u8) {
        // SAFETY: the caller's promise.
        if let Err(error) = unsafe { self.0.kfree(ptr) } {
            panic!("{error}");
        }
    }

    #[inline]
    unsafe fn resize(&self, ptr: *mut u8, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        match unsafe { self.0.reallocate(ptr, size, Gfp::KERNEL) } {
            Ok(block) => block,
            Err(error) => panic!("{error}"),
        }
    }

    fn held(&self) -> u64 {
        held(self.0)
    }

    fn counts(&self) -> Option<Counts> {
        counts(self.0)
    }
}

fn held<C: Config>(heap: &Kmem<Host, C>) -> u64 {
    let totals = heap.totals();
    totals.page_bytes + totals.resident_free_bytes + totals.huge_bytes
}

fn counts<C: Config>(heap: &Kmem<Host, C>) -> Option<Counts> {
    // The text of a report is the one place where all of a heap's counts are.
    let mut text = String::from("kmem-report 1\n");
    heap.write_report(&mut text, 1, "replay").ok()?;
    writeln!(text, "end").ok()?;
    let report = Report::parse(&text).ok()?;
    let sum = |field: fn(&Cache) -> u64| report.caches.iter().map(field).sum();
    let reserved = heap.pages().stats(heap.platform()).reserved as u64;
    let of_a_page = size_of::<Page>() as u64 + size_of::<u16>() as u64;
    Some(Counts {
        allocs: report.allocs(),
        hits: sum(Cache::fast),
        slabs: sum(|cache| cache.slabs),
        peak_slabs: sum(|cache| cache.peak_slabs.max(cache.slabs)),
        metadata: heap.platform().mapped_pages() as u64 * of_a_page + reserved * PAGE_SIZE,
    })
}

/// The process-wide heap of the `kmem` crate: what `libkmem_malloc.so` gives a program.
pub(crate) struct Program;

impl Heap for Program {
    const ALIGN: usize = 16;

    #[inline]
    fn alloc(&self, size: usize) -> *mut u8 {
        heap::malloc(size)
    }

    #[inline]
    fn zeroed(&self, size: usize) -> *mut u8 {
        heap::calloc(size)
    }

    #[inline]
    fn aligned(&self, align: usize, size: usize) -> *mut u8 {
        heap::memalign(align, size)
    }

    #[inline]
    unsafe fn free(&self, ptr: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { heap::free(ptr) }
    }

    #[inline]
    unsafe fn resize(&self, ptr: *mut u8, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise; the size is not 0.
        unsafe { heap::realloc(ptr, size) }
    }

    fn held(&self) -> u64 {
        heap::heap().map_or(0, held)
    }

    fn counts(&self) -> Option<Counts> {
        counts(heap::heap()?)
    }
}

/// The C library's malloc; of a process that preloads another, that one.
pub(crate) struct System {
    /// What it held for this command before it was asked anything.
    before: u64,
}

impl System {
    pub(crate) fn new() -> Self {
        // SAFETY: no arguments; free memory goes back, so that it does not serve the first requests unseen.
        unsafe { libc::malloc_trim(0) };
        let mut system = Self { before: 0 };
        system.before = system.held();
        system
    }
}

impl Heap for System {
    const ALIGN: usize = 16;

    #[inline]
    fn alloc(&self, size: usize) -> *mut u8 {
        // SAFETY: any size is fine.
        unsafe { libc::malloc(size).cast() }
    }

    #[inline]
    fn zeroed(&self, size: usize) -> *mut u8 {
        // SAFETY: any size is fine.
        unsafe { libc::calloc(1, size).cast() }
    }

    #[inline]
    fn aligned(&self, align: usize, size: usize) -> *mut u8 {
        // SAFETY: a power of two.
        unsafe { libc::memalign(align, size).cast() }
    }

    #[inline]
    unsafe fn free(&self, ptr: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { libc::free(ptr.cast()) }
    }

    #[inline]
    unsafe fn resize(&self, ptr: *mut u8, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { libc::realloc(ptr.cast(), size.max(1)).cast() }
    }

    fn held(&self) -> u64 {
        // SAFETY: no arguments.
        let info = unsafe { libc::mallinfo2() };
        ((info.arena + info.hblkhd) as u64).saturating_sub(self.before)
    }

    fn counts(&self) -> Option<Counts> {
        None
    }
}
