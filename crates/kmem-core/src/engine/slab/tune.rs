//! Changing a cache's tunables while it is in use.
//!
//! New numbers are stored first; then each CPU's array is taken away, emptied, and given back, and replaced at its next use
//! where its size changed. Whoever refills or spills meanwhile goes by either set: no invariant depends on which.

use core::sync::atomic::Ordering;

use crate::engine::NotTunable;
use crate::engine::sheaf;
use crate::engine::slab::queue::Queue;
use crate::engine::slab::tunables::Tunables;
use crate::engine::slab::{Cache, Floor, stock};
use crate::platform::Platform;

/// Gives a cache other tunables.
///
/// # Errors
/// [`NotTunable`]; nothing changed.
pub(super) fn tune<P: Platform>(floor: Floor<'_, P>, cache: &Cache, new: Tunables) -> Result<(), NotTunable> {
    if cache.capacity() == 0 {
        return Err(NotTunable::NoArrays);
    }
    let largest = sheaf::ARRAY_SIZES[sheaf::ARRAY_SIZES.len() - 1];
    if new.limit as usize > sheaf::MAX_CAPACITY || new.shared_capacity() > largest / Queue::bytes(1) {
        return Err(NotTunable::TooLarge);
    }
    let own = &cache.own;
    // Relaxed: each is a wish of its own, see above.
    own.batch.store(new.batch, Ordering::Relaxed);
    own.shared.store(new.shared, Ordering::Relaxed);
    cache.capacity.store(new.limit, Ordering::Relaxed);
    for cpu in 0..floor.platform.cpus() {
        sheaf::flush_cpu(floor, cache, cpu);
    }
    // The shared arrays come back at their new size.
    stock::flush(floor, cache);
    Ok(())
}
