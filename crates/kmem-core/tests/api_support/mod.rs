//! A heap on a simulated machine with safe faces for what the `api_*` tests do with it.
//!
//! The tests keep the promises that the unsafe calls ask for: caches are used while they live, blocks are freed by
//! whoever holds them. Where a test breaks a promise on purpose (a double free, a stray pointer) it is one that the
//! heap promises to notice.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use kmem_core::cache::{CacheArgs, CacheRef, CreateError, DestroyError};
use kmem_core::config::Config;
use kmem_core::engine::{Counts, Engine};
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::heap::Kmem;
use kmem_core::kmalloc::FreeError;
use kmem_core::kmalloc::classes::MAX_BYTES;
use kmem_core::page::{Kind, PageRun};
use kmem_core::percpu::{CpuArea, empty};
use kmem_core::platform::{BLOCK_PAGES, PAGE_SIZE, Platform};
use kmem_sim::Machine;

/// Makes one test for each configuration of a heap from a function that is generic over it.
#[allow(unused_macros, reason = "not every test program has one for each")]
macro_rules! for_each_config {
    ($($name:ident)*) => {
        mod kernel { $( #[test] fn $name() { super::$name::<kmem_core::config::KernelConfig>(); } )* }
        mod user { $( #[test] fn $name() { super::$name::<kmem_core::config::UserConfig>(); } )* }
        mod headed {
            use kmem_core::config::{Headed, UserConfig};
            $( #[test] fn $name() { super::$name::<Headed<UserConfig>>(); } )*
        }
        mod slab_kernel {
            use kmem_core::{config::KernelConfig, engine::slab::Slab};
            $( #[test] fn $name() { super::$name::<KernelConfig<Slab>>(); } )*
        }
        mod slab_user {
            use kmem_core::{config::UserConfig, engine::slab::Slab};
            $( #[test] fn $name() { super::$name::<UserConfig<Slab>>(); } )*
        }
    };
}
#[allow(unused_imports, reason = "as above")]
pub(crate) use for_each_config;

/// The same on SLOB, for those that hold there too: it has no classes, no stacks, and objects do not tell their cache.
#[allow(unused_macros, reason = "not every test program has one for each")]
macro_rules! for_slob {
    ($($name:ident)*) => {
        mod slob_kernel {
            use kmem_core::{config::KernelConfig, engine::slob::Slob};
            $( #[test] fn $name() { super::$name::<KernelConfig<Slob>>(); } )*
        }
        mod slob_user {
            use kmem_core::{config::UserConfig, engine::slob::Slob};
            $( #[test] fn $name() { super::$name::<UserConfig<Slob>>(); } )*
        }
    };
}
#[allow(unused_imports, reason = "as above")]
pub(crate) use for_slob;

/// The heap's engine is SLUB: for what is SLUB's own.
pub(crate) fn is_slub<C: Config>() -> bool {
    C::Engine::NAME == "slub"
}

/// A cache of a heap of this configuration.
pub(crate) type Cache<C> = CacheRef<<C as Config>::Engine>;

/// A request that may fail without a message.
pub(crate) const QUIET: Gfp = Gfp::KERNEL.union(Gfp::NOWARN);

pub(crate) struct Rig<C: Config> {
    pub(crate) machine: Machine,
    pub(crate) heap: Box<Kmem<Machine, C>>,
}

impl<C: Config> Rig<C> {
    /// A heap on a machine with 4 CPUs and one node.
    pub(crate) fn new() -> Self {
        Self::on(Machine::builder().cpus(4).build())
    }

    /// A heap on a machine with 4 CPUs, two on each of two nodes.
    pub(crate) fn two_nodes() -> Self {
        Self::on(Machine::builder().cpus(4).nodes(2).memory_per_node(4 * BLOCK_PAGES).build())
    }

    pub(crate) fn on(machine: Machine) -> Self {
        let rig = Self::raw(machine);
        assert!(rig.init(), "a machine has memory");
        rig.warm();
        rig
    }

    /// A heap that is not initialised.
    pub(crate) fn raw(machine: Machine) -> Self {
        Self { heap: Box::new(Kmem::new(machine.clone())), machine }
    }

    /// Tries to initialise; false without memory.
    pub(crate) fn init(&self) -> bool {
        // SAFETY: the heap is boxed and shared with nobody yet.
        unsafe { self.heap.init() }.is_ok()
    }

    /// Has the table of mappings, which comes with the first of them and stays.
    pub(crate) fn warm(&self) {
        let mapping = self.heap.kvmalloc(MAX_BYTES + 1, QUIET);
        assert_eq!(self.kfree(mapping), Ok(()));
    }

    /// A cache that is an alias of nothing.
    pub(crate) fn create(&self, name: &str, size: usize, args: CacheArgs) -> Result<Cache<C>, CreateError> {
        let flags = args.flags.unwrap_or(SlabFlags::empty()) | SlabFlags::NO_MERGE;
        self.heap.create(name, size, CacheArgs { flags: Some(flags), ..args })
    }

    pub(crate) fn cache(&self, name: &str, size: usize) -> Cache<C> {
        self.create(name, size, CacheArgs::default()).expect("a cache")
    }

    pub(crate) fn destroy(&self, cache: Cache<C>) -> Result<bool, DestroyError> {
        // SAFETY: the test holds a use of the cache.
        unsafe { self.heap.destroy(cache) }
    }

    pub(crate) fn alloc(&self, cache: Cache<C>, gfp: Gfp) -> *mut u8 {
        // SAFETY: the cache is alive.
        unsafe { self.heap.alloc(cache, gfp) }
    }

    pub(crate) fn take(&self, cache: Cache<C>, n: usize) -> Vec<*mut u8> {
        let objects: Vec<*mut u8> = (0..n).map(|_| self.alloc(cache, Gfp::KERNEL)).collect();
        assert!(objects.iter().all(|object| !object.is_null()));
        objects
    }

    pub(crate) fn free(&self, cache: Cache<C>, object: *mut u8) -> Result<(), FreeError> {
        // SAFETY: the cache is alive; the test holds the object, or asks for the error.
        unsafe { self.heap.free(cache, object) }
    }

    pub(crate) fn give(&self, cache: Cache<C>, objects: Vec<*mut u8>) {
        objects.into_iter().for_each(|object| assert_eq!(self.free(cache, object), Ok(())));
    }

    pub(crate) fn kmalloc(&self, size: usize) -> *mut u8 {
        let block = self.heap.kmalloc(size, Gfp::KERNEL);
        assert!(!block.is_null(), "{size} bytes");
        block
    }

    /// A block of whole pages that is no object of any class: where classes are that long, zeroed blocks are.
    pub(crate) fn pages_block(&self, size: usize) -> *mut u8 {
        let block = self.heap.kmalloc(size, Gfp::KERNEL | Gfp::ZERO);
        assert_eq!(self.kind_of(block), Some(kmem_core::page::Kind::Large), "{size} bytes");
        block
    }

    pub(crate) fn kfree(&self, block: *mut u8) -> Result<(), FreeError> {
        // SAFETY: the test holds the block, or asks for the error.
        unsafe { self.heap.kfree(block) }
    }

    pub(crate) fn krealloc(&self, block: *mut u8, size: usize, gfp: Gfp) -> Result<*mut u8, FreeError> {
        // SAFETY: the test holds the block, or asks for the error.
        unsafe { self.heap.krealloc(block, size, gfp) }
    }

    pub(crate) fn kvrealloc(&self, block: *mut u8, size: usize, gfp: Gfp) -> Result<*mut u8, FreeError> {
        // SAFETY: the test holds the block, or asks for the error.
        unsafe { self.heap.kvrealloc(block, size, gfp) }
    }

    pub(crate) fn ksize(&self, block: *mut u8) -> usize {
        self.heap.ksize(block).expect("a good block")
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

    /// Start and pages of the slab that an object lies in.
    pub(crate) fn slab_of(&self, object: *mut u8) -> (usize, usize) {
        let pages = self.heap.pages();
        let slab = pages.head(pages.at(object.addr()).expect("an address of the heap"));
        assert_eq!(slab.kind(), Kind::Slab);
        (pages.address(slab).addr(), slab.pages())
    }

    /// What an address is part of.
    pub(crate) fn kind_of(&self, block: *mut u8) -> Option<Kind> {
        let pages = self.heap.pages();
        pages.at(block.addr()).map(|page| pages.head(page).kind())
    }

    pub(crate) fn node_of(&self, block: *mut u8) -> usize {
        self.machine.node_of_address(block).unwrap_or_else(|| panic!("{block:p} is no address of the heap"))
    }

    /// The console's text since the last call.
    pub(crate) fn said(&self) -> String {
        self.machine.take_console()
    }

    /// What is held, at rest, for comparing before and after: objects in use of each cache that has any, bytes of large
    /// blocks and mappings, arrays. Left out is what comes with use and stays: the arrays behind CPU stacks, and the
    /// descriptors and orders of kmalloc's classes.
    pub(crate) fn holdings(&self) -> BTreeMap<String, u64> {
        self.heap.trim(0);
        let mut list = Vec::new();
        self.heap.for_each_cache(|cache| list.push(CacheRef::new(cache)));
        let mut held = BTreeMap::new();
        let (mut classes, mut arrays) = (0, 0);
        for cache in list {
            // SAFETY: the cache was listed just now, and nobody else works on the heap.
            let (found, id, descriptor) =
                unsafe { (self.heap.validate_cache(cache), cache.stack_id(), cache.get()) };
            let name = descriptor.name();
            assert!(found.is_ok(), "cache {name}: {found:?}");
            let area = self.machine.cpu_area();
            let has_stack =
                |&cpu: &usize| id != 0 && area.hot(cpu, id).top.load(Ordering::Relaxed) != empty();
            arrays -= (0..self.machine.cpus()).filter(has_stack).count() as i64;
            if name.starts_with("kmalloc-") || name.starts_with("dma-kmalloc-") {
                classes += 1;
                // SLUB keeps one order for all slabs of a cache.
                let ordered =
                    is_slub::<C>() && C::RANDOM && (2..=512).contains(&descriptor.geometry().objects);
                arrays -= i64::from(ordered);
            }
            if name.starts_with("sheaf-") {
                arrays += self.in_use(cache) as i64;
            } else {
                *held.entry(name.to_owned()).or_insert(0) += self.in_use(cache);
            }
        }
        *held.entry("kmem_cache".to_owned()).or_default() -= classes;
        *held.entry("kmem_cache_node".to_owned()).or_default() -= classes * self.machine.nodes() as u64;
        held.retain(|_, in_use| *in_use > 0);
        self.heap.pages().validate(&self.machine).expect("sound pages");
        held.insert("arrays".to_owned(), u64::try_from(arrays).expect("each stack has one"));
        held.insert("large bytes".to_owned(), self.heap.totals().large_bytes);
        held.insert("map bytes".to_owned(), self.machine.outstanding().map_bytes as u64);
        held
    }

    /// Takes all pages that there are. The heap must be one of a small machine.
    pub(crate) fn exhaust(&self) -> Vec<PageRun> {
        let pages = self.heap.pages();
        let gfp = Gfp::KERNEL | Gfp::NOWARN | Gfp::MEMALLOC;
        std::iter::from_fn(|| pages.alloc(&self.machine, gfp, 0, None)).collect()
    }

    /// Gives back pages of [`Rig::exhaust`].
    pub(crate) fn relent(&self, runs: impl IntoIterator<Item = PageRun>) {
        runs.into_iter().for_each(|run| self.heap.pages().free(&self.machine, run));
    }
}

/// A machine of one CPU with as little memory as there can be: one block of 4 MiB.
pub(crate) fn small_machine() -> Machine {
    Machine::builder().memory_per_node(BLOCK_PAGES).map_limit(PAGE_SIZE).build()
}

/// Writes `len` bytes that depend on `seed`.
pub(crate) fn fill(block: *mut u8, len: usize, seed: u8) {
    for i in 0..len {
        // SAFETY: the caller holds a block of that length.
        unsafe { block.add(i).write((i as u8).wrapping_mul(31).wrapping_add(seed)) };
    }
}

/// True when the first `len` bytes are those of [`fill`].
pub(crate) fn filled(block: *mut u8, len: usize, seed: u8) -> bool {
    bytes(block, len)
        .iter()
        .enumerate()
        .all(|(i, &byte)| byte == (i as u8).wrapping_mul(31).wrapping_add(seed))
}

/// The first `len` bytes of a block.
pub(crate) fn bytes<'a>(block: *mut u8, len: usize) -> &'a [u8] {
    // SAFETY: the caller holds a block of that length, and looks at the answer before it changes the block.
    unsafe { std::slice::from_raw_parts(block, len) }
}

pub(crate) fn is_zero(block: *mut u8, len: usize) -> bool {
    bytes(block, len).iter().all(|&byte| byte == 0)
}
