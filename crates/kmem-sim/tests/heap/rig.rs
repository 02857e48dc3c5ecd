//! A heap on a machine, with safe faces for what tests do with it, and the questions they ask all the time.
//!
//! Tests keep their own book ([`Shadow`]), so these wrappers may promise what the unsafe calls ask for: caches are used
//! while they live, and blocks are freed by whoever holds them.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use kmem_core::cache::{CacheArgs, CacheRef, CreateError, DestroyError, KmemCache};
use kmem_core::config::Config;
use kmem_core::engine::{Counts, Engine};
use kmem_core::gfp::Gfp;
use kmem_core::heap::Kmem;
use kmem_core::kmalloc::FreeError;
use kmem_core::page::PageStats;
use kmem_core::percpu::{CpuArea, empty};
use kmem_core::platform::Platform;
use kmem_sim::{Machine, Outstanding, Shadow};

/// A cache of a rig's heap.
/// A cache of a heap of this configuration.
pub(crate) type Cache<C> = CacheRef<<C as Config>::Engine>;

/// A heap, and the machine below it.
pub(crate) struct Rig<C: Config> {
    /// The machine.
    pub(crate) machine: Machine,
    /// The heap.
    pub(crate) heap: Box<Kmem<Machine, C>>,
}

/// Everything that must be as before when nothing was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holdings {
    /// Objects in use and slabs, by cache. Arrays of CPU stacks come and go with CPUs and are left out.
    pub(crate) caches: BTreeMap<String, (u64, u64)>,
    /// Pages in use that belong to no array of a CPU stack.
    pub(crate) pages: usize,
    /// Arrays that are not behind a CPU stack: the orders in which caches carve. Barns are empty when this is counted.
    pub(crate) orders: usize,
    /// Mappings outside the window, in bytes.
    pub(crate) huge: usize,
}

impl<C: Config> Rig<C> {
    /// A heap that is not initialised.
    pub(crate) fn raw(machine: &Machine) -> Self {
        Self { machine: machine.clone(), heap: Box::new(Kmem::new(machine.clone())) }
    }

    /// A heap that works.
    pub(crate) fn new(machine: &Machine) -> Self {
        let rig = Self::raw(machine);
        assert!(rig.init(), "no memory to begin with");
        rig
    }

    /// Tries to initialise; false without memory.
    pub(crate) fn init(&self) -> bool {
        // SAFETY: the heap is boxed and shared with nobody yet.
        unsafe { self.heap.init() }.is_ok()
    }

    /// A cache that is an alias of nothing.
    pub(crate) fn create(&self, name: &str, size: usize, args: CacheArgs) -> Result<Cache<C>, CreateError> {
        use kmem_core::flags::SlabFlags;
        let flags = args.flags.unwrap_or(SlabFlags::empty()) | SlabFlags::NO_MERGE;
        self.heap.create(name, size, CacheArgs { flags: Some(flags), ..args })
    }

    /// A cache for a test that has memory.
    pub(crate) fn cache(&self, name: &str, size: usize) -> Cache<C> {
        self.create(name, size, CacheArgs::default()).expect("a cache")
    }

    pub(crate) fn destroy(&self, cache: Cache<C>) -> Result<bool, DestroyError> {
        // SAFETY: the test destroys a cache once and does not use it afterwards.
        unsafe { self.heap.destroy(cache) }
    }

    pub(crate) fn alloc(&self, cache: Cache<C>, gfp: Gfp) -> *mut u8 {
        // SAFETY: the cache is alive.
        unsafe { self.heap.alloc(cache, gfp) }
    }

    pub(crate) fn alloc_node(&self, cache: Cache<C>, gfp: Gfp, node: usize) -> *mut u8 {
        // SAFETY: the cache is alive.
        unsafe { self.heap.alloc_node(cache, gfp, Some(node)) }
    }

    pub(crate) fn alloc_bulk(&self, cache: Cache<C>, out: &mut [*mut u8]) -> bool {
        // SAFETY: the cache is alive.
        unsafe { self.heap.alloc_bulk(cache, Gfp::KERNEL, out) }
    }

    pub(crate) fn try_free(&self, cache: Cache<C>, object: *mut u8) -> Result<(), FreeError> {
        // SAFETY: the cache is alive; the test holds the object, or asks for the error.
        unsafe { self.heap.free(cache, object) }
    }

    pub(crate) fn free(&self, cache: Cache<C>, object: *mut u8) {
        self.try_free(cache, object).expect("a free of a good object");
    }

    pub(crate) fn free_bulk(&self, cache: Cache<C>, objects: &mut [*mut u8]) {
        // SAFETY: the cache is alive and the test holds the objects.
        unsafe { self.heap.free_bulk(Some(cache), objects) }.expect("a free of good objects");
    }

    pub(crate) fn kfree(&self, block: *mut u8) {
        // SAFETY: the test holds the block.
        unsafe { self.heap.kfree(block) }.expect("a free of a good block");
    }

