//! Prefilled sheaves: objects taken ahead of time, for a place where an allocation must not fail.
//!
//! Before it enters a section where it may neither wait nor fail, a caller asks for as many objects as the section can
//! need at most; inside, each allocation is a load from an array; afterwards what is left goes back.
//!
//! # Theory
//! A sheaf is an array of pointers with a count. The array has room for what the cache's CPU stacks hold, or for as many as
//! were asked if that is more (an *oversize* sheaf). Arrays come from the caches of arrays as those of the CPU stacks do, larger
//! ones from kmalloc or a mapping. Every cache can fill one, whether it has CPU stacks or not.
//!
//! The objects of a sheaf are in use as far as the cache can tell: a cache with a filled sheaf cannot be destroyed.
//!
//! # Invariants
//! - I-PREFILL-1: entries below `len` are objects of the cache that nobody else knows; `len <= room`.
//! - I-PREFILL-2: taking an object touches the sheaf alone: no lock, no CPU, no memory but the array and, to clear it, the object.
//! - I-PREFILL-3: a refill that fails leaves the sheaf as it was.

use core::ptr;

use crate::cache::{CacheRef, life};
use crate::config::Config;
use crate::engine::slub::Slub;
use crate::engine::{Engine, sheaf};
use crate::gfp::Gfp;
use crate::heap::Kmem;
use crate::platform::Platform;
use crate::report;

/// Objects taken ahead of time. Belongs to the heap that made it; goes back by [`Kmem::return_sheaf`].
#[must_use = "a sheaf that is dropped leaks its objects"]
pub struct Sheaf<E: Engine = Slub> {
    cache: CacheRef<E>,
    entries: *mut *mut u8,
    len: usize,
    room: usize,
}

// SAFETY: the array and the objects belong to the sheaf, and the cache may be used from any thread.
unsafe impl<E: Engine> Send for Sheaf<E> {}

impl<E: Engine> Sheaf<E> {
    /// Objects left (`kmem_cache_sheaf_size`).
    #[must_use]
    pub fn size(&self) -> usize {
        self.len
    }

    /// Objects that the sheaf can hold.
    #[must_use]
    pub fn room(&self) -> usize {
        self.room
    }

    /// The cache that its objects are of.
    #[must_use]
    pub fn cache(&self) -> CacheRef<E> {
        self.cache
    }
}

/// There was no memory to fill a sheaf. It is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFilled;

impl core::fmt::Display for NotFilled {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("no memory to fill the sheaf")
    }
}

impl core::error::Error for NotFilled {}

