//! kmalloc: blocks of any size.
//!
//! # Theory
//! A request is rounded up to a size class and served by that class's cache; what is larger than
//! every class takes whole pages ([`large`]); what is larger than the largest block of pages takes a
//! mapping of its own ([`huge`]), if the caller is one of those that may ([`aligned`]): kmalloc proper ends at 4 MiB,
//! as in the kernel.
//!
//! With an engine without classes (SLOB) a request up to a page is the engine's own affair (`unclassed`); all else is the same.
//!
//! From an address alone [`Kmem::kfree`] finds what a block is: its page's descriptor says slab or large, and an
//! address outside the window is looked up among the mappings.
//!
//! # Zero
//! `kmalloc(0)` is [`ZERO_SIZE_PTR`]: not null, not to be touched, and fine to free.

pub mod aligned;
pub mod buckets;
pub mod claim;
pub mod classes;
pub mod family;
mod faults;
pub(crate) mod first;
pub mod growing;
pub mod huge;
pub(crate) mod kept;
pub mod large;
mod leaks;
mod mapped;
pub mod nolock;
pub mod realloc;
pub mod runs;
pub mod typed;
mod unclassed;
pub mod usercopy;
pub mod vmalloc;

use core::sync::atomic::{AtomicPtr, Ordering};

use crate::cache::create::Plan;
use crate::cache::objects::Part;
use crate::cache::{CacheRef, KmemCache};
use crate::config::Config;
use crate::debug::Origin;
use crate::engine::beside::{self, Beside};
use crate::engine::geometry::Request;
use crate::engine::watch::GRAIN;
use crate::engine::{Engine, sheaf};
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::heap::{Kmem, State};
use crate::page::Kind as PageKind;
use crate::percpu::{CpuArea, Pushed};
use crate::platform::{PAGE_SHIFT, PAGE_SIZE, Platform};
use classes::{ClassSet, Kind, MAX_BYTES};

/// Room for the classes of the largest set.
pub const MAX_CLASSES: usize = 89;

/// What a request of no bytes gets.
pub const ZERO_SIZE_PTR: *mut u8 = core::ptr::without_provenance_mut(16);

/// True for null and [`ZERO_SIZE_PTR`].
#[inline]
#[must_use]
pub fn zero_or_null(ptr: *const u8) -> bool {
    ptr.addr() <= ZERO_SIZE_PTR.addr()
}

/// Why a block was not freed. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeError {
    /// It was freed before.
    Double {
        /// The block.
        address: usize,
        /// The cache it belongs to.
        cache: &'static str,
    },
    /// It lies inside a block of a cache, or between blocks: nothing starts there.
    Interior {
        /// The address given.
        address: usize,
        /// The cache whose slab it lies in.
        cache: &'static str,
    },
    /// It was written past its end: the seal or tail behind it is broken.
    Overflow {
        /// The block.
        address: usize,
        /// The cache it belongs to.
        cache: &'static str,
    },
    /// It was written to while it was free.
    Written {
        /// The block.
        address: usize,
        /// The cache it belongs to.
        cache: &'static str,
    },
    /// It has another size than was said.
    Size {
        /// The block.
        address: usize,
        /// Bytes that were asked for.
        asked: usize,
        /// Bytes that the free names.
        told: usize,
    },
    /// It has another alignment than was said.
    Align {
        /// The block.
        address: usize,
        /// The alignment that the free names.
        told: usize,
    },
    /// It was asked for by other calls than it is given back by.
    Origin {
        /// The block.
        address: usize,
        /// Asked for by.
        made: Origin,
        /// Given back by.
        told: Origin,
    },
    /// The map of pages and its slab's descriptor name different caches: one of them was written over.
    Disputed {
        /// The address given.
        address: usize,
        /// The cache that the descriptor names.
        cache: &'static str,
    },
    /// The heap's memory, but nothing that was allocated: free pages, or the inside of a large block.
    NotObject(usize),
    /// Not the heap's memory.
    Foreign(usize),
}

