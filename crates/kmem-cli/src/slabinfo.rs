//! The text of `/proc/slabinfo`, version 2.1: reading it and writing it back byte for byte.
//!
//! # The format
//! Line 1 names the version, with ` (statistics)` behind it when rows carry counters of a debug build;
//! line 2 is a fixed title; then one row a cache, the newest first. All numbers are right-aligned to a
//! least width, names left-aligned to 17. A field may be wider than its column: readers must go by
//! the separators, not by the offset, and so does [`Slabinfo::parse`].
//!
//! # Invariants
//! - I-INFO-1: for every accepted text, `parse(text).to_string() == text`. A text that has the right fields in
//!   another layout is refused, because other readers of the format would stumble over it.
//! - I-INFO-2: in every row `active_objs <= num_objs` and `active_slabs <= num_slabs`.
//!
//! `num_objs` need not be `num_slabs * objperslab`: slabs of the fallback order hold fewer objects.

use std::fmt;

/// Bytes in a page, as the format counts them: slabinfo knows no other unit than pages.
pub(crate) const PAGE_SIZE: u64 = 4096;

const VERSION: &str = "slabinfo - version: 2.1";
const STATISTICS: &str = " (statistics)";
const TITLE: &str = "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables \
                     <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>";
const TITLE_STATISTICS: &str = " : globalstat <listallocs> <maxobjs> <grown> <reaped> <error> <maxfreeable> \
                                <nodeallocs> <remotefrees> <alienoverflow> : cpustat <allochit> <allocmiss> \
                                <freehit> <freemiss>";

/// One cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Name of the cache.
    pub(crate) name: String,
    /// Objects in use, those parked on CPUs included.
    pub(crate) active_objs: u64,
    /// Objects that fit into the slabs.
    pub(crate) num_objs: u64,
    /// Bytes between two objects, debug data included.
    pub(crate) objsize: u64,
    /// Objects in a slab of the usual order.
    pub(crate) objperslab: u64,
    /// Pages in a slab of the usual order.
    pub(crate) pagesperslab: u64,
    /// limit, batchcount, sharedfactor.
    pub(crate) tunables: [u64; 3],
    /// Slabs with at least one object in use.
    pub(crate) active_slabs: u64,
    /// Slabs.
    pub(crate) num_slabs: u64,
    /// Objects in arrays shared by CPUs.
    pub(crate) sharedavail: u64,
    /// Counters of a debug build: nine of globalstat, four of cpustat.
    pub(crate) statistics: Option<([u64; 9], [u64; 4])>,
}

impl Row {
    /// Bytes of the slabs.
    pub(crate) fn held(&self) -> u64 {
        self.num_slabs.saturating_mul(self.pagesperslab).saturating_mul(PAGE_SIZE)
    }

    /// Bytes of the objects in use.
    pub(crate) fn active(&self) -> u64 {
        self.active_objs.saturating_mul(self.objsize)
    }

    /// Bytes of the slabs that no object in use covers.
    pub(crate) fn waste(&self) -> u64 {
        self.held().saturating_sub(self.active())
    }
}

/// A whole slabinfo text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slabinfo {
    /// The first line says `(statistics)` and every row has counters.
    pub(crate) statistics: bool,
    /// The caches, in the order of the text.
    pub(crate) rows: Vec<Row>,
}

/// Where and why a text is not slabinfo 2.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParseError {
    /// Line number, from 1.
    pub(crate) line: usize,
    /// What is wrong there.
    pub(crate) reason: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl Slabinfo {
    /// Reads a text.
    ///
    /// # Errors
    /// The first line that is not slabinfo 2.1, or that breaks I-INFO-1 or I-INFO-2.
    pub(crate) fn parse(text: &str) -> Result<Self, ParseError> {
        let at = |line: usize, reason: &str| ParseError { line, reason: reason.to_owned() };
        // A text that stops in the middle of a line was cut off; every writer ends the last line.
        let Some(body) = text.strip_suffix('\n') else {
            let line = text.split('\n').count();
            return Err(at(
                line,
                if text.is_empty() { "empty" } else { "cut off: the last line does not end" },
            ));
        };
        let mut lines = body.split('\n').enumerate().map(|(index, line)| (index + 1, line));

        let statistics = match lines.next().and_then(|(_, line)| line.strip_prefix(VERSION)) {
            Some("") => false,
            Some(STATISTICS) => true,
            _ => return Err(at(1, "not a slabinfo text of version 2.1")),
        };
        let title = lines.next().map(|(_, line)| line).unwrap_or_default();
        let expected = title.strip_prefix(TITLE);
        if expected != Some(if statistics { TITLE_STATISTICS } else { "" }) {
            return Err(at(2, "not the column titles of version 2.1"));
        }
        let mut rows = Vec::new();
        for (number, line) in lines {
            let row = parse_row(line, statistics).map_err(|reason| at(number, &reason))?;
            if row.to_string() != line {
                return Err(at(number, "not in the column layout of version 2.1"));
            }
            rows.push(row);
        }
        Ok(Slabinfo { statistics, rows })
    }
}

