//! The columns of both tables: what a cell shows, how rows are ordered by it, which key sorts by it, and which column is
//! left out first where the screen is narrow.
//!
//! Text and screen show the same [`Table`], made here.

use std::cmp::Ordering;
use std::time::Duration;

use super::model::{CacheRow, OLD, ProcessRow};
use crate::cli::SortBy;
use crate::summary;
use crate::table::{Align, Table, Tone};
use crate::units::{bytes, count, percent};

/// A column of a table of `R`.
#[derive(Debug)]
pub(crate) struct Column<R: 'static> {
    /// What `--sort` calls it.
    pub(crate) by: SortBy,
    /// What stands above it.
    pub(crate) title: &'static str,
    /// The key that sorts by it.
    pub(crate) letter: char,
    /// The larger, the sooner it is left out; 0: never.
    spare: u8,
    cell: fn(&R) -> String,
    /// Of all rows; empty where that means nothing.
    total: fn(&[R]) -> String,
    /// Largest first; names from a to z.
    order: fn(&R, &R) -> Ordering,
}

impl<R> Column<R> {
    /// True for names and numbers of processes, which begin with the smallest.
    pub(crate) fn ascends(&self) -> bool {
        matches!(self.by, SortBy::Pid | SortBy::Name | SortBy::Engine)
    }
}

/// A row and how it is shown.
pub(crate) trait Row: Sized + Clone + 'static {
    /// The columns, from the left. The first is the name, or begins it.
    const COLUMNS: &'static [Column<Self>];
    /// The column that they are sorted by if nothing else is asked.
    const USUAL: SortBy;
    /// How many there are, in words.
    fn number_of(rows: &[Self]) -> String;
    /// How it is shown.
    fn tone(&self) -> Tone;
}

fn none<R>(_: &[R]) -> String {
    String::new()
}

fn sum<R>(rows: &[R], field: fn(&R) -> u64) -> u64 {
    rows.iter().map(field).fold(0, u64::saturating_add)
}

fn largest<T: Ord>(a: T, b: T) -> Ordering {
    b.cmp(&a)
}

/// Unknown ones last.
fn fastest(a: Option<f64>, b: Option<f64>) -> Ordering {
    let known = |rate: Option<f64>| rate.unwrap_or(-1.0);
    known(b).total_cmp(&known(a))
}

fn rate(rate: Option<f64>) -> String {
    // A count of events: what is behind the point says nothing, and a cast of a float saturates.
    rate.map_or_else(|| "-".to_owned(), |rate| count(rate.round() as u64))
}

fn rates<R>(rows: &[R], field: fn(&R) -> Option<f64>) -> String {
    let known: Vec<f64> = rows.iter().filter_map(field).collect();
    rate((!known.is_empty()).then(|| known.iter().sum()))
}

/// Shares compared as fractions; of nothing: last.
fn fullest(a: (u64, u64), b: (u64, u64)) -> Ordering {
    let share = |x: (u64, u64), y: (u64, u64)| u128::from(x.0) * u128::from(y.1);
    (b.1 > 0).cmp(&(a.1 > 0)).then_with(|| share(b, a).cmp(&share(a, b)))
}

/// `0.4 s`, `12 s`, `5 min`, `3 h`, `9 d`.
pub(crate) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..10 => format!("{seconds}.{} s", age.subsec_millis() / 100),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

