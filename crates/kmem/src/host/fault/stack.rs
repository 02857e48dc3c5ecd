//! A stack of the heap's own, for what is said of a fault, and of misuse in a handler.
//!
//! # Theory
//! A handler of faults runs on the stack that the program asked for, often an alternate one of a few KiB: the kernel's frame
//! takes most of it where processors have wide registers. A report walks stacks, names code and writes; on the way the loader may
//! bind a symbol, which saves those registers once more. So [`on_own_stack`] goes over to a stack in the library's zero
//! data, which is memory only once it is used, and comes back. The step is a function with a frame pointer and the tables
//! that say so: an unwinder goes on through it to the handler's frame and to the code that faulted.
//!
//! The same holds for a handler of the program's that misuses the heap: its report goes over where the kernel says that the thread is on
//! an alternate stack, and little of that is left ([`with_room`]). An ordinary stack costs a report one question.
//!
//! One thread uses it at a time; others wait, but not for ever: who has it may wait for something that they hold.
//! A thread that faults again while it has it goes on where it is.
//!
//! Meanwhile signals are blocked, but for those that an instruction causes. The thread's alternate stack is another one, a part of
//! this: the kernel takes a thread that runs here for one that left its alternate stack, and would put the frame of the next
//! signal over the frames of the first, which are needed still.
//!
//! ```text
//!  room                                                                  top
//! |  wall  |  alternate stack  |  ... what runs here            | left, left |
//!   4 KiB         64 KiB                     192 KiB
//! ```
//! `left` is the stack pointer at which the other stack was left. Nobody may write to the wall from the room's first use on: what takes more
//! than there is faults there, and writes over nothing else of the library's. It may be read: who looks for pointers in all data of a program,
//! as collectors of garbage do, reads this too.
//!
//! # Invariants
//! - I-FAULT-3: whoever runs in the room is the owner's thread, and its frames are not overwritten while it runs.
//!
//! # Never
//! Nothing here allocates, or changes `errno`.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::host::{misc, sys};

/// Bytes of the whole without the wall. A report takes a tenth of it; a program's handler of SIGABRT may run here too.
const SIZE: usize = 256 << 10;
/// Bytes of the alternate stack in it.
const LENT: usize = 64 << 10;

/// Bytes of the wall: a page.
const WALL: usize = 4096;
/// With so much left of an alternate stack a report stays there.
const ENOUGH: usize = LENT;

/// How long the room is waited for: seconds. Longer than names are waited for.
const PATIENCE: u32 = if cfg!(test) { 2 } else { 15 };

/// The room's bytes, behind those of the wall. A stack grows down from its end.
#[repr(C, align(4096))]
struct Room(UnsafeCell<[u8; WALL + SIZE]>);

// SAFETY: its bytes are the owner's stack, and nobody else's (I-FAULT-3).
unsafe impl Sync for Room {}

static ROOM: Room = Room(UnsafeCell::new([0; WALL + SIZE]));
/// The wall stands, or cannot.
static WALLED: AtomicBool = AtomicBool::new(false);
/// The system's number of the thread that has the room; 0: nobody.
static OWNER: AtomicU32 = AtomicU32::new(0);

core::arch::global_asm!(
    // kmem_call_on(data, function, top): calls function(data) on the stack that ends at top.
    ".pushsection .text.kmem_call_on,\"ax\",@progbits",
    ".balign 16",
    ".globl kmem_call_on",
    ".hidden kmem_call_on",
    ".type kmem_call_on, @function",
    "kmem_call_on:",
    ".cfi_startproc",
    "push rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset rbp, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register rbp",
    "mov rsp, rdx",
    // For `left`; twice, as a stack is aligned to 16 bytes at a call.
    "push rbp",
    "push rbp",
    "call rsi",
    "mov rsp, rbp",
    "pop rbp",
    ".cfi_def_cfa rsp, 8",
    "ret",
    ".cfi_endproc",
    ".size kmem_call_on, . - kmem_call_on",
    ".popsection",
);

unsafe extern "C" {
    fn kmem_call_on(data: *mut c_void, function: unsafe extern "C" fn(*mut c_void), top: usize);
}

