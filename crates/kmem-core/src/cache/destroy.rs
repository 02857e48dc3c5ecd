//! `kmem_cache_destroy`.

use core::sync::atomic::Ordering;

use crate::cache::{CacheRef, KmemCache, life};
use crate::config::Config;
use crate::debug::report::brief;
use crate::engine::{counts, sheaf};
use crate::heap::Kmem;
use crate::platform::Platform;

/// Why a cache was not destroyed cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestroyError {
    /// So many objects are still in use. The cache has left the list; its memory stays.
    ObjectsRemain(u64),
    /// The cache was destroyed before.
    Destroyed,
    /// The cache belongs to the heap itself.
    Internal,
}

impl core::fmt::Display for DestroyError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::ObjectsRemain(count) => write!(f, "{count} objects are still in use"),
            Self::Destroyed => f.write_str("the cache was destroyed before"),
            Self::Internal => f.write_str("the cache belongs to the heap"),
        }
    }
}

impl core::error::Error for DestroyError {}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Gives up one use of a cache; the last one ends it.
    ///
    /// Returns true when the cache is gone, false when aliases still use it.
    ///
    /// # Errors
    /// - [`DestroyError::ObjectsRemain`]: reported; the cache leaves the list, its slabs and descriptor stay for ever, and late
    ///   frees of its objects are accepted.
    /// - [`DestroyError::Internal`]: one of the heap's own caches, nothing happened.
    ///
    /// # Safety
    /// The reference is to a live cache, and nobody allocates from it during the call or, when it succeeds, uses it after.
    pub unsafe fn destroy(&self, cache: CacheRef<C::Engine>) -> Result<bool, DestroyError> {
        // SAFETY: the caller's promise.
        let descriptor = unsafe { cache.get() };
        let id = descriptor.engine.id;
        let name = {
            let mut registry = self.registry.lock(&self.platform);
            if !life::is_alive(descriptor.life.load(Ordering::Relaxed)) {
                return Err(DestroyError::Destroyed);
            }
            if descriptor.refcount.load(Ordering::Relaxed) < 0 || descriptor.owned_name.is_none() {
                return Err(DestroyError::Internal);
            }
            if descriptor.refcount.fetch_sub(1, Ordering::Relaxed) > 1 {
                return Ok(false);
            }
            descriptor.life.store(life::DYING, Ordering::Relaxed);
            descriptor.engine.distrust();
            self.orphan_guarded(descriptor);
            self.flush(descriptor);
            let left = sheaf::shrink(self.floor(), &descriptor.engine, false);
            let mut stacks_gone = true;
            for cpu in 0..self.platform.cpus() {
                stacks_gone &= sheaf::remove_stack(self.floor(), &descriptor.engine, cpu);
            }
            registry.remove(descriptor);
            // Without slabs of its own, only its objects tell that a cache is in use.
            let objects = counts::count(self.floor(), &descriptor.engine).in_use();
            if left > 0 || objects > 0 {
                descriptor.life.store(life::ZOMBIE, Ordering::Relaxed);
                self.report_remaining(descriptor, objects, left);
                return Err(DestroyError::ObjectsRemain(objects));
            }
            if id != 0 && stacks_gone {
                sheaf::reset_cpus(self.floor(), &descriptor.engine);
                registry.release_id(id);
            }
            descriptor.owned_name
        };
        self.dismantle(descriptor);
        if let Some((name, _)) = name {
            // SAFETY: the copy was made by kmalloc for this cache, whose last user this was.
            let _ = unsafe { self.kfree(name.as_ptr()) };
        }
        Ok(true)
    }

    /// True, and told, when a cache that somebody uses is none any more. Asked where memory is looked up anyway, so it is found at
    /// the first use that a CPU's stack does not serve, and as long as nobody else got the descriptor's memory.
    #[inline]
    pub(crate) fn is_gone(&self, cache: &KmemCache<C::Engine>) -> bool {
        // Relaxed: whoever uses a live cache has seen it made.
        !life::is_there(cache.life.load(Ordering::Relaxed)) && self.tell_of_use(cache)
    }

    /// Always true.
    #[cold]
    #[inline(never)]
    fn tell_of_use(&self, cache: &KmemCache<C::Engine>) -> bool {
        // Nothing in the descriptor means anything, its name least of all.
        let text = format_args!("BUG kmem_cache: cache {cache:p} is used, which was destroyed");
        brief(&self.platform, &self.debug, "", text);
        true
    }
}
