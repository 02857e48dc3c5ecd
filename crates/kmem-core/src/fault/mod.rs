//! Fault injection: requests that fail although there is memory.
//!
//! # Theory
//! Memory runs out rarely, so what programs do then is seldom tried. A [`Fault`] has requests of one kind fail by
//! rule: with a probability, each so many times, not before so many bytes, exactly the n-th ([`Attributes`]). The kinds are
//! the kernel's failslab and fail_page_alloc, and the requests of programs ([`Kind`]). A request that fails
//! so does nothing else: it is refused before anything was taken or looked for.
//!
//! A heap has at most one fault for each kind at a time ([`Slot`]). It is constant but for its counters, which are
//! atomics: it is asked on any path that may ask for memory, in signal handlers too.
//!
//! # What pays
//! What a CPU's stack or page list serves is never asked about. So who puts a fault in place takes those away from
//! all that it may hit, and the fast paths fail into the slow ones by themselves, where it is asked.
//!
//! # Repeatable
//! Whether the n-th request fails is a function of `n`, the seed and the requests before it, not of time or address: one
//! thread that does the same sees the same failures.
//!
//! # Invariants
//! - I-FAULT-1: a request with [`Gfp::NOFAIL`], and one for the heap's own structures (descriptors of caches and nodes,
//!   arrays behind stacks), is never refused. (The pages behind them may be.)
//! - I-FAULT-2: `times` failures, and no more, whatever number of threads ask.
//!
//! # Never
//! Nothing here takes a lock, allocates, or waits.

mod attributes;
pub mod filter;
pub mod options;
mod threads;

pub use attributes::{Attributes, CERTAIN, Task};
pub use threads::PLACES;

use core::fmt::Write;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::gfp::Gfp;
use crate::platform::Platform;
use crate::report;

/// What may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Objects of caches, blocks of kmalloc's classes among them (failslab).
    Slab,
    /// Pages: of slabs, of large blocks, and mappings (fail_page_alloc).
    Page,
    /// What programs ask of the process-wide heap: malloc and its family, whatever the size, and objects of their caches.
    Malloc,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Slab, Self::Page, Self::Malloc];

    /// As it is called in options and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slab => "failslab",
            Self::Page => "fail_page_alloc",
            Self::Malloc => "failmalloc",
        }
    }
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What is asked for.
    pub kind: Kind,
    /// The cache that would serve it; empty: none.
    pub cache: &'a str,
    /// The cache has the letter A.
    pub marked: bool,
    /// Bytes asked for.
    pub size: usize,
    /// log2 of the pages that hold them.
    pub order: u32,
    /// The flags.
    pub gfp: Gfp,
}

/// A request that fails, for [`Hook`]s.
#[derive(Clone, Copy, Debug)]
pub struct Injection<'a> {
    /// The request.
    pub request: Request<'a>,
    /// Its number among those that could fail, from 1.
    pub number: u64,
    /// How many failed before.
    pub before: u64,
}

