//! The way of a request: CPU list, zones of the node, more memory, other nodes, the reserve.
//!
//! # The order of things
//! 1. This CPU's list, for a small order of local memory without further wishes.
//! 2. For each node, nearest first: its zones from the highest allowed down, as long as they stay above
//!    their `low` mark and as long as pageblocks need not be mixed; then more memory from the platform for
//!    this node; then its zones again, mixing. Only then the next node: a platform that can
//!    give local memory gives it. With `THISNODE` there is no next node.
//! 3. If the caller may wait: regions whose user is gone ([`super::ended`]), one by one, and the zones again after each.
//! 4. The same zones once more, down to `min`, or into the reserve as far as the request may.
//! 5. If the caller may wait: all CPU lists go back to their zones, and step 4 once more.
//!
//! # Pages that nobody touched
//! A heap that grows pays for each page when it writes to it first. What a CPU's list takes along is used next, so where it is untouched
//! memory the platform backs it with one call ([`Platform::back`]): only once the zone is so large that a batch is little beside
//! what is in use, as it may wait on the list for long. Pages on a list that are backed count as written to, for it is what they
//! cost that the zone keeps account of.
//!
//! A large heap that is about to split an untouched pageblock has all of it backed first, by one large page if the world has
//! such ([`Platform::back_whole`]): from a size on where the pageblock, should the heap not grow on, is a thirtieth of it, or from a quarter of
//! that on while it grows so fast that page faults are most of what it does (`Pace` in `zone::memory`); and only
//! as long as the zone has little resident free memory and nearly all requests are small, for then the heap really grows. The
//! pageblock is nobody's meanwhile, as a block that is being discarded is.
//!
//! A request for DMA memory never leaves the DMA zone; one without wishes may use lower zones, but leaves
//! 1/256 of the higher zones' size there for those who have no choice.

use core::ops::RangeInclusive;
use core::sync::atomic::Ordering::Relaxed;

use super::list::Descs;
use super::mobility::{PAGEBLOCK_PAGES, Reach};
use super::pcp::BATCH;
use super::run::PageRun;
use super::zone::{Areas, Home, LARGE, LARGE_OF_REGIONS, Taken};
use super::{KINDS, Kind, Mobility, Pages, ZoneKind};
use crate::gfp::Gfp;
use crate::platform::{BLOCK_PAGES, MAX_ORDER, PAGE_SHIFT, PageRange, Platform};

/// How far down a request may take a zone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Above the `low` mark.
    Low,
    /// To the `min` mark, or into the reserve.
    Min,
}

/// One request, understood.
struct Request {
    gfp: Gfp,
    order: u32,
    pages: usize,
    mobility: Mobility,
    highest: ZoneKind,
    node: usize,
    /// The CPU's lists may serve it.
    listed: bool,
    /// It is for a region: a smaller block will do, down to this order, where there is one and a pageblock would have to be split.
    region: Option<u32>,
}

/// Pages in use from which on a batch is backed at once: 16 MiB, of which it is a hundredth.
const BACKED_FROM: usize = 4096;
/// Pages in use from which on the zone's pace counts: 8 MiB, so that whole pageblocks are backed from 16 MiB on at the earliest.
const WHOLE_FROM: usize = 4 * PAGEBLOCK_PAGES;
/// The shortest range that is worth a call.
const LEAST_BACKED: usize = 4;

/// Blocks taken along for the CPU's lists: for each its index, doubled, plus 1 if its content is zero.
/// (The window has at most 2^31 pages.)
struct Extra {
    blocks: [u32; BATCH],
    len: usize,
}

impl Extra {
    const NONE: Self = Self { blocks: [0; BATCH], len: 0 };

    #[inline]
    fn push(&mut self, taken: Taken) {
        self.blocks[self.len] = (taken.index as u32) << 1 | u32::from(taken.zeroed);
        self.len += 1;
    }

