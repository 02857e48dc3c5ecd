//! That an object starts at an address, proved by one multiplication.
//!
//! # Theory
//! A slab has `bytes` bytes, a power of two to which it is aligned, and `objects` slots of `size` bytes each from its lead on. Let
//! `o` be an address's distance from the first slot, modulo `bytes`, and `magic` be `(2^64 + e) / size`, with the `e` from 0 to
//! `size` that makes it whole. With `o = k * size + r`, `r < size`, the product `o * magic` wraps to
//!
//! ```text
//!   k * e + r * magic
//! ```
//! because `k * 2^64` vanishes. Slabs are below 2^31 bytes, so this never wraps again, and
//! - `r = 0`: it is `k * e`, below `objects * e` exactly for the objects of the slab;
//! - `r > 0`: it is at least `magic`, so at least `2^64 / size`, more than `objects * e`, which is at most `bytes`.
//!
//! So *an object starts there* is `o * magic < objects * e`. With `e = 0`, which a power of two may have, the limit is 1 and
//! every slot passes: right where the slots fill the slab. Where they do not, `magic` is one more and `e` is `size`.
//!
//! For those the upper half of the product is `k`, the object's number.
//!
//! What lies before the first slot wraps to the end of the slab, behind the last slot.
//!
//! # Invariants
//! - I-PROOF-1: a page with the tag that a cache trusts (`Cache::trusted`) lies in a slab of that cache, of the
//!   geometry's preferred order, and the cache is live and has stacks.
//!
//! # Never
//! [`Proof::starts`] reads no memory but the proof, and does not divide.

use crate::engine::geometry::Geometry;
use crate::platform::{PAGE_SHIFT, PAGE_SIZE};

/// What proves that an object starts at an address. As large as a stack's word, so that one shift finds both.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    /// Bytes of a slab, less one.
    mask: u32,
    /// What the products of all good distances are below.
    limit: u32,
    /// 2^64 divided by the size of an object, rounded up by `e / size`.
    magic: u64,
}

impl Proof {
    /// Proves nothing of any address.
    pub const NONE: Self = Self { mask: 0, limit: 0, magic: 0 };

    /// For slabs of `bytes` bytes with `objects` slots of `size` bytes.
    ///
    /// # Panics
    /// When `bytes` is no power of two below 2^31, or the slots are none, empty, or do not fit.
    #[must_use]
    pub const fn new(bytes: usize, size: usize, objects: usize) -> Self {
        assert!(bytes.is_power_of_two() && bytes < 1 << 31);
        assert!(size > 1 && objects > 0 && objects <= bytes / size);
        let mut magic = u64::MAX / size as u64 + 1;
        if magic.wrapping_mul(size as u64) == 0 && objects * size < bytes {
            magic += 1;
        }
        let e = magic.wrapping_mul(size as u64) as usize;
        let limit = if e == 0 { 1 } else { objects * e };
        Self { mask: bytes as u32 - 1, limit: limit as u32, magic }
    }

    /// For the slabs of a layout; `None` where other things than objects lie between the slots.
    pub(crate) const fn of(geometry: &Geometry) -> Option<Self> {
        if geometry.red_left_pad != 0 || geometry.objects == 0 {
            return None;
        }
        Some(Self::new(PAGE_SIZE << geometry.order, geometry.size, geometry.objects))
    }

    /// Bytes of a slab.
    #[must_use]
    pub const fn slab_bytes(&self) -> usize {
        self.mask as usize + 1
    }

    /// The first byte of the slab around an address.
    #[inline(always)]
    #[must_use]
    pub const fn slab_of(&self, address: usize) -> usize {
        address & !(self.mask as usize)
    }

    /// Index of the first page of the slab around a page. The window is aligned to the largest slab.
    #[inline(always)]
    pub(crate) const fn head_of(&self, index: usize) -> usize {
        index & !(self.mask as usize >> PAGE_SHIFT)
    }

    /// Number of the object that starts so many bytes behind the first slot of a slab, modulo a slab's bytes, if one does: the
    /// product's upper half.
    #[inline(always)]
    #[must_use]
    pub const fn number(&self, distance: usize) -> Option<u32> {
        let product = (distance & self.mask as usize) as u128 * self.magic as u128;
        if (product as u64) < self.limit as u64 { Some((product >> 64) as u32) } else { None }
    }

    /// An object starts at `address` in a slab whose first slot is `lead` bytes from its start.
    #[inline(always)]
    #[must_use]
    pub const fn starts(&self, address: usize, lead: u32) -> bool {
        let distance = ((address as u32).wrapping_sub(lead) & self.mask) as u64;
        distance.wrapping_mul(self.magic) < self.limit as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every distance of every slab, by division.
    #[test]
    fn the_multiplication_says_what_the_division_says() {
        for order in 0..4 {
            let bytes = PAGE_SIZE << order;
            for size in (2..=64).chain((72..bytes).step_by(536)).chain([bytes / 3, bytes / 2, bytes]) {
                for (lead, objects) in [(0, bytes / size), (0, 1), (64, (bytes - 64) / size)] {
                    if objects == 0 {
                        continue;
                    }
                    let proof = Proof::new(bytes, size, objects);
                    for at in 0..bytes {
                        let slot = at >= lead && (at - lead) % size == 0 && (at - lead) / size < objects;
                        assert_eq!(
                            proof.starts(7 * bytes + at, lead as u32),
                            slot,
                            "{at} {size} {lead} of {bytes}"
                        );
                        let number = slot.then(|| ((at - lead) / size) as u32);
                        assert_eq!(
                            proof.number(at.wrapping_sub(lead)),
                            number,
                            "{at} {size} {lead} of {bytes}"
                        );
                    }
                }
            }
        }
    }

    /// The largest slabs, around each object and each power of two.
    #[test]
    fn the_largest_slabs_are_proved_too() {
        let bytes = PAGE_SIZE << 10;
        for size in [8, 24, 4096, 65_544, 1 << 20, bytes / 2 - 8, bytes - 8, bytes] {
            let objects = bytes / size;
            let proof = Proof::new(bytes, size, objects);
            for k in 0..=objects {
                for at in [k * size, k * size + 1, k * size + size - 1].into_iter().filter(|at| *at < bytes) {
                    assert_eq!(
                        proof.starts(at, 0),
                        at.is_multiple_of(size) && at / size < objects,
                        "{at} {size}"
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_starts_anywhere_without_a_proof() {
        assert!((0..8192).all(|at| !Proof::NONE.starts(at, 0)));
    }
}