fn start() -> usize {
    ROOM.0.get().addr() + WALL
}

/// Whether an address is in the room.
#[inline]
fn holds(address: usize) -> bool {
    address.wrapping_sub(start()) < SIZE
}

/// The end of the stack that `sp` is on, if that is the room.
#[inline]
pub(in crate::host) fn end(sp: usize) -> Option<usize> {
    holds(sp).then(|| start() + SIZE)
}

/// How far the frame of the step lies below the stack pointer of its caller: the return address and a saved register.
pub(in crate::host) const STEP: usize = 16;

/// For a walk of this thread's stack that is in the room, with its stack pointer at `sp`: where the stack that it goes on with was
/// left. It lies [`STEP`] below the stack pointer before the call.
pub(crate) fn left(sp: usize) -> Option<usize> {
    // SAFETY: the word that `kmem_call_on` pushed first; this thread is in the room, so it stays.
    holds(sp).then(|| unsafe { ((start() + SIZE - size_of::<usize>()) as *const usize).read_volatile() })
}

/// An address of the stack that this function's caller runs on.
#[inline(never)]
fn here() -> usize {
    let local = 0_u8;
    core::hint::black_box(&raw const local).addr()
}

/// Runs `work` on the stack of the heap's own, if that can be had; where it is had already or cannot be, on the present one.
///
/// `work` must come back: what leaves it otherwise leaves its thread the owner, which others wait for in vain.
pub fn on_own_stack<R>(work: impl FnOnce() -> R) -> R {
    let me = misc::thread_id();
    // Relaxed: only this thread stores this number. One that does not run there left by a jump, or died in the place of this one
    // (a child that shared its memory): it needs the room no more.
    let mine = OWNER.load(Ordering::Relaxed) == me;
    if mine && holds(here()) {
        return work();
    }
    let before = change_mask(libc::SIG_BLOCK, NOT_CAUSED);
    let result = if mine || take(me) {
        let result = step(work);
        give_back();
        result
    } else {
        work()
    };
    change_mask(libc::SIG_SETMASK, before);
    result
}

/// [`on_own_stack`] where this thread is on an alternate stack with little left. Called with locks held; who has the room and waits for one
/// of those gets it when the caller has waited long enough, and goes on where it is.
pub(in crate::host) fn with_room<R>(work: impl FnOnce() -> R) -> R {
    let is_short = |stack: libc::stack_t| {
        stack.ss_flags & libc::SS_ONSTACK != 0 && here().wrapping_sub(stack.ss_sp.addr()) < ENOUGH
    };
    if alternate(None).is_some_and(is_short) { on_own_stack(work) } else { work() }
}

/// [`on_own_stack`] for whoever must not wait: `None` where the room is another's, or the caller's already; then nothing was done.
pub(crate) fn try_on_own_stack<R>(work: impl FnOnce() -> R) -> Option<R> {
    if is_on_own_stack() {
        return None;
    }
    let me = misc::thread_id();
    let before = change_mask(libc::SIG_BLOCK, NOT_CAUSED);
    // Relaxed and Acquire as above.
    let had = OWNER.load(Ordering::Relaxed) == me
        || OWNER.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed).is_ok();
    let result = had.then(|| {
        let result = step(work);
        give_back();
        result
    });
    change_mask(libc::SIG_SETMASK, before);
    result
}

/// The caller runs in the room.
pub(in crate::host) fn is_on_own_stack() -> bool {
    holds(here())
}

/// Waits for the room. False: nobody gave it back in time.
fn take(me: u32) -> bool {
    let mut seconds = 0;
    loop {
        // Acquire pairs with the Release of `give_back`: the last owner's frames are gone.
        match OWNER.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(_) if seconds == PATIENCE => return false,
            Err(owner) => seconds += u32::from(!sys::futex_wait_a_second(&OWNER, owner)),
        }
    }
}

fn give_back() {
    OWNER.store(0, Ordering::Release);
    sys::futex_wake(&OWNER);
}

/// In the child of a fork: the room is its own thread's if that is in it, or nobody's.
pub(super) fn after_fork_child() {
    let owner = if holds(here()) { misc::thread_id() } else { 0 };
    OWNER.store(owner, Ordering::Relaxed);
}

