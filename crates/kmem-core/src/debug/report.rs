//! Reports: what is printed when something is wrong, in the kernel's words.
//!
//! ```text
//! =============================================================================
//! BUG <cache> (<taint>): <title>
//! -----------------------------------------------------------------------------
//!
//! <facts>
//! CPU: <n> PID: <n> [Comm: <program> ]<taint>
//! Call Trace:
//!  <TASK>
//!  <frame>
//!  </TASK>
//! FIX <cache>: <what was done about it>
//! ```
//! Each BUG, each FIX and each warning is one error, and raises the heap's counter. Lines go to the platform's
//! console, one by one, unless the heap is quiet, or there were too many reports lately ([`crate::debug::limit`]): then
//! errors are only counted.
//!
//! # Never
//! Nothing is allocated, and nobody is waited for: reports are made under the locks of what they report about. (But for a stack to
//! make them on, where the present one is too small: [`Platform::with_room`].)

use core::fmt::{self, Write};

use crate::debug::pattern::Row;
use crate::debug::stacks::Handle;
use crate::debug::track::{Track, Which};
use crate::debug::{Debug, Error, taint};
use crate::platform::Platform;
use crate::report::{self, LINE, RULE};

/// Frames of a report's own stack. More than are kept of others: it is told from deep in the heap.
const SHOWN: usize = 32;

/// Speaks about one cache.
#[derive(Clone, Copy)]
pub struct Reporter<'a, P: Platform> {
    /// Where the words go.
    pub platform: &'a P,
    /// The heap's own.
    pub debug: &'a Debug,
    /// The cache's name.
    pub name: &'a str,
    /// What the heap was built to do after a report, when its user did not choose: stop the program.
    pub abort: bool,
}

impl<P: Platform> Reporter<'_, P> {
    /// One line.
    pub fn line(&self, text: fmt::Arguments<'_>) {
        if !self.is_silent() {
            report::line(self.platform, text);
        }
    }

    /// What follows is not part of a report, and is printed whatever the limit of reports says.
    pub fn speak(&self) {
        self.debug.limit.hear(self.platform.lock_token());
    }

    fn is_silent(&self) -> bool {
        self.debug.is_quiet() || self.debug.limit.mutes(self.platform.lock_token())
    }

    /// A report begins: is it one too many?
    pub(crate) fn admit(&self) {
        if self.debug.is_quiet() {
            return;
        }
        let suppressed = self.debug.limit.admit(self.platform.lock_token(), self.platform.now());
        if suppressed > 0 {
            self.line(format_args!("slab_bug: {suppressed} callbacks suppressed"));
        }
    }

    /// Begins the report of an error. Its facts follow, then [`Reporter::end`].
    pub fn bug(&self, title: fmt::Arguments<'_>) {
        self.platform.with_room(|| self.bug_here(title));
    }

    #[inline(never)]
    fn bug_here(&self, title: fmt::Arguments<'_>) {
        self.debug.note(Error::Bug, self.name, title);
        self.admit();
        self.line(format_args!("{RULE}"));
        self.line(format_args!("BUG {} ({}): {title}", self.name, self.debug.taint()));
        self.line(format_args!("{LINE}"));
        self.line(format_args!(""));
    }

    /// Ends the facts of an error: who is here now. Where errors stop the program this does not return.
    pub fn end(&self) {
        self.here();
        self.found(self.abort);
    }

    /// The facts of an error are complete. Stops the program if the user chose that, or did not choose and it
    /// is the default.
    pub fn found(&self, by_default: bool) {
        self.debug.add_taint(taint::BAD_PAGE);
        if self.debug.decide(self.name, by_default) {
            self.platform.fatal();
        }
    }

    /// What was done about the error that was reported before.
    pub fn fix(&self, what: fmt::Arguments<'_>) {
        self.platform.with_room(|| self.fix_here(what));
    }

    #[inline(never)]
    fn fix_here(&self, what: fmt::Arguments<'_>) {
        self.debug.note(Error::Fix, self.name, what);
        self.line(format_args!("FIX {}: {what}", self.name));
    }

    /// A warning: a call that should not have been made, by whom, seen by which function.
    pub fn warn(&self, function: &str, message: fmt::Arguments<'_>) {
        self.platform.with_room(|| self.warn_here(function, message));
    }

    #[inline(never)]
    fn warn_here(&self, function: &str, message: fmt::Arguments<'_>) {
        self.debug.note(Error::Warning, self.name, message);
        self.admit();
        self.line(format_args!("------------[ cut here ]------------"));
        // A warning without words is only its place.
        if message.as_str() != Some("") {
            self.line(message);
        }
        let (cpu, thread) = (self.platform.current_cpu(), self.platform.thread());
        self.line(format_args!("WARNING: CPU: {cpu} PID: {thread} at {function}"));
        self.here();
        self.line(format_args!("---[ end trace 0000000000000000 ]---"));
        self.debug.add_taint(taint::WARN);
    }

    /// Who is here now: CPU, thread, stack.
    pub fn here(&self) {
        // Names of code take time to find.
        if !self.is_silent() {
            self.platform.with_room(|| self.who_is_here());
        }
    }

    #[inline(never)]
    fn who_is_here(&self) {
        let (cpu, thread) = (self.platform.current_cpu(), self.platform.thread());
        let program = Program(self.platform);
        self.line(format_args!("CPU: {cpu} PID: {thread} {program}{}", self.debug.taint()));
        self.line(format_args!("Call Trace:"));
        self.line(format_args!(" <TASK>"));
        let mut frames = [0; SHOWN];
        let found = self.platform.backtrace(&mut frames).min(SHOWN);
        for &frame in &frames[..found] {
            self.line(format_args!(" {}", Frame(self.platform, frame)));
        }
        self.line(format_args!(" </TASK>"));
    }

    /// Memory as rows of numbers and letters, each with `label` and its address before it.
    ///
    /// # Safety
    /// The range is mapped.
    pub unsafe fn section(&self, label: &str, start: usize, len: usize) {
        for at in (0..len).step_by(Row::BYTES) {
            // SAFETY: the caller's promise.
            let row = unsafe { Row::read(start + at, len - at) };
            self.line(format_args!("{label}{:016x}: {row}", start + at));
        }
    }

    /// One track of an object with its stack; nothing when it was never written.
    pub fn track(&self, which: Which, track: &Track) {
        if track.known == 0 {
            return;
        }
        self.line(format_args!(
            "{} in {} age={} cpu={} pid={}",
            which.verb(),
            Symbol(self.platform, track.address),
            track.age(self.platform.now()),
            track.cpu,
            track.thread
        ));
        self.stack(track.stack);
    }

    fn stack(&self, handle: Handle) {
        let frames = self.debug.stacks.get(handle);
        if frames.is_empty() {
            self.line(format_args!("object allocation/free stack trace missing"));
        }
        for &frame in frames {
            self.line(format_args!(" {}", Frame(self.platform, frame)));
        }
    }
}

