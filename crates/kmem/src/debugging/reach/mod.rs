//! Which blocks a program can still come to: the difference between what it lost and what it merely kept.
//!
//! # Theory
//! A block is *reachable* if a word that holds an address in it is found in the roots or in a reachable block. Roots are the
//! registers and live stacks of all threads, and all memory that can be written and is not the heap's: data of the program and its
//! libraries, thread-local data, mappings of its own. What is not reachable is *lost*; if a lost block has a
//! pointer to it, it is *indirectly* lost: it would not be without that one.
//!
//! Any word may be a pointer, so a number that looks like one keeps a block reachable: a leak may be missed. None is reported that
//! the program could still free, but for the limits below.
//!
//! ```text
//! blocks in use, sorted by address  (locks of the heap taken and left)
//! other threads stop                (host::threads)
//!   roots -> mark, push; pop -> read the block's words -> mark, push ...
//!    lost blocks: their words mark others as indirect
//! they go on
//! ```
//!
//! # Limits
//! Pointers that are kept in another form (compressed, with bits in the upper half, on a disk, in another process), that do not lie at
//! multiples of 8, or in memory that cannot be read at the moment, are not seen; nor is what shared mappings hold.
//!
//! # Never
//! It allocates nothing from the heap, and takes no lock while threads are stopped. Without memory for its table, and after damage
//! was found, there is no answer.

mod roots;

use core::ptr;

use kmem_core::debug::leaks::Class;

use super::leaks::Here;
use crate::heap::Heap;
use crate::host::{memory, threads, window};

/// Words that are copied at a time.
const CHUNK: usize = 4096;
/// Larger blocks are copied before they are looked at: a program may have closed some of their pages.
const DIRECT: usize = 4096;

/// A block in use: from here to there.
struct Block {
    start: usize,
    end: usize,
    class: Class,
}

/// What is known of each block.
pub(super) struct Reach {
    /// One mapping: the blocks, then the numbers of those that are to be looked at, then room for copies.
    base: usize,
    len: usize,
    capacity: usize,
    count: usize,
    waiting: usize,
    /// Some thread runs on: memory may go away.
    careful: bool,
}

impl Reach {
    /// Finds out, for all blocks in use; `here` is what this thread has at hand. `None`: that is not possible now.
    pub(super) fn find(heap: &Heap, here: &Here) -> Option<Self> {
        if heap.debug().errors() > 0 {
            return None;
        }
        let mut count = 0;
        heap.each_in_use(&mut |_, _| count += 1);
        // Others may allocate meanwhile.
        let mut reach = Self::with_room(count + count / 8 + 64)?;
        heap.each_in_use(&mut |start, bytes| reach.add(start, bytes));
        reach.blocks().sort_unstable_by_key(|block| block.start);
        let listed = heap.list_of_mappings();
        let stopped = threads::stop();
        reach.careful = !stopped.all();
        let base = heap.platform().span().base();
        let heaps_own = [
            (base.saturating_sub(window::STATES_BELOW), base.saturating_add(heap.platform().span().end())),
            (ptr::from_ref(heap).addr(), ptr::from_ref(heap).addr() + size_of::<Heap>()),
            (reach.base, reach.base + reach.len),
            listed,
        ];
        let seen = roots::each(here, &stopped, heaps_own, &mut |start, end| reach.scan(start, end));
        if seen {
            here.words().iter().for_each(|&word| reach.mark(word));
            for saved in stopped.saved() {
                // A stack that is a block itself.
                reach.mark(saved);
            }
            reach.follow();
            reach.part_the_lost();
        }
        drop(stopped);
        seen.then_some(reach)
    }

    /// What became of the block that starts at an address. One that is not known came after the question.
    pub(super) fn class_of(&mut self, address: usize) -> Class {
        let blocks = self.blocks();
        match blocks.binary_search_by_key(&address, |block| block.start) {
            Ok(at) => blocks[at].class,
            Err(_) => Class::Reachable,
        }
    }

    fn with_room(capacity: usize) -> Option<Self> {
        let len = capacity * (size_of::<Block>() + size_of::<u32>()) + (CHUNK + 1) * size_of::<usize>();
        let base = memory::map(len)?;
        Some(Self { base, len, capacity, count: 0, waiting: 0, careful: false })
    }

    fn add(&mut self, start: usize, bytes: usize) {
        if self.count < self.capacity {
            let block = Block { start, end: start + bytes.max(1), class: Class::Lost };
            // SAFETY: the table has room for `capacity` blocks, and is this value's alone.
            unsafe { ptr::without_provenance_mut::<Block>(self.base).add(self.count).write(block) };
            self.count += 1;
        }
    }

