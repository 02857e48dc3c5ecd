//! Pictures against the facts of the classic lab, on a live heap.

use std::collections::BTreeSet;

use kmem_core::flags::SlabFlags;
use kmem_core::view::picture::slab::List;
use kmem_core::{KernelConfig, UserConfig};

use super::*;
use crate::lab::heap::Wish;
use crate::lab::slab::picture::State;

type Kernel = KernelConfig<Engine>;

fn bench<C: Slabs>(cpus: usize, nodes: usize, size: usize, flags: SlabFlags) -> Heap<C> {
    let mut heap = Heap::new(cpus, nodes).expect("enough memory");
    heap.create(&Wish { name: "mycache", size, align: 8, flags: flags | SlabFlags::NO_MERGE }).unwrap();
    heap
}

#[test]
fn the_classic_lab_as_measured() {
    for (flags, size, objects, first) in
        [(SlabFlags::empty(), 24, 163, 360), (SlabFlags::HWCACHE_ALIGN, 32, 124, 480)]
    {
        let mut heap = bench::<Kernel>(4, 1, 20, flags);
        let facts = facts(&heap);
        assert_eq!((facts.size, facts.objects, facts.pages), (size, objects, 1));
        assert_eq!(facts.tunables, [120, 60, 8]);
        assert_eq!(picture(&heap).slabs, []);
        // Descending inside the batch of 16.
        for i in 0..16 {
            let object = heap.alloc(0).unwrap();
            let slab = picture(&heap).slabs[0].clone();
            assert_eq!(object - slab.is.base, first - i * size);
            assert_eq!((slab.is.active, slab.is.list), (16, List::Partial));
            assert_eq!(slab.order[0], 16, "the next in the index");
        }
    }
}

#[test]
fn a_batch_has_sixteen_objects_until_the_array_was_used() {
    let mut heap = bench::<Kernel>(2, 1, 20, SlabFlags::empty());
    heap.alloc(0).unwrap();
    assert_eq!(picture(&heap).cpus[0].array.len(), 15);
    assert!(!picture(&heap).cpus[0].touched);
    for _ in 0..15 {
        heap.alloc(0).unwrap();
    }
    assert!(picture(&heap).cpus[0].touched);
    heap.alloc(0).unwrap();
    assert_eq!(picture(&heap).cpus[0].array.len(), 59);
}

#[test]
fn a_batch_leaves_a_full_array_for_the_shared_one() {
    let mut heap = bench::<Kernel>(2, 1, 20, SlabFlags::empty());
    let objects: Vec<usize> = (0..300).map(|_| heap.alloc(0).unwrap()).collect();
    for object in &objects {
        let before = picture(&heap);
        heap.free(0, *object);
        let after = picture(&heap);
        if after.cpus[0].array.len() < before.cpus[0].array.len() {
            assert_eq!((before.cpus[0].array.len(), after.cpus[0].array.len()), (120, 61));
            // The oldest leave, in their order; the object of this free comes last.
            let (oldest, rest) = before.cpus[0].array.split_at(60);
            assert_eq!(after.nodes[0].shared, oldest);
            let stay: Vec<usize> = rest.iter().copied().chain([*object]).collect();
            assert_eq!(after.cpus[0].array, stay);
            return;
        }
    }
    panic!("the array never ran full");
}

