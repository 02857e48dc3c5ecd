//! One slab: taking objects out, putting them back, giving it away. How one is made: [`super::grow`].
//!
//! # The descriptor
//! | field of the page | in SLAB |
//! |---|---|
//! | `word` | low half: objects that are out (*active*); high half: first free object ([`Linked`] only) |
//! | `chain` | address of the index; 0: it has none now |
//! | `start` | offset of the first slot, in words: its colour, and what lies before the slots |
//! | `slab_flags` | the list it is on, a [`State`] |
//! | `carved` | 1: its free objects have poison |
//! | `debug` | one bit for each free object, where there are at most 64 ([`Packed`] only) |
//! | `objects` | objects it holds |
//!
//! # Where the index lies
//! A slab of one object needs none: the count says all. One in a free object lies in the one that is taken last, and
//! there is none while the slab is full; the first object that comes back then becomes its home.
//!
//! # Invariants
//! - I-SLAB-1: `word`, `chain` and the index change only under the lock of the slab's node, or in the hands of the one
//!   thread that knows the slab.
//! - I-SLAB-2: free objects are those in the index, `objects - active` of them; so say the bits, where there are any.
//! - I-SLAB-3: `start`, `objects` and `cache` stay as they are while the page is a slab; so the place of an object is
//!   known without a lock.

use core::sync::atomic::Ordering;

use crate::engine::proof::Proof;
use crate::engine::sheaf;
use crate::engine::slab::geometry::WORD;
use crate::engine::slab::index::{Linked, Packed, TakeError};
use crate::engine::slab::{Cache, Floor, Place, checked};
use crate::page::Page;
use crate::platform::Platform;

/// The list that a slab is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum State {
    /// Some objects are out, some are free.
    Partial = 1,
    /// All objects are out.
    Full = 2,
    /// All objects are free.
    Free = 3,
}

impl State {
    /// The list that a slab belongs on.
    pub(super) fn of(slab: &Page) -> Self {
        match (active(slab), free(slab)) {
            (0, _) => Self::Free,
            (_, 0) => Self::Full,
            _ => Self::Partial,
        }
    }

    /// The list that it is on.
    pub(super) fn listed(slab: &Page) -> Self {
        match slab.slab_flags.load(Ordering::Relaxed) {
            2 => Self::Full,
            3 => Self::Free,
            _ => Self::Partial,
        }
    }
}

/// Objects of a slab that are out.
pub(super) fn active(slab: &Page) -> u32 {
    slab.word.load(Ordering::Relaxed) as u32
}

/// Objects that a slab holds.
pub(super) fn objects(slab: &Page) -> u32 {
    slab.objects.load(Ordering::Relaxed).into()
}

/// Free objects of a slab.
pub(super) fn free(slab: &Page) -> u32 {
    objects(slab).saturating_sub(active(slab))
}

/// Bytes from a slab to its first slot (I-SLAB-3).
#[inline]
pub(super) fn lead(head: &Page) -> usize {
    usize::from(head.start.load(Ordering::Relaxed)) * WORD
}

/// Address of a slab's first slot.
pub(super) fn slots<P: Platform>(floor: Floor<'_, P>, slab: &Page) -> usize {
    floor.pages.address(slab) as usize + lead(slab)
}

/// An object by its number.
pub(super) fn object<P: Platform>(floor: Floor<'_, P>, cache: &Cache, slab: &Page, index: u32) -> *mut u8 {
    let first = lead(slab) + cache.geometry.red_left_pad;
    floor.pages.address(slab).wrapping_add(first + index as usize * cache.geometry.size)
}

