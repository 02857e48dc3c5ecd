//! SLOB as an [`Engine`]: caches, and kmalloc without classes.
//!
//! # Theory
//! A cache is a size, an alignment and a constructor; all its objects lie in the heap's common pages. What
//! Linux does not have is a counter in each cache of what its users hold: so a cache that is destroyed too
//! early is noticed, though not which objects those are.
//!
//! | question | answer |
//! |---|---|
//! | which cache is this object of? | nobody knows: the caller must say, and is believed |
//! | when are objects constructed? | at every allocation; so they may be freed in any state |
//! | what does shrinking give back? | nothing: an empty page goes back at once |
//! | what do CPUs and nodes keep? | nothing |
//!
//! Destructors of caches run at each free, as the opposite of a constructor that runs at each allocation.
//!
//! Invariant I-SLOB-8: `allocs - frees` of a cache is what its users hold.

use core::ptr;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use super::heap::{Ask, BlockError, Heap, World};
use super::kmalloc::{HEADER, LARGEST, align_of, usable_size};
use super::{Fault, geometry};
use crate::debug::report::brief;
use crate::engine::geometry::{Geometry, GeometryError, Request, Rules};
use crate::engine::{self, Counts, Engine, Setup, SharedPages, sheaf};
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::page::Page;
use crate::platform::{PAGE_SHIFT, PAGE_SIZE, Platform};

/// The engine.
pub struct Slob;

type Cache = engine::Cache<Slob>;
type Stack = engine::Stack<Slob>;
type Floor<'a, P> = engine::Floor<'a, P, Slob>;

/// What SLOB adds to a cache's descriptor.
#[derive(Default)]
pub struct Own {
    /// Objects handed out.
    pub allocs: AtomicU64,
    /// Objects given back.
    pub frees: AtomicU64,
    /// One of the caches that every heap starts with: a check of it is a check of all pages.
    is_first: bool,
}

impl<'a, P: Platform> From<Floor<'a, P>> for World<'a, P> {
    fn from(floor: Floor<'a, P>) -> Self {
        Self { platform: floor.platform, pages: floor.pages, debug: floor.debug }
    }
}

/// The zone and grouping that a cache wants, beside what a request says. Objects are not cleared here.
fn gfp_of(cache: &Cache, gfp: Gfp) -> Gfp {
    let mut gfp = gfp - Gfp::ZERO;
    if cache.flags().contains(SlabFlags::CACHE_DMA) {
        gfp |= Gfp::DMA;
    }
    if cache.flags().contains(SlabFlags::CACHE_DMA32) {
        gfp |= Gfp::DMA32;
    }
    gfp
}

/// True when each object is a run of pages.
fn is_whole(cache: &Cache) -> bool {
    cache.geometry.size >= PAGE_SIZE
}

/// What runs of a cache are recognised by.
fn owner(cache: &Cache) -> *mut () {
    ptr::from_ref(cache).cast_mut().cast()
}

/// Gives one object back, with all checks that there can be.
///
/// # Safety
/// As [`Engine::take_back`].
unsafe fn give<P: Platform>(floor: Floor<'_, P>, cache: &Cache, object: *mut u8) -> Result<(), BlockError> {
    let world = World::from(floor);
    let (size, align) = (cache.geometry.size, 1 << cache.geometry.align.trailing_zeros());
    if !object.addr().is_multiple_of(align) {
        return Err(BlockError::NotBlock);
    }
    if let Some(dtor) = cache.dtor {
        floor.heap.check(world, object, size)?;
        // SAFETY: the object is in use as far as can be known, the caller's, and of the size that the
        // destructor is for.
        unsafe { dtor(object) };
    }
    // SAFETY: the caller's promise.
    unsafe {
        if is_whole(cache) {
            floor.heap.free_whole(world, object, owner(cache))?;
        } else {
            floor.heap.free(world, object, size)?;
        }
    }
    // Relaxed: a number to look at. The order of an object's own use is its users' affair.
    cache.own.frees.fetch_add(1, Relaxed);
    Ok(())
}

/// A free that nobody can be told about failed.
#[cold]
fn complain<P: Platform>(floor: Floor<'_, P>, cache: &Cache, object: *mut u8, error: BlockError) {
    brief(
        floor.platform,
        floor.debug,
        cache.name,
        format_args!("BUG {}: free of {object:p}: {error}", cache.name),
    );
}

