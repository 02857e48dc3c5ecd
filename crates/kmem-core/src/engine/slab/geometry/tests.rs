//! Vectors derived from the rules, and the rules' edges.

use super::*;

const FOUR: Rules = Rules::LINUX_6_1.with_cpus(4);
const OLD: Rules = Rules { version: KernelVersion::V2_6, ..FOUR };
const DEBUG: Rules = Rules { debug: true, ..FOUR };

fn of(request: &Request, rules: &Rules) -> Shape {
    compute(request, rules).expect("fits")
}

fn with_ctor(size: usize) -> Request {
    Request { has_ctor: true, ..Request::new(size) }
}

fn flagged(size: usize, flags: SlabFlags) -> Request {
    Request { flags, ..Request::new(size) }
}

/// (place, order, objects, colours) of a request.
fn brief(request: &Request, rules: &Rules) -> (Management, u32, usize, usize) {
    let shape = of(request, rules);
    (shape.layout.management, shape.geometry.order, shape.geometry.objects, shape.layout.colours)
}

/// Plain, constructed and reclaimable caches of 6.1, worked out by hand.
#[test]
fn derived_vectors_6_1() {
    use Management::{InObject, OffSlab, OnSlab};
    type Place = (Management, u32, usize, usize);
    let vectors: &[(usize, Place, Place, (u32, usize))] = &[
        (8, (OnSlab, 0, 240, 0), (OnSlab, 0, 240, 0), (0, 240)),
        (16, (OnSlab, 0, 240, 0), (OnSlab, 0, 240, 0), (0, 240)),
        (32, (OnSlab, 0, 124, 0), (OnSlab, 0, 124, 0), (0, 124)),
        (64, (InObject, 0, 64, 0), (OnSlab, 0, 63, 0), (0, 64)),
        (96, (InObject, 0, 42, 1), (OnSlab, 0, 42, 0), (0, 42)),
        (128, (InObject, 0, 32, 0), (OffSlab, 0, 32, 0), (0, 32)),
        (192, (InObject, 0, 21, 1), (OnSlab, 0, 21, 0), (0, 21)),
        (256, (InObject, 0, 16, 0), (OffSlab, 0, 16, 0), (0, 16)),
        (320, (InObject, 0, 12, 4), (OnSlab, 0, 12, 3), (0, 12)),
        (600, (InObject, 0, 6, 7), (OnSlab, 0, 6, 7), (0, 6)),
        (704, (InObject, 1, 11, 7), (OnSlab, 1, 11, 6), (0, 5)),
        (832, (InObject, 1, 9, 11), (OnSlab, 1, 9, 10), (0, 4)),
        (1024, (InObject, 0, 4, 0), (OffSlab, 0, 4, 0), (0, 4)),
        (1152, (InObject, 1, 7, 2), (OnSlab, 1, 7, 1), (0, 3)),
        (1536, (InObject, 1, 5, 8), (OnSlab, 1, 5, 7), (0, 2)),
        (2048, (InObject, 0, 2, 0), (OffSlab, 0, 2, 0), (0, 2)),
        (3000, (InObject, 1, 2, 34), (OnSlab, 1, 2, 34), (0, 1)),
        (4096, (InObject, 0, 1, 0), (OffSlab, 0, 1, 0), (0, 1)),
        (8192, (InObject, 1, 1, 0), (OffSlab, 1, 1, 0), (1, 1)),
        (10000, (InObject, 2, 1, 99), (OnSlab, 2, 1, 99), (2, 1)),
    ];
    for (size, plain, constructed, reclaim) in vectors.iter().copied() {
        assert_eq!(brief(&Request::new(size), &FOUR), plain, "{size}");
        assert_eq!(brief(&with_ctor(size), &FOUR), constructed, "{size} constructed");
        let g = of(&flagged(size, SlabFlags::RECLAIM_ACCOUNT), &FOUR).geometry;
        assert_eq!((g.order, g.objects), reclaim, "{size} reclaimable");
    }
}

