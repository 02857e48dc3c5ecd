//! The checker of SLOB: walks the rings, then all pages, and compares both with the books.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use super::heap::{Heap, World};
use super::pages::{Books, State, room};
use super::ring::Ring;
use super::room::{Damage, UNIT, UNITS};
use crate::page::{Kind, Page, Pages};
use crate::platform::{BLOCK_PAGES, PAGE_SHIFT, Platform};

/// What is in use and what is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Pages that blocks share.
    pub pages: usize,
    /// Those of them on each ring: blocks below 256 bytes, below 1024, others.
    pub on_rings: [usize; 3],
    /// Those of them that are put aside, since their free memory was overwritten.
    pub damaged: usize,
    /// Free bytes in pages that are not put aside.
    pub free_bytes: usize,
    /// Blocks in use in shared pages.
    pub blocks: usize,
    /// Objects that are a run of pages.
    pub wholes: usize,
    /// Their pages.
    pub whole_pages: usize,
}

impl Stats {
    fn of(books: &Books) -> Self {
        Self {
            pages: books.pages,
            on_rings: [0, 1, 2].map(|ring: usize| books.rings[ring].len()),
            damaged: books.damaged,
            free_bytes: books.free_units * UNIT,
            blocks: books.blocks,
            wholes: books.wholes,
            whole_pages: books.whole_pages,
        }
    }
}

/// A broken invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The invariant, and what is wrong.
    pub rule: &'static str,
    /// Index of the page where it shows.
    pub page: usize,
    /// What is there.
    pub found: usize,
    /// What should be there.
    pub expected: usize,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (page {}: {}, expected {})", self.rule, self.page, self.found, self.expected)
    }
}

impl core::error::Error for Fault {}

fn same(rule: &'static str, page: usize, found: usize, expected: usize) -> Result<(), Fault> {
    if found == expected { Ok(()) } else { Err(Fault { rule, page, found, expected }) }
}

/// What a walk over all pages counted.
#[derive(Default)]
struct Walk {
    stats: Stats,
    free_units: usize,
}

impl Heap {
    /// What is in use and what is free.
    #[must_use]
    pub fn stats<P: Platform>(&self, world: World<'_, P>) -> Stats {
        Stats::of(&self.books.lock(world.platform))
    }

    /// Checks every invariant of the heap. Expensive, and under its lock.
    ///
    /// # Errors
    /// The first fault found.
    pub fn validate<P: Platform>(&self, world: World<'_, P>) -> Result<Stats, Fault> {
        let books = self.books.lock(world.platform);
        for (number, ring) in books.rings.iter().enumerate() {
            check_ring(world.pages, ring, number)?;
        }
        let mut walk = Walk::default();
        for page in slob_pages(world) {
            check_page(world.pages, page, &mut walk)?;
        }
        let (stats, seen) = (Stats::of(&books), walk.stats);
        for (rule, found, expected) in [
            ("I-SLOB-6: pages", stats.pages, seen.pages),
            ("I-SLOB-6: damaged pages", stats.damaged, seen.damaged),
            ("I-SLOB-6: free units", books.free_units, walk.free_units),
            ("I-SLOB-6: blocks", stats.blocks, seen.blocks),
            ("I-SLOB-6: whole runs", stats.wholes, seen.wholes),
            ("I-SLOB-6: pages of whole runs", stats.whole_pages, seen.whole_pages),
        ] {
            same(rule, 0, found, expected)?;
        }
        for number in 0..3 {
            same("I-SLOB-5: pages on a ring", number, stats.on_rings[number], seen.on_rings[number])?;
        }
        Ok(stats)
    }
}

/// All pages of the heap, by walking the whole window. Under the heap's lock.
pub(super) fn slob_pages<P: Platform>(world: World<'_, P>) -> impl Iterator<Item = &Page> {
    let pages = world.pages;
    (0..world.platform.window().pages)
        .step_by(BLOCK_PAGES)
        .filter(|&first| pages.page(first).is_some())
        .flat_map(move |first| (first..first + BLOCK_PAGES).filter_map(|index| pages.page(index)))
        .filter(|page| page.kind() == Kind::Slob)
}

fn check_ring<P: Platform>(pages: &Pages<P>, ring: &Ring, number: usize) -> Result<(), Fault> {
    let mut at = ring.first(pages);
    same("I-SLOB-3: an empty ring", number, usize::from(at.is_some()), usize::from(ring.len() > 0))?;
    for _ in 0..ring.len() {
        let Some(page) = at else { break };
        let index = pages.index(page);
        same("I-SLOB-4: kind on a ring", index, page.kind() as usize, Kind::Slob as usize)?;
        same("I-SLOB-5: ring", index, State::of(page).ring().unwrap_or(3), number)?;
        same("I-SLOB-3: links lead back", index, usize::from(Ring::holds(pages, page)), 1)?;
        at = Ring::after(pages, page);
    }
    let (end, first) = (at.map(|page| pages.index(page)), ring.first(pages).map(|page| pages.index(page)));
    same("I-SLOB-3: a ring closes", number, end.unwrap_or(usize::MAX), first.unwrap_or(usize::MAX))
}

fn check_page<P: Platform>(pages: &Pages<P>, page: &Page, walk: &mut Walk) -> Result<(), Fault> {
    let (index, state) = (pages.index(page), State::of(page));
    let stats = &mut walk.stats;
    if state == State::Whole {
        stats.wholes += 1;
        stats.whole_pages += page.pages();
        return Ok(());
    }
    let blocks = usize::from(page.start.load(Relaxed));
    stats.pages += 1;
    stats.blocks += blocks;
    same("I-SLOB-4: pages of a shared page", index, page.pages(), 1)?;
    if state == State::Damaged {
        stats.damaged += 1;
        return Ok(());
    }
    let free = usize::from(page.objects.load(Relaxed));
    walk.free_units += free;
    if let Some(ring) = state.ring() {
        stats.on_rings[ring] += 1;
    }
    same(
        "I-SLOB-5: a page without a block",
        index,
        usize::from(free == usize::from(UNITS) || blocks == 0),
        0,
    )?;
    same("I-SLOB-5: on a ring", index, usize::from(state.ring().is_some()), usize::from(free > 0))?;
    let Some((_, room)) = room(pages, page) else { return Ok(()) };
    let mut sum = 0;
    for hole in room.holes() {
        match hole {
            Ok(hole) => {
                sum += usize::from(hole.units);
                let excess = hole.units.saturating_sub(room.longest);
                same("I-SLOB-2: a block is longer than the longest", index, excess.into(), 0)?;
            }
            Err(Damage { at }) => {
                let (found, expected) = (usize::from(at), usize::from(UNITS));
                return Err(Fault { rule: "I-SLOB-1: a broken chain", page: index, found, expected });
            }
        }
    }
    same("I-SLOB-2: free units", index, sum, free)?;
    debug_assert!(page.pages() << PAGE_SHIFT == usize::from(UNITS) * UNIT);
    Ok(())
}
