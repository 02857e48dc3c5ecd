//! Fault injection into a heap: where rules are put, and who asks them.
//!
//! A rule for objects takes the CPU stacks of the caches that it may hit away (they are *closed*): an allocation
//! that no stack serves comes to the slow paths, which ask. So a heap without rules pays nothing for the question. What is freed
//! to a closed cache goes to its slabs. When the rule goes, the stacks come back.
//!
//! A rule for the requests of programs closes all caches that are not the heap's own: any of them may be a program's.

use core::sync::atomic::Ordering;

use crate::cache::{CacheRef, KmemCache, life};
use crate::config::Config;
use crate::engine::Engine;
use crate::fault::{Fault, Kind, Request, Slot};
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::heap::Kmem;
use crate::platform::{PAGE_SIZE, Platform};

/// The rules of a heap but for that of its pages.
pub(crate) struct Faults {
    pub(crate) slab: Slot,
    pub(crate) malloc: Slot,
}

impl Faults {
    pub(crate) const fn new() -> Self {
        Self { slab: Slot::new(), malloc: Slot::new() }
    }
}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Has requests of this kind fail by a rule from now on, in place of the one before; `None`: by none.
    /// Callable at any time. A request that is under way meanwhile may see either.
    pub fn inject(&self, kind: Kind, fault: Option<&'static Fault>) {
        match kind {
            Kind::Page => return self.pages.set_fault(fault),
            Kind::Slab => self.faults.slab.set(fault),
            Kind::Malloc => self.faults.malloc.set(fault),
        }
        // A cache that is being made is listed before this loop begins, or made after the rule is in place.
        self.for_each_cache(|cache| self.follow_faults(cache));
    }

    /// The rule by which requests of this kind fail.
    pub fn fault(&self, kind: Kind) -> Option<&'static Fault> {
        match kind {
            Kind::Page => self.pages.fault(),
            Kind::Slab => self.faults.slab.get(),
            Kind::Malloc => self.faults.malloc.get(),
        }
    }

    /// Closes or opens a cache as the rules in place ask.
    pub(crate) fn follow_faults(&self, cache: &KmemCache<C::Engine>) {
        let engine = &cache.engine;
        let flags = engine.flags() | C::Engine::letters(engine);
        let closed = cache.refcount.load(Ordering::Relaxed) > 0 && self.may_fail(cache.name(), flags);
        cache.gate.set_rule(closed);
        // Relaxed: the flush takes the lock of each stack.
        if closed && !engine.closed.swap(true, Ordering::Relaxed) {
            self.flush(cache);
        } else if !closed {
            engine.closed.store(false, Ordering::Relaxed);
        }
    }

    /// Some rule may hit a cache of this name. The heap's own are never hit.
    pub(crate) fn may_fail(&self, name: &str, flags: SlabFlags) -> bool {
        let marked = flags.contains(SlabFlags::FAILSLAB);
        let hits = |slot: &Slot| slot.get().is_some_and(|fault| fault.attributes().may_hit(name, marked));
        hits(&self.faults.slab) || hits(&self.faults.malloc)
    }

    /// True: a program's request for an object of this cache, of which it wants `size` bytes, fails by the rule for such requests
    /// ([`Kind::Malloc`]). For those who serve programs: nothing here asks it.
    ///
    /// # Safety
    /// The cache is alive.
    #[inline]
    pub unsafe fn refuses_programs_object(&self, cache: CacheRef<C::Engine>, size: usize, gfp: Gfp) -> bool {
        // SAFETY: the caller's promise.
        let ask = |fault| unsafe { self.programs_object_fails(fault, cache, size, gfp) };
        self.faults.malloc.get().is_some_and(ask)
    }

    /// # Safety
    /// The cache is alive.
    #[cold]
    #[inline(never)]
    unsafe fn programs_object_fails(
        &self,
        fault: &Fault,
        cache: CacheRef<C::Engine>,
        size: usize,
        gfp: Gfp,
    ) -> bool {
        // SAFETY: the caller's promise.
        let cache = unsafe { cache.get() };
        let marked = C::Engine::letters(&cache.engine).contains(SlabFlags::FAILSLAB);
        self.ask(fault, Kind::Malloc, cache.name(), marked, size, gfp)
    }

    /// Who has a fast path of his own to this cache's stacks may use it: no rule hits the cache, its objects are not checked, and all
    /// its slabs are of one kind. What he gets of [`Kmem::alloc`] before this says no may be kept and pushed; later objects must come
    /// back by [`Kmem::free`].
    ///
    /// # Safety
    /// The cache is alive.
    pub unsafe fn serves_quickly(&self, cache: CacheRef<C::Engine>) -> bool {
        // SAFETY: the caller's promise.
        let cache = unsafe { cache.get() };
        // Relaxed: the state was stored before the letters that the caller's object was made by.
        cache.engine.capacity() != 0
            && !cache.engine.is_closed()
            && cache.life.load(Ordering::Relaxed) == life::LIVE
    }

    /// The cache got other debug letters while it was used. That stays so.
    ///
    /// # Safety
    /// The cache is alive.
    pub unsafe fn is_mixed(&self, cache: CacheRef<C::Engine>) -> bool {
        // SAFETY: the caller's promise.
        unsafe { cache.get() }.life.load(Ordering::Relaxed) == life::MIXED
    }

    /// True: a request for objects of this cache fails although there may be memory.
    #[inline]
    pub(crate) fn refuses_object(&self, cache: &KmemCache<C::Engine>, gfp: Gfp) -> bool {
        self.faults.slab.get().is_some_and(|fault| self.object_fails(fault, cache, gfp))
    }

    #[cold]
    #[inline(never)]
    fn object_fails(&self, fault: &Fault, cache: &KmemCache<C::Engine>, gfp: Gfp) -> bool {
        let marked = C::Engine::letters(&cache.engine).contains(SlabFlags::FAILSLAB);
        self.ask(fault, Kind::Slab, cache.name(), marked, cache.object_size(), gfp)
    }

    /// Asks a rule.
    pub(crate) fn ask(
        &self,
        fault: &Fault,
        kind: Kind,
        cache: &str,
        marked: bool,
        size: usize,
        gfp: Gfp,
    ) -> bool {
        let order = size.div_ceil(PAGE_SIZE).max(1).next_power_of_two().ilog2();
        fault.refuses(&self.platform, &Request { kind, cache, marked, size, order, gfp })
    }
}
