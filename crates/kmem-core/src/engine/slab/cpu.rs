//! What SLAB remembers of a cache on a CPU, beside the CPU's array.
//!
//! Plain words of the slow paths. Each is written by whoever refills, reaps or ends that CPU; a lost update costs a batch
//! of another size or a turn of the reaper, so every access is `Relaxed` and none is a read-modify-write, except the
//! mark of a CPU that went away, which is counted elsewhere.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU16, AtomicU64};

use crate::engine::slab::{Cache, Floor};
use crate::platform::Platform;

/// More slabs than 2 to this power are more than any batch has objects.
const MAX_GROWN: u16 = 6;

/// All zero: a CPU that has not used the cache.
pub struct Seen {
    /// [`Hot::allocs`](crate::percpu::Hot) when the CPU was last reaped.
    allocs: AtomicU64,
    /// The node whose alien array is drained next.
    turn: AtomicU16,
    /// Refills in a row that had to make slabs.
    grown: AtomicU16,
    /// One more than the node the CPU was last seen on.
    node: AtomicU16,
    /// One more than the node whose reserve was lowered when the CPU went away.
    dead: AtomicU16,
}

impl Seen {
    /// Forgets everything: the cache is dead.
    pub(super) fn reset(&self) {
        self.allocs.store(0, Relaxed);
        self.turn.store(0, Relaxed);
        self.grown.store(0, Relaxed);
        self.node.store(0, Relaxed);
        self.dead.store(0, Relaxed);
    }

    /// True when the count of allocations moved since the CPU was last reaped.
    pub(crate) fn touched(&self, allocs: u64) -> bool {
        self.allocs.load(Relaxed) != allocs
    }

    /// Starts the time until the next reaping; tells whether the array was touched before.
    pub(super) fn reap(&self, allocs: u64) -> bool {
        let touched = self.touched(allocs);
        self.allocs.store(allocs, Relaxed);
        touched
    }

    /// The next of `nodes` in turn.
    pub(super) fn next_node(&self, nodes: usize) -> usize {
        let next = (self.turn.load(Relaxed) + 1) % nodes as u16;
        self.turn.store(next, Relaxed);
        next.into()
    }

    /// A refill found free objects.
    #[inline]
    pub(super) fn served(&self) {
        if self.grown.load(Relaxed) != 0 {
            self.grown.store(0, Relaxed);
        }
    }

    /// A refill found none: the most slabs it may make.
    #[inline]
    pub(super) fn grows(&self) -> usize {
        let grown = self.grown.load(Relaxed);
        self.grown.store((grown + 1).min(MAX_GROWN), Relaxed);
        1 << grown
    }
}

/// The node that a CPU belongs to, as far as it showed; otherwise as if CPUs were dealt to nodes in order.
pub(super) fn node_of<P: Platform>(floor: Floor<'_, P>, cache: &Cache, number: usize) -> usize {
    let platform = floor.platform;
    if platform.current_cpu() == number {
        return platform.current_node();
    }
    let seen = cache.cpu(platform, number).map_or(0, |cpu| cpu.own.node.load(Relaxed));
    match seen {
        0 => number * platform.nodes() / platform.cpus(),
        node => usize::from(node) - 1,
    }
}

/// The running CPU refills from `node`. One that was gone counts for its node's reserve again.
pub(super) fn seen<P: Platform>(floor: Floor<'_, P>, cache: &Cache, number: usize, node: usize) {
    let Some(cpu) = cache.cpu(floor.platform, number) else { return };
    cpu.own.node.store(node as u16 + 1, Relaxed);
    if cpu.own.dead.load(Relaxed) != 0 {
        let dead = cpu.own.dead.swap(0, Relaxed);
        if let Some(node) = usize::from(dead).checked_sub(1) {
            let mut lists = cache.node(node).own.lists.lock(floor.platform);
            lists.dead_cpus = lists.dead_cpus.saturating_sub(1);
        }
    }
}

/// A CPU went away: its node keeps a batch less in reserve, and gives back what is then too much with its next free.
pub(super) fn dead<P: Platform>(floor: Floor<'_, P>, cache: &Cache, number: usize) {
    let Some(cpu) = cache.cpu(floor.platform, number) else { return };
    let node = node_of(floor, cache, number);
    if cpu.own.dead.compare_exchange(0, node as u16 + 1, Relaxed, Relaxed).is_ok() {
        cache.node(node).own.lists.lock(floor.platform).dead_cpus += 1;
    }
}
