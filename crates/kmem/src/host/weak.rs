//! Symbols of the C library that may not exist.
//!
//! Restartable sequences came with glibc 2.35, the single-thread flag with 2.32. A plain `extern`
//! would make a program or library built here refuse to load on anything older; a weak reference
//! through the global offset table reads as null there. The symbols of restartable sequences leave no
//! version requirement behind (they live in the dynamic linker, which nothing is linked against).

macro_rules! weak {
    ($(#[$doc:meta])* $name:ident: $symbol:literal as $type:ty) => {
        $(#[$doc])*
        #[inline]
        pub(super) fn $name() -> *const $type {
            #[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
            {
                let address: *const $type;
                // SAFETY: loads one entry of the global offset table, which the linker always makes.
                unsafe {
                    core::arch::asm!(
                        concat!(".weak ", $symbol),
                        concat!("mov {}, qword ptr [rip + ", $symbol, "@GOTPCREL]"),
                        out(reg) address,
                        options(nostack, preserves_flags, readonly, pure),
                    );
                }
                address
            }
            #[cfg(not(all(target_arch = "x86_64", target_env = "gnu")))]
            core::ptr::null()
        }
    };
}

#[cfg(target_arch = "x86_64")]
weak!(
    /// Distance from the thread pointer to the thread's area for restartable sequences.
    rseq_offset: "__rseq_offset" as isize
);
#[cfg(target_arch = "x86_64")]
weak!(
    /// Bytes of that area in use; 0 when the C library does not register threads.
    rseq_size: "__rseq_size" as u32
);
weak!(
    /// Not zero while the process has one thread.
    single_threaded: "__libc_single_threaded" as u8
);
weak!(
    /// Where the initial stack begins.
    stack_end: "__libc_stack_end" as *const u8
);
weak!(
    /// `_Unwind_Backtrace`, of the compiler's unwinder.
    unwind_backtrace: "_Unwind_Backtrace" as ()
);
weak!(
    /// `_Unwind_GetIP`.
    unwind_get_ip: "_Unwind_GetIP" as ()
);
