//! Which letters a cache has now, and which layout each of its slabs has.
//!
//! # Theory
//! The letters of a cache may change while it is used. Z, P and U decide how objects lie in a slab: new slabs
//! follow, old ones keep the layout they were made with, and say in their descriptor which it is. F and T are
//! only a matter of what is looked at, and count for all slabs at once.
//!
//! A cache that was made without letters has a layout for each of the eight choices of Z, P and U as they are
//! asked for. While it has letters it makes checked slabs, and its unchecked ones only take objects back;
//! without letters again it is the other way round. A cache that was made with letters stays on the checked
//! path for ever, if only without checks.
//!
//! # Invariants
//! - I-MODE-1: whether a slab is checked, and its layout, are constant from its creation on.
//! - I-MODE-2: a layout is there before the letters ask for it, and stays as long as the cache.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::engine::geometry::Geometry;
use crate::engine::slub::{Cache, Floor};
use crate::engine::{Switch, sheaf};
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::page::Page;
use crate::platform::Platform;

/// Bits of a slab's `slab_flags`: it is checked; the number of its layout. The lowest two are [`super::LIST`].
const CHECKED: u16 = 1 << 2;
const KEY_SHIFT: u32 = 4;
const KEYS: usize = 8;

/// The letters that change while a cache is used.
const LETTERS: SlabFlags = SlabFlags::DEBUG.union(SlabFlags::FAILSLAB);
/// Those that do not change a layout.
const LOOKS: SlabFlags = SlabFlags::CONSISTENCY_CHECKS.union(SlabFlags::TRACE).union(SlabFlags::FAILSLAB);

/// Number of the layout that these letters ask for.
fn key(flags: SlabFlags) -> usize {
    usize::from(flags.contains(SlabFlags::RED_ZONE))
        | usize::from(flags.contains(SlabFlags::POISON)) << 1
        | usize::from(flags.contains(SlabFlags::STORE_USER)) << 2
}

struct Kept {
    geometry: Geometry,
    exact_pages: usize,
}

/// The letters and layouts of a cache.
pub struct Modes {
    letters: AtomicU32,
    /// By key; null: that of the cache's creation, or not asked for yet.
    layouts: [AtomicPtr<Kept>; KEYS],
    /// Objects that CPU stacks hold while the cache has no letters.
    capacity: u32,
}

impl Modes {
    /// Those of a new cache.
    pub(in crate::engine::slub) const fn new(flags: SlabFlags, capacity: u32) -> Self {
        Self {
            letters: AtomicU32::new(flags.intersection(LETTERS).bits()),
            layouts: [const { AtomicPtr::new(ptr::null_mut()) }; KEYS],
            capacity,
        }
    }

    /// CPUs keep objects of the cache while it has no letters. Its unchecked slabs are the same then as at all times, also those that
    /// somebody makes who has not seen yet that it got letters, or lost them: an object is given back by what its slab is.
    pub(in crate::engine::slub) fn stacked(&self) -> bool {
        self.capacity != 0
    }

    /// The letters now.
    pub(in crate::engine::slub) fn letters(&self) -> SlabFlags {
        // Acquire pairs with the Release of `switch`: the layout is there (I-MODE-2).
        SlabFlags::from_bits_retain(self.letters.load(Ordering::Acquire))
    }
}

/// How new slabs of a cache are laid out.
#[derive(Clone, Copy)]
pub(in crate::engine::slub) struct Layout<'a> {
    pub(in crate::engine::slub) geometry: &'a Geometry,
    pub(in crate::engine::slub) exact_pages: usize,
    /// What a checked slab of this layout has in `slab_flags`.
    pub(in crate::engine::slub) mark: u16,
}

/// True when the cache's new slabs are checked: the door to this module.
#[inline]
pub(in crate::engine::slub) fn is_checked(cache: &Cache) -> bool {
    cache.geometry.is_debug() || cache.own.modes.letters().intersects(SlabFlags::DEBUG)
}

