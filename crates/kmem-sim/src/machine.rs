//! The machine: the handle that tests steer with. What the heap sees of it is in `platform`.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kmem_core::page::ZoneKind;
use kmem_core::platform::{PAGE_SHIFT, PageRange, Platform};

use crate::builder::Builder;
use crate::counters::{Counters, Tally};
use crate::cpus::SimCpus;
use crate::faults::Faults;
use crate::locks::WaitQueue;
use crate::maps::Maps;
use crate::memory::Memory;
use crate::rng::SharedRng;
use crate::symbols::Symbols;
use crate::thread::{OnDrop, Schedule};

/// How the panic message of [`Platform::fatal`] begins on this platform.
pub const FATAL: &str = "kmem-sim: fatal";

/// What a heap holds that it did not have at the start; all zero when nothing was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outstanding {
    /// Pages given by `grow` and not released.
    pub pages: usize,
    /// Mappings outside the window.
    pub maps: usize,
    /// Their bytes.
    pub map_bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) cpus: SimCpus,
    pub(crate) ncpus: usize,
    pub(crate) nodes: usize,
    pub(crate) memory: Memory,
    pub(crate) maps: Maps,
    pub(crate) faults: Faults,
    pub(crate) entropy: SharedRng,
    pub(crate) clock: AtomicU64,
    pub(crate) keep_discards: AtomicBool,
    pub(crate) console: Mutex<String>,
    pub(crate) calls: Mutex<Vec<&'static str>>,
    pub(crate) symbols: Symbols,
    pub(crate) waiters: WaitQueue,
    pub(crate) schedule: Arc<Schedule>,
    pub(crate) tally: Arc<Tally>,
}

/// A simulated machine. Clones are handles to the same machine; its memory lives as long as any of them.
///
/// ```
/// use kmem_core::platform::Platform;
/// use kmem_sim::Machine;
///
/// let machine = Machine::builder().cpus(4).nodes(2).seed(7).build();
/// let node = machine.on_cpu(3, || machine.current_node());
/// assert_eq!(node, 1);
/// ```
#[derive(Clone, Debug)]
pub struct Machine(pub(crate) Arc<Inner>);

impl Machine {
    /// A description to fill in: 1 CPU, 1 node, 64 MiB of NORMAL memory, seed 1.
    pub fn builder() -> Builder {
        Builder::new()
    }

    // The schedule.

    /// Runs `body` on this CPU and comes back, also by panic, to where the thread was before.
    /// The schedule may still move the thread away meanwhile, as it may on a real machine.
    ///
    /// # Panics
    /// When there is no such CPU.
    pub fn on_cpu<R>(&self, cpu: usize, body: impl FnOnce() -> R) -> R {
        let before = self.0.schedule.set_cpu(cpu);
        let _back = OnDrop(|| {
            self.0.schedule.set_cpu(before);
        });
        body()
    }

    /// Moves the running thread to this CPU. Threads start on CPU 0.
    ///
    /// # Panics
    /// When there is no such CPU.
    pub fn set_cpu(&self, cpu: usize) {
        self.0.schedule.set_cpu(cpu);
    }

    /// The first CPU of a node.
    ///
    /// # Panics
    /// When the node has none.
    #[must_use]
    pub fn cpu_of_node(&self, node: usize) -> usize {
        (0..self.0.ncpus).find(|&cpu| self.node_of_cpu(cpu) == node).expect("a node with a CPU")
    }

    /// The node of a CPU.
    #[must_use]
    pub fn node_of_cpu(&self, cpu: usize) -> usize {
        cpu * self.0.nodes / self.0.ncpus
    }

    /// From now on each scheduling point moves its thread to another CPU with probability `p`.
    ///
    /// # Panics
    /// When `p` is not in 0..=1.
    pub fn preempt_probability(&self, p: f64) {
        self.0.schedule.set_chance(p);
    }

    /// Scheduling points that the running thread has passed.
    #[must_use]
    pub fn points(&self) -> u64 {
        self.0.schedule.points()
    }

    /// Runs `body`, moving the running thread to `cpu` at its `n`-th scheduling point from now (1 is the next).
    /// Looping over all `n` tries every single migration that can happen to a piece of code.
    ///
    /// # Panics
    /// When `n` is 0, there is no such CPU, or a migration is in store already.
    pub fn migrating<R>(&self, n: u64, cpu: usize, body: impl FnOnce() -> R) -> R {
        self.0.schedule.migrating(n, cpu, body)
    }

    /// Runs `body`, and at its `n`-th scheduling point from now, or at the first after that at which it holds no lock,
    /// runs `work` as if another thread had the CPU for that long. Tells also whether `work` ran. Looping over all
    /// `n` until it does not run any more tries every such interleaving of the two.
    ///
    /// # Panics
    /// When `n` is 0 or an interruption is in store already.
    pub fn interrupted<R>(&self, n: u64, work: impl FnOnce(), body: impl FnOnce() -> R) -> (R, bool) {
        self.0.schedule.interrupted(n, work, body)
    }

