//! kmalloc on engines without size classes: each block is as long as it was asked.
//!
//! The engine makes such blocks and knows them again ([`Engine::kmalloc`]). What is here is the way between it
//! and the rest of kmalloc; for other engines nothing of it exists, as every caller asks [`Engine::CLASSES`], a
//! constant, first.

use crate::cache::objects::strip;
use crate::config::Config;
use crate::engine::Engine;
use crate::gfp::Gfp;
use crate::heap::{Kmem, State};
use crate::kmalloc::FreeError;
use crate::kmalloc::classes::ClassSet;
use crate::platform::Platform;

impl<P: Platform, C: Config> Kmem<P, C> {
    /// A block of `size` bytes, not 0; `align` as for [`Engine::kmalloc`]. Null: no memory, or not at this
    /// alignment.
    pub(crate) fn kmalloc_unclassed(
        &self,
        size: usize,
        align: usize,
        gfp: Gfp,
        node: Option<usize>,
    ) -> *mut u8 {
        if self.state() < State::Up {
            return core::ptr::null_mut();
        }
        let gfp = if gfp.intersects(Gfp::SLAB_BUG) { strip(&self.platform, gfp) } else { gfp };
        let node = node.filter(|&node| node < self.platform.nodes());
        let node = if gfp.contains(Gfp::THISNODE) && node.is_none() {
            Some(self.platform.current_node())
        } else {
            node
        };
        if self.refuses_unclassed(size, gfp) {
            return core::ptr::null_mut();
        }
        if self.guard.is_on()
            && node.is_none()
            && let Some(block) = self.sample_block(size, align.max(Self::promised_align(size)), gfp)
        {
            return block;
        }
        C::Engine::kmalloc(self.floor(), Self::unclassed_size(size), Self::unclassed_align(align), gfp, node)
    }

    /// A block without waiting for a lock; null at any time.
    pub(crate) fn kmalloc_unclassed_at_once(&self, size: usize, gfp: Gfp) -> *mut u8 {
        if self.refuses_unclassed(size, gfp) {
            return core::ptr::null_mut();
        }
        C::Engine::kmalloc_at_once(self.floor(), Self::unclassed_size(size), Self::unclassed_align(0), gfp)
    }

    /// What the engine is asked for `size` bytes. Where all blocks are aligned to more than the engine's headers are long, the
    /// bytes up to the next header are the block's: as a hole they could serve nobody, and every search would find them.
    fn unclassed_size(size: usize) -> usize {
        let (least, header) = (C::Classes::MIN_ALIGN, C::Engine::KMALLOC_HEADER);
        if least <= header {
            return size;
        }
        ((size + header).next_multiple_of(least) - header).min(C::Classes::LARGEST).max(size)
    }

    /// What a block is aligned to when `align` is asked: 0 is left to the engine, unless the configuration
    /// wants more than it gives.
    const fn unclassed_align(align: usize) -> usize {
        let (least, header) = (C::Classes::MIN_ALIGN, C::Engine::KMALLOC_HEADER);
        if align < least && (align > 0 || least > header) { least } else { align }
    }

    /// The usable bytes of the block that starts at `ptr`, in a page of the engine's.
    pub(crate) fn unclassed_at(&self, ptr: *const u8) -> Result<usize, FreeError> {
        C::Engine::ksize(self.floor(), ptr).map_err(|free| Self::misfree(ptr.addr(), free))
    }

    /// Frees a block.
    ///
    /// # Safety
    /// Nobody uses it any more.
    pub(crate) unsafe fn kfree_unclassed(&self, ptr: *mut u8) -> Result<(), FreeError> {
        // SAFETY: the caller's promise.
        unsafe { C::Engine::kfree(self.floor(), ptr) }.map_err(|twice| Self::misfree(ptr.addr(), twice))
    }

    const fn misfree(address: usize, twice: bool) -> FreeError {
        let cache = C::Engine::NAME;
        if twice { FreeError::Double { address, cache } } else { FreeError::Interior { address, cache } }
    }
}
