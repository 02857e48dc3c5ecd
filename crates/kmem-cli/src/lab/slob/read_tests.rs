//! Pictures of a live heap.

use std::collections::BTreeSet;

use kmem_core::engine::slob::Where;
use kmem_core::flags::SlabFlags;
use kmem_core::{KernelConfig, UserConfig};

use super::*;
use crate::lab::heap::Wish;

type Kernel = KernelConfig<Slob>;

fn bench<C: Slobs>(size: usize, flags: SlabFlags) -> Heap<C> {
    let mut heap = Heap::new(2, 1).expect("enough memory");
    heap.create(&Wish { name: "mycache", size, align: 8, flags: flags | SlabFlags::NO_MERGE }).unwrap();
    heap
}

fn check<C: Slobs>(heap: &Heap<C>) -> Picture {
    let picture = picture(heap);
    picture.check().unwrap();
    let drawn: BTreeSet<usize> = picture
        .pages
        .iter()
        .flat_map(|page| {
            page.runs.iter().filter(|run| run.what == What::Object).map(|run| page.is.base + run.offset)
        })
        .collect();
    assert_eq!(&drawn, heap.live());
    picture
}

#[test]
fn objects_share_pages_with_everybody() {
    for (flags, distance) in [(SlabFlags::empty(), 24), (SlabFlags::HWCACHE_ALIGN, 32)] {
        let mut heap = bench::<Kernel>(20, flags);
        let objects: Vec<usize> = (0..20).map(|_| heap.alloc(0).unwrap()).collect();
        // Those behind whatever was there before lie side by side.
        let tail = &objects[10..];
        assert!(tail.windows(2).all(|pair| pair[1] - pair[0] == distance), "{tail:x?}");
        let picture = check(&heap);
        let (page, _) = picture.locate(objects[0]).unwrap();
        assert!(page.runs.iter().any(|run| run.what == What::Other), "the heap's own descriptors");
        assert_eq!(page.is.place, Where::Ring(0));
    }
}

#[test]
fn a_block_of_kmalloc_has_its_size_in_front() {
    let mut heap = bench::<Kernel>(20, SlabFlags::empty());
    for (size, ring) in [(20, 0), (64, 0), (300, 1), (1500, 2)] {
        let block = heap.kmalloc(0, size).unwrap();
        let bytes = heap.look_block(block, HEADER);
        assert_eq!(u16::from_ne_bytes([bytes[0], bytes[1]]), size as u16);
        let picture = check(&heap);
        let (page, offset) = picture.locate(block).unwrap();
        assert_eq!(page.is.place, Where::Ring(ring));
        let run = page.runs.iter().find(|run| run.offset == offset - HEADER).unwrap();
        assert_eq!((run.bytes, run.what), (size + HEADER, What::Block(size)));
    }
}

#[test]
fn a_freed_block_is_joined_with_both_neighbours() {
    let mut heap = bench::<Kernel>(24, SlabFlags::empty());
    let objects: Vec<usize> = (0..40).map(|_| heap.alloc(0).unwrap()).collect();
    let (a, b, c) = (objects[30], objects[31], objects[32]);
    assert_eq!((b - a, c - b), (24, 24));
    let hole = |heap: &Heap<Kernel>, object: usize| {
        let picture = check(heap);
        let (page, offset) = picture.locate(object).unwrap();
        page.holes().find(|run| (run.offset..run.offset + run.bytes).contains(&offset)).copied()
    };
    heap.free(0, a);
    heap.free(0, c);
    assert_eq!(hole(&heap, a).unwrap().bytes, 24);
    assert_eq!(hole(&heap, c).unwrap().bytes, 24);
    assert_eq!(hole(&heap, b), None);
    heap.free(0, b);
    assert_eq!(hole(&heap, b).unwrap().bytes, 72);
    assert_eq!(hole(&heap, a), hole(&heap, c));
}

#[test]
fn a_page_goes_back_with_its_last_block() {
    let mut heap = bench::<Kernel>(2000, SlabFlags::empty());
    let before = check(&heap).pages.len();
    let objects: Vec<usize> = (0..6).map(|_| heap.alloc(0).unwrap()).collect();
    assert_eq!(check(&heap).pages.len(), before + 3);
    for object in objects {
        heap.free(0, object);
    }
    assert_eq!(check(&heap).pages.len(), before);
}

#[test]
fn objects_of_a_page_and_more_have_pages_of_their_own() {
    let mut heap = bench::<Kernel>(5000, SlabFlags::empty());
    let object = heap.alloc(0).unwrap();
    let picture = check(&heap);
    assert_eq!(picture.locate(object).unwrap().0.is.place, Where::Whole(2));
}

#[test]
fn pictures_of_a_busy_heap_are_sound() {
    fn run<C: Slobs>() {
        let mut heap = bench::<C>(40, SlabFlags::empty());
        let mut objects = Vec::new();
        let mut blocks = Vec::new();
        for round in 0..500 {
            objects.push(heap.alloc(round % 2).unwrap());
            blocks.push(heap.kmalloc(0, 1 + round * 7 % 900).unwrap());
            if round % 3 == 0 {
                let object = objects.swap_remove(round * 5 % objects.len());
                heap.free(0, object);
                let block = blocks.swap_remove(round * 11 % blocks.len());
                heap.kfree(1, block);
            }
            if round % 41 == 0 {
                check(&heap);
            }
        }
        for block in blocks {
            heap.kfree(0, block);
        }
        for object in objects {
            heap.free(0, object);
        }
        check(&heap);
        assert_eq!(heap.destroy(), Ok(true));
        assert_eq!(heap.machine().take_console(), "");
    }
    run::<Kernel>();
    run::<UserConfig<Slob>>();
}
