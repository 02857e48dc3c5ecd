//! What is known of the lengths that large blocks come back with.
//!
//! # Theory
//! A program that frees a block of some length and asks for the same again will do so for long. Two things are learnt of such a
//! length:
//!
//! - *that it comes back*: its ranges are kept as they are, each block a mapping of its own. Of lengths that come once, a range is one
//!   mapping while it waits, which is cheaper to make and to remove, and dearer to open.
//! - *whether its blocks are written to all over*: then the next ones get pages before anybody touches them, those of a block before
//!   ([`super::stash`]) or new ones by one call. Nobody tells the heap who touched a block, so some are *probes*: a probe is left to
//!   its faults, and when it is freed the kernel is asked which of its pages are there. What is found holds for the next block; when the
//!   next says the same, for two, and so on to [`TRUSTED`]. A block that had its pages from the start says it by what it holds: if that is not zero
//!   all over, it was written to, and if it is, the next block is a probe.
//!
//! # Invariants
//! - I-LENGTH-1: at most [`TRUSTED`] blocks of a length get pages for each that was found written to, and none while the
//!   last probe was not.
//!
//! # Locks
//! All of it is behind the lock of the ranges.

/// Lengths that are remembered: a power of two. Two that share a place forget each other.
const LENGTHS: usize = 32;
/// Blocks that are taken to be like the one that was looked at, at most.
const TRUSTED: u8 = 16;
/// A block of more bytes gets no pages: as many as may be kept.
pub(super) const MOST: usize = super::stash::MOST;
/// A length that comes back is not forgotten before so many blocks of others that share its place were freed.
const STAYS: u8 = 16;

/// What is known of one length.
#[derive(Clone, Copy)]
struct Length {
    bytes: usize,
    /// Somebody asked for it again.
    back: bool,
    /// The block that is looked at when it is freed: its address.
    probe: usize,
    /// The last probe was written to all over.
    touched: bool,
    /// Blocks until the next one.
    left: u8,
    /// How many that were after the last look.
    trust: u8,
    /// Blocks of other lengths until it is forgotten.
    stays: u8,
}

impl Length {
    const fn new(bytes: usize) -> Self {
        Self { bytes, back: false, probe: 0, touched: false, left: 0, trust: 0, stays: 0 }
    }

    fn trust(&mut self, like_before: bool) {
        self.trust = if like_before { (self.trust * 2).clamp(1, TRUSTED) } else { 1 };
        self.left = self.trust;
    }
}

/// What is known of the length of a block that is freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Last {
    /// The length comes back.
    pub(super) back: bool,
    /// This block is a probe: whoever frees it should look how much of it is there, and tell.
    pub(super) probe: bool,
    /// It was written to all over, as far as those before it tell.
    pub(super) written: bool,
}

/// What is known of all.
pub(super) struct Lengths([Length; LENGTHS]);

impl Lengths {
    pub(super) const NONE: Self = Self([Length::new(0); LENGTHS]);

