//! kvmalloc and its relatives.

use std::ptr::null_mut;

use kmem_core::config::Config;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::classes::MAX_BYTES;
use kmem_core::kmalloc::vmalloc::KVMALLOC_MAX;
use kmem_core::kmalloc::{FreeError, ZERO_SIZE_PTR};
use kmem_core::platform::BLOCK_PAGES;
use kmem_sim::Machine;

use crate::support::{QUIET, Rig, fill, filled, for_each_config, is_zero};

for_each_config! {
    kvmalloc
    kvmalloc_of_too_much
    kvmalloc_falls_back_when_pages_are_short
    kvmalloc_that_may_not_wait
    kvmalloc_without_memory
    kvmalloc_node_align
    kvzalloc
    kvmalloc_array
    kvfree
    kvfree_sensitive
    kvrealloc
    kvrealloc_of_a_mapping
    kvrealloc_without_memory
}

crate::support::for_slob! {
    kvmalloc
    kvmalloc_of_too_much
    kvmalloc_falls_back_when_pages_are_short
    kvmalloc_that_may_not_wait
    kvmalloc_without_memory
    kvmalloc_node_align
    kvzalloc
    kvmalloc_array
    kvfree
    kvfree_sensitive
    kvrealloc
    kvrealloc_of_a_mapping
    kvrealloc_without_memory
}

/// A heap on a machine with one block of pages and room for mappings.
fn scarce<C: Config>() -> Rig<C> {
    Rig::on(Machine::builder().memory_per_node(BLOCK_PAGES).map_limit(64 << 20).build())
}

fn mapped<C: Config>(rig: &Rig<C>, block: *mut u8) -> bool {
    assert!(!block.is_null());
    rig.kind_of(block).is_none()
}

fn kvmalloc<C: Config>() {
    let rig = Rig::<C>::new();
    let before = rig.holdings();
    assert_eq!(rig.heap.kvmalloc(0, Gfp::KERNEL), ZERO_SIZE_PTR);
    for size in [1, 100, 4096, 4097, 100_000, MAX_BYTES, MAX_BYTES + 1, 20 << 20] {
        let block = rig.heap.kvmalloc(size, Gfp::KERNEL);
        assert_eq!(mapped(&rig, block), size > MAX_BYTES, "{size}: kmalloc serves what it can");
        fill(block, size, 1);
        assert!(filled(block, size, 1) && rig.ksize(block) >= size);
        // SAFETY: the test holds the block.
        assert_eq!(unsafe { rig.heap.kvfree(block) }, Ok(()));
    }
    assert_eq!(rig.said(), "", "kmalloc was asked quietly");
    assert_eq!(rig.holdings(), before);
}

fn kvmalloc_of_too_much<C: Config>() {
    let rig = Rig::<C>::new();
    for size in [KVMALLOC_MAX + 1, usize::MAX / 4 * 3, usize::MAX] {
        assert!(rig.heap.kvmalloc(size, Gfp::KERNEL).is_null());
        assert!(rig.said().contains(&format!("kvmalloc of {size} bytes")));
        assert!(rig.heap.kvmalloc(size, QUIET).is_null());
        assert_eq!(rig.said(), "");
    }
}

fn kvmalloc_falls_back_when_pages_are_short<C: Config>() {
    let rig = scarce::<C>();
    let pages = rig.exhaust();
    let block = rig.heap.kvmalloc(4097, Gfp::KERNEL);
    assert!(mapped(&rig, block));
    assert!(is_zero(block, 4097), "a mapping is zero");
    assert_eq!(rig.ksize(block), 8192);
    // A page or less never is one; its classes may have free blocks, but no new slab.
    let mut small = Vec::new();
    while let block = rig.heap.kvmalloc(4096, QUIET)
        && !block.is_null()
    {
        assert!(!mapped(&rig, block));
        small.push(block);
    }
    assert!(small.len() < 32);
    rig.relent(pages);
    small.push(block);
    small.into_iter().for_each(|block| assert_eq!(rig.kfree(block), Ok(())));
    assert_eq!(rig.holdings()["map bytes"], Rig::<C>::new().holdings()["map bytes"]);
}

fn kvmalloc_that_may_not_wait<C: Config>() {
    let rig = scarce::<C>();
    for gfp in [Gfp::ATOMIC | Gfp::NOWARN, Gfp::NOWAIT] {
        assert!(rig.heap.kvmalloc(MAX_BYTES + 1, gfp).is_null(), "it never falls back");
    }
    let block = rig.heap.kvmalloc(20_000, Gfp::ATOMIC);
    assert!(!mapped(&rig, block), "there are pages");
    let two = Rig::<C>::two_nodes();
    assert!(
        two.heap.kvmalloc_node(MAX_BYTES + 1, QUIET | Gfp::THISNODE, Some(1)).is_null(),
        "a mapping is of no node"
    );
    assert!(mapped(&two, two.heap.kvmalloc_node(MAX_BYTES + 1, QUIET, Some(1))));
}

