//! One slab: making it, taking objects out, putting them back, giving it away.
//!
//! # The descriptor
//! | field of the page | in SLAB |
//! |---|---|
//! | `word` | low half: objects that are out (*active*); high half: first free object ([`Linked`] only) |
//! | `chain` | address of the index; 0: it has none now |
//! | `start` | offset of the first slot, in words: its colour, and what lies before the slots |
//! | `slab_flags` | the list it is on, a [`State`] |
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

use crate::engine::cache::count;
use crate::engine::proof::Proof;
use crate::engine::sheaf;
use crate::engine::slab::geometry::{Management, WORD};
use crate::engine::slab::index::{Linked, Packed, TakeError};
use crate::engine::slab::{Cache, Floor, Place, checked};
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::page::{Kind, Page, PageRun};
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
fn object<P: Platform>(floor: Floor<'_, P>, cache: &Cache, slab: &Page, index: u32) -> *mut u8 {
    let first = lead(slab) + cache.geometry.red_left_pad;
    floor.pages.address(slab).wrapping_add(first + index as usize * cache.geometry.size)
}

/// A slab's index, for as long as somebody may work on it.
enum View<'a> {
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
fn all_bits(objects: u32) -> u64 {
    if objects <= BITS { u64::MAX >> (BITS - objects) } else { 0 }
}

impl View<'_> {
    /// # Safety
    /// I-SLAB-1: the caller holds the node's lock or is the only one who knows the slab. It is not full, or its index
    /// does not lie in an object.
    unsafe fn open(cache: &Cache, slab: &Page) -> Self {
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
    fn close(&self, slab: &Page) {
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

/// Fetches the pages of one slab.
fn fetch<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    gfp: Gfp,
    node: usize,
    strict: bool,
) -> Option<PageRun> {
    let mut gfp = gfp - Gfp::ZERO - Gfp::SLAB_BUG;
    for (property, zone) in [
        (SlabFlags::CACHE_DMA, Gfp::DMA),
        (SlabFlags::CACHE_DMA32, Gfp::DMA32),
        (SlabFlags::RECLAIM_ACCOUNT, Gfp::RECLAIMABLE),
    ] {
        if cache.flags().contains(property) {
            gfp |= zone;
        }
    }
    if strict {
        gfp |= Gfp::THISNODE;
    }
    if cache.exact_pages != 0 {
        return floor.pages.alloc_exact(floor.platform, gfp, cache.exact_pages, Some(node));
    }
    floor.pages.alloc(floor.platform, gfp, cache.geometry.order, Some(node))
}

/// A new slab (`cache_grow`): all objects free and constructed, on no list yet, known to nobody else.
pub(super) fn create<'a, P: Platform>(
    floor: Floor<'a, P>,
    cache: &Cache,
    gfp: Gfp,
    node: usize,
    strict: bool,
) -> Option<&'a Page> {
    let mut run = fetch(floor, cache, gfp, node, strict)?;
    let own = &cache.own;
    let off_slab = if own.is_off_slab() {
        // The index is for this thread's node and for no zone in particular.
        let plain = Gfp::DMA | Gfp::DMA32 | Gfp::RECLAIMABLE | Gfp::THISNODE | Gfp::ZERO | Gfp::SLAB_BUG;
        let index = sheaf::alloc_array(floor, own.layout.index_bytes, gfp - plain);
        if index.is_null() {
            floor.pages.free(floor.platform, run);
            return None;
        }
        index.expose_provenance()
    } else {
        0
    };
    let objects = cache.geometry.objects;
    run.set_kind(Kind::Slab);
    if cache.capacity() != 0 {
        floor.pages.set_tag(&run, cache.id);
    }
    let slab = floor.pages.into_head(run);
    let colour = cache.node(slab.node()).own.lists.lock(floor.platform).cursor.advance(&own.layout);
    let base = floor.pages.address(slab) as usize;
    slab.cache.store(core::ptr::from_ref(cache).cast_mut().cast(), Ordering::Relaxed);
    slab.objects.store(objects as u16, Ordering::Relaxed);
    slab.start.store((own.shape(cache).slots_at(colour) / WORD) as u16, Ordering::Relaxed);
    slab.slab_flags.store(0, Ordering::Relaxed);
    slab.word.store(0, Ordering::Relaxed);
    slab.debug.store(all_bits(objects as u32), Ordering::Relaxed);
    let order = own.random.then(|| Shuffled::new(floor.platform.entropy(), objects)).flatten();
    let last = order.as_ref().map_or(objects as u32 - 1, |order| u32::from(order.numbers[objects - 1]));
    let index = match (own.place, own.layout.management) {
        (Place::Alone, _) => 0,
        (_, Management::InObject) => object(floor, cache, slab, last).expose_provenance(),
        (_, Management::OffSlab) => off_slab,
        (_, Management::OnSlab) => own.shape(cache).index_at(colour).map_or(0, |offset| base + offset),
    };
    slab.chain.store(index as u64, Ordering::Relaxed);
    // SAFETY: nobody else knows the slab, and it is not full.
    let mut view = unsafe { View::open(cache, slab) };
    match (&mut view, order) {
        (View::Alone(_), _) => {}
        (View::Packed(index, _), None) => index.fill_ascending(),
        (View::Packed(index, _), Some(order)) => index.fill(order.iter(), None),
        (View::Linked(index, _), None) => index.fill_ascending(),
        (View::Linked(index, _), Some(order)) => index.fill(order.iter()),
    }
    view.close(slab);
    if cache.mark.load(Ordering::Relaxed) != 0 {
        for index in 0..objects as u32 {
            // SAFETY: the object lies in the new slab, which nobody else knows.
            unsafe { cache.mark_free(object(floor, cache, slab, index)) };
        }
    }
    // Poison would not leave anything of it: then the constructor runs for each owner.
    let constructed = !checked::is_checked(cache) || !cache.geometry.flags.contains(SlabFlags::POISON);
    if let Some(ctor) = cache.ctor.filter(|_| constructed || cache.dtor.is_some()) {
        for index in 0..objects as u32 {
            // SAFETY: the object lies in the new slab, which nobody else knows; the constructor is the cache's own.
            unsafe { ctor(object(floor, cache, slab, index)) };
        }
    }
    if checked::is_checked(cache) {
        checked::lay_out(floor, cache, slab);
    }
    if let Some(cpu) = cache.here(floor.platform) {
        count(&cpu.stats.alloc_slab, 1);
    }
    cache.node(slab.node()).count_slab(objects as u16);
    Some(slab)
}

