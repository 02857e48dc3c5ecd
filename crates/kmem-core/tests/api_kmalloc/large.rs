//! Blocks of pages without a class in a heap whose blocks have words beside them: up to 128 KiB they have a tail.

use kmem_core::config::{Headed, UserConfig};
use kmem_core::debug::OnError;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::FreeError;
use kmem_core::kmalloc::aligned::Resized;
use kmem_core::kmalloc::claim::{Claim, Mismatch};
use kmem_core::kmalloc::classes::{ClassSet, HeadedSet};
use kmem_core::kmalloc::usercopy::UsercopyError;
use kmem_core::page::Kind;
use kmem_core::platform::PAGE_SIZE;

use crate::support::{Rig, bytes, fill, filled, is_zero};

type HeadedRig = Rig<Headed<UserConfig>>;

const TAIL: usize = 8;
const KIB: usize = 1 << 10;
/// What has a tail is as long as this with it, at most.
const TAILED: usize = HeadedSet::TAILED;

fn overflow(block: *mut u8) -> FreeError {
    FreeError::Overflow { address: block.addr(), cache: "kmalloc-large" }
}

/// Writes another byte than is there `at` bytes into a block, and says which was there.
fn damage(block: *mut u8, at: usize) -> u8 {
    // SAFETY: the test holds the block; behind what may be used lies the word that it is about.
    unsafe {
        let was = block.add(at).read();
        block.add(at).write(was ^ 0x20);
        was
    }
}

fn resize(rig: &HeadedRig, block: *mut u8, size: usize) -> Result<Resized, FreeError> {
    // SAFETY: the test holds the block.
    unsafe { rig.heap.resize(block, size) }
}

fn aligned(rig: &HeadedRig, align: usize, size: usize) -> *mut u8 {
    let block = rig.heap.allocate_aligned(align, size, Gfp::KERNEL);
    assert!(!block.is_null() && block.addr().is_multiple_of(align));
    assert_eq!(rig.kind_of(block), Some(Kind::Large), "{size} bytes at {align}");
    block
}

/// All bytes but the tail's are the holder's: who stays within is told nothing.
fn use_and_free(rig: &HeadedRig, block: *mut u8, room: usize) {
    assert_eq!(rig.ksize(block), room);
    fill(block, room, 3);
    assert_eq!(rig.ksize(block), room);
    assert!(filled(block, room, 3));
    assert_eq!(rig.kfree(block), Ok(()));
}

#[test]
fn the_last_word_is_a_tail() {
    let rig = HeadedRig::new();
    for size in (33 * KIB..TAILED - TAIL).step_by(1237).chain([40_952, 40_953, 65_528, 65_536, TAILED - TAIL])
    {
        let block = rig.pages_block(size);
        let room = (size + TAIL).next_multiple_of(PAGE_SIZE) - TAIL;
        assert!(is_zero(block, room), "{size} bytes");
        use_and_free(&rig, block, room);
    }
    for size in [TAILED - TAIL + 1, TAILED, 200_000] {
        let block = rig.pages_block(size);
        use_and_free(&rig, block, size.next_multiple_of(PAGE_SIZE));
    }
    rig.holdings();
}

#[test]
fn whole_pages_aligned_to_pages_have_none() {
    let rig = HeadedRig::new();
    for (align, size, room) in [
        (64 * KIB, 1000, 4088),
        (64 * KIB, 4088, 4088),
        (64 * KIB, 4089, 8184),
        (64 * KIB, 4096, 4096),
        (64 * KIB, 8192, 8192),
        (512 * KIB, TAILED - TAIL, TAILED - TAIL),
        (512 * KIB, TAILED - 1, TAILED),
        (512 * KIB, TAILED, TAILED),
        (512 * KIB, 140_000, 143_360),
    ] {
        use_and_free(&rig, aligned(&rig, align, size), room);
    }
    rig.holdings();
}

/// Whatever is asked of the block then, the answer is that it was written past its end, and nothing is changed.
#[test]
fn what_is_written_behind_it_is_noticed() {
    let rig = HeadedRig::new();
    let blocks = [rig.pages_block(65_528), rig.pages_block(100_000), aligned(&rig, 64 * KIB, 1000)];
    for block in blocks {
        let room = rig.ksize(block);
        fill(block, room, 9);
        for at in room..room + TAIL {
            let was = damage(block, at);
            let told = overflow(block);
            assert_eq!(rig.kfree(block), Err(told), "byte {at}");
            assert_eq!(rig.heap.ksize(block), Err(told));
            assert_eq!(rig.krealloc(block, 2 * room, Gfp::KERNEL), Err(told));
            assert_eq!(resize(&rig, block, room + 5000), Err(told));
            assert_eq!(resize(&rig, block, 10), Err(told));
            assert_eq!(rig.kind_of(block), Some(Kind::Large));
            assert!(filled(block, room, 9));
            // SAFETY: as in `damage`.
            unsafe { block.add(at).write(was) };
            assert_eq!(rig.ksize(block), room, "as it was");
        }
        damage(block, room);
        // SAFETY: the test holds the block.
        unsafe { rig.heap.mend_large(block) };
        assert!(filled(block, room, 9));
        assert_eq!(rig.kfree(block), Ok(()));
        assert_eq!(rig.kfree(block), Err(FreeError::NotObject(block.addr())), "once");
        // SAFETY: what is no block is left alone.
        unsafe { rig.heap.mend_large(block) };
    }
    rig.holdings();
}

