//! The kernel's own unit tests of SLUB's checks: the same faults, the same numbers of errors.

use kmem_core::cache::CacheArgs;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;

use crate::rig::{Bad, FZPU, P, U, Z, poke, word};

/// A cache of objects of 64 bytes with this letter alone, and text suppressed while errors are counted.
fn cache(name: &str, letter: SlabFlags) -> Bad {
    let bad = Bad::with(name, 64, letter | SlabFlags::NO_USER_FLAGS);
    bad.rig.heap.debug().set_quiet(true);
    bad
}

fn end(bad: &Bad) {
    assert_eq!(bad.validate().errors, 0, "what was found was repaired");
    assert_eq!(bad.rig.said(), "", "the heap was told to be quiet");
}

#[test]
fn test_clobber_zone() {
    let bad = cache("TestSlub_RZ_alloc", Z);
    let object = bad.alloc();
    poke(object, 64, 0x12);
    assert_eq!(bad.validate().errors, 2);
    end(&bad);
    bad.free(object);
    assert!(bad.destroy());
}

#[test]
fn test_next_pointer() {
    let bad = cache("TestSlub_next_ptr_free", P);
    let object = bad.alloc();
    bad.free(object);
    let link = word(object, 64);
    // SAFETY: a word of the slab.
    let good = unsafe { link.read() };
    poke(object, 64, !(good as u8));
    assert_eq!(bad.validate().errors, 3, "chain, count, repair of the count");
    // SAFETY: as above.
    unsafe { link.write(good) };
    assert_eq!(bad.validate().errors, 2, "count, repair of the count");
    end(&bad);
    assert!(bad.destroy());
}

#[test]
fn test_first_word() {
    let bad = cache("TestSlub_1th_word_free", P);
    let object = bad.alloc();
    bad.free(object);
    poke(object, 0, 0x78);
    assert_eq!(bad.validate().errors, 2);
    end(&bad);
    assert!(bad.destroy());
}

#[test]
fn test_clobber_50th_byte() {
    let bad = cache("TestSlub_50th_word_free", P);
    let object = bad.alloc();
    bad.free(object);
    poke(object, 50, 0x9a);
    assert_eq!(bad.validate().errors, 2);
    end(&bad);
    assert!(bad.destroy());
}

#[test]
fn test_clobber_redzone_free() {
    let bad = cache("TestSlub_RZ_free", Z);
    let object = bad.alloc();
    bad.free(object);
    poke(object, 64, 0xab);
    assert_eq!(bad.validate().errors, 2);
    end(&bad);
    assert!(bad.destroy());
}

#[test]
fn test_leak_destroy() {
    let bad = Bad::with("TestSlub_leak_destroy", 64, SlabFlags::NO_USER_FLAGS);
    bad.rig.heap.debug().set_quiet(true);
    bad.rig.alloc(bad.cache, Gfp::KERNEL);
    assert!(!bad.destroy());
    assert_eq!(bad.errors(), 2, "the report and the warning");
    assert_eq!(bad.rig.said(), "");
}

/// The same heap with no fault at all: not one error, whatever the letters.
#[test]
fn the_same_without_faults() {
    for letters in [Z, P, U, FZPU, Z | P, Z | U, P | U] {
        let bad = Bad::with("sound", 64, letters);
        bad.assert_sound();
        assert!(bad.destroy());
        assert_eq!(bad.errors(), 0);
    }
    // Other sizes, alignments, constructors.
    unsafe extern "C" fn construct(object: *mut u8) {
        // SAFETY: an object has at least one byte.
        unsafe { object.write(0x77) };
    }
    for size in [1, 4, 7, 8, 24, 60, 256, 1000, 4096, 9000, 70_000] {
        for align in [0, 8, 64, 4096] {
            for ctor in [None, Some(construct as unsafe extern "C" fn(*mut u8))] {
                let mut bad = Bad::with("first", 64, FZPU);
                let args = CacheArgs { align, flags: Some(FZPU), ctor, ..CacheArgs::default() };
                bad.cache = bad.rig.create("sound", size, args).expect("a cache");
                let objects: Vec<_> = (0..40).map(|_| bad.alloc()).collect();
                for &object in &objects {
                    assert!(object.addr().is_multiple_of(align.max(8)), "{size} {align}");
                    if ctor.is_some() {
                        assert_eq!(crate::rig::peek(object, 0), 0x77);
                    }
                    // SAFETY: the object has that many bytes.
                    unsafe { object.write_bytes(0x77, size) };
                }
                assert_eq!(bad.validate().errors, 0, "{size} {align}");
                objects.into_iter().for_each(|object| bad.free(object));
                assert_eq!(bad.validate().errors, 0, "{size} {align}");
                assert!(bad.destroy());
                assert_eq!(bad.errors(), 0, "{size} {align}: {}", bad.rig.said());
            }
        }
    }
}
