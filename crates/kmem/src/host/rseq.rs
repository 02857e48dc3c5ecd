//! Restartable sequences: owning a CPU without a lock.
//!
//! # Theory
//! The kernel promises to restart a marked piece of code when the thread running it is preempted,
//! migrated or interrupted by a signal before the last instruction of the piece. So a piece that
//! reads the number of its CPU, works on that CPU's stack, and commits by one store is as good as
//! locked. The C library (glibc 2.35) registers each thread's *area* with the kernel:
//!
//! ```text
//!  +4  cpu_id     the CPU, negative while the thread is not registered
//!  +8  rseq_cs    our only write: the descriptor of the piece about to run
//! +20  node_id    the node
//! +24  mm_cid     a number below min(threads, CPUs), unique among the running threads of the process
//! ```
//!
//! `mm_cid` is the better index where the kernel gives it: a process with three threads then keeps
//! three sets of stacks warm on a machine with two hundred CPUs.
//!
//! # The thread's word
//! One initial-exec thread-local word points at the thread's area. Its initial value, a relocation
//! in the TLS image, points at `NO_AREA`, whose CPU numbers are -1; as an unsigned 32-bit product
//! that index lands on a hot area of its own ([`NO_CPU`]) where all stacks are empty and full at
//! once. A thread nobody has looked at yet therefore fails into the slow path by itself: the fast
//! path spends no instruction on the question. [`super::cpu`] then decides about the thread and
//! sets the word.
//!
//! # A piece
//! ```text
//!   6:  rseq_cs = descriptor        the kernel clears it when it restarts us
//!   3:  hot = base + CPU * stride   first instruction under protection
//!       ... reads, and writes that do not matter when lost ...
//!       hot.top = new top           the commit: last instruction under protection
//!   4:
//! ```
//! Leaving by a jump needs no commit. The abort stub lies in a cold section behind the signature
//! the C library registered, and goes back to 6.
//!
//! The address of `top` is made by an addition, not by an addressing mode with two registers: then
//! the processor forwards one operation's store to the next one's load at once, which saves 2.5 ns of 6.5 a pair
//! (measured on a Xeon with memory renaming).
//!
//! # Invariants
//! - I-RSEQ-1: between 3 and 4 only the last instruction changes what others may see. Stores into
//!   the free part of the array and into the caller's buffer before it are harmless when repeated.
//! - I-RSEQ-2: a piece that found nothing to do stores nothing, so it cannot undo the installation of
//!   a stack by another CPU.
//! - I-RSEQ-3: `NO_AREA` and the areas of the portable slots are never registered: their CPU stays negative.
//!
//! # Never
//! Registers or unregisters anything, writes any other field of an area, uses flags. The code must
//! not be unmapped while threads live: a library with these pieces is linked `-z nodelete`.

use core::arch::{asm, global_asm};

use kmem_core::percpu::{HOT_STRIDE, Pushed};

/// Offset of the CPU number in an area.
pub(super) const CPU_ID: usize = 4;
/// Offset of the node number in an area.
pub(super) const NODE_ID: usize = 20;
/// Offset of the concurrency number in an area.
pub(super) const MM_CID: usize = 24;

/// Distance from the first CPU's hot area to the hot area of those that have no CPU: -1 times the
/// stride, as a 32-bit product.
pub(super) const NO_CPU: usize = (HOT_STRIDE as u32).wrapping_neg() as usize;

// The pieces multiply by this constant, and by nothing else.
const _: () = assert!(HOT_STRIDE == 65536);

global_asm!(
    // The thread's word.
    ".pushsection .tdata.kmem_thread_area,\"awT\",@progbits",
    ".balign 8",
    ".globl kmem_thread_area",
    ".hidden kmem_thread_area",
    ".type kmem_thread_area, @object",
    ".size kmem_thread_area, 8",
    "kmem_thread_area:",
    ".quad kmem_no_area",
    ".popsection",
    // The area of a thread without one. On a cache line of its own: such threads store descriptors here.
    ".pushsection .data.kmem_no_area,\"aw\",@progbits",
    ".balign 64",
    ".globl kmem_no_area",
    ".hidden kmem_no_area",
    ".type kmem_no_area, @object",
    ".size kmem_no_area, 64",
    "kmem_no_area:",
    ".long 0, -1, 0, 0, 0, 0, -1, 0",
    ".zero 32",
    ".popsection",
);

/// The area the thread's word points at.
#[inline]
pub(super) fn area() -> usize {
    let area;
    // SAFETY: reads the thread's own word.
    unsafe {
        asm!(
            "mov {a}, qword ptr [rip + kmem_thread_area@GOTTPOFF]",
            "mov {a}, qword ptr fs:[{a}]",
            a = out(reg) area,
            options(nostack, preserves_flags, readonly),
        );
    }
    area
}

/// Points the thread's word at another area.
///
/// # Safety
/// `area` is this thread's registered area, or one that obeys I-RSEQ-3; it outlives the thread.
pub(super) unsafe fn set_area(area: usize) {
    // SAFETY: writes the thread's own word; the caller vouches for the value.
    unsafe {
        asm!(
            "mov {a}, qword ptr [rip + kmem_thread_area@GOTTPOFF]",
            "mov qword ptr fs:[{a}], {v}",
            a = out(reg) _,
            v = in(reg) area,
            options(nostack, preserves_flags),
        );
    }
}

