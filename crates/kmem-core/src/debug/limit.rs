//! How many reports are printed at a time: a program that errs in a loop must not drown in them.
//!
//! As a kernel does it: so many in an interval; what comes beyond is counted, and the first report of a later
//! interval is preceded by how many there were. A report that is not printed counts as an error all the same, and what is
//! done about it is done.
//!
//! A report has many lines, made by one thread. Whether its report is one of those that are not printed is noted for
//! each thread, in a few places that threads may share: a thread that loses its place to another has the rest of its report
//! printed.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Threads that can be silent at once without disturbing each other.
const PLACES: usize = 16;

/// A limit, and what happened since its interval began.
pub struct Limit {
    /// Reports in an interval; 0: any number.
    burst: AtomicU32,
    /// Nanoseconds of the platform's clock.
    interval: AtomicU64,
    /// When the interval began; 0: it did not.
    begin: AtomicU64,
    printed: AtomicU32,
    suppressed: AtomicU64,
    /// The threads whose report is not printed; 0: none.
    muted: [AtomicU32; PLACES],
}

impl Limit {
    /// No limit.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            burst: AtomicU32::new(0),
            interval: AtomicU64::new(0),
            begin: AtomicU64::new(0),
            printed: AtomicU32::new(0),
            suppressed: AtomicU64::new(0),
            muted: [const { AtomicU32::new(0) }; PLACES],
        }
    }

    /// At most `burst` reports in `interval` nanoseconds; 0: any number.
    pub fn set(&self, burst: u32, interval: u64) {
        self.interval.store(interval, Ordering::Relaxed);
        self.burst.store(burst, Ordering::Relaxed);
    }

    /// Reports that were not printed and that nobody was told of yet.
    pub fn suppressed(&self) -> u64 {
        self.suppressed.load(Ordering::Relaxed)
    }

    fn place(&self, thread: u32) -> &AtomicU32 {
        &self.muted[thread as usize % PLACES]
    }

    /// A thread begins a report, now. Returns how many were not printed before it and are to be told of first.
    pub(crate) fn admit(&self, thread: u32, now: u64) -> u64 {
        let burst = self.burst.load(Ordering::Relaxed);
        if burst == 0 {
            return 0;
        }
        // Relaxed everywhere: two threads that begin an interval at once print a few more or fewer.
        let begin = self.begin.load(Ordering::Relaxed);
        let mut told = 0;
        if begin == 0 || now.wrapping_sub(begin) >= self.interval.load(Ordering::Relaxed) {
            self.begin.store(now.max(1), Ordering::Relaxed);
            self.printed.store(0, Ordering::Relaxed);
            told = self.suppressed.swap(0, Ordering::Relaxed);
        }
        let admitted = self.printed.fetch_add(1, Ordering::Relaxed) < burst;
        if admitted {
            self.hear(thread);
        } else {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            self.place(thread).store(thread, Ordering::Relaxed);
        }
        told
    }

    /// What this thread says next is not part of the report that was not printed.
    pub(crate) fn hear(&self, thread: u32) {
        let place = self.place(thread);
        if place.load(Ordering::Relaxed) == thread {
            place.store(0, Ordering::Relaxed);
        }
    }

    /// Whether the report that this thread is making is not printed.
    pub(crate) fn mutes(&self, thread: u32) -> bool {
        self.place(thread).load(Ordering::Relaxed) == thread
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::Limit;

    #[test]
    fn so_many_in_an_interval() {
        let limit = Limit::new();
        for _ in 0..100 {
            assert_eq!((limit.admit(7, 5), limit.mutes(7)), (0, false), "no limit");
        }
        limit.set(2, 1000);
        let mut told = Vec::new();
        for now in [10, 20, 30, 40, 1009, 1010, 1020, 1030, 5000] {
            told.push((limit.admit(7, now), limit.mutes(7)));
        }
        let (yes, no) = (false, true);
        assert_eq!(
            told,
            [(0, yes), (0, yes), (0, no), (0, no), (0, no), (3, yes), (0, yes), (0, no), (1, yes)]
        );
        assert_eq!(limit.suppressed(), 0);
    }

    #[test]
    fn a_thread_is_silent_for_itself() {
        let limit = Limit::new();
        limit.set(1, 1000);
        assert_eq!(limit.admit(1, 1), 0);
        assert_eq!(limit.admit(2, 1), 0);
        assert!(!limit.mutes(1) && limit.mutes(2) && !limit.mutes(2 + 16));
        // Its next report in a new interval is heard.
        assert_eq!(limit.admit(2, 2000), 1);
        assert!(!limit.mutes(2));
    }
}
