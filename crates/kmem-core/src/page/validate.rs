//! The checker: walks all pages, all lists and all books, and compares them.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use super::desc::{HAS_TAILS, Kind};
use super::list::Descs;
use super::mobility::{Mobility, PAGEBLOCK_PAGES};
use super::zone::{Areas, Home, ORDERS, step};
use super::{KINDS, PageStats, Pages};
use crate::platform::{BLOCK_PAGES, MAX_ORDER, Platform};

/// A broken invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// The invariant, and what is wrong.
    pub rule: &'static str,
    /// Index of the page where it shows.
    pub page: usize,
    /// What is there.
    pub found: usize,
    /// What should be there.
    pub expected: usize,
}

impl fmt::Display for PageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (page {}: {}, expected {})", self.rule, self.page, self.found, self.expected)
    }
}

impl core::error::Error for PageFault {}

fn same(rule: &'static str, page: usize, found: usize, expected: usize) -> Result<(), PageFault> {
    if found == expected { Ok(()) } else { Err(PageFault { rule, page, found, expected }) }
}

/// What a walk over the memory of a zone counted, in pages.
#[derive(Default)]
struct Walk {
    free: usize,
    listed: usize,
    owned: usize,
    pageblocks: [u32; Mobility::ALL.len()],
}

impl Walk {
    fn add(&mut self, other: &Self) {
        self.free += other.free;
        self.listed += other.listed;
        self.owned += other.owned;
        for (sum, blocks) in self.pageblocks.iter_mut().zip(other.pageblocks) {
            *sum += blocks;
        }
    }
}

impl<P: Platform> Pages<P> {
    /// Checks every invariant of this floor. Expensive: looks at every page.
    ///
    /// It may run beside other threads; each zone and each CPU list is checked under its lock, and that the CPU
    /// lists hold exactly the pages that say so is checked when nothing moved meanwhile.
    ///
    /// # Errors
    /// The first fault found.
    pub fn validate(&self, p: &P) -> Result<PageStats, PageFault> {
        let (_, before) = self.check_cpu_lists(p)?;
        let (mut listed, mut in_flight) = (0, 0);
        for (home, zone) in self.populated() {
            let areas = zone.areas.lock(p);
            self.check_lists(&areas, home)?;
            let walk = self.walk(home)?;
            same("I-ZONE-4: free pages", 0, walk.free, areas.free)?;
            same("I-ZONE-5: managed pages", 0, walk.free + walk.listed + walk.owned, areas.managed)?;
            same("copy of managed", 0, zone.managed.load(Relaxed), areas.managed)?;
            for mobility in Mobility::ALL {
                let number = mobility as usize;
                same(
                    "pageblocks",
                    number,
                    walk.pageblocks[number] as usize,
                    areas.pageblocks[number] as usize,
                )?;
            }
            listed += walk.listed;
            in_flight += areas.in_flight;
        }
        let (on_lists, after) = self.check_cpu_lists(p)?;
        if before == after {
            same("I-PCP-2: pages of kind List", 0, listed - in_flight, on_lists)?;
        }
        Ok(self.stats(p))
    }

    /// Checks the free lists of a zone, under its lock.
    fn check_lists(&self, areas: &Areas, home: Home) -> Result<(), PageFault> {
        let descs = self.descs();
        let (mut free, mut dirty) = (0, 0);
        for mobility in Mobility::ALL {
            for order in 0..ORDERS {
                let list = areas.list(mobility, order);
                let bit = usize::from(areas.nonempty_bits(mobility) >> order & 1);
                same("I-ZONE-2: bit of a list", order, bit, usize::from(!list.is_empty()))?;
                let (mut at, mut previous, mut seen, mut clean_seen) = (list.first(), None, 0, false);
                while let Some(index) = at {
                    let page = descs.page(index);
                    seen += 1;
                    if seen > list.len() {
                        break;
                    }
                    same("I-PAGE-1: kind on a free list", index, page.kind() as usize, Kind::Buddy as usize)?;
                    same("I-ZONE-2: order", index, page.order() as usize, order)?;
                    same("alignment", index, index & ((1 << order) - 1), 0)?;
                    same(
                        "back link",
                        index,
                        page.prev.load(Relaxed) as usize,
                        previous.map_or(0, |i: usize| i + 1),
                    )?;
                    self.check_home(index, home)?;
                    let blocks = if order as u32 == MAX_ORDER { 2 } else { 1 };
                    for block in 0..blocks {
                        let found = descs.block_mobility(index + block * PAGEBLOCK_PAGES);
                        same("I-ZONE-2: mobility", index, found as usize, mobility as usize)?;
                    }
                    let bits = descs.dirty_count(index, 1 << order);
                    same("I-ZONE-4: dirty pages of a block", index, page.pages(), bits)?;
                    same("clean before dirty", index, usize::from(clean_seen && bits > 0), 0)?;
                    clean_seen |= bits == 0;
                    free += 1 << order;
                    dirty += bits;
                    previous = Some(index);
                    at = descs.after(index);
                }
                same("length of a list", order, seen, list.len())?;
                same(
                    "end of a list",
                    order,
                    list.last().map_or(0, |i| i + 1),
                    previous.map_or(0, |i| i + 1),
                )?;
            }
        }
        same("I-ZONE-4: sum of the lists", 0, free, areas.free)?;
        same("I-ZONE-4: dirty sum", 0, dirty, areas.dirty)
    }

    fn check_home(&self, index: usize, home: Home) -> Result<(), PageFault> {
        let Some(found) = self.home_of(index) else {
            return Err(PageFault { rule: "I-PAGE-4: no memory", page: index, found: 0, expected: 1 });
        };
        let number = |home: Home| home.node * KINDS + home.zone as usize;
        same("zone of a page", index, number(found), number(home))
    }

