//! Each CPU's lists of free pages, in front of the zone's lock.
//!
//! # Theory
//! Slabs come and go in small orders. A CPU keeps a few blocks of the orders 0 to 3 for itself, fetched and
//! returned in batches, so that most requests take only this CPU's lock, which nobody else wants.
//!
//! All blocks on a CPU's lists are of one zone, its *home*: the one that last served a request of
//! this CPU for memory of its own node without further wishes. Requests for other zones, and
//! frees of pages of other zones, pass the lists by. So a block needs no zone look-up here, and
//! a CPU never hoards memory of a zone that it does not use.
//!
//! # Invariants (under the CPU's lock)
//! - I-PCP-1: every block on the lists is [`Kind::List`], of an order up to [`MAX_LIST_ORDER`], on the list of its
//!   order and of the mobility it was allocated for, and of the home zone.
//! - I-PCP-2: `pages` is the sum of their pages, at most [`Platform::listed_pages`](crate::platform::Platform::listed_pages) when
//!   the lock is free.
//! - I-PCP-3: a list's bit in `nonempty` is set exactly when the list has members.
//!
//! Lock order: a CPU's lock before a zone's lock.

use super::desc::{IS_ZERO, Kind, Page};
use super::list::{Descs, List};
use super::mobility::{Mobility, TYPES};
use super::zone::Taken;
use crate::sync::{Lock, rank};

/// The largest order kept on CPU lists: SLUB's largest usual slab.
pub(super) const MAX_LIST_ORDER: u32 = 3;
/// Pages fetched or returned at once (in blocks: `BATCH >> order`).
pub(super) const BATCH: usize = 32;
/// Pages that a CPU may keep everywhere: 256 KiB.
const LEAST_HIGH: usize = 64;

const LISTS: usize = (MAX_LIST_ORDER as usize + 1) * TYPES;
const _: () = assert!(BATCH >> MAX_LIST_ORDER >= 1 && LEAST_HIGH >= 2 * BATCH);

/// One CPU's lists. All zero is a CPU without pages and without a home.
#[repr(C, align(64))]
pub(super) struct CpuLists {
    pub(super) lists: Lock<Lists, { rank::PAGE_LIST }>,
}

pub(super) struct Lists {
    lists: [List; LISTS],
    nonempty: u16,
    /// Where the next return of a batch begins, so that each list gets its turn.
    cursor: u8,
    /// Zone number + 1; 0 is none.
    home: u8,
    pub(super) pages: u32,
    /// Changes with every change of the lists: tells a checker that nothing happened meanwhile.
    pub(super) changes: u32,
}

const fn list_number(order: u32, mobility: Mobility) -> usize {
    order as usize * TYPES + mobility as usize
}

impl Lists {
    #[inline]
    pub(super) fn home(&self) -> Option<usize> {
        usize::from(self.home).checked_sub(1)
    }

    /// Moves the CPU to another home. The lists must be empty.
    pub(super) fn set_home(&mut self, zone: usize) {
        debug_assert_eq!(self.pages, 0);
        self.home = zone as u8 + 1;
    }

    /// Takes the block freed last; it is [`Kind::Allocated`] then.
    #[inline]
    pub(super) fn pop(&mut self, descs: Descs, order: u32, mobility: Mobility) -> Option<Taken> {
        let number = list_number(order, mobility);
        let index = self.lists[number].first()?;
        let page = descs.page(index);
        let zeroed = self.take_out(descs, number, index, page);
        page.set_span(1 << order);
        page.set_kind(Kind::Allocated);
        Some(Taken { index, zeroed })
    }

    /// Keeps a block that the caller owns.
    #[inline]
    pub(super) fn push(&mut self, descs: Descs, index: usize, order: u32, zeroed: bool) {
        let page = descs.page(index);
        let number = list_number(order, page.mobility());
        page.set_order(order);
        if zeroed {
            page.add_mark(IS_ZERO);
        }
        page.set_kind(Kind::List);
        self.lists[number].push_front(descs, index);
        self.nonempty |= 1 << number;
        self.pages += 1 << order;
        self.changes = self.changes.wrapping_add(1);
    }

    #[inline]
    fn take_out(&mut self, descs: Descs, number: usize, index: usize, page: &Page) -> bool {
        debug_assert!(page.kind() == Kind::List);
        let list = &mut self.lists[number];
        list.remove(descs, index);
        if list.is_empty() {
            self.nonempty &= !(1 << number);
        }
        self.pages -= 1 << page.order();
        self.changes = self.changes.wrapping_add(1);
        let zeroed = page.marks() & IS_ZERO != 0;
        page.set_order(page.order());
        zeroed
    }

    /// Takes out the block that lay longest on the next list in turn: (index, order, content is zero).
    pub(super) fn evict(&mut self, descs: Descs) -> Option<(usize, u32, bool)> {
        if self.nonempty == 0 {
            return None;
        }
        let later = self.nonempty >> self.cursor;
        let number = if later != 0 {
            usize::from(self.cursor) + later.trailing_zeros() as usize
        } else {
            self.nonempty.trailing_zeros() as usize
        };
        self.cursor = if number + 1 == LISTS { 0 } else { number as u8 + 1 };
        let index = self.lists[number].last()?;
        let page = descs.page(index);
        let zeroed = self.take_out(descs, number, index, page);
        Some((index, page.order(), zeroed))
    }

    /// The lists with what each must hold, for the checker.
    pub(super) fn each_list(&self, mut with: impl FnMut(&List, u32, Mobility, bool)) {
        for order in 0..=MAX_LIST_ORDER {
            for mobility in Mobility::ALL {
                let number = list_number(order, mobility);
                with(&self.lists[number], order, mobility, self.nonempty & 1 << number != 0);
            }
        }
    }
}
