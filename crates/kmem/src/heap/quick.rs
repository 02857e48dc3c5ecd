//! The two fast paths in one piece each: what most calls of malloc and free execute, and nothing else.
//!
//! # Theory
//! What is done here is told in [`super`]; how a CPU is owned, in [`rseq`](crate::host::rseq). Written out as one block of
//! instructions each path is shorter than what is compiled from its parts: the words of the heap are operands where they
//! are used, and a path is left by a jump where its condition is known, not by a value that is asked again.
//!
//! *malloc* pops before it knows whether there is an object. Below the lowest one lies an odd address with odd words behind it
//! ([`nothing`](kmem_core::percpu::nothing)): its mark is wrong like that of a block that was written over, so one
//! look at the mark answers both questions, and only then is the new top stored. A header is looked at in the same way. What is read there before is at worst the block of
//! another CPU, if this thread was just moved: it is memory all the same, since whoever takes a stack away makes every
//! piece in flight start again before an object of it can go.
//!
//! *free* of a block with a header compares that with the one of a block in use, which no other place has: so one comparison
//! tells that a block starts at the address and is not free. A slab's last block has another for a while, and the slow half looks behind it. The page's tag tells its stack, and, before, that the header may
//! be read. For a block without a header free proves that a block starts there, compares and writes the mark, and compares the tail
//! if there is one. A block that was freed twice and written over in between has no mark; the slow path tells what it is when it
//! is on top of the stack still.
//!
//! # Invariants
//! - I-QUICK-1: where a path is left, nothing has changed but the mark or header of a block that is being freed.
//! - those of `rseq`.
//!
//! # Never
//! A lock, an atomic read-modify-write, a division, a call.

use core::arch::asm;
use core::mem::offset_of;

use super::{FREE_SECRET, HEAP, SECRET};
use crate::engine::check::Check;
use crate::engine::{CHECKS, Classes, Heap};
use crate::host::rseq::piece;
use crate::host::{TAGS_BELOW, Words};
use kmem_core::engine::beside;
use kmem_core::kmalloc::classes::ClassSet;

/// Where the heap has what the paths need.
pub(super) const WORDS: Words = Words::AT.behind(Heap::PLATFORM_AT);

/// What became of a block.
pub(super) enum Freed {
    /// It is on the CPU's stack.
    Done,
    /// It has its mark, and belongs to the caller: the stack has no room, or has it on top already.
    Full,
    /// No block of a class starts there, or it is free already.
    Other,
}

/// Has the function around it begin at a cache line: the compiler gives each one a section of its own, and a section is aligned
/// as its most demanding instruction. One byte is the most that it may cost here. Where these paths begin makes more
/// difference than an instruction: 0.5 of 5.5 ns a pair (a Xeon of 2023).
macro_rules! align_function {
    () => {
        ".p2align 6, , 1"
    };
}

/// A pop: the block at hand on the stack at a place, if the word that lies `$at` bytes from it is what the secret says of a free one,
/// by no more than what `$jump` lets pass; `$take` makes it one in use.
macro_rules! pop {
    ($place:ident, word at $at:literal of $secret:ident, [$($jump:literal),*], $take:literal) => {{
        let block: *mut u8;
        let left: u64;
        piece!(
            after [align_function!(), "add {place}, qword ptr [rip + {heap} + {hot}]"],
            [
                "mov {block}, qword ptr [rip + {heap} + {index}]",
                "mov {cpu:e}, dword ptr [{area} + {block}]",
                "shl {cpu:e}, 16",
                "add {cpu}, {place}",
                "mov {top}, qword ptr [{cpu}]",
                "mov {block}, qword ptr [{top} - 8]",
                "mov {left}, qword ptr [rip + {secret}]",
                "xor {left}, {block}",
                "xor {left}, qword ptr [{block} + {at}]",
                $($jump,)*
                "add {top}, -8",
                "mov qword ptr [{cpu}], {top}",
                "4:",
                "inc qword ptr [{cpu} + 8]",
                $take,
                "7:",
            ],
            area = out(reg) _,
            cpu = out(reg) _,
            top = out(reg) _,
            place = inout(reg) $place => _,
            block = out(reg) block,
            left = out(reg) left,
            heap = sym HEAP,
            secret = sym $secret,
            at = const $at,
            hot = const WORDS.hot,
            index = const WORDS.index_at,
            options(nostack),
        );
        // Neither a block nor the odd address is null.
        core::hint::assert_unchecked(!block.is_null());
        (block, left)
    }};
}

