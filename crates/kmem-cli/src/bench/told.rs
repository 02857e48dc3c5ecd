//! The comparison for people: one table of the loops, one of the traces, one of metadata.

use super::subject::{Metadata, NAMES};
use super::{Cell, Comparison};
use crate::cli::BenchConfig;
use crate::replay::pass::Point;
use crate::table::{Align, Paint, Table, Tone};
use crate::units::{bytes, count};

/// Three digits, or whole numbers.
fn number(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => count(value.round() as u64),
    }
}

fn maybe(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or("-".to_owned(), show)
}

/// A share in percent; 100 only when it is all.
fn share(value: f64) -> String {
    if (0.9995..1.0).contains(&value) { "99.9".to_owned() } else { format!("{:.1}", value * 100.0) }
}

/// How many times `base` it is.
pub(super) fn multiple(value: Option<f64>, base: Option<f64>) -> Option<f64> {
    let (value, base) = value.zip(base)?;
    (base > 0.0).then(|| value / base)
}

/// Held as a multiple of live.
pub(super) fn ratio(point: Point) -> Option<f64> {
    (point.live > 0).then(|| point.held as f64 / point.live as f64)
}

/// What a configuration is called.
pub(super) fn title(config: BenchConfig) -> &'static str {
    match config {
        BenchConfig::Kernel => "the kernel's limits",
        BenchConfig::User | BenchConfig::Both => "as for programs",
    }
}

/// Columns of one number for each engine, the second and third with their multiple of the first.
fn columns(titles: &mut Vec<(String, Align)>, what: &str) {
    for (place, name) in NAMES.iter().enumerate() {
        titles.push((format!("{what}{name}").to_uppercase(), Align::Right));
        if place > 0 {
            titles.push(("x".to_owned(), Align::Right));
        }
    }
}

fn cells(row: &mut Vec<String>, values: [Option<f64>; 3]) {
    for (place, value) in values.into_iter().enumerate() {
        row.push(maybe(value, number));
        if place > 0 {
            row.push(maybe(multiple(value, values[0]), |value| format!("{value:.2}")));
        }
    }
}

fn table(titles: &[(String, Align)]) -> Table {
    Table::new(&titles.iter().map(|(title, align)| (title.as_str(), *align)).collect::<Vec<_>>())
}

/// The whole text.
pub(super) fn text(found: &Comparison, paint: Paint, width: Option<usize>) -> String {
    let mut out = format!(
        "{}\nTime: ns a pair, best of {} turns, CPUs owned by {}. Instructions a pair: {}.\n\n",
        paint.bold(&format!("Engines in {}", title(found.config)).replace("in as", "as")),
        found.turns,
        found.ownership,
        found.counted_on.as_ref().map_or("not counted, for want of valgrind".to_owned(), |way| {
            format!("exact, CPUs owned by {way}")
        }),
    );
    out += &loops(found).render(paint, width);
    if !found.traces.is_empty() {
        out.push('\n');
        out += &traces(found).render(paint, width);
        out.push('\n');
        out += &metadata(found).render(paint, width);
    }
    out.push('\n');
    out
}

fn loops(found: &Comparison) -> Table {
    let mut titles = vec![("LOOP".to_owned(), Align::Left)];
    columns(&mut titles, "ns ");
    columns(&mut titles, "in ");
    titles.push(("HIT% SLUB".to_owned(), Align::Right));
    titles.push(("SLAB".to_owned(), Align::Right));
    let mut table = table(&titles);
    for row in &found.rows {
        let of = |get: fn(&Cell) -> Option<f64>| row.cells.each_ref().map(get);
        let mut line = vec![row.name.to_owned()];
        cells(&mut line, of(|cell| Some(cell.ns)));
        cells(&mut line, of(|cell| cell.instructions));
        line.extend(row.cells[..2].iter().map(|cell| maybe(cell.hits, share)));
        table.row(Tone::Plain, line);
    }
    table
}

