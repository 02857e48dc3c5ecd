//! talc behind a lock that spins and yields, on mappings of the system's.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicBool, Ordering};

use talc::{TalcLock, source::GlobalAllocSource};

/// Anonymous mappings.
#[derive(Debug)]
pub struct Mappings;

// SAFETY: a mapping is as long as was asked for, aligned to a page, and nobody else's.
unsafe impl GlobalAlloc for Mappings {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        assert!(layout.align() <= 4096);
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh mapping touches nothing that exists.
        let block = unsafe { libc::mmap(std::ptr::null_mut(), layout.size(), access, kind, -1, 0) };
        if block == libc::MAP_FAILED { std::ptr::null_mut() } else { block.cast() }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise: a mapping of this length.
        unsafe { libc::munmap(block.cast(), layout.size()) };
    }
}

/// Spins a while, then lets others run: with more threads than CPUs, the holder may not be running.
pub struct Spin(AtomicBool);

// SAFETY: the exchange lets one in.
unsafe impl lock_api::RawMutex for Spin {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        let mut turns = 0u32;
        while !self.try_lock() {
            turns += 1;
            if turns % 64 == 0 {
                // SAFETY: no arguments.
                unsafe { libc::sched_yield() };
            } else {
                std::hint::spin_loop();
            }
        }
    }

    fn try_lock(&self) -> bool {
        // Acquire pairs with the Release of `unlock`.
        !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::Acquire)
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

pub static HEAP: TalcLock<Spin, GlobalAllocSource<Mappings>> =
    TalcLock::new(GlobalAllocSource::new(Mappings));
