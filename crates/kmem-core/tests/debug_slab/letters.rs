//! What each letter finds, what it leaves alone, and what is as before afterwards.

use kmem_core::cache::{CacheArgs, SwitchError};
use kmem_core::config::KernelConfig;
use kmem_core::debug::Which;
use kmem_core::engine::slab::Slab;
use kmem_core::flags::SlabFlags;
use kmem_sim::Machine;

use crate::rig::{Bad, F, P, Rig, U, Z, ZPU, poke};

/// Sizes with every way to keep an index: in an object, in the slab, outside, and one object a slab.
const SIZES: [usize; 9] = [1, 8, 13, 56, 64, 200, 1000, 4096, 9000];

#[test]
fn a_sound_program_hears_nothing_whatever_the_letters() {
    for letters in [F, Z, P, U, F | Z, Z | P, ZPU, F | ZPU] {
        for size in SIZES {
            let bad = Bad::lettered("sound", size, letters);
            bad.assert_sound();
            assert_eq!(bad.rig.destroy(bad.cache), Ok(true), "{letters:?} {size}");
            assert_eq!((bad.errors(), bad.rig.said().as_str()), (0, ""), "{letters:?} {size}");
        }
    }
}

#[test]
fn each_byte_around_an_object_is_guarded() {
    for size in SIZES {
        let bad = Bad::lettered("guarded", size, Z);
        let end = size.next_multiple_of(8) as isize;
        for at in (-8..0).chain(end..end + 8) {
            let object = bad.alloc();
            poke(object, at, 0x77);
            let before = bad.errors();
            bad.free(object);
            assert_eq!(bad.errors(), before + 1, "{size} {at}");
            let said = bad.rig.said();
            assert!(said.contains("cache `guarded': memory outside object was overwritten"), "{said}");
        }
        bad.assert_sound();
    }
}

#[test]
fn each_byte_of_a_free_object_is_watched() {
    let bad = Bad::lettered("watched", 40, P);
    let (object, other) = (bad.alloc(), bad.alloc());
    for at in 0..40 {
        bad.free(object);
        poke(object, at, 0x11);
        let before = bad.errors();
        assert_eq!(bad.alloc(), object);
        assert_eq!(bad.errors(), before + 1, "{at}");
        assert!(bad.rig.said().starts_with("Slab corruption ("));
    }
    // Written while in use: nobody's affair.
    poke(object, 0, 0x11);
    bad.free(object);
    bad.free(other);
    bad.assert_sound();
}

#[test]
fn a_flipped_bit_is_the_memorys_fault() {
    let bad = Bad::lettered("flipped", 40, P);
    let object = bad.alloc();
    bad.free(object);
    poke(object, 20, 0x6b ^ 0x10);
    assert_eq!(bad.alloc(), object);
    let said = bad.rig.said();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[1].starts_with("010: 6b 6b 6b 6b 7b 6b"), "{said}");
    assert_eq!(lines[2], "Single bit error detected. Probably bad RAM.");
    bad.free(object);
    poke(object, 20, 0x6b ^ 0x11);
    assert_eq!(bad.alloc(), object);
    assert!(!bad.rig.said().contains("bad RAM"));
}

#[test]
fn a_second_free_is_found_whatever_the_letters() {
    for letters in [F, Z, P, U, F | ZPU] {
        for size in SIZES {
            let bad = Bad::lettered("twice", size, letters);
            let objects: Vec<_> = (0..5).map(|_| bad.alloc()).collect();
            for &object in &objects[1..4] {
                bad.free(object);
            }
            // Slabs of one object may be gone by now: that is found before the cache is asked.
            let gone = bad.rig.free(bad.cache, objects[2]).is_err();
            let said = bad.rig.said();
            assert!(
                gone || said.contains("double free detected in cache 'twice'"),
                "{letters:?} {size}: {said}"
            );
            assert_eq!(bad.rig.in_use(bad.cache), 2);
            bad.free(objects[0]);
            bad.free(objects[4]);
            bad.assert_sound();
        }
    }
}

