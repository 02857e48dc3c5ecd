//! Live heaps against the tables captured from Linux 6.1: what the addresses say, not what the rules compute.

use kmem_core::cache::CacheArgs;
use kmem_core::engine::slab::Slab;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::heap::Kmem;
use kmem_core::kmalloc::ZERO_SIZE_PTR;
use kmem_core::page::Kind;
use kmem_sim::Machine;

use super::{Config, Rig, flags, row};
use crate::golden_support::{request_flags, rows};
use crate::support::QUIET;

unsafe extern "C" fn construct(_object: *mut u8) {}

fn rig() -> Rig {
    Rig::on(Machine::builder().cpus(4).memory_per_node(32 << 10).build())
}

/// Every cache of the table is created; the objects of its first slab lie where the kernel's did.
#[test]
fn every_row_of_slab_geometry_lives() {
    let rig = rig();
    let (mut made, mut refused) = (0, 0);
    for line in rows(golden!("slab_geometry.csv")) {
        let align = line.number("req_align");
        let args = CacheArgs {
            align,
            flags: Some(request_flags(line.text("req_flags")) | SlabFlags::NO_MERGE),
            ctor: (line.number("ctor") == 1).then_some(construct as _),
            ..CacheArgs::default()
        };
        let created = rig.heap.create("row", line.number("req_size"), args);
        if line.text("object_size") == "FAILED" || (align != 0 && !align.is_power_of_two()) {
            assert!(created.is_err(), "{line}");
            refused += 1;
            continue;
        }
        let cache = created.unwrap_or_else(|error| panic!("{error}: {line}"));
        let count = line.number("objs_per_slab");
        let objects = rig.take(cache, count);
        let (base, pages) = rig.slab_of(objects[0]);
        assert_eq!(pages, line.number("pagesperslab"), "{line}");
        let mut offsets: Vec<usize> = objects.iter().map(|object| object.addr() - base).collect();
        offsets.sort_unstable();
        assert_eq!(offsets[0], line.number("first_obj_offset"), "{line}");
        let size = line.number("size");
        assert!(offsets.windows(2).all(|pair| pair[1] - pair[0] == size), "{line}");
        assert!(offsets[count - 1] + size <= pages << 12, "all in one slab: {line}");
        let shown = row(&rig, cache);
        let tunables = ["limit", "batchcount", "shared"].map(|column| line.number(column) as u32);
        assert_eq!((shown.tunables, shown.objsize, shown.objperslab), (tunables, size, count), "{line}");
        super::check(&rig, cache);
        rig.give(cache, objects);
        assert_eq!(rig.destroy(cache), Ok(true), "{line}");
        made += 1;
    }
    assert_eq!((made, refused), (2227, 77));
    rig.holdings();
}

/// The first object of each of the first 12 slabs lies at the captured offset.
#[test]
fn every_row_of_slab_colour_lives() {
    let rig = rig();
    let mut checked = 0;
    for line in rows(golden!("slab_colour.csv")) {
        let args = flags(request_flags(line.text("req_flags")) | SlabFlags::NO_MERGE);
        let cache = rig.heap.create("row", line.number("req_size"), args).expect("a cache");
        let count = line.number("num");
        let mut offsets = Vec::new();
        let mut all = Vec::new();
        let mut last = 0;
        while offsets.len() < 12 {
            let object = rig.alloc(cache, Gfp::KERNEL);
            all.push(object);
            let (base, _) = rig.slab_of(object);
            if base != last {
                // SAFETY: the cache is alive.
                let lead = rig.heap.pages().at(base).map(Slab::lead);
                offsets.push(lead.expect("a slab").to_string());
                last = base;
            }
            assert!(all.len() <= 12 * count, "{line}");
        }
        assert_eq!(offsets.join(" "), line.text("first_object_offset_in_slab_1..12"), "{line}");
        rig.give(cache, all);
        assert_eq!(rig.destroy(cache), Ok(true));
        checked += 1;
    }
    assert_eq!(checked, 34);
}

