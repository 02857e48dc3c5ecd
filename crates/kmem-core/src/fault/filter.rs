//! Which caches and which callers a rule is for, by name.

use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::platform::Platform;
use crate::report::Text;

/// Calls of a stack that are looked at, at most.
pub const DEPTH: usize = 32;

/// One of the patterns, separated by `|`, is this name, or ends with a star and begins it.
#[must_use]
pub fn named(patterns: &str, name: &str) -> bool {
    patterns.split('|').any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    })
}

/// One of the patterns stands for this call. As [`named`]; a name without an offset stands for all of its code, that of a
/// file too: `parse` and `libz.so` for `parse+0x12/0x80 [libz.so]`, `libz.so` for `libz.so+0x1234`.
#[must_use]
pub fn calls(patterns: &str, call: &str) -> bool {
    let file = call.strip_suffix(']').and_then(|call| call.rsplit_once(" [")).map(|(_, file)| file);
    let code = call.rsplit_once("+0x").map(|(code, _)| code);
    [Some(call), code, file].into_iter().flatten().any(|name| named(patterns, name))
}

/// Which patterns stand for which calls, as far as it was found out: to name code takes long, and the same calls come again
/// and again. A library that is loaded where another was is taken for that one.
pub(super) struct Memo([AtomicU64; MEMO]);

const MEMO: usize = 256;

impl Memo {
    pub(super) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; MEMO])
    }

    /// Whether the first patterns stand for the call at this address, and whether the second do.
    fn ask<P: Platform>(&self, platform: &P, frame: usize, patterns: [Option<&str>; 2]) -> [bool; 2] {
        let place = &self.0[(frame ^ (frame >> 8)) % MEMO];
        // An entry is the address and the two answers, in one word. Relaxed: it depends on nothing else.
        let known = place.load(Ordering::Relaxed);
        if known >> 2 == frame as u64 & (u64::MAX >> 2) && known != 0 {
            return [known & 1 != 0, known & 2 != 0];
        }
        let mut call = Text::<128>::new();
        // A name that is cut is compared as far as it goes.
        let _ = platform.symbol(frame, &mut call as &mut dyn Write);
        let answers =
            patterns.map(|patterns| patterns.is_some_and(|patterns| calls(patterns, call.as_str())));
        let bits = u64::from(answers[0]) | u64::from(answers[1]) << 1;
        place.store((frame as u64) << 2 | bits, Ordering::Relaxed);
        answers
    }
}

/// The calls that led to a request.
pub(super) struct Frames {
    frames: [usize; DEPTH],
    len: usize,
}

impl Frames {
    /// Those of the caller, the nearest, at most `depth`.
    pub(super) fn here<P: Platform>(platform: &P, depth: usize) -> Self {
        let mut frames = [0; DEPTH];
        let len = platform.backtrace(&mut frames[..depth.min(DEPTH)]);
        Self { frames, len }
    }

    /// Whether one of them is meant by the first patterns, and one by the second.
    pub(super) fn have<P: Platform>(
        &self,
        platform: &P,
        memo: &Memo,
        patterns: [Option<&str>; 2],
    ) -> [bool; 2] {
        self.frames[..self.len].iter().fold([false; 2], |found, &frame| {
            let [first, second] = memo.ask(platform, frame, patterns);
            [found[0] || first, found[1] || second]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole_or_begin_so() {
        assert!(named("kmalloc-64", "kmalloc-64") && !named("kmalloc-64", "kmalloc-640"));
        assert!(named("kmalloc-*", "kmalloc-640") && named("*", "") && !named("kmalloc-*", "Kmalloc-8"));
        assert!(named("a|b*|c", "bee") && !named("a|b*|c", "see") && !named("", "a") && named("", ""));
    }

    #[test]
    fn calls_are_meant_with_and_without_their_offset() {
        assert!(calls("libz.so", "libz.so+0x12") && calls("libz.so+0x12", "libz.so+0x12"));
        assert!(calls("libz*", "parse+0x1/0x20 [libz.so.1]") && calls("parse", "parse+0x1/0x20 [libz.so.1]"));
        assert!(!calls("libz.so.1", "parse+0x1/0x20") && !calls("z.so.1", "parse+0x1/0x20 [libz.so.1]"));
        assert!(calls("libstdc++.so.6", "libstdc++.so.6+0x12"));
        assert!(!calls("libz.so", "libz.so.1+0x12") && calls("libz*", "libz.so.1+0x12"));
        assert!(
            calls("parse", "parse+0x1/0x20") && calls("parse", "parse") && !calls("parse", "parser+0x1/0x20")
        );
    }
}
