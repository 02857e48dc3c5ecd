//! What an operation costs, in ticks of the time stamp counter: instructions, where the machine counts them as time
//! (`-icount shift=0`).
//!
//! # Theory
//! [`ways`] compares the ways to own a CPU for an instant, each as a bare pair of pop and push. [`calls`] and [`thousand`] measure the
//! heap's own calls, row by row as Linux 6.1 was measured: one operation between two stamps, or a thousand in a row. What
//! the stamps and the loop cost is part of every number, there and here, and so is the call where there is one: the
//! fast halves are put into their callers, as the compiler does for all code of this kernel. What an operation is given comes from
//! where the compiler cannot see it ([`unseen`]), so that nothing is computed ahead or left out.
//!
//! A row's number is the least of several samples: with instructions as time they are the same but for what an interrupt adds.
//! `cargo xtask kernel --counts` reads the lines that begin with `count`, and compares them.
//!
//! # Never
//! A number here says nothing of time: a locked instruction, and one that changes the interrupt flag, count as one.

mod calls;
mod thousand;
mod ways;

use core::arch::asm;

use crate::cpu::serial::println;
use crate::platform::OWNERSHIP;

/// Measures the rows whose names contain `only`, or all if that is `1`, and prints them. False when an operation failed.
pub(crate) fn run(only: &str) -> bool {
    println!("\n--- measure (ticks; built for {OWNERSHIP})");
    let wanted = Wanted(if only == "1" { "" } else { only });
    wanted.show("stamps", sample(|| ()), 1);
    let ways = ways::run(wanted);
    let calls = calls::run(wanted);
    let thousand = thousand::run(wanted);
    ways && calls && thousand
}

/// The rows that are asked for.
#[derive(Clone, Copy)]
struct Wanted<'a>(&'a str);

impl Wanted<'_> {
    /// Whether this one is.
    fn has(self, name: &str) -> bool {
        name.contains(self.0)
    }

    /// Prints a row: `ticks` of so many operations, for each.
    fn show(self, name: &str, ticks: u32, operations: u64) {
        self.show_part(name, "", ticks, operations);
    }

    /// Prints a row that is a part of an operation.
    fn show_part(self, name: &str, part: &str, ticks: u32, operations: u64) {
        let tenths = (u64::from(ticks) * 10 + operations / 2) / operations;
        if self.has(name) {
            println!("count {name}{part} {}.{}", tenths / 10, tenths % 10);
        }
    }
}

/// The low half of the time stamp counter; a difference of two is right as long as it is below 2^32.
#[inline(always)]
fn stamp() -> u32 {
    let low;
    // SAFETY: every 64-bit processor has it. Not `nomem`: what is measured stays between its stamps.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") _, options(nostack, preserves_flags)) };
    low
}

/// A number of which the compiler knows nothing any more. No instruction.
#[inline(always)]
fn unseen(value: usize) -> usize {
    let mut value = value;
    // SAFETY: no instruction; the compiler must take it that the value changes.
    unsafe { asm!("/* {} */", inout(reg) value, options(nostack, preserves_flags)) };
    value
}

/// Ticks of one execution, stamps included.
#[inline(always)]
fn sample(work: impl FnOnce()) -> u32 {
    let start = stamp();
    work();
    stamp().wrapping_sub(start)
}