    fn of(&mut self, bytes: usize) -> &mut Length {
        let place = (bytes as u64 >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59;
        &mut self.0[place as usize % LENGTHS]
    }

    fn known(&mut self, bytes: usize) -> Option<&mut Length> {
        Some(self.of(bytes)).filter(|length| length.bytes == bytes)
    }

    /// A block of `bytes` bytes is made at `block`. True: it should get pages.
    pub(super) fn back(&mut self, bytes: usize, block: usize) -> bool {
        let Some(length) = self.known(bytes) else { return false };
        (length.back, length.stays) = (true, STAYS);
        if length.left > 0 {
            length.left -= 1;
            return length.touched;
        }
        if bytes <= MOST {
            length.probe = block;
        }
        false
    }

    /// A block is freed.
    pub(super) fn freed(&mut self, bytes: usize, block: usize) -> Last {
        let length = self.of(bytes);
        if length.bytes != bytes {
            if length.stays > 0 {
                length.stays -= 1;
            } else {
                *length = Length::new(bytes);
            }
            return Last::default();
        }
        let probe = length.probe == block;
        Last { back: length.back, probe, written: length.touched && !probe }
    }

    /// `resident` of the pages of a probe were there. True: it was written to all over.
    pub(super) fn tell(&mut self, bytes: usize, resident: usize, pages: usize) -> bool {
        let touched = resident >= pages - pages / 8;
        if let Some(length) = self.known(bytes) {
            length.probe = 0;
            length.trust(touched == length.touched);
            length.touched = touched;
        }
        touched
    }

    /// Whether a block was written to that may have had its pages from the start.
    pub(super) fn saw(&mut self, bytes: usize, written: bool) {
        if let Some(length) = self.known(bytes) {
            if written && length.touched {
                length.trust(true);
            } else {
                length.left = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 256 << 10;

    fn is_probe(lengths: &mut Lengths, block: usize) -> bool {
        lengths.freed(BYTES, block).probe
    }

    /// A probe of which so many pages are there, and those that are taken to be like it.
    fn look(lengths: &mut Lengths, resident: usize, trust: usize) {
        assert!(!lengths.back(BYTES, 0x1000), "a probe");
        let last = lengths.freed(BYTES, 0x1000);
        assert_eq!(last, Last { back: true, probe: true, written: false });
        assert!(!is_probe(lengths, 0x2000));
        assert_eq!(lengths.tell(BYTES, resident, 64), resident >= 56);
        for _ in 0..trust {
            assert_eq!(lengths.back(BYTES, 0x1000), resident >= 56);
            assert_eq!(
                lengths.freed(BYTES, 0x1000),
                Last { back: true, probe: false, written: resident >= 56 }
            );
        }
    }

    #[test]
    fn only_what_was_touched_gets_pages() {
        let mut lengths = Lengths::NONE;
        assert!(!lengths.back(BYTES, 0x1000), "nothing is known");
        assert_eq!(lengths.freed(BYTES, 0x1000), Last::default());
        assert_eq!(lengths.freed(BYTES, 0x1000), Last::default(), "nobody asked for it again");
        for (resident, trust) in
            [(0, 1), (1, 2), (55, 4), (56, 1), (64, 2), (64, 4), (60, 8), (64, 16), (64, 16)]
        {
            look(&mut lengths, resident, trust);
        }
        for (resident, trust) in [(55, 1), (64, 1), (0, 1), (0, 2)] {
            look(&mut lengths, resident, trust);
        }
    }

    /// Blocks that had pages tell by what they hold: no probe is needed, until one is found zero.
    #[test]
    fn what_was_written_is_trusted_on() {
        let mut lengths = Lengths::NONE;
        lengths.freed(BYTES, 0x1000);
        look(&mut lengths, 64, 0);
        for _ in 0..100 {
            assert!(lengths.back(BYTES, 0x1000));
            assert!(lengths.freed(BYTES, 0x1000).written);
            lengths.saw(BYTES, true);
        }
        // Not more than so many that nobody has looked at.
        assert_eq!((0..100).filter(|_| lengths.back(BYTES, 0x1000)).count(), usize::from(TRUSTED));
        lengths.tell(BYTES, 64, 64);
        assert!(lengths.back(BYTES, 0x1000));
        lengths.saw(BYTES, false);
        look(&mut lengths, 0, 1);
        lengths.saw(BYTES, true);
        assert!(!lengths.back(BYTES, 0x1000), "what was written to by chance changes nothing");
    }

    #[test]
    fn a_long_block_is_no_probe() {
        let mut lengths = Lengths::NONE;
        lengths.freed(MOST + 4096, 0x1000);
        assert!(!lengths.back(MOST + 4096, 0x1000));
        assert_eq!(lengths.freed(MOST + 4096, 0x1000), Last { back: true, probe: false, written: false });
    }

    #[test]
    fn lengths_that_share_a_place_do_not_mix() {
        let mut lengths = Lengths::NONE;
        for pages in 1..200 {
            let bytes = pages << 12;
            assert_eq!(lengths.freed(bytes, pages << 20), Last::default(), "not seen yet");
            assert!(!lengths.back(bytes + 4096, pages << 20), "nor this one");
            lengths.tell(bytes, pages, pages);
            assert!(!lengths.freed(bytes, pages << 20).probe);
        }
        let known = (1..200).filter(|pages| lengths.known(pages << 12).is_some()).count();
        assert!((1..=LENGTHS).contains(&known), "{known}");
    }

    #[test]
    fn a_length_that_comes_back_stays_a_while() {
        let mut lengths = Lengths::NONE;
        lengths.freed(BYTES, 0x1000);
        lengths.back(BYTES, 0x1000);
        let place = core::ptr::from_mut(lengths.of(BYTES));
        let other = (1..)
            .map(|pages| pages << 12)
            .find(|&bytes| bytes != BYTES && core::ptr::eq(lengths.of(bytes), place));
        let other = other.expect("there are more lengths than places");
        for _ in 0..STAYS {
            lengths.freed(other, 0x5000);
            assert!(lengths.freed(BYTES, 0x9000).back);
        }
        lengths.freed(other, 0x5000);
        assert!(lengths.known(other).is_some() && lengths.known(BYTES).is_none());
    }
}