#[test]
fn validation_finds_and_mends() {
    let bad = Bad::new("validated");
    let (used, free, kept) = (bad.alloc(), bad.alloc(), bad.alloc());
    bad.free(free);
    assert_eq!(bad.validate().errors, 0);
    poke(used, 56, 1);
    assert_eq!((bad.validate().errors, bad.validate().errors), (1, 0));
    poke(free, -3, 1);
    assert_eq!((bad.validate().errors, bad.validate().errors), (1, 0));
    poke(free, 30, 1);
    assert_eq!((bad.validate().errors, bad.validate().errors), (1, 0));
    let said = bad.rig.said();
    assert!(said.contains("start of a freed object was overwritten"), "{said}");
    assert!(said.contains("Allocated in sl_alloc_site+0xa/0xff9 [sl_bad] age="), "{said}");
    assert!(said.contains("Freed in sl_free_site+0x5/0x6 [sl_bad] age="), "{said}");
    bad.free(used);
    bad.free(kept);
    bad.assert_sound();
}

#[test]
fn a_slab_that_goes_is_looked_at_a_last_time() {
    let bad = Bad::new("going");
    let object = bad.alloc();
    bad.free(object);
    poke(object, 5, 9);
    assert_eq!(bad.rig.destroy(bad.cache), Ok(true));
    assert_eq!(bad.errors(), 1);
    assert!(bad.rig.said().starts_with("Slab corruption ("));
}

unsafe extern "C" fn construct(object: *mut u8) {
    // SAFETY: objects of 24 bytes.
    unsafe { object.write_bytes(0xc7, 24) };
}

#[test]
fn constructed_objects_are_poisoned_and_made_anew() {
    for letters in [Z, Z | P, ZPU | F] {
        let args = CacheArgs { flags: Some(letters), ctor: Some(construct), ..CacheArgs::default() };
        let bad = Bad::with("made", args, 24);
        for _ in 0..3 {
            let object = bad.alloc();
            // SAFETY: an object of 24 bytes.
            assert_eq!(unsafe { std::slice::from_raw_parts(object, 24) }, [0xc7; 24], "{letters:?}");
            bad.free(object);
        }
        assert_eq!((bad.errors(), bad.validate().errors), (0, 0));
    }
}

#[test]
fn readers_of_freed_objects_find_them_as_they_were() {
    let bad = Bad::lettered("rcu", 64, SlabFlags::TYPESAFE_BY_RCU | ZPU);
    let object = bad.alloc();
    // SAFETY: an object of 64 bytes, whose memory stays.
    unsafe { object.write_bytes(0x42, 64) };
    bad.free(object);
    // SAFETY: as above.
    assert_eq!(unsafe { std::slice::from_raw_parts(object, 64) }, [0x42; 64]);
    assert_eq!((bad.errors(), bad.validate().errors), (0, 0));
}

#[test]
fn alignment_holds_around_red_zones() {
    for align in [16, 64, 256, 4096] {
        let args = CacheArgs { flags: Some(ZPU), align, ..CacheArgs::default() };
        let bad = Bad::with("aligned", args, 100);
        for _ in 0..50 {
            assert_eq!(bad.alloc() as usize % align, 0, "{align}");
        }
        assert_eq!(bad.validate().errors, 0);
    }
}

#[test]
fn live_objects_are_added_up_by_caller() {
    let bad = Bad::new("traced");
    let objects: Vec<_> = (0..7).map(|_| bad.alloc()).collect();
    objects[..3].iter().for_each(|&object| bad.free(object));
    let mut text = String::new();
    // SAFETY: the cache is alive.
    unsafe { bad.rig.heap.write_traces(bad.cache, Which::Alloc, &mut text) }.expect("a string takes all");
    assert!(text.starts_with("      4 sl_alloc_site+0xa/0xff9 [sl_bad]"), "{text}");
}

