//! What an observer sees of the heap: its pages in the order of the search, and their free blocks. Changes nothing.

use core::sync::atomic::Ordering::Relaxed;

use super::heap::{Heap, World};
use super::pages::{State, room};
use super::ring::Ring;
use super::room::UNIT;
use super::validate::slob_pages;
use crate::page::Page;
use crate::platform::Platform;

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// On the list of small (0), medium (1) or large (2) blocks.
    Ring(usize),
    /// On none: nothing in it is free.
    Full,
    /// On none: its free memory was overwritten.
    Damaged,
    /// It is the first of a run of so many pages that is one object.
    Whole(usize),
}

/// A page as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSight {
    /// First byte.
    pub base: usize,
    /// Node of the memory.
    pub node: usize,
    /// Where it is.
    pub place: Where,
    /// Bytes that are free.
    pub free: usize,
    /// No free block has more bytes.
    pub longest: usize,
    /// Blocks in use.
    pub blocks: usize,
}

/// What [`Heap::show`] shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// A page. Its free blocks follow.
    Page(PageSight),
    /// A free block of that page, in ascending order.
    Free {
        /// Bytes from the start of the page.
        offset: usize,
        /// Its length.
        bytes: usize,
    },
}

impl Heap {
    /// Shows every page, each followed by its free blocks: those on lists from where the next search begins, then the
    /// others. `see` runs under the heap's lock.
    pub fn show<P: Platform>(&self, world: World<'_, P>, mut see: impl FnMut(Sight)) {
        let books = self.books.lock(world.platform);
        for ring in &books.rings {
            let mut next = ring.first(world.pages);
            for _ in 0..ring.len() {
                let Some(page) = next else { break };
                show_page(world, page, &mut see);
                next = Ring::after(world.pages, page);
            }
        }
        for page in slob_pages(world).filter(|page| State::of(page).ring().is_none()) {
            show_page(world, page, &mut see);
        }
    }
}

/// Under the heap's lock.
fn show_page<P: Platform>(world: World<'_, P>, page: &Page, see: &mut impl FnMut(Sight)) {
    let place = match State::of(page) {
        State::Full => Where::Full,
        State::Damaged => Where::Damaged,
        State::Whole => Where::Whole(page.pages()),
        state => Where::Ring(state.ring().unwrap_or(0)),
    };
    let shared = matches!(place, Where::Ring(_) | Where::Full);
    let units = |units: u16| if shared { usize::from(units) * UNIT } else { 0 };
    see(Sight::Page(PageSight {
        base: world.pages.address(page) as usize,
        node: page.node(),
        place,
        free: units(page.objects.load(Relaxed)),
        longest: units(page.word.load(Relaxed) as u16),
        blocks: if shared { page.start.load(Relaxed).into() } else { 0 },
    }));
    let Some((_, room)) = room(world.pages, page).filter(|_| shared) else { return };
    for hole in room.holes().map_while(Result::ok) {
        see(Sight::Free { offset: usize::from(hole.at) * UNIT, bytes: usize::from(hole.units) * UNIT });
    }
}