/// True when this slab is checked.
#[inline]
pub(in crate::engine::slub) fn is_checked_slab(slab: &Page) -> bool {
    slab.slab_flags.load(Ordering::Relaxed) & CHECKED != 0
}

fn layout(cache: &Cache, key: usize) -> Layout<'_> {
    let mark = CHECKED | (key as u16) << KEY_SHIFT;
    // Acquire pairs with the Release of `switch`.
    // SAFETY: layouts are written before they are stored, and stay as long as the cache.
    match unsafe { cache.own.modes.layouts[key].load(Ordering::Acquire).as_ref() } {
        Some(kept) => Layout { geometry: &kept.geometry, exact_pages: kept.exact_pages, mark },
        None => Layout { geometry: &cache.geometry, exact_pages: cache.exact_pages, mark },
    }
}

/// The layout of new slabs of this kind.
pub(in crate::engine::slub) fn layout_now(cache: &Cache, checked: bool) -> Layout<'_> {
    layout(cache, key(if checked { cache.own.modes.letters() } else { cache.geometry.flags }))
}

/// The layout of a slab.
pub(super) fn layout_of<'a>(cache: &'a Cache, slab: &Page) -> Layout<'a> {
    let flags = slab.slab_flags.load(Ordering::Relaxed);
    let key =
        if flags & CHECKED == 0 { key(cache.geometry.flags) } else { usize::from(flags >> KEY_SHIFT) % KEYS };
    layout(cache, key)
}

/// The geometry of a slab.
#[inline]
pub(in crate::engine::slub) fn geometry_of<'a>(cache: &'a Cache, slab: &Page) -> &'a Geometry {
    if is_checked_slab(slab) { layout_of(cache, slab).geometry } else { &cache.geometry }
}

/// True when a new slab would be laid out as this checked one is.
pub(super) fn has_layout_of_today(cache: &Cache, slab: &Page) -> bool {
    let today = CHECKED | (key(cache.own.modes.letters()) as u16) << KEY_SHIFT;
    slab.slab_flags.load(Ordering::Relaxed) & !super::LIST == today
}

/// What is checked in a slab of this geometry now.
pub(super) fn flags_now(cache: &Cache, geometry: &Geometry) -> SlabFlags {
    (geometry.flags - LOOKS) | (cache.own.modes.letters() & LOOKS)
}

/// Gives a cache other letters. One that ever had them must be flushed afterwards. False: no memory; nothing changed.
pub(in crate::engine::slub) fn switch<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    switch: &Switch<'_>,
) -> bool {
    let letters = switch.geometry.flags & SlabFlags::DEBUG | switch.letters & SlabFlags::FAILSLAB;
    let modes = &cache.own.modes;
    let wanted = key(letters);
    if wanted != key(cache.geometry.flags) && modes.layouts[wanted].load(Ordering::Relaxed).is_null() {
        let place = sheaf::alloc_array(floor, size_of::<Kept>(), Gfp::KERNEL).cast::<Kept>();
        if place.is_null() {
            return false;
        }
        // SAFETY: a fresh array of enough bytes, at a word.
        unsafe { place.write(Kept { geometry: *switch.geometry, exact_pages: switch.exact_pages }) };
        modes.layouts[wanted].store(place, Ordering::Release);
    }
    // Release pairs with the Acquire of `letters`.
    modes.letters.store(letters.bits(), Ordering::Release);
    // Relaxed: a wish for the next array. Who works with the old number meanwhile handles objects of unchecked slabs.
    cache.capacity.store(if is_checked(cache) { 0 } else { modes.capacity }, Ordering::Relaxed);
    true
}

/// Gives the layouts of a dying cache back.
pub(in crate::engine::slub) fn drop_layouts<P: Platform>(floor: Floor<'_, P>, cache: &Cache) {
    for place in &cache.own.modes.layouts {
        let kept = place.swap(ptr::null_mut(), Ordering::Relaxed);
        if !kept.is_null() {
            // SAFETY: made by `switch` with that many bytes; the cache has no slabs any more.
            unsafe { sheaf::free_array(floor, kept.cast(), size_of::<Kept>()) };
        }
    }
}
