//! What an operation costs others, from 1 to 256 CPUs: how often it leaves its CPU, how many locks it takes, how many of them were
//! last taken elsewhere. All of it must stay as it is however many CPUs there are, on one node, where it is hardest.
//!
//! CPUs take turns, one operation each, so that between two operations of one CPU every other has had its own. Everything
//! happens in one thread and is the same in every run: the counts are exact. `--nocapture` prints them.

use kmem_core::config::{Config, KernelConfig, UserConfig};
use kmem_core::engine::slab::Slab;
use kmem_core::engine::slub::Slub;
use kmem_core::gfp::Gfp;
use kmem_core::heap::Kmem;
use kmem_core::platform::BLOCK_PAGES;
use kmem_sim::{Counters, Machine, Rng};

/// Numbers of CPUs that are compared.
const CPUS: [usize; 6] = [1, 2, 4, 16, 64, 256];
/// Operations of each CPU before it counts, and then.
const WARM: usize = 3000;
const COUNTED: usize = 3000;

/// What CPUs do.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// A block, and back.
    Pair,
    /// 500 blocks, then back in the order in which they came.
    Batch,
    /// One of 200 blocks is replaced by one of another size.
    WorkingSet,
    /// A CPU frees what the one before it allocated.
    OneWay,
    /// A CPU frees what any other allocated.
    AnyWay,
}

impl Load {
    const ALL: [Self; 5] = [Self::Pair, Self::Batch, Self::WorkingSet, Self::OneWay, Self::AnyWay];
}

/// The blocks of one CPU.
#[derive(Default)]
struct Hand {
    blocks: std::collections::VecDeque<*mut u8>,
    filling: bool,
}

/// A heap, its machine, and what its CPUs hold.
struct Bed<C: Config> {
    machine: Machine,
    heap: Box<Kmem<Machine, C>>,
    hands: Vec<Hand>,
    rng: Rng,
    /// Allocations and frees.
    operations: u64,
}

impl<C: Config> Bed<C> {
    fn new(cpus: usize) -> Self {
        let machine = Machine::builder().cpus(cpus).memory_per_node(64 * BLOCK_PAGES).build();
        let heap = Box::new(Kmem::new(machine.clone()));
        // SAFETY: the heap is boxed and shared with nobody yet.
        unsafe { heap.init() }.expect("memory to begin with");
        let hands = (0..cpus).map(|_| Hand::default()).collect();
        Self { machine, heap, hands, rng: Rng::new(9), operations: 0 }
    }

    fn take(&mut self, size: usize) -> *mut u8 {
        self.operations += 1;
        let block = self.heap.kmalloc(size, Gfp::KERNEL);
        assert!(!block.is_null(), "no memory");
        block
    }

    fn give(&mut self, block: Option<*mut u8>) {
        let Some(block) = block else { return };
        self.operations += 1;
        // SAFETY: the block was on a CPU's hand, and is no more.
        unsafe { self.heap.kfree(block) }.expect("a free of a good block");
    }

    /// One turn of a CPU, on which the caller is.
    fn turn(&mut self, load: Load, cpu: usize) {
        let others = self.hands.len();
        match load {
            Load::Pair => {
                let block = self.take(64);
                self.give(Some(block));
            }
            Load::Batch => {
                let full = self.hands[cpu].blocks.len() >= 500;
                if full || self.hands[cpu].blocks.is_empty() {
                    self.hands[cpu].filling = !full;
                }
                if self.hands[cpu].filling {
                    let block = self.take(64);
                    self.hands[cpu].blocks.push_back(block);
                } else {
                    let block = self.hands[cpu].blocks.pop_front();
                    self.give(block);
                }
            }
            Load::WorkingSet => {
                let size = 16 << self.rng.below(7);
                let block = self.take(size);
                self.hands[cpu].blocks.push_back(block);
                if self.hands[cpu].blocks.len() > 200 {
                    let which = self.rng.below(201);
                    let block = self.hands[cpu].blocks.swap_remove_back(which);
                    self.give(block);
                }
            }
            Load::OneWay => {
                let block = self.take(64);
                self.hands[cpu].blocks.push_back(block);
                let before = (cpu + others - 1) % others;
                if self.hands[before].blocks.len() > 20 {
                    let block = self.hands[before].blocks.pop_front();
                    self.give(block);
                }
            }
            Load::AnyWay => {
                let block = self.take(64);
                self.hands[cpu].blocks.push_back(block);
                let of = self.rng.below(others);
                let block = self.hands[of].blocks.pop_front();
                self.give(block);
            }
        }
    }

