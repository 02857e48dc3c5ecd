//! Lists threaded through page descriptors, and the array of descriptors they thread through.
//!
//! # Links that were written over
//! Descriptors are memory, and a program that writes anywhere may hit one. So no link is believed, unless the platform says so
//! ([`Platform::CHECKS_LINKS`](crate::platform::Platform::CHECKS_LINKS)): the page that it leads to must be memory of the heap and lead back. Where it does not, the list is mended (`page::mend`), and the page that was to be taken
//! out is noted ([`Known::damaged`]): whoever came here says so once it holds no lock ([`Pages::tell_damage`](super::Pages)).

use core::sync::atomic::Ordering::{Acquire, Relaxed};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize};

use super::block;
use super::desc::Page;
use super::mend::{Ends, mend};
use super::mobility::{Mobility, PAGEBLOCK_PAGES};
use crate::platform::MAX_ORDER;

/// What links are compared with, and what was found wrong.
pub(super) struct Known {
    /// The block map. Null until the first memory comes in.
    pub(super) map: AtomicPtr<AtomicU8>,
    /// Pages of the window once the map is known; until then 0.
    pub(super) mapped: AtomicUsize,
    /// The number of a page whose list was found damaged, until somebody tells.
    pub(super) damaged: AtomicU32,
    /// That stops the program.
    pub(super) stops: AtomicBool,
}

impl Known {
    pub(super) const fn new() -> Self {
        Self {
            map: AtomicPtr::new(core::ptr::null_mut()),
            mapped: AtomicUsize::new(0),
            damaged: AtomicU32::new(0),
            stops: AtomicBool::new(false),
        }
    }
}

/// The array of descriptors, by page index.
///
/// Invariant I-PAGE-4: every index that the page allocator passes here is of a page whose memory was added
/// and not removed since: indices come from free lists, from owned runs, from buddies within the
/// same 4 MiB block as those, or from a look-up that asked the block map first. Links are looked up so ([`Descs::linked`]).
#[derive(Clone, Copy)]
pub(super) struct Descs {
    first: *const Page,
    known: *const Known,
}

impl Descs {
    /// The descriptors of a window, of which so much is known. Nothing: links are believed.
    #[inline]
    pub(super) fn new(first: *const Page, known: Option<&Known>) -> Self {
        Self { first, known: known.map_or(core::ptr::null(), core::ptr::from_ref) }
    }

    /// The descriptors of a run, by their distance from its head. For nothing that follows links.
    #[inline]
    pub(super) const fn of_run(head: &Page) -> Self {
        Self { first: core::ptr::from_ref(head), known: core::ptr::null() }
    }

    /// Links are believed.
    #[inline]
    fn believes(self) -> bool {
        self.known.is_null()
    }

    /// The descriptor of a page of added memory.
    #[inline]
    pub(super) fn page<'a>(self, index: usize) -> &'a Page {
        // SAFETY: I-PAGE-4, and the platform keeps descriptors of added memory readable and writable;
        // all fields are atomics, so sharing is fine.
        unsafe { &*self.first.add(index) }
    }

    /// The page of a link; nothing for 0, and where the heap has no memory.
    #[inline]
    fn linked<'a>(self, link: u32) -> Option<&'a Page> {
        let index = decode(link)?;
        // SAFETY: `new` was given what lies in the `Pages` by whose method this was called, which is borrowed meanwhile.
        let Some(known) = (unsafe { self.known.as_ref() }) else { return Some(self.page(index)) };
        // Acquire pairs with the Release in `reserve_books`: below this bound there is a map.
        if index >= known.mapped.load(Acquire) {
            return None;
        }
        // SAFETY: the map has one byte for each block of the window.
        // Acquire pairs with the Release in `admit`: the block's descriptors are set up.
        let byte = unsafe { (*known.map.load(Relaxed).add(index >> MAX_ORDER)).load(Acquire) };
        (byte & block::PRESENT != 0).then(|| self.page(index))
    }

    /// The page behind one that is on a list, if it leads back.
    pub(super) fn after(self, index: usize) -> Option<usize> {
        let link = self.page(index).next.load(Relaxed);
        let page = self.linked(link)?;
        if page.prev.load(Relaxed) == encode(index) { decode(link) } else { None }
    }

    /// Notes that the list of a page was found damaged.
    #[cold]
    fn note_damage(self, index: usize) {
        // SAFETY: as in `linked`.
        if let Some(known) = unsafe { self.known.as_ref() } {
            // Relaxed: a message for whoever comes by. One of several is as good as any.
            known.damaged.store(encode(index), Relaxed);
        }
    }

    /// The index of a descriptor that was obtained from [`Descs::page`].
    #[inline]
    pub(super) fn index(self, page: &Page) -> usize {
        (core::ptr::from_ref(page).addr() - self.first.addr()) / size_of::<Page>()
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
        if descs.believes() {
            self.unlink(descs, index);
            self.len -= 1;
        } else if self.holds(descs, index) {
            self.unlink(descs, index);
            // Not more than there are: pages that were lost with a damaged list may lead to each other.
            self.len = self.len.saturating_sub(1);
        } else {
            self.remove_damaged(descs, index);
        }
    }

    /// Makes the neighbours of a member each other's.
    #[inline]
    fn unlink(&mut self, descs: Descs, index: usize) {
        let page = descs.page(index);
        let (next, prev) = (page.next.load(Relaxed), page.prev.load(Relaxed));
        match decode(prev) {
            Some(before) => descs.page(before).next.store(next, Relaxed),
            None => self.first = next,
        }
        match decode(next) {
            Some(after) => descs.page(after).prev.store(prev, Relaxed),
            None => self.last = prev,
        }
    }

    /// The pages beside one lead back to it.
    #[inline]
    fn holds(&self, descs: Descs, index: usize) -> bool {
        let (page, link) = (descs.page(index), encode(index));
        let forth = match page.prev.load(Relaxed) {
            0 => Some(self.first),
            prev => descs.linked(prev).map(|before| before.next.load(Relaxed)),
        };
        let back = match page.next.load(Relaxed) {
            0 => Some(self.last),
            next => descs.linked(next).map(|after| after.prev.load(Relaxed)),
        };
        forth == Some(link) && back == Some(link)
    }

    /// Mends the list, and takes the page out if it is on it then.
    #[cold]
    #[inline(never)]
    fn remove_damaged(&mut self, descs: Descs, index: usize) {
        descs.note_damage(index);
        let ends = Ends { first: self.first, last: self.last, len: self.len };
        let Ends { first, last, len } = mend(ends, |link| descs.linked(link));
        *self = Self { first, last, len };
        let mut members = core::iter::successors(self.first(), |&index| descs.after(index));
        if members.any(|member| member == index) {
            self.remove(descs, index);
        }
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
