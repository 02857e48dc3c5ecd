//! What the kernel's unit tests of its sampling detector ask, case by case, with the whole text of each report. Where a
//! test runs for kmalloc and for a cache there, it does so here.

use kmem_core::cache::CacheArgs;
use kmem_core::config::Config;
use kmem_core::engine::Engine;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::guard::Access;
use kmem_core::kmalloc::FreeError;
use kmem_core::platform::PAGE_SIZE;

use crate::rig::{Bed, Side, for_each_engine};
use crate::support::{bytes, is_zero};

const HERE: [&str; 1] = ["test+0x60/0x90"];
const FREEING: [&str; 2] = ["test_free+0x2c/0xfd", "test+0x4e/0x90"];

for_each_engine! {
    out_of_bounds_read
    out_of_bounds_write
    use_after_free_read
    use_after_free_write
    double_free
    invalid_addr_free
    corruption
    free_bulk
    init_on_free_and_zero
    aligned_oob_read
    aligned_oob_write
    shrink_memcache
    memcache_ctor
    invalid_access
    gfpzero
    memcache_typesafe_by_rcu
    krealloc
    memcache_alloc_bulk
    sound_programs_are_silent
}

fn out_of_bounds<C: Config>(access: Access) {
    for bed in Bed::<C>::both(32) {
        for (side, at, place) in [(Side::Left, -1_isize, "1B left"), (Side::Right, 32, "32B right")] {
            let object = bed.alloc_at(side);
            bed.said();
            let byte = object.wrapping_offset(at);
            assert!(bed.touch(byte, access));
            let verb = access.verb();
            let line = format!("Out-of-bounds {verb} at {:#018x} ({place} of guard-#N):", byte.addr());
            // The first report of a heap finds it untainted.
            let mut expected = bed.report(&format!("out-of-bounds {verb}"), &line, &HERE, object, false);
            let said = bed.said();
            if side == Side::Right {
                let last = expected.len() - 2;
                expected[last] = expected[last].replace("Not tainted", "Tainted: G    B             ");
            }
            assert_eq!(said, expected);
            assert!(!bed.touch(byte, Access::Read), "the program goes on with the page open");
            assert_eq!(bed.free(object), Ok(()));
            assert!(bed.rig.machine.is_forbidden(byte.addr()), "closed again when the object is freed");
            assert_eq!(bed.said(), Vec::<String>::new());
        }
    }
}

fn out_of_bounds_read<C: Config>() {
    out_of_bounds::<C>(Access::Read);
}

fn out_of_bounds_write<C: Config>() {
    out_of_bounds::<C>(Access::Write);
}

fn use_after_free<C: Config>(access: Access) {
    for bed in Bed::<C>::both(32) {
        let object = bed.alloc();
        assert_eq!(bed.free(object), Ok(()));
        let byte = object.wrapping_add(5);
        assert!(bed.touch(byte, access));
        let verb = access.verb();
        let line = format!("Use-after-free {verb} at {:#018x} (in guard-#N):", byte.addr());
        assert_eq!(bed.said(), bed.report(&format!("use-after-free {verb}"), &line, &HERE, object, true));
        assert!(!bed.touch(byte, access));
    }
}

fn use_after_free_read<C: Config>() {
    use_after_free::<C>(Access::Read);
}

fn use_after_free_write<C: Config>() {
    use_after_free::<C>(Access::Write);
}

fn double_free<C: Config>() {
    for bed in Bed::<C>::both(32) {
        let object = bed.alloc();
        assert_eq!(bed.free(object), Ok(()));
        let address = object.addr();
        assert_eq!(bed.free(object), Err(FreeError::Double { address, cache: C::Engine::NAME }));
        let line = format!("Invalid free of {address:#018x} (in guard-#N):");
        assert_eq!(bed.said(), bed.report("invalid free", &line, &FREEING, object, true));
        let stats = bed.rig.heap.guard().stats();
        assert_eq!((stats.live, stats.freed, stats.bugs), (0, 1, 1), "it was freed once");
    }
}

fn invalid_addr_free<C: Config>() {
    for bed in Bed::<C>::both(32) {
        let object = bed.alloc();
        let inside = object.wrapping_add(1);
        let address = inside.addr();
        assert_eq!(bed.free(inside), Err(FreeError::Interior { address, cache: C::Engine::NAME }));
        let line = format!("Invalid free of {address:#018x} (in guard-#N):");
        assert_eq!(bed.said(), bed.report("invalid free", &line, &FREEING, object, false));
        assert_eq!(bed.free(object), Ok(()), "the object itself is as it was");
        assert_eq!(bed.said(), Vec::<String>::new());
    }
}

