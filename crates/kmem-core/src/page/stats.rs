//! What an observer sees: counts, and the kernel's two tables of free memory.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use super::desc::{Kind, Page, ZoneKind};
use super::mobility::{Mobility, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES};
use super::zone::{ORDERS, Watermarks, ZoneEvents};
use super::{Home, Pages};
use crate::platform::{BLOCK_PAGES, Platform};

/// Page counts of a whole heap. `managed` = `free` + `in_use` when nothing moves meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageStats {
    /// Pages that can be allocated, free or not.
    pub managed: usize,
    /// Pages taken by the allocator's own books. Not in `managed`.
    pub reserved: usize,
    /// Free pages, those on CPU lists included.
    pub free: usize,
    /// Free pages on CPU lists.
    pub on_cpu_lists: usize,
    /// Free pages that may hold data, and so are probably resident.
    pub resident_free: usize,
    /// Pages of runs.
    pub in_use: usize,
    /// Most pages ever out of the zones, that is in runs or on CPU lists. With several zones: the sum of their peaks.
    pub peak_in_use: usize,
    /// Pages discarded so far.
    pub discarded: u64,
}

/// Counts of one zone. All in pages but the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneStats {
    /// The node.
    pub node: usize,
    /// The zone.
    pub zone: ZoneKind,
    /// Pages that can be allocated.
    pub managed: usize,
    /// Free pages of the buddy allocator; pages on CPU lists are not among them.
    pub free: usize,
    /// Free pages of the buddy allocator that may hold data.
    pub resident_free: usize,
    /// Most pages ever out of the zone.
    pub peak_in_use: usize,
    /// The marks.
    pub watermarks: Watermarks,
    /// What happened.
    pub events: ZoneEvents,
    /// Pageblocks of each [`Mobility`].
    pub pageblocks: [u32; Mobility::ALL.len()],
}

impl<P: Platform> Pages<P> {
    /// Shows every run of pages of a kind. Without locks: exact only when nothing moves meanwhile.
    pub(crate) fn each_of(&self, kind: Kind, mut visit: impl FnMut(&Page)) {
        for first in (0..self.window_pages.load(Relaxed)).step_by(BLOCK_PAGES) {
            if self.home_of(first).is_none() {
                continue;
            }
            let mut at = first;
            while at < first + BLOCK_PAGES {
                let page = self.by_index(at);
                let found = page.kind() == kind;
                if found {
                    visit(page);
                }
                // What is no run's head any more may say anything.
                at += if found { page.pages().clamp(1, BLOCK_PAGES) } else { 1 };
            }
        }
    }

    /// Counts of the whole heap. One lock at a time: exact only when nothing moves meanwhile.
    pub fn stats(&self, p: &P) -> PageStats {
        let mut stats = PageStats::default();
        let mut free_in_zones = 0;
        for (_, zone) in self.populated() {
            let areas = zone.areas.lock(p);
            stats.managed += areas.managed;
            free_in_zones += areas.free + areas.in_flight;
            stats.resident_free += areas.dirty + areas.in_flight;
            stats.peak_in_use += areas.peak;
            stats.discarded += areas.events.discarded;
        }
        for cpu in (0..p.cpus()).filter_map(|cpu| self.cpu_lists(cpu)) {
            stats.on_cpu_lists += cpu.lists.lock(p).pages as usize;
        }
        stats.resident_free += stats.on_cpu_lists + self.idle.dirty.load(Relaxed);
        stats.free = free_in_zones + stats.on_cpu_lists + self.idle.pages.load(Relaxed);
        stats.in_use = stats.managed.saturating_sub(stats.free);
        stats.reserved = if self.books.load(Relaxed).is_null() { 0 } else { self.books_pages() };
        stats
    }

    /// Counts of one zone; `None` when it has no memory.
    pub fn zone_stats(&self, p: &P, node: usize, zone: ZoneKind) -> Option<ZoneStats> {
        if node >= p.nodes() || !self.zone(Home { node, zone }).is_populated() {
            return None;
        }
        let areas = self.zone(Home { node, zone }).areas.lock(p);
        Some(ZoneStats {
            node,
            zone,
            managed: areas.managed,
            free: areas.free,
            resident_free: areas.dirty,
            peak_in_use: areas.peak,
            watermarks: areas.marks,
            events: areas.events,
            pageblocks: areas.pageblocks,
        })
    }

    /// Sets the reserve of a zone: `low` and `high` follow as in [`Watermarks`], and the zone's size no longer matters.
    /// Ignored for a node that does not exist.
    pub fn set_reserve(&self, p: &P, node: usize, zone: ZoneKind, min: usize) {
        if node < p.nodes() {
            let mut areas = self.zone(Home { node, zone }).areas.lock(p);
            areas.marks = Watermarks::above(min);
            areas.fixed_marks = true;
        }
    }

    /// Free blocks by zone and order, as the kernel's `/proc/buddyinfo`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn buddyinfo(&self, p: &P, out: &mut dyn fmt::Write) -> fmt::Result {
        for (home, zone) in self.populated() {
            let mut counts = [0; ORDERS];
            {
                let areas = zone.areas.lock(p);
                for (order, count) in counts.iter_mut().enumerate() {
                    *count = Mobility::ALL.iter().map(|&mobility| areas.list(mobility, order).len()).sum();
                }
            }
            write!(out, "Node {}, zone {:>8} ", home.node, home.zone.name())?;
            counts.iter().try_for_each(|count| write!(out, "{count:6} "))?;
            writeln!(out)?;
        }
        Ok(())
    }

    /// Free blocks by zone, mobility and order, and pageblocks by mobility, as the kernel's `/proc/pagetypeinfo`.
    ///
    /// The kernel's types `HighAtomic` and `Isolate` have no counterpart here: what they keep apart is left to the
    /// watermarks and to removal by whole blocks. Their rows and columns are there, and empty.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn pagetypeinfo(&self, p: &P, out: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(out, "Page block order: {PAGEBLOCK_ORDER}\nPages per block:  {PAGEBLOCK_PAGES}\n")?;
        write!(out, "{:<43} ", "Free pages count per migrate type at order")?;
        (0..ORDERS).try_for_each(|order| write!(out, "{order:6} "))?;
        writeln!(out)?;
        for (home, zone) in self.populated() {
            for (number, name) in TYPE_NAMES.iter().enumerate() {
                let mut counts = [0; ORDERS];
                if let Some(&mobility) = Mobility::ALL.get(number) {
                    let areas = zone.areas.lock(p);
                    for (order, count) in counts.iter_mut().enumerate() {
                        *count = areas.list(mobility, order).len();
                    }
                }
                write!(out, "Node {:4}, zone {:>8}, type {name:>12} ", home.node, home.zone.name())?;
                counts.iter().try_for_each(|count| write!(out, "{count:6} "))?;
                writeln!(out)?;
            }
        }
        write!(out, "\n{:<23}", "Number of blocks type ")?;
        TYPE_NAMES.iter().try_for_each(|name| write!(out, "{name:>12} "))?;
        writeln!(out)?;
        for (home, zone) in self.populated() {
            let pageblocks = zone.areas.lock(p).pageblocks;
            write!(out, "Node {}, zone {:>8} ", home.node, home.zone.name())?;
            for number in 0..TYPE_NAMES.len() {
                write!(out, "{:12} ", pageblocks.get(number).copied().unwrap_or(0))?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

/// The kernel's names; the first three are those of [`Mobility::ALL`].
const TYPE_NAMES: [&str; 5] = ["Unmovable", "Movable", "Reclaimable", "HighAtomic", "Isolate"];