/// The block that the running CPU has at hand on the stack at `place`, and true; or false.
///
/// # Safety
/// `place` is that of a class ([`crate::engine::PLACES`]) whose blocks have no headers.
#[inline(always)]
pub(super) unsafe fn malloc(place: usize) -> (*mut u8, bool) {
    // SAFETY: by I-CPU-3 every top has a readable word below it; by I-CPU-1 what lies there is a block or the odd address, both with
    // readable words. The store of the top commits (I-RSEQ-1); behind it the block is this thread's, and its mark may be taken off.
    let (block, left) = unsafe {
        pop!(place, word at 8 of FREE_SECRET, ["jne 7f"], "mov qword ptr [{block} + {at}], {left}")
    };
    (block, left == 0)
}

/// [`malloc`] at the place of a class whose blocks have headers. False: no block, or one whose header was damaged.
///
/// # Safety
/// As [`malloc`], but the class's blocks have headers.
#[inline(always)]
pub(super) unsafe fn malloc_headed(place: usize) -> (*mut u8, bool) {
    // SAFETY: as in `malloc`; a block's header is memory, and before the odd address lies a readable word too.
    let (block, left) = unsafe {
        pop!(place, word at -8 of FREE_SECRET, ["shl {left}, 3", "jne 7f"], "not qword ptr [{block} + {at}]")
    };
    (block, left == 0)
}

/// [`malloc`] at the place of a class whose blocks have tails, which it writes. Null: no block, or one whose mark was damaged.
///
/// # Safety
/// As [`malloc`], but the class's blocks have tails.
#[inline(always)]
pub(super) unsafe fn malloc_tailed(place: usize) -> *mut u8 {
    let block: *mut u8;
    // SAFETY: as in `malloc`; mark and tail are words of the block's slot. They lie at different places and are made of the same.
    unsafe {
        piece!(
            after [
                "lea {tail}, [rip + {checks}]",
                "movzx {tail:e}, word ptr [{tail} + {place} + {tail_end}]",
                "add {place}, qword ptr [rip + {heap} + {hot}]",
            ],
            [
                "mov {block}, qword ptr [rip + {heap} + {index}]",
                "mov {cpu:e}, dword ptr [{area} + {block}]",
                "shl {cpu:e}, 16",
                "add {cpu}, {place}",
                "mov {top}, qword ptr [{cpu}]",
                "mov {block}, qword ptr [{top} - 8]",
                "mov {word}, qword ptr [rip + {secret}]",
                "xor {word}, {block}",
                "cmp {word}, qword ptr [{block} + 8]",
                "jne 8f",
                "add {top}, -8",
                "mov qword ptr [{cpu}], {top}",
                "4:",
                "inc qword ptr [{cpu} + 8]",
                "mov qword ptr [{block} + 8], 0",
                "mov qword ptr [{block} + 8*{tail} - 8], {word}",
                "7:",
                ".subsection 1",
                "8:",
                "xor {block:e}, {block:e}",
                "jmp 7b",
                ".subsection 0",
            ],
            area = out(reg) _,
            cpu = out(reg) _,
            top = out(reg) _,
            word = out(reg) _,
            tail = out(reg) _,
            place = inout(reg) place => _,
            block = out(reg) block,
            heap = sym HEAP,
            checks = sym CHECKS,
            secret = sym FREE_SECRET,
            tail_end = const offset_of!(Check, tail_end),
            hot = const WORDS.hot,
            index = const WORDS.index_at,
            options(nostack),
        );
    }
    block
}

/// Of [`free`]: the tag of the page around an address of the heap.
macro_rules! tag {
    () => {
        "mov {a}, qword ptr [rip + {heap} + {base}]
        mov {b}, {ptr}
        sub {b}, {a}
        cmp {b}, qword ptr [rip + {heap} + {end}]
        jae {other}
        shr {b}, 12
        movzx {place:e}, word ptr [{a} + 2*{b} - {tags_below}]"
    };
}

/// Of [`free`]: from a class's tag to the place of its stack, if a block of it starts at the address; `{a}` are then the checks.
macro_rules! proof {
    () => {
        "shl {place:e}, 4
        lea {a}, [rip + {checks}]
        mov {b:e}, dword ptr [{a} + {place} + {mask}]
        and {b:e}, {ptr:e}
        imul {b:e}, dword ptr [{a} + {place} + {magic}]
        cmp {b:e}, dword ptr [{a} + {place} + {limit}]
        jae {other}"
    };
}

