//! SLUB: free objects are chained inside the slab they lie in.
//!
//! # Theory
//! A slab is a naturally aligned block of pages holding objects of one cache, one after the other. Its whole state
//! that more than one CPU may change is one word in the descriptor of its head page: the first free
//! object, the number of objects in use, and whether a CPU owns it ([`word`]).
//!
//! Objects that were never handed out have no links: a slab remembers how many were *carved* and
//! the owner takes the next ones directly. A new slab therefore costs no walk over its memory, and
//! pages nobody asked for are never touched.
//!
//! # States of a slab
//! | state | on a list | frozen | who may take objects | who may give objects back |
//! |---|---|---|---|---|
//! | CPU slab | no | yes | the CPU, through its transaction word | anybody |
//! | CPU partial | the CPU's chain | yes | nobody until it becomes the CPU slab | anybody |
//! | partial | the node's list | no | whoever holds the node's lock | anybody |
//! | full | no | no | nobody: nothing is free | anybody: it then becomes partial |
//!
//! # Invariants
//! - I-SLUB-1: `inuse = objects - (free objects on the slab's own list) - (objects never carved)`, except
//!   that a CPU slab counts `inuse = objects` while its free objects are in the CPU's hands.
//! - I-SLUB-2: free objects are only ever *added* to a slab's list by a compare-and-swap; they are
//!   removed all at once by the owner (frozen), or one at a time under the node's lock (not frozen). So
//!   no removal can meet a recycled head.
//! - I-SLUB-3: a slab that is not frozen and has `0 < inuse < objects` is on the list of its node,
//!   except between the compare-and-swap and the list operation of one thread that holds that
//!   node's lock.
//! - I-SLUB-4: `carved` and `start` change only in the hands of the owner: the CPU that froze the
//!   slab (under its lock), or the holder of the node's lock.
//!
//! # Lock order
//! CPU slab, then barn, then node (see [`crate::sync::rank`]). None is held while pages are fetched.

pub mod geometry;
pub mod object;
pub mod word;

mod alloc;
mod barn;
mod checked;
mod cpu;
mod free;
mod maintain;
mod node;
mod sequence;
mod slab;

pub(crate) use cpu::MAX_WINDOW_PAGES;
pub use cpu::{Chain, Transaction};

pub use checked::Modes;
pub use node::{NodeLists, Stock};
pub(crate) use slab::extent;

use core::sync::atomic::AtomicU32;

use crate::debug::{Asked, Origin, Track, Which};
use crate::engine::geometry::{Geometry, GeometryError, KernelVersion, Request, Rules};
use crate::engine::{self, Counts, Engine, Fault, Setup, Switch, sheaf};
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::page::Page;
use crate::platform::Platform;
use crate::sync::rank;

/// The engine.
pub struct Slub;

/// A cache of this engine.
pub type Cache = engine::Cache<Slub>;
/// What a node keeps of such a cache.
pub type Node = engine::Node<Slub>;
/// What a CPU keeps of it.
pub type Cpu = engine::Cpu<Slub>;
pub(crate) type Stack = engine::Stack<Slub>;
pub(crate) type Floor<'a, P> = engine::Floor<'a, P, Slub>;

/// What SLUB adds to a cache's descriptor.
pub struct Own {
    /// Secret of this cache's free pointers; 0 leaves them plain.
    pub random: u64,
    /// `geometry.objects` indices in the order in which a slab's objects are carved; null for ascending order.
    pub sequence: *const u16,
    /// Full sheaves that each node's barn keeps.
    pub barn_sheaves: u32,
    /// Empty slabs that each node keeps.
    pub min_partial: AtomicU32,
    /// Slabs that each CPU keeps in its partial chain.
    pub cpu_partial_slabs: AtomicU32,
    /// Share (of 1000) of refills that may look at other nodes.
    pub remote_ratio: AtomicU32,
    /// The bytes of a block of kmalloc beyond what was asked are guarded, where its class is checked.
    pub guards_slack: bool,
    /// Letters and layouts.
    pub modes: Modes,
}

// SAFETY: `sequence` points to memory that is written before the cache is shared and never after.
unsafe impl Sync for Own {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Own {}

// SAFETY: objects come from `slab::carve`, each once, and from chains of objects that were given back, each once (I-SLUB-1,
// I-SLUB-2); a CPU without a slab is all zero (I-CSLAB-2).
unsafe impl Engine for Slub {
    const NAME: &'static str = "slub";
    const STACKS: bool = true;
    const CLASSES: bool = true;
    const KNOWS_CACHE: bool = true;
    const SPILL_OLDEST: bool = false;
    const LETTERS: SlabFlags = SlabFlags::DEBUG.union(SlabFlags::FAILSLAB);
    const SWITCHES: bool = true;
    const CHECKS_RUNS: bool = true;
    const MAX_WINDOW_PAGES: usize = MAX_WINDOW_PAGES;

