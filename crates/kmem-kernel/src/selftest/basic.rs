//! The heap by itself, on one CPU.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use kmem_core::cache::CacheArgs;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::page::ZoneKind;
use kmem_core::platform::{PAGE_SHIFT, Platform};

use super::{Marked, Outcome, Test, ensure};
use crate::boot::early;
use crate::boot::paging::DIRECT;
use crate::{heap, smp};

pub(super) const TESTS: &[Test] = &[
    Test { name: "basic.sizes", run: sizes, cpus: 1, stacks: false },
    Test { name: "basic.mappings", run: mappings, cpus: 1, stacks: false },
    Test { name: "basic.zones", run: zones, cpus: 1, stacks: false },
    Test { name: "basic.nodes", run: nodes, cpus: 1, stacks: false },
    Test { name: "basic.collections", run: collections, cpus: 1, stacks: false },
    Test { name: "basic.typed_cache", run: typed_cache, cpus: 1, stacks: false },
    Test { name: "basic.wrong_frees", run: wrong_frees, cpus: 1, stacks: false },
    Test { name: "basic.out_of_memory", run: out_of_memory, cpus: 1, stacks: false },
];

/// Every size up to two pages, then powers of two to the largest: enough bytes, aligned, distinct, zero when asked.
fn sizes() -> Outcome {
    for size in 1..8200 {
        let one = Marked::new(size, Gfp::KERNEL);
        let two = Marked::new(size, Gfp::KERNEL);
        let (Some(one), Some(two)) = (one, two) else {
            return Err(super::line(format_args!("no {size} bytes")));
        };
        let align = if size.is_power_of_two() { size.min(4096) } else { 8 };
        ensure!(one.block.addr().is_multiple_of(align), "{size} bytes at {:p}", one.block);
        ensure!(one.block.addr().abs_diff(two.block.addr()) >= size, "two blocks of {size} bytes overlap");
        ensure!(one.check_and_free() && two.check_and_free(), "a block of {size} bytes changed");
    }
    for order in 12..=22 {
        let size = 1 << order;
        let Some(one) = Marked::new(size, Gfp::KERNEL) else {
            return Err(super::line(format_args!("no {size} bytes")));
        };
        ensure!(one.block.addr().is_multiple_of(4096) && one.check_and_free(), "a block of {size} bytes");
        let zero = heap::kmalloc(size, Gfp::KERNEL | Gfp::ZERO);
        ensure!(!zero.is_null(), "no {size} bytes of zeros");
        // SAFETY: the block has so many bytes, and is freed once.
        let clear = unsafe {
            let clear = core::slice::from_raw_parts(zero, size).iter().all(|&byte| byte == 0);
            heap::kfree(zero);
            clear
        };
        ensure!(clear, "a zeroed block of {size} bytes is not zero");
    }
    ensure!(heap::kmalloc((4 << 20) + 1, Gfp::KERNEL | Gfp::NOWARN).is_null(), "more than 4 MiB were given");
    Ok(())
}

/// Beyond 4 MiB: a mapping, zero, which grows with what is in it.
fn mappings() -> Outcome {
    let block = heap::with(|heap| heap.kvmalloc(5 << 20, Gfp::KERNEL));
    ensure!(!block.is_null(), "no mapping of 5 MiB");
    // SAFETY: the block has so many bytes, is this test's, and is freed once, at its last address.
    let (clear, kept) = unsafe {
        let clear = core::slice::from_raw_parts(block, 5 << 20).iter().all(|&byte| byte == 0);
        block.write_bytes(0x5a, 5 << 20);
        let grown =
            heap::with(|heap| heap.kvrealloc(block, 6 << 20, Gfp::KERNEL)).unwrap_or(core::ptr::null_mut());
        let last = if grown.is_null() { block } else { grown };
        let kept = !grown.is_null() && (0..5 << 20).all(|i| *last.add(i) == 0x5a);
        let freed = heap::with(|heap| heap.kvfree(last));
        (clear, kept && freed.is_ok())
    };
    ensure!(clear, "a mapping is not zero");
    ensure!(kept, "a mapping lost its bytes when it grew, or was not freed");
    Ok(())
}

/// The zone and the node of a physical address, by what hardware and firmware say.
fn place_of(physical: usize) -> Option<(ZoneKind, usize)> {
    let zone = match physical {
        ..0x100_0000 => ZoneKind::Dma,
        0x100_0000..0x1_0000_0000 => ZoneKind::Dma32,
        _ => ZoneKind::Normal,
    };
    Some((zone, early::node_of(physical)?))
}

