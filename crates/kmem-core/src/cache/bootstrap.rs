//! The chicken and the egg: the first two caches describe themselves.

use core::ptr;
use core::sync::atomic::Ordering;

use crate::cache::create::Plan;
use crate::cache::{KmemCache, registry::Registry};
use crate::config::Config;
use crate::engine::geometry::Request;
use crate::engine::{Engine, Node, sheaf};
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::heap::{Kmem, State};
use crate::kmalloc::classes::{ClassSet, Kind};
use crate::percpu::{CpuArea, StackId};
use crate::platform::{MAX_NODES, Platform};
use crate::report;

/// Names of the caches of arrays, in the order of [`sheaf::ARRAY_SIZES`].
const ARRAY_NAMES: [&str; sheaf::ARRAY_SIZES.len()] =
    ["sheaf-64", "sheaf-128", "sheaf-256", "sheaf-512", "sheaf-1k", "sheaf-2k", "sheaf-4k", "sheaf-8k"];

/// There was no memory for the bootstrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Number of the CPU stacks of a class of kmalloc: kmalloc's usual classes come first, so that a fast path can compute them.
    #[must_use]
    pub const fn class_id(index: usize) -> StackId {
        index as StackId + 1
    }

    const fn internal_id(index: usize) -> StackId {
        (C::Classes::COUNT + 1 + index) as StackId
    }

    pub(crate) const fn first_dynamic_id(&self) -> StackId {
        Self::internal_id(2 + sheaf::ARRAY_SIZES.len())
    }

    fn internal_plan(&self, name: &'static str, size: usize, align: usize, id: StackId) -> Plan {
        let rules = self.rules();
        let flags = self.debug_flags(name, SlabFlags::NOLEAKTRACE);
        let request = Request { align, flags, ..Request::new(size) };
        // The sizes of the heap's own structures are constants far below the limits.
        let Ok(geometry) = C::Engine::geometry(&request, &rules) else {
            unreachable!("internal cache {name}")
        };
        Plan {
            name,
            request,
            rules,
            owned_name: None,
            geometry,
            exact_pages: 0,
            ctor: None,
            dtor: None,
            usercopy: (0, 0),
            capacity: 0,
            kept_at_once: true,
            id: if C::Engine::STACKS { id } else { 0 },
            refcount: -1,
        }
    }

    /// Makes the heap work. Call it once, before anything else, from one thread.
    ///
    /// # Errors
    /// [`NoMemory`]: the platform has none. The heap stays as it was, and the call may be repeated.
    ///
    /// # Panics
    /// When the platform breaks its contract: a window above 1 TiB, numbers out of range.
    ///
    /// # Safety
    /// Nobody else uses the heap yet, and the heap will not move any more.
    pub unsafe fn init(&self) -> Result<(), NoMemory> {
        if self.state() == State::Full {
            return Ok(());
        }
        if !self.pages.is_ready() {
            assert!(self.platform.window().pages <= C::Engine::MAX_WINDOW_PAGES, "the window is too large");
            if !self.start_states() {
                return Err(NoMemory);
            }
            self.pages.init(&self.platform);
            self.pages.stop_at_damage(self.debug.stops(C::ABORT));
        }
        if self.state() == State::Down {
            self.bootstrap()?;
        }
        let mut registry = self.registry.lock(&self.platform);
        // Without stacks there are no arrays behind them.
        let arrays: &[usize] = if C::Engine::STACKS { &sheaf::ARRAY_SIZES } else { &[] };
        for (class, &size) in arrays.iter().enumerate() {
            let id = Self::internal_id(2 + class);
            if !registry.reserve_id(id) {
                // A call before this one came so far.
                continue;
            }
            let plan = self.internal_plan(ARRAY_NAMES[class], size, 0, id);
            let Some(cache) = self.build(&mut registry, plan) else {
                registry.release_id(id);
                return Err(NoMemory);
            };
            self.arrays.set(class, &cache.engine);
        }
        // The numbers of kmalloc's usual classes are theirs for ever.
        for index in 0..C::Classes::COUNT {
            registry.reserve_id(Self::class_id(index));
        }
        drop(registry);
        if C::EAGER {
            for kind in [Kind::Normal, Kind::Reclaim, Kind::Dma] {
                for index in 0..C::Classes::COUNT {
                    if self.class_cache(kind, index).is_none() {
                        return Err(NoMemory);
                    }
                }
            }
        }
        self.set_state(State::Full);
        Ok(())
    }

    /// The first two caches, from static descriptors to their own slabs.
    fn bootstrap(&self) -> Result<(), NoMemory> {
        let (node_id, cache_id) = (Self::internal_id(0), Self::internal_id(1));
        let node_plan = self.internal_plan("kmem_cache_node", size_of::<Node<C::Engine>>(), 64, node_id);
        let cache_plan = self.internal_plan("kmem_cache", size_of::<KmemCache<C::Engine>>(), 64, cache_id);
        if C::Engine::STACKS {
            self.platform.cpu_area().publish(node_id);
            self.platform.cpu_area().publish(cache_id);
        }
        let (Some(nodes), Some(caches)) = (self.describe(node_plan), self.describe(cache_plan)) else {
            return Err(NoMemory);
        };
        // SAFETY: `init` runs alone, so the static descriptors are this thread's.
        let (nodes, caches) = unsafe {
            let nodes = (*self.boot.caches[0].get()).write(nodes);
            let caches = (*self.boot.caches[1].get()).write(caches);
            (&*ptr::from_mut(nodes), &*ptr::from_mut(caches))
        };
        for node in 0..self.platform.nodes() {
            for (i, cache) in [nodes, caches].into_iter().enumerate() {
                let early = self.boot.nodes[i * MAX_NODES + node].get();
                // SAFETY: as above; the static node starts empty again when an earlier attempt failed.
                unsafe { early.write(Node::new()) };
                cache.engine.nodes[node].store(early, Ordering::Release);
            }
        }
        let settled = self.settle(nodes, caches);
        if settled.is_none() {
            for cache in [nodes, caches] {
                self.flush(cache);
                sheaf::shrink(self.floor(), &cache.engine, false);
                sheaf::reset_cpus(self.floor(), &cache.engine);
            }
            return Err(NoMemory);
        }
        let mut registry = self.registry.lock(&self.platform);
        registry.reserve_id(node_id);
        registry.reserve_id(cache_id);
        self.list_boot_caches(&mut registry);
        self.set_state(State::Up);
        Ok(())
    }

    /// Moves descriptors and node structures into objects of the caches they describe. Nothing has moved when it fails.
    fn settle(&self, nodes: &KmemCache<C::Engine>, caches: &KmemCache<C::Engine>) -> Option<()> {
        let floor = self.floor();
        let count = self.platform.nodes();
        let mut homes = [[ptr::null_mut::<u8>(); MAX_NODES]; 2];
        let mut descriptors = [ptr::null_mut::<u8>(); 2];
        let mut complete = true;
        'fetch: {
            for node in 0..count {
                for set in &mut homes {
                    set[node] = C::Engine::alloc_one(floor, &nodes.engine, Gfp::KERNEL, Some(node));
                    if set[node].is_null() {
                        complete = false;
                        break 'fetch;
                    }
                }
            }
            self.set_state(State::Partial);
            for descriptor in &mut descriptors {
                *descriptor = C::Engine::alloc_one(floor, &caches.engine, Gfp::KERNEL, None);
                if descriptor.is_null() {
                    complete = false;
                    break 'fetch;
                }
            }
        }
        if !complete {
            // SAFETY: these objects were just taken and hold nothing.
            unsafe {
                for object in homes.into_iter().flatten().filter(|object| !object.is_null()) {
                    C::Engine::free_many(floor, &nodes.engine, &mut [object]);
                }
                for object in descriptors.into_iter().filter(|object| !object.is_null()) {
                    C::Engine::free_many(floor, &caches.engine, &mut [object]);
                }
            }
            self.set_state(State::Down);
            return None;
        }
        // Slabs know their cache by address: bring all of them to the nodes' lists, where they can be told.
        for cache in [nodes, caches] {
            self.flush(cache);
        }
        for (i, old) in [nodes, caches].into_iter().enumerate() {
            for (node, home) in homes[i][..count].iter().enumerate() {
                let home = home.cast::<Node<C::Engine>>();
                let early = old.engine.nodes[node].load(Ordering::Relaxed);
                // SAFETY: the object is made for a node; the early one is this thread's, nothing is locked, and it is not used again.
                unsafe { home.write(early.read()) };
                old.engine.nodes[node].store(home, Ordering::Release);
            }
            let new = descriptors[i].cast::<KmemCache<C::Engine>>();
            // SAFETY: the object is made for a descriptor; the static one is not used again.
            let new = unsafe {
                new.write(ptr::from_ref(old).read());
                &*new
            };
            C::Engine::rename_slabs(floor, &new.engine);
            let place = if i == 0 { &self.kmem_cache_node } else { &self.kmem_cache };
            place.store(descriptors[i].cast(), Ordering::Release);
        }
        Some(())
    }

    fn list_boot_caches(&self, registry: &mut Registry<C::Engine>) {
        for place in [&self.kmem_cache, &self.kmem_cache_node] {
            // SAFETY: `settle` stored both.
            if let Some(cache) = unsafe { place.load(Ordering::Acquire).as_ref() } {
                registry.add(cache);
            }
        }
    }

    /// The line that a kernel prints when its slabs are up.
    pub fn banner(&self) {
        let rules = C::rules(self.platform.cpus() as u32);
        report::say(
            &self.platform,
            format_args!(
                "{}: HWalign={}, Order={}-{}, MinObjects={}, CPUs={}, Nodes={}",
                Upper(C::Engine::NAME),
                rules.cache_line,
                rules.min_order,
                rules.max_order,
                rules.min_objects,
                self.platform.cpus(),
                self.platform.nodes()
            ),
        );
    }
}

/// A name in capitals, as kernels print it.
struct Upper(&'static str);

impl core::fmt::Display for Upper {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.chars().try_for_each(|letter| core::fmt::Write::write_char(f, letter.to_ascii_uppercase()))
    }
}
