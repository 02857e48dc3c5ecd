//! The suite that every engine passes on every platform, on this one: each check a test, on the kernel's own heap.

use core::sync::atomic::{AtomicBool, Ordering};

use kmem_conformance::{Bench, Driver, Faulty, Verdict, run_all};
use kmem_core::Kmem;

use crate::boot::{early, paging};
use crate::cpu::serial::println;
use crate::heap::{self, Heap};
use crate::platform::Machine;
use crate::smp::{self, thread};

/// Operations of a random walk.
const STEPS: usize = 2000;

/// This kernel.
struct Bare;

impl Driver for Bare {
    type Platform = Machine;
    type Config = heap::Configuration;

    fn heap(&self) -> &Kmem<Faulty<Machine>, heap::Configuration> {
        let heap: &'static Heap = heap::with(|heap| heap);
        heap
    }

    fn cpus(&self) -> usize {
        smp::online()
    }

    fn move_to(&self, cpu: usize) -> bool {
        thread::move_to(cpu)
    }

    fn node_of(&self, address: *const u8) -> Option<usize> {
        early::node_of(address.addr().checked_sub(paging::DIRECT)?)
    }

    fn cpu_of_node(&self, node: usize) -> Option<usize> {
        (0..smp::count()).find(|&cpu| smp::block(cpu).node() == node)
    }
}

static PASSED: AtomicBool = AtomicBool::new(false);

/// Runs the suite. True when no check failed.
pub(super) fn run() -> bool {
    heap::with(|heap| heap.platform().set_loud(false));
    thread::run(|| {
        let bench = Bench::new(&Bare, STEPS, 17);
        let tally = run_all(&bench, &mut |name, verdict| match verdict {
            Verdict::Passed => println!("test conformance.{name} ok"),
            Verdict::Skipped(why) => println!("test conformance.{name} skipped: {why}"),
            Verdict::Failed(failure) => println!("test conformance.{name} FAILED: {failure}"),
        });
        bench.home();
        println!("conformance: {} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
        PASSED.store(tally.failed == 0 && tally.passed > 0, Ordering::Relaxed);
    });
    heap::with(|heap| heap.platform().set_loud(true));
    PASSED.load(Ordering::Relaxed)
}
