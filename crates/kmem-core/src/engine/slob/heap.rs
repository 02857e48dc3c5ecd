//! All pages of SLOB: the three rings, the search, and the way back.

use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use super::pages::{Books, State, mend, put_aside, room, set_state, shared, store};
use super::ring::Ring;
use super::room::{Refused, Room, UNIT, UNITS, units};
use crate::debug::Debug;
use crate::gfp::Gfp;
use crate::page::{Kind, Page, PageRun, Pages, ZoneKind};
use crate::platform::{PAGE_SHIFT, PAGE_SIZE, Platform};
use crate::sync::{Lock, rank};

/// The least alignment of a block, in bytes.
pub const MIN_ALIGN: usize = 8;

/// The floors below.
pub struct World<'a, P: Platform> {
    /// The world below.
    pub platform: &'a P,
    /// The page floor.
    pub pages: &'a Pages<P>,
    /// Decides whether damage found in free memory stops the program, or is only put aside.
    pub debug: &'a Debug,
}

impl<P: Platform> Clone for World<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform> Copy for World<'_, P> {}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Bytes, from 1 to a page.
    pub bytes: usize,
    /// Alignment in bytes of the byte at `offset`: from [`MIN_ALIGN`] to a page, a power of two. (Another
    /// multiple of 8 is kept only as far as [`round_up`](crate::engine::geometry::round_up) does.)
    pub align: usize,
    /// Which byte of the block is aligned.
    pub offset: usize,
    /// How the request may be served. With [`Gfp::ZERO`] the whole block reads as zero.
    pub gfp: Gfp,
    /// Memory of this node if there is any, a fresh page rather than another node's; with [`Gfp::THISNODE`]
    /// from there or not at all. It must exist. `None`: anywhere, as a page with room is better than a near
    /// one.
    pub node: Option<usize>,
}

impl Ask {
    /// So many bytes, anywhere.
    #[must_use]
    pub const fn new(bytes: usize, gfp: Gfp) -> Self {
        Self { bytes, align: MIN_ALIGN, offset: 0, gfp, node: None }
    }
}

/// Why a block was not freed. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// The address is in no page of SLOB.
    NotSlob,
    /// Some of the block is free already.
    Double,
    /// No block starts at the address, or none of that length.
    NotBlock,
    /// The page's free memory was overwritten; nothing in it is freed any more.
    Damaged,
}

impl core::fmt::Display for BlockError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NotSlob => "the address is in no page of SLOB",
            Self::Double => "some of the block is free already",
            Self::NotBlock => "no such block starts at the address",
            Self::Damaged => "the free memory of the page was overwritten",
        })
    }
}

impl core::error::Error for BlockError {}

/// All blocks of one heap. A constant serves at once; [`Heap::init`] makes its headers hard to guess.
pub struct Heap {
    pub(super) books: Lock<Books, { rank::NODE }>,
    /// What the headers of kmalloc are mixed with. Written once, before the first block.
    pub(super) secret: AtomicU64,
}

impl Heap {
    /// No pages.
    #[must_use]
    pub const fn new() -> Self {
        Self { books: Lock::new(Books::new()), secret: AtomicU64::new(0) }
    }

    /// Draws the number that headers are mixed with, once. Before the first block, by one thread.
    pub fn init<P: Platform>(&self, platform: &P) {
        if self.secret.load(Relaxed) == 0 {
            self.secret.store(platform.entropy() | 1, Relaxed);
        }
    }

    /// A block; `None` when there is no memory. Its content is whatever was there, unless [`Gfp::ZERO`] is given.
    ///
    /// # Panics
    /// When the request is none that [`Ask`] allows.
    #[must_use]
    pub fn alloc<P: Platform>(&self, world: World<'_, P>, ask: &Ask) -> Option<NonNull<u8>> {
        self.alloc_from(world, ask, true)
    }

    /// [`Heap::alloc`] that takes the heap's lock only when it is free, and asks for no page. For callers that
    /// may have interrupted anybody.
    #[must_use]
    pub fn alloc_nolock<P: Platform>(&self, world: World<'_, P>, ask: &Ask) -> Option<NonNull<u8>> {
        self.alloc_from(world, ask, false)
    }

