//! Sheaves: slots of a typed cache that one owner keeps at hand.
//!
//! # Theory
//! A CPU's stack belongs to whoever runs on the CPU, so each pop and push is a restartable sequence. What belongs to one owner needs none: a
//! [`Sheaf`] is an array that only its `&mut` reaches, and taking a slot from it is two loads and two stores. It is refilled from,
//! and spilled to, the cache by half of its slots, so that whoever goes up and down around an end does not move slots each time. The
//! kernel has the same for those who must not fail later (`kmem_cache_prefill_sheaf`).
//!
//! # Invariants
//! - I-SHEAF-1: `len` is at most `N`, and the first `len` entries are slots of `cache`, in use as the cache sees it, without a value, and
//!   nobody else's.
//! - I-SHEAF-2: a freed slot is kept only while the cache has its fast path. A cache that is checked, hardened, may be hit by a rule of
//!   fault injection, or has a guarded object in use sees every free itself. Of one that gets its letters, or a rule, later that is so
//!   from the first call on that comes to it: by anybody, as all come by its slow paths then, or by this sheaf when it is refilled or
//!   spilled. With the next free after it the sheaf changes the slots that it has from before the letters for others.
//! - I-SHEAF-3: the number of slots at hand falls by nothing but `alloc`, and by spilling when it is full: who filled a sheaf has them.
//!
//! # Never
//! Waits, locks, or allocates anything but slots.

use core::mem::{self, ManuallyDrop, MaybeUninit};
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering;

use kmem_core::cache::CacheRef;

use super::{Cache, KBox};
use crate::heap::{self, OutOfMemory};

/// Up to `N` free slots of a [`Cache`], kept by one owner: the fastest way to make and drop objects, and, once
/// [filled](Sheaf::prefill), one that cannot fail.
///
/// What it keeps counts as in use in the cache's numbers. Dropped, it gives all back. Fault injection is asked where the sheaf asks the
/// cache: not for what it has at hand. Debug letters that the cache gets later on count for the slots of a sheaf from its next free on
/// after any call that came to the cache; a sheaf that goes up and down within its slots, and is all the cache's use, is not reached.
///
/// ```
/// use kmem::Cache;
///
/// static POINTS: Cache<[u64; 3]> = Cache::new("point");
/// let mut sheaf = POINTS.sheaf();
/// sheaf.prefill(8)?;                       // the next eight cannot fail
/// let point = sheaf.alloc([1, 2, 3])?;
/// assert_eq!(point[0], 1);
/// sheaf.free(point);                       // or dropped: then the slot goes to the CPU's stack
/// # Ok::<(), kmem::OutOfMemory>(())
/// ```
pub struct Sheaf<'c, T, const N: usize = 32> {
    cache: &'c Cache<T>,
    len: usize,
    /// No slot is from before the cache's letters were changed.
    renewed: bool,
    slots: [MaybeUninit<NonNull<T>>; N],
}

// SAFETY: the slots hold no values, and are the sheaf's alone (I-SHEAF-1); the cache may be used from any thread.
unsafe impl<T, const N: usize> Send for Sheaf<'_, T, N> {}
// SAFETY: a shared sheaf shows two numbers.
unsafe impl<T, const N: usize> Sync for Sheaf<'_, T, N> {}

impl<T> Cache<T> {
    /// An empty sheaf of 32 slots; of another number: [`Sheaf::new`].
    #[must_use]
    pub const fn sheaf(&self) -> Sheaf<'_, T> {
        Sheaf::new(self)
    }
}

impl<'c, T, const N: usize> Sheaf<'c, T, N> {
    /// An empty sheaf. One of no slots (`N` is 0) passes everything on to the cache.
    #[must_use]
    pub const fn new(cache: &'c Cache<T>) -> Self {
        Self { cache, len: 0, renewed: false, slots: [const { MaybeUninit::uninit() }; N] }
    }

    /// Slots at hand: so many objects can be had without asking the cache.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// No slot is at hand.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sees to it that the next `count` objects can be had, whatever happens to the memory.
    ///
    /// # Errors
    /// [`OutOfMemory`]; what could be had stays at hand.
    ///
    /// # Panics
    /// When `count` is more than `N`.
    pub fn prefill(&mut self, count: usize) -> Result<(), OutOfMemory> {
        assert!(count <= N, "a sheaf of {N} slots was to hold {count}");
        self.follow_letters();
        while self.len < count {
            let slot = self.cache.slot().ok_or(OutOfMemory)?;
            // SAFETY: a fresh slot; `len` is below `count`, and that at most `N`.
            unsafe { self.keep(slot) };
        }
        Ok(())
    }

