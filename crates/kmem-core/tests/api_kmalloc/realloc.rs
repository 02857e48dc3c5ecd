//! krealloc and its relatives.

use std::ptr::null_mut;

use kmem_core::config::Config;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::classes::MAX_BYTES;
use kmem_core::kmalloc::{FreeError, ZERO_SIZE_PTR};

use crate::support::{QUIET, Rig, fill, filled, for_each_config, is_zero, small_machine};

for_each_config! {
    krealloc
    krealloc_of_and_to_nothing
    krealloc_with_zeroes
    krealloc_without_memory
    krealloc_of_no_block
    krealloc_array
    krealloc_node_align
    krealloc_node_align_that_shrinks_and_moves
}

crate::support::for_slob! {
    krealloc_of_and_to_nothing
    krealloc_with_zeroes
    krealloc_without_memory
    krealloc_of_no_block
    krealloc_array
    krealloc_node_align
    krealloc_node_align_that_shrinks_and_moves
}

fn krealloc<C: Config>() {
    let rig = Rig::<C>::new();
    let before = rig.holdings();
    let mut block = rig.kmalloc(1);
    fill(block, 1, 7);
    let mut old = 1;
    for size in [8, 9, 100, 500, 5000, 5001, 9000, 40_000, 1 << 20, MAX_BYTES] {
        let usable = rig.ksize(block);
        let new = rig.krealloc(block, size, Gfp::KERNEL).expect("a good block");
        assert_eq!(new == block, size <= usable, "{old} to {size}: it moves when it must");
        assert!(filled(new, old, 7), "{old} to {size}");
        fill(new, size, 7);
        (block, old) = (new, size);
    }
    // It never moves to a smaller class.
    for size in [MAX_BYTES / 2, 5000, 1] {
        assert_eq!(rig.krealloc(block, size, Gfp::KERNEL), Ok(block));
        assert!(filled(block, size, 7));
    }
    assert_eq!(rig.kfree(block), Ok(()));
    assert_eq!(rig.holdings(), before);
    // An object of a typed cache fits in its slot (in SLAB: in what its creator asked for), or becomes a block.
    let cache = rig.cache("c", 60);
    let object = rig.alloc(cache, Gfp::KERNEL);
    let room = if crate::support::is_slub::<C>() { 64 } else { 60 };
    assert_eq!((rig.krealloc(object, room, Gfp::KERNEL), rig.ksize(object)), (Ok(object), room));
    let block = rig.krealloc(object, 65, Gfp::KERNEL).expect("a good object");
    assert!(block != object && rig.in_use(cache) == 0);
}

fn krealloc_of_and_to_nothing<C: Config>() {
    let rig = Rig::<C>::new();
    let before = rig.holdings();
    for nothing in [null_mut(), ZERO_SIZE_PTR] {
        assert_eq!(rig.krealloc(nothing, 0, Gfp::KERNEL), Ok(ZERO_SIZE_PTR));
        let block = rig.krealloc(nothing, 100, Gfp::KERNEL).expect("as kmalloc");
        assert!(rig.ksize(block) >= 100);
        assert_eq!(rig.krealloc(block, 0, Gfp::KERNEL), Ok(ZERO_SIZE_PTR));
    }
    assert_eq!(rig.holdings(), before, "size 0 frees");
}

/// Zeroed at every step: whatever was not written is zero, as far as the block reaches.
fn krealloc_with_zeroes<C: Config>() {
    let rig = Rig::<C>::new();
    // Make the memory dirty first.
    for size in [64, 128, 200, 1000, 30_000] {
        let dirty = rig.kmalloc(size);
        fill(dirty, rig.ksize(dirty), 0x77);
        assert_eq!(rig.kfree(dirty), Ok(()));
    }
    let gfp = Gfp::KERNEL | Gfp::ZERO;
    let mut block = rig.heap.kmalloc(50, gfp);
    let mut old = 50;
    for size in [60, 40, 64, 100, 70, 128, 200, 150, 900, 10, 1000, 30_000, 25_000] {
        fill(block, old, 9);
        let new = rig.krealloc(block, size, gfp).expect("a good block");
        assert!(filled(new, old.min(size), 9), "{old} to {size}");
        let usable = rig.ksize(new);
        assert!(is_zero(new.wrapping_add(old.min(size)), usable - old.min(size)), "{old} to {size}");
        (block, old) = (new, size);
    }
}

fn krealloc_without_memory<C: Config>() {
    let rig = Rig::<C>::on(small_machine());
    let block = rig.kmalloc(3000);
    fill(block, 3000, 4);
    let before = rig.holdings();
    for size in [MAX_BYTES + 1, usize::MAX, MAX_BYTES] {
        assert_eq!(rig.krealloc(block, size, QUIET), Ok(null_mut()), "{size}");
        assert!(filled(block, 3000, 4), "the old block is intact");
        assert_eq!(rig.holdings(), before);
    }
    assert_eq!(rig.said(), "");
    assert_eq!(rig.krealloc(block, MAX_BYTES + 1, Gfp::KERNEL), Ok(null_mut()));
    assert!(rig.said().contains("more than the largest block"));
    let grown = rig.krealloc(block, 100_000, QUIET).expect("a good block");
    assert!(filled(grown, 3000, 4));
    assert_eq!(rig.kfree(grown), Ok(()));
}

