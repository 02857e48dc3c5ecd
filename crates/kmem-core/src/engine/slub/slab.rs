//! Making slabs, carving them, and giving them back.
//!
//! # Pages that nobody needs yet
//! A slab of large objects is up to 32 KiB long, and a program with dozens of classes asks for one or two objects of many of them.
//! What is not carved costs addresses only, as long as nobody touches it. The marks of free blocks do touch it; so where free
//! objects have marks, a page of a slab is *opened* when the first object that starts in it is carved: then all of these
//! get their marks, and the page its tag. In a page that was not opened nothing was ever handed out. It has no tag, so a free
//! of an address in there takes the slow path, which refuses it.
//!
//! A header tells of an overflow of the object before it, so it must be there once that one is handed out: where the next object
//! starts in a page that is not open, its header is written alone, and the page gets the tag [`EDGE`].
//!
//! - I-OPEN-1: in a slab with [`PAGEWISE`] a page has the tag of its cache if and only if the objects that start in it have
//!   marks or are, or were, handed out.
//! - I-OPEN-2: where objects have headers, so has the one behind each that was carved; the last one has its tail.

use core::sync::atomic::Ordering;

use crate::engine::beside::Beside;
use crate::engine::cache::count;
use crate::engine::slub::Cache;
use crate::engine::slub::Floor;
use crate::engine::slub::checked::{self, Layout};
use crate::engine::slub::object::Extent;
use crate::engine::slub::word::{self, Word};
use crate::engine::watch::{FREE, GRAIN_SHIFT};
use crate::flags::SlabFlags;
use crate::gfp::Gfp;
use crate::page::{Kind, Page, PageRun};
use crate::percpu::MAX_STACKS;
use crate::platform::{PAGE_SHIFT, PAGE_SIZE, Platform};

/// The tag of a page that is not open, in which the first object has its header. No cache has this number.
const EDGE: u16 = u16::MAX - 1;
const _: () = assert!(MAX_STACKS <= EDGE as usize);

/// In a slab's `slab_flags`, beside those of checked slabs: its pages are opened one by one.
const PAGEWISE: u16 = 1 << 15;

/// What a new slab is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlabKind {
    /// In the hands of a CPU.
    Frozen,
    /// For a node's list.
    Thawed,
    /// For a node's list of checked slabs.
    Checked,
}

/// Fetches pages for one slab: the preferred order without effort, then the order that fits one object.
fn fetch<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    gfp: Gfp,
    node: usize,
    strict: bool,
    layout: Layout<'_>,
    pinned: bool,
) -> Option<(PageRun, bool)> {
    let geometry = layout.geometry;
    let mut gfp = gfp - Gfp::ZERO - Gfp::SLAB_BUG;
    if cache.flags().contains(SlabFlags::CACHE_DMA) {
        gfp |= Gfp::DMA;
    }
    if cache.flags().contains(SlabFlags::CACHE_DMA32) {
        gfp |= Gfp::DMA32;
    }
    if cache.flags().contains(SlabFlags::RECLAIM_ACCOUNT) {
        gfp |= Gfp::RECLAIMABLE;
    }
    if strict {
        gfp |= Gfp::THISNODE;
    }
    if pinned {
        let pages = if layout.exact_pages != 0 { layout.exact_pages } else { 1 << geometry.order };
        let order = pages.next_power_of_two().ilog2();
        // A region lies on one node, and its pool is that node's.
        let (platform, gfp) = (floor.platform, gfp | Gfp::THISNODE);
        return (0..if strict { 1 } else { platform.nodes() }).find_map(|i| {
            let node = platform.nearest_node(node, i);
            let pool = &cache.node(node).own.pool;
            let run = floor.pages.alloc_pinned(platform, gfp, order, pages, Some(node), pool)?;
            Some((run, false))
        });
    }
    if layout.exact_pages != 0 {
        return floor
            .pages
            .alloc_exact(floor.platform, gfp, layout.exact_pages, Some(node))
            .map(|run| (run, false));
    }
    let fallback = geometry.order > geometry.min_order;
    let mut first = (gfp | Gfp::NOWARN | Gfp::NORETRY) - Gfp::NOFAIL;
    if fallback {
        first = (first | Gfp::NOMEMALLOC) - Gfp::DIRECT_RECLAIM;
    }
    if let Some(run) = floor.pages.alloc(floor.platform, first, geometry.order, Some(node)) {
        return Some((run, false));
    }
    if !fallback {
        return None;
    }
    let run = floor.pages.alloc(floor.platform, gfp, geometry.min_order, Some(node))?;
    Some((run, true))
}

