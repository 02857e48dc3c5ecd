//! `/proc/slabinfo`, version 2.1.
//!
//! Columns and widths are the kernel's. *Active* objects are all that are not free in a slab on a node's list: objects
//! parked on CPUs and in nodes' arrays count. [`super::report`] tells them apart. For SLUB *active slabs* is the number
//! of slabs printed a second time, and there are no tunables; for SLAB it is those with an object out, the tunables
//! are those in effect, and the last column is what the nodes' shared arrays hold.
//!
//! SLAB's listing can be written to: a line `name limit batch shared` changes a cache's tunables
//! ([`Kmem::write_slabinfo_tunables`]).

use core::fmt::{self, Write};

use crate::cache::KmemCache;
use crate::cache::visit::name_of;
use crate::config::Config;
use crate::engine::slab::tunables::{Change, Tunables};
use crate::engine::{self, Engine, NotTunable};
use crate::heap::Kmem;
use crate::platform::Platform;

/// The two lines above the caches.
pub const HEADER: &str = "slabinfo - version: 2.1\n\
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> \
: tunables <limit> <batchcount> <sharedfactor> \
: slabdata <active_slabs> <num_slabs> <sharedavail>\n";

/// The numbers of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Objects not known to be free.
    pub active_objs: u64,
    /// Objects that fit in the slabs.
    pub num_objs: u64,
    /// Bytes from one object to the next.
    pub objsize: usize,
    /// Objects of a normal slab.
    pub objperslab: usize,
    /// Pages of a normal slab.
    pub pagesperslab: usize,
    /// Queue limit, batch, shared factor: 0 in SLUB.
    pub tunables: [u32; 3],
    /// Slabs with objects in use.
    pub active_slabs: u64,
    /// Slabs.
    pub num_slabs: u64,
    /// Objects in shared queues.
    pub sharedavail: u64,
}

/// Writes one line.
pub fn write_row(out: &mut dyn Write, name: &str, row: &Row) -> fmt::Result {
    write_columns(out, name, row)?;
    out.write_str("\n")
}

/// Writes one line without its end.
pub(super) fn write_columns(out: &mut dyn Write, name: &str, row: &Row) -> fmt::Result {
    write!(
        out,
        "{name:<17} {:>6} {:>6} {:>6} {:>4} {:>4}",
        row.active_objs, row.num_objs, row.objsize, row.objperslab, row.pagesperslab
    )?;
    let [limit, batch, shared] = row.tunables;
    write!(out, " : tunables {limit:>4} {batch:>4} {shared:>4}")?;
    write!(out, " : slabdata {:>6} {:>6} {:>6}", row.active_slabs, row.num_slabs, row.sharedavail)
}

/// Why a line written to the listing was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// The line has not the form `name limit batch shared`, or is too long (`EINVAL`).
    BadLine,
    /// There is no cache of this name (`EINVAL`).
    NoCache,
    /// The tunables cannot be these (`EIO` where the engine has none).
    NotTunable(NotTunable),
}

impl core::fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadLine => f.write_str("not a line of a name and three numbers"),
            Self::NoCache => f.write_str("no cache of this name"),
            Self::NotTunable(why) => why.fmt(f),
        }
    }
}

impl core::error::Error for WriteError {}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// The numbers of one cache.
    pub fn slabinfo_row(&self, cache: &KmemCache<C::Engine>) -> Row {
        let counts = engine::counts::count(self.floor(), &cache.engine);
        Row {
            active_objs: counts.active(),
            num_objs: counts.objects,
            objsize: cache.geometry().size,
            objperslab: cache.geometry().objects,
            pagesperslab: cache.pages_per_slab(),
            tunables: C::Engine::tunables(&cache.engine),
            active_slabs: counts.slabs - counts.free_slabs.min(counts.slabs),
            num_slabs: counts.slabs,
            // A barn's sheaves are not what this column means.
            sharedavail: if C::Engine::SPILL_OLDEST { counts.free_barn } else { 0 },
        }
    }

    /// Writes the whole text: newest cache first; aliases have no lines of their own.
    pub fn write_slabinfo(&self, out: &mut dyn Write) -> fmt::Result {
        out.write_str(HEADER)?;
        self.tell_of_caches(
            |cache| (name_of(cache.name()), self.slabinfo_row(cache)),
            |(name, row)| write_row(out, name.as_str(), &row),
        )
    }
}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Takes one line as if it were written to the listing: `name limit batch shared`. The new numbers are in effect when
    /// it returns. Where several caches have the name, the newest changes. Numbers without sense (a limit or a batch
    /// below 1, a batch above the limit, a negative share) change nothing and are no error, as in the kernel.
    ///
    /// # Errors
    /// See [`WriteError`]; nothing changed.
    pub fn write_slabinfo_tunables(&self, line: &[u8]) -> Result<(), WriteError> {
        let change = Change::parse(line).map_err(|_| WriteError::BadLine)?;
        let mut result = Err(WriteError::NoCache);
        self.for_each_cache(|cache| {
            if result != Err(WriteError::NoCache) || cache.name().as_bytes() != change.name {
                return;
            }
            result = match change.tunables() {
                None => Ok(()),
                Some(Tunables { limit, batch, shared }) => {
                    C::Engine::tune(self.floor(), &cache.engine, [limit, batch, shared])
                        .map_err(WriteError::NotTunable)
                }
            };
        });
        result
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The row of a captured line's words.
    pub(in crate::view) fn row_of(words: &[&str]) -> Row {
        let number = |i: usize| words[i].parse::<u64>().expect("a number");
        Row {
            active_objs: number(1),
            num_objs: number(2),
            objsize: number(3) as usize,
            objperslab: number(4) as usize,
            pagesperslab: number(5) as usize,
            tunables: [number(8) as u32, number(9) as u32, number(10) as u32],
            active_slabs: number(13),
            num_slabs: number(14),
            sharedavail: number(15),
        }
    }

    #[test]
    fn captured_lines_come_out_the_same() {
        for (captured, least) in [
            (include_str!("../../../../golden/slabinfo_slub.txt"), 100),
            (include_str!("../../../../golden/slabinfo_slab.txt"), 80),
        ] {
            let mut lines = 0;
            let mut ours = String::from(HEADER);
            for line in captured.lines().skip(2) {
                let words: Vec<&str> = line.split_whitespace().collect();
                write_row(&mut ours, words[0], &row_of(&words)).expect("a String takes all");
                lines += 1;
            }
            assert!(lines > least);
            assert_eq!(ours, captured);
        }
    }
}
