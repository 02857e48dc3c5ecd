//! May this memory be copied to or from a user? And what is at this address at all?
//!
//! A copy whose length comes from outside must not run over into what lies beside the object meant. For memory
//! of the heap the bounds are known: the copy window of a typed cache, all of a block of kmalloc.
//!
//! Both questions take any address, of the heap or not, in the middle of a block or not, and change nothing. They say
//! what holds this instant; whoever frees the block meanwhile makes the answer old.

use core::fmt;
use core::sync::atomic::Ordering;

use crate::cache::KmemCache;
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::beside::{self, Beside};
use crate::heap::Kmem;
use crate::kmalloc::zero_or_null;
use crate::page::{Kind, Page};
use crate::platform::{PAGE_SHIFT, Platform};

/// Why memory may not be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsercopyError {
    /// Null, or the block of no bytes.
    Null,
    /// The memory runs over the end of the address space.
    Wraps,
    /// Not (known to be) memory of the heap: nothing to say about it. Also the inside of a mapping.
    Foreign,
    /// Memory of the heap that is no object: free pages, the end of a slab, metadata beside an object.
    NotObject,
    /// Not inside the window of the object that it starts in.
    Outside {
        /// The cache, or what else the memory is.
        name: &'static str,
        /// Offset of the memory in the object.
        offset: usize,
        /// Its length.
        len: usize,
    },
}

impl fmt::Display for UsercopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Null => f.write_str("usercopy: null address"),
            Self::Wraps => f.write_str("usercopy: wrapped address"),
            Self::Foreign => f.write_str("usercopy: not memory of this heap"),
            Self::NotObject => f.write_str("usercopy: not inside an object"),
            Self::Outside { name, offset, len } => {
                write!(
                    f,
                    "usercopy: {name}: not inside the window of the object (offset {offset}, size {len})"
                )
            }
        }
    }
}

impl core::error::Error for UsercopyError {}

