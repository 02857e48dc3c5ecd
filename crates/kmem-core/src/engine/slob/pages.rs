//! What the heap knows of a page: its state, its free blocks, and the books that sum over all pages.
//!
//! Fields of a descriptor that are SLOB's: `objects` (free units), `carved` (the first free unit), `word` (no
//! free block has more units), `start` (blocks in use), `slab_flags` (a [`State`]), `next` and `prev`
//! ([`super::ring`]), `cache` (the owner of a run that is one object). All loads and stores are relaxed: the
//! heap's lock orders them (I-SLOB-4).

use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;

use super::heap::{BlockError, World};
use super::ring::Ring;
use super::room::{Damage, Room, UNIT};
use crate::debug::report;
use crate::page::{Kind, Page, Pages};
use crate::platform::Platform;

/// Bytes below which a block goes to the first and to the second ring; all others go to the third.
const RING_BOUNDS: [usize; 2] = [256, 1024];

/// In which state a page of SLOB is: [`Page::slab_flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum State {
    /// No free unit.
    Full = 0,
    /// On the ring of small blocks.
    Small = 1,
    /// On the ring of medium blocks.
    Medium = 2,
    /// On the ring of all other blocks.
    Large = 3,
    /// Its chain is broken: never used again.
    Damaged = 4,
    /// The head of a run that is one object.
    Whole = 5,
}

impl State {
    /// The state of a page.
    pub(super) fn of(page: &Page) -> Self {
        match page.slab_flags.load(Relaxed) {
            0 => Self::Full,
            1 => Self::Small,
            2 => Self::Medium,
            3 => Self::Large,
            5 => Self::Whole,
            _ => Self::Damaged,
        }
    }

    pub(super) fn store(self, page: &Page) {
        page.slab_flags.store(self as u16, Relaxed);
    }

    /// The ring for blocks of `bytes` bytes.
    pub(super) const fn for_bytes(bytes: usize) -> Self {
        if bytes < RING_BOUNDS[0] {
            Self::Small
        } else if bytes < RING_BOUNDS[1] {
            Self::Medium
        } else {
            Self::Large
        }
    }

    /// The number of the ring the page is on.
    pub(super) const fn ring(self) -> Option<usize> {
        match self {
            Self::Small => Some(0),
            Self::Medium => Some(1),
            Self::Large => Some(2),
            Self::Full | Self::Damaged | Self::Whole => None,
        }
    }
}

/// What the lock guards.
pub(super) struct Books {
    pub(super) rings: [Ring; 3],
    /// Pages that blocks share.
    pub(super) pages: usize,
    /// Those of them that are put aside.
    pub(super) damaged: usize,
    /// Free units in pages that are not put aside.
    pub(super) free_units: usize,
    /// Blocks in use in shared pages.
    pub(super) blocks: usize,
    /// Pages of runs that are one object.
    pub(super) whole_pages: usize,
    /// Such runs.
    pub(super) wholes: usize,
}

impl Books {
    /// No pages.
    pub(super) const fn new() -> Self {
        Self {
            rings: [const { Ring::new() }; 3],
            pages: 0,
            damaged: 0,
            free_units: 0,
            blocks: 0,
            whole_pages: 0,
            wholes: 0,
        }
    }
}

/// A page that blocks share and whose chain can be trusted. Under the heap's lock (I-SLOB-4).
pub(super) fn shared(page: &Page) -> Result<(), BlockError> {
    if page.kind() != Kind::Slob {
        return Err(BlockError::NotSlob);
    }
    match State::of(page) {
        State::Damaged => Err(BlockError::Damaged),
        State::Whole => Err(BlockError::NotBlock),
        State::Full | State::Small | State::Medium | State::Large => Ok(()),
    }
}

/// The free blocks of a page of the heap. Under its lock.
pub(super) fn room<P: Platform>(pages: &Pages<P>, page: &Page) -> Option<(NonNull<u8>, Room)> {
    let base = NonNull::new(pages.address(page))?;
    let (first, free) = (page.carved.load(Relaxed), page.objects.load(Relaxed));
    let longest = page.word.load(Relaxed) as u16;
    // SAFETY: the page is the heap's and the caller holds the lock, so its free memory is the caller's (I-SLOB-4).
    Some((base, unsafe { Room::new(base, first, free, longest) }))
}

pub(super) fn store(page: &Page, room: &Room) {
    page.carved.store(room.first, Relaxed);
    page.objects.store(room.free, Relaxed);
    page.word.store(u64::from(room.longest), Relaxed);
}

/// Moves a page to another state, and so off and onto rings.
pub(super) fn set_state<P: Platform>(world: World<'_, P>, books: &mut Books, page: &Page, state: State) {
    let pages = world.pages;
    if let Some(ring) = State::of(page).ring() {
        // One that is not on its ring lay between two damaged pages before.
        if Ring::holds(pages, page) || mend(world, &mut books.rings[ring], page) {
            books.rings[ring].remove(pages, page);
        }
    }
    if let Some(ring) = state.ring() {
        if !books.rings[ring].closes(pages) {
            mend(world, &mut books.rings[ring], page);
        }
        books.rings[ring].push(pages, page);
    }
    state.store(page);
}

/// Puts a ring together again on which a link was overwritten, and tells. True: the page is on it.
#[cold]
#[inline(never)]
pub(super) fn mend<P: Platform>(world: World<'_, P>, ring: &mut Ring, page: &Page) -> bool {
    let found = ring.mend(world.pages, page);
    let at = world.pages.address(page);
    report::brief(
        world.platform,
        world.debug,
        "",
        format_args!("SLOB: a link of a list of pages was overwritten, at page {at:p}; the list is mended"),
    );
    found
}

/// Puts a page with a broken chain aside: what is in use there stays in use, nothing else comes from it.
#[cold]
pub(super) fn put_aside<P: Platform>(world: World<'_, P>, books: &mut Books, page: &Page, damage: Damage) {
    books.free_units -= usize::from(page.objects.load(Relaxed));
    books.damaged += 1;
    set_state(world, books, page, State::Damaged);
    let at = world.pages.address(page).addr() + usize::from(damage.at) * UNIT;
    // Only now is anybody asked whether the program stops: a function of the user's may count how often.
    report::brief(
        world.platform,
        world.debug,
        "",
        format_args!("SLOB: free memory was overwritten at {at:#x}; its page is put aside"),
    );
}
