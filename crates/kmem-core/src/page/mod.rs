//! Pages: descriptors, buddy, zones, nodes, per-CPU page lists.
//!
//! # Theory
//! The floor below all engines hands out runs of pages, as owning tokens ([`PageRun`]), and answers from any
//! address, in constant time, which page that is and what it is used for.
//!
//! ```text
//!   alloc(gfp, order, node)
//!     -> this CPU's list of that order and mobility          pcp.rs     CPU's lock
//!     -> a zone of the node: split a block                   zone.rs    zone's lock
//!     -> more memory for the node, from the platform         grow.rs    no lock
//!     -> the next nearest node, likewise
//!     -> the reserve, as far as the request may              alloc.rs
//! ```
//! and a free goes the same way up, joining buddies; when much resident memory lies free, the largest
//! blocks are given back to the world but keep their addresses (trim.rs).
//!
//! A run's descriptors are found by index; which 4 MiB blocks of the window have memory at all, and of which node
//! and zone, is told by one byte a block. That map and the CPU lists lie in the first pages of the
//! first memory that comes in: the allocator describes itself, and a machine with one CPU and 64 MiB pays one page.
//!
//! # What is known to be zero
//! Fresh memory and discarded memory reads as zero. A bit per page remembers it through splitting and
//! joining, so that a request for zeroed memory ([`PageRun::is_zeroed`]) need not clear it again, and so
//! that the amount of resident free memory is known.
//!
//! # Invariants
//! I-PAGE in `desc.rs` and `list.rs`, I-ZONE in `zone.rs`, I-PCP in `pcp.rs`, I-REG in `region.rs`, I-ENDED in `ended.rs`. [`Pages::validate`] checks them.
//!
//! # Locks
//! One per CPU list set (`rank::PAGE_LIST`), one per zone (`rank::ZONE`), taken in this order; never two of one
//! rank, except by the fork hooks. No lock is held across a call that asks the platform for memory.
//!
//! # Never
//! This floor never zeroes memory for a caller, never retries for ever, and never looks into the pages it manages.

mod alloc;
mod desc;
mod ended;
mod error;
mod fork;
mod free;
mod grow;
mod list;
mod mend;
mod mobility;
mod pcp;
mod region;
mod run;
mod stats;
mod trim;
mod validate;
mod walls;
mod zone;

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::{Acquire, Relaxed};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize};

pub use desc::{Kind, Page, ZoneKind};
pub use error::PageError;
pub use mobility::{Mobility, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES};
pub use region::Pool;
pub use run::PageRun;
pub use stats::{PageStats, ZoneStats};
pub use validate::PageFault;
pub use walls::Wall;
pub use zone::{Watermarks, ZoneEvents};

use crate::fault::{self, Fault, Slot};
use crate::fetch;
use crate::gfp::Gfp;
use crate::platform::{BLOCK_PAGES, MAX_CPUS, MAX_NODES, MAX_ORDER, PAGE_SHIFT, PAGE_SIZE, Platform};
use crate::report;
use list::{Descs, Known};
pub(crate) use mend::{Ends, mend};
use pcp::{CpuLists, MAX_LIST_ORDER};
use zone::{Home, Zone};

/// Kinds of zone.
const KINDS: usize = ZoneKind::ALL.len();

