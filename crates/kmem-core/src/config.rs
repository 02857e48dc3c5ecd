//! What a heap is built for: constants that the compiler sees.
//!
//! Three levels of configuration exist and no more: these constants, Cargo features for whole
//! subsystems, and run-time options. A [`Config`] is a type, so a heap of one configuration carries no
//! code of another.

use core::marker::PhantomData;

use crate::engine::Engine;
pub use crate::engine::Reserves;
use crate::engine::geometry::{Geometry, KernelVersion, Rules};
use crate::engine::sheaf;
use crate::engine::slab::Slab;
use crate::engine::slob::Slob;
use crate::engine::slub::Slub;
use crate::kmalloc::classes::{ClassSet, FineSet, HeadedSet, KernelSet, NoClasses, SeedSet, ShortSet};
use crate::platform::PAGE_SIZE;

/// The compile-time choices of a heap. What a configuration does not say is as in Linux 6.1.
pub trait Config: Sized + Sync + 'static {
    /// How objects are kept in pages.
    type Engine: Engine;
    /// Size classes of kmalloc.
    type Classes: ClassSet;
    /// Free pointers are stored encoded.
    const HARDENED: bool = false;
    /// Objects of a slab are handed out in random order.
    const RANDOM: bool = false;
    /// Caches that ask for the same may share slabs.
    const MERGE: bool = true;
    /// kmalloc caches are made at bootstrap; otherwise each at its first use.
    const EAGER: bool = true;
    /// Blocks beyond the largest class use as many pages as they need; otherwise a power of two.
    const EXACT_LARGE: bool = false;
    /// kmalloc's free pointers lie at the first word of an object, so that the second can carry the mark of a freed
    /// block; otherwise where the geometry puts them.
    const MARK_FREED: bool = false;
    /// Slabs of kmalloc's classes all have the preferred order, so that an object's place in its slab follows from
    /// its address alone; otherwise there is a smaller order to fall back to.
    const ONE_ORDER: bool = false;
    /// Damage that is found in free memory stops the program.
    const ABORT: bool = false;
    /// A byte of state for each object, and free objects are zero ([`crate::engine::watch`]): every double free, and every
    /// write to a free object, is noticed. For engines that know the cache of an object.
    const WATCHED: bool = false;
    /// The addresses of a cache's slabs are its own as long as it lives, placed at random among others of their region, with walls
    /// between regions ([`crate::page::Pool`]). For SLUB.
    const PINNED: bool = false;
    /// Blocks of [`Kmem::allocate`](crate::heap::Kmem::allocate) beyond the largest class are mappings of their own, between
    /// pages that nobody may touch ([`Platform::map_apart`](crate::platform::Platform::map_apart)).
    const APART: bool = false;
    /// So many of the first blocks of [`Kmem::allocate`](crate::heap::Kmem::allocate) from 128 KiB on are mappings of their own,
    /// though pages would do: a use after their free faults. Once one was freed, only larger ones.
    const FIRST_MAPPED: u32 = 0;

    /// The rules of geometry, given the number of CPUs.
    fn rules(cpus: u32) -> Rules {
        Rules::LINUX_6_1.with_cpus(cpus)
    }

    /// Objects that a CPU's stack holds, for slots of `size` bytes; `by_kernel` is what the geometry says.
    fn capacity(size: usize, by_kernel: u32) -> u32 {
        let _ = size;
        by_kernel
    }

    /// Objects that a CPU's stack may come to hold when it grows, for slots of `size` bytes and stacks that start with `capacity`.
    fn most(size: usize, capacity: u32) -> u32 {
        let _ = size;
        capacity
    }

    /// What a cache keeps in reserve, given its geometry, the pages of its slabs and the objects of a sheaf.
    fn reserves(geometry: &Geometry, slab_pages: usize, sheaf: usize) -> Reserves {
        let _ = (slab_pages, sheaf);
        Reserves {
            min_partial: geometry.min_partial,
            cpu_partial_slabs: geometry.cpu_partial_slabs,
            barn_sheaves: 10,
        }
    }
}

/// As Linux 6.1 with SLUB: its size classes, its geometry, plain lists, ascending order. For conformance.
pub struct KernelConfig<E = Slub>(PhantomData<fn(E)>);

impl Config for KernelConfig<Slub> {
    type Engine = Slub;
    type Classes = KernelSet;

