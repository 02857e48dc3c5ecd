//! The whole table on simulated machines, for every engine and configuration: each check on a machine of its own.

mod common;

use common::Job;
use kmem_conformance::{Bench, Check, Driver, Faulty, run};
use kmem_core::Kmem;
use kmem_core::config::{Config, Hardened, Headed, KernelConfig, SeedConfig, UserConfig};
use kmem_core::engine::slab::Slab;
use kmem_core::engine::slob::Slob;
use kmem_core::engine::slub::Slub;
use kmem_core::platform::BLOCK_PAGES;
use kmem_sim::Machine;

/// A heap on a simulated machine.
struct Sim<C: Config> {
    machine: Machine,
    heap: Box<Kmem<Faulty<Machine>, C>>,
}

impl<C: Config> Sim<C> {
    fn on(machine: Machine) -> Self {
        let heap = Box::new(Kmem::new(Faulty::new(machine.clone())));
        // SAFETY: the heap is boxed and shared with nobody yet.
        unsafe { heap.init() }.expect("a machine has memory");
        Self { machine, heap }
    }
}

impl<C: Config> Driver for Sim<C> {
    type Platform = Machine;
    type Config = C;

    fn heap(&self) -> &Kmem<Faulty<Machine>, C> {
        &self.heap
    }

    fn cpus(&self) -> usize {
        kmem_core::platform::Platform::cpus(&self.machine)
    }

    fn move_to(&self, cpu: usize) -> bool {
        self.machine.set_cpu(cpu);
        true
    }

    fn node_of(&self, address: *const u8) -> Option<usize> {
        self.machine.node_of_address(address)
    }

    fn cpu_of_node(&self, node: usize) -> Option<usize> {
        Some(self.machine.cpu_of_node(node))
    }
}

/// A machine, and which checks make sense on it: a prefix of their names.
struct Kind {
    name: &'static str,
    build: fn() -> Machine,
    only: &'static [&'static str],
    but: &'static [&'static str],
}

const MACHINES: [Kind; 4] = [
    Kind { name: "one_cpu", build: || Machine::builder().build(), only: &[""], but: &[] },
    Kind {
        name: "four_cpus",
        build: || {
            let low = [BLOCK_PAGES, BLOCK_PAGES];
            Machine::builder().cpus(4).zones(low).scattered().seed(3).build()
        },
        only: &[""],
        but: &[],
    },
    Kind {
        name: "two_nodes",
        build: || Machine::builder().cpus(4).nodes(2).memory_per_node(16 * BLOCK_PAGES).seed(5).build(),
        only: &[""],
        but: &[],
    },
    // Whoever runs here may be on another CPU, and so on another node, at the next instruction.
    Kind {
        name: "restless",
        build: || {
            let machine =
                Machine::builder().cpus(4).nodes(2).memory_per_node(16 * BLOCK_PAGES).seed(7).build();
            machine.preempt_probability(0.02);
            machine
        },
        only: &["walks::", "bulk::", "zeroes::", "construction::", "alignment::", "kmalloc::", "resizing::"],
        // Who freed, and who frees or takes again, are on different CPUs.
        but: &["kmalloc::wrong_frees_are_told", "construction::constructors_run"],
    },
];

fn jobs_of<C: Config>(engine: &str, jobs: &mut Vec<Job>) {
    for machine in &MACHINES {
        for check in Check::<Sim<C>>::ALL {
            let named = |names: &[&str]| names.iter().any(|name| check.name.starts_with(name));
            if named(machine.only) && !named(machine.but) {
                jobs.push(Job {
                    name: format!("{engine}::{}::{}", machine.name, check.name),
                    // The long form where most can go wrong.
                    walks: check.name.starts_with("walks::")
                        && ["one_cpu", "restless"].contains(&machine.name),
                    run: Box::new(|steps| {
                        let sim = Sim::<C>::on((machine.build)());
                        run(&Bench::new(&sim, steps, 11), check)
                    }),
                });
            }
        }
    }
}

fn main() {
    let mut jobs = Vec::new();
    // One line for each engine and configuration.
    jobs_of::<KernelConfig<Slub>>("slub_kernel", &mut jobs);
    jobs_of::<UserConfig<Slub>>("slub_user", &mut jobs);
    jobs_of::<Headed>("slub_user_headed", &mut jobs);
    jobs_of::<Hardened<KernelConfig>>("slub_kernel_hardened", &mut jobs);
    jobs_of::<Hardened>("slub_user_hardened", &mut jobs);
    jobs_of::<KernelConfig<Slab>>("slab_kernel", &mut jobs);
    jobs_of::<UserConfig<Slab>>("slab_user", &mut jobs);
    jobs_of::<SeedConfig>("slab_seed", &mut jobs);
    jobs_of::<KernelConfig<Slob>>("slob_kernel", &mut jobs);
    jobs_of::<UserConfig<Slob>>("slob_user", &mut jobs);
    common::run(jobs, std::thread::available_parallelism().map_or(1, usize::from));
}
