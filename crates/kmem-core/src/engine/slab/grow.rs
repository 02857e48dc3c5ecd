//! Making a slab (`cache_grow`).
//!
//! Two ways. [`create`] makes one whose objects are all free and noted in its index. [`create_full`] makes one whose objects all
//! go out at once, as a batch wants them: nothing is ever read of the index of a full slab, so none is written,
//! and the slab is listed under the lock under which it gets its colour.
//!
//! Pages are fetched with no lock held. Objects are constructed before anybody else can reach them.

use core::sync::atomic::Ordering;

use crate::engine::cache::count;
use crate::engine::sheaf;
use crate::engine::slab::desc::{MAX_SHUFFLED, State, View, all_bits, object};
use crate::engine::slab::geometry::{Management, WORD};
use crate::engine::slab::{Cache, Floor, Place, checked};
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::page::{Kind, Page, PageRun};
use crate::platform::Platform;

/// Where and how the pages of a slab are wanted.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    /// The request's.
    pub(super) gfp: Gfp,
    /// The node.
    pub(super) node: usize,
    /// That node or none.
    pub(super) strict: bool,
}

/// Fetches the pages of one slab.
#[inline]
fn fetch<P: Platform>(floor: Floor<'_, P>, cache: &Cache, wish: Wish) -> Option<PageRun> {
    let mut gfp = wish.gfp - Gfp::ZERO - Gfp::SLAB_BUG;
    let special = SlabFlags::CACHE_DMA.union(SlabFlags::CACHE_DMA32).union(SlabFlags::RECLAIM_ACCOUNT);
    if cache.flags().intersects(special) {
        for (property, zone) in [
            (SlabFlags::CACHE_DMA, Gfp::DMA),
            (SlabFlags::CACHE_DMA32, Gfp::DMA32),
            (SlabFlags::RECLAIM_ACCOUNT, Gfp::RECLAIMABLE),
        ] {
            if cache.flags().contains(property) {
                gfp |= zone;
            }
        }
    }
    if wish.strict {
        gfp |= Gfp::THISNODE;
    }
    if cache.exact_pages != 0 {
        return floor.pages.alloc_exact(floor.platform, gfp, cache.exact_pages, Some(wish.node));
    }
    floor.pages.alloc(floor.platform, gfp, cache.geometry.order, Some(wish.node))
}

/// The pages of a slab, with all in its descriptor that does not depend on who makes it; and where its index lies if that is
/// an array of its own, else 0.
#[inline]
fn begin<'a, P: Platform>(floor: Floor<'a, P>, cache: &Cache, wish: Wish) -> Option<(&'a Page, usize)> {
    let mut run = fetch(floor, cache, wish)?;
    let mut off_slab = 0;
    if cache.own.is_off_slab() {
        // The index is for this thread's node and for no zone in particular.
        let plain = Gfp::DMA | Gfp::DMA32 | Gfp::RECLAIMABLE | Gfp::THISNODE | Gfp::ZERO | Gfp::SLAB_BUG;
        let index = sheaf::alloc_array(floor, cache.own.layout.index_bytes, wish.gfp - plain);
        if index.is_null() {
            floor.pages.free(floor.platform, run);
            return None;
        }
        off_slab = index.expose_provenance();
    }
    run.set_kind(Kind::Slab);
    if cache.capacity() != 0 {
        floor.pages.set_tag(&run, cache.id);
    }
    let slab = floor.pages.into_head(run);
    slab.cache.store(core::ptr::from_ref(cache).cast_mut().cast(), Ordering::Relaxed);
    slab.objects.store(cache.geometry.objects as u16, Ordering::Relaxed);
    Some((slab, off_slab))
}

/// Where the index of a slab lies that begins at `base`; 0 where that is in an object.
#[inline]
fn index_of(cache: &Cache, base: usize, colour: usize, off_slab: usize) -> usize {
    match (cache.own.place, cache.own.layout.management) {
        (Place::Alone, _) | (_, Management::InObject) => 0,
        (_, Management::OffSlab) => off_slab,
        (_, Management::OnSlab) => cache.own.shape(cache).index_at(colour).map_or(0, |offset| base + offset),
    }
}

/// Offset of the first slot at this colour, as the descriptor has it.
#[inline]
fn start_of(cache: &Cache, colour: usize) -> u16 {
    (cache.own.shape(cache).slots_at(colour) / WORD) as u16
}

