//! Regions whose pool has ended: nobody gets their addresses for a while.
//!
//! # Theory
//! While a pool lives its addresses belong to one user ([`super::region`]). When it ends somebody may still hold a pointer into one
//! of its regions; were the pages free at once, it would point into the memory of whoever asks next. So a region that ends waits
//! in a line that all pools of the heap share: its memory goes back to the world, and where the platform can make
//! addresses invalid ([`Platform::wall`]) all of it becomes one wall, so that a use of it stops the program. It leaves the line in the
//! order in which it came, as soon as more than [`MOST`] pages wait, or when a request finds no memory.
//!
//! What the world does not take back (locked memory, a kernel on bare metal) costs its memory while it waits: then a sixteenth of the
//! heap's pages may wait at most.
//!
//! # Invariants
//! - I-ENDED-1: each region of the line is headed by [`Kind::Ended`], on its first page; its other pages carry no mark. They are
//!   counted as idle.
//!
//! # Locks
//! One (`rank::POOL`), which is not held while the platform or a zone is asked for anything.

use core::sync::atomic::Ordering::Relaxed;

use super::desc::Kind;
use super::list::List;
use super::{KINDS, Pages};
use crate::platform::{PageRange, Platform};
use crate::sync::{Lock, rank};

/// Pages that wait at most: 64 MiB of addresses.
const MOST: usize = 16 << 10;
/// Marks of a region that waits (`slab_flags` of its head): its memory went back to the world;
const GONE: u16 = 1;
/// nobody reaches it. With both it is zero when it comes back: without the second a stray write may have brought some of it back.
const SHUT: u16 = 2;

/// The line. All zero is an empty one.
pub(super) struct Ended(Lock<Line, { rank::POOL }>);

struct Line {
    /// Regions by their heads, the oldest first.
    list: List,
    /// Pages of all of them.
    pages: usize,
}

impl Ended {
    pub(super) const fn new() -> Self {
        Self(Lock::new(Line { list: List::new(), pages: 0 }))
    }

    pub(super) fn held_by_caller<P: Platform>(&self, p: &P) -> bool {
        self.0.held_by_caller(p)
    }

    pub(super) fn lock_for_fork<P: Platform>(&self, p: &P) {
        self.0.lock_for_fork(p);
    }

    /// # Safety
    /// As [`Lock::unlock_after_fork`].
    pub(super) unsafe fn unlock_after_fork<P: Platform>(&self, p: &P) {
        // SAFETY: the caller's promise.
        unsafe { self.0.unlock_after_fork(p) };
    }
}

impl<P: Platform> Pages<P> {
    /// A region of so many pages, a power of two, has left its pool, and all of it is the caller's: it waits at the end of the line,
    /// and those at its front go if there are too many.
    pub(super) fn end_region(&self, p: &P, first: usize, pages: usize) {
        debug_assert!(pages.is_power_of_two() && first.is_multiple_of(pages));
        let descs = self.descs();
        let range = PageRange { first, count: pages };
        // SAFETY: the caller's pages, walls included.
        let gone = unsafe { p.discard(range) };
        let shut = p.wall(range);
        if !gone {
            self.idle.dirty.fetch_add(pages, Relaxed);
        }
        for index in first + 1..first + pages {
            descs.page(index).set_kind(Kind::None);
        }
        let head = descs.page(first);
        head.set_order(pages.trailing_zeros());
        head.set_span(pages);
        head.slab_flags.store(if gone { GONE } else { 0 } | if shut { SHUT } else { 0 }, Relaxed);
        head.set_kind(Kind::Ended);
        let mut waiting = {
            let mut line = self.ended.0.lock(p);
            line.list.push_back(descs, first);
            line.pages += pages;
            line.pages
        };
        let most = if gone { MOST } else { MOST.min(self.managed() / 16) };
        while waiting > most && self.release_ended(p) {
            waiting = self.ended.0.lock(p).pages;
        }
    }

    /// Pages of all zones.
    fn managed(&self) -> usize {
        self.populated().map(|(_, zone)| zone.managed.load(Relaxed)).sum()
    }

    /// Makes the region that has waited longest free pages for anybody. False: none waits, or its addresses cannot be used again.
    pub(super) fn release_ended(&self, p: &P) -> bool {
        let descs = self.descs();
        let first = {
            let mut line = self.ended.0.lock(p);
            let Some(first) = line.list.first() else { return false };
            line.list.remove(descs, first);
            line.pages -= descs.page(first).pages();
            first
        };
        self.tell_damage(p);
        let head = descs.page(first);
        let (order, pages, home) = (head.order(), head.pages(), Self::home_of_head(head));
        if !p.unwall(PageRange { first, count: pages }) {
            // As it was; whoever comes next tries again.
            let mut line = self.ended.0.lock(p);
            line.list.push_front(descs, first);
            line.pages += pages;
            return false;
        }
        let marks = head.slab_flags.swap(0, Relaxed);
        self.idle.pages.fetch_sub(pages, Relaxed);
        self.idle.regions.fetch_sub(pages, Relaxed);
        if marks & GONE == 0 {
            self.idle.dirty.fetch_sub(pages, Relaxed);
        }
        let excess = {
            let mut areas = self.zone(home).areas.lock(p);
            if marks == GONE | SHUT {
                areas.give(descs, first, order, true);
            } else {
                areas.give_range(descs, first, pages);
            }
            self.excess(&areas)
        };
        self.relieve(p, home.node * KINDS + home.zone as usize, excess);
        true
    }
}
