//! What one node keeps of one cache: its partial slabs and its barn.

use crate::engine::list::SlabList;
use crate::percpu::barn::Barn;
use crate::sync::{Lock, rank};

/// What SLUB keeps of a cache on a node.
pub struct Stock {
    /// The partial slabs. The head is the next to be allocated from; what goes to the tail gets time to drain.
    pub list: Lock<SlabList, { rank::NODE }>,
    /// Full sheaves, ready to be traded.
    pub barn: Lock<Barn, { rank::BARN }>,
}

impl Stock {
    /// Nothing.
    pub(crate) const fn new() -> Self {
        Self { list: Lock::new(SlabList::new()), barn: Lock::new(Barn::new()) }
    }
}
