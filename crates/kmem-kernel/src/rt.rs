//! What compiled code expects of its surroundings, where there is no C library: memory functions and a way to panic.

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;

use crate::cpu;
use crate::cpu::serial::{self, println};
use crate::smp;

// The standard libraries of the host target are compiled for unwinding and name these. With `panic = "abort"` nobody calls them.
global_asm!(
    ".pushsection .text.rust_eh_personality,\"ax\",@progbits",
    ".globl rust_eh_personality",
    "rust_eh_personality:",
    ".globl _Unwind_Resume",
    "_Unwind_Resume:",
    "ud2",
    ".popsection",
);

/// Copies forwards.
///
/// # Safety
/// As C's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise; the direction flag is clear in compiled code.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags)
        );
    }
    to
}

/// Copies, also when the two overlap.
///
/// # Safety
/// As C's `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= len {
        // SAFETY: forwards is right unless the target begins inside the source.
        return unsafe { memcpy(to, from, len) };
    }
    // SAFETY: the caller's promise; backwards, from the last byte, and the direction flag is cleared again.
    unsafe {
        asm!(
            "std", "rep movsb", "cld",
            inout("rcx") len => _,
            inout("rdi") to.wrapping_add(len).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(len).wrapping_sub(1) => _,
            options(nostack)
        );
    }
    to
}

/// Fills.
///
/// # Safety
/// As C's `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "rep stosb",
            inout("rcx") len => _, inout("rdi") to => _, in("al") byte as u8,
            options(nostack, preserves_flags)
        );
    }
    to
}

/// Compares.
///
/// # Safety
/// As C's `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    for i in 0..len {
        // SAFETY: the caller's promise. Volatile, so that the loop does not become a call of this very function.
        let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// Compares for equality.
///
/// # Safety
/// As [`memcmp`].
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(a, b, len) }
}

/// Length of a C string.
///
/// # Safety
/// As C's `strlen`.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut len = 0;
    // SAFETY: the caller's promise. Volatile: as in `memcmp`.
    while unsafe { text.add(len).read_volatile() } != 0 {
        len += 1;
    }
    len
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    cpu::mask();
    if !serial::start_panic() {
        // Another CPU is about to end the machine, or the panic message itself panicked.
        cpu::stop();
    }
    println!("\nkernel panic on CPU {}: {info}", smp::number_or_zero());
    cpu::exit(false)
}
