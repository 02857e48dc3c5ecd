//! Which page and which place a request gets.

use kmem_core::page::ZoneKind;

use super::*;

#[test]
fn sizes_share_a_page_within_their_bounds() {
    let f = Fixture::new(small(2));
    let small = [f.alloc(8), f.alloc(100), f.alloc(255)];
    let medium = [f.alloc(256), f.alloc(1023)];
    let large = [f.alloc(1024), f.alloc(3072)];
    for blocks in [&small[..], &medium, &large] {
        assert!(blocks.iter().all(|&block| page_of(block) == page_of(blocks[0])), "{blocks:?}");
    }
    assert!(page_of(small[0]) != page_of(medium[0]) && page_of(medium[0]) != page_of(large[0]));
    // Side by side, at the least alignment: 8, 100, and what is left of the page.
    assert_eq!(small.map(|block| block.addr().get() % PAGE_SIZE), [0, 8, 112]);
    let stats = f.check();
    assert_eq!((stats.pages, stats.blocks, stats.on_rings), (3, 7, [1, 1, 0]));
    assert_eq!(stats.free_bytes, 2 * PAGE_SIZE - 8 - 100 - 256 - 256 - 1024);
    for (block, bytes) in small.into_iter().zip([8, 100, 255]).chain(medium.into_iter().zip([256, 1023])) {
        f.free(block, bytes).expect("in use");
    }
    for (block, bytes) in large.into_iter().zip([1024, 3072]) {
        f.free(block, bytes).expect("in use");
    }
    f.check_empty();
}

#[test]
fn the_next_search_starts_where_the_last_succeeded() {
    let f = Fixture::new(small(2));
    // Two full pages, each with what else fits behind 20 objects of 200 bytes.
    let fill = |f: &Fixture| {
        let blocks: Vec<_> = (0..20).map(|_| f.alloc(200)).collect();
        f.alloc(96);
        blocks
    };
    let (old, young) = (fill(&f), fill(&f));
    assert!(page_of(old[0]) != page_of(young[0]));
    assert_eq!(f.check().on_rings, [0, 0, 0]);
    // The page that was full until last comes first, and stays so as long as it serves.
    [old[5], old[6], young[5]].into_iter().for_each(|block| f.free(block, 200).expect("in use"));
    assert_eq!(f.alloc(80), young[5]);
    // Only the older has 240 bytes: it is the first from now on.
    assert_eq!(f.alloc(240), old[5]);
    assert_eq!(page_of(f.alloc(100)), page_of(old[5]));
    // What is left there is too short; the next page on the ring has it, and is the first then.
    assert_eq!(page_of(f.alloc(112)), page_of(young[5]));
    assert_eq!(f.check().on_rings, [2, 0, 0]);
    assert_eq!(page_of(f.alloc(8)), page_of(young[5]));
    f.check();
}

#[test]
fn a_full_page_returns_to_the_ring_of_the_size_freed() {
    let f = Fixture::new(small(2));
    let small = f.alloc(248);
    let rest: Vec<_> = (0..15).map(|_| f.alloc(248)).collect();
    let last = f.alloc(128);
    assert_eq!(page_of(last), page_of(small));
    assert_eq!(f.check().on_rings, [0, 0, 0]);
    f.free(last, 128).expect("in use");
    assert_eq!(f.check().on_rings, [1, 0, 0]);
    assert_eq!(f.alloc(128), last);
    // Objects of 2048 in a page of its own, then one freed: the ring of large ones.
    let [a, b] = [f.alloc(2048), f.alloc(2048)];
    assert_eq!(f.check().on_rings, [0, 0, 0]);
    f.free(a, 2048).expect("in use");
    assert_eq!(f.check().on_rings, [0, 0, 1]);
    f.free(b, 2048).expect("in use");
    f.free(last, 128).expect("in use");
    rest.into_iter().chain([small]).for_each(|block| f.free(block, 248).expect("in use"));
    f.check_empty();
}

#[test]
fn kmalloc_is_naturally_aligned_with_its_header() {
    let f = Fixture::new(small(2));
    let blocks: Vec<_> = (0..12).map(|bit| (1 << bit, f.kmalloc(1 << bit))).collect();
    for &(size, block) in &blocks {
        assert_eq!(block.addr().get() % std::cmp::max(size, 8), 0);
        assert_eq!(f.heap.requested(f.world(), block.as_ptr()), Ok(size));
    }
    let largest = f.kmalloc(4088);
    assert_eq!(largest.addr().get() % PAGE_SIZE, 8);
    let aligned = f.heap.kmalloc_aligned(f.world(), 100, 1024, Gfp::KERNEL, None).expect("memory");
    assert_eq!(aligned.addr().get() % 1024, 0);
    // No place in a page is aligned to 2048 with a header before it and so much behind it.
    assert_eq!(f.heap.kmalloc_aligned(f.world(), 2049, 2048, Gfp::KERNEL, None), None);
    assert_eq!(f.heap.kmalloc_aligned(f.world(), 8, 4096, Gfp::KERNEL, None), None);
    blocks.into_iter().for_each(|(_, block)| f.kfree(block).expect("in use"));
    [largest, aligned].into_iter().for_each(|block| f.kfree(block).expect("in use"));
    f.check_empty();
}

