//! Every cache in turn, newest first.
//!
//! A cache may be looked at only while it cannot go away, so whoever visits holds the registry's lock. What may be done meanwhile is
//! little: a request to this very heap can be the first of its size class, and making a class takes the same lock. A listing
//! writes, and its writer may well be a text that grows in the heap it tells of. Hence two ways:
//!
//! - [`Kmem::for_each_cache`] keeps the lock from the first cache to the last: for those who only look, or clean up.
//! - [`Kmem::tell_of_caches`] has each cache looked at under the lock, and what was seen told without it. Between two caches others
//!   may come and go. Serial numbers fall along the list, so none is told of twice, and none is left out that was there all the
//!   time. Finding the place again costs a walk each time; listings are rare and lists are short.

use core::fmt;

use crate::cache::KmemCache;
use crate::cache::create::MAX_NAME;
use crate::config::Config;
use crate::heap::Kmem;
use crate::platform::Platform;
use crate::report::Text;

/// A cache's name, kept beyond the cache.
pub(crate) type Name = Text<MAX_NAME>;

/// A copy of a cache's name.
pub(crate) fn name_of(name: &str) -> Name {
    let mut copy = Name::new();
    // Names have at most so many bytes, and writing to a `Text` cannot fail.
    let _ = fmt::Write::write_str(&mut copy, name);
    copy
}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Visits every cache, newest first, while none can come or go. None at all for a signal handler that interrupted the
    /// creation or destruction of one.
    ///
    /// `visit` creates and destroys no caches. A request that it makes to this heap, where that is the first one of its size class
    /// (classes of programs are made when they are needed), finds no memory.
    pub fn for_each_cache(&self, mut visit: impl FnMut(&KmemCache<C::Engine>)) {
        let Some(registry) = self.registry.lock_unless_held(&self.platform) else { return };
        let mut next = registry.newest();
        while let Some(cache) = next {
            visit(cache);
            next = cache.older();
        }
    }

    /// Tells of every cache, newest first: `see` looks at one while it cannot go, and `tell` gets what was seen, with no
    /// lock held: it may allocate from this heap and do with it what it likes. As for the rest as [`Kmem::for_each_cache`].
    ///
    /// # Errors
    /// What `tell` answers; it is not called again.
    pub fn tell_of_caches<T>(
        &self,
        mut see: impl FnMut(&KmemCache<C::Engine>) -> T,
        mut tell: impl FnMut(T) -> fmt::Result,
    ) -> fmt::Result {
        let mut serial = u64::MAX;
        loop {
            let Some(registry) = self.registry.lock_unless_held(&self.platform) else { return Ok(()) };
            let Some(cache) = registry.newest_before(serial) else { return Ok(()) };
            serial = cache.serial.load(core::sync::atomic::Ordering::Relaxed);
            let seen = see(cache);
            drop(registry);
            tell(seen)?;
        }
    }
}
