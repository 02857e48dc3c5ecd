//! Regions: addresses that belong to one user as long as it lives.
//!
//! # Theory
//! What is freed to the zones may come back as anything; a dangling pointer into it then points at something else. A [`Pool`]
//! takes whole blocks from the zones, cuts them into slots of one size, and hands those out in random order; a slot that comes
//! back waits for the next request to the same pool and is never given to anybody else. Its memory may go back to the world
//! meanwhile ([`Platform::discard`]); its addresses stay.
//!
//! The last slot of a region is its *wall*: nobody gets it, and where the platform can make addresses invalid
//! ([`Platform::wall`]) nobody reaches over it. Each region so has a wall before it (that of the region before) and one
//! behind it.
//!
//! ```text
//!   region, 2^(order + 4) slots or so          | wall |
//!   [slot][slot][ slab ][slot][ slab ] ... [slot][####]
//! ```
//! When a pool ends nobody gets its regions for a while ([`super::ended`]).
//!
//! The wall's descriptor keeps the region's books: how many slots there are, how many are free, and the links of the pool's list.
//!
//! # What stays in memory
//! A slot that comes back is *dirty*: the world still backs it. A pool keeps [`KEEP`] pages of such slots and discards the rest. A
//! program that takes more than that and gives it back, over and over, would have its pages made anew each time; so a pool
//! that misses as many pages as it may keep, of those that it discarded, may keep twice as many from then on ([`Regions::learn`]),
//! within a bound for all pools of a heap. A program that builds something and takes it down misses nothing. Who has learnt is
//! looked at now and then ([`Pages::age_pool`]) and begins anew when half of what it keeps was of no use since.
//!
//! # How it grows
//! A region has 16 slots, at least 256 KiB, and more once its pool is [`LONGER`] times as large: up to a pageblock. So a wall is never further
//! away than 2 MiB (4 MiB where slots are longer than 128 KiB), and one among many classes has one each 256 KiB.
//!
//! A heap that grows much has its pageblocks backed as wholes ([`super::alloc`]); several regions share one, each for another pool if it
//! comes so. Such a region is *blank*: in memory, and zero. It stays so only for a pool that will soon have used it all, for it is [`SOON`] times as
//! large, and only as long as all pools together have no more than an [`AHEAD`]th of what they hand out in that way; anybody else discards it. Where
//! nothing is blank a long slot is backed by one call when it is taken, and of short ones all of a [`PIECE`], under the
//! same conditions. Slots that are blank go first, at random among themselves. A pool that gives memory back
//! to the world, or has taken nothing of it from one look to the next, keeps none.
//!
//! # Invariants
//! - I-REG-1: every slot of a region is headed by a run, by [`Kind::Pinned`] (free), or by [`Kind::Freeing`] (on its way
//!   between them); the wall is [`Kind::Wall`], and so is what a shorter run leaves of its slot.
//! - I-REG-2: a region is on its pool's list exactly when it has free slots; the wall counts them.
//! - I-REG-3: a free slot that is not marked dirty is zero; one that is holds what its last run left there. One that is marked
//!   blank is zero and in memory.
//! - I-REG-4: the pools' `more` add up to [`Idle::more`], which is at most [`MORE`], and what they have that is blank to [`Idle::blank`].
//!
//! # Locks
//! One per pool (`rank::POOL`). It is not held while the platform or a zone is asked for anything.

use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;

use super::desc::Kind;
use super::list::{Descs, List};
use super::run::PageRun;
use super::zone::Taken;
use super::{Mobility, PAGEBLOCK_ORDER, Pages};
use crate::gfp::Gfp;
use crate::platform::{MAX_ORDER, PAGE_SHIFT, PageRange, Platform};
use crate::sync::{Lock, rank};

/// Dirty pages that a pool keeps for the next requests: 512 KiB.
const KEEP: usize = 128;
/// Dirty pages that all pools of a heap may have learnt to keep beyond that: 16 MiB.
const MORE: usize = 4096;
/// Marks of a free slot (`slab_flags` of its page): it may be other than zero;
const DIRTY: u16 = 1;
/// it is zero, and in memory.
const BLANK: u16 = 2;
/// one of them.
const ANY: u16 = DIRTY | BLANK;
/// The least slot that is backed by a call of its own when it is taken: in pages.
const LEAST_BACKED: usize = 4;
/// Shorter slots are backed together, in pieces of so many pages: 128 KiB.
const PIECE: usize = 32;
/// A pool has so many times the pages of a region before that one is longer than it must be;
const LONGER: usize = 32;
/// before that one, or a piece of one, is in memory from the start.
const SOON: usize = 8;
/// Of what all pools hand out, so large a part may be in memory before it is asked for: a thirtieth.
const AHEAD: usize = 32;

