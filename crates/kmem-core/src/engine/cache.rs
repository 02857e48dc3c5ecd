//! What every engine's caches are made of: the descriptor, its nodes, its CPUs.
//!
//! The fields here are what the layer of CPU stacks and the floors above need; each structure ends in, or contains, a part
//! that belongs to the engine.
//!
//! # Invariants
//! - I-CACHE-1: everything in a [`Cache`] but its atomics is constant after creation.
//! - I-CACHE-2: a [`Cpu`] lives in the cold memory of its (CPU, number) pair, all zero at first and after
//!   `Cpu::reset`; only the cache with that number uses it.

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::engine::Engine;
use crate::engine::beside::{self, Beside};
use crate::engine::geometry::Geometry;
use crate::engine::proof::Proof;
use crate::flags::SlabFlags;
use crate::page::{Page, Pages};
use crate::percpu::{COLD_SIZE, CpuArea, MAX_STACKS, StackId};
use crate::platform::{MAX_NODES, PAGE_SHIFT, PAGE_SIZE, Platform};
use crate::sync::{Lock, rank};

/// Sets up one object when its slab is made (or, with SLOB, at each allocation). The argument is the object's first byte.
pub type Constructor = unsafe extern "C" fn(*mut u8);

/// What an engine knows of a cache.
#[repr(C)]
pub struct Cache<E: Engine> {
    /// The name given by its creator. The text lives as long as the cache.
    pub name: &'static str,
    /// The layout of objects and slabs.
    pub geometry: Geometry,
    /// Pages of a slab, where that is not a power of two; 0: the order of the geometry counts.
    pub exact_pages: usize,
    /// Runs once for each object of a new slab.
    pub ctor: Option<Constructor>,
    /// Runs once for each object of a slab that is given back.
    pub dtor: Option<Constructor>,
    /// Number of the CPU stacks and cold memory; 0 when the numbers ran out.
    pub id: StackId,
    /// Objects that each CPU's stack holds; 0: no stacks. It never changes between 0 and another number.
    pub capacity: AtomicU32,
    /// Objects that a CPU's stack may come to hold when it grows (module `sheaf::growth`); 0: it does not.
    pub most: u32,
    /// CPUs keep objects from the first request on; otherwise each once it proved that it needs some ([`super::sheaf`]).
    pub(crate) kept_at_once: bool,
    /// What the marks of free objects are made of; 0: they have none. Set before the first slab is made.
    pub mark: AtomicU64,
    /// What proves that an object starts at an address in a slab, once the page's tag is [`Cache::trusted`].
    pub(crate) proof: Proof,
    /// The tag of pages on which the proof holds (I-PROOF-1): the cache's number, or [`DISTRUST`].
    pub(crate) trusted: AtomicU16,
    /// Bytes of an object that are zero while it is free, in a watched heap; 0 where they are not ([`super::watch`]).
    pub(crate) zeroed: u32,
    /// CPUs keep no objects: allocations that fault injection may hit come to the slow paths.
    pub(crate) closed: AtomicBool,
    /// The engine's own part.
    pub own: E::Cache,
    /// Per-node state; null where the node has none. Not public: nobody but creation may make a cache.
    pub(crate) nodes: [AtomicPtr<Node<E>>; MAX_NODES],
}

/// Bytes from the start of a free object to its mark, where objects have no headers.
pub const MARK_AT: usize = 8;

/// No page has this tag: numbers are smaller.
const DISTRUST: u16 = u16::MAX;
const _: () = assert!(MAX_STACKS <= DISTRUST as usize);

/// The proof for caches of this layout and number, and the tag of pages on which it holds.
pub(crate) fn proof_of(geometry: &Geometry, exact_pages: usize, capacity: u32, id: StackId) -> (Proof, u16) {
    match Proof::of(geometry) {
        Some(proof) if exact_pages == 0 && capacity != 0 => (proof, id),
        _ => (Proof::NONE, DISTRUST),
    }
}

impl<E: Engine> Cache<E> {
    /// From now on every object that comes back is looked up: there are slabs that the proof does not know, or the stacks are
    /// going away.
    #[cold]
    pub(crate) fn distrust(&self) {
        // Relaxed: who frees an object of such a slab got it from somebody who was told (I-PROOF-1).
        self.trusted.store(DISTRUST, Ordering::Relaxed);
    }

    /// A page of the cache's slabs may have this tag: its own, or that of no cache ([`MAX_STACKS`] and more), or none.
    #[inline]
    pub(crate) fn may_have_tag(&self, tag: u16) -> bool {
        tag == self.id || tag == 0 || usize::from(tag) >= MAX_STACKS
    }

