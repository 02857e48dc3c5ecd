//! Guarded objects of caches and of kmalloc: who gets one, what happens when it is freed or touched.
//!
//! The pool itself, and when a turn comes, is the guard's affair ([`crate::guard`]). Here it meets caches: which may be sampled,
//! how their objects are constructed, and whose stacks are emptied so that they come by.
//!
//! # Never
//! No lock is waited for: one is taken only to look for a cache, and only if it is free.

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use crate::cache::KmemCache;
use crate::cache::objects::Part;
use crate::config::Config;
use crate::debug::stacks::MAX_FRAMES;
use crate::debug::{Reporter, Track};
use crate::engine::{Cache, Engine, sheaf};
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::guard::canary::{self, Damage};
use crate::guard::entry::Entry;
use crate::guard::pool::{Book, stack_hash};
use crate::guard::report::{self, Object, What};
use crate::guard::{Access, Guard, Turn, Wanted};
use crate::heap::Kmem;
use crate::kmalloc::FreeError;
use crate::percpu::CpuArea;
use crate::platform::{PAGE_SIZE, Platform};

/// Flags of caches that are not sampled: their pages are of a special zone, or their objects are read after they were freed.
const UNSUITABLE: SlabFlags =
    SlabFlags::CACHE_DMA.union(SlabFlags::CACHE_DMA32).union(SlabFlags::TYPESAFE_BY_RCU);

/// Requests that are not sampled.
const PARTICULAR: Gfp = Gfp::DMA.union(Gfp::DMA32).union(Gfp::HIGHMEM).union(Gfp::THISNODE);

impl<P: Platform, C: Config> Kmem<P, C> {
    /// The sampling guard: its statistics.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Guards one object every `interval` nanoseconds from now on; 0: none any more; [`crate::guard::EVERY`]: each that comes by
    /// until the pool is full. The pool is made at the first sample; where the platform cannot protect pages there is none.
    ///
    /// Somebody must come by: meanwhile CPU stacks do not grow, and those that have are small again.
    pub fn set_guard_interval(&self, interval: u64) {
        self.allow_growth(interval == 0);
        self.guard.set_interval(interval, self.platform.now());
    }