    fn alloc_from<P: Platform>(&self, world: World<'_, P>, ask: &Ask, wait: bool) -> Option<NonNull<u8>> {
        assert!((1..=PAGE_SIZE).contains(&ask.bytes), "a block of {} bytes", ask.bytes);
        assert!((MIN_ALIGN..=PAGE_SIZE).contains(&ask.align) && ask.offset <= PAGE_SIZE, "{ask:?}");
        let block = if wait {
            let found = self.search(world, &mut self.books.lock(world.platform), ask);
            match found.or_else(|| self.take_fresh(world, ask)) {
                Some(block) => block,
                None => self.take_elsewhere(world, ask)?,
            }
        } else {
            let mut books = self.books.try_lock(world.platform)?;
            self.search(world, &mut books, ask)?
        };
        if ask.gfp.contains(Gfp::ZERO) {
            // SAFETY: the block was just handed out to this caller, and has so many units.
            unsafe { block.write_bytes(0, units(ask.bytes) * UNIT) };
        }
        Some(block)
    }

    /// First fit among the pages of one ring.
    fn search<P: Platform>(&self, world: World<'_, P>, books: &mut Books, ask: &Ask) -> Option<NonNull<u8>> {
        let wanted = units(ask.bytes) as u16;
        let highest = highest_zone(ask.gfp);
        let number = State::for_bytes(ask.bytes).ring()?;
        let mut page = books.rings[number].first(world.pages)?;
        for _ in 0..books.rings[number].len() {
            // The page may leave the ring.
            let next = Ring::after(world.pages, page);
            let fits = page.objects.load(Relaxed) >= wanted
                && page.word.load(Relaxed) >= u64::from(wanted)
                && page.zone() <= highest
                && ask.node.is_none_or(|node| page.node() == node);
            if fits && let Some(block) = self.take(world, books, page, ask) {
                if State::of(page).ring() == Some(number) {
                    books.rings[number].turn_to(world.pages, page);
                }
                return Some(block);
            }
            page = match next {
                Some(next) => next,
                None => {
                    mend(world, &mut books.rings[number], page);
                    break;
                }
            };
        }
        None
    }

    /// Takes a block from a page that is on a ring.
    fn take<P: Platform>(
        &self,
        world: World<'_, P>,
        books: &mut Books,
        page: &Page,
        ask: &Ask,
    ) -> Option<NonNull<u8>> {
        let (base, mut room) = room(world.pages, page)?;
        let wanted = units(ask.bytes) as u16;
        let at = match room.take(wanted, ask.align, ask.offset) {
            Ok(Some(at)) => at,
            Ok(None) => {
                // What it learned.
                store(page, &room);
                return None;
            }
            Err(damage) => {
                put_aside(world, books, page, damage);
                return None;
            }
        };
        store(page, &room);
        page.start.store(page.start.load(Relaxed) + 1, Relaxed);
        books.free_units -= usize::from(wanted);
        books.blocks += 1;
        if room.free == 0 {
            set_state(world, books, page, State::Full);
        }
        // SAFETY: the units lie in the page.
        Some(unsafe { base.add(usize::from(at) * UNIT) })
    }

    #[cold]
    fn take_fresh<P: Platform>(&self, world: World<'_, P>, ask: &Ask) -> Option<NonNull<u8>> {
        let run = world.pages.alloc(world.platform, page_gfp(ask.gfp), 0, ask.node)?;
        let mut books = self.books.lock(world.platform);
        let page = world.pages.into_head(as_slob(run));
        let base = NonNull::new(world.pages.address(page))?;
        // SAFETY: the page was just allocated for this heap, and its content belongs to the holder of the lock
        // from here on.
        let room = unsafe { Room::whole(base) };
        store(page, &room);
        page.start.store(0, Relaxed);
        State::Full.store(page);
        books.pages += 1;
        books.free_units += usize::from(UNITS);
        set_state(world, &mut books, page, State::for_bytes(ask.bytes));
        let block = self.take(world, &mut books, page, ask);
        if block.is_some() {
            return block;
        }
        // The aligned byte lies so far behind that even a page is too short.
        let run = self.give_up(world, &mut books, page);
        drop(books);
        world.pages.free(world.platform, run);
        None
    }