/// Gives a slab's pages back (`slab_destroy`), after a destructor saw its objects.
///
/// # Safety
/// All objects are free, the slab is on no list, and nobody can reach it any more. No lock is held.
pub(super) unsafe fn discard<P: Platform>(floor: Floor<'_, P>, cache: &Cache, slab: &Page) {
    let objects = slab.objects.load(Ordering::Relaxed);
    if checked::is_checked(cache) {
        checked::before_discard(floor, cache, slab);
    }
    if let Some(dtor) = cache.dtor {
        for index in 0..u32::from(objects) {
            // SAFETY: the object is free and constructed, and nobody else can reach its slab.
            unsafe { dtor(object(floor, cache, slab, index)) };
        }
    }
    if cache.own.is_off_slab() {
        let index = core::ptr::with_exposed_provenance_mut(slab.chain.load(Ordering::Relaxed) as usize);
        // SAFETY: the slab's own array, made with that many bytes, which nobody uses any more.
        unsafe { sheaf::free_array(floor, index, cache.own.layout.index_bytes) };
    }
    cache.node(slab.node()).uncount_slab(objects);
    slab.cache.store(core::ptr::null_mut(), Ordering::Relaxed);
    // SAFETY: the caller owns the slab, so the owning token may be rebuilt from its head.
    let run = unsafe { floor.pages.adopt(slab) };
    floor.pages.free(floor.platform, run);
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
    if bits >> (number % BITS) & 1 != 0 {
        return false;
    }
    let mut index = core::ptr::with_exposed_provenance_mut::<u8>(slab.chain.load(Ordering::Relaxed) as usize);
    if index.is_null() {
        // A full slab without an index: it lies in the object that comes back first.
        index = object;
        slab.chain.store(object.expose_provenance() as u64, Ordering::Relaxed);
    }
    slab.debug.store(bits | 1 << (number % BITS), Ordering::Relaxed);
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
    slab.slab_flags.store(flags | MARK, Ordering::Relaxed);
    flags & MARK == 0
}

/// Takes the mark off a slab, to which objects were put back. True when it was partial and is so still.
#[inline(always)]
pub(super) fn unmark(slab: &Page) -> bool {
    let flags = slab.slab_flags.load(Ordering::Relaxed) & !MARK;
    slab.slab_flags.store(flags, Ordering::Relaxed);
    flags == State::Partial as u16 && active(slab) != 0
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
const MAX_SHUFFLED: usize = 512;

/// All numbers below a count, in random order.
struct Shuffled {
    numbers: [u16; MAX_SHUFFLED],
    count: usize,
}

impl Shuffled {
    /// `None` when there is nothing to shuffle, or too much.
    fn new(seed: u64, count: usize) -> Option<Self> {
        if !(2..=MAX_SHUFFLED).contains(&count) {
            return None;
        }
        let mut numbers = [0; MAX_SHUFFLED];
        for (i, number) in numbers[..count].iter_mut().enumerate() {
            *number = i as u16;
        }
        let mut state = seed | 1;
        for i in (1..count).rev() {
            // xorshift: one draw of the platform's entropy is enough for one slab.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            numbers.swap(i, (state >> 32) as usize % (i + 1));
        }
        Some(Self { numbers, count })
    }

    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.numbers[..self.count].iter().map(|&number| number.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_is_a_permutation_and_depends_on_its_seed() {
        let draw = |seed, count| Shuffled::new(seed, count).expect("a count").iter().collect::<Vec<u32>>();
        for count in [2, 3, 64, 255, MAX_SHUFFLED] {
            let mut numbers = draw(99, count);
            assert!(count < 64 || !numbers.is_sorted());
            numbers.sort_unstable();
            assert!(numbers.into_iter().eq(0..count as u32), "{count}");
        }
        assert_ne!(draw(1, 64), draw(1 << 40, 64));
        assert!(Shuffled::new(1, 1).is_none() && Shuffled::new(1, MAX_SHUFFLED + 1).is_none());
    }
}
