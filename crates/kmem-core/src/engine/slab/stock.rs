//! What goes between a CPU's array and the slabs: the array that the CPUs of a node share, and the arrays in which
//! objects of other nodes wait until a dozen can go home together.
//!
//! An empty CPU array is refilled from the shared array, else from the slabs. From a full one the oldest batch goes to the
//! shared array, as many as fit, and the rest to the slabs. An object of another node goes to the alien array for it; when
//! that is full all of it goes into the other node's shared array, and to its slabs.
//!
//! Arrays are made at first use. Where there is no memory for one, or it would be larger than any array there is, objects
//! go to the slabs, which needs none.

use core::ptr;

use crate::engine::cache::count;
use crate::engine::sheaf::{self, MAX_BATCH};
use crate::engine::slab::free::{free_many, free_stacked, home_of, slab_of};
use crate::engine::slab::queue::{Aliens, Queue};
use crate::engine::slab::tunables::ALIEN_LIMIT;
use crate::engine::slab::{Cache, Floor};
use crate::gfp::Gfp;
use crate::platform::Platform;

/// Takes the oldest batch of a full CPU array, oldest first.
///
/// # Safety
/// As [`free_many`].
pub(super) unsafe fn store<P: Platform>(floor: Floor<'_, P>, cache: &Cache, objects: &mut [*mut u8]) {
    // The thread may have moved to another node by now; the objects have not.
    let apart = P::NUMA && floor.platform.nodes() > 1;
    let node = match objects.first() {
        Some(&oldest) if apart => {
            let Some(slab) = home_of(floor, cache, oldest) else { return };
            slab.node()
        }
        Some(_) => floor.platform.current_node(),
        None => return,
    };
    let mut kept = objects.len();
    if apart {
        // I-SLABNODE-3. Others are rare: they came to the stack of a node that had no memory.
        let mut i = 0;
        while i < kept {
            if home_of(floor, cache, objects[i]).is_some_and(|slab| slab.node() == node) {
                i += 1;
            } else {
                objects[i..kept].rotate_left(1);
                kept -= 1;
            }
        }
    }
    ensure_shared(floor, cache, node);
    // SAFETY: the caller's promise.
    let stored = unsafe { deposit(floor, cache, node, &mut objects[..kept]) };
    if stored && let Some(cpu) = cache.here(floor.platform) {
        count(&cpu.stats.stock_put, 1);
    }
    // SAFETY: the caller's promise.
    unsafe { free_many(floor, cache, &objects[kept..]) };
}

/// Puts objects of `node`, oldest first, into its shared array as far as they fit, and to its slabs. True when some fitted.
///
/// # Safety
/// As [`free_many`].
unsafe fn deposit<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    node: usize,
    objects: &mut [*mut u8],
) -> bool {
    let fit = cache.node(node).own.lists.lock(floor.platform).shared.push(objects);
    // SAFETY: the caller's promise. In the order in which they were freed.
    unsafe { free_stacked(floor, cache, node, &objects[fit..]) };
    fit > 0
}

/// Makes the shared array of a node if the cache is to have one.
fn ensure_shared<P: Platform>(floor: Floor<'_, P>, cache: &Cache, node: usize) {
    let room = cache.own.tunables(cache).shared_capacity();
    let lists = &cache.node(node).own.lists;
    if room == 0 || lists.lock(floor.platform).shared.room() != 0 {
        return;
    }
    let memory = sheaf::alloc_array(floor, Queue::bytes(room), Gfp::NOWAIT);
    if memory.is_null() {
        return;
    }
    // SAFETY: fresh memory of that many bytes, given back when it was removed.
    let installed = unsafe { lists.lock(floor.platform).shared.install(memory, room as u32) };
    if !installed {
        // SAFETY: nobody else saw it.
        unsafe { sheaf::free_array(floor, memory, Queue::bytes(room)) };
    }
}

/// Gives back an object of another node, or of a cache without stacks.
///
/// # Safety
/// As [`free_many`].
pub(super) unsafe fn free_away<P: Platform>(floor: Floor<'_, P>, cache: &Cache, object: *mut u8) {
    let here = floor.platform.current_node();
    let nodes = floor.platform.nodes();
    let limit = cache.own.tunables(cache).alien_limit(nodes);
    // A cache without stacks has none of these arrays either: they would be made of objects of such caches.
    if P::NUMA && cache.capacity() != 0 && limit != 0 {
        let Some((slab, _)) = slab_of(floor, cache, object) else { return };
        let home = slab.node();
        // SAFETY: the caller's promise.
        if home != here && unsafe { send_home(floor, cache, here, home, object) } {
            return;
        }
    }
    // SAFETY: the caller's promise.
    unsafe { free_many(floor, cache, &[object]) };
}

