//! Checked caches: SLAB with words around its objects, poison in the free ones, and a look at both at each step.
//!
//! # Theory
//! A cache with a debug letter has no arrays: its objects come from and go to their slabs one by one, under the lock of the
//! slab's node, and are checked there.
//! - *Red zones* (Z) are a word on each side of an object. It says whether the object is in use, so one that was written over
//!   tells of a write past the ends, and one that says the wrong thing of a second free.
//! - *Poison* (P) fills free objects; what differs when the object is handed out was written after the free. The new owner
//!   finds another filling, or what the constructor made, which then runs for each owner anew.
//! - *Tracks* (U) say who allocated and who freed an object last. A build with checks of its own (`Rules::debug`) has one word
//!   instead, the last caller's address.
//! - *Consistency checks* (F) walk a slab's index at each step.
//! - *Trace* (T) prints each allocation and free.
//!
//! Whether an object is free is told by the slab's index, which lies outside of objects in use. So a second free is
//! found by every checked cache, whatever its letters.
//!
//! # What happens to damage
//! As in the kernel it is reported, and the object goes its way; words and fillings are restored by the step that found
//! them. An object that is free already, or whose slab's index cannot be trusted, stays what it is.
//!
//! # Invariants
//! - I-SLABCHECK-1: the words and the filling of an object change under the lock of its slab's node, or before anybody else
//!   knows the slab.
//! - I-SLABCHECK-2: of an object that the index calls free, both words are inactive and the bytes are poison, but for the
//!   one object that holds the index.
//! - I-SLABCHECK-3: no memory is fetched, no stack saved and no constructor run under that lock.

mod check;
mod layout;
mod modes;
mod say;
mod step;
mod walk;

pub(super) use layout::lay_out;
pub use modes::Modes;
pub(super) use modes::{is_checked, letters, mark, switch, switchable, unmark};
pub(super) use step::{alloc_many, free_many};
pub(super) use walk::{before_discard, check_all, invalid_free, print_tracks, visit_tracks};

use core::sync::atomic::Ordering;

use crate::debug::Reporter;
use crate::engine::slab::{Cache, Floor, desc};
use crate::flags::SlabFlags;
use crate::page::Page;
use crate::platform::{PAGE_SIZE, Platform};

/// A slab of a checked cache (I-SLABCHECK-1).
#[derive(Clone, Copy)]
struct Checked<'a, P: Platform> {
    floor: Floor<'a, P>,
    cache: &'a Cache,
    slab: &'a Page,
    flags: SlabFlags,
    /// The slab's pages.
    base: usize,
    len: usize,
    /// Address of object 0.
    first: usize,
    report: Reporter<'a, P>,
}

impl<'a, P: Platform> Checked<'a, P> {
    /// Looks at a slab. The caller holds the lock of its node, or is the only one who knows it.
    fn new(floor: Floor<'a, P>, cache: &'a Cache, slab: &'a Page) -> Self {
        let base = floor.pages.address(slab) as usize;
        Self {
            floor,
            cache,
            slab,
            flags: modes::flags_now(cache),
            base,
            len: match cache.exact_pages {
                0 => PAGE_SIZE << cache.geometry.order,
                pages => pages * PAGE_SIZE,
            },
            first: base + desc::lead(slab) + cache.geometry.red_left_pad,
            report: floor.reporter(cache),
        }
    }

    fn has(&self, letter: SlabFlags) -> bool {
        self.flags.contains(letter)
    }

    /// Free objects of this slab are filled with poison, whether that is looked at now or not (I-SLABMODE-1).
    fn is_poisoned(&self) -> bool {
        modes::is_poisoned_slab(self.slab)
    }

    fn objects(&self) -> u32 {
        desc::objects(self.slab)
    }

    /// Address of object number `index`.
    fn object(&self, index: u32) -> usize {
        self.first + index as usize * self.cache.geometry.size
    }

    /// Number of the object that starts at an address of this slab.
    fn index_of(&self, object: usize) -> u32 {
        ((object - self.first) / self.cache.geometry.size) as u32
    }

    /// The index of the slab lies in this object, which is free.
    fn holds_index(&self, object: usize) -> bool {
        self.cache.own.is_in_object() && self.slab.chain.load(Ordering::Relaxed) == object as u64
    }
}
