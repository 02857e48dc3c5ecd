//! What a program in C may be told, and ask for, beside malloc: the functions of `include/kmem_malloc.h`, which says what each promises.
//!
//! # Theory
//! The debug layer calls functions without a context, of Rust's types. One of each kind is here (`receive`, `note`, `judge`); it is
//! given to the heap when the program gives its own, looks up what that is (`pair.rs`), and calls it with what C can read.
//!
//! # Invariants
//! - I-CALL-1: nothing of what the heap calls here allocates, waits, or changes errno, whatever the program's function does to it.
//! - I-CALL-2: the pairs of a receiver and of a judge that were taken back stay: a thread that is about to call them finds them, and no
//!   line is lost.

mod pair;
mod said;

use core::ffi::CStr;
use core::fmt;
use core::mem::transmute;
use core::ptr::null_mut;

use kmem::debugging::{self, Error, LettersError, OnError, leaks, pace};
use kmem::heap;
use libc::{c_char, c_int, c_long, c_void, size_t};

use crate::process;
use crate::runtime::{errno, set_errno};
use crate::text::CText;
use pair::{Pair, Setting};

/// Bytes of a cache's name, with the zero at its end. The heap's own are shorter.
const NAME: usize = 64;

/// An error, as a C program sees it: `struct kmem_error`.
#[repr(C)]
pub struct KmemError {
    /// Bytes of this structure.
    pub size: size_t,
    /// What kind it is, as reports call it.
    pub kind: *const c_char,
    /// The cache, or an empty text.
    pub cache: *const c_char,
    /// What is wrong, or an empty text.
    pub text: *const c_char,
}

/// Takes a line.
pub type Receiver = unsafe extern "C" fn(*const c_char, size_t, *mut c_void);
/// Is shown an error.
pub type Hook = unsafe extern "C" fn(*const KmemError, *mut c_void);
/// Decides: 0 stops.
pub type Judge = unsafe extern "C" fn(*const KmemError, *mut c_void) -> c_int;

static RECEIVER: Pair = Pair::none();
static HOOK: Pair = Pair::none();
static JUDGE: Pair = Pair::none();

/// Runs the program's code, which may change errno.
fn keeping_errno<T>(call: impl FnOnce() -> T) -> T {
    let saved = errno();
    let answer = call();
    set_errno(saved);
    answer
}

fn receive(line: &str) {
    if let Some((function, context)) = RECEIVER.get() {
        // SAFETY: `kmem_set_receiver` keeps functions of this type there, which stay (its contract).
        let function = unsafe { transmute::<*mut (), Receiver>(function) };
        // SAFETY: the line is readable for its length.
        keeping_errno(|| unsafe { function(line.as_ptr().cast(), line.len(), context) });
    }
}

fn error(kind: &CStr, cache: &CText<NAME>, text: &CText<{ said::TEXT }>) -> KmemError {
    KmemError {
        size: size_of::<KmemError>(),
        kind: kind.as_ptr(),
        cache: cache.as_ptr(),
        text: text.as_ptr(),
    }
}

fn note(what: Error, cache: &str, text: fmt::Arguments<'_>) {
    let (kind, text) = match what {
        Error::Bug => (c"BUG", said::keep(text)),
        Error::Fix => (c"FIX", written(text)),
        Error::Warning => (c"WARNING", written(text)),
    };
    if let Some((function, context)) = HOOK.get() {
        let cache = CText::of(cache);
        let error = error(kind, &cache, &text);
        // SAFETY: `kmem_set_hook` keeps functions of this type there, which stay (its contract).
        let function = unsafe { transmute::<*mut (), Hook>(function) };
        // SAFETY: the error and its texts outlive the call.
        keeping_errno(|| unsafe { function(&raw const error, context) });
    }
}

fn written(text: fmt::Arguments<'_>) -> CText<{ said::TEXT }> {
    let mut all = CText::new();
    let _ = fmt::Write::write_fmt(&mut all, text);
    all
}