/// Puts an object into the alien array of `here` for `home`. False when there is no memory for one.
///
/// # Safety
/// As [`free_many`].
unsafe fn send_home<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    here: usize,
    home: usize,
    object: *mut u8,
) -> bool {
    let aliens = &cache.node(here).own.aliens;
    let mut full = [ptr::null_mut(); ALIEN_LIMIT as usize];
    let mut pushed = aliens.lock(floor.platform).push(home, object, &mut full);
    if pushed.is_none() {
        let nodes = floor.platform.nodes();
        let memory = sheaf::alloc_array(floor, Aliens::bytes(nodes), Gfp::NOWAIT);
        if memory.is_null() {
            return false;
        }
        let (installed, again) = {
            let mut aliens = aliens.lock(floor.platform);
            // SAFETY: fresh memory of that many bytes, given back when it was removed.
            (unsafe { aliens.install(memory, nodes) }, aliens.push(home, object, &mut full))
        };
        if !installed {
            // SAFETY: nobody else saw it.
            unsafe { sheaf::free_array(floor, memory, Aliens::bytes(nodes)) };
        }
        pushed = again;
    }
    let Some(drained) = pushed else { return false };
    if drained > 0 {
        // SAFETY: an alien array holds free objects of its cache and of that node; they are this thread's now.
        unsafe { deposit(floor, cache, home, &mut full[..drained]) };
    }
    true
}

/// Sends what `node` keeps of `home`'s objects back there. Returns how many.
pub(super) fn drain_alien<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    node: usize,
    home: usize,
) -> usize {
    let mut objects = [ptr::null_mut(); ALIEN_LIMIT as usize];
    let got = cache.node(node).own.aliens.lock(floor.platform).take(home, &mut objects);
    if got > 0 {
        // SAFETY: as in `send_home`.
        unsafe { deposit(floor, cache, home, &mut objects[..got]) };
    }
    got
}

/// Takes up to `count` of the oldest objects of a node's shared array to their slabs.
pub(super) fn drain_shared<P: Platform>(floor: Floor<'_, P>, cache: &Cache, node: usize, mut count: usize) {
    let mut objects = [ptr::null_mut(); MAX_BATCH];
    while count > 0 {
        let some = &mut objects[..count.min(MAX_BATCH)];
        let got = cache.node(node).own.lists.lock(floor.platform).shared.pop_oldest(some);
        if got == 0 {
            return;
        }
        // SAFETY: a shared array holds free objects of its cache only; they are this thread's now.
        unsafe { free_many(floor, cache, &objects[..got]) };
        count -= got;
    }
}

/// Empties all arrays of all nodes and gives their memory back.
pub(super) fn flush<P: Platform>(floor: Floor<'_, P>, cache: &Cache) {
    if cache.capacity() == 0 {
        return;
    }
    let nodes = floor.platform.nodes();
    for node in 0..nodes {
        for home in (0..nodes).filter(|_| P::NUMA) {
            drain_alien(floor, cache, node, home);
        }
    }
    for node in 0..nodes {
        drain_shared(floor, cache, node, usize::MAX);
        release(floor, cache, node);
    }
}

/// Gives back the memory of a node's empty arrays.
pub(super) fn release<P: Platform>(floor: Floor<'_, P>, cache: &Cache, node: usize) {
    let own = &cache.node(node).own;
    // Two statements each: the lock must end before the memory goes.
    let shared = own.lists.lock(floor.platform).shared.remove();
    if let Some((memory, room)) = shared {
        // SAFETY: the queue's own array, made with that many bytes and removed.
        unsafe { sheaf::free_array(floor, memory, Queue::bytes(room)) };
    }
    let aliens = own.aliens.lock(floor.platform).remove();
    if let Some((memory, nodes)) = aliens {
        // SAFETY: as above.
        unsafe { sheaf::free_array(floor, memory, Aliens::bytes(nodes)) };
    }
}
