//! The rules one at a time. Captured tables are checked in `tests/golden_geometry.rs`.

use super::*;
use crate::platform::PAGE_SIZE;

const V6_1: Rules = Rules::LINUX_6_1;
const V6_12: Rules = Rules::DEFAULT;
const V7_0: Rules = Rules { version: KernelVersion::V7_0, ..Rules::DEFAULT };
const ZPU: SlabFlags = SlabFlags::RED_ZONE.union(SlabFlags::POISON).union(SlabFlags::STORE_USER);

/// The rules run at compile time too.
const MYCACHE: Geometry = match compute(&Request { align: 8, ..Request::new(20) }, &Rules::LINUX_6_1) {
    Ok(geometry) => geometry,
    Err(_) => panic!("20 bytes are a fine size"),
};

#[test]
fn at_compile_time() {
    assert_eq!((MYCACHE.size, MYCACHE.objects, MYCACHE.offset, MYCACHE.order), (24, 170, 8, 0));
    assert_eq!((MYCACHE.tail(), MYCACHE.first_object(), MYCACHE.slot_end()), (16, 0, 24));
}

#[test]
fn senseless_requests_are_refused() {
    let of = |size, align| compute(&Request { align, ..Request::new(size) }, &V6_1);
    assert_eq!(of(0, 8), Err(GeometryError::ZeroSize));
    for align in [3, 6, 7, 12, 4095, 4097, usize::MAX, usize::MAX - 1] {
        assert_eq!(of(8, align), Err(GeometryError::BadAlign), "{align}");
    }
    for size in [MAX_SIZE + 1, MAX_SIZE * 2, isize::MAX as usize, usize::MAX - 8, usize::MAX] {
        assert_eq!(of(size, 0), Err(GeometryError::TooLarge), "{size}");
    }
    for align in [MAX_SIZE * 2, 1 << (usize::BITS - 1)] {
        assert_eq!(of(8, align), Err(GeometryError::TooLarge), "{align}");
    }
    assert_eq!(of(MAX_SIZE, 0).map(|g| (g.order, g.objects)), Ok((10, 1)));
    assert_eq!(of(1, MAX_SIZE).map(|g| (g.size, g.order)), Ok((MAX_SIZE, 10)));
}

#[test]
fn the_largest_object_leaves_no_room_for_metadata() {
    for flags in [SlabFlags::RED_ZONE, SlabFlags::POISON, SlabFlags::STORE_USER, SlabFlags::TYPESAFE_BY_RCU] {
        let request = Request { flags, ..Request::new(MAX_SIZE) };
        assert_eq!(compute(&request, &V6_1), Err(GeometryError::TooLarge), "{flags:?}");
    }
    let ctor = Request { has_ctor: true, ..Request::new(MAX_SIZE) };
    assert_eq!(compute(&ctor, &V6_1), Err(GeometryError::TooLarge));
}

#[test]
fn an_odd_alignment_keeps_the_word() {
    let rules = Rules { odd_alignments: true, ..V6_1 };
    for align in [3, 12, 24, 40, 100, 4097] {
        for flags in [SlabFlags::empty(), ZPU, SlabFlags::HWCACHE_ALIGN] {
            for size in 1..300 {
                let g = compute(&Request { align, flags, ..Request::new(size) }, &rules).expect("fits");
                assert!(g.align >= align && g.align.is_multiple_of(WORD));
                assert!(g.size.is_multiple_of(WORD) && g.red_left_pad.is_multiple_of(WORD));
                assert!(g.slot_end() >= g.metadata_end && g.offset + WORD <= g.slot_end());
            }
        }
    }
}

#[test]
fn alignment_by_cache_line() {
    let of = |size, align| effective_align(SlabFlags::HWCACHE_ALIGN, align, size, 64);
    for (size, align) in
        [(1, 8), (8, 8), (9, 16), (16, 16), (17, 32), (32, 32), (33, 64), (64, 64), (5000, 64)]
    {
        assert_eq!(of(size, 0), align, "{size}");
    }
    assert_eq!((of(20, 4), of(20, 64), of(20, 4096)), (32, 64, 4096));
    for (asked, align) in [(0, 8), (1, 8), (4, 8), (8, 8), (16, 16)] {
        assert_eq!(effective_align(SlabFlags::empty(), asked, 20, 64), align);
    }
    assert_eq!(effective_align(SlabFlags::HWCACHE_ALIGN, 0, 200, 128), 128);
}

