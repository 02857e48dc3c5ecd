//! Validation while the program runs: every so many seconds, and when it is asked for.
//!
//! # Theory
//! Whoever comes to the slow paths of malloc and free does it when the time has come (`due.rs`). Where caches are
//! checked every call takes these paths, and only checked caches can be validated; so a running program is late by one call at
//! most. One that does not allocate is not looked at, until it does.
//!
//! A signal's handler may have interrupted anybody, with any lock held. So it does nothing but say that the time has
//! come.
//!
//! What is found is reported as every error is.

use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{SECOND, number, traces};
use crate::due::Due;
use crate::heap::{self, Heap};
use kmem_core::cache::Validation;

/// When the next validation is due.
static DUE: Due = Due::never();
/// Nanoseconds between two; 0: only when asked.
static INTERVAL: AtomicU64 = AtomicU64::new(0);
/// A signal asked.
static ASKED: AtomicBool = AtomicBool::new(false);

/// Signals by name, for [`signal`].
const SIGNALS: [(&[u8], c_int); 7] = [
    (b"HUP", libc::SIGHUP),
    (b"USR1", libc::SIGUSR1),
    (b"USR2", libc::SIGUSR2),
    (b"WINCH", libc::SIGWINCH),
    (b"URG", libc::SIGURG),
    (b"IO", libc::SIGIO),
    (b"QUIT", libc::SIGQUIT),
];

/// Reads `KMEM_VALIDATE` and `KMEM_SIGNAL`.
pub(super) fn configure(variable: &dyn Fn(&str) -> Option<&'static [u8]>, say: &dyn Fn(&str)) {
    if let Some(text) = variable("KMEM_VALIDATE").filter(|text| !text.is_empty()) {
        match number(text) {
            Some(seconds) => set_interval(seconds),
            None => say("KMEM_VALIDATE is a number of seconds"),
        }
    }
    if let Some(text) = variable("KMEM_SIGNAL").filter(|text| !text.is_empty())
        && !signal(text).is_some_and(listen)
    {
        say("KMEM_SIGNAL is a signal, like `USR1`");
    }
}

/// Validates all checked caches every so many seconds from now on; 0: only when asked.
pub fn set_interval(seconds: u32) {
    let interval = u64::from(seconds) * SECOND;
    INTERVAL.store(interval, Ordering::Relaxed);
    DUE.after(interval);
}

/// Validates all checked caches now. Not in a signal handler: [`ask`].
pub fn validate() -> Validation {
    heap::heap().map(Heap::validate_all).unwrap_or_default()
}

/// Asks for a validation, and for traces if a directory for them was given, at the next call that comes to a slow
/// path. Allowed in signal handlers.
pub fn ask() {
    // Relaxed: who sees the time sees it at a later call at the latest.
    ASKED.store(true, Ordering::Relaxed);
    DUE.now();
}

fn signal(text: &[u8]) -> Option<c_int> {
    let name = text.strip_prefix(b"SIG").unwrap_or(text);
    let known = SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, signal)| *signal);
    known.or_else(|| number(text).map(|number| number as c_int).filter(|number| (1..=64).contains(number)))
}

extern "C" fn handle(_signal: c_int) {
    ask();
}

/// Listens to a signal. The program may set a handler of its own later, and is then served.
fn listen(signal: c_int) -> bool {
    // SAFETY: all zero is a value of this structure; the handler does nothing but store. The C library's errno, which a failure
    // changes, is put back.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = handle as extern "C" fn(c_int) as usize;
        action.sa_flags = libc::SA_RESTART;
        let set = libc::sigaction(signal, &raw const action, core::ptr::null_mut()) == 0;
        *errno = before;
        set
    }
}

/// A call came to a slow path, without any lock.
#[inline]
pub(crate) fn tick(heap: &Heap) {
    if DUE.is_set() {
        look(heap);
    }
}

#[cold]
#[inline(never)]
fn look(heap: &Heap) {
    if !DUE.take(INTERVAL.load(Ordering::Relaxed)) {
        return;
    }
    heap.validate_all();
    if ASKED.swap(false, Ordering::Relaxed) {
        traces::write(heap);
    }
}

#[cfg(test)]
mod tests {
    use super::signal;

    #[test]
    fn signals_by_name_and_number() {
        assert_eq!(signal(b"USR1"), Some(libc::SIGUSR1));
        assert_eq!(signal(b"SIGUSR2"), Some(libc::SIGUSR2));
        assert_eq!(signal(b"10"), Some(10));
        for bad in [&b""[..], b"0", b"65", b"usr", b"SIG"] {
            assert_eq!(signal(bad), None, "{bad:?}");
        }
    }
}
