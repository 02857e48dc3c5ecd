//! How a loop becomes nanoseconds per operation.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Length of one timed piece: shorter than what a busy system lets a thread run at a time.
const PIECE: Duration = Duration::from_millis(2);
/// Timed pieces of one run; the fastest counts, because a neighbour on the machine only ever slows one down.
const PIECES: usize = 8;

/// Whether [`pin`] was called: the work is this thread's alone.
static ALONE: AtomicBool = AtomicBool::new(false);

/// The time by which work is measured: that which this thread had a CPU, if the work is its alone, as then it does not matter what
/// else the machine does; else the time of day.
pub(crate) fn now() -> Duration {
    // Relaxed: set by this thread, before.
    let clock =
        if ALONE.load(Ordering::Relaxed) { libc::CLOCK_THREAD_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
    // SAFETY: zero is a value of the plain struct, which the call fills.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        assert_eq!(libc::clock_gettime(clock, &raw mut time), 0, "every system has both");
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}

/// Calls `work(n)`, which does `n` operations, with growing `n` until one call takes long enough to time,
/// then times several. Returns the nanoseconds per operation of the fastest.
pub(crate) fn per_operation(mut work: impl FnMut(u64)) -> f64 {
    let mut time = |n: u64| {
        let start = now();
        work(n);
        now() - start
    };
    let mut n = 1;
    let mut taken = time(n);
    loop {
        if taken >= PIECE {
            // A first time has its own costs, and a neighbour may have had the CPU: once more.
            taken = time(n);
            if taken >= PIECE / 2 {
                break;
            }
        }
        let growth = (PIECE.as_secs_f64() / taken.as_secs_f64().max(1e-9) * 1.2).clamp(1.5, 16.0);
        n = (n as f64 * growth).ceil() as u64;
        taken = time(n);
    }
    let fastest = (0..PIECES).map(|_| time(n)).min().unwrap_or(taken).min(taken);
    fastest.as_secs_f64() * 1e9 / n as f64
}

/// Keeps the calling thread on the CPU it is on, for rows of one thread, whose time is then what it had of that CPU.
pub(crate) fn pin() {
    ALONE.store(true, Ordering::Relaxed);
    // SAFETY: the set is plain bits, for which zero is a value; the calls only read and write it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let cpu = libc::sched_getcpu();
        if cpu >= 0 {
            libc::CPU_SET(cpu as usize, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
        }
    }
}

/// A quick pseudo-random sequence (xorshift): the same for every allocator.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `bound`, by multiplication: a division would be part of what is timed.
    #[inline]
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * bound as u64) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn an_operation_of_known_length_is_timed_right() {
        let spin = Duration::from_micros(20);
        let ns = per_operation(|n| {
            for _ in 0..n {
                let start = Instant::now();
                while start.elapsed() < spin {}
            }
        });
        assert!((20_000.0..40_000.0).contains(&ns), "{ns}");
    }

    #[test]
    fn numbers_stay_below_the_bound_and_spread() {
        let mut random = Random(7);
        let mut seen = [0; 10];
        (0..10_000).for_each(|_| seen[random.below(10)] += 1);
        assert!(seen.iter().all(|&n| n > 800), "{seen:?}");
    }
}