/// The pages of one heap.
///
/// All memory of the platform's window that was added, with the free part of it. Safe to share; a `const`
/// value needs [`Pages::init`] before it serves anything.
pub struct Pages<P: Platform> {
    base: AtomicUsize,
    window_pages: AtomicUsize,
    descs: AtomicPtr<Page>,
    tags: AtomicPtr<AtomicU16>,
    cpus: AtomicUsize,
    zone_ends: [AtomicUsize; 2],
    /// The CPU lists and, after them, the block map. Null until the first memory comes in.
    books: AtomicPtr<CpuLists>,
    /// The block map in them, for [`Pages::tagged`] and for links.
    known: Known,
    zones: [Zone; MAX_NODES * KINDS],
    /// Free resident pages of a zone that are never discarded by a free; the top bit: set by hand.
    trim_floor: AtomicUsize,
    /// Free blocks that a trim leaves with the zone; all, unless somebody said how many.
    block_reserve: AtomicUsize,
    /// There is resident free memory that may have to go by its age.
    aging: AtomicBool,
    /// Free pages of regions.
    idle: region::Idle,
    /// Regions whose pool has ended.
    ended: ended::Ended,
    /// The platform refused to discard: do not ask at each free again.
    discard_refused: AtomicBool,
    /// Which requests fail although there are pages.
    fault: Slot,
    /// Orders below this are served from the CPU lists.
    listed_orders: AtomicU32,
    platform: PhantomData<fn(&P)>,
}

/// Bits of a block's byte in the block map: 0 when it has no memory.
mod block {
    pub(super) const PRESENT: u8 = 0x80;
    pub(super) const ZONE_SHIFT: u8 = 4;
    pub(super) const NODE_MASK: u8 = 0x0f;
}
const _: () = assert!(MAX_NODES <= block::NODE_MASK as usize + 1 && KINDS <= 4);
// The books of the largest machine fit into the first block.
const _: () = assert!(MAX_CPUS * size_of::<CpuLists>() + ((1 << 31) >> MAX_ORDER) <= BLOCK_PAGES * PAGE_SIZE);

/// A page, as far as it is known without its descriptor.
#[derive(Clone, Copy)]
pub(crate) struct Tagged {
    /// Its index in the window.
    pub index: usize,
    /// The tag of its run.
    pub tag: u16,
    /// Its block's byte.
    block: u8,
}

/// Finds descriptors by addresses.
#[derive(Clone, Copy)]
pub(crate) struct Lens<'a> {
    base: usize,
    pages: usize,
    descs: Descs,
    window: PhantomData<&'a ()>,
}

impl<'a> Lens<'a> {
    /// The index of the page around an address, and whether it lies in the window.
    #[inline(always)]
    pub(crate) fn index_of(self, addr: usize) -> (usize, bool) {
        let index = addr.wrapping_sub(self.base) >> PAGE_SHIFT;
        (index, index < self.pages)
    }

    /// The descriptor of a page by its index. The memory must have been added.
    #[inline(always)]
    pub(crate) fn page(self, index: usize) -> &'a Page {
        self.descs.page(index)
    }
}

impl Tagged {
    /// The node of its memory.
    #[inline(always)]
    pub(crate) fn node(self) -> usize {
        usize::from(self.block & block::NODE_MASK)
    }
}

