//! Typed object caches.
//!
//! A [`Cache<T>`] is a named cache of slots of the size and alignment of `T`. It is a constant, may be a static, and comes to life
//! at its first use. An object is a [`KBox`], which drops its value and gives the slot back.
//!
//! A thread that makes and drops many of them can keep slots at hand in a [`Sheaf`].
//!
//! # Life
//! Dropping a cache destroys it; objects cannot outlive it, the borrow in [`KBox`] sees to that. A forgotten `KBox` is an object
//! that is still in use when its cache is destroyed: that is reported, and its slab stays.

mod sheaf;

pub use sheaf::Sheaf;

use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicIsize, AtomicPtr, Ordering};

use kmem_core::cache::{CacheArgs, CacheRef, KmemCache, Validation};
use kmem_core::engine::Counts;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::percpu::{Pushed, StackId};

use crate::engine::Chosen;
use crate::heap::{self, Heap, OutOfMemory};
use crate::host::HostCpus;

/// The bit that makes the word of a cache's place negative.
const OFF: isize = isize::MIN;
/// The bit of a cache that does not serve quickly now ([`Heap::serves_quickly`]).
const CLOSED: isize = 1 << 62;
/// Guarded objects are counted in the bits from here on; places lie below.
const GUARDED: isize = 1 << 32;

/// A named cache of objects of type `T`.
pub struct Cache<T> {
    name: &'static str,
    flags: SlabFlags,
    /// Place of the CPU stacks' words; 0 until the cache is made, and for ever if it has none. A positive value also says
    /// that the heap was made. Negative: the place with [`OFF`], for one of two reasons. Guarded objects are in use, which must not
    /// get on the stacks; each is counted before anybody has it, so whoever gives one back finds the fast path off. Or a slow path
    /// found that the cache is [`CLOSED`]: it is checked since its letters were changed, or a rule of fault injection may hit it.
    place: AtomicIsize,
    descriptor: AtomicPtr<KmemCache<Chosen>>,
    objects: PhantomData<fn() -> T>,
}

