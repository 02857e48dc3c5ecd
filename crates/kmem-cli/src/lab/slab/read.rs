//! The picture of a cache of SLAB, read from the live heap.

use kmem_core::Config;
use kmem_core::engine::slab::Slab as Engine;
use kmem_core::engine::slab::geometry::IndexKind;
use kmem_core::platform::Platform;
use kmem_core::view::picture::slab::{IndexHome, NodeArray};

use super::picture::{Cpu, Facts, Node, Picture, Slab};
use crate::lab::heap::Heap;

/// Configurations with this engine.
pub(crate) trait Slabs: Config<Engine = Engine> {}
impl<C: Config<Engine = Engine>> Slabs for C {}

/// The facts of the cache.
pub(crate) fn facts<C: Slabs>(heap: &Heap<C>) -> Facts {
    let cache = heap.descriptor();
    let (geometry, layout) = (cache.geometry(), heap.kmem().slab_layout(cache));
    let now = heap.kmem().slab_tunables(cache);
    Facts {
        name: cache.name().to_owned(),
        size: geometry.size,
        objects: geometry.objects,
        pages: cache.pages_per_slab(),
        index_bytes: if geometry.objects == 1 { 0 } else { layout.management_bytes },
        linked: layout.index == IndexKind::Linked,
        colours: layout.colours,
        colour_step: layout.colour_step,
        tunables: [now.limit, now.batch, now.shared],
    }
}

/// Where every object of the cache is now.
pub(crate) fn picture<C: Slabs>(heap: &Heap<C>) -> Picture {
    let (kmem, machine, cache) = (heap.kmem(), heap.machine(), heap.descriptor());
    let mut slabs = Vec::new();
    kmem.each_slab(cache, |slab, index| {
        slabs.push(Slab {
            name: 0,
            is: *slab,
            entries: index.entries().collect(),
            order: index.order().collect(),
            index_cache: None,
        });
    });
    // Letters and names are asked for when no lock is held any more. A refill may make several slabs at once: they get their
    // letters in the order of their addresses.
    let mut bases: Vec<usize> = slabs.iter().map(|slab| slab.is.base).collect();
    bases.sort_unstable();
    for base in bases {
        heap.number_of(base);
    }
    for slab in &mut slabs {
        slab.name = heap.number_of(slab.is.base);
        if let IndexHome::OffSlab(address) = slab.is.index {
            slab.index_cache = kmem.name_at(address).map(str::to_owned);
        }
    }
    let cpu = |number| {
        let mut cpu = Cpu {
            node: machine.node_of_cpu(number),
            touched: kmem.is_touched(cache, number),
            array: Vec::new(),
        };
        kmem.each_on_stack(cache, number, |_, object| cpu.array.push(object as usize));
        cpu
    };
    let node = |number| {
        let mut shared = Vec::new();
        let mut aliens: Vec<(usize, Vec<usize>)> = Vec::new();
        let is = kmem.node_arrays(cache, number, |array, object| match array {
            NodeArray::Shared => shared.push(object as usize),
            NodeArray::Alien(home) => match aliens.last_mut() {
                Some((last, objects)) if *last == home => objects.push(object as usize),
                _ => aliens.push((home, vec![object as usize])),
            },
        });
        Node { is, shared, aliens }
    };
    Picture {
        facts: facts(heap),
        slabs,
        cpus: (0..machine.cpus()).map(cpu).collect(),
        nodes: (0..machine.nodes()).map(node).collect(),
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
