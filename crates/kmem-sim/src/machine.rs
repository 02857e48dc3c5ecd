//! The machine: the handle that tests steer with and that a heap stands on.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kmem_core::page::ZoneKind;
use kmem_core::platform::{MAX_CPUS, MAX_NODES, PAGE_SHIFT, PageRange, Platform, Window};
use kmem_core::sync::rank;

use crate::counters::{Counters, Tally, rank_name};
use crate::cpus::SimCpus;
use crate::faults::Faults;
use crate::locks::WaitQueue;
use crate::maps::Maps;
use crate::memory::{Layout, Memory};
use crate::rng::{Rng, SharedRng};
use crate::thread::{self, OnDrop, Schedule};

/// How the panic message of [`Platform::fatal`] begins on this platform.
pub const FATAL: &str = "kmem-sim: fatal";

/// The bits of a lock word that are its owner's token; the two above are flags.
const OWNER: u32 = (1 << 30) - 1;

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
            waiters: WaitQueue::default(),
            schedule,
            tally,
        }))
    }
}

#[derive(Debug)]
struct Inner {
    cpus: SimCpus,
    ncpus: usize,
    nodes: usize,
    memory: Memory,
    maps: Maps,
    faults: Faults,
    entropy: SharedRng,
    clock: AtomicU64,
    keep_discards: AtomicBool,
    console: Mutex<String>,
    waiters: WaitQueue,
    schedule: Arc<Schedule>,
    tally: Arc<Tally>,
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
pub struct Machine(Arc<Inner>);

impl Machine {
    /// A description to fill in: 1 CPU, 1 node, 64 MiB of NORMAL memory, seed 1.
    pub fn builder() -> Builder {
        Builder {
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

    fn point(&self) {
        let happened = self.0.schedule.point();
        self.0.tally.happened(happened);
    }

    /// The rule of [`kmem_core::sync`]: no lock but the registry's while the world works.
    fn no_lock_across(&self, call: &str) {
        if let Some(held) = self.0.schedule.highest_held()
            && held > rank::REGISTRY
        {
            broken(&format!("{call} was called with a lock of rank {held} ({}) held", rank_name(held)));
        }
    }
}

/// Panics, unless a panic is under way already: the first one tells more.
fn broken(rule: &str) {
    if !std::thread::panicking() {
        panic!("kmem-sim: {rule}");
    }
}

// SAFETY: the window is reserved once and lives with `Inner`; blocks are given to one taker at a time, opened before and
// fresh (zero) after closing, together with their descriptors and tags; discarded memory is dropped by the system and
// reads as zero; mappings are fresh regions of their own; numbers of CPUs and nodes are fixed and checked by `Builder`,
// and `set_cpu` and the schedule stay below them.
unsafe impl Platform for Machine {
    type Cpu = SimCpus;

    const NUMA: bool = true;

    fn cpu_area(&self) -> &SimCpus {
        &self.0.cpus
    }

    fn window(&self) -> Window {
        self.0.memory.window()
    }

    fn cpus(&self) -> usize {
        self.0.ncpus
    }

    fn current_cpu(&self) -> usize {
        let cpu = self.0.schedule.cpu();
        // Afterwards, so that the answer may be stale, as the contract warns.
        self.point();
        cpu
    }

    fn nodes(&self) -> usize {
        self.0.nodes
    }

    fn current_node(&self) -> usize {
        let node = self.node_of_cpu(self.0.schedule.cpu());
        self.point();
        node
    }

    fn zone_ends(&self) -> [usize; 2] {
        self.0.memory.zone_ends()
    }

    fn grow(&self, node: usize, zone: ZoneKind, pages: usize) -> Option<PageRange> {
        self.no_lock_across("grow");
        if self.0.faults.refuse() {
            return None;
        }
        let range = self.0.memory.grow(node, zone, pages)?;
        self.0.tally.grows.add(1);
        self.0.tally.grown_pages.add(range.count as u64);
        Some(range)
    }

    unsafe fn discard(&self, range: PageRange) -> bool {
        self.no_lock_across("discard");
        if self.0.keep_discards.load(Ordering::Relaxed) {
            return false;
        }
        // SAFETY: passed on to the caller.
        unsafe { self.0.memory.discard(range) };
        self.0.tally.discards.add(1);
        self.0.tally.discarded_pages.add(range.count as u64);
        true
    }

    unsafe fn release(&self, range: PageRange) {
        self.no_lock_across("release");
        // SAFETY: passed on to the caller.
        unsafe { self.0.memory.release(range) };
        self.0.tally.released_pages.add(range.count as u64);
    }

    fn map(&self, len: usize, align: usize) -> Option<NonNull<u8>> {
        self.no_lock_across("map");
        if self.0.faults.refuse() {
            return None;
        }
        let ptr = self.0.maps.map(len, align)?;
        self.0.tally.maps.add(1);
        Some(ptr)
    }

    unsafe fn unmap(&self, ptr: NonNull<u8>, len: usize) {
        self.no_lock_across("unmap");
        self.0.maps.unmap(ptr, len);
        self.0.tally.unmaps.add(1);
    }

    unsafe fn remap(&self, ptr: NonNull<u8>, old: usize, new: usize, may_move: bool) -> Option<NonNull<u8>> {
        self.no_lock_across("remap");
        if new > old && self.0.faults.refuse() {
            return None;
        }
        // SAFETY: passed on to the caller.
        let ptr = unsafe { self.0.maps.remap(ptr, old, new, may_move)? };
        self.0.tally.remaps.add(1);
        Some(ptr)
    }

    fn now(&self) -> u64 {
        self.0.clock.load(Ordering::Relaxed)
    }

    fn entropy(&self) -> u64 {
        self.0.entropy.next_u64()
    }

    fn console(&self, text: &str) {
        self.0.console.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
    }

    /// Panics with a message that begins with [`FATAL`]; [`Machine::expect_fatal`] catches it.
    fn fatal(&self) -> ! {
        let text = self.0.console.lock().unwrap_or_else(PoisonError::into_inner).clone();
        panic!("{FATAL}: {}", text.trim_end());
    }

    fn lock_token(&self) -> u32 {
        // The last moment at which the world may change before the lock is taken.
        self.point();
        thread::token()
    }

    fn lock_wait(&self, word: &AtomicU32, value: u32) {
        if value & OWNER == thread::token() {
            panic!("kmem-sim: this thread waits for a lock that it holds itself");
        }
        self.0.tally.lock_waits.add(1);
        if !self.0.waiters.wait(word, value) {
            panic!("kmem-sim: deadlock: thread {} kept a lock for a minute", value & OWNER);
        }
    }

    fn lock_wake(&self, _word: &AtomicU32) {
        self.0.waiters.wake();
    }

    fn lock_taken(&self, rank: u8) {
        match self.0.schedule.lock_taken(rank) {
            Ok(cpu) => self.0.tally.lock_taken(rank, cpu),
            Err(held) => broken(&format!(
                "a lock of rank {rank} ({}) was taken while one of rank {held} ({}) is held",
                rank_name(rank),
                rank_name(held)
            )),
        }
    }

    fn lock_released(&self, rank: u8) {
        if !self.0.schedule.lock_released(rank) {
            broken(&format!(
                "a lock of rank {rank} ({}) was released that this thread does not hold",
                rank_name(rank)
            ));
        }
    }
}
