//! Sheaves: slots of a typed cache that one owner keeps at hand.
//!
//! # Theory
//! A CPU's stack belongs to whoever runs on the CPU, so each pop and push is a restartable sequence. What belongs to one owner needs none: a
//! [`Sheaf`] is an array that only its `&mut` reaches, and taking a slot from it is two loads and two stores. It is refilled from,
//! and spilled to, the cache by half of its slots, so that whoever goes up and down around an end does not move slots each time. The
//! kernel has the same for those who must not fail later (`kmem_cache_prefill_sheaf`).
//!
//! The slots at hand are the last of the array, so what counts is the room before them: compared with the gate's word it tells at once
//! whether a slot may be kept and fits. The gate is the cache's, behind a pointer of the sheaf's own, because whoever shuts it must find
//! it: a [`Cache`] may be moved between two uses, what the heap knows of it may not.
//!
//! # Invariants
//! - I-SHEAF-1: `room` is at most `N`, and the entries from `room` on are slots of `cache`, in use as the cache sees it, without a
//!   value, and nobody else's.
//! - I-SHEAF-2: a freed slot is kept only while the cache's gate is open ([`Gate`]). A cache that is checked, hardened, may be hit by a
//!   rule of fault injection, or has a guarded object in use sees every free itself. One that gets its letters, or a rule, later shuts
//!   its gate first, so that holds from the next free on; with which the sheaf changes the slots that it has from before the letters
//!   for others.
//! - I-SHEAF-3: the number of slots at hand falls by nothing but `alloc`, and by spilling when it is full: who filled a sheaf has them.
//! - I-SHEAF-4: `gate` is the cache's, or one that is always shut.
//!
//! # Never
//! Waits, locks, or allocates anything but slots.

use core::mem::{self, ManuallyDrop, MaybeUninit};
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering;

use kmem_core::cache::gate::MOST_ROOM;
use kmem_core::cache::{CacheRef, Gate};

use super::{Cache, KBox};
use crate::heap::{self, OutOfMemory};

/// Up to `N` free slots of a [`Cache`], kept by one owner: the fastest way to make and drop objects, and, once
/// [filled](Sheaf::prefill), one that cannot fail.
///
/// What it keeps counts as in use in the cache's numbers. Dropped, it gives all back. Fault injection is asked where the sheaf asks the
/// cache: not for what it has at hand. Debug letters that the cache gets later on count for the slots of a sheaf from its next free, or
/// [`Sheaf::prefill`], on.
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
    /// Shut for ever until the cache was seen made.
    gate: &'c Gate,
    /// Slots that are not at hand.
    room: usize,
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

/// Of a cache that is not made, or sees every free itself for another reason than its gate tells.
static SHUT: Gate = Gate::shut();

impl<'c, T, const N: usize> Sheaf<'c, T, N> {
    const FITS: () = assert!(N <= MOST_ROOM);

    /// An empty sheaf. One of no slots (`N` is 0) passes everything on to the cache.
    #[must_use]
    pub const fn new(cache: &'c Cache<T>) -> Self {
        let () = Self::FITS;
        Self { cache, gate: &SHUT, room: N, renewed: false, slots: [const { MaybeUninit::uninit() }; N] }
    }

    /// Slots at hand: so many objects can be had without asking the cache.
    #[must_use]
    pub const fn len(&self) -> usize {
        N - self.room
    }

    /// No slot is at hand.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.room == N
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
        while self.len() < count {
            let slot = self.cache.slot().ok_or(OutOfMemory)?;
            // SAFETY: a fresh slot; there are fewer than `count`, and that is at most `N`.
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
        let slot = if self.room < N { unsafe { self.take() } } else { self.refilled().ok_or(OutOfMemory)? };
        // SAFETY: a slot of the size and alignment of `T` that nobody else has (I-SHEAF-1).
        unsafe { slot.write(value) };
        Ok(KBox { slot, cache: self.cache })
    }

    /// Drops an object and keeps its slot. An object of another cache goes back there. Of a value that panics when it is dropped the
    /// slot stays in use for good.
    #[inline]
    pub fn free(&mut self, object: KBox<'_, T>) {
        if !ptr::eq(object.cache, self.cache) || !self.gate.lets_in(self.room) {
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
        // It may be made since.
        self.gate = self.cache.gate();
        if self.room == 0 && self.gate.is_open() {
            self.give_down_to(N / 2);
        }
        if self.gate.lets_in(self.room) {
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
        self.room -= 1;
        // SAFETY: there was room.
        unsafe { self.slots.get_unchecked_mut(self.room).write(slot) };
    }

    /// Removes the slot that came last.
    ///
    /// # Safety
    /// There is one.
    #[inline]
    unsafe fn take(&mut self) -> NonNull<T> {
        // SAFETY: by I-SHEAF-1 there is an entry behind the room, and it was written.
        let slot = unsafe { self.slots.get_unchecked(self.room).assume_init() };
        self.room += 1;
        slot
    }

    /// A slot for the caller of an empty sheaf, which is half full afterwards where the cache's gate is open.
    #[cold]
    #[inline(never)]
    fn refilled(&mut self) -> Option<NonNull<T>> {
        // The first of all makes the cache.
        let slot = self.cache.slot()?;
        self.gate = self.cache.gate();
        while self.len() < N / 2 && self.gate.is_open() {
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
        for at in self.room..N {
            // It is no request of the program's: no rule of fault injection for those is asked.
            let Some(slot) = self.cache.slot_unasked() else { return };
            let old = mem::replace(&mut self.slots[at], MaybeUninit::new(slot));
            // SAFETY: by I-SHEAF-1 it was written, a slot of this cache without a value, and no longer the sheaf's.
            unsafe { self.cache.give(old.assume_init()) };
        }
        self.renewed = true;
    }

    fn give_down_to(&mut self, left: usize) {
        while self.len() > left {
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
    fn gate(&self) -> &Gate {
        // Acquire pairs with the Release of `Cache::make`.
        let Some(cache) = CacheRef::from_raw(self.descriptor.load(Ordering::Acquire)) else { return &SHUT };
        // A hardened heap looks at every object that comes and goes; so does a cache without stacks.
        // SAFETY: the cache lives as long as `self`.
        unsafe { if heap::HARDENED || cache.stack_id() == 0 { &SHUT } else { cache.get().gate() } }
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
        f.debug_struct("Sheaf").field("cache", &self.cache.name).field("len", &self.len()).finish()
    }
}
