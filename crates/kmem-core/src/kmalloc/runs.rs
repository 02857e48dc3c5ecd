//! What the run classes keep in reserve, and its end.
//!
//! # Theory
//! A class whose blocks are runs of pages recycles them as every class does its objects: by the CPUs' stacks, a sheaf of the
//! node, a free slab. Each of those few blocks is up to 4 MiB of memory that the system still backs, where a small class keeps a few
//! KiB: what a program that is busy with large blocks lives by would be a burden for one that has done with them. So they
//! are kept for a time only. Whoever runs a heap calls [`Kmem::age_large`] now and then; a class of which nobody took a
//! block since the call before gives all of its reserve back to the zones, which give to the system what is too much
//! (`page::trim`).
//!
//! Whether a class was used is read off the counts of what its CPU stacks handed out: no fast path does anything for it.
//!
//! # Invariants
//! - I-RUNS-1: a reserve that is given back is free memory: live blocks are not touched, wherever they are.
//!
//! # Never
//! Nothing here looks at the contents of a block, and the registry's lock is not taken: classes live as long as the heap.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cache::KmemCache;
use crate::config::Config;
use crate::engine::{Engine, sheaf};
use crate::heap::Kmem;
use crate::kmalloc::MAX_CLASSES;
use crate::kmalloc::classes::{ClassSet, Kind};
use crate::percpu::CpuArea;
use crate::platform::{MAX_NODES, Platform};

/// What was seen of the run classes when they were last looked at.
pub struct RunAges([AtomicU64; MAX_CLASSES]);

impl RunAges {
    /// Nothing was seen.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; MAX_CLASSES])
    }
}

impl Default for RunAges {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Ages the reserves of the run classes, and the mappings that are kept: what nobody used since the call before goes back to
    /// the zones, or to the platform. True as long as there is anything of the kind, in use or in reserve: then call again, about a
    /// second later.
    pub fn age_large(&self, ages: &RunAges) -> bool {
        let mut some = false;
        for class in C::Classes::SLAB_CLASSES..C::Classes::COUNT {
            let Some(cache) = self.kmalloc_cache(Kind::Normal, class) else { continue };
            if self.slabs_of(cache) == 0 {
                continue;
            }
            let taken = self.taken_of(cache);
            // Relaxed: a hint. Two that look at once both find the class idle, or one does.
            if ages.0[class].swap(taken, Ordering::Relaxed) == taken {
                sheaf::flush(self.floor(), &cache.engine);
                for cpu in 0..self.platform.cpus() {
                    sheaf::retire_stack(self.floor(), &cache.engine, cpu);
                }
                for node in 0..self.platform.nodes().min(MAX_NODES) {
                    C::Engine::release_empty(self.floor(), &cache.engine, node, false);
                }
            }
            some |= self.slabs_of(cache) != 0;
        }
        self.age_kept() | self.cut_rooms() | some
    }

    /// Ages the free pages: what was free and resident since the call before, or, with `quiet`, is, goes back to the platform. True as
    /// long as there is any: then call again, about a second later.
    pub fn age_pages(&self, quiet: bool) -> bool {
        if self.pages.ages() {
            self.pages.age(&self.platform, quiet);
        }
        self.pages.ages()
    }

    /// There is memory that [`Kmem::age_large`] will give back.
    pub fn ages(&self) -> bool {
        self.kept.bytes() != 0
    }

    /// Blocks that a cache has handed out, about.
    fn taken_of(&self, cache: &KmemCache<C::Engine>) -> u64 {
        (0..self.platform.cpus()).fold(0, |sum: u64, cpu| {
            let fast = self.platform.cpu_area().hot(cpu, cache.engine.id).allocs.load(Ordering::Relaxed);
            let slow = cache
                .engine
                .cpu(&self.platform, cpu)
                .map_or(0, |cpu| cpu.stats.alloc_slow.load(Ordering::Relaxed));
            sum.wrapping_add(fast).wrapping_add(slow)
        })
    }
}