#[test]
fn every_object_is_accounted_for_at_each_step() {
    fn run<C: Slabs>(nodes: usize, size: usize) {
        let mut heap = bench::<C>(4, nodes, size, SlabFlags::empty());
        let check = |heap: &Heap<C>| {
            let picture = picture(heap);
            picture.check().unwrap();
            let used: BTreeSet<usize> = picture.in_use().into_iter().collect();
            assert_eq!(&used, heap.live(), "the picture's users are the student's objects");
        };
        for round in 0..300 {
            heap.alloc(round % 4).unwrap();
            if round % 37 == 0 {
                check(&heap);
            }
        }
        let all: Vec<usize> = heap.live().iter().copied().collect();
        for (number, object) in all.into_iter().enumerate() {
            heap.free(if number % 3 == 0 { 3 } else { number % 2 }, object);
            if number % 37 == 0 {
                check(&heap);
            }
        }
        check(&heap);
        heap.reap();
        check(&heap);
        assert!(!heap.shrink(), "an unused cache has no slab left");
        assert_eq!(picture(&heap).slabs, []);
        assert_eq!(heap.destroy(), Ok(true));
        assert_eq!(heap.machine().take_console(), "");
    }
    // Indexes on the slab, in a free object, none at all.
    for size in [20, 200, 5000] {
        run::<Kernel>(1, size);
        run::<Kernel>(2, size);
        run::<UserConfig<Engine>>(1, size);
        run::<UserConfig<Engine>>(2, size);
    }
}

#[test]
fn an_index_in_a_free_object_lies_in_the_one_that_is_taken_last() {
    let mut heap = bench::<Kernel>(1, 1, 1000, SlabFlags::empty());
    let objects: Vec<usize> = (0..5).map(|_| heap.alloc(0).unwrap()).collect();
    for object in objects {
        heap.free(0, object);
    }
    heap.alloc(0).unwrap();
    heap.shrink();
    let picture = picture(&heap);
    let slab = &picture.slabs[0];
    let IndexHome::InObject(home) = slab.is.index else { panic!("{:?}", slab.is.index) };
    assert_eq!(slab.order.last(), Some(&(home as u32)));
    assert_eq!(picture.states()[0][home], State::Home);
}

#[test]
fn slabs_begin_at_one_colour_after_the_other() {
    let mut heap = bench::<Kernel>(1, 1, 700, SlabFlags::HWCACHE_ALIGN);
    let facts = facts(&heap);
    assert!(facts.colours >= 4, "{facts:?}");
    while picture(&heap).slabs.len() < facts.colours + 1 {
        heap.alloc(0).unwrap();
    }
    let mut slabs = picture(&heap).slabs;
    slabs.sort_by_key(|slab| slab.name);
    for (number, slab) in slabs.iter().enumerate() {
        assert_eq!(slab.is.first, (number + 1) % facts.colours * facts.colour_step);
    }
}

#[test]
fn an_object_of_another_node_waits_there_to_go_home() {
    let mut heap = bench::<Kernel>(2, 2, 20, SlabFlags::empty());
    let object = heap.alloc(0).unwrap();
    heap.free(1, object);
    let picture = picture(&heap);
    assert_eq!(picture.nodes[1].aliens, [(0, vec![object])]);
    let (slab, number) = picture.locate(object).unwrap();
    assert_eq!(picture.states()[slab][number], State::Alien(1));
}

#[test]
fn a_damaged_picture_is_noticed() {
    let mut heap = bench::<Kernel>(1, 1, 20, SlabFlags::empty());
    let object = heap.alloc(0).unwrap();
    let good = picture(&heap);
    good.check().unwrap();
    let mut twice = good.clone();
    twice.nodes[0].shared.push(twice.cpus[0].array[3]);
    assert!(twice.check().unwrap_err().contains("in two places: Array(0) and Shared(0)"));
    let mut nowhere = good.clone();
    nowhere.cpus[0].array.push(object + 1);
    assert!(nowhere.check().unwrap_err().contains("is no object of mycache"));
    let mut fewer = good.clone();
    fewer.slabs[0].order.pop();
    assert_eq!(fewer.check().unwrap_err(), "slab A: 146 free, 16 out of 163");
    let mut counted = good.clone();
    counted.nodes[0].is.free_objects += 1;
    assert_eq!(counted.check().unwrap_err(), "node 0: 147 free objects, 148 counted");
    let mut listed = good;
    listed.slabs[0].is.list = List::Full;
    assert_eq!(listed.check().unwrap_err(), "slab A is on list Full, not Partial");
}
