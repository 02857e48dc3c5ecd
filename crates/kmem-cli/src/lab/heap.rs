//! The lab's bench: a simulated machine, a heap on it, one cache, and the objects in the student's hands.
//!
//! # Invariants
//! - I-LAB-1: `live` holds exactly the objects that were allocated from the present cache and not freed since. Every
//!   access to an object's bytes and every free goes through it, which is why the methods here are safe.
//! - I-LAB-2: the cache reference is dropped before or when the cache is destroyed, never used after.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use kmem_core::cache::{CacheArgs, CacheRef, CreateError, DestroyError};
use kmem_core::engine::sheaf::MAX_CAPACITY;
use kmem_core::engine::slub::Slub;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::page::{Kind, ZoneKind};
use kmem_core::platform::{PAGE_SIZE, Platform};
use kmem_core::view::picture::{self as core_picture, SlabOwner};
use kmem_core::{Config, Kmem};
use kmem_sim::Machine;

use super::picture::{Cpu, Facts, Node, Picture, Place, Slab};

/// Pages of each node of the machine: 16 MiB. The lab is about slabs, not about exhaustion.
const NODE_PAGES: usize = 4096;

/// What [`Heap::create`] is asked for.
pub(crate) struct Wish<'a> {
    /// Name of the cache.
    pub(crate) name: &'a str,
    /// Bytes of an object.
    pub(crate) size: usize,
    /// Alignment; 0 for a word.
    pub(crate) align: usize,
    /// Flags.
    pub(crate) flags: SlabFlags,
}

/// Machine, heap, cache and objects.
pub(crate) struct Heap<C: Config<Engine = Slub>> {
    machine: Machine,
    /// Boxed: a heap that was initialised does not move.
    kmem: Box<Kmem<Machine, C>>,
    cache: Option<CacheRef>,
    live: BTreeSet<usize>,
    /// Letters of slabs by address, given when a slab is first seen.
    names: RefCell<BTreeMap<usize, usize>>,
}

impl<C: Config<Engine = Slub>> Heap<C> {
    /// Builds a machine and starts a heap on it. `None`: its memory does not suffice for that.
    ///
    /// # Panics
    /// When there are no CPUs or nodes, or more than the simulator allows.
    pub(crate) fn new(cpus: usize, nodes: usize) -> Option<Self> {
        let machine = Machine::builder().cpus(cpus).nodes(nodes).memory_per_node(NODE_PAGES).build();
        let kmem = Box::new(Kmem::new(machine.clone()));
        // SAFETY: the heap is on its final place and nobody else knows it.
        unsafe { kmem.init() }.ok()?;
        Some(Heap { machine, kmem, cache: None, live: BTreeSet::new(), names: RefCell::default() })
    }

    /// `kmem_cache_create`. One cache at a time.
    ///
    /// # Errors
    /// Those of the heap.
    ///
    /// # Panics
    /// When there is a cache already.
    pub(crate) fn create(&mut self, wish: &Wish<'_>) -> Result<(), CreateError> {
        assert!(self.cache.is_none(), "one cache at a time");
        let args = CacheArgs { align: wish.align, flags: Some(wish.flags), ..CacheArgs::default() };
        self.cache = Some(self.kmem.create(wish.name, wish.size, args)?);
        Ok(())
    }

    /// Creates another cache that stays: one for [`Heap::create`] to merge with.
    ///
    /// # Errors
    /// Those of the heap.
    pub(crate) fn create_elder(&self, wish: &Wish<'_>) -> Result<(), CreateError> {
        let args = CacheArgs { align: wish.align, flags: Some(wish.flags), ..CacheArgs::default() };
        self.kmem.create(wish.name, wish.size, args).map(|_| ())
    }

    fn cache(&self) -> CacheRef {
        self.cache.expect("a cache was created")
    }