/// What an address lies in.
enum Place<'a, E: Engine> {
    /// Slot `index` of a slab, so many bytes from the start of its object (negative: before it).
    Object { cache: &'a KmemCache<E>, start: usize, offset: isize },
    /// In a slab, before the first or behind the last slot.
    Tail(&'a KmemCache<E>),
    /// A page in which objects and blocks of all sizes lie, none of which can be told from its neighbour.
    Shared { start: usize, bytes: usize },
    /// A large block.
    Large { start: usize, bytes: usize },
    /// A mapping that starts just there.
    Huge(usize),
    /// Pages in use by somebody else.
    Pages,
    /// Free pages.
    Free,
    /// Not known.
    Foreign,
}

impl<P: Platform, C: Config> Kmem<P, C> {
    fn place(&self, address: usize) -> Place<'_, C::Engine> {
        let Some(page) = self.pages.at(address) else {
            if let Some((start, bytes)) = self.guard.object_at(address) {
                return Place::Large { start, bytes };
            }
            return self.huge.find(&self.platform, address).map_or(Place::Foreign, Place::Huge);
        };
        let head = self.pages.head(page);
        let start = self.pages.address(head).addr();
        match head.kind() {
            Kind::Slab => self.place_in_slab(head, address),
            Kind::Slob => Place::Shared { start, bytes: head.pages() << PAGE_SHIFT },
            Kind::Large => Place::Large { start, bytes: self.large_bytes(head) },
            Kind::Allocated | Kind::Leaked => Place::Pages,
            _ => Place::Free,
        }
    }

    fn place_in_slab(&self, slab: &Page, address: usize) -> Place<'_, C::Engine> {
        let cache = slab.cache.load(Ordering::Relaxed).cast::<KmemCache<C::Engine>>();
        // SAFETY: a slab's descriptor points to its cache, whose first field the engine's cache is, or is null while the slab
        // is being made or given back; a cache lives at least as long as its slabs.
        let Some(cache) = (unsafe { cache.as_ref() }) else { return Place::Pages };
        let geometry = C::Engine::geometry_of(&cache.engine, slab);
        let base = C::Engine::slots(self.floor(), &cache.engine, slab);
        // An object with a header runs on into the next slot's first word, up to where the next header is.
        let slots = if geometry.beside == Beside::Header {
            base + geometry.red_left_pad - beside::BYTES
        } else {
            base
        };
        if address < slots {
            return Place::Tail(cache);
        }
        let slot = (address - slots) / geometry.size;
        if slot >= usize::from(slab.objects.load(Ordering::Relaxed)) {
            return Place::Tail(cache);
        }
        let start = base + slot * geometry.size + geometry.red_left_pad;
        Place::Object { cache, start, offset: address.cast_signed() - start.cast_signed() }
    }

    /// Whether the `len` bytes at `ptr` may be copied to or from a user: all in the copy window of one object, or
    /// inside one block of kmalloc. No bytes may always be copied, from anywhere.
    ///
    /// # Errors
    /// See [`UsercopyError`]. [`UsercopyError::Foreign`] is for the caller to judge: a stack, a static.
    pub fn check_usercopy(&self, ptr: *const u8, len: usize) -> Result<(), UsercopyError> {
        if len == 0 {
            return Ok(());
        }
        if zero_or_null(ptr) {
            return Err(UsercopyError::Null);
        }
        if ptr.addr().checked_add(len - 1).is_none() {
            return Err(UsercopyError::Wraps);
        }
        let (name, offset, (window, bytes)) = match self.place(ptr.addr()) {
            Place::Object { cache, offset, .. } => {
                let offset = usize::try_from(offset).map_err(|_| UsercopyError::NotObject)?;
                (cache.engine.name, offset, cache.usercopy())
            }
            Place::Shared { start, bytes } => ("page", ptr.addr() - start, (0, bytes)),
            Place::Large { start, bytes } => ("large block", ptr.addr() - start, (0, bytes)),
            Place::Huge(bytes) => ("mapping", 0, (0, bytes)),
            Place::Tail(_) | Place::Pages | Place::Free => return Err(UsercopyError::NotObject),
            Place::Foreign => return Err(UsercopyError::Foreign),
        };
        let inside = offset >= window && offset - window <= bytes && len <= bytes - (offset - window);
        if inside { Ok(()) } else { Err(UsercopyError::Outside { name, offset, len }) }
    }

    /// Writes one line of facts about any address (`mem_dump_obj`), without a newline. True when it lies in a slab or
    /// another block of the heap.
    ///
    /// # Errors
    /// What `out` answers.
    pub fn dump_obj(&self, ptr: *const u8, out: &mut dyn fmt::Write) -> Result<bool, fmt::Error> {
        let address = ptr.addr();
        if zero_or_null(ptr) {
            out.write_str(if ptr.is_null() { "NULL pointer" } else { "zero-size pointer" })?;
            return Ok(false);
        }
        match self.place(address) {
            Place::Object { cache, start, offset } => {
                write!(out, "slab {} start {start:#x} pointer offset {offset}", cache.name())?;
                write!(out, " size {}", cache.object_size())?;
                Ok(true)
            }
            Place::Tail(cache) => {
                write!(out, "slab {}, behind its last object", cache.name())?;
                Ok(true)
            }
            Place::Shared { start, .. } => {
                write!(out, "shared page start {start:#x} pointer offset {}", address - start)?;
                Ok(true)
            }
            Place::Large { start, bytes } => {
                write!(out, "large block start {start:#x} pointer offset {} size {bytes}", address - start)?;
                Ok(true)
            }
            Place::Huge(bytes) => {
                write!(out, "{}-page mapping starting at {address:#x}", bytes.div_ceil(1 << PAGE_SHIFT))?;
                Ok(true)
            }
            Place::Pages => {
                out.write_str("pages in use that are no block")?;
                Ok(false)
            }
            Place::Free => {
                out.write_str("free pages")?;
                Ok(false)
            }
            Place::Foreign => {
                out.write_str("non-slab memory")?;
                Ok(false)
            }
        }
    }
}