    /// What other nodes have, when the one that was asked for has nothing and no page is to be had.
    #[cold]
    fn take_elsewhere<P: Platform>(&self, world: World<'_, P>, ask: &Ask) -> Option<NonNull<u8>> {
        if ask.node.is_none() || ask.gfp.contains(Gfp::THISNODE) {
            return None;
        }
        let anywhere = Ask { node: None, ..*ask };
        self.search(world, &mut self.books.lock(world.platform), &anywhere)
    }

    /// Frees a block of `bytes` bytes.
    ///
    /// # Errors
    /// See [`BlockError`]; nothing was changed then, but that the page may have been put aside.
    ///
    /// # Safety
    /// If the block is in use, it belongs to the caller, and nobody uses it any more.
    pub unsafe fn free<P: Platform>(
        &self,
        world: World<'_, P>,
        ptr: *mut u8,
        bytes: usize,
    ) -> Result<(), BlockError> {
        let page = world.pages.at(ptr.addr()).ok_or(BlockError::NotSlob)?;
        let mut books = self.books.lock(world.platform);
        // SAFETY: the caller's promise.
        let empty = unsafe { self.give(world, &mut books, page, ptr.addr(), bytes) }?;
        drop(books);
        if let Some(run) = empty {
            world.pages.free(world.platform, run);
        }
        Ok(())
    }

    /// What [`Heap::free`] (or [`Heap::free_whole`], for a page and more) would refuse, but for the owner.
    ///
    /// # Errors
    /// See [`BlockError`].
    pub fn check<P: Platform>(
        &self,
        world: World<'_, P>,
        ptr: *mut u8,
        bytes: usize,
    ) -> Result<(), BlockError> {
        let page = world.pages.at(ptr.addr()).ok_or(BlockError::NotSlob)?;
        let _books = self.books.lock(world.platform);
        if bytes >= PAGE_SIZE {
            let whole = page.kind() == Kind::Slob && State::of(page) == State::Whole;
            return if whole { Ok(()) } else { Err(BlockError::NotSlob) };
        }
        shared(page)?;
        let Some((_, room)) = room(world.pages, page) else { return Err(BlockError::NotSlob) };
        match room.is_free(((ptr.addr() & (PAGE_SIZE - 1)) / UNIT) as u16) {
            Ok(false) => Ok(()),
            Ok(true) => Err(BlockError::Double),
            Err(_) => Err(BlockError::Damaged),
        }
    }

    /// Gives a block back to its page; the page, when it has no other.
    ///
    /// # Safety
    /// As [`Heap::free`]; `page` is that of the address.
    pub(super) unsafe fn give<P: Platform>(
        &self,
        world: World<'_, P>,
        books: &mut Books,
        page: &Page,
        addr: usize,
        bytes: usize,
    ) -> Result<Option<PageRun>, BlockError> {
        shared(page)?;
        let (at, wanted) = ((addr & (PAGE_SIZE - 1)) / UNIT, units(bytes));
        if !addr.is_multiple_of(MIN_ALIGN) || wanted == 0 || at + wanted > usize::from(UNITS) {
            return Err(BlockError::NotBlock);
        }
        let (at, wanted) = (at as u16, wanted as u16);
        let Some((_, mut room)) = room(world.pages, page) else { return Err(BlockError::NotSlob) };
        match room.give(at, wanted) {
            Ok(()) => {}
            Err(Refused::Free) => return Err(BlockError::Double),
            Err(Refused::Damage(damage)) => {
                put_aside(world, books, page, damage);
                return Err(BlockError::Damaged);
            }
        }
        store(page, &room);
        // A free of something that was no block can make this 0 too early; the units are what counts.
        page.start.store(page.start.load(Relaxed).saturating_sub(1), Relaxed);
        books.free_units += usize::from(wanted);
        books.blocks = books.blocks.saturating_sub(1);
        if room.free == UNITS {
            return Ok(Some(self.give_up(world, books, page)));
        }
        if State::of(page) == State::Full {
            set_state(world, books, page, State::for_bytes(bytes));
        }
        Ok(None)
    }