/// Points the thread's word at `NO_AREA`, as it was at first. Allowed in signal handlers: it is one store, and a piece in flight has its area in a
/// register.
pub(super) fn forget_area() {
    // SAFETY: writes the thread's own word; the area is static, and obeys I-RSEQ-3.
    unsafe {
        asm!(
            "mov {a}, qword ptr [rip + kmem_thread_area@GOTTPOFF]",
            "lea {v}, [rip + kmem_no_area]",
            "mov qword ptr fs:[{a}], {v}",
            a = out(reg) _,
            v = out(reg) _,
            options(nostack, preserves_flags),
        );
    }
}

/// The area that the C library has registered for this thread, if it has.
pub(super) fn registered_area() -> Option<usize> {
    let (offset, size) = (super::weak::rseq_offset(), super::weak::rseq_size());
    if offset.is_null() || size.is_null() {
        return None;
    }
    // SAFETY: constants of the C library; with a size other than 0 each thread has an area at that
    // distance from its thread pointer.
    unsafe {
        if *size == 0 {
            return None;
        }
        let area = super::misc::thread_pointer().wrapping_add_signed(*offset);
        (field(area, CPU_ID) >= 0).then_some(area)
    }
}

/// A field of an area.
///
/// # Safety
/// `area` is an area of this thread, or a static one.
#[inline]
pub(super) unsafe fn field(area: usize, offset: usize) -> i32 {
    // SAFETY: the caller's promise. Volatile: the kernel writes the fields behind our back.
    unsafe { ((area + offset) as *const i32).read_volatile() }
}

/// The frame of a piece: descriptor, thread's area, entry; body; abort stub.
/// The body lies between `3:` (supplied here) and its own `4:`. Operands `area` and `top` are scratch. What stands before the piece is
/// executed once, and what it computes must survive the body, which may start again.
///
/// `or` is another way to do the same, in a second piece: it begins with `22:`, where what stands before the first one may jump to. Its
/// code lies behind the function's.
macro_rules! piece {
    (@descriptor) => {
        concat!(
            ".pushsection __rseq_cs,\"aw\",@progbits\n",
            ".balign 32\n",
            "2:\n",
            ".long 0, 0\n",
            ".quad 3f, 4f - 3f, 5f\n",
            ".popsection\n",
            ".pushsection __rseq_cs_ptr_array,\"aw\",@progbits\n",
            ".quad 2b\n",
            ".popsection",
        )
    };
    (@entry) => {
        concat!(
            "mov {area}, qword ptr [rip + kmem_thread_area@GOTTPOFF]\n",
            "mov {area}, qword ptr fs:[{area}]\n",
            "6:\n",
            "lea {top}, [rip + 2b]\n",
            "mov qword ptr [{area} + 8], {top}\n",
            "3:",
        )
    };
    (@abort) => {
        concat!(
            ".pushsection __rseq_failure,\"ax\",@progbits\n",
            // An undefined instruction, so that the signature disassembles as one.
            ".byte 0x0f, 0xb9, 0x3d\n",
            ".long 0x53053053\n",
            "5:\n",
            "jmp 6b\n",
            ".popsection",
        )
    };
    ([$($body:expr),* $(,)?], $($operands:tt)*) => {
        $crate::host::rseq::piece!(after [], [$($body),*], $($operands)*)
    };
    (
        after [$($before:expr),* $(,)?], [$($body:expr),* $(,)?],
        or after [$($otherwise:expr),* $(,)?], [$($other:expr),* $(,)?],
        $($operands:tt)*
    ) => {
        $crate::host::rseq::piece!(@second
            [$($before,)*], [$($body,)*], [$($otherwise,)*], [$($other,)*], [$($operands)*])
    };
    (after [$($before:expr),* $(,)?], [$($body:expr),* $(,)?], $($operands:tt)*) => {
        $crate::host::rseq::piece!(@frame [$($before,)*], [$($body,)*], [], [$($operands)*])
    };
    (@second
        [$($before:expr,)*], [$($body:expr,)*], [$($otherwise:expr,)*], [$($other:expr,)*], [$($operands:tt)*]
    ) => {
        $crate::host::rseq::piece!(@frame [$($before,)*], [$($body,)*], [
            ".subsection 1",
            "22:",
            $crate::host::rseq::piece!(@descriptor),
            $($otherwise,)*
            $crate::host::rseq::piece!(@entry),
            $($other,)*
            $crate::host::rseq::piece!(@abort),
            "jmp 23f",
            ".subsection 0",
            "23:",
        ], [$($operands)*])
    };
    (@frame [$($before:expr,)*], [$($body:expr,)*], [$($behind:expr,)*], [$($operands:tt)*]) => {
        asm!(
            $crate::host::rseq::piece!(@descriptor),
            $($before,)*
            $crate::host::rseq::piece!(@entry),
            $($body,)*
            $crate::host::rseq::piece!(@abort),
            $($behind,)*
            $($operands)*
        )
    };
}