impl<T> Cache<T> {
    /// A cache that is made at its first use. Caches of the same shape may share slabs.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self::with_flags(name, SlabFlags::empty())
    }

    /// As [`Cache::new`], with properties: those of [`SlabFlags::CREATE`].
    #[must_use]
    pub const fn with_flags(name: &'static str, flags: SlabFlags) -> Self {
        Self {
            name,
            flags,
            place: AtomicIsize::new(0),
            descriptor: AtomicPtr::new(ptr::null_mut()),
            objects: PhantomData,
        }
    }

    /// The cache's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The cache of the heap behind this one, made if need be. `None`: no memory, or a type that no slab can hold.
    fn cache(&self) -> Option<CacheRef<Chosen>> {
        // Acquire pairs with the Release of `make`.
        match CacheRef::from_raw(self.descriptor.load(Ordering::Acquire)) {
            Some(cache) => Some(cache),
            None => self.make(),
        }
    }

    #[cold]
    #[inline(never)]
    fn make(&self) -> Option<CacheRef<Chosen>> {
        let heap = heap::heap()?;
        let args = CacheArgs { align: align_of::<T>(), flags: Some(self.flags), ..CacheArgs::default() };
        let cache = heap.create(self.name, size_of::<T>().max(1), args).ok()?;
        let mine = cache.as_raw();
        match self.descriptor.compare_exchange(ptr::null_mut(), mine, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                // SAFETY: just created, and alive as long as `self`.
                let id = unsafe { cache.stack_id() };
                // A hardened heap looks at every object that comes and goes: its own functions do.
                if !heap::HARDENED {
                    // Guarded objects may be counted there already. Release pairs with the Acquire of `slot`.
                    self.place.fetch_or(HostCpus::place(id).cast_signed(), Ordering::Release);
                }
                Some(cache)
            }
            Err(theirs) => {
                // SAFETY: nobody but this thread knows this one.
                let _ = unsafe { heap.destroy(cache) };
                CacheRef::from_raw(theirs)
            }
        }
    }

    /// Number of the cache at a place.
    fn id_of(place: usize) -> StackId {
        (place / HostCpus::place(1)) as StackId
    }

    /// Changes why the fast path is off: the number of guarded objects with the bit [`CLOSED`].
    #[cold]
    fn change(&self, why: impl Fn(isize) -> isize) {
        // Release pairs with the Acquire of `give`, as where the cache is made. Acquire: who takes a bit away knows what its setter knew.
        _ = self.place.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |word| {
            let place = word & (GUARDED - 1);
            let why = why((word & !OFF) - place);
            Some(if why == 0 { place } else { OFF | why | place })
        });
    }

    /// Counts a guarded object that came into use (1) or went out of it (-1).
    #[cold]
    fn count_guarded(&self, cache: CacheRef<Chosen>, change: isize) {
        self.change(|why| why + change * GUARDED);
        // SAFETY: the cache lives as long as `self`.
        let gate = unsafe { cache.get() }.gate();
        if change > 0 { gate.guarded() } else { gate.unguarded() }
    }

    /// Switches the fast path off or on again as the heap now has it. Called by slow paths: a closed cache has no other.
    fn follow(&self, heap: &Heap, cache: CacheRef<Chosen>) {
        // SAFETY: the cache lives as long as `self`.
        let quick = || unsafe { heap.serves_quickly(cache) };
        let closed = || self.place.load(Ordering::Relaxed) & CLOSED != 0;
        if quick() && closed() {
            self.change(|why| why & !CLOSED);
        }
        // Also if that changed while the bit was taken away.
        if !quick() && !closed() {
            self.change(|why| why | CLOSED);
        }
    }

    /// A slot for a `T`, not initialised: the fast path.
    #[inline]
    fn slot(&self) -> Option<NonNull<T>> {
        let place = self.place.load(Ordering::Acquire);
        if place > 0 {
            // SAFETY: the number is that of this live cache.
            if let Some(object) = NonNull::new(unsafe { heap::cpus().try_pop(place.cast_unsigned()) }) {
                return Some(object.cast());
            }
        }
        self.slot_slow(place)
    }

    #[cold]
    #[inline(never)]
    fn slot_slow(&self, place: isize) -> Option<NonNull<T>> {
        if place > 0 {
            // SAFETY: as in `slot`.
            let object = NonNull::new(unsafe { heap::cpus().pop_cold(Self::id_of(place.cast_unsigned())) });
            if object.is_some() {
                return object.map(NonNull::cast);
            }
        }
        // A call for nothing more, so that who finds a slot above saves no register.
        self.slot_asked()
    }

    /// The part of [`Cache::slot_slow`] that no CPU's stack had a slot for.
    #[cold]
    #[inline(never)]
    fn slot_asked(&self) -> Option<NonNull<T>> {
        let cache = self.cache()?;
        let heap = heap::heap()?;
        // SAFETY: the cache lives as long as `self`.
        if unsafe { heap.refuses_programs_object(cache, size_of::<T>(), Gfp::KERNEL) } {
            self.follow(heap, cache);
            return None;
        }
        self.slot_of_heap(heap, cache)
    }

    /// A slot of the heap, which no rule for programs is asked about.
    fn slot_of_heap(&self, heap: &Heap, cache: CacheRef<Chosen>) -> Option<NonNull<T>> {
        // SAFETY: the cache lives as long as `self`.
        let slot = NonNull::new(unsafe { heap.alloc(cache, Gfp::KERNEL) });
        // Before anybody has the slot: it may be of a checked slab.
        self.follow(heap, cache);
        let slot = slot?;
        if heap.guard().holds(slot.addr().get()) {
            self.count_guarded(cache, 1);
        }
        Some(slot.cast())
    }

    /// Gives a slot back.
    ///
    /// # Safety
    /// The slot came from this cache, and its value is gone.
    #[inline]
    unsafe fn give(&self, slot: NonNull<T>) {
        // Acquire: the slot may have come from a thread that has seen more of the heap than this one.
        let place = self.place.load(Ordering::Acquire);
        // SAFETY: the caller's promise; the number is that of this live cache.
        unsafe {
            if place > 0 && heap::cpus().try_push(place.cast_unsigned(), slot.as_ptr().cast()) == Pushed::Done
            {
                return;
            }
            self.give_slow(place, slot);
        }
    }

    #[cold]
    #[inline(never)]
    unsafe fn give_slow(&self, place: isize, slot: NonNull<T>) {
        if place > 0 {
            // SAFETY: as in `give`.
            let pushed =
                unsafe { heap::cpus().push_cold(Self::id_of(place.cast_unsigned()), slot.as_ptr().cast()) };
            if pushed == Pushed::Done {
                return;
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.give_to_heap(slot) };
    }

    /// The part of [`Cache::give_slow`] that no CPU's stack had room for.
    ///
    /// # Safety
    /// As for [`Cache::give`].
    #[cold]
    #[inline(never)]
    unsafe fn give_to_heap(&self, slot: NonNull<T>) {
        if let (Some(heap), Some(cache)) = (heap::heap(), self.cache()) {
            self.follow(heap, cache);
            let guarded = heap.guard().holds(slot.addr().get());
            // SAFETY: the caller's promise.
            let freed = unsafe { heap.free(cache, slot.as_ptr().cast()) };
            if guarded && freed.is_ok() {
                self.count_guarded(cache, -1);
            }
            if let Err(error) = freed {
                kmem_core::report::say(heap.platform(), format_args!("kmem: {}: {error}", self.name));
            }
        }
    }

    /// Puts a value in a slot of the cache.
    ///
    /// # Errors
    /// [`OutOfMemory`], also by fault injection ([`crate::fault`]); the value is dropped.
    #[inline]
    pub fn alloc(&self, value: T) -> Result<KBox<'_, T>, OutOfMemory> {
        let slot = self.slot().ok_or(OutOfMemory)?;
        // SAFETY: a fresh slot of the size and alignment of `T`.
        unsafe { slot.write(value) };
        Ok(KBox { slot, cache: self })
    }

    /// Returns what CPUs and node keep to the slabs, and empty slabs to the heap. True when slabs are left.
    pub fn shrink(&self) -> bool {
        match (heap::made(), CacheRef::from_raw(self.descriptor.load(Ordering::Acquire))) {
            // SAFETY: the cache lives as long as `self`.
            (Some(heap), Some(cache)) => unsafe { heap.shrink(cache) },
            _ => false,
        }
    }

    /// What the cache (or the one it shares slabs with) holds. All zero before its first use.
    pub fn counts(&self) -> Counts {
        match (heap::made(), CacheRef::from_raw(self.descriptor.load(Ordering::Acquire))) {
            // SAFETY: the cache lives as long as `self`.
            (Some(heap), Some(cache)) => unsafe { heap.counts(cache) },
            _ => Counts::default(),
        }
    }

    /// Looks at every slab of the cache now, reports what is wrong, and repairs what can be. `None`: the cache has no debug letter, or was
    /// never used.
    pub fn validate(&self) -> Option<Validation> {
        let heap = heap::made()?;
        let cache = CacheRef::from_raw(self.descriptor.load(Ordering::Acquire))?;
        // SAFETY: the cache lives as long as `self`.
        unsafe { heap.validate(cache) }.ok()
    }
}

