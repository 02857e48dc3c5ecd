//! Looking through blocks that are about to be handed out.
//!
//! # Theory
//! What fits into 128 bytes, from 32 on, is looked at by the same eight loads, which lie over each other where the block is shorter: in a program
//! with blocks of mixed sizes no jump is foreseen. Each is of 16 bytes at a multiple of 16, so what a free has just cleared comes from one
//! store, whichever it used.
//!
//! A block beyond [`LONG`] bytes is looked at when it is handed out, and is seldom in the first cache then. Pieces of 32 bytes
//! have twice as much of it on its way at once as pieces of 16, and half as many instructions: a thousand blocks of 1280 bytes in
//! random order take 12 ns each instead of 23 (a Xeon of 2023). So where the CPU has AVX2, and the system keeps its registers, it is
//! used; elsewhere [`watch::is_zero`] does the same.
//!
//! # Never
//! Nothing here writes.

use core::hint::cold_path;
#[cfg(target_arch = "x86_64")]
use core::sync::atomic::{AtomicBool, Ordering};

use kmem_core::engine::watch;

#[cfg(target_arch = "x86_64")]
use super::words::WORDS;
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
    {
        // Relaxed: published with the heap. Who reads it earlier looks in smaller pieces.
        WIDE.store(wide::there(), Ordering::Relaxed);
        if !wide::there() {
            WORDS.specially();
        }
    }
}

/// Where a short block is looked at.
#[derive(Clone, Copy)]
pub(super) struct Pieces {
    /// The second piece; the first begins where the block does.
    second: u8,
    /// The third one. The fourth ends where the block ends.
    third: u8,
}

impl Pieces {
    /// Bytes of one.
    const BYTES: usize = 32;
    /// No second piece: the block is of another length.
    const NONE: u8 = u8::MAX;

    /// Of blocks of so many bytes.
    #[inline(always)]
    pub(super) const fn of(bytes: usize) -> Self {
        let last = bytes.wrapping_sub(Self::BYTES);
        if last > 3 * Self::BYTES {
            return Self { second: Self::NONE, third: 0 };
        }
        let second = if last < Self::BYTES { last } else { Self::BYTES };
        Self { second: second as u8, third: (last - second) as u8 }
    }
}

