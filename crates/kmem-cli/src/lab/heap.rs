//! The lab's bench: a simulated machine, a heap on it, one cache, and the objects in the student's hands.
//!
//! # Invariants
//! - I-LAB-1: `live` holds exactly the objects that were allocated from the present cache and not freed since, and
//!   `blocks` the same for kmalloc. Every access to their bytes and every free goes through them, which is why the
//!   methods here are safe.
//! - I-LAB-2: the cache reference is dropped before or when the cache is destroyed, never used after.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use kmem_core::cache::{CacheArgs, CacheRef, CreateError, DestroyError, KmemCache};
use kmem_core::engine::Engine;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::platform::Platform;
use kmem_core::{Config, Kmem};
use kmem_sim::Machine;

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
pub(crate) struct Heap<C: Config> {
    machine: Machine,
    /// Boxed: a heap that was initialised does not move.
    kmem: Box<Kmem<Machine, C>>,
    cache: Option<CacheRef<C::Engine>>,
    live: BTreeSet<usize>,
    /// Blocks of kmalloc, with the size that was asked for.
    blocks: BTreeMap<usize, usize>,
    /// Numbers of slabs or pages by address, given when one is first seen.
    names: RefCell<BTreeMap<usize, usize>>,
}

impl<C: Config> Heap<C> {
    /// Builds a machine and starts a heap on it. `None`: its memory does not suffice for that.
    ///
    /// # Panics
    /// When there are no CPUs or nodes, or more than the simulator allows.
    pub(crate) fn new(cpus: usize, nodes: usize) -> Option<Self> {
        let machine = Machine::builder().cpus(cpus).nodes(nodes).memory_per_node(NODE_PAGES).build();
        let kmem = Box::new(Kmem::new(machine.clone()));
        // SAFETY: the heap is on its final place and nobody else knows it.
        unsafe { kmem.init() }.ok()?;
        Some(Heap {
            machine,
            kmem,
            cache: None,
            live: BTreeSet::new(),
            blocks: BTreeMap::new(),
            names: RefCell::default(),
        })
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

    fn cache(&self) -> CacheRef<C::Engine> {
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
        assert!(self.live.contains(&object) && bytes.len() <= self.descriptor().object_size());
        // SAFETY: the object is live (I-LAB-1) and that long.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), object as *mut u8, bytes.len()) };
    }

    /// All bytes of a live object, rounding included.
    ///
    /// # Panics
    /// When the object is not live.
    pub(crate) fn look(&self, object: usize) -> Vec<u8> {
        assert!(self.live.contains(&object), "{object:#x} is not allocated");
        // SAFETY: the object is live (I-LAB-1) and its place that long.
        unsafe { self.peek(object, self.descriptor().geometry().size) }
    }

    /// Bytes of the heap: an observer's look.
    ///
    /// # Safety
    /// All of them are memory of slabs or pages of this heap. (This thread alone uses the heap, so nobody writes them now.)
    pub(crate) unsafe fn peek(&self, address: usize, len: usize) -> Vec<u8> {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(address as *const u8, len) }.to_vec()
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

    /// `kmalloc` on a CPU: the block's address; nothing when there is no memory.
    pub(crate) fn kmalloc(&mut self, cpu: usize, size: usize) -> Option<usize> {
        let block = self.machine.on_cpu(cpu, || self.kmem.kmalloc(size, Gfp::KERNEL)) as usize;
        // Of 0 bytes there is no block.
        if block == 0 || size == 0 {
            return None;
        }
        assert!(self.blocks.insert(block, size).is_none(), "{block:#x} was handed out twice");
        Some(block)
    }

    /// `kfree` on a CPU.
    ///
    /// # Panics
    /// When the block is not in the student's hands, or the heap refuses it.
    pub(crate) fn kfree(&mut self, cpu: usize, block: usize) {
        assert!(self.blocks.remove(&block).is_some(), "{block:#x} is not allocated");
        // SAFETY: the block was live and nobody holds it any more (I-LAB-1).
        let result = self.machine.on_cpu(cpu, || unsafe { self.kmem.kfree(block as *mut u8) });
        result.unwrap_or_else(|error| panic!("a live block: {error}"));
    }

    /// Blocks of kmalloc in the student's hands, with the size that was asked for.
    pub(crate) fn blocks(&self) -> &BTreeMap<usize, usize> {
        &self.blocks
    }

    /// `ksize` of such a block.
    ///
    /// # Panics
    /// When the block is not live.
    pub(crate) fn usable(&self, block: usize) -> usize {
        assert!(self.blocks.contains_key(&block), "{block:#x} is not allocated");
        self.kmem.ksize(block as *const u8).unwrap_or_else(|error| panic!("a live block: {error}"))
    }

    /// The bytes of such a block and `before` bytes in front of it, where the heap keeps a header.
    ///
    /// # Panics
    /// When the block is not live, or the engine has no such header.
    pub(crate) fn look_block(&self, block: usize, before: usize) -> Vec<u8> {
        assert!(before <= C::Engine::KMALLOC_HEADER);
        let bytes = before + self.blocks[&block];
        // SAFETY: the block is live (I-LAB-1), and has its header in front of it.
        unsafe { self.peek(block - before, bytes) }
    }

    /// Bytes from one object to the next; 0 when there is no cache.
    pub(crate) fn cache_size(&self) -> usize {
        self.cache.map_or(0, |_| self.descriptor().geometry().size)
    }

    /// Lets the time between two turns pass, and gives every CPU its turn of reaping.
    pub(crate) fn reap(&mut self) {
        self.machine.advance(Kmem::<Machine, C>::REAP_INTERVAL);
        for cpu in 0..self.machine.cpus() {
            self.machine.on_cpu(cpu, || self.kmem.cache_reap(cpu));
        }
    }

    /// Creates another cache, lets `body` work on it, and destroys it with all its objects. The present cache and its
    /// objects are out of reach meanwhile.
    ///
    /// # Errors
    /// The heap refuses to create it.
    pub(crate) fn aside<R>(
        &mut self,
        wish: &Wish<'_>,
        body: impl FnOnce(&mut Self) -> R,
    ) -> Result<R, CreateError> {
        let cache = self.cache.take();
        let live = std::mem::take(&mut self.live);
        let names = self.names.take();
        let result = self.create(wish).map(|()| {
            let result = body(self);
            for object in self.live.clone() {
                self.free(0, object);
            }
            self.destroy().unwrap_or_else(|error| panic!("a cache without objects: {error}"));
            result
        });
        (self.cache, self.live) = (cache, live);
        self.names.replace(names);
        result
    }

    /// The slab table of the whole heap.
    pub(crate) fn slabinfo(&self) -> String {
        let mut text = String::new();
        self.kmem.write_slabinfo(&mut text).expect("a String takes everything");
        text
    }

    /// The descriptor of the cache.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) fn descriptor(&self) -> &KmemCache<C::Engine> {
        // SAFETY: the cache is alive (I-LAB-2), and only `&mut self` can end it.
        unsafe { self.cache().get() }
    }

    /// CPUs keep free objects of the cache.
    pub(crate) fn has_stacks(&self) -> bool {
        // SAFETY: the cache is alive (I-LAB-2).
        unsafe { self.cache().stack_id() != 0 }
    }

    /// The heap.
    pub(crate) fn kmem(&self) -> &Kmem<Machine, C> {
        &self.kmem
    }

    /// The machine.
    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The objects in the student's hands.
    pub(crate) fn live(&self) -> &BTreeSet<usize> {
        &self.live
    }

    /// The number of the slab or page that begins at this address: the next one when it was never seen before.
    pub(crate) fn number_of(&self, base: usize) -> usize {
        let mut names = self.names.borrow_mut();
        let next = names.len();
        *names.entry(base).or_insert(next)
    }
}
