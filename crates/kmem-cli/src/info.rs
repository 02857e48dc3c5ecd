//! `kmem info`: a slab table, checked, then printed as it is, sorted, or for people.

use std::cmp::Reverse;
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use crate::cli::{InfoArgs, SortKey};
use crate::failure::{Failure, Result};
use crate::slabinfo::{Row, Slabinfo};
use crate::sys;
use crate::table::{Align, Paint, Table, Tone};
use crate::units::{bytes, count, percent};

/// The kernel's own table.
const KERNEL: &str = "/proc/slabinfo";

/// Runs the command.
///
/// # Errors
/// The text cannot be read, or is no slab table.
pub(crate) fn run(args: &InfoArgs) -> Result<u8> {
    let path = args.file.as_deref().unwrap_or(Path::new(KERNEL));
    let shown = path.display();
    let text = read(path).map_err(|error| Failure::input(format!("{shown}: {error}")))?;
    let mut table = Slabinfo::parse(&text).map_err(|error| Failure::input(format!("{shown}: {error}")))?;

    if let Some(key) = args.sort {
        sort(&mut table.rows, key);
    }
    if args.reverse {
        table.rows.reverse();
    }
    let out = if args.human {
        let stdout = io::stdout().is_terminal();
        human(&table.rows, Paint::for_terminal(stdout), sys::terminal_columns(1))
    } else {
        table.to_string()
    };
    io::stdout()
        .write_all(out.as_bytes())
        .and_then(|()| io::stdout().flush())
        .map_err(|error| Failure::input(format!("stdout: {error}")))?;
    Ok(0)
}

fn read(path: &Path) -> io::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        Ok(text)
    } else {
        fs::read_to_string(path)
    }
}

/// Rows that are equal by the key keep their order.
fn sort(rows: &mut [Row], key: SortKey) {
    let by = |rows: &mut [Row], field: fn(&Row) -> u64| rows.sort_by_key(|row| Reverse(field(row)));
    match key {
        SortKey::Name => rows.sort_by(|a, b| a.name.cmp(&b.name)),
        SortKey::Active => by(rows, |row| row.active_objs),
        SortKey::Objs => by(rows, |row| row.num_objs),
        SortKey::Size => by(rows, |row| row.objsize),
        SortKey::Slabs => by(rows, |row| row.num_slabs),
        SortKey::Held => by(rows, Row::held),
        SortKey::Waste => by(rows, Row::waste),
        // Compared as fractions: a/b < c/d where a*d < c*b. An empty cache is below all.
        SortKey::Use => rows.sort_by(|a, b| {
            let share = |row: &Row, other: &Row| u128::from(row.active_objs) * u128::from(other.num_objs);
            (b.num_objs > 0).cmp(&(a.num_objs > 0)).then_with(|| share(b, a).cmp(&share(a, b)))
        }),
    }
}

/// The sums that `slabtop` prints above its table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Objects in use, and places for objects.
    pub(crate) objects: (u64, u64),
    /// Slabs in use, and slabs.
    pub(crate) slabs: (u64, u64),
    /// Caches with slabs, and caches.
    pub(crate) caches: (u64, u64),
    /// Bytes of objects in use, and of slabs.
    pub(crate) bytes: (u64, u64),
}

impl Totals {
    fn of(rows: &[Row]) -> Self {
        let sum = |field: fn(&Row) -> u64| rows.iter().map(field).fold(0, u64::saturating_add);
        Totals {
            objects: (sum(|row| row.active_objs), sum(|row| row.num_objs)),
            slabs: (sum(|row| row.active_slabs), sum(|row| row.num_slabs)),
            caches: (sum(|row| u64::from(row.num_slabs > 0)), rows.len() as u64),
            bytes: (sum(Row::active), sum(Row::held)),
        }
    }
}