impl Row for ProcessRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column {
            by: SortBy::Pid,
            title: "PID",
            letter: 'd',
            spare: 0,
            cell: |row| row.pid.to_string(),
            total: none,
            order: |a, b| a.pid.cmp(&b.pid),
        },
        Column {
            by: SortBy::Name,
            title: "NAME",
            letter: 'n',
            spare: 0,
            cell: |row| row.name.clone(),
            total: |rows| Self::number_of(rows),
            order: |a, b| a.name.cmp(&b.name),
        },
        Column {
            by: SortBy::Engine,
            title: "ENGINE",
            letter: 'e',
            spare: 3,
            cell: |row| row.engine.clone(),
            total: none,
            order: |a, b| a.engine.cmp(&b.engine),
        },
        Column {
            by: SortBy::Rss,
            title: "RSS",
            letter: 'm',
            spare: 0,
            cell: |row| row.resident.map_or_else(|| "-".to_owned(), bytes),
            // Pages that processes share would be counted for each.
            total: none,
            order: |a, b| largest(a.resident, b.resident),
        },
        Column {
            by: SortBy::InUse,
            title: "IN USE",
            letter: 'i',
            spare: 0,
            cell: |row| bytes(row.in_use),
            total: |rows| bytes(sum(rows, |row| row.in_use)),
            order: |a, b| largest(a.in_use, b.in_use),
        },
        Column {
            by: SortBy::Held,
            title: "HELD",
            letter: 'h',
            spare: 0,
            cell: |row| bytes(row.held),
            total: |rows| bytes(sum(rows, |row| row.held)),
            order: |a, b| largest(a.held, b.held),
        },
        Column {
            by: SortBy::Free,
            title: "FREE",
            letter: 'f',
            spare: 2,
            cell: |row| bytes(row.free),
            total: |rows| bytes(sum(rows, |row| row.free)),
            order: |a, b| largest(a.free, b.free),
        },
        Column {
            by: SortBy::Peak,
            title: "PEAK",
            letter: 'k',
            spare: 4,
            cell: |row| bytes(row.peak),
            // They peak at different times.
            total: none,
            order: |a, b| largest(a.peak, b.peak),
        },
        Column {
            by: SortBy::Rate,
            title: "ALLOCS/S",
            letter: 't',
            spare: 0,
            cell: |row| rate(row.rate),
            total: |rows| rates(rows, |row| row.rate),
            order: |a, b| fastest(a.rate, b.rate),
        },
        Column {
            by: SortBy::Age,
            title: "AGE",
            letter: 'g',
            spare: 1,
            cell: |row| if row.ended { "ended".to_owned() } else { age(row.age) },
            total: none,
            order: |a, b| largest(a.age, b.age),
        },
    ];
    const USUAL: SortBy = SortBy::Held;

    fn number_of(rows: &[Self]) -> String {
        format!("{} process{}", rows.len(), if rows.len() == 1 { "" } else { "es" })
    }

    fn tone(&self) -> Tone {
        if self.age > OLD { Tone::Dim } else { Tone::Plain }
    }
}

impl Row for CacheRow {
    const COLUMNS: &'static [Column<Self>] = &[
        Column {
            by: SortBy::Name,
            title: "CACHE",
            letter: 'n',
            spare: 0,
            cell: |row| row.cache.name.clone(),
            total: |rows| Self::number_of(rows),
            order: |a, b| a.cache.name.cmp(&b.cache.name),
        },
        Column {
            by: SortBy::Size,
            title: "SIZE",
            letter: 'z',
            spare: 3,
            cell: |row| count(row.cache.object_size),
            total: none,
            order: |a, b| largest(a.cache.object_size, b.cache.object_size),
        },
        Column {
            by: SortBy::InUse,
            title: "IN USE",
            letter: 'i',
            spare: 0,
            cell: |row| count(row.cache.used()),
            total: |rows| count(sum(rows, |row| row.cache.used())),
            order: |a, b| largest(a.cache.used(), b.cache.used()),
        },
        Column {
            by: SortBy::Held,
            title: "HELD",
            letter: 'h',
            spare: 5,
            cell: |row| count(row.cache.total_objs),
            total: |rows| count(sum(rows, |row| row.cache.total_objs)),
            order: |a, b| largest(a.cache.total_objs, b.cache.total_objs),
        },
        Column {
            by: SortBy::Use,
            title: "USE%",
            letter: 'u',
            spare: 0,
            cell: |row| percent(row.cache.used(), row.cache.total_objs),
            total: |rows| percent(sum(rows, |row| row.cache.used()), sum(rows, |row| row.cache.total_objs)),
            order: |a, b| fullest((a.cache.used(), a.cache.total_objs), (b.cache.used(), b.cache.total_objs)),
        },
        Column {
            by: SortBy::Slabs,
            title: "SLABS",
            letter: 'l',
            spare: 6,
            cell: |row| count(row.cache.slabs),
            total: |rows| count(sum(rows, |row| row.cache.slabs)),
            order: |a, b| largest(a.cache.slabs, b.cache.slabs),
        },
        Column {
            by: SortBy::Bytes,
            title: "BYTES",
            letter: 'b',
            spare: 0,
            cell: |row| bytes(row.cache.held()),
            total: |rows| bytes(sum(rows, |row| row.cache.held())),
            order: |a, b| largest((a.cache.held(), a.cache.peak()), (b.cache.held(), b.cache.peak())),
        },
        Column {
            by: SortBy::Waste,
            title: "WASTE",
            letter: 'w',
            spare: 1,
            cell: |row| bytes(row.cache.waste()),
            total: |rows| bytes(sum(rows, |row| row.cache.waste())),
            order: |a, b| largest(a.cache.waste(), b.cache.waste()),
        },
        Column {
            by: SortBy::Peak,
            title: "PEAK",
            letter: 'k',
            spare: 4,
            cell: |row| bytes(row.cache.peak()),
            // They peak at different times.
            total: none,
            order: |a, b| largest(a.cache.peak(), b.cache.peak()),
        },
        Column {
            by: SortBy::Allocs,
            title: "ALLOCS",
            letter: 'a',
            spare: 2,
            cell: |row| count(row.cache.allocs),
            total: |rows| count(sum(rows, |row| row.cache.allocs)),
            order: |a, b| largest(a.cache.allocs, b.cache.allocs),
        },
        Column {
            by: SortBy::Rate,
            title: "ALLOCS/S",
            letter: 't',
            spare: 0,
            cell: |row| rate(row.rate),
            total: |rows| rates(rows, |row| row.rate),
            order: |a, b| fastest(a.rate, b.rate),
        },
        Column {
            by: SortBy::Cpu,
            title: "CPU%",
            letter: 'c',
            spare: 1,
            cell: |row| percent(row.cache.fast(), row.cache.allocs),
            total: |rows| percent(sum(rows, |row| row.cache.fast()), sum(rows, |row| row.cache.allocs)),
            order: |a, b| fullest((a.cache.fast(), a.cache.allocs), (b.cache.fast(), b.cache.allocs)),
        },
    ];
    const USUAL: SortBy = SortBy::Bytes;

    fn number_of(rows: &[Self]) -> String {
        format!("{} cache{}", rows.len(), if rows.len() == 1 { "" } else { "s" })
    }

    fn tone(&self) -> Tone {
        summary::tone(&self.cache)
    }
}