/// Regions of one user. All zero is a pool without any.
pub struct Pool(Lock<Regions, { rank::POOL }>);

struct Regions {
    /// Those with free slots, by their walls.
    list: List,
    /// Pages of all of them, walls included.
    pages: usize,
    /// Pages of free slots that are dirty.
    dirty: usize,
    /// Pages of free slots that are blank.
    blank: usize,
    /// As many were when somebody looked.
    seen: usize,
    /// The fewest that were, since somebody looked.
    least: usize,
    /// Pages that it learnt to keep beyond [`KEEP`].
    more: usize,
    /// Pages that were discarded and not missed yet.
    gone: usize,
    /// Pages that were, since it last learnt.
    missed: usize,
}

/// Slots of one region that were taken off the books.
struct Claimed {
    wall: usize,
    order: u32,
    first: usize,
    slots: Slots,
}

/// Slots of one region by their numbers.
struct Slots([u64; (1 << MAX_ORDER) / 64]);

impl Slots {
    const NONE: Self = Self([0; (1 << MAX_ORDER) / 64]);

    fn has(&self, slot: usize) -> bool {
        self.0[slot / 64] >> (slot % 64) & 1 != 0
    }

    fn add(&mut self, slot: usize) {
        self.0[slot / 64] |= 1 << (slot % 64);
    }

    /// The next ones without a gap, from this number on.
    fn next(&self, from: usize) -> Option<(usize, usize)> {
        let end = self.0.len() * 64;
        let first = (from..end).find(|&slot| self.has(slot))?;
        let behind = (first..end).find(|&slot| !self.has(slot)).unwrap_or(end);
        Some((first, behind))
    }
}

impl Pool {
    /// A pool without regions.
    #[must_use]
    pub const fn new() -> Self {
        Self(Lock::new(Regions {
            list: List::new(),
            pages: 0,
            dirty: 0,
            blank: 0,
            seen: 0,
            least: 0,
            more: 0,
            gone: 0,
            missed: 0,
        }))
    }

    /// For [`crate::heap::Kmem::lock_for_fork`].
    pub(crate) fn lock_for_fork<P: Platform>(&self, p: &P) {
        self.0.lock_for_fork(p);
    }

