//! kmalloc, kfree, ksize and their nearest relatives.

use std::collections::BTreeSet;

use kmem_core::config::Config;
use kmem_core::engine::beside::Beside;
use kmem_core::gfp::Gfp;
use kmem_core::heap::Kmem;
use kmem_core::kmalloc::classes::{ClassSet, MAX_BYTES};
use kmem_core::kmalloc::{FreeError, ZERO_SIZE_PTR, zero_or_null};
use kmem_core::page::Kind;
use kmem_sim::Machine;

use crate::support::{QUIET, Rig, fill, filled, for_each_config, is_zero, small_machine};

for_each_config! {
    kmalloc
    kmalloc_of_nothing
    kmalloc_of_too_much
    kmalloc_without_memory
    kmalloc_alignment
    kmalloc_kinds
    kmalloc_node
    kzalloc
    kfree
    kfree_of_no_block
    kfree_twice
    kfree_sensitive
    ksize
    kmalloc_size_roundup
    kmemdup
}

crate::support::for_slob! {
    kmalloc
    kmalloc_of_nothing
    kmalloc_of_too_much
    kmalloc_without_memory
    kzalloc
    kfree_of_no_block
    kfree_sensitive
    kmemdup
}

fn kmalloc<C: Config>() {
    let rig = Rig::<C>::new();
    let before = rig.holdings();
    let sizes = [1, 7, 8, 9, 96, 100, 192, 193, 4096, 8192, 8193, 20_000, 32_769, 100_000, MAX_BYTES];
    let blocks: Vec<_> = sizes.iter().map(|&size| (size, rig.kmalloc(size))).collect();
    for (i, &(size, block)) in blocks.iter().enumerate() {
        fill(block, size, i as u8);
    }
    for (i, &(size, block)) in blocks.iter().enumerate() {
        assert!(filled(block, size, i as u8), "{size}");
        assert!(rig.ksize(block) >= size);
        assert_eq!(rig.kfree(block), Ok(()));
    }
    assert_eq!(rig.holdings(), before);
    assert_eq!(rig.said(), "");
}

fn kmalloc_of_nothing<C: Config>() {
    let rig = Rig::<C>::new();
    assert_eq!(ZERO_SIZE_PTR.addr(), 16);
    for gfp in [Gfp::KERNEL, Gfp::ATOMIC | Gfp::ZERO, Gfp::DMA] {
        assert_eq!(rig.heap.kmalloc(0, gfp), ZERO_SIZE_PTR);
        assert_eq!(rig.heap.kmalloc_node(0, gfp, Some(0)), ZERO_SIZE_PTR);
    }
    assert!(zero_or_null(std::ptr::null()) && zero_or_null(ZERO_SIZE_PTR));
    assert!(!zero_or_null(std::ptr::without_provenance(17)));
}

fn kmalloc_of_too_much<C: Config>() {
    let rig = Rig::<C>::new();
    for size in [MAX_BYTES + 1, usize::MAX / 2, usize::MAX] {
        assert!(rig.heap.kmalloc(size, Gfp::KERNEL).is_null());
        assert!(rig.said().contains(&format!("kmalloc of {size} bytes")));
        assert!(rig.heap.kmalloc(size, QUIET).is_null());
        assert!(rig.heap.kmalloc_node(size, QUIET, Some(0)).is_null());
        assert_eq!(rig.said(), "", "a quiet request");
    }
}

fn kmalloc_without_memory<C: Config>() {
    let rig = Rig::<C>::on(small_machine());
    for size in [8, 1000, 8192, 20_000, 100_000, MAX_BYTES] {
        let before = rig.holdings();
        let mut blocks = Vec::new();
        while let block = rig.heap.kmalloc(size, QUIET)
            && !block.is_null()
        {
            blocks.push(block);
        }
        assert!(rig.heap.kmalloc(size, QUIET).is_null(), "{size}");
        assert!(blocks.len() < MAX_BYTES / size, "{size}");
        blocks.into_iter().for_each(|block| assert_eq!(rig.kfree(block), Ok(())));
        assert_eq!(rig.holdings(), before, "{size}");
    }
    assert_eq!(rig.kfree(rig.kmalloc(2 << 20)), Ok(()), "memory came back");
}