#[test]
fn size_classes_follow_the_options() {
    let rig: Rig<KernelConfig<Slab>> = Rig::raw(Machine::builder().cpus(1).build());
    assert!(rig.heap.set_debug_options("ZP,kmalloc-*"));
    assert!(rig.init());
    for size in [1, 8, 100, 192, 4096, 9000, 70_000] {
        let block = rig.kmalloc(size);
        assert!(rig.ksize(block) >= size);
        // SAFETY: the block has that many bytes.
        unsafe { block.write_bytes(1, rig.ksize(block)) };
        assert_eq!(rig.kfree(block), Ok(()));
    }
    assert_eq!((rig.heap.debug().errors(), rig.heap.validate_all().errors), (0, 0));
    let block = rig.kmalloc(100);
    poke(block, rig.ksize(block) as isize, 1);
    assert_eq!(rig.kfree(block), Ok(()));
    assert!(rig.said().contains("memory outside object was overwritten"));
}

#[test]
fn without_options_the_creators_letters_mean_nothing() {
    let rig: Rig<KernelConfig<Slab>> = Rig::new();
    let args = CacheArgs { flags: Some(ZPU), ..CacheArgs::default() };
    let cache = rig.create("plain", 56, args).expect("a cache");
    // SAFETY: the cache is alive.
    assert!(!unsafe { cache.get() }.geometry().is_debug());
}

#[test]
fn two_nodes_and_bulk() {
    let rig: Rig<KernelConfig<Slab>> = Rig::raw(Machine::builder().cpus(2).nodes(2).build());
    assert!(rig.heap.set_debug_options("FZPU"));
    assert!(rig.init());
    let cache = rig.cache("far", 80);
    let mut objects = [std::ptr::null_mut(); 100];
    // SAFETY: the cache is alive.
    assert!(unsafe { rig.heap.alloc_bulk(cache, kmem_core::gfp::Gfp::KERNEL, &mut objects) });
    rig.machine.set_cpu(1);
    // SAFETY: the cache is alive, and the objects are its own.
    assert!(unsafe { rig.heap.free_bulk(Some(cache), &mut objects) }.is_ok());
    assert_eq!((rig.heap.debug().errors(), rig.heap.validate_all().errors), (0, 0));
    assert_eq!(rig.destroy(cache), Ok(true));
}

fn set(bad: &Bad, letters: SlabFlags) -> Result<(), SwitchError> {
    // SAFETY: the cache is alive.
    let set = unsafe { bad.rig.heap.set_debug_letters(bad.cache, letters) };
    if set.is_ok() {
        // SAFETY: as above.
        assert_eq!(unsafe { bad.rig.heap.debug_letters(bad.cache) }, letters);
    }
    set
}

/// Letters that need no room come and go in a cache that was made without any: new slabs follow, old ones stay what they are.
#[test]
fn letters_come_while_a_cache_is_used() {
    for size in SIZES {
        let bad = Bad::lettered("changing", size, SlabFlags::empty());
        let mut objects: Vec<_> = (0..50).map(|_| bad.alloc()).collect();
        for round in 0..3 {
            for letters in [P, F, F | P, SlabFlags::empty(), P, SlabFlags::FAILSLAB] {
                assert_eq!(set(&bad, letters), Ok(()));
                objects.extend((0..30).map(|_| bad.alloc()));
                for object in &objects {
                    // SAFETY: objects of this size, the test's own.
                    unsafe { object.write_bytes(0x20 + round, size) };
                }
                for at in (0..objects.len()).rev().step_by(3) {
                    bad.free(objects.swap_remove(at));
                }
                assert_eq!((bad.validate().errors, bad.rig.said().as_str()), (0, ""), "{size} {letters:?}");
            }
        }
        let mut sorted: Vec<_> = objects.iter().map(|object| object.addr()).collect();
        sorted.sort_unstable();
        assert!(sorted.windows(2).all(|pair| pair[1] - pair[0] >= size), "no object lies in another");
        assert_eq!(bad.rig.in_use(bad.cache), objects.len() as u64);
        objects.into_iter().for_each(|object| bad.free(object));
        bad.assert_sound();
        assert_eq!(bad.rig.destroy(bad.cache), Ok(true));
        assert_eq!((bad.errors(), bad.rig.said().as_str()), (0, ""), "{size}");
    }
}