#[test]
fn what_keeps_an_index_from_a_place() {
    let place = |request: &Request, rules: &Rules| of(request, rules).layout.management;
    let cleared = Rules { init_on_free: true, ..FOUR };
    assert_eq!(place(&Request::new(128), &cleared), Management::OffSlab);
    // Poison replaces clearing.
    let poisoned = Rules { debug: true, ..cleared };
    assert_eq!(place(&Request::new(128), &poisoned), place(&Request::new(128), &DEBUG));
    assert_eq!(place(&with_ctor(128), &FOUR), Management::OffSlab);
    let hidden = Request { flags: SlabFlags::NOLEAKTRACE, ..with_ctor(128) };
    assert_eq!(place(&hidden, &FOUR), Management::OnSlab);
    // 128 bytes of index: too much for half of an object of 128 bytes, though its slot has 4096.
    let wide = Request { align: 4096, ..with_ctor(62) };
    assert_eq!(place(&wide, &FOUR), Management::OnSlab);
    assert_eq!(place(&Request { align: 4096, ..with_ctor(64) }, &FOUR), Management::OffSlab);
}

#[test]
fn break_order_bounds_the_search() {
    let order = |break_order| {
        let g = of(&Request::new(3000), &Rules { break_order, ..FOUR }).geometry;
        (g.order, g.objects)
    };
    // 0: one page with a tail of 1096; 2: four pages hold 5 with a tail of 1384.
    assert_eq!([order(0), order(1), order(2), order(10)], [(0, 1), (1, 2), (2, 5), (2, 5)]);
}

/// Red zones, poison and the last user of a build with checks.
#[test]
fn layout_of_checked_slots() {
    let shape = of(&Request::new(56), &DEBUG);
    let (g, l) = (shape.geometry, shape.layout);
    assert_eq!((g.size, g.red_left_pad, g.inuse, g.metadata_end), (80, 8, 64, 72));
    assert_eq!((l.red_zone, l.user_word), (Some(56), Some(64)));
    assert_eq!((g.slot_end(), shape.first_object_at(64)), (72, 72));
    let odd = of(&Request::new(20), &DEBUG);
    assert_eq!((odd.layout.red_zone, odd.layout.user_word, odd.geometry.size), (Some(24), Some(32), 48));
    // A wide alignment leaves only poison; so does a size whose metadata would double its pages.
    for request in [Request { align: 16, ..Request::new(56) }, Request::new(4096), Request::new(8190)] {
        let shape = of(&request, &DEBUG);
        assert!(shape.geometry.flags.contains(SlabFlags::POISON));
        assert_eq!(
            (shape.geometry.red_left_pad, shape.layout.red_zone, shape.layout.user_word),
            (0, None, None)
        );
    }
    let asked = of(&flagged(8192, SlabFlags::STORE_USER), &DEBUG);
    assert_eq!(
        (asked.layout.user_word, asked.geometry.red_left_pad, asked.geometry.size),
        (Some(8192), 0, 8200)
    );
    let typesafe = of(&flagged(56, SlabFlags::TYPESAFE_BY_RCU), &DEBUG);
    assert!(!typesafe.geometry.flags.contains(SlabFlags::POISON) && typesafe.layout.red_zone.is_some());
    // Without the checks nothing that is asked of them counts.
    let plain = of(&flagged(56, SlabFlags::DEBUG), &FOUR);
    assert_eq!(plain, of(&Request::new(56), &FOUR));
}

#[test]
fn what_is_refused() {
    let error = |request: &Request, rules: &Rules| compute(request, rules).expect_err("refused");
    for rules in [FOUR, OLD] {
        assert_eq!(error(&Request::new(0), &rules), GeometryError::ZeroSize);
        assert_eq!(error(&Request { align: 24, ..Request::new(8) }, &rules), GeometryError::BadAlign);
        assert_eq!(error(&Request::new(MAX_SIZE + 1), &rules), GeometryError::TooLarge);
        assert_eq!(
            error(&Request { align: 2 * MAX_SIZE, ..Request::new(8) }, &rules),
            GeometryError::TooLarge
        );
        let pointer = Request { freeptr_offset: Some(0), ..Request::new(64) };
        assert_eq!(error(&pointer, &rules), GeometryError::BadFreePointer);
    }
    assert_eq!(of(&Request::new(MAX_SIZE), &FOUR).geometry.order, 10);
    assert_eq!(error(&flagged(MAX_SIZE, SlabFlags::RED_ZONE), &DEBUG), GeometryError::TooLarge);
    assert_eq!(of(&Request::new(32 * 4096), &OLD).geometry.order, 5);
    assert_eq!(error(&Request::new(32 * 4096 + 1), &OLD), GeometryError::TooLarge);
}

