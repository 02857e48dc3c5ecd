//! Whole heaps on simulated machines: nothing is lost, doubled or shared, whatever the world does.
//!
//! | module | what the world does |
//! |---|---|
//! | `backing` | backs untouched pages in batches |
//! | `growth` | trades more objects than stacks hold |
//! | `limits` | has more caches than stacks, and caches that die too early |
//! | `memory` | refuses memory at every possible point |
//! | `nodes` | has several nodes, some without memory |
//! | `preempt` | migrates and interrupts at every scheduling point |
//! | `random` | everything, in random order, against a second book |
//! | `refused` | has memory, but the heap is told to refuse each request in turn |
//! | `threads` | runs many threads, and forks |
//!
//! All tests run for both configurations, as the kernel is built and as programs use it, with SLUB and with SLAB, and with headers
//! beside small blocks.

mod backing;
mod growth;
mod limits;
mod memory;
mod nodes;
mod preempt;
mod random;
mod refused;
mod rig;
mod threads;
mod upkeep;

/// Makes one test for each configuration of a heap from a function that is generic over it.
macro_rules! for_each_config {
    ($($name:ident)*) => {
        mod kernel { $( #[test] fn $name() { super::$name::<kmem_core::config::KernelConfig>(); } )* }
        mod user { $( #[test] fn $name() { super::$name::<kmem_core::config::UserConfig>(); } )* }
        mod headed { $( #[test] fn $name() { super::$name::<kmem_core::config::Headed>(); } )* }
        mod slab_kernel {
            use kmem_core::{config::KernelConfig, engine::slab::Slab};
            $( #[test] fn $name() { super::$name::<KernelConfig<Slab>>(); } )*
        }
        mod slab_user {
            use kmem_core::{config::UserConfig, engine::slab::Slab};
            $( #[test] fn $name() { super::$name::<UserConfig<Slab>>(); } )*
        }
    };
}
pub(crate) use for_each_config;

/// The same on SLOB, for those that hold there too: it has no classes, no stacks, and objects do not tell their cache.
macro_rules! for_slob {
    ($($name:ident)*) => {
        mod slob_kernel {
            use kmem_core::{config::KernelConfig, engine::slob::Slob};
            $( #[test] fn $name() { super::$name::<KernelConfig<Slob>>(); } )*
        }
        mod slob_user {
            use kmem_core::{config::UserConfig, engine::slob::Slob};
            $( #[test] fn $name() { super::$name::<UserConfig<Slob>>(); } )*
        }
    };
}
pub(crate) use for_slob;