    /// `kmem_cache_alloc` on a CPU: the object's address; nothing when there is no memory.
    pub(crate) fn alloc(&mut self, cpu: usize) -> Option<usize> {
        let cache = self.cache();
        // SAFETY: the cache is alive (I-LAB-2).
        let object = self.machine.on_cpu(cpu, || unsafe { self.kmem.alloc(cache, Gfp::KERNEL) }) as usize;
        if object == 0 {
            return None;
        }
        assert!(self.live.insert(object), "{object:#x} was handed out twice");
        Some(object)
    }

    /// `kmem_cache_free` on a CPU.
    ///
    /// # Panics
    /// When the object is not in the student's hands, or the heap refuses it.
    pub(crate) fn free(&mut self, cpu: usize, object: usize) {
        assert!(self.live.remove(&object), "{object:#x} is not allocated");
        let cache = self.cache();
        // SAFETY: the cache is alive (I-LAB-2), the object was live and nobody holds it any more (I-LAB-1).
        let result = self.machine.on_cpu(cpu, || unsafe { self.kmem.free(cache, object as *mut u8) });
        result.unwrap_or_else(|error| panic!("a live object: {error}"));
    }

    /// Writes the bytes a user may touch.
    ///
    /// # Panics
    /// When the object is not live or too short.
    pub(crate) fn write(&mut self, object: usize, bytes: &[u8]) {
        assert!(self.live.contains(&object) && bytes.len() <= self.facts().object_size);
        // SAFETY: the object is live (I-LAB-1) and that long.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), object as *mut u8, bytes.len()) };
    }

    /// All bytes of an object's place, free or not: an observer's look.
    ///
    /// # Panics
    /// When no object of a slab of the cache is there.
    pub(crate) fn look(&self, object: usize) -> Vec<u8> {
        // SAFETY: the cache is alive (I-LAB-2).
        let cache = unsafe { self.cache().get() };
        let (first, size) = (cache.geometry().first_object(), cache.geometry().size);
        let slab = self.kmem.slab_of(cache, object).filter(|slab| {
            let offset = object.wrapping_sub(slab.base + first);
            offset < slab.objects * size && offset.is_multiple_of(size)
        });
        assert!(slab.is_some(), "{object:#x} is no object");
        // SAFETY: the place lies in a slab of the cache; this thread alone uses the heap, so nobody writes it now.
        unsafe { std::slice::from_raw_parts(object as *const u8, size) }.to_vec()
    }

    /// `kmem_cache_shrink`: true when slabs are left.
    pub(crate) fn shrink(&self) -> bool {
        // SAFETY: the cache is alive (I-LAB-2).
        unsafe { self.kmem.shrink(self.cache()) }
    }

    /// `kmem_cache_destroy`: true when it is gone, false when another name still uses it.
    ///
    /// # Errors
    /// Objects are still in use; the cache is then unusable.
    pub(crate) fn destroy(&mut self) -> Result<bool, DestroyError> {
        let cache = self.cache.take().expect("a cache was created");
        self.live.clear();
        // SAFETY: the cache is alive; taking the reference away means that nobody uses it after (I-LAB-2).
        unsafe { self.kmem.destroy(cache) }
    }

    /// Messages of the heap since the last call.
    pub(crate) fn console(&self) -> String {
        self.machine.take_console()
    }

    /// The slab table of the whole heap.
    pub(crate) fn slabinfo(&self) -> String {
        let mut text = String::new();
        self.kmem.write_slabinfo(&mut text).expect("a String takes everything");
        text
    }

    /// The facts of the cache.
    pub(crate) fn facts(&self) -> Facts {
        // SAFETY: the cache is alive (I-LAB-2).
        let (cache, stacks) = unsafe { (self.cache().get(), self.cache().stack_id() != 0) };
        let geometry = cache.geometry();
        let capacity = C::capacity(geometry.size, geometry.sheaf_capacity).min(MAX_CAPACITY as u32);
        Facts {
            name: cache.name().to_owned(),
            object_size: cache.object_size(),
            size: geometry.size,
            align: geometry.align,
            free_pointer: geometry.offset,
            objects: geometry.objects,
            pages: cache.pages_per_slab(),
            stack_capacity: if stacks { capacity as usize } else { 0 },
        }
    }