#[test]
fn zeroed_memory_is_zero_to_its_end() {
    let f = Fixture::new(small(2));
    let keep = f.alloc(8);
    let dirty = f.alloc(3000);
    // SAFETY: the block is the test's.
    unsafe { dirty.write_bytes(0xff, 3000) };
    f.free(dirty, 3000).expect("in use");
    let ask = Ask { bytes: 1500, ..Ask::new(1500, Gfp::KERNEL | Gfp::ZERO) };
    let first = f.heap.alloc(f.world(), &ask).expect("memory");
    let second = f.heap.kmalloc(f.world(), 1400, Gfp::KERNEL | Gfp::ZERO, None).expect("memory");
    for (block, len) in [(first, 1500), (second, 1400)] {
        // SAFETY: the block is the test's, and was cleared.
        assert!(unsafe { std::slice::from_raw_parts(block.as_ptr(), len) }.iter().all(|&byte| byte == 0));
    }
    f.free(first, 1500).expect("in use");
    f.kfree(second).expect("in use");
    f.free(keep, 8).expect("in use");
    f.check_empty();
}

/// A page of another node or of a higher zone than asked for is passed over, whatever room it has.
#[test]
fn nodes_and_zones_are_kept() {
    let zones = [BLOCK_PAGES, BLOCK_PAGES];
    let f = Fixture::new(Machine::builder().nodes(2).memory_per_node(4 * BLOCK_PAGES).zones(zones));
    let ask = |gfp, node| Ask { node, ..Ask::new(64, gfp) };
    let place = |ask: &Ask| {
        let block = f.heap.alloc(f.world(), ask).expect("memory");
        let page = f.pages.at(block.addr().get()).expect("ours");
        (block, page.node(), page.zone())
    };
    let (first, node, zone) = place(&ask(Gfp::KERNEL, Some(0)));
    assert_eq!((node, zone), (0, ZoneKind::Normal));
    let (other, node, _) = place(&ask(Gfp::KERNEL, Some(1)));
    assert_eq!(node, 1);
    let (dma, _, zone) = place(&ask(Gfp::KERNEL | Gfp::DMA, None));
    assert_eq!(zone, ZoneKind::Dma);
    let (any, ..) = place(&ask(Gfp::KERNEL, None));
    // Whoever has no wish takes the first page with room.
    assert_eq!(page_of(any), page_of(dma));
    assert_eq!(f.check().pages, 3);
    [first, other, dma, any].into_iter().for_each(|block| f.free(block, 64).expect("in use"));
    f.check_empty();
}

#[test]
fn nolock_takes_what_is_there_and_nothing_else() {
    let f = Fixture::new(small(2));
    let ask = Ask::new(64, Gfp::NOWAIT);
    assert_eq!(f.heap.alloc_nolock(f.world(), &ask), None);
    let first = f.alloc(64);
    let second = f.heap.alloc_nolock(f.world(), &ask).expect("the page has room");
    assert_eq!(page_of(second), page_of(first));
    f.heap.lock_for_fork(&f.machine);
    assert_eq!(f.heap.alloc_nolock(f.world(), &ask), None);
    // SAFETY: locked by this thread just above.
    unsafe { f.heap.unlock_after_fork(&f.machine) };
    f.free(first, 64).expect("in use");
    f.free(second, 64).expect("in use");
    f.check_empty();
}

#[test]
fn without_memory_nothing_changes() {
    let f = Fixture::new(small(1));
    let mut blocks = Vec::new();
    while let Some(block) = f.heap.alloc(f.world(), &Ask::new(3000, Gfp::KERNEL)) {
        blocks.push(block);
    }
    assert!(blocks.len() > BLOCK_PAGES / 2, "{}", blocks.len());
    let stats = f.check();
    assert_eq!(stats.blocks, blocks.len());
    assert_eq!(f.heap.alloc(f.world(), &Ask::new(1097, Gfp::KERNEL)), None);
    assert_eq!(f.heap.alloc_whole(f.world(), 4, Gfp::KERNEL, None, std::ptr::null_mut()), None);
    assert_eq!(f.check(), stats);
    // What is left of the pages serves smaller ones of the same ring.
    let small = f.alloc(1096);
    f.free(small, 1096).expect("in use");
    blocks.into_iter().for_each(|block| f.free(block, 3000).expect("in use"));
    f.check_empty();
}