/// Objects and pages of a slab that listings of x86-64 systems with 2.6 kernels show for caches of these sizes.
#[test]
fn slabs_of_2_6_listings() {
    let small = [
        (16, 202),
        (24, 144),
        (32, 112),
        (40, 92),
        (48, 77),
        (56, 67),
        (64, 59),
        (88, 44),
        (96, 40),
        (104, 37),
        (112, 34),
        (128, 30),
        (136, 28),
        (168, 23),
        (192, 20),
        (200, 19),
        (208, 19),
        (232, 17),
        (256, 15),
        (304, 13),
        (312, 12),
        (360, 11),
        (368, 10),
        (384, 10),
        (400, 10),
        (408, 9),
    ];
    let large = [(800, 5, 1), (1856, 2, 1), (2608, 3, 2), (3240, 2, 2), (4096, 1, 1)];
    for (size, objects, pages) in small.map(|(size, objects)| (size, objects, 1)).into_iter().chain(large) {
        let g = of(&Request::new(size), &OLD).geometry;
        assert_eq!((g.size, g.objects, 1 << g.order), (size, objects, pages), "{size}");
    }
    let line = |size| of(&flagged(size, SlabFlags::HWCACHE_ALIGN), &OLD).geometry;
    for (size, slot, objects, pages) in [
        (192, 192, 20, 1),
        (250, 256, 15, 1),
        (320, 320, 12, 1),
        (700, 704, 11, 2),
        (768, 768, 5, 1),
        (896, 896, 4, 1),
        (960, 960, 4, 1),
        (1400, 1408, 5, 2),
        (2048, 2048, 2, 1),
        // Less than an eighth of a page before it is aligned: its descriptor stays, and costs one object.
        (488, 512, 7, 1),
        (512, 512, 8, 1),
    ] {
        let g = line(size);
        assert_eq!((g.size, g.objects, 1 << g.order), (slot, objects, pages), "{size}");
    }
    let g = of(&flagged(1128, SlabFlags::RECLAIM_ACCOUNT), &OLD).geometry;
    assert_eq!((g.objects, g.order), (3, 0));
}

/// Where descriptor and index of 2.6 lie.
#[test]
fn descriptors_of_2_6() {
    // 59 objects: 48 + 59 * 4 = 284 bytes, to 288 by the alignment of a word, to 320 by that of a cache line.
    let shape = of(&Request::new(64), &OLD);
    let l = shape.layout;
    assert_eq!((l.management, l.index), (Management::OnSlab, IndexKind::Linked));
    assert_eq!((l.index_bytes, l.management_bytes, l.colours), (236, 288, 0));
    assert_eq!((shape.index_at(64), shape.slots_at(64), shape.first_object_at(0)), (Some(112), 352, 288));
    let line = of(&flagged(64, SlabFlags::HWCACHE_ALIGN), &OLD);
    assert_eq!((line.layout.management_bytes, line.geometry.objects), (320, 59));
    // Eight objects fill the page: the descriptor goes elsewhere. Five of 800 leave room for it.
    let full = of(&Request::new(512), &OLD);
    assert_eq!((full.layout.management, full.layout.management_bytes), (Management::OffSlab, 48 + 8 * 4));
    assert_eq!((full.index_at(0), full.slots_at(0)), (None, 0));
    assert!(full.geometry.flags.contains(INDEX_OFF_SLAB));
    let back = of(&Request::new(800), &OLD);
    assert_eq!((back.layout.management, back.layout.management_bytes), (Management::OnSlab, 72));
    assert_eq!(back.geometry.flags, SlabFlags::empty());
    // Four of 1008 leave 64 bytes, just enough.
    assert_eq!(of(&Request::new(1008), &OLD).layout.management, Management::OnSlab);
    // 96 - 72 bytes are left: no colour. 10000 in four pages: (16384 - 10000 - 56) / 64.
    assert_eq!((back.layout.colours, of(&Request::new(10_000), &OLD).layout.colours), (0, 98));
    // Words beside the object beat the cache line, not a number.
    let debug = Rules { debug: true, ..OLD };
    let checked = of(&flagged(60, SlabFlags::HWCACHE_ALIGN), &debug);
    assert_eq!((checked.geometry.align, checked.geometry.size, checked.layout.user_word), (8, 88, Some(72)));
    let wide = of(&Request { align: 64, ..Request::new(60) }, &debug);
    assert_eq!((wide.geometry.align, wide.geometry.size, wide.layout.user_word), (64, 64, None));
}

