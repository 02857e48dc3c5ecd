//! The kernel's heap: one static, and Rust's allocator on top.

use core::alloc::{GlobalAlloc, Layout};

use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::FreeError;
use kmem_core::{KernelConfig, Kmem};

use crate::platform::Machine;

/// The engine that keeps this kernel's objects.
#[cfg(not(any(feature = "slab", feature = "slob")))]
pub(crate) type Engine = kmem_core::engine::slub::Slub;
/// The engine that keeps this kernel's objects.
#[cfg(all(feature = "slab", not(feature = "slob")))]
pub(crate) type Engine = kmem_core::engine::slab::Slab;
/// The engine that keeps this kernel's objects.
#[cfg(feature = "slob")]
pub(crate) type Engine = kmem_core::engine::slob::Slob;

/// Whether the engine has CPU stacks in front of it.
pub(crate) const HAS_STACKS: bool = !cfg!(feature = "slob");

/// The compile-time choices of this kernel's heap: those of Linux 6.1.
#[cfg(not(feature = "hardened"))]
pub(crate) type Configuration = KernelConfig<Engine>;
/// The compile-time choices of this kernel's heap: those of Linux 6.1 as distributions build it.
#[cfg(feature = "hardened")]
pub(crate) type Configuration = Hardened<KernelConfig<Engine>>;

/// A configuration with encoded free pointers and slabs in random order, where damage stops the machine.
#[cfg(feature = "hardened")]
pub(crate) struct Hardened<C>(core::marker::PhantomData<fn(C)>);

#[cfg(feature = "hardened")]
impl<C: kmem_core::Config> kmem_core::Config for Hardened<C> {
    type Engine = C::Engine;
    type Classes = C::Classes;
    const HARDENED: bool = true;
    const RANDOM: bool = true;
    const MERGE: bool = C::MERGE;
    const ABORT: bool = true;

    fn rules(cpus: u32) -> kmem_core::engine::geometry::Rules {
        C::rules(cpus)
    }

    fn capacity(size: usize, by_kernel: u32) -> u32 {
        C::capacity(size, by_kernel)
    }

    fn reserves(
        geometry: &kmem_core::engine::geometry::Geometry,
        slab_pages: usize,
        sheaf: usize,
    ) -> kmem_core::config::Reserves {
        C::reserves(geometry, slab_pages, sheaf)
    }
}

/// What the heap stands on.
#[cfg(not(feature = "conformance"))]
pub(crate) type World = Machine;
/// What the heap stands on: a machine that can be told to refuse memory.
#[cfg(feature = "conformance")]
pub(crate) type World = kmem_conformance::Faulty<Machine>;

/// The type of this kernel's heap.
pub(crate) type Heap = Kmem<World, Configuration>;

#[cfg(not(feature = "conformance"))]
static HEAP: Heap = Kmem::new(Machine);
#[cfg(feature = "conformance")]
static HEAP: Heap = Kmem::new(kmem_conformance::Faulty::new(Machine));

/// Calls into the heap.
#[inline(always)]
pub(crate) fn with<R>(f: impl FnOnce(&'static Heap) -> R) -> R {
    f(&HEAP)
}

/// A block of at least `size` bytes; null: no memory.
#[inline]
pub(crate) fn kmalloc(size: usize, gfp: Gfp) -> *mut u8 {
    with(|heap| heap.kmalloc(size, gfp))
}

/// Gives a block back.
///
/// # Panics
/// When no block starts there: somebody's pointer is wrong.
///
/// # Safety
/// The block is the caller's, and is not used any more.
#[inline]
pub(crate) unsafe fn kfree(block: *mut u8) {
    with(|heap| {
        // SAFETY: the caller's promise.
        if let Err(error) = unsafe { heap.kfree(block) } {
            refused(block, error);
        }
    });
}

/// Somebody's pointer is wrong. Out of line, and by value: the way that is not taken costs its callers nothing.
#[cold]
#[inline(never)]
pub(crate) fn refused(block: *mut u8, error: FreeError) -> ! {
    panic!("free({block:p}): {error}")
}

/// Rust's allocator: every `Box`, `Vec` and map of the kernel.
struct Global;

#[global_allocator]
static GLOBAL: Global = Global;

// SAFETY: blocks are at least as large and as aligned as the layout asks, belong to one owner, and nothing here unwinds.
unsafe impl GlobalAlloc for Global {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        with(|heap| heap.allocate_aligned(layout.align(), layout.size(), Gfp::KERNEL))
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        with(|heap| heap.allocate_aligned(layout.align(), layout.size(), Gfp::KERNEL | Gfp::ZERO))
    }

    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { kfree(block) }
    }
}