impl core::fmt::Display for FreeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::Double { address, cache } => write!(f, "double free of {address:#x} (cache {cache})"),
            Self::Interior { address, cache } => {
                write!(f, "invalid free of {address:#x}: no object of cache {cache} starts there")
            }
            Self::Overflow { address, cache } => {
                write!(f, "block {address:#x} (cache {cache}) was written past its end")
            }
            Self::Written { address, cache } => {
                write!(f, "block {address:#x} (cache {cache}) was written to after it was freed")
            }
            Self::Size { address, asked, told } => {
                write!(f, "invalid free of {address:#x}: it has {asked} bytes, not {told}")
            }
            Self::Align { address, told } => {
                write!(f, "invalid free of {address:#x}: not asked for with an alignment of {told}")
            }
            Self::Origin { address, made, told } => {
                write!(f, "invalid free of {address:#x}: allocated by {made}, given back by {}", told.free())
            }
            Self::Disputed { address, cache } => {
                write!(
                    f,
                    "invalid free of {address:#x}: of cache {cache}, and of another by the map of pages"
                )
            }
            Self::NotObject(address) => write!(f, "invalid free of {address:#x}: nothing is allocated there"),
            Self::Foreign(address) => write!(f, "invalid free of {address:#x}: not memory of this heap"),
        }
    }
}

impl core::error::Error for FreeError {}

