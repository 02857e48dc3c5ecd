//! What the fast path of free asks of an address: does an object of this class start there?
//!
//! # Theory
//! The question and its answer are those of [`Proof`](kmem_core::engine::proof::Proof), which see, in words of 32 bits: three of
//! them are compared as they lie in memory, and fit into a stack's word, so that one shift finds both. With `o` the distance from
//! the first slot of a slab of `bytes` bytes, `o = k * size + r`, and `magic = (2^32 + e) / size` with the `e` from 0 to `size`
//! that makes it whole, `o * magic` wraps to `k * e + r * magic`. It wraps once only, if
//! - `k * e` is below `magic`, so that the largest `r` stays below 2^32: true where `bytes * size` is below 2^32.
//!
//! Then `r = 0` gives `k * e`, below `objects * e`, and `r > 0` gives at least `magic`, which is more than that. A slab of one
//! object may be larger: there only its first byte starts one, and `o * 1 < 1` says it.
//!
//! # Never
//! Nothing here reads memory or divides, but [`Check::new`], which runs when the program is compiled.

/// What proves that an object of a class starts at an address.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check {
    /// Bytes of a slab, less one.
    pub(crate) mask: u32,
    /// 2^32 divided by the size of an object, rounded up by `e / size`; 1 where a slab has one object.
    pub(crate) magic: u32,
    /// What the products of all good distances are below.
    pub(crate) limit: u32,
    /// Bytes from the start of a slab to its first slot, where that is the same in all slabs.
    pub(crate) lead: u16,
    /// Words from a block to the end of its tail, of the last one in a slab where blocks have headers, or of its seal; 0: it has none.
    pub(crate) tail_end: u16,
}

impl Check {
    /// Passes nothing.
    pub(crate) const NONE: Self = Self { mask: 0, magic: 0, limit: 0, lead: 0, tail_end: 0 };

    /// For slabs of `bytes` bytes with `objects` slots of `size` bytes, from `lead` bytes behind their start on.
    ///
    /// # Panics
    /// When `bytes` is no power of two, the slots do not fit, or the product would not be exact.
    pub(crate) const fn new(bytes: usize, size: usize, objects: usize, lead: usize) -> Self {
        assert!(bytes.is_power_of_two() && bytes < 1 << 31 && size > 1);
        assert!(objects > 0 && objects <= bytes / size && lead < bytes && lead <= u16::MAX as usize);
        let mask = bytes as u32 - 1;
        if objects == 1 {
            return Self { mask, magic: 1, limit: 1, lead: lead as u16, tail_end: 0 };
        }
        assert!((bytes as u64) * (size as u64) < 1 << 32);
        let mut magic = u32::MAX / size as u32 + 1;
        if magic.wrapping_mul(size as u32) == 0 && objects * size < bytes {
            magic += 1;
        }
        let e = magic.wrapping_mul(size as u32);
        Self {
            mask,
            magic,
            limit: if e == 0 { 1 } else { objects as u32 * e },
            lead: lead as u16,
            tail_end: 0,
        }
    }

    /// Bytes of a slab.
    #[cfg(test)]
    pub(crate) const fn slab_bytes(&self) -> usize {
        self.mask as usize + 1
    }

    /// The first byte of the slab around an address.
    #[inline(always)]
    pub(crate) const fn slab_of(&self, address: usize) -> usize {
        address & !(self.mask as usize)
    }

    /// An object starts at `address` in a slab whose first slot is `lead` bytes from its start.
    #[inline(always)]
    pub(crate) const fn starts(&self, address: usize, lead: u32) -> bool {
        ((address as u32).wrapping_sub(lead) & self.mask).wrapping_mul(self.magic) < self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kmem_core::platform::PAGE_SIZE;

    /// Every distance of slabs of every order and many sizes, by division.
    #[test]
    fn the_multiplication_says_what_the_division_says() {
        for order in 0..4 {
            let bytes = PAGE_SIZE << order;
            for size in (2..=64).chain((72..bytes).step_by(536)).chain([bytes / 3, bytes / 2, bytes]) {
                for (lead, objects) in [(0, bytes / size), (0, 1), (64, (bytes - 64) / size)] {
                    if objects == 0 {
                        continue;
                    }
                    let check = Check::new(bytes, size, objects, lead);
                    assert_eq!(usize::from(check.lead), lead);
                    for at in 0..bytes {
                        let slot = at >= lead && (at - lead) % size == 0 && (at - lead) / size < objects;
                        assert_eq!(
                            check.starts(7 * bytes + at, lead as u32),
                            slot,
                            "{at} {size} {lead} of {bytes}"
                        );
                    }
                }
            }
        }
    }

    /// The largest slabs, around each object: the product is exact up to the limit that `new` asserts.
    #[test]
    fn the_largest_slabs_are_checked_too() {
        for (bytes, size) in
            [(64 << 10, 32 << 10), (64 << 10, (64 << 10) - 16), (128 << 10, 30_000), (4 << 20, 1008)]
        {
            let objects = bytes / size;
            let check = Check::new(bytes, size, objects, 0);
            for k in 0..=objects {
                for at in [k * size, k * size + 1, k * size + 16, k * size + size - 1]
                    .into_iter()
                    .filter(|at| *at < bytes)
                {
                    assert_eq!(
                        check.starts(at, 0),
                        at.is_multiple_of(size) && at / size < objects,
                        "{at} {size}"
                    );
                }
            }
        }
        let run = Check::new(4 << 20, 3 << 20, 1, 0);
        assert!(run.starts(12 << 20, 0));
        assert!((1..4 << 20).step_by(4093).all(|at| !run.starts((12 << 20) + at, 0)));
    }

    #[test]
    fn nothing_starts_anywhere_without_a_check() {
        assert!((0..8192).all(|at| !Check::NONE.starts(at, 0)));
    }
}
