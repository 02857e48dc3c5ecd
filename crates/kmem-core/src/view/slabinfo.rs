//! `/proc/slabinfo`, version 2.1.
//!
//! Columns and widths are the kernel's. What they mean for SLUB: *active* counts every object that is not
//! free on a node's partial list, objects parked on CPUs included; *active slabs* is the number of
//! slabs printed a second time; there are no tunables. [`super::report`] tells them apart.

use core::fmt::{self, Write};

use crate::cache::KmemCache;
use crate::config::Config;
use crate::engine;
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
    write!(
        out,
        "{name:<17} {:>6} {:>6} {:>6} {:>4} {:>4}",
        row.active_objs, row.num_objs, row.objsize, row.objperslab, row.pagesperslab
    )?;
    let [limit, batch, shared] = row.tunables;
    write!(out, " : tunables {limit:>4} {batch:>4} {shared:>4}")?;
    writeln!(out, " : slabdata {:>6} {:>6} {:>6}", row.active_slabs, row.num_slabs, row.sharedavail)
}

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
            tunables: [0; 3],
            active_slabs: counts.slabs,
            num_slabs: counts.slabs,
            sharedavail: 0,
        }
    }

    /// Writes the whole text: newest cache first; aliases have no lines of their own.
    pub fn write_slabinfo(&self, out: &mut dyn Write) -> fmt::Result {
        out.write_str(HEADER)?;
        let mut result = Ok(());
        self.for_each_cache(|cache| {
            let row = self.slabinfo_row(cache);
            result = result.and_then(|()| write_row(out, cache.name(), &row));
        });
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_lines_come_out_the_same() {
        let captured = include_str!("../../../../golden/slabinfo_slub.txt");
        let mut lines = 0;
        let mut ours = String::from(HEADER);
        for line in captured.lines().skip(2) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |i: usize| words[i].parse::<u64>().expect("a number");
            let row = Row {
                active_objs: number(1),
                num_objs: number(2),
                objsize: number(3) as usize,
                objperslab: number(4) as usize,
                pagesperslab: number(5) as usize,
                tunables: [number(8) as u32, number(9) as u32, number(10) as u32],
                active_slabs: number(13),
                num_slabs: number(14),
                sharedavail: number(15),
            };
            write_row(&mut ours, words[0], &row).expect("a String takes all");
            lines += 1;
        }
        assert!(lines > 100);
        assert_eq!(ours, captured);
    }
}