fn kind_of(fault: Fault, address: usize) -> engine::Fault {
    if fault.rule.starts_with("I-SLOB-1") {
        engine::Fault::Freelist(address)
    } else if fault.rule.starts_with("I-SLOB-2") {
        engine::Fault::Count(address, fault.expected as u16, fault.found as u16)
    } else {
        engine::Fault::State(address)
    }
}

// SAFETY: objects are blocks of the heap, which are units of pages that were free and are not any more
// (I-SLOB-2), or runs of pages of their own; types without fields are valid whatever the memory holds.
unsafe impl Engine for Slob {
    const NAME: &'static str = "slob";
    const STACKS: bool = false;
    const CLASSES: bool = false;
    const KMALLOC_HEADER: usize = HEADER;
    const KNOWS_CACHE: bool = false;
    const SPILL_OLDEST: bool = false;
    // Rings link pages by their index plus one, in 32 bits.
    const MAX_WINDOW_PAGES: usize = 1 << 31;

    type Cache = Own;
    type Node = ();
    type Cpu = ();
    type Guarded = ();
    type Heap = Heap;

    const HEAP: Heap = Heap::new();
    const NODE: () = ();

    fn geometry(request: &Request, rules: &Rules) -> Result<Geometry, GeometryError> {
        geometry::compute(request, rules)
    }

    fn new_cache<P: Platform>(floor: Floor<'_, P>, _setup: &Setup<'_>) -> Option<Own> {
        // The first caches are made before the first block, by one thread.
        floor.heap.init(floor.platform);
        let stats = floor.heap.stats(floor.into());
        Some(Own { is_first: stats.blocks + stats.wholes == 0, ..Own::default() })
    }

