//! Words of a thread's own.
//!
//! # Theory
//! `thread_local!` may allocate, and calls a function of the dynamic linker. A word in the static part of the thread's data is there
//! before the thread runs, is zero at first, and one instruction reads or changes it once its place is known: allowed in signal handlers
//! and in the first malloc of a process. Only x86-64 has them here; who uses one says what others do.

/// Makes the 32-bit word of this symbol, hidden from other libraries, and the functions that read the calling thread's, and write it.
macro_rules! thread_word {
    ($symbol:literal, $read:ident, $write:ident) => {
        $crate::host::word::thread_word!($symbol, $read);

        #[inline(always)]
        fn $write(value: u32) {
            // SAFETY: writes the thread's own word.
            unsafe {
                core::arch::asm!(
                    concat!("mov {a}, qword ptr [rip + ", $symbol, "@GOTTPOFF]"),
                    "mov dword ptr fs:[{a}], {v:e}",
                    a = out(reg) _,
                    v = in(reg) value,
                    options(nostack, preserves_flags),
                );
            }
        }
    };
    ($symbol:literal, $read:ident) => {
        core::arch::global_asm!(
            concat!(".pushsection .tbss.", $symbol, ",\"awT\",@nobits"),
            ".balign 4",
            concat!(".globl ", $symbol),
            concat!(".hidden ", $symbol),
            concat!(".type ", $symbol, ", @object"),
            concat!(".size ", $symbol, ", 4"),
            concat!($symbol, ":"),
            ".zero 4",
            ".popsection",
        );

        #[inline(always)]
        fn $read() -> u32 {
            let value: u32;
            // SAFETY: reads the thread's own word.
            unsafe {
                core::arch::asm!(
                    concat!("mov {a}, qword ptr [rip + ", $symbol, "@GOTTPOFF]"),
                    "mov {v:e}, dword ptr fs:[{a}]",
                    a = out(reg) _,
                    v = out(reg) value,
                    options(nostack, preserves_flags, readonly),
                );
            }
            value
        }
    };
}
pub(super) use thread_word;
