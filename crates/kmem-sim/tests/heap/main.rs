//! Whole heaps on simulated machines: nothing is lost, doubled or shared, whatever the world does.
//!
//! | module | what the world does |
//! |---|---|
//! | `limits` | has more caches than stacks, and caches that die too early |
//! | `memory` | refuses memory at every possible point |
//! | `nodes` | has several nodes, some without memory |
//! | `preempt` | migrates and interrupts at every scheduling point |
//! | `random` | everything, in random order, against a second book |
//! | `threads` | runs many threads, and forks |
//!
//! All tests run for both configurations: as the kernel is built, and as programs use it.

mod limits;
mod memory;
mod nodes;
mod preempt;
mod random;
mod rig;
mod threads;
mod upkeep;

/// Makes one test for each configuration of a heap from a function that is generic over it.
macro_rules! for_both {
    ($($name:ident)*) => {
        mod kernel { $( #[test] fn $name() { super::$name::<kmem_core::config::KernelConfig>(); } )* }
        mod user { $( #[test] fn $name() { super::$name::<kmem_core::config::UserConfig>(); } )* }
    };
}
pub(crate) use for_both;
