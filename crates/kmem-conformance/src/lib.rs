//! One suite of checks for every engine of kmem on every platform.
//!
//! # Theory
//! The engines keep objects in different ways and promise the same: the kernel's interface. What they promise is
//! checked here once, through that interface alone, for whatever engine, configuration and platform it is given. Where
//! the kernel's engines differ the difference is a row of [`expected`], and the check asks for it.
//!
//! | module | what it is |
//! |---|---|
//! | [`checks`] | the checks, by what they ask; [`Check::ALL`] is the table |
//! | [`mod@bench`] | the heap under test, with safe faces for what checks do with it |
//! | [`expected`] | where engines differ |
//! | [`faulty`] | a platform in front of another, which refuses memory when told to |
//! | `holdings` | what a heap holds, for comparing before and after |
//! | `shortage` | a heap without pages, and then with a few |
//! | `shadow` | a second book of who owns which bytes |
//!
//! # Rules
//! - I-CONF-1: a check gives back what it takes. [`run`] calls each twice and compares what the heap holds between them,
//!   so what is lost is found whatever the check looks for. (What comes with first use and stays is there after the first.)
//! - I-CONF-2: a check works on a heap that others used before, with any number of CPUs and nodes, one or more.
//! - I-CONF-3: nothing here allocates, or needs a thread, a clock, or `std`: it runs where the heap under test is the only one.
//!
//! To check another engine or platform, implement [`Driver`] and call [`run_all`].
#![no_std]
#![allow(
    clippy::result_large_err,
    clippy::large_enum_variant,
    reason = "a failure ends a check, and the only heap to box it in is the one under test"
)]

pub mod bench;
pub mod checks;
pub mod expected;
pub mod failure;
pub mod faulty;
mod holdings;
mod random;
mod shadow;
mod shortage;

pub use bench::{Bench, Cache};
pub use checks::{Check, Needs};
pub use failure::{Failure, Outcome};
pub use faulty::Faulty;

use kmem_core::Kmem;
use kmem_core::config::Config;
use kmem_core::platform::Platform;

/// A heap to check, and what its platform can be made to do.
pub trait Driver: 'static {
    /// The platform, behind [`Faulty`].
    type Platform: Platform;
    /// The configuration of the heap.
    type Config: Config;

    /// The heap. It was initialised, and nobody else uses it.
    fn heap(&self) -> &Kmem<Faulty<Self::Platform>, Self::Config>;

    /// How many CPUs, from the first on, the caller can be moved to.
    fn cpus(&self) -> usize {
        1
    }

    /// Moves the caller to one of these CPUs until it is moved again; false when that fails.
    fn move_to(&self, _cpu: usize) -> bool {
        false
    }

    /// The node of an address, by the machine's own word, where there are several.
    fn node_of(&self, _address: *const u8) -> Option<usize> {
        None
    }

    /// The first CPU of a node that has one.
    fn cpu_of_node(&self, _node: usize) -> Option<usize> {
        None
    }
}

/// How a check ended.
pub enum Verdict {
    /// As it should.
    Passed,
    /// It was not run, for this reason.
    Skipped(&'static str),
    /// Something was wrong.
    Failed(Failure),
}

/// How many checks ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Checks that passed.
    pub passed: u32,
    /// Checks that failed.
    pub failed: u32,
    /// Checks that were not run.
    pub skipped: u32,
}

/// Runs one check, twice, and looks whether it lost anything.
pub fn run<D: Driver>(bench: &Bench<'_, D>, check: &Check<D>) -> Verdict {
    if let Some(why) = check.needs.missing(bench) {
        return Verdict::Skipped(why);
    }
    match run_twice(bench, check) {
        Ok(()) => Verdict::Passed,
        Err(failure) => Verdict::Failed(failure),
    }
}

fn run_twice<D: Driver>(bench: &Bench<'_, D>, check: &Check<D>) -> Outcome {
    bench.home();
    let first = (check.run)(bench);
    bench.home();
    bench.faults().fail_none();
    first?;
    let before = bench.holdings()?;
    let second = (check.run)(bench);
    bench.home();
    bench.faults().fail_none();
    second?;
    if check.leaves { Ok(()) } else { before.same(&bench.holdings()?) }
}

/// Runs the whole table and tells of each check as it ends.
pub fn run_all<D: Driver>(bench: &Bench<'_, D>, tell: &mut dyn FnMut(&str, &Verdict)) -> Tally {
    let mut tally = Tally::default();
    for check in Check::<D>::ALL {
        let verdict = run(bench, check);
        match verdict {
            Verdict::Passed => tally.passed += 1,
            Verdict::Skipped(_) => tally.skipped += 1,
            Verdict::Failed(_) => tally.failed += 1,
        }
        tell(check.name, &verdict);
    }
    tally
}
