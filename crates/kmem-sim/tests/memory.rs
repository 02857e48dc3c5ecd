//! The machine gives memory, takes it back, and knows what is out.

use std::sync::atomic::Ordering;

use kmem_core::page::{Page, ZoneKind};
use kmem_core::platform::{BLOCK_PAGES, PAGE_SIZE, PageRange, Platform};
use kmem_sim::{Machine, Outstanding};

const BLOCK: usize = BLOCK_PAGES;

/// The bytes of a range of the window.
#[allow(clippy::mut_from_ref)] // The machine owns no bytes, it only tells where they are.
fn bytes(machine: &Machine, range: PageRange) -> &mut [u8] {
    let start = (machine.window().base + range.first * PAGE_SIZE) as *mut u8;
    // SAFETY: the tests call this only for ranges they were given and use one slice at a time.
    unsafe { std::slice::from_raw_parts_mut(start, range.count * PAGE_SIZE) }
}

/// Runs a test body in a child process and tells the signal that killed it.
fn dies_of(body: impl FnOnce()) -> Option<i32> {
    // SAFETY: the child calls only the body and `_exit`.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            body();
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
    }
}

#[test]
fn the_window_is_aligned_and_laid_out_by_zone_and_node() {
    let machine = Machine::builder()
        .cpus(2)
        .nodes(2)
        .memory_per_node(3 * BLOCK)
        .zones([BLOCK, 2 * BLOCK])
        .memory(1, ZoneKind::Dma32, BLOCK)
        .build();
    let window = machine.window();
    assert_eq!(window.base % (BLOCK * PAGE_SIZE), 0);
    assert_eq!(window.pages, 10 * BLOCK);
    assert_eq!(machine.zone_ends(), [BLOCK, 4 * BLOCK]);
    let range = |node, zone| machine.zone_range(node, zone);
    assert_eq!(range(0, ZoneKind::Dma), PageRange { first: 0, count: BLOCK });
    assert_eq!(range(1, ZoneKind::Dma).count, 0);
    assert_eq!(range(0, ZoneKind::Dma32), PageRange { first: BLOCK, count: 2 * BLOCK });
    assert_eq!(range(1, ZoneKind::Dma32), PageRange { first: 3 * BLOCK, count: BLOCK });
    assert_eq!(range(0, ZoneKind::Normal), PageRange { first: 4 * BLOCK, count: 3 * BLOCK });
    assert_eq!(range(1, ZoneKind::Normal), PageRange { first: 7 * BLOCK, count: 3 * BLOCK });
}

#[test]
fn grown_memory_is_of_its_zone_aligned_zero_and_apart() {
    let machine = Machine::builder().nodes(2).memory_per_node(4 * BLOCK).zones([BLOCK, BLOCK]).build();
    let mut seen: Vec<PageRange> = Vec::new();
    for node in 0..2 {
        for zone in [ZoneKind::Dma, ZoneKind::Dma32, ZoneKind::Normal] {
            let home = machine.zone_range(node, zone);
            let mut left = home.count / BLOCK;
            while let Some(range) = machine.grow(node, zone, 1) {
                assert_eq!((range.count, range.first % BLOCK), (BLOCK, 0));
                assert!(home.first <= range.first && range.first + range.count <= home.first + home.count);
                assert!(seen.iter().all(|other| other.first != range.first), "{range:?} was given twice");
                assert!(bytes(&machine, range).iter().all(|&b| b == 0));
                bytes(&machine, range).fill(0xA5);
                seen.push(range);
                left -= 1;
            }
            assert_eq!(left, 0, "node {node} {zone:?} was not given out to its end");
        }
    }
    assert_eq!(machine.outstanding().pages, 10 * BLOCK);
    assert_eq!(machine.counters().grown_pages, 10 * BLOCK as u64);
}

#[test]
fn growth_is_rounded_to_blocks_and_contiguous() {
    let machine = Machine::builder().memory_per_node(4 * BLOCK).build();
    let range = machine.grow(0, ZoneKind::Normal, BLOCK + 1).expect("two blocks");
    assert_eq!(range.count, 2 * BLOCK);
    assert!(machine.grow(0, ZoneKind::Normal, 2 * BLOCK + 1).is_none(), "only two blocks are left");
    assert!(machine.grow(0, ZoneKind::Normal, 2 * BLOCK).is_some());
    assert!(machine.grow(0, ZoneKind::Normal, 1).is_none());
    assert!(machine.grow(0, ZoneKind::Normal, usize::MAX).is_none());
    assert!(machine.grow(5, ZoneKind::Normal, 1).is_none(), "there is no node 5");
}

#[test]
fn scattered_growth_is_not_in_order_but_of_the_seed() {
    let order = |seed| {
        let machine = Machine::builder().memory_per_node(16 * BLOCK).seed(seed).scattered().build();
        let order: Vec<usize> =
            std::iter::from_fn(|| machine.grow(0, ZoneKind::Normal, 1)).map(|range| range.first).collect();
        assert_eq!(order.len(), 16);
        order
    };
    assert_eq!(order(3), order(3));
    assert_ne!(order(3), order(4));
    assert!(!order(3).is_sorted());
}

