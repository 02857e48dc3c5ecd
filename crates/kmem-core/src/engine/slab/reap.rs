//! Giving back what nobody used for a while: one cache's share in a CPU's turn of reaping.
//!
//! Each turn looks at one other node's alien array, at the CPU's own array, and, when its time has come, at the node's
//! shared array and its free slabs. What was touched since the last turn is left alone and only marked as seen; what
//! was not loses a fifth of what it may hold. So a cache that nobody uses loses all it keeps within some turns,
//! and one that is used keeps all.
//!
//! An array counts as touched when this CPU's count of allocations has moved: the fast path writes no mark.

use core::sync::atomic::Ordering;

use crate::engine::sheaf;
use crate::engine::slab::tunables::{REAP_NODE_SECONDS, reap_objects, reap_slabs};
use crate::engine::slab::{Cache, Floor, cpu, free, stock};
use crate::percpu::CpuArea;
use crate::platform::Platform;

const NODE_NANOSECONDS: u64 = REAP_NODE_SECONDS * 1_000_000_000;

/// One CPU's turn for one cache.
pub(super) fn reap<P: Platform>(floor: Floor<'_, P>, cache: &Cache, number: usize) {
    let nodes = floor.platform.nodes();
    let node = cpu::node_of(floor, cache, number);
    if let Some(cpu) = cache.cpu(floor.platform, number) {
        let turn = cpu.own.next_node(nodes);
        if P::NUMA && turn != node {
            stock::drain_alien(floor, cache, node, turn);
        }
        let allocs = floor.platform.cpu_area().hot(number, cache.id).allocs.load(Ordering::Relaxed);
        if !cpu.own.reap(allocs) {
            let limit = cache.capacity() as usize;
            sheaf::drain_cpu(floor, cache, number, |held| reap_objects(limit, held));
        }
    }
    reap_node(floor, cache, node);
}

/// The part that each node has once in a while, whichever of its CPUs comes first.
fn reap_node<P: Platform>(floor: Floor<'_, P>, cache: &Cache, node: usize) {
    let now = floor.platform.now();
    let objects = cache.geometry.objects;
    let (surplus, doomed) = {
        let mut lists = cache.node(node).own.lists.lock(floor.platform);
        if lists.next_reap > now {
            return;
        }
        lists.next_reap = now + NODE_NANOSECONDS;
        let shared = &mut lists.shared;
        let surplus = match core::mem::take(&mut shared.touched) {
            true => 0,
            false => reap_objects(shared.room(), shared.len()),
        };
        let slabs = match core::mem::take(&mut lists.free_touched) {
            true => 0,
            false => {
                let limit = cache.own.free_limit(floor.platform, objects, lists.dead_cpus);
                reap_slabs(limit as usize, objects)
            }
        };
        let doomed = free::take_free(floor, cache, &mut lists, slabs as u64);
        lists.events.reaped += u64::from(doomed.len);
        (surplus, doomed)
    };
    free::discard_all(floor, cache, node, doomed);
    stock::drain_shared(floor, cache, node, surplus);
}

/// When a new cache's node is to be reaped first. Caches differ, so that they do not all come in one turn.
pub(super) fn first_time<P: Platform>(floor: Floor<'_, P>, cache: &Cache) -> u64 {
    let address = core::ptr::from_ref(cache).addr() as u64;
    // Descriptors are aligned to cache lines: spread the bits that differ over the whole interval.
    let spread = (address >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15) % NODE_NANOSECONDS;
    floor.platform.now() + NODE_NANOSECONDS + spread
}
