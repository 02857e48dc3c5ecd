//! Blocks whose holder will not say how long they are: a header keeps it.
//!
//! ```text
//!   header                      block
//!   +-------------+-----------+------------------------+
//!   | size 16 bit | check 48  |  size bytes            |
//!   +-------------+-----------+------------------------+
//!                               aligned: to 8 bytes, to the size where that is a power of two
//! ```
//! The header is as long as the least alignment, so that the block behind it is aligned too. Linux keeps only
//! the size there. The bits it leaves mix the block's address, its size and a number that each heap draws: so
//! an address where no block starts, a block freed before, and a header that a neighbour wrote over are told
//! from a block that can be freed.
//!
//! Invariant I-SLOB-7: the header of a block in use is the stamp of its address and size; that of a block that was
//! freed was cleared.
//!
//! Blocks of more than [`LARGEST`] bytes are pages, and no affair of this module.

use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use super::heap::{Ask, BlockError, Heap, MIN_ALIGN, World};
use super::pages::{room, shared};
use super::room::UNIT;
use crate::gfp::Gfp;
use crate::page::Page;
use crate::platform::{MAX_ORDER, PAGE_SIZE, Platform};

/// Bytes of a header.
pub const HEADER: usize = MIN_ALIGN;
/// The largest block with a header: with it, it fills a page.
pub const LARGEST: usize = PAGE_SIZE - HEADER;

const SIZE_BITS: u32 = 16;
const _: () = assert!(LARGEST < 1 << SIZE_BITS && HEADER == size_of::<u64>());

/// The bytes that the holder of a block of `size` bytes may use (`ksize`); `None` beyond the largest block, 4 MiB.
#[must_use]
pub const fn usable_size(size: usize) -> Option<usize> {
    if size <= LARGEST {
        Some(size.next_multiple_of(UNIT))
    } else if size <= PAGE_SIZE << MAX_ORDER {
        Some(size.next_power_of_two())
    } else {
        None
    }
}

/// The alignment of a block: every power of two is aligned to itself.
#[must_use]
pub const fn align_of(size: usize) -> usize {
    if size.is_power_of_two() && size > MIN_ALIGN { size } else { MIN_ALIGN }
}

impl Heap {
    /// A block of `size` bytes, from 1 to [`LARGEST`]. `None` when there is no memory.
    ///
    /// # Panics
    /// With another size.
    #[must_use]
    pub fn kmalloc<P: Platform>(
        &self,
        world: World<'_, P>,
        size: usize,
        gfp: Gfp,
        node: Option<usize>,
    ) -> Option<NonNull<u8>> {
        self.kmalloc_aligned(world, size, align_of(size), gfp, node)
    }

    /// [`Heap::kmalloc`] at an alignment: a power of two, at most half a page. `None` also when it cannot be
    /// had for that size.
    ///
    /// # Panics
    /// With another size.
    #[must_use]
    pub fn kmalloc_aligned<P: Platform>(
        &self,
        world: World<'_, P>,
        size: usize,
        align: usize,
        gfp: Gfp,
        node: Option<usize>,
    ) -> Option<NonNull<u8>> {
        let ask = ask(size, align, gfp, node)?;
        Some(self.stamp_block(self.alloc(world, &ask)?, size))
    }

    /// [`Heap::kmalloc_aligned`] by [`Heap::alloc_nolock`].
    ///
    /// # Panics
    /// With another size.
    #[must_use]
    pub fn kmalloc_nolock<P: Platform>(
        &self,
        world: World<'_, P>,
        size: usize,
        align: usize,
        gfp: Gfp,
    ) -> Option<NonNull<u8>> {
        let ask = ask(size, align, gfp, None)?;
        Some(self.stamp_block(self.alloc_nolock(world, &ask)?, size))
    }

    /// Writes the header; the block behind it.
    fn stamp_block(&self, header: NonNull<u8>, size: usize) -> NonNull<u8> {
        // SAFETY: the caller was just given the memory, aligned, with `size` bytes behind the header.
        unsafe {
            let block = header.add(HEADER);
            header.cast::<u64>().write(self.stamp(block.addr().get(), size));
            block
        }
    }

