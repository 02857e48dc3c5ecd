//! A snapshot of one cache of SLAB. Plain data, so that drawing needs no heap.
//!
//! # Invariants
//! - I-SLABPIC-1: an object is free in its slab, or in one array, or in use: the lists of a picture name each at most once.
//! - I-SLABPIC-2: of a slab as many objects are free as it holds more than are out.
//! - I-SLABPIC-3: a slab is on the list that its counts demand, and a node's free objects are those of its slabs.
//!
//! [`Picture::check`] says where they do not hold.

use std::collections::HashMap;

use kmem_core::view::picture::slab::{IndexHome, List, NodePicture, SlabPicture};

use crate::lab::draw::letters;

/// Facts of the cache; the tunables are those of the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Name.
    pub(crate) name: String,
    /// Bytes from one object to the next.
    pub(crate) size: usize,
    /// Objects in a slab.
    pub(crate) objects: usize,
    /// Pages in a slab.
    pub(crate) pages: usize,
    /// Bytes of a slab's index with what is kept beside it.
    pub(crate) index_bytes: usize,
    /// Each entry names the next free object; otherwise the entries are the free objects.
    pub(crate) linked: bool,
    /// Where slabs may begin.
    pub(crate) colours: usize,
    /// Bytes from one colour to the next.
    pub(crate) colour_step: usize,
    /// Objects of a CPU's array, that move at a time, and batches in a shared array.
    pub(crate) tunables: [u32; 3],
}

/// One slab with its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slab {
    /// Number of its letter: the same in all pictures of a lab.
    pub(crate) name: usize,
    /// What the heap tells.
    pub(crate) is: SlabPicture,
    /// All entries of its index.
    pub(crate) entries: Vec<u32>,
    /// Its free objects in the order in which they will be taken.
    pub(crate) order: Vec<u32>,
    /// The cache of the array that is its index, if it lies outside.
    pub(crate) index_cache: Option<String>,
}

/// What one CPU keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// Its node.
    pub(crate) node: usize,
    /// It allocated from its array since it was last reaped.
    pub(crate) touched: bool,
    /// Its array, the oldest first.
    pub(crate) array: Vec<usize>,
}

/// What one node keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// What the heap tells.
    pub(crate) is: NodePicture,
    /// The array its CPUs share, the oldest first.
    pub(crate) shared: Vec<usize>,
    /// Objects of other nodes on their way home, by node.
    pub(crate) aliens: Vec<(usize, Vec<usize>)>,
}

/// A snapshot. Slabs stand node by node, list by list, in the order of the lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    /// The cache.
    pub(crate) facts: Facts,
    /// Its slabs.
    pub(crate) slabs: Vec<Slab>,
    /// CPUs by number.
    pub(crate) cpus: Vec<Cpu>,
    /// Nodes by number.
    pub(crate) nodes: Vec<Node>,
}

/// Where an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum State {
    /// A user has it.
    InUse,
    /// In the array of this CPU.
    Array(usize),
    /// In the shared array of this node.
    Shared(usize),
    /// In an alien array of this node.
    Alien(usize),
    /// Free in its slab.
    Free,
    /// The same, and it holds the slab's index.
    Home,
}

impl Slab {
    /// Address of its first object.
    pub(crate) fn first(&self) -> usize {
        self.is.base + self.is.first
    }

    /// Its letter.
    pub(crate) fn label(&self) -> String {
        letters(self.name)
    }
}