/// Called for each failure. It must not ask for memory, and not wait.
pub type Hook = fn(&Injection<'_>);

/// A rule by which requests fail, and its counters.
pub struct Fault {
    attributes: Attributes,
    hook: Option<Hook>,
    memo: filter::Memo,
    /// Requests that could fail, so far.
    asked: AtomicU64,
    /// Bytes that are served before the first failure.
    space: AtomicU64,
    /// Requests that `interval` counts.
    turns: AtomicU64,
    failed: AtomicU64,
    /// What threads count that count for themselves ([`Task::Each`]).
    threads: threads::Threads,
}

impl Fault {
    /// A rule that was not asked yet.
    #[must_use]
    pub const fn new(attributes: Attributes) -> Self {
        Self {
            space: AtomicU64::new(attributes.space),
            attributes,
            hook: None,
            memo: filter::Memo::new(),
            asked: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            threads: threads::Threads::new(),
        }
    }

    /// The same, which shows its failures to `hook`.
    #[must_use]
    pub const fn with_hook(mut self, hook: Hook) -> Self {
        self.hook = Some(hook);
        self
    }

    /// The rule.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// Requests so far that could have failed: those that pass the filters.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Failures so far.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Counts as asked for the first time again.
    pub fn restart(&self) {
        // Relaxed: who restarts a rule that others are asking gets a number in between.
        self.asked.store(0, Ordering::Relaxed);
        self.turns.store(0, Ordering::Relaxed);
        self.failed.store(0, Ordering::Relaxed);
        self.space.store(self.attributes.space, Ordering::Relaxed);
        self.threads.clear();
    }

    /// Has the n-th request of this thread ([`Platform::thread`]) fail, counted from now, and no other of its requests; for
    /// rules with [`Task::Each`]. False: too many threads count already.
    pub fn arm(&self, thread: u32, n: u64) -> bool {
        self.threads.arm(thread, n)
    }

    /// Ends what [`Fault::arm`] began.
    pub fn disarm(&self, thread: u32) {
        self.threads.disarm(thread);
    }

    /// How many requests of this thread there are until one fails; 0: one failed. `None`: the thread does not count.
    pub fn left(&self, thread: u32) -> Option<u64> {
        self.threads.left(thread)
    }

    /// Some thread counts.
    pub fn is_armed(&self) -> bool {
        self.threads.any()
    }

    /// True: this request fails.
    pub fn refuses<P: Platform>(&self, platform: &P, request: &Request<'_>) -> bool {
        if !self.attributes.concern(request) || !self.attributes.concern_caller(platform, &self.memo) {
            return false;
        }
        // Relaxed, here and below: counters that nothing else depends on.
        let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let before = if self.attributes.task == Task::Each {
            let fails = self.threads.ask(platform.thread(), self.attributes.nth);
            fails.then(|| self.failed.fetch_add(1, Ordering::Relaxed))
        } else {
            self.draw(number, request.size)
        };
        let Some(before) = before else { return false };
        self.tell(platform, &Injection { request: *request, number, before });
        true
    }

    /// Whether the request with this number fails: how many failed before.
    fn draw(&self, number: u64, size: usize) -> Option<u64> {
        let rule = &self.attributes;
        if rule.nth != 0 {
            return (number == rule.nth).then(|| self.failed.fetch_add(1, Ordering::Relaxed));
        }
        if self.failed() >= rule.times {
            return None;
        }
        let mut space = self.space.load(Ordering::Relaxed);
        while space > size as u64 {
            let left = space - size as u64;
            match self.space.compare_exchange_weak(space, left, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return None,
                Err(now) => space = now,
            }
        }
        if rule.interval > 1 {
            let turn = self.turns.fetch_add(1, Ordering::Relaxed) + 1;
            if !turn.is_multiple_of(rule.interval) {
                return None;
            }
        }
        if mix(rule.seed, number) % u64::from(CERTAIN) >= u64::from(rule.probability) {
            return None;
        }
        // I-FAULT-2.
        self.failed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |failed| {
                (failed < rule.times).then(|| failed + 1)
            })
            .ok()
    }

    #[cold]
    fn tell<P: Platform>(&self, platform: &P, injection: &Injection<'_>) {
        let (rule, request) = (&self.attributes, &injection.request);
        if rule.verbose > 0 && !request.gfp.contains(Gfp::NOWARN) {
            report::say(platform, format_args!("FAULT_INJECTION: forcing a failure."));
            report::line(
                platform,
                format_args!(
                    "name {}, interval {}, probability {}, space {}, times {}",
                    request.kind.name(),
                    rule.interval,
                    Percent(rule.probability),
                    self.space.load(Ordering::Relaxed),
                    Times(rule.times.saturating_sub(injection.before).max(1), rule.times),
                ),
            );
            report::line(
                platform,
                format_args!(
                    "request {}: {} bytes{}{}",
                    injection.number,
                    request.size,
                    if request.cache.is_empty() { "" } else { " of " },
                    request.cache
                ),
            );
        }
        if rule.verbose > 1 && !request.gfp.contains(Gfp::NOWARN) {
            let mut frames = [0; filter::DEPTH];
            let len = platform.backtrace(&mut frames);
            report::line(platform, format_args!("Call Trace:"));
            report::line(platform, format_args!(" <TASK>"));
            for &frame in &frames[..len] {
                let mut name = report::Text::<256>::new();
                // A text that is full is cut.
                let _ = platform.symbol(frame, &mut name);
                let mut line = report::Text::<260>::new();
                let _ = write!(line, " {}", name.as_str());
                report::line(platform, format_args!("{}", line.as_str()));
            }
            report::line(platform, format_args!(" </TASK>"));
        }
        if let Some(hook) = self.hook {
            hook(injection);
        }
    }
}

/// A probability as its user wrote it.
struct Percent(u32);

impl core::fmt::Display for Percent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (whole, mut rest) = (self.0 / 10_000, self.0 % 10_000);
        write!(f, "{whole}")?;
        if rest == 0 {
            return Ok(());
        }
        let mut digits = 4;
        while rest.is_multiple_of(10) {
            rest /= 10;
            digits -= 1;
        }
        write!(f, ".{rest:0digits$}")
    }
}

/// Failures left of so many; -1: no limit.
struct Times(u64, u64);

impl core::fmt::Display for Times {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.1 == u64::MAX { f.write_str("-1") } else { write!(f, "{}", self.0) }
    }
}

/// The number that decides about the n-th request: a mix of both in which every bit depends on every bit.
const fn mix(seed: u64, n: u64) -> u64 {
    let mut x = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The place of a fault in a heap.
pub struct Slot(AtomicPtr<Fault>);

impl Slot {
    /// No fault.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicPtr::new(core::ptr::null_mut()))
    }

    /// The fault in place.
    #[inline]
    pub fn get(&self) -> Option<&'static Fault> {
        // Acquire pairs with the Release of `set`.
        // SAFETY: only `set` stores here: null or the address of a `&'static Fault`.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    pub(crate) fn set(&self, fault: Option<&'static Fault>) {
        let fault = fault.map_or(core::ptr::null_mut(), |fault| core::ptr::from_ref(fault).cast_mut());
        // Release pairs with the Acquire of `get`: the rule was written before.
        self.0.store(fault, Ordering::Release);
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_even_and_repeat() {
        let hits = |seed| (1..=100_000).filter(|&n| mix(seed, n) % 1_000_000 < 100_000).count();
        for seed in [0, 1, u64::MAX] {
            assert!((9_500..10_500).contains(&hits(seed)), "{}", hits(seed));
            assert_eq!(hits(seed), hits(seed));
        }
        assert!((1..100).any(|n| mix(0, n) != mix(1, n)));
    }

    #[test]
    fn percents_are_shown_as_they_were_written() {
        for (probability, text) in
            [(0, "0"), (CERTAIN, "100"), (15_000, "1.5"), (1, "0.0001"), (10_500, "1.05")]
        {
            assert_eq!(Percent(probability).to_string(), text);
        }
    }
}