/// Of [`free`]: from the place of a class's stack to that of its first CPU.
macro_rules! stack {
    () => {
        "add {place}, qword ptr [rip + {heap} + {hot}]
        mov {a}, qword ptr [rip + {heap} + {index}]"
    };
}

/// Of [`free`]: the top of the running CPU's stack.
macro_rules! top {
    () => {
        "mov {b:e}, dword ptr [{area} + {a}]
        shl {b:e}, 16
        add {b}, {place}
        mov {top}, qword ptr [{b}]"
    };
}

/// Of [`free`]: the block goes there, if there is room.
macro_rules! push {
    () => {
        "cmp qword ptr [{top}], -1
        je {full}
        mov qword ptr [{top}], {ptr}
        add {top}, 8
        mov qword ptr [{b}], {top}
        4:"
    };
}

// The hardened heap's free has the same beginning and end.
pub(super) use {align_function, proof, push, stack, tag, top};

/// Makes a block in use a free one and puts it on the running CPU's stack.
///
/// # Safety
/// Nobody uses what lies at `ptr` any more, if it is a block.
#[inline(always)]
pub(super) unsafe fn free(ptr: *mut u8) -> Freed {
    // SAFETY: tags are readable for each page below the end (I-WIN-2). A page with the tag of a class with headers is memory, and so
    // is the word before a block in it; where no block starts, in a slab's first eight bytes, the look may fault, which ends the
    // program as its misuse would have. A header of a block in use makes it the caller's to give (I-BESIDE-1). A page with the tag of another
    // class, and what passes the check there, is a block of it (I-ENGINE-1), so its second word and its tail are memory, and the caller's
    // to give. By I-CPU-3 every top has readable words at and below it; where FULL is not, there is room (I-CPU-1). The store
    // of the top commits (I-RSEQ-1).
    unsafe {
        piece!(
            after [
                align_function!(),
                tag!(),
                "lea {b:e}, [{place} - 1]",
                "cmp {b:e}, {headed}",
                "jae 22f",
                "shl {place:e}, 4",
                "mov {a}, qword ptr [rip + {secret}]",
                "xor {a}, {ptr}",
                "cmp qword ptr [{ptr} - 8], {a}",
                "jne {other}",
                "not qword ptr [{ptr} - 8]",
                stack!(),
            ],
            [
                top!(),
                push!(),
            ],
            // A page of blocks without headers, or of none.
            or after [
                "lea {b:e}, [{place} - {headed} - 1]",
                "cmp {b:e}, {long}",
                "jae {other}",
                proof!(),
                "movzx {b:e}, word ptr [{a} + {place} + {tail}]",
                "mov {a}, qword ptr [rip + {free_secret}]",
                "xor {a}, {ptr}",
                "cmp qword ptr [{ptr} + 8], {a}",
                "je {other}",
                "test {b:e}, {b:e}",
                "je 9f",
                "cmp qword ptr [{ptr} + 8*{b} - 8], {a}",
                "jne {other}",
                "9:",
                "mov qword ptr [{ptr} + 8], {a}",
                stack!(),
            ],
            [
                top!(),
                "cmp qword ptr [{top} - 8], {ptr}",
                "je {full}",
                push!(),
            ],
            a = out(reg) _,
            b = out(reg) _,
            place = out(reg) _,
            area = out(reg) _,
            top = out(reg) _,
            ptr = in(reg) ptr,
            heap = sym HEAP,
            secret = sym SECRET,
            free_secret = sym FREE_SECRET,
            checks = sym CHECKS,
            base = const WORDS.base,
            end = const WORDS.end,
            hot = const WORDS.hot,
            index = const WORDS.index_at,
            tags_below = const TAGS_BELOW,
            headed = const Classes::HEADED,
            long = const Classes::COUNT - Classes::HEADED,
            mask = const offset_of!(Check, mask),
            magic = const offset_of!(Check, magic),
            limit = const offset_of!(Check, limit),
            tail = const offset_of!(Check, tail_end),
            other = label { return Freed::Other },
            full = label { return Freed::Full },
            options(nostack),
        );
        Freed::Done
    }
}

// What malloc shifts out of a header.
const _: () = assert!(size_of::<Check>() == 16 && beside::NUMBER_BITS == 3);
