//! A process's heap as text, one record a line: what `kmem run` reads when the process has ended.
//!
//! ```text
//! engine slub cpus <n> nodes <n> ownership <how>
//! cache <name> <object size> <size> <align> <objects a slab> <pages a slab> <active> <total> <slabs> <partial slabs>
//!       <CPU-cached> <allocations> <slow allocations> <slow frees> <peak slabs> <flags, hex>
//! large <blocks> <bytes> <peak bytes> <allocations>
//! huge <blocks> <bytes> <peak bytes> <allocations>
//! pages <managed> <free> <free and resident> <peak in use>
//! ```
//! An engine whose pages all caches share has one more `cache` of its own name: these pages, in units of 2 bytes.
//!
//! (A cache is one line.) *Active* is as in slabinfo; less the CPU-cached ones it is what the program holds.

use core::fmt::{self, Write};
use core::sync::atomic::Ordering;

use crate::cache::create::MAX_NAME;
use crate::config::Config;
use crate::engine::{self, Engine, SharedPages};
use crate::flags::SlabFlags;
use crate::heap::{BlockStats, Kmem};
use crate::platform::{PAGE_SHIFT, PAGE_SIZE, Platform};
use crate::report::Text;

/// Bytes of a cache's line: its name, and 15 numbers of at most 20 digits.
const LINE_BYTES: usize = MAX_NAME + 16 * 21;

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Writes the records of this heap. `cpus` is the number of CPUs its user would count, which is not the platform's where
    /// that has further ones for threads that own none; `ownership` says how CPUs are owned.
    pub fn write_report(&self, out: &mut dyn Write, cpus: usize, ownership: &str) -> fmt::Result {
        writeln!(
            out,
            "engine {} cpus {cpus} nodes {} ownership {ownership}",
            C::Engine::NAME,
            self.platform().nodes()
        )?;
        self.tell_of_caches(
            |cache| {
                let counts = engine::counts::count(self.floor(), &cache.engine);
                let geometry = cache.geometry();
                // Letters may have changed since the cache was made.
                let letters = SlabFlags::DEBUG | SlabFlags::FAILSLAB;
                let flags = (geometry.flags - letters) | (C::Engine::letters(&cache.engine) & letters);
                let mut line = Text::<LINE_BYTES>::new();
                // Writing to a `Text` cannot fail.
                let _ = write!(
                    line,
                    "cache {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {:x}",
                    cache.name(),
                    cache.object_size(),
                    geometry.size,
                    geometry.align,
                    geometry.objects,
                    cache.pages_per_slab(),
                    counts.active(),
                    counts.objects,
                    counts.slabs,
                    counts.partial,
                    counts.free_cpu + counts.free_barn,
                    counts.allocs,
                    counts.alloc_slow,
                    counts.free_slow,
                    counts.peak_slabs,
                    flags.bits()
                );
                line
            },
            |line| writeln!(out, "{}", line.as_str()),
        )?;
        if let Some(SharedPages { pages, with_room, free_bytes, .. }) = C::Engine::shared(self.floor()) {
            // A row as of a cache, in the grain of its blocks, with the objects of caches that lie in these pages.
            const GRAIN: u64 = 2;
            let each = PAGE_SIZE as u64 / GRAIN;
            let (total, name) = (pages * each, C::Engine::NAME);
            let used = total - free_bytes / GRAIN;
            writeln!(
                out,
                "cache {name} {GRAIN} {GRAIN} {GRAIN} {each} 1 {used} {total} {pages} {with_room} 0 0 0 0 {pages} 0"
            )?;
        }
        for (name, blocks) in [("large", &self.large_stats), ("huge", &self.huge_stats)] {
            let BlockStats { live, bytes, peak, made } = blocks;
            writeln!(
                out,
                "{name} {} {} {} {}",
                live.load(Ordering::Relaxed),
                bytes.load(Ordering::Relaxed),
                peak.load(Ordering::Relaxed),
                made.load(Ordering::Relaxed)
            )?;
        }
        if self.pages().held_by_caller(self.platform()) {
            return Ok(());
        }
        let pages = self.pages().stats(self.platform());
        writeln!(out, "pages {} {} {} {}", pages.managed, pages.free, pages.resident_free, pages.peak_in_use)
    }

    /// Totals over everything.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.for_each_cache(|cache| {
            let counts = engine::counts::count(self.floor(), &cache.engine);
            totals.objects_bytes += counts.in_use() * cache.geometry().size as u64;
        });
        if let Some(shared) = C::Engine::shared(self.floor()) {
            // Objects of caches among them.
            totals.objects_bytes = (shared.pages << PAGE_SHIFT) - shared.free_bytes + shared.whole_bytes;
        }
        totals.large_bytes = self.large_stats.bytes.load(Ordering::Relaxed);
        totals.huge_bytes = self.huge_stats.bytes.load(Ordering::Relaxed);
        totals.huge_blocks = self.huge_stats.live.load(Ordering::Relaxed);
        let pages = self.pages().stats(self.platform());
        totals.page_bytes = (pages.in_use << PAGE_SHIFT) as u64;
        totals.resident_free_bytes = (pages.resident_free << PAGE_SHIFT) as u64;
        totals.peak_page_bytes = (pages.peak_in_use << PAGE_SHIFT) as u64;
        totals
    }
}

/// Bytes of a whole heap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Slots of objects in use.
    pub objects_bytes: u64,
    /// Blocks of whole pages.
    pub large_bytes: u64,
    /// Mappings.
    pub huge_bytes: u64,
    /// Number of mappings.
    pub huge_blocks: u64,
    /// Pages in use: slabs and large blocks.
    pub page_bytes: u64,
    /// Free pages that the platform still backs with memory.
    pub resident_free_bytes: u64,
    /// The most page bytes in use at one time.
    pub peak_page_bytes: u64,
}
