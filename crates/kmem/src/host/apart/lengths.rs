//! What is known of the lengths that large blocks come back with.
//!
//! # Theory
//! A program that frees a block of some length and asks for the same again will do so for long. Two things are learnt of such a
//! length:
//!
//! - *that it comes back*: its ranges are kept as they are, each block a mapping of its own. Of lengths that come once, a range is one
//!   mapping while it waits, which is cheaper to make and to remove, and dearer to open.
//! - *whether its blocks are written to all over*: then the next ones are made resident by one call, which costs half of what a
//!   fault for each page does. Nobody tells the heap who touched a block, so some are *probes*: a probe is left to its faults, and
//!   when it is freed the kernel is asked which of its pages are there. What is found holds for the next block; when the next probe
//!   says the same, for two, and so on to [`TRUSTED`].
//!
//! # Invariants
//! - I-LENGTH-1: at most [`TRUSTED`] blocks of a length are made resident for each probe that was found touched, and none while the
//!   last one was not.
//!
//! # Locks
//! All of it is behind the lock of the ranges.

/// Lengths that are remembered: a power of two. Two that share a place forget each other.
const LENGTHS: usize = 32;
/// Blocks that are taken to be like the one that was looked at, at most.
const TRUSTED: u8 = 16;
/// A block of more bytes is never made resident.
pub(super) const MOST: usize = 4 << 20;

/// What is known of one length.
#[derive(Clone, Copy)]
struct Length {
    bytes: usize,
    /// The block that is looked at when it is freed: its address.
    probe: usize,
    /// The last probe was written to all over.
    touched: bool,
    /// Blocks until the next one.
    left: u8,
    /// How many that were after the last look.
    trust: u8,
}

impl Length {
    const fn new(bytes: usize) -> Self {
        Self { bytes, probe: 0, touched: false, left: 0, trust: 0 }
    }
}

/// What is known of all.
pub(super) struct Lengths([Length; LENGTHS]);

impl Lengths {
    pub(super) const NONE: Self = Self([Length::new(0); LENGTHS]);

    fn of(&mut self, bytes: usize) -> &mut Length {
        let place = (bytes as u64 >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59;
        &mut self.0[place as usize % LENGTHS]
    }

    /// A block of `bytes` bytes at `block` takes a range that another one left. True: it should be made resident.
    pub(super) fn back(&mut self, bytes: usize, block: usize) -> bool {
        let length = self.of(bytes);
        if length.bytes != bytes {
            *length = Length::new(bytes);
        }
        if length.left > 0 {
            length.left -= 1;
            return length.touched;
        }
        if bytes <= MOST {
            length.probe = block;
        }
        false
    }

    /// Ranges of this length were taken again.
    pub(super) fn returns(&mut self, bytes: usize) -> bool {
        self.of(bytes).bytes == bytes
    }

    /// A block is about to be freed. True: whoever frees it should look how much of it is there, and tell.
    pub(super) fn asks(&mut self, bytes: usize, block: usize) -> bool {
        let length = self.of(bytes);
        length.bytes == bytes && length.probe == block
    }

    /// `resident` of the pages of a probe were there.
    pub(super) fn tell(&mut self, bytes: usize, resident: usize, pages: usize) {
        let length = self.of(bytes);
        if length.bytes == bytes {
            length.probe = 0;
            let touched = resident >= pages - pages / 8;
            length.trust = if touched == length.touched { (length.trust * 2).clamp(1, TRUSTED) } else { 1 };
            (length.touched, length.left) = (touched, length.trust);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 256 << 10;

    /// A probe of which so many pages are there, and those that are taken to be like it.
    fn look(lengths: &mut Lengths, resident: usize, trust: usize) {
        assert!(!lengths.back(BYTES, 0x1000), "a probe");
        assert!(lengths.returns(BYTES));
        assert!(lengths.asks(BYTES, 0x1000) && !lengths.asks(BYTES, 0x2000));
        lengths.tell(BYTES, resident, 64);
        for _ in 0..trust {
            assert_eq!(lengths.back(BYTES, 0x1000), resident >= 56);
            assert!(!lengths.asks(BYTES, 0x1000), "no probe");
        }
    }

    #[test]
    fn only_what_was_touched_is_made_resident() {
        let mut lengths = Lengths::NONE;
        assert!(!lengths.returns(BYTES));
        assert!(!lengths.asks(BYTES, 0x1000), "nothing is known");
        for (resident, trust) in
            [(0, 1), (1, 2), (55, 4), (56, 1), (64, 2), (64, 4), (60, 8), (64, 16), (64, 16)]
        {
            look(&mut lengths, resident, trust);
        }
        for (resident, trust) in [(55, 1), (64, 1), (0, 1), (0, 2)] {
            look(&mut lengths, resident, trust);
        }
    }

    #[test]
    fn a_long_block_is_no_probe() {
        let mut lengths = Lengths::NONE;
        assert!(!lengths.back(MOST + 4096, 0x1000));
        assert!(!lengths.asks(MOST + 4096, 0x1000));
        assert!(lengths.returns(MOST + 4096));
    }

    #[test]
    fn lengths_that_share_a_place_do_not_mix() {
        let mut lengths = Lengths::NONE;
        for pages in 1..200 {
            let bytes = pages << 12;
            assert!(!lengths.back(bytes, pages << 20));
            lengths.tell(bytes, pages, pages);
            assert!(!lengths.asks(bytes, pages << 20));
            assert!(!lengths.returns(bytes + 4096), "not seen yet");
        }
        let known = (1..200).filter(|pages| lengths.returns(pages << 12)).count();
        assert!((1..=LENGTHS).contains(&known), "{known}");
    }
}
