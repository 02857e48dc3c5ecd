//! `kernel --counts`: what each operation of the heap costs in instructions on the bare machine, beside Linux.
//!
//! QEMU counts instructions as time (`-icount shift=0`, one CPU, 1 GiB, as Linux was measured), so a count is the same on every
//! machine. Two things are checked:
//! - the counts are those of `golden/kernel-counts.txt`, up to [`SLACK`]: what the compiler inlines where changes with its neighbours.
//!   With another compiler than the file's they may differ by [`OTHER_COMPILER`];
//! - each is lower than Linux's in `golden/linux-counts.txt`.
//!
//! SLOB and the way that turns interrupts off are not compared with Linux: they are counted by `kernel --counts`, and left out where
//! the counts are one check of many.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Instant;

use super::machine::Machine;
use crate::step::Count;
use crate::tree;

const OURS: &str = "golden/kernel-counts.txt";
const LINUX: &str = "golden/linux-counts.txt";
/// What may differ, as a part of the count; half an instruction always may.
const SLACK: f64 = 0.02;
/// The same where the compiler is another.
const OTHER_COMPILER: f64 = 0.10;

/// A column: its name, how the kernel is built, and the columns of Linux that each of its rows must be lower than.
struct Column {
    name: &'static str,
    engine: &'static str,
    hardened: bool,
    masked: bool,
    beside: &'static [&'static str],
}

impl Column {
    const fn plain(name: &'static str, engine: &'static str, beside: &'static [&'static str]) -> Self {
        Self { name, engine, hardened: false, masked: false, beside }
    }
}

const COLUMNS: [Column; 7] = [
    Column::plain("slub", "slub", &["slub-jl", "slub"]),
    Column::plain("slab", "slab", &["slab-jl", "slab"]),
    Column { hardened: true, ..Column::plain("slub-hardened", "slub", &["slub-hardened"]) },
    // The one hardened Linux that was measured has SLUB.
    Column { hardened: true, ..Column::plain("slab-hardened", "slab", &["slub-hardened"]) },
    Column { masked: true, ..Column::plain("slub-masked", "slub", &[]) },
    Column { masked: true, ..Column::plain("slab-masked", "slab", &[]) },
    Column::plain("slob", "slob", &[]),
];

/// Counts by row, then by column.
type Table = BTreeMap<String, BTreeMap<String, f64>>;

/// Every column.
pub(super) fn run(bless: bool) -> Count {
    compare(&COLUMNS.iter().collect::<Vec<_>>(), bless)
}

/// The columns that stand beside Linux.
pub(super) fn run_beside_linux() -> Count {
    compare(&COLUMNS.iter().filter(|column| !column.beside.is_empty()).collect::<Vec<_>>(), false)
}

fn compare(columns: &[&Column], bless: bool) -> Count {
    let start = Instant::now();
    let outcome = measure(columns).and_then(|ours| check(columns, &ours, bless));
    let (shown, complaints) = match outcome {
        Ok((rows, complaints)) => (format!("{rows} counts"), complaints),
        Err(complaint) => (String::new(), vec![complaint]),
    };
    let word = if complaints.is_empty() { "ok" } else { "FAILED" };
    println!("{:<48} {word:<6} {:>6.1} s ({shown})", "instructions", start.elapsed().as_secs_f64());
    complaints.iter().for_each(|complaint| println!("    {complaint}"));
    Count::of(complaints.is_empty())
}

/// Builds and boots each column's kernel.
fn measure(columns: &[&Column]) -> Result<Table, String> {
    let mut table = Table::new();
    for column in columns {
        let machine = Machine {
            engine: column.engine.to_owned(),
            hardened: column.hardened,
            masked: column.masked,
            release: true,
            icount: true,
            mem: 1024,
            append: "test=none measure=1".to_owned(),
            ..Machine::default()
        };
        if machine.build().failed > 0 {
            return Err(format!("the kernel for column `{}` does not build", column.name));
        }
        let ended = machine.boot(|_| {});
        if ended.count().failed > 0 {
            ended.log.iter().for_each(|line| println!("    {line}"));
            return Err(format!("{}: {}", machine.name(), ended.verdict()));
        }
        for (row, count) in ended.log.iter().filter_map(|line| counted(line)) {
            table.entry(row.to_owned()).or_default().insert(column.name.to_owned(), count);
        }
    }
    Ok(table)
}

