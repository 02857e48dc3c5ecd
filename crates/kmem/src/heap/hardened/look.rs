//! Looking through long blocks.
//!
//! # Theory
//! A block beyond [`LONG`] bytes is looked at when it is handed out, and is seldom in the first cache then. Pieces of 32 bytes
//! have twice as much of it on its way at once as pieces of 16, and half as many instructions: a thousand blocks of 1280 bytes in
//! random order take 12 ns each instead of 23 (a Xeon of 2023). So where the CPU has AVX2, and the system keeps its registers, it is
//! used; elsewhere [`watch::is_zero`] does the same.
//!
//! # Never
//! Nothing here writes.

#[cfg(target_arch = "x86_64")]
use core::sync::atomic::{AtomicBool, Ordering};

use kmem_core::engine::watch;

use crate::engine::TABLE_LIMIT;

/// Blocks beyond so many bytes are long. Each of their classes is a multiple of 64 bytes, and at least [`PIECE`].
pub(super) const LONG: usize = TABLE_LIMIT;

/// Bytes that are looked at before the first branch.
#[cfg(target_arch = "x86_64")]
const PIECE: usize = 256;

/// Pieces of 32 bytes can be had.
#[cfg(target_arch = "x86_64")]
static WIDE: AtomicBool = AtomicBool::new(false);

/// Asks the CPU. The heap is being made.
pub(super) fn start() {
    #[cfg(target_arch = "x86_64")]
    // Relaxed: published with the heap. Who reads it earlier looks in smaller pieces.
    WIDE.store(wide::there(), Ordering::Relaxed);
}

/// A long block is all zero.
///
/// # Safety
/// A block of a class of `bytes` bytes, more than [`LONG`], lies there, and nobody writes to it.
#[inline(always)]
pub(super) unsafe fn is_zero(block: *const u8, bytes: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    if WIDE.load(Ordering::Relaxed) {
        // SAFETY: the CPU has what it needs; the caller's promise.
        return unsafe { wide::is_zero(block, bytes) };
    }
    // SAFETY: the caller's promise; blocks are aligned to 16, and their classes multiples of it.
    unsafe { watch::is_zero::<true>(block, bytes) }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use core::arch::x86_64::{
        __cpuid, __cpuid_count, __m256i, _mm256_loadu_si256, _mm256_or_si256, _mm256_testz_si256, _xgetbv,
    };

    use super::PIECE;

    /// The CPU has AVX2, and the system keeps the registers that it needs.
    pub(super) fn there() -> bool {
        const XSAVE_AND_AVX: u32 = 1 << 27 | 1 << 28;
        const AVX2: u32 = 1 << 5;
        const SSE_AND_AVX: u64 = 1 << 1 | 1 << 2;
        if __cpuid(0).eax < 7 || __cpuid(1).ecx & XSAVE_AND_AVX != XSAVE_AND_AVX {
            return false;
        }
        // SAFETY: the bit of XSAVE says that the system lets programs ask.
        let kept = unsafe { kept() };
        kept & SSE_AND_AVX == SSE_AND_AVX && __cpuid_count(7, 0).ebx & AVX2 != 0
    }

    /// Which registers the system keeps.
    ///
    /// # Safety
    /// The CPU has the instruction, and the system allows it.
    #[target_feature(enable = "xsave")]
    unsafe fn kept() -> u64 {
        // SAFETY: reads a register that every system with XSAVE has.
        unsafe { _xgetbv(0) }
    }

    /// What 128 bytes have.
    ///
    /// # Safety
    /// They are readable.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn four(from: *const u8) -> __m256i {
        // SAFETY: the caller's promise.
        let [a, b, c, d] =
            [0, 32, 64, 96].map(|at| unsafe { _mm256_loadu_si256(from.wrapping_add(at).cast()) });
        _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d))
    }

    /// All of a block is zero. What is left after whole pieces is looked at by one that ends where the block ends.
    ///
    /// # Safety
    /// So many bytes are readable there, at least [`PIECE`]; the CPU has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn is_zero(block: *const u8, bytes: usize) -> bool {
        let mut at = 0;
        while at < bytes {
            let from = block.wrapping_add(at.min(bytes - PIECE));
            // SAFETY: the caller's promise: the piece ends within the block.
            let all = unsafe { _mm256_or_si256(four(from), four(from.wrapping_add(128))) };
            if _mm256_testz_si256(all, all) == 0 {
                return false;
            }
            at += PIECE;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways, at every length that a class may have.
    #[test]
    fn every_byte_counts() {
        start();
        for bytes in (LONG + 64..=LONG + 768).step_by(64) {
            let mut memory = vec![u128::MAX; (bytes + 64) / 16];
            memory[2..2 + bytes / 16].fill(0);
            let block = memory[2..].as_mut_ptr().cast::<u8>();
            // SAFETY: the vector has that many bytes from there on, aligned to 16.
            unsafe {
                assert!(is_zero(block, bytes), "{bytes}");
                for at in 0..bytes {
                    block.add(at).write(1);
                    assert!(!is_zero(block, bytes), "byte {at} of {bytes}");
                    block.add(at).write(0);
                }
            }
        }
    }
}
