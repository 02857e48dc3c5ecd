//! The heap across a fork.
//!
//! # Theory
//! A child has one thread, and no lock may be held there by another that it does not have. So before a fork all locks of
//! the heap are taken, in their order, and given back on both sides. Who loads the heap as a library registers the handlers at
//! the right moment itself ([`take_over_forks`]); a program that uses it as its allocator has nobody else to do it.

use core::sync::atomic::{AtomicBool, Ordering};

use super::{HEAP, MADE, heap};
use crate::debugging;
use crate::fault;
use crate::live;

/// Set when somebody calls [`prefork`] and its companions without being asked.
static FORKS_HANDLED: AtomicBool = AtomicBool::new(false);

/// Says that the caller registers fork handlers itself: the heap then registers none of its own. For libraries that know
/// better when to register: handlers that were registered later run before ours and may allocate.
/// False when it is too late: the heap was made before and has its handlers, and the caller must do nothing.
pub fn take_over_forks() -> bool {
    // Relaxed: said by a constructor, before there are threads.
    !FORKS_HANDLED.swap(true, Ordering::Relaxed)
}

/// A program that uses this heap as its allocator has nobody else to do it.
pub(super) fn register_fork_handlers() {
    if FORKS_HANDLED.swap(true, Ordering::Relaxed) {
        return;
    }
    extern "C" fn before() {
        prefork();
    }
    extern "C" fn parent() {
        postfork_parent();
    }
    extern "C" fn child() {
        postfork_child();
    }
    debugging::register_exit();
    // SAFETY: the handlers are functions of this program, or of a library that is never unloaded. Without memory for
    // the registration a fork is as safe as the moment it happens at.
    unsafe { libc::pthread_atfork(Some(before), Some(parent), Some(child)) };
}

/// Before a fork: no other thread is inside the heap when this returns.
pub fn prefork() {
    if let Some(heap) = heap() {
        heap.lock_for_fork();
        heap.platform().prefork();
    }
}

/// After a fork, in the parent. Pairs with [`prefork`].
pub fn postfork_parent() {
    if MADE.load(Ordering::Acquire) {
        // SAFETY: pairs with `prefork` on the same thread.
        unsafe {
            HEAP.platform().postfork_parent();
            HEAP.unlock_after_fork();
        }
    }
}

/// After a fork, in the child. Pairs with [`prefork`].
pub fn postfork_child() {
    if MADE.load(Ordering::Acquire) {
        // SAFETY: pairs with `prefork` on the thread this one is the copy of.
        unsafe {
            HEAP.platform().postfork_child();
            HEAP.unlock_after_fork();
        }
        debugging::after_fork_child();
        fault::forked();
        live::after_fork_child();
    }
}
