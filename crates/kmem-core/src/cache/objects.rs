//! Allocating and freeing objects of a cache.
//!
//! # Theory
//! Each call has a fast half, which the compiler can put into its caller, and a slow one, which serves every case. The fast half
//! of an allocation pops this CPU's stack. That of a free proves that it was given an object of that cache without a look at
//! the slab: the page's tag is the cache's number, and one multiplication shows that an object starts there
//! ([`crate::engine::proof`]); then it pushes. Whatever is not proved, or not done by one push, is looked up by the slow half,
//! which also says what is wrong.

use core::sync::atomic::Ordering;

use crate::cache::{CacheRef, KmemCache, life};
use crate::config::Config;
use crate::engine::{Cache, Counts, Engine, Fault, counts, sheaf};
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::heap::Kmem;
use crate::kmalloc::FreeError;
use crate::page::{Kind, Tagged};
use crate::percpu::{CpuArea, Pushed};
use crate::platform::{MAX_NODES, PAGE_SHIFT, Platform};
use crate::report;

/// How much of an object was asked for: length and alignment, in one register for the sake of the fast paths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part(u64);

impl Part {
    /// All of it.
    pub(crate) const ALL: Self = Self(0);

    /// So many bytes, at least 1, aligned to a power of two; both at most those of a class.
    #[inline(always)]
    pub(crate) const fn bytes(size: usize, align: usize) -> Self {
        Self((align as u64) << 32 | size as u64)
    }

    /// Length and alignment; nothing when it is all of the object.
    pub(crate) const fn size_and_align(self) -> Option<(usize, usize)> {
        if self.0 == 0 { None } else { Some((self.0 as u32 as usize, (self.0 >> 32) as usize)) }
    }
}

