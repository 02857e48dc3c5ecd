//! What a machine is made of: said step by step, checked once.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use kmem_core::page::ZoneKind;
use kmem_core::platform::{MAX_CPUS, MAX_NODES};

use crate::counters::Tally;
use crate::cpus::SimCpus;
use crate::faults::Faults;
use crate::locks::WaitQueue;
use crate::machine::{Inner, Machine};
use crate::maps::Maps;
use crate::memory::{Layout, Memory};
use crate::rng::{Rng, SharedRng};
use crate::symbols::Symbols;
use crate::thread::Schedule;

/// Describes a machine to be; see [`Machine::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    cpus: usize,
    nodes: usize,
    per_node: usize,
    low: [usize; 2],
    exact: Vec<(usize, ZoneKind, usize)>,
    map_limit: usize,
    seed: u64,
    scatter: bool,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            cpus: 1,
            nodes: 1,
            per_node: 16384,
            low: [0; 2],
            exact: Vec::new(),
            map_limit: 1 << 30,
            seed: 1,
            scatter: false,
        }
    }

    /// Number of CPUs (default 1). CPU `c` belongs to node `c * nodes / cpus`.
    pub fn cpus(mut self, cpus: usize) -> Self {
        self.cpus = cpus;
        self
    }

    /// Number of nodes (default 1). A node may have no CPU.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// Pages of NORMAL memory of each node (default 16384: 64 MiB), rounded up to blocks.
    pub fn memory_per_node(mut self, pages: usize) -> Self {
        self.per_node = pages;
        self
    }

    /// Pages of DMA and of DMA32 memory of node 0, besides its NORMAL memory (default none), rounded up to blocks.
    pub fn zones(mut self, low: [usize; 2]) -> Self {
        self.low = low;
        self
    }

    /// Pages of one zone of one node, whatever the other settings say; 0 takes it away.
    pub fn memory(mut self, node: usize, zone: ZoneKind, pages: usize) -> Self {
        self.exact.push((node, zone, pages));
        self
    }

    /// Bytes that mappings outside the window may have together (default 1 GiB).
    pub fn map_limit(mut self, bytes: usize) -> Self {
        self.map_limit = bytes;
        self
    }

    /// Where all randomness comes from (default 1).
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Gives any free block of a zone instead of the lowest: what the heap gets is then seldom contiguous.
    pub fn scattered(mut self) -> Self {
        self.scatter = true;
        self
    }

    /// Builds the machine. Its memory is reserved, not touched.
    ///
    /// # Panics
    /// When the description contradicts itself (no CPU, no memory, too many of anything), or when this process has no
    /// address space left.
    #[must_use]
    pub fn build(self) -> Machine {
        assert!((1..=MAX_CPUS).contains(&self.cpus), "a machine has 1..={MAX_CPUS} CPUs, not {}", self.cpus);
        assert!(
            (1..=MAX_NODES).contains(&self.nodes),
            "a machine has 1..={MAX_NODES} nodes, not {}",
            self.nodes
        );
        let mut layout: Layout = vec![[0, 0, self.per_node]; self.nodes];
        layout[0][..2].copy_from_slice(&self.low);
        for (node, zone, pages) in self.exact {
            assert!(node < self.nodes, "memory of node {node} of a machine with {}", self.nodes);
            layout[node][zone as usize] = pages;
        }
        let mut seeds = Rng::new(self.seed);
        let scatter = self.scatter.then(|| Rng::new(seeds.next_u64()));
        let schedule = Arc::new(Schedule::new(self.cpus, seeds.next_u64()));
        let tally = Arc::new(Tally::new());
        Machine(Arc::new(Inner {
            cpus: SimCpus::new(self.cpus, Arc::clone(&schedule), Arc::clone(&tally)),
            ncpus: self.cpus,
            nodes: self.nodes,
            memory: Memory::new(&layout, scatter),
            maps: Maps::new(self.map_limit, seeds.next_u64()),
            faults: Faults::new(seeds.next_u64()),
            entropy: SharedRng::new(seeds.next_u64()),
            clock: AtomicU64::new(1_000_000_000),
            keep_discards: AtomicBool::new(false),
            console: Mutex::default(),
            calls: Mutex::default(),
            symbols: Symbols::default(),
            waiters: WaitQueue::default(),
            schedule,
            tally,
        }))
    }
}