/// Makes the objects of a new slab zero. Pages that are zero already are written to, so that the first look at an object does
/// not map the system's page of zeros, only to have it replaced by the first write. Where pages stay with their cache only the
/// links of its last slab there are to be cleared: what else is not zero was written to a free object, and is found. The objects' states are
/// written to for the same reason: each is read before it is set.
fn blank<P: Platform>(floor: Floor<'_, P>, cache: &Cache, run: &PageRun) {
    let states = floor.platform.states();
    if !states.is_null() {
        let first = (run.address().addr() - floor.platform.window().base) >> GRAIN_SHIFT;
        for at in (0..run.pages() << PAGE_SHIFT >> GRAIN_SHIFT).step_by(PAGE_SIZE) {
            // SAFETY: a state of the run's own memory. No object in use starts there (I-GUARD-1).
            unsafe { &*states.add(first + at) }.store(FREE, Ordering::Relaxed);
        }
    }
    // SAFETY: the run is this thread's.
    unsafe {
        if !run.is_zeroed() && floor.pinned {
            let geometry = &cache.geometry;
            for index in 0..geometry.objects {
                let object = geometry.object(run.address().addr(), index) + geometry.offset;
                run.address().with_addr(object).cast::<u64>().write(0);
            }
            return;
        }
        if !run.is_zeroed() {
            run.address().write_bytes(0, run.pages() << PAGE_SHIFT);
            return;
        }
        for page in 0..run.pages() {
            run.address().add(page << PAGE_SHIFT).write_volatile(0);
        }
    }
}

