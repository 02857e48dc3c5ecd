//! A list of slabs, linked through their page descriptors.
//!
//! A link is a page's number in the window plus one; 0 ends the list. The links of a slab belong to whichever list it is
//! on, and that belongs to whoever holds the lock of its node.
//!
//! # Links that were written over
//! Descriptors are memory, and a program that writes anywhere may hit one. So no link is believed, unless the platform says so
//! ([`Platform::CHECKS_LINKS`]): the slab that it leads to must be a page of the heap and lead back, as with the kernel's `CONFIG_LIST_HARDENED`. A walk ends where that is not so. Who takes a slab
//! out (`SlabList::take_out`) learns of it, and the list is mended (`page::mend`). What lies between two damaged slabs is on no list
//! then, and of no use unless a slab has another reason to be put on one: an object that comes back to it, for instance.
//!
//! # Never
//! Nothing here reports, but `tell_damaged`.

use core::sync::atomic::Ordering;

use crate::debug::report::brief;
use crate::engine::{Cache, Engine, Floor};
use crate::page::{Ends, Lens, Page, Pages, mend};
use crate::platform::Platform;

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

    /// The slab after `slab`; nothing where the link leads elsewhere.
    pub(crate) fn after<'a, P: Platform>(&self, pages: &'a Pages<P>, slab: &Page) -> Option<&'a Page> {
        let next = slab.next.load(Ordering::Relaxed);
        if !P::CHECKS_LINKS {
            return at(pages, next);
        }
        let this = number(pages, slab);
        linked(pages, next).filter(|behind| behind.prev.load(Ordering::Relaxed) == this)
    }

    /// The slabs, first to last. The list must not change meanwhile.
    pub(crate) fn iter<'a, P: Platform>(
        &self,
        pages: &'a Pages<P>,
    ) -> impl Iterator<Item = &'a Page> + use<'a, P> {
        let this = Self { head: self.head, tail: self.tail, len: self.len };
        core::iter::successors(self.first(pages), move |slab| this.after(pages, slab)).take(self.len as usize)
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

    /// Moves a slab of this list, whose head page has this index, to its tail. False: links were damaged, and are mended.
    #[inline]
    #[must_use]
    pub(crate) fn move_to_tail<P: Platform>(
        &mut self,
        pages: &Pages<P>,
        lens: Lens<'_>,
        slab: &Page,
        index: usize,
    ) -> bool {
        // Numbers are indexes plus one.
        let number = index as u32 + 1;
        let next = slab.next.load(Ordering::Relaxed);
        if next == 0 && (!P::CHECKS_LINKS || self.tail == number) {
            return true;
        }
        if P::CHECKS_LINKS && !self.holds(pages, slab) {
            let sound = self.take_out_damaged(pages, slab);
            self.push_back(pages, slab);
            return sound;
        }
        // The list is not empty.
        let of = |number: u32| lens.page(number as usize - 1);
        let prev = slab.prev.load(Ordering::Relaxed);
        match prev {
            0 => self.head = next,
            prev => of(prev).next.store(next, Ordering::Relaxed),
        }
        of(next).prev.store(prev, Ordering::Relaxed);
        slab.next.store(0, Ordering::Relaxed);
        slab.prev.store(self.tail, Ordering::Relaxed);
        of(self.tail).next.store(number, Ordering::Relaxed);
        self.tail = number;
        true
    }

    /// Cuts off the last slabs, at most so many: the last of all, and how many they are. Their links stay as they were, to be
    /// walked with [`before`]. Where a slab's links are damaged the list is mended, and no more is cut off; that slab is the third answer.
    pub(crate) fn cut_tail<'a, P: Platform>(
        &mut self,
        pages: &'a Pages<P>,
        most: u64,
    ) -> (u32, u32, Option<&'a Page>) {
        let last = self.tail;
        let mut cut = 0;
        while cut < self.len && u64::from(cut) < most {
            let Some(slab) = at(pages, self.tail) else { break };
            if P::CHECKS_LINKS && !self.holds(pages, slab) {
                slab.next.store(0, Ordering::Relaxed);
                self.len -= cut;
                self.mend(pages);
                return (last, cut, Some(slab));
            }
            self.tail = slab.prev.load(Ordering::Relaxed);
            cut += 1;
        }
        match at(pages, self.tail) {
            Some(slab) => slab.next.store(0, Ordering::Relaxed),
            None => self.head = 0,
        }
        self.len -= cut;
        (last, cut, None)
    }

    /// The slabs beside a slab lead back to it, as beside a member they do: it was not taken out before, and nobody wrote over its links.
    /// A link that leads out of the heap's memory is not followed.
    #[inline]
    pub(crate) fn holds<P: Platform>(&self, pages: &Pages<P>, slab: &Page) -> bool {
        let number = number(pages, slab);
        let forth = match slab.prev.load(Ordering::Relaxed) {
            0 => Some(self.head),
            link => linked(pages, link).map(|before| before.next.load(Ordering::Relaxed)),
        };
        let back = match slab.next.load(Ordering::Relaxed) {
            0 => Some(self.tail),
            link => linked(pages, link).map(|behind| behind.prev.load(Ordering::Relaxed)),
        };
        forth == Some(number) && back == Some(number)
    }

    /// Takes a slab out. False: it was not on the list, by its links. Then the list is mended, and the slab is not on it.
    #[inline]
    #[must_use]
    pub(crate) fn take_out<P: Platform>(&mut self, pages: &Pages<P>, slab: &Page) -> bool {
        if !P::CHECKS_LINKS || self.holds(pages, slab) {
            self.remove(pages, slab);
            return true;
        }
        self.take_out_damaged(pages, slab)
    }

    #[cold]
    #[inline(never)]
    fn take_out_damaged<P: Platform>(&mut self, pages: &Pages<P>, slab: &Page) -> bool {
        // One that was between two damaged ones: nothing is wrong any more.
        let empty = self.len == 0;
        self.mend(pages);
        let this = number(pages, slab);
        if self.iter(pages).any(|other| number(pages, other) == this) {
            self.remove(pages, slab);
        }
        empty
    }

    fn mend<P: Platform>(&mut self, pages: &Pages<P>) {
        let ends = Ends { first: self.head, last: self.tail, len: self.len };
        let Ends { first, last, len } = mend(ends, |number| linked(pages, number));
        *self = Self { head: first, tail: last, len };
    }

    /// Takes a slab out that is on the list, as [`SlabList::holds`] says or its caller just put it there.
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
        // Not more than there are: slabs that were lost with a damaged list may lead to each other.
        self.len = self.len.saturating_sub(1);
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

/// The page of a link that may have been written over; nothing for 0, and where the heap has no memory.
#[inline]
fn linked<P: Platform>(pages: &Pages<P>, link: u32) -> Option<&Page> {
    (link as usize).checked_sub(1).and_then(|index| pages.page(index))
}

/// Says that a list of slabs was damaged, where one was to be taken out.
#[cold]
#[inline(never)]
pub(crate) fn tell_damaged<P: Platform, E: Engine>(floor: Floor<'_, P, E>, cache: &Cache<E>, slab: &Page) {
    let (name, start) = (cache.name, floor.pages.address(slab));
    brief(
        floor.platform,
        floor.debug,
        name,
        format_args!("BUG {name}: Slab list corrupt at slab {start:p}; FIX {name}: List of slabs mended"),
    );
}