    type Cache = Own;
    type Node = Stock;
    type Cpu = Transaction;
    type Guarded = Chain;
    type Heap = ();

    const HEAP: () = ();
    const NODE: Stock = Stock::new();

    fn index_of<P: Platform>(
        floor: Floor<'_, P>,
        cache: &Cache,
        slab: &Page,
        address: usize,
    ) -> Option<usize> {
        let objects = slab.objects.load(core::sync::atomic::Ordering::Relaxed);
        let index = checked::geometry_of(cache, slab).index_of(
            Self::slots(floor, cache, slab),
            address,
            objects.into(),
        )?;
        slab::is_open(floor, cache, slab, address).then_some(index)
    }

    fn geometry(request: &Request, rules: &Rules) -> Result<Geometry, GeometryError> {
        geometry::compute(request, rules)
    }

    fn new_cache<P: Platform>(floor: Floor<'_, P>, setup: &Setup<'_>) -> Option<Own> {
        let reserves = setup.reserves;
        Some(Own {
            random: if setup.hardened { floor.platform.entropy() | 1 } else { 0 },
            sequence: sequence::make(floor, setup).ok()?,
            barn_sheaves: reserves.barn_sheaves,
            min_partial: AtomicU32::new(reserves.min_partial),
            cpu_partial_slabs: AtomicU32::new(reserves.cpu_partial_slabs),
            remote_ratio: AtomicU32::new(1000),
            guards_slack: setup.rules.version > KernelVersion::V6_1,
            modes: Modes::new(setup.geometry.flags, setup.capacity),
        })
    }

    fn drop_cache<P: Platform>(floor: Floor<'_, P>, cache: &Cache) {
        sequence::free(floor, cache);
        checked::drop_layouts(floor, cache);
    }

    fn alloc_one<P: Platform>(floor: Floor<'_, P>, cache: &Cache, gfp: Gfp, node: Option<usize>) -> *mut u8 {
        if checked::is_checked(cache) {
            return checked::alloc_one(floor, cache, gfp, node);
        }
        let object = alloc::alloc_one(floor, cache, gfp, node);
        if !object.is_null() {
            alloc::clear_links(floor, cache, &[object]);
        }
        object
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
        let got = alloc::alloc_many(floor, cache, gfp, node, out, at_least);
        alloc::clear_links(floor, cache, &out[..got]);
        got
    }

    unsafe fn free_many<P: Platform>(floor: Floor<'_, P>, cache: &Cache, objects: &mut [*mut u8]) {
        // SAFETY: the caller's promise.
        unsafe { free::free_many(floor, cache, objects) };
    }

    fn batch<P: Platform>(_floor: Floor<'_, P>, cache: &Cache, _cpu: usize, stack: &mut Stack) -> usize {
        barn::batch(cache, stack)
    }

    fn refill<P: Platform>(
        floor: Floor<'_, P>,
        cache: &Cache,
        gfp: Gfp,
        out: &mut [*mut u8; sheaf::MAX_BATCH],
        batch: usize,
    ) -> usize {
        let got = match barn::take(floor, cache, out) {
            0 => Self::alloc_many(floor, cache, gfp, None, &mut out[..batch], 1),
            got => got,
        };
        out[..got].reverse();
        got
    }

    fn spill(cache: &Cache) -> usize {
        sheaf::sheaf_objects(cache.capacity())
    }

    unsafe fn store<P: Platform>(floor: Floor<'_, P>, cache: &Cache, objects: &mut [*mut u8]) {
        // SAFETY: the caller's promise.
        unsafe { barn::store(floor, cache, objects) };
    }

    fn flush_nodes<P: Platform>(floor: Floor<'_, P>, cache: &Cache) {
        barn::flush(floor, cache);
    }

    fn flush_cpu<P: Platform>(floor: Floor<'_, P>, cache: &Cache, cpu: usize) {
        maintain::flush_cpu(floor, cache, cpu);
    }

    fn release_empty<P: Platform>(floor: Floor<'_, P>, cache: &Cache, node: usize, keep_pages: bool) {
        maintain::release_empty(floor, cache, node, keep_pages);
        if floor.pinned {
            floor.pages.trim_pool(floor.platform, &cache.node(node).own.pool);
        }
    }

    fn age_pages<P: Platform>(floor: Floor<'_, P>, cache: &Cache, node: usize) {
        if floor.pinned {
            floor.pages.age_pool(floor.platform, &cache.node(node).own.pool);
        }
    }

