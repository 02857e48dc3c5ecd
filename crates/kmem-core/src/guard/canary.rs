//! The pattern in the rest of a guarded object's page.
//!
//! A byte of it depends on its address, so that a copy from elsewhere does not look like it. It is written when an object
//! is placed, and looked at when the object is freed: what was written there in between was a write out of bounds
//! that no protected page could catch.

use core::fmt;

use crate::platform::PAGE_SIZE;

/// The byte at an address.
#[must_use]
pub const fn at(address: usize) -> u8 {
    0xaa ^ (address & 7) as u8
}

/// How many bytes of damage a report shows.
pub const SHOWN: usize = 16;

/// Fills the page around an object of `size` bytes, `offset` bytes from its start.
///
/// # Safety
/// `page` is the first byte of a page that the caller may write; the object lies in it.
pub unsafe fn fill(page: *mut u8, offset: usize, size: usize) {
    for at_byte in (0..offset).chain(offset + size..PAGE_SIZE) {
        // SAFETY: inside the page.
        unsafe { page.add(at_byte).write(at(page.addr() + at_byte)) };
    }
}

/// The first damaged byte on each side of an object, as offsets in its page: before it, behind it.
///
/// # Safety
/// As [`fill`], but to read.
pub unsafe fn damage(page: *const u8, offset: usize, size: usize) -> [Option<usize>; 2] {
    // SAFETY: inside the page.
    let wrong = |byte: &usize| unsafe { page.add(*byte).read() } != at(page.addr() + byte);
    [(0..offset).find(wrong), (offset + size..PAGE_SIZE).find(wrong)]
}

/// The bytes from a damaged one on: each damaged one as a number, a dot for a good one.
pub struct Damage {
    bytes: [u8; SHOWN],
    len: usize,
    address: usize,
}

impl Damage {
    /// Up to [`SHOWN`] bytes from `from` on, none at or beyond `end`.
    ///
    /// # Safety
    /// The bytes can be read.
    #[must_use]
    pub unsafe fn read(from: *const u8, end: usize) -> Self {
        let mut bytes = [0; SHOWN];
        let len = SHOWN.min(end - from.addr());
        for (i, byte) in bytes[..len].iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *byte = unsafe { from.add(i).read() };
        }
        Self { bytes, len, address: from.addr() }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, &byte) in self.bytes[..self.len].iter().enumerate() {
            if byte == at(self.address + i) {
                f.write_str(" .")?;
            } else {
                write!(f, " {byte:#04x}")?;
            }
        }
        f.write_str(" ]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Page([u8; PAGE_SIZE]);

    #[test]
    fn every_byte_of_the_rest_is_watched_and_none_of_the_object() {
        let mut page = Page([0; PAGE_SIZE]);
        let start = page.0.as_mut_ptr();
        for (offset, size) in [(0, 1), (0, 4096), (4064, 32), (4095, 1), (1000, 8), (16, 4080)] {
            // SAFETY: a page of this test.
            unsafe {
                fill(start, offset, size);
                assert_eq!(damage(start, offset, size), [None; 2]);
                for byte in 0..PAGE_SIZE {
                    *start.add(byte) ^= 0x80;
                    let expected = if byte < offset {
                        [Some(byte), None]
                    } else if byte < offset + size {
                        [None; 2]
                    } else {
                        [None, Some(byte)]
                    };
                    assert_eq!(damage(start, offset, size), expected, "{byte} of {offset} {size}");
                    *start.add(byte) ^= 0x80;
                }
            }
        }
    }

    #[test]
    fn damage_is_shown_byte_by_byte() {
        let mut page = Page([0; PAGE_SIZE]);
        let start = page.0.as_mut_ptr();
        // SAFETY: a page of this test.
        unsafe {
            fill(start, 0, 0);
            assert_ne!(start.read(), start.add(1).read());
            start.add(8).write(0x41);
            start.add(10).write(0);
            let end = start.addr() + PAGE_SIZE;
            assert_eq!(
                Damage::read(start.add(8), end).to_string(),
                "[ 0x41 . 0x00 . . . . . . . . . . . . . ]"
            );
            assert_eq!(Damage::read(start.add(PAGE_SIZE - 2), end).to_string(), "[ . . ]");
        }
    }
}