/// Each request gets pages that its device can reach, from as high up as it may; the heap knows where they lie. The
/// DMA caches get theirs below 16 MiB.
fn zones() -> Outcome {
    let nodes = heap::with(|heap| heap.platform().nodes());
    for node in 0..nodes {
        for (gfp, limit) in [
            (Gfp::KERNEL | Gfp::DMA, ZoneKind::Dma),
            (Gfp::KERNEL | Gfp::DMA32, ZoneKind::Dma32),
            (Gfp::KERNEL, ZoneKind::Normal),
        ] {
            // The highest zone that has blocks of the largest kind left: on this node, or on the nearest that has one.
            let free = |node: usize, zone: ZoneKind| {
                heap::with(|heap| heap.pages().zone_stats(heap.platform(), node, zone))
                    .is_some_and(|zone| zone.free > 1024)
            };
            let highest =
                |node| ZoneKind::ALL.into_iter().filter(|&zone| zone <= limit && free(node, zone)).max();
            let expected =
                (0..nodes).map(|i| (node + i) % nodes).find_map(|n| highest(n).map(|zone| (zone, n)));
            for order in 0..=5 {
                let run = heap::with(|heap| heap.pages().alloc(heap.platform(), gfp, order, Some(node)));
                let Some(run) = run else {
                    return Err(super::line(format_args!("no pages of order {order} for {limit:?}")));
                };
                let found = (run.zone(), run.node());
                let place = place_of(run.address().addr() - DIRECT);
                heap::with(|heap| heap.pages().free(heap.platform(), run));
                ensure!(place == Some(found), "pages of {found:?} lie in {place:?}");
                ensure!(
                    expected.is_none_or(|expected| expected == found),
                    "asked for {limit:?} of node {node}: {found:?}, though {expected:?} has memory"
                );
            }
        }
    }
    let mut blocks = Vec::new();
    for _ in 0..100 {
        let block = heap::kmalloc(1024, Gfp::KERNEL | Gfp::DMA);
        ensure!(!block.is_null(), "no DMA memory");
        blocks.push(block);
    }
    let highest = blocks.iter().map(|block| block.addr() - DIRECT).max().unwrap_or(usize::MAX);
    for block in blocks {
        // SAFETY: taken above, freed once.
        unsafe { heap::kfree(block) };
    }
    ensure!(highest < 16 << 20, "DMA memory at {highest:#x}");
    Ok(())
}

/// A request for a node gets memory of that node, and one without gets the CPU's own.
fn nodes() -> Outcome {
    let count = heap::with(|heap| heap.platform().nodes());
    for node in 0..count {
        let block = heap::with(|heap| heap.kmalloc_node(256, Gfp::KERNEL | Gfp::THISNODE, Some(node)));
        ensure!(!block.is_null(), "no memory of node {node}");
        let found = node_of(block);
        // SAFETY: taken above.
        unsafe { heap::kfree(block) };
        ensure!(found == Some(node), "asked for node {node}, got {found:?}");
    }
    let block = heap::kmalloc(256, Gfp::KERNEL);
    let found = node_of(block);
    // SAFETY: taken above.
    unsafe { heap::kfree(block) };
    ensure!(found == Some(smp::node()), "a CPU of node {} got memory of node {found:?}", smp::node());
    Ok(())
}

fn node_of(block: *mut u8) -> Option<usize> {
    heap::with(|heap| {
        let page = heap.pages().at(block.addr())?;
        Some(heap.pages().head(page).node())
    })
}