    /// Walks all blocks of a zone's memory, under its lock.
    fn walk(&self, home: Home) -> Result<Walk, PageFault> {
        let mut walk = Walk::default();
        for first in (0..self.window_pages.load(Relaxed)).step_by(BLOCK_PAGES) {
            if self.check_home(first, home).is_err() {
                continue;
            }
            walk.add(&self.settled(first)?);
        }
        Ok(walk)
    }

    /// [`Pages::walk_block`]. The owner of a run may change what it is while this looks, a CPU's list may hand one out: a fault is one
    /// only when it stays.
    fn settled(&self, first: usize) -> Result<Walk, PageFault> {
        let mut result = self.walk_block(first);
        for _ in 0..100 {
            if result.is_ok() {
                break;
            }
            core::hint::spin_loop();
            result = self.walk_block(first);
        }
        result
    }

    /// Walks one block of memory.
    fn walk_block(&self, first: usize) -> Result<Walk, PageFault> {
        let descs = self.descs();
        let books = self.window_index(self.books.load(Relaxed).addr());
        let mut walk = Walk::default();
        let mut at = first;
        while at < first + BLOCK_PAGES {
            let page = descs.page(at);
            let pages = step(descs, at);
            match page.kind() {
                Kind::Buddy => {
                    walk.free += pages;
                    check_buddy(descs, at)?;
                }
                Kind::List => walk.listed += pages,
                Kind::Allocated | Kind::Slab | Kind::Slob | Kind::Large | Kind::Freeing => {
                    check_run(descs, at)?;
                    walk.owned += if books == Some(at) { 0 } else { pages };
                }
                Kind::Pinned | Kind::Wall | Kind::Ended => walk.owned += pages,
                Kind::Leaked => {
                    return Err(PageFault { rule: "a run was dropped", page: at, found: pages, expected: 0 });
                }
                kind @ (Kind::None | Kind::Tail) => {
                    return Err(PageFault {
                        rule: "I-ZONE-1: no head",
                        page: at,
                        found: kind as usize,
                        expected: 1,
                    });
                }
            }
            at += pages;
        }
        same("I-ZONE-1: blocks end with the memory", first, at, first + BLOCK_PAGES)?;
        for block in (first..first + BLOCK_PAGES).step_by(PAGEBLOCK_PAGES) {
            walk.pageblocks[descs.block_mobility(block) as usize] += 1;
        }
        Ok(walk)
    }

    /// Checks every CPU's lists; returns the pages on them and a number that changes with them.
    fn check_cpu_lists(&self, p: &P) -> Result<(usize, u64), PageFault> {
        let descs = self.descs();
        let (mut pages, mut changes) = (0, 0);
        for cpu in (0..p.cpus()).filter_map(|cpu| self.cpu_lists(cpu)) {
            let lists = cpu.lists.lock(p);
            let mut sum = 0;
            let mut fault = Ok(());
            lists.each_list(|list, order, mobility, bit| {
                let (mut at, mut seen) = (list.first(), 0);
                let mut check = || {
                    same(
                        "I-PCP-3: bit of a list",
                        order as usize,
                        usize::from(bit),
                        usize::from(!list.is_empty()),
                    )?;
                    while let Some(index) = at {
                        let page = descs.page(index);
                        seen += 1;
                        if seen > list.len() {
                            break;
                        }
                        same("I-PCP-1: kind", index, page.kind() as usize, Kind::List as usize)?;
                        same("I-PCP-1: order", index, page.order() as usize, order as usize)?;
                        same("I-PCP-1: mobility", index, page.mobility() as usize, mobility as usize)?;
                        let home = page.node() * KINDS + page.zone() as usize;
                        same("I-PCP-1: home", index, home, lists.home().unwrap_or(usize::MAX))?;
                        sum += 1 << order;
                        at = descs.after(index);
                    }
                    same("length of a CPU list", order as usize, seen, list.len())
                };
                if fault.is_ok() {
                    fault = check();
                }
            });
            fault?;
            same("I-PCP-2: pages", 0, sum, lists.pages as usize)?;
            same("I-PCP-2: too many", 0, sum.saturating_sub(p.listed_pages()), 0)?;
            pages += sum;
            changes += u64::from(lists.changes);
        }
        Ok((pages, changes))
    }
}

/// I-ZONE-3.
fn check_buddy(descs: Descs, index: usize) -> Result<(), PageFault> {
    let page = descs.page(index);
    let order = page.order();
    if order < MAX_ORDER {
        let buddy = descs.page(index ^ (1 << order));
        let joined = buddy.kind() == Kind::Buddy && buddy.order() == order;
        same("I-ZONE-3: two free buddies", index, usize::from(joined), 0)?;
    }
    Ok(())
}

fn check_run(descs: Descs, index: usize) -> Result<(), PageFault> {
    let pages = descs.page(index).pages();
    same("I-ZONE-4: dirty bits of a run", index, descs.dirty_count(index, pages), pages)?;
    check_tails(descs, index, pages)
}

fn check_tails(descs: Descs, index: usize, pages: usize) -> Result<(), PageFault> {
    let head = descs.page(index);
    if head.kind() == Kind::Slab && head.marks() & HAS_TAILS != 0 {
        for i in 1..pages {
            let tail = descs.page(index + i);
            same("I-PAGE-1: kind of a tail", index + i, tail.kind() as usize, Kind::Tail as usize)?;
            same("tail's way to its head", index + i, tail.pages(), i)?;
        }
    }
    Ok(())
}