fn corruption<C: Config>() {
    for bed in Bed::<C>::both(32) {
        for (side, at) in [(Side::Left, 32_isize), (Side::Right, -1)] {
            let object = bed.alloc_at(side);
            let before = bed.rig.heap.guard().stats();
            let byte = object.wrapping_offset(at);
            // SAFETY: the byte lies in the object's own page.
            unsafe { byte.write(0) };
            bed.said();
            assert_eq!(bed.free(object), Ok(()), "it is freed all the same");
            let shown = if side == Side::Left { "0x00 . . . . . . . . . . . . . . ." } else { "0x00" };
            let line = format!("Corrupted memory at {:#018x} [ {shown} ] (in guard-#N):", byte.addr());
            let mut expected = bed.report("memory corruption", &line, &FREEING, object, false);
            if before.bugs > 0 {
                let last = expected.len() - 2;
                expected[last] = expected[last].replace("Not tainted", "Tainted: G    B             ");
            }
            assert_eq!(bed.said(), expected);
            let after = bed.rig.heap.guard().stats();
            assert_eq!((after.bugs, after.freed), (before.bugs + 1, before.freed + 1));
        }
    }
}

/// Guarded objects and others go back together.
fn free_bulk<C: Config>() {
    for bed in Bed::<C>::both(48) {
        let guarded = bed.alloc();
        bed.rig.heap.set_guard_interval(0);
        let plain = match bed.cache {
            Some(cache) => bed.rig.take(cache, 3),
            None => (0..3).map(|_| bed.rig.kmalloc(48)).collect(),
        };
        let mut all = vec![plain[0], guarded, plain[1], plain[2]];
        // SAFETY: each object is there once, and held by this test.
        assert_eq!(unsafe { bed.rig.heap.free_bulk(bed.cache, &mut all) }, Ok(()));
        assert!(bed.rig.machine.is_forbidden(guarded.addr()));
        assert_eq!(bed.rig.heap.guard().stats().live, 0);
        bed.assert_silent();
    }
}

/// What a freed object held is not handed out again where zeroes were asked for.
fn init_on_free_and_zero<C: Config>() {
    for bed in Bed::<C>::both(64) {
        for _ in 0..300 {
            let object = bed.alloc_with(Gfp::KERNEL | Gfp::ZERO);
            assert!(is_zero(object, 64));
            // SAFETY: the test's object.
            unsafe { object.write_bytes(0x77, 64) };
            assert_eq!(bed.free(object), Ok(()));
        }
        bed.assert_silent();
    }
}

/// An object that alignment keeps from the page's end: what lies between is no protected page, but the byte behind it is watched.
fn aligned_oob_read<C: Config>() {
    let bed = Bed::<C>::kmalloc(73);
    let object = bed.alloc_at(Side::Right);
    let gap = PAGE_SIZE - (object.addr() % PAGE_SIZE + 73);
    assert!(gap > 0 && gap < 16, "{gap} bytes for the sake of alignment");
    assert!(!bed.touch(object.wrapping_add(73), Access::Read), "nobody sees that");
    let byte = object.wrapping_add(73 + gap);
    assert!(bed.touch(byte, Access::Read));
    let line = format!("Out-of-bounds read at {:#018x} ({}B right of guard-#N):", byte.addr(), 73 + gap);
    assert_eq!(bed.said(), bed.report("out-of-bounds read", &line, &HERE, object, false));
}

fn aligned_oob_write<C: Config>() {
    let bed = Bed::<C>::kmalloc(73);
    let object = bed.alloc_at(Side::Right);
    let byte = object.wrapping_add(73);
    assert!(!bed.touch(byte, Access::Write), "not yet");
    assert_eq!(bed.free(object), Ok(()));
    let said = bed.said();
    assert_eq!(said[1], format!("BUG: kmem: memory corruption in {}", FREEING[0]));
    assert!(said[3].starts_with(&format!("Corrupted memory at {:#018x} [ 0x", byte.addr())), "{}", said[3]);
}

/// A cache gives back what it keeps while some of its objects are guarded, and dies with them.
fn shrink_memcache<C: Config>() {
    let bed = Bed::<C>::cache(32);
    let Some(cache) = bed.cache else { return };
    let object = bed.alloc();
    bed.rig.shrink(cache);
    assert_eq!(bed.free(object), Ok(()));
    bed.rig.shrink(cache);
    bed.assert_silent();
}

extern "C" fn construct(object: *mut u8) {
    // SAFETY: an object of this test's cache, of 48 bytes.
    unsafe { object.write_bytes(0x5c, 48) };
}

fn memcache_ctor<C: Config>() {
    let bed = Bed::<C>::cache_with(48, CacheArgs { ctor: Some(construct), ..CacheArgs::default() });
    for gfp in [Gfp::KERNEL, Gfp::KERNEL | Gfp::ZERO] {
        for _ in 0..8 {
            let object = bed.alloc_with(gfp);
            assert!(bytes(object, 48).iter().all(|&byte| byte == 0x5c));
            assert_eq!(bed.free(object), Ok(()));
        }
    }
    bed.assert_silent();
}

