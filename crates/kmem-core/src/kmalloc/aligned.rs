//! What programs ask for beyond kmalloc: any size, any alignment, and blocks that change their size.
//!
//! These calls serve `malloc`, `aligned_alloc` and `realloc`. A request of no bytes is one of a byte.

use crate::config::Config;
use crate::engine::Engine;
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::heap::Kmem;
use crate::kmalloc::classes::{ClassSet, Kind, MAX_BYTES};
use crate::kmalloc::first;
use crate::kmalloc::large::pages_for;
use crate::kmalloc::{Block, FreeError};
use crate::platform::{PAGE_SHIFT, PAGE_SIZE, Platform};

impl<P: Platform, C: Config> Kmem<P, C> {
    /// A mapping that is resized to fewer bytes than this becomes another kind of block.
    const LEAST_MAPPED: usize = if C::APART {
        C::Classes::LARGEST + 1
    } else if C::FIRST_MAPPED > 0 {
        first::LEAST
    } else {
        MAPPED
    };

    /// A block of any size; null: no memory. Aligned as [`Kmem::kmalloc`]'s; beyond 4 MiB to a page.
    pub fn allocate(&self, size: usize, gfp: Gfp) -> *mut u8 {
        if size > MAX_BYTES || (C::APART && size > C::Classes::LARGEST) {
            // A mapping is zero anyway.
            return self.alloc_huge(size, PAGE_SIZE);
        }
        if self.beyond_checks(size) {
            return self.alloc_huge(size, PAGE_SIZE);
        }
        if C::FIRST_MAPPED > 0
            && size >= first::LEAST
            && !self.checks_run(size, gfp)
            && self.first.takes(size)
        {
            let block = self.alloc_huge(size, PAGE_SIZE);
            if !block.is_null() {
                return block;
            }
        }
        let block = self.kmalloc(size.max(1), gfp);
        if size == 0 {
            self.note_asked(block, 0);
        }
        block
    }

    /// Blocks beyond so many bytes may be pages without a class, also where there are classes for them: zeroed ones, aligned
    /// ones, and what was resized, unless their class is checked.
    pub(crate) const PAGES_FROM: usize =
        if C::Classes::LARGEST < PAGES_FROM { C::Classes::LARGEST } else { PAGES_FROM };

    /// A block of so many bytes is pages without a class. Zeroed: pages that come from the zones know whether they are zero, and
    /// a block of a class does not. With the letter U for what has no cache: who allocated a block of pages is kept in its
    /// descriptor. A class that is checked has all that, and more.
    #[inline]
    pub(crate) fn pages_only(&self, size: usize, gfp: Gfp) -> bool {
        C::EXACT_LARGE
            && !C::APART
            && size > Self::PAGES_FROM
            && (gfp.contains(Gfp::ZERO) || self.debug.tracks_large())
            && !self.checks_run(size, gfp)
    }

    /// A block of so many bytes, which are more than [`Kmem::PAGES_FROM`], is an object of a checked class.
    pub(crate) fn checks_run(&self, size: usize, gfp: Gfp) -> bool {
        if !C::EXACT_LARGE || !C::Engine::CHECKS_RUNS || size > C::Classes::LARGEST {
            return false;
        }
        let (kind, class) = (Kind::of(gfp), C::Classes::class_of(size));
        let cache = if self.debug.options().is_some() {
            self.class_cache(kind, class)
        } else {
            // Letters that it has without options were given to it: it is there.
            self.kmalloc_cache(kind, class)
        };
        cache.is_some_and(|cache| C::Engine::letters(&cache.engine).intersects(SlabFlags::DEBUG))
    }

    /// A block of so many bytes has letters, and is as large as no checked class: what letters keep beside an object does not fit
    /// beside the longest one. Mappings have their own way ([`mapped`](super::mapped)).
    #[inline]
    fn beyond_checks(&self, size: usize) -> bool {
        C::EXACT_LARGE
            && C::Engine::CHECKS_RUNS
            && size > Self::PAGES_FROM
            && !self.debug.large_letters().is_empty()
            && C::Classes::class_of(size) + 1 >= C::Classes::COUNT
    }