    fn blocks(&mut self) -> &mut [Block] {
        // SAFETY: so many were written, in a mapping of this value's own.
        unsafe { core::slice::from_raw_parts_mut(self.base as *mut Block, self.count) }
    }

    /// Room for the numbers of blocks that are to be looked at: each is there once at most.
    fn queue(&self) -> *mut u32 {
        (self.base + self.capacity * size_of::<Block>()) as *mut u32
    }

    fn chunk(&self) -> *mut usize {
        let end = self.queue() as usize + self.capacity * size_of::<u32>();
        end.next_multiple_of(size_of::<usize>()) as *mut usize
    }

    /// The block that a word points into.
    fn block_at(&mut self, word: usize) -> Option<usize> {
        let blocks = self.blocks();
        let (first, last) = (blocks.first()?, blocks.last()?);
        if word < first.start || word >= last.end {
            return None;
        }
        let at = blocks.partition_point(|block| block.start <= word).checked_sub(1)?;
        (word < blocks[at].end).then_some(at)
    }

    /// A word of a root, or of a reachable block.
    fn mark(&mut self, word: usize) {
        if let Some(at) = self.block_at(word)
            && self.blocks()[at].class != Class::Reachable
        {
            self.blocks()[at].class = Class::Reachable;
            // SAFETY: a block is queued once, when it becomes reachable, and there is a place for each.
            unsafe { self.queue().add(self.waiting).write(at as u32) };
            self.waiting += 1;
        }
    }

    fn follow(&mut self) {
        while self.waiting > 0 {
            self.waiting -= 1;
            // SAFETY: written by `mark`.
            let at = unsafe { self.queue().add(self.waiting).read() } as usize;
            let (start, end) = (self.blocks()[at].start, self.blocks()[at].end);
            self.read(start, end, &mut |reach, word| reach.mark(word));
        }
    }

    /// Blocks that were not reached: who has a pointer to another makes that one's loss his own.
    fn part_the_lost(&mut self) {
        for at in 0..self.count {
            let block = &self.blocks()[at];
            if block.class == Class::Reachable {
                continue;
            }
            let (start, end) = (block.start, block.end);
            self.read(start, end, &mut |reach, word| {
                if let Some(other) = reach.block_at(word)
                    && other != at
                    && reach.blocks()[other].class == Class::Lost
                {
                    reach.blocks()[other].class = Class::Indirect;
                }
            });
        }
    }

    /// Looks for pointers in a root: memory of the process, without the blocks that lie in it (mappings of their own).
    fn scan(&mut self, start: usize, end: usize) {
        let mut at = start;
        while at < end {
            let next = self.blocks().partition_point(|block| block.end <= at);
            let (from, to) = self.blocks().get(next).map_or((end, end), |block| (block.start, block.end));
            if from > at {
                self.read(at, from.min(end), &mut |reach, word| reach.mark(word));
            }
            at = to;
        }
    }

    /// Shows the words between two addresses, as far as they can be read.
    fn read(&mut self, start: usize, end: usize, visit: &mut dyn FnMut(&mut Self, usize)) {
        const WORD: usize = size_of::<usize>();
        let mut at = start.next_multiple_of(WORD);
        let base = at;
        if end.saturating_sub(base) <= DIRECT && !self.careful && self.is_block(start) {
            while at + WORD <= end {
                // SAFETY: words of a block that was in use when the other threads stopped, which all of them did.
                let word = unsafe { (at as *const usize).read_volatile() };
                visit(self, word);
                at += WORD;
            }
            return;
        }
        while at + WORD <= end {
            // To the end of a page, so that one that cannot be read takes no other along.
            let words = ((end - at) / WORD).min(CHUNK);
            // SAFETY: room for `CHUNK` words, in a mapping of this value's own.
            let copy = unsafe { core::slice::from_raw_parts_mut(self.chunk(), words) };
            if memory::peek(at, copy) {
                for &word in &*copy {
                    visit(self, word);
                }
                at += words * WORD;
                continue;
            }
            let page = (at + 1).next_multiple_of(4096).min(end);
            let words = (page - at) / WORD;
            let copy = &mut copy[..words];
            if memory::peek(at, copy) {
                for &word in &*copy {
                    visit(self, word);
                }
            }
            at = page.next_multiple_of(WORD).max(at + WORD);
        }
    }

    fn is_block(&mut self, start: usize) -> bool {
        self.block_at(start).is_some()
    }
}

impl Drop for Reach {
    fn drop(&mut self) {
        // SAFETY: this value's own, and its last moment.
        unsafe { memory::unmap(self.base, self.len) };
    }
}