#[test]
fn what_is_no_block_of_pages_is_not_mended() {
    let rig = HeadedRig::new();
    let blocks = [rig.kmalloc(64), rig.kmalloc(5000), rig.kmalloc(60_000), rig.pages_block(200_000)];
    let mapping = rig.heap.kvmalloc(5 << 20, Gfp::KERNEL);
    for block in blocks.into_iter().chain([mapping]) {
        let room = rig.ksize(block);
        fill(block, room, 5);
        // SAFETY: the test holds the block.
        unsafe { rig.heap.mend_large(block) };
        assert!(filled(block, room, 5));
        assert_eq!(rig.kfree(block), Ok(()));
    }
    rig.holdings();
}

#[test]
fn the_tail_moves_with_the_end() {
    let rig = HeadedRig::new();
    let block = rig.pages_block(40_000);
    let mut had = rig.ksize(block);
    fill(block, had, 1);
    let ends = [
        60_000, 61_432, 61_433, 131_064, 131_065, 131_072, 131_064, 200_000, 120_000, 131_072, 90_000, 33_000,
    ];
    for size in ends {
        assert_eq!(resize(&rig, block, size), Ok(Resized::Here), "{size} bytes");
        let tail = if size <= TAILED - TAIL { TAIL } else { 0 };
        let room = (size + tail).next_multiple_of(PAGE_SIZE) - tail;
        assert_eq!(rig.ksize(block), room, "{size} bytes");
        assert!(filled(block, had.min(room), 1), "{size} bytes");
        if room > had {
            // Of the word that was the tail nobody learns anything.
            assert_eq!(bytes(block, room)[had..room.min(had + TAIL)], [0; TAIL][..TAIL.min(room - had)]);
        }
        fill(block, room, 1);
        if tail > 0 {
            let was = damage(block, room + TAIL - 1);
            assert_eq!(rig.kfree(block), Err(overflow(block)), "{size} bytes");
            // SAFETY: as in `damage`.
            unsafe { block.add(room + TAIL - 1).write(was) };
        }
        had = room;
    }
    assert_eq!(rig.heap.totals().large_bytes, (33_000_usize + TAIL).next_multiple_of(PAGE_SIZE) as u64);
    assert_eq!(resize(&rig, block, 20_000), Ok(Resized::Copy { usable: had }), "of a class again");
    assert_eq!(rig.kfree(block), Ok(()));
    // Whole pages that were aligned need not stay so.
    let block = aligned(&rig, 512 * KIB, 32 * KIB + PAGE_SIZE);
    assert_eq!(resize(&rig, block, 35_000), Ok(Resized::Here));
    assert_eq!(rig.ksize(block), 32 * KIB + PAGE_SIZE - TAIL, "as many pages, and a tail");
    assert_eq!(rig.kfree(block), Ok(()));
    rig.holdings();
}

#[test]
fn what_others_know_of_the_end() {
    let rig = HeadedRig::new();
    let block = rig.pages_block(65_536);
    let room = rig.ksize(block);
    assert_eq!(room, 17 * PAGE_SIZE - TAIL);
    assert_eq!(rig.heap.check_usercopy(block, room), Ok(()));
    let outside = UsercopyError::Outside { name: "large block", offset: 1, len: room };
    assert_eq!(rig.heap.check_usercopy(block.wrapping_add(1), room), Err(outside));
    rig.heap.debug().set_on_error(OnError::Warn);
    let claim = |size| rig.heap.check_claim(block, &Claim { size: Some(size), ..Claim::default() });
    assert_eq!((claim(65_536), claim(65_529), claim(room)), (None, None, None));
    for told in [65_528, room + 1] {
        assert_eq!(claim(told), Some(Mismatch::Size { asked: room, told }), "another number of pages");
    }
    assert_eq!(rig.kfree(block), Ok(()));
    rig.holdings();
}

/// The pages of a block serve others when it is gone, whole or as a slab, and those that are zeroed are zero.
#[test]
fn its_pages_are_as_any_others() {
    let rig = HeadedRig::new();
    let mut random = 88_172_645_463_325_252_u64;
    let mut below = |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % limit) as usize
    };
    let mut held: Vec<(*mut u8, usize, u8)> = Vec::new();
    for step in 0..4000_usize {
        let (size, seed) = (20_000 + below(130_000), step as u8);
        if held.len() < 30 && below(3) > 0 {
            let block = match below(4) {
                0 => rig.kmalloc(size),
                1 => rig.heap.allocate_aligned(4096 << below(5), size, Gfp::KERNEL),
                _ => rig.heap.kzalloc(size, Gfp::KERNEL),
            };
            let room = rig.ksize(block);
            assert!(room >= size);
            if below(2) == 0 {
                let zeroed = rig.heap.kzalloc(size, Gfp::KERNEL);
                assert!(is_zero(zeroed, rig.ksize(zeroed)));
                fill(zeroed, rig.ksize(zeroed), seed);
                assert_eq!(rig.kfree(zeroed), Ok(()));
            }
            fill(block, room, seed);
            held.push((block, room, seed));
        } else if !held.is_empty() {
            let (block, room, seed) = held.swap_remove(below(held.len() as u64));
            assert!(filled(block, room, seed), "{room} bytes");
            if below(2) == 0 {
                // SAFETY: the test holds the block.
                let moved = unsafe { rig.heap.reallocate(block, size, Gfp::KERNEL) }.expect("a whole block");
                assert!(filled(moved, room.min(size), seed));
                fill(moved, rig.ksize(moved), seed);
                held.push((moved, rig.ksize(moved), seed));
            } else {
                assert_eq!(rig.kfree(block), Ok(()));
            }
        }
    }
    for (block, room, seed) in held {
        assert!(filled(block, room, seed));
        assert_eq!(rig.kfree(block), Ok(()));
    }
    rig.holdings();
}
