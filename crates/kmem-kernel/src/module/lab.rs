//! The classic lab: create a cache, take an object, give it back, destroy the cache. Its messages are those that the
//! same module prints under Linux.

use kmem_core::cache::CacheArgs;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;

use crate::cpu::serial::println;
use crate::cpu::time;
use crate::heap;

/// A message with the time since the start, as a kernel's log has it.
macro_rules! pr_info {
    ($($argument:tt)*) => {{
        let us = time::nanoseconds() / 1000;
        println!("[{:5}.{:06}] {}", us / 1_000_000, us % 1_000_000, format_args!($($argument)*))
    }};
}

/// Runs the lab. False when a step failed, as its message says.
pub(super) fn run() -> bool {
    const SIZE: usize = 20;
    println!("\n--- lab");
    let args = CacheArgs { flags: Some(SlabFlags::HWCACHE_ALIGN), ..CacheArgs::default() };
    let Ok(my_cache) = heap::with(|heap| heap.create("mycache", SIZE, args)) else {
        pr_info!("kmem_cache_create failed.");
        return false;
    };
    pr_info!("kmem_cache_create ok");
    // SAFETY: the cache lives until it is destroyed below.
    let kbuf = heap::with(|heap| unsafe { heap.alloc(my_cache, Gfp::ATOMIC) });
    if kbuf.is_null() {
        pr_info!("kmem_cache_alloc failed");
        return false;
    }
    pr_info!("kmem_cache_alloc ok ");
    // SAFETY: the object is this function's, and the cache is not used after its end.
    let destroyed =
        heap::with(|heap| unsafe { heap.free(my_cache, kbuf).is_ok() && heap.destroy(my_cache).is_ok() });
    if !destroyed {
        pr_info!("kmem_cache_destroy failed");
        return false;
    }
    pr_info!("destroyed my_cache");
    true
}
