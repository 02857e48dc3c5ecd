//! The facts and the picture of a cache of SLUB, read from the live heap.

use kmem_core::Config;
use kmem_core::engine::sheaf::MAX_CAPACITY;
use kmem_core::engine::slub::Slub;
use kmem_core::page::{Kind, ZoneKind};
use kmem_core::platform::{PAGE_SIZE, Platform};
use kmem_core::view::picture::slub::{self as core_picture, SlabOwner};

use super::picture::{Cpu, Facts, Node, Picture, Place, Slab};
use crate::lab::heap::Heap;

/// Configurations with this engine.
pub(crate) trait Slubs: Config<Engine = Slub> {}
impl<C: Config<Engine = Slub>> Slubs for C {}

/// All bytes of an object's place, free or not.
///
/// # Panics
/// When no object of a slab of the cache is there.
pub(crate) fn look<C: Slubs>(heap: &Heap<C>, object: usize) -> Vec<u8> {
    let cache = heap.descriptor();
    let (first, size) = (cache.geometry().first_object(), cache.geometry().size);
    let slab = heap.kmem().slab_of(cache, object).filter(|slab| {
        let offset = object.wrapping_sub(slab.base + first);
        offset < slab.objects * size && offset.is_multiple_of(size)
    });
    assert!(slab.is_some(), "{object:#x} is no object");
    // SAFETY: the place lies in a slab of the cache.
    unsafe { heap.peek(object, size) }
}

/// The facts of the cache.
pub(crate) fn facts<C: Slubs>(heap: &Heap<C>) -> Facts {
    let cache = heap.descriptor();
    let geometry = cache.geometry();
    let capacity = C::capacity(geometry.size, geometry.sheaf_capacity).min(MAX_CAPACITY as u32);
    Facts {
        name: cache.name().to_owned(),
        object_size: cache.object_size(),
        size: geometry.size,
        align: geometry.align,
        free_pointer: geometry.offset,
        objects: geometry.objects,
        pages: cache.pages_per_slab(),
        stack_capacity: if heap.has_stacks() { capacity as usize } else { 0 },
    }
}

/// Where every object of the cache is now.
pub(crate) fn picture<C: Slubs>(heap: &Heap<C>) -> Picture {
    let cpus = heap.machine().cpus();
    let mut picture = Picture {
        facts: facts(heap),
        slabs: Vec::new(),
        cpus: (0..cpus).map(|cpu| Cpu { node: heap.machine().node_of_cpu(cpu), ..Cpu::default() }).collect(),
        nodes: vec![Node::default(); heap.machine().nodes()],
    };
    let cache = heap.descriptor();
    // Lists with the position of each object, to be brought into their order at the end.
    let mut stacks = vec![Vec::new(); cpus];
    let mut chains = vec![Vec::new(); cpus];
    let mut order = Vec::new();
    for slab in slabs(heap) {
        let mut list = Vec::new();
        let mut fresh = Vec::new();
        for index in 0..slab.objects {
            let (address, place) = heap.kmem().object_place(cache, &slab, index);
            match place {
                core_picture::Place::User => {}
                core_picture::Place::Fresh => fresh.push(address),
                core_picture::Place::CpuStack { cpu, position } => stacks[cpu].push((position, address)),
                core_picture::Place::CpuChain { cpu, position } => chains[cpu].push((position, address)),
                core_picture::Place::SlabList { position } => list.push((position, address)),
                core_picture::Place::Barn => picture.nodes[slab.node].barn.push(address),
            }
        }
        let (place, rank) = match slab.owner {
            SlabOwner::Cpu(cpu) => (Place::Cpu(cpu), (0, cpu, 0)),
            SlabOwner::CpuPartial(cpu) => (Place::CpuPartial(cpu), (1, cpu, 0)),
            SlabOwner::NodePartial(node, position) => (Place::NodePartial(node), (2, node, position)),
            SlabOwner::Full => (Place::Full, (3, 0, 0)),
        };
        let (base, node, objects) = (slab.base + cache.geometry().first_object(), slab.node, slab.objects);
        let name = heap.number_of(base);
        order.push((rank, Slab { name, base, node, objects, place, list: in_order(list), fresh }));
    }
    order.sort_by_key(|(rank, slab)| (*rank, slab.base));
    picture.slabs = order.into_iter().map(|(_, slab)| slab).collect();
    for (cpu, (stack, chain)) in picture.cpus.iter_mut().zip(stacks.into_iter().zip(chains)) {
        cpu.stack = in_order(stack);
        cpu.list = in_order(chain);
    }
    picture
}

/// Every slab of the cache: all memory of the machine is looked through, so none can be forgotten.
fn slabs<C: Slubs>(heap: &Heap<C>) -> Vec<core_picture::SlabPicture> {
    let cache = heap.descriptor();
    let window = heap.machine().window();
    let mut found = Vec::new();
    for node in 0..heap.machine().nodes() {
        for zone in ZoneKind::ALL {
            let range = heap.machine().zone_range(node, zone);
            for page in range.first..range.first + range.count {
                let address = window.base + page * PAGE_SIZE;
                let head = heap.kmem().pages().at(address).is_some_and(|page| page.kind() == Kind::Slab);
                if head && let Some(slab) = heap.kmem().slab_of(cache, address) {
                    found.push(slab);
                }
            }
        }
    }
    found
}

fn in_order(mut list: Vec<(usize, usize)>) -> Vec<usize> {
    list.sort_unstable();
    list.into_iter().map(|(_, address)| address).collect()
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
