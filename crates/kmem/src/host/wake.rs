//! Being woken: a signal that others send when they want something of the heap and no thread comes by.
//!
//! # Theory
//! The signal is SIGURG, which nobody notices who does not listen: its default is to be ignored. A process listens only where it is at
//! its default (`listen`); whoever wants it for himself takes it away by setting a handler, and gets all of it.
//!
//! The handler asks whether the thread is *at rest*, and tells the heap's user of it (`Woken`), who either works there and then or has
//! the thread look about at its next malloc or free (`expected::expect`). At rest is a thread that
//!
//! - was interrupted in a system call, or right before one: it goes on at the instruction `syscall` (where the kernel has the call made
//!   again), or behind it. So it is not in the midst of a fast path, of a step that is not atomic because the process has one thread, or
//!   of code that a handler must not meet halfway;
//! - made that call outside this library, as far as that can be told: what waits inside waits for somebody else;
//! - holds no lock, neither of the heap (`locks`) nor of a slot. Where it was interrupted does not tell that: the call may be made by
//!   a handler of the program's that interrupted the heap, by a constructor that the heap called, or between the handlers of a fork.
//!
//! A call that was interrupted goes on (`SA_RESTART`), but for those that no handler lets go on: `poll`, `nanosleep` and others, as
//! signal(7) lists them, end early and say `EINTR`.
//!
//! The heap's own timers ([`super::timer`]) send the same signal, and say that they do.
//!
//! The handler runs on the stack that the thread is on. An alternate one would hide the live part of that from the search for
//! pointers; and what takes room goes over to a stack of the heap's own (`fault`).
//!
//! # Never
//! The handler allocates nothing, waits for nobody, takes no lock that its thread may hold, and leaves `errno` as it was.

use core::ffi::{c_int, c_void};
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use super::fault::real_sigaction;
use super::timer;
#[cfg(target_arch = "x86_64")]
use super::{fault, locks, slots, sys, trace};

/// The signal.
pub(crate) const SIGNAL: c_int = libc::SIGURG;

/// What is done when the signal comes, in the handler. The question is whether the thread is at rest: then it may use the heap. To find out takes
/// system calls, so it is asked by who wants to know: a process in a sandbox does not.
pub(crate) type Woken = fn(&dyn Fn() -> bool);

/// Who is told; null: nobody.
static WOKEN: AtomicPtr<()> = AtomicPtr::new(null_mut());
/// It was tried to listen. Once: a program that takes the signal away, or gives it back, means it.
static TRIED: AtomicBool = AtomicBool::new(false);

/// Listens to the signal from now on, if nobody else does; the first call decides. True: whoever sends the signal now is heard, by `woken` too if
/// there is one. Without, only the heap's own timers are.
pub(crate) fn listen(woken: Option<Woken>) -> bool {
    // SAFETY: asks, with a structure of this frame that zero is a value of.
    let Some(mut before) = (unsafe { exchange(null()) }) else { return false };
    if !TRIED.swap(true, Ordering::Relaxed) && before.sa_sigaction == libc::SIG_DFL {
        // SAFETY: all zero is a value of this structure.
        let mut own: libc::sigaction = unsafe { core::mem::zeroed() };
        own.sa_sigaction = handle as *const () as usize;
        own.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        // SAFETY: a handler that takes these arguments.
        let Some(seen) = (unsafe { exchange(&raw const own) }) else { return false };
        if seen.sa_sigaction != libc::SIG_DFL {
            // Another thread was faster by a moment: it is that one's.
            // SAFETY: what the program had set.
            unsafe { exchange(&raw const seen) };
            return false;
        }
        before = own;
    }
    let own = is_own(before.sa_sigaction);
    if own && let Some(woken) = woken {
        // Release pairs with the Acquire of the handler.
        WOKEN.store(woken as *mut (), Ordering::Release);
    }
    own
}

/// Does not listen any more, for good: from now on a system call of the handler's may be the process's end. Who looks from outside sees
/// that there is no handler.
pub(crate) fn stop() {
    WOKEN.store(null_mut(), Ordering::Release);
    // SAFETY: asks, and goes back to the default of a signal that is the heap's: all zero is a value of the structure.
    unsafe {
        if exchange(null()).is_some_and(|before| is_own(before.sa_sigaction)) {
            let default = core::mem::zeroed();
            exchange(&raw const default);
        }
    }
}

/// What happens at the signal, and something else from now on.
///
/// # Safety
/// `new` is null or a good structure.
unsafe fn exchange(new: *const libc::sigaction) -> Option<libc::sigaction> {
    // SAFETY: zero is a value of the structure; the caller's promise. `errno`, which a failure changes, is put back.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let mut old = core::mem::zeroed();
        let done = real_sigaction(SIGNAL, new, &raw mut old) == 0;
        *errno = before;
        done.then_some(old)
    }
}

fn is_own(handler: usize) -> bool {
    handler == handle as *const () as usize
}

/// The program changed what happens at a signal: if it is this one, whoever comes by next finds out who listens. Allowed in signal
/// handlers.
pub fn changed(signal: c_int) {
    if signal == SIGNAL
        && let Some(woken) = who()
    {
        woken(&|| false);
    }
}

fn who() -> Option<Woken> {
    // Acquire pairs with the Release of `listen`.
    let woken = WOKEN.load(Ordering::Acquire);
    if woken.is_null() {
        return None;
    }
    // SAFETY: only `listen` stores there, and it stores functions of this type.
    Some(unsafe { core::mem::transmute::<*mut (), Woken>(woken) })
}

/// What a program is told of a handler that it asked for: nothing of this one.
#[must_use]
pub fn hidden(handler: usize) -> usize {
    if is_own(handler) { libc::SIG_DFL } else { handler }
}

/// The handler.
unsafe extern "C" fn handle(_signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives what it says of the signal, and the context; errno is this thread's.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        if timer::sent(info) {
            timer::ring();
        } else if let Some(woken) = who() {
            woken(&|| is_at_rest(context));
        }
        *errno = before;
    }
}

/// Whether the interrupted thread is at rest.
///
/// # Safety
/// `context` is that of a handler.
#[cfg(target_arch = "x86_64")]
unsafe fn is_at_rest(context: *mut c_void) -> bool {
    /// `syscall`.
    const CALL: [u8; 2] = [0x0f, 0x05];
    // SAFETY: the caller's promise.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let next = registers[libc::REG_RIP as usize] as usize;
    let own = trace::own();
    if (own.0..own.1).contains(&next) || !locks::none() || slots::is_owner() || fault::is_on_own_stack() {
        return false;
    }
    // What lies beside may not be mapped, or not be readable.
    let code = |at: usize| {
        let mut code = [0];
        sys::peek(at, &mut code).then(|| code[0].to_ne_bytes())
    };
    code(next).is_some_and(|code| code.starts_with(&CALL))
        || code(next.wrapping_sub(8)).is_some_and(|code| code.ends_with(&CALL))
}

/// Nobody has written how to tell that for this processor.
///
/// # Safety
/// None.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn is_at_rest(_context: *mut c_void) -> bool {
    false
}