    fn run(&mut self, load: Load, turns: usize) {
        let machine = self.machine.clone();
        for _ in 0..turns {
            for cpu in 0..self.hands.len() {
                machine.on_cpu(cpu, || self.turn(load, cpu));
            }
        }
    }
}

/// Of one operation.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// Times that the CPU's own stacks could not serve it.
    left: f64,
    locks: f64,
    /// Of those, taken elsewhere before. An upper bound: the simulator knows the rank of a lock, not which one it is.
    transfers: f64,
}

fn cost<C: Config>(load: Load, cpus: usize) -> Cost {
    let mut bed = Bed::<C>::new(cpus);
    bed.run(load, WARM);
    let (before, done) = (bed.machine.counters(), bed.operations);
    bed.run(load, COUNTED);
    let (after, operations) = (bed.machine.counters(), (bed.operations - done) as f64);
    let each = |count: fn(&Counters) -> u64| (count(&after) - count(&before)) as f64 / operations;
    Cost {
        left: each(|counters| counters.empty_pops + counters.full_pushes),
        locks: each(Counters::total_locks),
        transfers: each(Counters::total_transfers),
    }
}

/// Every load on every number of CPUs. From the `base`th number on nothing may rise, and up to there no more than to `most`
/// locks an operation.
fn flat<C: Config>(name: &str, base: usize, most: f64) {
    for load in Load::ALL {
        let costs = CPUS.map(|cpus| cost::<C>(load, cpus));
        let shown = |what: &str, of: fn(&Cost) -> f64| {
            let row: String = costs.iter().map(|cost| format!("{:>9.4}", of(cost))).collect();
            println!("{name:<12} {:<12} {what:<10}{row}", format!("{load:?}"));
        };
        shown("left", |cost| cost.left);
        shown("locks", |cost| cost.locks);
        shown("transfers", |cost| cost.transfers);
        // One CPU has nobody to take a lock from.
        let (few, two) = (costs[base], costs[base.max(1)]);
        for (cost, cpus) in costs.iter().zip(CPUS) {
            let flat = |now: f64, then: f64| now <= then * 1.15 + 0.002;
            let as_few = flat(cost.left, few.left)
                && flat(cost.locks, few.locks)
                && flat(cost.transfers, two.transfers);
            assert!(as_few, "{name}, {load:?}: {cost:?} on {cpus} CPUs, {few:?} on {}", CPUS[base]);
            assert!(cost.locks <= most, "{name}, {load:?}: {cost:?} on {cpus} CPUs");
        }
    }
}

#[test]
fn slub_is_flat() {
    flat::<UserConfig<Slub>>("slub", 0, 0.005);
}

/// The stacks of a kernel are short, and what a node keeps for all its CPUs is bounded: with many of them at the same point of the same
/// batch it is used up, and slabs are what is left. So the cost rises until nothing of the reserve is to be had, and then no more.
#[test]
fn slub_as_in_a_kernel_has_a_ceiling() {
    flat::<KernelConfig<Slub>>("slub kernel", 3, 0.1);
}

#[test]
fn slab_has_a_ceiling() {
    flat::<UserConfig<Slab>>("slab", 3, 0.1);
}
