//! What a `no_std` shared library must bring along: panics, and errno.

use libc::c_int;

/// Sets the caller's `errno`.
#[inline]
pub(crate) fn set_errno(code: c_int) {
    // SAFETY: the C library returns the address of the calling thread's errno, valid for its life.
    unsafe { *libc::__errno_location() = code }
}

/// The caller's `errno`.
#[inline]
pub(crate) fn errno() -> c_int {
    // SAFETY: as in `set_errno`.
    unsafe { *libc::__errno_location() }
}

/// Says one line, where messages go.
#[cold]
pub(crate) fn say(message: core::fmt::Arguments<'_>) {
    kmem::host::sink::say(message);
}

/// Says one line and aborts.
#[cold]
pub(crate) fn die(message: core::fmt::Arguments<'_>) -> ! {
    say(message);
    // SAFETY: abort takes no argument and does not return; it does not allocate.
    unsafe { libc::abort() }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    match info.location() {
        Some(place) => die(format_args!("internal error at {}:{}", place.file(), place.line())),
        None => die(format_args!("internal error")),
    }
}

// The precompiled `core` names this symbol in its unwind tables. It must exist and must stay hidden: exported, it
// would replace the personality routine of every Rust library in the process and break their unwinding
// (I-MALLOC-3). Nothing calls it, because nothing here unwinds.
#[cfg(not(test))]
core::arch::global_asm!(
    ".pushsection .text.rust_eh_personality,\"ax\",%progbits",
    ".globl rust_eh_personality",
    ".hidden rust_eh_personality",
    ".type rust_eh_personality, %function",
    "rust_eh_personality:",
    ".byte 0, 0, 0, 0",
    ".size rust_eh_personality, . - rust_eh_personality",
    ".popsection",
);