pub(crate) use piece;

/// Takes the topmost object of the running CPU's stack and counts it; null when there is none.
///
/// # Safety
/// `slot` is the address of the stack's `Hot` on CPU 0 of a complete hot area; `index_at` is
/// [`CPU_ID`] or [`MM_CID`]. I-CPU-1 and I-CPU-3 hold.
#[inline(always)]
pub(super) unsafe fn pop(slot: usize, index_at: usize) -> *mut u8 {
    let object: *mut u8;
    // SAFETY: by I-CPU-3 every `top` this reads has a readable word below it; by I-CPU-1 what lies
    // there is an object or null. I-RSEQ-1: the store of `top` commits.
    unsafe {
        piece!(
            [
                "imul {cpu:e}, dword ptr [{area} + {index_at}], 65536",
                "add {cpu}, {slot}",
                "mov {top}, qword ptr [{cpu}]",
                "mov {object}, qword ptr [{top} - 8]",
                "test {object:e}, 1",
                "jnz 8f",
                "add {top}, -8",
                "mov qword ptr [{cpu}], {top}",
                "4:",
                "inc qword ptr [{cpu} + 8]",
                "7:",
                ".pushsection .text.unlikely.kmem_pop,\"ax\",@progbits",
                "8:",
                "xor {object:e}, {object:e}",
                "jmp 7b",
                ".popsection",
            ],
            area = out(reg) _,
            top = out(reg) _,
            cpu = out(reg) _,
            object = out(reg) object,
            slot = in(reg) slot,
            index_at = in(reg) index_at,
            options(nostack),
        );
    }
    object
}

/// Puts an object on the running CPU's stack.
///
/// # Safety
/// As [`pop`]; the caller owns `object`.
#[inline(always)]
pub(super) unsafe fn push(slot: usize, index_at: usize, object: *mut u8) -> Pushed {
    // SAFETY: by I-CPU-3 every `top` this reads has readable words at and below it; at or below the
    // end of an installed stack lies FULL, so the store of the object stays inside (I-CPU-1).
    // I-RSEQ-1: the place above `top` is free, and the store of `top` commits.
    unsafe {
        piece!(
            [
                "imul {cpu:e}, dword ptr [{area} + {index_at}], 65536",
                "add {cpu}, {slot}",
                "mov {top}, qword ptr [{cpu}]",
                "cmp qword ptr [{top} - 8], {object}",
                "je {double}",
                "cmp qword ptr [{top}], -1",
                "je {full}",
                "mov qword ptr [{top}], {object}",
                "add {top}, 8",
                "mov qword ptr [{cpu}], {top}",
                "4:",
            ],
            area = out(reg) _,
            top = out(reg) _,
            cpu = out(reg) _,
            object = in(reg) object,
            slot = in(reg) slot,
            index_at = in(reg) index_at,
            double = label { return Pushed::Double },
            full = label { return Pushed::Full },
            options(nostack),
        );
    }
    Pushed::Done
}

/// Takes up to `len` objects from the running CPU's stack into `out`; how many.
///
/// # Safety
/// As [`pop`]; `out` has room for `len` pointers.
pub(super) unsafe fn pop_many(slot: usize, index_at: usize, out: *mut *mut u8, len: usize) -> usize {
    let count: usize;
    // SAFETY: as for `pop`, for each step; the buffer is the caller's. I-RSEQ-2: no store when nothing was found.
    unsafe {
        piece!(
            [
                "imul {cpu:e}, dword ptr [{area} + {index_at}], 65536",
                "add {cpu}, {slot}",
                "mov {top}, qword ptr [{cpu}]",
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
                "mov qword ptr [{cpu}], {top}",
                "4:",
                "7:",
            ],
            area = out(reg) _,
            top = out(reg) _,
            cpu = out(reg) _,
            object = out(reg) _,
            count = out(reg) count,
            slot = in(reg) slot,
            index_at = in(reg) index_at,
            out = in(reg) out,
            len = in(reg) len,
            options(nostack),
        );
    }
    count
}

/// Puts the first of `len` objects on the running CPU's stack, as many as find room; how many.
///
/// # Safety
/// As [`pop`]; `objects` holds `len` pointers that the caller owns.
pub(super) unsafe fn push_many(slot: usize, index_at: usize, objects: *const *mut u8, len: usize) -> usize {
    let count: usize;
    // SAFETY: as for `push`, for each step. I-RSEQ-2: no store of `top` when nothing found room.
    unsafe {
        piece!(
            [
                "imul {cpu:e}, dword ptr [{area} + {index_at}], 65536",
                "add {cpu}, {slot}",
                "mov {top}, qword ptr [{cpu}]",
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
                "mov qword ptr [{cpu}], {top}",
                "4:",
                "7:",
            ],
            area = out(reg) _,
            top = out(reg) _,
            cpu = out(reg) _,
            object = out(reg) _,
            count = out(reg) count,
            slot = in(reg) slot,
            index_at = in(reg) index_at,
            objects = in(reg) objects,
            len = in(reg) len,
            options(nostack),
        );
    }
    count
}
