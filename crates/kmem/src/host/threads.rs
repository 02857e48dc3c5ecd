//! Stopping the other threads of the process for a moment.
//!
//! # Theory
//! Each gets a signal whose handler waits until it is told to go on. What the kernel saved of the thread for the handler lies on the thread's
//! own stack: its registers, and where its stack begins. A thread that blocks the signal runs on, and that is said.
//!
//! # Invariants
//! - I-THREADS-1: the handler stays installed: a signal that comes late must not end the process. It does nothing then.
//!
//! # Never
//! The handler takes no lock, and changes no `errno`. While threads are stopped any lock may be held: whoever stopped them must not take
//! one, the heap's or the C library's.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::{locks, misc, sys};

/// Threads that can be stopped.
const MOST: usize = 1024;
/// Rounds of looking for new threads, and how long one waits, in pauses of a fifth of a millisecond.
const ROUNDS: usize = 8;
const PAUSES: usize = 1500;

/// 1: who gets the signal waits.
static HOLD: AtomicU32 = AtomicU32::new(0);
/// Places taken in [`SAVED`], and places filled.
static TAKEN: AtomicUsize = AtomicUsize::new(0);
static FILLED: AtomicUsize = AtomicUsize::new(0);
/// Where the registers of each stopped thread lie, on its stack.
static SAVED: [AtomicUsize; MOST] = [const { AtomicUsize::new(0) }; MOST];

extern "C" fn handle(_signal: c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    if HOLD.load(Ordering::Acquire) == 0 {
        return;
    }
    let place = TAKEN.fetch_add(1, Ordering::Relaxed);
    if let Some(saved) = SAVED.get(place) {
        saved.store(context.addr(), Ordering::Relaxed);
    }
    // Release pairs with the Acquire of `stop`: who counts it sees what was saved.
    FILLED.fetch_add(1, Ordering::Release);
    while HOLD.load(Ordering::Acquire) == 1 {
        sys::futex_wait(&HOLD, 1);
    }
}

/// The other threads wait as long as this lives.
pub(crate) struct Stopped {
    saved: usize,
    all: bool,
}

impl Stopped {
    /// False: some thread runs on.
    pub(crate) fn all(&self) -> bool {
        self.all
    }

    /// Where the registers of each stopped thread lie; its live stack is above.
    pub(crate) fn saved(&self) -> impl Iterator<Item = usize> {
        SAVED.iter().take(self.saved).map(|saved| saved.load(Ordering::Relaxed))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Release pairs with the Acquire of `handle`.
        HOLD.store(0, Ordering::Release);
        for _ in 0..TAKEN.load(Ordering::Relaxed) {
            sys::futex_wake(&HOLD);
        }
        locks::exit();
    }
}

/// Stops all other threads of the process, as far as possible. One thread at a time may do this.
pub(crate) fn stop() -> Stopped {
    // As if it was a lock: a handler that interrupts this must not do the same, nor wait for who is stopped.
    locks::enter();
    let me = misc::thread_id();
    let mut stopped = Stopped { saved: 0, all: true };
    TAKEN.store(0, Ordering::Relaxed);
    FILLED.store(0, Ordering::Relaxed);
    let mut known = Known { ids: [0; MOST], len: 0 };
    let mut signal = None;
    for _ in 0..ROUNDS {
        let before = known.len;
        let listed = each_thread(|thread| {
            if thread == me || known.ids[..known.len].contains(&thread) {
                return;
            }
            if signal.is_none() {
                signal = install();
                HOLD.store(1, Ordering::Release);
            }
            match signal {
                Some(signal) if known.len < MOST && sys::tell(thread, signal) => {
                    known.ids[known.len] = thread;
                    known.len += 1;
                }
                // It ended meanwhile, and then it is not there in the next round.
                Some(_) if known.len < MOST => {}
                _ => stopped.all = false,
            }
        });
        stopped.all &= listed;
        for _ in 0..PAUSES {
            if FILLED.load(Ordering::Acquire) >= known.len {
                break;
            }
            sys::pause();
        }
        if known.len == before || !stopped.all {
            break;
        }
    }
    let filled = FILLED.load(Ordering::Acquire);
    stopped.all &= filled >= known.len;
    stopped.saved = filled.min(MOST);
    stopped
}

struct Known {
    ids: [u32; MOST],
    len: usize,
}

/// Installs the handler for a signal that nobody uses; the highest, of those that programs may choose.
fn install() -> Option<c_int> {
    // SAFETY: all zero is a value of this structure, and the handler is one of the kind that is said. `errno` is put back.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let mut found = None;
        for signal in (40..=64).rev() {
            let mut old: libc::sigaction = core::mem::zeroed();
            let own = handle as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
            if libc::sigaction(signal, core::ptr::null(), &raw mut old) != 0
                || (old.sa_sigaction != libc::SIG_DFL && old.sa_sigaction != own)
            {
                continue;
            }
            let mut new: libc::sigaction = core::mem::zeroed();
            new.sa_sigaction = own;
            new.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            libc::sigfillset(&raw mut new.sa_mask);
            if libc::sigaction(signal, &raw const new, core::ptr::null_mut()) == 0 {
                found = Some(signal);
                break;
            }
        }
        *errno = before;
        found
    }
}

/// Shows the numbers of the process's threads. False: they are not to be had.
fn each_thread(mut visit: impl FnMut(u32)) -> bool {
    let Ok(fd) = sys::open(c"/proc/self/task", libc::O_RDONLY | libc::O_DIRECTORY, 0) else { return false };
    let mut buffer = [0_u64; 256];
    let ended = loop {
        let Ok(got) = sys::list(fd, &mut buffer) else { break false };
        if got == 0 {
            break true;
        }
        // SAFETY: the kernel wrote so many bytes of the buffer.
        let bytes = unsafe { core::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), got) };
        let mut at = 0;
        // Each entry: inode, offset, its own length in two bytes, its kind in one, a name that ends in zero.
        while let Some(&[low, high]) = bytes.get(at + 16..at + 18) {
            let end = at + usize::from(u16::from_le_bytes([low, high]));
            let name = bytes.get(at + 19..end).unwrap_or_default();
            let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
            if let Some(thread) = core::str::from_utf8(name).ok().and_then(|name| name.parse().ok()) {
                visit(thread);
            }
            if end <= at {
                break;
            }
            at = end;
        }
    };
    sys::close(fd);
    ended
}
