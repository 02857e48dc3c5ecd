//! `kmem_cache`: named caches of objects of one size.
//!
//! # Theory
//! A cache is created from a name, a size and properties; the geometry rules turn those into a layout
//! ([`crate::engine::geometry`]); a cache that asks for the same as an older one becomes its alias ([`merge`]).
//! Descriptors live in a cache of their own, as in the kernel.
//!
//! # Life of a cache
//! *live* until its last user destroys it; then its CPUs and barns are flushed and its slabs given
//! back. If objects are still in use it becomes a *zombie*: it leaves the list, its memory stays,
//! and late frees of its objects are still accepted.
//!
//! # Who may do what
//! Every call takes `&Kmem` and a [`CacheRef`]. A reference must not be used after the cache was
//! destroyed: that is why the calls that use one are unsafe. `kmem::Cache<T>` is the safe face.

pub mod merge;
pub mod registry;
pub mod sheaves;

pub mod bootstrap;
pub mod create;
mod debugging;
mod destroy;
pub(crate) mod faults;
pub mod gate;
mod guarding;
mod letters;
pub(crate) mod objects;
mod reap;
mod shorthand;
pub(crate) mod visit;
mod watched;

pub use create::{CacheArgs, CreateError};
pub use debugging::{NotChecked, Validation};
pub use destroy::DestroyError;
pub use gate::Gate;
pub use letters::{SwitchError, Switched};
pub use reap::NodeBusy;

use core::ptr::NonNull;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use crate::engine::geometry::Geometry;
use crate::engine::slub::Slub;
use crate::engine::{self, Engine};

/// The descriptor of a cache.
#[repr(C)]
pub struct KmemCache<E: Engine = Slub> {
    /// What the engine knows. First, so that the pointer kept in slabs is also the descriptor's.
    pub(crate) engine: engine::Cache<E>,
    /// Users: the creator and the aliases. Negative: may never be merged.
    pub(crate) refcount: AtomicI32,
    /// Bytes a user may touch; grows when a larger cache is merged into this one.
    pub(crate) object_size: AtomicUsize,
    /// The window of an object that may be copied to and from user space: (offset, bytes).
    pub(crate) usercopy: (usize, usize),
    /// Bytes of name and sequence that destruction gives back: (name, name's length).
    pub(crate) owned_name: Option<(NonNull<u8>, usize)>,
    pub(crate) life: AtomicU8,
    /// For those who keep free objects for themselves.
    pub(crate) gate: Gate,
    pub(crate) older: AtomicPtr<KmemCache<E>>,
    /// How many caches were listed before it. Falls along the list; what a listing that let go of the lock goes on from.
    pub(crate) serial: AtomicU64,
}

/// Where a cache is in its life.
pub(crate) mod life {
    /// Its descriptor is free memory. So is every value that is none of these: what a free leaves there, zeros or poison.
    pub(crate) const GONE: u8 = 0;
    pub(crate) const LIVE: u8 = 1;
    pub(crate) const DYING: u8 = 2;
    pub(crate) const ZOMBIE: u8 = 3;
    /// Alive; its debug letters were changed, so that its slabs are of several kinds.
    pub(crate) const MIXED: u8 = 4;

    /// There is such a cache, in whatever state.
    pub(crate) const fn is_there(life: u8) -> bool {
        matches!(life, LIVE..=MIXED)
    }

    pub(crate) const fn is_alive(life: u8) -> bool {
        matches!(life, LIVE | MIXED)
    }
}

impl<E: Engine> KmemCache<E> {
    /// The name given by its first creator.
    pub fn name(&self) -> &str {
        self.engine.name
    }

    /// Bytes of an object that its user may touch.
    pub fn object_size(&self) -> usize {
        self.object_size.load(Ordering::Relaxed)
    }

    /// Its objects keep a state while they are free: they have a constructor or a destructor.
    pub fn is_constructed(&self) -> bool {
        self.engine.ctor.is_some() || self.engine.dtor.is_some()
    }

    /// The layout.
    pub fn geometry(&self) -> &Geometry {
        &self.engine.geometry
    }

    /// Pages of a normal slab.
    pub fn pages_per_slab(&self) -> usize {
        if self.engine.exact_pages != 0 { self.engine.exact_pages } else { 1 << self.engine.geometry.order }
    }

    /// Further names for this cache.
    pub fn aliases(&self) -> u32 {
        u32::try_from(self.refcount.load(Ordering::Relaxed) - 1).unwrap_or(0)
    }

    /// Whether somebody may keep free objects of this cache for himself. Only where it has CPU stacks ([`CacheRef::stack_id`]): of
    /// others it does not speak.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The window that may be copied to and from user space: (offset, bytes).
    pub fn usercopy(&self) -> (usize, usize) {
        self.usercopy
    }

    pub(crate) fn older(&self) -> Option<&Self> {
        // Acquire pairs with the Release of the registry: a cache is complete before it is listed.
        // SAFETY: listed caches stay valid while the list is held still, which callers of this do.
        unsafe { self.older.load(Ordering::Acquire).as_ref() }
    }
}

/// A reference to a live cache. Copies are free; none may be used after the cache was destroyed.
pub struct CacheRef<E: Engine = Slub>(pub(crate) NonNull<KmemCache<E>>);

impl<E: Engine> Clone for CacheRef<E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E: Engine> Copy for CacheRef<E> {}
impl<E: Engine> PartialEq for CacheRef<E> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<E: Engine> Eq for CacheRef<E> {}
impl<E: Engine> core::fmt::Debug for CacheRef<E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "CacheRef({:p})", self.0)
    }
}
// SAFETY: a cache may be used from any thread.
unsafe impl<E: Engine> Send for CacheRef<E> {}
// SAFETY: as above.
unsafe impl<E: Engine> Sync for CacheRef<E> {}

impl<E: Engine> CacheRef<E> {
    /// A reference to a cache that an observer was shown ([`crate::heap::Kmem::for_each_cache`]).
    pub fn new(cache: &KmemCache<E>) -> Self {
        Self(NonNull::from(cache))
    }

    /// The reference as a pointer, to be kept in an atomic.
    #[must_use]
    pub fn as_raw(self) -> *mut KmemCache<E> {
        self.0.as_ptr()
    }

    /// The reference from a pointer of [`CacheRef::as_raw`]; nothing for null.
    #[must_use]
    pub fn from_raw(cache: *mut KmemCache<E>) -> Option<Self> {
        NonNull::new(cache).map(Self)
    }

    /// The descriptor.
    ///
    /// # Safety
    /// The cache is alive for as long as the answer is used.
    pub unsafe fn get<'a>(self) -> &'a KmemCache<E> {
        // SAFETY: the caller's promise.
        unsafe { self.0.as_ref() }
    }

    /// The number of its CPU stacks (0: none), for callers with a fast path of their own.
    ///
    /// # Safety
    /// As [`CacheRef::get`].
    pub unsafe fn stack_id(self) -> u16 {
        // SAFETY: the caller's promise.
        let cache = unsafe { self.get() };
        if cache.engine.capacity() == 0 { 0 } else { cache.engine.id }
    }
}