fn judge(cache: &str) -> OnError {
    let Some((function, context)) = JUDGE.get() else { return OnError::Default };
    let (cache, text) = (CText::of(cache), said::take());
    let error = error(c"BUG", &cache, &text);
    // SAFETY: `kmem_set_judge` keeps functions of this type there, which stay (its contract).
    let function = unsafe { transmute::<*mut (), Judge>(function) };
    // SAFETY: the error and its texts outlive the call.
    match keeping_errno(|| unsafe { function(&raw const error, context) }) {
        0 => OnError::Abort,
        _ => OnError::Warn,
    }
}

/// In the child of a fork.
pub(crate) fn after_fork_child() {
    Setting::forget();
    said::forget();
}

/// The heap is there: made, if it was not.
fn has_heap() -> bool {
    keeping_errno(|| heap::heap().is_some())
}

/// Sends the lines of messages to a function; null: to where they went before.
///
/// # Safety
/// The function may be called with this context from any thread, under the header's rules for callbacks, for as long as it was not
/// replaced, and for a moment after.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kmem_set_receiver(function: Option<Receiver>, context: *mut c_void) {
    let setting = Setting::begin();
    match function {
        Some(function) => {
            RECEIVER.set(&setting, function as *mut (), context);
            debugging::set_receiver(Some(receive));
        }
        None => debugging::set_receiver(None),
    }
}

/// Shows each error to a function; null: to nobody. 0, or `-ENOMEM`.
///
/// # Safety
/// As [`kmem_set_receiver`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kmem_set_hook(function: Option<Hook>, context: *mut c_void) -> c_int {
    if !has_heap() {
        return -libc::ENOMEM;
    }
    let setting = Setting::begin();
    HOOK.set(&setting, function.map_or(null_mut(), |function| function as *mut ()), context);
    // It stays: a judge is told what it was shown.
    debugging::set_hook(Some(note));
    0
}

/// Has a function decide after each report whether the process stops; null: what `KMEM_ON_ERROR` said holds again. 0, or `-ENOMEM`.
///
/// # Safety
/// As [`kmem_set_receiver`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kmem_set_judge(function: Option<Judge>, context: *mut c_void) -> c_int {
    if !has_heap() {
        return -libc::ENOMEM;
    }
    let setting = Setting::begin();
    match function {
        Some(function) => {
            JUDGE.set(&setting, function as *mut (), context);
            // Before there are questions: it hears what they are about.
            debugging::set_hook(Some(note));
            debugging::set_judge(judge);
        }
        None => debugging::clear_judge(),
    }
    0
}

/// Gives caches debug letters, in the grammar of `KMEM_DEBUG`. How many have them now, or a negative errno.
///
/// # Safety
/// `text` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kmem_set_letters(text: *const c_char) -> c_int {
    if text.is_null() {
        return -libc::EINVAL;
    }
    // SAFETY: a C string (contract).
    let Ok(text) = unsafe { CStr::from_ptr(text) }.to_str() else { return -libc::EINVAL };
    keeping_errno(|| {
        // Stacks that are saved from now on are to have names.
        process::find_namer();
        // Who gives letters adds to what there is: one after the other.
        let _setting = Setting::begin();
        match debugging::give_letters(text) {
            Ok(caches) => caches.given as c_int,
            Err(LettersError::Unknown(_)) => -libc::EINVAL,
            Err(LettersError::NoChecks(_)) => -libc::EOPNOTSUPP,
            Err(LettersError::TooMany) => -libc::E2BIG,
            Err(LettersError::NoHeap) => -libc::ENOMEM,
        }
    })
}

/// Validates all checked caches now. How many errors there were.
#[unsafe(no_mangle)]
pub extern "C" fn kmem_validate() -> c_long {
    if !has_heap() {
        return -c_long::from(libc::ENOMEM);
    }
    keeping_errno(|| c_long::try_from(pace::validate().errors).unwrap_or(c_long::MAX))
}

/// Writes the leak report now. 1 when there are leaks, 0 when there are none, or a negative errno.
#[unsafe(no_mangle)]
pub extern "C" fn kmem_report_leaks(show: c_int) -> c_int {
    let show = match show {
        1 => leaks::Show::Lost,
        2 => leaks::Show::All,
        3 => leaks::Show::InUse,
        _ => return -libc::EINVAL,
    };
    let leaks = keeping_errno(|| heap::heap().map(|heap| leaks::write(heap, show)));
    leaks.map_or(-libc::ENOMEM, c_int::from)
}
