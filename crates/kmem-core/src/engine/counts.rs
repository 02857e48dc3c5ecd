//! What a cache holds, in numbers, and what a check of it may find.

use core::sync::atomic::Ordering;

use crate::engine::{Cache, Engine, Floor};
use crate::percpu::CpuArea;
use crate::platform::{MAX_NODES, Platform};

/// What a cache holds, counted without stopping anybody: exact when nobody works on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Slabs.
    pub slabs: u64,
    /// Objects that the slabs can hold.
    pub objects: u64,
    /// Slabs on the nodes' lists of slabs with room.
    pub partial: u64,
    /// Free objects in those.
    pub free_partial: u64,
    /// Free objects in the hands of CPUs: stacks, CPU slabs, chains.
    pub free_cpu: u64,
    /// Free objects that nodes keep in front of their slabs: barns (SLUB), shared arrays (SLAB).
    pub free_barn: u64,
    /// Free objects on their way home to another node (SLAB's alien arrays).
    pub free_alien: u64,
    /// Slabs owned by CPUs.
    pub cpu_slabs: u64,
    /// Slabs on the nodes' lists without any object out of them (SLAB).
    pub free_slabs: u64,
    /// The most slabs each node ever had, added up.
    pub peak_slabs: u64,
    /// Objects handed out.
    pub allocs: u64,
    /// Of these, those that missed the CPU's stack.
    pub alloc_slow: u64,
    /// Frees that missed the CPU's stack.
    pub free_slow: u64,
    /// Slabs made.
    pub slabs_made: u64,
    /// What only SLAB counts.
    pub events: SlabEvents,
}

/// What SLAB counts on its nodes, for the long form of its listing. All since the cache was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlabEvents {
    /// Objects taken from slabs.
    pub taken: u64,
    /// The most objects of a node that were out of their slabs, added up.
    pub peak_out: u64,
    /// Slabs that the reaper gave back.
    pub reaped: u64,
    /// Indexes found damaged, and objects freed that were free.
    pub errors: u64,
    /// The most free slabs of a node, added up.
    pub peak_free_slabs: u64,
    /// Requests that another node than the caller's served.
    pub served_away: u64,
    /// Frees of another node's objects.
    pub freed_away: u64,
    /// Times an alien array was full.
    pub alien_overflows: u64,
}

impl SlabEvents {
    /// Nothing happened.
    pub const NONE: Self = Self {
        taken: 0,
        peak_out: 0,
        reaped: 0,
        errors: 0,
        peak_free_slabs: 0,
        served_away: 0,
        freed_away: 0,
        alien_overflows: 0,
    };

    /// Adds another node's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.taken += other.taken;
        self.peak_out += other.peak_out;
        self.reaped += other.reaped;
        self.errors += other.errors;
        self.peak_free_slabs += other.peak_free_slabs;
        self.served_away += other.served_away;
        self.freed_away += other.freed_away;
        self.alien_overflows += other.alien_overflows;
    }
}

impl Counts {
    /// Objects in the hands of users.
    #[must_use]
    pub fn in_use(&self) -> u64 {
        self.objects.saturating_sub(self.free_partial + self.free_cpu + self.free_barn + self.free_alien)
    }

    /// What slabinfo calls active: everything that is not on a node's list.
    #[must_use]
    pub fn active(&self) -> u64 {
        self.objects.saturating_sub(self.free_partial)
    }
}

/// Counts a cache. Called by a signal handler that interrupted the allocator it leaves out what is locked.
pub fn count<P: Platform, E: Engine>(floor: Floor<'_, P, E>, cache: &Cache<E>) -> Counts {
    let mut counts = Counts::default();
    for node in 0..floor.platform.nodes().min(MAX_NODES) {
        let state = cache.node(node);
        counts.slabs += state.slabs.load(Ordering::Relaxed);
        counts.objects += state.objects.load(Ordering::Relaxed);
        counts.peak_slabs += state.peak_slabs.load(Ordering::Relaxed);
    }
    for number in 0..floor.platform.cpus() {
        let Some(cpu) = cache.cpu(floor.platform, number) else { continue };
        let hot = floor.platform.cpu_area().hot(number, cache.id);
        counts.allocs += hot.allocs.load(Ordering::Relaxed);
        let slow = cpu.stats.alloc_slow.load(Ordering::Relaxed);
        counts.alloc_slow += slow;
        counts.allocs += slow;
        counts.free_slow += cpu.stats.free_slow.load(Ordering::Relaxed);
        counts.slabs_made += cpu.stats.alloc_slab.load(Ordering::Relaxed);
        let Some(stack) = cpu.stack.lock_unless_held(floor.platform) else { continue };
        if !stack.base.is_null() {
            let top = hot.top.load(Ordering::Relaxed);
            counts.free_cpu +=
                ((top as usize).saturating_sub(stack.base as usize) / size_of::<*mut u8>()) as u64;
        }
    }
    E::count(floor, cache, &mut counts);
    counts
}

/// What a check of a cache found wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A slab's count of objects in use does not match its list: (slab address, counted, found).
    Count(usize, u16, u16),
    /// A free pointer or an index leads out of its slab: (slab address).
    Freelist(usize),
    /// A slab is on a list that its state does not belong on, or of another cache: (slab address).
    State(usize),
    /// A page of a slab is another cache's by the map of pages: (slab address).
    Map(usize),
}
