//! The pool: where the pages lie, what is written down beside them, and which page is next.
//!
//! ```text
//!   book | edge edge | object 0 | edge | object 1 | edge | ... | object 254 | edge
//!        ^ pool
//! ```
//! All but the book is protected until an object is placed. The book lies in front of two edges, so that no overflow of an object
//! reaches it.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::guard::OBJECTS;
use crate::guard::entry::Entry;
use crate::percpu::MAX_STACKS;
use crate::platform::{PAGE_SIZE, Platform};

/// Pages of the pool.
const POOL_PAGES: usize = 2 * (OBJECTS + 1);

/// Bytes of the pool.
pub(crate) const POOL_BYTES: usize = POOL_PAGES * PAGE_SIZE;

/// Counts of stacks: how many objects in use were allocated from stacks that hash there.
const COUNTS: usize = 1024;

/// Frames by which allocations are the same.
const ALIKE: usize = 8;

/// In percent of the pool: with more in use, one object from each stack is enough.
const CROWDED: u64 = 75;

/// What is written down beside the pool. All zero at first.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) entries: [Entry; OBJECTS],
    /// Objects freed, which gives each its order.
    order: AtomicU64,
    counts: [AtomicU8; COUNTS],
    /// What a stack of objects had handed out when somebody last looked whether its cache is in use.
    pub(crate) handed_out: [AtomicU64; MAX_STACKS],
    /// The number of the stack that was emptied last.
    pub(crate) last_emptied: AtomicU32,
}

const BOOK_BYTES: usize = size_of::<Book>().next_multiple_of(PAGE_SIZE);

/// Makes book and pool. `None`: no memory, or pages cannot be protected.
pub(super) fn make<P: Platform>(platform: &P) -> Option<(NonNull<Book>, NonNull<u8>)> {
    let memory = platform.map(BOOK_BYTES + POOL_BYTES, PAGE_SIZE)?;
    // SAFETY: inside the mapping, which is this thread's.
    let pool = unsafe { memory.add(BOOK_BYTES) };
    // SAFETY: whole pages of the mapping, which nobody uses.
    if unsafe { platform.protect(pool, POOL_BYTES, false) } {
        // Zero bytes are a valid book.
        return Some((memory.cast(), pool));
    }
    // SAFETY: mapped above with that length.
    unsafe { platform.unmap(memory, BOOK_BYTES + POOL_BYTES) };
    None
}

/// The entry whose page is the pool's page of this number; nothing for an edge.
pub(super) const fn entry_of(page: usize) -> Option<usize> {
    if page < 2 || !page.is_multiple_of(2) { None } else { Some(page / 2 - 1) }
}

/// The number of an entry's page in the pool.
pub(super) const fn page_of(entry: usize) -> usize {
    2 * (entry + 1)
}

impl Book {
    /// Makes the free entry that was freed longest ago the caller's (I-GUARD-3); nothing when all are in use.
    pub(crate) fn claim(&self) -> Option<usize> {
        // Others may claim meanwhile; a few turns without luck are as good as a full pool.
        for _ in 0..4 {
            let free = |(index, entry): (usize, &Entry)| entry.freed().map(|order| (order, index));
            let (_, index) = self.entries.iter().enumerate().filter_map(free).min()?;
            if self.entries[index].claim() {
                return Some(index);
            }
        }
        None
    }

    /// Makes an entry of the caller's free, as the last one to be used again.
    pub(crate) fn release(&self, index: usize) {
        let order = self.order.fetch_add(1, Ordering::Relaxed) + 1;
        self.entries[index].release(order);
    }

    /// So many objects in use that another one from this stack is not worth a page, if there is one.
    pub(crate) fn covers(&self, live: u64, stack: u32) -> bool {
        live > OBJECTS as u64 * CROWDED / 100
            && places(stack).iter().all(|&place| self.counts[place].load(Ordering::Relaxed) > 0)
    }

    /// An object from this stack came into use.
    pub(crate) fn cover(&self, stack: u32) {
        // No more than `OBJECTS` are in use, so a count does not wrap.
        places(stack).iter().for_each(|&place| _ = self.counts[place].fetch_add(1, Ordering::Relaxed));
    }

    /// An object from this stack was freed.
    pub(crate) fn uncover(&self, stack: u32) {
        places(stack).iter().for_each(|&place| _ = self.counts[place].fetch_sub(1, Ordering::Relaxed));
    }
}

/// What tells a stack from others: its nearest frames.
pub(crate) fn stack_hash(frames: &[usize]) -> u32 {
    let mixed = frames
        .iter()
        .take(ALIKE)
        .fold(0x9e37_79b9_7f4a_7c15_u64, |hash, &frame| (hash ^ frame as u64).wrapping_mul(0x100_0000_01b3));
    (mixed ^ mixed >> 32) as u32
}

/// The two counts of a stack, which are different ones.
const fn places(stack: u32) -> [usize; 2] {
    let first = stack as usize % COUNTS;
    let distance = 1 + (stack >> 16) as usize % (COUNTS - 1);
    [first, (first + distance) % COUNTS]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Box<Book> {
        // SAFETY: zero bytes are a valid book.
        unsafe { Box::<Book>::new_zeroed().assume_init() }
    }

    #[test]
    fn every_object_page_lies_between_edges() {
        for index in 0..OBJECTS {
            let page = page_of(index);
            assert_eq!((entry_of(page - 1), entry_of(page), entry_of(page + 1)), (None, Some(index), None));
            assert!(page + 1 < POOL_PAGES);
        }
        assert_eq!((entry_of(0), entry_of(1)), (None, None));
    }

    #[test]
    fn pages_are_used_again_in_the_order_of_their_frees() {
        let book = book();
        let all: Vec<usize> = (0..OBJECTS).map(|_| book.claim().expect("free")).collect();
        assert_eq!(all, (0..OBJECTS).collect::<Vec<_>>());
        assert_eq!(book.claim(), None);
        for index in [7, 3, 200] {
            book.release(index);
        }
        assert_eq!([(); 4].map(|()| book.claim()), [Some(7), Some(3), Some(200), None]);
    }

    #[test]
    fn one_object_of_a_stack_is_enough_when_the_pool_is_crowded() {
        let book = book();
        let (one, other) = (stack_hash(&[1, 2, 3]), stack_hash(&[1, 2, 4]));
        assert!(!book.covers(200, one));
        book.cover(one);
        assert!(book.covers(192, one) && !book.covers(191, one) && !book.covers(200, other));
        book.cover(one);
        book.uncover(one);
        assert!(book.covers(200, one));
        book.uncover(one);
        assert!(!book.covers(200, one));
    }

    #[test]
    fn frames_far_away_do_not_tell_stacks_apart() {
        let near = [1, 2, 3, 4, 5, 6, 7, 8];
        let mut far = near.to_vec();
        far.push(9);
        assert_eq!(stack_hash(&near), stack_hash(&far));
        far[7] = 0;
        assert_ne!(stack_hash(&near), stack_hash(&far));
    }
}