/// What a request of a cache does about flags that mean nothing for slabs: serve it without them, and say so.
#[cold]
#[inline(never)]
pub(crate) fn strip<P: Platform>(platform: &P, gfp: Gfp) -> Gfp {
    let good = gfp - Gfp::SLAB_BUG;
    report::say(
        platform,
        format_args!(
            "Unexpected gfp: {:#x}. Fixing up to gfp: {:#x}. Fix your code!",
            (gfp & Gfp::SLAB_BUG).bits(),
            good.bits()
        ),
    );
    good
}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// One object; null when there is no memory. Its contents are undefined, or as the constructor left them.
    /// With [`Gfp::ZERO`] the object is zero, unless the cache has a constructor: then it stays constructed.
    ///
    /// # Safety
    /// The cache is alive.
    #[inline]
    pub unsafe fn alloc(&self, cache: CacheRef<C::Engine>, gfp: Gfp) -> *mut u8 {
        // SAFETY: the caller's promise.
        let cache = unsafe { cache.get() };
        self.alloc_part(cache, Part::ALL, gfp)
    }

    /// One object of which `part` was asked for.
    #[inline(always)]
    pub(crate) fn alloc_part(&self, cache: &KmemCache<C::Engine>, part: Part, gfp: Gfp) -> *mut u8 {
        if C::Engine::STACKS && !gfp.intersects(Self::SPECIAL) && cache.engine.capacity() != 0 {
            // SAFETY: the cache is alive and has this number.
            let object = unsafe { self.platform.cpu_area().pop(cache.engine.id) };
            if !object.is_null() {
                self.guard_out(&cache.engine, object);
                return object;
            }
            return self.refill(cache, part, gfp);
        }
        self.alloc_any(cache, part, gfp)
    }

    /// Flags that more than one object's address is due to.
    pub(crate) const SPECIAL: Gfp = Gfp::SLAB_BUG.union(Gfp::ZERO);

    #[cold]
    #[inline(never)]
    pub(crate) fn refill(&self, cache: &KmemCache<C::Engine>, part: Part, gfp: Gfp) -> *mut u8 {
        if self.is_gone(cache) || self.refuses_object(cache, gfp) {
            return core::ptr::null_mut();
        }
        if self.guard.is_on()
            && let Some(object) = self.sample(cache, part, gfp)
        {
            return object;
        }
        let object = sheaf::refill(self.floor(), &cache.engine, gfp);
        self.guard_out_slow(&cache.engine, object);
        object
    }

    /// One object, whatever the flags and the cache.
    #[inline(never)]
    fn alloc_any(&self, cache: &KmemCache<C::Engine>, part: Part, gfp: Gfp) -> *mut u8 {
        let gfp = if gfp.intersects(Gfp::SLAB_BUG) { strip(&self.platform, gfp) } else { gfp };
        let object = if cache.engine.capacity() != 0 {
            // SAFETY: the cache is alive and has this number.
            let object = unsafe { self.platform.cpu_area().pop(cache.engine.id) };
            if object.is_null() {
                self.refill(cache, part, gfp)
            } else {
                self.guard_out(&cache.engine, object);
                object
            }
        } else if self.is_gone(cache) || self.refuses_object(cache, gfp) {
            core::ptr::null_mut()
        } else if self.guard.is_on()
            && let Some(object) = self.sample(cache, part, gfp)
        {
            object
        } else {
            let object = C::Engine::alloc_one(self.floor(), &cache.engine, gfp, None);
            self.guard_out_slow(&cache.engine, object);
            object
        };
        if gfp.contains(Gfp::ZERO) && !object.is_null() {
            self.clear(cache, object);
        }
        object
    }

    /// As [`Kmem::alloc`], from memory of `node` if there is any; with [`Gfp::THISNODE`] from there or not at all.
    /// `None`, a node that does not exist, and a node without memory mean no preference.
    ///
    /// # Safety
    /// The cache is alive.
    pub unsafe fn alloc_node(&self, cache: CacheRef<C::Engine>, gfp: Gfp, node: Option<usize>) -> *mut u8 {
        let node = node.filter(|&node| node < self.platform.nodes());
        let here = self.platform.current_node();
        // Stacks hold what is near; without them a wish for this node must be told.
        let near = node.is_none_or(|node| C::Engine::STACKS && node == here);
        if near && !gfp.contains(Gfp::THISNODE) {
            // SAFETY: the caller's promise.
            return unsafe { self.alloc(cache, gfp) };
        }
        // SAFETY: the caller's promise.
        let cache = unsafe { cache.get() };
        let gfp = if gfp.intersects(Gfp::SLAB_BUG) { strip(&self.platform, gfp) } else { gfp };
        if self.is_gone(cache) || self.refuses_object(cache, gfp) {
            return core::ptr::null_mut();
        }
        let object = C::Engine::alloc_one(self.floor(), &cache.engine, gfp, Some(node.unwrap_or(here)));
        self.guard_out_slow(&cache.engine, object);
        if gfp.contains(Gfp::ZERO) && !object.is_null() {
            self.clear(cache, object);
        }
        object
    }

    /// [`Kmem::alloc`] with [`Gfp::ZERO`]: the bytes the user may touch are zero, the padding is not.
    ///
    /// # Safety
    /// The cache is alive.
    pub unsafe fn zalloc(&self, cache: CacheRef<C::Engine>, gfp: Gfp) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.alloc(cache, gfp | Gfp::ZERO) }
    }

    fn clear(&self, cache: &KmemCache<C::Engine>, object: *mut u8) {
        if !cache.is_constructed() {
            // What was asked for may be less than what a class has, if the rest of the page is watched.
            let guarded = self.guard.object_at(object.addr());
            let size = guarded.map_or(cache.object_size(), |(_, size)| size);
            // SAFETY: the object was just allocated and has that many bytes.
            unsafe { object.write_bytes(0, size) };
        }
    }

    /// Gives one object back.
    ///
    /// # Errors
    /// The object is not freed when it was freed last already ([`FreeError::Double`]), is not an object at all, or
    /// starts nowhere an object starts. An object of another cache is reported, goes back to its own, and is no error.
    ///
    /// # Safety
    /// The cache is alive; nobody uses the object any more.
    #[inline]
    pub unsafe fn free(&self, cache: CacheRef<C::Engine>, object: *mut u8) -> Result<(), FreeError> {
        // SAFETY: the caller's promise.
        let wanted = unsafe { cache.get() };
        if let Some(page) = self.tagged(object) {
            if C::WATCHED {
                if self.proves(&wanted.engine, page, object) {
                    // SAFETY: the caller's promise; it is an object of this cache, which has stacks (I-PROOF-1).
                    return unsafe { self.free_watched(&wanted.engine, object) };
                }
            // SAFETY: the caller's promise.
            } else if unsafe { self.push_proved(&wanted.engine, page, object) } {
                return Ok(());
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.free_any(wanted, object) }
    }

    /// The page around an address, where tags mean something.
    #[inline(always)]
    pub(crate) fn tagged(&self, object: *mut u8) -> Option<Tagged> {
        if C::Engine::STACKS { self.pages.tagged(object.addr()) } else { None }
    }

    /// It is proved that an object of the cache, and of the caller's node, starts there.
    #[inline(always)]
    pub(crate) fn proves(&self, cache: &Cache<C::Engine>, page: Tagged, object: *mut u8) -> bool {
        let head = || self.pages.by_index(cache.proof.head_of(page.index));
        cache.proves(page.tag, object.addr(), head)
            && (!P::NUMA || page.node() == self.platform.current_node())
    }

    /// As [`Kmem::proves`], of each object; there is at least one. Neighbours in a slab share the look at its tag.
    #[inline]
    fn all_proved(&self, cache: &Cache<C::Engine>, objects: &[*mut u8]) -> bool {
        // No slab starts here.
        let (mut slab, mut lead) = (usize::MAX, 0);
        for &object in objects {
            let this = cache.proof.slab_of(object.addr());
            if this == slab {
                if !cache.proof.starts(object.addr(), lead) {
                    return false;
                }
                continue;
            }
            let Some(page) = self.tagged(object) else { return false };
            if !self.proves(cache, page, object) {
                return false;
            }
            slab = this;
            if C::Engine::LEADS {
                lead = C::Engine::lead(self.pages.by_index(cache.proof.head_of(page.index)));
            }
        }
        !objects.is_empty()
    }

    /// Frees an object by one push, if it is proved to be one of the cache and that push does it. False: nothing changed.
    ///
    /// # Safety
    /// The cache is alive; nobody uses the object any more.
    #[inline(always)]
    pub(crate) unsafe fn push_proved(&self, cache: &Cache<C::Engine>, page: Tagged, object: *mut u8) -> bool {
        self.proves(cache, page, object)
            // SAFETY: the caller's promise; it is an object of this cache, which is live and has this number (I-PROOF-1).
            && unsafe { self.platform.cpu_area().push(page.tag, object) } == Pushed::Done
    }

    /// [`Kmem::free`], whatever was given.
    ///
    /// # Safety
    /// As [`Kmem::free`].
    #[cold]
    #[inline(never)]
    unsafe fn free_any(&self, wanted: &KmemCache<C::Engine>, object: *mut u8) -> Result<(), FreeError> {
        if self.guard.holds(object.addr()) {
            // SAFETY: the caller's promise.
            return unsafe { self.free_guarded(Some(wanted), object) };
        }
        if self.is_gone(wanted) {
            return Err(FreeError::NotObject(object.addr()));
        }
        if !C::Engine::KNOWS_CACHE {
            // SAFETY: the caller's promise.
            return unsafe { self.free_as_told(wanted, object) };
        }
        let real = self.cache_of(object).map_err(|error| self.refused_by(wanted, error))?;
        if !core::ptr::eq(real, wanted) {
            self.wrong_cache(wanted, real, object);
        }
        // SAFETY: `cache_of` found the object's own cache, which may be a class of kmalloc.
        unsafe {
            self.leave_mark(real, object);
            self.free_to(real, object)
        }
    }

    /// Frees an object to the cache that it is said to be from, where it does not tell itself.
    ///
    /// # Safety
    /// As [`Kmem::free`].
    unsafe fn free_as_told(&self, cache: &KmemCache<C::Engine>, object: *mut u8) -> Result<(), FreeError> {
        let address = object.addr();
        let page = self.pages.at(address).ok_or(FreeError::Foreign(address))?;
        let name = cache.engine.name;
        // SAFETY: the caller's promise.
        unsafe { C::Engine::take_back(self.floor(), &cache.engine, object) }.map_err(|twice| {
            if twice {
                FreeError::Double { address, cache: name }
            } else if self.pages.head(page).kind() == Kind::Slob {
                FreeError::Interior { address, cache: name }
            } else {
                FreeError::NotObject(address)
            }
        })
    }

    /// The cache that an object is from, when an object starts there, and nothing says that it is another's.
    pub(crate) fn cache_of(&self, object: *mut u8) -> Result<&KmemCache<C::Engine>, FreeError> {
        let page = self.pages.at(object as usize).ok_or(FreeError::Foreign(object as usize))?;
        let slab = self.pages.head(page);
        if slab.kind() != Kind::Slab {
            return Err(FreeError::NotObject(object as usize));
        }
        // SAFETY: a slab's descriptor points to its cache, whose first field the engine's cache is; a cache lives
        // at least as long as its slabs. Null while the slab is being made or given back: nobody has an object of it.
        let cache = unsafe { slab.cache.load(Ordering::Relaxed).cast::<KmemCache<C::Engine>>().as_ref() }
            .ok_or(FreeError::NotObject(object as usize))?;
        match C::Engine::index_of(self.floor(), &cache.engine, slab, object as usize) {
            Some(_) if C::Engine::STACKS && !cache.engine.may_have_tag(self.pages.tag_of(object.addr())) => {
                Err(FreeError::Disputed { address: object.addr(), cache: cache.engine.name })
            }
            Some(_) => Ok(cache),
            None => Err(FreeError::Interior { address: object as usize, cache: cache.engine.name }),
        }
    }

    /// The slab that an address lies in, and its cache.
    pub(crate) fn slab_at(&self, address: usize) -> Option<(&KmemCache<C::Engine>, &crate::page::Page)> {
        let slab = self.pages.head(self.pages.at(address)?);
        if slab.kind() != Kind::Slab {
            return None;
        }
        // SAFETY: as in `cache_of`; null while the slab is being made or given back.
        let cache = unsafe { slab.cache.load(Ordering::Relaxed).cast::<KmemCache<C::Engine>>().as_ref() }?;
        Some((cache, slab))
    }

    /// Frees an object to its own cache.
    ///
    /// # Safety
    /// The object is one of this cache's; nobody uses it any more.
    #[inline]
    pub(crate) unsafe fn free_to(
        &self,
        cache: &KmemCache<C::Engine>,
        object: *mut u8,
    ) -> Result<(), FreeError> {
        let Some(page) = self.pages.at(object as usize) else {
            return Err(FreeError::Foreign(object as usize));
        };
        self.guard_in_slow(&cache.engine, object)?;
        if cache.life.load(Ordering::Relaxed) != life::LIVE {
            // A destroyed cache that was left with objects, whose stacks are gone; or one with checked slabs
            // among others, whose objects must not wait on stacks. The slabs take them back.
            // SAFETY: the caller's promise.
            unsafe { C::Engine::free_many(self.floor(), &cache.engine, &mut [object]) };
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { sheaf::free(self.floor(), &cache.engine, page, object) }.map_err(|sheaf::FreedTwice| {
            FreeError::Double { address: object as usize, cache: cache.engine.name }
        })
    }

    /// Fills all of `out` with objects, or nothing: true when it did. An empty `out` is filled.
    ///
    /// # Safety
    /// The cache is alive.
    pub unsafe fn alloc_bulk(&self, cache: CacheRef<C::Engine>, gfp: Gfp, out: &mut [*mut u8]) -> bool {
        // SAFETY: the caller's promise.
        let cache = unsafe { cache.get() };
        let gfp = if gfp.intersects(Gfp::SLAB_BUG) { strip(&self.platform, gfp) } else { gfp };
        let rest = |out: &mut [*mut u8], got| self.fill_bulk(cache, gfp, out, got);
        if !sheaf::alloc_bulk(self.floor(), &cache.engine, out, rest) {
            return false;
        }
        if C::WATCHED {
            out.iter().for_each(|&object| self.guard_out_slow(&cache.engine, object));
        }
        if gfp.contains(Gfp::ZERO) {
            out.iter().for_each(|&object| self.clear(cache, object));
        }
        true
    }

    /// Fills `out` behind the `got` objects that are there. False: it could not, and those were freed.
    #[cold]
    #[inline(never)]
    fn fill_bulk(&self, cache: &KmemCache<C::Engine>, gfp: Gfp, out: &mut [*mut u8], got: usize) -> bool {
        if self.is_gone(cache) {
            return false;
        }
        if self.refuses_object(cache, gfp) {
            // SAFETY: these objects were just taken and are this thread's.
            unsafe { C::Engine::free_many(self.floor(), &cache.engine, &mut out[..got]) };
            return false;
        }
        sheaf::fill(self.floor(), &cache.engine, gfp, out, got)
    }

    /// Gives many objects back: of `cache`, or of any caches and sizes when it is `None` (`kfree_bulk`).
    /// The order of the array is lost.
    ///
    /// # Errors
    /// The first object that could not be freed; the others are freed all the same.
    ///
    /// # Safety
    /// The cache is alive; each entry is an object that nobody uses any more, and is there once.
    pub unsafe fn free_bulk(
        &self,
        cache: Option<CacheRef<C::Engine>>,
        objects: &mut [*mut u8],
    ) -> Result<(), FreeError> {
        let mut result = Ok(());
        let Some(cache) = cache else {
            for &mut object in objects {
                // SAFETY: the caller's promise.
                result = result.and(unsafe { self.kfree(object) });
            }
            return result;
        };
        // SAFETY: the caller's promise.
        let wanted = unsafe { cache.get() };
        if !C::Engine::KNOWS_CACHE {
            for &mut object in objects {
                // SAFETY: the caller's promise.
                result = result.and(unsafe { self.free_any(wanted, object) });
            }
            return result;
        }
        if C::WATCHED {
            for &mut object in objects {
                // SAFETY: the caller's promise.
                result = result.and(unsafe { self.free(cache, object) });
            }
            return result;
        }
        if self.all_proved(&wanted.engine, objects) {
            // SAFETY: the caller's promise; all are objects of this cache, which has stacks (I-PROOF-1).
            unsafe { sheaf::free_bulk_near(self.floor(), &wanted.engine, objects) };
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { self.free_bulk_any(cache, objects) }
    }

    /// [`Kmem::free_bulk`] for one cache, where not everything is proved.
    ///
    /// # Safety
    /// As [`Kmem::free_bulk`].
    #[cold]
    #[inline(never)]
    unsafe fn free_bulk_any(
        &self,
        cache: CacheRef<C::Engine>,
        objects: &mut [*mut u8],
    ) -> Result<(), FreeError> {
        // SAFETY: the caller's promise.
        let wanted = unsafe { cache.get() };
        if self.is_gone(wanted) {
            return Err(FreeError::NotObject(objects.first().map_or(0, |object| object.addr())));
        }
        let mut result = Ok(());
        let mut good = 0;
        for i in 0..objects.len() {
            if self.guard.holds(objects[i].addr()) {
                // SAFETY: the caller's promise.
                result = result.and(unsafe { self.free_guarded(Some(wanted), objects[i]) });
                continue;
            }
            match self.cache_of(objects[i]) {
                Ok(real) if core::ptr::eq(real, wanted) => {
                    objects.swap(i, good);
                    good += 1;
                }
                // SAFETY: the caller's promise.
                Ok(_) => result = result.and(unsafe { self.free(cache, objects[i]) }),
                Err(error) => result = result.and(Err(self.refused_by(wanted, error))),
            }
        }
        // SAFETY: these are objects of this cache.
        unsafe { self.free_all(wanted, &mut objects[..good]) };
        result
    }

    /// Gives many objects of one cache back.
    ///
    /// # Safety
    /// As [`sheaf::free_bulk`].
    pub(crate) unsafe fn free_all(&self, cache: &KmemCache<C::Engine>, objects: &mut [*mut u8]) {
        // SAFETY: the caller's promise.
        unsafe {
            if cache.life.load(Ordering::Relaxed) == life::LIVE {
                sheaf::free_bulk(self.floor(), &cache.engine, objects);
            } else {
                C::Engine::free_many(self.floor(), &cache.engine, objects);
            }
        }
    }

    /// The usable bytes of a cache's objects: what their creator asked for.
    ///
    /// # Safety
    /// The cache is alive.
    pub unsafe fn cache_size(&self, cache: CacheRef<C::Engine>) -> usize {
        // SAFETY: the caller's promise.
        unsafe { cache.get() }.object_size()
    }

    /// Sends everything that CPUs and barns keep of the cache back to its slabs, gives the empty slabs back and sorts
    /// the others, the fullest first. True when slabs are left.
    ///
    /// # Safety
    /// The cache is alive.
    pub unsafe fn shrink(&self, cache: CacheRef<C::Engine>) -> bool {
        // SAFETY: the caller's promise.
        let cache = unsafe { cache.get() };
        self.drain_deferred();
        self.flush(cache);
        let keep = cache.engine.flags().contains(SlabFlags::TYPESAFE_BY_RCU);
        sheaf::shrink(self.floor(), &cache.engine, keep) > 0
    }

    /// Empties CPUs and barns of a cache.
    pub(crate) fn flush(&self, cache: &KmemCache<C::Engine>) {
        sheaf::flush(self.floor(), &cache.engine);
    }

    /// What the cache holds.
    ///
    /// # Safety
    /// The cache is alive.
    pub unsafe fn counts(&self, cache: CacheRef<C::Engine>) -> Counts {
        // SAFETY: the caller's promise.
        counts::count(self.floor(), &unsafe { cache.get() }.engine)
    }

    /// Checks every slab on the lists of the cache's nodes; returns how many.
    ///
    /// # Errors
    /// The first thing that is wrong.
    ///
    /// # Safety
    /// The cache is alive, and nobody works on it.
    pub unsafe fn validate_cache(&self, cache: CacheRef<C::Engine>) -> Result<u64, Fault> {
        // SAFETY: the caller's promise.
        C::Engine::validate(self.floor(), &unsafe { cache.get() }.engine)
    }

    /// A CPU goes away: what it keeps of every cache goes back to the nodes. Nothing happens for a CPU that does not exist.
    pub fn cpu_dead(&self, cpu: usize) {
        if cpu >= self.platform.cpus() {
            return;
        }
        let floor = self.floor();
        self.for_each_cache(|cache| {
            sheaf::flush_cpu(floor, &cache.engine, cpu);
            C::Engine::cpu_dead(floor, &cache.engine, cpu);
        });
        self.pages.drain_cpu(&self.platform, cpu);
    }

    /// Shrinks every cache and returns free pages to the platform, down to `keep_pages`. Returns the pages returned.
    pub fn trim(&self, keep_pages: usize) -> usize {
        let before = self.pages.discarded_by_pools();
        self.drain_deferred();
        self.for_each_cache(|cache| {
            self.flush(cache);
            for node in 0..self.platform.nodes().min(MAX_NODES) {
                let keep = cache.engine.flags().contains(SlabFlags::TYPESAFE_BY_RCU);
                C::Engine::release_empty(self.floor(), &cache.engine, node, keep);
            }
        });
        for cpu in 0..self.platform.cpus() {
            self.pages.drain_cpu(&self.platform, cpu);
        }
        let pinned = self.pages.discarded_by_pools() - before + (self.drop_kept() >> PAGE_SHIFT);
        pinned + self.pages.trim(&self.platform, keep_pages)
    }
}