fn human(rows: &[Row], paint: Paint, columns: Option<usize>) -> String {
    let mut table = Table::new(&[
        ("CACHE", Align::Left),
        ("SIZE", Align::Right),
        ("ACTIVE", Align::Right),
        ("OBJECTS", Align::Right),
        ("USE%", Align::Right),
        ("OBJ/SLAB", Align::Right),
        ("PAGES/SLAB", Align::Right),
        ("SLABS", Align::Right),
        ("BYTES", Align::Right),
        ("WASTE", Align::Right),
    ]);
    for row in rows {
        table.row(
            if row.num_slabs == 0 { Tone::Dim } else { Tone::Plain },
            vec![
                row.name.clone(),
                count(row.objsize),
                count(row.active_objs),
                count(row.num_objs),
                percent(row.active_objs, row.num_objs),
                count(row.objperslab),
                count(row.pagesperslab),
                count(row.num_slabs),
                bytes(row.held()),
                bytes(row.waste()),
            ],
        );
    }
    let totals = Totals::of(rows);
    table.total(vec![
        format!("{} of {} caches", totals.caches.0, totals.caches.1),
        String::new(),
        count(totals.objects.0),
        count(totals.objects.1),
        percent(totals.objects.0, totals.objects.1),
        String::new(),
        String::new(),
        count(totals.slabs.1),
        bytes(totals.bytes.1),
        bytes(totals.bytes.1.saturating_sub(totals.bytes.0)),
    ]);
    table.render(paint, columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> Slabinfo {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/slabinfo_slub.txt");
        Slabinfo::parse(&fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn totals_are_those_of_slabtop() {
        // The head of golden/slabtop_slabinfo_slub.expected.txt.
        let totals = Totals::of(&golden().rows);
        assert_eq!(totals.objects, (68_419, 69_197));
        assert_eq!(totals.slabs, (1931, 1931));
        assert_eq!(totals.caches, (80, 145));
        let kib = |bytes: u64| format!("{:.2}K", bytes as f64 / 1024.0);
        assert_eq!(kib(totals.bytes.0), "15858.06K");
        // slabtop's total size is objects times their size: without the ends of the slabs, which ours has.
        let objects: u64 = golden().rows.iter().map(|row| row.num_objs * row.objsize).sum();
        assert_eq!(kib(objects), "16005.66K");
        assert!(totals.bytes.1 > objects);
    }

    #[test]
    fn every_key_sorts() {
        let mut rows = golden().rows;
        type Field = fn(&Row) -> u64;
        let checks: [(SortKey, Field); 6] = [
            (SortKey::Active, |row| row.active_objs),
            (SortKey::Objs, |row| row.num_objs),
            (SortKey::Size, |row| row.objsize),
            (SortKey::Slabs, |row| row.num_slabs),
            (SortKey::Held, Row::held),
            (SortKey::Waste, Row::waste),
        ];
        for (key, field) in checks {
            sort(&mut rows, key);
            assert!(rows.is_sorted_by(|a, b| field(a) >= field(b)), "{key:?}");
            assert!(field(&rows[0]) > 0);
        }
        sort(&mut rows, SortKey::Name);
        assert!(rows.is_sorted_by(|a, b| a.name <= b.name));
        sort(&mut rows, SortKey::Use);
        let share =
            |row: &Row| if row.num_objs == 0 { -1.0 } else { row.active_objs as f64 / row.num_objs as f64 };
        assert!(rows.is_sorted_by(|a, b| share(a) >= share(b)));
    }

    #[test]
    fn people_see_units_and_a_total() {
        let rows = golden().rows;
        let text = human(&rows, Paint { on: false }, None);
        let line = text.lines().find(|line| line.starts_with("kmalloc-32 ")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, ["kmalloc-32", "32", "901", "1,664", "54.1", "128", "1", "13", "52.0K", "23.8K"]);
        assert!(text.lines().last().unwrap().starts_with("80 of 145 caches"));
    }
}
