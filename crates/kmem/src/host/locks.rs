//! How many locks of the heap this thread holds, or is about to take.
//!
//! # Theory
//! A signal handler that is to use the heap must know whether the code that it interrupted holds a lock, or was itself called by a handler
//! that interrupted such code: to wait for it would be for ever. Where that code is in the moment does not tell; so each thread
//! counts. The count is one instruction before a lock and one behind, on slow paths only.
//!
//! # Invariants
//! - I-LOCKS-1: a thread whose count is 0 holds no [`Lock`](kmem_core::sync::Lock) of any heap: the count is one too high for a moment rather than
//!   one too low.
//!
//! # Never
//! Anything but the thread's own word, which lies in the static part of its data: no access allocates.

#[cfg(target_arch = "x86_64")]
super::word::thread_word!("kmem_thread_locks", count);

/// Adds to the thread's count. One instruction adds: a handler that comes between any two leaves what it found.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn add<const N: i32>() {
    // SAFETY: writes the thread's own word.
    unsafe {
        core::arch::asm!(
            "mov {a}, qword ptr [rip + kmem_thread_locks@GOTTPOFF]",
            "add dword ptr fs:[{a}], {n}",
            a = out(reg) _,
            n = const N,
            options(nostack),
        );
    }
}

/// A lock is about to be taken.
#[inline(always)]
pub(super) fn enter() {
    #[cfg(target_arch = "x86_64")]
    add::<1>();
}

/// It was released, or could not be had.
#[inline(always)]
pub(super) fn exit() {
    #[cfg(target_arch = "x86_64")]
    add::<-1>();
}

/// The thread holds no lock.
#[cfg(target_arch = "x86_64")]
pub(super) fn none() -> bool {
    count() == 0
}

#[cfg(target_arch = "x86_64")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;
    use kmem_core::sync::Lock;

    #[test]
    fn a_thread_knows_its_own_locks() {
        static LOCK: Lock<u32, 1> = Lock::new(0);
        static OTHER: Lock<u32, 2> = Lock::new(0);
        let host = Host::new();
        assert!(none());
        let first = LOCK.lock(&host);
        let second = OTHER.lock(&host);
        assert!(!none());
        assert!(LOCK.try_lock(&host).is_none() && !none());
        std::thread::scope(|scope| scope.spawn(|| assert!(none(), "another thread's")).join().unwrap());
        drop(first);
        assert!(!none(), "one is left");
        drop(second);
        assert!(none());
        LOCK.lock_for_fork(&host);
        assert!(!none());
        // SAFETY: taken above.
        unsafe { LOCK.unlock_after_fork(&host) };
        assert!(none());
    }
}
