//! Blocks that wait after their free (`KMEM_QUARANTINE`).
//!
//! # Theory
//! A freed block is handed out again soon, and a dangling pointer then reads and writes another's memory unseen. Here a freed block
//! first takes a place in the ring of its class, and the block that had the place is freed in its stead: so each waits until as
//! many others of its class were freed as the ring has places. It is zero and its state is free meanwhile, so what is written to it
//! is seen when it is handed out at last, and a second free at once.
//!
//! The bytes that may wait are shared out to the classes in equal parts; a class of longer blocks than its part does not wait.
//! Blocks beyond the classes wait in any case (`host/apart.rs`).
//!
//! # Invariants
//! - I-WAIT-1: a block in a ring belongs to the ring: whoever takes it out by an exchange owns it.
//!
//! # Never
//! No lock is taken: a signal handler may free, and a fork finds nothing half done.

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use kmem_core::kmalloc::classes::ClassSet;
use kmem_core::platform::{PAGE_SIZE, Platform};
use kmem_core::report;

use super::words::WORDS;
use crate::engine::Classes;
use crate::heap::HEAP;
use crate::host::misc;

/// The places of a class.
struct Ring {
    places: AtomicPtr<AtomicPtr<u8>>,
    /// How many less one: they are a power of two.
    mask: AtomicU32,
    next: AtomicU32,
}

static RINGS: [Ring; Classes::COUNT] = [const {
    Ring { places: AtomicPtr::new(core::ptr::null_mut()), mask: AtomicU32::new(0), next: AtomicU32::new(0) }
}; Classes::COUNT];

/// Blocks wait.
static ON: AtomicBool = AtomicBool::new(false);

/// Places of a class whose blocks have `size` bytes, if `bytes` in all may wait: a power of two, or none.
const fn places(bytes: usize, size: usize) -> usize {
    match bytes / Classes::COUNT / size {
        0 => 0,
        fit if fit > 1 << 30 => 1 << 30,
        fit => 1 << fit.ilog2(),
    }
}

/// Reads what the environment asks for. The heap is being made.
///
/// # Safety
/// As [`misc::getenv`].
pub(super) unsafe fn start() {
    // SAFETY: the caller's promise.
    let Some(text) = (unsafe { misc::getenv("KMEM_QUARANTINE") }).filter(|text| !text.is_empty()) else {
        return;
    };
    let platform = HEAP.platform();
    let Some(bytes) = parse(text) else {
        report::say(
            platform,
            format_args!("kmem: KMEM_QUARANTINE is a number of bytes, like 1048576, 512k or 8M"),
        );
        return;
    };
    let all: usize = (0..Classes::COUNT).map(|class| places(bytes, Classes::size_of(class))).sum();
    if all == 0 {
        return;
    }
    let Some(memory) =
        platform.map((all * size_of::<AtomicPtr<u8>>()).next_multiple_of(PAGE_SIZE), PAGE_SIZE)
    else {
        report::say(platform, format_args!("kmem: no memory for a quarantine"));
        return;
    };
    let mut at = memory.as_ptr().cast::<AtomicPtr<u8>>();
    for (class, ring) in RINGS.iter().enumerate() {
        let places = places(bytes, Classes::size_of(class));
        if places > 0 {
            // Relaxed: published with the heap.
            ring.places.store(at, Ordering::Relaxed);
            ring.mask.store(places as u32 - 1, Ordering::Relaxed);
            at = at.wrapping_add(places);
        }
    }
    ON.store(true, Ordering::Relaxed);
    WORDS.specially();
}

/// A number of bytes; `k`, `M` and `G` multiply.
fn parse(text: &[u8]) -> Option<usize> {
    let (digits, shift) = match text.split_last()? {
        (b'k' | b'K', digits) => (digits, 10),
        (b'm' | b'M', digits) => (digits, 20),
        (b'g' | b'G', digits) => (digits, 30),
        _ => (text, 0),
    };
    let number: usize = core::str::from_utf8(digits).ok()?.parse().ok()?;
    number.checked_mul(1 << shift)
}

/// Blocks wait.
#[inline(always)]
pub(super) fn on() -> bool {
    // Relaxed: constant once the heap is made.
    ON.load(Ordering::Relaxed)
}

/// Has a free block of a class wait. Returns the block that it takes the place of, now the caller's; null: none.
#[inline]
pub(super) fn wait(block: *mut u8, class: usize) -> *mut u8 {
    let ring = &RINGS[class];
    let places = ring.places.load(Ordering::Relaxed);
    if places.is_null() {
        return block;
    }
    let at = ring.next.fetch_add(1, Ordering::Relaxed) & ring.mask.load(Ordering::Relaxed);
    // SAFETY: the ring has more places than the mask says at most, and they stay mapped.
    let place = unsafe { &*places.wrapping_add(at as usize) };
    // Release publishes the block's zeros to whoever takes it out; Acquire pairs with that.
    place.swap(block, Ordering::AcqRel)
}

/// Takes all blocks out, by class: memory is short.
pub(super) fn empty(mut give: impl FnMut(*mut u8)) {
    if !on() {
        return;
    }
    for ring in &RINGS {
        let places = ring.places.load(Ordering::Relaxed);
        if places.is_null() {
            continue;
        }
        for at in 0..=ring.mask.load(Ordering::Relaxed) as usize {
            // SAFETY: as in `wait`.
            let block = unsafe { &*places.wrapping_add(at) }.swap(core::ptr::null_mut(), Ordering::Acquire);
            if !block.is_null() {
                give(block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_numbers_with_a_letter() {
        assert_eq!(parse(b"4096"), Some(4096));
        assert_eq!(
            (parse(b"512k"), parse(b"8M"), parse(b"1g")),
            (Some(512 << 10), Some(8 << 20), Some(1 << 30))
        );
        for bad in [&b""[..], b"k", b"-1", b"1kb", b"99999999999999999999", b"99999999999G"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn no_more_than_the_bytes_wait() {
        for bytes in [0, 1, 4096, 1 << 20, 1 << 30] {
            let sum: usize =
                Classes::SIZES.iter().map(|&size| places(bytes, size as usize) * size as usize).sum();
            assert!(sum <= bytes);
            assert!(places(bytes, 16) == 0 || places(bytes, 16).is_power_of_two());
        }
        assert!(places(1 << 20, 64) >= 64);
        assert_eq!(places(1 << 20, 1 << 20), 0);
    }
}