    /// Null when there is no memory; the block is then as it was.
    pub(crate) fn reallocate(&self, block: *mut u8, size: usize) -> *mut u8 {
        // SAFETY: the test holds the block.
        unsafe { self.heap.reallocate(block, size, Gfp::KERNEL) }.expect("a good block")
    }

    pub(crate) fn shrink(&self, cache: Cache<C>) -> bool {
        // SAFETY: the cache is alive.
        unsafe { self.heap.shrink(cache) }
    }

    pub(crate) fn counts(&self, cache: Cache<C>) -> Counts {
        // SAFETY: the cache is alive.
        unsafe { self.heap.counts(cache) }
    }

    pub(crate) fn in_use(&self, cache: Cache<C>) -> u64 {
        self.counts(cache).in_use()
    }

    /// The node of an address of the heap, by the machine's word.
    pub(crate) fn node_of(&self, address: *mut u8) -> usize {
        self.machine.node_of_address(address).expect("an address of the heap")
    }

    /// Forgets what the heap said, which must not be that it is broken.
    pub(crate) fn hush(&self) {
        let text = self.machine.take_console();
        assert!(!text.contains("BUG"), "the heap reported: {text}");
    }

    /// Checks every structure of the heap. Nobody else may work on it.
    pub(crate) fn check(&self) -> PageStats {
        let mut caches = Vec::new();
        self.heap.for_each_cache(|cache| caches.push(CacheRef::new(cache)));
        for cache in caches {
            // SAFETY: the cache was listed just now, and nobody else works on the heap.
            let checked = unsafe { self.heap.validate_cache(cache) };
            // SAFETY: as above.
            let name = unsafe { cache.get() }.name();
            assert!(checked.is_ok(), "cache {name}: {checked:?}");
        }
        self.hush();
        match self.heap.pages().validate(&self.machine) {
            Ok(stats) => stats,
            Err(fault) => panic!("page floor: {fault:?}"),
        }
    }

    /// Brings everything to rest and counts what is held.
    pub(crate) fn holdings(&self) -> Holdings {
        self.heap.trim(0);
        let pages = self.check();
        let mut caches = BTreeMap::new();
        let (mut arrays, mut array_pages, mut stacks) = (0, 0, 0);
        let mut list = Vec::new();
        self.heap.for_each_cache(|cache| list.push(CacheRef::new(cache)));
        for cache in list {
            let counts = self.counts(cache);
            // SAFETY: the cache was listed just now.
            let id = unsafe { cache.stack_id() };
            // SAFETY: as above.
            let cache = unsafe { cache.get() };
            let area = self.machine.cpu_area();
            stacks += (0..self.machine.cpus())
                .filter(|&cpu| id != 0 && area.hot(cpu, id).top.load(Ordering::Relaxed) != empty())
                .count();
            if cache.name().starts_with("sheaf-") {
                arrays += counts.in_use() as usize;
                array_pages += slab_pages(cache, &counts);
            } else {
                caches.insert(cache.name().to_owned(), (counts.in_use(), counts.slabs));
            }
        }
        let Outstanding { map_bytes, .. } = self.machine.outstanding();
        Holdings { caches, orders: arrays - stacks, pages: pages.in_use - array_pages, huge: map_bytes }
    }
}

/// Pages of a cache's slabs, of which some may have the smaller order.
fn slab_pages<E: Engine>(cache: &KmemCache<E>, counts: &Counts) -> usize {
    let geometry = cache.geometry();
    let most = counts.slabs as usize * geometry.objects;
    let fewer = geometry.objects - geometry.min_objects;
    let small = (most - counts.objects as usize).checked_div(fewer).unwrap_or(0);
    counts.slabs as usize * cache.pages_per_slab()
        - small * (cache.pages_per_slab() - (1 << geometry.min_order))
}

/// Takes a block into the book under a seed of its address, or panics with what is wrong.
pub(crate) fn enter(book: &mut Shadow, ptr: *mut u8, len: usize) {
    // SAFETY: the heap said that these bytes are ours; if they overlap with others the book writes nothing.
    unsafe { book.enter(ptr, len, ptr as u64) }.unwrap_or_else(|damage| panic!("{damage}"));
}

/// Takes a block out of the book, or panics with what is wrong.
pub(crate) fn leave(book: &mut Shadow, ptr: *mut u8) {
    // SAFETY: the block is live, so it is readable.
    unsafe { book.leave(ptr) }.unwrap_or_else(|damage| panic!("{damage}"));
}

/// Follows a resized block in the book, or panics with what is wrong.
pub(crate) fn resized(book: &mut Shadow, old: *mut u8, new: *mut u8, len: usize) {
    // SAFETY: the heap said that the bytes at `new` are ours.
    unsafe { book.resized(old, new, len, new as u64) }.unwrap_or_else(|damage| panic!("{damage}"));
}

/// True when the first `len` bytes of a block are zero.
pub(crate) fn is_zero(ptr: *mut u8, len: usize) -> bool {
    // SAFETY: the caller holds a block of that length.
    unsafe { std::slice::from_raw_parts(ptr, len) }.iter().all(|&byte| byte == 0)
}
