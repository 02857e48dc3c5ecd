//! Live heaps against the tables captured from Linux 6.1: what the addresses say, not what the rules compute.
//!
//! The heap is built as the kernel is, on a machine with as many CPUs as the captured one had.

#[path = "../golden_support/mod.rs"]
mod golden_support;
#[path = "../api_support/mod.rs"]
mod support;

use golden_support::{request_flags, rows};
use kmem_core::cache::CacheArgs;
use kmem_core::config::{KernelConfig, UserConfig};
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::heap::Kmem;
use kmem_core::kmalloc::ZERO_SIZE_PTR;
use kmem_core::page::Kind;
use kmem_sim::Machine;
use support::{QUIET, Rig};

unsafe extern "C" fn construct(_object: *mut u8) {}

fn rig() -> Rig<KernelConfig> {
    Rig::on(Machine::builder().cpus(4).memory_per_node(32 << 10).build())
}

/// Every cache of the table is created; the objects of its first slab lie where the kernel's did.
#[test]
fn every_row_of_slub_geometry_lives() {
    let rig = rig();
    let (mut made, mut refused, mut aligns) = (0, 0, 0);
    for row in rows(golden!("slub_geometry.csv")) {
        assert_eq!(row.number("ncpu"), 4);
        let align = row.number("req_align");
        let args = CacheArgs {
            align,
            flags: Some(request_flags(row.text("req_flags")) | SlabFlags::NO_MERGE),
            ctor: (row.number("ctor") == 1).then_some(construct as _),
            ..CacheArgs::default()
        };
        let created = rig.heap.create("row", row.number("req_size"), args);
        if row.text("object_size") == "FAILED" || (align != 0 && !align.is_power_of_two()) {
            assert!(created.is_err(), "{row}");
            refused += 1;
            continue;
        }
        let cache = created.unwrap_or_else(|error| panic!("{error}: {row}"));
        let count = row.number("objs_per_slab");
        let objects = rig.take(cache, count);
        let (base, pages) = rig.slab_of(objects[0]);
        assert_eq!(pages, 1 << row.number("order"), "{row}");
        let mut offsets: Vec<usize> = objects.iter().map(|object| object.addr() - base).collect();
        offsets.sort_unstable();
        assert_eq!(offsets[0], row.number("first_obj_offset"), "{row}");
        let size = row.number("size");
        assert!(offsets.windows(2).all(|pair| pair[1] - pair[0] == size), "{row}");
        assert!(
            offsets[count - 1] + size - row.number("red_left_pad") <= pages << 12,
            "all in one slab: {row}"
        );
        // The lowest bit of all addresses. Of a single object it would be chance: where its slab happens to lie.
        let lowest = 1 << objects.iter().fold(0, |bits, object| bits | object.addr()).trailing_zeros();
        if count > 1 && row.number("observed_align") != 0 {
            assert_eq!(lowest, row.number("observed_align"), "{row}");
            aligns += 1;
        }
        assert!(lowest >= row.number("align"), "{row}");
        rig.give(cache, objects);
        assert_eq!(rig.destroy(cache), Ok(true), "{row}");
        made += 1;
    }
    // Refused: what the kernel refused too, and alignments of 24, which the kernel took and did not keep.
    assert_eq!((made, refused, aligns), (2223, 81, 2176));
    rig.holdings();
}

