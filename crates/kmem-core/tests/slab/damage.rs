//! Frees that must not be, and indexes that were written to: said, and survived.

use kmem_core::gfp::Gfp;
use kmem_core::page::Kind;

use super::{Rig, check};

/// An object that went back to its slab is noticed when it comes a second time, wherever its index lies.
#[test]
fn a_second_free_in_the_slab_is_reported() {
    for (size, place) in [(20, "on the slab"), (64, "in an object"), (4096, "alone")] {
        let rig = Rig::new();
        let cache = rig.cache("c", size);
        let objects = rig.take(cache, 40);
        let twice = objects[7];
        assert_eq!(rig.free(cache, twice), Ok(()));
        rig.heap.for_each_cache(|_| {});
        assert!(rig.shrink(cache), "all of the arrays is in the slabs");
        if rig.kind_of(twice) != Some(Kind::Slab) {
            // A slab of one object is gone as a whole.
            assert!(rig.free(cache, twice).is_err(), "{place}");
            continue;
        }
        assert_eq!(rig.said(), "");
        let in_use = rig.in_use(cache);
        // The CPU cannot know; the slab does.
        assert_eq!(rig.free(cache, twice), Ok(()));
        rig.shrink(cache);
        let said = rig.said();
        assert!(said.contains("double free detected") && said.contains("BUG c"), "{place}: {said}");
        assert_eq!(rig.in_use(cache), in_use, "{place}");
        check(&rig, cache);
    }
}

/// What a program wrote over the index in a free object is no object; the slab's other free objects are lost.
#[test]
fn a_damaged_index_is_isolated() {
    let rig = Rig::new();
    let cache = rig.cache("c", 256);
    let objects = rig.take(cache, 160);
    let (base, _) = rig.slab_of(objects[40]);
    let slab: Vec<*mut u8> =
        objects.iter().copied().filter(|&object| rig.slab_of(object).0 == base).collect();
    assert_eq!(slab.len(), 16);
    let others: Vec<*mut u8> = objects.iter().copied().filter(|object| !slab.contains(object)).collect();
    // All but one come back; the first of them holds the index.
    for &object in &slab[1..] {
        assert_eq!(rig.free(cache, object), Ok(()));
    }
    rig.shrink(cache);
    let free_before = rig.counts(cache).free_partial;
    assert!(free_before >= 15);
    for &object in &slab[1..] {
        // SAFETY: a write after free, as a program with a bug does; the memory is the heap's.
        unsafe { object.write_bytes(0xee, 256) };
    }
    // SAFETY: the cache is alive.
    assert!(unsafe { rig.heap.validate_cache(cache) }.is_err());
    let mut more = Vec::new();
    for _ in 0..64 {
        more.push(rig.alloc(cache, Gfp::KERNEL));
    }
    let said = rig.said();
    assert!(said.contains("Marking all objects used"), "{said}");
    assert!(more.iter().all(|object| !slab[1..].contains(object)), "none of the damaged slab is handed out");
    check(&rig, cache);
    rig.give(cache, more);
    rig.give(cache, others);
}

/// An object of another cache, and an address between objects, at the engine's own door.
#[test]
fn strangers_are_turned_away() {
    let rig = Rig::new();
    let (one, two) = (rig.cache("one", 64), rig.cache("two", 96));
    let object = rig.alloc(one, Gfp::KERNEL);
    // To the wrong cache: said, and freed to its own.
    assert_eq!(rig.free(two, object), Ok(()));
    assert!(rig.said().contains("Wrong slab cache"));
    assert_eq!((rig.in_use(one), rig.in_use(two)), (0, 0));
    let object = rig.alloc(one, Gfp::KERNEL);
    assert!(rig.free(one, object.wrapping_add(8)).is_err());
    let tail = rig.slab_of(rig.alloc(two, Gfp::KERNEL));
    assert!(
        rig.free(two, std::ptr::without_provenance_mut(tail.0 + 4090)).is_err(),
        "behind the last object"
    );
}