/// A new slab: all objects free and constructed, on no list yet, known to nobody else.
pub(super) fn create<'a, P: Platform>(floor: Floor<'a, P>, cache: &Cache, wish: Wish) -> Option<&'a Page> {
    // Asked first: a cache that is checked by now has no arrays, so that the slab gets no tag; one that becomes it later has a
    // slab without poison.
    let checked = checked::is_checked(cache);
    let (slab, off_slab) = begin(floor, cache, wish)?;
    let own = &cache.own;
    let objects = cache.geometry.objects;
    let colour = cache.node(slab.node()).own.lists.lock(floor.platform).cursor.advance(&own.layout);
    slab.start.store(start_of(cache, colour), Ordering::Relaxed);
    slab.slab_flags.store(0, Ordering::Relaxed);
    slab.word.store(0, Ordering::Relaxed);
    slab.debug.store(all_bits(objects as u32), Ordering::Relaxed);
    let order = own.random.then(|| Shuffled::new(floor.platform.entropy(), objects)).flatten();
    let last = order.as_ref().map_or(objects as u32 - 1, |order| u32::from(order.numbers[objects - 1]));
    let index = if own.is_in_object() {
        object(floor, cache, slab, last).expose_provenance()
    } else {
        index_of(cache, floor.pages.address(slab) as usize, colour, off_slab)
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
    let poisoned = checked && checked::mark(cache, slab);
    if let Some(ctor) = cache.ctor.filter(|_| !poisoned) {
        for index in 0..objects as u32 {
            // SAFETY: the object lies in the new slab, which nobody else knows; the constructor is the cache's own.
            unsafe { ctor(object(floor, cache, slab, index)) };
        }
    }
    if checked {
        checked::lay_out(floor, cache, slab);
    }
    count_new(floor, cache);
    cache.node(slab.node()).count_slab(objects as u16);
    Some(slab)
}

/// All objects of a new slab of this cache can go out at once, to somebody who wants so many.
#[inline]
pub(super) fn goes_out(cache: &Cache, wanted: usize) -> bool {
    cache.geometry.objects <= wanted && cache.own.place != Place::Linked && !checked::is_checked(cache)
}

/// A new slab of a cache for which [`goes_out`] holds, all of whose objects go to `out`, those first that an index
/// would have first; as they are after [`create`]. How many they are. The slab is on the list of full ones.
pub(super) fn create_full<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    wish: Wish,
    out: &mut [*mut u8],
) -> Option<usize> {
    let objects = cache.geometry.objects;
    let out = out.get_mut(..objects)?;
    let (slab, off_slab) = begin(floor, cache, wish)?;
    let base = floor.pages.address(slab);
    let away = P::NUMA && slab.node() != floor.platform.current_node();
    let node = cache.node(slab.node());
    let held = node.count_slab(objects as u16);
    slab.word.store(objects as u64, Ordering::Relaxed);
    slab.debug.store(0, Ordering::Relaxed);
    {
        let mut lists = node.own.lists.lock(floor.platform);
        let colour = lists.cursor.advance(&cache.own.layout);
        slab.start.store(start_of(cache, colour), Ordering::Relaxed);
        slab.chain.store(index_of(cache, base as usize, colour, off_slab) as u64, Ordering::Relaxed);
        slab.slab_flags.store(State::Full as u16, Ordering::Relaxed);
        lists.full.push_front(floor.pages, slab);
        lists.count_taken(objects, held);
        lists.events.served_away += u64::from(away);
    }
    let first = object(floor, cache, slab, 0);
    let mut at = first;
    for place in out.iter_mut() {
        *place = at;
        at = at.wrapping_add(cache.geometry.size);
    }
    if cache.own.random && objects <= MAX_SHUFFLED {
        shuffle(floor.platform.entropy(), out);
    }
    if cache.mark.load(Ordering::Relaxed) != 0 {
        for &object in out.iter() {
            // SAFETY: an object of the new slab, which is this thread's.
            unsafe { cache.mark_free(object) };
        }
    }
    if let Some(ctor) = cache.ctor {
        for &object in out.iter() {
            // SAFETY: as above; the constructor is the cache's own.
            unsafe { ctor(object) };
        }
    }
    count_new(floor, cache);
    Some(objects)
}

fn count_new<P: Platform>(floor: Floor<'_, P>, cache: &Cache) {
    if let Some(cpu) = cache.here(floor.platform) {
        count(&cpu.stats.alloc_slab, 1);
    }
}

/// Brings things into a random order.
fn shuffle<T>(seed: u64, things: &mut [T]) {
    let mut state = seed | 1;
    for i in (1..things.len()).rev() {
        // xorshift: one draw of the platform's entropy is enough for one slab. Its high half, of 2^32, of `i + 1`.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        things.swap(i, (((state >> 32) * (i as u64 + 1)) >> 32) as usize);
    }
}

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
        shuffle(seed, &mut numbers[..count]);
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