    /// Notes how much of a block its holder asked for, where that is kept: the rest is guarded.
    #[cold]
    #[inline(never)]
    fn note_asked(&self, block: *mut u8, size: usize) {
        if let Ok(Block::Object(cache)) = self.block_at(block) {
            // SAFETY: the caller's block, which has that many bytes.
            unsafe { C::Engine::note_size(self.floor(), &cache.engine, block, size) };
        }
    }

    /// A block of any size, aligned to `align`, which is a power of two. Null: no memory.
    pub fn allocate_aligned(&self, align: usize, size: usize, gfp: Gfp) -> *mut u8 {
        debug_assert!(align.is_power_of_two());
        if align <= C::Classes::MIN_ALIGN {
            return self.allocate(size, gfp);
        }
        let wanted = size.max(1);
        if !C::Engine::CLASSES && wanted <= C::Classes::LARGEST {
            let block = self.kmalloc_unclassed(wanted, align, gfp, None);
            if !block.is_null() {
                return block;
            }
        }
        if C::Engine::CLASSES
            && !self.pages_only(wanted, gfp)
            && let Some(class) = Self::class_aligned(align, wanted)
        {
            let Some(cache) = self.class_cache(Kind::of(gfp), class) else { return core::ptr::null_mut() };
            // The objects of a checked class have something before them, and are aligned to no more than a page.
            if align <= PAGE_SIZE || cache.engine.capacity() != 0 {
                return self.alloc_block(cache, wanted, align, gfp);
            }
        }
        if wanted > MAX_BYTES || align > MAX_BYTES || C::APART || self.letters_for_aligned() {
            return self.alloc_huge(wanted, align);
        }
        // A block of 2^n pages is aligned to itself; what is too much goes back.
        let tail = Self::tail_for_aligned(wanted);
        let pages = pages_for(wanted + tail);
        let order = pages.next_power_of_two().max(align >> PAGE_SHIFT).ilog2();
        let Some(mut run) = self.pages.alloc(&self.platform, gfp - Gfp::ZERO, order, None) else {
            return core::ptr::null_mut();
        };
        self.pages.truncate(&self.platform, &mut run, pages);
        self.hand_out(run, tail, gfp)
    }

    /// What no class is aligned enough for is a mapping, which has letters.
    #[inline]
    fn letters_for_aligned(&self) -> bool {
        C::EXACT_LARGE && C::Engine::CHECKS_RUNS && !self.debug.large_letters().is_empty()
    }

    /// The class whose blocks serve requests of `size` bytes with this alignment, which is a power of two, if one does. More than a
    /// page: only the very class that serves the size, as there is nothing else to gain from a class.
    pub fn class_aligned(align: usize, size: usize) -> Option<usize> {
        if size > C::Classes::LARGEST {
            return None;
        }
        let version = C::rules(1).version;
        let classes = C::Classes::class_of_aligned(align, size.max(1))..C::Classes::COUNT;
        let aligned = |class: usize| {
            if class < C::Classes::SLAB_CLASSES {
                C::Classes::align_of(class, version)
            } else {
                // A run of pages is cut from the front of a block of the next power of two, which is aligned to itself.
                C::Classes::size_of(class).next_power_of_two()
            }
        };
        let candidates =
            if align > PAGE_SIZE { classes.start..classes.end.min(classes.start + 1) } else { classes };
        candidates.into_iter().find(|&class| aligned(class) >= align)
    }

    /// A new block for one of `usable` bytes that could not take `size` bytes where it stands. One that grows to
    /// [`MAPPED`] bytes becomes a mapping: what has grown will grow again, and a mapping grows without being copied.
    pub fn allocate_resized(&self, usable: usize, size: usize, gfp: Gfp) -> *mut u8 {
        if C::EXACT_LARGE && size > usable && size >= MAPPED && !self.checks_run(size, gfp) {
            let block = self.alloc_growing(size);
            if !block.is_null() {
                return block;
            }
        }
        self.allocate(size, gfp - Gfp::ZERO)
    }

