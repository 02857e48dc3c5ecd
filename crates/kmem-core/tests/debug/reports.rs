//! Every captured report of SLUB's, made again: the same lines in the same order.

use kmem_core::cache::CacheArgs;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::FreeError;

use crate::rig::{Bad, FZPU, P, Z, peek, poke, word};
use crate::text::{assert_same, golden, normal};

/// Offset of the free pointer behind an object of 56 bytes with F Z P U.
const LINK: usize = 64;

fn check(name: &str, fault: impl FnOnce(&Bad)) {
    let bad = Bad::new(&format!("bad_{name}"));
    assert_eq!(bad.rig.said(), "");
    fault(&bad);
    assert_same(name, &bad.said(), &golden(name));
}

#[test]
fn right_redzone() {
    check("right_redzone", |bad| {
        let object = bad.filled();
        poke(object, 56, 0x12);
        bad.free(object);
        assert!(!bad.destroy());
    });
}

#[test]
fn left_redzone() {
    check("left_redzone", |bad| {
        let object = bad.filled();
        poke(object, -1, 0x34);
        bad.free(object);
        assert!(!bad.destroy());
    });
}

#[test]
fn poison() {
    check("poison", |bad| {
        let object = bad.filled();
        bad.free(object);
        poke(object, 8, 0x78);
        let other = bad.alloc();
        assert_ne!(bad.rig.slab_start(other), bad.rig.slab_start(object));
        bad.free(other);
        assert!(!bad.destroy());
    });
}

#[test]
fn poison_end() {
    check("poison_end", |bad| {
        let object = bad.filled();
        bad.free(object);
        poke(object, 55, 0x6b);
        let other = bad.alloc();
        bad.free(other);
        assert!(!bad.destroy());
    });
}

#[test]
fn freepointer() {
    check("freepointer", |bad| {
        let object = bad.filled();
        bad.free(object);
        let link = word(object, LINK);
        // SAFETY: a word of the slab.
        unsafe { link.write(link.read() ^ 0xff00) };
        bad.alloc();
        bad.alloc();
        assert!(!bad.destroy());
    });
}

#[test]
fn freepointer2() {
    check("freepointer2", |bad| {
        let object = bad.filled();
        bad.free(object);
        // SAFETY: a word of the slab.
        unsafe { word(object, LINK).write(0x4141_4141_4141_4140) };
        bad.alloc();
        bad.alloc();
        assert!(!bad.destroy());
    });
}

#[test]
fn double_free() {
    check("double_free", |bad| {
        let (first, second) = (bad.filled(), bad.filled());
        bad.free(first);
        bad.free(first);
        bad.free(second);
        assert!(!bad.destroy());
    });
}

#[test]
fn double_free_only_object() {
    check("double_free_only_object", |bad| {
        let object = bad.filled();
        bad.free(object);
        bad.free(object);
        assert!(bad.destroy());
    });
}

#[test]
fn invalid_ptr() {
    check("invalid_ptr", |bad| {
        let object = bad.filled();
        bad.called_from("sl_free_site+0x5/0x6 [sl_bad]");
        let refused = bad.rig.free(bad.cache, object.wrapping_add(8));
        assert!(matches!(refused, Err(FreeError::Interior { .. })), "{refused:?}");
        bad.free(object);
        assert!(bad.destroy());
    });
}

#[test]
fn not_slab() {
    check("not_slab", |bad| {
        let pages = bad.rig.heap.pages();
        let run = pages.alloc(&bad.rig.machine, Gfp::KERNEL, 0, None).expect("a page");
        let refused = bad.rig.free(bad.cache, run.address());
        assert!(matches!(refused, Err(FreeError::NotObject(_))), "{refused:?}");
        pages.free(&bad.rig.machine, run);
        assert!(bad.destroy());
    });
}

#[test]
fn wrong_cache() {
    check("wrong_cache", |bad| {
        let other = Bad::create(&bad.rig, "othercache", 56, FZPU);
        let object = bad.filled();
        assert_eq!(bad.rig.free(other, object), Ok(()));
        assert_eq!(bad.rig.destroy(other), Ok(true));
        assert!(bad.destroy(), "the object went back to its own cache");
    });
}

#[test]
fn padding() {
    check("padding", |bad| {
        let object = bad.filled();
        poke(object, 143, 0x99);
        bad.free(object);
        assert_eq!(peek(object, 143), 0x5a);
        assert!(bad.destroy(), "the object was freed all the same");
    });
}

