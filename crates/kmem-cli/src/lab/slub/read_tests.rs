//! The bench against the facts of the classic lab, on a live heap.

use super::*;
use std::collections::BTreeSet;

use kmem_core::cache::DestroyError;
use kmem_core::flags::SlabFlags;
use kmem_core::{KernelConfig, UserConfig};

use crate::lab::heap::Wish;
use crate::lab::slub::picture::State;

fn bench<C: Slubs>(cpus: usize, nodes: usize, flags: SlabFlags) -> Heap<C> {
    let mut heap = Heap::new(cpus, nodes).expect("enough memory");
    heap.create(&Wish { name: "mycache", size: 20, align: 8, flags: flags | SlabFlags::NO_MERGE }).unwrap();
    heap
}

#[test]
fn geometry_of_the_classic_lab() {
    for (flags, size, objects) in [(SlabFlags::empty(), 24, 170), (SlabFlags::HWCACHE_ALIGN, 32, 128)] {
        let facts = facts(&bench::<KernelConfig>(4, 1, flags));
        assert_eq!((facts.object_size, facts.size, facts.objects, facts.pages), (20, size, objects, 1));
        assert_eq!(facts.name, "mycache");
    }
}

#[test]
fn objects_come_in_ascending_order_and_the_picture_knows_them() {
    let mut heap = bench::<KernelConfig>(2, 1, SlabFlags::empty());
    assert_eq!(picture(&heap).slabs, []);
    let objects: Vec<usize> = (0..10).map(|_| heap.alloc(0).unwrap()).collect();
    let picture = picture(&heap);
    picture.check().unwrap();
    assert_eq!(picture.slabs.len(), 1);
    for (number, object) in objects.iter().enumerate() {
        assert_eq!(*object, picture.slabs[0].base + number * 24, "0, 24, 48, …");
        assert_eq!(picture.states()[0][number], State::InUse);
    }
    let used = picture.states()[0].iter().filter(|state| **state == State::InUse).count();
    assert_eq!(used, 10, "and no others");
}

#[test]
fn every_object_is_accounted_for_at_each_step() {
    fn run<C: Slubs>(nodes: usize) {
        let mut heap = bench::<C>(4, nodes, SlabFlags::empty());
        let mut taken = 0;
        let check = |heap: &Heap<C>, expected: usize| {
            let picture = picture(heap);
            picture.check().unwrap();
            let states = picture.states();
            let used: Vec<usize> = states
                .iter()
                .zip(&picture.slabs)
                .flat_map(|(states, slab)| {
                    let used = states.iter().enumerate().filter(|(_, state)| **state == State::InUse);
                    used.map(|(number, _)| slab.base + number * picture.facts.size).collect::<Vec<_>>()
                })
                .collect();
            let live: BTreeSet<usize> = used.iter().copied().collect();
            assert_eq!(used.len(), expected);
            assert_eq!(&live, heap.live(), "the picture's users are the student's objects");
        };
        for round in 0..400 {
            heap.alloc(round % 4).unwrap();
            taken += 1;
            if round % 37 == 0 {
                check(&heap, taken);
            }
        }
        let all: Vec<usize> = heap.live().iter().copied().collect();
        for (number, object) in all.into_iter().enumerate() {
            // Every third is freed on another CPU than most.
            heap.free(if number % 3 == 0 { 3 } else { number % 2 }, object);
            taken -= 1;
            if number % 37 == 0 {
                check(&heap, taken);
            }
        }
        check(&heap, 0);
        assert!(!heap.shrink(), "an unused cache has no slab left");
        assert_eq!(picture(&heap).slabs, []);
        assert_eq!(heap.destroy(), Ok(true));
        assert_eq!(heap.machine().take_console(), "");
    }
    run::<KernelConfig>(1);
    run::<KernelConfig>(2);
    run::<UserConfig>(1);
    run::<UserConfig>(2);
}

#[test]
fn the_object_freed_last_is_handed_out_first() {
    let mut heap = bench::<KernelConfig>(1, 1, SlabFlags::empty());
    let objects: Vec<usize> = (0..5).map(|_| heap.alloc(0).unwrap()).collect();
    heap.free(0, objects[1]);
    heap.free(0, objects[3]);
    let picture = picture(&heap);
    assert_eq!(picture.cpus[0].stack[..2], [objects[3], objects[1]]);
    assert_eq!(heap.alloc(0), Some(objects[3]));
    assert_eq!(heap.alloc(0), Some(objects[1]));
}

#[test]
fn a_free_pointer_leads_to_the_next_object_of_the_list() {
    let mut heap = bench::<KernelConfig>(1, 1, SlabFlags::empty());
    let objects: Vec<usize> = (0..6).map(|_| heap.alloc(0).unwrap()).collect();
    for object in &objects[..5] {
        heap.free(0, *object);
    }
    assert!(heap.shrink(), "one object is in use");
    let picture = picture(&heap);
    let list = &picture.slabs[0].list;
    assert_eq!(picture.slabs[0].place, Place::NodePartial(0));
    assert!(list.len() >= 5);
    for pair in list.windows(2) {
        let bytes = look(&heap, pair[0]);
        let at = picture.facts.free_pointer;
        assert_eq!(usize::from_ne_bytes(bytes[at..at + 8].try_into().unwrap()), pair[1]);
    }
}

#[test]
fn bytes_written_are_read_back() {
    let mut heap = bench::<KernelConfig>(1, 1, SlabFlags::empty());
    let object = heap.alloc(0).unwrap();
    heap.write(object, b"twenty bytes, no mor");
    assert_eq!(&look(&heap, object)[..20], b"twenty bytes, no mor");
}

#[test]
fn objects_left_behind_are_reported() {
    let mut heap = bench::<KernelConfig>(1, 1, SlabFlags::empty());
    heap.alloc(0).unwrap();
    assert_eq!(heap.destroy(), Err(DestroyError::ObjectsRemain(1)));
    assert!(heap.machine().take_console().contains("mycache"));
}

#[test]
fn a_cache_that_may_merge_becomes_an_alias() {
    let mut heap: Heap<KernelConfig> = Heap::new(2, 1).unwrap();
    let wish = |name, size| Wish { name, size, align: 8, flags: SlabFlags::empty() };
    heap.create_elder(&wish("elder", 24)).unwrap();
    heap.create(&wish("mycache", 20)).unwrap();
    assert_eq!(facts(&heap).name, "elder");
    assert_eq!(heap.destroy(), Ok(false), "the elder still uses it");
}
