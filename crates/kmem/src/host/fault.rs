//! Faults: accesses to protected pages are shown to the heap, all other faults to whoever would have got them.
//!
//! # Theory
//! One handler for SIGSEGV and SIGBUS is installed when the heap first protects a page, in a hardened heap's library when it is
//! loaded. A fault at one of the heap's
//! pages is the heap's, or it has a word to say about it. Any other signal goes on as if the handler were not there: to the program's own handler, with
//! the same arguments; or, where the program has none, to the system's default: the handler restores it and returns,
//! the instruction faults again, and the process ends with the same signal, the same registers and the same
//! core file. A signal that was sent, not caused, is sent again with what came with it.
//!
//! The program must not replace the handler unnoticed. A library that is preloaded exports `sigaction` and `signal` and leads them
//! here ([`sigaction`], [`signal`]): what the program installs is kept in a table, and what it asks for is answered from there.
//! The kernel is given the program's mask and those of its flags that decide how a handler is entered, so
//! that the program's handler runs on the stack and with the signals blocked that it asked for.
//!
//! What faults are shown to ([`Judge`]) begins on that stack, which may be small, and goes over to one of the heap's own
//! ([`on_own_stack`]) for all that takes room; nothing of the program's runs there but what a report calls. So do reports of what a
//! handler of the program's does wrong (`with_room`).
//!
//! # What cannot be seen
//! A program that installs its handlers by system calls of its own replaces this one; then its handler gets the faults of the
//! heap's pages too. A thread that blocks SIGSEGV is killed by a fault, as it would be without the heap. A program that
//! is executed inherits SIGSEGV at its default even if it was ignored.
//!
//! # Invariants
//! - I-FAULT-1: the table and what the kernel has change together, under the lock, with all signals blocked; the handler reads the table by
//!   its sequence number and waits for nobody.
//! - I-FAULT-2: a process that shares its parent's memory (after `vfork`) changes its own kernel table only.

use core::ffi::{c_int, c_void};
use core::mem::{MaybeUninit, zeroed};
use core::ptr::{null, null_mut};
use core::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

use kmem_core::guard::Access;

use super::{sys, timer, wake};

#[cfg(target_arch = "x86_64")]
mod stack;
/// Other processors stay on the stack they are on.
#[cfg(not(target_arch = "x86_64"))]
mod stack {
    pub(in crate::host) const STEP: usize = 0;

    pub(in crate::host) fn end(_sp: usize) -> Option<usize> {
        None
    }

    pub(crate) fn left(_sp: usize) -> Option<usize> {
        None
    }

    /// Runs `work`.
    pub fn on_own_stack<R>(work: impl FnOnce() -> R) -> R {
        work()
    }

    /// Runs `work`.
    pub(in crate::host) fn with_room<R>(work: impl FnOnce() -> R) -> R {
        work()
    }

    /// Runs `work`.
    pub(crate) fn try_on_own_stack<R>(work: impl FnOnce() -> R) -> Option<R> {
        Some(work())
    }

    pub(super) fn after_fork_child() {}
}

#[cfg(target_arch = "x86_64")]
pub(super) use stack::is_on_own_stack;
pub(crate) use stack::left as own_stack_left;
pub use stack::on_own_stack;
pub(crate) use stack::try_on_own_stack;
pub(super) use stack::{STEP, end as own_stack_end, with_room};

/// A fault.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What was touched.
    pub address: usize,
    /// How.
    pub access: Access,
    /// Why that was refused.
    pub reason: Reason,
    /// The instruction that did it; 0: unknown.
    pub instruction: usize,
}

/// Why the system refused an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing is mapped there.
    Unmapped,
    /// What is mapped there may not be touched so.
    Forbidden,
    /// Something else, or it did not say.
    Other,
}

impl Reason {
    /// What the kernel said of a signal that an instruction caused.
    const fn of(signal: c_int, code: c_int) -> Self {
        // The kernel's codes of SIGSEGV.
        const SEGV_MAPERR: c_int = 1;
        const SEGV_ACCERR: c_int = 2;
        match (signal, code) {
            (libc::SIGSEGV, SEGV_MAPERR) => Self::Unmapped,
            (libc::SIGSEGV, SEGV_ACCERR) => Self::Forbidden,
            _ => Self::Other,
        }
    }
}

