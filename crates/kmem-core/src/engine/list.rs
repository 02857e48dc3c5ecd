//! A list of slabs, linked through their page descriptors.
//!
//! A link is a page's number in the window plus one; 0 ends the list. The links of a slab belong to whichever list it is
//! on, and that belongs to whoever holds the lock of its node.

use core::sync::atomic::Ordering;

use crate::page::{Lens, Page, Pages};
use crate::platform::{PAGE_SHIFT, Platform};

/// Slabs in an order.
pub struct SlabList {
    head: u32,
    tail: u32,
    /// How many there are.
    pub len: u32,
}

impl SlabList {
    /// No slabs.
    pub(crate) const fn new() -> Self {
        Self { head: 0, tail: 0, len: 0 }
    }

    /// The first slab.
    pub(crate) fn first<'a, P: Platform>(&self, pages: &'a Pages<P>) -> Option<&'a Page> {
        at(pages, self.head)
    }

    /// The slab after `slab`.
    pub(crate) fn after<'a, P: Platform>(&self, pages: &'a Pages<P>, slab: &Page) -> Option<&'a Page> {
        at(pages, slab.next.load(Ordering::Relaxed))
    }

    /// The slabs, first to last. The list must not change meanwhile.
    pub(crate) fn iter<'a, P: Platform>(
        &self,
        pages: &'a Pages<P>,
    ) -> impl Iterator<Item = &'a Page> + use<'a, P> {
        core::iter::successors(self.first(pages), |slab| at(pages, slab.next.load(Ordering::Relaxed)))
    }

    /// Adds a slab at the head.
    pub(crate) fn push_front<P: Platform>(&mut self, pages: &Pages<P>, slab: &Page) {
        let number = number(pages, slab);
        slab.prev.store(0, Ordering::Relaxed);
        slab.next.store(self.head, Ordering::Relaxed);
        match at(pages, self.head) {
            Some(first) => first.prev.store(number, Ordering::Relaxed),
            None => self.tail = number,
        }
        self.head = number;
        self.len += 1;
    }

    /// Adds a slab at the tail.
    pub(crate) fn push_back<P: Platform>(&mut self, pages: &Pages<P>, slab: &Page) {
        let number = number(pages, slab);
        slab.next.store(0, Ordering::Relaxed);
        slab.prev.store(self.tail, Ordering::Relaxed);
        match at(pages, self.tail) {
            Some(last) => last.next.store(number, Ordering::Relaxed),
            None => self.head = number,
        }
        self.tail = number;
        self.len += 1;
    }

    /// Moves a slab of this list, whose head page has this index, to its tail.
    #[inline]
    pub(crate) fn move_to_tail(&mut self, lens: Lens<'_>, slab: &Page, index: usize) {
        let (next, prev) = (slab.next.load(Ordering::Relaxed), slab.prev.load(Ordering::Relaxed));
        if next == 0 {
            return;
        }
        // Numbers are indexes plus one; the list is not empty.
        let of = |number: u32| lens.page(number as usize - 1);
        match prev {
            0 => self.head = next,
            prev => of(prev).next.store(next, Ordering::Relaxed),
        }
        of(next).prev.store(prev, Ordering::Relaxed);
        slab.next.store(0, Ordering::Relaxed);
        slab.prev.store(self.tail, Ordering::Relaxed);
        let number = index as u32 + 1;
        of(self.tail).next.store(number, Ordering::Relaxed);
        self.tail = number;
    }

    /// Cuts off the last slabs, at most so many: the last of all, and how many they are. Their links stay as they were, to be
    /// walked with [`before`].
    pub(crate) fn cut_tail<P: Platform>(&mut self, pages: &Pages<P>, most: u64) -> (u32, u32) {
        let last = self.tail;
        let mut cut = 0;
        while cut < self.len && u64::from(cut) < most {
            let Some(slab) = at(pages, self.tail) else { break };
            self.tail = slab.prev.load(Ordering::Relaxed);
            cut += 1;
        }
        match at(pages, self.tail) {
            Some(slab) => slab.next.store(0, Ordering::Relaxed),
            None => self.head = 0,
        }
        self.len -= cut;
        (last, cut)
    }

    /// The slabs beside a slab lead back to it, as beside a member they do: it was not taken out before, and nobody wrote over its links.
    /// A link that leads out of the heap's memory is not followed.
    pub(crate) fn holds<P: Platform>(&self, pages: &Pages<P>, slab: &Page) -> bool {
        let number = number(pages, slab);
        let of = |link: u32| pages.at(pages.base_address() + ((link as usize - 1) << PAGE_SHIFT));
        let forth = match slab.prev.load(Ordering::Relaxed) {
            0 => Some(self.head),
            link => of(link).map(|before| before.next.load(Ordering::Relaxed)),
        };
        let back = match slab.next.load(Ordering::Relaxed) {
            0 => Some(self.tail),
            link => of(link).map(|behind| behind.prev.load(Ordering::Relaxed)),
        };
        forth == Some(number) && back == Some(number)
    }

    /// Takes a slab of this list out.
    pub(crate) fn remove<P: Platform>(&mut self, pages: &Pages<P>, slab: &Page) {
        let next = slab.next.load(Ordering::Relaxed);
        let prev = slab.prev.load(Ordering::Relaxed);
        match at(pages, prev) {
            Some(before) => before.next.store(next, Ordering::Relaxed),
            None => {
                debug_assert_eq!(self.head, number(pages, slab));
                self.head = next;
            }
        }
        match at(pages, next) {
            Some(behind) => behind.prev.store(prev, Ordering::Relaxed),
            None => self.tail = prev,
        }
        self.len -= 1;
    }
}

/// The number of the slab before one that was cut off a list.
#[inline]
pub(crate) fn before(slab: &Page) -> u32 {
    slab.prev.load(Ordering::Relaxed)
}

/// The number of a slab: its head page's index plus one.
#[inline]
pub(crate) fn number<P: Platform>(pages: &Pages<P>, slab: &Page) -> u32 {
    pages.index(slab) as u32 + 1
}

/// The slab of a number; nothing for 0.
#[inline]
pub(crate) fn at<P: Platform>(pages: &Pages<P>, number: u32) -> Option<&Page> {
    // Only numbers of slabs are ever written: no look at the block map.
    (number as usize).checked_sub(1).map(|index| pages.by_index(index))
}