/// An address of the pool beside which there is nothing.
fn invalid_access<C: Config>() {
    let bed = Bed::<C>::kmalloc(32);
    let object = bed.alloc();
    assert_eq!(bed.free(object), Ok(()));
    let edge = object.wrapping_sub(object.addr() % PAGE_SIZE).wrapping_sub(9);
    assert!(bed.touch(edge, Access::Read));
    let said = bed.said();
    assert_eq!(said[1], format!("BUG: kmem: invalid read in {}", HERE[0]));
    assert_eq!(said[3], format!("Invalid read at {:#018x}:", edge.addr()));
    assert_eq!(said.len(), 8, "no object: {said:?}");
    assert!(!bed.rig.heap.report_fault(0x1000, Access::Read, &[]), "not the guard's");
    assert_eq!(bed.said(), Vec::<String>::new());
}

/// Cleared is what was asked for, and not a byte more: the rest is watched.
fn gfpzero<C: Config>() {
    for bed in Bed::<C>::both(100) {
        for _ in 0..20 {
            let object = bed.alloc_with(Gfp::KERNEL | Gfp::ZERO);
            assert!(is_zero(object, 100));
            assert_eq!(bed.free(object), Ok(()));
        }
        bed.assert_silent();
    }
}

/// Objects that may be read after their free are not guarded.
fn memcache_typesafe_by_rcu<C: Config>() {
    let flags = Some(SlabFlags::TYPESAFE_BY_RCU);
    let bed = Bed::<C>::cache_with(32, CacheArgs { flags, ..CacheArgs::default() });
    let Some(cache) = bed.cache else { return };
    let objects = bed.rig.take(cache, 100);
    assert!(objects.iter().all(|object| !bed.rig.heap.guard().holds(object.addr())));
    assert!(bed.rig.heap.guard().stats().unsuitable > 0);
    bed.rig.give(cache, objects);
    bed.assert_silent();
}

fn krealloc<C: Config>() {
    let bed = Bed::<C>::kmalloc(32);
    let object = bed.alloc();
    assert_eq!(bed.rig.ksize(object), 32, "what was asked for, not what a class has");
    for (i, place) in (0..32).map(|i| (i as u8, object.wrapping_add(i))) {
        // SAFETY: the test's object.
        unsafe { place.write(i) };
    }
    let same = |block: *mut u8, len: usize| bytes(block, len).iter().enumerate().all(|(i, &b)| b == i as u8);
    let grown = bed.rig.krealloc(object, 64, Gfp::KERNEL).expect("a good block");
    assert!(grown != object && same(grown, 32), "it moved");
    assert!(bed.rig.machine.is_forbidden(object.addr()), "the old one was freed");
    let shrunk = bed.rig.krealloc(grown, 16, Gfp::KERNEL).expect("a good block");
    assert!(same(shrunk, 16));
    assert_eq!(bed.rig.krealloc(shrunk, 0, Gfp::KERNEL), Ok(kmem_core::kmalloc::ZERO_SIZE_PTR));
    bed.assert_silent();
    assert!(bed.touch(object, Access::Write), "a use after a move is a use after free");
    assert_eq!(bed.said()[1], format!("BUG: kmem: use-after-free write in {}", HERE[0]));
}

/// Objects of one call are freed one by one.
fn memcache_alloc_bulk<C: Config>() {
    let bed = Bed::<C>::cache(32);
    let Some(cache) = bed.cache else { return };
    let mut objects = [core::ptr::null_mut(); 20];
    // SAFETY: the cache is alive.
    assert!(unsafe { bed.rig.heap.alloc_bulk(cache, Gfp::KERNEL, &mut objects) });
    bed.rig.give(cache, objects.to_vec());
    bed.assert_silent();
}

/// The nearest legal programs: every byte is written and read, objects come and go, more than the pool has.
fn sound_programs_are_silent<C: Config>() {
    for size in [1, 8, 24, 32, 73, 1000, 4095, 4096, 5000] {
        for bed in Bed::<C>::both(size) {
            let guard = bed.rig.heap.guard();
            let mut held = Vec::new();
            for round in 0..300 {
                let object = match bed.cache {
                    Some(cache) => bed.rig.alloc(cache, Gfp::KERNEL),
                    None => bed.rig.kmalloc(size),
                };
                assert!(!bed.rig.machine.is_forbidden(object.addr()));
                assert!(!bed.rig.machine.is_forbidden(object.addr() + size - 1));
                // SAFETY: the test's object.
                unsafe { object.write_bytes(round as u8, size) };
                held.push(object);
                if round % 3 == 2 {
                    assert_eq!(bed.free(held.remove(0)), Ok(()));
                }
            }
            // With a header in front, blocks of nearly a page take pages of their own.
            let fits = size + if bed.cache.is_some() { 0 } else { C::Engine::KMALLOC_HEADER } <= PAGE_SIZE;
            assert_eq!(guard.stats().placed > 0, fits, "{size}");
            for object in held {
                assert_eq!(bed.free(object), Ok(()));
            }
            let stats = guard.stats();
            assert_eq!((stats.live, stats.freed), (0, stats.placed));
            bed.assert_silent();
        }
    }
}
