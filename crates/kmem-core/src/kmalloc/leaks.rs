//! What is in use of a heap, grouped by the stacks that allocated it: objects of caches, large blocks and mappings.

use core::fmt;
use core::sync::atomic::Ordering;

use crate::cache::KmemCache;
use crate::config::Config;
use crate::debug::leaks::{Class, Leaks, Totals};
use crate::debug::stacks::Handle;
use crate::engine::Engine;
use crate::flags::SlabFlags;
use crate::heap::Kmem;
use crate::kmalloc::large::LARGE;
use crate::page::Kind;
use crate::platform::{MAX_ORDER, Platform};

/// A heap whose CPUs keep nothing; see [`Kmem::quieten`].
pub struct Quiet<'a, P: Platform, C: Config>(&'a Kmem<P, C>);

impl<P: Platform, C: Config> Drop for Quiet<'_, P, C> {
    fn drop(&mut self) {
        self.0.debug.set_gathered(false);
        self.0.for_each_cache(|cache| self.0.follow_faults(cache));
    }
}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Writes which objects and blocks are in use now, grouped by the stack that allocated them, the most bytes first:
    /// [`crate::debug::leaks`]. Caches without the letter U, and blocks without a cache where the options do not ask for their
    /// stacks, tell only while the heap is [quiet](Kmem::quieten). A group that `shown` does not want is only counted. `None`: no memory
    /// for the sums.
    ///
    /// # Errors
    /// What `out` answers.
    pub fn write_leaks(
        &self,
        shown: &mut dyn FnMut(&[usize]) -> bool,
        out: &mut dyn fmt::Write,
    ) -> Result<Option<Totals>, fmt::Error> {
        self.write_leaks_by(&mut |_| Class::InUse, shown, false, out)
    }

    /// The same, where `class_of` tells of each block, by its address, what became of it: groups of those that are lost come
    /// first; those that can still be reached are added up, and written if `reachable`. It is called with locks held: it must
    /// not use the heap.
    ///
    /// # Errors
    /// What `out` answers.
    pub fn write_leaks_by(
        &self,
        class_of: &mut dyn FnMut(usize) -> Class,
        shown: &mut dyn FnMut(&[usize]) -> bool,
        reachable: bool,
        out: &mut dyn fmt::Write,
    ) -> Result<Option<Totals>, fmt::Error> {
        for order in 2..=MAX_ORDER {
            // The table is there before any lock is taken; one that is too small is thrown away.
            let Some(mut leaks) = Leaks::new(&self.platform, &self.pages, order) else { break };
            self.each_tracked(&mut |object, track, asked, _| {
                leaks.add(class_of(object), track.stack, track.address, asked);
            });
            self.each_untracked(&mut |object, bytes, cache| leaks.add_of(class_of(object), cache, bytes));
            self.each_without_cache(&mut |block, bytes, stack| match stack {
                0 => leaks.add_of(class_of(block), LARGE, bytes),
                stack => leaks.add(class_of(block), stack, 0, bytes),
            });
            if !leaks.overflowed() || order == MAX_ORDER {
                return leaks.write(&self.debug, shown, reachable, out).map(Some);
            }
        }
        Ok(None)
    }

    /// Shows address and size of every block and object in use that [`Kmem::write_leaks`] would write. Called with locks held: `visit`
    /// must not use the heap.
    pub fn each_in_use(&self, visit: &mut dyn FnMut(usize, usize)) {
        self.each_tracked(&mut |object, _, _, bytes| visit(object, bytes));
        self.each_untracked(&mut |object, bytes, _| visit(object, bytes));
        self.each_without_cache(&mut |block, bytes, _| visit(block, bytes));
    }

    /// Where the heap lists its mappings, outside of the platform's window: pointers there are its own.
    pub fn list_of_mappings(&self) -> (usize, usize) {
        self.huge.place(&self.platform)
    }

    fn each_without_cache(&self, visit: &mut dyn FnMut(usize, usize, Handle)) {
        if self.debug.tracks_large() {
            self.each_large(&mut *visit);
            self.huge.each(&self.platform, |entry| {
                let bytes = if entry.track.known != 0 { entry.asked.size } else { entry.bytes };
                visit(entry.address, bytes, entry.track.stack);
            });
        } else if self.debug.is_gathered() {
            // Where no stacks are kept they mean nothing.
            self.each_large(|block, bytes, _| visit(block, bytes, 0));
            self.huge.each(&self.platform, |entry| visit(entry.address, entry.bytes, 0));
        }
    }

    /// From now on no CPU keeps free objects of caches without tracks, until the answer is dropped: the slabs know which of theirs
    /// are in use. For the end of a program: meanwhile each allocation takes a lock.
    pub fn quieten(&self) -> Quiet<'_, P, C> {
        self.debug.set_gathered(true);
        self.for_each_cache(|cache| {
            if self.is_untracked(cache) {
                // Relaxed: the flush takes the lock of each stack.
                cache.engine.closed.store(true, Ordering::Relaxed);
                self.flush(cache);
            }
        });
        Quiet(self)
    }

    /// A cache of the program's, none of the heap's own, whose objects do not tell who allocated them.
    fn is_untracked(&self, cache: &KmemCache<C::Engine>) -> bool {
        cache.refcount.load(Ordering::Relaxed) > 0
            && !C::Engine::letters(&cache.engine).contains(SlabFlags::STORE_USER)
    }

    /// Shows the objects in use of caches without tracks in a quiet heap: address, bytes, name of the cache.
    fn each_untracked(&self, visit: &mut dyn FnMut(usize, usize, &'static str)) {
        if !self.debug.is_gathered() {
            return;
        }
        // While no cache can go.
        let Some(_registry) = self.registry.lock_unless_held(&self.platform) else { return };
        self.pages.each_of(Kind::Slab, |slab| {
            // SAFETY: a slab's descriptor points to its cache, which no one can destroy now; null while it is being made.
            let cache = unsafe { slab.cache.load(Ordering::Relaxed).cast::<KmemCache<C::Engine>>().as_ref() };
            if let Some(cache) = cache.filter(|cache| self.is_untracked(cache)) {
                C::Engine::visit_in_use(self.floor(), &cache.engine, slab, &mut |object| {
                    visit(object, cache.object_size(), cache.engine.name);
                });
            }
        });
    }
}
