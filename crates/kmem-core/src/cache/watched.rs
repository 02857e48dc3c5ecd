//! What a guarded heap does as objects come and go ([`crate::engine::watch`]).
//!
//! # Theory
//! Every way by which an object reaches a caller passes `guard_out`, every way by which it comes back passes `guard_in`, each
//! exactly once. In a heap that is not guarded both are nothing.
//!
//! Objects of checked slabs are left to the debug layer: it keeps more about them than this, and says it better. No stack has
//! such objects, so only the slow ways ask.

use crate::cache::create::Plan;
use crate::config::Config;
use crate::debug::Error;
use crate::engine::watch::{self, GRAIN};
use crate::engine::{Cache, Engine, sheaf};
use crate::flags::SlabFlags;
use crate::heap::Kmem;
use crate::kmalloc::FreeError;
use crate::page::Kind;
use crate::percpu::{CpuArea, Pushed};
use crate::platform::{PAGE_SIZE, Platform};
use crate::report;

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Bytes that the heap asks for and does not use of blocks of classes for itself: in a guarded heap the last word of each is a
    /// front end's seal, or zero, so that a write before the next one can be told from it.
    pub(crate) const SPARED: usize = if C::WATCHED { size_of::<u64>() } else { 0 };

    /// Takes the map of states into use. False: no memory.
    pub(crate) fn start_states(&self) -> bool {
        if !C::WATCHED {
            return true;
        }
        const { assert!(!C::WATCHED || C::Engine::KNOWS_CACHE, "this engine's objects do not tell their cache") };
        let window = self.platform.window();
        let mut map = self.platform.states();
        if map.is_null() {
            let bytes = window.pages * (PAGE_SIZE / GRAIN);
            let Some(memory) = self.platform.map(bytes, PAGE_SIZE) else { return false };
            map = memory.as_ptr().cast();
        }
        self.states.start(window.base, map);
        true
    }

    /// [`Cache::zeroed`] of a planned cache: nothing where free objects keep something.
    pub(crate) fn zeroed_bytes(plan: &Plan) -> u32 {
        let keeps = plan.ctor.is_some()
            || plan.dtor.is_some()
            || plan.geometry.is_debug()
            || plan.geometry.flags.contains(SlabFlags::TYPESAFE_BY_RCU);
        if !C::WATCHED || keeps {
            return 0;
        }
        plan.geometry.object_size.next_multiple_of(8).max(GRAIN).min(plan.geometry.size) as u32
    }

    /// An object is about to reach a caller, from the stack of a CPU.
    #[inline(always)]
    pub(crate) fn guard_out(&self, cache: &Cache<C::Engine>, object: *mut u8) {
        if !C::WATCHED {
            return;
        }
        // SAFETY: the object was just taken off the free ones: it lies in added memory and is this thread's.
        unsafe {
            if !watch::take(self.states.of(object.addr())) {
                self.handed_out_twice(cache, object);
            }
            if cache.zeroed() != 0 && !watch::is_zero::<false>(object, cache.zeroed()) {
                self.written_when_free(cache, object);
            }
        }
    }

    /// The same, from anywhere else. Null passes.
    pub(crate) fn guard_out_slow(&self, cache: &Cache<C::Engine>, object: *mut u8) {
        if C::WATCHED && !object.is_null() && !self.is_checked(cache, object) {
            self.guard_out(cache, object);
        }
    }

    /// An object of a cache comes back, to a stack.
    #[inline(always)]
    pub(crate) fn guard_in(&self, cache: &Cache<C::Engine>, object: *mut u8) -> Result<(), FreeError> {
        if !C::WATCHED {
            return Ok(());
        }
        // SAFETY: an object of this cache starts there, so it lies in added memory; who finds it used owns it.
        unsafe {
            if !watch::give(self.states.of(object.addr()), self.platform.alone()) {
                return Err(FreeError::Double { address: object.addr(), cache: cache.name });
            }
            if cache.zeroed() != 0 {
                watch::wipe::<false>(object, cache.zeroed());
            }
        }
        Ok(())
    }

    /// The same, to anywhere else.
    pub(crate) fn guard_in_slow(&self, cache: &Cache<C::Engine>, object: *mut u8) -> Result<(), FreeError> {
        if C::WATCHED && !self.is_checked(cache, object) { self.guard_in(cache, object) } else { Ok(()) }
    }

    /// An object that came back could not be kept, and is as if it had not come.
    pub(crate) fn guard_undo(&self, object: *mut u8) {
        if C::WATCHED {
            // SAFETY: `guard_in` passed it a moment ago, and this thread still owns it.
            watch::take(unsafe { self.states.of(object.addr()) });
        }
    }

    /// Frees an object that is proved to be one of the cache, of the caller's node.
    ///
    /// # Errors
    /// It is free already.
    ///
    /// # Safety
    /// The cache is alive and has stacks; nobody uses the object any more.
    #[inline(always)]
    pub(crate) unsafe fn free_watched(
        &self,
        cache: &Cache<C::Engine>,
        object: *mut u8,
    ) -> Result<(), FreeError> {
        self.guard_in(cache, object)?;
        // SAFETY: the caller's promise, and the object is this thread's: it was in use until now.
        unsafe {
            match self.platform.cpu_area().push(cache.id, object) {
                Pushed::Done => {}
                Pushed::Full => sheaf::flush_and_push(self.floor(), cache, object),
                // I-GUARD-1: what lies on a stack is not in use.
                Pushed::Double => self.handed_out_twice(cache, object),
            }
        }
        Ok(())
    }

    /// The second half of freeing a block of kmalloc's classes in a guarded heap, for a caller who looked up its state and made
    /// it zero himself, and found no room on this CPU's stack.
    ///
    /// # Errors
    /// It is none.
    ///
    /// # Safety
    /// The block is one of a class, its state is free and its bytes are zero, and the caller owned it until now.
    #[cold]
    pub unsafe fn kfree_wiped(&self, block: *mut u8) -> Result<(), FreeError> {
        let cache = self.cache_of(block)?;
        // SAFETY: the caller's promise; the object's own cache, which lives as long as the heap.
        unsafe { sheaf::flush_and_push(self.floor(), &cache.engine, block) };
        Ok(())
    }

    /// The object is one of the debug layer's.
    fn is_checked(&self, cache: &Cache<C::Engine>, object: *mut u8) -> bool {
        if cache.geometry.is_debug() {
            return true;
        }
        // The sampling guard's objects lie elsewhere.
        let Some(page) = self.pages.at(object.addr()) else { return true };
        let slab = self.pages.head(page);
        slab.kind() == Kind::Slab && C::Engine::is_checked_slab(slab)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn handed_out_twice(&self, cache: &Cache<C::Engine>, object: *mut u8) -> ! {
        self.stop(format_args!("double free of {object:p} (cache {}), by two at once", cache.name))
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn written_when_free(&self, cache: &Cache<C::Engine>, object: *mut u8) -> ! {
        // SAFETY: the object is this thread's and has that many bytes.
        let bytes = unsafe { core::slice::from_raw_parts(object.cast_const(), cache.zeroed()) };
        let at = bytes.iter().position(|&byte| byte != 0).unwrap_or(0);
        self.stop(format_args!(
            "block {object:p} (cache {}) was written to after it was freed: byte {at} is {:#04x}",
            cache.name,
            bytes.get(at).copied().unwrap_or(0)
        ))
    }

    /// Ends the program with a message.
    pub(crate) fn stop(&self, what: core::fmt::Arguments<'_>) -> ! {
        self.debug.note(Error::Bug, "", what);
        report::say(&self.platform, format_args!("kmem: {what}"));
        self.platform.fatal()
    }
}
