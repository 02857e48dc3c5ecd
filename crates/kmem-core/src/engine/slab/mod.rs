//! SLAB: objects in slabs that know their free ones by an index, arrays of free objects in front of them.
//!
//! # Theory
//! Each node keeps the slabs of a cache on three lists: with some objects out (*partial*), with all out (*full*), with
//! none out (*free*). Objects are handed out from partial slabs first, so that others can become free and go back.
//! In front of the lists are arrays: one for each CPU, which are the heap's CPU stacks; one for each node that its CPUs
//! share (`stock`); and on machines of several nodes one for each other node, where its objects gather until they are
//! worth the way. Objects move between the arrays and the lists a *batch* at a time.
//!
//! Nothing of the engine lies in an object that is in use, and (but for one index a slab, where objects have no
//! constructor) nothing in a free one: so objects keep what their constructor made, and lists can be checked.
//!
//! Slabs of one cache begin at different *colours*; what was not used for a while is given back in turns (`reap`); and
//! how much is kept can be changed while the cache is in use (`tune`).
//!
//! # Files
//! [`geometry`]: where things lie, [`index`]: which objects are free, `desc`: one slab, `grow`: making one, `node`: lists, `alloc` and
//! `free`: between lists and arrays, `checked`: caches with debug letters, [`tunables`]: the numbers.
//!
//! # Invariants
//! I-SLAB-1 to 3 (a slab), I-SLABNODE-1 to 3 (a node), I-QUEUE-1 (an array), I-INDEX-1 and 2, I-SLABGEO-1 to 5,
//! I-SLABCHECK-1 to 3, I-SLABMODE-1 and 2, I-TUNE-1.
//!
//! # Lock order
//! Alien arrays (rank of the barn), then a node's lists. None is held while pages or arrays are fetched or given back.
//!
//! # Never
//! The arrays' and the indexes' memory comes from caches that have no arrays and no index outside their slabs, so nothing
//! here waits for itself.

pub mod geometry;
pub mod index;
pub mod tunables;

mod alloc;
mod checked;
mod cpu;
mod desc;
mod free;
mod grow;
mod maintain;
mod node;
mod queue;
mod reap;
mod stock;
mod tune;

pub use checked::Modes;
pub use cpu::Seen;
pub use node::{Lists, Stock};
pub use queue::Queue;

use core::sync::atomic::{AtomicU32, Ordering};

use crate::debug::{Track, Which};
use crate::engine::geometry::{Geometry, GeometryError, KernelVersion, Request, Rules};
use crate::engine::{self, Counts, Engine, Fault, NotTunable, Setup, Switch, sheaf};
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::page::Page;
use crate::percpu::CpuArea;
use crate::platform::{PAGE_SHIFT, Platform};
use crate::sync::rank;
use geometry::{IndexKind, Layout, Management, Shape, WORD};
use tunables::Tunables;

/// The engine.
pub struct Slab;

impl Slab {
    /// Bytes from a slab to its first slot: one load from the descriptor of its head page, constant while it is a slab.
    /// With red zones the first object begins a little later (`Geometry::red_left_pad`).
    #[inline(always)]
    #[must_use]
    pub fn lead(head: &Page) -> u32 {
        desc::lead(head) as u32
    }
}

/// A cache of this engine.
pub type Cache = engine::Cache<Slab>;
/// What a node keeps of such a cache.
pub type Node = engine::Node<Slab>;
type Stack = engine::Stack<Slab>;
type Floor<'a, P> = engine::Floor<'a, P, Slab>;

/// How a slab tells its free objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// One object: by the count alone.
    Alone,
    /// As 6.1.
    Packed,
    /// As 2.6.
    Linked,
}

/// What SLAB adds to a cache's descriptor.
pub struct Own {
    /// Where everything lies.
    pub layout: Layout,
    pub(super) place: Place,
    /// Objects of a new slab are free in random order.
    random: bool,
    /// Objects that move at a time.
    batch: AtomicU32,
    /// Batches in the array that a node's CPUs share.
    shared: AtomicU32,
    /// Free slabs that a node keeps at most, whatever its limit of free objects.
    max_free: u32,
    /// Its letters now.
    pub(super) modes: Modes,
}

impl Own {
    /// The tunables now in effect. A cache without arrays has none: all 0.
    pub fn tunables(&self, cache: &Cache) -> Tunables {
        match cache.capacity() {
            0 => Tunables { limit: 0, batch: 0, shared: 0 },
            limit => Tunables {
                limit,
                batch: self.batch.load(Ordering::Relaxed),
                shared: self.shared.load(Ordering::Relaxed),
            },
        }
    }

