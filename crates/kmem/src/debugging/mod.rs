//! The diagnostics of the process-wide heap: what the environment asks for, and the functions for programs in Rust.
//!
//! | variable | what it says |
//! |---|---|
//! | `KMEM_DEBUG` | which caches are checked how, in the grammar of [`kmem_core::debug::options`]; set and empty: all, F Z P U |
//! | `KMEM_ON_ERROR` | `abort` (the default): the first report ends the process; `warn`: damage is repaired or isolated, and it goes on |
//! | `KMEM_LOG` | where messages go: [`crate::host::sink`] |
//! | `KMEM_RATELIMIT` | `reports/seconds`: more are only counted; `0`: any number. Else 10/5 |
//! | `KMEM_SYMBOLIZER` | the program that names code, `kmem`; empty: none. Else the one beside the library |
//! | `KMEM_UNWIND` | how stacks are walked: `rules` (the default), `tables`, `both`: [`crate::host::trace::Way`] |
//! | `KMEM_VALIDATE` | seconds: all checked caches are validated so often ([`pace`]) |
//! | `KMEM_SIGNAL` | a signal (`USR1`, `10`) that asks for a validation now, and for traces |
//! | `KMEM_TRACES` | a directory that traces are written to, at the end and when asked ([`traces`]) |
//! | `KMEM_LEAKS` | `1`: what was lost is shown at the end; `all`: and what can still be reached; `in-use`: all that was not freed ([`leaks`]) |
//! | `KMEM_LEAKS_EXIT`, `KMEM_LEAKS_SUPPRESS` | the exit status of a process with leaks; which are none |
//!
//! All are read once, before the heap is made, and mean nothing in a process with raised privileges. Leaks and traces need U:
//! where `KMEM_DEBUG` is not set, they ask for it on all caches.

pub mod leaks;
pub mod pace;
mod reach;
pub mod traces;

use core::cell::UnsafeCell;
use core::fmt;

use kmem_core::debug::options;
pub use kmem_core::debug::{Error, Hook, Judge, OnError};
use kmem_core::engine::Engine;
use kmem_core::flags::SlabFlags;
use kmem_core::report;

use crate::engine::Chosen;
use crate::heap::{self, Heap};
pub use crate::host::sink::Receiver;
use crate::host::{misc, names, sink, trace};
use crate::live::{self, letters};

/// The longest text of options.
const MAX_TEXT: usize = 4096;

/// Reports that are printed in an interval, as a kernel limits its own.
const BURST: u32 = 10;
/// Seconds of the interval.
const INTERVAL: u32 = 5;
const SECOND: u64 = 1_000_000_000;

/// The options' text. The environment's own may be changed by the program.
struct Text(UnsafeCell<[u8; MAX_TEXT]>);

// SAFETY: written by `configure` only, which one thread calls before anybody reads.
unsafe impl Sync for Text {}

static TEXT: Text = Text(UnsafeCell::new([0; MAX_TEXT]));

/// Gives the heap the options of the environment. What cannot be understood is said and left out.
///
/// # Safety
/// The heap is being made, by this thread alone; as for [`misc::getenv`].
pub(crate) unsafe fn configure(heap: &Heap) {
    heap.debug().limit.set(BURST, u64::from(INTERVAL) * SECOND);
    // There are options: an attempt before this one found no memory for the heap.
    if misc::secure_exec() || heap.debug().options().is_some() {
        return;
    }
    let say = |text: &str| report::say(heap.platform(), format_args!("kmem: {text}"));
    // SAFETY: the caller's promise.
    let variable = |name: &str| unsafe { misc::getenv(name) };
    // First: where to say what is wrong with the others.
    if let Some(place) = variable("KMEM_LOG").filter(|place| !place.is_empty())
        && !sink::set(place)
    {
        say("KMEM_LOG is too long");
    }
    if let Some(path) = variable("KMEM_SYMBOLIZER") {
        names::set_helper(path);
    }
    if let Some(limit) = variable("KMEM_RATELIMIT").filter(|limit| !limit.is_empty()) {
        match rate(limit) {
            Some((burst, seconds)) => heap.debug().limit.set(burst, u64::from(seconds) * SECOND),
            None => say("KMEM_RATELIMIT is `0` or reports/seconds, like `10/5`"),
        }
    }
    match variable("KMEM_UNWIND") {
        None | Some(b"" | b"rules") => {}
        Some(b"tables") => trace::set_way(trace::Way::Tables),
        Some(b"both") => trace::set_way(trace::Way::Both),
        Some(_) => say("KMEM_UNWIND is `rules`, `tables` or `both`"),
    }
    pace::configure(&variable, &say);
    let tracks = traces::configure(&variable, &say) | leaks::configure(&variable, &say);
    match variable("KMEM_DEBUG") {
        // SAFETY: the caller's promise.
        Some(bytes) => match unsafe { keep(bytes) } {
            Some(text) => {
                heap.set_debug_options(text);
            }
            None => say("KMEM_DEBUG is too long or no text: no debug options"),
        },
        None if tracks => {
            heap.set_debug_options("U");
        }
        None => {}
    }
    match variable("KMEM_ON_ERROR") {
        None | Some(b"") => {}
        Some(b"abort") => heap.debug().set_on_error(OnError::Abort),
        Some(b"warn") => heap.debug().set_on_error(OnError::Warn),
        Some(_) => say("KMEM_ON_ERROR is `abort` or `warn`"),
    }
}

