//! Resident size of a million small blocks, at the peak and after they are gone.

use super::{give, small, take};

const BLOCKS: usize = 1_000_000;

/// Allocates and fills a million blocks of 64 bytes, frees them, and returns the resident size at the peak, in MiB.
fn build() -> f64 {
    // The table is a mapping of its own in every allocator; it is subtracted, as it is not the matter.
    let mut table: Vec<*mut u8> = vec![std::ptr::null_mut(); BLOCKS];
    for slot in &mut table {
        *slot = take(64);
        // SAFETY: the block is 64 bytes long.
        unsafe { (*slot).write_bytes(0x5a, 64) };
    }
    let peak = status("VmRSS:") - (BLOCKS * size_of::<*mut u8>()) as f64 / f64::from(1 << 20);
    for &block in &table {
        // SAFETY: each is live and freed once.
        unsafe { give(block) };
    }
    peak
}

pub(super) fn peak() -> f64 {
    build()
}

pub(super) fn after() -> f64 {
    build();
    status("VmRSS:")
}

pub(super) fn later() -> f64 {
    build();
    std::thread::sleep(std::time::Duration::from_secs(1));
    // Allocators that give memory back in the course of later requests get the occasion.
    let mut set = small::Set::new(1);
    set.replace(100_000);
    drop(set);
    status("VmRSS:")
}

/// A line of this process's status, in MiB.
pub(crate) fn status(key: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel tells resident sizes");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib / 1024.0
}
