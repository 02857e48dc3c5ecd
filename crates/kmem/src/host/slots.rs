//! The portable way to own a CPU: pretend to have one.
//!
//! What for: threads that have no restartable sequences (older kernels and C libraries, valgrind,
//! some sandboxes, threads the C library does not know) still need a stack of free objects near
//! them. Each gets a *slot*, which is to the core just another CPU, and takes the slot's lock for the few
//! instructions of an operation. Threads are dealt to slots in turn, so few threads share none.
//!
//! A slot is also the thread's area in the sense of [`super::rseq`]: its CPU number is -1 (I-RSEQ-3),
//! so that the fast path fails over to here, and its address in the thread's word tells the slot.
//! That keeps such threads from storing all to the one `NO_AREA`.
//!
//! # Invariants
//! - I-SLOT-1: a stack of slot `s` is touched only under the lock of `s`; its commit is one store all
//!   the same, so a fork between any two instructions leaves a sound stack in the child.
//! - I-SLOT-2: nothing is called under a slot's lock.
//!
//! # Signals
//! A handler that interrupted an operation of its own thread finds its own token in the lock. It is
//! told that the slot cannot be had, and takes the slow path as if the stack were empty and full.

use core::hint::spin_loop;
#[cfg(target_arch = "x86_64")]
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::{AtomicU32, Ordering, compiler_fence};

use super::{misc, sys, weak};

/// How many slots there can be.
pub(super) const MAX_SLOTS: usize = 64;

const WAITERS: u32 = 1 << 31;
const SPINS: u32 = 100;

/// One slot, on a cache line of its own.
#[repr(C, align(64))]
pub(super) struct Slot {
    /// What the fast path takes for an area: the CPU numbers at 4 and 24 are -1, the rest is scratch.
    area: [AtomicU32; 8],
    /// Token of the owner, and a bit when somebody sleeps.
    lock: AtomicU32,
}

impl Slot {
    const fn new() -> Self {
        let mut area = [const { AtomicU32::new(0) }; 8];
        area[1] = AtomicU32::new(u32::MAX);
        area[6] = AtomicU32::new(u32::MAX);
        Self { area, lock: AtomicU32::new(0) }
    }
}

// One set for the process: a thread has one word, whatever the number of heaps.
static SLOTS: [Slot; MAX_SLOTS] = [const { Slot::new() }; MAX_SLOTS];
#[cfg(target_arch = "x86_64")]
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Chooses a slot for a new thread; the address of its area.
#[cfg(target_arch = "x86_64")]
pub(super) fn deal(slots: usize) -> usize {
    // Relaxed: a ticket, nothing else hangs on it.
    let slot = NEXT.fetch_add(1, Ordering::Relaxed) % slots;
    &raw const SLOTS[slot] as usize
}

/// The slot whose area this is.
#[inline]
#[cfg(target_arch = "x86_64")]
pub(super) fn of_area(area: usize) -> Option<usize> {
    let offset = area.wrapping_sub(&raw const SLOTS as usize);
    (offset < size_of_val(&SLOTS)).then_some(offset / size_of::<Slot>())
}

/// The slot of a thread where threads have no word: by a hash of its token.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn of_token(token: u32, slots: usize) -> usize {
    let hash = token.wrapping_mul(0x9e37_79b1);
    ((u64::from(hash) * slots as u64) >> 32) as usize
}

