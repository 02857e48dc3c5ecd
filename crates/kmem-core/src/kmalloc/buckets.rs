//! Size classes of one's own: what one user allocates never shares a slab with anybody else.
//!
//! For sizes that come from outside the program (a length in a message): a stale pointer into such a block meets
//! only other blocks of the same kind, never a structure of the program's.
//!
//! # Invariants
//! - I-BUCKET-1: the caches of a set are never merged with any other, and kmalloc never serves from them.
//! - I-BUCKET-2: requests beyond the largest class are whole pages, which are nobody's slabs anyway.

use core::fmt::Write;

use crate::cache::create::MAX_NAME;
use crate::cache::{CacheArgs, CacheRef, DestroyError};
use crate::config::Config;
use crate::engine::slub::Slub;
use crate::engine::{Constructor, Engine};
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::heap::Kmem;
use crate::kmalloc::classes::{ClassSet, Kind, MAX_BYTES};
use crate::kmalloc::{MAX_CLASSES, ZERO_SIZE_PTR};
use crate::platform::Platform;
use crate::report::Text;

/// A set of caches, one for each size class that lies in slabs. Made by [`Kmem::kmem_buckets_create`].
#[must_use = "dropping a set of caches leaks them"]
pub struct Buckets<E: Engine = Slub> {
    caches: [Option<CacheRef<E>>; MAX_CLASSES],
}

impl<E: Engine> Buckets<E> {
    /// The caches, by ascending size.
    pub fn caches(&self) -> impl Iterator<Item = CacheRef<E>> + '_ {
        self.caches.iter().flatten().copied()
    }
}

/// What a set of caches shall be like. The default: nothing may be copied to and from users, nothing is constructed.
#[derive(Clone, Copy, Default)]
pub struct BucketArgs {
    /// Properties of each cache, as for [`Kmem::create`].
    pub flags: Option<SlabFlags>,
    /// Start of the window of each block that may be copied to and from user space.
    pub useroffset: usize,
    /// Bytes of that window: in each class as many as lie in the block. 0: none.
    pub usersize: usize,
    /// Runs once for each block of a new slab.
    pub ctor: Option<Constructor>,
}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Makes a set of caches named `name-8`, `name-16`, …; `None` when one of them cannot be made: no memory, a
    /// name that is empty or too long, flags that are not for creators. Nothing is left behind then.
    pub fn kmem_buckets_create(&self, name: &str, args: BucketArgs) -> Option<Buckets<C::Engine>> {
        let mut set = Buckets { caches: [None; MAX_CLASSES] };
        if name.is_empty() {
            return None;
        }
        let version = C::rules(1).version;
        for class in 0..C::Classes::SLAB_CLASSES {
            let size = C::Classes::size_of(class);
            let of_class = C::Classes::name(Kind::Normal, class).trim_start_matches("kmalloc-");
            // One character more than a name may have, so that one that is too long does not just become shorter.
            let mut text = Text::<{ MAX_NAME + 4 }>::new();
            // Writing to a `Text` cannot fail.
            let _ = write!(text, "{name}-{of_class}");
            let (useroffset, usersize) = if args.useroffset < size {
                (args.useroffset, args.usersize.min(size - args.useroffset))
            } else {
                (0, 0)
            };
            let made = self.create(
                text.as_str(),
                size,
                CacheArgs {
                    align: C::Classes::align_of(class, version),
                    flags: Some(args.flags.unwrap_or(SlabFlags::empty()) | SlabFlags::NO_MERGE),
                    ctor: args.ctor,
                    useroffset,
                    usersize,
                    ..CacheArgs::default()
                },
            );
            match made {
                Ok(cache) => set.caches[class] = Some(cache),
                Err(_) => {
                    // SAFETY: the caches are this call's own, and nothing was allocated from them, so nothing is left.
                    let _ = unsafe { self.kmem_buckets_destroy(set) };
                    return None;
                }
            }
        }
        Some(set)
    }

    /// A block of at least `size` bytes from a set; as [`Kmem::kmalloc_node`] otherwise.
    ///
    /// # Safety
    /// The set is alive and of this heap.
    pub unsafe fn kmem_buckets_alloc(
        &self,
        set: &Buckets<C::Engine>,
        size: usize,
        gfp: Gfp,
        node: Option<usize>,
    ) -> *mut u8 {
        if size == 0 {
            return ZERO_SIZE_PTR;
        }
        if size > MAX_BYTES {
            return self.kmalloc_large(size, gfp, node);
        }
        if !C::Engine::CLASSES {
            // A set without caches: blocks of all users share pages anyway.
            return self.kmalloc_node(size, gfp, node);
        }
        match set.caches.get(C::Classes::class_of(size)).copied().flatten() {
            // SAFETY: the caller's promise.
            Some(cache) => unsafe { self.alloc_node(cache, gfp, node) },
            None => self.kmalloc_large(size, gfp, node),
        }
    }

    /// [`Kmem::kmem_buckets_alloc`], with a mapping for what that cannot serve, as [`Kmem::kvmalloc`].
    ///
    /// # Safety
    /// As [`Kmem::kmem_buckets_alloc`].
    pub unsafe fn kmem_buckets_valloc(&self, set: &Buckets<C::Engine>, size: usize, gfp: Gfp) -> *mut u8 {
        // SAFETY: the caller's promise.
        self.kv_fallback(size, 1, gfp, |gfp| unsafe { self.kmem_buckets_alloc(set, size, gfp, None) })
    }

    /// Destroys the caches of a set.
    ///
    /// # Errors
    /// The first that could not be destroyed; blocks that are still in use stay where they are, as after
    /// [`Kmem::destroy`], and may be freed later.
    ///
    /// # Safety
    /// As [`Kmem::destroy`] for each cache of the set.
    pub unsafe fn kmem_buckets_destroy(&self, set: Buckets<C::Engine>) -> Result<(), DestroyError> {
        let mut result = Ok(());
        for cache in set.caches() {
            // SAFETY: the caller's promise.
            result = result.and(unsafe { self.destroy(cache) }.map(|_| ()));
        }
        result
    }
}