/// The row and the count of a line `count ROW NUMBER`.
fn counted(line: &str) -> Option<(&str, f64)> {
    let (row, count) = line.strip_prefix("count ")?.split_once(' ')?;
    Some((row, count.parse().ok()?))
}

/// Compares with the files, or writes ours. How many counts there are, and the complaints.
fn check(columns: &[&Column], ours: &Table, bless: bool) -> Result<(usize, Vec<String>), String> {
    let mut rustc = tree::command("rustc");
    let version = rustc.arg("--version").output().map_err(|error| format!("rustc: {error}"))?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let compiler = version.split_whitespace().nth(1).unwrap_or("unknown");
    let read = |file: &str| {
        std::fs::read_to_string(tree::root().join(file)).map_err(|error| format!("{file}: {error}"))
    };
    let (linux, _) = parse(&read(LINUX)?)?;
    let mut complaints = beside_linux(ours, &linux);
    if bless {
        std::fs::write(tree::root().join(OURS), render(ours, compiler))
            .map_err(|error| format!("{OURS}: {error}"))?;
    } else {
        let (before, theirs) = parse(&read(OURS)?)?;
        complaints.extend(differences(
            columns,
            &before,
            ours,
            if theirs == compiler { SLACK } else { OTHER_COMPILER },
        ));
    }
    Ok((ours.values().map(BTreeMap::len).sum(), complaints))
}

/// Rows that are not lower than Linux's, and those that Linux has and we have not.
fn beside_linux(ours: &Table, linux: &Table) -> Vec<String> {
    let mut complaints = Vec::new();
    for column in COLUMNS.iter().filter(|column| !column.beside.is_empty()) {
        for (row, bars) in linux {
            let bar = column
                .beside
                .iter()
                .filter_map(|name| bars.get(*name))
                .copied()
                .fold(f64::INFINITY, f64::min);
            let count = ours.get(row).and_then(|counts| counts.get(column.name)).copied();
            match count {
                None => complaints.push(format!("{row}: not counted for {}", column.name)),
                Some(count) if count >= bar => {
                    complaints
                        .push(format!("{row}: {} is not lower than Linux: {count}, {bar}", column.name));
                }
                Some(_) => {}
            }
        }
    }
    complaints
}

/// Counts that are not those of the file, up to `slack`, and rows that only one of the two has.
fn differences(columns: &[&Column], before: &Table, now: &Table, slack: f64) -> Vec<String> {
    let mut complaints = Vec::new();
    let rows: std::collections::BTreeSet<_> = before.keys().chain(now.keys()).collect();
    for row in rows {
        for Column { name, .. } in columns {
            let find = |table: &Table| table.get(row).and_then(|counts| counts.get(*name)).copied();
            let same = match (find(before), find(now)) {
                (Some(before), Some(now)) => (before - now).abs() <= 0.5 + before * slack,
                (None, None) => true,
                _ => false,
            };
            if !same {
                let shown = |count: Option<f64>| count.map_or("none".to_owned(), |count| count.to_string());
                complaints.push(format!(
                    "{row}: {name} was {}, is {}",
                    shown(find(before)),
                    shown(find(now))
                ));
            }
        }
    }
    if !complaints.is_empty() {
        complaints.push("`cargo xtask kernel --counts --bless` writes the new counts".to_owned());
    }
    complaints
}

