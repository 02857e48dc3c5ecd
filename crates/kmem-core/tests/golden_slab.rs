//! SLAB's shapes, colours and tunables against the tables captured from Linux 6.1.

mod golden_support;

use golden_support::{Row, request_flags, rows};
use kmem_core::engine::slab::geometry::{
    ColourCursor, GeometryError, Management, Request, Rules, Shape, compute,
};
use kmem_core::engine::slab::tunables::{Change, Tunables};
use kmem_core::flags::SlabFlags;

/// The machine of the captures: 4 CPUs, no groups to charge, alignments of 24 taken.
const CAPTURED: Rules = Rules { accounting: false, odd_alignments: true, ..Rules::LINUX_6_1.with_cpus(4) };
/// The same with the checks built in.
const CHECKED: Rules = Rules { debug: true, ..CAPTURED };

#[test]
fn every_row_of_slab_geometry() {
    let counts = check_table(golden!("slab_geometry.csv"), &CAPTURED);
    assert_eq!((counts.made, counts.failed, counts.odd), (2304, 0, 77));
    assert_eq!((counts.aligns, counts.aligns_bounded), (1867, 437));
    // All three places of the index occur.
    assert_eq!(counts.places, [1018, 350, 936]);
}

#[test]
fn every_row_of_slab_geometry_debug() {
    let counts = check_table(golden!("slab_geometry_debug.csv"), &CHECKED);
    assert_eq!((counts.made, counts.failed, counts.odd), (2302, 2, 77));
    assert_eq!((counts.aligns, counts.aligns_bounded), (1905, 397));
    assert_eq!(counts.places, [1046, 310, 946]);
}

/// What a table had, so that a test of nothing shows.
#[derive(Default)]
struct Counts {
    made: usize,
    failed: usize,
    odd: usize,
    aligns: usize,
    aligns_bounded: usize,
    places: [usize; 3],
}

/// Every column of every row.
fn check_table(table: &str, rules: &Rules) -> Counts {
    let strict = Rules { odd_alignments: false, ..*rules };
    let mut counts = Counts::default();
    for row in rows(table) {
        assert_eq!(row.number("ncpu"), 4);
        let request = Request {
            align: row.number("req_align"),
            flags: request_flags(row.text("req_flags")),
            has_ctor: row.number("ctor") == 1,
            ..Request::new(row.number("req_size"))
        };
        let result = compute(&request, rules);
        if row.text("object_size") == "FAILED" {
            assert_eq!(result, Err(GeometryError::TooLarge), "{row}");
            counts.failed += 1;
            continue;
        }
        let shape = result.unwrap_or_else(|error| panic!("{row}: {error}"));
        check_columns(&row, &shape);
        if request.align == 24 {
            assert_eq!(compute(&request, &strict), Err(GeometryError::BadAlign), "{row}");
            counts.odd += 1;
        } else {
            assert_eq!(compute(&request, &strict), Ok(shape), "{row}");
        }
        if observed_align(&row, &shape) {
            counts.aligns += 1;
        } else {
            counts.aligns_bounded += 1;
        }
        let place = match shape.layout.management {
            Management::OnSlab => 0,
            Management::OffSlab => 1,
            Management::InObject => 2,
        };
        counts.places[place] += 1;
        counts.made += 1;

        // One CPU shares with nobody, and nothing else changes.
        let mut alone = compute(&request, &rules.with_cpus(1)).expect("fits as well");
        assert_eq!(alone.layout.tunables.shared, 0, "{row}");
        alone.layout.tunables.shared = shape.layout.tunables.shared;
        assert_eq!(alone, shape, "{row}");
    }
    counts
}

fn check_columns(row: &Row<'_>, shape: &Shape) {
    let (g, l) = (&shape.geometry, &shape.layout);
    for (column, value) in [
        ("object_size", g.object_size),
        ("size", g.size),
        ("align", g.align),
        ("gfporder", g.order as usize),
        ("pagesperslab", 1 << g.order),
        ("objs_per_slab", g.objects),
        ("limit", l.tunables.limit as usize),
        ("batchcount", l.tunables.batch as usize),
        ("shared", l.tunables.shared as usize),
        ("colour", l.colours),
        ("colour_off", l.colour_step),
        ("freelist_size", l.index_bytes),
        ("obj_offset", g.red_left_pad),
        ("flags", g.flags.bits() as usize),
        // Each cache was fresh: its slab was the first.
        ("first_obj_offset", shape.first_object_at(ColourCursor::new().advance(l))),
        ("observed_slab_order", g.order as usize),
    ] {
        assert_eq!(value, row.number(column), "{column} in {row}");
    }
    let place = match l.management {
        Management::OnSlab => "onslab",
        Management::OffSlab => "offslab",
        Management::InObject => "objfreelist",
    };
    assert_eq!(place, row.text("mgmt"), "mgmt in {row}");
    assert_eq!((g.min_order, g.min_objects, g.sheaf_capacity), (g.order, g.objects, l.tunables.limit));
}

