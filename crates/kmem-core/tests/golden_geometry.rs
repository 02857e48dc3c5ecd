//! Slot layout against the tables captured from Linux 6.1, and against vectors derived from the rules.

mod golden_support;

use golden_support::{Row, request_flags, rows};
use kmem_core::engine::slub::geometry::order::cpu_partial_slabs;
use kmem_core::engine::slub::geometry::{Geometry, GeometryError, KernelVersion, Request, Rules, compute};
use kmem_core::flags::SlabFlags;

/// The machine of the captures: 4 CPUs, and no groups to charge (so ACCOUNT has no meaning). It was also
/// asked for alignments of 24, and took them.
const CAPTURED: Rules = Rules { accounting: false, odd_alignments: true, ..Rules::LINUX_6_1.with_cpus(4) };

/// Every row of `slub_geometry.csv`, every column.
#[test]
fn every_row_of_slub_geometry() {
    let strict = Rules { odd_alignments: false, ..CAPTURED };
    let (mut made, mut failed, mut odd, mut aligns, mut aligns_bounded, mut aligns_unseen) =
        (0, 0, 0, 0, 0, 0);
    for row in rows(golden!("slub_geometry.csv")) {
        assert_eq!(row.number("ncpu"), 4);
        let request = Request {
            align: row.number("req_align"),
            flags: request_flags(row.text("req_flags")),
            has_ctor: row.number("ctor") == 1,
            ..Request::new(row.number("req_size"))
        };
        let result = compute(&request, &CAPTURED);
        if row.text("object_size") == "FAILED" {
            assert_eq!(result, Err(GeometryError::TooLarge), "{row}");
            failed += 1;
            continue;
        }
        let geometry = result.unwrap_or_else(|error| panic!("{row}: {error}"));
        check_columns(&row, &geometry);
        if request.align == 24 {
            assert_eq!(compute(&request, &strict), Err(GeometryError::BadAlign), "{row}");
            odd += 1;
        } else {
            assert_eq!(compute(&request, &strict), Ok(geometry), "{row}");
        }
        match check_observed_align(&row, &geometry) {
            Seen::Exactly => aligns += 1,
            Seen::AtLeast => aligns_bounded += 1,
            Seen::Nothing => aligns_unseen += 1,
        }
        made += 1;
    }
    assert_eq!((made, failed, odd), (2300, 4, 77));
    assert_eq!((aligns, aligns_bounded, aligns_unseen), (2265, 35, 0));
}

fn check_columns(row: &Row<'_>, g: &Geometry) {
    for (column, value) in [
        ("object_size", g.object_size),
        ("size", g.size),
        ("inuse", g.inuse),
        ("fp_offset", g.offset),
        ("red_left_pad", g.red_left_pad),
        ("align", g.align),
        ("order", g.order as usize),
        ("objs_per_slab", g.objects),
        ("min_order", g.min_order as usize),
        ("min_objs", g.min_objects),
        ("min_partial", g.min_partial as usize),
        ("cpu_partial", g.cpu_partial as usize),
        ("cpu_partial_slabs", g.cpu_partial_slabs as usize),
        ("flags", g.flags.bits() as usize),
        ("first_obj_offset", g.first_object()),
        // The machine was never short of memory: each slab observed was a normal one.
        ("observed_slab_order", g.order as usize),
    ] {
        assert_eq!(value, row.number(column), "{column} in {row}");
    }
    assert_eq!(cpu_partial_slabs(g.cpu_partial, g.objects), g.cpu_partial_slabs);
}

enum Seen {
    Exactly,
    AtLeast,
    Nothing,
}

/// The lowest address bit set in any object of one slab. It follows from the layout alone unless the
/// only object of a slab is at its start: then it is a bit of the slab's address, which is at least aligned to
/// the slab's bytes.
fn check_observed_align(row: &Row<'_>, g: &Geometry) -> Seen {
    let lowest_bit = |n: usize| 1_usize << n.trailing_zeros();
    let observed = row.number("observed_align");
    let slab = 4096 << g.order;
    let others = match (g.red_left_pad, g.objects) {
        (0, 1) => 0,
        (pad, 1) => pad,
        (0, _) => g.size,
        (pad, _) => lowest_bit(pad).min(lowest_bit(g.size)),
    };
    if observed == 0 {
        Seen::Nothing
    } else if others != 0 && lowest_bit(others) < slab {
        assert_eq!(observed, lowest_bit(others), "observed_align in {row}");
        Seen::Exactly
    } else {
        assert!(observed.is_power_of_two() && observed >= slab, "observed_align in {row}");
        Seen::AtLeast
    }
}

