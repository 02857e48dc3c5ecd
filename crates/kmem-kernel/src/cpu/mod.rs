//! The processor: its registers, its ports, interrupts on and off.
//!
//! Everything here is one instruction or a few, with a name. What is built from them lies in the modules:
//! [`apic`] (interrupt controller and timer), [`segments`] (descriptor tables), [`traps`] (entry from interrupts),
//! [`serial`] (the console), [`time`] (clock, random numbers).

pub(crate) mod apic;
pub(crate) mod segments;
pub(crate) mod serial;
pub(crate) mod time;
pub(crate) mod traps;

use core::arch::asm;

/// Interrupts enabled, in the flags register.
const FLAG_IF: u64 = 1 << 9;

/// Whether this CPU takes interrupts now.
#[inline]
pub(crate) fn interrupts_on() -> bool {
    let flags: u64;
    // SAFETY: reads the flags register by way of the stack, which this code may use.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
    flags & FLAG_IF != 0
}

/// Takes no interrupts from here on. Memory accesses do not move across.
#[inline]
pub(crate) fn mask() {
    // SAFETY: an interrupt that comes later breaks no promise.
    unsafe { asm!("cli", options(nostack)) };
}

/// Takes interrupts from here on. Memory accesses do not move across.
///
/// # Safety
/// This CPU's tables are loaded, and it holds no lock that a handler takes.
#[inline]
pub(crate) unsafe fn unmask() {
    // SAFETY: the caller's promise.
    unsafe { asm!("sti", options(nostack)) };
}

/// Runs `f` without interrupts; afterwards it is as before.
#[inline]
pub(crate) fn without_interrupts<R>(f: impl FnOnce() -> R) -> R {
    let on = interrupts_on();
    mask();
    let result = f();
    if on {
        // SAFETY: interrupts were on before, and `f` gave back what it took.
        unsafe { unmask() };
    }
    result
}

/// Sleeps until an interrupt was taken; interrupts are off before and after, so that none is missed in between.
pub(crate) fn wait_for_interrupt() {
    // SAFETY: `sti` takes effect after the next instruction, so an interrupt that is pending already ends the `hlt`.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Stops this CPU for good, or until it is started anew.
pub(crate) fn stop() -> ! {
    loop {
        // SAFETY: with interrupts off nothing but a reset or an INIT ends this.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Writes a byte to a port.
///
/// # Safety
/// What the device does with it is known.
#[inline]
pub(crate) unsafe fn out(port: u16, value: u8) {
    // SAFETY: the caller's promise.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}

/// Writes a double word to a port.
///
/// # Safety
/// As [`out`].
#[inline]
pub(crate) unsafe fn out32(port: u16, value: u32) {
    // SAFETY: the caller's promise.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) };
}

/// Reads a byte from a port.
///
/// # Safety
/// As [`out`].
#[inline]
pub(crate) unsafe fn inp(port: u16) -> u8 {
    let value;
    // SAFETY: the caller's promise.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads a model specific register.
///
/// # Safety
/// It exists.
pub(crate) unsafe fn read_msr(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise.
    unsafe { asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model specific register.
///
/// # Safety
/// It exists, and this value changes nothing that compiled code relies on.
pub(crate) unsafe fn write_msr(number: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") number, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
    };
}

/// The address whose access faulted last.
pub(crate) fn fault_address() -> u64 {
    let address;
    // SAFETY: reads a control register.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) };
    address
}

/// Forgets what this CPU remembers of the page at `address`.
pub(crate) fn forget_page(address: usize) {
    // SAFETY: a forgotten translation is read again from the tables.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
}

/// Resets the machine by a fault that nobody can handle, to see what becomes of it.
pub(crate) fn triple_fault() -> ! {
    let nothing = [0_u16; 5];
    // SAFETY: none: with an empty table of gates the exception cannot be delivered, and the machine resets.
    unsafe { asm!("lidt [{}]", "ud2", in(reg) &raw const nothing, options(noreturn)) };
}

/// The port of QEMU's debug-exit device: writing `v` ends the machine with status `2 v + 1`.
const DEBUG_EXIT: u16 = 0xf4;

/// Ends the machine with a verdict: status 33 for a pass, 35 for a failure. Where the device does not exist the CPU stops.
pub(crate) fn exit(passed: bool) -> ! {
    // SAFETY: the device does this, or does not exist.
    unsafe { out32(DEBUG_EXIT, if passed { 0x10 } else { 0x11 }) };
    stop()
}
