//! What one node keeps of one cache: three lists of slabs, the array its CPUs share, arrays for other nodes' objects.
//!
//! # Invariants
//! - I-SLABNODE-1: a slab that is not being made or given back is on exactly one list of its node, and
//!   [`Page::slab_flags`](crate::page::Page) says which: *partial* with `0 < active < objects`, *full* with
//!   `active == objects`, *free* with `active == 0`.
//! - I-SLABNODE-2: `free_objects` is the sum of `objects - active` over the slabs of all three lists.
//! - I-SLABNODE-3: objects in the shared array are of slabs of this node; objects in an alien array of the node it is for.
//!
//! # Locks
//! The lists and the shared array are under the node's lock, the alien arrays under one of the rank before it. Neither is
//! held while pages are fetched or given back.

use core::sync::atomic::Ordering;

use crate::engine::SlabEvents;
use crate::engine::list::SlabList;
use crate::engine::slab::desc::State;
use crate::engine::slab::geometry::ColourCursor;
use crate::engine::slab::queue::{Aliens, Queue};
use crate::page::{Page, Pages};
use crate::platform::Platform;
use crate::sync::{Lock, rank};

/// What SLAB keeps of a cache on a node.
pub struct Stock {
    /// Slabs and the shared array.
    pub lists: Lock<Lists, { rank::NODE }>,
    /// Objects of other nodes that were freed here, on their way home.
    pub(super) aliens: Lock<Aliens, { rank::BARN }>,
}

impl Stock {
    /// Nothing.
    pub(super) const fn new() -> Self {
        Self { lists: Lock::new(Lists::new()), aliens: Lock::new(Aliens::new()) }
    }

    /// Shows each object that waits here to go home to `home`, oldest first. `see` runs under a lock.
    pub(crate) fn each_alien<P: Platform>(&self, platform: &P, home: usize, see: impl FnMut(&*mut u8)) {
        self.aliens.lock(platform).objects(home).iter().for_each(see);
    }
}

/// What the node's lock guards.
pub struct Lists {
    /// Slabs with objects in use and free ones (`slabs_partial`).
    pub partial: SlabList,
    /// Slabs without free objects (`slabs_full`).
    pub full: SlabList,
    /// Slabs without objects in use (`slabs_free`).
    pub free: SlabList,
    /// Free objects in all of them.
    pub free_objects: u64,
    /// The colour of the next slab.
    pub(super) cursor: ColourCursor,
    /// Objects were taken from a free slab since the node was last reaped.
    pub free_touched: bool,
    /// CPUs of this node that went away.
    pub(crate) dead_cpus: u32,
    /// When the node is to be reaped next, in nanoseconds of the platform.
    pub next_reap: u64,
    /// Objects at hand for all CPUs of the node.
    pub shared: Queue,
    /// What happened here.
    pub(super) events: SlabEvents,
}

impl Lists {
    const fn new() -> Self {
        Self {
            partial: SlabList::new(),
            full: SlabList::new(),
            free: SlabList::new(),
            free_objects: 0,
            cursor: ColourCursor::new(),
            free_touched: false,
            dead_cpus: 0,
            next_reap: 0,
            shared: Queue::new(),
            events: SlabEvents::NONE,
        }
    }

    /// Counts objects that just left slabs which hold `objects` together.
    pub(super) fn count_taken(&mut self, taken: usize, objects: u64) {
        self.events.taken += taken as u64;
        self.events.peak_out = self.events.peak_out.max(objects.saturating_sub(self.free_objects));
    }

    /// The list that slabs of this state are on.
    pub(super) fn of(&mut self, state: State) -> &mut SlabList {
        match state {
            State::Partial => &mut self.partial,
            State::Full => &mut self.full,
            State::Free => &mut self.free,
        }
    }

    /// Lists a slab that is on no list yet, with the free objects it has.
    pub(super) fn add<P: Platform>(&mut self, pages: &Pages<P>, slab: &Page) {
        self.free_objects += u64::from(super::desc::free(slab));
        let state = State::of(slab);
        slab.slab_flags.store(state as u16, Ordering::Relaxed);
        self.of(state).push_front(pages, slab);
    }

    /// Moves a slab whose last object came back to the free ones. False: the list that it was on was damaged, and is mended.
    #[must_use]
    pub(super) fn settle_freed<P: Platform>(&mut self, pages: &Pages<P>, slab: &Page) -> bool {
        let old = if slab.slab_flags.load(Ordering::Relaxed) == State::Full as u16 {
            &mut self.full
        } else {
            &mut self.partial
        };
        let sound = old.take_out(pages, slab);
        slab.slab_flags.store(State::Free as u16, Ordering::Relaxed);
        self.free.push_front(pages, slab);
        self.events.peak_free_slabs = self.events.peak_free_slabs.max(u64::from(self.free.len));
        sound
    }

    /// Moves a slab that got or lost objects to the list it now belongs on. One that stays partial stays where it is,
    /// unless it is `to_tail`. False: the list that it was on was damaged, and is mended.
    #[must_use]
    pub(super) fn settle<P: Platform>(&mut self, pages: &Pages<P>, slab: &Page, to_tail: bool) -> bool {
        let (old, new) = (State::listed(slab), State::of(slab));
        if old == new && !to_tail {
            return true;
        }
        let sound = self.of(old).take_out(pages, slab);
        slab.slab_flags.store(new as u16, Ordering::Relaxed);
        if new == State::Free {
            self.events.peak_free_slabs = self.events.peak_free_slabs.max(u64::from(self.free.len) + 1);
        }
        if to_tail && new == State::Partial {
            self.partial.push_back(pages, slab);
        } else {
            self.of(new).push_front(pages, slab);
        }
        sound
    }
}
