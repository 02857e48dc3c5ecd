//! Blocks that grow by resizing: few of them get room, those stay where they are, and the others are served as ever.

use kmem::heap;
use kmem_core::kmalloc::classes::{ClassSet, HeadedSet};

/// Up to here a block is copied as ever.
const COPIED: usize = 1024;
/// As many have room at the same time (I-GROWING-1).
const MOST: usize = 4;

/// Bytes of a block with room; none where the process's heap has no such class.
fn room() -> Option<usize> {
    let usual = !cfg!(any(feature = "slab", feature = "slob", feature = "hardened"));
    HeadedSet::GROWING.filter(|_| usual).map(HeadedSet::size_of)
}

fn has_room(block: *mut u8) -> bool {
    // SAFETY: a live block.
    Some(unsafe { heap::usable_size(block) }) == room()
}

/// A block that becomes `size` bytes long; its contents go on as they began.
fn grown(block: *mut u8, from: usize, size: usize) -> *mut u8 {
    // SAFETY: a live block of `from` bytes, or null; only the answer is used.
    unsafe {
        let block = heap::realloc(block, size);
        assert!(!block.is_null());
        for at in (0..from.min(size)).step_by(7) {
            assert_eq!(block.add(at).read(), at as u8, "at {at} of {from}, now {size}");
        }
        for at in (from..size).filter(|at| at % 7 == 0) {
            block.add(at).write(at as u8);
        }
        block
    }
}

/// A room that is freed waits on its CPU: the thread stays on the one where it is.
fn stay_on_this_cpu() {
    // SAFETY: asks for a number, and gives a mask of this thread's that the kernel copies.
    unsafe {
        let mut here: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu() as usize, &mut here);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&here), &raw const here), 0);
    }
}

fn doubled_to(size: usize) -> (*mut u8, usize) {
    let (mut block, mut at, mut moves) = (heap::malloc(16), 0, 0);
    for next in std::iter::successors(Some(16), |&size| Some(size * 2)).take_while(|&next| next <= size) {
        let before = block;
        block = grown(block, at, next);
        moves += usize::from(before != block);
        at = next;
    }
    (block, moves)
}

/// One test, so that nothing else in this process takes the room.
#[test]
fn few_blocks_have_room_and_grow_where_they_are() {
    let free = |block| {
        // SAFETY: a live block, freed once.
        unsafe { heap::free(block) }
    };
    stay_on_this_cpu();
    // From 16 to 1024 bytes six times, once to where there is room, and never again.
    let (block, moves) = doubled_to(128 << 10);
    if room().is_none() {
        return free(block);
    }
    assert!(moves <= 7 && has_room(block), "{moves} moves");

    // It stays for less, too, until that is little.
    let same = grown(block, 128 << 10, 5000);
    assert_eq!(same, block);
    let same = grown(same, 5000, COPIED + 1);
    assert_eq!(same, block);
    let short = grown(same, COPIED + 1, COPIED);
    assert!(short != block && !has_room(short));
    free(short);

    // No more than a few; the rest is as long as it has to be.
    let blocks: Vec<*mut u8> = (0..50).map(|_| doubled_to(8192).0).collect();
    let with_room = blocks.iter().filter(|&&block| has_room(block)).count();
    assert_eq!(with_room, MOST);
    for &block in blocks.iter().filter(|&&block| !has_room(block)) {
        // SAFETY: a live block.
        assert!(unsafe { heap::usable_size(block) } < 16 << 10);
    }
    blocks.into_iter().for_each(|block| free(grown(block, 8192, 9000)));

    // Beyond its room a block moves once more, to where it grows without being copied, and back.
    let (block, _) = doubled_to(128 << 10);
    assert!(has_room(block));
    let long = grown(block, 128 << 10, 3 << 20);
    assert!(!has_room(long));
    free(grown(long, 3 << 20, 3000));

    // What was freed has room for the next; what is asked for at once has none, however long.
    let (block, _) = doubled_to(4096);
    assert!(has_room(block));
    let asked: Vec<*mut u8> = (0..20).map(|step| heap::malloc((200 << 10) + (step << 11))).collect();
    assert!(!asked.iter().any(|&block| has_room(block)));
    asked.into_iter().for_each(free);
    free(block);
}

/// Requests for as many bytes as the room has are for the next longer class.
#[test]
fn nobody_else_is_given_room() {
    let Some(room) = room() else { return };
    // From the first free of the largest block on, no other is a mapping for being one of the first.
    // SAFETY: a live block, freed once.
    unsafe { heap::free(heap::malloc(4 << 20)) };
    for size in [room - 1, room] {
        let block = heap::malloc(size);
        assert!(!has_room(block), "{size} bytes");
        // SAFETY: a live block, freed once.
        unsafe { heap::free(block) };
    }
}