#[test]
fn the_free_pointer_may_be_placed() {
    let typesafe = |offset| Request {
        flags: SlabFlags::TYPESAFE_BY_RCU,
        freeptr_offset: Some(offset),
        ..Request::new(60)
    };
    // Placed: the object does not grow by a word (64 instead of 72).
    let placed = compute(&typesafe(56), &V6_12).expect("a word in the object");
    assert_eq!((placed.offset, placed.size, placed.freeptr_outside()), (56, 64, false));
    let unplaced = compute(&Request { freeptr_offset: None, ..typesafe(0) }, &V6_12).expect("plain");
    assert_eq!((unplaced.offset, unplaced.size, unplaced.freeptr_outside()), (64, 72, true));
    // Poison would overwrite it: it moves out all the same.
    let poisoned = Request { flags: SlabFlags::TYPESAFE_BY_RCU | SlabFlags::POISON, ..typesafe(8) };
    assert_eq!(compute(&poisoned, &V6_12).map(|g| g.offset), Ok(64));

    let refused = |request: &Request, rules: &Rules| {
        assert_eq!(compute(request, rules), Err(GeometryError::BadFreePointer), "{request:?}");
    };
    for offset in [4, 7, 60, 64, usize::MAX] {
        refused(&typesafe(offset), &V6_12);
    }
    refused(&typesafe(0), &V6_1);
    refused(&Request { flags: SlabFlags::empty(), ..typesafe(0) }, &V7_0);
    // A constructed object: since 7.0.
    let constructed = Request { has_ctor: true, flags: SlabFlags::empty(), ..typesafe(16) };
    refused(&constructed, &V6_12);
    refused(&Request { has_ctor: true, ..typesafe(16) }, &V6_12);
    assert_eq!(compute(&constructed, &V7_0).map(|g| (g.offset, g.size)), Ok((16, 64)));
}

#[test]
fn internal_flags_are_decided_here() {
    let all = Request { flags: SlabFlags::all(), ..Request::new(64) };
    let flags = compute(&all, &V6_1).expect("fits").flags;
    assert!(!flags.intersects(SlabFlags::CMPXCHG_DOUBLE | SlabFlags::OBJECT_POISON));
    assert!(flags.contains(SlabFlags::ACCOUNT));
    let none = Rules { accounting: false, ..V6_1 };
    assert!(!compute(&all, &none).expect("fits").flags.contains(SlabFlags::ACCOUNT));
}

#[test]
fn metadata_may_be_kept_from_raising_the_order() {
    let rules = Rules { metadata_may_raise_order: false, ..V6_1 };
    // 4096 bytes just fill a page: with metadata they would need two.
    let large = Request { flags: ZPU | SlabFlags::CONSISTENCY_CHECKS, ..Request::new(4096) };
    let plain = compute(&large, &rules).expect("fits");
    assert_eq!((plain.size, plain.min_order, plain.tracks), (4096, 0, None));
    assert_eq!(plain.flags, SlabFlags::CONSISTENCY_CHECKS);
    let small = compute(&Request { flags: ZPU, ..Request::new(64) }, &rules).expect("fits");
    assert!(small.flags.contains(ZPU));
    // Without metadata there is nothing to drop.
    let two_pages = Request { align: 8192, ..Request::new(8) };
    assert_eq!(compute(&two_pages, &rules).map(|g| g.min_order), Ok(1));
}

#[test]
fn sheaves() {
    let of = |flags, sheaf_capacity| {
        compute(&Request { flags, sheaf_capacity, ..Request::new(64) }, &V6_12).expect("fits").sheaf_capacity
    };
    assert_eq!((of(SlabFlags::empty(), 0), of(SlabFlags::empty(), 200)), (60, 200));
    assert_eq!(
        (of(SlabFlags::NOLEAKTRACE, 9), of(SlabFlags::RED_ZONE, 9), of(SlabFlags::TRACE, 9)),
        (0, 0, 0)
    );
}

