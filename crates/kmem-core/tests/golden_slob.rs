//! SLOB against the tables captured from Linux 6.1: caches, ksize, alignment.

mod golden_support;

use golden_support::{Row, request_flags, rows};
use kmem_core::debug::Debug;
use kmem_core::engine::slob::geometry::{GeometryError, KNOWN_FLAGS, Request, Rules, compute};
use kmem_core::engine::slob::kmalloc::{LARGEST, usable_size};
use kmem_core::engine::slob::{Ask, Heap, World};
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::classes::{ClassSet, NoClasses};
use kmem_core::page::Pages;
use kmem_core::platform::{BLOCK_PAGES, MAX_ORDER, PAGE_SIZE};
use kmem_sim::Machine;

/// The machine of the captures. It was also asked for alignments of 24, and took them.
const CAPTURED: Rules = Rules { accounting: false, odd_alignments: true, ..Rules::LINUX_6_1.with_cpus(4) };

/// A heap on a machine of its own.
struct Fixture {
    machine: Machine,
    pages: Box<Pages<Machine>>,
    heap: Heap,
    debug: Debug,
}

impl Fixture {
    fn new(blocks: usize) -> Self {
        let machine = Machine::builder().memory_per_node(blocks * BLOCK_PAGES).build();
        let pages = Box::new(Pages::new());
        pages.init(&machine);
        let heap = Heap::new();
        heap.init(&machine);
        Self { machine, pages, heap, debug: Debug::new(false) }
    }

    fn world(&self) -> World<'_, Machine> {
        World { platform: &self.machine, pages: &self.pages, debug: &self.debug }
    }
}

fn request(row: &Row<'_>) -> Request {
    Request {
        align: row.number("req_align"),
        flags: request_flags(row.text("req_flags")),
        has_ctor: row.number("ctor") == 1,
        ..Request::new(row.number("req_size"))
    }
}

/// Every row of `slob_geometry.csv`: size, alignment, flags; and 20 objects of each cache lie where they may.
#[test]
fn every_row_of_slob_geometry() {
    let fixture = Fixture::new(4);
    let (mut made, mut shared, mut odd, mut empty) = (0, 0, 0, 0);
    for row in rows(golden!("slob_geometry.csv")) {
        let geometry = compute(&request(&row), &CAPTURED).unwrap_or_else(|error| panic!("{row}: {error}"));
        for (column, value) in [
            ("object_size", geometry.object_size),
            ("size", geometry.size),
            ("align", geometry.align),
            ("flags", geometry.flags.bits() as usize),
        ] {
            assert_eq!(value, row.number(column), "{column} in {row}");
        }
        assert!(KNOWN_FLAGS.contains(geometry.flags), "{row}");
        assert_eq!(geometry.usable_size(), geometry.object_size.next_multiple_of(2), "{row}");
        if request(&row).align == 24 {
            let strict = Rules { odd_alignments: false, ..CAPTURED };
            assert_eq!(compute(&request(&row), &strict), Err(GeometryError::BadAlign), "{row}");
            odd += 1;
        }
        if geometry.order > MAX_ORDER {
            // A cache that was made, and never had an object.
            assert_eq!(
                (row.number("first_obj_offset"), row.number("observed_align")),
                (usize::MAX, 0),
                "{row}"
            );
            empty += 1;
            made += 1;
            continue;
        }
        // What was observed there follows from what else was in the pages, but never breaks the alignment; nor
        // does ours. (An alignment of 24 is kept as one of 8 in both.)
        let sure = 1 << geometry.align.trailing_zeros();
        assert!(row.number("observed_align") >= sure.min(PAGE_SIZE), "{row}");
        assert_eq!(row.number("first_obj_offset") % sure, 0, "{row}");
        if geometry.size < PAGE_SIZE {
            // The objects of the capture were on pages of order 0 that all sizes share, as ours are.
            assert_eq!(row.number("observed_slab_order"), 0, "{row}");
            place_objects(&fixture, &row, geometry.size, geometry.align, sure);
            shared += 1;
        }
        made += 1;
    }
    assert_eq!((made, shared, odd, empty), (2227, 1954, 76, 1));
    assert_eq!(fixture.heap.validate(fixture.world()), Ok(Default::default()));
}

fn place_objects(fixture: &Fixture, row: &Row<'_>, size: usize, align: usize, sure: usize) {
    let ask = Ask { align, ..Ask::new(size, Gfp::KERNEL) };
    let objects: Vec<_> =
        (0..20).map(|_| fixture.heap.alloc(fixture.world(), &ask).expect("memory")).collect();
    for object in &objects {
        let at = object.addr().get();
        assert_eq!(at % sure, 0, "{row}");
        assert!(at % PAGE_SIZE + size <= PAGE_SIZE, "{row}");
    }
    for object in objects {
        // SAFETY: allocated above with that size, and not used.
        unsafe { fixture.heap.free(fixture.world(), object.as_ptr(), size) }.expect("in use");
    }
}

