//! Blocks of whole pages: what is larger than every size class, or has none for another reason.
//!
//! # Theory
//! Where blocks of classes have a word of the heap's beside them ([`crate::engine::beside`]), a block of pages has a tail too, as long
//! as theirs have: the last word of its last page. Who asks for whole pages gets one more. Only a block that is aligned to pages and
//! a whole number of them long has none: a page more would be what nobody expects.
//!
//! No fast path comes here, so everything is done here: the tail is written when a block is handed out or resized, and looked at by
//! whoever frees or resizes it or asks for its size.
//!
//! # Invariants
//! - I-LARGE-1: where blocks may have tails, the head of each says how many bytes its holder may use; behind them is the
//!   tail, or the end of the last page. A tail that is something else was written over by the program.
//!
//! # Never
//! Pages that are known to be zero are not touched for a tail, but the one that it lies in.

use core::sync::atomic::Ordering;

use crate::config::Config;
use crate::debug::stacks::{Handle, MAX_FRAMES};
use crate::engine::beside;
use crate::gfp::Gfp;
use crate::heap::Kmem;
use crate::kmalloc::classes::{ClassSet, LargeRule};
use crate::kmalloc::{Block, FreeError};
use crate::page::{Kind, Page, PageRun};
use crate::platform::{PAGE_SHIFT, PAGE_SIZE, Platform};

