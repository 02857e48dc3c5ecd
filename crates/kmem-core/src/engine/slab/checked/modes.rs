//! Which letters a cache has now, and which of its slabs have poison.
//!
//! # Theory
//! The letters of a cache may change while it is used. F and T are only a matter of what is looked at, and count for all
//! slabs at once. P decides what free objects hold: new slabs follow, and each old slab keeps what it was made with and says so in
//! its descriptor (`carved`, which this engine has no other use for).
//!
//! Z and U need room beside each object. In this engine all slabs of a cache have one geometry: the lists of a node are kept in
//! balance by counting free objects in multiples of a slab's number of them (limit, reaping), objects of all slabs meet in arrays that
//! know them by their address alone, and slots begin at colours that follow from that geometry. So these two can be left off, and taken up
//! again, by a cache that was made with them, and cannot come to one that was not.
//!
//! A cache that gets letters loses its arrays, and stays on the checked path when it loses the letters: what its slabs hold by then is
//! not what arrays may hand out.
//!
//! # Invariants
//! - I-SLABMODE-1: whether a slab has poison is constant from its creation on.
//! - I-SLABMODE-2: a cache that is checked once is checked for ever.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::engine::Switch;
use crate::engine::slab::Cache;
use crate::flags::SlabFlags;
use crate::page::Page;

/// The letters that change while a cache is used.
const LETTERS: SlabFlags = SlabFlags::DEBUG.union(SlabFlags::FAILSLAB);
/// Those that have room in a slot.
const ROOM: SlabFlags = SlabFlags::RED_ZONE.union(SlabFlags::STORE_USER);

/// The letters of a cache.
pub struct Modes {
    letters: AtomicU32,
    /// Objects go through checks.
    checked: AtomicBool,
    /// It was made with letters, and its slots with what they ask for.
    made_checked: bool,
}

impl Modes {
    /// Those of a new cache with these flags. `stacks`: free objects lie in arrays.
    pub(in crate::engine::slab) const fn new(flags: SlabFlags, stacks: bool) -> Self {
        // Stacks are what a build with checks of its own keeps, where nobody asked for letters.
        let checked = flags.intersects(SlabFlags::DEBUG) && !stacks;
        Self {
            letters: AtomicU32::new(flags.intersection(LETTERS).bits()),
            checked: AtomicBool::new(checked),
            made_checked: checked,
        }
    }
}

/// The letters now.
pub(in crate::engine::slab) fn letters(cache: &Cache) -> SlabFlags {
    // Relaxed: who sees others a moment later checks as before.
    SlabFlags::from_bits_retain(cache.own.modes.letters.load(Ordering::Relaxed))
}

/// What is checked now.
pub(super) fn flags_now(cache: &Cache) -> SlabFlags {
    (cache.geometry.flags - LETTERS) | letters(cache)
}

/// Objects go through checks: the cache has letters, or had some, and none of what makes checks impossible.
#[inline]
pub(in crate::engine::slab) fn is_checked(cache: &Cache) -> bool {
    // Acquire pairs with the Release of `switch`: who works on the checked path sees that there are no arrays.
    cache.own.modes.checked.load(Ordering::Acquire)
}

/// Marks a new slab of a checked cache: has it poison? Not where a destructor will want to see what the constructor made.
pub(in crate::engine::slab) fn mark(cache: &Cache, slab: &Page) -> bool {
    let poisoned = letters(cache).contains(SlabFlags::POISON) && cache.dtor.is_none();
    slab.carved.store(poisoned.into(), Ordering::Relaxed);
    poisoned
}

/// A slab of a checked cache is given up: its pages may become one of a cache that writes no marks.
pub(in crate::engine::slab) fn unmark(slab: &Page) {
    slab.carved.store(0, Ordering::Relaxed);
}

/// Free objects of this slab are filled with poison.
pub(super) fn is_poisoned_slab(slab: &Page) -> bool {
    slab.carved.load(Ordering::Relaxed) != 0
}

/// The letters that a cache may be given while it is used.
pub(in crate::engine::slab) fn switchable(cache: &Cache) -> SlabFlags {
    let flags = cache.geometry.flags;
    let room = if cache.own.modes.made_checked { ROOM & flags } else { SlabFlags::empty() };
    let mut all = (LETTERS - ROOM) | room;
    // Free objects that are still read keep their contents.
    if flags.contains(SlabFlags::TYPESAFE_BY_RCU) {
        all -= SlabFlags::POISON;
    }
    all
}

/// Gives a cache other letters. It must be flushed afterwards.
pub(in crate::engine::slab) fn switch(cache: &Cache, switch: &Switch<'_>) {
    let modes = &cache.own.modes;
    modes.letters.store((switch.letters & switchable(cache)).bits(), Ordering::Relaxed);
    // Relaxed: a wish for the next array; what is in arrays now goes back when they are flushed.
    cache.capacity.store(0, Ordering::Relaxed);
    modes.checked.store(true, Ordering::Release);
}
