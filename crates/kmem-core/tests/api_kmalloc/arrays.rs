//! Arrays, and many blocks at once.

use std::collections::BTreeSet;
use std::ptr::null_mut;

use kmem_core::config::Config;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::classes::MAX_BYTES;
use kmem_core::kmalloc::{FreeError, ZERO_SIZE_PTR};

use crate::support::{QUIET, Rig, fill, for_each_config, is_zero, small_machine};

for_each_config! {
    kmalloc_array
    kcalloc
    kmalloc_array_node
    kmalloc_bulk
    kmalloc_bulk_without_memory
    kfree_bulk
}

crate::support::for_slob! {
    kmalloc_array
    kcalloc
    kmalloc_array_node
    kmalloc_bulk
    kmalloc_bulk_without_memory
    kfree_bulk
}

const OVERFLOWS: [(usize, usize); 4] = [
    (usize::MAX, 2),
    (2, usize::MAX),
    (usize::MAX, usize::MAX),
    (1 << (usize::BITS / 2 + 1), 1 << (usize::BITS / 2 - 1)),
];

fn kmalloc_array<C: Config>() {
    let rig = Rig::<C>::new();
    for (n, size) in OVERFLOWS {
        assert!(rig.heap.kmalloc_array(n, size, Gfp::KERNEL).is_null());
        assert!(rig.heap.kcalloc(n, size, Gfp::KERNEL).is_null());
        assert!(rig.heap.kmalloc_array_node(n, size, Gfp::KERNEL, None).is_null());
    }
    assert_eq!(rig.said(), "", "an overflow is no report");
    assert!(rig.heap.kmalloc_array(MAX_BYTES, 2, Gfp::KERNEL).is_null());
    assert!(rig.said().contains("kmalloc of"), "a product that is too large is one");
    for (n, size) in [(0, 8), (8, 0), (0, 0), (0, usize::MAX), (usize::MAX, 0)] {
        assert_eq!(rig.heap.kmalloc_array(n, size, Gfp::KERNEL), ZERO_SIZE_PTR);
        assert_eq!(rig.heap.kcalloc(n, size, Gfp::KERNEL), ZERO_SIZE_PTR);
    }
    let array = rig.heap.kmalloc_array(100, 12, Gfp::KERNEL);
    assert!(rig.ksize(array) >= 1200);
    assert_eq!(rig.kfree(array), Ok(()));
}

fn kcalloc<C: Config>() {
    let rig = Rig::<C>::new();
    let dirty = rig.kmalloc(1200);
    fill(dirty, 1200, 1);
    assert_eq!(rig.kfree(dirty), Ok(()));
    let array = rig.heap.kcalloc(100, 12, Gfp::KERNEL);
    assert_eq!(array, dirty);
    assert!(is_zero(array, rig.ksize(array)));
}

/// And `kcalloc_node`.
fn kmalloc_array_node<C: Config>() {
    let rig = Rig::<C>::two_nodes();
    for node in 0..2 {
        let array = rig.heap.kmalloc_array_node(10, 100, Gfp::KERNEL, Some(node));
        assert_eq!(rig.node_of(array), node);
        fill(array, 1000, 3);
        assert_eq!(rig.kfree(array), Ok(()));
        let array = rig.heap.kcalloc_node(10, 100, Gfp::KERNEL, Some(node));
        assert!(rig.node_of(array) == node && is_zero(array, 1000));
    }
    assert_eq!(rig.heap.kcalloc_node(0, 100, Gfp::KERNEL, Some(1)), ZERO_SIZE_PTR);
    assert!(rig.heap.kcalloc_node(usize::MAX, 100, Gfp::KERNEL, Some(1)).is_null());
}

fn kmalloc_bulk<C: Config>() {
    let rig = Rig::<C>::new();
    let before = rig.holdings();
    assert!(rig.heap.kmalloc_bulk(100, Gfp::KERNEL, &mut []));
    let mut none = [null_mut(); 3];
    assert!(rig.heap.kmalloc_bulk(0, Gfp::KERNEL, &mut none));
    assert_eq!(none, [ZERO_SIZE_PTR; 3]);
    for (size, n) in [(8, 1000), (100, 200), (9000, 10), (50_000, 5)] {
        let mut blocks = vec![null_mut(); n];
        assert!(rig.heap.kmalloc_bulk(size, Gfp::KERNEL | Gfp::ZERO, &mut blocks));
        assert_eq!(blocks.iter().collect::<BTreeSet<_>>().len(), n);
        for &block in &blocks {
            assert!(is_zero(block, size));
            fill(block, size, 1);
        }
        // SAFETY: the test holds the blocks.
        assert_eq!(unsafe { rig.heap.kfree_bulk(&mut blocks) }, Ok(()));
    }
    assert_eq!(rig.holdings(), before);
}

fn kmalloc_bulk_without_memory<C: Config>() {
    let rig = Rig::<C>::on(small_machine());
    for (size, n) in [(1000, 5000), (8192, 600), (100_000, 50), (MAX_BYTES + 1, 2)] {
        let before = rig.holdings();
        let mut blocks = vec![std::ptr::without_provenance_mut(5); n];
        assert!(!rig.heap.kmalloc_bulk(size, QUIET, &mut blocks), "{n} of {size}");
        assert!(blocks.iter().all(|block| block.is_null()));
        assert_eq!(rig.holdings(), before, "nothing was lost");
    }
}

fn kfree_bulk<C: Config>() {
    let rig = Rig::<C>::new();
    let before = rig.holdings();
    // SAFETY: the test holds the blocks, or asks for the error.
    let free = |blocks: &mut [*mut u8]| unsafe { rig.heap.kfree_bulk(blocks) };
    assert_eq!(free(&mut []), Ok(()));
    let mut blocks: Vec<_> = [0, 8, 100, 3000, 30_000, 1 << 20].map(|size| rig.kmalloc(size)).into();
    blocks.extend([null_mut(), rig.heap.kvmalloc(5 << 20, Gfp::KERNEL)]);
    assert_eq!(free(&mut blocks), Ok(()));
    let stray = std::ptr::without_provenance_mut(4096);
    let mut blocks = [rig.kmalloc(8), stray, rig.kmalloc(100_000)];
    assert_eq!(free(&mut blocks), Err(FreeError::Foreign(4096)));
    assert_eq!(rig.holdings(), before, "the others are freed");
}
