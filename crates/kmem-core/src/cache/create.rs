//! `kmem_cache_create`: from a name and a size to a working cache, or to an alias, or to nothing at all.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering};

use crate::cache::registry::Registry;
use crate::cache::{CacheRef, KmemCache, life, merge};
use crate::config::Config;
use crate::engine::sheaf;
use crate::engine::slub::geometry::{self, Geometry, GeometryError, Request};
use crate::engine::slub::{self, Constructor};
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::heap::{Kmem, State};
use crate::percpu::{CpuArea, StackId};
use crate::platform::{MAX_NODES, PAGE_SIZE, Platform};
use crate::report;

/// What a creator may ask for beside name and size. The default asks for nothing.
#[derive(Clone, Copy, Default)]
pub struct CacheArgs {
    /// Alignment of objects: a power of two; 0 for a word.
    pub align: usize,
    /// Properties ([`SlabFlags::CREATE`] is what may be given).
    pub flags: Option<SlabFlags>,
    /// Runs once for each object when its slab is made; objects must be freed in that state.
    pub ctor: Option<Constructor>,
    /// Start of the window that may be copied to and from user space.
    pub useroffset: usize,
    /// Bytes of that window; 0 for none.
    pub usersize: usize,
    /// Where in the object the free pointer may lie, for caches whose free objects are still read.
    pub freeptr_offset: Option<usize>,
    /// Objects that each CPU's stack holds at least; 0 leaves it to the size.
    pub sheaf_capacity: u32,
}

/// Why a cache could not be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateError {
    /// The name is empty or longer than [`MAX_NAME`] bytes.
    BadName,
    /// Flags outside [`SlabFlags::CREATE`].
    BadFlags(SlabFlags),
    /// The layout is not possible.
    Geometry(GeometryError),
    /// No memory for the descriptor, or [`Kmem::init`] did not run.
    NoMemory,
}

impl core::fmt::Display for CreateError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::BadName => f.write_str("the name is empty or too long"),
            Self::BadFlags(flags) => write!(f, "flags {:#x} are not for creators", flags.bits()),
            Self::Geometry(error) => error.fmt(f),
            Self::NoMemory => f.write_str("out of memory"),
        }
    }
}

impl core::error::Error for CreateError {}

/// The longest name of a cache, in bytes.
pub const MAX_NAME: usize = 255;

