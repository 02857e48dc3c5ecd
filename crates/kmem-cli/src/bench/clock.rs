//! How a loop becomes nanoseconds.

use std::time::{Duration, Instant};

use super::work::Meter;

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The least length of a timed piece.
    pub(super) piece: Duration,
    /// The least number of pairs of a piece with two threads, of which one waits for the other to wake up first.
    pub(super) pairs_of_two: u64,
    /// Turns of all engines.
    pub(super) turns: u32,
    /// Passes over a trace in each turn.
    pub(super) passes: u32,
}

impl Pace {
    /// For numbers.
    pub(super) const FULL: Self =
        Self { piece: Duration::from_millis(3), pairs_of_two: 100_000, turns: 25, passes: 1 };
    /// To see that it works.
    pub(super) const QUICK: Self =
        Self { piece: Duration::from_micros(300), pairs_of_two: 20_000, turns: 2, passes: 1 };
}

/// Time between begin and end.
pub(super) struct Stopwatch {
    start: Instant,
    /// What it showed last.
    pub(super) time: Duration,
}

impl Stopwatch {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), time: Duration::ZERO }
    }
}

impl Meter for Stopwatch {
    fn begin(&mut self) {
        self.start = Instant::now();
    }
    fn end(&mut self) {
        self.time = self.start.elapsed();
    }
}

/// Pairs that fill a piece, at least `least`: `run(pairs)` returns what it did and how long that took.
pub(super) fn calibrate(piece: Duration, least: u64, mut run: impl FnMut(u64) -> (u64, Duration)) -> u64 {
    let mut pairs = least;
    loop {
        let (did, time) = run(pairs);
        if time >= piece {
            return did;
        }
        let growth = (piece.as_secs_f64() / time.as_secs_f64().max(1e-9) * 1.2).clamp(1.5, 16.0);
        pairs = (did as f64 * growth).ceil() as u64;
    }
}

/// Keeps the calling thread, and none that it makes later on another CPU, on the CPU it is on. Returns where it was
/// allowed to run before.
pub(super) fn pin() -> libc::cpu_set_t {
    // SAFETY: a set is plain bits, for which zero is a value; the calls only read and write the sets.
    unsafe {
        let mut before: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut before);
        let cpu = libc::sched_getcpu();
        if cpu >= 0 {
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu as usize, &mut one);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const one);
        }
        before
    }
}

/// Lets the calling thread run where it could before [`pin`].
pub(super) fn unpin(before: &libc::cpu_set_t) {
    // SAFETY: the call only reads the set. It may fail where CPUs went away: the thread then stays where it is.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), before) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calibration_ends_with_a_piece_that_is_long_enough() {
        let each = Duration::from_nanos(70);
        let mut runs = 0;
        let pairs = calibrate(Duration::from_millis(1), 100, |pairs| {
            runs += 1;
            (pairs, each * pairs as u32)
        });
        assert!(each * pairs as u32 >= Duration::from_millis(1));
        assert!(pairs < 40_000 && runs < 10, "{pairs} pairs after {runs} runs");
    }
}
