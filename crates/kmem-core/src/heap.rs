//! A heap: the value that holds all floors together, and its bootstrap.
//!
//! # Bootstrap
//! The descriptors of caches and of their nodes live in caches themselves. The two caches that hold them
//! start in static descriptors inside the heap and are copied into their own slabs as soon as those work:
//!
//! | state | what works |
//! |---|---|
//! | [`State::Down`] | pages |
//! | [`State::Partial`] | `kmem_cache_node`: per-node structures can be had |
//! | [`State::Up`] | `kmem_cache` and kmalloc |
//! | [`State::Full`] | everything |

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering};

use crate::cache::KmemCache;
use crate::cache::faults::Faults;
use crate::cache::registry::Registry;
use crate::config::Config;
use crate::debug::Debug;
use crate::engine::watch::States;
use crate::engine::{Engine, Floor, Node, sheaf};
use crate::guard::Guard;
use crate::kmalloc::MAX_CLASSES;
use crate::kmalloc::classes::Kind;
use crate::kmalloc::first::First;
use crate::kmalloc::huge::HugeTable;
use crate::kmalloc::kept::Kept;
use crate::kmalloc::nolock::Deferred;
use crate::page::Pages;
use crate::platform::{MAX_NODES, Platform};
use crate::sync::{Lock, rank};

/// How far the bootstrap is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Only pages.
    Down = 0,
    /// Per-node structures.
    Partial = 1,
    /// Caches and kmalloc.
    Up = 2,
    /// Everything.
    Full = 3,
}

/// The static descriptors of the first two caches and their nodes.
pub(crate) struct Boot<E: Engine> {
    pub caches: [UnsafeCell<MaybeUninit<KmemCache<E>>>; 2],
    pub nodes: [UnsafeCell<Node<E>>; 2 * MAX_NODES],
}

/// Counters of blocks that no cache holds.
pub struct BlockStats {
    /// Blocks alive.
    pub live: AtomicU64,
    /// Bytes alive.
    pub bytes: AtomicU64,
    /// The most bytes there ever were.
    pub peak: AtomicU64,
    /// Blocks ever made.
    pub made: AtomicU64,
}

impl BlockStats {
    const fn new() -> Self {
        Self {
            live: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            made: AtomicU64::new(0),
        }
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.live.fetch_add(1, Ordering::Relaxed);
        self.made.fetch_add(1, Ordering::Relaxed);
        self.resize(0, bytes);
    }

    pub(crate) fn remove(&self, bytes: usize) {
        self.live.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn resize(&self, old: usize, new: usize) {
        let change = (new as u64).wrapping_sub(old as u64);
        let now = self.bytes.fetch_add(change, Ordering::Relaxed).wrapping_add(change);
        self.peak.fetch_max(now, Ordering::Relaxed);
    }
}

/// A heap on platform `P`, built as `C` says.
///
/// It is made by [`Kmem::new`], in a static if need be, and works after [`Kmem::init`]. All methods take `&self`
/// and may be called from any thread.
pub struct Kmem<P: Platform, C: Config> {
    pub(crate) platform: P,
    pub(crate) pages: Pages<P>,
    pub(crate) arrays: sheaf::Arrays<C::Engine>,
    pub(crate) state: AtomicU8,
    pub(crate) registry: Lock<Registry<C::Engine>, { rank::REGISTRY }>,
    pub(crate) boot: Boot<C::Engine>,
    pub(crate) kmem_cache: AtomicPtr<KmemCache<C::Engine>>,
    pub(crate) kmem_cache_node: AtomicPtr<KmemCache<C::Engine>>,
    pub(crate) kmalloc: [[AtomicPtr<KmemCache<C::Engine>>; MAX_CLASSES]; Kind::COUNT],
    pub(crate) huge: HugeTable<P>,
    /// Which large blocks are mappings for being a program's first.
    pub(crate) first: First,
    pub(crate) kept: Kept,
    pub(crate) deferred: Deferred,
    /// The states of objects, where [`Config::WATCHED`] asks for them.
    pub(crate) states: States,
    pub(crate) large_stats: BlockStats,
    pub(crate) huge_stats: BlockStats,
    pub(crate) debug: Debug,
    /// What the marks of free blocks are made of; 0: none.
    pub(crate) free_mark: AtomicU64,
    pub(crate) guard: Guard,
    pub(crate) faults: Faults,
    /// What the engine keeps for the whole heap.
    pub(crate) engine: <C::Engine as Engine>::Heap,
    config: core::marker::PhantomData<fn(C)>,
}

// SAFETY: the boot descriptors are written by `init` only, before the heap is shared; everything else is atomic or locked.
unsafe impl<P: Platform, C: Config> Sync for Kmem<P, C> {}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// A heap that has no memory yet.
    pub const fn new(platform: P) -> Self {
        Self {
            platform,
            pages: Pages::new(),
            arrays: sheaf::Arrays::new(),
            state: AtomicU8::new(State::Down as u8),
            registry: Lock::new(Registry::new()),
            boot: Boot {
                caches: [const { UnsafeCell::new(MaybeUninit::uninit()) }; 2],
                nodes: [const { UnsafeCell::new(Node::new()) }; 2 * MAX_NODES],
            },
            kmem_cache: AtomicPtr::new(core::ptr::null_mut()),
            kmem_cache_node: AtomicPtr::new(core::ptr::null_mut()),
            kmalloc: [const { [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CLASSES] }; Kind::COUNT],
            huge: HugeTable::new(),
            first: First::new(C::FIRST_MAPPED),
            kept: Kept::new(),
            deferred: Deferred::new(),
            states: States::new(),
            large_stats: BlockStats::new(),
            huge_stats: BlockStats::new(),
            debug: Debug::new(C::ABORT),
            free_mark: AtomicU64::new(0),
            guard: Guard::new(),
            faults: Faults::new(),
            engine: C::Engine::HEAP,
            config: core::marker::PhantomData,
        }
    }

