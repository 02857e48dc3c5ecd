//! What one node keeps of one cache: its partial slabs and its barn.

use core::sync::atomic::Ordering;

use crate::page::{Page, Pages};
use crate::percpu::barn::Barn;
use crate::platform::Platform;
use crate::sync::{Lock, rank};

/// What SLUB keeps of a cache on a node.
pub struct Stock {
    /// The slabs that are on lists.
    pub list: Lock<NodeList, { rank::NODE }>,
    /// Full sheaves, ready to be traded.
    pub barn: Lock<Barn, { rank::BARN }>,
}

impl Stock {
    /// Nothing.
    pub(crate) const fn new() -> Self {
        Self { list: Lock::new(NodeList::new()), barn: Lock::new(Barn::new()) }
    }
}

/// A list of slabs: page indices plus one, 0 for none.
pub struct List {
    head: u32,
    tail: u32,
    /// Slabs on the list.
    pub len: u32,
}

/// The slabs of a node that are on lists. A slab is on one of them at most.
pub struct NodeList {
    /// Slabs with free objects.
    pub partial: List,
    /// Checked slabs with free objects: they are worked on by other rules, so nobody may meet them among the others.
    pub checked: List,
    /// Checked slabs without free objects, so that they can be found.
    pub full: List,
}

impl NodeList {
    /// Nothing.
    pub(crate) const fn new() -> Self {
        Self { partial: List::new(), checked: List::new(), full: List::new() }
    }

    /// The slabs with free objects.
    pub(crate) fn with_room<'a, P: Platform>(
        &self,
        pages: &'a Pages<P>,
    ) -> impl Iterator<Item = &'a Page> + use<'a, P> {
        let slabs = |list: &List| core::iter::successors(list.first(pages), |slab| after(pages, slab));
        slabs(&self.partial).chain(slabs(&self.checked))
    }
}

impl List {
    /// An empty list.
    pub(crate) const fn new() -> Self {
        Self { head: 0, tail: 0, len: 0 }
    }

    /// The first slab.
    pub(crate) fn first<'a, P: Platform>(&self, pages: &'a Pages<P>) -> Option<&'a Page> {
        slab_at(pages, self.head)
    }

    /// Puts a slab at the head: the next to be allocated from.
    pub(crate) fn push_front<P: Platform>(&mut self, pages: &Pages<P>, slab: &Page) {
        let number = number(pages, slab);
        slab.prev.store(0, Ordering::Relaxed);
        slab.next.store(self.head, Ordering::Relaxed);
        match slab_at(pages, self.head) {
            Some(first) => first.prev.store(number, Ordering::Relaxed),
            None => self.tail = number,
        }
        self.head = number;
        self.len += 1;
    }

    /// Puts a slab at the tail: it gets time to drain.
    pub(crate) fn push_back<P: Platform>(&mut self, pages: &Pages<P>, slab: &Page) {
        let number = number(pages, slab);
        slab.next.store(0, Ordering::Relaxed);
        slab.prev.store(self.tail, Ordering::Relaxed);
        match slab_at(pages, self.tail) {
            Some(last) => last.next.store(number, Ordering::Relaxed),
            None => self.head = number,
        }
        self.tail = number;
        self.len += 1;
    }

    /// Takes a slab off the list.
    pub(crate) fn remove<P: Platform>(&mut self, pages: &Pages<P>, slab: &Page) {
        let next = slab.next.load(Ordering::Relaxed);
        let prev = slab.prev.load(Ordering::Relaxed);
        match slab_at(pages, prev) {
            Some(before) => before.next.store(next, Ordering::Relaxed),
            None => {
                debug_assert_eq!(self.head, number(pages, slab));
                self.head = next;
            }
        }
        match slab_at(pages, next) {
            Some(behind) => behind.prev.store(prev, Ordering::Relaxed),
            None => self.tail = prev,
        }
        self.len -= 1;
    }
}

/// The slab after `slab` on its list.
pub(crate) fn after<'a, P: Platform>(pages: &'a Pages<P>, slab: &Page) -> Option<&'a Page> {
    slab_at(pages, slab.next.load(Ordering::Relaxed))
}

#[inline]
pub(crate) fn number<P: Platform>(pages: &Pages<P>, slab: &Page) -> u32 {
    pages.index(slab) as u32 + 1
}

#[inline]
pub(crate) fn slab_at<P: Platform>(pages: &Pages<P>, number: u32) -> Option<&Page> {
    (number as usize).checked_sub(1).and_then(|index| pages.page(index))
}
