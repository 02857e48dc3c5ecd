//! Blocks larger than every size class: whole pages.

use core::sync::atomic::Ordering;

use crate::config::Config;
use crate::debug::stacks::{Handle, MAX_FRAMES};
use crate::gfp::Gfp;
use crate::heap::Kmem;
use crate::kmalloc::FreeError;
use crate::kmalloc::classes::{ClassSet, LargeRule};
use crate::page::{Kind, PageRun};
use crate::platform::{PAGE_SHIFT, PAGE_SIZE, Platform};

impl<P: Platform, C: Config> Kmem<P, C> {
    /// A block of whole pages for `size` bytes, up to 4 MiB.
    pub(crate) fn kmalloc_large(&self, size: usize, gfp: Gfp, node: Option<usize>) -> *mut u8 {
        let Some(pages) = C::Classes::large_pages(size) else {
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
            Some(run) => self.hand_out(run, gfp),
            None => core::ptr::null_mut(),
        }
    }

    /// Turns a run of pages into a block.
    pub(crate) fn hand_out(&self, mut run: PageRun, gfp: Gfp) -> *mut u8 {
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
        block
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

    /// Shows address, bytes and stack of every large block; 0 is no stack.
    pub(crate) fn each_large(&self, mut visit: impl FnMut(usize, usize, Handle)) {
        self.pages.each_of(Kind::Large, |page| {
            visit(
                self.pages.address(page).addr(),
                page.pages() << PAGE_SHIFT,
                page.debug.load(Ordering::Relaxed) as Handle,
            );
        });
    }

    /// Frees a large block.
    ///
    /// # Safety
    /// `ptr` is the start of one; nobody uses it any more.
    pub(crate) unsafe fn free_large(&self, ptr: *mut u8) -> Result<(), FreeError> {
        let Some(head) = self.pages.at(ptr.addr()) else { return Err(FreeError::Foreign(ptr.addr())) };
        // Two threads that free the same block: only one may have it.
        if !head.claim(Kind::Large) {
            return Err(FreeError::NotObject(ptr.addr()));
        }
        // SAFETY: the head of an allocated run that this thread claimed.
        let run = unsafe { self.pages.adopt(head) };
        self.large_stats.remove(run.pages() << PAGE_SHIFT);
        self.pages.free(&self.platform, run);
        Ok(())
    }

    /// Makes a large block `pages` pages long where it stands. False: nothing changed.
    ///
    /// # Safety
    /// `ptr` is the start of a large block that belongs to the caller.
    pub(crate) unsafe fn resize_large(&self, ptr: *mut u8, pages: usize) -> bool {
        let Some(head) = self.pages.at(ptr.addr()) else { return false };
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
        self.pages.into_head(run);
        done
    }
}

/// Pages for `bytes`.
#[inline]
pub(crate) const fn pages_for(bytes: usize) -> usize {
    bytes.div_ceil(PAGE_SIZE)
}
