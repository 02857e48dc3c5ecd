//! What lies where in a cache, object by object: for teaching and for debuggers.
//!
//! | file | shows |
//! |---|---|
//! | [`slub`] | one slab, and on which list each of its free objects hangs |
//! | [`slab`] | the slabs of a node's three lists with their indexes, and every array of free objects |
//! | [`slob`] | the pages that all share, with their free blocks |
//!
//! A picture is exact when nobody works on the cache while it is taken. What is shown is shown under the lock that guards
//! it: who looks must not ask the heap for anything meanwhile.

pub mod slab;
pub mod slob;
pub mod slub;

use core::sync::atomic::Ordering;

use crate::cache::KmemCache;
use crate::config::Config;
use crate::heap::Kmem;
use crate::percpu::CpuArea;
use crate::platform::Platform;

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Shows each free object on a CPU's stack with its place from the bottom, where what was freed first is. Returns how
    /// many there are.
    pub fn each_on_stack(
        &self,
        cache: &KmemCache<C::Engine>,
        cpu: usize,
        mut see: impl FnMut(usize, *mut u8),
    ) -> usize {
        let Some(here) = cache.engine.cpu(&self.platform, cpu) else { return 0 };
        let inner = here.stack.lock(&self.platform);
        if inner.base.is_null() {
            return 0;
        }
        // Acquire pairs with the Release of whoever installed the stack.
        let top = self.platform.cpu_area().hot(cpu, cache.engine.id).top.load(Ordering::Acquire);
        let len = (top as usize).saturating_sub(inner.base as usize) / size_of::<*mut u8>();
        for i in 0..len {
            // SAFETY: entries below the top of an installed stack are initialised, and the array stays while the lock is
            // held.
            see(i, unsafe { inner.base.add(i).read() });
        }
        len
    }
}
