//! A heap and a cache with faults to be made in it.

use kmem_core::cache::{CacheArgs, CacheRef, Validation};
use kmem_core::config::KernelConfig;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::platform::PAGE_SIZE;
use kmem_sim::Machine;

pub(crate) use crate::support::Rig;

pub(crate) const F: SlabFlags = SlabFlags::CONSISTENCY_CHECKS;
pub(crate) const Z: SlabFlags = SlabFlags::RED_ZONE;
pub(crate) const P: SlabFlags = SlabFlags::POISON;
pub(crate) const U: SlabFlags = SlabFlags::STORE_USER;
pub(crate) const FZPU: SlabFlags = F.union(Z).union(P).union(U);

/// What the captured reports show below the call that allocated or freed.
const BELOW: [&str; 6] = [
    "bad_init+0x47c/0x1000 [sl_bad]",
    "do_one_initcall+0x4b/0x180",
    "do_init_module+0x45/0x1b0",
    "__do_sys_finit_module+0x8d/0xc0",
    "do_syscall_64+0x2b/0x50",
    "entry_SYSCALL_64_after_hwframe+0x4b/0xb5",
];

/// A kernel's heap on a machine with one CPU, and a cache.
pub(crate) struct Bad {
    pub(crate) rig: Rig<KernelConfig>,
    pub(crate) cache: CacheRef,
}

impl Bad {
    /// The captured reports' cache: objects of 56 bytes, F Z P U.
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, 56, FZPU)
    }

    pub(crate) fn with(name: &str, size: usize, flags: SlabFlags) -> Self {
        let rig = Rig::on(Machine::builder().cpus(1).build());
        let cache = Self::create(&rig, name, size, flags);
        Self { rig, cache }
    }

    pub(crate) fn create(rig: &Rig<KernelConfig>, name: &str, size: usize, flags: SlabFlags) -> CacheRef {
        rig.create(name, size, CacheArgs { flags: Some(flags), ..CacheArgs::default() }).expect("a cache")
    }

    /// An object, allocated by `sl_alloc_site`.
    pub(crate) fn alloc(&self) -> *mut u8 {
        self.called_from("sl_alloc_site+0xa/0xff9 [sl_bad]");
        let object = self.rig.alloc(self.cache, Gfp::KERNEL);
        assert!(!object.is_null());
        object
    }

    /// The same, filled with 0x11.
    pub(crate) fn filled(&self) -> *mut u8 {
        let object = self.alloc();
        // SAFETY: the object has that many bytes.
        unsafe { object.write_bytes(0x11, self.rig.heap_cache_size(self.cache)) };
        object
    }

    /// Frees, by `sl_free_site`. Only a fault of the heap's own answers with an error.
    pub(crate) fn free(&self, object: *mut u8) {
        self.called_from("sl_free_site+0x5/0x6 [sl_bad]");
        assert_eq!(self.rig.free(self.cache, object), Ok(()));
    }

    pub(crate) fn called_from(&self, site: &'static str) {
        let mut calls = vec![site];
        calls.extend(BELOW);
        self.rig.machine.set_calls(&calls);
    }

    pub(crate) fn destroy(&self) -> bool {
        self.rig.machine.set_calls(&BELOW);
        self.rig.destroy(self.cache).is_ok()
    }

    pub(crate) fn validate(&self) -> Validation {
        // SAFETY: the cache is alive.
        unsafe { self.rig.heap.validate(self.cache) }.expect("a checked cache")
    }

    pub(crate) fn errors(&self) -> u64 {
        self.rig.heap.debug().errors()
    }

    /// What was said since the last call, in the common form.
    #[cfg(all(target_pointer_width = "64", target_endian = "little"))]
    pub(crate) fn said(&self) -> Vec<String> {
        crate::text::normal(&self.rig.said())
    }

    /// A sound cache: validation finds nothing, objects come and go without a word.
    pub(crate) fn assert_sound(&self) {
        self.rig.said();
        let before = self.errors();
        assert_eq!(self.validate().errors, 0);
        let objects: Vec<_> = (0..100).map(|_| self.filled()).collect();
        assert_eq!(self.validate().errors, 0);
        objects.into_iter().for_each(|object| self.free(object));
        assert_eq!(self.validate().errors, 0);
        assert_eq!((self.errors(), self.rig.said().as_str()), (before, ""));
    }
}

impl Rig<KernelConfig> {
    fn heap_cache_size(&self, cache: CacheRef) -> usize {
        // SAFETY: the cache is alive.
        unsafe { self.heap.cache_size(cache) }
    }

    /// First address of the slab that an object lies in.
    pub(crate) fn slab_start(&self, object: *mut u8) -> *mut u8 {
        let (start, pages) = self.slab_of(object);
        assert!(start.is_multiple_of(PAGE_SIZE) && pages > 0);
        start as *mut u8
    }
}

/// Writes one byte, somewhere in a slab.
pub(crate) fn poke(at: *mut u8, offset: isize, value: u8) {
    // SAFETY: the tests write inside slabs of their own heaps.
    unsafe { at.offset(offset).write(value) };
}

pub(crate) fn peek(at: *mut u8, offset: isize) -> u8 {
    // SAFETY: as above.
    unsafe { at.offset(offset).read() }
}

/// The word at an offset from an object.
pub(crate) fn word(object: *mut u8, offset: usize) -> *mut u64 {
    // SAFETY: as above.
    unsafe { object.add(offset).cast() }
}
