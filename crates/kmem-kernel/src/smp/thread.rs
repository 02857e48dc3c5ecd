//! One thread of work that moves between CPUs when it asks to.
//!
//! # Theory
//! The thread has a stack of its own. A CPU that *carries* it saves its own place and goes on where the thread left; when
//! the thread wants to be elsewhere it goes back to the carrier's place, and only from there, off the thread's stack, is it handed to
//! the other CPU. So no two CPUs are ever on its stack.
//!
//! # Invariants
//! - I-THREAD-1: there is one thread at a time, started on the first CPU, which waits for it whenever it is elsewhere.
//! - I-THREAD-2: nothing that was learned of "this CPU" before a move is used after it.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use super::{MAX_CPUS, State, block, call, hotplug, number};

global_asm!(
    // switch_stacks(rdi: where this place is kept, rsi: the place to go on at)
    ".pushsection .text.switch_stacks,\"ax\",@progbits",
    ".globl switch_stacks",
    "switch_stacks:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rdi], rsp",
    "mov rsp, rsi",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    fn switch_stacks(keep: *mut usize, go: usize);
}

const STACK: usize = 128 << 10;
/// Words that a place keeps below its return address.
const KEPT: usize = 6;

#[repr(align(16))]
struct Stack(UnsafeCell<[u8; STACK]>);
// SAFETY: used by the one thread only (I-THREAD-1).
unsafe impl Sync for Stack {}

static THREAD_STACK: Stack = Stack(UnsafeCell::new([0; STACK]));
/// Where the thread left.
static THREAD: AtomicUsize = AtomicUsize::new(0);
/// Where each carrier left.
static CARRIERS: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];
/// Where the thread wants to be.
static TARGET: AtomicUsize = AtomicUsize::new(0);
const FINISHED: usize = usize::MAX;
static WORK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
/// The thread waits for the first CPU.
static HOME: AtomicBool = AtomicBool::new(false);
static DONE: AtomicBool = AtomicBool::new(false);

/// Runs `work` as the thread, and returns when it is over. On the first CPU.
pub(crate) fn run(work: fn()) {
    assert!(number() == 0, "the thread starts on the first CPU");
    WORK.store(work as *mut (), Ordering::Relaxed);
    DONE.store(false, Ordering::Relaxed);
    let top = THREAD_STACK.0.get().addr() + STACK;
    let place = core::ptr::with_exposed_provenance_mut::<usize>(top - 16 - KEPT * size_of::<usize>());
    // SAFETY: inside the stack, which nobody is on: the first switch returns to `enter`, with the stack as after a call.
    unsafe { place.add(KEPT).write((enter as extern "C" fn() -> !) as usize) };
    THREAD.store(place.addr(), Ordering::Relaxed);
    carry();
    // Acquire pairs with the Release in `hand_on`.
    while !DONE.load(Ordering::Acquire) {
        if HOME.swap(false, Ordering::Acquire) {
            carry();
        }
        call::answer();
        core::hint::spin_loop();
    }
}

extern "C" fn enter() -> ! {
    // SAFETY: `run` stored a function.
    let work: fn() = unsafe { core::mem::transmute(WORK.load(Ordering::Relaxed)) };
    work();
    leave_to(FINISHED);
    unreachable!("nobody carries a thread that is over")
}

/// Moves the calling thread to another CPU. False when that CPU does not run.
pub(crate) fn move_to(cpu: usize) -> bool {
    if cpu >= super::count() || block(cpu).state() != State::Online {
        return false;
    }
    if cpu != number() {
        leave_to(cpu);
    }
    true
}

#[inline(never)]
fn leave_to(target: usize) {
    TARGET.store(target, Ordering::Relaxed);
    let carrier = CARRIERS[number()].load(Ordering::Relaxed);
    // SAFETY: this CPU's carrier waits at its place; it goes on there, and whoever carries the thread next comes back here.
    unsafe { switch_stacks(THREAD.as_ptr(), carrier) };
}

/// Goes on where the thread left, until it leaves this CPU again.
#[inline(never)]
fn carry() {
    // SAFETY: the thread waits at its place, and this CPU alone was told to carry it.
    unsafe { switch_stacks(CARRIERS[number()].as_ptr(), THREAD.load(Ordering::Relaxed)) };
    hand_on();
}

fn hand_on() {
    match TARGET.load(Ordering::Relaxed) {
        FINISHED => DONE.store(true, Ordering::Release),
        0 => HOME.store(true, Ordering::Release),
        cpu => hotplug::give(cpu, carry),
    }
}
