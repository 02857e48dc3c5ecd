//! The free memory of one zone of one node: the buddy allocator proper.
//!
//! # Theory
//! Free memory is kept in *blocks* of 2^order pages, aligned to their own size. A request splits the
//! smallest block that fits, giving the upper halves back; a freed block joins its *buddy* (the block
//! whose index differs in the one bit of the order) as long as that is free too, up to order 10.
//!
//! A block lies on the list of its order and of the mobility of its pageblock. Lists keep blocks that
//! may hold data (*dirty*, probably resident) before blocks known to be zero (fresh or discarded,
//! probably not resident): requests take from the front, so resident memory is used again first, and
//! whoever wants to give memory back looks at the front as well.
//!
//! # Invariants (under the zone's lock)
//! - I-ZONE-1: each page of the zone's memory is in exactly one block: free here, on a CPU's list, on its way to be
//!   discarded, or in an owned run; the blocks tile the memory, so the page after a block heads the next one.
//! - I-ZONE-2: a free block is on the list of its order and of its pageblock's mobility, and a list's bit
//!   in `nonempty` is set exactly when the list has members.
//! - I-ZONE-3: no two free buddies of one order below 10 exist.
//! - I-ZONE-4: `free` is the sum of the pages and `dirty` the sum of the spans of all blocks on the lists; the
//!   span of a free block is the number of dirty bits of its pages; pages outside the lists have their dirty bit set.
//! - I-ZONE-5: `managed` = `free` + `in_flight` + pages outside (runs and CPU lists).
//!
//! # Never
//! Nothing here calls the platform (but for the lock), and nothing allocates.

use core::sync::atomic::AtomicUsize;
mod claim;
mod memory;

use core::sync::atomic::Ordering::Relaxed;

use super::desc::{Kind, ZoneKind};
use super::list::{Descs, List};
use super::mobility::{Mobility, PAGEBLOCK_ORDER, Reach, TYPES};
use crate::platform::MAX_ORDER;
use crate::sync::{Lock, rank};
use memory::{Blank, Pace};
pub(super) use memory::{LARGE, LARGE_OF_REGIONS};

pub(super) const ORDERS: usize = MAX_ORDER as usize + 1;

/// Free pages that requests leave alone, by how urgent they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermarks {
    /// The reserve: an ordinary request leaves this much, an urgent one (`HIGH`) half of it,
    /// one that frees memory by what it does (`MEMALLOC`) nothing.
    pub min: usize,
    /// Below this the zone asks the platform for more before it serves a request.
    pub low: usize,
    /// From here on the zone has plenty.
    pub high: usize,
}

impl Watermarks {
    /// The usual marks of a zone of this size: 1/256 in reserve, at most 8 MiB.
    /// Small, because most platforms can fetch more memory.
    const fn of(managed: usize) -> Self {
        let min = managed >> 8;
        Self::above(if min > 2048 { 2048 } else { min })
    }

    /// Marks around a given reserve: a quarter and a half above it, as in the kernel.
    pub(super) const fn above(min: usize) -> Self {
        Self { min, low: min + min / 4, high: min + min / 2 }
    }
}

/// One zone of one node.
pub(super) struct Zone {
    pub(super) areas: Lock<Areas, { rank::ZONE }>,
    /// Copy of [`Areas::managed`] to look at without the lock: empty zones are passed over.
    pub(super) managed: AtomicUsize,
}

impl Zone {
    pub(super) const fn new() -> Self {
        Self { areas: Lock::new(Areas::new()), managed: AtomicUsize::new(0) }
    }

    /// False for a zone without any memory. A stale answer is harmless: the lock decides.
    #[inline]
    pub(super) fn is_populated(&self) -> bool {
        self.managed.load(Relaxed) != 0
    }
}

/// What happened in a zone since the beginning. All in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneEvents {
    /// Blocks handed out (to callers and to CPU lists).
    pub allocs: u64,
    /// Blocks taken back.
    pub frees: u64,
    /// Pageblocks taken over by another mobility.
    pub claims: u64,
    /// Blocks borrowed from a pageblock of another mobility.
    pub borrows: u64,
    /// Pages discarded.
    pub discarded: u64,
}