fn kvmalloc_without_memory<C: Config>() {
    let rig = Rig::<C>::on(Machine::builder().memory_per_node(BLOCK_PAGES).map_limit(8 << 20).build());
    let before = rig.holdings();
    assert!(rig.heap.kvmalloc(9 << 20, QUIET).is_null());
    let first = rig.heap.kvmalloc(5 << 20, QUIET);
    assert!(mapped(&rig, first));
    assert!(rig.heap.kvmalloc(5 << 20, QUIET).is_null());
    assert_eq!(rig.kfree(first), Ok(()));
    let again = rig.heap.kvmalloc(5 << 20, QUIET);
    assert!(mapped(&rig, again), "the room came back");
    assert_eq!(rig.kfree(again), Ok(()));
    assert_eq!(rig.holdings(), before);
}

fn kvmalloc_node_align<C: Config>() {
    let rig = Rig::<C>::two_nodes();
    let before = rig.holdings();
    for align in [1, 16, 64, 4096, 65_536, 4 << 20, 8 << 20] {
        for size in [10, 3000, 50_000, 6 << 20] {
            let block = rig.heap.kvmalloc_node_align(size, align, QUIET, Some(1));
            // What kmalloc cannot align is not mapped for a page or less.
            if align > MAX_BYTES && size <= 4096 {
                assert!(block.is_null());
                continue;
            }
            assert!(!block.is_null() && block.addr().is_multiple_of(align), "{size} at {align}");
            if !mapped(&rig, block) {
                assert_eq!(rig.node_of(block), 1);
            }
            fill(block, size, 1);
            assert_eq!(rig.kfree(block), Ok(()));
        }
    }
    for align in [0, 24] {
        assert!(rig.heap.kvmalloc_node_align(100, align, Gfp::KERNEL, None).is_null());
    }
    assert_eq!(rig.holdings(), before);
}

/// And `kvzalloc_node`.
fn kvzalloc<C: Config>() {
    let rig = Rig::<C>::two_nodes();
    for size in [100, 5000, 100_000, 6 << 20] {
        for _ in 0..2 {
            let block = rig.heap.kvzalloc(size, Gfp::KERNEL);
            assert!(is_zero(block, rig.ksize(block)), "{size}");
            fill(block, size, 1);
            assert_eq!(rig.kfree(block), Ok(()));
            let block = rig.heap.kvzalloc_node(size, Gfp::KERNEL, Some(1));
            assert!(is_zero(block, rig.ksize(block)), "{size}");
            fill(block, size, 1);
            assert_eq!(rig.kfree(block), Ok(()));
        }
    }
}

/// And `kvcalloc`, `kvcalloc_node`.
fn kvmalloc_array<C: Config>() {
    let rig = Rig::<C>::new();
    for (n, size) in [(usize::MAX, 2), (1 << (usize::BITS / 2 + 1), 1 << (usize::BITS / 2 - 1))] {
        assert!(rig.heap.kvmalloc_array(n, size, Gfp::KERNEL).is_null());
        assert!(rig.heap.kvcalloc(n, size, Gfp::KERNEL).is_null());
        assert!(rig.heap.kvcalloc_node(n, size, Gfp::KERNEL, Some(0)).is_null());
    }
    assert_eq!(rig.said(), "", "an overflow is no report");
    assert_eq!(rig.heap.kvmalloc_array(0, 8, Gfp::KERNEL), ZERO_SIZE_PTR);
    assert_eq!(rig.heap.kvcalloc(8, 0, Gfp::KERNEL), ZERO_SIZE_PTR);
    for n in [10, 2000] {
        let array = rig.heap.kvmalloc_array(n, 3000, Gfp::KERNEL);
        fill(array, n * 3000, 1);
        assert_eq!(rig.kfree(array), Ok(()));
        let array = rig.heap.kvcalloc(n, 3000, Gfp::KERNEL);
        assert!(is_zero(array, n * 3000));
        fill(array, n * 3000, 1);
        assert_eq!(rig.kfree(array), Ok(()));
        assert!(is_zero(rig.heap.kvcalloc_node(n, 3000, Gfp::KERNEL, Some(0)), n * 3000));
    }
}

fn kvfree<C: Config>() {
    let rig = Rig::<C>::new();
    // SAFETY: the test holds the blocks, or asks for the error.
    let free = |block| unsafe { rig.heap.kvfree(block) };
    assert_eq!(free(null_mut()), Ok(()));
    assert_eq!(free(ZERO_SIZE_PTR), Ok(()));
    assert_eq!(free(rig.kmalloc(10)), Ok(()), "what kmalloc gave");
    let mapping = rig.heap.kvmalloc(5 << 20, Gfp::KERNEL);
    assert_eq!(free(mapping.wrapping_add(4096)), Err(FreeError::Foreign(mapping.addr() + 4096)));
    assert_eq!(free(mapping), Ok(()));
    assert_eq!(free(mapping), Err(FreeError::Foreign(mapping.addr())));
}