/// Everything that creation decided before it takes memory.
pub(crate) struct Plan {
    pub name: &'static str,
    pub owned_name: Option<(NonNull<u8>, usize)>,
    pub geometry: Geometry,
    pub exact_pages: usize,
    pub ctor: Option<Constructor>,
    pub usercopy: (usize, usize),
    pub capacity: u32,
    pub id: StackId,
    pub refcount: i32,
}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Creates a cache of objects of `size` bytes, or finds one that serves as well (then the name is an alias).
    ///
    /// The name is copied. It need not be unique. Names with blanks make unreadable reports and are refused
    /// by nobody. A usercopy window that is not inside the object is dropped, with a message.
    ///
    /// # Errors
    /// See [`CreateError`]; nothing is left behind. With [`SlabFlags::PANIC`] an error stops the program instead.
    pub fn create(&self, name: &str, size: usize, args: CacheArgs) -> Result<CacheRef<P>, CreateError> {
        let flags = args.flags.unwrap_or(SlabFlags::empty());
        let result = self.try_create(name, size, args, flags);
        if let Err(error) = result {
            let fatal = flags.contains(SlabFlags::PANIC);
            report::say(
                &self.platform,
                format_args!(
                    "kmem_cache_create({name}) failed: {error}{}",
                    if fatal { " (panic asked for)" } else { "" }
                ),
            );
            if fatal {
                self.platform.fatal();
            }
        }
        result
    }

    fn try_create(
        &self,
        name: &str,
        size: usize,
        args: CacheArgs,
        flags: SlabFlags,
    ) -> Result<CacheRef<P>, CreateError> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(CreateError::BadName);
        }
        if !SlabFlags::CREATE.contains(flags) {
            return Err(CreateError::BadFlags(flags - SlabFlags::CREATE));
        }
        if self.state() < State::Up {
            return Err(CreateError::NoMemory);
        }
        let mut usercopy = (args.useroffset, args.usersize);
        if usercopy.1 == 0 || usercopy.0.checked_add(usercopy.1).is_none_or(|end| end > size) {
            if usercopy.1 != 0 {
                report::say(
                    &self.platform,
                    format_args!(
                        "kmem_cache_create({name}): usercopy window {usercopy:?} is not inside the object: dropped"
                    ),
                );
            }
            usercopy = (0, 0);
        }
        let rules = C::rules(self.platform.cpus() as u32);
        let request = Request {
            size,
            align: args.align,
            flags,
            has_ctor: args.ctor.is_some(),
            freeptr_offset: args.freeptr_offset,
            sheaf_capacity: args.sheaf_capacity,
        };
        let geometry = geometry::compute(&request, &rules).map_err(CreateError::Geometry)?;

        // Before the lock: kmalloc may have to make one of its own caches for it.
        let copy = self.copy_name(name).ok_or(CreateError::NoMemory)?;
        let mut registry = self.registry.lock(&self.platform);
        if C::MERGE
            && usercopy.1 == 0
            && let Some(cache) = self.find_alias(&registry, &request, &rules)
        {
            cache.refcount.fetch_add(1, Ordering::Relaxed);
            cache.object_size.fetch_max(size, Ordering::Relaxed);
            let cache = CacheRef::new(cache);
            drop(registry);
            // SAFETY: the copy was just made and nobody else knows it.
            let _ = unsafe { self.kfree(copy.as_ptr()) };
            return Ok(cache);
        }
        // SAFETY: the copy is valid UTF-8 and lives until the cache's descriptor is given back.
        let text: &'static str =
            unsafe { core::str::from_utf8_unchecked(core::slice::from_raw_parts(copy.as_ptr(), name.len())) };
        let id = registry.take_id(self.first_dynamic_id());
        let plan = Plan {
            name: text,
            owned_name: Some((copy, name.len())),
            geometry,
            exact_pages: 0,
            ctor: args.ctor,
            usercopy,
            capacity: if id == 0 {
                0
            } else {
                C::capacity(geometry.size, geometry.sheaf_capacity)
                    .max(if geometry.sheaf_capacity == 0 { 0 } else { args.sheaf_capacity })
                    .min(sheaf::MAX_CAPACITY as u32)
            },
            id,
            refcount: 1,
        };
        match self.build(&mut registry, plan) {
            Some(cache) => Ok(CacheRef::new(cache)),
            None => {
                if id != 0 {
                    registry.release_id(id);
                }
                drop(registry);
                // SAFETY: the copy was just made and nobody else knows it.
                let _ = unsafe { self.kfree(copy.as_ptr()) };
                Err(CreateError::NoMemory)
            }
        }
    }

    fn find_alias<'r>(
        &self,
        registry: &'r Registry<P>,
        request: &Request,
        rules: &geometry::Rules,
    ) -> Option<&'r KmemCache<P>> {
        let wanted = merge::Wanted::of(request, 0, rules)?;
        // Oldest first: the list runs from the newest, so the last that fits is the one.
        let mut found = None;
        let mut next = registry.newest();
        while let Some(cache) = next {
            let mut candidate =
                merge::Candidate::new(&cache.engine.geometry, cache.engine.ctor.is_some(), cache.usercopy.1);
            candidate.refcount = cache.refcount.load(Ordering::Relaxed);
            if cache.life.load(Ordering::Relaxed) == life::LIVE && merge::fits(&candidate, &wanted) {
                found = Some(cache);
            }
            next = cache.older();
        }
        found
    }

    fn copy_name(&self, name: &str) -> Option<NonNull<u8>> {
        let copy = NonNull::new(self.kmalloc(name.len(), Gfp::KERNEL))?;
        // SAFETY: the block is fresh and at least as long as the name.
        unsafe { ptr::copy_nonoverlapping(name.as_ptr(), copy.as_ptr(), name.len()) };
        Some(copy)
    }

    /// Takes memory for a planned cache and lists it. Nothing is left behind when there is none; the plan's
    /// name and number stay the caller's.
    pub(crate) fn build<'a>(&'a self, registry: &mut Registry<P>, plan: Plan) -> Option<&'a KmemCache<P>> {
        let floor = self.floor();
        // SAFETY: from state Up on both boot caches exist and live as long as the heap.
        let (caches, nodes) = unsafe {
            (
                self.kmem_cache.load(Ordering::Acquire).as_ref()?,
                self.kmem_cache_node.load(Ordering::Acquire).as_ref()?,
            )
        };
        let descriptor = sheaf::alloc_one(floor, &caches.engine, Gfp::KERNEL, None);
        if descriptor.is_null() {
            return None;
        }
        let descriptor = descriptor.cast::<KmemCache<P>>();
        let sequence = match self.sequence(&plan.geometry, plan.exact_pages) {
            Ok(sequence) => sequence,
            Err(()) => {
                // SAFETY: the descriptor was just taken.
                unsafe { slub::free_many(floor, &caches.engine, &mut [descriptor.cast()]) };
                return None;
            }
        };
        let cache = self.describe(plan, sequence);
        // SAFETY: the object is large enough and aligned for a descriptor: the cache was made for it.
        unsafe { descriptor.write(cache) };
        // SAFETY: just written; nobody else knows it.
        let cache: &'a KmemCache<P> = unsafe { &*descriptor };
        for node in 0..self.platform.nodes() {
            let memory = sheaf::alloc_one(floor, &nodes.engine, Gfp::KERNEL, Some(node));
            if memory.is_null() {
                self.dismantle(cache);
                return None;
            }
            let memory = memory.cast::<slub::Node<P>>();
            // SAFETY: as for the descriptor.
            unsafe { memory.write(slub::Node::new()) };
            // Release pairs with the Acquire of `Cache::node`.
            cache.engine.nodes[node].store(memory, Ordering::Release);
        }
        if cache.engine.id != 0 {
            self.platform.cpu_area().publish(cache.engine.id);
        }
        registry.add(cache);
        Some(cache)
    }

    /// The descriptor of a planned cache, without nodes.
    pub(crate) fn describe(&self, plan: Plan, sequence: *const u16) -> KmemCache<P> {
        let pages = if plan.exact_pages != 0 { plan.exact_pages } else { 1 << plan.geometry.order };
        let reserves = C::reserves(&plan.geometry, pages, sheaf::sheaf_objects(plan.capacity));
        KmemCache {
            engine: slub::Cache {
                name: plan.name,
                geometry: plan.geometry,
                exact_pages: plan.exact_pages,
                ctor: plan.ctor,
                random: if C::HARDENED { self.platform.entropy() | 1 } else { 0 },
                sequence,
                id: plan.id,
                capacity: plan.capacity,
                barn_sheaves: reserves.barn_sheaves,
                min_partial: AtomicU32::new(reserves.min_partial),
                cpu_partial_slabs: AtomicU32::new(reserves.cpu_partial_slabs),
                remote_ratio: AtomicU32::new(1000),
                nodes: [const { AtomicPtr::new(ptr::null_mut()) }; MAX_NODES],
            },
            refcount: AtomicI32::new(plan.refcount),
            object_size: AtomicUsize::new(plan.geometry.object_size),
            usercopy: plan.usercopy,
            owned_name: plan.owned_name,
            life: AtomicU8::new(life::LIVE),
            older: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// A random order for the objects of the cache's slabs; null when the heap hands them out in ascending
    /// order. `Err` when there is no memory for it.
    ///
    /// Indices are shuffled within windows of about a page: the order in a page cannot be guessed, and the pages of
    /// a slab that nobody asked for yet stay untouched. The memory comes from the caches of arrays, not from kmalloc:
    /// kmalloc's own classes are made here too. A slab with more objects than the largest array has entries is not
    /// shuffled.
    fn sequence(&self, geometry: &Geometry, exact_pages: usize) -> Result<*const u16, ()> {
        let objects = geometry.objects;
        let bytes = objects * size_of::<u16>();
        if !C::RANDOM || objects < 2 || exact_pages != 0 || !sheaf::array_fits(self.floor(), bytes) {
            return Ok(ptr::null());
        }
        let sequence = sheaf::alloc_array(self.floor(), bytes, Gfp::KERNEL).cast::<u16>();
        if sequence.is_null() {
            return Err(());
        }
        // SAFETY: a fresh array of that many entries.
        let entries = unsafe {
            for i in 0..objects {
                sequence.add(i).write(i as u16);
            }
            core::slice::from_raw_parts_mut(sequence, objects)
        };
        let window = (PAGE_SIZE / geometry.size).max(2);
        for part in entries.chunks_mut(window) {
            for i in (1..part.len()).rev() {
                part.swap(i, (self.platform.entropy() % (i as u64 + 1)) as usize);
            }
        }
        Ok(sequence)
    }

    /// Gives back the memory of a cache that is not listed (any more) and has no slabs. Not its name, not its number.
    pub(crate) fn dismantle(&self, cache: &KmemCache<P>) {
        let floor = self.floor();
        // SAFETY: `build` ran, so both exist.
        let (caches, nodes) = unsafe {
            (&*self.kmem_cache.load(Ordering::Acquire), &*self.kmem_cache_node.load(Ordering::Acquire))
        };
        for node in &cache.engine.nodes {
            let memory = node.swap(ptr::null_mut(), Ordering::AcqRel);
            if !memory.is_null() {
                // SAFETY: it came from this cache in `build`, and the dying cache is the only one that knew it.
                unsafe { slub::free_many(floor, &nodes.engine, &mut [memory.cast()]) };
            }
        }
        if !cache.engine.sequence.is_null() {
            let bytes = cache.engine.geometry.objects * size_of::<u16>();
            // SAFETY: made by `sequence` with that many bytes; nobody carves from this cache any more.
            unsafe { sheaf::free_array(floor, cache.engine.sequence.cast_mut().cast(), bytes) };
        }
        let descriptor = ptr::from_ref(cache).cast_mut().cast::<u8>();
        // SAFETY: the descriptor came from this cache in `build`, and this was its last use.
        unsafe { slub::free_many(floor, &caches.engine, &mut [descriptor]) };
    }
}