    fn release_node<P: Platform>(floor: Floor<'_, P>, cache: &Cache, node: usize) {
        if floor.pinned {
            floor.pages.close_pool(floor.platform, &cache.node(node).own.pool);
        }
    }

    fn reset_cpu(cpu: &Transaction) {
        debug_assert!(!cpu.has_slab());
    }

    fn count<P: Platform>(floor: Floor<'_, P>, cache: &Cache, counts: &mut Counts) {
        maintain::count(floor, cache, counts);
    }

    fn validate<P: Platform>(floor: Floor<'_, P>, cache: &Cache) -> Result<u64, Fault> {
        maintain::validate(floor, cache)
    }

    fn check<P: Platform>(floor: Floor<'_, P>, cache: &Cache) -> Option<u64> {
        // A cache that lost its letters may still have slabs that are checked.
        let slabs = checked::check_all(floor, cache);
        (checked::is_checked(cache) || slabs > 0).then_some(slabs)
    }

    fn report_remaining<P: Platform>(floor: Floor<'_, P>, cache: &Cache, _objects: u64, _slabs: u64) {
        checked::remaining(floor, cache);
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

    fn visit_in_use<P: Platform>(
        floor: Floor<'_, P>,
        cache: &Cache,
        slab: &Page,
        visit: &mut dyn FnMut(usize),
    ) {
        maintain::visit_in_use(floor, cache, slab, visit);
    }

    fn check_held<P: Platform>(floor: Floor<'_, P>, cache: &Cache, slab: &Page, address: usize) -> bool {
        checked::check_held(floor, cache, slab, address)
    }

    unsafe fn note_size<P: Platform>(floor: Floor<'_, P>, cache: &Cache, object: *mut u8, size: usize) {
        // SAFETY: the caller's promise.
        unsafe { checked::note_size(floor, cache, object, size) };
    }

    unsafe fn note_origin<P: Platform>(
        floor: Floor<'_, P>,
        cache: &Cache,
        object: *mut u8,
        origin: Origin,
        align: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe { checked::note_origin(floor, cache, object, origin, align) };
    }

    fn request_of<P: Platform>(
        floor: Floor<'_, P>,
        cache: &Cache,
        slab: &Page,
        address: usize,
    ) -> Option<Asked> {
        checked::request_of(floor, cache, slab, address)
    }

    fn report_object<P: Platform>(
        floor: Floor<'_, P>,
        cache: &Cache,
        slab: &Page,
        address: usize,
        title: core::fmt::Arguments<'_>,
    ) {
        checked::report_object(floor, cache, slab, address, title);
    }

    fn geometry_of<'a>(cache: &'a Cache, slab: &Page) -> &'a Geometry {
        checked::geometry_of(cache, slab)
    }

    fn is_checked_slab(slab: &Page) -> bool {
        checked::is_checked_slab(slab)
    }

    fn letters(cache: &Cache) -> SlabFlags {
        cache.own.modes.letters()
    }

    fn switch<P: Platform>(floor: Floor<'_, P>, cache: &Cache, switch: &Switch<'_>) -> bool {
        checked::switch(floor, cache, switch)
    }

    fn rename_slabs<P: Platform>(floor: Floor<'_, P>, cache: &Cache) {
        maintain::rename_slabs(floor, cache);
    }

    fn take_at_once<P: Platform>(floor: Floor<'_, P>, cache: &Cache) -> *mut u8 {
        let Some(cpu) = cache.here(floor.platform) else { return core::ptr::null_mut() };
        match cpu.stack.try_lock(floor.platform) {
            Some(_own) => {
                let object = cpu.take_one(floor.pages, cache);
                if !object.is_null() {
                    alloc::clear_links(floor, cache, &[object]);
                }
                object
            }
            None => core::ptr::null_mut(),
        }
    }

    fn lock_node_for_fork<P: Platform>(node: &Node, platform: &P, rank: u8) {
        match rank {
            rank::BARN => node.own.barn.lock_for_fork(platform),
            rank::NODE => node.own.list.lock_for_fork(platform),
            rank::POOL => node.own.pool.lock_for_fork(platform),
            _ => {}
        }
    }

    unsafe fn unlock_node_after_fork<P: Platform>(node: &Node, platform: &P, rank: u8) {
        // SAFETY: the caller's promise.
        unsafe {
            match rank {
                rank::BARN => node.own.barn.unlock_after_fork(platform),
                rank::NODE => node.own.list.unlock_after_fork(platform),
                rank::POOL => node.own.pool.unlock_after_fork(platform),
                _ => {}
            }
        }
    }
}
