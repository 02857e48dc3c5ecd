//! Fork: the child gets a copy of the memory, but none of the threads that were changing it.
//!
//! Before a fork every lock of this floor is taken, so that no other thread is in the middle of anything;
//! parent and child release them again. Pages in the hands of other threads at that moment are lost to the child: a
//! batch at most for each thread.

use super::Pages;
use crate::platform::Platform;

impl<P: Platform> Pages<P> {
    /// True when the calling thread holds a lock of this floor: it is in a signal handler that interrupted the owner, and
    /// must not call anything here.
    pub fn held_by_caller(&self, p: &P) -> bool {
        (0..p.cpus()).filter_map(|cpu| self.cpu_lists(cpu)).any(|cpu| cpu.lists.held_by_caller(p))
            || self.ended.held_by_caller(p)
            || self.zones.iter().any(|zone| zone.areas.held_by_caller(p))
    }

    /// Takes every lock, in rank order; within a rank by number. Locks that this thread holds already (a signal
    /// handler forks) are left to it. Pair with [`Pages::unlock_after_fork`].
    pub fn lock_for_fork(&self, p: &P) {
        self.ended.lock_for_fork(p);
        for cpu in 0..p.cpus() {
            if let Some(cpu) = self.cpu_lists(cpu) {
                cpu.lists.lock_for_fork(p);
            }
        }
        for zone in &self.zones {
            zone.areas.lock_for_fork(p);
        }
    }

    /// Releases what [`Pages::lock_for_fork`] took, in the parent and in the child.
    ///
    /// # Safety
    /// After [`Pages::lock_for_fork`], by the same thread or by its copy in the child.
    pub unsafe fn unlock_after_fork(&self, p: &P) {
        for zone in self.zones.iter().rev() {
            // SAFETY: the caller's promise.
            unsafe { zone.areas.unlock_after_fork(p) };
        }
        for cpu in (0..p.cpus()).rev() {
            if let Some(cpu) = self.cpu_lists(cpu) {
                // SAFETY: as above.
                unsafe { cpu.lists.unlock_after_fork(p) };
            }
        }
        // SAFETY: as above.
        unsafe { self.ended.unlock_after_fork(p) };
    }
}