/// Runs `work` as the owner of a slot. `None` when this very thread is below us inside the slot: a signal
/// interrupted it.
#[inline]
pub(super) fn with<R>(slot: usize, work: impl FnOnce() -> R) -> Option<R> {
    let lock = &SLOTS[slot].lock;
    let token = misc::thread_token();
    if alone() {
        // One thread, so no other can be between these two steps; a signal handler that comes
        // between finishes before we go on.
        match lock.load(Ordering::Relaxed) {
            0 => {
                lock.store(token, Ordering::Relaxed);
                // The fences keep the compiler from moving the work out; a handler sees program order.
                compiler_fence(Ordering::SeqCst);
                let result = work();
                compiler_fence(Ordering::SeqCst);
                lock.store(0, Ordering::Relaxed);
                return Some(result);
            }
            owner if owner & !WAITERS == token => return None,
            _ => {}
        }
    }
    // Acquire pairs with the Release of `release`.
    if let Err(seen) = lock.compare_exchange(0, token, Ordering::Acquire, Ordering::Relaxed) {
        if seen & !WAITERS == token {
            return None;
        }
        acquire_slow(lock, token);
    }
    let result = work();
    release(lock);
    Some(result)
}

/// The caller is below an operation on a slot: a signal interrupted it there.
#[cfg(target_arch = "x86_64")]
pub(super) fn is_owner() -> bool {
    let token = misc::thread_token();
    SLOTS.iter().any(|slot| slot.lock.load(Ordering::Relaxed) & !WAITERS == token)
}

#[inline]
fn alone() -> bool {
    let flag = weak::single_threaded();
    // SAFETY: a byte of the C library that lives as long as the process. It changes only in calls that
    // this very thread makes while it is the only one.
    !flag.is_null() && unsafe { flag.read_volatile() } != 0
}

#[cold]
#[inline(never)]
fn acquire_slow(lock: &AtomicU32, token: u32) {
    for _ in 0..SPINS {
        // Acquire pairs with the Release of `release`.
        if lock.load(Ordering::Relaxed) == 0
            && lock.compare_exchange(0, token, Ordering::Acquire, Ordering::Relaxed).is_ok()
        {
            return;
        }
        spin_loop();
    }
    loop {
        // Acquire as above. The bit stays set for others that may sleep: at worst one spare wake-up.
        match lock.compare_exchange(0, token | WAITERS, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return,
            Err(seen) => {
                let marked = seen | WAITERS;
                if seen == marked
                    || lock.compare_exchange(seen, marked, Ordering::Relaxed, Ordering::Relaxed).is_ok()
                {
                    sys::futex_wait(lock, marked);
                }
            }
        }
    }
}

#[inline]
fn release(lock: &AtomicU32) {
    // Release pairs with the Acquire of the next owner.
    if lock.swap(0, Ordering::Release) & WAITERS != 0 {
        sys::futex_wake(lock);
    }
}

/// In the child of a fork: owners other than this thread do not exist here.
pub(super) fn forget_owners() {
    let token = misc::thread_token();
    for slot in &SLOTS {
        // Relaxed: there is one thread.
        if slot.lock.load(Ordering::Relaxed) & !WAITERS == token {
            // An interrupted frame below the fork owns it and will release it.
            slot.lock.store(token, Ordering::Relaxed);
        } else {
            slot.lock.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_told_and_others_wait() {
        let slot = MAX_SLOTS - 1;
        let inside = with(slot, || is_owner() && with(slot, || ()).is_none());
        assert!(!is_owner());
        assert_eq!(inside, Some(true));
        let count = core::cell::UnsafeCell::new(0u64);
        struct Shared<'a>(&'a core::cell::UnsafeCell<u64>);
        // SAFETY: the test reaches the value only as owner of the slot.
        unsafe impl Sync for Shared<'_> {}
        let shared = Shared(&count);
        let shared = &shared;
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        // SAFETY: under the slot's lock.
                        with(slot, || unsafe { *shared.0.get() += 1 }).expect("not re-entered");
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 160_000);
    }

    #[test]
    fn areas_look_unregistered() {
        for slot in &SLOTS {
            let area = slot as *const Slot as usize;
            // SAFETY: a static area.
            let words = unsafe { core::slice::from_raw_parts(area as *const AtomicU32, 8) };
            assert_eq!(words[1].load(Ordering::Relaxed), u32::MAX);
            assert_eq!(words[6].load(Ordering::Relaxed), u32::MAX);
        }
    }
}