impl<T> Drop for Cache<T> {
    fn drop(&mut self) {
        if let (Some(heap), Some(cache)) = (heap::made(), CacheRef::from_raw(*self.descriptor.get_mut())) {
            // Objects that were forgotten are reported by the heap; there is nobody else to tell.
            // SAFETY: no borrow of `self` is left, so nobody uses the cache.
            let _ = unsafe { heap.destroy(cache) };
        }
    }
}

/// A value in a slot of a [`Cache`].
pub struct KBox<'c, T> {
    slot: NonNull<T>,
    cache: &'c Cache<T>,
}

// SAFETY: a `KBox` owns its value; the cache may be used from any thread.
unsafe impl<T: Send> Send for KBox<'_, T> {}
// SAFETY: as above: a shared `KBox` gives shared access to the value.
unsafe impl<T: Sync> Sync for KBox<'_, T> {}

impl<T> KBox<'_, T> {
    /// Takes the value out and gives the slot back.
    #[must_use]
    pub fn into_inner(self) -> T {
        let this = ManuallyDrop::new(self);
        // SAFETY: the value is read once, and the slot given back after.
        unsafe {
            let value = this.slot.read();
            this.cache.give(this.slot);
            value
        }
    }
}

impl<T> Deref for KBox<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the slot holds a value as long as the box lives.
        unsafe { self.slot.as_ref() }
    }
}

impl<T> DerefMut for KBox<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `&mut self` makes it the only access.
        unsafe { self.slot.as_mut() }
    }
}

impl<T> Drop for KBox<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the value is dropped once, and the slot given back after.
        unsafe {
            ptr::drop_in_place(self.slot.as_ptr());
            self.cache.give(self.slot);
        }
    }
}

impl<T: core::fmt::Debug> core::fmt::Debug for KBox<'_, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        (**self).fmt(f)
    }
}