/// Splits a row at its labels; the name is whatever stands before the first five numbers.
fn parse_row(line: &str, statistics: bool) -> Result<Row, String> {
    let mut sections = line.split(" : ");
    let first = sections.next().unwrap_or_default();
    let (name, counts) = peel::<5>(first)?;
    if name.is_empty() {
        return Err("a row without a name".to_owned());
    }
    let tunables = labelled::<3>(sections.next(), "tunables")?;
    let slabdata = labelled::<3>(sections.next(), "slabdata")?;
    let statistics = if statistics {
        Some((labelled::<9>(sections.next(), "globalstat")?, labelled::<4>(sections.next(), "cpustat")?))
    } else {
        None
    };
    if let Some(more) = sections.next() {
        return Err(format!("unexpected '{more}'"));
    }
    let [active_objs, num_objs, objsize, objperslab, pagesperslab] = counts;
    let [active_slabs, num_slabs, sharedavail] = slabdata;
    if active_objs > num_objs {
        return Err(format!("{name}: {active_objs} active of {num_objs} objects"));
    }
    if active_slabs > num_slabs {
        return Err(format!("{name}: {active_slabs} active of {num_slabs} slabs"));
    }
    Ok(Row {
        name: name.to_owned(),
        active_objs,
        num_objs,
        objsize,
        objperslab,
        pagesperslab,
        tunables,
        active_slabs,
        num_slabs,
        sharedavail,
        statistics,
    })
}

/// Takes the last `N` numbers off `text`; the rest, without trailing spaces, comes first.
fn peel<const N: usize>(text: &str) -> Result<(&str, [u64; N]), String> {
    let mut rest = text;
    let mut numbers = [0; N];
    for slot in numbers.iter_mut().rev() {
        rest = rest.trim_end_matches(' ');
        let start = rest.rfind(' ').map_or(0, |space| space + 1);
        let word = &rest[start..];
        *slot = word.parse().map_err(|_| format!("'{word}' is not a number"))?;
        rest = &rest[..start];
    }
    Ok((rest.trim_end_matches(' '), numbers))
}

fn labelled<const N: usize>(section: Option<&str>, label: &str) -> Result<[u64; N], String> {
    let section = section.ok_or_else(|| format!("no '{label}' section"))?;
    let (found, numbers) = peel::<N>(section)?;
    if found != label {
        return Err(format!("'{found}' where '{label}' should be"));
    }
    Ok(numbers)
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { name, active_objs, num_objs, objsize, objperslab, pagesperslab, .. } = self;
        write!(
            f,
            "{name:<17} {active_objs:>6} {num_objs:>6} {objsize:>6} {objperslab:>4} {pagesperslab:>4}"
        )?;
        let [limit, batchcount, shared] = self.tunables;
        write!(f, " : tunables {limit:>4} {batchcount:>4} {shared:>4}")?;
        write!(f, " : slabdata {:>6} {:>6} {:>6}", self.active_slabs, self.num_slabs, self.sharedavail)?;
        if let Some((global, cpu)) = &self.statistics {
            write!(f, " : globalstat {:>7} {:>6} {:>5}", global[0], global[1], global[2])?;
            for value in &global[3..] {
                write!(f, " {value:>4}")?;
            }
            f.write_str(" : cpustat")?;
            for value in cpu {
                write!(f, " {value:>6}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Slabinfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (version, title) = if self.statistics { (STATISTICS, TITLE_STATISTICS) } else { ("", "") };
        writeln!(f, "{VERSION}{version}")?;
        writeln!(f, "{TITLE}{title}")?;
        for row in &self.rows {
            writeln!(f, "{row}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "slabinfo_tests.rs"]
mod tests;
