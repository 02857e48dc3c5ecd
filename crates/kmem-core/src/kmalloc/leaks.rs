//! What is in use of a heap, grouped by the stacks that allocated it: objects of caches, large blocks and mappings.

use core::fmt;

use crate::config::Config;
use crate::debug::leaks::{Leaks, Totals};
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
        for order in 2..=MAX_ORDER {
            // The table is there before any lock is taken; one that is too small is thrown away.
            let Some(mut leaks) = Leaks::new(&self.platform, &self.pages, order) else { break };
            self.add_leaks(&mut leaks);
            if self.debug.tracks_large() {
                self.each_large(|bytes, stack| leaks.add(stack, 0, bytes));
                self.huge.each(&self.platform, |bytes, stack| leaks.add(stack, 0, bytes));
            }
            if !leaks.overflowed() || order == MAX_ORDER {
                return leaks.write(&self.debug, shown, out).map(Some);
            }
        }
        Ok(None)
    }
}