/// Poison is in new slabs only, and stays in those when the letter goes; it is looked at while the letter is there.
#[test]
fn new_slabs_follow_and_old_ones_keep_their_poison() {
    let bad = Bad::lettered("following", 1000, SlabFlags::empty());
    let old = bad.alloc();
    assert_eq!(set(&bad, P), Ok(()));
    bad.free(old);
    poke(old, 500, 1);
    let filled: Vec<_> = (0..40).map(|_| bad.alloc()).collect();
    assert_eq!(bad.rig.said(), "", "that slab has none");
    // One of a slab's free objects may hold its index, and has no poison.
    for &new in &filled[20..] {
        bad.free(new);
        poke(new, 500, 1);
    }
    assert_eq!(set(&bad, F), Ok(()));
    assert_eq!(bad.validate().errors, 0, "not looked at");
    assert_eq!(set(&bad, P), Ok(()));
    let found = bad.validate().errors;
    assert!((10..20).contains(&found), "{found}");
    assert_eq!(bad.validate().errors, 0, "mended");
    assert!(bad.rig.said().starts_with("Slab corruption ("));
    for &object in &filled[..20] {
        bad.free(object);
    }
    bad.assert_sound();
}

/// A second free is found from the first letter on, in slabs of either kind.
#[test]
fn a_second_free_is_found_once_there_are_letters() {
    let bad = Bad::lettered("later", 100, SlabFlags::empty());
    let (old, kept) = (bad.alloc(), bad.alloc());
    assert_eq!(set(&bad, F), Ok(()));
    bad.free(old);
    bad.free(old);
    assert!(bad.rig.said().contains("double free detected in cache 'later'"));
    assert_eq!(set(&bad, SlabFlags::empty()), Ok(()));
    bad.free(kept);
    bad.free(kept);
    assert!(bad.rig.said().contains("double free detected in cache 'later'"), "whatever the letters");
    bad.assert_sound();
}

/// What needs room beside each object can be left off and taken up by a cache that has it, and comes to no other.
#[test]
fn red_zones_and_tracks_are_for_caches_made_with_them() {
    let plain = Bad::lettered("plain", 56, SlabFlags::empty());
    for letters in [Z, U, ZPU, F | Z] {
        assert_eq!(set(&plain, letters), Err(SwitchError::Unsupported), "{letters:?}");
    }
    assert!(plain.rig.said().is_empty());
    let bad = Bad::new("roomy");
    let object = bad.alloc();
    assert_eq!(set(&bad, P), Ok(()));
    poke(object, 56, 1);
    bad.free(object);
    assert_eq!(bad.rig.said(), "", "not looked at");
    let object = bad.alloc();
    assert_eq!(set(&bad, ZPU), Ok(()));
    poke(object, 56, 1);
    bad.free(object);
    assert!(bad.rig.said().contains("memory outside object was overwritten"));
    bad.assert_sound();
}

unsafe extern "C" fn construct_64(object: *mut u8) {
    // SAFETY: an object of 64 bytes.
    unsafe { object.write_bytes(0xc0, 64) };
}

/// A constructor runs once for each object of a slab without poison, and for each owner of one in a slab with it.
#[test]
fn constructed_objects_are_constructed_in_slabs_of_either_kind() {
    let bad = Bad::with("made", CacheArgs { ctor: Some(construct_64), ..CacheArgs::default() }, 64);
    let mut held = Vec::new();
    for letters in [P, SlabFlags::empty(), F | P, F] {
        assert_eq!(set(&bad, letters), Ok(()));
        for _ in 0..100 {
            let object = bad.alloc();
            // SAFETY: as above, and the test's own.
            assert!((0..64).all(|at| unsafe { object.add(at).read() } == 0xc0), "{letters:?}");
            held.push(object);
        }
        held.drain(..70).for_each(|object| bad.free(object));
    }
    held.drain(..).for_each(|object| bad.free(object));
    assert_eq!((bad.errors(), bad.rig.said().as_str()), (0, ""));
}