    /// Free objects that a node keeps in its slabs. CPUs are dealt to nodes evenly.
    pub fn free_limit<P: Platform>(&self, platform: &P, objects: usize, dead_cpus: u32) -> u64 {
        let cpus = platform.cpus().div_ceil(platform.nodes()).saturating_sub(dead_cpus as usize);
        let batch = self.batch.load(Ordering::Relaxed);
        let limit = Tunables { batch, ..self.layout.tunables }.free_limit(cpus, objects);
        (limit as u64).min(u64::from(self.max_free).saturating_mul(objects as u64))
    }

    /// Its slabs have a bit for each free object.
    pub(super) fn has_bits(&self, cache: &Cache) -> bool {
        self.place == Place::Packed && cache.geometry.objects <= u64::BITS as usize
    }

    /// The index of a slab is an array of its own.
    pub(super) fn is_off_slab(&self) -> bool {
        self.place != Place::Alone && self.layout.management == Management::OffSlab
    }

    /// The index of a slab lies in one of its free objects.
    pub(super) fn is_in_object(&self) -> bool {
        self.place != Place::Alone && self.layout.management == Management::InObject
    }

    pub(super) fn shape(&self, cache: &Cache) -> Shape {
        Shape { geometry: cache.geometry, layout: self.layout }
    }
}

/// The shape of a cache. The size classes of kmalloc begin at cache lines in the kernels that had this engine.
///
/// # Errors
/// See [`GeometryError`].
pub const fn shape(request: &Request, rules: &Rules) -> Result<Shape, GeometryError> {
    let mut request = *request;
    let mut rules = *rules;
    let old = matches!(rules.version, KernelVersion::V2_6 | KernelVersion::V6_1);
    if request.flags.contains(SlabFlags::NOLEAKTRACE) && matches!(rules.version, KernelVersion::V2_6) {
        // The heap's own caches, before there are arrays: the rules of 6.1 keep their indexes in their slabs.
        rules.version = KernelVersion::V6_1;
    }
    if old && request.flags.contains(SlabFlags::KMALLOC) {
        request.flags = request.flags.union(SlabFlags::HWCACHE_ALIGN);
    }
    if let Some(offset) = request.freeptr_offset {
        // No free pointer lies in an object, so none can be in the way. A wish that any engine would refuse is refused.
        let sensible = !old && request.flags.contains(SlabFlags::TYPESAFE_BY_RCU) && !request.has_ctor;
        if sensible && offset < request.size && offset.is_multiple_of(WORD) {
            request.freeptr_offset = None;
        }
    }
    geometry::compute(&request, &rules)
}

// SAFETY: objects come from the index of a slab, each once, and go back to it (I-SLAB-2); slots lie in their slab and are
// aligned (I-SLABGEO-1, I-SLABGEO-2); `Seen` is plain numbers.
unsafe impl Engine for Slab {
    const NAME: &'static str = "slab";
    const STACKS: bool = true;
    const CLASSES: bool = true;
    const KNOWS_CACHE: bool = true;
    const SPILL_OLDEST: bool = true;
    const LEADS: bool = true;
    const LETTERS: SlabFlags = SlabFlags::DEBUG;
    const SWITCHES: bool = true;
    const MAX_WINDOW_PAGES: usize = 1 << (40 - PAGE_SHIFT);

    type Cache = Own;
    type Node = Stock;
    type Cpu = Seen;
    type Guarded = ();
    type Heap = ();

    const HEAP: () = ();
    const NODE: Stock = Stock::new();

    fn geometry(request: &Request, rules: &Rules) -> Result<Geometry, GeometryError> {
        shape(request, rules).map(|shape| shape.geometry)
    }

