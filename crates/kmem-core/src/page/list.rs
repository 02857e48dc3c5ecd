//! Lists threaded through page descriptors, and the array of descriptors they thread through.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use super::desc::Page;
use super::mobility::{Mobility, PAGEBLOCK_PAGES};

/// The array of descriptors, by page index.
///
/// Invariant I-PAGE-4: every index that the page allocator passes here is of a page whose memory was added
/// and not removed since: indices come from free lists, from owned runs, from buddies within the
/// same 4 MiB block as those, or from a look-up that asked the block map first.
#[derive(Clone, Copy)]
pub(super) struct Descs(pub(super) *const Page);

impl Descs {
    /// The descriptor of a page of added memory.
    #[inline]
    pub(super) fn page<'a>(self, index: usize) -> &'a Page {
        // SAFETY: I-PAGE-4, and the platform keeps descriptors of added memory readable and writable;
        // all fields are atomics, so sharing is fine.
        unsafe { &*self.0.add(index) }
    }

    /// The index of a descriptor that was obtained from [`Descs::page`].
    #[inline]
    pub(super) fn index(self, page: &Page) -> usize {
        (core::ptr::from_ref(page).addr() - self.0.addr()) / size_of::<Page>()
    }

    /// Mobility of the pageblock around `index`.
    pub(super) fn block_mobility(self, index: usize) -> Mobility {
        self.page(index & !(PAGEBLOCK_PAGES - 1)).block_mobility()
    }

    /// The word of dirty bits around `index`, and the bit of `index` in it.
    ///
    /// The 8 words of a pageblock lie in its first 8 descriptors, not in the first of each 64 pages:
    /// so a large run touches one page of descriptors per pageblock, not eight.
    fn dirty_word<'a>(self, index: usize) -> (&'a AtomicU64, u32) {
        let block = index & !(PAGEBLOCK_PAGES - 1);
        let word = (index & (PAGEBLOCK_PAGES - 1)) >> 6;
        (&self.page(block + word).dirty, (index & 63) as u32)
    }

    /// Calls `with` for each word of dirty bits that covers a part of the range, with the mask of that part.
    #[inline]
    fn each_dirty_word(self, first: usize, count: usize, mut with: impl FnMut(&AtomicU64, u64)) {
        let (mut at, end) = (first, first + count);
        while at < end {
            let (word, bit) = self.dirty_word(at);
            let here = (end - at).min(64 - bit as usize);
            let mask = (u64::MAX >> (64 - here)) << bit;
            with(word, mask);
            at += here;
        }
    }

    /// How many pages of the range may be other than zero. Under the zone's lock.
    pub(super) fn dirty_count(self, first: usize, count: usize) -> usize {
        let mut dirty = 0;
        self.each_dirty_word(first, count, |word, mask| {
            dirty += (word.load(Relaxed) & mask).count_ones() as usize;
        });
        dirty
    }

    /// Notes that all pages of the range may be other than zero. Under the zone's lock.
    pub(super) fn set_dirty(self, first: usize, count: usize) {
        self.each_dirty_word(first, count, |word, mask| word.store(word.load(Relaxed) | mask, Relaxed));
    }

    /// Notes that all pages of the range are zero. Under the zone's lock.
    pub(super) fn set_zero(self, first: usize, count: usize) {
        self.each_dirty_word(first, count, |word, mask| word.store(word.load(Relaxed) & !mask, Relaxed));
    }
}

/// A list of pages, by their heads. All zero is an empty list.
#[derive(Clone, Copy)]
pub(super) struct List {
    first: u32,
    last: u32,
    len: u32,
}

impl List {
    pub(super) const fn new() -> Self {
        Self { first: 0, last: 0, len: 0 }
    }

    #[inline]
    pub(super) const fn len(&self) -> usize {
        self.len as usize
    }

    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.first == 0
    }

    #[inline]
    pub(super) const fn first(&self) -> Option<usize> {
        decode(self.first)
    }

    #[inline]
    pub(super) const fn last(&self) -> Option<usize> {
        decode(self.last)
    }

    #[inline]
    pub(super) fn push_front(&mut self, descs: Descs, index: usize) {
        let (page, link) = (descs.page(index), encode(index));
        page.prev.store(0, Relaxed);
        page.next.store(self.first, Relaxed);
        match decode(self.first) {
            Some(old) => descs.page(old).prev.store(link, Relaxed),
            None => self.last = link,
        }
        self.first = link;
        self.len += 1;
    }

    pub(super) fn push_back(&mut self, descs: Descs, index: usize) {
        let (page, link) = (descs.page(index), encode(index));
        page.next.store(0, Relaxed);
        page.prev.store(self.last, Relaxed);
        match decode(self.last) {
            Some(old) => descs.page(old).next.store(link, Relaxed),
            None => self.first = link,
        }
        self.last = link;
        self.len += 1;
    }

    /// Takes a member out.
    #[inline]
    pub(super) fn remove(&mut self, descs: Descs, index: usize) {
        debug_assert!(self.len > 0);
        let page = descs.page(index);
        let (next, prev) = (page.next.load(Relaxed), page.prev.load(Relaxed));
        match decode(prev) {
            Some(before) => descs.page(before).next.store(next, Relaxed),
            None => {
                debug_assert_eq!(self.first, encode(index), "a page is on another list than it says");
                self.first = next;
            }
        }
        match decode(next) {
            Some(after) => descs.page(after).prev.store(prev, Relaxed),
            None => self.last = prev,
        }
        self.len -= 1;
    }
}

#[inline]
const fn encode(index: usize) -> u32 {
    index as u32 + 1
}

#[inline]
pub(super) const fn decode(link: u32) -> Option<usize> {
    match link {
        0 => None,
        link => Some(link as usize - 1),
    }
}
