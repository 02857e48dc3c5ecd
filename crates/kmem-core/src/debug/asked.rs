//! How a block of kmalloc was asked for: by which calls, with which alignment, how many bytes.
//!
//! A checked class that keeps tracks keeps it in one word behind the object; a kernel keeps the size there, and so does
//! this for a request of which no more is known.

use core::fmt;

/// The family of calls that a block was asked for with, or is given back with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Origin {
    /// `malloc` and all that `free` takes; what nobody said anything else about.
    #[default]
    Malloc = 0,
    /// `new` and `delete`.
    New = 1,
    /// `new[]` and `delete[]`.
    NewArray = 2,
    /// `new` and `delete` with an alignment.
    AlignedNew = 3,
    /// `new[]` and `delete[]` with an alignment.
    AlignedNewArray = 4,
}

impl Origin {
    const ALL: [Self; 5] = [Self::Malloc, Self::New, Self::NewArray, Self::AlignedNew, Self::AlignedNewArray];

    /// How the call is written that gives back.
    #[must_use]
    pub const fn free(self) -> &'static str {
        ["free", "delete", "delete[]", "aligned delete", "aligned delete[]"][self as usize]
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(["malloc", "new", "new[]", "aligned new", "aligned new[]"][*self as usize])
    }
}

/// How a block was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// By which calls.
    pub origin: Origin,
    /// With this alignment, a power of two; 1: with none.
    pub align: usize,
    /// So many bytes; less than 2^23 where it is kept in a word. Where nobody knows, what there is room for.
    pub size: usize,
    /// The size is what was asked for.
    pub exact: bool,
}

impl Asked {
    /// Enough for the largest block of pages.
    const SIZE_BITS: u32 = 23;
    const ALIGN_BITS: u32 = 5;
    const ORIGIN_BITS: u32 = 3;
    const INEXACT: u32 = 31;

    /// In one word: that of a request by `malloc` without an alignment is the size.
    pub(crate) fn pack(self) -> u32 {
        let align = self.align.trailing_zeros();
        let origin = (self.origin as u32) << (Self::SIZE_BITS + Self::ALIGN_BITS);
        u32::from(!self.exact) << Self::INEXACT | origin | align << Self::SIZE_BITS | self.size as u32
    }

    /// Any word is a request: it may have been damaged.
    pub(crate) fn unpack(word: u32) -> Self {
        let field = |at: u32, bits: u32| (word >> at & ((1 << bits) - 1)) as usize;
        let origin = Origin::ALL.get(field(Self::SIZE_BITS + Self::ALIGN_BITS, Self::ORIGIN_BITS)).copied();
        Self {
            origin: origin.unwrap_or_default(),
            align: 1_usize.checked_shl(field(Self::SIZE_BITS, Self::ALIGN_BITS) as u32).unwrap_or(1),
            size: field(0, Self::SIZE_BITS),
            exact: field(Self::INEXACT, 1) == 0,
        }
    }
}

impl Default for Asked {
    fn default() -> Self {
        Self { origin: Origin::Malloc, align: 1, size: 0, exact: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_fits_in_a_word() {
        for origin in Origin::ALL {
            for (align, size) in [(1, 0), (16, 100), (1 << 31, 65_536), (4096, 4 << 20)] {
                for exact in [true, false] {
                    let request = Asked { origin, align, size, exact };
                    assert_eq!(Asked::unpack(request.pack()), request);
                }
            }
        }
        assert_eq!(Asked { size: 4000, exact: true, ..Asked::default() }.pack(), 4000);
        // Damaged: something that can be shown.
        assert_eq!(Asked::unpack(u32::MAX).origin, Origin::Malloc);
    }
}