/// What Rust programs use.
fn collections() -> Outcome {
    let boxed = Box::new([7_u64; 100]);
    ensure!(boxed.iter().sum::<u64>() == 700, "a box");
    let mut numbers: Vec<usize> = (0..50_000).collect();
    numbers.reverse();
    numbers.sort_unstable();
    ensure!(numbers.iter().enumerate().all(|(i, &number)| i == number), "a vector");
    let mut map = BTreeMap::new();
    for i in 0..5000_u64 {
        map.insert(i.wrapping_mul(0x9e37_79b9_7f4a_7c15), alloc::format!("value {i}"));
    }
    for i in (0..5000_u64).step_by(2) {
        map.remove(&i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    let wrong = (0..5000_u64).find(|i| {
        let found = map.get(&i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        found.cloned() != (i % 2 == 1).then(|| alloc::format!("value {i}"))
    });
    ensure!(map.len() == 2500 && wrong.is_none(), "a map: {wrong:?}");
    #[repr(align(256))]
    struct Wide([u8; 300]);
    let wide: Vec<Box<Wide>> = (0..100).map(|i| Box::new(Wide([i; 300]))).collect();
    let aligned = wide.iter().all(|wide| core::ptr::from_ref(&**wide).addr().is_multiple_of(256));
    ensure!(aligned && wide.iter().enumerate().all(|(i, wide)| wide.0[299] == i as u8), "aligned boxes");
    let text: String = ["on ", "bare ", "metal"].concat();
    ensure!(text == "on bare metal", "a string");
    Ok(())
}

/// A cache with a constructor: objects come constructed, also after they were freed.
fn typed_cache() -> Outcome {
    unsafe extern "C" fn construct(object: *mut u8) {
        // SAFETY: the heap calls it with an object of this cache, of 96 bytes.
        unsafe { object.write_bytes(0xc0, 96) };
    }
    let args =
        CacheArgs { ctor: Some(construct), flags: Some(SlabFlags::HWCACHE_ALIGN), ..CacheArgs::default() };
    let cache = heap::with(|heap| heap.create("constructed", 96, args));
    let Ok(cache) = cache else { return Err(super::line(format_args!("{cache:?}"))) };
    let mut objects = [core::ptr::null_mut::<u8>(); 300];
    for round in 0..3 {
        for object in &mut objects {
            // SAFETY: the cache lives; a fresh object has 96 bytes.
            unsafe {
                *object = heap::with(|heap| heap.alloc(cache, Gfp::KERNEL));
                ensure!(!object.is_null(), "no object");
                let bytes = core::slice::from_raw_parts(*object, 96);
                ensure!(
                    bytes.iter().all(|&byte| byte == 0xc0),
                    "an object is not constructed in round {round}"
                );
            }
        }
        for &object in &objects {
            // SAFETY: taken above, in its constructed state.
            let freed = heap::with(|heap| unsafe { heap.free(cache, object) });
            ensure!(freed.is_ok(), "{freed:?}");
        }
    }
    // SAFETY: no object is in use.
    let destroyed = heap::with(|heap| unsafe { heap.destroy(cache) });
    ensure!(destroyed.is_ok(), "{destroyed:?}");
    Ok(())
}

/// Wrong pointers are refused, and nothing breaks.
fn wrong_frees() -> Outcome {
    // Of a class that is not checked, whatever the command line says: there a wrong free is reported and passed over.
    let block = heap::kmalloc(90, Gfp::KERNEL);
    // SAFETY: refused pointers change nothing; the block is freed once and freed again before anybody else can own it.
    let (inside, foreign, first, again) = unsafe {
        heap::with(|heap| {
            (
                heap.kfree(block.wrapping_add(3)),
                heap.kfree(TESTS.as_ptr().cast_mut().cast()),
                heap.kfree(block),
                heap.kfree(block),
            )
        })
    };
    ensure!(inside.is_err(), "a pointer into a block was freed");
    ensure!(foreign.is_err(), "a pointer to the image was freed");
    ensure!(first.is_ok() && again.is_err(), "freed: {first:?}, again: {again:?}");
    Ok(())
}

/// All memory, taken and given back, twice the same amount; each block of the node and the zone that its address tells.
fn out_of_memory() -> Outcome {
    let mut counts = [0; 2];
    let (mut misplaced, mut zones) = (0, 0);
    for count in &mut counts {
        let mut last: *mut *mut u8 = core::ptr::null_mut();
        loop {
            let block = heap::kmalloc(64 << 10, Gfp::KERNEL | Gfp::NOWARN).cast::<*mut u8>();
            if block.is_null() {
                break;
            }
            // SAFETY: a fresh block, linked to the one before.
            unsafe { block.write(last.cast()) };
            last = block;
            *count += 1;
            let found = heap::with(|heap| {
                let head = heap.pages().head(heap.pages().at(block.addr())?);
                Some((head.zone(), head.node()))
            });
            misplaced += usize::from(found.is_none() || found != place_of(block.addr() - DIRECT));
            zones |= found.map_or(0, |(zone, node)| 1_u64 << (zone as usize + 3 * node));
        }
        while !last.is_null() {
            // SAFETY: taken above, freed once, its link read before.
            unsafe {
                let next = last.read();
                heap::kfree(last.cast());
                last = next.cast();
            }
        }
    }
    ensure!(counts[0] > 64 && counts[0] == counts[1], "blocks of 64 KiB: {counts:?}");
    ensure!(misplaced == 0, "{misplaced} blocks lie elsewhere than the heap thinks");
    let mut there = 0;
    let managed = heap::with(|heap| {
        for (node, zone) in
            (0..heap.platform().nodes()).flat_map(|node| ZoneKind::ALL.map(|zone| (node, zone)))
        {
            let populated = heap.pages().zone_stats(heap.platform(), node, zone).is_some();
            there |= u64::from(populated) << (zone as usize + 3 * node);
        }
        heap.pages().stats(heap.platform()).managed << PAGE_SHIFT
    });
    ensure!(zones == there, "zones of nodes with memory: {there:#b}, reached: {zones:#b}");
    // The rest: descriptors (1.6 %), blocks of CPUs, ends that are no whole blocks, and the pool of mappings.
    let all = early::all_bytes();
    let rest = all / 32 + (smp::count() << 20) + (24 << 20) + (all / 4).min(64 << 20);
    ensure!(managed + rest >= all, "the heap has {managed} bytes of {all}");
    Ok(())
}