    /// Has the platform back the untouched blocks, each range of neighbours by one call. They are no longer zero then, as far as
    /// the zone's account goes.
    fn back<P: Platform>(&mut self, p: &P, order: u32) {
        let blocks = &mut self.blocks[..self.len];
        // A block's note, one block further on.
        let next = |block: u32| block + (2 << order);
        for neighbours in blocks.chunk_by_mut(|&a, &b| next(a) == b) {
            let pages = neighbours.len() << order;
            if neighbours[0] & 1 != 0
                && pages >= LEAST_BACKED
                && p.back(PageRange { first: (neighbours[0] >> 1) as usize, count: pages })
            {
                neighbours.iter_mut().for_each(|block| *block &= !1);
            }
        }
    }

    /// The last first.
    #[inline]
    fn backwards(&self) -> impl Iterator<Item = Taken> {
        self.blocks[..self.len]
            .iter()
            .rev()
            .map(|block| Taken { index: (block >> 1) as usize, zeroed: block & 1 != 0 })
    }
}

impl<P: Platform> Pages<P> {
    /// Allocates 2^order pages, aligned to their size. `None` for the node is the caller's own.
    ///
    /// The memory is not cleared, whatever `gfp` says: look at [`PageRun::is_zeroed`].
    /// `None` when there is no memory, and for orders above [`MAX_ORDER`].
    #[inline]
    pub fn alloc(&self, p: &P, gfp: Gfp, order: u32, node: Option<usize>) -> Option<PageRun> {
        if order > MAX_ORDER {
            return None;
        }
        self.serve(p, gfp, order, 1 << order, node)
    }

    /// Allocates the first `pages` pages of the smallest natural block that holds them; the rest of the block
    /// stays free.
    ///
    /// `None` when there is no memory, for 0 pages, and for more than 2^[`MAX_ORDER`].
    pub fn alloc_exact(&self, p: &P, gfp: Gfp, pages: usize, node: Option<usize>) -> Option<PageRun> {
        if pages == 0 || pages > BLOCK_PAGES {
            return None;
        }
        self.serve(p, gfp, pages.next_power_of_two().trailing_zeros(), pages, node)
    }

    #[inline]
    fn serve(&self, p: &P, gfp: Gfp, order: u32, pages: usize, node: Option<usize>) -> Option<PageRun> {
        let near = if P::NUMA || node.is_some() { p.current_node() } else { 0 };
        let wanted = if P::NUMA || node.is_some() { node.unwrap_or(near) } else { 0 };
        if wanted >= p.nodes() {
            return None;
        }
        let request = Request {
            gfp,
            order,
            pages,
            mobility: Mobility::of(gfp),
            highest: highest_zone(gfp),
            node: wanted,
            listed: order < self.listed_orders.load(Relaxed)
                && pages == 1 << order
                && wanted == near
                && !gfp.intersects(Gfp::DMA.union(Gfp::DMA32)),
            region: None,
        };
        let taken = self.take_listed(p, &request).or_else(|| self.take_anywhere(p, &request));
        self.tell_damage(p);
        let taken = taken?;
        // SAFETY: the block just left the free lists for this caller alone, as a run with its head set up.
        Some(unsafe {
            PageRun::new(self.descs().page(taken.index), self.address_of(taken.index), taken.zeroed)
        })
    }

    /// A block for a region ([`super::region`]), all of which is for small requests in the end: from a pageblock that is backed
    /// as a whole, where the heap grows so. Of the last of these orders, or else of one before, where that saves a pageblock. Whether it is
    /// blank: zero, and in memory.
    pub(super) fn take_region(
        &self,
        p: &P,
        gfp: Gfp,
        orders: RangeInclusive<u32>,
        node: Option<usize>,
    ) -> Option<(Taken, bool)> {
        let node = node.unwrap_or_else(|| p.current_node());
        let (least, order) = orders.into_inner();
        if order > MAX_ORDER || node >= p.nodes() {
            return None;
        }
        let request = Request {
            gfp,
            order,
            pages: 1 << order,
            mobility: Mobility::of(gfp),
            highest: highest_zone(gfp),
            node,
            listed: false,
            region: Some(least),
        };
        let taken = self.take_anywhere(p, &request);
        self.tell_damage(p);
        taken.map(|taken| {
            let blank = P::BACKS && self.descs().page(taken.index).slab_flags.load(Relaxed) != 0;
            (taken, blank)
        })
    }