fn krealloc_of_no_block<C: Config>() {
    let rig = Rig::<C>::new();
    let block = rig.kmalloc(100);
    let mut local = [0_u8; 64];
    let foreign = local.as_mut_ptr();
    for size in [0, 10, 10_000] {
        assert_eq!(rig.krealloc(foreign, size, Gfp::KERNEL), Err(FreeError::Foreign(foreign.addr())));
        let inside = rig.krealloc(block.wrapping_add(8), size, Gfp::KERNEL);
        assert!(matches!(inside, Err(FreeError::Interior { .. })), "{inside:?}");
    }
    assert_eq!(rig.kfree(block), Ok(()), "it was not touched");
    rig.holdings();
}

fn krealloc_array<C: Config>() {
    let rig = Rig::<C>::new();
    // SAFETY: the test holds the block.
    let resize = |block, n, size| unsafe { rig.heap.krealloc_array(block, n, size, Gfp::KERNEL) };
    let block = resize(null_mut(), 10, 10).expect("as kmalloc");
    fill(block, 100, 2);
    for (n, size) in [(usize::MAX, 2), (1 << (usize::BITS / 2 + 8), 1 << (usize::BITS / 2 + 8))] {
        assert_eq!(resize(block, n, size), Ok(null_mut()));
    }
    assert_eq!(rig.said(), "", "an overflow is no report");
    let block = resize(block, 100, 10).expect("a good block");
    assert!(filled(block, 100, 2) && rig.ksize(block) >= 1000);
    assert_eq!(resize(block, 0, 10), Ok(ZERO_SIZE_PTR));
}

fn krealloc_node_align<C: Config>() {
    let rig = Rig::<C>::two_nodes();
    let before = rig.holdings();
    // SAFETY: the test holds the block.
    let resize = |block, size, align, gfp, node| unsafe {
        rig.heap.krealloc_node_align(block, size, align, gfp, node)
    };
    // From nothing, at every alignment there is.
    for align in (0..=22).map(|shift| 1 << shift) {
        for size in [1, 100, 500, 5000, 9000, 40_000, 300_000] {
            let block = resize(null_mut(), size, align, Gfp::KERNEL, Some(1)).expect("as kmalloc");
            assert!(!block.is_null() && block.addr().is_multiple_of(align), "{size} at {align}");
            assert_eq!(rig.node_of(block), 1);
            assert!(rig.ksize(block) >= size);
            assert_eq!(rig.kfree(block), Ok(()));
        }
    }
    let nowhere = resize(null_mut(), 40_000, 65_536, Gfp::KERNEL, Some(9)).expect("as kmalloc");
    assert_eq!((rig.node_of(nowhere), rig.kfree(nowhere)), (0, Ok(())), "no such node is no preference");
    for align in [0, 3, 48] {
        assert_eq!(resize(null_mut(), 100, align, Gfp::KERNEL, None), Ok(null_mut()), "no alignment");
    }
    assert_eq!(resize(null_mut(), 100, 8 << 20, QUIET, None), Ok(null_mut()), "nothing is aligned so");
    // Another node is reason to move only if it is insisted on.
    let block = resize(null_mut(), 1000, 1, Gfp::KERNEL, Some(0)).expect("as kmalloc");
    fill(block, 1000, 5);
    assert_eq!(resize(block, 900, 1, Gfp::KERNEL, Some(1)), Ok(block));
    assert_eq!(resize(block, 900, 1, Gfp::KERNEL | Gfp::THISNODE, Some(0)), Ok(block));
    assert_eq!(resize(block, 900, 1, Gfp::KERNEL | Gfp::THISNODE, None), Ok(block));
    let moved = resize(block, 1000, 1, Gfp::KERNEL | Gfp::THISNODE, Some(1)).expect("a good block");
    assert!(moved != block && rig.node_of(moved) == 1 && filled(moved, 1000, 5));
    assert_eq!(rig.kfree(moved), Ok(()));
    assert_eq!(rig.holdings(), before);
}

/// A move to a smaller block copies what the smaller one has room for, and not a byte more.
fn krealloc_node_align_that_shrinks_and_moves<C: Config>() {
    let rig = Rig::<C>::two_nodes();
    let gfp = Gfp::KERNEL | Gfp::THISNODE;
    // A neighbour on each side of where the small block will be.
    let fence: Vec<_> = (0..600).map(|_| rig.heap.kmalloc_node(64, gfp, Some(1))).collect();
    fence.iter().for_each(|&block| fill(block, 64, 0x33));
    let holes: Vec<_> = fence.iter().copied().step_by(2).collect();
    holes.iter().for_each(|&block| assert_eq!(rig.kfree(block), Ok(())));
    for _ in 0..holes.len() {
        let large = rig.heap.kmalloc_node(4096, gfp, Some(0));
        fill(large, 4096, 6);
        // SAFETY: the test holds the block.
        let small =
            unsafe { rig.heap.krealloc_node_align(large, 64, 1, gfp, Some(1)) }.expect("a good block");
        assert!(rig.node_of(small) == 1 && filled(small, 64, 6));
    }
    assert!(
        fence.iter().skip(1).step_by(2).all(|&block| filled(block, 64, 0x33)),
        "the neighbours are as they were"
    );
}
