//! Giving back what caches keep: in turns, what nobody used for a while; and all of it, when a node is to go.
//!
//! A kernel has a work item for each CPU that comes every two seconds. Here whoever runs a heap decides who calls, and how
//! often: a thread, a timer, an idle loop. What happens in a turn is the engine's affair: SLAB ages its arrays and free
//! slabs; SLUB and SLOB keep nothing that ages. Stacks that have grown age in every engine ([`Kmem::age_stacks`]).

use core::sync::atomic::Ordering;

use crate::cache::registry::Registry;
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::sheaf::growth;
use crate::engine::slab::tunables::REAP_CPU_SECONDS;
use crate::flags::SlabFlags;
use crate::heap::Kmem;
use crate::platform::{MAX_NODES, Platform};

/// A node cannot go away (`EBUSY`): it has so many slabs that could not be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeBusy(pub u64);

impl core::fmt::Display for NodeBusy {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} slabs of the node are in use", self.0)
    }
}

impl core::error::Error for NodeBusy {}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Nanoseconds from one turn of a CPU to the next, as kernels have it.
    pub const REAP_INTERVAL: u64 = REAP_CPU_SECONDS * 1_000_000_000;

    /// One turn of a CPU: every cache gives back a part of what this CPU and its node keep and nobody used since the last turn.
    /// Best called on that CPU; from another it interrupts it for an instant.
    ///
    /// False, and nothing happened, when somebody is creating or destroying a cache (the next turn comes anyway), or there
    /// is no such CPU.
    pub fn cache_reap(&self, cpu: usize) -> bool {
        if cpu >= self.platform.cpus() {
            return false;
        }
        // While the list of caches is locked none of them can go away.
        let Some(registry) = self.registry.try_lock(&self.platform) else { return false };
        let mut next = registry.newest();
        while let Some(cache) = next {
            C::Engine::reap(self.floor(), &cache.engine, cpu);
            next = cache.older();
        }
        true
    }

    /// True when a stack of a CPU has grown beyond its cache's capacity.
    #[inline]
    #[must_use]
    pub fn has_grown_stacks(&self) -> bool {
        self.arrays.grown.taken() != 0
    }

    /// True when there is something for [`Kmem::age_stacks`] to look at.
    #[inline]
    #[must_use]
    pub fn has_grown(&self) -> bool {
        self.has_grown_stacks() || C::PINNED && self.pages.pools_age()
    }

    /// Takes the grown stacks away that handed out less since the last call than they hold, and the pages that a pinned heap learnt to
    /// keep and half of which nobody wanted since. Whoever runs a heap whose stacks may
    /// grow ([`Config::most`]) calls this about once a second. Nothing happens while somebody creates or destroys a cache.
    pub fn age_stacks(&self) {
        if let Some(registry) = self.registry.try_lock(&self.platform) {
            self.look_through(&registry, false);
        }
    }

    /// Whether stacks may grow. Those that have are taken away when they may not.
    pub(crate) fn allow_growth(&self, allow: bool) {
        self.arrays.grown.allow(allow);
        if !allow && let Some(registry) = self.registry.lock_unless_held(&self.platform) {
            self.look_through(&registry, true);
        }
    }

    /// Takes the grown stacks of all caches away, `all` of them or those that idle; and what idles of their pages.
    fn look_through(&self, registry: &Registry<C::Engine>, all: bool) {
        let mut next = registry.newest();
        while let Some(cache) = next {
            if cache.engine.most != 0 {
                for cpu in 0..self.platform.cpus() {
                    growth::age(self.floor(), &cache.engine, cpu, all);
                }
            }
            if C::PINNED {
                for node in 0..self.platform.nodes().min(MAX_NODES) {
                    C::Engine::age_pages(self.floor(), &cache.engine, node);
                }
            }
            next = cache.older();
        }
    }

    /// Empties a node that is to go away: what CPUs and nodes keep of every cache goes to the slabs, and the node's free
    /// slabs back to its zones. The node may be used again at any time.
    ///
    /// # Errors
    /// [`NodeBusy`]: slabs with objects in use are left there (or such as must stay while their cache lives). All that could
    /// go has gone.
    pub fn node_offline(&self, node: usize) -> Result<(), NodeBusy> {
        let mut left = 0;
        if node < self.platform.nodes() {
            self.drain_deferred();
            self.for_each_cache(|cache| {
                self.flush(cache);
                let keep = cache.engine.flags().contains(SlabFlags::TYPESAFE_BY_RCU);
                C::Engine::release_empty(self.floor(), &cache.engine, node, keep);
                left += cache.engine.node(node).slabs.load(Ordering::Relaxed);
            });
        }
        if left == 0 { Ok(()) } else { Err(NodeBusy(left)) }
    }
}
