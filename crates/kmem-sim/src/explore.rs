//! Running one scenario once for each way in which memory can be refused to it.

use crate::builder::Builder;
use crate::machine::Machine;

/// A scenario that still meets refusals after this many runs does not end by itself.
const RUNS: u64 = 1_000_000;

impl Builder {
    /// Runs `scenario` on a fresh machine of this description once for every request for memory that it makes, refusing
    /// that one: the first run loses its first request, the second run its second, and so on until a run asks for
    /// less than that. Returns in how many runs a request was refused.
    ///
    /// The scenario may call [`Machine::fail_none`] when it comes to checking.
    ///
    /// # Panics
    /// When `scenario` does, and when it never ends.
    pub fn each_failure(&self, scenario: impl FnMut(&Machine)) -> u64 {
        self.explore(|machine, n| machine.fail_nth(n), scenario)
    }

    /// As [`Builder::each_failure`], but the world stays out of memory from the refused request on.
    ///
    /// # Panics
    /// When `scenario` does, and when it never ends.
    pub fn each_exhaustion(&self, scenario: impl FnMut(&Machine)) -> u64 {
        self.explore(|machine, n| machine.fail_after(n), scenario)
    }

    fn explore(&self, arm: impl Fn(&Machine, u64), mut scenario: impl FnMut(&Machine)) -> u64 {
        for n in 1..=RUNS {
            let machine = self.clone().build();
            arm(&machine, n);
            scenario(&machine);
            if machine.counters().refused == 0 {
                return n - 1;
            }
        }
        panic!("{RUNS} runs, and the last still met a refusal");
    }
}
