//! The fast half of free in one piece: what most calls execute, and nothing else.
//!
//! # Theory
//! What is done here is what [`super::free_in_parts`] does, in its order, and as the usual heap's [`quick`](super::super::quick) it is shorter
//! than what is compiled from the parts:
//!
//! 1. Tag and multiplication prove that a block of a class starts here, and the same table has the place of its seal.
//! 2. The last word is the size; the filler behind that many bytes is compared as far as it lies before the last word, by a table
//!    of which bytes those are: no jump asks how much it is.
//! 3. The word before the block is a seal, or zero: one jump for both (see [`seal`](mod@super::seal)).
//! 4. The state becomes free, by an exchange where there is another thread.
//! 5. The block is cleared, and goes on the running CPU's stack.
//!
//! Of 32 to 128 bytes all are cleared by the same four stores of 32; beyond, each doubling has its own, from both ends. So blocks of mixed
//! sizes have few jumps that nobody foresees. Each store covers whole sixteens of bytes (beyond 128 whole pieces of 32): malloc, which may
//! come at once, finds what it reads in a single one. A store that a short block has no use for goes to the thread's own stack
//! instead: with four stores to the same bytes a pair of 16 took 13 ns instead of 9 (an EPYC of 2023).
//!
//! # Invariants
//! - I-SWIFT-1: where this is left before the state was changed, nothing has changed.
//! - those of `rseq`.
//!
//! # Never
//! A lock, a call, a division; in a process of one thread an atomic read-modify-write.
//!
//! Needs AVX2: a CPU without it has all frees done in parts ([`Words::specially`]).

use core::arch::asm;
use core::mem::offset_of;

use super::super::quick::{WORDS as AT, align_function, proof, push, stack, tag, top};
use super::super::{HARDENED, HEAP};
use super::seal::{FILLED, SHORTEST};
use super::words::{WORDS, Words};
use crate::engine::check::Check;
use crate::engine::{CHECKS, Classes};
use crate::host::TAGS_BELOW;
use crate::host::rseq::piece;
use kmem_core::engine::watch;
use kmem_core::kmalloc::classes::ClassSet;

/// What became of a block.
pub(super) enum Freed {
    /// It is on the CPU's stack.
    Done,
    /// It is free and zero, and belongs to the caller: the stack has no room.
    Full,
    /// It is free, belongs to the caller, and is not cleared: it is long.
    Long,
    /// Nothing has changed; [`super::free_in_parts`] knows what to do.
    Parts,
}

/// Of [`free`]: clears 128 bytes, so many from the start, and as many from the end.
macro_rules! clear_both {
    ($($at:literal),*) => {
        concat!($(
            "vmovdqu ymmword ptr [{ptr} + ", $at, "], ymm0\n",
            "vmovdqu ymmword ptr [{ptr} + ", $at, " + 32], ymm0\n",
            "vmovdqu ymmword ptr [{ptr} + ", $at, " + 64], ymm0\n",
            "vmovdqu ymmword ptr [{ptr} + ", $at, " + 96], ymm0\n",
            "vmovdqu ymmword ptr [{ptr} + {room} + 8 - ", $at, " - 128], ymm0\n",
            "vmovdqu ymmword ptr [{ptr} + {room} + 8 - ", $at, " - 96], ymm0\n",
            "vmovdqu ymmword ptr [{ptr} + {room} + 8 - ", $at, " - 64], ymm0\n",
            "vmovdqu ymmword ptr [{ptr} + {room} + 8 - ", $at, " - 32], ymm0\n",
        )*)
    };
}