/// A copy that stays.
///
/// # Safety
/// As [`configure`].
unsafe fn keep(bytes: &[u8]) -> Option<&'static str> {
    let text = core::str::from_utf8(bytes).ok()?;
    // SAFETY: nobody else uses the place until this thread says that the heap is made; afterwards nobody writes.
    let place: &'static mut [u8; MAX_TEXT] = unsafe { &mut *TEXT.0.get() };
    let place = place.get_mut(..text.len())?;
    place.copy_from_slice(text.as_bytes());
    core::str::from_utf8(place).ok()
}

/// A number in decimal.
fn number(bytes: &[u8]) -> Option<u32> {
    core::str::from_utf8(bytes).ok()?.parse().ok()
}

fn rate(bytes: &[u8]) -> Option<(u32, u32)> {
    if bytes == b"0" {
        return Some((0, 0));
    }
    let slash = bytes.iter().position(|&byte| byte == b'/')?;
    let (burst, seconds) = (number(&bytes[..slash])?, number(&bytes[slash + 1..])?);
    (burst > 0 && seconds > 0).then_some((burst, seconds))
}

/// In the child of a fork, which is a process of its own.
pub(crate) fn after_fork_child() {
    leaks::after_fork_child();
}

/// What is left to do when the process ends: traces, and the leaks. Returns the exit status that it shall have instead
/// of its own, if any. Once for a process; `forked_too`: also in one that was forked and did not execute.
pub fn at_exit(forked_too: bool) -> Option<i32> {
    if !leaks::may_end(forked_too) {
        return None;
    }
    let heap = heap::made()?;
    tell_suppressed(heap);
    traces::write(heap);
    leaks::report(heap)
}

/// A program that uses this heap as its allocator has nobody else to call [`at_exit`].
pub(crate) fn register_exit() {
    extern "C" fn finish() {
        live::leave();
        if let Some(status) = at_exit(true) {
            leave(status);
        }
    }
    if leaks::wanted() || traces::wanted() || live::wanted() {
        // SAFETY: the function stays. Without memory for it there is no report.
        unsafe { libc::atexit(finish) };
    }
}

/// Ends the process with this status, from within its exit: what it printed is not lost.
pub fn leave(status: i32) -> ! {
    // SAFETY: streams are still open; then every thread ends.
    unsafe {
        libc::fflush(core::ptr::null_mut());
        loop {
            libc::syscall(libc::SYS_exit_group, status);
        }
    }
}

/// Reports that nobody was told of, as no other came after them.
fn tell_suppressed(heap: &Heap) {
    let count = heap.debug().limit.suppressed();
    if count > 0 {
        report::say(heap.platform(), format_args!("slab_bug: {count} callbacks suppressed"));
    }
}

/// Why letters were not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LettersError {
    /// This letter means nothing.
    Unknown(char),
    /// The engine has no checks for these.
    NoChecks(SlabFlags),
    /// No room for so many names.
    TooMany,
    /// No memory for the heap.
    NoHeap,
}

impl fmt::Display for LettersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(letter) => write!(f, "letter '{letter}' unknown"),
            Self::NoChecks(letters) => {
                let (letters, engine) = (options::shown(*letters), Chosen::NAME);
                write!(f, "letters {letters} have no checks in engine {engine}")
            }
            Self::TooMany => f.write_str("too many names: letters without names begin anew"),
            Self::NoHeap => f.write_str("no memory for the heap"),
        }
    }
}

impl core::error::Error for LettersError {}

/// What became of letters for the caches that there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// So many have them now.
    pub given: usize,
    /// So many cannot have them, and keep what they have.
    pub refused: usize,
}

/// Gives caches debug letters from now on, in the grammar of `KMEM_DEBUG` and on top of what that said: caches that there are, and those that
/// are made later. Those that cannot have theirs keep what they have (SLAB's caches have Z and U from the beginning or never).
///
/// # Errors
/// See [`LettersError`]; nothing changed.
pub fn give_letters(text: &str) -> Result<Given, LettersError> {
    let heap = heap::heap().ok_or(LettersError::NoHeap)?;
    let mut caches = Given::default();
    letters::give(heap, text, &mut |cache| match cache.result {
        Ok(()) => caches.given += 1,
        Err(_) => caches.refused += 1,
    })?;
    Ok(caches)
}

/// As [`give_letters`]. Returns how many caches cannot have them.
///
/// # Errors
/// As there.
pub fn set_letters(text: &str) -> Result<usize, LettersError> {
    give_letters(text).map(|caches| caches.refused)
}

/// Sends messages to a function, line by line; `None`: to where they went before.
pub fn set_receiver(receiver: Option<Receiver>) {
    sink::set_receiver(receiver);
}

/// Shows each error to a function as it is found. It must not use the heap.
pub fn set_hook(hook: Option<Hook>) {
    if let Some(heap) = heap::heap() {
        heap.debug().set_hook(hook);
    }
}

/// Has a function decide after each report whether the process stops: what `KMEM_ON_ERROR` cannot say. It must not use the heap.
pub fn set_judge(judge: Judge) {
    if let Some(heap) = heap::heap() {
        heap.debug().set_judge(judge);
    }
}

/// Has nobody decide any more: what `KMEM_ON_ERROR` said holds again.
pub fn clear_judge() {
    if let Some(heap) = heap::heap() {
        heap.debug().clear_judge();
    }
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn limits_are_read() {
        assert_eq!(rate(b"0"), Some((0, 0)));
        assert_eq!(rate(b"10/5"), Some((10, 5)));
        for bad in [&b""[..], b"5", b"/", b"0/1", b"1/0", b"a/b", b"1/2/3", b"-1/2"] {
            assert_eq!(rate(bad), None, "{bad:?}");
        }
    }
}