/// The minimum always, powers of two to themselves where blocks have no headers, pages to a page.
fn kmalloc_alignment<C: Config>() {
    let rig = Rig::<C>::new();
    for size in (1..=300).chain([500, 512, 768, 1000, 1024, 2048, 4096, 8192, 16_384, 65_536, 1 << 20]) {
        for _ in 0..5 {
            let address = rig.kmalloc(size).addr();
            assert!(address.is_multiple_of(C::Classes::MIN_ALIGN), "{size}");
            let natural = C::Classes::LARGEST.min(if C::EXACT_LARGE { 4096 } else { usize::MAX });
            let headed = C::Classes::beside(C::Classes::class_of(size)) != Beside::Nothing;
            if size.is_power_of_two() && size <= natural && !headed {
                assert!(address.is_multiple_of(size), "{size}");
            }
            if size >= 4096 && size.is_power_of_two() && !headed {
                assert!(address.is_multiple_of(if C::EXACT_LARGE { 4096 } else { size }), "{size}");
            }
        }
    }
}

/// Flags choose the copy of the classes; pages of different copies never mix.
fn kmalloc_kinds<C: Config>() {
    let machine = Machine::builder().cpus(2).zones([2048, 2048]).build();
    let rig = Rig::<C>::on(machine);
    let cache_of = |gfp| {
        let block = rig.heap.kmalloc(100, gfp);
        let mut text = String::new();
        assert_eq!(rig.heap.dump_obj(block, &mut text), Ok(true));
        let name = text.split(' ').nth(1).expect("a name").to_owned();
        (rig.slab_of(block).0, name)
    };
    let (normal, normal_name) = cache_of(Gfp::KERNEL);
    let (reclaim, reclaim_name) = cache_of(Gfp::KERNEL | Gfp::RECLAIMABLE | Gfp::ACCOUNT);
    let (dma, dma_name) = cache_of(Gfp::KERNEL | Gfp::DMA | Gfp::RECLAIMABLE);
    assert_eq!(BTreeSet::from([normal, reclaim, dma]).len(), 3);
    assert!(normal_name.starts_with("kmalloc-") && !normal_name.contains("rcl"), "{normal_name}");
    assert!(reclaim_name.starts_with("kmalloc-rcl-"), "{reclaim_name}");
    assert!(dma_name.starts_with("dma-kmalloc-"), "{dma_name}");
    let zone = rig.machine.zone_range(0, kmem_core::page::ZoneKind::Dma);
    let page = rig.heap.pages().at(dma).map(|page| rig.heap.pages().index(page)).expect("a page");
    assert!((zone.first..zone.first + zone.count).contains(&page), "the DMA zone");
}

fn kmalloc_node<C: Config>() {
    let rig = Rig::<C>::two_nodes();
    let before = rig.holdings();
    for size in [40, 5000, 30_000, 1 << 20] {
        for node in 0..2 {
            for gfp in [Gfp::KERNEL, Gfp::KERNEL | Gfp::THISNODE] {
                let block = rig.heap.kmalloc_node(size, gfp, Some(node));
                assert_eq!(rig.node_of(block), node, "{size}");
                assert_eq!(rig.kfree(block), Ok(()));
                let zeroed = rig.heap.kzalloc_node(size, gfp, Some(node));
                assert!(rig.node_of(zeroed) == node && is_zero(zeroed, size), "{size}");
                assert_eq!(rig.kfree(zeroed), Ok(()));
            }
        }
        for none in [None, Some(7)] {
            let block = rig.heap.kmalloc_node(size, Gfp::KERNEL, none);
            assert_eq!(rig.node_of(block), 0, "this CPU's");
            assert_eq!(rig.kfree(block), Ok(()));
        }
    }
    assert_eq!(rig.holdings(), before);
}

fn kzalloc<C: Config>() {
    let rig = Rig::<C>::new();
    for size in [1, 8, 33, 100, 1000, 5000, 9000, 50_000, 1 << 20] {
        let dirty = rig.kmalloc(size);
        let usable = rig.ksize(dirty);
        fill(dirty, usable, 1);
        assert_eq!(rig.kfree(dirty), Ok(()));
        let block = rig.heap.kzalloc(size, Gfp::KERNEL);
        assert!(is_zero(block, rig.ksize(block)), "{size}: all of the class");
        assert_eq!(rig.kfree(block), Ok(()));
    }
    assert_eq!(rig.heap.kzalloc(0, Gfp::KERNEL), ZERO_SIZE_PTR);
    assert!(rig.heap.kzalloc(usize::MAX, QUIET).is_null());
}

