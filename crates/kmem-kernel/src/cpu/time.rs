//! The clock, and unpredictable numbers.
//!
//! The time stamp counter is measured once against the old interval timer, whose rate every machine agrees on.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, _rdtsc};
use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu;

/// Ticks of the time stamp counter in a millisecond.
static PER_MS: AtomicU64 = AtomicU64::new(1_000_000);

/// The interval timer's rate in ticks a second.
const PIT_HZ: u64 = 1_193_182;

/// The time stamp counter.
#[inline]
pub(crate) fn stamp() -> u64 {
    // SAFETY: every 64-bit processor has it, and it is not restricted here.
    unsafe { _rdtsc() }
}

/// Measures the counter's rate: 10 ms of the interval timer's channel 2.
pub(crate) fn init() {
    const MS: u64 = 10;
    let ticks = (PIT_HZ * MS / 1000) as u16;
    let start;
    // SAFETY: programs channel 2 for one countdown, started by its gate in port 0x61; nothing else uses it.
    unsafe {
        cpu::out(0x61, (cpu::inp(0x61) & !2) & !1);
        cpu::out(0x43, 0xb0);
        cpu::out(0x42, ticks as u8);
        cpu::out(0x42, (ticks >> 8) as u8);
        cpu::out(0x61, cpu::inp(0x61) | 1);
        start = stamp();
        while cpu::inp(0x61) & 0x20 == 0 && stamp() - start < 1 << 34 {
            core::hint::spin_loop();
        }
    }
    PER_MS.store(((stamp() - start) / MS).max(1), Ordering::Relaxed);
}

/// Nanoseconds since the machine started.
pub(crate) fn nanoseconds() -> u64 {
    (u128::from(stamp()) * 1_000_000 / u128::from(PER_MS.load(Ordering::Relaxed))) as u64
}

/// Waits so many microseconds.
pub(crate) fn delay(microseconds: u64) {
    let end = nanoseconds() + microseconds * 1000;
    while nanoseconds() < end {
        core::hint::spin_loop();
    }
}

/// Whether the processor draws random numbers.
fn has_rdrand() -> bool {
    __cpuid(1).ecx & 1 << 30 != 0
}

/// An unpredictable number; where the processor draws none, one that is only hard to predict.
pub(crate) fn entropy() -> u64 {
    static STATE: AtomicU64 = AtomicU64::new(0);
    let mut drawn = stamp();
    if has_rdrand() {
        // SAFETY: the instruction exists. Where it had nothing to give, the number is 0.
        unsafe { asm!("rdrand {}", out(reg) drawn, options(nomem, nostack)) };
        drawn ^= stamp().rotate_left(32);
    }
    // A full-period step and a mixing of its result (splitmix64).
    let mut x = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed) ^ drawn;
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}
