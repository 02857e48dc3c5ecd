//! How long single calls take: the middle, and the few that are slow.
//!
//! Two threads replace random ones of 1000 blocks of 8 to 1024 bytes; each malloc and each free is timed by the CPU's counter. Times go into
//! a histogram of sixteenths of powers of two. An operation during which the thread lost its CPU, or in which a page was faulted
//! in, says nothing of the allocator: where one takes longer than [`SLOW`], the system is asked, and it is left out.

use std::thread;
use std::time::Instant;

use super::{give, take};
use crate::clock::Random;

/// Ticks beyond which the system is asked what happened.
const SLOW: u64 = 4000;
const OPERATIONS: usize = 400_000;
/// Buckets of a power of two.
const PARTS: u64 = 16;

/// How many operations took how many ticks.
struct Histogram {
    counts: [u32; 64 * PARTS as usize],
    all: u64,
}

impl Histogram {
    const fn new() -> Self {
        Self { counts: [0; 64 * PARTS as usize], all: 0 }
    }

    fn bucket(ticks: u64) -> usize {
        let ticks = ticks.max(PARTS);
        let power = u64::from(63 - ticks.leading_zeros());
        let part = (ticks >> (power - 4)) & (PARTS - 1);
        (power * PARTS + part) as usize
    }

    /// The longest time that a bucket stands for.
    fn ticks(bucket: usize) -> u64 {
        let (power, part) = (bucket as u64 / PARTS, bucket as u64 % PARTS);
        (PARTS + part + 1) << (power - 4)
    }

    fn add(&mut self, ticks: u64) {
        self.counts[Self::bucket(ticks)] += 1;
        self.all += 1;
    }

    fn join(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.all += other.all;
    }

    /// The time that this part of all operations does not exceed.
    fn quantile(&self, part: f64) -> u64 {
        let rank = (self.all as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (bucket, &count) in self.counts.iter().enumerate() {
            seen += u64::from(count);
            if seen >= rank && count > 0 {
                return Self::ticks(bucket);
            }
        }
        0
    }
}

#[cfg(target_arch = "x86_64")]
fn now() -> u64 {
    // SAFETY: every x86-64 CPU has the counter.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn now() -> u64 {
    // SAFETY: the clock exists; the time is written before it is read.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time);
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }
}

/// Times that this thread lost its CPU or had a page faulted in.
fn disturbances() -> i64 {
    // SAFETY: plain numbers, for which zero is a value; the call writes them.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage.ru_nivcsw + usage.ru_nvcsw + usage.ru_minflt + usage.ru_majflt
    }
}

/// Times the calls of one thread.
struct Watch {
    histogram: Histogram,
    disturbances: i64,
    last: u64,
}

impl Watch {
    fn timed<R>(&mut self, call: impl FnOnce() -> R) -> R {
        let start = now();
        if start - self.last > SLOW {
            // What happened between two calls is not the next one's.
            self.disturbances = disturbances();
        }
        let start = now();
        let result = call();
        self.last = now();
        let ticks = self.last - start;
        if ticks > SLOW {
            let seen = disturbances();
            let disturbed = seen != self.disturbances;
            (self.disturbances, self.last) = (seen, now());
            if disturbed {
                return result;
            }
        }
        self.histogram.add(ticks);
        result
    }
}

fn one_thread(seed: u64) -> Histogram {
    let mut random = Random(seed);
    let size = |random: &mut Random| 8 + random.below(1017);
    let mut blocks: Vec<*mut u8> = (0..1000).map(|_| take(size(&mut random))).collect();
    let mut watch = Watch { histogram: Histogram::new(), disturbances: disturbances(), last: now() };
    for _ in 0..OPERATIONS / 2 {
        let slot = &mut blocks[random.below(1000)];
        let size = size(&mut random);
        // SAFETY: every slot holds a live block, and this one is written over at once.
        watch.timed(|| unsafe { give(*slot) });
        *slot = watch.timed(|| take(size));
    }
    // SAFETY: every slot holds a live block, and the table is gone after this.
    blocks.into_iter().for_each(|block| unsafe { give(block) });
    watch.histogram
}

/// The time in ns that `THOUSANDTHS` of all calls do not exceed; 1000: the longest.
pub(super) fn quantile<const THOUSANDTHS: u32>() -> f64 {
    let (start, clock) = (now(), Instant::now());
    let histogram = thread::scope(|scope| {
        let other = scope.spawn(|| one_thread(3));
        let mut mine = one_thread(4);
        mine.join(&other.join().expect("the thread cannot panic"));
        mine
    });
    let per_tick = clock.elapsed().as_secs_f64() * 1e9 / (now() - start) as f64;
    histogram.quantile(f64::from(THOUSANDTHS) / 1000.0) as f64 * per_tick
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_sixteenth() {
        let mut histogram = Histogram::new();
        (1..=1000).for_each(|ticks| histogram.add(ticks * 100));
        for (part, ticks) in [(0.5, 50_000.0), (0.99, 99_000.0), (1.0, 100_000.0)] {
            let found = histogram.quantile(part) as f64;
            assert!(found >= ticks && found <= ticks * (1.0 + 1.0 / 15.0), "{part}: {found}");
        }
    }

    #[test]
    fn a_call_is_counted_once() {
        let mut watch = Watch { histogram: Histogram::new(), disturbances: disturbances(), last: now() };
        (0..1000).for_each(|_| watch.timed(|| ()));
        assert!((900..=1000).contains(&watch.histogram.all), "{}", watch.histogram.all);
    }
}