    /// The floors as the engine sees them.
    #[inline]
    pub(crate) fn floor(&self) -> Floor<'_, P, C::Engine> {
        Floor {
            platform: &self.platform,
            pages: &self.pages,
            arrays: &self.arrays,
            heap: &self.engine,
            debug: &self.debug,
            guarded: C::WATCHED,
            pinned: C::PINNED,
        }
    }

    /// While a block of a size class is free, its second word is `secret` mixed with its address (exclusive or), or, where it has a
    /// [header](crate::engine::beside), that is one of a free block with this secret: from the moment on
    /// that its slab is made, and again from each free on. Who takes blocks off the CPUs' stacks by himself may rely on it. Only in
    /// a heap built for it ([`Config::MARK_FREED`]), and before [`Kmem::init`]; 0 means no marks.
    pub fn set_free_mark(&self, secret: u64) {
        self.free_mark.store(secret, Ordering::Relaxed);
    }

    /// Where the platform lies in a heap, in bytes: for code that takes a static heap's platform for an address.
    pub const PLATFORM_AT: usize = core::mem::offset_of!(Self, platform);

    /// The platform.
    #[inline]
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// The page floor.
    #[inline]
    pub fn pages(&self) -> &Pages<P> {
        &self.pages
    }

    /// How far the bootstrap is.
    pub fn state(&self) -> State {
        // Acquire pairs with the Release of `set_state`: who sees a state sees what it stands for.
        match self.state.load(Ordering::Acquire) {
            0 => State::Down,
            1 => State::Partial,
            2 => State::Up,
            _ => State::Full,
        }
    }

    pub(crate) fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// True from [`State::Up`] on: kmalloc works.
    pub fn slab_is_available(&self) -> bool {
        self.state() >= State::Up
    }

    /// Takes every lock of the heap, in order, so that a fork leaves a child with a heap at rest.
    /// A lock that this very thread holds already (a signal handler forked) is left alone.
    /// Pair with [`Kmem::unlock_after_fork`], in parent and child.
    pub fn lock_for_fork(&self) {
        self.registry.lock_for_fork(&self.platform);
        self.for_each_cache_unlocked(|cache| {
            for cpu in 0..self.platform.cpus() {
                if let Some(cpu) = cache.engine.cpu(&self.platform, cpu) {
                    cpu.stack.lock_for_fork(&self.platform);
                }
            }
        });
        for rank in [rank::BARN, rank::NODE, rank::POOL] {
            self.for_each_node_unlocked(|node| C::Engine::lock_node_for_fork(node, &self.platform, rank));
        }
        C::Engine::lock_heap_for_fork(&self.engine, &self.platform);
        self.pages.lock_for_fork(&self.platform);
        self.huge.lock_for_fork(&self.platform);
        self.kept.lock_for_fork(&self.platform);
    }

    /// Releases what [`Kmem::lock_for_fork`] took.
    ///
    /// # Safety
    /// Called once after it, by the same thread or by its copy in the child.
    pub unsafe fn unlock_after_fork(&self) {
        // SAFETY: the caller's promise covers every lock below.
        unsafe {
            self.kept.unlock_after_fork(&self.platform);
            self.huge.unlock_after_fork(&self.platform);
            self.pages.unlock_after_fork(&self.platform);
            C::Engine::unlock_heap_after_fork(&self.engine, &self.platform);
            for rank in [rank::POOL, rank::NODE, rank::BARN] {
                self.for_each_node_unlocked(|node| {
                    C::Engine::unlock_node_after_fork(node, &self.platform, rank);
                });
            }
            self.for_each_cache_unlocked(|cache| {
                for cpu in 0..self.platform.cpus() {
                    if let Some(cpu) = cache.engine.cpu(&self.platform, cpu) {
                        cpu.stack.unlock_after_fork(&self.platform);
                    }
                }
            });
            self.registry.unlock_after_fork(&self.platform);
        }
    }

    /// Every cache, for one who holds the registry's lock (or is the interrupted holder's own signal handler).
    fn for_each_cache_unlocked(&self, mut visit: impl FnMut(&KmemCache<C::Engine>)) {
        // SAFETY: the registry's lock is held, so the list stands still.
        let registry = unsafe { self.registry.peek() };
        let mut next = registry.newest();
        while let Some(cache) = next {
            visit(cache);
            next = cache.older();
        }
    }

    fn for_each_node_unlocked(&self, mut visit: impl FnMut(&Node<C::Engine>)) {
        self.for_each_cache_unlocked(|cache| {
            for node in 0..self.platform.nodes() {
                visit(cache.engine.node(node));
            }
        });
    }
}
