//! What is in use of a heap, grouped by the stacks that allocated it: objects of caches, large blocks and mappings.

use core::fmt;

use crate::config::Config;
use crate::debug::leaks::{Class, Leaks, Totals};
use crate::debug::stacks::Handle;
use crate::heap::Kmem;
use crate::platform::{MAX_ORDER, Platform};

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Writes which objects and blocks are in use now, grouped by the stack that allocated them, the most bytes first:
    /// [`crate::debug::leaks`]. Caches without the letter U do not tell; blocks without a cache do where the
    /// options ask for their stacks. A group that `shown` does not want is only counted. `None`: no memory
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
            self.each_without_cache(&mut |block, bytes, stack| leaks.add(class_of(block), stack, 0, bytes));
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
        }
    }
}