    /// # Safety
    /// As [`Lock::unlock_after_fork`].
    pub(crate) unsafe fn unlock_after_fork<P: Platform>(&self, p: &P) {
        // SAFETY: the caller's promise.
        unsafe { self.0.unlock_after_fork(p) };
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

/// Free pages of regions, for the books.
pub(super) struct Idle {
    /// All of them, walls included.
    pub(super) pages: AtomicUsize,
    /// Those that are in memory.
    pub(super) dirty: AtomicUsize,
    /// Those that nobody had yet, and are in memory all the same.
    blank: AtomicUsize,
    /// Pages of all regions, walls included.
    pub(super) regions: AtomicUsize,
    /// Pages ever given back to the world.
    pub(super) discarded: AtomicUsize,
    /// Dirty pages that pools may keep by what they learnt.
    more: AtomicUsize,
}

impl Idle {
    pub(super) const fn new() -> Self {
        Self {
            pages: AtomicUsize::new(0),
            dirty: AtomicUsize::new(0),
            blank: AtomicUsize::new(0),
            regions: AtomicUsize::new(0),
            discarded: AtomicUsize::new(0),
            more: AtomicUsize::new(0),
        }
    }

    /// So many pages may be in memory before anybody asks for them, beside those that are.
    fn allows(&self, pages: usize) -> bool {
        let used = self.regions.load(Relaxed).saturating_sub(self.pages.load(Relaxed));
        self.blank.load(Relaxed) + pages <= used / AHEAD
    }

    /// Slots of so many pages leave the free ones of their pool.
    fn leave(&self, marks: u16, pages: usize) {
        if marks != 0 {
            self.dirty.fetch_sub(pages, Relaxed);
        }
        if marks & BLANK != 0 {
            self.blank.fetch_sub(pages, Relaxed);
        }
    }

    /// They come back.
    fn come(&self, marks: u16, pages: usize) {
        if marks != 0 {
            self.dirty.fetch_add(pages, Relaxed);
        }
        if marks & BLANK != 0 {
            self.blank.fetch_add(pages, Relaxed);
        }
    }
}

/// The least order of a region for slots of this order: 16 slots, at least 256 KiB.
const fn region_order(order: u32) -> u32 {
    let wanted = if order + 4 < 6 { 6 } else { order + 4 };
    if wanted < MAX_ORDER { wanted } else { MAX_ORDER }
}

impl Regions {
    /// A free slot of 2^order pages, at random, of those that are there for its growth if any are; now [`Kind::Freeing`]. Its index and its marks.
    fn take(&mut self, descs: Descs, order: u32, random: usize) -> Option<(usize, u16)> {
        let wall = self.list.first()?;
        let (head, slot) = (descs.page(wall), 1 << order);
        let slots = usize::from(head.objects.load(Relaxed));
        let first = wall - slots * slot;
        let find = |which: u16| {
            (0..slots).map(|i| first + (random + i) % slots * slot).find(|&index| {
                let page = descs.page(index);
                page.kind() == Kind::Pinned && page.slab_flags.load(Relaxed) & which == which
            })
        };
        let blank = if self.blank != 0 { find(BLANK) } else { None };
        let found = blank.or_else(|| find(0))?;
        let marks = self.claim(descs, wall, found);
        head.slab_flags.store(1, Relaxed);
        Some((found, marks))
    }

    /// Takes the other slots of a piece off the books, to be backed with the one at `taken`. None, if some of them were in memory.
    fn claim_piece(&mut self, descs: Descs, order: u32, taken: usize) -> Option<(usize, PageRange)> {
        let (slot, wall) = (1 << order, wall_of(descs, taken, order));
        let first = taken & !(PIECE - 1);
        // Where memory was short the region is shorter than a piece; before its start there is no free slot but behind another's wall.
        let range = PageRange { first, count: PIECE.min(wall - first) };
        let others = || (first..first + range.count).step_by(slot).filter(|&index| index != taken);
        let clean = |index| {
            let page = descs.page(index);
            page.kind() == Kind::Pinned && page.slab_flags.load(Relaxed) == 0
        };
        if range.count <= slot || !others().all(clean) {
            return None;
        }
        for index in others() {
            self.claim(descs, wall, index);
        }
        Some((wall, range))
    }

    /// How long the next region is to be, from the least order on: a share of what there is, up to a pageblock.
    fn next_order(&self, least: u32) -> u32 {
        let share = (self.pages / LONGER).checked_ilog2().unwrap_or(0);
        least.max(share.min(PAGEBLOCK_ORDER))
    }

    /// Dirty pages that it keeps.
    fn room(&self) -> usize {
        KEEP + self.more
    }

    /// So many pages were taken that were not in memory. Those that had been are missed; a pool that missed as many as it keeps
    /// keeps twice as many, if all pools together may.
    fn learn(&mut self, pages: usize, idle: &Idle) {
        let missed = pages.min(self.gone);
        self.gone -= missed;
        self.missed += missed;
        let wanted = self.room();
        if self.missed < wanted {
            return;
        }
        self.missed = 0;
        // Relaxed here and where it goes back: the sum guards nothing but itself.
        let add = |more: usize| Some(more + wanted).filter(|&sum| sum <= MORE);
        if idle.more.fetch_update(Relaxed, Relaxed, add).is_ok() {
            self.more += wanted;
        }
    }

    /// Begins anew: what it learnt to keep is no longer its share.
    fn unlearn(&mut self, idle: &Idle) {
        idle.more.fetch_sub(core::mem::take(&mut self.more), Relaxed);
        (self.gone, self.missed) = (0, 0);
    }

    /// It did not take anything of what is there for its growth since the last look.
    fn rests(&mut self) -> bool {
        let seen = core::mem::replace(&mut self.seen, self.blank);
        self.blank > 0 && self.blank == seen
    }

    /// Half of what it keeps by what it learnt was there all the time since the last look.
    fn idles(&mut self) -> bool {
        let least = core::mem::replace(&mut self.least, self.dirty);
        self.more > 0 && least >= self.room() / 2
    }

    /// Takes a free slot off the books; its marks.
    fn claim(&mut self, descs: Descs, wall: usize, index: usize) -> u16 {
        let (page, head) = (descs.page(index), descs.page(wall));
        page.set_kind(Kind::Freeing);
        let marks = page.slab_flags.load(Relaxed);
        if marks & DIRTY != 0 {
            self.dirty -= page.pages();
            self.least = self.least.min(self.dirty);
        }
        if marks & BLANK != 0 {
            self.blank -= page.pages();
        }
        let free = head.carved.load(Relaxed) - 1;
        head.carved.store(free, Relaxed);
        if free == 0 {
            self.list.remove(descs, wall);
        }
        marks
    }

    /// Takes free slots of one region off the books, to be discarded: all of them where the whole region is free and was used
    /// since it was last discarded, otherwise those that have one of these marks; only those where not [`ANY`] will do. Nothing when there are none.
    fn claim_surplus(&mut self, descs: Descs, idle: &Idle, which: u16) -> Option<Claimed> {
        let mut next = self.list.first();
        while let Some(wall) = next {
            let head = descs.page(wall);
            next = descs.after(wall);
            let order = head.pages().ilog2();
            let count = usize::from(head.objects.load(Relaxed));
            let first = wall - (count << order);
            let whole = which == ANY
                && usize::from(head.carved.load(Relaxed)) == count
                && head.slab_flags.load(Relaxed) != 0;
            let (mut slots, mut some) = (Slots::NONE, false);
            for slot in 0..count {
                let index = first + (slot << order);
                let page = descs.page(index);
                if page.kind() == Kind::Pinned && (whole || page.slab_flags.load(Relaxed) & which != 0) {
                    slots.add(slot);
                    some = true;
                    idle.leave(self.claim(descs, wall, index), 1 << order);
                }
            }
            if some {
                if which == ANY {
                    head.slab_flags.store(0, Relaxed);
                }
                return Some(Claimed { wall, order, first, slots });
            }
        }
        None
    }

    /// Puts a slot of 2^order pages back.
    fn give(&mut self, descs: Descs, wall: usize, index: usize, order: u32, marks: u16) {
        let (page, head) = (descs.page(index), descs.page(wall));
        page.set_order(order);
        page.set_span(1 << order);
        page.slab_flags.store(marks, Relaxed);
        page.set_kind(Kind::Pinned);
        self.dirty += if marks & DIRTY != 0 { 1 << order } else { 0 };
        self.blank += if marks & BLANK != 0 { 1 << order } else { 0 };
        let free = head.carved.load(Relaxed) + 1;
        head.carved.store(free, Relaxed);
        if free == 1 {
            self.list.push_front(descs, wall);
        }
    }
}

/// The wall of the region of a slot of 2^order pages. A region is aligned to its length, and the last slot of a part of it that is aligned to a
/// shorter one is a slot like any other.
fn wall_of(descs: Descs, index: usize, order: u32) -> usize {
    let slot = 1 << order;
    let last = |region: u32| (index | ((1 << region) - 1)) + 1 - slot;
    let is_wall = |&wall: &usize| descs.page(wall).kind() == Kind::Wall;
    (order + 1..=MAX_ORDER).map(last).find(is_wall).expect("a slot of a region")
}

impl<P: Platform> Pages<P> {
    /// Allocates `pages` pages, at the start of a slot of 2^order, from a pool whose slots all have that order. `None`: no memory,
    /// or no region can be that large.
    pub fn alloc_pinned(
        &self,
        p: &P,
        gfp: Gfp,
        order: u32,
        pages: usize,
        node: Option<usize>,
        pool: &Pool,
    ) -> Option<PageRun> {
        debug_assert!(pages > 0 && pages <= 1 << order);
        let descs = self.descs();
        loop {
            let random = p.entropy() as usize >> 1;
            let taken = {
                let mut regions = pool.0.lock(p);
                let taken = regions.take(descs, order, random);
                let mut piece = None;
                if let Some((index, 0)) = taken {
                    regions.learn(1 << order, &self.idle);
                    let grows = regions.pages >= PIECE * SOON && self.idle.allows(PIECE);
                    if P::BACKS && pages < LEAST_BACKED && pages == 1 << order && grows {
                        piece = regions.claim_piece(descs, order, index);
                    }
                }
                taken.map(|(index, marks)| (index, marks, piece))
            };
            self.tell_damage(p);
            if let Some((index, marks, piece)) = taken {
                // What a shorter run leaves of its slot stays idle.
                self.idle.pages.fetch_sub(pages, Relaxed);
                self.idle.leave(marks, 1 << order);
                if let Some((wall, range)) = piece {
                    self.back_piece(p, pool, wall, range, order, index);
                } else if marks == 0 && P::BACKS && pages >= LEAST_BACKED {
                    // Who takes it writes to all of it.
                    p.back(PageRange { first: index, count: pages });
                }
                let page = descs.page(index);
                page.set_order(order);
                page.set_span(pages);
                page.set_kind(Kind::Allocated);
                // SAFETY: the slot just left the pool for this caller alone, as a run with its head set up.
                return Some(unsafe { PageRun::new(page, self.address_of(index), marks & DIRTY == 0) });
            }
            let least = region_order(order);
            let wanted = pool.0.lock(p).next_order(least);
            // A longer one only where it is had for nothing.
            let gladly =
                (gfp | Gfp::NOWARN | Gfp::NORETRY | Gfp::NOMEMALLOC) - Gfp::NOFAIL - Gfp::DIRECT_RECLAIM;
            let (region, blank) = (order + 1..=wanted).rev().find_map(|length| {
                let gfp = if length > least { gladly } else { gfp };
                self.take_region(p, gfp, least.min(length)..=length, node)
            })?;
            self.open(p, region, blank, order, pages, pool);
        }
    }

    /// Backs a piece whose other slots were claimed, and puts those back.
    fn back_piece(&self, p: &P, pool: &Pool, wall: usize, range: PageRange, order: u32, taken: usize) {
        let marks = if p.back(range) { BLANK } else { 0 };
        self.idle.come(marks, range.count - (1 << order));
        let mut regions = pool.0.lock(p);
        for index in (range.first..range.first + range.count).step_by(1 << order).filter(|&at| at != taken) {
            regions.give(self.descs(), wall, index, order, marks);
        }
    }

    /// Cuts a block into slots of 2^order pages for a pool, each for runs of `pages` pages.
    fn open(&self, p: &P, region: Taken, blank: bool, order: u32, pages: usize, pool: &Pool) {
        let (descs, slot, first) = (self.descs(), 1 << order, region.index);
        let head = descs.page(first);
        let (home, total) = (Self::home_of_head(head), head.pages());
        let wall = first + total - slot;
        let has = pool.0.lock(p).pages;
        // What is in memory already stays there only for who will soon have used it all. What is left of its slots he does not use.
        let used = !region.zeroed && !blank;
        let soon = pages == slot && has >= total * SOON && self.idle.allows(total);
        let surplus = used || blank && !soon;
        // I-REG-3. What is dirty here was somebody else's; later only the user's own.
        // SAFETY: the pages are this thread's.
        let gone = surplus && unsafe { p.discard(PageRange { first, count: total }) };
        if used && !gone {
            // SAFETY: as above.
            unsafe { self.address_of(first).write_bytes(0, total << PAGE_SHIFT) };
        }
        let marks = if region.zeroed || gone { 0 } else { BLANK };
        {
            // I-PAGE-3.
            let _areas = self.zone(home).areas.lock(p);
            for index in (first..first + total).step_by(slot) {
                let page = descs.page(index);
                page.set_home(home.node, home.zone, Mobility::of(Gfp::empty()));
                page.set_kind(Kind::Freeing);
            }
        }
        if pages < slot {
            for index in (first..wall).step_by(slot) {
                self.build_wall(index + pages, slot - pages);
            }
        }
        self.build_wall(wall, slot);
        descs.page(wall).objects.store((total / slot - 1) as u16, Relaxed);
        descs.page(wall).carved.store(0, Relaxed);
        let last = PageRange { first: wall, count: slot };
        if marks != 0 {
            // SAFETY: as above.
            unsafe { p.discard(last) };
        }
        p.wall(last);
        self.idle.come(marks, total - slot);
        self.idle.regions.fetch_add(total, Relaxed);
        self.idle.pages.fetch_add(total, Relaxed);
        let mut regions = pool.0.lock(p);
        regions.pages += total;
        for index in (first..wall).step_by(slot) {
            regions.give(descs, wall, index, order, marks);
        }
    }

    fn build_wall(&self, index: usize, pages: usize) {
        let page = self.descs().page(index);
        page.set_order(0);
        page.set_span(pages);
        page.set_kind(Kind::Wall);
    }

    /// Gives a run back to the pool that it came from.
    pub fn free_pinned(&self, p: &P, run: PageRun, pool: &Pool) {
        let descs = self.descs();
        let head = self.into_head(run);
        head.set_kind(Kind::Freeing);
        let (index, order, pages) = (self.index(head), head.order(), head.pages());
        self.scrub(head, index, 0, head.pages());
        head.cache.store(core::ptr::null_mut(), Relaxed);
        let wall = wall_of(descs, index, order);
        let (full, blank) = {
            let regions = pool.0.lock(p);
            (regions.dirty >= regions.room(), regions.blank)
        };
        // SAFETY: the slot is this thread's until it is given back below.
        let clean = full && unsafe { p.discard(PageRange { first: index, count: 1 << order }) };
        if clean {
            self.idle.discarded.fetch_add(1 << order, Relaxed);
            pool.0.lock(p).gone += 1 << order;
        }
        self.idle.pages.fetch_add(pages, Relaxed);
        self.put_back(p, pool, wall, index, order, if clean { 0 } else { DIRTY });
        if clean && blank != 0 {
            // It grows no more.
            self.discard_free(p, pool, BLANK);
        }
    }

    /// Gives a slot back to its pool. That its pages are idle is noted already.
    fn put_back(&self, p: &P, pool: &Pool, wall: usize, index: usize, order: u32, marks: u16) {
        self.idle.come(marks, 1 << order);
        pool.0.lock(p).give(self.descs(), wall, index, order, marks);
        self.tell_damage(p);
    }

    /// Some pool learnt to keep more than others, or has what nobody asked for yet: [`Pages::age_pool`] is to be called.
    #[inline]
    pub(crate) fn pools_age(&self) -> bool {
        self.idle.more.load(Relaxed) != 0 || self.idle.blank.load(Relaxed) != 0
    }

    /// Has a pool give its free memory back if half of what it learnt to keep was of no use since the last call; or else what is there for
    /// its growth, if it has not grown.
    pub(crate) fn age_pool(&self, p: &P, pool: &Pool) {
        let (idles, rests) = {
            let mut regions = pool.0.lock(p);
            (regions.idles(), regions.rests())
        };
        if idles {
            self.trim_pool(p, pool);
        } else if rests {
            self.discard_free(p, pool, BLANK);
        }
    }

    /// Gives the memory of all free slots of a pool back to the world; their addresses stay. It keeps as much as any other from
    /// then on.
    pub fn trim_pool(&self, p: &P, pool: &Pool) {
        pool.0.lock(p).unlearn(&self.idle);
        self.discard_free(p, pool, ANY);
    }

    /// Gives the memory of the free slots with one of these marks back.
    fn discard_free(&self, p: &P, pool: &Pool, which: u16) {
        loop {
            // Not in a `while let`: the lock would be held throughout.
            let claimed = pool.0.lock(p).claim_surplus(self.descs(), &self.idle, which);
            let Some(claimed) = claimed else { return };
            let Claimed { wall, order, first, slots } = claimed;
            let (mut refused, mut from) = (false, 0);
            while let Some((slot, behind)) = slots.next(from) {
                from = behind;
                let range = PageRange { first: first + (slot << order), count: (behind - slot) << order };
                // With the wall where it is next: what platforms keep about pages comes in larger pieces than slots.
                let to_wall = usize::from(range.first + range.count == wall) << order;
                let wider = PageRange { count: range.count + to_wall, ..range };
                // SAFETY: the slots were claimed above and are this thread's.
                let clean = unsafe { p.discard(wider) };
                if clean {
                    self.idle.discarded.fetch_add(range.count, Relaxed);
                }
                for index in (range.first..range.first + range.count).step_by(1 << order) {
                    let marks = self.descs().page(index).slab_flags.load(Relaxed);
                    self.put_back(p, pool, wall, index, order, if clean { 0 } else { marks });
                }
                refused |= !clean;
            }
            if refused {
                return;
            }
        }
    }

    /// Pages that pools ever gave back to the world.
    pub(crate) fn discarded_by_pools(&self) -> usize {
        self.idle.discarded.load(Relaxed)
    }

    /// Ends a pool whose slots are all free: its regions wait until anybody may have their addresses (`page::ended`).
    pub fn close_pool(&self, p: &P, pool: &Pool) {
        let descs = self.descs();
        pool.0.lock(p).unlearn(&self.idle);
        loop {
            let Some(wall) = pool.0.lock(p).list.first() else { return };
            let head = descs.page(wall);
            let slot = head.pages();
            let count = usize::from(head.objects.load(Relaxed));
            debug_assert_eq!(
                usize::from(head.carved.load(Relaxed)),
                count,
                "slots in use in a pool that ends"
            );
            let first = wall - count * slot;
            {
                let mut regions = pool.0.lock(p);
                regions.pages -= wall + slot - first;
                for index in (first..wall).step_by(slot) {
                    self.idle.leave(regions.claim(descs, wall, index), slot);
                }
            }
            self.end_region(p, first, wall + slot - first);
        }
    }
}