/// A slab's index, for as long as somebody may work on it.
pub(super) enum View<'a> {
    /// A slab of one object: how many are out.
    Alone(u32),
    /// With one bit for each free object, if there are at most [`BITS`].
    Packed(Packed<'a>, u64),
    Linked(Linked<'a>, u32),
}

/// Objects of a slab that has a bit for each free one.
const BITS: u32 = u64::BITS;
/// So many objects that come back to a larger one are worth a look at all that are free.
const FEW: usize = 8;

/// The bits of a slab whose objects are all free.
pub(super) fn all_bits(objects: u32) -> u64 {
    if objects <= BITS { u64::MAX >> (BITS - objects) } else { 0 }
}

impl View<'_> {
    /// # Safety
    /// I-SLAB-1: the caller holds the node's lock or is the only one who knows the slab. It is not full, or its index
    /// does not lie in an object.
    pub(super) unsafe fn open(cache: &Cache, slab: &Page) -> Self {
        let word = slab.word.load(Ordering::Relaxed);
        let index = core::ptr::with_exposed_provenance_mut::<u8>(slab.chain.load(Ordering::Relaxed) as usize);
        // SAFETY: the index of a slab has room for its objects, was filled when the slab was made, and is touched under
        // the node's lock only (I-SLAB-1). One in an object: a free object is nobody else's.
        unsafe {
            match cache.own.place {
                Place::Alone => Self::Alone(word as u32),
                Place::Linked => {
                    Self::Linked(Linked::new(index.cast(), objects(slab), (word >> 32) as u32), word as u32)
                }
                Place::Packed => Self::Packed(
                    Packed::new(index, objects(slab), word as u32),
                    slab.debug.load(Ordering::Relaxed),
                ),
            }
        }
    }

    /// Notes in the descriptor what changed.
    pub(super) fn close(&self, slab: &Page) {
        let word = match self {
            Self::Alone(active) => u64::from(*active),
            Self::Packed(index, bits) => {
                slab.debug.store(*bits, Ordering::Relaxed);
                index.active().into()
            }
            Self::Linked(index, active) => u64::from(index.first()) << 32 | u64::from(*active),
        };
        slab.word.store(word, Ordering::Relaxed);
    }

    fn take(&mut self) -> Result<u32, TakeError> {
        match self {
            Self::Alone(active @ 0) => {
                *active = 1;
                Ok(0)
            }
            Self::Alone(_) => Err(TakeError::Empty),
            Self::Packed(index, bits) => {
                let object = index.take()?;
                if index.objects() <= BITS {
                    if *bits >> object & 1 == 0 {
                        return Err(TakeError::Damaged);
                    }
                    *bits ^= 1 << object;
                }
                Ok(object)
            }
            Self::Linked(index, active) => index.take().inspect(|_| *active += 1),
        }
    }

    /// False when it is free already.
    fn put(&mut self, object: u32) -> bool {
        match self {
            Self::Alone(active) => core::mem::replace(active, 0) == 1,
            Self::Packed(index, bits) if index.objects() <= BITS => {
                let fresh = *bits >> (object % BITS) & 1 == 0 && index.put(object);
                *bits |= u64::from(fresh) << (object % BITS);
                fresh
            }
            Self::Packed(index, _) => !index.is_free(object) && index.put(object),
            Self::Linked(index, active) => {
                let fresh = *active > 0 && index.put(object);
                *active -= u32::from(fresh);
                fresh
            }
        }
    }
}

/// Slabs of this cache must be [ended](end) before their pages go.
pub(super) fn has_end(cache: &Cache) -> bool {
    checked::is_checked(cache) || cache.dtor.is_some() || cache.own.is_off_slab()
}

/// Ends a slab (`slab_destroy`): a destructor sees its objects, and an index of its own goes. Its pages are still to be given back.
///
/// # Safety
/// All objects are free, the slab is on no list, and nobody can reach it any more. No lock is held.
pub(super) unsafe fn end<P: Platform>(floor: Floor<'_, P>, cache: &Cache, slab: &Page) {
    if checked::is_checked(cache) {
        checked::before_discard(floor, cache, slab);
        checked::unmark(slab);
    }
    if let Some(dtor) = cache.dtor {
        for index in 0..objects(slab) {
            // SAFETY: the object is free and constructed, and nobody else can reach its slab.
            unsafe { dtor(object(floor, cache, slab, index)) };
        }
    }
    if cache.own.is_off_slab() {
        let index = core::ptr::with_exposed_provenance_mut(slab.chain.load(Ordering::Relaxed) as usize);
        // SAFETY: the slab's own array, made with that many bytes, which nobody uses any more.
        unsafe { sheaf::free_array(floor, index, cache.own.layout.index_bytes) };
    }
}