    /// A guarded object, if it is this request's turn.
    #[cold]
    #[inline(never)]
    pub(crate) fn sample(&self, cache: &KmemCache<C::Engine>, part: Part, gfp: Gfp) -> Option<*mut u8> {
        let engine = &cache.engine;
        let (size, align) =
            part.size_and_align().unwrap_or_else(|| (cache.object_size(), engine.geometry.align));
        let now = self.platform.now();
        self.platform.sampling();
        match self.guard.time.ask(now, engine.id) {
            Turn::Not => return None,
            Turn::Look => {
                if let Some(id) = self.empty_somebody(engine) {
                    self.guard.time.send_for(now, id);
                    return None;
                }
            }
            Turn::Guard => {}
        }
        let wanted = Wanted { size, align, cache: core::ptr::from_ref(cache).cast(), name: engine.name };
        if engine.flags().intersects(UNSUITABLE) || gfp.intersects(PARTICULAR) {
            self.guard.counters.unsuitable.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let object = self.place_guarded(&wanted)?;
        if let Some(ctor) = engine.ctor {
            // SAFETY: a new object of this cache, in use by this thread alone; the constructor is the cache's own.
            unsafe { ctor(object) };
        }
        Some(object)
    }

    /// The same for a block that the engine makes without a cache.
    #[cold]
    #[inline(never)]
    pub(crate) fn sample_block(&self, size: usize, align: usize, gfp: Gfp) -> Option<*mut u8> {
        self.platform.sampling();
        if self.guard.time.ask(self.platform.now(), 0) == Turn::Not || gfp.intersects(PARTICULAR) {
            return None;
        }
        let block =
            self.place_guarded(&Wanted { size, align, cache: core::ptr::null(), name: C::Engine::NAME })?;
        if gfp.contains(Gfp::ZERO) {
            // SAFETY: a new block of that many bytes.
            unsafe { block.write_bytes(0, size) };
        }
        Some(block)
    }

    /// Empties this CPU's stack of a cache that is being used and does not come by by itself. Returns the stack's number.
    fn empty_somebody(&self, me: &Cache<C::Engine>) -> Option<u16> {
        let book = self.guard.book(&self.platform)?;
        let registry = self.registry.try_lock(&self.platform)?;
        let cpu = self.platform.current_cpu();
        let busy = |cache: &&Cache<C::Engine>| {
            if cache.id == 0 || cache.id == me.id || cache.capacity() == 0 {
                return false;
            }
            let now = self.platform.cpu_area().hot(cpu, cache.id).allocs.load(Ordering::Relaxed);
            book.handed_out[usize::from(cache.id)].swap(now, Ordering::Relaxed) != now
        };
        let fits = |cache: &&Cache<C::Engine>| {
            cache.geometry.object_size <= PAGE_SIZE && !cache.flags().intersects(UNSUITABLE)
        };
        // The next number after the last, around the end.
        let last = book.last_emptied.load(Ordering::Relaxed) as u16;
        let order = |cache: &&Cache<C::Engine>| cache.id.wrapping_sub(last + 1);
        let caches = core::iter::successors(registry.newest(), |cache| cache.older());
        let chosen = caches.map(|cache| &cache.engine).filter(fits).filter(busy).min_by_key(order)?;
        book.last_emptied.store(u32::from(chosen.id), Ordering::Relaxed);
        sheaf::empty_here(self.floor(), chosen).then_some(chosen.id)
    }

    /// Places an object on a page of the pool.
    fn place_guarded(&self, wanted: &Wanted<'_>) -> Option<*mut u8> {
        let (guard, counters) = (&self.guard, &self.guard.counters);
        let count = |counter: &core::sync::atomic::AtomicU64| _ = counter.fetch_add(1, Ordering::Relaxed);
        if wanted.size == 0 || wanted.size > PAGE_SIZE || wanted.align > PAGE_SIZE {
            count(&counters.unsuitable);
            return None;
        }
        let book = guard.book(&self.platform)?;
        let mut frames = [0; MAX_FRAMES];
        let frames = self.call_stack(&mut frames);
        let stack = stack_hash(frames);
        if book.covers(counters.live.load(Ordering::Relaxed), stack) {
            count(&counters.covered);
            return None;
        }
        let Some(index) = book.claim() else {
            count(&counters.full);
            return None;
        };
        let page = guard.page_of(index);
        if !self.protect(page, true) {
            book.release(index);
            count(&counters.full);
            return None;
        }
        let right = (PAGE_SIZE - wanted.size) & !(wanted.align.max(1) - 1);
        let offset = if self.platform.entropy() & 1 == 0 { 0 } else { right };
        // SAFETY: the page is open and this thread's (I-GUARD-1); the object lies in it.
        unsafe { canary::fill(page, offset, wanted.size) };
        let entry = &book.entries[index];
        let object = page.wrapping_add(offset);
        entry.describe(object.addr(), wanted);
        entry.allocated.set(&self.track(frames));
        entry.stack.store(stack, Ordering::Relaxed);
        book.cover(stack);
        count(&counters.live);
        count(&counters.placed);
        entry.place();
        Some(object)
    }

    /// Makes an object that was guarded just now one of fewer bytes, for a heap that asks for more than its user does: the one at a page's
    /// end ends there again. Its contents are zero then. Where it is now; a block that is not guarded, or not longer, stays as it is.
    ///
    /// # Safety
    /// The block is the caller's, aligned to `align`, which is a power of two, and nobody else knows of it.
    #[cold]
    #[inline(never)]
    pub unsafe fn shorten_guarded(&self, block: *mut u8, size: usize, align: usize) -> *mut u8 {
        let guard = &self.guard;
        let found = guard.page_at(block.addr()).and_then(|(index, _)| index).zip(guard.known_book());
        let Some((index, book)) = found else { return block };
        let entry = &book.entries[index];
        let (start, bytes) = entry.range();
        if start != block.addr() || size == 0 || size >= bytes || !entry.take() {
            return block;
        }
        let page = guard.page_of(index);
        let offset = if start == page.addr() { 0 } else { (PAGE_SIZE - size) & !(align - 1) };
        let object = page.wrapping_add(offset);
        // SAFETY: the page is open and, as the entry, this thread's; the object lies in it.
        unsafe {
            canary::fill(page, offset, size);
            object.write_bytes(0, size);
        }
        entry.shorten(object.addr(), size);
        entry.place();
        object
    }

    /// Frees what should be a guarded object. `wanted`: the cache that it is said to be from.
    ///
    /// # Errors
    /// [`FreeError::Double`] and [`FreeError::Interior`], reported, if the program goes on after that.
    ///
    /// # Safety
    /// The address lies in the pool. If an object in use starts there, nobody uses it any more.
    #[cold]
    #[inline(never)]
    pub(crate) unsafe fn free_guarded(
        &self,
        wanted: Option<&KmemCache<C::Engine>>,
        object: *mut u8,
    ) -> Result<(), FreeError> {
        let guard = &self.guard;
        let address = object.addr();
        let found = guard.page_at(address).and_then(|(index, _)| index).zip(guard.known_book());
        let Some((index, book)) = found else {
            self.report_guarded(&What::InvalidFree, address, None);
            return Err(FreeError::NotObject(address));
        };
        let entry = &book.entries[index];
        let start = entry.range().0;
        if start != address || !entry.take() {
            let what = if start == address {
                FreeError::Double { address, cache: C::Engine::NAME }
            } else {
                FreeError::Interior { address, cache: C::Engine::NAME }
            };
            self.report_guarded(&What::InvalidFree, address, Some(&Object { index, entry }));
            return Err(what);
        }
        let cache = entry.cache().cast::<KmemCache<C::Engine>>();
        // SAFETY: an entry in use leads to a live cache, or to none (I-GUARD-4).
        let real = unsafe { cache.as_ref() };
        if let (Some(wanted), Some(real)) = (wanted, real)
            && !core::ptr::eq(wanted, real)
        {
            self.wrong_cache(wanted, real, object);
        }
        self.look_around(index, entry);
        if let Some(dtor) = real.and_then(|cache| cache.engine.dtor) {
            // SAFETY: an object of this cache that nobody uses; the destructor is the cache's own.
            unsafe { dtor(object) };
        }
        self.retire(book, index);
        Ok(())
    }

    /// Looks at the pattern around an object of the caller's, and closes the page beside it that a report opened.
    fn look_around(&self, index: usize, entry: &Entry) {
        let opened = entry.opened.swap(core::ptr::null_mut(), Ordering::Relaxed);
        if !opened.is_null() {
            self.protect(opened, false);
        }
        let page = self.guard.page_of(index);
        let (start, size) = entry.range();
        // SAFETY: the page is open and this thread's; the object lies in it.
        let damaged = unsafe { canary::damage(page, start - page.addr(), size) };
        for (first, end) in damaged.into_iter().zip([start, page.addr() + PAGE_SIZE]) {
            if let Some(at) = first {
                let from = page.wrapping_add(at);
                // SAFETY: the page is open.
                let damage = unsafe { Damage::read(from, end) };
                let object = Object { index, entry };
                self.report_guarded(&What::Corruption(damage), from.addr(), Some(&object));
            }
        }
    }

    /// Ends the life of an object whose entry is the caller's.
    fn retire(&self, book: &Book, index: usize) {
        let counters = &self.guard.counters;
        let entry = &book.entries[index];
        let mut frames = [0; MAX_FRAMES];
        entry.freed_by.set(&self.track(self.call_stack(&mut frames)));
        book.uncover(entry.stack.load(Ordering::Relaxed));
        counters.live.fetch_sub(1, Ordering::Relaxed);
        counters.freed.fetch_add(1, Ordering::Relaxed);
        self.protect(self.guard.page_of(index), false);
        book.release(index);
    }

    /// A cache is destroyed: nobody may use its objects any more, in use or not. They stay protected as if freed now.
    pub(crate) fn orphan_guarded(&self, cache: &KmemCache<C::Engine>) {
        let Some(book) = self.guard.known_book() else { return };
        let this = core::ptr::from_ref(cache).cast::<()>();
        for (index, entry) in book.entries.iter().enumerate().filter(|(_, entry)| entry.cache() == this) {
            if entry.take() {
                self.look_around(index, entry);
                entry.orphan();
                self.guard.counters.orphaned.fetch_add(1, Ordering::Relaxed);
                self.retire(book, index);
            } else {
                entry.orphan();
            }
        }
    }

    /// Reports an access to a forbidden page of the pool: for platforms, when one faulted. `frames`: the stack of
    /// who did it, the nearest first.
    ///
    /// False: the address is not the guard's, so that the fault is somebody else's. True: it was reported, the program goes on,
    /// and the access will succeed when it is tried again. Where errors stop the program this does not return.
    ///
    /// Takes no lock and allocates nothing: the access may have been made anywhere, in the heap itself as well.
    pub fn report_fault(&self, address: usize, access: Access, frames: &[usize]) -> bool {
        let guard = &self.guard;
        let (Some((on, page)), Some(book)) = (guard.page_at(address), guard.known_book()) else {
            return false;
        };
        let object = match on {
            Some(index) => Some(Object { index, entry: &book.entries[index] }),
            None => self.beside(book, address, page),
        };
        let what = match (on, &object) {
            (Some(_), _) => What::UseAfterFree(access),
            (None, Some(_)) => What::OutOfBounds(access),
            (None, None) => What::Invalid(access),
        };
        if let (None, Some(object)) = (on, &object) {
            object.entry.opened.store(page, Ordering::Relaxed);
        }
        self.tell(&what, address, object.as_ref(), frames);
        self.protect(page, true);
        true
    }

    /// The object in use on either side of a forbidden page to which an address of it is nearest.
    fn beside<'a>(&self, book: &'a Book, address: usize, page: *mut u8) -> Option<Object<'a>> {
        let live = |neighbour: *mut u8| {
            let (index, _) = self.guard.page_at(neighbour.addr())?;
            let index = index?;
            let entry = &book.entries[index];
            entry.is_live().then_some(Object { index, entry })
        };
        let left = live(page.wrapping_sub(PAGE_SIZE));
        let right = live(page.wrapping_add(PAGE_SIZE));
        match (left, right) {
            (Some(left), Some(right)) => {
                let (start, size) = left.entry.range();
                let behind = address - (start + size);
                let before = right.entry.range().0 - address;
                Some(if behind > before { right } else { left })
            }
            (left, right) => left.or(right),
        }
    }

    /// [`Kmem::tell`], where this thread's own call is what is wrong.
    fn report_guarded(&self, what: &What, address: usize, object: Option<&Object<'_>>) {
        let mut frames = [0; MAX_FRAMES];
        let frames = self.call_stack(&mut frames);
        self.tell(what, address, object, frames);
    }

    /// Reports, and stops the program where errors do.
    fn tell(&self, what: &What, address: usize, object: Option<&Object<'_>>, frames: &[usize]) {
        self.guard.counters.bugs.fetch_add(1, Ordering::Relaxed);
        let (platform, debug) = (&self.platform, &self.debug);
        let reporter = Reporter { platform, debug, name: "guard", abort: C::ABORT };
        report::print(platform, &reporter, what, address, object, frames);
        reporter.found(C::ABORT);
    }

    /// Forbids or allows one page of the pool.
    fn protect(&self, page: *mut u8, allow: bool) -> bool {
        // SAFETY: whole pages of the pool, which the heap mapped and owns.
        NonNull::new(page).is_some_and(|page| unsafe { self.platform.protect(page, PAGE_SIZE, allow) })
    }

    fn call_stack<'a>(&self, frames: &'a mut [usize; MAX_FRAMES]) -> &'a [usize] {
        let found = self.platform.backtrace(frames).min(MAX_FRAMES);
        &frames[..found]
    }

    fn track(&self, frames: &[usize]) -> Track {
        Track {
            address: frames.first().copied().unwrap_or_default(),
            stack: self.debug.stacks.save(&self.platform, &self.pages, frames),
            cpu: self.platform.current_cpu() as u32,
            thread: self.platform.thread(),
            known: 1,
            time: self.platform.now(),
        }
    }
}