    fn drop_cache<P: Platform>(_floor: Floor<'_, P>, _cache: &Cache) {}

    fn alloc_one<P: Platform>(floor: Floor<'_, P>, cache: &Cache, gfp: Gfp, node: Option<usize>) -> *mut u8 {
        let (world, gfp, shape) = (World::from(floor), gfp_of(cache, gfp), &cache.geometry);
        let object = if is_whole(cache) {
            floor.heap.alloc_whole(world, shape.order, gfp, node, owner(cache))
        } else {
            floor.heap.alloc(world, &Ask { bytes: shape.size, align: shape.align, offset: 0, gfp, node })
        };
        let Some(object) = object else { return ptr::null_mut() };
        if let Some(ctor) = cache.ctor {
            // SAFETY: the object was just handed out and has the size that the constructor is for.
            unsafe { ctor(object.as_ptr()) };
        }
        // Relaxed: as in `give`.
        cache.own.allocs.fetch_add(1, Relaxed);
        object.as_ptr()
    }

    fn alloc_many<P: Platform>(
        floor: Floor<'_, P>,
        cache: &Cache,
        gfp: Gfp,
        node: Option<usize>,
        out: &mut [*mut u8],
        at_least: usize,
    ) -> usize {
        let mut got = 0;
        for place in out.iter_mut().take(at_least) {
            *place = Self::alloc_one(floor, cache, gfp, node);
            if place.is_null() {
                break;
            }
            got += 1;
        }
        got
    }

    unsafe fn free_many<P: Platform>(floor: Floor<'_, P>, cache: &Cache, objects: &mut [*mut u8]) {
        for &mut object in objects {
            // SAFETY: the caller's promise.
            if let Err(error) = unsafe { give(floor, cache, object) } {
                complain(floor, cache, object, error);
            }
        }
    }

    unsafe fn take_back<P: Platform>(
        floor: Floor<'_, P>,
        cache: &Cache,
        object: *mut u8,
    ) -> Result<(), bool> {
        // SAFETY: the caller's promise.
        unsafe { give(floor, cache, object) }.map_err(|error| error == BlockError::Double)
    }

    // There are no stacks, so the next four are not called by the layer of stacks; they do what they say all
    // the same.
    fn batch<P: Platform>(_: Floor<'_, P>, _cache: &Cache, _cpu: usize, _stack: &mut Stack) -> usize {
        1
    }

    fn refill<P: Platform>(
        floor: Floor<'_, P>,
        cache: &Cache,
        gfp: Gfp,
        out: &mut [*mut u8; sheaf::MAX_BATCH],
        batch: usize,
    ) -> usize {
        Self::alloc_many(floor, cache, gfp, None, out, batch)
    }

    fn spill(_cache: &Cache) -> usize {
        1
    }

    unsafe fn store<P: Platform>(floor: Floor<'_, P>, cache: &Cache, objects: &mut [*mut u8]) {
        // SAFETY: the caller's promise.
        unsafe { Self::free_many(floor, cache, objects) };
    }

    fn flush_nodes<P: Platform>(_floor: Floor<'_, P>, _cache: &Cache) {}

    fn release_empty<P: Platform>(_: Floor<'_, P>, _cache: &Cache, _node: usize, _keep_pages: bool) {}

    fn count<P: Platform>(_floor: Floor<'_, P>, cache: &Cache, counts: &mut Counts) {
        // Relaxed, frees first: what is in use never seems less than nothing.
        let frees = cache.own.frees.load(Relaxed);
        let allocs = cache.own.allocs.load(Relaxed);
        counts.objects += allocs.saturating_sub(frees);
        counts.allocs += allocs;
        counts.alloc_slow += allocs;
        counts.free_slow += frees;
    }

    /// The pages are everybody's: all are checked with the caches that a heap starts with, and no page with any
    /// other.
    fn validate<P: Platform>(floor: Floor<'_, P>, cache: &Cache) -> Result<u64, engine::Fault> {
        if !cache.own.is_first {
            return Ok(0);
        }
        match floor.heap.validate(floor.into()) {
            Ok(stats) => Ok((stats.pages + stats.wholes) as u64),
            Err(fault) => Err(kind_of(fault, floor.pages.base_address() + (fault.page << PAGE_SHIFT))),
        }
    }

    fn rename_slabs<P: Platform>(_floor: Floor<'_, P>, _cache: &Cache) {}

    /// No page has slots of one cache.
    fn index_of<P: Platform>(
        _: Floor<'_, P>,
        _cache: &Cache,
        _slab: &Page,
        _address: usize,
    ) -> Option<usize> {
        None
    }

    fn kmalloc<P: Platform>(
        floor: Floor<'_, P>,
        size: usize,
        align: usize,
        gfp: Gfp,
        node: Option<usize>,
    ) -> *mut u8 {
        if size > LARGEST {
            return ptr::null_mut();
        }
        let align = if align == 0 { align_of(size) } else { align };
        let block = floor.heap.kmalloc_aligned(floor.into(), size, align, gfp, node);
        block.map_or(ptr::null_mut(), ptr::NonNull::as_ptr)
    }

    fn kmalloc_at_once<P: Platform>(floor: Floor<'_, P>, size: usize, align: usize, gfp: Gfp) -> *mut u8 {
        if size > LARGEST {
            return ptr::null_mut();
        }
        let align = if align == 0 { align_of(size) } else { align };
        let block = floor.heap.kmalloc_nolock(floor.into(), size, align, gfp);
        block.map_or(ptr::null_mut(), ptr::NonNull::as_ptr)
    }

    unsafe fn kfree<P: Platform>(floor: Floor<'_, P>, ptr: *mut u8) -> Result<(), bool> {
        // SAFETY: the caller's promise.
        unsafe { floor.heap.kfree(floor.into(), ptr) }.map_err(|error| error == BlockError::Double)
    }

    fn ksize<P: Platform>(floor: Floor<'_, P>, ptr: *const u8) -> Result<usize, bool> {
        match floor.heap.requested(floor.into(), ptr) {
            Ok(size) => usable_size(size).ok_or(false),
            Err(error) => Err(error == BlockError::Double),
        }
    }

    fn shared<P: Platform>(floor: Floor<'_, P>) -> Option<SharedPages> {
        let stats = floor.heap.stats(floor.into());
        Some(SharedPages {
            pages: stats.pages as u64,
            with_room: stats.on_rings.iter().sum::<usize>() as u64,
            free_bytes: stats.free_bytes as u64,
            whole_bytes: (stats.whole_pages << PAGE_SHIFT) as u64,
        })
    }

    fn lock_heap_for_fork<P: Platform>(heap: &Heap, platform: &P) {
        heap.lock_for_fork(platform);
    }

    unsafe fn unlock_heap_after_fork<P: Platform>(heap: &Heap, platform: &P) {
        // SAFETY: the caller's promise.
        unsafe { heap.unlock_after_fork(platform) };
    }
}