#[test]
fn discarded_memory_is_zero_and_not_resident() {
    let machine = Machine::builder().memory_per_node(BLOCK).build();
    let range = machine.grow(0, ZoneKind::Normal, 1).expect("memory");
    assert_eq!(machine.resident_pages(), 0);
    bytes(&machine, range).fill(7);
    assert_eq!(machine.resident_pages(), BLOCK);
    let part = PageRange { first: range.first + 3, count: 100 };
    machine.refuse_discards(true);
    // SAFETY: nobody uses the memory but this test.
    assert!(!unsafe { machine.discard(part) });
    assert!(bytes(&machine, part).iter().all(|&b| b == 7));
    machine.refuse_discards(false);
    // SAFETY: as above.
    assert!(unsafe { machine.discard(part) });
    assert_eq!(machine.resident_pages(), BLOCK - 100);
    assert_eq!(machine.resident_in(part), 0);
    assert!(bytes(&machine, part).iter().all(|&b| b == 0));
    assert_eq!(bytes(&machine, range)[3 * PAGE_SIZE - 1], 7);
    assert_eq!(bytes(&machine, range)[103 * PAGE_SIZE], 7);
    assert_eq!((machine.counters().discards, machine.counters().discarded_pages), (1, 100));
}

#[test]
fn released_memory_can_be_given_again_and_is_as_new() {
    let machine = Machine::builder().memory_per_node(2 * BLOCK).build();
    let first = machine.grow(0, ZoneKind::Normal, 1).expect("memory");
    let second = machine.grow(0, ZoneKind::Normal, 1).expect("memory");
    bytes(&machine, first).fill(1);
    bytes(&machine, second).fill(2);
    let window = machine.window();
    // SAFETY: tags of given pages are there.
    let tag = |page: usize| unsafe { &*window.tags.add(page) };
    tag(first.first).store(11, Ordering::Relaxed);
    tag(second.first).store(22, Ordering::Relaxed);
    // SAFETY: the descriptor of a given page is there, and nobody else uses it.
    unsafe { window.descs.add(first.first).cast::<u8>().write_bytes(0xFF, size_of::<Page>()) };
    // SAFETY: this test is done with it.
    unsafe { machine.release(first) };
    assert_eq!(machine.outstanding().pages, BLOCK);
    assert_eq!(tag(second.first).load(Ordering::Relaxed), 22, "a neighbour's tags stay");
    assert_eq!(machine.grow(0, ZoneKind::Normal, 1), Some(first));
    assert!(bytes(&machine, first).iter().all(|&b| b == 0));
    assert_eq!(tag(first.first).load(Ordering::Relaxed), 0);
    // SAFETY: as above.
    let desc = unsafe { window.descs.add(first.first).cast::<[u8; 64]>().read() };
    assert_eq!(desc, [0; 64]);
    assert_eq!(machine.counters().released_pages, BLOCK as u64);
}

#[test]
fn memory_that_was_not_given_cannot_be_touched() {
    let machine = Machine::builder().memory_per_node(2 * BLOCK).build();
    let given = machine.grow(0, ZoneKind::Normal, 1).expect("memory");
    let window = machine.window();
    let other = if given.first == 0 { BLOCK } else { 0 };
    let page = (window.base + other * PAGE_SIZE) as *mut u8;
    // SAFETY: meant to fault, in a child.
    assert_eq!(dies_of(|| unsafe { page.write_volatile(1) }), Some(libc::SIGSEGV));
    // SAFETY: as above.
    let read_desc = || unsafe {
        std::hint::black_box(window.descs.add(other).cast::<u8>().read_volatile());
    };
    assert_eq!(dies_of(read_desc), Some(libc::SIGSEGV));
    let mine = (window.base + given.first * PAGE_SIZE) as *mut u8;
    // SAFETY: given memory.
    assert_eq!(dies_of(|| unsafe { mine.write_volatile(1) }), None);
    // SAFETY: nobody uses it.
    unsafe { machine.release(given) };
    // SAFETY: meant to fault, in a child.
    assert_eq!(dies_of(|| unsafe { mine.write_volatile(1) }), Some(libc::SIGSEGV));
}

#[test]
#[should_panic(expected = "which the heap was not given")]
fn release_of_foreign_memory_is_noticed() {
    let machine = Machine::builder().build();
    // SAFETY: nothing is there to be used.
    unsafe { machine.release(PageRange { first: 0, count: BLOCK }) };
}

#[test]
#[should_panic(expected = "not made of whole blocks")]
fn release_of_part_of_a_block_is_noticed() {
    let machine = Machine::builder().build();
    let range = machine.grow(0, ZoneKind::Normal, 1).expect("memory");
    // SAFETY: nobody uses it.
    unsafe { machine.release(PageRange { first: range.first, count: 1 }) };
}