fn render(table: &Table, compiler: &str) -> String {
    let mut text = "\
# What one operation costs on the bare machine, in instructions; each of so many where there are several. Rows as in
# linux-counts.txt; `way` rows are the bare ways to own a CPU. Written by `cargo xtask kernel --counts --bless`.
"
    .to_owned();
    writeln!(text, "# compiler: {compiler}").expect("a string");
    write!(text, "{:<28}", "# row").expect("a string");
    COLUMNS.iter().for_each(|column| write!(text, "{:>14}", column.name).expect("a string"));
    text.push('\n');
    for (row, counts) in table {
        write!(text, "{row:<28}").expect("a string");
        for column in &COLUMNS {
            match counts.get(column.name) {
                Some(count) => write!(text, "{count:>14.1}").expect("a string"),
                None => write!(text, "{:>14}", "-").expect("a string"),
            }
        }
        text.push('\n');
    }
    text
}

/// The counts of a file, and the compiler it names.
fn parse(text: &str) -> Result<(Table, String), String> {
    let compiler = text.lines().find_map(|line| line.strip_prefix("# compiler: ")).unwrap_or_default();
    let header = text.lines().find_map(|line| line.strip_prefix("# row ")).ok_or("no line `# row`")?;
    let columns: Vec<&str> = header.split_whitespace().collect();
    let mut table = Table::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let mut words = line.split_whitespace();
        let row = words.next().unwrap_or_default();
        let counts = columns.iter().zip(words).filter(|(_, word)| *word != "-").map(|(column, word)| {
            let count = word.parse().map_err(|_| format!("`{word}` in row {row} is no count"))?;
            Ok(((*column).to_owned(), count))
        });
        table.insert(row.to_owned(), counts.collect::<Result<_, String>>()?);
    }
    Ok((table, compiler.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(&str, &str, f64)]) -> Table {
        let mut table = Table::new();
        for (row, column, count) in rows {
            table.entry((*row).to_owned()).or_default().insert((*column).to_owned(), *count);
        }
        table
    }

    #[test]
    fn a_table_is_what_was_written() {
        let counts = table(&[("pair", "slub", 66.0), ("pair", "slob", 1011.5), ("way", "slub", 18.0)]);
        assert_eq!(parse(&render(&counts, "1.95.0")), Ok((counts, "1.95.0".to_owned())));
        assert!(parse("pair 1").is_err() && parse("# row slub\npair x").is_err());
        assert_eq!(counted("count pair 66.5"), Some(("pair", 66.5)));
        assert_eq!(counted("count pair"), None);
    }

    #[test]
    fn every_row_must_be_lower() {
        let linux = table(&[("pair", "slub-jl", 70.0), ("pair", "slub", 66.0), ("pair", "slab-jl", 80.0)]);
        let mut ours = table(&[
            ("pair", "slub", 65.9),
            ("pair", "slab", 79.0),
            ("pair", "slub-hardened", 1.0),
            ("pair", "slab-hardened", 79.0),
        ]);
        assert_eq!(beside_linux(&ours, &linux), Vec::<String>::new());
        ours.get_mut("pair").unwrap().insert("slub".to_owned(), 66.0);
        assert_eq!(beside_linux(&ours, &linux).len(), 1);
        ours.get_mut("pair").unwrap().remove("slab");
        assert_eq!(beside_linux(&ours, &linux).len(), 2, "not counted");
    }

    #[test]
    fn a_change_is_a_complaint_and_another_compiler_gets_slack() {
        let before = table(&[("pair", "slub", 60.0)]);
        let after = table(&[("pair", "slub", 62.0)]);
        let all: Vec<&Column> = COLUMNS.iter().collect();
        assert!(differences(&all, &before, &before, SLACK).is_empty());
        assert_eq!(differences(&all, &before, &after, SLACK).len(), 2);
        assert!(differences(&all, &before, &after, OTHER_COMPILER).is_empty());
        assert_eq!(differences(&all, &before, &table(&[("other", "slub", 60.0)]), OTHER_COMPILER).len(), 3);
    }
}
