//! SLAB's listing in its long form: `/proc/slabinfo` of a kernel built with SLAB's statistics.
//!
//! The first columns are those of [`super::slabinfo`]. What follows is counted by the slow paths or follows from counts
//! that are kept anyway; the fast paths count nothing more for it. Hits of frees are therefore a difference: objects
//! handed out, less those in use, less the frees that missed; frees in bulk count as hits.

use core::fmt::{self, Write};

use crate::cache::visit::name_of;
use crate::config::Config;
use crate::engine::Counts;
use crate::engine::counts;
use crate::engine::slab::Slab;
use crate::heap::Kmem;
use crate::platform::Platform;
use crate::view::slabinfo::write_columns;

/// The two lines above the caches.
pub const HEADER: &str = "slabinfo - version: 2.1 (statistics)\n\
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> \
: tunables <limit> <batchcount> <sharedfactor> \
: slabdata <active_slabs> <num_slabs> <sharedavail> \
: globalstat <listallocs> <maxobjs> <grown> <reaped> <error> <maxfreeable> <nodeallocs> <remotefrees> \
<alienoverflow> \
: cpustat <allochit> <allocmiss> <freehit> <freemiss>\n";

/// The further numbers of one line, in the order of its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Objects taken from slabs, the most that were out, slabs made and reaped, errors, the most free slabs, requests served
    /// by other nodes, objects freed from other nodes, alien arrays that were full.
    pub global: [u64; 9],
    /// Allocations and frees that this CPU's array served, and those that it did not.
    pub cpu: [u64; 4],
}

impl Statistics {
    /// From what a cache counts.
    #[must_use]
    pub fn of(counts: &Counts) -> Self {
        let events = &counts.events;
        let frees = counts.allocs.saturating_sub(counts.in_use());
        Self {
            global: [
                events.taken,
                events.peak_out,
                counts.slabs_made,
                events.reaped,
                events.errors,
                events.peak_free_slabs,
                events.served_away,
                events.freed_away,
                events.alien_overflows,
            ],
            cpu: [
                counts.allocs.saturating_sub(counts.alloc_slow),
                counts.alloc_slow,
                frees.saturating_sub(counts.free_slow),
                counts.free_slow.saturating_sub(events.freed_away),
            ],
        }
    }

    /// Writes the further columns and the end of the line.
    pub fn write(&self, out: &mut dyn Write) -> fmt::Result {
        out.write_str(" : globalstat")?;
        for (number, width) in self.global.iter().zip([7, 6, 5, 4, 4, 4, 4, 4, 4]) {
            write!(out, " {number:>width$}")?;
        }
        out.write_str(" : cpustat")?;
        for number in self.cpu {
            write!(out, " {number:>6}")?;
        }
        out.write_str("\n")
    }
}

impl<P: Platform, C: Config<Engine = Slab>> Kmem<P, C> {
    /// Writes the whole text: newest cache first.
    pub fn write_slabinfo_statistics(&self, out: &mut dyn Write) -> fmt::Result {
        out.write_str(HEADER)?;
        self.tell_of_caches(
            |cache| {
                let statistics = Statistics::of(&counts::count(self.floor(), &cache.engine));
                (name_of(cache.name()), self.slabinfo_row(cache), statistics)
            },
            |(name, row, statistics)| {
                write_columns(out, name.as_str(), &row)?;
                statistics.write(out)
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::slabinfo::tests::row_of;

    #[test]
    fn captured_lines_come_out_the_same() {
        let captured = include_str!("../../../../golden/slabinfo_slab_debug.txt");
        let mut ours = String::from(HEADER);
        let mut lines = 0;
        for line in captured.lines().skip(2) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |i: usize| words[i].parse().expect("a number");
            let statistics = Statistics {
                global: core::array::from_fn(|i| number(18 + i)),
                cpu: core::array::from_fn(|i| number(29 + i)),
            };
            write_columns(&mut ours, words[0], &row_of(&words)).expect("a String takes all");
            statistics.write(&mut ours).expect("a String takes all");
            lines += 1;
        }
        assert!(lines > 80);
        assert_eq!(ours, captured);
    }
}