/// Decides about a fault. True: it is the heap's, and the access may be tried again.
///
/// It is called on the program's stack, where there may be a KiB left: what is not the heap's is refused there, the rest is for
/// [`on_own_stack`].
pub type Judge = fn(&Fault) -> bool;

/// The signals that are watched.
const WATCHED: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// What the program has for one signal.
struct Kept {
    /// Odd while the rest is being changed.
    sequence: AtomicU32,
    handler: AtomicUsize,
    flags: AtomicI32,
    mask: AtomicU64,
}

/// A copy of [`Kept`].
#[derive(Clone, Copy)]
struct Action {
    handler: usize,
    flags: c_int,
    mask: u64,
}

impl Kept {
    const fn new() -> Self {
        Self {
            sequence: AtomicU32::new(0),
            handler: AtomicUsize::new(libc::SIG_DFL),
            flags: AtomicI32::new(0),
            mask: AtomicU64::new(0),
        }
    }

    fn get(&self) -> Action {
        loop {
            // Acquire pairs with the last Release of `set`.
            let before = self.sequence.load(Ordering::Acquire);
            let action = Action {
                handler: self.handler.load(Ordering::Relaxed),
                flags: self.flags.load(Ordering::Relaxed),
                mask: self.mask.load(Ordering::Relaxed),
            };
            // Keeps the loads above before the next one; pairs with the fence in `set`.
            fence(Ordering::Acquire);
            if before & 1 == 0 && self.sequence.load(Ordering::Relaxed) == before {
                return action;
            }
            core::hint::spin_loop();
        }
    }

    /// The caller holds the lock.
    fn set(&self, action: Action) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        // Keeps the stores below behind the odd number; pairs with the fence in `get`.
        fence(Ordering::Release);
        self.handler.store(action.handler, Ordering::Relaxed);
        self.flags.store(action.flags, Ordering::Relaxed);
        self.mask.store(action.mask, Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }
}

static KEPT: [Kept; WATCHED.len()] = [const { Kept::new() }; WATCHED.len()];
/// Whom faults are shown to; null: nobody wants to see any.
static JUDGE: AtomicPtr<()> = AtomicPtr::new(null_mut());
/// The handler is installed.
static INSTALLED: AtomicBool = AtomicBool::new(false);
/// The lock of the table: held by one thread with all signals blocked.
static LOCK: AtomicU32 = AtomicU32::new(0);
/// The process whose table this is.
static OWNER: AtomicI32 = AtomicI32::new(0);

unsafe extern "C" {
    // The C library's own, under a name that a preloaded library leaves alone.
    #[cfg_attr(target_env = "gnu", link_name = "__sigaction")]
    #[cfg_attr(not(target_env = "gnu"), link_name = "sigaction")]
    pub(super) fn real_sigaction(
        signal: c_int,
        new: *const libc::sigaction,
        old: *mut libc::sigaction,
    ) -> c_int;
}

/// Says who judges faults. Before any page is protected; from now on the program's actions are kept.
pub fn set_judge(judge: Judge) {
    OWNER.store(process(), Ordering::Relaxed);
    // Release pairs with the Acquire of `judge`.
    JUDGE.store(judge as *mut (), Ordering::Release);
}

fn judge() -> Option<Judge> {
    let judge = JUDGE.load(Ordering::Acquire);
    if judge.is_null() {
        return None;
    }
    // SAFETY: only `set_judge` stores here, and it stores functions of this type.
    Some(unsafe { core::mem::transmute::<*mut (), Judge>(judge) })
}

/// Installs the handler, once. False: nobody judges, or the kernel refused.
pub(super) fn install() -> bool {
    if judge().is_none() {
        return false;
    }
    locked(|| {
        if INSTALLED.load(Ordering::Relaxed) {
            return true;
        }
        for (&signal, kept) in WATCHED.iter().zip(&KEPT) {
            // SAFETY: asks what the process has, and gives it a handler that takes these arguments.
            unsafe {
                let mut old = zeroed();
                if real_sigaction(signal, null(), &raw mut old) != 0 {
                    return false;
                }
                kept.set(action_of(&old));
                if real_sigaction(signal, &entered_as(kept.get()), null_mut()) != 0 {
                    return false;
                }
            }
        }
        INSTALLED.store(true, Ordering::Relaxed);
        true
    })
}

/// Has faults shown to `judge` from now on, unless they are shown already.
pub fn watch(judge: Judge) {
    // Relaxed: whoever comes too early for another thread's store goes the long way.
    if !INSTALLED.load(Ordering::Relaxed) {
        set_judge(judge);
        install();
    }
}