/// Bytes of an array with room for so many objects; `None` where there is no such number.
fn array_bytes(room: usize) -> Option<usize> {
    room.checked_mul(size_of::<*mut u8>()).filter(|&bytes| isize::try_from(bytes).is_ok())
}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// A sheaf with `n` objects; `None`: no memory. `n` may be 0, and more than the cache's stacks hold.
    /// [`Gfp::ZERO`] means nothing here: ask for it when the objects are taken.
    ///
    /// # Safety
    /// The cache is alive, and stays so until the sheaf was returned.
    pub unsafe fn prefill_sheaf(
        &self,
        cache: CacheRef<C::Engine>,
        gfp: Gfp,
        n: usize,
    ) -> Option<Sheaf<C::Engine>> {
        // SAFETY: the caller's promise.
        let capacity = unsafe { cache.get() }.engine.capacity() as usize;
        let room = n.max(capacity).max(1);
        let entries = self.sheaf_array(room, gfp)?;
        let mut sheaf = Sheaf { cache, entries, len: 0, room };
        // SAFETY: the sheaf is this call's own.
        if unsafe { self.fill(&mut sheaf, gfp, n) } {
            Some(sheaf)
        } else {
            // SAFETY: as above; it is empty, so only the array goes back.
            unsafe { self.free_sheaf_array(entries, room) };
            None
        }
    }

    /// Tops a sheaf up to at least `n` objects; one that has them stays as it is. It may get another array for that.
    ///
    /// # Errors
    /// [`NotFilled`]: no memory. The sheaf is as it was.
    ///
    /// # Safety
    /// The sheaf was made by this heap, and its cache is alive.
    pub unsafe fn refill_sheaf(
        &self,
        sheaf: &mut Sheaf<C::Engine>,
        gfp: Gfp,
        n: usize,
    ) -> Result<(), NotFilled> {
        if n <= sheaf.len {
            return Ok(());
        }
        if n <= sheaf.room {
            // SAFETY: the caller's promise.
            return if unsafe { self.fill(sheaf, gfp, n) } { Ok(()) } else { Err(NotFilled) };
        }
        let entries = self.sheaf_array(n, gfp).ok_or(NotFilled)?;
        // SAFETY: both arrays have room for `len` entries (I-PREFILL-1), and the new one is this call's own.
        unsafe { ptr::copy_nonoverlapping(sheaf.entries, entries, sheaf.len) };
        let mut larger = Sheaf { cache: sheaf.cache, entries, len: sheaf.len, room: n };
        // SAFETY: the caller's promise; the objects it has already are not touched.
        if !unsafe { self.fill(&mut larger, gfp, n) } {
            // SAFETY: made above with that room; its entries are still the old array's too.
            unsafe { self.free_sheaf_array(entries, n) };
            return Err(NotFilled);
        }
        let old = core::mem::replace(sheaf, larger);
        // SAFETY: the old array; its objects are the new one's.
        unsafe { self.free_sheaf_array(old.entries, old.room) };
        Ok(())
    }

    /// One object of a sheaf: the one that came last. Never fails while [`Sheaf::size`] is not 0; an empty sheaf gives null,
    /// with a message. Of the flags only [`Gfp::ZERO`] counts, and that as for [`Kmem::alloc`].
    ///
    /// # Safety
    /// The sheaf was made by this heap, and its cache is alive.
    pub unsafe fn alloc_from_sheaf(&self, sheaf: &mut Sheaf<C::Engine>, gfp: Gfp) -> *mut u8 {
        // SAFETY: the caller's promise.
        let cache = unsafe { sheaf.cache.get() };
        let Some(left) = sheaf.len.checked_sub(1) else {
            report::say(&self.platform, format_args!("alloc from an empty sheaf of cache {}", cache.name()));
            return ptr::null_mut();
        };
        // SAFETY: I-PREFILL-1.
        let object = unsafe { sheaf.entries.add(left).read() };
        sheaf.len = left;
        if gfp.contains(Gfp::ZERO) && !cache.is_constructed() {
            // SAFETY: an object that nobody else knows, of that many bytes.
            unsafe { object.write_bytes(0, cache.object_size()) };
        }
        object
    }

    /// Gives a sheaf back: its objects go to this CPU's stack as far as that has room, and to their slabs.
    ///
    /// # Safety
    /// The sheaf was made by this heap, and its cache is alive.
    pub unsafe fn return_sheaf(&self, sheaf: Sheaf<C::Engine>) {
        // SAFETY: the caller's promise.
        let cache = unsafe { sheaf.cache.get() };
        debug_assert!(life::is_alive(cache.life.load(core::sync::atomic::Ordering::Relaxed)));
        // SAFETY: I-PREFILL-1; the sheaf is used up by this call.
        unsafe {
            let objects = core::slice::from_raw_parts_mut(sheaf.entries, sheaf.len);
            self.free_all(cache, objects);
            self.free_sheaf_array(sheaf.entries, sheaf.room);
        }
    }

    /// Adds objects until there are `n`, for which there is room; all or none.
    ///
    /// # Safety
    /// As [`Kmem::refill_sheaf`].
    unsafe fn fill(&self, sheaf: &mut Sheaf<C::Engine>, gfp: Gfp, n: usize) -> bool {
        let wanted = n.saturating_sub(sheaf.len);
        debug_assert!(sheaf.len + wanted <= sheaf.room);
        // SAFETY: the array has room for `n` entries and is the sheaf's; null pointers make it one of initialised entries.
        let out = unsafe {
            let first = sheaf.entries.add(sheaf.len);
            first.write_bytes(0, wanted);
            core::slice::from_raw_parts_mut(first, wanted)
        };
        // SAFETY: the caller's promise.
        let filled = unsafe { self.alloc_bulk(sheaf.cache, gfp - Gfp::ZERO, out) };
        if filled {
            sheaf.len += wanted;
        }
        filled
    }

    /// An array with room for so many objects.
    fn sheaf_array(&self, room: usize, gfp: Gfp) -> Option<*mut *mut u8> {
        let bytes = array_bytes(room)?;
        let array = if sheaf::array_fits(self.floor(), bytes) {
            sheaf::alloc_array(self.floor(), bytes, gfp - Gfp::ZERO)
        } else {
            self.allocate(bytes + Self::SPARED, Gfp::KERNEL & gfp)
        };
        (!array.is_null()).then_some(array.cast())
    }

    /// Gives an array back.
    ///
    /// # Safety
    /// It came from [`Kmem::sheaf_array`] with the same `room`, and nobody uses it any more.
    unsafe fn free_sheaf_array(&self, array: *mut *mut u8, room: usize) {
        let Some(bytes) = array_bytes(room) else { return };
        if sheaf::array_fits(self.floor(), bytes) {
            // SAFETY: the caller's promise.
            unsafe { sheaf::free_array(self.floor(), array.cast(), bytes) };
        } else {
            // SAFETY: the caller's promise. It is a good block, so this frees it.
            let _ = unsafe { self.kfree(array.cast()) };
        }
    }
}