    /// Takes a page that is free from end to end out of the heap (I-SLOB-4).
    fn give_up<P: Platform>(&self, world: World<'_, P>, books: &mut Books, page: &Page) -> PageRun {
        debug_assert_eq!(page.objects.load(Relaxed), UNITS);
        set_state(world, books, page, State::Full);
        books.pages -= 1;
        books.free_units -= usize::from(UNITS);
        // SAFETY: the page is the heap's, nothing in it is in use, and it is on no ring.
        let mut run = unsafe { world.pages.adopt(page) };
        run.set_kind(Kind::Allocated);
        run
    }

    /// A run of `1 << order` pages that is one object. `owner` is for the caller to recognise it by.
    #[must_use]
    pub fn alloc_whole<P: Platform>(
        &self,
        world: World<'_, P>,
        order: u32,
        gfp: Gfp,
        node: Option<usize>,
        owner: *mut (),
    ) -> Option<NonNull<u8>> {
        let run = world.pages.alloc(world.platform, page_gfp(gfp), order, node)?;
        let clear = gfp.contains(Gfp::ZERO) && !run.is_zeroed();
        let mut books = self.books.lock(world.platform);
        let head = world.pages.into_head(as_slob(run));
        State::Whole.store(head);
        head.cache.store(owner, Relaxed);
        books.wholes += 1;
        books.whole_pages += head.pages();
        drop(books);
        let block = NonNull::new(world.pages.address(head))?;
        if clear {
            // SAFETY: the run was just allocated for this caller, and has that many bytes.
            unsafe { block.write_bytes(0, head.pages() << PAGE_SHIFT) };
        }
        Some(block)
    }

    /// Frees a run of [`Heap::alloc_whole`] of that owner.
    ///
    /// # Errors
    /// [`BlockError::NotSlob`], and [`BlockError::NotBlock`] when no such run of that owner starts there.
    ///
    /// # Safety
    /// If there is one, it belongs to the caller, and nobody uses it any more.
    pub unsafe fn free_whole<P: Platform>(
        &self,
        world: World<'_, P>,
        ptr: *mut u8,
        owner: *mut (),
    ) -> Result<(), BlockError> {
        let page = world.pages.at(ptr.addr()).ok_or(BlockError::NotSlob)?;
        let mut books = self.books.lock(world.platform);
        if page.kind() != Kind::Slob {
            return Err(BlockError::NotSlob);
        }
        let theirs = State::of(page) == State::Whole && page.cache.load(Relaxed) == owner;
        if !theirs || !ptr.addr().is_multiple_of(PAGE_SIZE) {
            return Err(BlockError::NotBlock);
        }
        // SAFETY: the head of a run that is one object, which the caller owns.
        let mut run = unsafe { world.pages.adopt(page) };
        run.set_kind(Kind::Allocated);
        page.cache.store(core::ptr::null_mut(), Relaxed);
        books.wholes -= 1;
        books.whole_pages -= run.pages();
        drop(books);
        world.pages.free(world.platform, run);
        Ok(())
    }

    /// Takes the heap's lock for the time of a fork. Pair with [`Heap::unlock_after_fork`].
    pub fn lock_for_fork<P: Platform>(&self, platform: &P) {
        self.books.lock_for_fork(platform);
    }

    /// Releases what [`Heap::lock_for_fork`] took.
    ///
    /// # Safety
    /// As [`Lock::unlock_after_fork`].
    pub unsafe fn unlock_after_fork<P: Platform>(&self, platform: &P) {
        // SAFETY: the caller's promise.
        unsafe { self.books.unlock_after_fork(platform) };
    }
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

fn as_slob(mut run: PageRun) -> PageRun {
    run.set_kind(Kind::Slob);
    run
}

/// What the page floor is asked with.
const fn page_gfp(gfp: Gfp) -> Gfp {
    gfp.difference(Gfp::ZERO).difference(Gfp::HIGHMEM).difference(Gfp::MOVABLE)
}

const fn highest_zone(gfp: Gfp) -> ZoneKind {
    if gfp.contains(Gfp::DMA) {
        ZoneKind::Dma
    } else if gfp.contains(Gfp::DMA32) {
        ZoneKind::Dma32
    } else {
        ZoneKind::Normal
    }
}