fn kfree<C: Config>() {
    let rig = Rig::<C>::new();
    let before = rig.holdings();
    assert_eq!(rig.kfree(std::ptr::null_mut()), Ok(()));
    assert_eq!(rig.kfree(ZERO_SIZE_PTR), Ok(()));
    // Objects of typed caches too.
    let cache = rig.cache("c", 60);
    assert_eq!(rig.kfree(rig.alloc(cache, Gfp::KERNEL)), Ok(()));
    assert_eq!(rig.in_use(cache), 0);
    assert_eq!(rig.destroy(cache), Ok(true));
    // On any CPU.
    for (i, size) in [10, 3000, 50_000, 10, 3000].into_iter().enumerate() {
        let block = rig.kmalloc(size);
        rig.machine.on_cpu(i % 4, || assert_eq!(rig.kfree(block), Ok(())));
    }
    assert_eq!(rig.holdings(), before);
}

fn kfree_of_no_block<C: Config>() {
    let rig = Rig::<C>::new();
    let (small, large) = (rig.kmalloc(100), rig.pages_block(100_000));
    let mapping = rig.heap.kvmalloc(5 << 20, Gfp::KERNEL);
    let before = rig.holdings();
    let inside = |block: *mut u8, by| rig.kfree(block.wrapping_add(by)).expect_err("nothing starts there");
    for by in [1, 8, 60] {
        assert!(
            matches!(inside(small, by), FreeError::Interior { address, .. } if address == small.addr() + by)
        );
    }
    for by in [1, 8, 4096, 50_000, 99_999] {
        assert_eq!(inside(large, by), FreeError::NotObject(large.addr() + by));
    }
    for by in [1, 8, 4096, 4 << 20] {
        assert_eq!(inside(mapping, by), FreeError::Foreign(mapping.addr() + by));
    }
    let mut local = 0_u64;
    let stray: [*mut u8; 3] = [
        (&raw mut local).cast(),
        std::ptr::without_provenance_mut(17),
        std::ptr::without_provenance_mut(usize::MAX & !4095),
    ];
    for foreign in stray {
        let error = rig.kfree(foreign).expect_err("not memory of the heap");
        assert_eq!(error, FreeError::Foreign(foreign.addr()));
        assert!(error.to_string().contains("not memory of this heap"));
        assert_eq!(rig.heap.ksize(foreign), Err(error));
    }
    // Pages that belong to a user of pages.
    let run = rig.heap.pages().alloc(&rig.machine, Gfp::KERNEL, 2, None).expect("pages");
    assert_eq!(rig.kfree(run.address()), Err(FreeError::NotObject(run.address().addr())));
    rig.heap.pages().free(&rig.machine, run);
    assert_eq!(rig.holdings(), before, "nothing was changed");
    for block in [small, large, mapping] {
        assert_eq!(rig.kfree(block), Ok(()));
    }
}

fn kfree_twice<C: Config>() {
    let rig = Rig::<C>::new();
    let small = rig.kmalloc(100);
    assert_eq!(rig.kfree(small), Ok(()));
    let error = rig.kfree(small).expect_err("freed before");
    assert!(matches!(error, FreeError::Double { address, .. } if address == small.addr()), "{error}");
    assert!(error.to_string().contains("kmalloc-"), "the class is named: {error}");
    let large = rig.pages_block(100_000);
    assert_eq!(rig.kfree(large), Ok(()));
    assert_eq!(rig.kfree(large), Err(FreeError::NotObject(large.addr())));
    let mapping = rig.heap.kvmalloc(5 << 20, Gfp::KERNEL);
    assert_eq!(rig.kfree(mapping), Ok(()));
    assert_eq!(rig.kfree(mapping), Err(FreeError::Foreign(mapping.addr())));
    rig.holdings();
}