/// What an address is the start of.
pub(crate) enum Block<'a, E: Engine> {
    /// An object of a cache.
    Object(&'a KmemCache<E>),
    /// A block of so many usable bytes that the engine made without a class.
    Unclassed(usize),
    /// A large block of so many usable bytes.
    Large(usize),
    /// A mapping of so many bytes.
    Huge(usize),
    /// A guarded object of so many bytes.
    Guarded(usize),
}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// The cache of a class, made at its first use where the configuration says so. `None`: no memory.
    #[inline]
    pub(crate) fn class_cache(&self, kind: Kind, index: usize) -> Option<&KmemCache<C::Engine>> {
        // Acquire pairs with the Release of `make_class`.
        let cache = self.kmalloc[kind as usize][index].load(Ordering::Acquire);
        // SAFETY: caches of classes live as long as the heap.
        match unsafe { cache.as_ref() } {
            Some(cache) => Some(cache),
            None => self.make_class(kind, index),
        }
    }

    #[cold]
    #[inline(never)]
    fn make_class(&self, kind: Kind, index: usize) -> Option<&KmemCache<C::Engine>> {
        if self.state() < State::Up {
            return None;
        }
        if kind == Kind::Account && !C::EAGER {
            // Nobody is charged in user space: the usual class serves.
            let cache = self.class_cache(Kind::Normal, index)?;
            self.kmalloc[kind as usize][index]
                .store(core::ptr::from_ref(cache).cast_mut(), Ordering::Release);
            return Some(cache);
        }
        let size = C::Classes::size_of(index);
        let rules = classes::slab_rules(size, self.rules());
        // I-GUARD-2.
        let size = if C::WATCHED { size.max(GRAIN) } else { size };
        let name = C::Classes::name(kind, index);
        let flags = match kind {
            Kind::Normal => SlabFlags::KMALLOC,
            Kind::Account => SlabFlags::KMALLOC | SlabFlags::ACCOUNT,
            Kind::Reclaim => SlabFlags::KMALLOC | SlabFlags::RECLAIM_ACCOUNT,
            Kind::Dma => SlabFlags::KMALLOC | SlabFlags::CACHE_DMA,
        };
        // A run of pages is aligned to a page whatever its length.
        let runs = index >= C::Classes::SLAB_CLASSES;
        let align = if runs { PAGE_SIZE } else { C::Classes::align_of(index, rules.version) };
        let long = runs && size > Self::PAGES_FROM;
        let lettered = if long && !C::Engine::CHECKS_RUNS { flags } else { self.debug_flags(name, flags) };
        // Letters keep things of their own beside a block.
        let checked = lettered.intersects(SlabFlags::DEBUG);
        let beside = if checked { Beside::Nothing } else { C::Classes::beside(index) };
        let request = Request { align, flags: lettered, ..Request::new(size + beside.bytes()) };
        let (request, mut geometry) = match C::Engine::geometry(&request, &rules) {
            Ok(geometry) => (request, geometry),
            // The longest class has no room for more than itself: `beyond_checks`.
            Err(_) if long => {
                let request = Request { flags, ..request };
                (request, C::Engine::geometry(&request, &rules).ok()?)
            }
            Err(_) => return None,
        };
        geometry = match beside {
            Beside::Nothing => geometry,
            Beside::Header => geometry.with_header(align),
            Beside::Tail => geometry.with_tail(),
        };
        if C::MARK_FREED && !geometry.is_debug() {
            geometry.offset = 0;
        }
        if C::ONE_ORDER {
            geometry.min_order = geometry.order;
            geometry.min_objects = geometry.objects;
        }
        if runs {
            geometry.objects = 1;
            geometry.min_objects = 1;
        }
        let grows = C::Classes::GROWING == Some(index);
        let capacity = match C::capacity(geometry.size, geometry.sheaf_capacity) {
            some @ 1.. if grows => some.max(growing::MOST),
            capacity => capacity,
        };
        // Held already: the request comes from one who visits the caches. Waiting for oneself would never end.
        let mut registry = self.registry.lock_unless_held(&self.platform)?;
        let place = &self.kmalloc[kind as usize][index];
        let known = place.load(Ordering::Acquire);
        if !known.is_null() {
            // SAFETY: as in `class_cache`.
            return unsafe { known.as_ref() };
        }
        let id = if kind == Kind::Normal {
            Self::class_id(index)
        } else {
            registry.take_id(self.first_dynamic_id())
        };
        // Only null while this very class is being made: the sequence of a class may come from the class itself.
        let plan = Plan {
            name,
            request,
            rules,
            owned_name: None,
            geometry,
            // What a checked class keeps beside its object takes pages too.
            exact_pages: if runs { geometry.size.div_ceil(PAGE_SIZE) } else { 0 },
            ctor: None,
            dtor: None,
            // All of a block may be copied to and from user space; for this reason no other cache is merged into a class.
            usercopy: (0, size),
            capacity: if id == 0 { 0 } else { capacity },
            kept_at_once: !runs || grows,
            id,
            refcount: 1,
        };
        match self.build(&mut registry, plan) {
            Some(cache) => {
                if C::MARK_FREED && kind == Kind::Normal && cache.engine.capacity() != 0 {
                    cache.engine.mark.store(self.free_mark(), Ordering::Relaxed);
                }
                place.store(core::ptr::from_ref(cache).cast_mut(), Ordering::Release);
                Some(cache)
            }
            None => {
                if kind != Kind::Normal && id != 0 {
                    registry.release_id(id);
                }
                None
            }
        }
    }

    /// What the marks of a class's free blocks are made of; 0: they have none.
    fn free_mark(&self) -> u64 {
        match self.free_mark.load(Ordering::Relaxed) {
            0 => 0,
            secret => beside::free(secret, 0),
        }
    }

    /// A block of at least `size` bytes; null when there is no memory or `size` exceeds 4 MiB (with a message, unless
    /// [`Gfp::NOWARN`]). 0 bytes: [`ZERO_SIZE_PTR`]. Aligned to the class's alignment: at least 8 bytes, and to `size` itself
    /// where that is a power of two. (Without classes, in a heap for programs, and where blocks have headers: to 16 bytes.) [`Gfp::ZERO`] clears the whole class, not just `size` bytes.
    #[inline]
    pub fn kmalloc(&self, size: usize, gfp: Gfp) -> *mut u8 {
        // Where classes exist from the start, in kernels, callers are many and know what they ask for: blocks to be cleared are
        // served here too. A program's come through one door, and its callers' code stays shorter without.
        let special = if C::EAGER { Gfp::SLAB_BUG } else { Self::SPECIAL };
        let plain =
            C::Engine::STACKS && C::Engine::CLASSES && !gfp.intersects(special.union(Kind::SELECTORS));
        // 0 wraps.
        if plain && size.wrapping_sub(1) < C::Classes::LARGEST {
            let class = C::Classes::class_of(size);
            // Acquire: as in `class_cache`.
            let cache = self.kmalloc[Kind::Normal as usize][class].load(Ordering::Acquire);
            if !cache.is_null() {
                // SAFETY: the usual cache of a class is made with this number, and lives as long as the heap.
                let block = unsafe { self.platform.cpu_area().pop(Self::class_id(class)) };
                if !block.is_null() {
                    if C::WATCHED {
                        // SAFETY: as above.
                        self.guard_out(unsafe { &(*cache).engine }, block);
                    }
                    if C::EAGER && gfp.contains(Gfp::ZERO) {
                        // SAFETY: as above; a block of that cache, nobody else's yet. Classes have no constructor, and what is
                        // watched at the end of its page is on no stack.
                        unsafe { block.write_bytes(0, (*cache).object_size()) };
                    }
                    return block;
                }
            }
        }
        self.kmalloc_any(size, gfp)
    }

    /// [`Kmem::kmalloc`], whatever the size and the flags.
    #[inline(never)]
    fn kmalloc_any(&self, size: usize, gfp: Gfp) -> *mut u8 {
        if size == 0 {
            return ZERO_SIZE_PTR;
        }
        if size > C::Classes::LARGEST || self.pages_only(size, gfp) {
            return self.kmalloc_large(size, gfp, None);
        }
        if !C::Engine::CLASSES {
            return self.kmalloc_unclassed(size, 0, gfp, None);
        }
        let Some(cache) = self.class_cache(Kind::of(gfp), C::Classes::class_of(size)) else {
            return core::ptr::null_mut();
        };
        self.alloc_block(cache, size, Self::promised_align(size), gfp)
    }

    /// What kmalloc promises a block of `size` bytes to be aligned to, whatever its class.
    pub(crate) const fn promised_align(size: usize) -> usize {
        if C::Classes::HEADED > 0 {
            return C::Classes::MIN_ALIGN;
        }
        let own = size & size.wrapping_neg();
        if own > C::Classes::MIN_ALIGN { own } else { C::Classes::MIN_ALIGN }
    }

    /// A block for `size` bytes from the cache of a class that is large enough and aligned to `align`.
    #[inline]
    pub(crate) fn alloc_block(
        &self,
        cache: &KmemCache<C::Engine>,
        size: usize,
        align: usize,
        gfp: Gfp,
    ) -> *mut u8 {
        let block = self.alloc_part(cache, Part::bytes(size, align), gfp);
        if cache.engine.capacity() == 0 { self.note_size(cache, block, size) } else { block }
    }

    /// Notes how much of a block of a checked class was asked for.
    #[cold]
    #[inline(never)]
    fn note_size(&self, cache: &KmemCache<C::Engine>, block: *mut u8, size: usize) -> *mut u8 {
        if !block.is_null() && !self.guard.holds(block.addr()) {
            // SAFETY: a block that was allocated just now, of at least that many bytes.
            unsafe { C::Engine::note_size(self.floor(), &cache.engine, block, size) };
        }
        block
    }

    /// [`Kmem::kmalloc`] from memory of `node`, as [`Kmem::alloc_node`].
    pub fn kmalloc_node(&self, size: usize, gfp: Gfp, node: Option<usize>) -> *mut u8 {
        if size == 0 {
            return ZERO_SIZE_PTR;
        }
        if size > C::Classes::LARGEST || self.pages_only(size, gfp) {
            return self.kmalloc_large(size, gfp, node);
        }
        if !C::Engine::CLASSES {
            return self.kmalloc_unclassed(size, 0, gfp, node);
        }
        let Some(cache) = self.class_cache(Kind::of(gfp), C::Classes::class_of(size)) else {
            return core::ptr::null_mut();
        };
        // SAFETY: caches of classes are never destroyed.
        let block = unsafe { self.alloc_node(CacheRef::new(cache), gfp, node) };
        if cache.engine.capacity() == 0 { self.note_size(cache, block, size) } else { block }
    }

    /// What starts at `ptr`.
    #[inline]
    pub(crate) fn block_at(&self, ptr: *const u8) -> Result<Block<'_, C::Engine>, FreeError> {
        let address = ptr.addr();
        let Some(page) = self.pages.at(address) else {
            if self.guard.holds(address) {
                return match self.guard.object_at(address) {
                    Some((start, bytes)) if start == address => Ok(Block::Guarded(bytes)),
                    Some(_) => Err(FreeError::Interior { address, cache: C::Engine::NAME }),
                    None => Err(FreeError::NotObject(address)),
                };
            }
            return match self.huge.find(&self.platform, address) {
                Some(bytes) => Ok(Block::Huge(bytes)),
                None => Err(FreeError::Foreign(address)),
            };
        };
        let head = self.pages.head(page);
        match head.kind() {
            PageKind::Slab => self.cache_of(ptr.cast_mut()).map(Block::Object),
            PageKind::Slob if !C::Engine::CLASSES => self.unclassed_at(ptr).map(Block::Unclassed),
            PageKind::Large if self.pages.address(head).addr() == address => {
                Ok(Block::Large(self.large_bytes(head)))
            }
            _ => Err(FreeError::NotObject(address)),
        }
    }

    /// Frees a block of kmalloc, an object of any cache, or a mapping. Null and [`ZERO_SIZE_PTR`] are fine.
    ///
    /// # Errors
    /// See [`FreeError`]; nothing was changed then. A double free is noticed when the block is the last that this CPU freed, or its
    /// page is free; the debug layer notices all.
    ///
    /// # Safety
    /// Nobody uses the block any more.
    #[inline]
    pub unsafe fn kfree(&self, ptr: *mut u8) -> Result<(), FreeError> {
        if C::Engine::CLASSES
            && let Some(page) = self.tagged(ptr)
            && let Some(cache) = self.class_by_tag(page.tag)
            && self.proves(&cache.engine, page, ptr)
        {
            if C::WATCHED {
                // SAFETY: the caller's promise; an object of this cache, which lives as long as the heap.
                return unsafe { self.free_watched(&cache.engine, ptr) };
            }
            // SAFETY: the caller's promise; it is an object of this cache, which lives as long as the heap and has this
            // number (I-PROOF-1).
            unsafe {
                if C::MARK_FREED {
                    cache.engine.mark_free(ptr);
                }
                if self.platform.cpu_area().push(page.tag, ptr) == Pushed::Done {
                    return Ok(());
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.kfree_any(ptr) }
    }

    /// The usual cache of the class whose pages have this tag.
    #[inline(always)]
    fn class_by_tag(&self, tag: u16) -> Option<&KmemCache<C::Engine>> {
        let class = usize::from(tag).wrapping_sub(Self::class_id(0).into());
        if class >= C::Classes::COUNT {
            return None;
        }
        // SAFETY: as in `class_cache`.
        unsafe { self.kmalloc[Kind::Normal as usize][class].load(Ordering::Acquire).as_ref() }
    }

    /// [`Kmem::kfree`], whatever was given.
    ///
    /// # Safety
    /// As [`Kmem::kfree`].
    #[inline(never)]
    unsafe fn kfree_any(&self, ptr: *mut u8) -> Result<(), FreeError> {
        if zero_or_null(ptr) {
            return Ok(());
        }
        if !C::Engine::CLASSES && self.pages.at(ptr.addr()).is_some_and(|page| page.kind() == PageKind::Slob)
        {
            // SAFETY: the caller's promise.
            return unsafe { self.kfree_unclassed(ptr) };
        }
        if self.guard.holds(ptr.addr()) {
            // SAFETY: the caller's promise.
            return unsafe { self.free_guarded(None, ptr) };
        }
        match self.block_at(ptr).map_err(|error| self.refused(error))? {
            // What the heap itself is made of: nobody got it from here.
            Block::Object(cache) if cache.refcount.load(Ordering::Relaxed) < 0 => {
                Err(self.refused(FreeError::NotObject(ptr.addr())))
            }
            // SAFETY: the caller's promise; the block is an object of this cache.
            Block::Object(cache) => unsafe {
                self.leave_mark(cache, ptr);
                self.free_to(cache, ptr)
            },
            // SAFETY: the caller's promise; the block is what it was found to be.
            Block::Unclassed(_) => unsafe { self.kfree_unclassed(ptr) },
            // SAFETY: the caller's promise; the block is what it was found to be.
            Block::Large(_) => unsafe { self.free_large(ptr) },
            // SAFETY: as above.
            Block::Huge(_) => unsafe { self.free_huge(ptr) },
            // SAFETY: as above.
            Block::Guarded(_) => unsafe { self.free_guarded(None, ptr) },
        }
    }

    /// Marks a block as free, where free blocks have marks.
    ///
    /// # Safety
    /// An object of this cache that nobody uses.
    #[inline]
    pub(crate) unsafe fn leave_mark(&self, cache: &KmemCache<C::Engine>, ptr: *mut u8) {
        // Checked slabs have no tags: what their free objects hold is their own affair.
        if C::MARK_FREED && self.tagged(ptr).is_some_and(|page| page.tag == cache.engine.id) {
            // SAFETY: the caller's promise.
            unsafe { cache.engine.mark_free(ptr) };
        }
    }

    /// The bytes of a block that its holder may use (`ksize`); 0 for null and [`ZERO_SIZE_PTR`].
    ///
    /// # Errors
    /// As [`Kmem::kfree`]: nothing starts at `ptr`.
    pub fn ksize(&self, ptr: *const u8) -> Result<usize, FreeError> {
        if zero_or_null(ptr) {
            return Ok(0);
        }
        Ok(match self.block_at(ptr).map_err(|error| self.unknown(error))? {
            Block::Object(cache) => {
                self.check_held(cache, ptr)?;
                self.usable(cache, ptr.cast_mut())
            }
            Block::Unclassed(bytes) => bytes,
            Block::Large(bytes) => {
                self.check_large(ptr)?;
                bytes
            }
            Block::Huge(bytes) | Block::Guarded(bytes) => bytes,
        })
    }

    /// That somebody holds the object, as far as its slab knows.
    #[inline]
    pub(crate) fn check_held(
        &self,
        cache: &KmemCache<C::Engine>,
        object: *const u8,
    ) -> Result<(), FreeError> {
        // Without CPU stacks: it may be checked.
        if cache.engine.capacity() == 0
            && let Some(page) = self.pages.at(object.addr())
            && !C::Engine::check_held(self.floor(), &cache.engine, self.pages.head(page), object.addr())
        {
            return Err(FreeError::Double { address: object.addr(), cache: cache.engine.name });
        }
        Ok(())
    }

    /// The bytes of an object that its holder may use.
    #[inline]
    pub(crate) fn room(&self, cache: &KmemCache<C::Engine>, object: *const u8) -> usize {
        let Some(page) = self.pages.at(object.addr()) else { return 0 };
        C::Engine::usable_size(
            C::Engine::geometry_of(&cache.engine, self.pages.head(page)),
            cache.object_size(),
        )
    }

    /// The bytes of an object that its holder may use, who will: what was not asked for is not guarded any more.
    #[inline]
    pub(crate) fn usable(&self, cache: &KmemCache<C::Engine>, object: *mut u8) -> usize {
        let Some(page) = self.pages.at(object.addr()) else { return 0 };
        let geometry = C::Engine::geometry_of(&cache.engine, self.pages.head(page));
        if geometry.original_size.is_some() {
            // SAFETY: an object of this cache, whose holder asks.
            unsafe { C::Engine::note_size(self.floor(), &cache.engine, object, usize::MAX) };
        }
        C::Engine::usable_size(geometry, cache.object_size())
    }

    /// The size a request of `size` bytes gets; see [`ClassSet::size_roundup`].
    pub fn kmalloc_size_roundup(size: usize) -> usize {
        C::Classes::size_roundup(size)
    }

    /// A cache of the usual kmalloc classes by index, for observers.
    pub fn kmalloc_cache(&self, kind: Kind, index: usize) -> Option<&KmemCache<C::Engine>> {
        let place: &AtomicPtr<KmemCache<C::Engine>> = self.kmalloc.get(kind as usize)?.get(index)?;
        // SAFETY: caches of classes live as long as the heap.
        unsafe { place.load(Ordering::Acquire).as_ref() }
    }
}

const _: () = assert!(MAX_BYTES >> PAGE_SHIFT == 1 << crate::platform::MAX_ORDER);
const _: () = assert!(sheaf::MAX_CAPACITY >= 126);
