//! The wait queue of a machine's locks, and the judge of their order.
//!
//! All sleepers of a machine share one condition variable: simulated machines are small, and a spare
//! wake-up costs a look at a word. The mutex closes the gap between looking and sleeping: a waker
//! changes the word before it takes the mutex, a sleeper looks while it holds it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Waiting longer than this for an owner that never changes is called a deadlock.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct WaitQueue {
    mutex: Mutex<()>,
    changed: Condvar,
}

impl WaitQueue {
    /// Sleeps while `word` holds `value`; returns false when it still does after a minute.
    pub(crate) fn wait(&self, word: &AtomicU32, value: u32) -> bool {
        let guard = self.mutex.lock().unwrap_or_else(PoisonError::into_inner);
        // Relaxed: the mutex orders this load after the store of a waker that has been here, and the
        // lock's own compare-and-swap acquires.
        let same = |_: &mut ()| word.load(Ordering::Relaxed) == value;
        let (_guard, timeout) =
            self.changed.wait_timeout_while(guard, PATIENCE, same).unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }

    /// Wakes every sleeper; each looks at its own word.
    pub(crate) fn wake(&self) {
        drop(self.mutex.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}