    fn new_cache<P: Platform>(_floor: Floor<'_, P>, setup: &Setup<'_>) -> Option<Own> {
        let mut layout = shape(setup.request, setup.rules).ok()?.layout;
        let place = match layout.index {
            _ if setup.geometry.objects == 1 => Place::Alone,
            IndexKind::Packed => Place::Packed,
            IndexKind::Linked => Place::Linked,
        };
        if setup.exact_pages != 0 {
            // One object fills the whole run.
            layout.colours = 0;
        }
        // The descriptor has 16 bits for the offset of the first slot, in words. Only slabs of megabytes have more.
        let before = layout.management_bytes.next_multiple_of(layout.colour_step);
        layout.colours = layout.colours.min((usize::from(u16::MAX) * WORD - before) / layout.colour_step);
        let mut tunables = layout.tunables;
        if setup.capacity != tunables.limit && setup.capacity != 0 {
            tunables.batch = setup.capacity.div_ceil(2);
            tunables.shared = tunables.shared.min(setup.reserves.barn_sheaves);
        }
        Some(Own {
            layout,
            place,
            random: setup.random,
            batch: AtomicU32::new(tunables.batch),
            shared: AtomicU32::new(tunables.shared),
            max_free: setup.reserves.min_partial,
            modes: Modes::new(setup.geometry.flags, setup.capacity != 0),
        })
    }

