//! A small x86-64 kernel whose only heap is kmem: the proof that the allocator works where it comes from, and the
//! place from which a kernel writer starts.
//!
//! It boots from the loader's 32-bit entry ([`boot`]), starts all CPUs ([`smp`]), gives all memory to the heap ([`platform`]),
//! runs its tests of itself ([`selftest`]) and its first module ([`module`]), and ends the machine with a verdict.
//!
//! ```text
//!   module   selftest
//!        \   /
//!        heap          the one static heap, and Rust's allocator on top
//!          |
//!       platform       the contract with kmem-core: window, zones, CPU stacks, locks
//!        /   \
//!     boot   smp       memory before the heap          CPUs, their blocks, calls between them
//!        \   /
//!         cpu          registers, tables, interrupts, console, clock
//! ```
#![cfg_attr(target_arch = "x86_64", no_std, no_main)]

#[cfg(target_arch = "x86_64")]
extern crate alloc;

#[cfg(target_arch = "x86_64")]
mod boot;
#[cfg(target_arch = "x86_64")]
mod cpu;
#[cfg(target_arch = "x86_64")]
mod heap;
#[cfg(target_arch = "x86_64")]
mod measure;
#[cfg(target_arch = "x86_64")]
mod mem;
#[cfg(target_arch = "x86_64")]
mod module;
#[cfg(target_arch = "x86_64")]
mod platform;
#[cfg(target_arch = "x86_64")]
mod rt;
#[cfg(target_arch = "x86_64")]
mod selftest;
#[cfg(target_arch = "x86_64")]
mod smp;
#[cfg(target_arch = "x86_64")]
mod spin;
#[cfg(target_arch = "x86_64")]
mod start;

/// Other processors cannot run this kernel.
#[cfg(not(target_arch = "x86_64"))]
fn main() -> std::process::ExitCode {
    eprintln!("kmem-kernel is for x86-64");
    std::process::ExitCode::FAILURE
}