/// In the child of a fork: the lock belongs to nobody, the table to the child.
pub(super) fn after_fork_child() {
    LOCK.store(0, Ordering::Relaxed);
    for kept in &KEPT {
        // A change that the fork cut in two is whole enough: the old or the new handler, with flags of either.
        let sequence = kept.sequence.load(Ordering::Relaxed);
        kept.sequence.store(sequence & !1, Ordering::Relaxed);
    }
    OWNER.store(process(), Ordering::Relaxed);
    stack::after_fork_child();
}

fn process() -> c_int {
    // SAFETY: always answers.
    unsafe { libc::getpid() }
}

/// Runs `work` with the lock held and all signals blocked.
fn locked<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: two signal sets of this frame; a mask that was the thread's is put back.
    unsafe {
        let mut all = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        // Acquire pairs with the Release below.
        while LOCK.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            sys::futex_wait(&LOCK, 1);
        }
        let result = work();
        LOCK.store(0, Ordering::Release);
        sys::futex_wake(&LOCK);
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), null_mut());
        result
    }
}

/// What the C library's structure says. The kernel knows 64 signals.
fn action_of(action: &libc::sigaction) -> Action {
    // SAFETY: a signal set is at least 64 bits long.
    let mask = unsafe { (&raw const action.sa_mask).cast::<u64>().read() };
    Action { handler: action.sa_sigaction, flags: action.sa_flags, mask }
}

fn structure_of(action: Action) -> libc::sigaction {
    // SAFETY: zero is a valid value: no handler, no flags, no signals. A signal set is at least 64 bits long.
    unsafe {
        let mut structure: libc::sigaction = zeroed();
        structure.sa_sigaction = action.handler;
        structure.sa_flags = action.flags;
        (&raw mut structure.sa_mask).cast::<u64>().write(action.mask);
        structure
    }
}

/// What the kernel is given when the program wants `action`: our handler, entered as the program's would be.
fn entered_as(action: Action) -> libc::sigaction {
    let own = action.handler != libc::SIG_DFL && action.handler != libc::SIG_IGN;
    let kept = libc::SA_ONSTACK | libc::SA_NODEFER | libc::SA_RESTART;
    // Without a handler of the program's: on the alternate stack if there is one, and nothing is interrupted.
    let flags = if own { action.flags & kept } else { libc::SA_ONSTACK | libc::SA_RESTART };
    structure_of(Action {
        handler: on_fault as *const () as usize,
        flags: flags | libc::SA_SIGINFO,
        mask: if own { action.mask } else { 0 },
    })
}

/// The table's row of a signal, when the program's actions are kept.
fn row(signal: c_int) -> Option<&'static Kept> {
    let row = WATCHED.iter().position(|&watched| watched == signal)?;
    (!JUDGE.load(Ordering::Acquire).is_null() && OWNER.load(Ordering::Relaxed) == process())
        .then(|| &KEPT[row])
}

/// What the program wants for this signal is kept here.
pub fn keeps(signal: c_int) -> bool {
    row(signal).is_some()
}

