//! Signal handlers of the program: `sigaction`, `signal` and their old names.
//!
//! While the sampling guard is on, faults come to the heap first. What the program wants for them is kept by
//! [`kmem::host::fault`], which calls the program's handler for every fault that is not the heap's; so the calls that install and
//! ask for handlers must come by here. For all other signals, and while the guard is off, they are the C library's.

use core::ffi::CStr;
use core::mem::{MaybeUninit, transmute};
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicPtr, Ordering};

use kmem::host::{fault, timer, wake};
use libc::{c_int, sighandler_t};

use crate::runtime::set_errno;

/// The old names' way to say "block it".
const SIG_HOLD: sighandler_t = 2;

type Signal = unsafe extern "C" fn(c_int, sighandler_t) -> sighandler_t;

/// A function of the C library that stands behind one of ours.
struct Behind {
    name: &'static CStr,
    function: AtomicPtr<()>,
}

impl Behind {
    const fn new(name: &'static CStr) -> Self {
        Self { name, function: AtomicPtr::new(null_mut()) }
    }

    /// Calls it; `SIG_ERR` with `ENOSYS` where there is none.
    ///
    /// # Safety
    /// As for `signal`.
    unsafe fn call(&self, number: c_int, handler: sighandler_t) -> sighandler_t {
        // Relaxed: an address of code.
        let mut function = self.function.load(Ordering::Relaxed);
        if function.is_null() {
            // SAFETY: a string.
            function = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) }.cast();
            self.function.store(function, Ordering::Relaxed);
        }
        if function.is_null() {
            set_errno(libc::ENOSYS);
            return libc::SIG_ERR;
        }
        timer::leave_signal(number);
        // SAFETY: the function of that name has this type.
        let before = wake::hidden(unsafe { transmute::<*mut (), Signal>(function)(number, handler) });
        wake::changed(number);
        before
    }
}

/// Sets what happens at a signal. 0, or -1 with `errno`.
///
/// # Safety
/// Each pointer is null or good for its structure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigaction(
    number: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { fault::sigaction(number, new, old) }
}

macro_rules! like_signal {
    ($($(#[$doc:meta])* $name:ident: $text:literal, $flags:expr;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// `handler` is a handler for that signal, or one of `SIG_DFL` and `SIG_IGN`.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(number: c_int, handler: sighandler_t) -> sighandler_t {
            static BEHIND: Behind = Behind::new($text);
            // SAFETY: the caller's promise.
            unsafe {
                fault::signal(number, handler, $flags).unwrap_or_else(|| BEHIND.call(number, handler))
            }
        }
    )*};
}

like_signal! {
    /// Sets the handler of a signal, for ever. The one before, or `SIG_ERR` with `errno`.
    signal: c"signal", None;
    /// Another name of [`signal`].
    bsd_signal: c"bsd_signal", None;
    /// Another name of [`signal`].
    ssignal: c"ssignal", None;
    /// Sets the handler of a signal, for one time, and without blocking it. The one before, or `SIG_ERR` with `errno`.
    sysv_signal: c"sysv_signal", Some(libc::SA_RESETHAND | libc::SA_NODEFER);
    /// Another name of [`sysv_signal`].
    __sysv_signal: c"__sysv_signal", Some(libc::SA_RESETHAND | libc::SA_NODEFER);
}

/// Sets the handler of a signal and unblocks it, or blocks it (`SIG_HOLD`). The handler before, `SIG_HOLD` if it was
/// blocked, or `SIG_ERR` with `errno`.
///
/// # Safety
/// As for [`signal`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigset(number: c_int, handler: sighandler_t) -> sighandler_t {
    static BEHIND: Behind = Behind::new(c"sigset");
    // SAFETY: the caller's promise; signal sets and a structure of this frame.
    unsafe {
        let mut before = MaybeUninit::<libc::sigaction>::zeroed();
        let held = handler == SIG_HOLD;
        let old = if held {
            if !fault::keeps(number) {
                return BEHIND.call(number, handler);
            }
            sigaction(number, null(), before.as_mut_ptr());
            before.assume_init().sa_sigaction
        } else {
            match fault::signal(number, handler, Some(0)) {
                Some(old) => old,
                None => return BEHIND.call(number, handler),
            }
        };
        if old == libc::SIG_ERR {
            return old;
        }
        let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
        let mut was = MaybeUninit::<libc::sigset_t>::zeroed();
        libc::sigaddset(set.as_mut_ptr(), number);
        let how = if held { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
        libc::pthread_sigmask(how, set.as_ptr(), was.as_mut_ptr());
        if libc::sigismember(was.as_ptr(), number) == 1 { SIG_HOLD } else { old }
    }
}

/// Has a signal ignored. 0, or -1 with `errno`.
#[unsafe(no_mangle)]
pub extern "C" fn sigignore(number: c_int) -> c_int {
    // SAFETY: ignoring a signal needs no handler; a structure of this frame.
    unsafe {
        let mut ignored = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        ignored.sa_sigaction = libc::SIG_IGN;
        sigaction(number, &raw const ignored, null_mut())
    }
}