    /// Puts a value in a slot.
    ///
    /// # Errors
    /// [`OutOfMemory`]; the value is dropped. Never while [`Sheaf::len`] is not 0.
    #[inline]
    pub fn alloc(&mut self, value: T) -> Result<KBox<'c, T>, OutOfMemory> {
        // SAFETY: there is one.
        let slot = if self.len > 0 { unsafe { self.take() } } else { self.refilled().ok_or(OutOfMemory)? };
        // SAFETY: a slot of the size and alignment of `T` that nobody else has (I-SHEAF-1).
        unsafe { slot.write(value) };
        Ok(KBox { slot, cache: self.cache })
    }

    /// Drops an object and keeps its slot. An object of another cache goes back there. Of a value that panics when it is dropped the
    /// slot stays in use for good.
    #[inline]
    pub fn free(&mut self, object: KBox<'_, T>) {
        if !ptr::eq(object.cache, self.cache) || !self.cache.is_quick() || self.len == N {
            return self.free_slowly(object);
        }
        // SAFETY: it is an object of this cache, and there is room.
        unsafe { self.keep_of(object) };
    }

    /// The part of [`Sheaf::free`] that comes to the cache, or to another one.
    #[cold]
    #[inline(never)]
    fn free_slowly(&mut self, object: KBox<'_, T>) {
        if !ptr::eq(object.cache, self.cache) {
            return drop(object);
        }
        if self.cache.is_quick() {
            self.give_down_to(N / 2);
        }
        // It may have no fast path any more.
        if self.cache.is_quick() && self.len < N {
            // SAFETY: as in `free`.
            return unsafe { self.keep_of(object) };
        }
        drop(object);
        self.follow_letters();
    }

    /// Drops an object and keeps its slot.
    ///
    /// # Safety
    /// It is the cache's. There is room.
    #[inline]
    unsafe fn keep_of(&mut self, object: KBox<'_, T>) {
        let slot = ManuallyDrop::new(object).slot;
        // SAFETY: the box owned the value and is forgotten, so the value is dropped once. The slot is this cache's, and nobody's
        // now; there is room.
        unsafe {
            ptr::drop_in_place(slot.as_ptr());
            self.keep(slot);
        }
    }

    /// Adds a slot.
    ///
    /// # Safety
    /// It is the cache's, has no value (any more), and nobody else has it. There is room.
    #[inline]
    unsafe fn keep(&mut self, slot: NonNull<T>) {
        // SAFETY: there is room.
        unsafe { self.slots.get_unchecked_mut(self.len).write(slot) };
        self.len += 1;
    }

    /// Removes the last slot.
    ///
    /// # Safety
    /// There is one.
    #[inline]
    unsafe fn take(&mut self) -> NonNull<T> {
        self.len -= 1;
        // SAFETY: by I-SHEAF-1 the entries below the old length are there, and written.
        unsafe { self.slots.get_unchecked(self.len).assume_init() }
    }

    /// A slot for the caller of an empty sheaf, which is half full afterwards where the cache has its fast path.
    #[cold]
    #[inline(never)]
    fn refilled(&mut self) -> Option<NonNull<T>> {
        // The first of all makes the cache.
        let slot = self.cache.slot()?;
        while self.len < N / 2 && self.cache.is_quick() {
            let Some(slot) = self.cache.slot() else { break };
            // SAFETY: a fresh slot, and the sheaf is not half full.
            unsafe { self.keep(slot) };
        }
        Some(slot)
    }

    /// If the cache got other letters since its slots were taken, they are changed for others, which its slow paths make. Those for
    /// which there is no memory stay (I-SHEAF-3).
    fn follow_letters(&mut self) {
        if self.renewed || !self.cache.is_mixed() {
            return;
        }
        for at in 0..self.len {
            // It is no request of the program's: no rule of fault injection for those is asked.
            let Some(slot) = self.cache.slot_unasked() else { return };
            let old = mem::replace(&mut self.slots[at], MaybeUninit::new(slot));
            // SAFETY: by I-SHEAF-1 it was written, a slot of this cache without a value, and no longer the sheaf's.
            unsafe { self.cache.give(old.assume_init()) };
        }
        self.renewed = true;
    }

    fn give_down_to(&mut self, left: usize) {
        while self.len > left {
            // SAFETY: there is one: by I-SHEAF-1 a slot of this cache without a value, and no longer the sheaf's.
            unsafe {
                let slot = self.take();
                self.cache.give(slot);
            }
        }
    }
}

impl<T> Cache<T> {
    /// Whether what is freed may be handed out again without the cache's seeing it.
    #[inline]
    fn is_quick(&self) -> bool {
        // Relaxed: whoever counts a guarded object does so before anybody has it, and the object's way here ordered that. A cache that
        // is made meanwhile sees a free more.
        self.place.load(Ordering::Relaxed) > 0
    }

    /// The cache got other letters since it was made.
    fn is_mixed(&self) -> bool {
        // Acquire pairs with the Release of `Cache::make`.
        match (heap::made(), CacheRef::from_raw(self.descriptor.load(Ordering::Acquire))) {
            // SAFETY: the cache lives as long as `self`.
            (Some(heap), Some(cache)) => unsafe { heap.is_mixed(cache) },
            _ => false,
        }
    }

    /// A slot that is not asked for by the program.
    fn slot_unasked(&self) -> Option<NonNull<T>> {
        self.slot_of_heap(heap::heap()?, self.cache()?)
    }
}

impl<T, const N: usize> Drop for Sheaf<'_, T, N> {
    fn drop(&mut self) {
        self.give_down_to(0);
    }
}

impl<T, const N: usize> core::fmt::Debug for Sheaf<'_, T, N> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Sheaf").field("cache", &self.cache.name).field("len", &self.len).finish()
    }
}
