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
//!   region, 2^(order + 4) slots or less        | wall |
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
//! # Invariants
//! - I-REG-1: every slot of a region is headed by a run, by [`Kind::Pinned`] (free), or by [`Kind::Freeing`] (on its way
//!   between them); the wall is [`Kind::Wall`], and so is what a shorter run leaves of its slot.
//! - I-REG-2: a region is on its pool's list exactly when it has free slots; the wall counts them.
//! - I-REG-3: a free slot that is not marked dirty is zero; one that is holds what its last run left there.
//! - I-REG-4: the pools' `more` add up to [`Idle::more`], which is at most [`MORE`].
//!
//! # Locks
//! One per pool (`rank::POOL`). It is not held while the platform or a zone is asked for anything.

use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;

use super::desc::Kind;
use super::list::{Descs, List};
use super::run::PageRun;
use super::{Mobility, Pages};
use crate::gfp::Gfp;
use crate::platform::{MAX_ORDER, PAGE_SHIFT, PageRange, Platform};
use crate::sync::{Lock, rank};

/// Dirty pages that a pool keeps for the next requests: 512 KiB.
const KEEP: usize = 128;
/// Dirty pages that all pools of a heap may have learnt to keep beyond that: 16 MiB.
const MORE: usize = 4096;
/// Mark of a free slot (`slab_flags` of its page): it may be other than zero.
const DIRTY: u16 = 1;

/// Regions of one user. All zero is a pool without any.
pub struct Pool(Lock<Regions, { rank::POOL }>);

struct Regions {
    /// Those with free slots, by their walls.
    list: List,
    /// Pages of free slots that are dirty.
    dirty: usize,
    /// The fewest that were, since somebody looked.
    least: usize,
    /// Pages that it learnt to keep beyond [`KEEP`].
    more: usize,
    /// Pages that were discarded and not missed yet.
    gone: usize,
    /// Pages that were, since it last learnt.
    missed: usize,
}

/// Slots of one region that were taken off the books, by their bits.
struct Claimed {
    wall: usize,
    order: u32,
    first: usize,
    slots: u64,
    /// Dirty pages among them.
    dirty: usize,
}

impl Pool {
    /// A pool without regions.
    #[must_use]
    pub const fn new() -> Self {
        Self(Lock::new(Regions { list: List::new(), dirty: 0, least: 0, more: 0, gone: 0, missed: 0 }))
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
    /// Those that may be other than zero.
    pub(super) dirty: AtomicUsize,
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
            discarded: AtomicUsize::new(0),
            more: AtomicUsize::new(0),
        }
    }
}

/// The order of a region for slots of this order: 16 slots, at least 256 KiB. Never more than 64 slots: see [`Claimed`].
const fn region_order(order: u32) -> u32 {
    let wanted = if order + 4 < 6 { 6 } else { order + 4 };
    if wanted < MAX_ORDER { wanted } else { MAX_ORDER }
}