/// A fresh cache hands objects out in ascending order, and what was freed last comes back first.
#[test]
fn every_slub_row_of_allocation_order_lives() {
    let rig = rig();
    let mut checked = 0;
    let mut table = rows(golden!("allocation_order.csv")).filter(|row| row.text("allocator") == "slub");
    while let Some(row) = table.next() {
        assert_eq!(row.text("step"), "fresh");
        let args = CacheArgs {
            flags: Some(request_flags(row.text("req_flags")) | SlabFlags::NO_MERGE),
            ..CacheArgs::default()
        };
        let cache = rig.heap.create("row", row.number("req_size"), args).expect("a cache");
        // SAFETY: the cache is alive.
        let geometry = *unsafe { cache.get() }.geometry();
        let indices = |objects: &[*mut u8]| {
            let index = |&object: &*mut u8| {
                let offset = object.addr() - rig.slab_of(object).0 - geometry.red_left_pad;
                (offset / geometry.size).to_string()
            };
            objects.iter().map(index).collect::<Vec<_>>().join(" ")
        };
        let objects = rig.take(cache, 12);
        assert_eq!(indices(&objects), row.text("object_indices"), "{row}");
        for position in [3, 7, 5] {
            assert_eq!(rig.free(cache, objects[position - 1]), Ok(()));
        }
        let again = table.next().expect("the second step");
        assert_eq!(again.text("step"), "realloc");
        assert_eq!(indices(&rig.take(cache, 3)), again.text("object_indices"), "{again}");
        rig.give(cache, objects);
        assert_eq!(rig.destroy(cache), Ok(true));
        checked += 1;
    }
    assert_eq!(checked, 12);
}

/// With random order: the kernel's own rows are last in, first out too, and so are ours; and the order is no order.
#[test]
fn a_random_order_is_last_in_first_out_too() {
    let mut table = rows(golden!("allocation_order.csv"));
    while let Some(row) = table.find(|row| row.text("allocator") == "slub_debian_freelist_random") {
        let again = table.next().expect("the second step");
        let fresh: Vec<&str> = row.text("object_indices").split(' ').collect();
        assert_eq!(again.text("object_indices"), [fresh[4], fresh[6], fresh[2]].join(" "), "{row}");
    }
    let rig = Rig::<UserConfig>::new();
    for size in [20, 64, 256, 1000] {
        let cache = rig.cache("row", size);
        let objects = rig.take(cache, 12);
        assert!(!objects.is_sorted(), "{size}");
        for position in [3, 7, 5] {
            assert_eq!(rig.free(cache, objects[position - 1]), Ok(()));
        }
        assert_eq!(rig.take(cache, 3), [objects[4], objects[6], objects[2]]);
    }
}

#[test]
fn every_row_of_kmalloc_ksize_lives() {
    let rig = rig();
    let before = rig.holdings();
    let mut rounded = 0;
    for row in rows(golden!("kmalloc_ksize.csv")) {
        let n = row.number("n");
        let block = rig.heap.kmalloc(n, QUIET);
        let backing = match rig.kind_of(block) {
            Some(Kind::Slab) => "slab",
            Some(Kind::Large) => "page",
            _ if block == ZERO_SIZE_PTR => "zero_size_ptr",
            _ => "none",
        };
        assert_eq!(backing, row.text("slub_backing"), "{row}");
        assert_eq!(block.is_null(), backing == "none", "{row}");
        if !block.is_null() {
            assert_eq!(rig.ksize(block), row.number("slub_ksize"), "{row}");
            let roundup = Kmem::<Machine, KernelConfig>::kmalloc_size_roundup(n);
            assert_eq!(roundup, row.number("slub_size_roundup"), "{row}");
            rounded += 1;
        }
        assert_eq!(rig.kfree(block), Ok(()));
    }
    assert_eq!(rounded, 6591 - 2);
    assert_eq!(rig.holdings(), before);
}

#[test]
fn every_slub_row_of_kmalloc_natural_alignment_lives() {
    let rig = rig();
    let mut checked = 0;
    for row in rows(golden!("kmalloc_natural_alignment.csv")) {
        if row.text("allocator") != "slub" {
            continue;
        }
        let (n, count) = (row.number("n"), row.number("count"));
        let blocks: Vec<*mut u8> = (0..count).map(|_| rig.heap.kmalloc(n, Gfp::KERNEL)).collect();
        let bits = blocks.iter().fold(0, |bits, block| bits | block.addr());
        let lowest = row.number("lowest_set_bit_over_all_addresses");
        assert_eq!(1 << bits.trailing_zeros(), lowest, "{row}");
        if row.number("naturally_aligned") == 1 {
            assert!(blocks.iter().all(|block| block.addr().is_multiple_of(n)), "{row}");
        }
        blocks.into_iter().for_each(|block| assert_eq!(rig.kfree(block), Ok(())));
        checked += 1;
    }
    assert_eq!(checked, 20);
}
