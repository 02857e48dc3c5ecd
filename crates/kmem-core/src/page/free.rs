//! The way back: runs freed by token and by address, shortened, and lengthened in place.

use core::sync::atomic::Ordering::Relaxed;

use super::desc::{HAS_HEAD_TAG, HAS_TAGS, HAS_TAILS, Kind, Page};
use super::pcp::{BATCH, Lists, MAX_LIST_ORDER};
use super::run::{PageRun, mark_tails};
use super::trim::Excess;
use super::{KINDS, PageError, Pages};
use crate::platform::{BLOCK_PAGES, PAGE_SIZE, Platform};

impl<P: Platform> Pages<P> {
    /// Frees a run.
    #[inline]
    pub fn free(&self, p: &P, run: PageRun) {
        let head = self.into_head(run);
        let kind = head.kind();
        debug_assert!(kind.is_run());
        head.set_kind(Kind::Freeing);
        self.release_run(p, head, kind);
    }

    /// Frees a run by its address, checking everything that can be checked.
    ///
    /// With an order, the run must be of exactly that order, as of [`Pages::alloc`].
    ///
    /// # Errors
    /// [`PageError::Misaligned`], [`PageError::Foreign`], [`PageError::DoubleFree`], [`PageError::Interior`],
    /// [`PageError::WrongOrder`], and [`PageError::NotPages`] for slabs and kmalloc blocks. Nothing is changed then.
    ///
    /// # Safety
    /// If `addr` is the start of a run, the caller owns that run and holds no token of it.
    pub unsafe fn free_at(&self, p: &P, addr: usize, order: Option<u32>) -> Result<(), PageError> {
        let page = self.at(addr).ok_or(PageError::Foreign)?;
        if !addr.is_multiple_of(PAGE_SIZE) {
            return Err(PageError::Misaligned);
        }
        let head = self.head(page);
        match head.kind() {
            Kind::Buddy | Kind::List | Kind::Freeing => return Err(PageError::DoubleFree),
            _ if !core::ptr::eq(head, page) => {
                return Err(PageError::Interior { head: self.address(head).addr() });
            }
            Kind::Allocated => {}
            Kind::Slab
            | Kind::Slob
            | Kind::Large
            | Kind::Leaked
            | Kind::Pinned
            | Kind::Wall
            | Kind::Ended => {
                return Err(PageError::NotPages(head.kind()));
            }
            // Memory of the heap always belongs to some block: this one is being joined with others, or split, right now.
            Kind::None | Kind::Tail => return Err(PageError::DoubleFree),
        }
        let pages = page.pages();
        if order.is_some_and(|order| 1usize.checked_shl(order) != Some(pages)) {
            return Err(PageError::WrongOrder { pages });
        }
        // Of two threads that free the same run one must lose. Relaxed: the lock of the lists orders the rest.
        let (owned, going) = (Kind::Allocated as u8, Kind::Freeing as u8);
        if page.kind.compare_exchange(owned, going, Relaxed, Relaxed).is_err() {
            return Err(PageError::DoubleFree);
        }
        self.release_run(p, page, Kind::Allocated);
        Ok(())
    }

    /// Frees the run that `head` heads and the caller owns; it was of that kind, and is marked as going.
    #[inline]
    fn release_run(&self, p: &P, head: &Page, kind: Kind) {
        self.put_run(p, head, kind);
        self.tell_damage(p);
    }

    #[inline]
    fn put_run(&self, p: &P, head: &Page, kind: Kind) {
        let (index, pages) = (self.index(head), head.pages());
        debug_assert!(pages > 0);
        self.scrub(head, index, 0, pages);
        if kind != Kind::Allocated {
            head.cache.store(core::ptr::null_mut(), Relaxed);
        }
        let natural = pages.is_power_of_two() && index & (pages - 1) == 0;
        if natural && pages <= 1 << MAX_LIST_ORDER && self.keep_on_cpu(p, head, index, pages.trailing_zeros())
        {
            return;
        }
        self.free_to_zone(p, head, index, pages);
    }

    #[inline]
    fn keep_on_cpu(&self, p: &P, head: &Page, index: usize, order: u32) -> bool {
        let Some(cpu) = self.cpu_lists(p.current_cpu()) else { return false };
        let home = head.node() * KINDS + head.zone() as usize;
        let mut lists = cpu.lists.lock(p);
        if lists.home() != Some(home) {
            return false;
        }
        lists.push(self.descs(), index, order, false);
        if lists.pages as usize > p.listed_pages() {
            let excess = self.evict_surplus(p, &mut lists);
            drop(lists);
            self.relieve(p, home, excess);
        }
        true
    }

