//! What goes between a CPU's stack and the slabs: whole sheaves, traded with the node's barn.
//!
//! When a stack runs empty the CPU takes a whole sheaf from its node's barn, or a batch from the slabs, slab by slab; when it runs
//! full, half of it goes to the barn, or back to the slabs, grouped by slab. The batch starts small and doubles with
//! each refill up to half a stack, so that a program that needs ten objects does not carve a hundred; and one that needs a single
//! large object does not touch the pages of others.

use core::ptr;

use crate::engine::cache::count;
use crate::engine::sheaf::{MAX_BATCH, alloc_array, free_array, sheaf_objects};
use crate::engine::slub::free::free_many;
use crate::engine::slub::{Cache, Floor, Stack};
use crate::gfp::Gfp;
use crate::percpu::barn::BarnSheaf;
use crate::platform::Platform;

/// Objects that the first refill of a CPU asks for: four, but no more than fit in a page, or one.
const fn first_batch(size: usize) -> u32 {
    match size {
        0..=1024 => 4,
        1025..=2048 => 2,
        _ => 1,
    }
}

/// How many objects the next refill asks for.
pub(super) fn batch(cache: &Cache, stack: &mut Stack) -> usize {
    let limit = (cache.capacity().max(stack.room) / 2).clamp(1, MAX_BATCH as u32);
    let batch = stack.batch.clamp(first_batch(cache.geometry.size).min(limit), limit);
    stack.batch = (batch * 2).min(limit);
    batch as usize
}

/// Takes a whole sheaf from the barn; how many objects it had.
pub(super) fn take<P: Platform>(floor: Floor<'_, P>, cache: &Cache, out: &mut [*mut u8]) -> usize {
    let node = cache.node(floor.platform.current_node());
    let got = node.own.barn.lock(floor.platform).trade(out, cache.own.barn_sheaves);
    if got > 0
        && let Some(cpu) = cache.here(floor.platform)
    {
        count(&cpu.stats.stock_get, 1);
    }
    got
}

/// Leaves a sheaf in the barn, or the objects in their slabs.
///
/// # Safety
/// The objects are free objects of this cache, owned by the caller.
pub(super) unsafe fn store<P: Platform>(floor: Floor<'_, P>, cache: &Cache, objects: &mut [*mut u8]) {
    let node = cache.node(floor.platform.current_node());
    let capacity = cache.capacity();
    if capacity == 0 {
        // The cache got letters meanwhile: nothing stays outside of its slabs.
        // SAFETY: the caller's promise.
        return unsafe { free_many(floor, cache, objects) };
    }
    let room = sheaf_objects(capacity);
    let limit = cache.own.barn_sheaves;
    let wants = {
        let mut barn = node.own.barn.lock(floor.platform);
        if barn.give(objects, limit) {
            drop(barn);
            if let Some(cpu) = cache.here(floor.platform) {
                count(&cpu.stats.stock_put, 1);
            }
            return;
        }
        barn.wants_sheaf(limit)
    };
    if wants {
        let memory = alloc_array(floor, BarnSheaf::bytes(room), Gfp::NOWAIT);
        if !memory.is_null() {
            let mut barn = node.own.barn.lock(floor.platform);
            // SAFETY: fresh memory of the right size.
            unsafe { barn.add_empty(memory, room as u32) };
            if barn.give(objects, limit) {
                return;
            }
        }
    }
    // SAFETY: the caller's promise.
    unsafe { free_many(floor, cache, objects) };
    node.own.barn.lock(floor.platform).refuse();
    let mut surplus = [ptr::null_mut(); MAX_BATCH];
    loop {
        let got = node.own.barn.lock(floor.platform).take_surplus(&mut surplus);
        if got == 0 {
            return;
        }
        // SAFETY: a barn holds free objects of its cache only; they are this thread's now.
        unsafe { free_many(floor, cache, &mut surplus[..got]) };
    }
}

/// Empties the barns: their objects go to the slabs, the sheaves' memory back to its cache. A cache that has letters now, and no
/// stacks, may have had both before.
pub(super) fn flush<P: Platform>(floor: Floor<'_, P>, cache: &Cache) {
    for node in 0..floor.platform.nodes() {
        let mut objects = [ptr::null_mut(); MAX_BATCH];
        loop {
            let got = cache.node(node).own.barn.lock(floor.platform).take(&mut objects);
            if got == 0 {
                break;
            }
            // SAFETY: a barn holds free objects of its cache only; they are this thread's now.
            unsafe { free_many(floor, cache, &mut objects[..got]) };
        }
        while let Some((memory, room)) = { cache.node(node).own.barn.lock(floor.platform).remove_empty() } {
            // SAFETY: the sheaf's memory was made with that many bytes.
            unsafe { free_array(floor, memory, BarnSheaf::bytes(room)) };
        }
    }
}
