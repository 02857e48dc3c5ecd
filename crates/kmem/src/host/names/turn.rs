//! Whose turn it is to look something up.

use core::sync::atomic::{AtomicU64, Ordering};

use super::PATIENCE;
use crate::host::{misc, sys};

/// Process and thread that look something up now; 0: nobody.
static HOLDER: AtomicU64 = AtomicU64::new(0);

/// The right to use what all lookups share.
pub(super) struct Turn(());

impl Turn {
    /// Waits for the turn. `None`: this thread has it already (a signal handler interrupted it), or nobody gave it back in time.
    pub(super) fn take() -> Option<Self> {
        let process = u64::from(sys::process()) << 32;
        let me = process | u64::from(misc::thread_token());
        let start = misc::now();
        let mut seen = 0;
        loop {
            // Acquire pairs with the Release of `drop`: the last holder's writes to the buffers are over.
            match HOLDER.compare_exchange(seen, me, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(Self(())),
                Err(holder) if holder == me => return None,
                // Held at a fork by a thread that is not here: it is taken over.
                Err(holder) if holder != 0 && holder >> 32 != process >> 32 => seen = holder,
                Err(_) if misc::now().wrapping_sub(start) > PATIENCE => return None,
                Err(_) => {
                    seen = 0;
                    sys::pause();
                }
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        HOLDER.store(0, Ordering::Release);
    }
}