#[test]
fn usable_size_spares_what_else_lies_in_the_slot() {
    let of =
        |flags, size| compute(&Request { flags, ..Request::new(size) }, &V6_1).expect("fits").usable_size();
    assert_eq!(of(SlabFlags::HWCACHE_ALIGN, 40), 64);
    assert_eq!(of(SlabFlags::TYPESAFE_BY_RCU, 20), 24);
    assert_eq!(of(SlabFlags::STORE_USER, 20), 24);
    assert_eq!((of(SlabFlags::POISON, 20), of(SlabFlags::RED_ZONE, 20)), (20, 20));
}

/// I-GEO-1 to I-GEO-4 over a grid of requests.
#[test]
fn invariants_hold() {
    let letters = [SlabFlags::RED_ZONE, SlabFlags::POISON, SlabFlags::STORE_USER, SlabFlags::KMALLOC];
    let others = [SlabFlags::empty(), SlabFlags::TYPESAFE_BY_RCU, SlabFlags::HWCACHE_ALIGN];
    let mut checked = 0;
    for rules in [V6_1.with_cpus(4), V6_12.with_cpus(4), V7_0.with_cpus(64)] {
        for size in (1..=80).chain([100, 128, 200, 1000, 4000, 4096, 5000, 40_000, 100_001]) {
            for align in [0, 1, 4, 16, 64, 512, 4096, 8192] {
                for bits in 0..16 {
                    for other in others {
                        for has_ctor in [false, true] {
                            let mut flags = other;
                            for (i, letter) in letters.iter().enumerate() {
                                flags.set(*letter, bits & (1 << i) != 0);
                            }
                            let request = Request { align, flags, has_ctor, ..Request::new(size) };
                            check_invariants(&request, &compute(&request, &rules).expect("fits"));
                            checked += 1;
                        }
                    }
                }
            }
        }
    }
    assert_eq!(checked, 3 * 89 * 8 * 16 * 3 * 2);
}

fn check_invariants(request: &Request, g: &Geometry) {
    // I-GEO-1
    assert!(g.align.is_power_of_two() && g.align >= WORD && g.align >= request.align, "{request:?} {g:?}");
    assert!(g.size.is_multiple_of(g.align) && g.red_left_pad.is_multiple_of(g.align), "{request:?} {g:?}");
    // I-GEO-2
    assert!(g.offset.is_multiple_of(WORD) && g.offset + WORD <= g.slot_end(), "{request:?} {g:?}");
    // I-GEO-3
    assert!(g.objects >= 1 && g.objects * g.size <= PAGE_SIZE << g.order, "{request:?} {g:?}");
    assert!(g.min_objects >= 1 && g.min_order <= g.order, "{request:?} {g:?}");
    assert!(g.min_objects * g.size <= PAGE_SIZE << g.min_order, "{request:?} {g:?}");
    // I-GEO-4: each region begins where the one before ends, or later.
    let red_zone = g.flags.contains(SlabFlags::RED_ZONE);
    assert_eq!(g.object_size, request.size);
    assert!(g.inuse >= g.object_size + usize::from(red_zone), "{request:?} {g:?}");
    assert!(g.freeptr_outside() || g.offset < g.object_size, "{request:?} {g:?}");
    assert!(g.info_end() >= g.inuse, "{request:?} {g:?}");
    assert_eq!(g.tracks.is_some(), g.flags.contains(SlabFlags::STORE_USER));
    let mut end = g.info_end();
    if let Some(tracks) = g.tracks {
        assert_eq!(tracks, end);
        end = tracks + 2 * TRACK_SIZE;
    }
    if let Some(original) = g.original_size {
        assert_eq!(original, end);
        end = original + if g.metadata_end == original + 4 { 4 } else { WORD };
    }
    assert_eq!(g.metadata_end, end, "{request:?} {g:?}");
    assert!(g.slot_end() >= end + if red_zone { WORD } else { 0 }, "{request:?} {g:?}");
    assert!(g.is_debug() == g.flags.intersects(SlabFlags::DEBUG));
}
