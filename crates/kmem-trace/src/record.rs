//! One record as bytes.
//!
//! The first byte has the kind in its high three bits and the first field in its low five: a value below
//! [`INLINE`] stands there itself; from there on the five bits say how many bytes follow, which hold the
//! value less [`INLINE`]. A second field is seven bits a byte, low bits first, the high bit set in all but its
//! last byte. No kind is 0, so that room which was never written is not taken for records.

/// Values below this need no byte of their own.
pub const INLINE: u64 = 24;
/// The longest record: a first byte, eight of the first field, ten of the second.
pub const MAX_BYTES: usize = 19;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The next block.
    Alloc = 1,
    /// The next block, zeroed.
    Zeroed = 2,
    /// The next block, aligned.
    Aligned = 3,
    /// The end of a block.
    Free = 4,
    /// The end of a block, and the next one in its place.
    Resize = 5,
    /// Who speaks from here on.
    Thread = 6,
    /// How much time passed.
    Time = 7,
}

impl Kind {
    /// The kind of a record by its first byte; `None` for a byte that begins no record.
    #[must_use]
    pub const fn of(first: u8) -> Option<Self> {
        Some(match first >> 5 {
            1 => Self::Alloc,
            2 => Self::Zeroed,
            3 => Self::Aligned,
            4 => Self::Free,
            5 => Self::Resize,
            6 => Self::Thread,
            7 => Self::Time,
            _ => return None,
        })
    }

    /// Records of this kind have a second field.
    #[must_use]
    pub const fn has_second(self) -> bool {
        matches!(self, Self::Aligned | Self::Resize)
    }
}

/// The bytes of one record.
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    bytes: [u8; MAX_BYTES],
    len: usize,
}

impl Bytes {
    /// A record of one field.
    #[must_use]
    pub fn one(kind: Kind, first: u64) -> Self {
        let mut record = Self { bytes: [0; MAX_BYTES], len: 1 };
        let tag = (kind as u8) << 5;
        if first < INLINE {
            record.bytes[0] = tag | first as u8;
            return record;
        }
        let rest = first - INLINE;
        let count = (8 - rest.leading_zeros() as usize / 8).max(1);
        record.bytes[0] = tag | (INLINE as u8 + count as u8 - 1);
        record.bytes[1..=count].copy_from_slice(&rest.to_le_bytes()[..count]);
        record.len += count;
        record
    }

    /// A record of two fields.
    #[must_use]
    pub fn two(kind: Kind, first: u64, mut second: u64) -> Self {
        let mut record = Self::one(kind, first);
        loop {
            let more = second >> 7 != 0;
            record.bytes[record.len] = (second & 0x7f) as u8 | if more { 0x80 } else { 0 };
            record.len += 1;
            if !more {
                return record;
            }
            second >>= 7;
        }
    }

    /// The record.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A record as read: its kind, its fields (the second 0 where there is none), its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// What it says.
    pub kind: Kind,
    /// The first field.
    pub first: u64,
    /// The second field.
    pub second: u64,
    /// Bytes it takes.
    pub len: usize,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// They end inside it.
    Short,
    /// No kind has this first byte.
    Kind(u8),
    /// A field exceeds 64 bits.
    Large,
}

/// Reads the record at the beginning of `bytes`.
///
/// # Errors
/// There is none.
pub fn read(bytes: &[u8]) -> Result<Read, Bad> {
    let &head = bytes.first().ok_or(Bad::Short)?;
    let kind = Kind::of(head).ok_or(Bad::Kind(head))?;
    let code = u64::from(head & 0x1f);
    let (first, mut len) = if code < INLINE {
        (code, 1)
    } else {
        let count = (code - INLINE) as usize + 1;
        let mut word = [0; 8];
        word[..count].copy_from_slice(bytes.get(1..=count).ok_or(Bad::Short)?);
        (u64::from_le_bytes(word).checked_add(INLINE).ok_or(Bad::Large)?, 1 + count)
    };
    let mut second = 0;
    if kind.has_second() {
        for place in 0.. {
            let &byte = bytes.get(len).ok_or(Bad::Short)?;
            len += 1;
            let part = u64::from(byte & 0x7f);
            if place == 10 || (place == 9 && part > 1) {
                return Err(Bad::Large);
            }
            second |= part << (7 * place);
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    Ok(Read { kind, first, second, len })
}

/// A signed number as an unsigned one that is small when it is near 0.
#[must_use]
pub const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// What [`zigzag`] was given.
#[must_use]
pub const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: [u64; 16] = [
        0,
        1,
        23,
        24,
        25,
        279,
        280,
        281,
        65559,
        65560,
        1 << 24,
        1 << 32,
        (1 << 40) + 24,
        1 << 56,
        u64::MAX - 1,
        u64::MAX,
    ];

    #[test]
    fn every_value_comes_back() {
        for kind in [Kind::Alloc, Kind::Zeroed, Kind::Free, Kind::Thread, Kind::Time] {
            for first in VALUES {
                let bytes = Bytes::one(kind, first);
                let len = bytes.as_slice().len();
                assert_eq!(read(bytes.as_slice()), Ok(Read { kind, first, second: 0, len }));
                for end in 0..len {
                    assert_eq!(read(&bytes.as_slice()[..end]), Err(Bad::Short), "{first} cut to {end}");
                }
            }
        }
        for kind in [Kind::Aligned, Kind::Resize] {
            for first in VALUES {
                for second in VALUES {
                    let bytes = Bytes::two(kind, first, second);
                    let len = bytes.as_slice().len();
                    assert!(len <= MAX_BYTES);
                    assert_eq!(read(bytes.as_slice()), Ok(Read { kind, first, second, len }));
                    for end in 0..len {
                        assert_eq!(read(&bytes.as_slice()[..end]), Err(Bad::Short));
                    }
                }
            }
        }
    }

    #[test]
    fn common_records_are_one_to_three_bytes() {
        assert_eq!(Bytes::one(Kind::Alloc, 16).as_slice(), [0x30]);
        assert_eq!(Bytes::one(Kind::Alloc, 24).as_slice(), [0x38, 0]);
        assert_eq!(Bytes::one(Kind::Free, 279).as_slice(), [0x98, 255]);
        assert_eq!(Bytes::one(Kind::Free, 280).as_slice(), [0x99, 0, 1]);
        assert_eq!(Bytes::two(Kind::Resize, 0, 200).as_slice(), [0xa0, 0xc8, 1]);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for head in 0..32 {
            assert_eq!(read(&[head, 1, 1, 1, 1, 1, 1, 1, 1, 1]), Err(Bad::Kind(head)));
        }
        let mut over = [0xff; 9];
        over[0] = 0x3f;
        assert_eq!(read(&over), Err(Bad::Large), "2^64 + 23");
        let mut long = [0xff; 12];
        long[0] = 0xa0;
        assert_eq!(read(&long), Err(Bad::Large));
        long[10] = 2;
        assert_eq!(read(&long), Err(Bad::Large), "bit 64");
    }

    #[test]
    fn zigzag_is_small_near_zero() {
        for (value, coded) in
            [(0, 0), (-1, 1), (1, 2), (-2, 3), (i64::MAX, u64::MAX - 1), (i64::MIN, u64::MAX)]
        {
            assert_eq!((zigzag(value), unzigzag(coded)), (coded, value));
        }
    }
}
