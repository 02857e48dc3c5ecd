//! Which ways to own a CPU this process has.
//!
//! Decided once, by the first heap, for all heaps of the process: a thread has one word (see `rseq`), and what it
//! says must mean the same to all of them. Restartable sequences are taken only with everything that seizing a
//! stack needs: a registered first thread, the barrier that restarts the others, and addresses for every CPU.
//!
//! Never: changes its mind (I-HOST-2).

use core::sync::atomic::{AtomicU64, Ordering};

use kmem_core::percpu::{COLD_STRIDE, HOT_STRIDE};
use kmem_core::platform::MAX_CPUS;

#[cfg(target_arch = "x86_64")]
use super::{misc, rseq};
use super::{slots, sys, topology};

/// Slots beside restartable sequences: for the odd thread without.
const SPARE_SLOTS: usize = 4;

/// How threads own CPUs in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Restartable sequences, and slots for threads that have none.
    Rseq,
    /// Slots with locks.
    Portable,
}

/// What the heaps of a process share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// CPUs that restartable sequences index.
    pub(super) indexed: usize,
    /// Portable slots.
    pub(super) slots: usize,
    /// Offset of the index in a thread's area.
    pub(super) index_at: usize,
}

// Packed `Layout`; 0 is undecided (there is always a slot). Release by whoever decides, Acquire by the others.
static LAYOUT: AtomicU64 = AtomicU64::new(0);

impl Layout {
    pub(super) fn get(portable: bool) -> Self {
        let mut packed = LAYOUT.load(Ordering::Acquire);
        if packed == 0 {
            let mine = Self::decide(portable).pack();
            // Two threads may decide at once, even differently: the first to write is right.
            packed = match LAYOUT.compare_exchange(0, mine, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => mine,
                Err(theirs) => theirs,
            };
        }
        Self {
            indexed: (packed & 0xffff) as usize,
            slots: ((packed >> 16) & 0xffff) as usize,
            index_at: (packed >> 32) as usize,
        }
    }

    /// Number of CPUs that the core will see.
    pub(super) fn cpus(self) -> usize {
        self.indexed + self.slots
    }

    fn pack(self) -> u64 {
        self.indexed as u64 | (self.slots as u64) << 16 | (self.index_at as u64) << 32
    }

    fn decide(portable: bool) -> Self {
        let cpus = topology::possible_cpus();
        let most = affordable(sys::address_limit());
        if !portable
            && cpus + SPARE_SLOTS <= most
            && let Some(index_at) = sequences()
        {
            return Self { indexed: cpus, slots: SPARE_SLOTS.min(cpus.max(2)), index_at };
        }
        Self { indexed: 0, slots: cpus.min(most).clamp(2, slots::MAX_SLOTS), index_at: 4 }
    }
}

/// CPUs whose areas take no more than a quarter of the addresses that the process may have. On a machine with hundreds of
/// CPUs the areas of all would not leave a program under `ulimit -v` much, or not even fit.
fn affordable(limit: usize) -> usize {
    (limit / 4 / (HOT_STRIDE + COLD_STRIDE)).min(MAX_CPUS)
}

/// Are restartable sequences to be had, with all that seizing needs? The offset of the best index.
#[cfg(target_arch = "x86_64")]
fn sequences() -> Option<usize> {
    const AT_RSEQ_FEATURE_SIZE: libc::c_ulong = 27;
    rseq::registered_area()?;
    register_barrier().then_some(())?;
    // The kernel says how much of an area it fills in.
    let filled = misc::auxiliary(AT_RSEQ_FEATURE_SIZE);
    Some(if filled >= rseq::MM_CID + 4 { rseq::MM_CID } else { rseq::CPU_ID })
}

#[cfg(not(target_arch = "x86_64"))]
fn sequences() -> Option<usize> {
    None
}

pub(super) const BARRIER: libc::c_int = libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ;
const REGISTER: libc::c_int = libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ;

/// Announces to the kernel that this process will restart the sequences of its threads.
pub(super) fn register_barrier() -> bool {
    let known = sys::membarrier(libc::MEMBARRIER_CMD_QUERY).unwrap_or(0);
    known & BARRIER as usize != 0 && sys::membarrier(REGISTER).is_ok()
}

/// Runs the calling thread on each CPU in turn: whoever was in the middle of a piece there was preempted,
/// and will restart. The long way round, for processes whose sandbox came to forbid the barrier.
pub(super) fn visit_all(cpus: usize) -> bool {
    let Ok((home, _)) = sys::affinity() else { return false };
    let mut visited = 0;
    for cpu in 0..cpus {
        let mut only = [0; 128];
        only[cpu / 64] = 1 << (cpu % 64);
        // Refused: the CPU is off, or outside the set that this process's threads can be on.
        visited += usize::from(sys::set_affinity(&only).is_ok());
    }
    visited > 0 && sys::set_affinity(&home).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_addresses_bounds_the_cpus() {
        assert_eq!(affordable(usize::MAX), MAX_CPUS);
        assert_eq!(affordable(0), 0);
        // 256 CPUs take 144 MiB.
        assert!(affordable(512 << 20) < 256);
        assert!(affordable(1 << 30) > 256);
        for limit in [32 << 20, 100 << 20, 1 << 30] {
            assert!(affordable(limit) * (HOT_STRIDE + COLD_STRIDE) <= limit / 4);
        }
    }
}