#[test]
fn colours_of_2_6_start_at_none() {
    let layout = of(&Request { align: 8, ..Request::new(304) }, &OLD).layout;
    // 13 objects of 304, 48 + 13 * 4 of management: 44 bytes left.
    assert_eq!(layout.colours, 0);
    let layout = Layout { colours: 3, ..layout };
    let mut cursor = ColourCursor::new();
    let seen: [_; 7] = core::array::from_fn(|_| cursor.advance(&layout));
    assert_eq!(seen, [0, 64, 128, 0, 64, 128, 0]);
}

/// The invariants of the module over many requests and rules.
#[test]
fn invariants_hold() {
    let mut checked = 0;
    let sizes = (1..=1100).chain((1104..20_000).step_by(136)).chain([65_536, 100_000, 131_072]);
    for size in sizes {
        for align in [0, 32, 256, 4096] {
            for flags in [SlabFlags::empty(), SlabFlags::HWCACHE_ALIGN, SlabFlags::RECLAIM_ACCOUNT] {
                for has_ctor in [false, true] {
                    for rules in [FOUR, DEBUG, OLD, Rules { debug: true, ..OLD }] {
                        let request = Request { align, flags, has_ctor, ..Request::new(size) };
                        if let Ok(shape) = compute(&request, &rules) {
                            check_invariants(&request, &shape);
                            checked += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(checked > 100_000, "{checked}");
}

fn check_invariants(request: &Request, shape: &Shape) {
    let (g, l) = (&shape.geometry, &shape.layout);
    let last_colour = l.colours.saturating_sub(1) * l.colour_step;
    let slots_end = shape.slots_at(last_colour) + g.objects * g.size;
    let limit = match (l.index, shape.index_at(last_colour)) {
        (IndexKind::Packed, Some(index)) => index,
        _ => shape.slab_bytes(),
    };
    assert!(g.objects >= 1 && slots_end <= limit, "{request:?}: {shape:?}");
    if let (IndexKind::Linked, Some(index)) = (l.index, shape.index_at(0)) {
        assert!(index + l.index_bytes <= shape.slots_at(0) && index % 4 == 0, "{request:?}: {shape:?}");
    }
    assert!(g.size.is_multiple_of(g.align) && l.colour_step.is_multiple_of(g.align), "{request:?}");
    let object_align = if g.red_left_pad == 0 { g.align } else { WORD };
    assert!(shape.first_object_at(l.colour_step).is_multiple_of(object_align), "{request:?}: {shape:?}");
    assert!(g.metadata_end <= g.slot_end() && g.red_left_pad + g.object_size <= g.size, "{request:?}");
    match l.management {
        Management::InObject => assert!(l.index_bytes <= g.object_size, "{request:?}"),
        Management::OffSlab if l.index == IndexKind::Packed => {
            assert!(l.index_bytes <= g.object_size / 2 && l.index_bytes > g.tail(), "{request:?}");
        }
        // Far below the object, so that no descriptor needs another one of its own cache.
        Management::OffSlab => assert!(l.management_bytes * 4 <= g.size, "{request:?}"),
        Management::OnSlab => {}
    }
    assert!(l.index == IndexKind::Linked || g.objects <= MAX_OBJECTS, "{request:?}");
    let t = l.tunables;
    assert!(1 <= t.batch && t.batch <= t.limit, "{request:?}");
}
