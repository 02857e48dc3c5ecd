//! The bytes that fill what nobody may touch, and how memory is searched and shown.
//!
//! Reads here are volatile: a checker looks at memory that a faulty program may be writing at this very moment.

use core::fmt;

/// A free object, all but its last byte.
pub const POISON_FREE: u8 = 0x6b;
/// The last byte of a free object.
pub const POISON_END: u8 = 0xa5;
/// Padding, and what a new slab is filled with.
pub const POISON_INUSE: u8 = 0x5a;
/// A red zone while its object is free.
pub const RED_INACTIVE: u8 = 0xbb;
/// A red zone while its object is in use.
pub const RED_ACTIVE: u8 = 0xcc;

/// One byte of memory that somebody else may write.
///
/// # Safety
/// The address is mapped.
unsafe fn peek(address: usize) -> u8 {
    // SAFETY: the caller's promise; volatile, because the owner of the byte does not know of this read.
    unsafe { (address as *const u8).read_volatile() }
}

/// The first and the last byte of a range that are not `value`; nothing when all are.
///
/// # Safety
/// The range is mapped.
#[must_use]
pub unsafe fn others(start: usize, len: usize, value: u8) -> Option<(usize, usize)> {
    // SAFETY: the caller's promise.
    let differs = |&address: &usize| unsafe { peek(address) } != value;
    let end = start + len;
    // SAFETY: the caller's promise.
    let first = unsafe { skip_same(start, end, value) };
    let first = (first..end).find(differs)?;
    let last = (first..end).rev().find(differs).unwrap_or(first);
    Some((first, last))
}

/// How far a range surely has nothing but `value`: up to the first word with another byte, or to the last few bytes.
///
/// # Safety
/// The range is mapped.
unsafe fn skip_same(start: usize, end: usize, value: u8) -> usize {
    const WORD: usize = size_of::<u64>();
    let same = u64::from_ne_bytes([value; WORD]);
    let mut at = start.next_multiple_of(WORD);
    // SAFETY: the caller's promise.
    if at >= end || (start..at).any(|address| unsafe { peek(address) } != value) {
        return start;
    }
    // SAFETY: the caller's promise; a whole word in the range. Volatile, as in `peek`.
    while at + WORD <= end && unsafe { (at as *const u64).read_volatile() } == same {
        at += WORD;
    }
    at
}

/// One row of a dump: 16 bytes at most, as numbers and as letters.
pub struct Row {
    bytes: [u8; Row::BYTES],
    len: usize,
}

impl Row {
    /// Bytes of a full row.
    pub const BYTES: usize = 16;

    /// Reads a row of at most [`Row::BYTES`] bytes.
    ///
    /// # Safety
    /// The range is mapped.
    #[must_use]
    pub unsafe fn read(start: usize, len: usize) -> Self {
        let mut row = Self { bytes: [0; Self::BYTES], len: len.min(Self::BYTES) };
        for (i, byte) in row.bytes[..row.len].iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *byte = unsafe { peek(start + i) };
        }
        row
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for i in 0..Self::BYTES {
            match self.bytes[..self.len].get(i) {
                Some(byte) => write!(f, "{byte:02x} ")?,
                None => f.write_str("   ")?,
            }
        }
        f.write_str(" ")?;
        self.bytes[..self.len].iter().try_for_each(|&byte| {
            let letter = if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '.' };
            fmt::Write::write_char(f, letter)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_found_from_both_ends() {
        let search = |memory: &[u8]| {
            let start = memory.as_ptr() as usize;
            // SAFETY: the slice is alive.
            unsafe { others(start, memory.len(), 0x5a) }.map(|(a, b)| (a - start, b - start))
        };
        let mut memory = [0x5a_u8; 40];
        assert_eq!(search(&memory), None);
        memory[7] = 1;
        assert_eq!(search(&memory), Some((7, 7)));
        memory[30] = 2;
        assert_eq!(search(&memory), Some((7, 30)));
        assert_eq!(search(&memory[8..30]), None);
        assert_eq!(search(&[]), None);
    }

    #[test]
    fn rows_look_as_the_kernels() {
        let text = b"kkk \x7f\x00~!0123456";
        // SAFETY: the array is alive.
        let row = |len| unsafe { Row::read(text.as_ptr() as usize, len) }.to_string();
        assert_eq!(row(15), "6b 6b 6b 20 7f 00 7e 21 30 31 32 33 34 35 36     kkk ..~!0123456");
        assert_eq!(row(3), "6b 6b 6b                                         kkk");
        assert_eq!(row(3).len(), 49 + 3);
    }
}