/// The free areas of a zone and their books.
pub(super) struct Areas {
    lists: [[List; ORDERS]; TYPES],
    nonempty: [u16; TYPES],
    pub(super) managed: usize,
    pub(super) free: usize,
    pub(super) dirty: usize,
    /// Pages taken off the lists by a trim that is discarding them right now.
    pub(super) in_flight: usize,
    /// Highest `managed - free - in_flight` seen.
    pub(super) peak: usize,
    pub(super) marks: Watermarks,
    /// The reserve was set by hand: do not compute it.
    pub(super) fixed_marks: bool,
    pub(super) pageblocks: [u32; TYPES],
    pub(super) events: ZoneEvents,
    /// Pages of the largest run freed since the last explicit trim.
    pub(super) largest_freed: usize,
    /// The pageblock that was to be backed as a whole last, whether it was or not; none at first.
    whole: Option<usize>,
    pub(super) blank: Blank,
    pace: Pace,
    /// The least `dirty` since the zone was looked at last, by who gives idle memory back.
    idle: usize,
    /// Pages discarded since that look, and not asked for again.
    gone: usize,
    /// Pages that were asked for again soon after they were discarded: so many more are kept, as long as they are not idle.
    pub(super) missed: usize,
}

/// A block that left the free lists: its dirty bits are all set, its head is [`Kind::Allocated`].
#[derive(Clone, Copy)]
pub(super) struct Taken {
    pub(super) index: usize,
    pub(super) zeroed: bool,
}

/// Whom a block is for: goes into the head's descriptor.
#[derive(Clone, Copy)]
pub(super) struct Home {
    pub(super) node: usize,
    pub(super) zone: ZoneKind,
}

impl Areas {
    const fn new() -> Self {
        Self {
            lists: [[List::new(); ORDERS]; TYPES],
            nonempty: [0; TYPES],
            managed: 0,
            free: 0,
            dirty: 0,
            in_flight: 0,
            peak: 0,
            marks: Watermarks { min: 0, low: 0, high: 0 },
            fixed_marks: false,
            pageblocks: [0; TYPES],
            events: ZoneEvents { allocs: 0, frees: 0, claims: 0, borrows: 0, discarded: 0 },
            largest_freed: 0,
            whole: None,
            blank: Blank::NONE,
            pace: Pace::new(),
            idle: 0,
            gone: 0,
            missed: 0,
        }
    }

    pub(super) fn list(&self, mobility: Mobility, order: usize) -> &List {
        &self.lists[mobility as usize][order]
    }

    pub(super) fn nonempty_bits(&self, mobility: Mobility) -> u16 {
        self.nonempty[mobility as usize]
    }

    /// Pages in use: by runs and by CPU lists.
    #[inline]
    pub(super) fn in_use(&self) -> usize {
        self.managed - self.free - self.in_flight
    }

    /// True when `pages` pages can go and `keep` stay.
    #[inline]
    pub(super) fn allows(&self, pages: usize, keep: usize) -> bool {
        self.free >= pages.saturating_add(keep)
    }

    /// Puts a block on its list.
    fn link(&mut self, descs: Descs, index: usize, order: u32, mobility: Mobility, dirty: usize) {
        debug_assert!(index & ((1 << order) - 1) == 0 && dirty <= 1 << order);
        let page = descs.page(index);
        page.set_order(order);
        page.set_span(dirty);
        page.set_kind(Kind::Buddy);
        let list = &mut self.lists[mobility as usize][order as usize];
        if dirty == 0 {
            list.push_back(descs, index);
        } else {
            list.push_front(descs, index);
        }
        self.nonempty[mobility as usize] |= 1 << order;
        self.free += 1 << order;
        self.dirty += dirty;
    }

    /// Takes a block off its list; returns how many of its pages are dirty. Its kind is [`Kind::None`] then.
    fn unlink(&mut self, descs: Descs, index: usize, order: u32, mobility: Mobility) -> usize {
        let page = descs.page(index);
        debug_assert!(page.kind() == Kind::Buddy && page.order() == order);
        let list = &mut self.lists[mobility as usize][order as usize];
        list.remove(descs, index);
        if list.is_empty() {
            self.nonempty[mobility as usize] &= !(1 << order);
        }
        page.set_kind(Kind::None);
        let dirty = page.pages();
        self.free -= 1 << order;
        self.dirty -= dirty;
        dirty
    }

    /// Takes a block of exactly `order` from one mobility's lists: the smallest that fits, split.
    /// Returns its index and how many of its pages are dirty.
    #[inline]
    fn take_from(&mut self, descs: Descs, order: u32, mobility: Mobility) -> Option<(usize, usize)> {
        let fits = self.nonempty[mobility as usize] >> order;
        if fits == 0 {
            return None;
        }
        let mut have = order + fits.trailing_zeros();
        let index = self.lists[mobility as usize][have as usize].first()?;
        let mut dirty = self.unlink(descs, index, have, mobility);
        while have > order {
            have -= 1;
            let half = 1 << have;
            let upper = match dirty {
                0 => 0,
                all if all == 2 * half => half,
                _ => descs.dirty_count(index + half, half),
            };
            dirty -= upper;
            self.link(descs, index + half, have, mobility, upper);
        }
        Some((index, dirty))
    }