    /// No page of a slab of this cache is another's by the map of pages.
    pub(crate) fn is_on_map<P: Platform>(&self, pages: &Pages<P>, slab: &Page) -> bool {
        let start = pages.address(slab).addr();
        (start..start + (slab.pages() << PAGE_SHIFT))
            .step_by(PAGE_SIZE)
            .all(|address| self.may_have_tag(pages.tag_of(address)))
    }

    /// CPUs may not keep objects now.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        // Relaxed: who closes the cache flushes it afterwards, under the locks under which stacks are installed.
        self.closed.load(Ordering::Relaxed)
    }

    /// An object of this cache starts at `address`, on a page with this tag whose slab `head` looks up; what is refused may
    /// still be one.
    #[inline(always)]
    pub(crate) fn proves<'a>(&self, tag: u16, address: usize, head: impl FnOnce() -> &'a Page) -> bool {
        // Relaxed: see `distrust`.
        tag == self.trusted.load(Ordering::Relaxed)
            && self.proof.starts(address, if E::LEADS { E::lead(head()) } else { 0 })
    }

    /// Marks an object as free, in a cache whose free objects have marks.
    ///
    /// # Safety
    /// `object` is an object of an unchecked slab of this cache that nobody uses.
    #[inline]
    pub(crate) unsafe fn mark_free(&self, object: *mut u8) {
        let mark = self.mark.load(Ordering::Relaxed);
        if mark != 0 {
            // A header stands before its object, also before the first one of a slab.
            let place = if self.geometry.beside == Beside::Header {
                object.wrapping_sub(beside::BYTES)
            } else {
                object.wrapping_add(MARK_AT)
            };
            // SAFETY: objects of a cache with marks have room for one, aligned; the caller's promise.
            unsafe { place.cast::<u64>().write(mark ^ object.addr() as u64) };
        }
    }

    /// The header of the object at `index` in a slab at `base`, the last one, and its tail ([`beside::LIVES`]).
    ///
    /// # Safety
    /// The cache's objects have headers and marks, the slab is this thread's, and has that many objects and one.
    pub(crate) unsafe fn mark_last(&self, base: usize, index: usize) {
        let object = self.geometry.object(base, index);
        let tail = (object + self.geometry.usable_size()) as *mut u64;
        let word = self.mark.load(Ordering::Relaxed) ^ object as u64;
        // SAFETY: the caller's promise; slabs have room for the word (`Geometry::with_header`).
        unsafe {
            tail.write(word);
            ((object - beside::BYTES) as *mut u64).write(word ^ beside::numbered(beside::LIVES));
        }
    }

    /// Bytes of an object that are zero while it is free, in a watched heap ([`super::watch`]); 0 where they are not.
    #[inline(always)]
    #[must_use]
    pub fn zeroed(&self) -> usize {
        self.zeroed as usize
    }

    /// Each slab is one object, a run of whole pages.
    #[inline]
    pub(crate) fn is_of_runs(&self) -> bool {
        self.exact_pages != 0 && self.geometry.objects == 1
    }

    /// The cache's flags in effect.
    #[inline]
    pub fn flags(&self) -> SlabFlags {
        self.geometry.flags
    }

    /// Objects that each CPU's stack holds; 0: no stacks.
    #[inline]
    pub fn capacity(&self) -> u32 {
        // Relaxed: a wish for the next array; what an array holds is kept beside it.
        self.capacity.load(Ordering::Relaxed)
    }

    /// The per-node state of `node`.
    ///
    /// # Panics
    /// When the node has none: creation gives every node one.
    #[inline]
    pub(crate) fn node(&self, node: usize) -> &Node<E> {
        // Acquire pairs with the Release of the creation that stored it.
        let node = self.nodes[node].load(Ordering::Acquire);
        debug_assert!(!node.is_null());
        // SAFETY: creation stored a valid pointer for every node of the machine before the cache was
        // shared, and it stays valid until the cache is destroyed.
        unsafe { &*node }
    }

    /// The state of this cache on `cpu`; nothing when its number is 0.
    #[inline]
    pub(crate) fn cpu<'a, P: Platform>(&self, platform: &'a P, cpu: usize) -> Option<&'a Cpu<E>> {
        const { assert!(size_of::<Cpu<E>>() <= COLD_SIZE) };
        if self.id == 0 {
            return None;
        }
        let cold = platform.cpu_area().cold(cpu, self.id);
        // SAFETY: cold memory is COLD_SIZE bytes, aligned to 64, lives as long as the platform, and is zero at first, which is
        // a valid value (the trait's promise); only the cache with this number uses it, always at this type.
        Some(unsafe { &*cold.cast::<Cpu<E>>() })
    }

    /// The state of this cache on the CPU that runs.
    #[inline]
    pub(crate) fn here<'a, P: Platform>(&self, platform: &'a P) -> Option<&'a Cpu<E>> {
        self.cpu(platform, platform.current_cpu())
    }
}