/// An address of code, by name where the platform knows it.
pub struct Symbol<'a, P: Platform>(pub &'a P, pub usize);

impl<P: Platform> fmt::Display for Symbol<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1 == 0 { f.write_str("<not-available>") } else { self.0.symbol(self.1, f) }
    }
}

/// An address of code as a line of a stack shows it.
pub struct Frame<'a, P: Platform>(pub &'a P, pub usize);

impl<P: Platform> fmt::Display for Frame<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.frame(self.1, f)
    }
}

/// The program, where there is such a thing.
pub(crate) struct Program<'a, P: Platform>(pub(crate) &'a P);

impl<P: Platform> fmt::Display for Program<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut name = report::Text::<16>::new();
        self.0.program(&mut name)?;
        match name.as_str() {
            "" => Ok(()),
            name => write!(f, "Comm: {name} "),
        }
    }
}

/// Tells of damage or misuse in one line: where there is no letter there is nothing more to tell. The program stops, if its
/// user or the heap wants it to. `cache`: its name, empty where none is known.
pub fn brief<P: Platform>(platform: &P, debug: &Debug, cache: &str, text: fmt::Arguments<'_>) {
    tell(platform, debug, cache, text);
    if debug.decide(cache, debug.built_to_abort()) {
        platform.fatal();
    }
}

/// As [`brief`], of what somebody else decides about.
pub fn tell<P: Platform>(platform: &P, debug: &Debug, cache: &str, text: fmt::Arguments<'_>) {
    platform.with_room(|| tell_here(platform, debug, Error::Bug, cache, text));
}

/// As [`tell`], of what does no harm any more: a warning.
pub(crate) fn caution<P: Platform>(platform: &P, debug: &Debug, cache: &str, text: fmt::Arguments<'_>) {
    platform.with_room(|| tell_here(platform, debug, Error::Warning, cache, text));
}

#[inline(never)]
fn tell_here<P: Platform>(platform: &P, debug: &Debug, what: Error, cache: &str, text: fmt::Arguments<'_>) {
    debug.note(what, cache, text);
    if !debug.is_quiet() {
        let token = platform.lock_token();
        let suppressed = debug.limit.admit(token, platform.now());
        if suppressed > 0 {
            report::say(platform, format_args!("slab_bug: {suppressed} callbacks suppressed"));
        }
        if !debug.limit.mutes(token) {
            report::say(platform, text);
        }
        // The report was this line alone.
        debug.limit.hear(token);
    }
}

/// Numbers as ranges: `0-3,7`.
pub struct Ranges<'a>(pub &'a [u64]);

impl fmt::Display for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0.len() * 64;
        let set = |i: usize| i < bits && self.0[i / 64] >> (i % 64) & 1 == 1;
        let mut at = 0;
        let mut first = true;
        while at < bits {
            if !set(at) {
                at += 1;
                continue;
            }
            let start = at;
            while set(at) {
                at += 1;
            }
            if !first {
                f.write_char(',')?;
            }
            first = false;
            write!(f, "{start}")?;
            if at - 1 > start {
                write!(f, "-{}", at - 1)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Ranges;

    #[test]
    fn ranges_are_joined() {
        assert_eq!(Ranges(&[0b1000_1111, 0]).to_string(), "0-3,7");
        assert_eq!(Ranges(&[1 << 63, 0b101]).to_string(), "63-64,66");
        assert_eq!(Ranges(&[0]).to_string(), "");
        assert_eq!(Ranges(&[1]).to_string(), "0");
        assert_eq!(Ranges(&[u64::MAX]).to_string(), "0-63");
    }
}