    /// The largest order from `least` up to below `order` of which a block is free, if one of `order` could be had from a pageblock only.
    #[inline]
    pub(super) fn rest(&self, least: u32, order: u32, mobility: Mobility) -> Option<u32> {
        let free = u32::from(self.nonempty[mobility as usize]);
        let below = |order: u32| (1 << order) - 1;
        if least >= order || free & below(PAGEBLOCK_ORDER) & !below(order) != 0 {
            return None;
        }
        (free & below(order) & !below(least)).checked_ilog2()
    }

    /// Takes a block of 2^order pages for `mobility`, from others as far as `reach` allows.
    #[inline]
    fn take_block(
        &mut self,
        descs: Descs,
        order: u32,
        mobility: Mobility,
        reach: Reach,
    ) -> Option<(usize, usize)> {
        if let Some(found) = self.take_from(descs, order, mobility) {
            return Some(found);
        }
        let claims_from = match reach {
            Reach::Own => return None,
            Reach::Whole => PAGEBLOCK_ORDER,
            Reach::Any => mobility.claims_from(),
        };
        if self.claim(descs, order.max(claims_from), mobility) {
            return self.take_from(descs, order, mobility);
        }
        if reach == Reach::Any { self.borrow(descs, order, mobility) } else { None }
    }

    /// Takes a block of 2^order pages and hands out its first `pages` pages; the rest stays free.
    pub(super) fn take(
        &mut self,
        descs: Descs,
        home: Home,
        order: u32,
        pages: usize,
        mobility: Mobility,
        reach: Reach,
    ) -> Option<Taken> {
        debug_assert!(pages > 0 && pages <= 1 << order);
        let (index, mut dirty) = self.take_block(descs, order, mobility, reach)?;
        if pages < 1 << order {
            let tail = (1 << order) - pages;
            let tail_dirty = if dirty == 0 { 0 } else { descs.dirty_count(index + pages, tail) };
            dirty -= tail_dirty;
            self.link_range(descs, index + pages, tail);
        }
        if dirty < pages {
            descs.set_dirty(index, pages);
        }
        let page = descs.page(index);
        page.set_home(home.node, home.zone, mobility);
        page.set_order(order);
        page.set_span(pages);
        page.set_kind(Kind::Allocated);
        self.events.allocs += 1;
        self.peak = self.peak.max(self.in_use());
        self.idle = self.idle.min(self.dirty);
        if self.gone > 0 && dirty < pages {
            let again = (pages - dirty).min(self.gone);
            self.gone -= again;
            self.missed += again;
        }
        self.blank.leave(index, pages);
        Some(Taken { index, zeroed: dirty == 0 })
    }

    /// Puts a range that cannot join its neighbours on the lists, as few aligned blocks.
    fn link_range(&mut self, descs: Descs, first: usize, count: usize) {
        for_each_block(first, count, |index, order| {
            let dirty = descs.dirty_count(index, 1 << order);
            self.link(descs, index, order, descs.block_mobility(index), dirty);
        });
    }

    /// Takes a block back and joins it with its buddies. All its heads and tails are cleared already
    /// but the first; `zeroed` when its content is zero.
    pub(super) fn give(&mut self, descs: Descs, index: usize, order: u32, zeroed: bool) {
        debug_assert!(index & ((1 << order) - 1) == 0);
        let mut dirty = 1 << order;
        if zeroed {
            descs.set_zero(index, dirty);
            dirty = 0;
        }
        self.events.frees += 1;
        self.join(descs, index, order, dirty);
    }

    /// Joins a block, whose dirty bits are in order, with its buddies and puts the result on its list.
    fn join(&mut self, descs: Descs, mut index: usize, mut order: u32, mut dirty: usize) {
        descs.page(index).set_kind(Kind::None);
        let mobility = descs.block_mobility(index);
        while order < MAX_ORDER {
            let other = index ^ (1 << order);
            let buddy = descs.page(other);
            if buddy.kind() != Kind::Buddy || buddy.order() != order {
                break;
            }
            let theirs = descs.block_mobility(other);
            dirty += self.unlink(descs, other, order, theirs);
            if theirs != mobility {
                // Only whole pageblocks can differ: a free block must be of one mobility (I-ZONE-2).
                debug_assert!(order >= PAGEBLOCK_ORDER);
                self.convert(descs, other, 1 << order, mobility);
            }
            index &= other;
            order += 1;
        }
        self.link(descs, index, order, mobility, dirty);
    }

