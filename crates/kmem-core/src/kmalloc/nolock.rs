//! kmalloc for those who may not wait for anything: not for memory, and not for a lock.
//!
//! A signal handler that interrupted the heap, or a non-maskable interrupt on bare metal, may hold off the very
//! thread that has the lock it would wait for. So these two calls wait for no lock: an allocation pops this
//! CPU's stack, or takes an object of the CPU slab if that slab's lock is free; when there is none it tries the
//! next larger class, once, and gives up. That may happen at any time: a caller must have a plan for null.
//!
//! A free pushes the CPU's stack. Where that has no room (or the block is another node's) the block is put on a
//! list of the heap, from which it goes home with the next [`Kmem::shrink`] or [`Kmem::trim`], or when somebody who may take
//! locks calls [`Kmem::drain_deferred`].
//!
//! # Invariants
//! - I-NOLOCK-1: no path from here waits for a lock or reaches the platform's memory.
//! - I-NOLOCK-2: a block on the deferred list is in use for its cache; its first word is the link. The list only
//!   grows one by one and is only taken as a whole, so a compare-and-swap that succeeds never meets a recycled head.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::cache::KmemCache;
use crate::config::Config;
use crate::engine::Engine;
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::heap::Kmem;
use crate::kmalloc::classes::{ClassSet, Kind};
use crate::kmalloc::{FreeError, ZERO_SIZE_PTR, zero_or_null};
use crate::page::Kind as PageKind;
use crate::percpu::{CpuArea, Pushed};
use crate::platform::{PAGE_SIZE, Platform};

/// What a request without locks may ask for.
pub const NOLOCK_GFP: Gfp = Gfp::ACCOUNT.union(Gfp::ZERO);

/// The largest block that can be had without locks.
pub const NOLOCK_MAX: usize = 2 * PAGE_SIZE;

/// Bytes of the link in a block that was put aside.
const LINK: usize = size_of::<*mut u8>();

/// Blocks freed where no lock could be taken, linked through their first words.
pub(crate) struct Deferred(AtomicPtr<u8>);

impl Deferred {
    /// No blocks.
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Adds one block. False when it is the last that came already: it would lead to itself.
    ///
    /// # Safety
    /// `block` has a word, aligned, that the caller owns.
    unsafe fn push(&self, block: *mut u8) -> bool {
        let mut head = self.0.load(Ordering::Relaxed);
        loop {
            if head == block {
                return false;
            }
            // SAFETY: the caller's promise.
            unsafe { block.cast::<*mut u8>().write(head) };
            // Release publishes the link to the Acquire of `take`.
            match self.0.compare_exchange_weak(head, block, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => head = now,
            }
        }
    }

