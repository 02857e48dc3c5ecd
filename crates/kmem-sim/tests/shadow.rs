//! The shadow book finds overlap, foreign writes and lost content, and nothing else.

use kmem_sim::{Damage, Shadow};

#[test]
fn blocks_enter_and_leave() {
    let mut memory = vec![0u8; 4096];
    let base = memory.as_mut_ptr();
    let mut shadow = Shadow::new();
    // SAFETY: all blocks lie inside `memory`, which nobody else uses.
    unsafe {
        shadow.enter(base, 100, 1).unwrap();
        shadow.enter(base.add(100), 28, 2).unwrap();
        shadow.enter(base.add(1000), 3000, 3).unwrap();
        assert_eq!((shadow.len(), shadow.bytes()), (3, 3128));
        for block in [base.add(100), base, base.add(1000)] {
            shadow.check(block).unwrap();
            shadow.leave(block).unwrap();
        }
        assert!(shadow.is_empty() && shadow.bytes() == 0);
        assert_eq!(shadow.leave(base), Err(Damage::Unknown(base as usize)));
    }
}

#[test]
fn every_kind_of_overlap_is_found() {
    let mut memory = vec![0u8; 512];
    let base = memory.as_mut_ptr();
    let mut shadow = Shadow::new();
    // SAFETY: all blocks lie inside `memory`, which nobody else uses.
    unsafe {
        shadow.enter(base.add(100), 100, 1).unwrap();
        for (offset, len) in [(100, 100), (50, 51), (199, 50), (120, 10), (50, 300), (199, 0)] {
            let error = shadow.enter(base.add(offset), len, 2).unwrap_err();
            assert!(matches!(error, Damage::Overlap { live: (_, 100), .. }), "{offset}+{len}: {error}");
        }
        shadow.enter(base.add(50), 50, 2).unwrap();
        shadow.enter(base.add(200), 50, 2).unwrap();
        shadow.enter(base.add(300), 0, 2).unwrap();
        assert!(shadow.enter(base.add(300), 0, 2).is_err(), "blocks of no bytes have addresses of their own");
        shadow.check(base.add(100)).unwrap();
    }
}

#[test]
fn a_foreign_write_is_found() {
    let mut memory = vec![0u8; 2048];
    let base = memory.as_mut_ptr();
    let mut shadow = Shadow::new();
    // SAFETY: all blocks lie inside `memory`, which nobody else uses.
    unsafe {
        shadow.enter(base, 2000, 1).unwrap();
        for offset in [0, 200, 1800, 1999] {
            let good = *base.add(offset);
            *base.add(offset) = !good;
            match shadow.leave(base) {
                Err(Damage::Written { offset: at, expected, found, .. }) => {
                    assert_eq!((at, expected, found), (offset, good, !good));
                }
                other => panic!("{other:?}"),
            }
            *base.add(offset) = good;
        }
        shadow.leave(base).unwrap();
    }
}

#[test]
fn a_resized_block_must_bring_its_content() {
    let mut memory = vec![0u8; 4096];
    let base = memory.as_mut_ptr();
    let mut shadow = Shadow::new();
    // SAFETY: all blocks lie inside `memory`, which nobody else uses.
    unsafe {
        shadow.enter(base, 700, 1).unwrap();
        let new = base.add(1000);
        new.copy_from(base, 700);
        shadow.resized(base, new, 900, 2).unwrap();
        assert_eq!((shadow.len(), shadow.bytes()), (1, 900));
        shadow.resized(new, new, 100, 3).unwrap();
        *new.add(60) ^= 1;
        assert!(matches!(shadow.resized(new, new, 80, 4), Err(Damage::Written { offset: 60, .. })));
        assert_eq!(shadow.resized(base, new, 8, 5), Err(Damage::Unknown(base as usize)));
    }
}
