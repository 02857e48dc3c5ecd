//! A ring of pages, threaded through their descriptors.
//!
//! A list whose last page links back to the first: turning it so that another page comes first is one store,
//! which is what the search wants after each success.
//!
//! Invariant I-SLOB-3: the links of a page mean something while it is on a ring; they belong to the holder
//! of the heap's lock then, and the page is the `prev` of its `next`.
//!
//! Descriptors are memory, and a program that writes anywhere may hit one. So no link is believed: who walks on, or takes a page off, looks
//! whether the page that a link leads to leads back. Where it does not [`Ring::mend`] joins what is sound of the ring, as
//! `page::mend` does of a list.

use core::sync::atomic::Ordering::Relaxed;

use crate::page::{Page, Pages};
use crate::platform::Platform;

/// A ring of pages.
pub(super) struct Ring {
    /// Index of the first page plus one; 0 when there is none.
    first: u32,
    len: u32,
}

fn number<P: Platform>(pages: &Pages<P>, page: &Page) -> u32 {
    pages.index(page) as u32 + 1
}

fn page_at<P: Platform>(pages: &Pages<P>, number: u32) -> Option<&Page> {
    (number as usize).checked_sub(1).and_then(|index| pages.page(index))
}

/// Makes `right` the neighbour of `left`. Relaxed: the heap's lock orders it (I-SLOB-3).
fn join<P: Platform>(pages: &Pages<P>, left: u32, right: u32) {
    let (Some(before), Some(after)) = (page_at(pages, left), page_at(pages, right)) else { return };
    before.next.store(right, Relaxed);
    after.prev.store(left, Relaxed);
}

impl Ring {
    pub(super) const fn new() -> Self {
        Self { first: 0, len: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len as usize
    }

    /// The page that the next search looks at first.
    pub(super) fn first<'a, P: Platform>(&self, pages: &'a Pages<P>) -> Option<&'a Page> {
        page_at(pages, self.first)
    }

    /// The page after one that is on the ring; nothing where the link leads elsewhere.
    pub(super) fn after<'a, P: Platform>(pages: &'a Pages<P>, page: &Page) -> Option<&'a Page> {
        let this = number(pages, page);
        page_at(pages, page.next.load(Relaxed)).filter(|next| next.prev.load(Relaxed) == this)
    }

    /// The page before one that is on the ring, as far as it leads there.
    fn before<'a, P: Platform>(pages: &'a Pages<P>, page: &Page) -> Option<&'a Page> {
        let this = number(pages, page);
        page_at(pages, page.prev.load(Relaxed)).filter(|before| before.next.load(Relaxed) == this)
    }

    /// Both neighbours of a page lead back to it.
    pub(super) fn holds<P: Platform>(pages: &Pages<P>, page: &Page) -> bool {
        Self::after(pages, page).is_some() && Self::before(pages, page).is_some()
    }

    /// The ring can take a page in: its first page and its last lead to each other.
    pub(super) fn closes<P: Platform>(&self, pages: &Pages<P>) -> bool {
        self.first(pages).is_none_or(|first| Self::before(pages, first).is_some())
    }

    /// Joins what is sound of the ring from its first page on and, backwards, up to it. True: the page is on it.
    #[cold]
    #[inline(never)]
    pub(super) fn mend<P: Platform>(&mut self, pages: &Pages<P>, page: &Page) -> bool {
        let Some(first) = self.first(pages) else { return false };
        let this = number(pages, page);
        let mut found = self.first == this;
        let (mut front, mut back, mut len) = (first, first, 1);
        while len < self.len
            && let Some(next) = Self::after(pages, front)
        {
            (front, len) = (next, len + 1);
            found |= number(pages, next) == this;
        }
        while len < self.len
            && let Some(before) = Self::before(pages, back)
        {
            (back, len) = (before, len + 1);
            found |= number(pages, before) == this;
        }
        join(pages, number(pages, front), number(pages, back));
        self.len = len;
        found
    }

    /// Makes a page that is on no ring the first of this one, which [closes](Ring::closes).
    pub(super) fn push<P: Platform>(&mut self, pages: &Pages<P>, page: &Page) {
        let this = number(pages, page);
        match self.first(pages) {
            Some(first) => {
                let last = first.prev.load(Relaxed);
                join(pages, last, this);
                join(pages, this, self.first);
            }
            None => join(pages, this, this),
        }
        self.first = this;
        self.len += 1;
    }

    /// Takes a page off this ring, which [holds](Ring::holds) it.
    pub(super) fn remove<P: Platform>(&mut self, pages: &Pages<P>, page: &Page) {
        debug_assert!(self.len > 0);
        let (next, prev) = (page.next.load(Relaxed), page.prev.load(Relaxed));
        join(pages, prev, next);
        if self.first == number(pages, page) {
            self.first = next;
        }
        self.len -= 1;
        if self.len == 0 {
            self.first = 0;
        }
    }

    /// Turns the ring so that a page of it comes first.
    pub(super) fn turn_to<P: Platform>(&mut self, pages: &Pages<P>, page: &Page) {
        debug_assert!(self.len > 0);
        self.first = number(pages, page);
    }
}
