//! Every captured report of SLAB's, made again: the same lines in the same order.

use kmem_core::kmalloc::FreeError;

use crate::rig::{Bad, F, ZPU, poke};
use crate::text::{assert_same, golden, normal};

fn check(name: &str, fault: impl FnOnce(&Bad)) {
    check_with(name, Bad::new(&format!("bad_{name}")), fault);
}

fn check_with(name: &str, bad: Bad, fault: impl FnOnce(&Bad)) {
    assert_eq!(bad.rig.said(), "");
    fault(&bad);
    assert_same(name, &normal(&bad.rig.said()), &golden(name));
}

/// Two free objects, neighbours; the second is the next to be handed out.
fn neighbours(bad: &Bad) -> (*mut u8, *mut u8) {
    let (first, second) = (bad.alloc(), bad.alloc());
    assert!(first < second);
    bad.free(first);
    bad.free(second);
    (first, second)
}

#[test]
fn right_redzone() {
    check("right_redzone", |bad| {
        let object = bad.alloc();
        poke(object, 56, 0x12);
        bad.free(object);
        bad.assert_sound();
        // Said again for the comparison.
        let object = bad.alloc();
        poke(object, 56, 0x12);
        bad.free(object);
    });
}

#[test]
fn left_redzone() {
    check("left_redzone", |bad| {
        let object = bad.alloc();
        poke(object, -1, 0x34);
        bad.free(object);
    });
}

#[test]
fn poison() {
    check("poison", |bad| {
        let (_, object) = neighbours(bad);
        poke(object, 8, 0x78);
        assert_eq!(bad.alloc(), object);
    });
}

#[test]
fn poison_end() {
    check("poison_end", |bad| {
        let (_, object) = neighbours(bad);
        poke(object, 55, 0x6b);
        assert_eq!(bad.alloc(), object);
    });
}

#[test]
fn double_free() {
    check("double_free", |bad| {
        let (object, _other) = (bad.alloc(), bad.alloc());
        bad.free(object);
        bad.free(object);
    });
}

#[test]
fn invalid_ptr() {
    let bad = Bad::new("bad_invalid_ptr");
    let object = bad.alloc();
    // SAFETY: the object has 56 bytes.
    unsafe { object.write_bytes(0x11, 56) };
    let inside = object.wrapping_add(8);
    assert!(matches!(bad.rig.free(bad.cache, inside), Err(FreeError::Interior { .. })));
    let (said, theirs) = (normal(&bad.rig.said()), golden("invalid_ptr"));
    // What stands where the right word would be is the machine's affair.
    let stem = |line: &String| line.split("redzone 2").next().unwrap_or_default().to_owned();
    let ours: Vec<String> = said.iter().map(stem).collect();
    let theirs: Vec<String> = theirs.iter().map(stem).collect();
    assert_eq!(ours[..theirs.len()], theirs);
    assert_eq!(ours.len(), theirs.len() + 1);
    assert!(ours.last().is_some_and(|line| line.starts_with("FIX bad_invalid_ptr: Object at 0x")));
    assert_eq!(bad.rig.in_use(bad.cache), 1);
    bad.free(object);
    bad.assert_sound();
}

#[test]
fn not_slab() {
    check_with("not_slab", Bad::lettered("bad_not_slab", 56, ZPU | F), |bad| {
        let pages = bad.rig.kmalloc(1 << 20);
        assert!(bad.rig.free(bad.cache, pages).is_err());
        assert_eq!(bad.rig.kfree(pages), Ok(()));
    });
}

#[test]
fn destroy_live() {
    check("destroy_live", |bad| {
        bad.alloc();
        bad.alloc();
        assert!(bad.rig.destroy(bad.cache).is_err());
    });
}