    /// Frees many runs by their heads, with one look at this CPU's lists for as many of them as these take.
    ///
    /// Each head is asked for while the one before it may be locked away already: asking must take no lock.
    ///
    /// # Safety
    /// Each is the head of a run that the caller owns, and there is no token of it.
    pub(crate) unsafe fn free_heads<'a>(&'a self, p: &P, mut heads: impl Iterator<Item = &'a Page>) {
        while let Some(other) = self.keep_all_on_cpu(p, &mut heads) {
            // SAFETY: the caller's promise.
            let run = unsafe { self.adopt(other) };
            self.free(p, run);
        }
        self.tell_damage(p);
    }

    /// Puts runs on this CPU's lists; the first that does not fit there.
    fn keep_all_on_cpu<'a>(&'a self, p: &P, heads: &mut impl Iterator<Item = &'a Page>) -> Option<&'a Page> {
        let Some(cpu) = self.cpu_lists(p.current_cpu()) else { return heads.next() };
        let most = p.listed_pages();
        let mut lists = cpu.lists.lock(p);
        for head in heads {
            let (index, pages) = (self.index(head), head.pages());
            let home = head.node() * KINDS + head.zone() as usize;
            let natural = pages.is_power_of_two() && index & (pages - 1) == 0;
            if !natural
                || pages > 1 << MAX_LIST_ORDER
                || lists.home() != Some(home)
                || lists.pages as usize + pages > most
            {
                return Some(head);
            }
            debug_assert!(head.kind().is_run());
            self.scrub(head, index, 0, pages);
            head.cache.store(core::ptr::null_mut(), Relaxed);
            lists.push(self.descs(), index, pages.trailing_zeros(), false);
        }
        None
    }

    #[cold]
    fn free_to_zone(&self, p: &P, head: &Page, index: usize, pages: usize) {
        let home = Self::home_of_head(head);
        let excess = {
            let mut areas = self.zone(home).areas.lock(p);
            areas.give_range(self.descs(), index, pages);
            self.excess(&areas)
        };
        self.relieve(p, home.node * KINDS + home.zone as usize, excess);
    }

    /// Clears what an engine left on pages `from..to` of a run: tags and marks of tails.
    #[inline]
    pub(super) fn scrub(&self, head: &Page, index: usize, from: usize, to: usize) {
        let marks = head.marks();
        if marks & HAS_TAGS != 0 {
            self.store_tags(index + from, to - from, 0);
        } else if marks & HAS_HEAD_TAG != 0 && from == 0 {
            self.store_tags(index, 1, 0);
        }
        if marks & HAS_TAILS != 0 {
            (from.max(1)..to).for_each(|i| self.by_index(index + i).set_kind(Kind::None));
        }
    }

    /// Gives blocks back to their zone until no more are left than the CPU may keep. What the zone then has too much, if any.
    #[cold]
    pub(super) fn evict_surplus(&self, p: &P, lists: &mut Lists) -> Excess {
        let mut excess = None;
        while lists.pages as usize > p.listed_pages() {
            excess = self.evict(p, lists, BATCH);
        }
        excess
    }

    /// Gives at least `pages` pages back to their zone, or all. What the zone then has too much, if any.
    pub(super) fn evict(&self, p: &P, lists: &mut Lists, pages: usize) -> Excess {
        let descs = self.descs();
        let home = lists.home()?;
        if lists.pages == 0 {
            return None;
        }
        let mut areas = self.zones[home].areas.lock(p);
        let mut gone = 0;
        while gone < pages {
            let Some((index, order, zeroed)) = lists.evict(descs) else { break };
            areas.give(descs, index, order, zeroed);
            gone += 1 << order;
        }
        self.excess(&areas)
    }

    /// Gives all pages on a CPU's lists back to their zone. From any CPU.
    pub fn drain_cpu(&self, p: &P, cpu: usize) {
        let Some(cpu) = self.cpu_lists(cpu) else { return };
        {
            let mut lists = cpu.lists.lock(p);
            self.evict(p, &mut lists, usize::MAX);
        }
        self.tell_damage(p);
    }

    /// Shortens a run to its first `pages` pages; the others are free.
    ///
    /// # Panics
    /// When `pages` is 0 or more than the run has.
    pub fn truncate(&self, p: &P, run: &mut PageRun, pages: usize) {
        let head = run.head();
        let (index, old) = (self.index(head), head.pages());
        assert!(pages > 0 && pages <= old, "cannot shorten a run of {old} pages to {pages}");
        if pages == old {
            return;
        }
        let home = Self::home_of_head(head);
        let excess = {
            let mut areas = self.zone(home).areas.lock(p);
            self.scrub(head, index, pages, old);
            resize(head, pages);
            areas.give_range(self.descs(), index + pages, old - pages);
            self.excess(&areas)
        };
        self.relieve(p, home.node * KINDS + home.zone as usize, excess);
    }

    /// Lengthens a run to `pages` pages in place, if the pages after it are free. The tag is not carried over.
    ///
    /// False when they are not, when the run would leave its 4 MiB block, when the zone would fall
    /// below its reserve, and when `pages` is less than the run has; nothing was changed then.
    #[must_use]
    pub fn try_extend(&self, p: &P, run: &mut PageRun, pages: usize) -> bool {
        let head = run.head();
        let (index, old) = (self.index(head), head.pages());
        if pages <= old {
            return pages == old;
        }
        if pages > BLOCK_PAGES - (index & (BLOCK_PAGES - 1)) {
            return false;
        }
        {
            let mut areas = self.zone(Self::home_of_head(head)).areas.lock(p);
            let min = areas.marks.min;
            if !areas.allows(pages - old, min) || !areas.take_range(self.descs(), index + old, pages - old) {
                return false;
            }
            resize(head, pages);
            // Pages beyond the natural block cannot be led back by alignment.
            mark_tails(head, old, pages);
        }
        run.forget_zeroed();
        true
    }
}

/// Notes a run's new length. Under the zone's lock, with the pages that join or leave it (I-ZONE-1).
fn resize(head: &Page, pages: usize) {
    let marks = head.marks();
    head.set_order(pages.next_power_of_two().trailing_zeros());
    head.add_mark(marks);
    head.set_span(pages);
}
