//! The checks. What they find is reported; what is restored is said at each.

use crate::debug::pattern;
use crate::debug::pattern::{POISON_END, POISON_FREE};
use crate::engine::slab::checked::Checked;
use crate::engine::slab::checked::layout::{ACTIVE, INACTIVE};
use crate::engine::slab::desc;
use crate::flags::SlabFlags;
use crate::platform::Platform;

impl<P: Platform> Checked<'_, P> {
    /// With F: the slab's index lists each free object once.
    pub(super) fn check_index(&self) -> bool {
        // SAFETY: I-SLABCHECK-1.
        if !self.has(SlabFlags::CONSISTENCY_CHECKS) || unsafe { desc::index_is_sound(self.cache, self.slab) }
        {
            return true;
        }
        self.slab_error("check_index", format_args!("the index of free objects was overwritten"), None);
        false
    }

    /// The words of an object that is about to be handed out.
    pub(super) fn check_words_of_free(&self, object: usize) {
        if self.has(SlabFlags::RED_ZONE) && self.words(object).is_some_and(|words| words != [INACTIVE; 2]) {
            self.slab_error(
                "cache_alloc_debugcheck_after",
                format_args!("double free, or memory outside object was overwritten"),
                Some(object),
            );
        }
    }

    /// The words of an object in use that is being freed.
    pub(super) fn check_words_of_used(&self, object: usize) {
        if self.has(SlabFlags::RED_ZONE) && self.words(object).is_some_and(|words| words != [ACTIVE; 2]) {
            let message = format_args!("memory outside object was overwritten");
            self.slab_error("verify_redzone_free", message, Some(object));
        }
    }

    /// The words of a free object that stays free: when its slab goes, or on demand. Restored.
    pub(super) fn check_words_at_rest(&self, object: usize) {
        let Some(words) = self.words(object) else { return };
        if words == [INACTIVE; 2] || !self.has(SlabFlags::RED_ZONE) {
            return;
        }
        let end = if words[0] == INACTIVE { "end" } else { "start" };
        let message = format_args!("{end} of a freed object was overwritten");
        self.slab_error("slab_destroy_debugcheck", message, Some(object));
        // SAFETY: words of a free object (I-SLABCHECK-1).
        unsafe { self.set_words(object, INACTIVE) };
    }

    /// The words of an object that stays in use. Restored.
    pub(super) fn check_words_in_use(&self, object: usize) {
        if !self.has(SlabFlags::RED_ZONE) || self.words(object).is_none_or(|words| words == [ACTIVE; 2]) {
            return;
        }
        let message = format_args!("memory outside object was overwritten");
        self.slab_error("verify_redzone", message, Some(object));
        // SAFETY: words that are nobody's but the cache's (I-SLABCHECK-1).
        unsafe { self.set_words(object, ACTIVE) };
    }

    /// The bytes of a free object. `home`: the slab's index lies there, or lay there until just now. Not restored.
    pub(super) fn check_poison(&self, object: usize, home: bool) -> bool {
        if !self.is_poisoned() || !self.has(SlabFlags::POISON) || home {
            return true;
        }
        let size = self.cache.geometry.object_size;
        // SAFETY: memory of this slab.
        let clean = unsafe {
            pattern::others(object, size - 1, POISON_FREE).is_none()
                && pattern::others(object + size - 1, 1, POISON_END).is_none()
        };
        if !clean {
            self.corruption(object);
        }
        clean
    }
}
