//! What compiled code expects of its surroundings, where there is no C library: names of a run time, and a way to panic ([`crate::mem`] has the memory functions).

use core::arch::global_asm;
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