/// Takes up to `out.len()` objects; returns how many, and whether the index was found damaged. What a damaged index
/// still had is lost: from then on all objects count as out.
///
/// # Safety
/// The caller may work on the slab (I-SLAB-1).
pub(super) unsafe fn take<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    slab: &Page,
    out: &mut [*mut u8],
) -> (usize, bool) {
    if free(slab) == 0 {
        return (0, false);
    }
    // SAFETY: the caller's promise, and the slab is not full.
    let mut view = unsafe { View::open(cache, slab) };
    let first = object(floor, cache, slab, 0);
    let size = cache.geometry.size;
    let mut got = 0;
    let mut damaged = false;
    if let View::Packed(index, bits) = &mut view
        && index.objects() <= BITS
    {
        let mut places = out.iter_mut();
        let most = places.len();
        damaged = !index.take_each(bits, most, |number| {
            if let Some(place) = places.next() {
                *place = first.wrapping_add(number as usize * size);
            }
        });
        got = most - places.len();
    } else {
        for place in out.iter_mut() {
            match view.take() {
                Ok(number) => {
                    *place = first.wrapping_add(number as usize * size);
                    got += 1;
                }
                Err(TakeError::Empty) => break,
                Err(TakeError::Damaged) => {
                    damaged = true;
                    break;
                }
            }
        }
    }
    view.close(slab);
    if damaged {
        slab.word.store(u64::from(Linked::END) << 32 | u64::from(objects(slab)), Ordering::Relaxed);
        slab.debug.store(0, Ordering::Relaxed);
    }
    if free(slab) == 0 && cache.own.is_in_object() {
        // The object that held the index was the last to go.
        slab.chain.store(0, Ordering::Relaxed);
    }
    (got, damaged)
}

/// Puts object number `index` back. False, and nothing changed, when it is free already.
///
/// # Safety
/// The caller may work on the slab (I-SLAB-1), and gives the object up.
pub(super) unsafe fn put<P: Platform>(floor: Floor<'_, P>, cache: &Cache, slab: &Page, index: u32) -> bool {
    let mut fresh = true;
    // SAFETY: the caller's promise.
    unsafe { put_all(floor, cache, slab, &[object(floor, cache, slab, index)], |_, _| fresh = false) };
    fresh
}

/// Puts objects back that lie in the slab; returns how many. Those that start between objects, or are free already, go to
/// `refuse`: true for the latter.
///
/// # Safety
/// The caller may work on the slab (I-SLAB-1), and gives the objects up.
pub(super) unsafe fn put_all<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    slab: &Page,
    objects: &[*mut u8],
    mut refuse: impl FnMut(*mut u8, bool),
) -> u32 {
    let (slots, count) = (slots(floor, slab), self::objects(slab) as usize);
    let number = |object: *mut u8| cache.geometry.index_of(slots, object.addr(), count);
    if free(slab) == 0 && cache.own.is_in_object() {
        // The first to come back is the last to be taken again: the index lies there until then.
        let Some(home) = objects.iter().find_map(|&object| number(object)) else {
            objects.iter().for_each(|&object| refuse(object, false));
            return 0;
        };
        slab.chain.store(
            self::object(floor, cache, slab, home as u32).expose_provenance() as u64,
            Ordering::Relaxed,
        );
    }
    // SAFETY: the caller's promise; a full slab just got a home for its index.
    let mut view = unsafe { View::open(cache, slab) };
    let mut fresh = 0;
    let mut rest = objects;
    if let View::Packed(index, _) = &mut view
        && (BITS + 1..=4 * BITS).contains(&index.objects())
        && objects.len() >= FEW
    {
        let first = slots + cache.geometry.red_left_pad;
        let done = index.put_plain(first, cache.geometry.size, objects);
        fresh += done as u32;
        rest = &objects[done..];
    }
    for &object in rest {
        match number(object) {
            Some(index) if view.put(index as u32) => fresh += 1,
            known => refuse(object, known.is_some()),
        }
    }
    view.close(slab);
    fresh
}