impl Picture {
    /// Every object in an array, and its state.
    fn arrays(&self) -> impl Iterator<Item = (usize, State)> + '_ {
        let cpus = self.cpus.iter().enumerate();
        let cpus = cpus.flat_map(|(i, cpu)| cpu.array.iter().map(move |object| (*object, State::Array(i))));
        let nodes = self.nodes.iter().enumerate().flat_map(|(i, node)| {
            let shared = node.shared.iter().map(move |object| (*object, State::Shared(i)));
            let aliens = node.aliens.iter().flat_map(|(_, objects)| objects);
            shared.chain(aliens.map(move |object| (*object, State::Alien(i))))
        });
        cpus.chain(nodes)
    }

    /// The slab of an address and the number of the object there. `None`: not the start of an object.
    pub(crate) fn locate(&self, object: usize) -> Option<(usize, usize)> {
        let size = self.facts.size;
        let inside = |slab: &Slab| object >= slab.first() && object < slab.first() + slab.is.objects * size;
        let slab = self.slabs.iter().position(inside)?;
        let offset = object - self.slabs[slab].first();
        offset.is_multiple_of(size).then(|| (slab, offset / size))
    }

    /// The states of all objects, by slab and number.
    pub(crate) fn states(&self) -> Vec<Vec<State>> {
        let states = |slab: &Slab| {
            let mut states = vec![State::InUse; slab.is.objects];
            for number in &slab.order {
                if let Some(state) = states.get_mut(*number as usize) {
                    *state = State::Free;
                }
            }
            if let IndexHome::InObject(home) = slab.is.index
                && let Some(state) = states.get_mut(home)
            {
                *state = State::Home;
            }
            states
        };
        let mut states: Vec<Vec<State>> = self.slabs.iter().map(states).collect();
        for (object, state) in self.arrays() {
            if let Some((slab, number)) = self.locate(object) {
                states[slab][number] = state;
            }
        }
        states
    }

    /// Addresses of all objects that users have.
    #[cfg(test)]
    pub(crate) fn in_use(&self) -> Vec<usize> {
        let states = self.states();
        let of = |(slab, states): (&Slab, &Vec<State>)| {
            let used = states.iter().enumerate().filter(|(_, state)| **state == State::InUse);
            used.map(|(number, _)| slab.first() + number * self.facts.size).collect::<Vec<_>>()
        };
        self.slabs.iter().zip(&states).flat_map(of).collect()
    }

    /// Checks the invariants above.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut seen = HashMap::new();
        let free = self.slabs.iter().flat_map(|slab| {
            slab.order.iter().map(|n| (slab.first() + *n as usize * self.facts.size, State::Free))
        });
        for (object, state) in free.chain(self.arrays()) {
            if self.locate(object).is_none() {
                return Err(format!("{object:#x} ({state:?}) is no object of {}", self.facts.name));
            }
            if let Some(other) = seen.insert(object, state) {
                return Err(format!("{object:#x} is in two places: {other:?} and {state:?}"));
            }
        }
        for slab in &self.slabs {
            let (free, is) = (slab.order.len(), &slab.is);
            if free + is.active != is.objects {
                return Err(format!(
                    "slab {}: {free} free, {} out of {}",
                    slab.label(),
                    is.active,
                    is.objects
                ));
            }
            let list = match (is.active, free) {
                (0, _) => List::Free,
                (_, 0) => List::Full,
                _ => List::Partial,
            };
            if list != is.list {
                return Err(format!("slab {} is on list {:?}, not {list:?}", slab.label(), is.list));
            }
            if let IndexHome::InObject(home) = is.index
                && slab.order.last() != Some(&(home as u32))
            {
                return Err(format!(
                    "slab {}: its index is in {home}, which is not taken last",
                    slab.label()
                ));
            }
        }
        for (number, node) in self.nodes.iter().enumerate() {
            let here = self.slabs.iter().filter(|slab| slab.is.node == number);
            let free: usize = here.map(|slab| slab.order.len()).sum();
            if free as u64 != node.is.free_objects {
                return Err(format!("node {number}: {free} free objects, {} counted", node.is.free_objects));
            }
        }
        Ok(())
    }

    /// `A0`, `A1`, …, `B0`, …: a letter for the slab, a number for the object.
    pub(crate) fn label(&self, object: usize) -> String {
        match self.locate(object) {
            Some((slab, number)) => format!("{}{number}", self.slabs[slab].label()),
            None => format!("{object:#x}"),
        }
    }
}