/// Goes over to the room, which is the caller's, and comes back.
fn step<F: FnOnce() -> R, R>(work: F) -> R {
    unsafe extern "C" fn enter<F: FnOnce() -> R, R>(data: *mut c_void) {
        // SAFETY: what `step` gave, which waits for this.
        let (work, result) = unsafe { &mut *data.cast::<(Option<F>, MaybeUninit<R>)>() };
        let theirs = lend();
        if let Some(work) = work.take() {
            result.write(work());
        }
        if let Some(theirs) = theirs {
            alternate(Some(&theirs));
        }
    }
    // Relaxed: changed by the room's owner.
    if !WALLED.swap(true, Ordering::Relaxed) {
        // SAFETY: the wall is a page of its own that nobody uses. Where it cannot be had the room is used without.
        let _ = unsafe { sys::forbid_writes(ROOM.0.get().expose_provenance(), WALL) };
    }
    let mut data = (Some(work), MaybeUninit::uninit());
    // SAFETY: the function takes this data and does not unwind: it has the C calling convention. The room is this thread's
    // alone (I-FAULT-3) and aligned. The function wrote the result, as there was work.
    unsafe {
        kmem_call_on((&raw mut data).cast(), enter::<F, R>, start() + SIZE);
        data.1.assume_init()
    }
}

/// Gives the thread, which runs in the room, another alternate stack if it has one. The one that it had.
fn lend() -> Option<libc::stack_t> {
    let theirs = alternate(None)?;
    if theirs.ss_flags & libc::SS_DISABLE != 0 {
        return None;
    }
    alternate(Some(&libc::stack_t { ss_sp: start() as *mut c_void, ss_flags: 0, ss_size: LENT }))?;
    Some(theirs)
}

/// The alternate stack of this thread, which is not on it; and another one from now on.
fn alternate(new: Option<&libc::stack_t>) -> Option<libc::stack_t> {
    let mut old = libc::stack_t { ss_sp: null_mut(), ss_flags: 0, ss_size: 0 };
    let new = new.map_or(0, |new| core::ptr::from_ref(new).addr());
    // SAFETY: the kernel reads one structure and writes the other. Nobody is on the stack that goes; the new one is the
    // thread's own, or the room's.
    unsafe { sys::call(libc::SYS_sigaltstack, [new, &raw mut old as usize, 0, 0, 0, 0]) }.ok()?;
    Some(old)
}

/// All signals but those that an instruction causes, as the kernel has them: they cannot wait. SIGABRT ends the program, and could not
/// if it was blocked.
const NOT_CAUSED: u64 = !(bit(libc::SIGSEGV)
    | bit(libc::SIGBUS)
    | bit(libc::SIGILL)
    | bit(libc::SIGFPE)
    | bit(libc::SIGTRAP)
    | bit(libc::SIGSYS)
    | bit(libc::SIGABRT));

const fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}