    /// Runs `body` with several locks of one rank allowed at a time, for code that takes all locks for a fork.
    pub fn forking<R>(&self, body: impl FnOnce() -> R) -> R {
        self.0.schedule.forking(body)
    }

    // Failures.

    /// Refuses the `n`-th request for memory from now (1 is the next), and only that.
    ///
    /// # Panics
    /// When `n` is 0.
    pub fn fail_nth(&self, n: u64) {
        self.0.faults.set_nth(n);
    }

    /// Refuses the `n`-th request for memory from now and every later one.
    ///
    /// # Panics
    /// When `n` is 0.
    pub fn fail_after(&self, n: u64) {
        self.0.faults.set_from(n);
    }

    /// Refuses each request for memory with probability `p`.
    ///
    /// # Panics
    /// When `p` is not in 0..=1.
    pub fn fail_probability(&self, p: f64) {
        self.0.faults.set_chance(p);
    }

    /// Refuses nothing any more (but memory can still run out).
    pub fn fail_none(&self) {
        self.0.faults.clear();
    }

    /// Whether `discard` declines, as a system without such a call would.
    pub fn refuse_discards(&self, refuse: bool) {
        self.0.keep_discards.store(refuse, Ordering::Relaxed);
    }

    // The world's other state.

    /// Lets this many nanoseconds pass. Nothing else moves the clock.
    pub fn advance(&self, ns: u64) {
        // Relaxed: time orders nothing.
        self.0.clock.fetch_add(ns, Ordering::Relaxed);
    }

    /// The console's text since the last call.
    #[must_use]
    pub fn take_console(&self) -> String {
        std::mem::take(&mut *self.0.console.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Nobody may touch the page that an address lies in: it is forbidden by [`Platform::protect`].
    ///
    /// [`Platform::protect`]: kmem_core::platform::Platform::protect
    #[must_use]
    pub fn is_forbidden(&self, address: usize) -> bool {
        self.0.maps.is_forbidden(address)
    }

    /// From now on these are the calls that led into the heap, the nearest first, as [`Platform::backtrace`] and
    /// [`Platform::symbol`] tell them. None at first.
    ///
    /// [`Platform::backtrace`]: kmem_core::platform::Platform::backtrace
    /// [`Platform::symbol`]: kmem_core::platform::Platform::symbol
    pub fn set_calls(&self, calls: &[&'static str]) {
        *self.0.calls.lock().unwrap_or_else(PoisonError::into_inner) = calls.to_vec();
    }

    /// Runs `body`, which must end in a fatal report; returns the console's text.
    ///
    /// # Panics
    /// When `body` returns, and, with its own message, when it panics for another reason.
    pub fn expect_fatal<R>(&self, body: impl FnOnce() -> R) -> String {
        match catch_unwind(AssertUnwindSafe(body)) {
            Ok(_) => panic!("no fatal report"),
            Err(panic) if panic.downcast_ref::<String>().is_some_and(|text| text.starts_with(FATAL)) => {
                self.take_console()
            }
            Err(panic) => resume_unwind(panic),
        }
    }

    // What the watcher sees.

    /// Everything counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.0.tally.snapshot(self.0.faults.requests(), self.0.faults.refused())
    }

    /// What the heap holds of the world right now.
    #[must_use]
    pub fn outstanding(&self) -> Outstanding {
        let (maps, map_bytes) = self.0.maps.outstanding();
        Outstanding { pages: self.0.memory.outstanding(), maps, map_bytes }
    }

    /// Pages of the window that are in real memory: touched and not discarded since.
    #[must_use]
    pub fn resident_pages(&self) -> usize {
        self.resident_in(PageRange { first: 0, count: self.0.memory.window().pages })
    }

    /// Pages of this range of the window that are in real memory.
    #[must_use]
    pub fn resident_in(&self, range: PageRange) -> usize {
        self.0.memory.resident(range)
    }

    /// The pages of the window that are this zone of this node.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn zone_range(&self, node: usize, zone: ZoneKind) -> PageRange {
        self.0.memory.pool(node, zone)
    }

    /// The node that an address of the window lies on, as the machine was built, whatever the heap believes.
    #[must_use]
    pub fn node_of_address(&self, address: *const u8) -> Option<usize> {
        let page = (address as usize).checked_sub(self.window().base)? >> PAGE_SHIFT;
        (0..self.0.nodes).find(|&node| {
            [ZoneKind::Dma, ZoneKind::Dma32, ZoneKind::Normal].into_iter().any(|zone| {
                let PageRange { first, count } = self.zone_range(node, zone);
                (first..first + count).contains(&page)
            })
        })
    }

    // Checks.

    /// The highest rank among the locks that the running thread holds; `None` without a lock.
    #[must_use]
    pub fn highest_lock(&self) -> Option<u8> {
        self.0.schedule.highest_held()
    }
}