#[test]
fn slabpad() {
    check("slabpad", |bad| {
        let object = bad.filled();
        poke(bad.rig.slab_start(object), 3952, 0x77);
        bad.free(object);
        assert_eq!(peek(bad.rig.slab_start(object), 3952), 0x5a);
        assert!(bad.destroy());
    });
}

#[test]
fn destroy_live() {
    check("destroy_live", |bad| {
        let (_first, second, _third) = (bad.filled(), bad.filled(), bad.filled());
        bad.free(second);
        assert!(!bad.destroy());
    });
}

#[test]
fn destroy_live_nodebug() {
    let bad = Bad::new("bad_destroy_live_nodebug");
    let plain = bad.rig.create("livecache", 24, CacheArgs::default()).expect("a cache");
    bad.rig.take(plain, 2);
    assert!(bad.rig.destroy(plain).is_err());
    bad.filled();
    assert!(!bad.destroy());
    // Which object an unchecked cache would hand out next depends on what its CPU stack gave back.
    let any_next = |lines: Vec<String>| -> Vec<String> {
        lines
            .into_iter()
            .map(|line| match line.strip_prefix("Slab # objects=170 used=2 fp=0x#") {
                Some(_) => "Slab # objects=170 used=2".to_owned(),
                None => line,
            })
            .collect()
    };
    assert_same("destroy_live_nodebug", &any_next(bad.said()), &any_next(golden("destroy_live_nodebug")));
}

#[test]
fn validate() {
    check("validate", |bad| {
        let objects: Vec<_> = (0..9).map(|_| bad.alloc()).collect();
        poke(objects[4], 58, 0x55);
        assert_eq!(bad.validate().slabs, 1);
        objects.into_iter().for_each(|object| bad.free(object));
        assert!(bad.destroy());
    });
}

#[test]
fn trace() {
    let bad = Bad::with("tracecache", 56, FZPU | SlabFlags::TRACE);
    let object = bad.alloc();
    bad.free(object);
    assert_same("trace", &bad.said(), &golden("trace"));
}

#[test]
fn kfree_of_a_page() {
    let rig = crate::rig::Rig::<kmem_core::config::KernelConfig>::raw(kmem_sim::Machine::builder().build());
    assert!(rig.heap.set_debug_options("F"));
    assert!(rig.init());
    let pages = rig.heap.pages();
    let run = pages.alloc(&rig.machine, Gfp::KERNEL, 0, None).expect("a page");
    assert!(matches!(rig.kfree(run.address()), Err(FreeError::NotObject(_))));
    assert_same("kfree_stack_page", &normal(&rig.said()), &golden("kfree_stack_page"));
    pages.free(&rig.machine, run);
}

/// A heap with debug options whose errors do not stop it: it says what a kernel says.
fn warned() -> crate::rig::Rig<kmem_core::config::KernelConfig> {
    let rig = crate::rig::Rig::raw(kmem_sim::Machine::builder().cpus(1).build());
    assert!(rig.heap.set_debug_options("-"));
    assert!(rig.init());
    rig
}

/// The lines of a report that [`normal`] takes out: who is here, and the stack.
fn told_who(said: &str) {
    let lines: Vec<_> = said.lines().collect();
    let at = lines.iter().position(|line| line.starts_with("CPU: 0 PID: ")).expect("who is here");
    assert_eq!(lines[at + 1..at + 3], ["Call Trace:", " <TASK>"], "{said}");
    assert!(lines[at + 3..].contains(&" </TASK>"), "{said}");
}

#[test]
fn create_dup() {
    let rig = warned();
    let flags = |flags| CacheArgs { flags: Some(flags), ..CacheArgs::default() };
    let make = |name: &str, letters| rig.create(name, 56, flags(letters)).expect("a cache");
    let first = make("bad_create_dup", FZPU);
    assert_eq!(rig.said(), "");
    let second = make("bad_create_dup", FZPU);
    assert_ne!(first, second);
    assert_same("create_dup", &normal(&rig.said()), &golden("create_dup"));
    // Without tracks there is no directory, and another name has its own.
    let others = [make("bad_create_dup", Z), make("other", FZPU)];
    // Nor is there one any more once the twin is gone.
    assert_eq!((rig.destroy(first), rig.destroy(second)), (Ok(true), Ok(true)));
    let third = make("bad_create_dup", FZPU);
    assert_eq!(rig.said(), "");
    for cache in others.into_iter().chain([third]) {
        assert_eq!(rig.destroy(cache), Ok(true));
    }
}