    #[inline]
    fn take_listed(&self, p: &P, request: &Request) -> Option<Taken> {
        if !request.listed {
            return None;
        }
        let mut lists = self.cpu_lists(p.current_cpu())?.lists.lock(p);
        if P::NUMA && lists.home().is_none_or(|home| home / KINDS != request.node) {
            return None;
        }
        lists.pop(self.descs(), request.order, request.mobility)
    }

    #[cold]
    fn take_anywhere(&self, p: &P, request: &Request) -> Option<Taken> {
        if self.refuses(p, request.gfp, request.order, request.pages << PAGE_SHIFT) {
            return None;
        }
        let nodes = if request.gfp.contains(Gfp::THISNODE) { 1 } else { p.nodes() };
        for i in 0..nodes {
            let node = p.nearest_node(request.node, i);
            loop {
                if let Some(taken) = self.take_on_node(p, request, node, Depth::Low, Reach::Whole) {
                    return Some(taken);
                }
                // Ends: each turn adds memory or is the last, and added memory only runs out when others use it.
                if !self.fetch(p, request.pages, node, request.highest) {
                    break;
                }
            }
            if let Some(taken) = self.take_on_node(p, request, node, Depth::Low, Reach::Any) {
                return Some(taken);
            }
        }
        if request.gfp.may_block() {
            while self.release_ended(p) {
                let taken = (0..nodes).find_map(|i| {
                    self.take_on_node(p, request, p.nearest_node(request.node, i), Depth::Low, Reach::Any)
                });
                if taken.is_some() {
                    return taken;
                }
            }
        }
        if let Some(taken) = self.take_reserve(p, request, nodes) {
            return Some(taken);
        }
        if !request.gfp.may_block() {
            return None;
        }
        for cpu in 0..p.cpus() {
            self.drain_cpu(p, cpu);
        }
        self.take_reserve(p, request, nodes)
    }

    fn take_reserve(&self, p: &P, request: &Request, nodes: usize) -> Option<Taken> {
        (0..nodes).find_map(|i| {
            self.take_on_node(p, request, p.nearest_node(request.node, i), Depth::Min, Reach::Any)
        })
    }

    fn take_on_node(
        &self,
        p: &P,
        request: &Request,
        node: usize,
        depth: Depth,
        reach: Reach,
    ) -> Option<Taken> {
        // What lower zones keep back from a request that had higher zones to choose from.
        let mut higher = 0;
        for kind in ZoneKind::ALL.into_iter().rev().filter(|&kind| kind <= request.highest) {
            let home = Home { node, zone: kind };
            if !self.zone(home).is_populated() {
                continue;
            }
            let mark = |areas: &Areas| mark(areas, request.gfp, depth, higher >> 8);
            if let Some(taken) = self.take_in_zone(p, request, home, mark, reach) {
                return Some(taken);
            }
            higher += self.zone(home).managed.load(Relaxed);
        }
        None
    }

