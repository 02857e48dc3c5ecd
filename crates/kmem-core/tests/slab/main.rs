//! What is SLAB's own, on simulated machines: where objects lie and in which order they come, its arrays, its tunables, its
//! reaping, its reports. What all engines share is tested for SLAB together with the others.

#[path = "../golden_support/mod.rs"]
#[macro_use]
mod golden_support;
#[path = "../api_support/mod.rs"]
mod support;

mod arrays;
mod damage;
mod golden;
mod growing;
mod old;
mod reaping;
mod tunables;

use kmem_core::cache::{CacheArgs, CacheRef};
use kmem_core::config::KernelConfig;
use kmem_core::engine::slab::Slab;
use kmem_core::flags::SlabFlags;
use kmem_core::view::slabinfo::Row;

type Config = KernelConfig<Slab>;
type Rig = support::Rig<Config>;
type Cache = CacheRef<Slab>;

fn flags(flags: SlabFlags) -> CacheArgs {
    CacheArgs { flags: Some(flags), ..CacheArgs::default() }
}

/// What slabinfo says of a cache.
fn row(rig: &Rig, cache: Cache) -> Row {
    // SAFETY: the cache is alive.
    rig.heap.slabinfo_row(unsafe { cache.get() })
}

/// Checks every slab of a cache that nobody works on; returns how many.
fn check(rig: &Rig, cache: Cache) -> u64 {
    // SAFETY: the cache is alive.
    unsafe { rig.heap.validate_cache(cache) }.expect("a sound cache")
}
