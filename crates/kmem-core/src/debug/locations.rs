//! Tracks added up by call site: the text of `alloc_traces` and `free_traces`.
//!
//! ```text
//! <count> <symbol> [waste=<total>/<one>] age=<min>/<mean>/<max> pid=<min>-<max> [cpus=<list>] [nodes=<list>]
//!         <frame>
//!
//! ```
//! One record for each distinct (call site, stack, waste), the most frequent first; one without a stack is its line alone. Objects
//! that were never freed before are a record of `free_traces`, too, whose symbol is not available, and whose age means nothing. Ages are in
//! [`crate::debug::track::TICK`]s. The table lies in pages of its own, for as long as the text is made.

use core::fmt;

use crate::debug::report::{Frame, Ranges, Symbol};
use crate::debug::{Debug, Track};
use crate::gfp::Gfp;
use crate::page::{PageRun, Pages};
use crate::platform::{MAX_CPUS, MAX_ORDER, PAGE_SIZE, Platform};

/// What the tracks of one call site add up to.
#[derive(Clone, Copy)]
struct Location {
    address: usize,
    stack: u32,
    waste: usize,
    count: u64,
    age_sum: u64,
    ages: (u64, u64),
    threads: (u32, u32),
    cpus: [u64; MAX_CPUS / 64],
    nodes: u64,
}

/// The table.
pub struct Locations<'a, P: Platform> {
    platform: &'a P,
    pages: &'a Pages<P>,
    run: Option<PageRun>,
    order: u32,
    len: usize,
    now: u64,
    overflow: bool,
}

impl<'a, P: Platform> Locations<'a, P> {
    /// An empty table in `2^order` pages; `None`: no memory. Not under a lock.
    pub fn new(platform: &'a P, pages: &'a Pages<P>, order: u32) -> Option<Self> {
        let run = pages.alloc(platform, Gfp::KERNEL | Gfp::NOWARN, order.min(MAX_ORDER), None)?;
        Some(Self { platform, pages, run: Some(run), order, len: 0, now: platform.now(), overflow: false })
    }

    fn room(&self) -> usize {
        (PAGE_SIZE << self.order) / size_of::<Location>()
    }

    fn base(&self) -> *mut Location {
        self.run.as_ref().map_or(core::ptr::null_mut(), |run| run.address().cast())
    }

    fn entries(&mut self) -> &mut [Location] {
        // SAFETY: the first `len` entries of the run were written, and the run is this table's alone.
        unsafe { core::slice::from_raw_parts_mut(self.base(), self.len) }
    }

    /// True when some track found no place: a larger table is needed.
    #[must_use]
    pub fn overflowed(&self) -> bool {
        self.overflow
    }

    /// Adds one track, of an object on `node` with `waste` bytes that were not asked for.
    pub fn add(&mut self, track: &Track, waste: usize, node: usize) {
        let age = track.age(self.now);
        let same = |entry: &&mut Location| {
            entry.address == track.address && entry.stack == track.stack && entry.waste == waste
        };
        let cpu = (track.cpu as usize).min(MAX_CPUS - 1);
        if let Some(entry) = self.entries().iter_mut().find(same) {
            entry.count += 1;
            if track.known == 0 {
                return;
            }
            entry.age_sum += age;
            entry.ages = (entry.ages.0.min(age), entry.ages.1.max(age));
            entry.threads = (entry.threads.0.min(track.thread), entry.threads.1.max(track.thread));
            entry.cpus[cpu / 64] |= 1 << (cpu % 64);
            entry.nodes |= 1 << node;
            return;
        }
        if self.len == self.room() {
            self.overflow = true;
            return;
        }
        let mut cpus = [0; MAX_CPUS / 64];
        cpus[cpu / 64] = 1 << (cpu % 64);
        let entry = Location {
            address: track.address,
            stack: track.stack,
            waste,
            count: 1,
            age_sum: age,
            ages: (age, age),
            threads: (track.thread, track.thread),
            cpus,
            nodes: 1 << node,
        };
        // SAFETY: there is room for one more, and the run is this table's alone.
        unsafe { self.base().add(self.len).write(entry) };
        self.len += 1;
    }

    /// Writes the records.
    ///
    /// # Errors
    /// What `out` answers.
    pub fn write(&mut self, debug: &Debug, out: &mut dyn fmt::Write) -> fmt::Result {
        let platform = self.platform;
        let (cpus, nodes) = (platform.cpus(), platform.nodes());
        if self.len == 0 {
            return out.write_str("No data\n");
        }
        self.entries().sort_unstable_by(|a, b| b.count.cmp(&a.count).then(a.address.cmp(&b.address)));
        for entry in self.entries() {
            write!(out, "{:>7} {}", entry.count, Symbol(platform, entry.address))?;
            if entry.waste != 0 {
                write!(out, " waste={}/{}", entry.waste as u64 * entry.count, entry.waste)?;
            }
            if entry.age_sum == entry.ages.0 {
                write!(out, " age={}", entry.ages.0)?;
            } else {
                write!(out, " age={}/{}/{}", entry.ages.0, entry.age_sum / entry.count, entry.ages.1)?;
            }
            if entry.threads.0 == entry.threads.1 {
                write!(out, " pid={}", entry.threads.0)?;
            } else {
                write!(out, " pid={}-{}", entry.threads.0, entry.threads.1)?;
            }
            if cpus > 1 {
                write!(out, " cpus={}", Ranges(&entry.cpus))?;
            }
            if nodes > 1 {
                write!(out, " nodes={}", Ranges(&[entry.nodes]))?;
            }
            out.write_str("\n")?;
            let frames = debug.stacks.get(entry.stack);
            for &frame in frames {
                writeln!(out, "        {}", Frame(platform, frame))?;
            }
            if !frames.is_empty() {
                out.write_str("\n")?;
            }
        }
        Ok(())
    }
}

impl<P: Platform> Drop for Locations<'_, P> {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            self.pages.free(self.platform, run);
        }
    }
}
