//! Reports of the guard: the parts, and their order, are those of the kernel's sampling detector.
//!
//! ```text
//! ==================================================================
//! BUG: kmem: <what> in <function>
//!
//! <What> at 0x<address> (<where>):
//!  <stack of who did it>
//!
//! guard-#<n>: 0x<first>-0x<last>, size=<bytes>, cache=<name>
//!
//! allocated by task <thread> on cpu <n> at <time>s (<ago>s ago):
//!  <stack>
//!
//! freed by task <thread> on cpu <n> at <time>s (<ago>s ago):
//!  <stack>
//!
//! CPU: <n> PID: <thread> [Comm: <program> ]<taint>
//! ==================================================================
//! ```
//! Each report is one error of the heap (`debug`), and what follows it is what follows any error.

use core::fmt;

use crate::debug::report::{Frame, Program, Symbol};
use crate::debug::{Error, Reporter, Track, taint};
use crate::guard::Access;
use crate::guard::canary::Damage;
use crate::guard::entry::Entry;
use crate::platform::Platform;

const RULE: &str = "==================================================================";

/// What was wrong.
pub(crate) enum What {
    /// An access beside the object.
    OutOfBounds(Access),
    /// An access to a freed object.
    UseAfterFree(Access),
    /// An access to a page of the pool beside which there is no object.
    Invalid(Access),
    /// The pattern beside the object was overwritten.
    Corruption(Damage),
    /// A free of what is not an object in use.
    InvalidFree,
}

/// What was wrong, in the title.
impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfBounds(access) => write!(f, "out-of-bounds {}", access.verb()),
            Self::UseAfterFree(access) => write!(f, "use-after-free {}", access.verb()),
            Self::Invalid(access) => write!(f, "invalid {}", access.verb()),
            Self::Corruption(_) => f.write_str("memory corruption"),
            Self::InvalidFree => f.write_str("invalid free"),
        }
    }
}

/// The object that a report is about.
pub(crate) struct Object<'a> {
    pub(crate) index: usize,
    pub(crate) entry: &'a Entry,
}

/// Prints a report. `frames`: the stack of who did it, the nearest first.
pub(crate) fn print<P: Platform>(
    platform: &P,
    reporter: &Reporter<'_, P>,
    what: &What,
    address: usize,
    object: Option<&Object<'_>>,
    frames: &[usize],
) {
    let nearest = Symbol(platform, frames.first().copied().unwrap_or_default());
    let say = |text: fmt::Arguments<'_>| reporter.line(text);
    reporter.debug.note(Error::Bug, reporter.name, format_args!("{what}"));
    reporter.admit();
    say(format_args!("{RULE}"));
    say(format_args!("BUG: kmem: {what} in {nearest}"));
    say(format_args!(""));
    match (what, object) {
        (What::OutOfBounds(access), Some(object)) => {
            let (start, _) = object.entry.range();
            // On either side the distance is that from the object's first byte.
            let side = if address < start { "left" } else { "right" };
            let distance = address.abs_diff(start);
            let (verb, index) = (access.verb(), object.index);
            say(format_args!(
                "Out-of-bounds {verb} at {address:#018x} ({distance}B {side} of guard-#{index}):"
            ));
        }
        (What::UseAfterFree(access), Some(object)) => {
            say(format_args!(
                "Use-after-free {} at {address:#018x} (in guard-#{}):",
                access.verb(),
                object.index
            ));
        }
        (What::Corruption(damage), Some(object)) => {
            say(format_args!("Corrupted memory at {address:#018x} {damage} (in guard-#{}):", object.index));
        }
        (What::InvalidFree, Some(object)) => {
            say(format_args!("Invalid free of {address:#018x} (in guard-#{}):", object.index));
        }
        (What::InvalidFree, None) => say(format_args!("Invalid free of {address:#018x}:")),
        (What::OutOfBounds(access) | What::UseAfterFree(access) | What::Invalid(access), _) => {
            say(format_args!("Invalid {} at {address:#018x}:", access.verb()));
        }
        (What::Corruption(damage), None) => {
            say(format_args!("Corrupted memory at {address:#018x} {damage}:"));
        }
    }
    print_stack(platform, reporter, frames);
    if let Some(object) = object {
        say(format_args!(""));
        print_object(platform, reporter, object);
    }
    say(format_args!(""));
    let (cpu, thread, taints) = (platform.current_cpu(), platform.thread(), reporter.debug.taint());
    say(format_args!("CPU: {cpu} PID: {thread} {}{taints}", Program(platform)));
    say(format_args!("{RULE}"));
    reporter.debug.add_taint(taint::BAD_PAGE);
}

fn print_stack<P: Platform>(platform: &P, reporter: &Reporter<'_, P>, frames: &[usize]) {
    for &frame in frames {
        reporter.line(format_args!(" {}", Frame(platform, frame)));
    }
}

fn print_object<P: Platform>(platform: &P, reporter: &Reporter<'_, P>, object: &Object<'_>) {
    let Object { index, entry } = object;
    if entry.is_unused() {
        reporter.line(format_args!("guard-#{index} unused"));
        return;
    }
    let (start, size) = entry.range();
    let (name, destroyed) = entry.name();
    reporter.line(format_args!(
        "guard-#{index}: {start:#018x}-{:#018x}, size={size}, cache={}{}",
        start + size - 1,
        name.as_str(),
        if destroyed { " (destroyed)" } else { "" }
    ));
    for (verb, track) in &[("allocated", entry.allocated.get()), ("freed", entry.freed_by.get())] {
        if track.known == 0 {
            continue;
        }
        reporter.line(format_args!(""));
        print_track(platform, reporter, verb, track);
    }
}

fn print_track<P: Platform>(platform: &P, reporter: &Reporter<'_, P>, verb: &str, track: &Track) {
    let ago = platform.now().saturating_sub(track.time) / 100_000_000;
    reporter.line(format_args!(
        "{verb} by task {} on cpu {} at {}.{:06}s ({}.{}s ago):",
        track.thread,
        track.cpu,
        track.time / 1_000_000_000,
        track.time / 1_000 % 1_000_000,
        ago / 10,
        ago % 10
    ));
    print_stack(platform, reporter, reporter.debug.stacks.get(track.stack));
}
