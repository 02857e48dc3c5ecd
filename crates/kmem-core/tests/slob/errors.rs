//! What is noticed: frees of what is no block, frees of what is free, and memory that was overwritten.

use std::sync::atomic::Ordering::{self, Relaxed};
use std::sync::atomic::{AtomicU32, AtomicUsize};

use kmem_core::debug::OnError;
use kmem_core::page::Page;

use super::*;

#[test]
fn a_double_free_is_refused() {
    let f = Fixture::new(small(2));
    let [keep, a, b] = [f.alloc(64), f.alloc(64), f.alloc(64)];
    f.free(a, 64).expect("in use");
    assert_eq!(f.free(a, 64), Err(BlockError::Double));
    // Longer than the block: it reaches into free memory.
    assert_eq!(f.free(b, 66), Err(BlockError::Double));
    f.free(b, 64).expect("in use");
    assert_eq!(f.free(b, 64), Err(BlockError::Double));
    assert_eq!(f.free(keep, 64), Ok(()));
    // The page is the page floor's again.
    assert_eq!(f.free(keep, 64), Err(BlockError::NotSlob));
    f.check_empty();
}

#[test]
fn a_double_kfree_is_refused_wherever_the_header_went() {
    let f = Fixture::new(small(2));
    let [keep, a, b, c] = [f.kmalloc(72), f.kmalloc(72), f.kmalloc(72), f.kmalloc(72)];
    // The header of `b` becomes the inside of a free block, that of `a` its start.
    f.kfree(a).expect("in use");
    f.kfree(b).expect("in use");
    for block in [a, b] {
        assert_eq!(f.kfree(block), Err(BlockError::Double));
        assert_eq!(f.heap.requested(f.world(), block.as_ptr()), Err(BlockError::Double));
    }
    // Their memory becomes a block that contains both, and is not written to: the old addresses are inside of it.
    let both = f.kmalloc(152);
    assert_eq!(both, a);
    assert_eq!(f.kfree(b), Err(BlockError::NotBlock));
    [keep, both, c].into_iter().for_each(|block| f.kfree(block).expect("in use"));
    assert_eq!(f.kfree(c), Err(BlockError::NotSlob));
    f.check_empty();
}

#[test]
fn an_address_inside_a_block_is_refused() {
    let f = Fixture::new(small(2));
    let block = f.kmalloc(500);
    // SAFETY: the block is the test's.
    unsafe { block.write_bytes(0x40, 500) };
    for offset in 1..500 {
        // SAFETY: inside the block.
        let inside = unsafe { block.add(offset) };
        assert_eq!(f.kfree(inside), Err(BlockError::NotBlock), "{offset}");
    }
    // An object of a cache is no block of kmalloc.
    let object = f.alloc(500);
    assert_eq!(f.kfree(object), Err(BlockError::NotBlock));
    // SAFETY: inside the object.
    assert_eq!(f.free(unsafe { object.add(4) }, 100), Err(BlockError::NotBlock));
    assert_eq!(f.free(object, 0), Err(BlockError::NotBlock));
    assert_eq!(f.free(object, PAGE_SIZE), Err(BlockError::NotBlock));
    assert_eq!(f.check().blocks, 2);
    f.free(object, 500).expect("in use");
    f.kfree(block).expect("in use");
    f.check_empty();
}

#[test]
fn other_kinds_of_page_are_refused() {
    let f = Fixture::new(small(2));
    let run = f.pages.alloc(&f.machine, Gfp::KERNEL, 1, None).expect("memory");
    let pages = NonNull::new(run.address()).expect("an address");
    assert_eq!(f.free(pages, 64), Err(BlockError::NotSlob));
    assert_eq!(f.kfree(pages), Err(BlockError::NotSlob));
    let stack = NonNull::from(&f).cast();
    assert_eq!(f.free(stack, 64), Err(BlockError::NotSlob));
    assert_eq!(f.kfree(stack), Err(BlockError::NotSlob));
    f.pages.free(&f.machine, run);
    f.check_empty();
}

#[test]
fn an_object_of_whole_pages_goes_back_to_its_owner_only() {
    let f = Fixture::new(small(2));
    let (mut mine, mut yours) = (1_u32, 2_u32);
    let (mine, yours) = (std::ptr::from_mut(&mut mine).cast(), std::ptr::from_mut(&mut yours).cast());
    let object = f.heap.alloc_whole(f.world(), 2, Gfp::KERNEL | Gfp::ZERO, None, mine).expect("memory");
    // SAFETY: the object is the test's, and was cleared.
    let bytes = unsafe { std::slice::from_raw_parts(object.as_ptr(), 4 * PAGE_SIZE) };
    assert!(bytes.iter().all(|&byte| byte == 0));
    assert_eq!((f.check().wholes, f.check().whole_pages), (1, 4));
    // SAFETY: refused, each of them.
    unsafe {
        let world = f.world();
        assert_eq!(f.heap.free_whole(world, object.as_ptr(), yours), Err(BlockError::NotBlock));
        assert_eq!(f.heap.free_whole(world, object.as_ptr().add(8), mine), Err(BlockError::NotBlock));
        assert_eq!(f.heap.free_whole(world, object.as_ptr().add(PAGE_SIZE), mine), Err(BlockError::NotSlob));
    }
    assert_eq!(f.free(object, 64), Err(BlockError::NotBlock));
    assert_eq!(f.kfree(object), Err(BlockError::NotBlock));
    // SAFETY: the object is the test's.
    unsafe { f.heap.free_whole(f.world(), object.as_ptr(), mine) }.expect("in use");
    // SAFETY: refused.
    let again = unsafe { f.heap.free_whole(f.world(), object.as_ptr(), mine) };
    assert_eq!(again, Err(BlockError::NotSlob));
    f.check_empty();
}

