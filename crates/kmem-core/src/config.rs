//! What a heap is built for: constants that the compiler sees.
//!
//! Three levels of configuration exist and no more: these constants, Cargo features for whole
//! subsystems, and run-time options. A [`Config`] is a type, so a heap of one configuration carries no
//! code of another.

use core::marker::PhantomData;

use crate::engine::Engine;
pub use crate::engine::Reserves;
use crate::engine::geometry::{Geometry, Rules};
use crate::engine::slub::Slub;
use crate::kmalloc::classes::{ClassSet, FineSet, KernelSet};
use crate::platform::PAGE_SIZE;

/// The compile-time choices of a heap.
pub trait Config: Sized + Sync + 'static {
    /// How objects are kept in pages.
    type Engine: Engine;
    /// Size classes of kmalloc.
    type Classes: ClassSet;
    /// Free pointers are stored encoded.
    const HARDENED: bool;
    /// Objects of a slab are handed out in random order.
    const RANDOM: bool;
    /// Caches that ask for the same may share slabs.
    const MERGE: bool;
    /// kmalloc caches are made at bootstrap; otherwise each at its first use.
    const EAGER: bool;
    /// Blocks beyond the largest class use as many pages as they need; otherwise a power of two.
    const EXACT_LARGE: bool;
    /// kmalloc's free pointers lie at the first word of an object, so that the second can carry the mark of a freed
    /// block; otherwise where the geometry puts them.
    const MARK_FREED: bool;
    /// Slabs of kmalloc's classes all have the preferred order, so that an object's place in its slab follows from
    /// its address alone; otherwise there is a smaller order to fall back to.
    const ONE_ORDER: bool;
    /// Damage that is found in free memory stops the program.
    const ABORT: bool;

    /// The rules of geometry, given the number of CPUs.
    fn rules(cpus: u32) -> Rules;

    /// Objects that a CPU's stack holds, for slots of `size` bytes; `by_kernel` is what the geometry says.
    fn capacity(size: usize, by_kernel: u32) -> u32;

    /// What a cache keeps in reserve, given its geometry, the pages of its slabs and the objects of a sheaf.
    fn reserves(geometry: &Geometry, slab_pages: usize, sheaf: usize) -> Reserves;
}

/// As Linux 6.1 with SLUB: its size classes, its geometry, plain lists, ascending order. For conformance.
pub struct KernelConfig<E = Slub>(PhantomData<fn(E)>);

impl Config for KernelConfig<Slub> {
    type Engine = Slub;
    type Classes = KernelSet;
    const HARDENED: bool = false;
    const RANDOM: bool = false;
    const MERGE: bool = true;
    const EAGER: bool = true;
    const EXACT_LARGE: bool = false;
    const MARK_FREED: bool = false;
    const ONE_ORDER: bool = false;
    const ABORT: bool = false;

    fn rules(cpus: u32) -> Rules {
        Rules::LINUX_6_1.with_cpus(cpus)
    }

    fn capacity(_size: usize, by_kernel: u32) -> u32 {
        by_kernel
    }

    fn reserves(geometry: &Geometry, _slab_pages: usize, _sheaf: usize) -> Reserves {
        Reserves {
            min_partial: geometry.min_partial,
            cpu_partial_slabs: geometry.cpu_partial_slabs,
            barn_sheaves: 10,
        }
    }
}

/// For programs: fine size classes, encoded free pointers, random order.
pub struct UserConfig<E = Slub>(PhantomData<fn(E)>);

/// The geometry of user space is that of four CPUs on every machine: more would only ask for larger slabs,
/// and a constant geometry lets a free check an address without a look at the cache.
pub const USER_RULES: Rules = Rules::DEFAULT.with_cpus(4);

impl Config for UserConfig<Slub> {
    type Engine = Slub;
    type Classes = FineSet;
    const HARDENED: bool = true;
    const RANDOM: bool = true;
    const MERGE: bool = true;
    const EAGER: bool = false;
    const EXACT_LARGE: bool = true;
    const MARK_FREED: bool = true;
    const ONE_ORDER: bool = true;
    const ABORT: bool = true;

    fn rules(_cpus: u32) -> Rules {
        USER_RULES
    }

    /// Up to about 32 KiB of objects a CPU, at least 4 and at most 126 of them.
    fn capacity(size: usize, by_kernel: u32) -> u32 {
        if by_kernel == 0 {
            return 0;
        }
        match size {
            0..=128 => 126,
            129..=512 => 62,
            513..=1024 => 30,
            1025..=2048 => 14,
            2049..=8192 => 6,
            _ => 4,
        }
    }

    /// 64 KiB of each kind, at least one slab and one sheaf: a program has dozens of classes, and what each keeps
    /// counts as the program's own memory.
    fn reserves(geometry: &Geometry, slab_pages: usize, sheaf: usize) -> Reserves {
        const BYTES: usize = 64 << 10;
        let slabs = (BYTES / (slab_pages * PAGE_SIZE)).max(1) as u32;
        Reserves {
            min_partial: geometry.min_partial.min(slabs),
            cpu_partial_slabs: geometry.cpu_partial_slabs.min(slabs),
            barn_sheaves: (BYTES / (geometry.size * sheaf.max(1))).clamp(1, 64) as u32,
        }
    }
}
