//! The heaps that are compared, and what is read off them.
//!
//! Each is a value of its own, with a small window of addresses, never dropped. The loops run on one that lives as long as
//! the comparison; every trace is checked on a fresh one, so that what it holds is the trace's alone.
//!
//! # Metadata
//! [`Metadata`] counts what an engine keeps beside objects and blocks, from what the core shows of its caches. What the
//! three engines and both configurations have alike (the page allocator's books, the table of mappings, the structure of the heap
//! itself) is left out. What is inside slabs and is no index (ends, colours) is not metadata but part of what is held.

use std::cell::Cell;
use std::time::Duration;

use kmem::host::{Host, Options, Ownership};
use kmem_core::cache::{CacheArgs, CacheRef, KmemCache};
use kmem_core::config::Config;
use kmem_core::engine::geometry::{GeometryError, Request};
use kmem_core::engine::sheaf::ARRAY_SIZES;
use kmem_core::engine::slab::geometry::{Management, Shape};
use kmem_core::engine::slab::{self, Slab};
use kmem_core::engine::slob::Slob;
use kmem_core::engine::slub::Slub;
use kmem_core::engine::{Counts, Engine, Node};
use kmem_core::gfp::Gfp;
use kmem_core::page::Page;
use kmem_core::percpu::{COLD_SIZE, Hot};
use kmem_core::platform::{PAGE_SIZE, Platform};
use kmem_core::{KernelConfig, Kmem, UserConfig};

use super::work::{self, Meter, Supply, Work};
use crate::cli::BenchConfig;
use crate::replay::heaps::{Heap, Slabs};
use crate::replay::load;
use crate::replay::pass::{self, Blocks, Memory};

/// Pages of a heap's window: 16 GiB.
const WINDOW_PAGES: usize = 1 << 22;
/// Free blocks of 4 MiB that stay mapped for the next growth: as in the heap of a program.
const FREE_BLOCKS: usize = 4;
/// How the names of caches of arrays begin; only the engine takes from them.
const ARRAYS: &str = "sheaf-";

/// What an engine keeps beside objects and blocks, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    /// Descriptor and tag of each page in use.
    pub(super) pages: u64,
    /// Descriptors of caches and what they have on each node.
    pub(super) caches: u64,
    /// Arrays behind the stacks of CPUs and in SLAB's nodes; words and counters of each CPU for each cache in use.
    pub(super) arrays: u64,
    /// SLAB's notes of free objects, in slabs and beside them.
    pub(super) index: u64,
    /// In front of SLOB's blocks.
    pub(super) headers: u64,
}

impl Metadata {
    /// All of it.
    pub(super) fn sum(&self) -> u64 {
        self.pages + self.caches + self.arrays + self.index + self.headers
    }
}

/// Allocations of a heap until now, and those of them that a CPU's stack served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) allocs: u64,
    pub(super) hits: u64,
}

impl Tally {
    /// The share of hits since `before`.
    pub(super) fn rate_since(self, before: Self) -> Option<f64> {
        let allocs = self.allocs.checked_sub(before.allocs).filter(|&allocs| allocs > 0)?;
        Some(self.hits.saturating_sub(before.hits) as f64 / allocs as f64)
    }
}

/// What a trace left on a heap that nobody else used.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    /// What the checked pass saw.
    pub(super) memory: Memory,
    /// When most was alive.
    pub(super) metadata: Metadata,
    /// The share of allocations that CPUs' stacks served.
    pub(super) hits: Option<f64>,
}

/// One side of the comparison.
pub(super) trait Subject {
    /// Does about `pairs` pairs of this work; returns how many.
    fn run(&self, work: &Work, pairs: u64, meter: &mut dyn Meter) -> u64;

    /// What it served until now; nothing where there are no stacks.
    fn tally(&self) -> Option<Tally>;

    /// Replays a trace on a heap made for it, with every block checked.
    ///
    /// # Errors
    /// The heap did not do what was asked of it, or the system gives no memory.
    fn held(&self, work: &load::Work) -> Result<Held, String>;

    /// Replays a trace against the clock.
    ///
    /// # Errors
    /// The heap refused a call.
    fn timed(&self, work: &load::Work, blocks: &mut Blocks) -> Result<Duration, String>;
}

