//! The page floor on the simulated machine, as its users see it: buddy, zones, nodes, CPU lists, growth, trimming.
//!
//! Every test ends with the checker ([`Heap::check`]): no fault, and exactly the pages in use that the test holds.

mod buddy;
mod ended;
mod errors;
mod grouping;
mod growth;
mod hotplug;
mod links;
mod model;
mod regions;
mod report;
mod stress;
mod trimming;
mod walls;
mod zones;

use kmem_core::gfp::Gfp;
use kmem_core::page::{PageRun, PageStats, Pages, ZoneKind};
use kmem_core::platform::{BLOCK_PAGES, PAGE_SIZE};
use kmem_sim::{Builder, Machine};

/// A page floor on a machine of its own.
struct Heap {
    machine: Machine,
    pages: Box<Pages<Machine>>,
}

impl Heap {
    fn new(builder: Builder) -> Self {
        Self::on(&builder.build())
    }

    fn on(machine: &Machine) -> Self {
        let pages = Box::new(Pages::new());
        pages.init(machine);
        Self { machine: machine.clone(), pages }
    }

    fn alloc(&self, order: u32) -> Option<PageRun> {
        self.pages.alloc(&self.machine, Gfp::KERNEL, order, None)
    }

    fn alloc_with(&self, gfp: Gfp, order: u32) -> Option<PageRun> {
        self.pages.alloc(&self.machine, gfp, order, None)
    }

    fn free(&self, run: PageRun) {
        self.pages.free(&self.machine, run);
    }

    fn free_all(&self, runs: Vec<PageRun>) {
        runs.into_iter().for_each(|run| self.free(run));
    }

    fn drain(&self) {
        for cpu in 0..kmem_core::platform::Platform::cpus(&self.machine) {
            self.pages.drain_cpu(&self.machine, cpu);
        }
    }

    /// Checks everything; `held` is how many pages the test holds.
    #[track_caller]
    fn check(&self, held: usize) -> PageStats {
        let stats = self.pages.validate(&self.machine).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(stats.in_use, held, "pages in use: {stats:?}");
        assert_eq!(stats.managed, stats.free + stats.in_use, "{stats:?}");
        stats
    }

    /// Allocates this order until nothing is left.
    fn exhaust(&self, gfp: Gfp, order: u32) -> Vec<PageRun> {
        std::iter::from_fn(|| self.alloc_with(gfp, order)).collect()
    }

    /// Every run of this zone's memory, taken one after the other.
    fn free_in(&self, node: usize, zone: ZoneKind) -> usize {
        self.pages.zone_stats(&self.machine, node, zone).map_or(0, |zone| zone.free)
    }
}

/// Writes a pattern over a whole run, so that overlapping runs would show.
fn fill(run: &PageRun, value: u8) {
    // SAFETY: the run is owned by the test, and its memory is writable.
    unsafe { run.address().write_bytes(value, run.pages() * PAGE_SIZE) };
}

/// True when all of a run's bytes are this value.
fn is_filled(run: &PageRun, value: u8) -> bool {
    // SAFETY: the run is owned by the test, and its memory is initialised (zero or filled).
    let bytes = unsafe { std::slice::from_raw_parts(run.address(), run.pages() * PAGE_SIZE) };
    bytes.iter().all(|&byte| byte == value)
}

/// A machine with one CPU, one node and this many blocks of NORMAL memory.
fn small(blocks: usize) -> Builder {
    Machine::builder().memory_per_node(blocks * BLOCK_PAGES)
}
