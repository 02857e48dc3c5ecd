//! What a heap of SLOB holds: there are no slabs to list, only pages that everything shares.

use crate::config::Config;
use crate::engine::slob::{Fault, Slob, Stats};
use crate::heap::Kmem;
use crate::platform::Platform;

impl<P: Platform, C: Config<Engine = Slob>> Kmem<P, C> {
    /// What is in use and what is free in the pages of objects and small blocks.
    pub fn slob_stats(&self) -> Stats {
        self.engine.stats(self.floor().into())
    }

    /// Checks all of those pages. It may run beside other threads, which wait for it.
    ///
    /// # Errors
    /// The first fault found.
    pub fn validate_slob(&self) -> Result<Stats, Fault> {
        self.engine.validate(self.floor().into())
    }
}