    fn drop_cache<P: Platform>(_floor: Floor<'_, P>, _cache: &Cache) {}

    fn prepare_node<P: Platform>(floor: Floor<'_, P>, cache: &Cache, node: usize) -> bool {
        let first = reap::first_time(floor, cache);
        cache.node(node).own.lists.lock(floor.platform).next_reap = first;
        true
    }

    fn release_node<P: Platform>(floor: Floor<'_, P>, cache: &Cache, node: usize) {
        stock::release(floor, cache, node);
    }

    fn alloc_one<P: Platform>(floor: Floor<'_, P>, cache: &Cache, gfp: Gfp, node: Option<usize>) -> *mut u8 {
        if checked::is_checked(cache) {
            let mut one = [core::ptr::null_mut()];
            checked::alloc_many(floor, cache, gfp, node, &mut one, 1);
            return one[0];
        }
        alloc::alloc_one(floor, cache, gfp, node)
    }

    fn alloc_many<P: Platform>(
        floor: Floor<'_, P>,
        cache: &Cache,
        gfp: Gfp,
        node: Option<usize>,
        out: &mut [*mut u8],
        at_least: usize,
    ) -> usize {
        if checked::is_checked(cache) {
            return checked::alloc_many(floor, cache, gfp, node, out, at_least);
        }
        alloc::alloc_many(floor, cache, gfp, node, out, at_least)
    }

    unsafe fn free_many<P: Platform>(floor: Floor<'_, P>, cache: &Cache, objects: &mut [*mut u8]) {
        // SAFETY: the caller's promise.
        unsafe {
            if checked::is_checked(cache) {
                checked::free_many(floor, cache, objects);
            } else {
                free::free_many(floor, cache, objects);
            }
        }
    }

    unsafe fn free_away<P: Platform>(floor: Floor<'_, P>, cache: &Cache, object: *mut u8) {
        // SAFETY: the caller's promise. What is checked goes home at once.
        unsafe {
            if checked::is_checked(cache) {
                checked::free_many(floor, cache, &[object]);
            } else {
                stock::free_away(floor, cache, object);
            }
        }
    }

    fn batch<P: Platform>(floor: Floor<'_, P>, cache: &Cache, number: usize, _stack: &mut Stack) -> usize {
        cpu::seen(floor, cache, number, floor.platform.current_node());
        let allocs = floor.platform.cpu_area().hot(number, cache.id).allocs.load(Ordering::Relaxed);
        let touched = cache.cpu(floor.platform, number).is_some_and(|cpu| cpu.own.touched(allocs));
        let batch = cache.own.tunables(cache).refill(touched) as usize;
        batch.clamp(1, sheaf::MAX_BATCH)
    }

    fn refill<P: Platform>(
        floor: Floor<'_, P>,
        cache: &Cache,
        gfp: Gfp,
        out: &mut [*mut u8; sheaf::MAX_BATCH],
        batch: usize,
    ) -> usize {
        alloc::refill(floor, cache, gfp, &mut out[..batch])
    }

    fn spill(cache: &Cache) -> usize {
        (cache.own.batch.load(Ordering::Relaxed) as usize).clamp(1, sheaf::MAX_CAPACITY)
    }

    unsafe fn store<P: Platform>(floor: Floor<'_, P>, cache: &Cache, objects: &mut [*mut u8]) {
        // SAFETY: the caller's promise.
        unsafe { stock::store(floor, cache, objects) };
    }

    fn flush_nodes<P: Platform>(floor: Floor<'_, P>, cache: &Cache) {
        stock::flush(floor, cache);
    }

    fn release_empty<P: Platform>(floor: Floor<'_, P>, cache: &Cache, node: usize, keep_pages: bool) {
        maintain::release_empty(floor, cache, node, keep_pages);
    }

    fn reset_cpu(cpu: &Seen) {
        cpu.reset();
    }

    fn count<P: Platform>(floor: Floor<'_, P>, cache: &Cache, counts: &mut Counts) {
        maintain::count(floor, cache, counts);
    }

    fn validate<P: Platform>(floor: Floor<'_, P>, cache: &Cache) -> Result<u64, Fault> {
        maintain::validate(floor, cache)
    }

    fn check<P: Platform>(floor: Floor<'_, P>, cache: &Cache) -> Option<u64> {
        checked::check_all(floor, cache)
    }

    /// The kernel's SLAB says no more than that the cache has objects; a checked one has that said for it.
    fn report_remaining<P: Platform>(floor: Floor<'_, P>, cache: &Cache, objects: u64, slabs: u64) {
        if !checked::is_checked(cache) {
            engine::report_remaining(floor, cache, objects, slabs);
        }
    }

    fn report_invalid_free<P: Platform>(floor: Floor<'_, P>, cache: &Cache, slab: &Page, address: usize) {
        checked::invalid_free(floor, cache, slab, address);
    }

    unsafe fn print_tracks<P: Platform>(floor: Floor<'_, P>, cache: &Cache, object: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { checked::print_tracks(floor, cache, object) };
    }

    fn visit_tracks<P: Platform>(
        floor: Floor<'_, P>,
        cache: &Cache,
        which: Which,
        visit: &mut dyn FnMut(usize, &Track, usize, usize),
    ) {
        checked::visit_tracks(floor, cache, which, visit);
    }

    fn letters(cache: &Cache) -> SlabFlags {
        checked::letters(cache)
    }

    fn switchable(cache: &Cache) -> SlabFlags {
        checked::switchable(cache)
    }

    fn switch<P: Platform>(_floor: Floor<'_, P>, cache: &Cache, switch: &Switch<'_>) -> bool {
        checked::switch(cache, switch);
        true
    }

    fn rename_slabs<P: Platform>(floor: Floor<'_, P>, cache: &Cache) {
        maintain::rename_slabs(floor, cache);
    }

    #[inline(always)]
    fn lead(head: &Page) -> u32 {
        Self::lead(head)
    }

    fn slots<P: Platform>(floor: Floor<'_, P>, _cache: &Cache, page: &Page) -> usize {
        desc::slots(floor, page)
    }

    fn take_at_once<P: Platform>(floor: Floor<'_, P>, cache: &Cache) -> *mut u8 {
        // A check takes locks and may print.
        if checked::is_checked(cache) {
            return core::ptr::null_mut();
        }
        alloc::take_at_once(floor, cache)
    }

    fn tunables(cache: &Cache) -> [u32; 3] {
        let Tunables { limit, batch, shared } = cache.own.tunables(cache);
        [limit, batch, shared]
    }

    fn tune<P: Platform>(floor: Floor<'_, P>, cache: &Cache, to: [u32; 3]) -> Result<(), NotTunable> {
        let [limit, batch, shared] = to;
        tune::tune(floor, cache, Tunables { limit, batch, shared })
    }

    fn reap<P: Platform>(floor: Floor<'_, P>, cache: &Cache, cpu: usize) {
        reap::reap(floor, cache, cpu);
    }

    fn cpu_dead<P: Platform>(floor: Floor<'_, P>, cache: &Cache, cpu: usize) {
        cpu::dead(floor, cache, cpu);
    }

    /// As the kernel's: what was asked, and not the rest of the slot.
    fn usable_size(_geometry: &Geometry, object_size: usize) -> usize {
        object_size
    }

    /// Slabs of one cache begin at colours, so a slot is aligned to what its cache promises and no more.
    fn may_share(geometry: &Geometry, align: usize) -> bool {
        align <= geometry.align && geometry.align.is_multiple_of(align.max(1))
    }

    fn lock_node_for_fork<P: Platform>(node: &Node, platform: &P, rank: u8) {
        match rank {
            rank::BARN => node.own.aliens.lock_for_fork(platform),
            rank::NODE => node.own.lists.lock_for_fork(platform),
            _ => {}
        }
    }

    unsafe fn unlock_node_after_fork<P: Platform>(node: &Node, platform: &P, rank: u8) {
        // SAFETY: the caller's promise.
        unsafe {
            match rank {
                rank::BARN => node.own.aliens.unlock_after_fork(platform),
                rank::NODE => node.own.lists.unlock_after_fork(platform),
                _ => {}
            }
        }
    }
}