/// A new slab of the cache, all objects free and not carved, constructed; nobody else knows it yet.
/// `kind` is what it is to be, whatever the cache's letters are by now: who asked works with it by the rules of
/// that kind.
pub(crate) fn create<'a, P: Platform>(
    floor: Floor<'a, P>,
    cache: &Cache,
    gfp: Gfp,
    node: usize,
    strict: bool,
    kind: SlabKind,
) -> Option<&'a Page> {
    let checked = kind == SlabKind::Checked;
    let layout = checked::layout_now(cache, checked);
    let (mut run, fallback) = fetch(floor, cache, gfp, node, strict, layout, floor.pinned && !checked)?;
    if let Some(cpu) = cache.here(floor.platform) {
        count(&cpu.stats.alloc_slab, 1);
        if fallback {
            count(&cpu.stats.order_fallback, 1);
        }
    }
    if fallback && !checked {
        cache.distrust();
    }
    let geometry = layout.geometry;
    let objects = if fallback { geometry.min_objects } else { geometry.objects };
    if floor.guarded && !checked && cache.zeroed() != 0 {
        blank(floor, cache, &run);
    }
    // A block of whole pages may have a thousand of them, and only the first is ever asked.
    let whole = layout.exact_pages != 0 && !checked && !floor.pinned;
    if whole {
        run.make_slab_of_one();
    } else {
        run.set_kind(Kind::Slab);
    }
    let tagged = !checked && cache.own.modes.stacked();
    // A constructor touches all objects anyway, and a guarded heap has done so.
    let pagewise = tagged
        && !whole
        && !floor.guarded
        && cache.mark.load(Ordering::Relaxed) != 0
        && cache.ctor.is_none()
        && run.pages() > 1;
    if tagged {
        if whole {
            floor.pages.set_head_tag(&run, cache.id);
        } else if pagewise {
            floor.pages.tag_later(&run);
        } else {
            floor.pages.set_tag(&run, cache.id);
        }
    }
    let slab = floor.pages.into_head(run);
    slab.cache.store(core::ptr::from_ref(cache).cast_mut().cast(), Ordering::Relaxed);
    slab.objects.store(objects as u16, Ordering::Relaxed);
    slab.carved.store(0, Ordering::Relaxed);
    let flags = if pagewise { PAGEWISE } else { 0 };
    slab.slab_flags.store(if checked { layout.mark } else { flags }, Ordering::Relaxed);
    slab.chain.store(0, Ordering::Relaxed);
    slab.debug.store(0, Ordering::Relaxed);
    let start =
        if cache.own.sequence.is_null() { 0 } else { (floor.platform.entropy() % objects as u64) as u16 };
    slab.start.store(start, Ordering::Relaxed);
    if checked {
        checked::lay_out(floor, cache, slab);
    } else if !pagewise && cache.mark.load(Ordering::Relaxed) != 0 {
        let base = floor.pages.address(slab) as usize;
        for index in 0..objects {
            // SAFETY: the object lies in the new slab, which nobody else knows.
            unsafe { cache.mark_free(geometry.object(base, index) as *mut u8) };
        }
        if geometry.beside == Beside::Header {
            // SAFETY: as above.
            unsafe { cache.mark_last(base, objects - 1) };
        }
    }
    if let Some(ctor) = cache.ctor {
        let base = floor.pages.address(slab) as usize;
        for index in 0..objects {
            // SAFETY: the object lies in the new slab, which nobody else knows; the constructor is the cache's own.
            unsafe { ctor(geometry.object(base, index) as *mut u8) };
        }
    }
    word::store(slab, Word::new(None, 0, kind == SlabKind::Frozen));
    if checked {
        checked::link_all(floor, cache, slab);
    }
    cache.node(slab.node()).count_slab(objects as u16);
    Some(slab)
}

/// Gives a slab's pages back.
///
/// # Safety
/// All objects are free, the slab is on no list, and nobody can reach it any more. No lock is held.
pub(crate) unsafe fn discard<P: Platform>(floor: Floor<'_, P>, cache: &Cache, slab: &Page) {
    let objects = slab.objects.load(Ordering::Relaxed);
    let (checked, node) = (checked::is_checked_slab(slab), slab.node());
    if let Some(dtor) = cache.dtor {
        let base = floor.pages.address(slab) as usize;
        let geometry = checked::geometry_of(cache, slab);
        for index in 0..usize::from(objects) {
            // SAFETY: the object is free and constructed, and nobody else can reach its slab; the destructor is the cache's own.
            unsafe { dtor(geometry.object(base, index) as *mut u8) };
        }
    }
    cache.node(slab.node()).uncount_slab(objects);
    slab.cache.store(core::ptr::null_mut(), Ordering::Relaxed);
    // SAFETY: the caller owns the slab, so the owning token may be rebuilt from its head.
    let run = unsafe { floor.pages.adopt(slab) };
    if floor.pinned && !checked {
        floor.pages.free_pinned(floor.platform, run, &cache.node(node).own.pool);
    } else {
        floor.pages.free(floor.platform, run);
    }
}

