//! What one node keeps of one cache: its slabs that are on lists, and its barn.

use crate::engine::list::SlabList;
use crate::page::{Page, Pages, Pool};
use crate::percpu::barn::Barn;
use crate::platform::Platform;
use crate::sync::{Lock, rank};

/// What SLUB keeps of a cache on a node.
pub struct Stock {
    /// The slabs that are on lists.
    pub list: Lock<NodeLists, { rank::NODE }>,
    /// Full sheaves, ready to be traded.
    pub barn: Lock<Barn, { rank::BARN }>,
    /// Addresses of slabs, in a heap that pins them.
    pub pool: Pool,
}

impl Stock {
    /// Nothing.
    pub(crate) const fn new() -> Self {
        Self { list: Lock::new(NodeLists::new()), barn: Lock::new(Barn::new()), pool: Pool::new() }
    }
}

/// The slabs of a node that are on lists. A slab is on one of them at most.
pub struct NodeLists {
    /// Slabs with free objects. The head is the next to be allocated from; what goes to the tail gets time to drain.
    pub partial: SlabList,
    /// Checked slabs with free objects, in the same order: they are worked on by other rules, so nobody may meet
    /// them among the others.
    pub checked: SlabList,
    /// Checked slabs without free objects, so that they can be found.
    pub full: SlabList,
}

impl NodeLists {
    /// Nothing.
    pub(crate) const fn new() -> Self {
        Self { partial: SlabList::new(), checked: SlabList::new(), full: SlabList::new() }
    }

    /// The slabs with free objects.
    pub(crate) fn with_room<'a, P: Platform>(
        &self,
        pages: &'a Pages<P>,
    ) -> impl Iterator<Item = &'a Page> + use<'a, P> {
        self.partial.iter(pages).chain(self.checked.iter(pages))
    }
}