    /// Gives a block another size without copying it, if that is possible and not wasteful.
    ///
    /// # Errors
    /// As [`Kmem::kfree`]: nothing starts at `ptr`.
    ///
    /// # Safety
    /// The block belongs to the caller; after [`Resized::Moved`] only the answer may be used.
    pub unsafe fn resize(&self, ptr: *mut u8, size: usize) -> Result<Resized, FreeError> {
        let size = size.max(1);
        match self.block_at(ptr).map_err(|error| self.unknown(error))? {
            Block::Object(cache) => {
                self.check_held(cache, ptr)?;
                let resized = Self::resize_within(size, self.room(cache, ptr));
                if resized == Resized::Here {
                    self.note_asked(ptr, size);
                }
                Ok(resized)
            }
            Block::Unclassed(room) | Block::Guarded(room) => Ok(Self::resize_within(size, room)),
            Block::Large(usable) => {
                self.check_large(ptr)?;
                let tail = Self::tail_for(size);
                let pages = pages_for(size + tail);
                let stays = if size > MAX_BYTES || size <= Self::PAGES_FROM {
                    false
                } else if C::EXACT_LARGE {
                    // SAFETY: the caller's promise.
                    unsafe { self.resize_large(ptr, pages, tail) }
                } else {
                    size <= usable && pages > pages_for(usable) / 2
                };
                Ok(if stays { Resized::Here } else { Resized::Copy { usable } })
            }
            Block::Huge(bytes) if size < Self::LEAST_MAPPED => Ok(Resized::Copy { usable: bytes }),
            Block::Huge(bytes) => {
                // SAFETY: the caller's promise.
                let moved = unsafe { self.resize_huge(ptr, size, false) };
                Ok(if moved.is_null() { Resized::Copy { usable: bytes } } else { Resized::Moved(moved) })
            }
        }
    }

    /// Whether a block with room for `room` bytes stays where it is.
    const fn resize_within(size: usize, room: usize) -> Resized {
        // Less than half of the block: the rest is worth a move, unless there is hardly any.
        let stays = size <= room && (size > room / 2 || room <= 2 * C::Classes::MIN_ALIGN);
        if stays { Resized::Here } else { Resized::Copy { usable: room } }
    }

    /// Gives a block another size, in place or by moving its contents. Null: no memory, the old block is as it was.
    ///
    /// # Errors
    /// As [`Kmem::kfree`]: nothing starts at `ptr`.
    ///
    /// # Safety
    /// The block belongs to the caller; after success only the answer may be used.
    pub unsafe fn reallocate(&self, ptr: *mut u8, size: usize, gfp: Gfp) -> Result<*mut u8, FreeError> {
        // SAFETY: the caller's promise.
        let usable = match unsafe { self.resize(ptr, size) }? {
            Resized::Here => return Ok(ptr),
            Resized::Moved(block) => return Ok(block),
            Resized::Copy { usable } => usable,
        };
        let new = self.allocate_resized(usable, size, gfp);
        if new.is_null() {
            // A smaller size is granted where the block stands rather than refused.
            return Ok(if size <= usable { ptr } else { new });
        }
        // SAFETY: both blocks have that many bytes and are different; the old one is the caller's.
        unsafe {
            core::ptr::copy_nonoverlapping(ptr, new, usable.min(size));
            self.kfree(ptr)?;
        }
        Ok(new)
    }
}

/// A block that grows by resizing to this many bytes becomes a mapping, and stays one while it is as large, or half of it in a heap
/// with [`Config::FIRST_MAPPED`].
pub const MAPPED: usize = 256 << 10;

/// See `Kmem::PAGES_FROM`.
const PAGES_FROM: usize = 32 << 10;

/// What became of a block that should have another size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resized {
    /// It has it, where it stands.
    Here,
    /// It has it, at another address.
    Moved(*mut u8),
    /// It is as it was: its `usable` bytes, or as many as matter, must be copied to a new block.
    Copy {
        /// Bytes of the old block.
        usable: usize,
    },
}