/// Takes up to `out.len()` objects that were never handed out. The caller is the owner (I-SLUB-4).
pub(crate) fn carve<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    slab: &Page,
    out: &mut [*mut u8],
) -> usize {
    let objects = slab.objects.load(Ordering::Relaxed) as usize;
    let carved = slab.carved.load(Ordering::Relaxed) as usize;
    let take = out.len().min(objects - carved);
    if take == 0 {
        return 0;
    }
    let base = floor.pages.address(slab) as usize;
    // A slab of the smallest order has fewer objects than the sequence: it is carved in ascending order.
    if cache.own.sequence.is_null() || objects != cache.geometry.objects {
        for (i, slot) in out[..take].iter_mut().enumerate() {
            *slot = cache.object(base, carved + i);
        }
    } else {
        let mut position = slab.start.load(Ordering::Relaxed) as usize + carved;
        if position >= objects {
            position -= objects;
        }
        for slot in &mut out[..take] {
            // SAFETY: the sequence has `geometry.objects` entries and `position` is below that.
            let index = unsafe { *cache.own.sequence.add(position) };
            *slot = cache.object(base, index as usize);
            position += 1;
            if position == objects {
                position = 0;
            }
        }
    }
    slab.carved.store((carved + take) as u16, Ordering::Relaxed);
    if slab.slab_flags.load(Ordering::Relaxed) & PAGEWISE != 0 {
        open_pages(floor, cache, base, objects, &out[..take]);
    }
    take
}

/// Opens the pages in which objects start that are being carved (I-OPEN-1). The caller is the owner of their slab.
fn open_pages<P: Platform>(
    floor: Floor<'_, P>,
    cache: &Cache,
    base: usize,
    objects: usize,
    carved: &[*mut u8],
) {
    let (size, lead) = (cache.geometry.size, cache.geometry.first_object());
    // The first object that starts at a place of the slab or behind it.
    let from = |place: usize| place.saturating_sub(base + lead).div_ceil(size);
    let headed = cache.geometry.beside == Beside::Header;
    let last = cache.object(base, objects - 1);
    for &object in carved {
        let page = object.addr() & !(PAGE_SIZE - 1);
        let tag = floor.pages.tag_of(page);
        if tag != cache.id {
            let (first, end) = (from(page), from(page + PAGE_SIZE).min(objects));
            // What is at an edge may tell of an overflow already.
            for index in first + usize::from(tag == EDGE)..end {
                // SAFETY: the object lies in a slab of this cache, and starts in a page of which none was handed out.
                unsafe { cache.mark_free(cache.object(base, index)) };
            }
            if headed && end == objects {
                // SAFETY: as above.
                unsafe { cache.mark_last(base, objects - 1) };
            }
            floor.pages.tag_page(page, cache.id);
        }
        let next = object.wrapping_add(size);
        let next_page = next.addr() & !(PAGE_SIZE - 1);
        if headed && next_page != page && object < last && floor.pages.tag_of(next_page) == 0 {
            // SAFETY: as above: the first object of a page that is not open.
            unsafe { cache.mark_free(next) };
            floor.pages.tag_page(next_page, EDGE);
        }
    }
}

/// False when nobody was ever given an object that starts in the page at `address`, of a slab.
pub(super) fn is_open<P: Platform>(floor: Floor<'_, P>, cache: &Cache, slab: &Page, address: usize) -> bool {
    slab.slab_flags.load(Ordering::Relaxed) & PAGEWISE == 0 || floor.pages.tag_of(address) == cache.id
}

/// Index of the object that is carved as number `position` of a slab of so many, whose walk of the cache's
/// sequence began at `start`.
pub(crate) fn index_at(cache: &Cache, objects: usize, start: usize, position: usize) -> usize {
    if cache.own.sequence.is_null() || objects != cache.geometry.objects {
        return position;
    }
    // SAFETY: the sequence has `geometry.objects` entries, and the position wraps below that.
    usize::from(unsafe { *cache.own.sequence.add((start + position) % objects) })
}

/// Bytes of a slab that hold objects.
pub(crate) fn extent<P: Platform>(floor: Floor<'_, P>, slab: &Page) -> Extent {
    Extent { base: floor.pages.address(slab) as usize, len: slab.pages() << PAGE_SHIFT }
}