/// A write behind the end of a block, into the free block after it: the page is put aside with a message, its
/// blocks stay as they are, and everything else goes on.
#[test]
fn a_page_with_a_broken_chain_is_put_aside() {
    let f = Fixture::new(small(2));
    let [a, b] = [f.alloc(64), f.alloc(64)];
    // SAFETY: not allowed, which is the point; the memory is the page's.
    unsafe { b.add(64).write_bytes(0xff, 4) };
    let fault = f.heap.validate(f.world()).expect_err("the chain is broken");
    assert_eq!(fault.rule, "I-SLOB-1: a broken chain");
    let c = f.alloc(64);
    assert!(page_of(c) != page_of(a));
    let said = f.machine.take_console();
    assert!(said.contains("free memory was overwritten"), "{said}");
    let stats = f.check();
    assert_eq!((stats.pages, stats.damaged, stats.blocks), (2, 1, 3));
    assert_eq!(f.free(a, 64), Err(BlockError::Damaged));
    f.free(c, 64).expect("in use");
    // Also when the free is the first to see it.
    let [d, e] = [f.kmalloc(72), f.kmalloc(72)];
    // SAFETY: as above.
    unsafe { e.add(72).write_bytes(0xff, 4) };
    assert_eq!(f.kfree(d), Err(BlockError::Damaged));
    assert_eq!(f.heap.requested(f.world(), d.as_ptr()), Ok(72));
    assert_eq!(f.check().damaged, 2);
}

/// Whoever decides about damage is asked when there is some, and at no other time.
#[test]
fn a_judge_is_asked_about_damage_only() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let f = Fixture::new(small(2));
    f.debug.set_judge(|cache| {
        assert_eq!(cache, "");
        ASKED.fetch_add(1, Ordering::Relaxed);
        OnError::Warn
    });
    let [a, b, c] = [f.alloc(64), f.alloc(64), f.kmalloc(72)];
    f.kfree(c).expect("in use");
    assert_eq!((ASKED.load(Ordering::Relaxed), f.debug.errors()), (0, 0));
    // SAFETY: not allowed, which is the point; the memory is the page's.
    unsafe { b.add(64).write_bytes(0xff, 4) };
    let d = f.alloc(64);
    assert!(page_of(d) != page_of(a));
    assert_eq!((ASKED.load(Ordering::Relaxed), f.debug.errors()), (1, 1));
}

/// A header that a neighbour wrote over is no header.
#[test]
fn an_overwritten_header_is_noticed() {
    let f = Fixture::new(small(2));
    let [a, b] = [f.kmalloc(72), f.kmalloc(72)];
    for byte in 0..8 {
        // SAFETY: not allowed, which is the point; the memory is the page's.
        let place = unsafe { a.add(72 + byte) };
        // SAFETY: as above.
        unsafe { place.write(place.read() ^ 1) };
        assert_eq!(f.kfree(b), Err(BlockError::NotBlock), "byte {byte}");
        // SAFETY: as above.
        unsafe { place.write(place.read() ^ 1) };
    }
    [a, b].into_iter().for_each(|block| f.kfree(block).expect("in use"));
    f.check_empty();
}

/// A link of a page's descriptor that was written over: nobody follows it, it is told once, and all pages are of use afterwards.
#[test]
fn a_damaged_link_is_told_and_the_ring_is_mended() {
    // Where a descriptor has its links: `page::desc`.
    const LINKS: [usize; 2] = [8, 12];
    const PAGES: usize = 6;
    for (which, wild, by_free) in LINKS
        .into_iter()
        .flat_map(|which| [0, 1, u32::MAX].map(|wild| (which, wild)))
        .flat_map(|(which, wild)| [true, false].map(|by_free| (which, wild, by_free)))
    {
        let f = Fixture::new(small(2));
        // Two blocks a page, and no room for a third.
        let mut blocks: Vec<_> = (0..2 * PAGES).map(|_| f.alloc(1600)).collect();
        let victim = blocks[PAGES];
        let page: *const Page = f.pages.at(victim.addr().get()).expect("memory of the heap");
        // SAFETY: a field of a descriptor, which is an atomic there too; the machine outlives the test's use of it.
        let link = unsafe { AtomicU32::from_ptr(page.cast_mut().cast::<u8>().add(which).cast()) };
        link.store(wild, Relaxed);
        let fault = f.heap.validate(f.world()).expect_err("a link is damaged");
        assert!(fault.rule.starts_with("I-SLOB-3"), "{fault}");
        if by_free {
            // Both blocks of the victim's page: it leaves its ring.
            let (gone, rest): (Vec<_>, Vec<_>) =
                blocks.into_iter().partition(|&block| page_of(block) == page_of(victim));
            gone.into_iter().for_each(|block| f.free(block, 1600).expect("in use"));
            blocks = rest;
        } else {
            // No page has room for it, so all are looked at.
            blocks.push(f.alloc(1600));
        }
        let said = f.machine.take_console();
        let told = said.matches("a link of a list of pages was overwritten").count();
        assert_eq!(told, 1, "{which} {wild:#x} {by_free}: {said}");
        f.check();
        blocks.into_iter().for_each(|block| f.free(block, 1600).expect("in use"));
        assert_eq!(f.machine.take_console(), "");
        f.check_empty();
    }
}
