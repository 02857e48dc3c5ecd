//! Whether somebody may keep free objects of a cache for himself.
//!
//! # Theory
//! Who keeps free objects at his own hand and hands them out again (`kmem::Sheaf`) does so behind the cache's back. That must
//! end at once when the cache is to see each object: when its debug letters change, when a rule of fault injection may hit it, while
//! a guarded object of it is in use. Each cache has a word for that, which stays where it is as long as the cache lives: 0 while
//! objects may be kept, a large number otherwise. So one comparison answers two questions ([`Gate::lets_in`]): may
//! an object be kept, and is there room for it.
//!
//! # Invariants
//! - I-GATE-1: the gate is shut before the first object is made that must not be kept. For letters that is for good.

use core::sync::atomic::{AtomicUsize, Ordering};

/// The letters were changed.
const LETTERS: usize = 1 << (usize::BITS - 1);
/// A rule may hit the cache.
const RULE: usize = 1 << (usize::BITS - 2);
/// Guarded objects are counted from here on.
const GUARDED: usize = 1 << (usize::BITS / 2);

/// More room than anybody may have: less than what any reason to be shut adds.
pub const MOST_ROOM: usize = GUARDED - 1;

/// What those look at who keep free objects of a cache.
///
/// All accesses are relaxed: whoever gives back an object got it from somebody who was told (I-GATE-1), and who is late by a
/// moment was before the change.
pub struct Gate(AtomicUsize);

impl Gate {
    /// A gate that nobody opens.
    #[must_use]
    pub const fn shut() -> Self {
        Self(AtomicUsize::new(LETTERS))
    }

    pub(crate) const fn new(rule: bool) -> Self {
        Self(AtomicUsize::new(if rule { RULE } else { 0 }))
    }

    /// An object that comes back may be kept by somebody who has room for so many more, at most [`MOST_ROOM`].
    #[inline(always)]
    pub fn lets_in(&self, room: usize) -> bool {
        room > self.0.load(Ordering::Relaxed)
    }

    /// Objects may be kept.
    pub fn is_open(&self) -> bool {
        self.lets_in(1)
    }

    /// A guarded object is about to come into use.
    pub fn guarded(&self) {
        self.0.fetch_add(GUARDED, Ordering::Relaxed);
    }

    /// It went out of use. Once for each call of [`Gate::guarded`].
    pub fn unguarded(&self) {
        self.0.fetch_sub(GUARDED, Ordering::Relaxed);
    }

    /// A rule may hit the cache from now on, or none may.
    pub(crate) fn set_rule(&self, rule: bool) {
        if rule {
            self.0.fetch_or(RULE, Ordering::Relaxed);
        } else {
            self.0.fetch_and(!RULE, Ordering::Relaxed);
        }
    }

    /// The letters are about to change.
    pub(crate) fn shut_for_letters(&self) {
        self.0.fetch_or(LETTERS, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_open_when_nothing_shuts_it() {
        let gate = Gate::new(true);
        assert!(!gate.is_open() && !gate.lets_in(MOST_ROOM));
        gate.guarded();
        gate.set_rule(false);
        assert!(!gate.lets_in(MOST_ROOM), "a guarded object");
        gate.guarded();
        gate.unguarded();
        assert!(!gate.lets_in(MOST_ROOM), "another one");
        gate.set_rule(true);
        gate.unguarded();
        assert!(!gate.lets_in(MOST_ROOM), "a rule again");
        gate.set_rule(false);
        assert!(gate.is_open() && gate.lets_in(1) && !gate.lets_in(0));
        gate.shut_for_letters();
        gate.set_rule(true);
        gate.set_rule(false);
        assert!(!gate.lets_in(MOST_ROOM), "for good");
        assert!(!Gate::shut().lets_in(MOST_ROOM));
    }
}