/// What one node keeps of one cache.
#[repr(C)]
pub struct Node<E: Engine> {
    /// Slabs of this cache on this node.
    pub slabs: AtomicU64,
    /// Objects that those slabs can hold.
    pub objects: AtomicU64,
    /// The most slabs there ever were.
    pub peak_slabs: AtomicU64,
    /// The engine's own part.
    pub own: E::Node,
}

impl<E: Engine> Node<E> {
    /// A node without slabs.
    pub const fn new() -> Self {
        Self {
            slabs: AtomicU64::new(0),
            objects: AtomicU64::new(0),
            peak_slabs: AtomicU64::new(0),
            own: E::NODE,
        }
    }

    /// Counts a new slab of so many objects. How many all slabs hold now.
    #[inline]
    pub(crate) fn count_slab(&self, objects: u16) -> u64 {
        let now = self.slabs.fetch_add(1, Ordering::Relaxed) + 1;
        // The exchange is a loop: only for a peak.
        if now > self.peak_slabs.load(Ordering::Relaxed) {
            self.peak_slabs.fetch_max(now, Ordering::Relaxed);
        }
        self.objects.fetch_add(u64::from(objects), Ordering::Relaxed) + u64::from(objects)
    }

    pub(crate) fn uncount_slab(&self, objects: u16) {
        self.uncount_slabs(1, objects.into());
    }

    /// Counts so many slabs less, each of so many objects.
    pub(crate) fn uncount_slabs(&self, slabs: u32, objects: usize) {
        self.slabs.fetch_sub(u64::from(slabs), Ordering::Relaxed);
        self.objects.fetch_sub(u64::from(slabs) * objects as u64, Ordering::Relaxed);
    }
}

impl<E: Engine> Default for Node<E> {
    fn default() -> Self {
        Self::new()
    }
}

/// What one CPU keeps of one cache, beside its stack.
#[repr(C, align(64))]
pub struct Cpu<E: Engine> {
    /// The engine's own part that needs no lock.
    pub own: E::Cpu,
    /// What only the slow paths touch.
    pub(crate) stack: Lock<Stack<E>, { rank::CPU_SLAB }>,
    /// Counters.
    pub stats: CpuStats,
}

/// The array behind a CPU's stack, and what the engine guards by the same lock.
pub struct Stack<E: Engine> {
    /// The array's first entry; null when there is none.
    pub base: *mut *mut u8,
    /// Entries of that array.
    pub room: u32,
    /// Objects that the next refill asks for, for engines that adapt it.
    pub batch: u32,
    /// Bytes of objects that it has grown by, taken from the heap's budget for that.
    pub(crate) grown: u32,
    /// What the stack had handed out, modulo 2^32, when it was last looked at.
    pub(crate) served: u32,
    /// Refills of a cache of runs since it had no stack here (`proved` in `sheaf`).
    pub(crate) wanted: u8,
    /// How near it is to growing.
    pub(crate) trade: super::sheaf::growth::Trade,
    /// The engine's own part.
    pub own: E::Guarded,
}

// SAFETY: the array belongs to this CPU's stack; the pointer moves under the lock.
unsafe impl<E: Engine> Send for Stack<E> {}

/// Plain counters of the slow paths of one CPU.
#[derive(Default)]
pub struct CpuStats {
    /// Allocations that missed the stack.
    pub alloc_slow: AtomicU64,
    /// Frees that missed the stack.
    pub free_slow: AtomicU64,
    /// Batches that came from what the node had at hand.
    pub stock_get: AtomicU64,
    /// Batches that the node took without its slabs.
    pub stock_put: AtomicU64,
    /// New slabs.
    pub alloc_slab: AtomicU64,
    /// Slabs of the smallest order because the preferred one was not to be had.
    pub order_fallback: AtomicU64,
}

/// A plain add: the counter belongs to one CPU, and a count lost to a migration does not matter.
#[inline]
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

impl<E: Engine> Cpu<E> {
    /// Clears everything a cache left here, for the next one with its number.
    pub(crate) fn reset(&self) {
        E::reset_cpu(&self.own);
        let stats = &self.stats;
        for counter in [
            &stats.alloc_slow,
            &stats.free_slow,
            &stats.stock_get,
            &stats.stock_put,
            &stats.alloc_slab,
            &stats.order_fallback,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}