/// The lowest address bit set in any object of the first slab. True when it follows from the layout alone;
/// else it is a bit of the slab's address, which is aligned to the slab's bytes.
fn observed_align(row: &Row<'_>, shape: &Shape) -> bool {
    let first = shape.first_object_at(ColourCursor::new().advance(&shape.layout));
    let offsets = (0..shape.geometry.objects).map(|object| first + object * shape.geometry.size);
    let lowest = offsets.filter(|offset| *offset != 0).map(|offset| 1 << offset.trailing_zeros()).min();
    let observed = row.number("observed_align");
    match lowest {
        Some(lowest) if lowest < shape.slab_bytes() => {
            assert_eq!(observed, lowest, "observed_align in {row}");
            true
        }
        _ => {
            assert!(observed.is_power_of_two() && observed >= shape.slab_bytes(), "observed_align in {row}");
            false
        }
    }
}

/// Where the first object lies in the first 12 slabs of a fresh cache.
#[test]
fn every_row_of_slab_colour() {
    let (mut checked, mut coloured) = (0, 0);
    for row in rows(golden!("slab_colour.csv")) {
        let flags = request_flags(row.text("req_flags"));
        let shape =
            compute(&Request { flags, ..Request::new(row.number("req_size")) }, &CAPTURED).expect("fits");
        let (g, l) = (&shape.geometry, &shape.layout);
        for (column, value) in [
            ("size", g.size),
            ("num", g.objects),
            ("gfporder", g.order as usize),
            ("colour", l.colours),
            ("colour_off", l.colour_step),
            ("freelist_size", l.index_bytes),
        ] {
            assert_eq!(value, row.number(column), "{column} in {row}");
        }
        let mut cursor = ColourCursor::new();
        let offsets = row.text("first_object_offset_in_slab_1..12").split(' ');
        let offsets: Vec<usize> = offsets.map(|offset| offset.parse().expect("a number")).collect();
        let ours: Vec<usize> = (0..12).map(|_| shape.first_object_at(cursor.advance(l))).collect();
        assert_eq!(ours, offsets, "{row}");
        coloured += usize::from(ours.iter().any(|offset| *offset != 0));
        checked += 1;
    }
    assert_eq!((checked, coloured), (34, 8));
}

/// What the rows of a listing of caches say besides the counts: slot size, objects, pages, and three tunables.
fn listing(text: &str) -> impl Iterator<Item = (&str, [usize; 6])> {
    text.lines().skip(2).map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |i: usize| fields[i].parse().unwrap_or_else(|_| panic!("{line}"));
        assert_eq!(fields[7], "tunables", "{line}");
        (fields[0], [3, 4, 5, 8, 9, 10].map(number))
    })
}

/// Each cache of a running system has the tunables of its size, and each size class the shape of its request.
#[test]
fn listings_of_running_systems() {
    for (text, rules) in
        [(golden!("slabinfo_slab.txt"), CAPTURED), (golden!("slabinfo_slab_debug.txt"), CHECKED)]
    {
        let (mut caches, mut classes) = (0, 0);
        for (name, [size, objects, pages, limit, batch, shared]) in listing(text) {
            let t = Tunables::default_for(size, &rules);
            assert_eq!([t.limit, t.batch, t.shared].map(|n| n as usize), [limit, batch, shared], "{name}");
            caches += 1;
            let Some(request) = size_class(name) else { continue };
            let g = compute(&request, &rules).expect("fits").geometry;
            assert_eq!((g.size, g.objects, 1 << g.order), (size, objects, pages), "{name}");
            classes += 1;
        }
        assert_eq!((caches, classes), (87, 22));
    }
}

/// The request behind a cache of kmalloc. Powers of two are aligned to their size, all of them to cache lines.
fn size_class(name: &str) -> Option<Request> {
    let (flags, size) = match name.strip_prefix("kmalloc-")? {
        rest if rest.starts_with("rcl-") => (SlabFlags::RECLAIM_ACCOUNT, &rest[4..]),
        rest => (SlabFlags::empty(), rest),
    };
    let size: usize = match size.strip_suffix('k') {
        Some(kib) => kib.parse::<usize>().expect("a number") << 10,
        None => size.parse().expect("a number"),
    };
    let align = if size.is_power_of_two() { size } else { 0 };
    let flags = flags | SlabFlags::KMALLOC | SlabFlags::HWCACHE_ALIGN;
    Some(Request { align, flags, ..Request::new(size) })
}

/// Lines written to the listing of a system that has one cache of this name, and what it showed afterwards.
#[test]
fn every_row_of_slabinfo_writes() {
    let name = "mycache";
    let mut now = Tunables::default_for(24, &CAPTURED);
    let mut written = 0;
    let mut refused = 0;
    for row in golden!("slabinfo_slab_writes.txt").lines() {
        let Some(rest) = row.strip_prefix("write '") else { continue };
        let (line, rest) = rest.split_once("' to /proc/slabinfo rc=").expect("a line");
        // A shell's `echo` ends its line.
        let line = format!("{line}\n");
        let change = Change::parse(line.as_bytes()).ok().filter(|change| change.name == name.as_bytes());
        assert_eq!(change.is_none(), rest.starts_with("1 err='Invalid argument'"), "{row}");
        match change {
            Some(change) => now = change.tunables().unwrap_or(now),
            None => refused += 1,
        }
        let (_, shown) = rest.split_once("tunables").expect("a row");
        let mut shown = shown.split_whitespace();
        for ours in [now.limit, now.batch, now.shared] {
            assert_eq!(shown.next().expect("three numbers"), ours.to_string(), "{row}");
        }
        written += 1;
    }
    assert_eq!((written, refused), (7, 3));
}