    fn take_in_zone(
        &self,
        p: &P,
        request: &Request,
        home: Home,
        mark: impl Fn(&Areas) -> usize,
        reach: Reach,
    ) -> Option<Taken> {
        let descs = self.descs();
        let mut extra = Extra::NONE;
        let mut large = false;
        let taken = {
            let mut areas = self.zone(home).areas.lock(p);
            if !areas.allows(request.pages, mark(&areas)) {
                return None;
            }
            let rest = |areas: &Areas| areas.rest(request.region?, request.order, request.mobility);
            if P::BACKS
                && reach == Reach::Whole
                && (request.listed || request.region.is_some())
                && areas.in_use() >= WHOLE_FROM
                && let large = if request.listed { LARGE } else { LARGE_OF_REGIONS }
                && rest(&areas).is_none()
                && let Some(first) =
                    areas.lift_fresh(descs, request.order, request.mobility, large, || p.now())
            {
                drop(areas);
                let backed = p.back_whole(PageRange { first, count: PAGEBLOCK_PAGES });
                if backed {
                    // Relaxed: as in `excess`. What is left of it is looked at, should nobody come back for it.
                    self.aging.store(true, Relaxed);
                }
                areas = self.zone(home).areas.lock(p);
                areas.land_fresh(descs, first, backed);
                if !areas.allows(request.pages, mark(&areas)) {
                    return None;
                }
            }
            // Where nothing is backed no pageblock is better than another.
            let (order, pages) = match if P::BACKS { rest(&areas) } else { None } {
                Some(order) => (order, 1 << order),
                None => (request.order, request.pages),
            };
            let taken = areas.take(descs, home, order, pages, request.mobility, reach)?;
            if P::BACKS && request.region.is_some() {
                descs.page(taken.index).slab_flags.store(u16::from(areas.blank.has_left()), Relaxed);
            }
            // Only a local zone can be the home of this CPU's lists.
            if request.listed && home.node == request.node {
                let keep = mark(&areas);
                self.take_extra(descs, &mut areas, request, home, keep, &mut extra);
                large = P::BACKS && areas.in_use() >= BACKED_FROM;
            }
            taken
        };
        if extra.len > 0 {
            if large {
                extra.back(p, request.order);
            }
            self.stock(p, home, request.order, &extra);
        }
        Some(taken)
    }

    /// Takes blocks along as long as `keep` pages stay, and what the zone's `low` mark says.
    fn take_extra(
        &self,
        descs: Descs,
        areas: &mut Areas,
        request: &Request,
        home: Home,
        keep: usize,
        extra: &mut Extra,
    ) {
        if self.books.load(Relaxed).is_null() {
            return;
        }
        let low = areas.marks.low.max(keep);
        while extra.len + 1 < BATCH >> request.order && areas.allows(request.pages, low) {
            let Some(taken) =
                areas.take(descs, home, request.order, request.pages, request.mobility, Reach::Own)
            else {
                break;
            };
            extra.push(taken);
        }
    }

    /// Puts blocks just taken from `home` on this CPU's lists, which move there if they lived elsewhere.
    fn stock(&self, p: &P, home: Home, order: u32, extra: &Extra) {
        let descs = self.descs();
        let number = home.node * KINDS + home.zone as usize;
        let Some(cpu) = self.cpu_lists(p.current_cpu()) else {
            // A CPU number that the platform did not announce: its blocks go back.
            let mut areas = self.zone(home).areas.lock(p);
            extra.backwards().for_each(|block| areas.give(descs, block.index, order, block.zeroed));
            return;
        };
        let mut lists = cpu.lists.lock(p);
        if lists.home() != Some(number) {
            self.evict(p, &mut lists, usize::MAX);
            lists.set_home(number);
        }
        // Backwards: the first one was the lowest address, and is to be used first.
        for block in extra.backwards() {
            debug_assert!(descs.page(block.index).kind() == Kind::Allocated);
            lists.push(descs, block.index, order, block.zeroed);
        }
        self.evict_surplus(p, &mut lists);
    }
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

/// How many free pages the request must leave in the zone.
fn mark(areas: &Areas, gfp: Gfp, depth: Depth, keep: usize) -> usize {
    let marks = areas.marks;
    match depth {
        Depth::Low => marks.low + keep,
        Depth::Min if gfp.contains(Gfp::NOMEMALLOC) => marks.min + keep,
        Depth::Min if gfp.contains(Gfp::MEMALLOC) => 0,
        Depth::Min if gfp.contains(Gfp::HIGH) => marks.min - marks.min / 2 + keep,
        Depth::Min => marks.min + keep,
    }
}
