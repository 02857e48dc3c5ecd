//! A heap and a cache with faults to be made in it.

use kmem_core::cache::{CacheArgs, CacheRef, Validation};
use kmem_core::config::KernelConfig;
use kmem_core::engine::slab::Slab;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_sim::Machine;

pub(crate) use crate::support::Rig;

pub(crate) const F: SlabFlags = SlabFlags::CONSISTENCY_CHECKS;
pub(crate) const Z: SlabFlags = SlabFlags::RED_ZONE;
pub(crate) const P: SlabFlags = SlabFlags::POISON;
pub(crate) const U: SlabFlags = SlabFlags::STORE_USER;
/// The captured reports' letters.
pub(crate) const ZPU: SlabFlags = Z.union(P).union(U);

/// A kernel's heap with SLAB on a machine with one CPU, and a cache.
pub(crate) struct Bad {
    pub(crate) rig: Rig<KernelConfig<Slab>>,
    pub(crate) cache: CacheRef<Slab>,
}

impl Bad {
    pub(crate) fn with(name: &str, args: CacheArgs, size: usize) -> Self {
        let rig = Rig::raw(Machine::builder().cpus(1).build());
        // The letters are the creator's; that they count is the options' doing.
        assert!(rig.heap.set_debug_options("-"));
        assert!(rig.init());
        let cache = rig.create(name, size, args).expect("a cache");
        Self { rig, cache }
    }

    /// The captured reports' cache: objects of 56 bytes, Z P U.
    pub(crate) fn new(name: &str) -> Self {
        Self::lettered(name, 56, ZPU)
    }

    pub(crate) fn lettered(name: &str, size: usize, letters: SlabFlags) -> Self {
        Self::with(name, CacheArgs { flags: Some(letters), ..CacheArgs::default() }, size)
    }

    pub(crate) fn alloc(&self) -> *mut u8 {
        self.rig.machine.set_calls(&["sl_alloc_site+0xa/0xff9 [sl_bad]", "bad_init+0x47c/0x1000 [sl_bad]"]);
        let object = self.rig.alloc(self.cache, Gfp::KERNEL);
        assert!(!object.is_null());
        object
    }

    pub(crate) fn free(&self, object: *mut u8) {
        self.rig.machine.set_calls(&["sl_free_site+0x5/0x6 [sl_bad]", "bad_init+0x47c/0x1000 [sl_bad]"]);
        assert_eq!(self.rig.free(self.cache, object), Ok(()));
    }

    pub(crate) fn validate(&self) -> Validation {
        // SAFETY: the cache is alive.
        unsafe { self.rig.heap.validate(self.cache) }.expect("a checked cache")
    }

    pub(crate) fn errors(&self) -> u64 {
        self.rig.heap.debug().errors()
    }

    /// Validation finds nothing, and objects come, are written to their last byte, and go without a word.
    pub(crate) fn assert_sound(&self) {
        self.rig.said();
        let before = self.errors();
        assert_eq!(self.validate().errors, 0);
        let objects: Vec<_> = (0..100).map(|_| self.alloc()).collect();
        // SAFETY: the cache is alive.
        let size = unsafe { self.rig.heap.cache_size(self.cache) };
        // SAFETY: objects of this size.
        objects.iter().for_each(|object| unsafe { object.write_bytes(0x11, size) });
        assert_eq!(self.validate().errors, 0);
        objects.into_iter().for_each(|object| self.free(object));
        assert_eq!(self.validate().errors, 0);
        assert_eq!((self.errors(), self.rig.said().as_str()), (before, ""));
    }
}

/// Writes one byte, somewhere in a slab.
pub(crate) fn poke(at: *mut u8, offset: isize, value: u8) {
    // SAFETY: the tests write inside slabs of their own heaps.
    unsafe { at.offset(offset).write(value) };
}