fn kfree_sensitive<C: Config>() {
    let rig = Rig::<C>::new();
    // SAFETY: the tests below hold the blocks, or ask for the error.
    let sensitive = |block| unsafe { rig.heap.kfree_sensitive(block) };
    assert_eq!(sensitive(std::ptr::null_mut()), Ok(()));
    assert_eq!(sensitive(ZERO_SIZE_PTR), Ok(()));
    for size in [64, 1000, 5000] {
        let secret = rig.kmalloc(size);
        let usable = rig.ksize(secret);
        fill(secret, usable, 0x5a);
        assert_eq!(sensitive(secret), Ok(()));
        let again = rig.kmalloc(size);
        assert_eq!(again, secret, "the block freed last");
        assert!(is_zero(again, usable), "{size}: nothing is left of it, in the slack either");
        assert_eq!(rig.kfree(again), Ok(()));
    }
    let large = rig.pages_block(100_000);
    assert_eq!(sensitive(large.wrapping_add(4096)), Err(FreeError::NotObject(large.addr() + 4096)));
    assert_eq!(sensitive(large), Ok(()));
    let mut local = [7_u8; 64];
    assert_eq!(sensitive(local.as_mut_ptr()), Err(FreeError::Foreign(local.as_ptr().addr())));
    assert_eq!(local, [7; 64], "not cleared");
}

fn ksize<C: Config>() {
    let rig = Rig::<C>::new();
    assert_eq!(rig.heap.ksize(std::ptr::null()), Ok(0));
    assert_eq!(rig.heap.ksize(ZERO_SIZE_PTR), Ok(0));
    for size in (1..10_000).step_by(37).chain([12_289, 100_000, MAX_BYTES]) {
        let block = rig.kmalloc(size);
        let usable = rig.ksize(block);
        assert_eq!(usable, Kmem::<Machine, C>::kmalloc_size_roundup(size), "{size}");
        fill(block, usable, 1);
        assert_eq!(rig.kfree(block), Ok(()));
    }
    // A typed object: all of its slot, unless something else is in it.
    use kmem_core::cache::CacheArgs;
    use kmem_core::flags::SlabFlags;
    let typed = |flags| {
        let cache = rig.create("c", 20, CacheArgs { flags: Some(flags), ..CacheArgs::default() });
        rig.ksize(rig.alloc(cache.expect("a cache"), Gfp::KERNEL))
    };
    // In SLAB, what was asked.
    let slot = if crate::support::is_slub::<C>() { 24 } else { 20 };
    assert_eq!(typed(SlabFlags::empty()), slot);
    assert_eq!(typed(SlabFlags::RED_ZONE), 20);
    assert_eq!(typed(SlabFlags::POISON), 20);
    assert_eq!(typed(SlabFlags::STORE_USER), slot, "up to the metadata");
    assert_eq!(typed(SlabFlags::TYPESAFE_BY_RCU), slot);
    let mapping = rig.heap.kvmalloc((5 << 20) + 1, Gfp::KERNEL);
    assert_eq!(rig.ksize(mapping), (5 << 20) + 4096);
    let large = rig.pages_block(100_000);
    let inside = large.wrapping_add(8192);
    assert_eq!(rig.heap.ksize(inside), Err(FreeError::NotObject(inside.addr())));
}

fn kmalloc_size_roundup<C: Config>() {
    let roundup = Kmem::<Machine, C>::kmalloc_size_roundup;
    assert_eq!(roundup(0), 0);
    for size in [MAX_BYTES + 1, usize::MAX] {
        assert_eq!(roundup(size), size, "what cannot be served is not rounded");
    }
    assert_eq!((roundup(MAX_BYTES), roundup(MAX_BYTES - 1)), (MAX_BYTES, MAX_BYTES));
    for size in (1..100_000).step_by(61) {
        let rounded = roundup(size);
        assert!(rounded >= size && roundup(rounded) == rounded, "{size}");
    }
    let rig = Rig::<C>::new();
    assert_eq!(rig.kind_of(rig.kmalloc(C::Classes::LARGEST)), Some(Kind::Slab));
    if C::Classes::LARGEST < MAX_BYTES {
        assert_eq!(rig.kind_of(rig.kmalloc(C::Classes::LARGEST + 1)), Some(Kind::Large));
    }
}

fn kmemdup<C: Config>() {
    let rig = Rig::<C>::new();
    let text: Vec<u8> = (0..5000).map(|i| i as u8).collect();
    let copy = rig.heap.kmemdup(&text, Gfp::KERNEL);
    assert_eq!(crate::support::bytes(copy, 5000), text);
    assert_eq!(rig.heap.kmemdup(&[], Gfp::KERNEL), ZERO_SIZE_PTR);
    assert!(rig.heap.kmemdup(&vec![0; MAX_BYTES + 1], QUIET).is_null());
    assert_eq!(rig.kfree(copy), Ok(()));
}
