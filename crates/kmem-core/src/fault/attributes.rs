//! By which rule requests fail.

use core::fmt;

use super::filter::{self, Frames, Memo};
use super::{Kind, Request};
use crate::gfp::Gfp;
use crate::platform::Platform;

/// The probability of what always happens.
pub const CERTAIN: u32 = 1_000_000;

/// Whose requests may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Everybody's.
    All,
    /// The thread's with this number ([`Platform::thread`]).
    Thread(u32),
    /// Each thread counts its own requests, and its n-th fails: that of [`Attributes::nth`], or of [`Fault::arm`](super::Fault::arm)
    /// for a thread that armed itself. Probability, interval, times and space count for nothing.
    Each,
}

/// A rule. Requests that pass all filters are counted; of these some fail.
#[derive(Clone, Copy)]
pub struct Attributes {
    /// How probable a failure is, in millionths.
    pub probability: u32,
    /// Only each so many requests can fail; 0 and 1: all.
    pub interval: u64,
    /// At most so many failures; `u64::MAX`: any number.
    pub times: u64,
    /// So many bytes are served before the first failure: requests that fit in what is left of them do not fail.
    pub space: u64,
    /// Exactly the request with this number fails, from 1, and the four above count for nothing; 0: they count.
    pub nth: u64,
    /// What the draws depend on.
    pub seed: u64,
    /// 1: each failure is told on the console; 2: with the stack. Never those of requests with [`Gfp::NOWARN`].
    pub verbose: u8,
    /// Only requests of so many bytes, from the first number to the second.
    pub sizes: (usize, usize),
    /// Only requests that a cache of such a name would serve: exact names, or prefixes with a star, separated by `|`.
    pub caches: Option<&'static str>,
    /// Only caches with the letter A.
    pub marked_only: bool,
    /// Not those that may wait for memory ([`Gfp::DIRECT_RECLAIM`]).
    pub ignore_gfp_wait: bool,
    /// Only requests of at least 2^this pages; it counts for pages alone.
    pub min_order: u32,
    /// Whose requests.
    pub task: Task,
    /// Only requests with such a call on their stack; see [`filter::calls`] for the patterns.
    pub stack: Option<&'static str>,
    /// Not requests with such a call on their stack.
    pub not_stack: Option<&'static str>,
    /// How many calls of a stack are looked at, the nearest; at most [`filter::DEPTH`].
    pub depth: usize,
    /// Requests count for nothing before this answers true.
    pub started: Option<fn() -> bool>,
    /// The rule is for processes of such a name. Who reads a program's options minds it, nobody here.
    pub program: Option<&'static str>,
    /// Requests before a program's `main` count for nothing. Who reads a program's options sets `started` for it.
    pub since_main: bool,
}

impl Attributes {
    /// Every request fails.
    pub const ALWAYS: Self = Self {
        probability: CERTAIN,
        interval: 1,
        times: u64::MAX,
        space: 0,
        nth: 0,
        seed: 0,
        verbose: 0,
        sizes: (0, usize::MAX),
        caches: None,
        marked_only: false,
        ignore_gfp_wait: false,
        min_order: 0,
        task: Task::All,
        stack: None,
        not_stack: None,
        depth: filter::DEPTH,
        started: None,
        program: None,
        since_main: false,
    };

    /// A kernel's defaults, which a boot option changes: one failure, told with its stack, and only of requests that
    /// must not wait, and of pages only of more than one.
    pub const KERNEL: Self =
        Self { probability: 0, times: 1, verbose: 2, ignore_gfp_wait: true, min_order: 1, ..Self::ALWAYS };

    /// The n-th request fails, and no other.
    #[must_use]
    pub const fn nth(n: u64) -> Self {
        Self { nth: n, ..Self::ALWAYS }
    }

    /// Of each thread that arms itself the n-th request fails ([`Fault::arm`](super::Fault::arm)), as by a kernel's `fail-nth`.
    #[must_use]
    pub const fn armed() -> Self {
        Self { task: Task::Each, ..Self::ALWAYS }
    }

    /// Nothing fails, but requests are counted.
    #[must_use]
    pub const fn count() -> Self {
        Self::nth(u64::MAX)
    }

    /// Each request fails with this probability, by the draws of this seed.
    #[must_use]
    pub const fn percent(percent: u32, seed: u64) -> Self {
        Self { probability: percent * (CERTAIN / 100), seed, ..Self::ALWAYS }
    }

    /// Requests of a cache of this name can fail, as far as names and letters decide.
    #[must_use]
    pub fn may_hit(&self, cache: &str, marked: bool) -> bool {
        (marked || !self.marked_only) && self.caches.is_none_or(|names| filter::named(names, cache))
    }

    /// The request passes the filters that look at it alone.
    pub(super) fn concern(&self, request: &Request<'_>) -> bool {
        let is_page = request.kind == Kind::Page;
        let spared = request.gfp.contains(Gfp::NOFAIL)
            || self.ignore_gfp_wait && request.gfp.may_block()
            || is_page && request.order < self.min_order;
        !spared
            && (self.sizes.0..=self.sizes.1).contains(&request.size)
            && (is_page || self.may_hit(request.cache, request.marked))
    }

    /// Its caller passes the filters that look at who asks.
    pub(super) fn concern_caller<P: Platform>(&self, platform: &P, memo: &Memo) -> bool {
        if let Task::Thread(thread) = self.task
            && platform.thread() != thread
        {
            return false;
        }
        if self.started.is_some_and(|started| !started()) {
            return false;
        }
        if self.stack.is_none() && self.not_stack.is_none() {
            return true;
        }
        let frames = Frames::here(platform, self.depth);
        let [wanted, unwanted] = frames.have(platform, memo, [self.stack, self.not_stack]);
        (wanted || self.stack.is_none()) && !unwanted
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attributes")
            .field("probability", &self.probability)
            .field("interval", &self.interval)
            .field("times", &self.times)
            .field("space", &self.space)
            .field("nth", &self.nth)
            .field("seed", &self.seed)
            .field("sizes", &self.sizes)
            .field("caches", &self.caches)
            .finish_non_exhaustive()
    }
}
