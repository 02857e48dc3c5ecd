//! Timers that have threads come by a slow path: for the sampling guard, whose turns a thread in balance never meets.
//!
//! # Theory
//! A thread that finds all it needs at its CPU's hand makes no slow call. So each thread has a timer on the CPU time that it spends, which sends
//! it the signal of [`super::wake`]. If nobody came by although something is due, the handler has the thread come by
//! (`expected::request`: a few stores). The clock stands while the thread does, so what sleeps in a system call is not disturbed; and a
//! timer of a thread's own sends to that one and no other: one for the whole process would have the system choose who gets the signal,
//! which on many systems is the first thread, in its `epoll_wait`.
//!
//! A thread gets its timer when it first finds out how it owns a CPU, at its first malloc or free, or when it next refills a
//! stack. One that blocks the signal then gets none, nor do threads beyond `MOST`. A timer outlives its thread, and is given back when its place is wanted.
//!
//! The child of a fork has no timers: its thread is made to forget its CPU, and so gets one at its next call.
//!
//! Other processors than x86-64 have no word of a thread's own: there the thread that came first has a timer, and others do not.
//!
//! # When there is none
//! Where the system refuses the first one, there is no second attempt. From the moment when the program takes the signal for itself, or
//! steps into a sandbox, there are none any more (`stop`). Then things are as before: whoever comes by comes by.
//!
//! # Invariants
//! - I-TIMER-1: the number in a place is that of a timer of the process `OWNER`, and in no other place; who replaces it deletes the timer.
//!
//! # Never
//! Allocates, waits, takes a lock, touches `errno`: all of it may happen in a signal handler, and in the first malloc of a process.

use core::ffi::c_int;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::{expected, misc, sys, wake};

/// Threads that have timers at once.
const MOST: usize = 128;
/// Places whose threads are looked for when all are taken.
const LOOKS: usize = 4;
/// Instead of a timer's number: it is being made.
const MAKING: u32 = u32::MAX;

/// Something is due, and nobody came by. Asked in the handler.
pub(crate) type IsDue = fn() -> bool;

/// Nanoseconds of CPU time between two signals; 0: there are no timers.
static PERIOD: AtomicU64 = AtomicU64::new(0);
/// Who is asked.
static IS_DUE: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
/// The process whose timers these are.
static OWNER: AtomicU32 = AtomicU32::new(0);
/// Counts the starts, in a child of a fork too. What a thread remembers of its timer is true of one.
static EPOCH: AtomicU32 = AtomicU32::new(0);
/// A thread's number and its timer's, or 0.
static PLACES: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
/// Where threads of taken places are looked for next.
static NEXT: AtomicUsize = AtomicUsize::new(0);

// The epoch in which this thread was seen to; 0: never.
#[cfg(target_arch = "x86_64")]
super::word::thread_word!("kmem_thread_timer", seen, see);

#[cfg(not(target_arch = "x86_64"))]
static SEEN: AtomicU32 = AtomicU32::new(0);

#[cfg(not(target_arch = "x86_64"))]
fn seen() -> u32 {
    SEEN.load(Ordering::Relaxed)
}

#[cfg(not(target_arch = "x86_64"))]
fn see(epoch: u32) {
    SEEN.store(epoch, Ordering::Relaxed);
}

const fn pack(thread: u32, timer: u32) -> u64 {
    (thread as u64) << 32 | timer as u64
}

const fn thread_of(place: u64) -> u32 {
    (place >> 32) as u32
}

/// From now on threads are told after each `period` nanoseconds of their CPU time, if `is_due` then; this one at once, others as they come by.
pub(crate) fn start(period: u64, is_due: IsDue) {
    stop();
    IS_DUE.store(is_due as *mut (), Ordering::Relaxed);
    OWNER.store(sys::process(), Ordering::Relaxed);
    EPOCH.fetch_add(1, Ordering::SeqCst);
    // SeqCst as in `stop`; it also publishes what was stored above.
    PERIOD.store(period, Ordering::SeqCst);
    see_to_thread();
}

/// There are no timers any more. False: there were none. Nothing in a child of `vfork`, which borrows its parent's memory.
pub(crate) fn stop() -> bool {
    if PERIOD.load(Ordering::SeqCst) == 0 || OWNER.load(Ordering::Relaxed) != sys::process() {
        return false;
    }
    // Either a thread that makes a timer sees this, or its timer is seen below.
    PERIOD.store(0, Ordering::SeqCst);
    for place in &PLACES {
        delete(place.swap(0, Ordering::SeqCst));
    }
    true
}

