//! How objects lie in slabs, and the stacks of free objects in front of them.
//!
//! # Theory
//! An engine keeps objects in pages. There are three, each whole in its folder: [`slub`] chains free objects inside the slab
//! they lie in; [`slab`] keeps an index of them and arrays in front of three lists of slabs; [`slob`] knows no
//! slabs at all. A heap has one of them, chosen by its type ([`crate::config::Config::Engine`]).
//!
//! What is the same for all is here, once: the descriptor of a cache ([`Cache`]), what it keeps on each CPU and node
//! ([`Cpu`], [`Node`]), and the layer of CPU stacks in front of the engine ([`sheaf`]). What an engine adds to each
//! is a type of its own, named by the trait [`Engine`].
//!
//! # What the floors above see
//! [`sheaf::alloc`] and [`sheaf::free`] for one object, [`sheaf::alloc_bulk`] and [`sheaf::free_bulk`]
//! for many, [`sheaf::flush`], and the engine's shrinking, counting and checking. Everything below those names belongs to
//! this floor.

pub mod beside;
pub mod cache;
pub mod counts;
pub mod geometry;
pub mod list;
pub mod proof;
pub mod sheaf;
pub mod slab;
pub mod slob;
pub mod slub;
pub mod watch;

pub use cache::{Cache, Constructor, Cpu, CpuStats, Node, Stack};
pub use counts::{Counts, Fault, SlabEvents};

use crate::debug::{Asked, Debug, Origin, Reporter, Track, Which};
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::page::{Page, Pages};
use crate::platform::Platform;
use geometry::{Geometry, GeometryError, Request, Rules};

/// What an engine works with: the floors below it.
pub struct Floor<'a, P: Platform, E: Engine> {
    /// The world below.
    pub platform: &'a P,
    /// The page floor.
    pub pages: &'a Pages<P>,
    /// Caches of the arrays behind CPU stacks and barns, by size class; null before they exist.
    pub arrays: &'a sheaf::Arrays<E>,
    /// What the engine keeps for the whole heap.
    pub heap: &'a E::Heap,
    /// The debug state of the heap; also whether damage found in free memory stops the program, or is isolated
    /// ([`Debug::aborts`]).
    pub debug: &'a Debug,
    /// Free objects are zero while they are on no chain ([`watch`]).
    pub guarded: bool,
    /// Pages that were a cache's slab are never anything else ([`crate::page::Pool`]).
    pub pinned: bool,
}

impl<'a, P: Platform, E: Engine> Floor<'a, P, E> {
    /// The voice in which a cache's errors are reported.
    pub fn reporter<'c>(self, cache: &'c Cache<E>) -> Reporter<'c, P>
    where
        'a: 'c,
    {
        let abort = self.debug.built_to_abort();
        Reporter { platform: self.platform, debug: self.debug, name: cache.name, abort }
    }
}

impl<P: Platform, E: Engine> Clone for Floor<'_, P, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform, E: Engine> Copy for Floor<'_, P, E> {}

/// What a cache keeps beyond what is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserves {
    /// Empty slabs of a node.
    pub min_partial: u32,
    /// Slabs of a CPU's partial chain.
    pub cpu_partial_slabs: u32,
    /// Full sheaves of a node's barn.
    pub barn_sheaves: u32,
}

/// What creation decided about a cache, for the engine to prepare its own part of the descriptor.
pub struct Setup<'a> {
    /// What was asked.
    pub request: &'a Request,
    /// By which rules.
    pub rules: &'a Rules,
    /// The layout, as the engine made it; the heap may have adapted it to its configuration.
    pub geometry: &'a Geometry,
    /// Pages of a slab, where that is not a power of two; 0: the order of the geometry counts.
    pub exact_pages: usize,
    /// Objects that each CPU's stack holds; 0: no stacks.
    pub capacity: u32,
    /// What the configuration lets the cache keep.
    pub reserves: Reserves,
    /// Free pointers are stored encoded.
    pub hardened: bool,
    /// Objects of a slab are handed out in random order.
    pub random: bool,
}