/// A fresh cache hands out its first batch from the top down, and what was freed last comes back first.
#[test]
fn every_slab_row_of_allocation_order_lives() {
    let rig = rig();
    let mut checked = 0;
    let mut table = rows(golden!("allocation_order.csv")).filter(|line| line.text("allocator") == "slab");
    while let Some(line) = table.next() {
        assert_eq!(line.text("step"), "fresh");
        let args = flags(request_flags(line.text("req_flags")) | SlabFlags::NO_MERGE);
        let cache = rig.heap.create("row", line.number("req_size"), args).expect("a cache");
        // SAFETY: the cache is alive.
        let size = unsafe { cache.get() }.geometry().size;
        let indices = |objects: &[*mut u8]| {
            let index = |&object: &*mut u8| {
                let (base, _) = rig.slab_of(object);
                let lead = rig.heap.pages().at(base).map(Slab::lead);
                ((object.addr() - base - lead.expect("a slab") as usize) / size).to_string()
            };
            objects.iter().map(index).collect::<Vec<_>>().join(" ")
        };
        let objects = rig.take(cache, 12);
        assert_eq!(indices(&objects), line.text("object_indices"), "{line}");
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

/// The classic lab: 20 bytes aligned to 8, the first objects of a batch of 16 from its end down.
#[test]
fn the_first_objects_of_the_lab() {
    let rig = rig();
    for (flag, offsets) in
        [(SlabFlags::empty(), [360, 336, 312]), (SlabFlags::HWCACHE_ALIGN, [480, 448, 416])]
    {
        let args = CacheArgs { align: 8, ..flags(flag | SlabFlags::NO_MERGE) };
        let cache = rig.heap.create("mycache", 20, args).expect("a cache");
        let objects = rig.take(cache, 3);
        let (base, _) = rig.slab_of(objects[0]);
        assert_eq!(objects.iter().map(|object| object.addr() - base).collect::<Vec<_>>(), offsets);
    }
}

#[test]
fn every_row_of_kmalloc_ksize_lives() {
    let rig = rig();
    let before = rig.holdings();
    let mut rounded = 0;
    for line in rows(golden!("kmalloc_ksize.csv")) {
        let n = line.number("n");
        let block = rig.heap.kmalloc(n, QUIET);
        let backing = match rig.kind_of(block) {
            Some(Kind::Slab) => "slab",
            Some(Kind::Large) => "page",
            _ if block == ZERO_SIZE_PTR => "zero_size_ptr",
            _ => "none",
        };
        assert_eq!(backing, line.text("slab_backing"), "{line}");
        if !block.is_null() {
            assert_eq!(rig.ksize(block), line.number("slab_ksize"), "{line}");
            let roundup = Kmem::<Machine, Config>::kmalloc_size_roundup(n);
            assert_eq!(roundup, line.number("slab_size_roundup"), "{line}");
            rounded += 1;
        }
        assert_eq!(rig.kfree(block), Ok(()));
    }
    assert_eq!(rounded, 6591 - 2);
    assert_eq!(rig.holdings(), before);
}

#[test]
fn every_slab_row_of_kmalloc_natural_alignment_lives() {
    let rig = rig();
    let mut checked = 0;
    for line in rows(golden!("kmalloc_natural_alignment.csv")) {
        if line.text("allocator") != "slab" {
            continue;
        }
        let (n, count) = (line.number("n"), line.number("count"));
        let blocks: Vec<*mut u8> = (0..count).map(|_| rig.heap.kmalloc(n, Gfp::KERNEL)).collect();
        let bits = blocks.iter().fold(0, |bits, block| bits | block.addr());
        let lowest = line.number("lowest_set_bit_over_all_addresses");
        assert_eq!(1 << bits.trailing_zeros(), lowest, "{line}");
        blocks.into_iter().for_each(|block| assert_eq!(rig.kfree(block), Ok(())));
        checked += 1;
    }
    assert_eq!(checked, 20);
}
