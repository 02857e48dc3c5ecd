//! Checked caches: SLUB with patterns around its objects and a look at them at each step.
//!
//! # Theory
//! A cache with a debug letter has no CPU stacks and no CPU slabs. Each of its objects is taken from and given
//! back to a slab under the lock of the slab's node, and checked there:
//! - *red zones* (Z) on both sides of an object say whether it is in use, and show writes past its ends;
//! - *poison* (P) in free objects shows writes after the free; padding behind an object, and behind the last
//!   slot, shows writes far past the end;
//! - *tracks* (U) say who allocated and who freed an object last;
//! - *consistency checks* (F) look at all of that, and at the slab's list, at each allocation and free;
//! - *trace* (T) prints each allocation and free.
//!
//! A new slab is laid out whole, every object linked. The first free object is kept as a full address, beside
//! the slab's word: a damaged link is then something to report, not something to follow.
//!
//! # What happens to damage
//! Patterns are restored. A slab whose free objects cannot be trusted is *isolated*: all its objects count as
//! used, and it is on no list and never used again. An object whose free fails a check stays in use: it is
//! leaked.
//!
//! # Invariants
//! - I-CHECK-1: the state of a checked slab (its word, the address of the first free object, the list it is on)
//!   changes only under the lock of its node.
//! - I-CHECK-2: a checked slab is on its node's list of checked slabs while `inuse < objects`, on its full list while
//!   `inuse == objects`, and on none when it is isolated (frozen).
//! - I-CHECK-3: no memory is fetched and no stack saved under that lock.

mod alloc;
mod bytes;
mod check;
mod free;
mod layout;
mod map;
mod modes;
mod say;
mod walk;

pub(super) use alloc::{alloc_many, alloc_one};
pub(super) use free::free_one;
pub(super) use layout::{lay_out, link_all, note_origin, note_size, request_of};
pub(super) use modes::{Layout, drop_layouts, geometry_of, is_checked, is_checked_slab, layout_now, switch};
pub(super) use walk::{
    check_all, check_held, invalid_free, print_tracks, remaining, report_object, verify, visit_in_use,
    visit_tracks,
};

pub use modes::Modes;

use core::sync::atomic::Ordering;

use crate::debug::Reporter;
use crate::engine::geometry::Geometry;
use crate::engine::list::SlabList;
use crate::engine::slub::node::NodeLists;
use crate::engine::slub::object::Extent;
use crate::engine::slub::word::{self, Word};
use crate::engine::slub::{Cache, Floor, slab};
use crate::flags::SlabFlags;
use crate::page::Page;
use crate::platform::Platform;

/// Bits of `slab_flags`: the list that the slab is on.
const LIST: u16 = 0b11;
const PARTIAL: u16 = 0b01;
const FULL: u16 = 0b10;

/// A slab of a checked cache, with its node's lock held (I-CHECK-1).
#[derive(Clone, Copy)]
pub(super) struct Checked<'a, P: Platform> {
    floor: Floor<'a, P>,
    cache: &'a Cache,
    slab: &'a Page,
    /// How this slab is laid out.
    geometry: &'a Geometry,
    exact_pages: usize,
    /// What is checked in it now.
    flags: SlabFlags,
    extent: Extent,
    report: Reporter<'a, P>,
}

impl<'a, P: Platform> Checked<'a, P> {
    /// Looks at a slab. The caller holds the lock of its node, or is the only one who knows it.
    fn new(floor: Floor<'a, P>, cache: &'a Cache, slab: &'a Page) -> Self {
        let extent = slab::extent(floor, slab);
        let layout = modes::layout_of(cache, slab);
        let geometry = layout.geometry;
        let flags = modes::flags_now(cache, geometry);
        let report = floor.reporter(cache);
        Self { floor, cache, slab, geometry, exact_pages: layout.exact_pages, flags, extent, report }
    }

    fn objects(&self) -> u16 {
        self.slab.objects.load(Ordering::Relaxed)
    }

    fn inuse(&self) -> u16 {
        word::load(self.slab).inuse()
    }

    fn isolated(&self) -> bool {
        word::load(self.slab).frozen()
    }

    /// Address of the first free object as it is stored, damaged or not; 0: none.
    fn head(&self) -> usize {
        self.slab.debug.load(Ordering::Relaxed) as usize
    }

    /// Sets what the slab's word says. Observers see a damaged head as none.
    fn set(&self, head: usize, inuse: u16, isolated: bool) {
        self.slab.debug.store(head as u64, Ordering::Relaxed);
        let offset = head.wrapping_sub(self.extent.base);
        let sound = head != 0 && offset < self.extent.len && offset.is_multiple_of(8);
        word::store(self.slab, Word::new(sound.then_some(offset as u32), inuse, isolated));
    }

    /// Address of object number `index`.
    fn object(&self, index: usize) -> usize {
        self.geometry.object(self.extent.base, index)
    }

    /// Whether an object starts at this address.
    fn is_object(&self, address: usize) -> bool {
        self.geometry.index_of(self.extent.base, address, self.objects().into()).is_some()
    }

    /// The address that follows an object in its chain, damaged or not; 0: none.
    fn next(&self, object: usize) -> usize {
        debug_assert!(self.is_object(object));
        // SAFETY: an object of this slab, whose memory stays while the node's lock is held; what is read is
        // checked before it is used.
        unsafe { self.cache.load_link((object + self.geometry.offset) as *mut u64) }
    }

    /// Links a free object to the next.
    ///
    /// # Safety
    /// `object` is an object of this slab that nobody uses.
    unsafe fn set_next(&self, object: usize, next: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.cache.store_link((object + self.geometry.offset) as *mut u64, next) };
    }

    /// Puts the slab on the list that it belongs on (I-CHECK-2). `front`: before the others.
    fn settle(&self, list: &mut NodeLists, front: bool) {
        let state = word::load(self.slab);
        let flags = self.slab.slab_flags.load(Ordering::Relaxed);
        let wanted = match state.frozen() {
            true => 0,
            false if state.inuse() >= self.objects() => FULL,
            false => PARTIAL,
        };
        if flags & LIST == wanted {
            return;
        }
        self.unlist(list);
        match wanted {
            PARTIAL if front => list.checked.push_front(self.floor.pages, self.slab),
            PARTIAL => list.checked.push_back(self.floor.pages, self.slab),
            FULL => list.full.push_front(self.floor.pages, self.slab),
            _ => {}
        }
        self.slab.slab_flags.store(flags & !LIST | wanted, Ordering::Relaxed);
    }

    /// Takes the slab off whichever list it is on.
    fn unlist(&self, list: &mut NodeLists) {
        let flags = self.slab.slab_flags.load(Ordering::Relaxed);
        match flags & LIST {
            PARTIAL => self.take_out(&mut list.checked),
            FULL => self.take_out(&mut list.full),
            _ => {}
        }
        self.slab.slab_flags.store(flags & !LIST, Ordering::Relaxed);
    }

    /// Takes the slab off a list. Where the links say that it is not on it, none of them is followed, and the list is mended.
    fn take_out(&self, list: &mut SlabList) {
        if !list.take_out(self.floor.pages, self.slab) {
            self.slab_error(format_args!("Slab list corrupt"));
            self.report.fix(format_args!("List of slabs mended"));
        }
    }

    /// Gives the slab up: all its objects count as used, and it is never used again.
    fn isolate(&self, list: &mut NodeLists) {
        self.report.fix(format_args!("Marking all objects used"));
        self.set(0, self.objects(), true);
        self.settle(list, false);
    }
}
