//! `kmem_cache_create`: from a name and a size to a working cache, or to an alias, or to nothing at all.

use core::ptr::{self, NonNull};
use core::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};

use crate::cache::registry::Registry;
use crate::cache::{CacheRef, Gate, KmemCache, life, merge};
use crate::config::Config;
use crate::engine::cache::proof_of;
use crate::engine::geometry::{Geometry, GeometryError, Request, Rules};
use crate::engine::watch::GRAIN;
use crate::engine::{self, Constructor, Engine, Node, Setup, sheaf};
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::heap::{Kmem, State};
use crate::percpu::{CpuArea, StackId};
use crate::platform::{MAX_NODES, Platform};
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
    /// Runs once for each object when its slab is given back (as in Linux 2.6; no later kernel has it).
    pub dtor: Option<Constructor>,
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
    pub request: Request,
    pub rules: Rules,
    pub owned_name: Option<(NonNull<u8>, usize)>,
    pub geometry: Geometry,
    pub exact_pages: usize,
    pub ctor: Option<Constructor>,
    pub dtor: Option<Constructor>,
    pub usercopy: (usize, usize),
    pub capacity: u32,
    pub kept_at_once: bool,
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
    pub fn create(
        &self,
        name: &str,
        size: usize,
        args: CacheArgs,
    ) -> Result<CacheRef<C::Engine>, CreateError> {
        let flags = args.flags.unwrap_or(SlabFlags::empty());
        let result = self.try_create(name, size, args, flags);
        if let Err(error) = result {
            let fatal = flags.contains(SlabFlags::PANIC);
            if !fatal && self.speaks_as_kernel() {
                self.report_not_created(name, error);
                return result;
            }
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
    ) -> Result<CacheRef<C::Engine>, CreateError> {
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
        let rules = self.rules();
        let request = Request {
            // I-GUARD-2.
            size: if C::WATCHED && size > 0 { size.max(GRAIN) } else { size },
            align: args.align,
            flags: self.debug_flags(name, flags),
            has_ctor: args.ctor.is_some() || args.dtor.is_some(),
            freeptr_offset: args.freeptr_offset,
            sheaf_capacity: args.sheaf_capacity,
        };
        let mut geometry = C::Engine::geometry(&request, &rules).map_err(CreateError::Geometry)?;
        if C::WATCHED && !geometry.is_debug() {
            geometry.object_size = size;
        }

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
        let id = if C::Engine::STACKS { registry.take_id(self.first_dynamic_id()) } else { 0 };
        let plan = Plan {
            name: text,
            request,
            rules,
            owned_name: Some((copy, name.len())),
            geometry,
            exact_pages: 0,
            ctor: args.ctor,
            dtor: args.dtor,
            usercopy,
            capacity: if id == 0 {
                0
            } else {
                C::capacity(geometry.size, geometry.sheaf_capacity)
                    .max(if geometry.sheaf_capacity == 0 { 0 } else { args.sheaf_capacity })
                    .min(sheaf::MAX_CAPACITY as u32)
            },
            kept_at_once: true,
            id,
            refcount: 1,
        };
        match self.build(&mut registry, plan) {
            Some(cache) => {
                if C::WATCHED {
                    // Slots may be larger than was asked for: I-GUARD-2.
                    cache.object_size.store(size, Ordering::Relaxed);
                }
                drop(registry);
                self.report_twin(cache);
                Ok(CacheRef::new(cache))
            }
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
        registry: &'r Registry<C::Engine>,
        request: &Request,
        rules: &Rules,
    ) -> Option<&'r KmemCache<C::Engine>> {
        let wanted = merge::Wanted::of(request, 0, rules)?;
        // Oldest first: the list runs from the newest, so the last that fits is the one.
        let mut found = None;
        let mut next = registry.newest();
        while let Some(cache) = next {
            let mut candidate =
                merge::Candidate::new(cache.geometry(), cache.is_constructed(), cache.usercopy.1);
            candidate.refcount = cache.refcount.load(Ordering::Relaxed);
            let serves =
                merge::fits(&candidate, &wanted) && C::Engine::may_share(cache.geometry(), wanted.align);
            if cache.life.load(Ordering::Relaxed) == life::LIVE && serves {
                found = Some(cache);
            }
            next = cache.older();
        }
        found
    }

    fn copy_name(&self, name: &str) -> Option<NonNull<u8>> {
        let copy = NonNull::new(self.kmalloc(name.len() + Self::SPARED, Gfp::KERNEL))?;
        // SAFETY: the block is fresh and at least as long as the name.
        unsafe { ptr::copy_nonoverlapping(name.as_ptr(), copy.as_ptr(), name.len()) };
        Some(copy)
    }

    /// Takes memory for a planned cache and lists it. Nothing is left behind when there is none; the plan's
    /// name and number stay the caller's.
    pub(crate) fn build<'a>(
        &'a self,
        registry: &mut Registry<C::Engine>,
        plan: Plan,
    ) -> Option<&'a KmemCache<C::Engine>> {
        let floor = self.floor();
        // SAFETY: from state Up on both boot caches exist and live as long as the heap.
        let (caches, nodes) = unsafe {
            (
                self.kmem_cache.load(Ordering::Acquire).as_ref()?,
                self.kmem_cache_node.load(Ordering::Acquire).as_ref()?,
            )
        };
        let descriptor = C::Engine::alloc_one(floor, &caches.engine, Gfp::KERNEL, None);
        if descriptor.is_null() {
            return None;
        }
        let descriptor = descriptor.cast::<KmemCache<C::Engine>>();
        let Some(cache) = self.describe(plan) else {
            // SAFETY: the descriptor was just taken.
            unsafe { C::Engine::free_many(floor, &caches.engine, &mut [descriptor.cast()]) };
            return None;
        };
        // SAFETY: the object is large enough and aligned for a descriptor: the cache was made for it.
        unsafe { descriptor.write(cache) };
        // SAFETY: just written; nobody else knows it.
        let cache: &'a KmemCache<C::Engine> = unsafe { &*descriptor };
        for node in 0..self.platform.nodes() {
            let memory = C::Engine::alloc_one(floor, &nodes.engine, Gfp::KERNEL, Some(node));
            if memory.is_null() {
                self.dismantle(cache);
                return None;
            }
            let memory = memory.cast::<Node<C::Engine>>();
            // SAFETY: as for the descriptor.
            unsafe { memory.write(Node::new()) };
            // Release pairs with the Acquire of `Cache::node`.
            cache.engine.nodes[node].store(memory, Ordering::Release);
            if !C::Engine::prepare_node(floor, &cache.engine, node) {
                self.dismantle(cache);
                return None;
            }
        }
        if cache.engine.id != 0 {
            self.platform.cpu_area().publish(cache.engine.id);
        }
        registry.add(cache);
        Some(cache)
    }

    /// The descriptor of a planned cache, without nodes. `None`: no memory for what the engine adds to it.
    pub(crate) fn describe(&self, plan: Plan) -> Option<KmemCache<C::Engine>> {
        let pages = if plan.exact_pages != 0 { plan.exact_pages } else { 1 << plan.geometry.order };
        let setup = Setup {
            request: &plan.request,
            rules: &plan.rules,
            geometry: &plan.geometry,
            exact_pages: plan.exact_pages,
            capacity: plan.capacity,
            reserves: C::reserves(&plan.geometry, pages, sheaf::sheaf_objects(plan.capacity)),
            hardened: C::HARDENED,
            random: C::RANDOM,
        };
        let closed = plan.refcount > 0 && self.may_fail(plan.name, plan.geometry.flags);
        let (proof, trusted) = proof_of(&plan.geometry, plan.exact_pages, plan.capacity, plan.id);
        Some(KmemCache {
            engine: engine::Cache {
                name: plan.name,
                geometry: plan.geometry,
                exact_pages: plan.exact_pages,
                ctor: plan.ctor,
                dtor: plan.dtor,
                id: plan.id,
                capacity: AtomicU32::new(plan.capacity),
                most: Self::most(&plan),
                kept_at_once: plan.kept_at_once,
                mark: AtomicU64::new(0),
                proof,
                trusted: AtomicU16::new(trusted),
                zeroed: Self::zeroed_bytes(&plan),
                closed: AtomicBool::new(closed),
                own: C::Engine::new_cache(self.floor(), &setup)?,
                nodes: [const { AtomicPtr::new(ptr::null_mut()) }; MAX_NODES],
            },
            refcount: AtomicI32::new(plan.refcount),
            object_size: AtomicUsize::new(plan.geometry.object_size),
            usercopy: plan.usercopy,
            owned_name: plan.owned_name,
            life: AtomicU8::new(life::LIVE),
            gate: Gate::new(closed),
            older: AtomicPtr::new(ptr::null_mut()),
            serial: AtomicU64::new(0),
        })
    }

    /// What its stacks may grow to; 0: they do not.
    fn most(plan: &Plan) -> u32 {
        let most = C::most(plan.geometry.size, plan.capacity).min(sheaf::MAX_ROOM as u32);
        if plan.capacity == 0 || plan.id == 0 || most <= plan.capacity { 0 } else { most }
    }

    /// Gives back the memory of a cache that is not listed (any more) and has no slabs. Not its name, not its number.
    pub(crate) fn dismantle(&self, cache: &KmemCache<C::Engine>) {
        let floor = self.floor();
        // Relaxed: who still uses it after this does so on no one's word.
        cache.life.store(life::GONE, Ordering::Relaxed);
        // SAFETY: `build` ran, so both exist.
        let (caches, nodes) = unsafe {
            (&*self.kmem_cache.load(Ordering::Acquire), &*self.kmem_cache_node.load(Ordering::Acquire))
        };
        for (number, node) in cache.engine.nodes.iter().enumerate() {
            if node.load(Ordering::Acquire).is_null() {
                continue;
            }
            C::Engine::release_node(floor, &cache.engine, number);
            let memory = node.swap(ptr::null_mut(), Ordering::AcqRel);
            // SAFETY: it came from this cache in `build`, and the dying cache is the only one that knew it.
            unsafe { C::Engine::free_many(floor, &nodes.engine, &mut [memory.cast()]) };
        }
        C::Engine::drop_cache(floor, &cache.engine);
        let descriptor = ptr::from_ref(cache).cast_mut().cast::<u8>();
        // SAFETY: the descriptor came from this cache in `build`, and this was its last use.
        unsafe { C::Engine::free_many(floor, &caches.engine, &mut [descriptor]) };
    }
}
