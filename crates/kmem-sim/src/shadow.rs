//! A second book of who owns which bytes, kept apart from the heap that is under test.
//!
//! [`Shadow`] remembers every live block by address, length and a seed. It finds overlap when a block
//! is entered, and loss or foreign writes when it leaves: blocks are filled with a pattern made of
//! their seed, which nothing but their owner may change.

use std::collections::BTreeMap;
use std::fmt;

/// What went wrong with a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A block was handed out that lies on a live one.
    Overlap {
        /// Address and length of the new block.
        new: (usize, usize),
        /// Address and length of the live block.
        live: (usize, usize),
    },
    /// A block that is not live was said to leave.
    Unknown(usize),
    /// A byte of a live block changed although its owner did not write.
    Written {
        /// Address and length of the block.
        block: (usize, usize),
        /// Offset of the first changed byte.
        offset: usize,
        /// What was written at entry.
        expected: u8,
        /// What is there.
        found: u8,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Overlap { new, live } => write!(
                f,
                "block {:#x}+{} was handed out on top of live block {:#x}+{}",
                new.0, new.1, live.0, live.1
            ),
            Self::Unknown(address) => write!(f, "no live block starts at {address:#x}"),
            Self::Written { block, offset, expected, found } => write!(
                f,
                "byte {offset} of live block {:#x}+{} was {expected:#04x} and is {found:#04x}",
                block.0, block.1
            ),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Block {
    len: usize,
    seed: u64,
}

/// The live blocks of a test.
#[derive(Debug, Default)]
pub struct Shadow {
    live: BTreeMap<usize, Block>,
    bytes: usize,
}

/// Bytes of the pattern at each end of a block; the middle of larger blocks is left alone, for speed.
const EDGE: usize = 256;

fn byte(seed: u64, offset: usize) -> u8 {
    (seed.wrapping_add(offset as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

/// The offsets of a block that carry the pattern.
fn marked(len: usize) -> impl Iterator<Item = usize> {
    let front = len.min(EDGE);
    (0..front).chain(len.saturating_sub(EDGE).max(front)..len)
}

impl Shadow {
    /// An empty book.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters a block that was just handed out and writes its pattern.
    ///
    /// # Errors
    /// [`Damage::Overlap`]; nothing is entered or written then.
    ///
    /// # Safety
    /// If the block overlaps none of this book, its `len` bytes at `ptr` are the caller's to write.
    pub unsafe fn enter(&mut self, ptr: *mut u8, len: usize, seed: u64) -> Result<(), Damage> {
        let start = ptr as usize;
        // A block of no bytes still has an address of its own.
        let end = start + len.max(1);
        if let Some((&live, block)) = self.live.range(..end).next_back()
            && live + block.len.max(1) > start
        {
            return Err(Damage::Overlap { new: (start, len), live: (live, block.len) });
        }
        for offset in marked(len) {
            // SAFETY: `offset` is below `len`, and the caller owns the block.
            unsafe { ptr.add(offset).write(byte(seed, offset)) };
        }
        self.live.insert(start, Block { len, seed });
        self.bytes += len;
        Ok(())
    }

    /// Checks that the block still carries its pattern.
    ///
    /// # Errors
    /// [`Damage::Unknown`] or [`Damage::Written`].
    ///
    /// # Safety
    /// Live blocks of this book are readable, as they were when entered.
    pub unsafe fn check(&self, ptr: *mut u8) -> Result<(), Damage> {
        let start = ptr as usize;
        let block = self.live.get(&start).ok_or(Damage::Unknown(start))?;
        // SAFETY: the block is live and readable (the caller's promise).
        unsafe { Self::verify(ptr, block.len, block.seed) }
    }

    /// Checks a block that is in no book (any more) against the pattern that an entry with this length and seed wrote:
    /// for blocks that wander between threads with a book each.
    ///
    /// # Errors
    /// [`Damage::Written`].
    ///
    /// # Safety
    /// The block is readable.
    pub unsafe fn verify(ptr: *mut u8, len: usize, seed: u64) -> Result<(), Damage> {
        // SAFETY: the caller's promise.
        unsafe { carries(ptr, Block { len, seed }, len) }.map_err(|(offset, found)| Damage::Written {
            block: (ptr as usize, len),
            offset,
            expected: byte(seed, offset),
            found,
        })
    }

    /// Checks a block and takes it out of the book; call it before giving the block back.
    ///
    /// # Errors
    /// As for [`Shadow::check`]; the block then stays in the book.
    ///
    /// # Safety
    /// As for [`Shadow::check`].
    pub unsafe fn leave(&mut self, ptr: *mut u8) -> Result<(), Damage> {
        // SAFETY: passed on to the caller.
        unsafe { self.check(ptr)? };
        if let Some(block) = self.live.remove(&(ptr as usize)) {
            self.bytes -= block.len;
        }
        Ok(())
    }

    /// Follows a block that was resized from `old` to `new` (perhaps the same address): checks that the common part of
    /// the content came along, then enters it with a new length and pattern.
    ///
    /// # Errors
    /// Any [`Damage`].
    ///
    /// # Safety
    /// `old` was entered here; the `len` bytes at `new` are the caller's if they overlap no other live block.
    pub unsafe fn resized(
        &mut self,
        old: *mut u8,
        new: *mut u8,
        len: usize,
        seed: u64,
    ) -> Result<(), Damage> {
        let block = self.live.remove(&(old as usize)).ok_or(Damage::Unknown(old as usize))?;
        self.bytes -= block.len;
        // SAFETY: the new block is at least as long as what is looked at.
        unsafe { carries(new, block, len.min(block.len)) }.map_err(|(offset, found)| Damage::Written {
            block: (new as usize, len),
            offset,
            expected: byte(block.seed, offset),
            found,
        })?;
        // SAFETY: passed on to the caller.
        unsafe { self.enter(new, len, seed) }
    }

    /// Number of live blocks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// True when nothing is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Bytes of all live blocks.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Addresses of the live blocks, rising.
    pub fn addresses(&self) -> impl Iterator<Item = *mut u8> {
        self.live.keys().map(|&address| address as *mut u8)
    }
}

/// The first of `len` bytes at `ptr` that is not the block's pattern, with what is there.
///
/// # Safety
/// The bytes are readable.
unsafe fn carries(ptr: *mut u8, block: Block, len: usize) -> Result<(), (usize, u8)> {
    for offset in marked(block.len).take_while(|&offset| offset < len) {
        // SAFETY: `offset` is below `len`; the caller vouches for the bytes.
        let found = unsafe { ptr.add(offset).read() };
        if found != byte(block.seed, offset) {
            return Err((offset, found));
        }
    }
    Ok(())
}
