//! Zeroed blocks of whole pages leave alone the memory that is zero anyway. In a process of its own: what other tests free is taken first, and cleared.

use kmem::heap;

fn holds(block: *const u8, size: usize, value: u8) -> bool {
    // SAFETY: the caller owns `size` bytes at `block`.
    unsafe { std::slice::from_raw_parts(block, size) }.iter().all(|&byte| byte == value)
}

/// Pages of the memory at `start` that are there.
fn resident_pages(start: *mut u8, bytes: usize) -> usize {
    let mut pages = vec![0_u8; bytes.div_ceil(4096)];
    // SAFETY: `mincore` looks at no memory, and writes a byte for each page.
    let answer = unsafe { libc::mincore(start.cast(), bytes, pages.as_mut_ptr()) };
    assert_eq!(answer, 0);
    pages.iter().filter(|&&page| page & 1 != 0).count()
}

#[test]
fn large_zeroed_blocks_are_not_touched_but_at_their_end() {
    const SIZE: usize = 100_000;
    let blocks: Vec<*mut u8> = (0..80).map(|_| heap::calloc(SIZE)).collect();
    let untouched = blocks.iter().filter(|&&block| resident_pages(block, SIZE) <= 1).count();
    for block in blocks {
        assert!(holds(block, SIZE, 0));
        // SAFETY: a live block, freed once.
        unsafe { heap::free(block) };
    }
    assert!(untouched >= 75, "{untouched}");
}
