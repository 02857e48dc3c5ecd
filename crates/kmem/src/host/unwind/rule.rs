//! A rule: how to come from a frame to its caller's. And the table that keeps what was found out.
//!
//! # Layout
//! One word for a place, so that it is read and written whole:
//! ```text
//!  63                  31 30                                     0
//! |  rest of the place   | saved rbp | offset | kind |
//!         33 bits            11         16       3      (one bit is left)
//! ```
//! The place (47 bits, as user addresses have) is mixed by a multiplication that loses nothing; 14 bits choose the slot and
//! the other 33 are kept, so a slot that matches is this place's (I-UNWIND-2). A newer place takes an older one's slot.

use core::sync::atomic::{AtomicU64, Ordering};

use super::files;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// CFA = rsp + offset.
    Rsp = 1,
    /// CFA = rbp + offset.
    Rbp = 2,
    /// CFA = what lies at rbp + offset: functions that align their stack.
    AtRbp = 3,
    /// The outermost.
    End = 4,
    /// What a signal's handler returns to: the registers lie at rsp.
    Signal = 5,
    /// Something else.
    Other = 6,
}

const KIND_BITS: u32 = 3;
const OFFSET_BITS: u32 = 16;
const RBP_BITS: u32 = 11;
const RULE_BITS: u32 = KIND_BITS + OFFSET_BITS + RBP_BITS;

const PLACE_BITS: u32 = 47;
const SLOT_BITS: u32 = 14;
const REST_BITS: u32 = PLACE_BITS - SLOT_BITS;
const SLOTS: usize = 1 << SLOT_BITS;
/// Odd: a multiplication modulo a power of two that can be undone.
const MIX: u64 = 0x5851_f42d_4c95_7f2d;

const _: () = assert!(RULE_BITS + REST_BITS <= 64);

/// A rule's bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule(u32);

impl Rule {
    /// [`Self::saved_rbp`]: rbp points to what it was.
    pub(super) const WHERE_IT_POINTS: usize = (1 << RBP_BITS) - 1;

    /// A rule without numbers.
    pub(super) const fn plain(kind: Kind) -> Self {
        Self(kind as u32)
    }

    /// A rule with an offset in bytes and the place of rbp, see [`Self::saved_rbp`]. `None`: they do not fit.
    pub(super) fn new(kind: Kind, offset: i64, saved_rbp: usize) -> Option<Self> {
        let words = i16::try_from(offset / 8).ok()?;
        if offset % 8 != 0 || saved_rbp > Self::WHERE_IT_POINTS {
            return None;
        }
        let offset = u32::from(words.cast_unsigned()) << KIND_BITS;
        Some(Self(kind as u32 | offset | (saved_rbp as u32) << (KIND_BITS + OFFSET_BITS)))
    }

    /// What the frame is.
    #[inline]
    pub(super) fn kind(self) -> Kind {
        match self.0 & ((1 << KIND_BITS) - 1) {
            1 => Kind::Rsp,
            2 => Kind::Rbp,
            3 => Kind::AtRbp,
            4 => Kind::End,
            5 => Kind::Signal,
            _ => Kind::Other,
        }
    }

    /// Bytes.
    #[inline]
    pub(super) fn offset(self) -> isize {
        isize::from(((self.0 >> KIND_BITS) as u16).cast_signed()) * 8
    }

    /// Where the caller's rbp is: 0: in rbp; n: n words below the CFA; [`Self::WHERE_IT_POINTS`].
    #[inline]
    pub(super) fn saved_rbp(self) -> usize {
        (self.0 >> (KIND_BITS + OFFSET_BITS)) as usize & Self::WHERE_IT_POINTS
    }
}

/// Kept rules. 0: none; a rule is never 0.
///
/// All accesses are relaxed: a word is a rule and its place, and needs nothing beside it.
static TABLE: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];

/// The rule of the code before an address.
#[inline]
pub(super) fn find(place: usize) -> Rule {
    let (slot, rest) = split(place);
    let word = TABLE[slot].load(Ordering::Relaxed);
    if word != 0 && word >> RULE_BITS == rest && place >> PLACE_BITS == 0 {
        return Rule((word & ((1 << RULE_BITS) - 1)) as u32);
    }
    files::resolve(place)
}

/// Keeps a rule.
pub(super) fn keep(place: usize, rule: Rule) {
    if place >> PLACE_BITS == 0 {
        let (slot, rest) = split(place);
        TABLE[slot].store(rest << RULE_BITS | u64::from(rule.0), Ordering::Relaxed);
    }
}

/// Forgets all rules.
pub(super) fn forget() {
    for slot in &TABLE {
        slot.store(0, Ordering::Relaxed);
    }
}

/// A place's slot, and what must be kept in it.
#[inline]
fn split(place: usize) -> (usize, u64) {
    let mixed = (place as u64).wrapping_mul(MIX) & ((1 << PLACE_BITS) - 1);
    ((mixed >> REST_BITS) as usize, mixed & ((1 << REST_BITS) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_come_back_as_they_were() {
        for kind in [Kind::Rsp, Kind::Rbp, Kind::AtRbp] {
            for offset in [8, 16, 4096, -8, 32767 * 8, -32768 * 8] {
                for rbp in [0, 2, 100, Rule::WHERE_IT_POINTS] {
                    let rule = Rule::new(kind, offset, rbp).unwrap();
                    assert_eq!((rule.kind(), rule.offset() as i64, rule.saved_rbp()), (kind, offset, rbp));
                }
            }
        }
        for kind in [Kind::End, Kind::Signal, Kind::Other] {
            assert_eq!(Rule::plain(kind).kind(), kind);
        }
        for (offset, rbp) in [(4, 0), (32768 * 8, 0), (8, Rule::WHERE_IT_POINTS + 1)] {
            assert_eq!(Rule::new(Kind::Rsp, offset, rbp), None);
        }
    }

    #[test]
    fn two_places_never_share_slot_and_rest() {
        let mut seen = std::collections::HashSet::new();
        let near = (0..50_000_usize).map(|n| 0x5555_5555_4000 + n);
        let far = (0..50_000_usize).map(|n| 0x7f00_0000_0000 + n * 0x1235);
        assert!(near.chain(far).all(|place| seen.insert(split(place))));
    }
}
