//! What was said last, by thread: the title of a report, for the judge that is asked at the report's end.
//!
//! # Theory
//! A judge is told the cache only, since the report's words are gone by then. The hook sees them when the report begins, in the same
//! thread. Between the two they lie here, in a place that the thread's number chooses; where another thread takes that place meanwhile the judge
//! does without. Nobody waits: who finds a place in work leaves it.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use crate::text::CText;

/// Bytes of a text, with the zero at its end.
pub(super) const TEXT: usize = 256;
const PLACES: usize = 16;

/// A place that nobody has.
const FREE: i32 = 0;
/// A place in work.
const IN_WORK: i32 = -1;

struct Place {
    /// The thread whose text this is, or [`FREE`], or [`IN_WORK`]. Who put the last one there may read and write the text.
    thread: AtomicI32,
    text: [AtomicU8; TEXT],
}

static SAID: [Place; PLACES] =
    [const { Place { thread: AtomicI32::new(FREE), text: [const { AtomicU8::new(0) }; TEXT] } }; PLACES];

/// The number of this thread in the system, which is positive.
fn thread() -> i32 {
    // SAFETY: gettid has no requirements.
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}

fn place_of(thread: i32) -> &'static Place {
    &SAID[thread.unsigned_abs() as usize % PLACES]
}

/// Keeps what this thread says; the answer is a copy.
pub(super) fn keep(what: fmt::Arguments<'_>) -> CText<TEXT> {
    let mut text = CText::new();
    let _ = text.write_fmt(what);
    let thread = thread();
    let place = place_of(thread);
    // Acquire, and Release below: one writes the text after the other.
    let owner = place.thread.load(Ordering::Relaxed);
    if owner != IN_WORK
        && place.thread.compare_exchange(owner, IN_WORK, Ordering::Acquire, Ordering::Relaxed).is_ok()
    {
        for (to, &from) in place.text.iter().zip(text.bytes()) {
            to.store(from, Ordering::Relaxed);
        }
        place.thread.store(thread, Ordering::Release);
    }
    text
}

/// What this thread said last, if it is still known; nobody knows it afterwards.
pub(super) fn take() -> CText<TEXT> {
    let thread = thread();
    let place = place_of(thread);
    if place.thread.compare_exchange(thread, IN_WORK, Ordering::Acquire, Ordering::Relaxed).is_err() {
        return CText::new();
    }
    let mut bytes = [0; TEXT];
    for (to, from) in bytes.iter_mut().zip(&place.text) {
        *to = from.load(Ordering::Relaxed);
    }
    place.thread.store(FREE, Ordering::Release);
    CText::from_bytes(bytes)
}

/// In the child of a fork, whose threads have other numbers.
pub(super) fn forget() {
    for place in &SAID {
        place.thread.store(FREE, Ordering::Relaxed);
    }
}
