//! What is known of the processes that are looked at: their tables, the ones before, and what follows from both.
//!
//! # Rates
//! A table counts allocations since the process began. A rate is the difference of two tables over the time between
//! their writing, not between our looks: one that was not replaced says nothing new. A table older than two seconds has no
//! rate at all: its process is idle, or lives from what its CPUs have at hand, and from outside the two look alike.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use kmem_core::debug::options;
use kmem_core::flags::SlabFlags;

use crate::live::Table;
use crate::report::{Cache, Report};
use crate::slabinfo::PAGE_SIZE;

/// A table that was not replaced for so long is told with its age.
pub(crate) const OLD: Duration = Duration::from_secs(2);

/// What one look at a process found.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    /// Its table.
    pub(crate) table: Table,
    /// Bytes of it that are in memory.
    pub(crate) resident: Option<u64>,
}

/// A process over time.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    /// Its number.
    pub(crate) pid: u32,
    /// The last table, and what was resident at the last look.
    pub(crate) now: Look,
    /// The table before that one.
    before: Option<Table>,
    /// Set when it has ended.
    pub(crate) ended: bool,
}

impl Watched {
    fn new(pid: u32, look: Look) -> Self {
        Watched { pid, now: look, before: None, ended: false }
    }

    fn update(&mut self, look: Look) {
        let before = std::mem::replace(&mut self.now, look).table;
        if before.written != self.now.table.written {
            self.before = Some(before);
        }
        self.ended = false;
    }

    /// Its report.
    pub(crate) fn report(&self) -> &Report {
        &self.now.table.report
    }

    /// How old its table is. A clock that was set back makes none older.
    pub(crate) fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.now.table.written).unwrap_or_default()
    }

    /// True when its table was replaced while it was looked at.
    pub(crate) fn has_step(&self) -> bool {
        self.before.is_some()
    }

    /// The table before, and the seconds to the last one; nothing when that one is old.
    fn step(&self, now: SystemTime) -> Option<(&Report, f64)> {
        let before = self.before.as_ref().filter(|_| self.age(now) <= OLD)?;
        let time = self.now.table.written.duration_since(before.written).ok()?;
        (time > Duration::ZERO).then_some((&before.report, time.as_secs_f64()))
    }

    /// Allocations a second, of all sizes.
    pub(crate) fn rate(&self, now: SystemTime) -> Option<f64> {
        let (before, seconds) = self.step(now)?;
        Some(self.report().allocs().saturating_sub(before.allocs()) as f64 / seconds)
    }

    /// Its row among the others.
    pub(crate) fn process_row(&self, now: SystemTime) -> ProcessRow {
        let report = self.report();
        let in_use: u64 = report
            .caches
            .iter()
            .map(|cache| cache.used().saturating_mul(cache.object_size))
            .fold(0, u64::saturating_add);
        let pages = &report.pages;
        let held = pages.managed.saturating_sub(pages.free).saturating_mul(PAGE_SIZE);
        ProcessRow {
            pid: self.pid,
            name: report.comm.clone(),
            engine: engine(report),
            resident: self.now.resident,
            in_use: in_use.saturating_add(report.large.bytes).saturating_add(report.huge.bytes),
            held: held.saturating_add(report.huge.bytes),
            free: pages.resident_free.saturating_mul(PAGE_SIZE),
            peak: report.peak(),
            rate: self.rate(now),
            age: self.age(now),
            ended: self.ended,
        }
    }

    /// The rows of its caches that were ever used, in the order of its table.
    pub(crate) fn cache_rows(&self, now: SystemTime) -> Vec<CacheRow> {
        let step = self.step(now).map(|(report, seconds)| {
            // Two caches may have one name: they are told apart by their size, and are otherwise one row's worth.
            let allocs: BTreeMap<(&str, u64), u64> =
                report.caches.iter().map(|cache| (key(cache), cache.allocs)).collect();
            (allocs, seconds)
        });
        let used = self.report().caches.iter().filter(|cache| cache.allocs > 0 || cache.slabs > 0);
        used.map(|cache| {
            let rate = step.as_ref().map(|(allocs, seconds)| {
                let before = allocs.get(&key(cache)).copied().unwrap_or(0);
                cache.allocs.saturating_sub(before) as f64 / seconds
            });
            CacheRow { cache: cache.clone(), rate }
        })
        .collect()
    }
}

fn key(cache: &Cache) -> (&str, u64) {
    (&cache.name, cache.object_size)
}

/// A process in the list of all.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProcessRow {
    /// Its number.
    pub(crate) pid: u32,
    /// Its name.
    pub(crate) name: String,
    /// Engine, build and letters.
    pub(crate) engine: String,
    /// Bytes in memory.
    pub(crate) resident: Option<u64>,
    /// Bytes of the program's blocks.
    pub(crate) in_use: u64,
    /// Bytes of slabs, runs of pages and mappings for them.
    pub(crate) held: u64,
    /// Bytes that are free and still in memory.
    pub(crate) free: u64,
    /// The most bytes held.
    pub(crate) peak: u64,
    /// Allocations a second.
    pub(crate) rate: Option<f64>,
    /// Age of the table.
    pub(crate) age: Duration,
    /// It is no more.
    pub(crate) ended: bool,
}

/// A cache of one process.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CacheRow {
    /// What the table says.
    pub(crate) cache: Cache,
    /// Allocations a second.
    pub(crate) rate: Option<f64>,
}

/// `slub`, `slub hardened`, `slub FZPU` (the letters that some cache has).
fn engine(report: &Report) -> String {
    let mut text = report.engine.clone();
    if !report.build.is_empty() {
        text = format!("{text} {}", report.build);
    }
    let letters = report
        .caches
        .iter()
        .fold(SlabFlags::empty(), |all, cache| all | SlabFlags::from_bits_truncate(cache.flags as _));
    let letters = letters & SlabFlags::DEBUG;
    if !letters.is_empty() {
        text = format!("{text} {}", options::shown(letters));
    }
    text
}

/// All processes that were seen, by number.
#[derive(Debug)]
pub(crate) struct Model {
    processes: BTreeMap<u32, Watched>,
    /// When they were looked at.
    at: SystemTime,
}

impl Model {
    /// Nobody yet.
    pub(crate) fn new() -> Self {
        Model { processes: BTreeMap::new(), at: SystemTime::UNIX_EPOCH }
    }

    /// When they were last looked at: the time that ages and rates are told of.
    pub(crate) fn at(&self) -> SystemTime {
        self.at
    }

    /// Takes in what a look at all of them found. Those that were not found have ended, and are forgotten but for `kept`.
    pub(crate) fn update(&mut self, at: SystemTime, found: Vec<(u32, Look)>, kept: Option<u32>) {
        self.at = at;
        let here: Vec<u32> = found.iter().map(|(pid, _)| *pid).collect();
        self.processes.retain(|pid, watched| {
            watched.ended = !here.contains(pid);
            !watched.ended || Some(*pid) == kept
        });
        for (pid, look) in found {
            match self.processes.get_mut(&pid) {
                Some(watched) => watched.update(look),
                None => drop(self.processes.insert(pid, Watched::new(pid, look))),
            }
        }
    }

    /// One of them.
    pub(crate) fn get(&self, pid: u32) -> Option<&Watched> {
        self.processes.get(&pid)
    }

    /// All that run, by number.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Watched> {
        self.processes.values().filter(|watched| !watched.ended)
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
pub(crate) mod tests;