    /// Takes any range back, whole blocks at a time.
    pub(super) fn give_range(&mut self, descs: Descs, first: usize, count: usize) {
        self.largest_freed = self.largest_freed.max(count);
        for_each_block(first, count, |index, order| self.give(descs, index, order, false));
    }

    /// Takes the free blocks that begin at `first` and cover `count` pages off the lists, if they are all
    /// free, and gives the rest of the last one back. The pages are then the caller's, with dirty bits set.
    pub(super) fn take_range(&mut self, descs: Descs, first: usize, count: usize) -> bool {
        let (mut at, end) = (first, first + count);
        while at < end {
            let page = descs.page(at);
            if page.kind() != Kind::Buddy {
                return false;
            }
            at += 1 << page.order();
        }
        at = first;
        while at < end {
            let order = descs.page(at).order();
            self.unlink(descs, at, order, descs.block_mobility(at));
            at += 1 << order;
        }
        self.link_range(descs, end, at - end);
        descs.set_dirty(first, count);
        self.blank.leave(first, count);
        self.peak = self.peak.max(self.in_use());
        true
    }

    /// Takes the largest dirty block of at least `min_order` off the lists, to be discarded.
    /// Give it back with [`Areas::land`].
    pub(super) fn lift_dirty(&mut self, descs: Descs, min_order: u32) -> Option<(usize, u32)> {
        for order in (min_order..=MAX_ORDER).rev() {
            for mobility in Mobility::ALL {
                let Some(index) = self.lists[mobility as usize][order as usize].first() else { continue };
                // Dirty blocks stand before clean ones.
                if descs.page(index).pages() == 0 {
                    continue;
                }
                self.unlink(descs, index, order, mobility);
                // Still free for whoever frees it a second time.
                descs.page(index).set_kind(Kind::List);
                self.in_flight += 1 << order;
                self.idle = self.idle.min(self.dirty);
                return Some((index, order));
            }
        }
        None
    }

    /// How many pages are dirty, and how many of them, at least, were all the time since the call before; all, if it was `quiet`.
    pub(super) fn age(&mut self, quiet: bool) -> (usize, usize) {
        let idle = if quiet { self.dirty } else { self.idle.min(self.dirty) };
        self.idle = self.dirty;
        self.gone = 0;
        // No more than has a meaning.
        self.missed = self.missed.min(self.in_use()).saturating_sub(idle);
        (self.dirty, idle)
    }

    /// What was discarded so far went because it was idle: whoever asks for it again is served by fresh memory.
    pub(super) fn nothing_is_missed(&mut self) {
        self.gone = 0;
    }

    /// A free block of the largest order that is known to be zero, when there are more than `keep` of that order.
    pub(super) fn surplus_block(&self, descs: Descs, keep: usize) -> Option<usize> {
        let lists = || self.lists.iter().map(|orders| &orders[MAX_ORDER as usize]);
        if lists().map(List::len).sum::<usize>() <= keep {
            return None;
        }
        // Clean blocks stand behind dirty ones.
        lists().filter_map(List::last).find(|&index| descs.page(index).pages() == 0)
    }

    /// Ends what [`Areas::lift_dirty`] began. Returns how many pages became zero.
    pub(super) fn land(&mut self, descs: Descs, index: usize, order: u32, zeroed: bool) -> usize {
        let pages = 1 << order;
        self.in_flight -= pages;
        let dirty = descs.dirty_count(index, pages);
        if zeroed {
            descs.set_zero(index, pages);
            self.events.discarded += dirty as u64;
            self.gone += dirty;
        }
        self.join(descs, index, order, if zeroed { 0 } else { dirty });
        if zeroed { dirty } else { 0 }
    }
}

/// How far it is from the page at `index` to the next head, at least 1.
pub(super) fn step(descs: Descs, index: usize) -> usize {
    let page = descs.page(index);
    match page.kind() {
        Kind::Buddy | Kind::List => 1 << page.order(),
        Kind::Allocated
        | Kind::Slab
        | Kind::Slob
        | Kind::Large
        | Kind::Freeing
        | Kind::Leaked
        | Kind::Pinned
        | Kind::Wall
        | Kind::Ended => page.pages().max(1),
        // Inside a block that began in the pageblock before.
        Kind::None | Kind::Tail => 1,
    }
}

/// Cuts a range into the fewest aligned blocks, in ascending order.
pub(super) fn for_each_block(first: usize, count: usize, mut with: impl FnMut(usize, u32)) {
    let (mut at, end) = (first, first + count);
    while at < end {
        let order = at.trailing_zeros().min((end - at).ilog2()).min(MAX_ORDER);
        with(at, order);
        at += 1 << order;
    }
}