/// The slot sizes, free pointers and left pads that the layout rules give by hand.
#[test]
fn derived_slot_vectors() {
    let (size, align): (usize, usize) = (64, 64);
    let vectors: &[(usize, usize, &str, usize, usize, usize)] = &[
        (64, 8, "0", 64, 32, 0),
        (64, 8, "Z", 88, 32, 8),
        (64, 8, "P", 72, 64, 0),
        (64, 8, "U", 128, 32, 0),
        (64, 8, "FZPU", 160, 72, 8),
        (60, 8, "0", 64, 24, 0),
        (60, 8, "Z", 80, 24, 8),
        (60, 8, "P", 72, 64, 0),
        (60, 8, "U", 128, 24, 0),
        (60, 8, "FZPU", 152, 64, 8),
        (4, 8, "0", 8, 0, 0),
        (4, 8, "Z", 32, 8, 8),
        (4, 8, "P", 16, 8, 0),
        (4, 8, "U", 72, 0, 0),
        (4, 8, "FZPU", 96, 8, 8),
        (size, align, "0", 64, 32, 0),
        (size, align, "Z", 192, 32, 64),
        (size, align, "P", 128, 64, 0),
        (size, align, "U", 128, 32, 0),
        (size, align, "FZPU", 256, 72, 64),
        (64, 8, "R", 72, 64, 0),
    ];
    let mut checked = 0;
    for rules in [Rules::LINUX_6_1, Rules::DEFAULT] {
        for (size, align, flags, slot, offset, pad) in vectors.iter().copied() {
            let request = Request { align, flags: request_flags(flags), ..Request::new(size) };
            let g = compute(&request, &rules).expect("fits");
            assert_eq!((g.size, g.offset, g.red_left_pad), (slot, offset, pad), "{size} {align} {flags}");
            checked += 1;
        }
    }
    assert_eq!(checked, 42);
    let constructed =
        compute(&Request { has_ctor: true, ..Request::new(64) }, &Rules::DEFAULT).expect("fits");
    assert_eq!((constructed.size, constructed.offset, constructed.red_left_pad), (72, 64, 0));
}

/// The size classes with all checks on. 6.1 aligns 96 and 192 to a word only.
#[test]
fn derived_kmalloc_slots_under_debug() {
    let flags = request_flags("FZPU") | SlabFlags::KMALLOC;
    let classes = [
        (8, 112),
        (16, 128),
        (32, 160),
        (64, 256),
        (96, 224),
        (128, 384),
        (192, 384),
        (256, 768),
        (512, 1536),
    ];
    let large = [(1024, 3072), (2048, 6144), (4096, 12288), (8192, 24576)];
    let mut checked = 0;
    for (size, newer) in classes.into_iter().chain(large) {
        let older = match size {
            96 => 200,
            192 => 296,
            _ => newer,
        };
        for (version, slot) in [(KernelVersion::V6_1, older), (KernelVersion::V6_12, newer)] {
            use kmem_core::kmalloc::classes::{ClassSet, KernelSet};
            let align = <KernelSet>::align_of(<KernelSet>::class_of(size), version);
            let request = Request { align, flags, ..Request::new(size) };
            let g = compute(&request, &Rules { version, ..Rules::DEFAULT }).expect("fits");
            assert_eq!(g.size, slot, "{size} {version:?}");
            let kept = g.original_size.expect("a size class with tracks");
            assert_eq!(g.metadata_end - kept, if version == KernelVersion::V6_1 { 4 } else { 8 });
            checked += 1;
        }
    }
    assert_eq!(checked, 26);
}

/// Since 6.2 a size class with red zones and tracks keeps its free pointer out of the object.
#[test]
fn red_zones_of_the_size_asked() {
    let flags = request_flags("ZU") | SlabFlags::KMALLOC;
    let of = |version| {
        let request = Request { align: 64, flags, ..Request::new(64) };
        compute(&request, &Rules { version, ..Rules::DEFAULT }).expect("fits").offset
    };
    assert_eq!((of(KernelVersion::V6_1), of(KernelVersion::V6_12)), (32, 72));
}

/// A cache of the kernel's own tests, and one known from a listing with all checks on.
#[test]
fn known_caches() {
    let of = |size, flags, align| {
        compute(&Request { flags: request_flags(flags), align, ..Request::new(size) }, &CAPTURED)
            .expect("fits")
    };
    let red = of(64, "Z", 0);
    assert_eq!((red.size, red.inuse, red.offset, red.red_left_pad, red.objects), (88, 72, 32, 8, 46));
    let poison = of(64, "P", 0);
    assert_eq!((poison.size, poison.inuse, poison.offset, poison.objects), (72, 64, 64, 56));
    let checked = of(20, "FZPU", 8);
    assert_eq!(
        (checked.size, checked.objects, checked.tracks, checked.metadata_end),
        (112, 36, Some(32), 96)
    );
    let line = of(20, "H", 0);
    assert_eq!((line.size, line.objects), (32, 128));
}