    /// Frees a block of [`Heap::kmalloc`].
    ///
    /// # Errors
    /// See [`BlockError`]; nothing was changed then.
    ///
    /// # Safety
    /// If a block starts at `ptr`, it belongs to the caller, and nobody uses it any more.
    pub unsafe fn kfree<P: Platform>(&self, world: World<'_, P>, ptr: *mut u8) -> Result<(), BlockError> {
        let page = world.pages.at(ptr.addr()).ok_or(BlockError::NotSlob)?;
        let mut books = self.books.lock(world.platform);
        shared(page)?;
        let Some((header, size)) = self.header(world, page, ptr.addr()) else {
            return Err(no_block(world, page, ptr.addr()));
        };
        // Before the memory is free, as the chain may take this very place.
        // SAFETY: the header of a block in use, which is the caller's.
        unsafe { header.write(0) };
        // SAFETY: the caller's promise: the block with its header is the caller's.
        match unsafe { self.give(world, &mut books, page, header.addr().get(), size + HEADER) } {
            Ok(empty) => {
                drop(books);
                if let Some(run) = empty {
                    world.pages.free(world.platform, run);
                }
                Ok(())
            }
            Err(error) => {
                // SAFETY: as above; nothing was freed.
                unsafe { header.write(self.stamp(ptr.addr(), size)) };
                Err(error)
            }
        }
    }

    /// The size that a block of [`Heap::kmalloc`] was asked with. Waits for no lock.
    ///
    /// # Errors
    /// [`BlockError::NotSlob`], [`BlockError::NotBlock`]; [`BlockError::Double`] when there is free memory and
    /// the lock to see it is free.
    pub fn requested<P: Platform>(&self, world: World<'_, P>, ptr: *const u8) -> Result<usize, BlockError> {
        let page = world.pages.at(ptr.addr()).ok_or(BlockError::NotSlob)?;
        // Blocks of a page that was put aside are still their holders'.
        let shared = |page| match shared(page) {
            Ok(()) | Err(BlockError::Damaged) => Ok(()),
            Err(error) => Err(error),
        };
        shared(page)?;
        if let Some((_, size)) = self.header(world, page, ptr.addr()) {
            return Ok(size);
        }
        let _books = self.books.try_lock(world.platform).ok_or(BlockError::NotBlock)?;
        shared(page)?;
        Err(no_block(world, page, ptr.addr()))
    }

    /// The header of the block that starts at `addr`, and the size it tells; `None` when none starts there.
    /// Under the heap's lock; the page is one that blocks share.
    fn header<P: Platform>(
        &self,
        world: World<'_, P>,
        page: &Page,
        addr: usize,
    ) -> Option<(NonNull<u64>, usize)> {
        let offset = addr & (PAGE_SIZE - 1);
        if offset < HEADER || !offset.is_multiple_of(MIN_ALIGN) {
            return None;
        }
        let base = NonNull::new(world.pages.address(page))?;
        // SAFETY: a word of a page of the heap, aligned. Where the address is wrong, it may be the memory of
        // somebody who writes to it just now: hence atomic, and any answer is right then.
        let (header, stamp) = unsafe {
            let header = base.add(offset - HEADER).cast::<u64>();
            (header, AtomicU64::from_ptr(header.as_ptr()).load(Relaxed))
        };
        let size = (stamp & ((1 << SIZE_BITS) - 1)) as usize;
        let sound = size > 0 && offset + size <= PAGE_SIZE && stamp == self.stamp(addr, size);
        sound.then_some((header, size))
    }

    /// What the header of a block says.
    fn stamp(&self, addr: usize, size: usize) -> u64 {
        // Spread over the upper bits by an odd number without a pattern (2^64 divided by the golden ratio). Two
        // sizes at one address differ in the uppermost bits, and so do their products.
        let mixed = (addr as u64 ^ (size as u64) << (64 - SIZE_BITS) ^ self.secret.load(Relaxed))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed & !((1 << SIZE_BITS) - 1) | size as u64
    }
}

/// What the heap is asked for a block with its header; `None` when no page has a place for it.
fn ask(size: usize, align: usize, gfp: Gfp, node: Option<usize>) -> Option<Ask> {
    assert!((1..=LARGEST).contains(&size), "a block of {size} bytes with a header");
    let align = align.max(MIN_ALIGN);
    // The first place in a page that is aligned and leaves room for a header.
    let possible = align.is_power_of_two() && align + size <= PAGE_SIZE;
    possible.then_some(Ask { bytes: size + HEADER, align, offset: HEADER, gfp, node })
}

/// Why an address without a header cannot be freed. Under the heap's lock; the page is one that blocks share.
#[cold]
fn no_block<P: Platform>(world: World<'_, P>, page: &Page, addr: usize) -> BlockError {
    let at = ((addr & (PAGE_SIZE - 1)) / UNIT) as u16;
    match room(world.pages, page).map(|(_, room)| room.is_free(at)) {
        Some(Ok(true)) => BlockError::Double,
        Some(Err(_)) => BlockError::Damaged,
        _ => BlockError::NotBlock,
    }
}