impl<P: Platform> Pages<P> {
    /// No memory, and no window yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            base: AtomicUsize::new(0),
            window_pages: AtomicUsize::new(0),
            descs: AtomicPtr::new(core::ptr::null_mut()),
            tags: AtomicPtr::new(core::ptr::null_mut()),
            cpus: AtomicUsize::new(0),
            zone_ends: [const { AtomicUsize::new(0) }; 2],
            books: AtomicPtr::new(core::ptr::null_mut()),
            known: Known::new(),
            zones: [const { Zone::new() }; MAX_NODES * KINDS],
            trim_floor: AtomicUsize::new(512),
            block_reserve: AtomicUsize::new(usize::MAX),
            aging: AtomicBool::new(false),
            idle: region::Idle::new(),
            ended: ended::Ended::new(),
            discard_refused: AtomicBool::new(false),
            fault: Slot::new(),
            listed_orders: AtomicU32::new(MAX_LIST_ORDER + 1),
            platform: PhantomData,
        }
    }

    /// Learns the platform's window, zones and CPUs. Once, before anything else, by one thread.
    ///
    /// # Panics
    /// When called twice, or when the platform's numbers break its contract.
    pub fn init(&self, p: &P) {
        let window = p.window();
        let ends = p.zone_ends();
        assert!(self.window_pages.load(Relaxed) == 0, "the page allocator was initialised already");
        assert!(
            window.base.is_multiple_of(BLOCK_PAGES * PAGE_SIZE) && window.base != 0,
            "window base {:#x}",
            window.base
        );
        assert!(
            window.pages.is_multiple_of(BLOCK_PAGES) && window.pages > 0 && window.pages <= 1 << 31,
            "window of {} pages",
            window.pages
        );
        assert!(
            ends[0] <= ends[1] && ends.iter().all(|end| end.is_multiple_of(BLOCK_PAGES)),
            "zone ends {ends:?}"
        );
        assert!((1..=MAX_CPUS).contains(&p.cpus()), "{} CPUs", p.cpus());
        assert!((1..=MAX_NODES).contains(&p.nodes()), "{} nodes", p.nodes());
        self.base.store(window.base, Relaxed);
        self.descs.store(window.descs, Relaxed);
        self.tags.store(window.tags.cast_mut(), Relaxed);
        self.cpus.store(p.cpus(), Relaxed);
        self.zone_ends[0].store(ends[0], Relaxed);
        self.zone_ends[1].store(ends[1], Relaxed);
        // Relaxed: the caller publishes the heap to other threads after `init`.
        self.window_pages.store(window.pages, Relaxed);
    }

    #[inline]
    fn descs(&self) -> Descs {
        Descs::new(self.descs.load(Relaxed), P::CHECKS_LINKS.then_some(&self.known))
    }

    /// Index of an address's page; `None` outside the window.
    #[inline]
    fn window_index(&self, addr: usize) -> Option<usize> {
        let index = addr.wrapping_sub(self.base.load(Relaxed)) >> PAGE_SHIFT;
        (index < self.window_pages.load(Relaxed)).then_some(index)
    }

    /// The lists of one CPU; `None` until the first memory came in.
    #[inline]
    fn cpu_lists(&self, cpu: usize) -> Option<&CpuLists> {
        // Acquire pairs with the Release in `reserve_books`; the lists themselves are zero memory until then.
        let books = self.books.load(Acquire);
        if books.is_null() || cpu >= self.cpus.load(Relaxed) {
            return None;
        }
        // SAFETY: the books hold `cpus` entries, all-zero memory is a valid entry, and they are never freed.
        Some(unsafe { &*books.add(cpu) })
    }

    /// The byte of the block map for a block of the window; `None` until the first memory came in.
    #[inline]
    fn block_byte(&self, index: usize) -> Option<&AtomicU8> {
        debug_assert!(index < self.window_pages.load(Relaxed));
        // Acquire: as in `cpu_lists`.
        let books = self.books.load(Acquire);
        if books.is_null() {
            return None;
        }
        // SAFETY: the block map lies after the CPU lists and has one byte for each block of the window.
        Some(unsafe { &*books.add(self.cpus.load(Relaxed)).cast::<AtomicU8>().add(index >> MAX_ORDER) })
    }

    /// Bytes of the books, in pages.
    fn books_pages(&self) -> usize {
        let bytes =
            self.cpus.load(Relaxed) * size_of::<CpuLists>() + (self.window_pages.load(Relaxed) >> MAX_ORDER);
        bytes.div_ceil(PAGE_SIZE)
    }

    /// Node and zone of a page of the window; `None` where no memory is.
    #[inline]
    fn home_of(&self, index: usize) -> Option<Home> {
        // Acquire pairs with the Release in `admit`: the block's descriptors are set up.
        let byte = self.block_byte(index)?.load(Acquire);
        (byte & block::PRESENT != 0).then(|| Home {
            node: usize::from(byte & block::NODE_MASK),
            zone: ZoneKind::from_bits(byte >> block::ZONE_SHIFT & 3),
        })
    }

    #[inline]
    fn zone(&self, home: Home) -> &Zone {
        &self.zones[home.node * KINDS + home.zone as usize]
    }

    /// Node and zone of the run headed by `page`.
    #[inline]
    fn home_of_head(page: &Page) -> Home {
        Home { node: page.node(), zone: page.zone() }
    }

    /// Zones that have memory, lowest node first.
    fn populated(&self) -> impl Iterator<Item = (Home, &Zone)> {
        self.zones
            .iter()
            .enumerate()
            .filter(|(_, zone)| zone.is_populated())
            .map(|(number, zone)| (Home { node: number / KINDS, zone: ZoneKind::ALL[number % KINDS] }, zone))
    }

    /// The zone kind of a page of the window.
    fn zone_kind(&self, index: usize) -> ZoneKind {
        if index < self.zone_ends[0].load(Relaxed) {
            ZoneKind::Dma
        } else if index < self.zone_ends[1].load(Relaxed) {
            ZoneKind::Dma32
        } else {
            ZoneKind::Normal
        }
    }

    /// Has requests for pages fail by this rule from now on, in place of the one before; `None`: by none. Meanwhile
    /// no request is served from the CPU lists.
    pub fn set_fault(&self, fault: Option<&'static Fault>) {
        self.fault.set(fault);
        // Relaxed: a request that still finds pages on a list was made a moment earlier.
        self.listed_orders.store(if fault.is_some() { 0 } else { MAX_LIST_ORDER + 1 }, Relaxed);
    }

    /// The rule by which requests for pages fail.
    pub fn fault(&self) -> Option<&'static Fault> {
        self.fault.get()
    }

    /// True: a request for 2^order pages fails although there may be some. `bytes`: what they are for.
    pub(crate) fn refuses(&self, p: &P, gfp: Gfp, order: u32, bytes: usize) -> bool {
        self.fault.get().is_some_and(|fault| {
            let kind = fault::Kind::Page;
            fault.refuses(p, &fault::Request { kind, cache: "", marked: false, size: bytes, order, gfp })
        })
    }

    /// The descriptor of the page around any address; `None` outside added memory. Constant time.
    ///
    /// A descriptor stays readable as long as its memory is not removed. Look up only addresses of memory that
    /// nobody removes meanwhile: those of live blocks, since removal refuses ranges in use.
    #[inline]
    #[must_use]
    pub fn at(&self, addr: usize) -> Option<&Page> {
        let index = self.window_index(addr)?;
        self.home_of(index)?;
        Some(self.descs().page(index))
    }

    /// What is known of the page around any address without its descriptor; `None` outside added memory. The fast half of
    /// [`Pages::at`].
    #[inline(always)]
    pub(crate) fn tagged(&self, addr: usize) -> Option<Tagged> {
        let index = addr.wrapping_sub(self.base.load(Relaxed)) >> PAGE_SHIFT;
        // Acquire pairs with the Release in `reserve_books`: below this bound there is a map.
        if index >= self.known.mapped.load(Acquire) {
            return None;
        }
        // SAFETY: the map has one byte for each block of the window.
        // Acquire pairs with the Release in `admit`, as in `home_of`.
        let block = unsafe { (*self.known.map.load(Relaxed).add(index >> MAX_ORDER)).load(Acquire) };
        if block & block::PRESENT == 0 {
            return None;
        }
        // SAFETY: the platform keeps one tag per page of added memory.
        // Relaxed: whoever has a block got it from somebody who saw its tag written.
        Some(Tagged { index, tag: unsafe { (*self.tags.load(Relaxed).add(index)).load(Relaxed) }, block })
    }

    /// A copy of where everything is, for loops: the compiler would look it up for each object.
    #[inline(always)]
    pub(crate) fn lens(&self) -> Lens<'_> {
        Lens {
            base: self.base.load(Relaxed),
            pages: self.window_pages.load(Relaxed),
            descs: self.descs(),
            window: PhantomData,
        }
    }

    /// The descriptor of a page of added memory, by the index of [`Pages::tagged`] or that of its slab's head.
    #[inline(always)]
    pub(crate) fn by_index(&self, index: usize) -> &Page {
        self.descs().page(index)
    }

    /// The head of the run or free block around a page. Constant time for slabs (their pages are
    /// marked) and for heads; otherwise at most one look at each order.
    #[inline]
    #[must_use]
    pub fn head<'a>(&'a self, page: &'a Page) -> &'a Page {
        match page.kind() {
            Kind::Tail => self.descs().page(self.index(page) - page.pages()),
            Kind::None => self.find_head(page),
            _ => page,
        }
    }

    /// [`Pages::head`] of the page around an address that probably lies in a run of that order: there the head's descriptor is looked at
    /// first, and the page's own, which is another cache line, not at all.
    #[inline]
    pub(crate) fn head_around(&self, addr: usize, order: u32) -> Option<&Page> {
        let index = self.window_index(addr)?;
        self.home_of(index)?;
        // The same 4 MiB block, so added memory too.
        let guess = self.descs().page(index & !((1 << order) - 1));
        // A run that is not the page's own does not reach to it while the page is in use.
        if guess.kind().is_run() && self.index(guess) + guess.pages() > index {
            debug_assert!(
                core::ptr::eq(guess, self.head(self.descs().page(index))),
                "{addr:#x} has another head"
            );
            return Some(guess);
        }
        Some(self.head(self.descs().page(index)))
    }

    /// Asks the processor for what [`Pages::head_around`] looks at first.
    #[inline]
    pub(crate) fn fetch_head(&self, addr: usize, order: u32) {
        let index = addr.wrapping_sub(self.base.load(Relaxed)) >> PAGE_SHIFT;
        fetch::line(self.descs.load(Relaxed).wrapping_add(index & !((1 << order) - 1)));
    }

    /// The aligned pages before a page that carries no mark: the first that does is, or leads to, its head (I-ZONE-1).
    #[cold]
    fn find_head<'a>(&'a self, page: &'a Page) -> &'a Page {
        let index = self.index(page);
        for order in 1..=MAX_ORDER {
            let before = self.descs().page(index & !((1 << order) - 1));
            match before.kind() {
                Kind::None => {}
                Kind::Tail => return self.descs().page(self.index(before) - before.pages()),
                _ => return before,
            }
        }
        page
    }

    /// Whether a damaged list of pages stops the program.
    pub fn stop_at_damage(&self, stops: bool) {
        self.known.stops.store(stops, Relaxed);
    }

    /// Tells of a list that was found damaged, and is mended. No lock may be held.
    #[inline]
    fn tell_damage(&self, p: &P) {
        // Relaxed: whoever finds it tells it.
        if P::CHECKS_LINKS && self.known.damaged.load(Relaxed) != 0 {
            self.tell_found(p);
        }
    }

    #[cold]
    #[inline(never)]
    fn tell_found(&self, p: &P) {
        let Some(index) = list::decode(self.known.damaged.swap(0, Relaxed)) else { return };
        let at = self.address_of(index);
        report::say(
            p,
            format_args!("BUG pages: List of pages corrupt at page {at:p}; FIX pages: List of pages mended"),
        );
        if self.known.stops.load(Relaxed) {
            p.fatal();
        }
    }

    /// True once [`Pages::init`] ran.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.window_pages.load(Relaxed) != 0
    }

    /// The window's first address.
    #[inline]
    #[must_use]
    pub fn base_address(&self) -> usize {
        self.base.load(Relaxed)
    }

    /// True when the address lies in added memory.
    #[inline]
    #[must_use]
    pub fn contains(&self, addr: usize) -> bool {
        self.at(addr).is_some()
    }

    /// Index of a page in the window.
    #[inline]
    #[must_use]
    pub fn index(&self, page: &Page) -> usize {
        self.descs().index(page)
    }

    /// The page with this index; `None` where no memory is.
    #[must_use]
    pub fn page(&self, index: usize) -> Option<&Page> {
        if index >= self.window_pages.load(Relaxed) {
            return None;
        }
        self.home_of(index)?;
        Some(self.descs().page(index))
    }

    /// Where a page's memory begins.
    #[inline]
    #[must_use]
    pub fn address(&self, page: &Page) -> *mut u8 {
        self.address_of(self.index(page)).as_ptr()
    }

    #[inline]
    fn address_of(&self, index: usize) -> NonNull<u8> {
        let addr = self.base.load(Relaxed) + (index << PAGE_SHIFT);
        // The window is memory of the platform, outside the language's own: its provenance is exposed.
        // SAFETY: the base of a window is not null, and no window wraps round.
        unsafe { NonNull::new_unchecked(core::ptr::with_exposed_provenance_mut(addr)) }
    }

    /// Keeps a run by its descriptor: the pages stay allocated until [`Pages::adopt`] and [`Pages::free`].
    #[inline]
    pub fn into_head(&self, run: PageRun) -> &Page {
        // SAFETY: the run stays allocated, so its memory cannot be removed: I-PAGE-4.
        unsafe { run.into_raw().as_ref() }
    }

    /// Rebuilds the owning token of a run that was kept by its descriptor.
    ///
    /// # Panics
    /// When `page` is not the head of a run.
    ///
    /// # Safety
    /// The caller owns the run that `page` heads, and there is no other token of it.
    #[inline]
    pub unsafe fn adopt(&self, page: &Page) -> PageRun {
        assert!(
            page.kind().is_run(),
            "page {} is {:?}, not the head of a run",
            self.index(page),
            page.kind()
        );
        // SAFETY: the head of a run, owned by the caller.
        unsafe { PageRun::new(page, self.address_of(self.index(page)), false) }
    }

    /// Writes `tag` beside each page of the run. Tags are 0 at first, and again once the run is freed.
    pub fn set_tag(&self, run: &PageRun, tag: u16) {
        let head = run.head();
        self.store_tags(self.index(head), head.pages(), tag);
        head.add_mark(desc::HAS_TAGS);
    }

    /// [`Pages::set_tag`], of the run's first page only: for runs that are one object, which starts there.
    pub fn set_head_tag(&self, run: &PageRun, tag: u16) {
        let head = run.head();
        self.store_tags(self.index(head), 1, tag);
        head.add_mark(desc::HAS_HEAD_TAG);
    }

    /// Makes the run one whose pages get their tags one by one, by [`Pages::tag_page`].
    pub(crate) fn tag_later(&self, run: &PageRun) {
        run.head().add_mark(desc::HAS_TAGS);
    }

    /// The tag of the page at `address`, which lies in a run that the caller knows to be allocated.
    #[inline]
    pub(crate) fn tag_of(&self, address: usize) -> u16 {
        let index = address.wrapping_sub(self.base.load(Relaxed)) >> PAGE_SHIFT;
        // SAFETY: the platform keeps one tag per page of added memory.
        // Relaxed: whoever has an address of the page got it from somebody who saw its tag written.
        unsafe { (*self.tags.load(Relaxed).add(index)).load(Relaxed) }
    }

    /// Writes the tag of the page at `address`, of a run of [`Pages::tag_later`] that the caller owns.
    #[inline]
    pub(crate) fn tag_page(&self, address: usize, tag: u16) {
        self.store_tags(address.wrapping_sub(self.base.load(Relaxed)) >> PAGE_SHIFT, 1, tag);
    }

    fn store_tags(&self, first: usize, count: usize, tag: u16) {
        let tags = self.tags.load(Relaxed);
        for index in first..first + count {
            // SAFETY: the platform keeps one tag per page of added memory; these pages are an owned run.
            unsafe { (*tags.add(index)).store(tag, Relaxed) };
        }
    }
}

impl<P: Platform> Default for Pages<P> {
    fn default() -> Self {
        Self::new()
    }
}