fn kvfree_sensitive<C: Config>() {
    let rig = Rig::<C>::new();
    // SAFETY: the test holds the blocks, or asks for the error.
    let free = |block, len| unsafe { rig.heap.kvfree_sensitive(block, len) };
    assert_eq!(free(null_mut(), 100), Ok(()));
    assert_eq!(free(ZERO_SIZE_PTR, 0), Ok(()));
    for (len, cleared) in [(100, 100), (1000, 1000), (usize::MAX, 1024)] {
        let secret = rig.kmalloc(1024);
        fill(secret, 1024, 0x41);
        assert_eq!(free(secret, len), Ok(()));
        let again = rig.kmalloc(1024);
        assert!(again == secret && is_zero(again, cleared), "{len}");
        assert_eq!(rig.kfree(again), Ok(()));
    }
    let mapping = rig.heap.kvmalloc(5 << 20, Gfp::KERNEL);
    assert_eq!(free(mapping, 5 << 20), Ok(()));
    let mut local = [7_u8; 32];
    assert!(free(local.as_mut_ptr(), 32).is_err() && local == [7; 32]);
}

fn kvrealloc<C: Config>() {
    let rig = Rig::<C>::new();
    let before = rig.holdings();
    assert_eq!(rig.kvrealloc(null_mut(), 0, Gfp::KERNEL), Ok(ZERO_SIZE_PTR));
    let gfp = Gfp::KERNEL | Gfp::ZERO;
    let mut block = rig.kvrealloc(null_mut(), 10, gfp).expect("as kvmalloc");
    let mut old = 10;
    // Up through slabs, pages and mappings, and down again; zero wherever nothing was written.
    let sizes =
        [100, 5000, 90, 50_000, MAX_BYTES, MAX_BYTES + 5, 12 << 20, 9 << 20, 30 << 20, 5 << 20, 100_000, 8];
    for size in sizes {
        fill(block, old, 3);
        block = rig.kvrealloc(block, size, gfp).expect("a good block");
        let kept = old.min(size);
        assert!(!block.is_null() && filled(block, kept, 3), "{old} to {size}");
        assert!(is_zero(block.wrapping_add(kept), rig.ksize(block) - kept), "{old} to {size}");
        old = size;
    }
    assert_eq!(rig.kvrealloc(block, 0, gfp), Ok(ZERO_SIZE_PTR));
    assert_eq!(rig.holdings(), before, "size 0 frees");
    let mut local = 0_u64;
    let foreign = (&raw mut local).cast::<u8>();
    assert_eq!(rig.kvrealloc(foreign, 10, gfp), Err(FreeError::Foreign(foreign.addr())));
}

fn kvrealloc_of_a_mapping<C: Config>() {
    let rig = Rig::<C>::new();
    let mapping = rig.heap.kvmalloc(8 << 20, Gfp::KERNEL);
    fill(mapping, 8 << 20, 1);
    let smaller = rig.kvrealloc(mapping, 5 << 20, Gfp::KERNEL).expect("a good block");
    assert_eq!(rig.ksize(smaller), 5 << 20, "the rest went back");
    let larger = rig.kvrealloc(smaller, 16 << 20, Gfp::KERNEL).expect("a good block");
    assert!(filled(larger, 5 << 20, 1) && rig.ksize(larger) == 16 << 20);
    // Growing asks the platform: not for one who may not wait. Nor beyond what kvmalloc gives.
    assert_eq!(rig.kvrealloc(larger, 20 << 20, Gfp::NOWAIT), Ok(null_mut()));
    assert_eq!(rig.kvrealloc(larger, KVMALLOC_MAX + 1, QUIET), Ok(null_mut()));
    assert!(filled(larger, 5 << 20, 1));
    assert_eq!(rig.kvrealloc(larger, 16 << 20, Gfp::NOWAIT), Ok(larger));
    assert_eq!(rig.kfree(larger), Ok(()));
}

fn kvrealloc_without_memory<C: Config>() {
    let rig = Rig::<C>::on(Machine::builder().memory_per_node(BLOCK_PAGES).map_limit(8 << 20).build());
    let block = rig.kmalloc(100_000);
    fill(block, 100_000, 2);
    let before = rig.holdings();
    assert_eq!(rig.kvrealloc(block, 9 << 20, QUIET), Ok(null_mut()));
    assert!(filled(block, 100_000, 2));
    assert_eq!(rig.holdings(), before);
    let mapping = rig.kvrealloc(block, 6 << 20, QUIET).expect("a good block");
    assert!(mapped(&rig, mapping) && filled(mapping, 100_000, 2));
    assert_eq!(rig.kvrealloc(mapping, 9 << 20, QUIET), Ok(null_mut()));
    assert!(filled(mapping, 100_000, 2) && rig.ksize(mapping) == 6 << 20);
    assert_eq!(rig.kfree(mapping), Ok(()));
}
