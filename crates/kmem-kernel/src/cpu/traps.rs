//! Interrupts and exceptions, from the common entry to who handles them.
//!
//! # Invariants
//! - I-TRAP-1: before anything else runs, a piece of restartable code that was interrupted is set back to its beginning
//!   ([`restart`]): whatever the handler does to this CPU's stacks, the piece sees it. A handler of single steps, under which
//!   a piece would never end, does so itself when it touches a stack.

use core::arch::global_asm;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::cpu::{self, apic};
use crate::platform::restart;
use crate::smp;

global_asm!(include_str!("traps.s"), options(att_syntax));

/// The interrupted code's registers, as `traps.s` lays them out.
#[repr(C)]
pub(crate) struct Frame {
    pub(crate) r15: u64,
    pub(crate) r14: u64,
    pub(crate) r13: u64,
    pub(crate) r12: u64,
    pub(crate) r11: u64,
    pub(crate) r10: u64,
    pub(crate) r9: u64,
    pub(crate) r8: u64,
    pub(crate) rbp: u64,
    pub(crate) rdi: u64,
    pub(crate) rsi: u64,
    pub(crate) rdx: u64,
    pub(crate) rcx: u64,
    pub(crate) rbx: u64,
    pub(crate) rax: u64,
    pub(crate) vector: u64,
    pub(crate) error: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) flags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
}

/// The trap flag: an exception after each instruction.
pub(crate) const FLAG_STEP: u64 = 1 << 8;

/// Interrupts are on.
pub(crate) const FLAG_INTERRUPTS: u64 = 1 << 9;

/// A handler: of the timer, or of single steps.
pub(crate) type Handler = fn(&mut Frame);

static ON_TIMER: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static ON_STEP: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Calls `handler` at each tick of a CPU's timer, on that CPU.
pub(crate) fn on_timer(handler: Handler) {
    ON_TIMER.store(handler as *mut (), Ordering::Release);
}

/// Calls `handler` after each instruction executed with [`FLAG_STEP`].
pub(crate) fn on_step(handler: Handler) {
    ON_STEP.store(handler as *mut (), Ordering::Release);
}

fn call(place: &AtomicPtr<()>, frame: &mut Frame) -> bool {
    // Acquire pairs with the Release of who set it.
    let handler = place.load(Ordering::Acquire);
    if handler.is_null() {
        return false;
    }
    // SAFETY: only handlers are stored there.
    let handler: Handler = unsafe { core::mem::transmute(handler) };
    handler(frame);
    true
}

const NAMES: [&str; 20] = [
    "divide error",
    "debug",
    "non-maskable interrupt",
    "breakpoint",
    "overflow",
    "bound range",
    "invalid opcode",
    "no floating point unit",
    "double fault",
    "9",
    "invalid task state",
    "segment not present",
    "stack fault",
    "general protection",
    "page fault",
    "15",
    "floating point",
    "alignment check",
    "machine check",
    "SIMD floating point",
];

/// Every interrupt and exception ends up here, with interrupts off.
#[unsafe(no_mangle)]
extern "C" fn trap_handler(frame: &mut Frame) {
    if frame.vector != 1 {
        restart::set_back(frame);
    }
    // I-IRQ-1. An exception may come anywhere.
    assert!(
        frame.vector < 32 || smp::this().heap_locks() == 0,
        "CPU {} is interrupted though it holds a lock of the heap",
        smp::number()
    );
    match frame.vector as u8 {
        1 if call(&ON_STEP, frame) => {}
        apic::TIMER_VECTOR => {
            smp::this().count_tick();
            call(&ON_TIMER, frame);
            apic::done();
        }
        apic::CALL_VECTOR => {
            smp::call::answer();
            apic::done();
        }
        apic::REAP_VECTOR => {
            smp::reap::turn();
            apic::done();
        }
        apic::SPURIOUS_VECTOR => {}
        vector => die(frame, vector),
    }
}

fn die(frame: &Frame, vector: u8) -> ! {
    let name = NAMES.get(usize::from(vector)).copied().unwrap_or("unexpected interrupt");
    panic!(
        "exception {vector} ({name}), error code {:#x}, at {:#x}\n  cr2 {:#018x}  flags {:#x}  stack {:#x}\n  \
         rax {:#018x}  rbx {:#018x}  rcx {:#018x}  rdx {:#018x}\n  rsi {:#018x}  rdi {:#018x}  rbp {:#018x}  r8  {:#018x}",
        frame.error,
        frame.rip,
        cpu::fault_address(),
        frame.flags,
        frame.rsp,
        frame.rax,
        frame.rbx,
        frame.rcx,
        frame.rdx,
        frame.rsi,
        frame.rdi,
        frame.rbp,
        frame.r8
    )
}