/// A block of up to [`LONG`] bytes is all zero.
///
/// # Safety
/// A block of a class of `bytes` bytes, at most [`LONG`], lies there, and nobody writes to it; the pieces are those of the length.
#[inline(always)]
pub(super) unsafe fn is_zero_short(block: *const u8, bytes: usize, pieces: Pieces) -> bool {
    if pieces.second != Pieces::NONE {
        let at =
            [0, usize::from(pieces.second), usize::from(pieces.third), bytes.wrapping_sub(Pieces::BYTES)];
        // SAFETY: the caller's promise; blocks are aligned to 16, and their classes multiples of it. Each piece ends within.
        let [a, b, c, d] = at.map(|at| unsafe {
            let piece = block.wrapping_add(at).cast::<u128>();
            piece.read() | piece.add(1).read()
        });
        return (a | b) | (c | d) == 0;
    }
    // So the usual way has no jump in it.
    cold_path();
    #[cfg(target_arch = "x86_64")]
    if bytes > 128 && WIDE.load(Ordering::Relaxed) {
        // SAFETY: the CPU has what it needs; the caller's promise.
        return unsafe { wide::is_zero_middling(block, bytes) };
    }
    // SAFETY: the caller's promise.
    unsafe { watch::is_zero::<true>(block, bytes) }
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
    use core::arch::asm;
    use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

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

    /// Leaves for where a byte other than zero was found, if there was one among those that were looked at.
    macro_rules! told {
        () => {
            "vpor ymm0, ymm0, ymm1
            vptest ymm0, ymm0
            vzeroupper
            jne {found}"
        };
    }

    /// Of [`is_zero_middling`]: 128 bytes so many from the start, and as many from the end.
    macro_rules! look_both {
        ($($at:literal),*) => {
            concat!($(
                "vpor ymm0, ymm0, ymmword ptr [{block} + ", $at, "]\n",
                "vpor ymm1, ymm1, ymmword ptr [{block} + ", $at, " + 32]\n",
                "vpor ymm0, ymm0, ymmword ptr [{block} + ", $at, " + 64]\n",
                "vpor ymm1, ymm1, ymmword ptr [{block} + ", $at, " + 96]\n",
                "vpor ymm0, ymm0, ymmword ptr [{end} - ", $at, " - 128]\n",
                "vpor ymm1, ymm1, ymmword ptr [{end} - ", $at, " - 96]\n",
                "vpor ymm0, ymm0, ymmword ptr [{end} - ", $at, " - 64]\n",
                "vpor ymm1, ymm1, ymmword ptr [{end} - ", $at, " - 32]\n",
            )*)
        };
    }

    /// Of [`is_zero`]: a piece.
    macro_rules! look_from {
        ($from:literal) => {
            concat!(
                "vpor ymm0, ymm0, ymmword ptr [{",
                $from,
                "}]\n",
                "vpor ymm1, ymm1, ymmword ptr [{",
                $from,
                "} + 32]\n",
                "vpor ymm0, ymm0, ymmword ptr [{",
                $from,
                "} + 64]\n",
                "vpor ymm1, ymm1, ymmword ptr [{",
                $from,
                "} + 96]\n",
                "vpor ymm0, ymm0, ymmword ptr [{",
                $from,
                "} + 128]\n",
                "vpor ymm1, ymm1, ymmword ptr [{",
                $from,
                "} + 160]\n",
                "vpor ymm0, ymm0, ymmword ptr [{",
                $from,
                "} + 192]\n",
                "vpor ymm1, ymm1, ymmword ptr [{",
                $from,
                "} + 224]\n",
            )
        };
    }

    /// All of a block is zero: each doubling has its own loads, from both ends.
    ///
    /// # Safety
    /// So many bytes are readable there, from 128 to 1024; the CPU has AVX2.
    #[inline(always)]
    pub(super) unsafe fn is_zero_middling(block: *const u8, bytes: usize) -> bool {
        let end = block.wrapping_add(bytes);
        // SAFETY: the caller's promise: as many bytes are looked at from both ends as the block has at least. Nothing above the
        // registers' lower halves is left in them. (A function with the feature would be called, and this one's registers saved.)
        unsafe {
            asm!(
                "vpxor xmm0, xmm0, xmm0",
                "vpxor xmm1, xmm1, xmm1",
                look_both!(0),
                "cmp {bytes}, 256",
                "jbe 2f",
                look_both!(128),
                "cmp {bytes}, 512",
                "jbe 2f",
                look_both!(256, 384),
                "2:",
                told!(),
                block = in(reg) block,
                end = in(reg) end,
                bytes = in(reg) bytes,
                out("xmm0") _,
                out("xmm1") _,
                found = label { return false },
                options(nostack, readonly),
            );
        }
        true
    }

    /// All of a block is zero. What is left after whole pieces is looked at by one that ends where the block ends.
    ///
    /// # Safety
    /// So many bytes are readable there, more than [`PIECE`]; the CPU has AVX2.
    #[inline(always)]
    pub(super) unsafe fn is_zero(block: *const u8, bytes: usize) -> bool {
        let last = block.wrapping_add(bytes - PIECE);
        // SAFETY: the caller's promise: pieces begin before the last one, or are that. Registers as in `is_zero_middling`.
        unsafe {
            asm!(
                "vpxor xmm0, xmm0, xmm0",
                "vpxor xmm1, xmm1, xmm1",
                "2:",
                look_from!("at"),
                "add {at}, 256",
                "cmp {at}, {last}",
                "jb 2b",
                look_from!("last"),
                told!(),
                at = inout(reg) block => _,
                last = in(reg) last,
                out("xmm0") _,
                out("xmm1") _,
                found = label { return false },
                options(nostack, readonly),
            );
        }
        true
    }

    const _: () = assert!(PIECE == 256);
}

#[cfg(test)]
mod tests {
    use super::*;
    use kmem_core::kmalloc::classes::{ClassSet, SealedSet};

    /// Both ways, at every length that a class may have.
    #[test]
    fn every_byte_counts() {
        start();
        // Whatever the heap is that this is compiled with.
        let short = SealedSet::SIZES.iter().map(|&bytes| bytes as usize).filter(|&bytes| bytes <= LONG);
        for bytes in short.chain((LONG + 64..=LONG + 768).step_by(64)) {
            let mut memory = vec![u128::MAX; (bytes + 64) / 16];
            memory[2..2 + bytes / 16].fill(0);
            let block = memory[2..].as_mut_ptr().cast::<u8>();
            // SAFETY: the vector has that many bytes from there on, aligned to 16.
            unsafe {
                let zero = || {
                    if bytes <= LONG {
                        is_zero_short(block, bytes, Pieces::of(bytes))
                    } else {
                        is_zero(block, bytes)
                    }
                };
                assert!(zero(), "{bytes}");
                for at in 0..bytes {
                    block.add(at).write(1);
                    assert!(!zero(), "byte {at} of {bytes}");
                    block.add(at).write(0);
                }
            }
        }
    }
}