/// Makes a block in use whose seal is whole a free one, clears it and puts it on the running CPU's stack.
///
/// # Safety
/// Nobody uses what lies at `ptr` any more, if it is a block.
#[inline(always)]
pub(super) unsafe fn free(ptr: *mut u8) -> Freed {
    // What is stored here nobody reads.
    let mut nowhere = core::mem::MaybeUninit::<[u128; 2]>::uninit();
    // SAFETY: tags are readable for each page below the end (I-WIN-2). A page with the tag of a class, and what passes the check there, is
    // a block of it (I-ENGINE-1), so its last word is memory; and 8 bytes that end within the slot, which the first comparison says. The
    // word before a block that does not begin a page is of the block's own slab. Who finds the block in use owns it, and may clear its
    // slot; the CPU has AVX2, or all goes in parts. By I-CPU-3 every top has a readable word at it; where FULL is not, there is room
    // (I-CPU-1). The store of the top commits (I-RSEQ-1).
    unsafe {
        piece!(
            after [
                align_function!(),
                tag!(),
                "cmp {place:e}, {count}",
                "ja {other}",
                proof!(),
                "movzx {room:e}, word ptr [{a} + {place} + {tail}]",
                "lea {room:e}, [8*{room} - 8]",
                // The seal.
                "mov {key}, qword ptr [rip + {words} + {add}]",
                "xor {key}, {ptr}",
                "imul {key}, qword ptr [rip + {words} + {factor}]",
                "mov {a}, qword ptr [{ptr} + {room}]",
                "xor {a}, {key}",
                "mov {b}, {room}",
                "sub {b}, {a}",
                "jb {other}",
                "mov {top:e}, 8",
                "cmp {b}, {top}",
                "cmova {b}, {top}",
                "or {key}, qword ptr [rip + {words} + {ones}]",
                "xor {key}, qword ptr [{ptr} + {a}]",
                "lea {top}, [rip + {filled}]",
                "test {key}, qword ptr [{top} + 8*{b}]",
                "jne {other}",
                // The word before.
                "test {ptr:e}, 0xfff",
                "je 12f",
                "cmp {place:e}, {shortest}",
                "je 12f",
                "lea {a}, [{ptr} - 8]",
                "mov {b}, qword ptr [{a}]",
                "sub {a}, {room}",
                "xor {a}, qword ptr [rip + {words} + {add}]",
                "imul {a}, qword ptr [rip + {words} + {factor}]",
                "xor {a}, {b}",
                "test {b}, {b}",
                "cmove {a}, {b}",
                "cmp {a}, {room}",
                "ja {other}",
                "12:",
                // The state.
                "mov {a}, {ptr}",
                "shr {a}, {grain}",
                "add {a}, qword ptr [rip + {words} + {states}]",
                "mov {b}, qword ptr [rip + {words} + {alone}]",
                "cmp byte ptr [{b}], 0",
                "je 13f",
                "cmp byte ptr [{a}], {used}",
                "jne {other}",
                "mov byte ptr [{a}], {free}",
                "14:",
                // The block.
                "vpxor xmm0, xmm0, xmm0",
                "lea {b:e}, [{room} - 24]",
                "cmp {b:e}, 96",
                "ja 15f",
                "vmovdqu ymmword ptr [{ptr}], ymm0",
                "lea {a}, [{ptr} + {b}]",
                "lea {top}, [{ptr} + {b} - 32]",
                "lea {key}, [{ptr} + 32]",
                "cmp {b:e}, 32",
                "cmovbe {key}, {nowhere}",
                "test {b:e}, {b:e}",
                "cmove {a}, {nowhere}",
                "cmp {b:e}, 64",
                "cmovbe {top}, {nowhere}",
                "vmovdqu ymmword ptr [{a}], ymm0",
                "vmovdqu ymmword ptr [{key}], ymm0",
                "vmovdqu ymmword ptr [{top}], ymm0",
                "16:",
                stack!(),
                ".subsection 1",
                "13:",
                "cmp dword ptr [rip + {words} + {special}], 0",
                "jne {other}",
                "xor {b:e}, {b:e}",
                "xchg byte ptr [{a}], {b:l}",
                "cmp {b:l}, {used}",
                "je 14b",
                "jmp {other}",
                // None of 32 to 128 bytes.
                "15:",
                "cmp {room:e}, 8",
                "je 17f",
                "cmp {room:e}, 512 - 8",
                "ja 18f",
                clear_both!(0),
                "cmp {room:e}, 256 - 8",
                "jbe 16b",
                clear_both!(128),
                "jmp 16b",
                "17:",
                "vmovdqu xmmword ptr [{ptr}], xmm0",
                "jmp 16b",
                "18:",
                "cmp {room:e}, 1024 - 8",
                "ja {long}",
                clear_both!(0, 128, 256, 384),
                "jmp 16b",
                ".subsection 0",
            ],
            [
                top!(),
                push!(),
            ],
            a = out(reg) _,
            b = out(reg) _,
            place = out(reg) _,
            room = out(reg) _,
            key = out(reg) _,
            area = out(reg) _,
            top = out(reg) _,
            ptr = in(reg) ptr,
            nowhere = in(reg) nowhere.as_mut_ptr(),
            out("xmm0") _,
            heap = sym HEAP,
            words = sym WORDS,
            checks = sym CHECKS,
            filled = sym FILLED,
            special = const Words::SPECIAL,
            add = const Words::ADD,
            factor = const Words::FACTOR,
            ones = const Words::ONES,
            states = const Words::STATES,
            alone = const Words::ALONE,
            base = const AT.base,
            end = const AT.end,
            hot = const AT.hot,
            index = const AT.index_at,
            tags_below = const TAGS_BELOW,
            count = const Classes::COUNT,
            mask = const offset_of!(Check, mask),
            magic = const offset_of!(Check, magic),
            limit = const offset_of!(Check, limit),
            tail = const offset_of!(Check, tail_end),
            shortest = const size_of::<Check>(),
            grain = const watch::GRAIN_SHIFT,
            used = const watch::USED,
            free = const watch::FREE,
            full = label { return Freed::Full },
            long = label { return Freed::Long },
            other = label { return Freed::Parts },
            options(nostack),
        );
        Freed::Done
    }
}

// The shortest class is the first.
const _: () = assert!(!HARDENED || Classes::SIZES[0] as usize == SHORTEST && size_of::<Check>() == 16);
