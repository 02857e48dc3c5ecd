//! A snapshot of one cache: where each of its objects is. Plain data, so that drawing needs no heap.
//!
//! # Invariants
//! - I-PIC-1: an object is in one state: the lists of a picture name each object at most once
//!   ([`Picture::check`] says where they do not).

use std::collections::HashMap;

use crate::lab::draw::letters;

/// Facts of the cache that do not change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Name.
    pub(crate) name: String,
    /// Bytes a user may touch.
    pub(crate) object_size: usize,
    /// Bytes from one object to the next.
    pub(crate) size: usize,
    /// Alignment.
    pub(crate) align: usize,
    /// Offset of the free pointer in a free object.
    pub(crate) free_pointer: usize,
    /// Objects in a slab.
    pub(crate) objects: usize,
    /// Pages in a slab.
    pub(crate) pages: usize,
    /// Objects that a CPU's stack can hold; 0: there are no stacks.
    pub(crate) stack_capacity: usize,
}

/// Who has a slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is the slab that this CPU allocates from.
    Cpu(usize),
    /// It waits in this CPU's chain.
    CpuPartial(usize),
    /// It is on this node's list.
    NodePartial(usize),
    /// Nothing in it is free: it is on no list.
    Full,
}

/// One slab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slab {
    /// Number of its letter: the same in all pictures of a lab.
    pub(crate) name: usize,
    /// Address of its first object.
    pub(crate) base: usize,
    /// Its node.
    pub(crate) node: usize,
    /// Objects it holds.
    pub(crate) objects: usize,
    /// Who has it.
    pub(crate) place: Place,
    /// Its own list of free objects, the first first: addresses.
    pub(crate) list: Vec<usize>,
    /// Objects that were never handed out: addresses.
    pub(crate) fresh: Vec<usize>,
}

/// What one CPU keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// Its node.
    pub(crate) node: usize,
    /// Free objects on its stack, the top first: addresses.
    pub(crate) stack: Vec<usize>,
    /// Free objects of its slab that hang on its transaction word, the first first: addresses.
    pub(crate) list: Vec<usize>,
}

/// What one node keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// Free objects in its barn, in no order: addresses.
    pub(crate) barn: Vec<usize>,
}

/// A snapshot. Slabs of one list stand in the order of that list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// A user has it.
    InUse,
    /// On the stack of this CPU.
    Stack(usize),
    /// On the list of this CPU's slab.
    CpuList(usize),
    /// On its slab's own list.
    SlabList,
    /// In the barn of this node.
    Barn(usize),
    /// Never handed out.
    Fresh,
}

impl Picture {
    /// Every free object and its state.
    fn free(&self) -> impl Iterator<Item = (usize, State)> + '_ {
        let cpus = self.cpus.iter().enumerate().flat_map(|(number, cpu)| {
            let stack = cpu.stack.iter().map(move |object| (*object, State::Stack(number)));
            stack.chain(cpu.list.iter().map(move |object| (*object, State::CpuList(number))))
        });
        let slabs = self.slabs.iter().flat_map(|slab| {
            let list = slab.list.iter().map(|object| (*object, State::SlabList));
            list.chain(slab.fresh.iter().map(|object| (*object, State::Fresh)))
        });
        let nodes =
            self.nodes.iter().enumerate().flat_map(|(number, node)| {
                node.barn.iter().map(move |object| (*object, State::Barn(number)))
            });
        cpus.chain(slabs).chain(nodes)
    }

    /// The slab of an address and the number of the object there. `None`: not the start of an object.
    pub(crate) fn locate(&self, object: usize) -> Option<(usize, usize)> {
        let size = self.facts.size;
        let inside = |slab: &&Slab| object >= slab.base && object < slab.base + slab.objects * size;
        let slab = self.slabs.iter().position(|slab| inside(&slab))?;
        let offset = object - self.slabs[slab].base;
        offset.is_multiple_of(size).then(|| (slab, offset / size))
    }

    /// The states of all objects, by slab and number.
    pub(crate) fn states(&self) -> Vec<Vec<State>> {
        let mut states: Vec<Vec<State>> =
            self.slabs.iter().map(|slab| vec![State::InUse; slab.objects]).collect();
        for (object, state) in self.free() {
            if let Some((slab, number)) = self.locate(object) {
                states[slab][number] = state;
            }
        }
        states
    }

    /// Checks I-PIC-1.
    ///
    /// # Errors
    /// The first object that is in two places, or in none of the slabs.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut seen = HashMap::new();
        for (object, state) in self.free() {
            if self.locate(object).is_none() {
                return Err(format!("{object:#x} ({state:?}) is no object of {}", self.facts.name));
            }
            if let Some(other) = seen.insert(object, state) {
                return Err(format!("{object:#x} is in two places: {other:?} and {state:?}"));
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

impl Slab {
    /// Its letter.
    pub(crate) fn label(&self) -> String {
        letters(self.name)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two slabs of eight 24-byte objects on one node, two CPUs.
    pub(crate) fn sample() -> Picture {
        let (a, b) = (0x1000, 0x2000);
        let at = |base: usize, numbers: &[usize]| numbers.iter().map(|n| base + n * 24).collect::<Vec<_>>();
        Picture {
            facts: Facts {
                name: "mycache".into(),
                object_size: 20,
                size: 24,
                align: 8,
                free_pointer: 8,
                objects: 8,
                pages: 1,
                stack_capacity: 60,
            },
            slabs: vec![
                Slab {
                    name: 0,
                    base: a,
                    node: 0,
                    objects: 8,
                    place: Place::Cpu(0),
                    list: vec![],
                    fresh: at(a, &[7]),
                },
                Slab {
                    name: 1,
                    base: b,
                    node: 0,
                    objects: 8,
                    place: Place::NodePartial(0),
                    list: at(b, &[5, 1]),
                    fresh: vec![],
                },
            ],
            cpus: vec![
                Cpu { node: 0, stack: at(a, &[2, 3]), list: at(a, &[6]) },
                Cpu { node: 0, stack: at(b, &[0]), list: vec![] },
            ],
            nodes: vec![Node { barn: at(b, &[6, 7]) }],
        }
    }

    #[test]
    fn each_object_has_its_state() {
        use State::*;
        let picture = sample();
        picture.check().unwrap();
        assert_eq!(
            picture.states(),
            [
                vec![InUse, InUse, Stack(0), Stack(0), InUse, InUse, CpuList(0), Fresh],
                vec![Stack(1), SlabList, InUse, InUse, InUse, SlabList, Barn(0), Barn(0)],
            ]
        );
    }

    #[test]
    fn two_places_and_no_place_are_noticed() {
        let mut twice = sample();
        twice.cpus[1].stack.push(0x1000 + 48);
        assert_eq!(twice.check().unwrap_err(), "0x1030 is in two places: Stack(0) and Stack(1)");
        for address in [0x1001, 0x1000 + 8 * 24, 0xfff] {
            let mut nowhere = sample();
            nowhere.slabs[0].list.push(address);
            assert!(nowhere.check().unwrap_err().contains("is no object of mycache"));
        }
    }

    #[test]
    fn labels() {
        let picture = sample();
        assert_eq!(picture.label(0x1000), "A0");
        assert_eq!(picture.label(0x2000 + 7 * 24), "B7");
        assert_eq!(picture.label(0x3000), "0x3000");
    }
}