/// The engines' names, in the order of all lists of three.
pub(super) const NAMES: [&str; 3] = [Slub::NAME, Slab::NAME, Slob::NAME];

/// Three fresh heaps of a configuration, [`BenchConfig::Both`] being no such.
///
/// # Errors
/// The system gives no memory.
pub(super) fn three(config: BenchConfig) -> Result<[Box<dyn Subject>; 3], String> {
    Ok(if config == BenchConfig::Kernel {
        [
            Box::new(Rig::<KernelConfig<Slub>>::new()?),
            Box::new(Rig::<KernelConfig<Slab>>::new()?),
            Box::new(Rig::<KernelConfig<Slob>>::new()?),
        ]
    } else {
        [
            Box::new(Rig::<UserConfig<Slub>>::new()?),
            Box::new(Rig::<UserConfig<Slab>>::new()?),
            Box::new(Rig::<UserConfig<Slob>>::new()?),
        ]
    })
}

/// How threads own CPUs in this process.
pub(super) fn ownership(of: &Host) -> &'static str {
    match of.cpus_layer().ownership() {
        Ownership::Rseq => "rseq",
        Ownership::Portable => "portable",
    }
}

/// The same, found out by a heap.
///
/// # Errors
/// The system gives no memory.
pub(super) fn ownership_here() -> Result<&'static str, String> {
    Ok(ownership(fresh::<KernelConfig<Slob>>()?.platform()))
}

/// Bytes of the index of one slab.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Index {
    /// Of it alone.
    bytes: u64,
    /// Of the array that it is, where it is not in the slab; else 0.
    array: u64,
}

/// What the core shows of an engine only by its own type.
trait Books: Engine {
    /// The index of each slab of a cache.
    fn index<C: Config<Engine = Self>>(_cache: &KmemCache<Self>, _cpus: usize) -> Index {
        Index::default()
    }

    /// Blocks in front of which there is a header; `objects` are in the same pages, and have none.
    fn blocks<C: Config<Engine = Self>>(_heap: &Kmem<Host, C>, _objects: u64) -> u64 {
        0
    }
}

impl Books for Slub {}

impl Books for Slab {
    fn index<C: Config<Engine = Self>>(cache: &KmemCache<Self>, cpus: usize) -> Index {
        let Ok(shape) = shape_again::<C>(cache, cpus) else { return Index::default() };
        // Of a single object the count alone tells whether it is free; an index in a free object costs nothing.
        if cache.geometry().objects == 1 || shape.layout.management == Management::InObject {
            return Index::default();
        }
        let bytes = shape.layout.index_bytes;
        let array = match shape.layout.management {
            Management::OffSlab => ARRAY_SIZES.into_iter().find(|&size| size >= bytes).unwrap_or(0),
            _ => 0,
        };
        Index { bytes: bytes as u64, array: array as u64 }
    }
}

/// The shape of a cache, from what the core shows of it.
fn shape_again<C: Config<Engine = Slab>>(
    cache: &KmemCache<Slab>,
    cpus: usize,
) -> Result<Shape, GeometryError> {
    let geometry = cache.geometry();
    let (align, flags) = (geometry.align, geometry.flags);
    let request =
        Request { align, flags, has_ctor: cache.is_constructed(), ..Request::new(cache.object_size()) };
    slab::shape(&request, &C::rules(cpus as u32))
}

impl Books for Slob {
    fn blocks<C: Config<Engine = Self>>(heap: &Kmem<Host, C>, objects: u64) -> u64 {
        (heap.slob_stats().blocks as u64).saturating_sub(objects)
    }
}

/// A heap that works.
fn fresh<C: Config>() -> Result<&'static Kmem<Host, C>, String> {
    let heap: &'static Kmem<Host, C> = Box::leak(Box::new(Kmem::new(Host::new())));
    // SAFETY: it never moves, and this one thread makes it, once; nobody changes the environment.
    unsafe {
        let options = Options { window_pages: WINDOW_PAGES, ..Options::from_env() };
        heap.platform().init(&options).map_err(|error| format!("no heap can be made: {error:?}"))?;
        heap.init().map_err(|error| format!("no heap can be made: {error:?}"))?;
    }
    heap.pages().set_block_reserve(FREE_BLOCKS);
    Ok(heap)
}