/// Puts an object back into a slab, which begins at `start`, of a cache that [has bits](crate::engine::slab::Own::has_bits) and
/// this proof. False, and nothing changed, when that needs a closer look.
///
/// # Safety
/// The slab is one of that cache, the caller may work on it (I-SLAB-1), and gives the object up.
#[inline(always)]
pub(super) unsafe fn put_one(proof: Proof, slab: &Page, start: usize, object: *mut u8) -> bool {
    let Some(number) = proof.number(object.addr().wrapping_sub(start + lead(slab))) else { return false };
    let bits = slab.debug.load(Ordering::Relaxed);
    let with = bits | 1 << (number % BITS);
    if with == bits {
        return false;
    }
    let mut index = core::ptr::with_exposed_provenance_mut::<u8>(slab.chain.load(Ordering::Relaxed) as usize);
    if index.is_null() {
        // A full slab without an index: it lies in the object that comes back first.
        index = object;
        slab.chain.store(object.expose_provenance() as u64, Ordering::Relaxed);
    }
    slab.debug.store(with, Ordering::Relaxed);
    // I-SLAB-2: an object that is not free is out, so this does not wrap.
    let active = slab.word.load(Ordering::Relaxed) - 1;
    slab.word.store(active, Ordering::Relaxed);
    // SAFETY: the index has an entry, a byte, for each object; it is touched under the node's lock only (I-SLAB-1).
    unsafe { index.add(active as usize).write(number as u8) };
    true
}

/// Marks a slab, under the node's lock; false when it is marked already.
#[inline(always)]
pub(super) fn mark(slab: &Page) -> bool {
    let flags = slab.slab_flags.load(Ordering::Relaxed);
    if flags & MARK != 0 {
        return false;
    }
    slab.slab_flags.store(flags | MARK, Ordering::Relaxed);
    true
}

/// What became of a slab to which objects were put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It was partial and is so still.
    Partial,
    /// It was not free and is so now.
    Freed,
    /// Anything else.
    Other,
}

/// Takes the mark off a slab.
#[inline(always)]
pub(super) fn unmark(slab: &Page) -> After {
    let flags = slab.slab_flags.load(Ordering::Relaxed) & !MARK;
    slab.slab_flags.store(flags, Ordering::Relaxed);
    match active(slab) {
        0 if flags != State::Free as u16 => After::Freed,
        1.. if flags == State::Partial as u16 => After::Partial,
        _ => After::Other,
    }
}

/// In `slab_flags`, beside the list: objects were put back, and the slab is not settled yet.
const MARK: u16 = 1 << 15;

/// True when object number `index` is free in the slab.
///
/// # Safety
/// The caller may work on the slab (I-SLAB-1).
pub(super) unsafe fn is_free(cache: &Cache, slab: &Page, index: u32) -> bool {
    if free(slab) == 0 {
        return false;
    }
    // SAFETY: the caller's promise, and the slab is not full.
    match unsafe { View::open(cache, slab) } {
        View::Alone(active) => active == 0,
        View::Packed(view, bits) if view.objects() <= BITS => index < BITS && bits >> index & 1 != 0,
        View::Packed(view, _) => view.is_free(index),
        View::Linked(view, _) => view.is_free(index),
    }
}

/// True when the index lists as many different objects as are free, and nothing else.
///
/// # Safety
/// As [`take`]; the index of a [`Linked`] slab is changed and restored.
pub(super) unsafe fn index_is_sound(cache: &Cache, slab: &Page) -> bool {
    if free(slab) == 0 {
        return true;
    }
    // SAFETY: the caller's promise, and the slab is not full.
    let mut view = unsafe { View::open(cache, slab) };
    let mut seen = [0_u64; MAX_SHUFFLED / 64];
    let mut order = [0_u16; MAX_SHUFFLED];
    let mut found = 0;
    let mut sound = true;
    while found < MAX_SHUFFLED {
        let Ok(index) = view.take() else { break };
        let (word, bit) = (index as usize / 64, 1 << (index % 64));
        sound &= word < seen.len() && seen[word] & bit == 0;
        if !sound {
            break;
        }
        seen[word] |= bit;
        order[found] = index as u16;
        found += 1;
    }
    if let View::Linked(..) = &mut view {
        for index in order[..found].iter().rev() {
            sound &= view.put((*index).into());
        }
    }
    // What was not taken has its bit still.
    sound && found == free(slab) as usize && !matches!(view, View::Packed(_, 1..))
}

/// The most objects whose order is drawn by lot.
pub(super) const MAX_SHUFFLED: usize = 512;