/// Every row of `kmalloc_ksize.csv`: ksize, backing, size_roundup; blocks with headers are made and asked.
#[test]
fn every_slob_row_of_kmalloc_ksize() {
    assert_eq!(<NoClasses>::LARGEST, LARGEST);
    let fixture = Fixture::new(2);
    let mut counts = [0; 4];
    for row in rows(golden!("kmalloc_ksize.csv")) {
        let n = row.number("n");
        let backing = match (n, usable_size(n)) {
            (0, _) => "zero_size_ptr",
            (_, Some(_)) if n <= LARGEST => "slab",
            (_, Some(_)) => "page",
            (_, None) => "none",
        };
        assert_eq!(row.text("slob_backing"), backing, "{row}");
        match usable_size(n) {
            Some(bytes) => {
                assert_eq!(row.number("slob_ksize"), bytes, "ksize in {row}");
                assert_eq!(
                    row.number("slob_size_roundup"),
                    <NoClasses>::size_roundup(n),
                    "size_roundup in {row}"
                );
            }
            None => assert_eq!((row.text("slob_ksize"), <NoClasses>::size_roundup(n)), ("NULL", n), "{row}"),
        }
        if backing == "page" {
            assert_eq!(<NoClasses>::large_pages(n).map(|pages| pages * PAGE_SIZE), usable_size(n), "{row}");
        }
        if backing == "slab" {
            let world = fixture.world();
            let block = fixture.heap.kmalloc(world, n, Gfp::KERNEL, None).expect("memory");
            let requested = fixture.heap.requested(world, block.as_ptr());
            assert_eq!(requested.map(usable_size), Ok(Some(row.number("slob_ksize"))), "{row}");
            // SAFETY: allocated above, and not used.
            unsafe { fixture.heap.kfree(world, block.as_ptr()) }.expect("in use");
        }
        counts[["zero_size_ptr", "slab", "page", "none"]
            .iter()
            .position(|known| *known == backing)
            .expect("known")] += 1;
    }
    assert_eq!(counts, [1, 3270, 3318, 2]);
    assert_eq!(fixture.heap.validate(fixture.world()), Ok(Default::default()));
}

/// The lowest bit over the addresses of as many blocks as were captured.
#[test]
fn every_slob_row_of_kmalloc_natural_alignment() {
    let fixture = Fixture::new(4);
    let (mut natural, mut others) = (0, 0);
    for row in rows(golden!("kmalloc_natural_alignment.csv")) {
        let n = row.number("n");
        if row.text("allocator") != "slob" || n > LARGEST {
            continue;
        }
        let blocks: Vec<_> = (0..row.number("count"))
            .map(|_| fixture.heap.kmalloc(fixture.world(), n, Gfp::KERNEL, None).expect("memory"))
            .collect();
        let bits = blocks.iter().fold(0, |bits, block| bits | block.addr().get());
        assert_eq!(1 << bits.trailing_zeros(), row.number("lowest_set_bit_over_all_addresses"), "{row}");
        if row.number("naturally_aligned") == 1 {
            natural += 1
        } else {
            others += 1
        }
        for block in blocks {
            // SAFETY: allocated above, and not used.
            unsafe { fixture.heap.kfree(fixture.world(), block.as_ptr()) }.expect("in use");
        }
    }
    assert_eq!((natural, others), (9, 2));
    assert_eq!(fixture.heap.validate(fixture.world()), Ok(Default::default()));
}

/// What the real SLOB stops the machine for is an error here.
#[test]
fn impossible_caches() {
    let ask = |size, align| compute(&Request { align, ..Request::new(size) }, &CAPTURED);
    assert_eq!(ask(0, 8), Err(GeometryError::ZeroSize));
    assert_eq!(ask(64, 8192), Err(GeometryError::BadAlign));
    assert_eq!(ask(4096, 8192), Err(GeometryError::BadAlign));
    assert_eq!(ask(8192, 8192).map(|g| (g.order, g.align)), Ok((1, 8192)));
    assert_eq!(ask(4 << 20, 8).map(|g| g.order), Ok(10));
    assert_eq!(ask((4 << 20) + 1, 8), Err(GeometryError::TooLarge));
    let rcu = kmem_core::flags::SlabFlags::TYPESAFE_BY_RCU;
    // With its footer it exceeds every block of pages: as in Linux it can be made, but has no objects.
    let largest = compute(&Request { flags: rcu, ..Request::new(4 << 20) }, &CAPTURED);
    assert_eq!(largest.map(|g| (g.size, g.order)), Ok(((4 << 20) + 24, 11)));
    let fixture = Fixture::new(2);
    assert_eq!(fixture.heap.alloc_whole(fixture.world(), 11, Gfp::KERNEL, None, std::ptr::null_mut()), None);
    assert_eq!(
        compute(&Request { freeptr_offset: Some(0), flags: rcu, ..Request::new(64) }, &CAPTURED),
        Err(GeometryError::BadFreePointer)
    );
}