    /// Takes all blocks. The first is the last that came.
    fn take(&self) -> *mut u8 {
        if self.0.load(Ordering::Relaxed).is_null() {
            // The usual case costs no locked operation.
            return ptr::null_mut();
        }
        self.0.swap(ptr::null_mut(), Ordering::Acquire)
    }
}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// A block of at least `size` bytes, without waiting for a lock or asking for memory; callable from any context.
    ///
    /// Null at any time, above all on a CPU that has not used the size lately; for more than [`NOLOCK_MAX`] bytes
    /// always, and for flags outside [`NOLOCK_GFP`]. 0 bytes: [`ZERO_SIZE_PTR`]. `node` is a wish: what this CPU has
    /// is of its own node, and a block of another is not looked for.
    ///
    /// Freed by [`Kmem::kfree_nolock`], or by [`Kmem::kfree`] in a usual context.
    pub fn kmalloc_nolock(&self, size: usize, gfp: Gfp, _node: Option<usize>) -> *mut u8 {
        if !NOLOCK_GFP.contains(gfp) || size > NOLOCK_MAX {
            return ptr::null_mut();
        }
        if size == 0 {
            return ZERO_SIZE_PTR;
        }
        if !C::Engine::CLASSES {
            // With room for the link that a free may need.
            return self.kmalloc_unclassed_at_once(size.max(LINK), gfp);
        }
        let first = C::Classes::class_of(size);
        for class in [first, first + 1] {
            let too_long = class != first && C::Classes::size_of(class) > NOLOCK_MAX;
            if class >= C::Classes::COUNT || too_long {
                break;
            }
            // A class that nobody used yet has no cache, and making one takes locks.
            let Some(cache) = self.kmalloc_cache(Kind::of(gfp), class) else { continue };
            let block = self.take_at_once(cache, gfp);
            if !block.is_null() {
                if gfp.contains(Gfp::ZERO) {
                    // SAFETY: the block was just taken and has that many bytes.
                    unsafe { block.write_bytes(0, cache.object_size()) };
                }
                return block;
            }
        }
        ptr::null_mut()
    }

    /// One object of a cache from what this CPU has at hand.
    fn take_at_once(&self, cache: &KmemCache<C::Engine>, gfp: Gfp) -> *mut u8 {
        let engine = &cache.engine;
        if engine.capacity() != 0 {
            // SAFETY: the cache is one of kmalloc's, so it lives and has this number.
            let object = unsafe { self.platform.cpu_area().pop(engine.id) };
            if !object.is_null() {
                self.guard_out(engine, object);
                return object;
            }
        }
        if self.refuses_object(cache, gfp) {
            return ptr::null_mut();
        }
        let object = C::Engine::take_at_once(self.floor(), engine);
        self.guard_out_slow(engine, object);
        object
    }

    /// Frees a block of [`Kmem::kmalloc_nolock`] without taking a lock; callable from any context. Null and
    /// [`ZERO_SIZE_PTR`] are fine.
    ///
    /// # Errors
    /// As [`Kmem::kfree`]; and [`FreeError::NotObject`] for a block that is not of kmalloc's size classes.
    ///
    /// # Safety
    /// As [`Kmem::kfree`].
    pub unsafe fn kfree_nolock(&self, ptr: *mut u8) -> Result<(), FreeError> {
        if zero_or_null(ptr) {
            return Ok(());
        }
        if self.guard.holds(ptr.addr()) {
            // No lock is taken for it.
            // SAFETY: the caller's promise.
            return unsafe { self.free_guarded(None, ptr) };
        }
        if !C::Engine::CLASSES {
            // SAFETY: the caller's promise.
            return unsafe { self.defer_unclassed(ptr) };
        }
        // Mappings are looked up under a lock, so an address outside the window is foreign here.
        let cache = self.cache_of(ptr)?;
        let engine = &cache.engine;
        let page = self.pages.at(ptr.addr()).ok_or(FreeError::Foreign(ptr.addr()))?;
        let slab = self.pages.head(page);
        if slab.kind() != PageKind::Slab || !engine.flags().contains(SlabFlags::KMALLOC) {
            return Err(FreeError::NotObject(ptr.addr()));
        }
        let local = !P::NUMA || slab.node() == self.platform.current_node();
        let twice = FreeError::Double { address: ptr.addr(), cache: engine.name };
        // SAFETY: the caller's promise.
        unsafe { self.leave_mark(cache, ptr) };
        if engine.capacity() != 0 && local {
            self.guard_in(engine, ptr)?;
            // SAFETY: the caller's promise; the cache is one of kmalloc's, so it lives and has this number.
            match unsafe { self.platform.cpu_area().push(engine.id, ptr) } {
                Pushed::Done => return Ok(()),
                Pushed::Double => return Err(twice),
                // It waits with what it holds, until `drain_deferred` frees it.
                Pushed::Full => self.guard_undo(ptr),
            }
        }
        // SAFETY: the caller's block; the smallest class has a word.
        if unsafe { self.deferred.push(ptr) } { Ok(()) } else { Err(twice) }
    }

    /// Puts a block aside that the engine made without a class.
    ///
    /// # Safety
    /// As [`Kmem::kfree`].
    unsafe fn defer_unclassed(&self, ptr: *mut u8) -> Result<(), FreeError> {
        let address = ptr.addr();
        let page = self.pages.at(address).ok_or(FreeError::Foreign(address))?;
        if page.kind() != PageKind::Slob || self.unclassed_at(ptr)? < LINK {
            return Err(FreeError::NotObject(address));
        }
        // SAFETY: the caller's block, which has room for a link.
        let first = unsafe { self.deferred.push(ptr) };
        if first { Ok(()) } else { Err(FreeError::Double { address, cache: C::Engine::NAME }) }
    }

    /// Sends the blocks home that [`Kmem::kfree_nolock`] could only put aside. Returns how many. Takes locks; may be
    /// called from several threads at once.
    pub fn drain_deferred(&self) -> usize {
        let mut next = self.deferred.take();
        let mut count = 0;
        while !next.is_null() {
            let block = next;
            // SAFETY: a block on the list, which is this thread's since `take`: its first word is the link.
            next = unsafe { block.cast::<*mut u8>().read() };
            // SAFETY: its holder freed it. It was a good block then, so this succeeds.
            let freed = unsafe { self.kfree(block) };
            debug_assert_eq!(freed, Ok(()));
            count += 1;
        }
        count
    }
}
