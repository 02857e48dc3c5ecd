//! Resident size of many small blocks, at the peak and after most or all of them are gone; and what growing costs.

use std::time::Duration;

use super::{give, small, take};
use crate::clock::{Random, now, pin};

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
    std::thread::sleep(Duration::from_secs(1));
    // Allocators that give memory back in the course of later requests get the occasion.
    let mut set = small::Set::new(1);
    set.replace(100_000);
    drop(set);
    status("VmRSS:")
}

/// Two seconds in which the program does nothing.
pub(super) fn quiet() -> f64 {
    build();
    std::thread::sleep(Duration::from_secs(2));
    status("VmRSS:")
}

/// Blocks of 16 to 1024 bytes of which the newest tenth stays: what is resident two seconds and some small work after the rest
/// was freed.
pub(super) fn ebb() -> f64 {
    left_of(|at, _| at >= MANY / 10 * 9)
}

/// The same, and the tenth that stays is a random one: holes are what is left over.
pub(super) fn holes() -> f64 {
    left_of(|_, random| random.below(10) == 0)
}

/// Blocks of [`left_of`].
const MANY: usize = 200_000;

/// What the blocks hold that stay, in MiB.
fn left_of(stays: impl Fn(usize, &mut Random) -> bool) -> f64 {
    let mut random = Random(21);
    let mut table: Vec<*mut u8> = vec![std::ptr::null_mut(); MANY];
    // The table's own pages are not the matter.
    table.iter_mut().for_each(|slot| *slot = std::ptr::dangling_mut());
    let before = status("VmRSS:");
    for slot in &mut table {
        let size = 16 + random.below(1009);
        *slot = take(size);
        // SAFETY: the block is `size` bytes long.
        unsafe { slot.write_bytes(0x5a, size) };
    }
    for (at, &block) in table.iter().enumerate() {
        if !stays(at, &mut random) {
            // SAFETY: each is live and freed once.
            unsafe { give(block) };
        }
    }
    settle();
    std::hint::black_box(&table);
    status("VmRSS:") - before
}

/// Two seconds, and work enough that allocators which give memory back in the course of later requests get the occasion.
fn settle() {
    std::thread::sleep(Duration::from_secs(2));
    small::Set::of(1000, 1).replace(100_000);
}

/// A heap that grows from nothing to so many MiB of blocks of this size, each written whole; per block.
pub(super) fn growing<const SIZE: usize, const MIB: usize>() -> f64 {
    let blocks = (MIB << 20) / SIZE;
    pin();
    let mut table: Vec<*mut u8> = vec![std::ptr::null_mut(); blocks];
    // The table's own pages are not the matter.
    table.iter_mut().for_each(|slot| *slot = std::ptr::dangling_mut());
    let start = now();
    for slot in &mut table {
        *slot = take(SIZE);
        // SAFETY: the block is `SIZE` bytes long.
        unsafe { slot.write_bytes(0x5a, SIZE) };
    }
    let time = now() - start;
    std::hint::black_box(&table);
    time.as_secs_f64() * 1e9 / blocks as f64
}

/// A line of this process's status, in MiB.
pub(crate) fn status(key: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel tells resident sizes");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib / 1024.0
}
