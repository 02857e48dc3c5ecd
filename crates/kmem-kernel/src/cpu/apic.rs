//! The local interrupt controller: messages to other CPUs, and each CPU's timer.

use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::cpu;
use crate::cpu::time;

/// Where every CPU sees its own controller.
const BASE: usize = 0xfee0_0000;
/// The register that tells and moves that address.
const MSR_BASE: u32 = 0x1b;

const ID: usize = 0x20;
const EOI: usize = 0xb0;
const SPURIOUS: usize = 0xf0;
const COMMAND: usize = 0x300;
const TARGET: usize = 0x310;
const TIMER: usize = 0x320;
const INITIAL: usize = 0x380;
const CURRENT: usize = 0x390;
const DIVIDE: usize = 0x3e0;

/// Vector of the timer.
pub(crate) const TIMER_VECTOR: u8 = 0x40;
/// Vector by which CPUs call one another.
pub(crate) const CALL_VECTOR: u8 = 0x41;
/// Vector by which a CPU gets its turn of reaping.
pub(crate) const REAP_VECTOR: u8 = 0x42;
/// Vector of interrupts that went away before they were delivered.
pub(crate) const SPURIOUS_VECTOR: u8 = 0xff;

/// Timer ticks in a millisecond; 0 before it was measured.
static PER_MS: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(0);
static ENABLED: AtomicBool = AtomicBool::new(false);

fn read(register: usize) -> u32 {
    // SAFETY: a register of this CPU's controller, mapped uncached; only used once `init` found it where it should be.
    unsafe { ((BASE + register) as *const u32).read_volatile() }
}

fn write(register: usize, value: u32) {
    // SAFETY: as in `read`; the callers know the registers.
    unsafe { ((BASE + register) as *mut u32).write_volatile(value) };
}

/// Turns this CPU's controller on. The old controllers are silenced by the first CPU.
///
/// # Panics
/// Where there is none, or not at its usual place.
pub(crate) fn init() {
    assert!(__cpuid(1).edx & 1 << 9 != 0, "this CPU has no local APIC");
    // SAFETY: the register exists with the controller.
    let base = unsafe { cpu::read_msr(MSR_BASE) };
    assert!(base & 0xffff_f000 == BASE as u64, "the local APIC lies at {base:#x}");
    // SAFETY: masks every line of the two old controllers.
    unsafe {
        cpu::out(0x21, 0xff);
        cpu::out(0xa1, 0xff);
        cpu::write_msr(MSR_BASE, base | 1 << 11);
    }
    write(SPURIOUS, 0x100 | u32::from(SPURIOUS_VECTOR));
    ENABLED.store(true, Ordering::Relaxed);
    if PER_MS.load(Ordering::Relaxed) == 0 {
        write(DIVIDE, 0xb);
        write(TIMER, 1 << 16);
        write(INITIAL, u32::MAX);
        time::delay(10_000);
        PER_MS.store((u32::MAX - read(CURRENT)) / 10, Ordering::Relaxed);
        write(INITIAL, 0);
    }
}

/// The number of this CPU's controller.
pub(crate) fn id() -> u32 {
    if ENABLED.load(Ordering::Relaxed) { read(ID) >> 24 } else { __cpuid(1).ebx >> 24 }
}

/// The interrupt that is being handled is done with.
pub(crate) fn done() {
    write(EOI, 0);
}

/// Lets the timer tick every so many microseconds; 0 stops it.
pub(crate) fn timer(microseconds: u32) {
    write(DIVIDE, 0xb);
    if microseconds == 0 {
        write(TIMER, 1 << 16);
        write(INITIAL, 0);
        return;
    }
    write(TIMER, 1 << 17 | u32::from(TIMER_VECTOR));
    let ticks = u64::from(PER_MS.load(Ordering::Relaxed)) * u64::from(microseconds) / 1000;
    write(INITIAL, (ticks as u32).max(1));
}

/// Sends one command to the controller of another CPU, and waits until it has left.
fn send(target: u32, command: u32) {
    cpu::without_interrupts(|| {
        write(TARGET, target << 24);
        write(COMMAND, command);
        while read(COMMAND) & 1 << 12 != 0 {
            core::hint::spin_loop();
        }
    });
}

/// Interrupts another CPU with [`CALL_VECTOR`].
pub(crate) fn interrupt(target: u32) {
    send(target, 1 << 14 | u32::from(CALL_VECTOR));
}

/// Interrupts another CPU with [`REAP_VECTOR`].
pub(crate) fn reap(target: u32) {
    send(target, 1 << 14 | u32::from(REAP_VECTOR));
}

/// Resets another CPU.
pub(crate) fn reset(target: u32) {
    send(target, 0xc500);
}

/// Starts a CPU that was reset, at physical page `page`.
pub(crate) fn start(target: u32, page: u8) {
    send(target, 0x4600 | u32::from(page));
}
