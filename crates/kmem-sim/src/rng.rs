//! Random numbers from a seed: small, fast, the same everywhere.
//!
//! The generator is SplitMix64 (Steele, Lea, Flood 2014): a counter through a mixing function. A counter can be
//! shared by threads with one atomic addition, which [`SharedRng`] does.

use std::sync::atomic::{AtomicU64, Ordering};

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Mixes a counter into a number that looks random.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A stream of random numbers, owned by one test or one thread.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream of this seed. Seeds that differ in one bit give unrelated streams.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(mix(seed.wrapping_add(STEP)))
    }

    /// The next number, all 64 bits of it.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// When `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "no number is below 0");
        // The high half of the 128-bit product: no modulo bias worth naming for such bounds.
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// A number in `low..=high`.
    ///
    /// # Panics
    /// When the range is empty.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        assert!(low <= high, "empty range {low}..={high}");
        low + self.below(high - low + 1)
    }

    /// True with probability `p` (0 never, 1 always).
    pub fn chance(&mut self, p: f64) -> bool {
        hits(threshold(p), self.next_u64())
    }
}

/// A stream that several threads draw from. Which thread gets which number depends on their order.
#[derive(Debug)]
pub(crate) struct SharedRng(AtomicU64);

impl SharedRng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(mix(seed.wrapping_add(STEP))))
    }

    pub(crate) fn next_u64(&self) -> u64 {
        // Relaxed: the numbers order nothing.
        mix(self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP))
    }
}

/// A probability as the number of 2^64 outcomes that count as a hit; `u64::MAX` means always.
pub(crate) fn threshold(p: f64) -> u64 {
    assert!((0.0..=1.0).contains(&p), "{p} is not a probability");
    (p * u64::MAX as f64) as u64
}

/// Whether a random number is a hit for this threshold.
pub(crate) fn hits(threshold: u64, random: u64) -> bool {
    threshold == u64::MAX || random < threshold
}