/// How rows are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sort {
    /// By which column.
    pub(crate) by: SortBy,
    /// Smallest first; names from z to a.
    pub(crate) reversed: bool,
}

impl Sort {
    /// As the rows are sorted if nothing else is asked.
    pub(crate) fn usual<R: Row>() -> Self {
        Sort { by: R::USUAL, reversed: false }
    }

    /// By this column, if the rows have it.
    pub(crate) fn by<R: Row>(by: SortBy) -> Option<Self> {
        R::COLUMNS.iter().any(|column| column.by == by).then_some(Sort { by, reversed: false })
    }

    /// The column.
    pub(crate) fn column<R: Row>(&self) -> &'static Column<R> {
        R::COLUMNS.iter().find(|column| column.by == self.by).unwrap_or(&R::COLUMNS[0])
    }

    /// By the column after it.
    pub(crate) fn next<R: Row>(&self) -> Self {
        let at = R::COLUMNS.iter().position(|column| column.by == self.by).map_or(0, |at| at + 1);
        Sort { by: R::COLUMNS[at % R::COLUMNS.len()].by, reversed: false }
    }

    /// Sorts the rows. Equal ones keep their order.
    pub(crate) fn apply<R: Row>(&self, rows: &mut [R]) {
        let order = self.column::<R>().order;
        rows.sort_by(|a, b| if self.reversed { order(b, a) } else { order(a, b) });
    }
}

/// The table of these rows, of which only the first `top` are shown if that is not 0, in at most `width` characters if
/// leaving out columns can do it. Returns the place of the column that they are sorted by, too, if it is shown.
pub(crate) fn table<R: Row>(
    rows: &[R],
    sort: Sort,
    top: usize,
    width: Option<usize>,
) -> (Table, Option<usize>) {
    let mut columns: Vec<&'static Column<R>> = R::COLUMNS.iter().collect();
    loop {
        let table = build(rows, &columns, top);
        let spare = (0..columns.len()).filter(|&at| columns[at].spare > 0);
        let spare = spare.max_by_key(|&at| columns[at].spare);
        match spare {
            Some(at) if width.is_some_and(|width| table.least_width() > width) => drop(columns.remove(at)),
            _ => return (table, columns.iter().position(|column| column.by == sort.by)),
        }
    }
}

fn build<R: Row>(rows: &[R], columns: &[&'static Column<R>], top: usize) -> Table {
    let text = |by: SortBy| matches!(by, SortBy::Name | SortBy::Engine);
    let titles: Vec<(&str, Align)> = columns
        .iter()
        .map(|column| (column.title, if text(column.by) { Align::Left } else { Align::Right }))
        .collect();
    let mut table = Table::new(&titles);
    let shown = if top == 0 { rows.len() } else { top.min(rows.len()) };
    for row in &rows[..shown] {
        table.row(row.tone(), columns.iter().map(|column| (column.cell)(row)).collect());
    }
    let rest = &rows[shown..];
    if !rest.is_empty() {
        let cell = |column: &&'static Column<R>| match column.by {
            SortBy::Name => format!("{} more", rest.len()),
            _ => (column.total)(rest),
        };
        table.row(Tone::Dim, columns.iter().map(cell).collect());
    }
    table.total(columns.iter().map(|column| (column.total)(rows)).collect());
    table
}

#[cfg(test)]
#[path = "columns_tests.rs"]
mod tests;