/// Pages that blocks of all sizes and objects of all caches share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedPages {
    /// The pages.
    pub pages: u64,
    /// Those of them in which a block may find room.
    pub with_room: u64,
    /// Free bytes in them.
    pub free_bytes: u64,
    /// Bytes of what has pages of its own.
    pub whole_bytes: u64,
}

/// Why tunables were not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTunable {
    /// The engine has none.
    Engine,
    /// The cache has no arrays in front of its slabs.
    NoArrays,
    /// An array would have more than [`sheaf::MAX_CAPACITY`] objects, or a shared one more bytes than any of
    /// [`sheaf::ARRAY_SIZES`].
    TooLarge,
}

impl core::fmt::Display for NotTunable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Engine => "the engine has no tunables",
            Self::NoArrays => "the cache has no arrays",
            Self::TooLarge => "the arrays would be too large",
        })
    }
}

impl core::error::Error for NotTunable {}

/// Other letters for a cache.
pub struct Switch<'a> {
    /// The letters.
    pub letters: SlabFlags,
    /// The layout that they ask for. Letters that it does not have were dropped.
    pub geometry: &'a Geometry,
    /// As [`Setup::exact_pages`].
    pub exact_pages: usize,
}

/// A way to keep objects in pages.
///
/// # Safety
/// An implementation promises that
/// - objects it hands out lie in memory of the page floor, do not overlap any other object that was handed out and
///   not given back, have `geometry.size` bytes and the geometry's alignment;
/// - all zero is a valid value of [`Engine::Cpu`] and [`Engine::Guarded`].
pub unsafe trait Engine: Sized + Send + Sync + 'static {
    /// Its name, as users write it.
    const NAME: &'static str;
    /// Free objects wait on the CPUs' stacks. Otherwise every request goes to the engine, and nothing has a number.
    const STACKS: bool;
    /// kmalloc rounds up to size classes, each a cache. Otherwise [`Engine::kmalloc`] serves it.
    const CLASSES: bool;
    /// Bytes that [`Engine::kmalloc`] keeps in front of each block, which are also its least alignment; 0 with classes.
    const KMALLOC_HEADER: usize = 0;
    /// From an object's address alone its cache can be told.
    const KNOWS_CACHE: bool;
    /// What leaves a full stack is what was freed first; otherwise what was freed last.
    const SPILL_OLDEST: bool;
    /// The first slot need not open the slab: [`Engine::lead`] tells where it lies.
    const LEADS: bool = false;
    /// The debug letters that it has checks for. What the options ask beyond that is said and left out.
    const LETTERS: SlabFlags = SlabFlags::empty();
    /// Classes of whole pages can be checked too, up to what fits in the largest block of pages.
    const CHECKS_RUNS: bool = false;
    /// A cache's letters can change while it is used: [`Engine::switch`].
    const SWITCHES: bool = false;
    /// The largest window, in pages, that it can address.
    const MAX_WINDOW_PAGES: usize;

    /// Its part of a cache's descriptor.
    type Cache: Send + Sync;
    /// Its part of what a cache keeps on a node.
    type Node: Send + Sync;
    /// Its part of what a cache keeps on a CPU, beyond the lock of `Cpu::stack`. All zero at first.
    type Cpu: Send + Sync;
    /// The same, under that lock. All zero at first.
    type Guarded: Send;
    /// What it keeps for a whole heap.
    type Heap: Send + Sync;

    /// A heap without caches.
    const HEAP: Self::Heap;
    /// A node without slabs.
    const NODE: Self::Node;

    /// The layout of a cache's slots and slabs.
    ///
    /// # Errors
    /// See [`GeometryError`].
    fn geometry(request: &Request, rules: &Rules) -> Result<Geometry, GeometryError>;

    /// Its part of the descriptor of a new cache. `None`: no memory.
    fn new_cache<P: Platform>(floor: Floor<'_, P, Self>, setup: &Setup<'_>) -> Option<Self::Cache>;

    /// Gives back what [`Engine::new_cache`] took; the cache has no slabs and is not used any more.
    fn drop_cache<P: Platform>(floor: Floor<'_, P, Self>, cache: &Cache<Self>);

    /// Completes a node's structure of a new cache, before anybody else knows the cache. False: no memory.
    fn prepare_node<P: Platform>(_floor: Floor<'_, P, Self>, _cache: &Cache<Self>, _node: usize) -> bool {
        true
    }

    /// Gives back what [`Engine::prepare_node`] and use took for a node's structure: it has no slabs and no users.
    fn release_node<P: Platform>(_floor: Floor<'_, P, Self>, _cache: &Cache<Self>, _node: usize) {}

    /// One object without the stacks; null: no memory. `node`: `None` for the caller's own; strict with [`Gfp::THISNODE`].
    fn alloc_one<P: Platform>(
        floor: Floor<'_, P, Self>,
        cache: &Cache<Self>,
        gfp: Gfp,
        node: Option<usize>,
    ) -> *mut u8 {
        let mut one = [core::ptr::null_mut()];
        match Self::alloc_many(floor, cache, gfp, node, &mut one, 1) {
            0 => core::ptr::null_mut(),
            _ => one[0],
        }
    }

    /// Takes up to `out.len()` objects from the slabs; makes a new slab only while it has fewer than `at_least`. Returns how
    /// many. `node` as for [`Engine::alloc_one`].
    fn alloc_many<P: Platform>(
        floor: Floor<'_, P, Self>,
        cache: &Cache<Self>,
        gfp: Gfp,
        node: Option<usize>,
        out: &mut [*mut u8],
        at_least: usize,
    ) -> usize;

    /// Gives free objects back to their slabs. The order of the array is lost.
    ///
    /// # Safety
    /// Every entry is an object of this cache that the caller owns, each one once.
    unsafe fn free_many<P: Platform>(floor: Floor<'_, P, Self>, cache: &Cache<Self>, objects: &mut [*mut u8]);

    /// Gives back one object of another node than the caller's, or of a cache without stacks.
    ///
    /// # Safety
    /// As [`Engine::free_many`].
    unsafe fn free_away<P: Platform>(floor: Floor<'_, P, Self>, cache: &Cache<Self>, object: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { Self::free_many(floor, cache, &mut [object]) };
    }

    /// How many objects the next refill of `cpu`'s stack asks for: at least 1, not more than [`sheaf::MAX_BATCH`].
    fn batch<P: Platform>(
        floor: Floor<'_, P, Self>,
        cache: &Cache<Self>,
        cpu: usize,
        stack: &mut Stack<Self>,
    ) -> usize;

    /// Objects for an empty stack: from what the node has at hand, then from the slabs. At least one, and as many
    /// as the engine sees fit, if there is memory; it asks for `batch`. The last in `out` is handed out first.
    fn refill<P: Platform>(
        floor: Floor<'_, P, Self>,
        cache: &Cache<Self>,
        gfp: Gfp,
        out: &mut [*mut u8; sheaf::MAX_BATCH],
        batch: usize,
    ) -> usize;

    /// How many objects leave a full stack at once; not more than [`sheaf::MAX_CAPACITY`].
    fn spill(cache: &Cache<Self>) -> usize;

    /// Takes what left a full stack, what was freed first first if that is what leaves ([`Engine::SPILL_OLDEST`]), else last.
    ///
    /// # Safety
    /// As [`Engine::free_many`].
    unsafe fn store<P: Platform>(floor: Floor<'_, P, Self>, cache: &Cache<Self>, objects: &mut [*mut u8]);

    /// Empties what nodes keep in front of their slabs.
    fn flush_nodes<P: Platform>(floor: Floor<'_, P, Self>, cache: &Cache<Self>);

    /// Sends back to the nodes what the engine itself keeps on a CPU; the stack is not its affair.
    fn flush_cpu<P: Platform>(_floor: Floor<'_, P, Self>, _cache: &Cache<Self>, _cpu: usize) {}

    /// Has what one node keeps of the cache's pages grow old, in a heap that pins them.
    fn age_pages<P: Platform>(_floor: Floor<'_, P, Self>, _cache: &Cache<Self>, _node: usize) {}

    /// Gives back the empty slabs of one node and puts the others in the order in which they should be used. `keep_pages`:
    /// empty slabs stay.
    fn release_empty<P: Platform>(
        floor: Floor<'_, P, Self>,
        cache: &Cache<Self>,
        node: usize,
        keep_pages: bool,
    );

    /// Clears the engine's part of a CPU for the next cache with the same number. The cache is dead.
    fn reset_cpu(_cpu: &Self::Cpu) {}

    /// Adds what the engine keeps to `counts`. Leaves out what is locked by the very thread that asks.
    fn count<P: Platform>(floor: Floor<'_, P, Self>, cache: &Cache<Self>, counts: &mut Counts);

    /// Checks every slab it can reach. Returns how many. Nobody works on the cache.
    ///
    /// # Errors
    /// The first thing that is wrong.
    fn validate<P: Platform>(floor: Floor<'_, P, Self>, cache: &Cache<Self>) -> Result<u64, Fault>;

    /// Tells the slabs that their cache moved to another address. All of them are on the nodes' lists.
    fn rename_slabs<P: Platform>(floor: Floor<'_, P, Self>, cache: &Cache<Self>);

    /// Address of the first slot of a slab.
    fn slots<P: Platform>(floor: Floor<'_, P, Self>, _cache: &Cache<Self>, slab: &Page) -> usize {
        floor.pages.address(slab) as usize
    }

    /// Bytes from the start of a slab, headed by `head`, to its first slot; 0 without [`Engine::LEADS`].
    #[inline(always)]
    fn lead(_head: &Page) -> u32 {
        0
    }

    /// Checks every slab of a checked cache, and repairs what can be. Returns how many slabs were looked at;
    /// `None`: the engine checks nothing.
    fn check<P: Platform>(_floor: Floor<'_, P, Self>, _cache: &Cache<Self>) -> Option<u64> {
        None
    }

    /// Reports the objects that are still in use in a cache that dies.
    fn report_remaining<P: Platform>(
        floor: Floor<'_, P, Self>,
        cache: &Cache<Self>,
        objects: u64,
        slabs: u64,
    ) {
        report_remaining(floor, cache, objects, slabs);
    }

    /// Reports the free of an address in a slab of a checked cache where no object starts.
    fn report_invalid_free<P: Platform>(
        _floor: Floor<'_, P, Self>,
        _cache: &Cache<Self>,
        _slab: &Page,
        _address: usize,
    ) {
    }

    /// Prints who allocated and freed an object last, where that is kept.
    ///
    /// # Safety
    /// An object of this cache starts at `object`, in mapped memory.
    unsafe fn print_tracks<P: Platform>(_floor: Floor<'_, P, Self>, _cache: &Cache<Self>, _object: *mut u8) {}

    /// Shows the tracks of all objects in use: the object, the track, the bytes of the object that were not asked for, its node.
    fn visit_tracks<P: Platform>(
        _floor: Floor<'_, P, Self>,
        _cache: &Cache<Self>,
        _which: Which,
        _visit: &mut dyn FnMut(usize, &Track, usize, usize),
    ) {
    }

    /// Shows the objects in use of a slab of the cache, by the slab's own notes: what CPUs and barns keep counts as in use, so they keep
    /// nothing now. A slab that somebody works on meanwhile shows none. Engines without such notes show nothing at all.
    fn visit_in_use<P: Platform>(
        _floor: Floor<'_, P, Self>,
        _cache: &Cache<Self>,
        _slab: &Page,
        _visit: &mut dyn FnMut(usize),
    ) {
    }

    /// False, with a report, when the object that starts at `address` is known to be free: in a checked slab.
    fn check_held<P: Platform>(
        _floor: Floor<'_, P, Self>,
        _cache: &Cache<Self>,
        _slab: &Page,
        _address: usize,
    ) -> bool {
        true
    }

    /// Notes that only `size` bytes of this object of a class of kmalloc were asked for, where that is kept; more bytes than it has:
    /// that all of them may be used.
    ///
    /// # Safety
    /// The caller owns the object, and uses no more of it.
    unsafe fn note_size<P: Platform>(
        _floor: Floor<'_, P, Self>,
        _cache: &Cache<Self>,
        _object: *mut u8,
        _size: usize,
    ) {
    }

    /// Notes by which calls, and with which alignment, this object of a class of kmalloc was asked for, where that is kept.
    ///
    /// # Safety
    /// The caller owns the object.
    unsafe fn note_origin<P: Platform>(
        _floor: Floor<'_, P, Self>,
        _cache: &Cache<Self>,
        _object: *mut u8,
        _origin: Origin,
        _align: usize,
    ) {
    }

    /// How the object at `address` was asked for, where that is kept.
    fn request_of<P: Platform>(
        _floor: Floor<'_, P, Self>,
        _cache: &Cache<Self>,
        _slab: &Page,
        _address: usize,
    ) -> Option<Asked> {
        None
    }

    /// Reports that something is wrong with the object at `address`.
    fn report_object<P: Platform>(
        floor: Floor<'_, P, Self>,
        cache: &Cache<Self>,
        _slab: &Page,
        address: usize,
        title: core::fmt::Arguments<'_>,
    ) {
        let report = floor.reporter(cache);
        report.bug(title);
        report.line(format_args!("Object {address:#018x}"));
        report.end();
    }

    /// How one slab of a cache is laid out: as the cache was made, unless its letters changed.
    fn geometry_of<'a>(cache: &'a Cache<Self>, _slab: &Page) -> &'a Geometry {
        &cache.geometry
    }

    /// A slab is checked, as caches with letters make them. Not told by its layout: one that was begun as the cache lost its letters may have that of an
    /// unchecked slab, and so have those of letters that lay nothing around objects.
    fn is_checked_slab(_slab: &Page) -> bool {
        false
    }

    /// The debug letters that a cache has now.
    fn letters(cache: &Cache<Self>) -> SlabFlags {
        cache.geometry.flags & (Self::LETTERS | SlabFlags::FAILSLAB)
    }

    /// The letters that this cache may be given while it is used. Only with [`Engine::SWITCHES`].
    fn switchable(_cache: &Cache<Self>) -> SlabFlags {
        Self::LETTERS | SlabFlags::FAILSLAB
    }

    /// Gives a cache other letters: slabs that are made from now on follow. The CPUs must be flushed
    /// afterwards. Only with [`Engine::SWITCHES`]. False: there is no memory; nothing changed.
    fn switch<P: Platform>(_floor: Floor<'_, P, Self>, _cache: &Cache<Self>, _switch: &Switch<'_>) -> bool {
        false
    }

    /// Number of the object that starts at `address` in a slab of this cache; nothing when none does, or where none was handed
    /// out for sure.
    fn index_of<P: Platform>(
        floor: Floor<'_, P, Self>,
        cache: &Cache<Self>,
        slab: &Page,
        address: usize,
    ) -> Option<usize> {
        let objects = slab.objects.load(core::sync::atomic::Ordering::Relaxed);
        Self::geometry_of(cache, slab).index_of(Self::slots(floor, cache, slab), address, objects.into())
    }

    /// One object, if it can be had without a lock. Callable from any context.
    fn take_at_once<P: Platform>(_floor: Floor<'_, P, Self>, _cache: &Cache<Self>) -> *mut u8 {
        core::ptr::null_mut()
    }

    /// Gives one object back where an object does not tell its cache: whatever can be checked is checked. `Err`: nothing of
    /// the kind starts there, or it is free already (true).
    ///
    /// # Safety
    /// If it is an object in use, it is one of this cache's, and nobody uses it any more.
    unsafe fn take_back<P: Platform>(
        _floor: Floor<'_, P, Self>,
        _cache: &Cache<Self>,
        _object: *mut u8,
    ) -> Result<(), bool> {
        Err(false)
    }

    /// A block for kmalloc, where there are no classes; null: no memory, or not at this size and alignment together.
    /// `size` is not 0; `align` a power of two, or 0 for what kmalloc gives by itself.
    fn kmalloc<P: Platform>(
        _floor: Floor<'_, P, Self>,
        _size: usize,
        _align: usize,
        _gfp: Gfp,
        _node: Option<usize>,
    ) -> *mut u8 {
        core::ptr::null_mut()
    }

    /// [`Engine::kmalloc`] for callers that may not wait for a lock; null at any time. Callable from any context.
    fn kmalloc_at_once<P: Platform>(
        _floor: Floor<'_, P, Self>,
        _size: usize,
        _align: usize,
        _gfp: Gfp,
    ) -> *mut u8 {
        core::ptr::null_mut()
    }

    /// Frees a block of [`Engine::kmalloc`]. `Err`: nothing of the kind starts there, or it is free already (true).
    ///
    /// # Safety
    /// Nobody uses the block any more.
    unsafe fn kfree<P: Platform>(_floor: Floor<'_, P, Self>, _ptr: *mut u8) -> Result<(), bool> {
        Err(false)
    }

    /// The usable bytes of a block of [`Engine::kmalloc`]. `Err` as for [`Engine::kfree`], but that what is free may not
    /// be recognised as such. Waits for no lock.
    fn ksize<P: Platform>(_floor: Floor<'_, P, Self>, _ptr: *const u8) -> Result<usize, bool> {
        Err(false)
    }

    /// Limit, batch and shared factor, as slabinfo shows them; all 0 where there is nothing to tune.
    fn tunables(_cache: &Cache<Self>) -> [u32; 3] {
        [0; 3]
    }

    /// Sets limit, batch and shared factor of a cache in use.
    ///
    /// # Errors
    /// [`NotTunable`]; nothing changed.
    fn tune<P: Platform>(
        _floor: Floor<'_, P, Self>,
        _cache: &Cache<Self>,
        _to: [u32; 3],
    ) -> Result<(), NotTunable> {
        Err(NotTunable::Engine)
    }

    /// A CPU's turn of giving back what the cache keeps and nobody used for a while.
    fn reap<P: Platform>(_floor: Floor<'_, P, Self>, _cache: &Cache<Self>, _cpu: usize) {}

    /// A CPU went away; what it kept was flushed.
    fn cpu_dead<P: Platform>(_floor: Floor<'_, P, Self>, _cache: &Cache<Self>, _cpu: usize) {}

    /// Bytes that the holder of an object may use (`ksize`), where its creators asked for at most `object_size`.
    fn usable_size(geometry: &Geometry, _object_size: usize) -> usize {
        geometry.usable_size()
    }

    /// True when objects of a cache of this geometry are aligned to `align` too, once their slots are.
    fn may_share(_geometry: &Geometry, _align: usize) -> bool {
        true
    }

    /// The pages that blocks and objects of all caches share; nothing where each has a slab of a cache around it.
    fn shared<P: Platform>(_floor: Floor<'_, P, Self>) -> Option<SharedPages> {
        None
    }

    /// Takes the engine's locks of this rank in a node, so that a fork leaves a heap at rest.
    fn lock_node_for_fork<P: Platform>(_node: &Node<Self>, _platform: &P, _rank: u8) {}

    /// Releases what [`Engine::lock_node_for_fork`] took.
    ///
    /// # Safety
    /// Called once after it, by the same thread or its copy in the child.
    unsafe fn unlock_node_after_fork<P: Platform>(_node: &Node<Self>, _platform: &P, _rank: u8) {}

    /// Takes the lock of what the engine keeps for the whole heap.
    fn lock_heap_for_fork<P: Platform>(_heap: &Self::Heap, _platform: &P) {}

    /// Releases what [`Engine::lock_heap_for_fork`] took.
    ///
    /// # Safety
    /// As [`Engine::unlock_node_after_fork`].
    unsafe fn unlock_heap_after_fork<P: Platform>(_heap: &Self::Heap, _platform: &P) {}
}

/// Reports that a cache dies with objects in use, by their number.
pub(crate) fn report_remaining<P: Platform, E: Engine>(
    floor: Floor<'_, P, E>,
    cache: &Cache<E>,
    objects: u64,
    slabs: u64,
) {
    let name = cache.name;
    let title =
        format_args!("Objects remaining in {name} on __kmem_cache_shutdown(): {objects} in {slabs} slabs");
    let report = floor.reporter(cache);
    report.bug(title);
    report.here();
    report.found(false);
}