fn traces(found: &Comparison) -> Table {
    let mut titles = vec![("TRACE".to_owned(), Align::Left)];
    columns(&mut titles, "ns ");
    for what in ["held at peak", "at end"] {
        let short = |name: &str| if name == NAMES[0] { format!("{what} {name}") } else { name.to_owned() };
        titles.extend(NAMES.map(|name| (short(name).to_uppercase(), Align::Right)));
    }
    titles.push(("LIVE".to_owned(), Align::Right));
    titles.push(("HIT% SLUB".to_owned(), Align::Right));
    titles.push(("SLAB".to_owned(), Align::Right));
    let mut table = table(&titles);
    for row in &found.traces {
        let mut line = vec![row.name.clone()];
        cells(&mut line, row.cells.each_ref().map(|cell| Some(cell.ns)));
        let memory = row.cells.each_ref().map(|cell| &cell.held.memory);
        line.extend(memory.map(|memory| maybe(ratio(memory.at_peak), |value| format!("{value:.2}"))));
        line.extend(memory.map(|memory| bytes(memory.at_end.held)));
        line.push(bytes(memory[0].at_end.live));
        line.extend(row.cells[..2].iter().map(|cell| maybe(cell.held.hits, share)));
        table.row(Tone::Plain, line);
    }
    table
}

fn metadata(found: &Comparison) -> Table {
    let titles = ["METADATA", "ENGINE", "PAGES", "CACHES", "ARRAYS", "INDEX", "HEADERS", "SUM", "% OF LIVE"];
    let mut table = Table::new(&titles.map(|title| {
        (
            title,
            if title.len() > 7 && title != "% OF LIVE" || title == "ENGINE" {
                Align::Left
            } else {
                Align::Right
            },
        )
    }));
    for row in &found.traces {
        for (cell, name) in row.cells.iter().zip(NAMES) {
            let Metadata { pages, caches, arrays, index, headers } = cell.held.metadata;
            let sum = cell.held.metadata.sum();
            let mut line = vec![row.name.clone(), name.to_owned()];
            line.extend([pages, caches, arrays, index, headers, sum].map(bytes));
            let live = cell.held.memory.at_peak.live;
            line.push(maybe((live > 0).then(|| sum as f64 / live as f64 * 100.0), |value| {
                format!("{value:.1}")
            }));
            table.row(Tone::Plain, line);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sample;

    #[test]
    fn the_text_is_three_tables() {
        let expected = "\
Engines in the kernel's limits
Time: ns a pair, best of 5 turns, CPUs owned by rseq. Instructions a pair: exact, CPUs owned by portable.

LOOP       NS SLUB  NS SLAB     x  NS SLOB      x  IN SLUB  IN SLAB     x  IN SLOB     x  HIT% SLUB  SLAB
object_64     10.0     12.0  1.20     90.0   9.00      100      110  1.10      450  4.50      100.0  99.5
pipe_64       50.0     25.0  0.50    1,200  24.00        -        -     -        -     -       50.0  75.0

TRACE  NS SLUB  NS SLAB     x  NS SLOB     x  HELD AT PEAK SLUB  SLAB  SLOB  AT END SLUB   SLAB   SLOB  LIVE  HIT% SLUB  SLAB
prog      10.0     20.0  2.00     20.0  2.00               8.19  4.10  4.10        32.0K  16.0K  16.0K  3.9K       90.0  80.0

METADATA  ENGINE  PAGES  CACHES  ARRAYS  INDEX  HEADERS   SUM  % OF LIVE
prog      slub      264    2.0K       0     16        8  2.3K       58.4
prog      slab      264    2.0K       0     16        8  2.3K       58.4
prog      slob      264    2.0K       0     16        8  2.3K       58.4

";
        assert_eq!(text(&sample::comparison(), Paint { on: false }, None), expected);
    }

    #[test]
    fn numbers_have_three_digits() {
        let shown = [0.0, 1.234, 12.34, 123.4, 12_345.6].map(number);
        assert_eq!(shown, ["0.00", "1.23", "12.3", "123", "12,346"]);
        assert_eq!([1.0, 0.99999, 0.5].map(share), ["100.0", "99.9", "50.0"]);
        assert_eq!(multiple(Some(1.0), Some(0.0)), None);
    }
}