fn for_each_cache<C: Config>(heap: &Kmem<Host, C>, mut see: impl FnMut(&KmemCache<C::Engine>, Counts)) {
    heap.for_each_cache(|cache| {
        // SAFETY: a cache that is listed while we look at it is alive.
        see(cache, unsafe { heap.counts(CacheRef::new(cache)) });
    });
}

fn metadata<C: Config<Engine: Books>>(heap: &Kmem<Host, C>) -> Metadata {
    let cpus = heap.platform().cpus();
    let nodes = heap.platform().nodes();
    let mut found = Metadata {
        pages: heap.totals().page_bytes / PAGE_SIZE as u64 * (size_of::<Page>() + size_of::<u16>()) as u64,
        ..Metadata::default()
    };
    let mut objects = 0;
    // Arrays that are indexes of slabs, and so are counted as such.
    let mut indexes = 0;
    for_each_cache(heap, |cache, counts| {
        found.caches += (size_of::<KmemCache<C::Engine>>() + nodes * size_of::<Node<C::Engine>>()) as u64;
        objects += counts.in_use();
        if cache.name().starts_with(ARRAYS) {
            found.arrays += counts.in_use() * cache.geometry().size as u64;
        } else if counts.allocs > 0 && C::Engine::STACKS {
            found.arrays += (cpus * (size_of::<Hot>() + COLD_SIZE)) as u64;
        }
        let index = C::Engine::index::<C>(cache, cpus);
        found.index += counts.slabs * index.bytes;
        indexes += counts.slabs * index.array;
    });
    found.arrays = found.arrays.saturating_sub(indexes);
    found.headers = C::Engine::blocks::<C>(heap, objects) * C::Engine::KMALLOC_HEADER as u64;
    found
}

/// A heap, with a cache for each size of object that the loops need.
struct Rig<C: Config> {
    heap: &'static Kmem<Host, C>,
    caches: Vec<(usize, CacheRef<C::Engine>)>,
}

impl<C: Config> Rig<C> {
    fn new() -> Result<Self, String> {
        let heap = fresh::<C>()?;
        let mut caches: Vec<(usize, CacheRef<C::Engine>)> = Vec::new();
        for size in work::ALL.map(|work| work.size) {
            if caches.iter().all(|(known, _)| *known != size) {
                let cache = heap
                    .create(&format!("bench-{size}"), size, CacheArgs::default())
                    .map_err(|error| error.to_string())?;
                caches.push((size, cache));
            }
        }
        Ok(Self { heap, caches })
    }
}

impl<C: Config<Engine: Books>> Subject for Rig<C> {
    fn run(&self, work: &Work, pairs: u64, meter: &mut dyn Meter) -> u64 {
        let found = self.caches.iter().find(|(size, _)| *size == work.size);
        let cache = found.expect("`new` made a cache for every row").1;
        work.run(&Source { heap: self.heap, cache }, pairs, meter)
    }

    fn tally(&self) -> Option<Tally> {
        let mut tally = Tally::default();
        for_each_cache(self.heap, |cache, counts| {
            if !cache.name().starts_with(ARRAYS) {
                tally.allocs += counts.allocs;
                tally.hits += counts.allocs.saturating_sub(counts.alloc_slow);
            }
        });
        C::Engine::STACKS.then_some(tally)
    }

    fn held(&self, work: &load::Work) -> Result<Held, String> {
        let observed = Observed { slabs: Slabs(fresh::<C>()?), metadata: Cell::default() };
        let memory = pass::checked(&observed, work, &mut Blocks::new(work.slots))?;
        let hits = memory.counts.filter(|counts| C::Engine::STACKS && counts.allocs > 0);
        let hits = hits.map(|counts| counts.hits as f64 / counts.allocs as f64);
        Ok(Held { memory, metadata: observed.metadata.get(), hits })
    }

    fn timed(&self, work: &load::Work, blocks: &mut Blocks) -> Result<Duration, String> {
        pass::timed(&Slabs(self.heap), work, blocks)
    }
}

/// What a loop takes from.
struct Source<C: Config> {
    heap: &'static Kmem<Host, C>,
    cache: CacheRef<C::Engine>,
}

impl<C: Config> Supply for Source<C> {
    #[inline]
    fn take(&self) -> *mut u8 {
        // SAFETY: caches of the bench are never destroyed.
        unsafe { self.heap.alloc(self.cache, Gfp::KERNEL) }
    }