/// `sigaction`, for a library that stands in for the C library's. As that one: 0, or -1 with `errno`.
///
/// # Safety
/// As `sigaction`: each pointer is null or good.
pub unsafe fn sigaction(signal: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int {
    let Some(kept) = row(signal) else {
        // SAFETY: the caller's promise.
        return unsafe {
            if !new.is_null() {
                timer::leave_signal(signal);
            }
            let result = real_sigaction(signal, new, old);
            if signal == wake::SIGNAL && result == 0 {
                hide(old);
                if !new.is_null() {
                    wake::changed(signal);
                }
            }
            result
        };
    };
    // SAFETY: the caller's promise. Read before the lock is taken: a bad pointer faults here, as in the C library.
    let wanted = unsafe { new.as_ref() }.map(action_of);
    let (result, before) = locked(|| {
        if !INSTALLED.load(Ordering::Relaxed) {
            let mut before = MaybeUninit::zeroed();
            let wanted = wanted.map(structure_of);
            let new = wanted.as_ref().map_or(null(), core::ptr::from_ref);
            // SAFETY: both are this frame's.
            return unsafe {
                let result = real_sigaction(signal, new, before.as_mut_ptr());
                (result, before.assume_init())
            };
        }
        let before = kept.get();
        if let Some(wanted) = wanted {
            kept.set(wanted);
            // SAFETY: a handler that takes these arguments.
            let result = unsafe { real_sigaction(signal, &entered_as(wanted), null_mut()) };
            return (result, structure_of(before));
        }
        (0, structure_of(before))
    });
    if result == 0 && !old.is_null() {
        // SAFETY: the caller's promise.
        unsafe { old.write(before) };
    }
    result
}

/// Has what a program is told of a signal not speak of the heap's own handler.
///
/// # Safety
/// `told` is null or good.
unsafe fn hide(told: *mut libc::sigaction) {
    // SAFETY: the caller's promise.
    if let Some(told) = unsafe { told.as_mut() }
        && wake::hidden(told.sa_sigaction) != told.sa_sigaction
    {
        *told = structure_of(Action { handler: libc::SIG_DFL, flags: 0, mask: 0 });
    }
}

/// `signal` for the watched signals, as the BSDs have it: the handler stays, calls are restarted. Nothing for other signals: they are
/// the C library's own affair. `flags`: instead of those.
///
/// # Safety
/// `handler` is a handler, or one of `SIG_DFL` and `SIG_IGN`.
pub unsafe fn signal(signal: c_int, handler: usize, flags: Option<c_int>) -> Option<usize> {
    row(signal)?;
    let own = if flags.is_none() { 1 << (signal - 1) } else { 0 };
    let new = structure_of(Action { handler, flags: flags.unwrap_or(libc::SA_RESTART), mask: own });
    // SAFETY: zero is a valid value of it.
    let mut old = unsafe { zeroed() };
    // SAFETY: two structures of this frame.
    let result = unsafe { sigaction(signal, &raw const new, &raw mut old) };
    Some(if result == 0 { old.sa_sigaction } else { libc::SIG_ERR })
}

/// The handler.
unsafe extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives both, for as long as the handler runs; errno is this thread's.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        // What was sent and not caused has no address.
        if (*info).si_code > 0
            && let Some(judge) = judge()
        {
            let (access, instruction) = told_by(context);
            let (address, reason) = ((*info).si_addr().addr(), Reason::of(signal, (*info).si_code));
            if judge(&Fault { address, access, reason, instruction }) {
                *errno = before;
                return;
            }
        }
        *errno = before;
        pass_on(signal, info, context);
    }
}

/// How the access was made, and by which instruction.
///
/// # Safety
/// `context` is that of a handler.
#[cfg(target_arch = "x86_64")]
unsafe fn told_by(context: *mut c_void) -> (Access, usize) {
    const WRITE: i64 = 2;
    // SAFETY: the caller's promise.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let access = if registers[libc::REG_ERR as usize] & WRITE == 0 { Access::Read } else { Access::Write };
    (access, registers[libc::REG_RIP as usize] as usize)
}

/// As on x86-64, where the kernel's record is not read.
///
/// # Safety
/// None.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn told_by(_context: *mut c_void) -> (Access, usize) {
    (Access::Unknown, 0)
}

/// Does what would have been done with the signal without us.
///
/// # Safety
/// What the kernel gave the handler.
unsafe fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(row) = WATCHED.iter().position(|&watched| watched == signal) else { return };
    let kept = &KEPT[row];
    let action = kept.get();
    // SAFETY: the caller's promise.
    let sent = unsafe { (*info).si_code } <= 0;
    match action.handler {
        // A fault cannot be ignored.
        libc::SIG_IGN if sent => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: the default action ends the process: at the next turn of the instruction, or by the same signal with the
            // same information, which is blocked until this handler returns.
            unsafe {
                real_sigaction(
                    signal,
                    &structure_of(Action { handler: libc::SIG_DFL, flags: 0, mask: 0 }),
                    null_mut(),
                );
                if sent {
                    libc::syscall(libc::SYS_rt_tgsigqueueinfo, process(), libc::gettid(), signal, info);
                }
            }
        }
        handler => {
            if action.flags & libc::SA_RESETHAND != 0 {
                locked(|| kept.set(Action { handler: libc::SIG_DFL, ..action }));
            }
            // SAFETY: the program's handler. One that takes the signal alone does not look at the rest.
            unsafe {
                let handler = core::mem::transmute::<
                    usize,
                    unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void),
                >(handler);
                handler(signal, info, context);
            }
        }
    }
}