/// The program is about to change what happens at a signal: if it is the timers' there are none any more.
pub fn leave_signal(signal: c_int) {
    if signal == wake::SIGNAL {
        stop();
    }
}

/// The child of a fork has inherited no timer.
pub(super) fn after_fork_child() {
    if PERIOD.load(Ordering::Relaxed) == 0 {
        return;
    }
    // Relaxed: the child has one thread.
    for place in &PLACES {
        place.store(0, Ordering::Relaxed);
    }
    OWNER.store(sys::process(), Ordering::Relaxed);
    EPOCH.fetch_add(1, Ordering::Relaxed);
    expected::forget();
}

/// Gives the calling thread its timer, if there are timers and it was not seen to.
#[inline]
pub(super) fn see_to_thread() {
    let period = PERIOD.load(Ordering::SeqCst);
    if period != 0 {
        let epoch = EPOCH.load(Ordering::SeqCst);
        if seen() != epoch {
            make(period, epoch);
        }
    }
}

#[cold]
#[inline(never)]
fn make(period: u64, epoch: u32) {
    if OWNER.load(Ordering::Relaxed) != sys::process() {
        return;
    }
    // First: a handler that interrupts this and allocates comes here too.
    see(epoch);
    if sys::blocks(wake::SIGNAL) {
        return;
    }
    if !wake::listen(None) {
        stop();
        return;
    }
    let thread = misc::thread_id();
    let Some(place) = claim(thread) else { return };
    let mine = &raw const PLACES;
    match sys::new_cpu_timer(wake::SIGNAL, thread, mine.addr()) {
        Ok(timer) => {
            sys::set_timer(timer, period);
            place.store(pack(thread, timer), Ordering::SeqCst);
            // `stop` may have seen the place before the timer was in it.
            if PERIOD.load(Ordering::SeqCst) == 0 || EPOCH.load(Ordering::SeqCst) != epoch {
                delete(place.swap(0, Ordering::SeqCst));
            }
        }
        Err(why) => {
            place.store(0, Ordering::Relaxed);
            // Too many signals in flight is a state of the moment; all else is said for good.
            if why.0 != libc::EAGAIN {
                stop();
            }
        }
    }
}

/// A place for this thread's timer.
fn claim(thread: u32) -> Option<&'static AtomicU64> {
    let take = |place: &'static AtomicU64, before: u64| {
        let taken = place
            .compare_exchange(before, pack(thread, MAKING), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if taken {
            delete(before);
        }
        taken.then_some(place)
    };
    let mut free = None;
    for place in &PLACES {
        let before = place.load(Ordering::Relaxed);
        if thread_of(before) == thread {
            // A thread that ended had the same number.
            return take(place, before);
        }
        if before == 0 && free.is_none() {
            free = Some(place);
        }
    }
    if let Some(place) = free.and_then(|place| take(place, 0)) {
        return Some(place);
    }
    (0..LOOKS).find_map(|_| {
        let place = &PLACES[NEXT.fetch_add(1, Ordering::Relaxed) % MOST];
        let before = place.load(Ordering::Relaxed);
        // Signal 0 only asks.
        let is_over = before as u32 != MAKING && (before == 0 || !sys::tell(thread_of(before), 0));
        if is_over { take(place, before) } else { None }
    })
}

/// Deletes the timer that was in a place.
fn delete(place: u64) {
    if place != 0 && place as u32 != MAKING {
        sys::delete_timer(place as u32);
    }
}

/// A signal came from one of these timers. In the handler.
///
/// # Safety
/// `info` is what the system gave a handler.
pub(super) unsafe fn sent(info: *const libc::siginfo_t) -> bool {
    // SAFETY: the caller's promise; a timer's signal has a value.
    unsafe {
        (*info).si_code == libc::SI_TIMER && (*info).si_value().sival_ptr.addr() == (&raw const PLACES).addr()
    }
}

/// What is done then.
pub(super) fn ring() {
    let is_due = IS_DUE.load(Ordering::Relaxed);
    if is_due.is_null() || PERIOD.load(Ordering::Relaxed) == 0 {
        return;
    }
    // SAFETY: only `start` stores there, and it stores functions of this type.
    let is_due = unsafe { core::mem::transmute::<*mut (), IsDue>(is_due) };
    if is_due() {
        expected::request();
    }
}
