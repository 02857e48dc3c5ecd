//! Operations on the running CPU's stacks as pieces of code that an interrupt sets back to their beginning.
//!
//! # Theory
//! Each operation commits by one store, its last instruction. The addresses of all pieces, inlined wherever they are,
//! stand in one table. The entry of every interrupt looks up where it interrupted: inside a piece, before the commit, it sets the
//! return address to the piece's first instruction. So the handler finds the stacks consistent, and the piece finds what the handler
//! left. No instruction on the fast path pays for it, and the price of an interrupt is one pass over a small table.
//!
//! # Invariants
//! - I-PIECE-1: between `3:` and `4:` only the last instruction changes what others may see; stores into the free part of the array and
//!   into the caller's buffer before it are harmless when repeated. Inputs keep their registers.
//! - I-PIECE-2: a piece that found nothing to do stores nothing into the stack's word.

use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use kmem_core::percpu::{Hot, Pushed, StackId};

use crate::cpu::traps::Frame;
use crate::smp;

/// A piece: the address of its first instruction and the one after its commit.
#[repr(C)]
struct Piece {
    first: u64,
    end: u64,
}

unsafe extern "C" {
    static restart_table: Piece;
    static restart_table_end: Piece;
}

/// Address of a cache's hot word relative to the CPU's block.
#[inline(always)]
const fn place(id: StackId) -> usize {
    smp::HOT + id as usize * size_of::<Hot>()
}

const _: () = assert!(offset_of!(Hot, top) == 0 && offset_of!(Hot, allocs) == 8);

fn table() -> &'static [Piece] {
    let (first, end) = (&raw const restart_table, &raw const restart_table_end);
    // SAFETY: the linker collected the table between the two; it is never written.
    unsafe { core::slice::from_raw_parts(first, (end.addr() - first.addr()) / size_of::<Piece>()) }
}

/// Number of pieces in the kernel.
pub(crate) fn pieces() -> usize {
    table().len()
}

/// The piece that was interrupted, if one was: its first address. At the first instruction nothing is under way yet.
fn interrupted(rip: u64) -> Option<u64> {
    table().iter().find(|piece| piece.first < rip && rip < piece.end).map(|piece| piece.first)
}

/// Sets an interrupted piece back to its beginning (I-TRAP-1).
pub(crate) fn set_back(frame: &mut Frame) {
    if let Some(first) = interrupted(frame.rip) {
        frame.rip = first;
        smp::this().restarts.fetch_add(1, Ordering::Relaxed);
    }
}

/// One piece: its table entry and its beginning. The body ends with its commit and `4:`.
macro_rules! piece {
    ([$($body:literal),* $(,)?], $($operands:tt)*) => {
        asm!(
            ".pushsection kmem_restart,\"a\",@progbits",
            ".quad 3f, 4f",
            ".popsection",
            "3:",
            $($body,)*
            $($operands)*
        )
    };
}

/// See [`kmem_core::percpu::CpuArea::pop`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(crate) unsafe fn pop(id: StackId) -> *mut u8 {
    let object: *mut u8;
    // SAFETY: by I-CPU-3 every `top` has a readable word below it, by I-CPU-1 an object or the odd sentinel; the last store commits.
    unsafe {
        piece!(
            [
                "mov {top}, qword ptr gs:[{slot}]",
                "mov {object}, qword ptr [{top} - 8]",
                "test {object:e}, 1",
                "jnz 8f",
                "add {top}, -8",
                "mov qword ptr gs:[{slot}], {top}",
                "4:",
                "inc qword ptr gs:[{slot} + 8]",
                "7:",
                ".pushsection .text.unlikely.kmem_pop,\"ax\",@progbits",
                "8:",
                "xor {object:e}, {object:e}",
                "jmp 7b",
                ".popsection",
            ],
            top = out(reg) _,
            object = out(reg) object,
            slot = in(reg) place(id),
            options(nostack),
        );
    }
    object
}

/// See [`kmem_core::percpu::CpuArea::push`].
///
/// # Safety
/// As there.
#[inline(always)]
pub(crate) unsafe fn push(id: StackId, object: *mut u8) -> Pushed {
    // SAFETY: by I-CPU-3 every `top` has readable words at and below it; at or below the end of an installed stack lies FULL, so
    // the object's store stays inside (I-CPU-1). The place above `top` is free, and the last store commits.
    unsafe {
        piece!(
            [
                "mov {top}, qword ptr gs:[{slot}]",
                "cmp qword ptr [{top} - 8], {object}",
                "je {double}",
                "cmp qword ptr [{top}], -1",
                "je {full}",
                "mov qword ptr [{top}], {object}",
                "add {top}, 8",
                "mov qword ptr gs:[{slot}], {top}",
                "4:",
            ],
            top = out(reg) _,
            object = in(reg) object,
            slot = in(reg) place(id),
            double = label { return Pushed::Double },
            full = label { return Pushed::Full },
            options(nostack),
        );
    }
    Pushed::Done
}

/// See [`kmem_core::percpu::CpuArea::pop_many`].
///
/// # Safety
/// As there; `out` has room for `len` pointers.
pub(crate) unsafe fn pop_many(id: StackId, out: *mut *mut u8, len: usize) -> usize {
    let count: usize;
    // SAFETY: as for `pop`, for each step; the buffer is the caller's. I-PIECE-2: no store when nothing was found.
    unsafe {
        piece!(
            [
                "mov {top}, qword ptr gs:[{slot}]",
                "xor {count:e}, {count:e}",
                "8:",
                "cmp {count}, {len}",
                "je 9f",
                "mov {object}, qword ptr [{top} - 8]",
                "test {object:e}, 1",
                "jnz 9f",
                "mov qword ptr [{out} + 8*{count}], {object}",
                "add {top}, -8",
                "inc {count}",
                "jmp 8b",
                "9:",
                "test {count}, {count}",
                "jz 7f",
                "mov qword ptr gs:[{slot}], {top}",
                "4:",
                "7:",
            ],
            top = out(reg) _,
            object = out(reg) _,
            count = out(reg) count,
            slot = in(reg) place(id),
            out = in(reg) out,
            len = in(reg) len,
            options(nostack),
        );
    }
    count
}

/// See [`kmem_core::percpu::CpuArea::push_many`].
///
/// # Safety
/// As there; `objects` holds `len` pointers that the caller owns.
pub(crate) unsafe fn push_many(id: StackId, objects: *const *mut u8, len: usize) -> usize {
    let count: usize;
    // SAFETY: as for `push`, for each step. I-PIECE-2: no store of `top` when nothing found room.
    unsafe {
        piece!(
            [
                "mov {top}, qword ptr gs:[{slot}]",
                "xor {count:e}, {count:e}",
                "8:",
                "cmp {count}, {len}",
                "je 9f",
                "cmp qword ptr [{top}], -1",
                "je 9f",
                "mov {object}, qword ptr [{objects} + 8*{count}]",
                "mov qword ptr [{top}], {object}",
                "add {top}, 8",
                "inc {count}",
                "jmp 8b",
                "9:",
                "test {count}, {count}",
                "jz 7f",
                "mov qword ptr gs:[{slot}], {top}",
                "4:",
                "7:",
            ],
            top = out(reg) _,
            object = out(reg) _,
            count = out(reg) count,
            slot = in(reg) place(id),
            objects = in(reg) objects,
            len = in(reg) len,
            options(nostack),
        );
    }
    count
}