    #[inline]
    unsafe fn give(&self, object: *mut u8) {
        // SAFETY: the caller's promise.
        if let Err(error) = unsafe { self.heap.free(self.cache, object) } {
            panic!("{error}");
        }
    }

    #[inline]
    fn alloc(&self, size: usize) -> *mut u8 {
        self.heap.kmalloc(size, Gfp::KERNEL)
    }

    #[inline]
    unsafe fn free(&self, block: *mut u8) {
        // SAFETY: the caller's promise.
        if let Err(error) = unsafe { self.heap.kfree(block) } {
            panic!("{error}");
        }
    }
}

/// A heap that looks at itself when most is alive.
struct Observed<C: Config> {
    slabs: Slabs<C>,
    metadata: Cell<Metadata>,
}

impl<C: Config<Engine: Books>> Heap for Observed<C> {
    const ALIGN: usize = Slabs::<C>::ALIGN;

    fn alloc(&self, size: usize) -> *mut u8 {
        self.slabs.alloc(size)
    }
    fn zeroed(&self, size: usize) -> *mut u8 {
        self.slabs.zeroed(size)
    }
    fn aligned(&self, align: usize, size: usize) -> *mut u8 {
        self.slabs.aligned(align, size)
    }
    unsafe fn free(&self, ptr: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { self.slabs.free(ptr) }
    }
    unsafe fn resize(&self, ptr: *mut u8, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.slabs.resize(ptr, size) }
    }
    fn held(&self) -> u64 {
        self.slabs.held()
    }
    fn at_peak(&self) {
        self.metadata.set(metadata(self.slabs.0));
    }
    fn counts(&self) -> Option<crate::replay::heaps::Counts> {
        self.slabs.counts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many caches have an index in their slabs, and beside them.
    fn indexed<C: Config<Engine = Slab>>() -> (usize, usize) {
        let rig = Rig::<C>::new().unwrap();
        for size in [8, 100, 500, 900, 2000, 5000] {
            assert!(!rig.heap.kmalloc(size, Gfp::KERNEL).is_null());
        }
        let cpus = rig.heap.platform().cpus();
        let mut found = (0, 0);
        rig.heap.for_each_cache(|cache| {
            let shape = shape_again::<C>(cache, cpus).unwrap();
            let objects = cache.geometry().objects;
            assert!(objects == 1 || shape.geometry.objects == objects, "{}", cache.name());
            let index = Slab::index::<C>(cache, cpus);
            found.0 += usize::from(index.bytes > 0 && index.array == 0);
            found.1 += usize::from(index.array >= index.bytes && index.array > 0);
        });
        found
    }

    #[test]
    fn shapes_are_found_again() {
        // Linux's caches have their index in a free object wherever they can; those for programs never do.
        let (kernel, user) = (indexed::<KernelConfig<Slab>>(), indexed::<UserConfig<Slab>>());
        assert!(kernel.0 > 0 && user.0 > kernel.0, "{kernel:?} {user:?}");
    }

    #[test]
    fn metadata_is_what_each_engine_has() {
        for config in [BenchConfig::Kernel, BenchConfig::User] {
            let fresh = three(config).unwrap();
            assert_eq!(fresh.each_ref().map(|subject| subject.tally().is_some()), [true, true, false]);
        }
        fn blocks<C: Config<Engine: Books>>() -> [Metadata; 2] {
            let rig = Rig::<C>::new().unwrap();
            let before = metadata(rig.heap);
            for _ in 0..1000 {
                assert!(!rig.heap.kmalloc(100, Gfp::KERNEL).is_null());
            }
            [before, metadata(rig.heap)]
        }
        let [before, after] = blocks::<KernelConfig<Slob>>();
        assert_eq!(after.headers - before.headers, 8000);
        assert_eq!((after.index, after.arrays, after.caches), (0, 0, before.caches));
        let [before, after] = blocks::<KernelConfig<Slub>>();
        assert!(after.arrays > before.arrays && after.pages > before.pages);
        assert_eq!((after.index, after.headers), (0, 0));
        // At least a byte for each block, and whole slabs.
        let [before, after] = blocks::<UserConfig<Slab>>();
        assert!((1000..1500).contains(&(after.index - before.index)), "{before:?} {after:?}");
    }
}
