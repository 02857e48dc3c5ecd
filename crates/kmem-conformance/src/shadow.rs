//! A second book of who owns which bytes, of fixed size, so that it needs no memory but its own.
//!
//! It is kept sorted by address: a new block is compared with its two neighbours, which finds overlap and double
//! hand-out; each block carries a pattern made of its seed, which finds loss and foreign writes when it leaves.

use crate::failure::{Failure, Outcome, ensure, fail};

/// What the book knows of a live block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Its address.
    pub(crate) start: usize,
    /// Its bytes.
    pub(crate) len: usize,
    /// What its pattern is made of.
    pub(crate) seed: u32,
    /// What its owner wants to remember: which cache it is of.
    pub(crate) tag: u32,
}

/// Bytes of the pattern at each end of a block; the middle of larger blocks is left alone, for speed.
const EDGE: usize = 64;

/// A book of at most `N` live blocks.
pub(crate) struct Shadow<const N: usize> {
    blocks: [Block; N],
    used: usize,
}

fn byte(seed: u32, offset: usize) -> u8 {
    ((u64::from(seed) + offset as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

fn marked(len: usize) -> impl Iterator<Item = usize> {
    let front = len.min(EDGE);
    (0..front).chain(len.saturating_sub(EDGE).max(front)..len)
}

/// Writes the pattern.
fn mark(block: &Block) {
    let start = core::ptr::with_exposed_provenance_mut::<u8>(block.start);
    for offset in marked(block.len) {
        // SAFETY: the block is live, of that length, and its owner keeps it in this book.
        unsafe { start.add(offset).write(byte(block.seed, offset)) };
    }
}

impl<const N: usize> Shadow<N> {
    /// An empty book.
    #[must_use]
    pub(crate) const fn new() -> Self {
        Self { blocks: [Block { start: 0, len: 0, seed: 0, tag: 0 }; N], used: 0 }
    }

    /// Live blocks.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// True without live blocks.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// True when no further block can be entered.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        self.used == N
    }

    /// The live blocks, by address.
    #[must_use]
    pub(crate) fn blocks(&self) -> &[Block] {
        &self.blocks[..self.used]
    }

    /// Enters a block that was just handed out, and writes its pattern.
    ///
    /// # Errors
    /// It lies on a live block, or the book is full.
    pub(crate) fn enter(&mut self, ptr: *mut u8, len: usize, seed: u32, tag: u32) -> Outcome {
        let new = Block { start: ptr.expose_provenance(), len, seed, tag };
        ensure!(!self.is_full(), "the book is full");
        let at = self.blocks().partition_point(|block| block.start < new.start);
        let end = new.start + len.max(1);
        let before = at.checked_sub(1).map(|at| self.blocks[at]);
        let behind = self.blocks().get(at).copied();
        for live in [before, behind].into_iter().flatten() {
            let apart = end <= live.start || live.start + live.len.max(1) <= new.start;
            ensure!(
                apart,
                "{:#x}+{len} was handed out on top of live block {:#x}+{} of {}",
                new.start,
                live.start,
                live.len,
                live.tag
            );
        }
        self.blocks.copy_within(at..self.used, at + 1);
        self.blocks[at] = new;
        self.used += 1;
        mark(&new);
        Ok(())
    }

    /// Takes the `at`-th block out of the book, after looking whether its bytes are as its owner left them.
    ///
    /// # Errors
    /// Somebody else wrote to it.
    pub(crate) fn leave(&mut self, at: usize) -> Result<Block, Failure> {
        let block = self.blocks[at];
        verify(&block, block.start, block.len)?;
        self.blocks.copy_within(at + 1..self.used, at);
        self.used -= 1;
        Ok(block)
    }

    /// Takes the `at`-th block out, which moved to `new`: its first `len` bytes must have come along.
    ///
    /// # Errors
    /// They did not.
    pub(crate) fn moved(&mut self, at: usize, new: *mut u8, len: usize) -> Result<Block, Failure> {
        let block = self.blocks[at];
        verify(&block, new.expose_provenance(), len.min(block.len))?;
        self.blocks.copy_within(at + 1..self.used, at);
        self.used -= 1;
        Ok(block)
    }

    /// Looks at all blocks.
    ///
    /// # Errors
    /// Somebody else wrote to one.
    pub(crate) fn check(&self) -> Outcome {
        self.blocks().iter().try_for_each(|block| verify(block, block.start, block.len))
    }
}

/// Compares the first `len` bytes at `start` with the pattern of a block.
fn verify(block: &Block, start: usize, len: usize) -> Outcome {
    let ptr = core::ptr::with_exposed_provenance::<u8>(start);
    for offset in marked(block.len).take_while(|&offset| offset < len) {
        // SAFETY: the bytes are part of a block that the book's owner holds.
        let found = unsafe { ptr.add(offset).read() };
        if found != byte(block.seed, offset) {
            fail!(
                "byte {offset} of live block {start:#x}+{} of {} is {found:#x} and was {:#x}",
                block.len,
                block.tag,
                byte(block.seed, offset)
            );
        }
    }
    Ok(())
}