/// Changes which signals are blocked; those that were.
fn change_mask(how: c_int, mask: u64) -> u64 {
    let mut before = 0_u64;
    let (new, old) = (&raw const mask as usize, &raw mut before as usize);
    // SAFETY: the kernel reads one set of 64 signals and writes the other.
    let _ = unsafe { sys::call(libc::SYS_rt_sigprocmask, [how as usize, new, old, 8, 0, 0]) };
    before
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;
    use std::thread;
    use std::time::{Duration, Instant};

    /// The room is one for all tests of the process.
    static ALONE: Mutex<()> = Mutex::new(());

    fn alone() -> impl Drop {
        ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    #[test]
    fn work_runs_in_the_room_and_answers() {
        let _alone = alone();
        let outside = String::from("seen from there");
        let (inside, text) = on_own_stack(|| (here(), outside.clone() + ", and back"));
        assert!(holds(inside) && !holds(here()));
        assert_eq!(text, "seen from there, and back");
        assert_eq!(OWNER.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_has_the_room_goes_on_where_it_is() {
        let _alone = alone();
        on_own_stack(|| {
            let outer = [7_u8; 512];
            core::hint::black_box(&outer);
            let inner = on_own_stack(|| {
                let inner = [9_u8; 512];
                core::hint::black_box(&inner);
                (&raw const inner).addr()
            });
            assert_eq!(core::hint::black_box(outer), [7; 512]);
            assert!(holds(inner) && inner < (&raw const outer).addr(), "{inner:#x} {:p}", &outer);
        });
    }

    #[test]
    fn nobody_may_write_to_the_wall() {
        let _alone = alone();
        on_own_stack(|| ());
        let maps = std::fs::read_to_string("/proc/self/maps").expect("linux");
        let protection = |address: usize| {
            let inside = |line: &&str| {
                let range = line.split(' ').next().and_then(|range| range.split_once('-'));
                let number = |text| usize::from_str_radix(text, 16).expect("a number");
                range.is_some_and(|(from, to)| (number(from)..number(to)).contains(&address))
            };
            maps.lines().find(inside).and_then(|line| line.split(' ').nth(1)).expect("mapped")
        };
        let (wall, top) = (ROOM.0.get().addr(), start() + SIZE);
        assert_eq!([wall, start() - 1].map(protection), ["r--p"; 2]);
        assert_eq!([wall - 1, start(), top - 1, top].map(protection), ["rw-p"; 4]);
    }

    #[test]
    fn an_ordinary_stack_has_room() {
        let _alone = alone();
        assert!(!holds(with_room(here)));
        assert!(on_own_stack(|| holds(with_room(here))), "or the room, for who is there");
    }

    #[test]
    fn signals_wait_and_the_alternate_stack_is_another_one() {
        let _alone = alone();
        let ask = || (change_mask(libc::SIG_BLOCK, 0), alternate(None).expect("known").ss_sp.addr());
        let before = ask();
        let inside = on_own_stack(ask);
        // These two nobody can block.
        let blocked = NOT_CAUSED & !bit(libc::SIGKILL) & !bit(libc::SIGSTOP);
        assert_eq!((inside.0 & blocked, inside.1), (blocked, start()));
        assert_eq!(inside.0 & bit(libc::SIGSEGV), 0);
        assert_eq!(ask(), before);
    }

    #[test]
    fn one_thread_at_a_time() {
        let _alone = alone();
        static INSIDE: AtomicBool = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        on_own_stack(|| {
                            assert!(!INSIDE.swap(true, Ordering::Relaxed));
                            thread::yield_now();
                            INSIDE.store(false, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
    }

    #[test]
    fn who_left_by_a_jump_may_come_again() {
        let _alone = alone();
        OWNER.store(misc::thread_id(), Ordering::Relaxed);
        assert!(holds(on_own_stack(here)));
        assert_eq!(OWNER.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_must_not_wait_does_not() {
        let _alone = alone();
        assert!(try_on_own_stack(here).is_some_and(holds));
        assert_eq!(OWNER.load(Ordering::Relaxed), 0);
        assert_eq!(on_own_stack(|| try_on_own_stack(|| ())), None, "it is there already");
        // No thread has this number.
        OWNER.store(u32::MAX, Ordering::Relaxed);
        let begin = Instant::now();
        assert_eq!(try_on_own_stack(|| ()), None);
        assert!(begin.elapsed() < Duration::from_secs(1));
        OWNER.store(0, Ordering::Relaxed);
    }

    #[test]
    fn others_do_not_wait_for_ever() {
        let _alone = alone();
        // No thread has this number.
        OWNER.store(u32::MAX, Ordering::Relaxed);
        let begin = Instant::now();
        assert!(!holds(on_own_stack(here)), "on the present stack");
        assert!(begin.elapsed() >= Duration::from_secs(u64::from(PATIENCE) - 1));
        OWNER.store(0, Ordering::Relaxed);
    }

    #[test]
    fn a_forks_child_has_it_free_unless_it_is_there() {
        let _alone = alone();
        OWNER.store(u32::MAX, Ordering::Relaxed);
        after_fork_child();
        assert_eq!(OWNER.load(Ordering::Relaxed), 0);
        on_own_stack(|| {
            after_fork_child();
            assert_eq!(OWNER.load(Ordering::Relaxed), misc::thread_id());
        });
    }
}
