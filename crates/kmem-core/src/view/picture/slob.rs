//! A heap of SLOB: its shared pages in the order in which a search looks at them, and what is free in each.
//!
//! What the blocks between the free ones are nobody knows but their holders.

use crate::config::Config;
use crate::engine::slob::{Sight, Slob};
use crate::heap::Kmem;
use crate::platform::Platform;

impl<P: Platform, C: Config<Engine = Slob>> Kmem<P, C> {
    /// Shows every page of the heap, each followed by its free blocks: first those of the three lists, from where the next
    /// search begins, then all others.
    pub fn each_slob_page(&self, see: impl FnMut(Sight)) {
        self.engine.show(self.floor().into(), see);
    }
}