#[test]
fn create_big_and_with_a_bad_flag() {
    let rig = warned();
    let plain = CacheArgs::default();
    assert!(rig.create("bad_create_big", (4 << 20) + 1, plain).is_err());
    let said = rig.said();
    told_who(&said);
    assert_same("create_big", &normal(&said), &golden("create_big"));
    let flag = CacheArgs { flags: Some(SlabFlags::from_bits_retain(1)), ..plain };
    assert!(rig.create("bad_create_badflag", 64, flag).is_err());
    let said = rig.said();
    told_who(&said);
    assert_same("create_badflag", &normal(&said), &golden("create_badflag"));
}

/// The kernel divides by the size, and the report is that of its crash. Here the size is refused like any other that cannot be: with
/// the lines of `create_big`.
#[test]
fn create_zero_is_refused_where_a_kernel_crashes() {
    assert_eq!(golden("create_zero")[0], "divide error: 0000 [#1] SMP");
    let rig = warned();
    assert!(rig.create("bad_create_zero", 0, CacheArgs::default()).is_err());
    let said = rig.said();
    told_who(&said);
    let refused: Vec<_> = golden("create_big").iter().map(|line| line.replace("_big", "_zero")).collect();
    assert_same("create_zero", &normal(&said), &refused);
}

#[test]
fn kmalloc_huge() {
    let rig = warned();
    assert!(rig.heap.kmalloc((4 << 20) + 1, Gfp::KERNEL | Gfp::NOWARN).is_null());
    assert_eq!(rig.said(), "");
    assert!(rig.heap.kmalloc((4 << 20) + 1, Gfp::KERNEL).is_null());
    let said = rig.said();
    told_who(&said);
    assert_same("kmalloc_huge", &normal(&said), &golden("kmalloc_huge"));
    // Once, as there.
    assert!(rig.heap.kmalloc((4 << 20) + 1, Gfp::KERNEL).is_null());
    assert_eq!(rig.said(), "");
}

/// Where nobody asked for a kernel's words the reason is told, in one line.
#[test]
fn without_options_the_reason_is_told() {
    let rig = crate::rig::Rig::<kmem_core::config::KernelConfig>::new();
    assert!(rig.create("big", (4 << 20) + 1, CacheArgs::default()).is_err());
    assert!(rig.said().starts_with("kmem_cache_create(big) failed: "));
    for _ in 0..2 {
        assert!(rig.heap.kmalloc((4 << 20) + 1, Gfp::KERNEL).is_null());
        assert_eq!(rig.said(), "kmalloc of 4194305 bytes: more than the largest block, 4 MiB\n");
    }
}

/// What an object without poison holds is whatever it held; the captured bytes are another machine's.
fn without_contents(lines: Vec<String>) -> Vec<String> {
    let masked = |line: String| {
        let row = line.starts_with("Object   #") || line.starts_with("Padding  #");
        if row { line[..13].to_owned() } else { line }
    };
    lines.into_iter().map(masked).collect()
}

/// A fault in a cache of 64-byte objects with one letter, found by validation.
fn check_validated(name: &str, letter: SlabFlags, fault: impl FnOnce(&Bad)) {
    let bad = Bad::with(&format!("bad_{name}"), 64, letter | SlabFlags::NO_USER_FLAGS);
    fault(&bad);
    assert_same(name, &without_contents(bad.said()), &without_contents(golden(name)));
}

#[test]
fn k_clobber_zone() {
    check_validated("k_clobber_zone", Z, |bad| {
        let object = bad.alloc();
        poke(object, 64, 0x12);
        bad.validate();
    });
}

#[test]
fn k_next_pointer() {
    check_validated("k_next_pointer", P, |bad| {
        let object = bad.alloc();
        bad.free(object);
        let link = word(object, 64);
        // SAFETY: a word of the slab.
        let good = unsafe { link.read() };
        poke(object, 64, !(good as u8));
        bad.validate();
        // SAFETY: as above.
        unsafe { link.write(good) };
        bad.validate();
        bad.validate();
    });
}

#[test]
fn k_first_word() {
    check_validated("k_first_word", P, |bad| {
        let object = bad.alloc();
        bad.free(object);
        poke(object, 0, 0x78);
        bad.validate();
    });
}

#[test]
fn k_50th_byte() {
    check_validated("k_50th_byte", P, |bad| {
        let object = bad.alloc();
        bad.free(object);
        poke(object, 50, 0x9a);
        bad.validate();
    });
}

#[test]
fn k_redzone_free() {
    check_validated("k_redzone_free", Z, |bad| {
        let object = bad.alloc();
        bad.free(object);
        poke(object, 64, 0xab);
        bad.validate();
    });
}