/// What blocks of pages are called where others have the name of a cache.
pub(crate) const LARGE: &str = "kmalloc-large";

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Some blocks of pages have tails.
    const TAILS: bool = C::Classes::TAILED > 0;

    /// Bytes of the tail of a block of pages for `size` bytes.
    #[inline]
    pub(crate) const fn tail_for(size: usize) -> usize {
        if Self::TAILS && size <= C::Classes::TAILED - beside::BYTES { beside::BYTES } else { 0 }
    }

    /// The same of a block that is aligned to a page or more: whole pages end where they should.
    pub(crate) const fn tail_for_aligned(size: usize) -> usize {
        if size.is_multiple_of(PAGE_SIZE) { 0 } else { Self::tail_for(size) }
    }

    /// A block of whole pages for `size` bytes, up to 4 MiB.
    pub(crate) fn kmalloc_large(&self, size: usize, gfp: Gfp, node: Option<usize>) -> *mut u8 {
        let tail = Self::tail_for(size);
        let Some(pages) = C::Classes::large_pages(size + tail) else {
            if !gfp.contains(Gfp::NOWARN) {
                self.report_too_large(size);
            }
            return core::ptr::null_mut();
        };
        // A node that does not exist is no preference, as for objects.
        let node = node.filter(|&node| node < self.platform.nodes());
        let run = match C::Classes::LARGE {
            LargeRule::Orders => self.pages.alloc(&self.platform, gfp - Gfp::ZERO, pages.ilog2(), node),
            LargeRule::Pages => self.pages.alloc_exact(&self.platform, gfp - Gfp::ZERO, pages, node),
        };
        match run {
            Some(run) => self.hand_out(run, tail, gfp),
            None => core::ptr::null_mut(),
        }
    }

    /// Turns a run of pages into a block with a tail of so many bytes, which are 0 if it is to have none.
    pub(crate) fn hand_out(&self, mut run: PageRun, tail: usize, gfp: Gfp) -> *mut u8 {
        let bytes = run.pages() << PAGE_SHIFT;
        let clear = gfp.contains(Gfp::ZERO) && !run.is_zeroed();
        run.set_kind(Kind::Large);
        self.large_stats.add(bytes);
        let head = self.pages.into_head(run);
        // Also where none is wanted: letters may come while the block is used.
        head.debug.store(self.large_stack().into(), Ordering::Relaxed);
        let block = self.pages.address(head);
        if clear {
            // SAFETY: the run was just allocated and has that many bytes.
            unsafe { block.write_bytes(0, bytes) };
        }
        if Self::TAILS {
            // SAFETY: as above.
            unsafe { self.set_tail(head, tail) };
        }
        block
    }

    /// The bytes of a large block that its holder may use.
    #[inline]
    pub(crate) fn large_bytes(&self, head: &Page) -> usize {
        // Relaxed: who has the block learned of it from its maker.
        if Self::TAILS { head.cache.load(Ordering::Relaxed).addr() } else { head.pages() << PAGE_SHIFT }
    }

    /// Notes how many bytes of a large block its holder may use: all but so many, which are the tail.
    ///
    /// # Safety
    /// The head of a block that nobody else has or resizes, and for which `tail` is at most its last word's bytes.
    unsafe fn set_tail(&self, head: &Page, tail: usize) {
        let bytes = (head.pages() << PAGE_SHIFT) - tail;
        head.cache.store(core::ptr::without_provenance_mut(bytes), Ordering::Relaxed);
        if let Some((at, word)) = self.tail_of(head) {
            // SAFETY: the last word of the block's last page.
            unsafe { at.write(word) };
        }
    }

    /// The tail of a large block, and where it is, if it has one.
    fn tail_of(&self, head: &Page) -> Option<(*mut u64, u64)> {
        let (block, bytes) = (self.pages.address(head), self.large_bytes(head));
        (bytes < head.pages() << PAGE_SHIFT).then(|| {
            let secret = self.free_mark.load(Ordering::Relaxed);
            (block.wrapping_add(bytes).cast(), beside::free(secret, block.addr()))
        })
    }

    /// That what lies behind a large block is as it was left.
    fn check_tail(&self, head: &Page) -> Result<(), FreeError> {
        if !Self::TAILS {
            return Ok(());
        }
        match self.tail_of(head) {
            // SAFETY: within the pages of a block that somebody has (I-LARGE-1).
            Some((at, word)) if unsafe { at.read() } != word => {
                Err(FreeError::Overflow { address: self.pages.address(head).addr(), cache: LARGE })
            }
            _ => Ok(()),
        }
    }

    /// That what lies behind the large block at `ptr` is as it was left.
    #[inline]
    pub(crate) fn check_large(&self, ptr: *const u8) -> Result<(), FreeError> {
        self.pages.at(ptr.addr()).map_or(Ok(()), |head| self.check_tail(head))
    }

    /// Makes a block whole again which a call refused as [`FreeError::Overflow`]: what is done with it next succeeds. Only for
    /// blocks of whole pages; others are as they were.
    ///
    /// # Safety
    /// The caller owns the block.
    pub unsafe fn mend_large(&self, ptr: *mut u8) {
        if Self::TAILS
            && let Ok(Block::Large(_)) = self.block_at(ptr)
            && let Some(head) = self.pages.at(ptr.addr())
            && let Some((at, word)) = self.tail_of(head)
        {
            // SAFETY: the last word of the block's last page, behind all that its holder may use.
            unsafe { at.write(word) };
        }
    }

    /// The stack that a block without a cache is being allocated by, if that is wanted. Not under a lock.
    pub(crate) fn large_stack(&self) -> Handle {
        if !self.debug.tracks_large() {
            return 0;
        }
        let mut frames = [0; MAX_FRAMES];
        let found = self.platform.backtrace(&mut frames).min(MAX_FRAMES);
        self.debug.stacks.save(&self.platform, &self.pages, &frames[..found])
    }

    /// Shows address, usable bytes and stack of every large block; 0 is no stack.
    pub(crate) fn each_large(&self, mut visit: impl FnMut(usize, usize, Handle)) {
        self.pages.each_of(Kind::Large, |page| {
            visit(
                self.pages.address(page).addr(),
                self.large_bytes(page),
                page.debug.load(Ordering::Relaxed) as Handle,
            );
        });
    }

    /// Frees a large block, unless it was written past its end.
    ///
    /// # Safety
    /// `ptr` is the start of one; nobody uses it any more.
    pub(crate) unsafe fn free_large(&self, ptr: *mut u8) -> Result<(), FreeError> {
        let Some(head) = self.pages.at(ptr.addr()) else { return Err(FreeError::Foreign(ptr.addr())) };
        // Two threads that free the same block: only one may have it.
        if !head.claim(Kind::Large) {
            return Err(FreeError::NotObject(ptr.addr()));
        }
        if Self::TAILS
            && let Err(error) = self.check_tail(head)
        {
            // SAFETY: the head of an allocated run that this thread claimed.
            let mut run = unsafe { self.pages.adopt(head) };
            run.set_kind(Kind::Large);
            self.pages.into_head(run);
            return Err(error);
        }
        // SAFETY: as above.
        let run = unsafe { self.pages.adopt(head) };
        if Self::TAILS {
            // To the next owner of the page this is a cache's address, or null.
            head.cache.store(core::ptr::null_mut(), Ordering::Relaxed);
        }
        self.large_stats.remove(run.pages() << PAGE_SHIFT);
        self.pages.free(&self.platform, run);
        Ok(())
    }

    /// Makes a large block `pages` pages long where it stands, of which so many bytes are its tail. False: nothing changed.
    ///
    /// # Safety
    /// `ptr` is the start of a large block that belongs to the caller.
    pub(crate) unsafe fn resize_large(&self, ptr: *mut u8, pages: usize, tail: usize) -> bool {
        let Some(head) = self.pages.at(ptr.addr()) else { return false };
        let bytes = self.large_bytes(head);
        if (pages << PAGE_SHIFT) - tail == bytes {
            return true;
        }
        let old_tail = self.tail_of(head);
        // SAFETY: the caller owns the block, and its head is that of an allocated run.
        let mut run = unsafe { self.pages.adopt(head) };
        let old = run.pages();
        let done = if pages <= old {
            self.pages.truncate(&self.platform, &mut run, pages);
            true
        } else {
            let bytes = pages << PAGE_SHIFT;
            !self.refuses_mapping(bytes, Gfp::KERNEL)
                && self.pages.try_extend(&self.platform, &mut run, pages)
        };
        if done {
            self.large_stats.resize(old << PAGE_SHIFT, pages << PAGE_SHIFT);
        }
        let head = self.pages.into_head(run);
        if done && Self::TAILS {
            // SAFETY: the caller's block. Its old tail is the holder's from now on, or lies in pages that it has no more.
            unsafe {
                if let Some((at, _)) = old_tail.filter(|_| (pages << PAGE_SHIFT) - tail > bytes) {
                    at.write(0);
                }
                self.set_tail(head, tail);
            }
        }
        done
    }
}

/// Pages for `bytes`.
#[inline]
pub(crate) const fn pages_for(bytes: usize) -> usize {
    bytes.div_ceil(PAGE_SIZE)
}