    /// About what a CPU of 6.1 keeps of a cache in its partial slabs and its own, which here is left to the stack: 96 KiB of objects,
    /// and not more than 126.
    fn capacity(size: usize, by_kernel: u32) -> u32 {
        match by_kernel {
            0 => 0,
            least => ((96 << 10) / size as u32).clamp(least.min(126), 126).max(least),
        }
    }
}

/// For programs: fine size classes, encoded free pointers, random order.
pub struct UserConfig<E = Slub>(PhantomData<fn(E)>);

/// The geometry of user space is that of four CPUs on every machine: more would only ask for larger slabs,
/// and a constant geometry lets a free check an address without a look at the cache.
pub const USER_RULES: Rules = Rules::DEFAULT.with_cpus(4);

/// [`Config::FIRST_MAPPED`] of programs: sizes that double from 128 KiB to 4 MiB are six, and threads see the size late.
const USER_FIRST_MAPPED: u32 = 16;

impl Config for UserConfig<Slub> {
    type Engine = Slub;
    type Classes = FineSet;
    const HARDENED: bool = true;
    const RANDOM: bool = true;
    const EAGER: bool = false;
    const EXACT_LARGE: bool = true;
    const FIRST_MAPPED: u32 = USER_FIRST_MAPPED;
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
            8193..=0x8000 => 4,
            0x8001..=0x10_0000 => 3,
            _ => 2,
        }
    }

    /// A thousand objects, or as many as fit in about a mebibyte: so much comes and goes at once in programs that work in
    /// rounds, and a stack only grows to it where that happens.
    fn most(size: usize, capacity: u32) -> u32 {
        match capacity {
            0 => 0,
            1.. => ((1 << 20) / size as u32).clamp(capacity, sheaf::MAX_ROOM as u32),
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

/// Another configuration, of SLUB, whose small blocks have headers ([`crate::engine::beside`]): the classes are [`HeadedSet`]'s.
pub struct Headed<C = UserConfig<Slub>>(PhantomData<fn(C)>);

impl<C: Config<Engine = Slub>> Config for Headed<C> {
    type Engine = Slub;
    type Classes = HeadedSet;
    const HARDENED: bool = C::HARDENED;
    const RANDOM: bool = C::RANDOM;
    const MERGE: bool = C::MERGE;
    const EAGER: bool = C::EAGER;
    const EXACT_LARGE: bool = C::EXACT_LARGE;
    const FIRST_MAPPED: u32 = C::FIRST_MAPPED;
    const MARK_FREED: bool = C::MARK_FREED;
    const ONE_ORDER: bool = C::ONE_ORDER;
    const ABORT: bool = C::ABORT;

    fn rules(cpus: u32) -> Rules {
        C::rules(cpus)
    }

    fn capacity(size: usize, by_kernel: u32) -> u32 {
        C::capacity(size, by_kernel)
    }

    fn most(size: usize, capacity: u32) -> u32 {
        C::most(size, capacity)
    }

    fn reserves(geometry: &Geometry, slab_pages: usize, sheaf: usize) -> Reserves {
        C::reserves(geometry, slab_pages, sheaf)
    }
}

/// Another configuration, of SLUB, for a heap that stops what misuses it: guarded, pinned, in random order. Caches never share
/// slabs. What is for programs ([`Config::EXACT_LARGE`]) has its large blocks apart.
pub struct Hardened<C = UserConfig<Slub>>(PhantomData<fn(C)>);

impl<C: Config<Engine = Slub>> Config for Hardened<C> {
    type Engine = Slub;
    type Classes = <C::Classes as ClassSet>::Apart;
    const HARDENED: bool = true;
    const RANDOM: bool = true;
    const MERGE: bool = false;
    const EAGER: bool = C::EAGER;
    const EXACT_LARGE: bool = C::EXACT_LARGE;
    const ONE_ORDER: bool = C::ONE_ORDER;
    const ABORT: bool = true;
    const WATCHED: bool = true;
    const PINNED: bool = true;
    const APART: bool = C::EXACT_LARGE;

    fn rules(cpus: u32) -> Rules {
        C::rules(cpus)
    }

    fn capacity(size: usize, by_kernel: u32) -> u32 {
        C::capacity(size, by_kernel)
    }

    /// A request that fills a class of the usual heap takes the next one here, a quarter larger: as many objects as there.
    fn most(size: usize, capacity: u32) -> u32 {
        C::most(size - size / 5, capacity)
    }

    fn reserves(geometry: &Geometry, slab_pages: usize, sheaf: usize) -> Reserves {
        C::reserves(geometry, slab_pages, sheaf)
    }
}

/// As Linux 6.1 with SLOB: no classes, no merging, nothing kept in reserve.
impl Config for KernelConfig<Slob> {
    type Engine = Slob;
    type Classes = NoClasses;
    const MERGE: bool = false;

    fn capacity(_size: usize, _by_kernel: u32) -> u32 {
        0
    }

    fn reserves(_geometry: &Geometry, _slab_pages: usize, _sheaf: usize) -> Reserves {
        Reserves { min_partial: 0, cpu_partial_slabs: 0, barn_sheaves: 0 }
    }
}

/// For programs that want the least memory: blocks aligned to 16, as C expects, and large ones as long as they need to be.
impl Config for UserConfig<Slob> {
    type Engine = Slob;
    type Classes = NoClasses<16>;
    const MERGE: bool = false;
    const EAGER: bool = false;
    const EXACT_LARGE: bool = true;
    const FIRST_MAPPED: u32 = USER_FIRST_MAPPED;
    const ABORT: bool = true;

    fn rules(_cpus: u32) -> Rules {
        USER_RULES
    }

    fn capacity(_size: usize, _by_kernel: u32) -> u32 {
        0
    }

    fn reserves(_geometry: &Geometry, _slab_pages: usize, _sheaf: usize) -> Reserves {
        Reserves { min_partial: 0, cpu_partial_slabs: 0, barn_sheaves: 0 }
    }
}

/// As Linux 6.1 with SLAB: its size classes from 32 bytes on, its geometry, its tunables.
impl Config for KernelConfig<Slab> {
    type Engine = Slab;
    type Classes = KernelSet<32>;

    /// What a node keeps is up to the cache's tunables alone.
    fn reserves(_geometry: &Geometry, _slab_pages: usize, _sheaf: usize) -> Reserves {
        Reserves { min_partial: u32::MAX, cpu_partial_slabs: 0, barn_sheaves: u32::MAX }
    }
}

/// The rules of SLAB for programs: as [`USER_RULES`], and no index in a free object, where the mark of freed blocks lies.
///
/// Slabs grow to the order of SLUB's before more than an eighth of one is lost: classes as fine as these have sizes of which one
/// or two fit in the two pages that SLAB stops at otherwise (option `slab_max_order`).
pub const USER_SLAB_RULES: Rules = Rules { init_on_free: true, break_order: 3, ..USER_RULES };

/// For programs, with SLAB: fine size classes, random order, and what [`UserConfig<Slub>`] keeps.
impl Config for UserConfig<Slab> {
    type Engine = Slab;
    type Classes = ShortSet;
    const RANDOM: bool = true;
    const EAGER: bool = false;
    const EXACT_LARGE: bool = true;
    const FIRST_MAPPED: u32 = USER_FIRST_MAPPED;
    const MARK_FREED: bool = true;
    const ONE_ORDER: bool = true;
    const ABORT: bool = true;

    fn rules(_cpus: u32) -> Rules {
        USER_SLAB_RULES
    }

    fn capacity(size: usize, by_kernel: u32) -> u32 {
        UserConfig::<Slub>::capacity(size, by_kernel)
    }

    /// The same bytes; a shared array of as many batches, and free slabs.
    fn reserves(geometry: &Geometry, slab_pages: usize, sheaf: usize) -> Reserves {
        const BYTES: usize = 64 << 10;
        let slabs = (BYTES / (slab_pages * PAGE_SIZE)).max(1) as u32;
        Reserves { min_partial: slabs, ..UserConfig::<Slub>::reserves(geometry, slab_pages, sheaf) }
    }
}

/// As Linux 2.6 with SLAB: descriptors and linked indexes in or beside the slabs, general caches to 128 KiB with twins for
/// DMA, destructors.
pub struct SeedConfig;

impl Config for SeedConfig {
    type Engine = Slab;
    type Classes = SeedSet;
    const MERGE: bool = false;

    fn rules(cpus: u32) -> Rules {
        Rules { version: KernelVersion::V2_6, ..Rules::LINUX_6_1.with_cpus(cpus) }
    }

    fn reserves(geometry: &Geometry, slab_pages: usize, sheaf: usize) -> Reserves {
        KernelConfig::<Slab>::reserves(geometry, slab_pages, sheaf)
    }
}