impl Regions {
    /// A free slot of 2^order pages, at random; now [`Kind::Freeing`]. Its index, and whether it is dirty.
    fn take(&mut self, descs: Descs, order: u32, random: usize) -> Option<(usize, bool)> {
        let wall = self.list.first()?;
        let (head, slot) = (descs.page(wall), 1 << order);
        let slots = usize::from(head.objects.load(Relaxed));
        let first = wall - slots * slot;
        let found = (0..slots)
            .map(|i| first + (random + i) % slots * slot)
            .find(|&index| descs.page(index).kind() == Kind::Pinned)?;
        let dirty = self.claim(descs, wall, found);
        head.slab_flags.store(1, Relaxed);
        Some((found, dirty))
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

    /// Half of what it keeps by what it learnt was there all the time since the last look.
    fn idles(&mut self) -> bool {
        let least = core::mem::replace(&mut self.least, self.dirty);
        self.more > 0 && least >= self.room() / 2
    }

    /// Takes a free slot off the books; whether it is dirty.
    fn claim(&mut self, descs: Descs, wall: usize, index: usize) -> bool {
        let (page, head) = (descs.page(index), descs.page(wall));
        page.set_kind(Kind::Freeing);
        let dirty = page.slab_flags.load(Relaxed) & DIRTY != 0;
        if dirty {
            self.dirty -= page.pages();
            self.least = self.least.min(self.dirty);
        }
        let free = head.carved.load(Relaxed) - 1;
        head.carved.store(free, Relaxed);
        if free == 0 {
            self.list.remove(descs, wall);
        }
        dirty
    }

    /// Takes free slots of one region off the books, to be discarded: all of them where the whole region is free and was used
    /// since it was last discarded, otherwise those that are dirty. Nothing when there are none.
    fn claim_surplus(&mut self, descs: Descs) -> Option<Claimed> {
        let mut next = self.list.first();
        while let Some(wall) = next {
            let head = descs.page(wall);
            next = descs.after(wall);
            let order = head.pages().ilog2();
            let count = usize::from(head.objects.load(Relaxed));
            let first = wall - (count << order);
            let whole = usize::from(head.carved.load(Relaxed)) == count && head.slab_flags.load(Relaxed) != 0;
            let mut slots = 0_u64;
            for slot in 0..count {
                let page = descs.page(first + (slot << order));
                let dirty = page.slab_flags.load(Relaxed) & DIRTY != 0;
                if page.kind() == Kind::Pinned && (whole || dirty) {
                    slots |= 1 << slot;
                }
            }
            if slots != 0 {
                let mut dirty = 0;
                for slot in (0..count).filter(|slot| slots >> slot & 1 != 0) {
                    dirty += usize::from(self.claim(descs, wall, first + (slot << order))) << order;
                }
                head.slab_flags.store(0, Relaxed);
                return Some(Claimed { wall, order, first, slots, dirty });
            }
        }
        None
    }

    /// Puts a slot of 2^order pages back.
    fn give(&mut self, descs: Descs, wall: usize, index: usize, order: u32, dirty: bool) {
        let (page, head) = (descs.page(index), descs.page(wall));
        page.set_order(order);
        page.set_span(1 << order);
        page.slab_flags.store(u16::from(dirty), Relaxed);
        page.set_kind(Kind::Pinned);
        self.dirty += if dirty { 1 << order } else { 0 };
        let free = head.carved.load(Relaxed) + 1;
        head.carved.store(free, Relaxed);
        if free == 1 {
            self.list.push_front(descs, wall);
        }
    }
}

/// The wall of the region of a slot of 2^order pages: the first slot from there on that has one at its start.
fn wall_of(descs: Descs, mut index: usize, order: u32) -> usize {
    while descs.page(index).kind() != Kind::Wall {
        index += 1 << order;
    }
    index
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
                if let Some((_, false)) = taken {
                    regions.learn(1 << order, &self.idle);
                }
                taken
            };
            self.tell_damage(p);
            if let Some((index, dirty)) = taken {
                // What a shorter run leaves of its slot stays idle.
                self.idle.pages.fetch_sub(pages, Relaxed);
                if dirty {
                    self.idle.dirty.fetch_sub(1 << order, Relaxed);
                }
                let page = descs.page(index);
                page.set_order(order);
                page.set_span(pages);
                page.set_kind(Kind::Allocated);
                // SAFETY: the slot just left the pool for this caller alone, as a run with its head set up.
                return Some(unsafe { PageRun::new(page, self.address_of(index), !dirty) });
            }
            let wanted = region_order(order);
            let region = (order + 1..=wanted).rev().find_map(|order| self.alloc(p, gfp, order, node))?;
            self.open(p, region, order, pages, pool);
        }
    }

    /// Cuts a run into slots of 2^order pages for a pool, each for runs of `pages` pages.
    fn open(&self, p: &P, run: PageRun, order: u32, pages: usize, pool: &Pool) {
        let (descs, slot, zeroed) = (self.descs(), 1 << order, run.is_zeroed());
        let head = self.into_head(run);
        let (first, total) = (self.index(head), head.pages());
        let home = Self::home_of_head(head);
        let wall = first + total - slot;
        // I-REG-3. What is dirty here was somebody else's; later only the user's own.
        // SAFETY: the run is this thread's.
        unsafe {
            if !zeroed && !p.discard(PageRange { first, count: total }) {
                self.address(head).write_bytes(0, total << PAGE_SHIFT);
            }
        }
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
        p.wall(PageRange { first: wall, count: slot });
        self.idle.pages.fetch_add(total, Relaxed);
        let mut regions = pool.0.lock(p);
        for index in (first..wall).step_by(slot) {
            regions.give(descs, wall, index, order, false);
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
        let full = {
            let regions = pool.0.lock(p);
            regions.dirty >= regions.room()
        };
        // SAFETY: the slot is this thread's until it is given back below.
        let clean = full && unsafe { p.discard(PageRange { first: index, count: 1 << order }) };
        if clean {
            self.idle.discarded.fetch_add(1 << order, Relaxed);
            pool.0.lock(p).gone += 1 << order;
        }
        self.idle.pages.fetch_add(pages, Relaxed);
        self.put_back(p, pool, wall, index, order, !clean);
    }

    /// Gives a slot back to its pool. That its pages are idle is noted already.
    fn put_back(&self, p: &P, pool: &Pool, wall: usize, index: usize, order: u32, dirty: bool) {
        if dirty {
            self.idle.dirty.fetch_add(1 << order, Relaxed);
        }
        pool.0.lock(p).give(self.descs(), wall, index, order, dirty);
        self.tell_damage(p);
    }

    /// Some pool learnt to keep more than others: [`Pages::age_pool`] is to be called.
    #[inline]
    pub(crate) fn pools_age(&self) -> bool {
        self.idle.more.load(Relaxed) != 0
    }

    /// Has a pool give its free memory back if half of what it learnt to keep was of no use since the last call.
    pub(crate) fn age_pool(&self, p: &P, pool: &Pool) {
        let idles = pool.0.lock(p).idles();
        if idles {
            self.trim_pool(p, pool);
        }
    }

    /// Gives the memory of all free slots of a pool back to the world; their addresses stay. It keeps as much as any other from
    /// then on.
    pub fn trim_pool(&self, p: &P, pool: &Pool) {
        pool.0.lock(p).unlearn(&self.idle);
        loop {
            // Not in a `while let`: the lock would be held throughout.
            let claimed = pool.0.lock(p).claim_surplus(self.descs());
            let Some(claimed) = claimed else { return };
            let Claimed { wall, order, first, slots, dirty } = claimed;
            self.idle.dirty.fetch_sub(dirty, Relaxed);
            let mut refused = false;
            let (mut at, mut left) = (first, slots);
            while left != 0 {
                // The next run of claimed slots.
                at += (left.trailing_zeros() as usize) << order;
                left >>= left.trailing_zeros();
                let len = left.trailing_ones();
                let range = PageRange { first: at, count: (len as usize) << order };
                // With the wall where it is next: what platforms keep about pages comes in larger pieces than slots.
                let to_wall = usize::from(range.first + range.count == wall) << order;
                let wider = PageRange { count: range.count + to_wall, ..range };
                // SAFETY: the slots were claimed above and are this thread's.
                let clean = unsafe { p.discard(wider) };
                if clean {
                    self.idle.discarded.fetch_add(range.count, Relaxed);
                }
                for index in (at..at + range.count).step_by(1 << order) {
                    self.put_back(p, pool, wall, index, order, !clean);
                }
                refused |= !clean;
                at += range.count;
                left = left.checked_shr(len).unwrap_or(0);
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
                for index in (first..wall).step_by(slot) {
                    if regions.claim(descs, wall, index) {
                        self.idle.dirty.fetch_sub(slot, Relaxed);
                    }
                }
            }
            self.end_region(p, first, wall + slot - first);
        }
    }
}