#[test]
#[should_panic(expected = "which the heap was not given")]
fn discard_beyond_what_was_given_is_noticed() {
    let machine = Machine::builder().build();
    let range = machine.grow(0, ZoneKind::Normal, 1).expect("memory");
    // SAFETY: nobody uses it.
    unsafe { machine.discard(PageRange { first: range.first, count: BLOCK + 1 }) };
}

#[test]
fn mappings_are_zero_aligned_limited_and_counted() {
    let machine = Machine::builder().map_limit(10 << 20).build();
    let big = machine.map(8 << 20, 2 << 20).expect("a mapping");
    assert_eq!(big.as_ptr() as usize % (2 << 20), 0);
    // SAFETY: a live mapping of this length.
    let content = unsafe { std::slice::from_raw_parts_mut(big.as_ptr(), 8 << 20) };
    assert!(content.iter().all(|&b| b == 0));
    content.fill(9);
    assert!(machine.map(4 << 20, PAGE_SIZE).is_none(), "beyond the limit");
    assert!(machine.map(usize::MAX & !(PAGE_SIZE - 1), PAGE_SIZE).is_none());
    let window = machine.window();
    let end = window.base + window.pages * PAGE_SIZE;
    assert!(!(window.base..end).contains(&(big.as_ptr() as usize)));
    assert_eq!(machine.outstanding(), Outstanding { pages: 0, maps: 1, map_bytes: 8 << 20 });
    // SAFETY: live, and done with.
    unsafe { machine.unmap(big, 8 << 20) };
    assert_eq!(machine.outstanding(), Outstanding::default());
    // SAFETY: meant to fault, in a child.
    assert_eq!(dies_of(|| unsafe { big.as_ptr().write_volatile(1) }), Some(libc::SIGSEGV));
}

#[test]
fn a_resized_mapping_keeps_its_content_and_may_move() {
    let machine = Machine::builder().build();
    let (mut moved, mut stayed) = (0, 0);
    for round in 0..32 {
        let old = machine.map(4 * PAGE_SIZE, PAGE_SIZE).expect("a mapping");
        // SAFETY: a live mapping.
        unsafe { old.as_ptr().write_bytes(round + 1, 4 * PAGE_SIZE) };
        // SAFETY: live, of this length.
        let new = unsafe { machine.remap(old, 4 * PAGE_SIZE, 6 * PAGE_SIZE, true) }.expect("growth");
        if new == old {
            stayed += 1
        } else {
            moved += 1
        }
        // SAFETY: a live mapping of six pages.
        let content = unsafe { std::slice::from_raw_parts(new.as_ptr(), 6 * PAGE_SIZE) };
        assert!(content[..4 * PAGE_SIZE].iter().all(|&b| b == round + 1));
        assert!(content[4 * PAGE_SIZE..].iter().all(|&b| b == 0));
        // SAFETY: live, of this length.
        let small = unsafe { machine.remap(new, 6 * PAGE_SIZE, PAGE_SIZE, false) }.expect("shrinking");
        assert_eq!(small, new);
        assert_eq!(machine.outstanding().map_bytes, PAGE_SIZE);
        // SAFETY: the byte is of the mapping.
        assert_eq!(unsafe { small.as_ptr().read() }, round + 1);
        // SAFETY: done with.
        unsafe { machine.unmap(small, PAGE_SIZE) };
    }
    assert!(moved > 4 && stayed > 4, "{moved} moved, {stayed} stayed");
    let old = machine.map(PAGE_SIZE, PAGE_SIZE).expect("a mapping");
    // SAFETY: live, of this length.
    unsafe {
        assert!(machine.remap(old, PAGE_SIZE, 2 * PAGE_SIZE, false) == Some(old), "there is room for that");
        assert!(machine.remap(old, 2 * PAGE_SIZE, 64 * PAGE_SIZE, false).is_none(), "not in place");
        assert!(machine.remap(old, 2 * PAGE_SIZE, 2 << 30, true).is_none(), "beyond the limit");
        machine.unmap(old, 2 * PAGE_SIZE);
    }
}

#[test]
#[should_panic(expected = "the length of something else")]
fn unmap_with_a_wrong_length_is_noticed() {
    let machine = Machine::builder().build();
    let ptr = machine.map(2 * PAGE_SIZE, PAGE_SIZE).expect("a mapping");
    // SAFETY: nobody uses it.
    unsafe { machine.unmap(ptr, PAGE_SIZE) };
}

#[test]
#[should_panic(expected = "where no mapping lives")]
fn a_second_unmap_is_noticed() {
    let machine = Machine::builder().build();
    let ptr = machine.map(PAGE_SIZE, PAGE_SIZE).expect("a mapping");
    // SAFETY: nobody uses it; the second call is the mistake.
    unsafe {
        machine.unmap(ptr, PAGE_SIZE);
        machine.unmap(ptr, PAGE_SIZE);
    }
}