    /// Where every object of the cache is now.
    pub(crate) fn picture(&self) -> Picture {
        let cpus = self.machine.cpus();
        let mut picture = Picture {
            facts: self.facts(),
            slabs: Vec::new(),
            cpus: (0..cpus)
                .map(|cpu| Cpu { node: self.machine.node_of_cpu(cpu), ..Cpu::default() })
                .collect(),
            nodes: vec![Node::default(); self.machine.nodes()],
        };
        // SAFETY: the cache is alive (I-LAB-2).
        let cache = unsafe { self.cache().get() };
        // Lists with the position of each object, to be brought into their order at the end.
        let mut stacks = vec![Vec::new(); cpus];
        let mut chains = vec![Vec::new(); cpus];
        let mut order = Vec::new();
        for slab in self.slabs() {
            let mut list = Vec::new();
            let mut fresh = Vec::new();
            for index in 0..slab.objects {
                let (address, place) = self.kmem.object_place(cache, &slab, index);
                match place {
                    core_picture::Place::User => {}
                    core_picture::Place::Fresh => fresh.push(address),
                    core_picture::Place::CpuStack { cpu, position } => stacks[cpu].push((position, address)),
                    core_picture::Place::CpuChain { cpu, position } => chains[cpu].push((position, address)),
                    core_picture::Place::SlabList { position } => list.push((position, address)),
                    core_picture::Place::Barn => picture.nodes[slab.node].barn.push(address),
                }
            }
            let (place, rank) = match slab.owner {
                SlabOwner::Cpu(cpu) => (Place::Cpu(cpu), (0, cpu, 0)),
                SlabOwner::CpuPartial(cpu) => (Place::CpuPartial(cpu), (1, cpu, 0)),
                SlabOwner::NodePartial(node, position) => (Place::NodePartial(node), (2, node, position)),
                SlabOwner::Full => (Place::Full, (3, 0, 0)),
            };
            let (base, node, objects) =
                (slab.base + cache.geometry().first_object(), slab.node, slab.objects);
            let mut names = self.names.borrow_mut();
            let next = names.len();
            let name = *names.entry(base).or_insert(next);
            order.push((rank, Slab { name, base, node, objects, place, list: in_order(list), fresh }));
        }
        order.sort_by_key(|(rank, slab)| (*rank, slab.base));
        picture.slabs = order.into_iter().map(|(_, slab)| slab).collect();
        for (cpu, (stack, chain)) in picture.cpus.iter_mut().zip(stacks.into_iter().zip(chains)) {
            cpu.stack = in_order(stack);
            cpu.list = in_order(chain);
        }
        picture
    }

    /// Every slab of the cache: all memory of the machine is looked through, so none can be forgotten.
    fn slabs(&self) -> Vec<core_picture::SlabPicture> {
        // SAFETY: the cache is alive (I-LAB-2).
        let cache = unsafe { self.cache().get() };
        let window = self.machine.window();
        let mut found = Vec::new();
        for node in 0..self.machine.nodes() {
            for zone in ZoneKind::ALL {
                let range = self.machine.zone_range(node, zone);
                for page in range.first..range.first + range.count {
                    let address = window.base + page * PAGE_SIZE;
                    let head = self.kmem.pages().at(address).is_some_and(|page| page.kind() == Kind::Slab);
                    if head && let Some(slab) = self.kmem.slab_of(cache, address) {
                        found.push(slab);
                    }
                }
            }
        }
        found
    }
}

fn in_order(mut list: Vec<(usize, usize)>) -> Vec<usize> {
    list.sort_unstable();
    list.into_iter().map(|(_, address)| address).collect()
}

#[cfg(test)]
#[path = "heap_tests.rs"]
mod tests;
