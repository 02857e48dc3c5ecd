//! `costs`: what each debug letter costs, alone and together, on the programs.
//!
//! Every program runs with the library without letters, and with each of [`SETTINGS`]. The settings take turns, so that a busy
//! machine troubles all of them alike. Times are processor time, of the cheapest run, as others can only make a run dearer; sizes are
//! the median peak of the largest process. The page `docs/debug-costs.md` is what `--bless` makes of it.
//!
//! With `--bless` each program's rows are written as soon as they are known, in place of those that the page has; the rows of other
//! programs stay. So a run that is stopped keeps what it has, and one program can be measured again by itself.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::case::{self, Case, Variant};
use super::run::{Place, Run};
use super::{lacking, median};
use crate::library::{self, Engine};
use crate::step::Count;
use crate::tree;

const FILE: &str = "docs/debug-costs.md";

const USAGE: &str = "\
cargo xtask costs [OPTIONS] [CASE...]

  --runs N          runs of each program with each setting (default 3)
  --bless           write docs/debug-costs.md, row by row
";

/// The debug letters, alone and together. T prints a line for each request, which is a matter of the terminal.
const SETTINGS: [&str; 8] = ["F", "Z", "P", "U", "A", "FZ", "FZP", "FZPU"];

const HEADER: &str = "\
<!-- Written by `cargo xtask costs --bless`. -->

# What the debug letters cost

Processor time and peak resident size of real programs (`programs/cases`) with debug letters for every cache, as multiples of the
same run without letters: `KMEM_DEBUG=FZPU` and so on, or `kmem run --debug`. The first column is the run without, in
seconds and MiB. A cache without letters pays nothing: its fast path has the same instructions as in a build without the debug layer
(`golden/fast-path.txt`), so letters for a few caches (`FZPU,kmalloc-72`) cost as much as those caches are used.

Whether a cache is checked is asked only where it has no CPU stacks, so no instruction of a fast path asks ([fast-path.md](fast-path.md) shows each of
them). `cargo xtask golden` counts the loops on malloc once more while another class has all letters: they must take what they took. A
build in which no slab is checked and letters mean nothing (41,568 bytes of code less) takes the same number of instructions in each of the
loops on malloc; so did the commit before the layer, and the one that brought it.

F looks at each object and at the slab it is in, with a walk of the slab's free objects; Z and P write and compare red zones and poison;
U saves the stack of each request and of each free; A does nothing until a failure is asked for. T is not in the tables: it writes some twelve
lines for each request and each free, which takes 0.3 ms to a file. O and - only take other letters away. Where programs take turns on a
busy machine, a difference below a tenth says nothing; below a quarter, where there was one run of each, as here.
";

/// The cheapest processor time and the median peak of one setting's runs.
struct Cost {
    cpu: Duration,
    peak: u64,
}

/// A program's rows, of times and of sizes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rows {
    times: String,
    sizes: String,
}

/// The rows of all programs, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tables(BTreeMap<String, Rows>);

const TIMES: &str = "## Processor time";
const SIZES: &str = "## Peak resident size";

impl Tables {
    /// What a page has.
    fn read(page: &str) -> Self {
        let mut tables = Self::default();
        let mut title = "";
        for line in page.lines() {
            if line.starts_with("## ") {
                title = line;
            }
            let name = line.strip_prefix("| ").and_then(|line| line.split(" |").next());
            // Not what stands over the columns.
            let Some(name) = name.filter(|&name| name != "program") else { continue };
            match title {
                TIMES => tables.0.entry(name.to_owned()).or_default().times = line.to_owned(),
                SIZES => tables.0.entry(name.to_owned()).or_default().sizes = line.to_owned(),
                _ => {}
            }
        }
        // A program with other columns than today's was measured by another version.
        let whole = |row: &String| row.matches('|').count() == SETTINGS.len() + 3;
        tables.0.retain(|_, rows| whole(&rows.times) && whole(&rows.sizes));
        tables
    }

    /// The page.
    fn page(&self) -> String {
        let mut page = HEADER.to_owned();
        write!(page, "\n{TIMES}\n\n{}", head("seconds")).expect("a string");
        self.0.values().for_each(|rows| page += &format!("{}\n", rows.times));
        write!(page, "\n{SIZES}\n\n{}", head("MiB")).expect("a string");
        self.0.values().for_each(|rows| page += &format!("{}\n", rows.sizes));
        page
    }
}

pub(crate) fn run(arguments: &[String]) -> Count {
    match options(arguments).and_then(|(runs, bless, names)| tables(runs, bless, &names)) {
        Ok(tables) => {
            println!("{}", tables.page());
            Count::PASSED
        }
        Err(message) => {
            println!("costs: {message}");
            Count::FAILED
        }
    }
}

fn file() -> PathBuf {
    tree::root().join(FILE)
}

fn options(arguments: &[String]) -> Result<(usize, bool, Vec<String>), String> {
    let (mut runs, mut bless, mut names) = (3, false, Vec::new());
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bless" => bless = true,
            "--runs" => {
                let value = arguments.next().and_then(|value| value.parse().ok()).filter(|&runs| runs > 0);
                runs = value.ok_or("--runs takes a number")?;
            }
            flag if flag.starts_with('-') => return Err(format!("\n{USAGE}")),
            name => names.push(name.to_owned()),
        }
    }
    Ok((runs, bless, names))
}

/// A row for each program that this machine can run.
fn tables(runs: usize, bless: bool, names: &[String]) -> Result<Tables, String> {
    let cases = case::all()?;
    if let Some(name) = names.iter().find(|name| cases.iter().all(|case| case.name != **name)) {
        return Err(format!("no case is called `{name}`"));
    }
    if library::build(Engine::Slub).failed > 0 {
        return Err("the library does not build".to_owned());
    }
    let mut tables = if bless {
        Tables::read(&std::fs::read_to_string(file()).unwrap_or_default())
    } else {
        Tables::default()
    };
    let mut failed = Vec::new();
    for case in cases.iter().filter(|case| names.is_empty() || names.contains(&case.name)) {
        if let Some(lack) = lacking(case) {
            println!("{:<15} left out: {lack}", case.name);
            continue;
        }
        match measure(case, runs) {
            Ok(costs) => {
                tables.0.insert(case.name.clone(), rows(&case.name, &costs));
                println!("{:<15} measured", case.name);
            }
            Err(message) => {
                println!("{:<15} FAILED: {message}", case.name);
                failed.push(case.name.as_str());
            }
        }
        if bless {
            std::fs::write(file(), tables.page()).map_err(|error| format!("{FILE}: {error}"))?;
        }
    }
    match failed.as_slice() {
        [] => Ok(tables),
        names => Err(format!("not what they are without letters: {}", names.join(", "))),
    }
}

/// The rows of one program: what it costs without letters, and the multiples of that with them.
fn rows(name: &str, costs: &[Cost]) -> Rows {
    let (plain, letters) = (&costs[0], &costs[1..]);
    let mut times = format!("| {name} | {:.2} |", plain.cpu.as_secs_f64());
    let mut sizes = format!("| {name} | {:.1} |", plain.peak as f64 / f64::from(1 << 20));
    for cost in letters {
        let ratio = cost.cpu.as_secs_f64() / plain.cpu.as_secs_f64().max(1e-9);
        write!(times, " {ratio:.2} |").expect("a string");
        write!(sizes, " {:.2} |", cost.peak as f64 / plain.peak.max(1) as f64).expect("a string");
    }
    Rows { times, sizes }
}

fn head(unit: &str) -> String {
    let settings = SETTINGS.join(" | ");
    format!("| program | {unit} | {settings} |\n|---|{}\n", "---:|".repeat(SETTINGS.len() + 1))
}

/// The costs without letters, then with each of [`SETTINGS`]. `Err`: a program did something else with letters.
fn measure(case: &Case, runs: usize) -> Result<Vec<Cost>, String> {
    let place = Place::prepare(case, Engine::Slub)?;
    let mut all: Vec<Vec<Run>> = (0..=SETTINGS.len()).map(|_| Vec::new()).collect();
    for turn in 0..runs {
        for (at, of_setting) in all.iter_mut().enumerate() {
            let letters = at.checked_sub(1).map(|at| SETTINGS[at]);
            of_setting.push(place.run_checked(case, Variant::Kmem, turn, "run", letters)?);
        }
    }
    let expected = std::fs::read(&all[0][0].output).unwrap_or_default();
    for (run, letters) in
        all[1..].iter().zip(SETTINGS).flat_map(|(runs, letters)| runs.iter().map(move |run| (run, letters)))
    {
        let same = std::fs::read(&run.output).is_ok_and(|output| output == expected);
        if run.timed_out || run.status != all[0][0].status || !same {
            return Err(format!("{} with {letters}: {}, {}", case.name, run.status, run.errors.display()));
        }
    }
    let cost = |runs: Vec<Run>| Cost {
        cpu: runs.iter().map(|run| run.cpu).min().unwrap_or_default(),
        peak: median(runs.iter().map(|run| run.peak)),
    };
    Ok(all.into_iter().map(cost).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_column_for_each_setting() {
        let head = head("MiB");
        let columns = |line: &str| line.matches('|').count();
        let lines: Vec<&str> = head.lines().collect();
        assert_eq!(columns(lines[0]), SETTINGS.len() + 3);
        assert_eq!(columns(lines[1]), SETTINGS.len() + 3);
        assert!(lines[0].ends_with("| FZPU |"));
    }

    #[test]
    fn a_page_is_read_as_it_was_written() {
        let cost = |millis, peak| Cost { cpu: Duration::from_millis(millis), peak };
        let costs: Vec<Cost> =
            (0..=SETTINGS.len() as u64).map(|n| cost(1000 + 250 * n, (n + 1) << 20)).collect();
        let mut tables = Tables::default();
        for name in ["sort", "gcc"] {
            tables.0.insert(name.to_owned(), rows(name, &costs));
        }
        let page = tables.page();
        assert!(
            page.contains("| gcc | 1.00 | 1.25 | 1.50 | 1.75 | 2.00 | 2.25 | 2.50 | 2.75 | 3.00 |\n"),
            "{page}"
        );
        assert!(page.contains("| sort | 1.0 | 2.00 |"), "{page}");
        assert_eq!(Tables::read(&page), tables);
        // What has fewer columns, or stands in one table only, is not kept.
        let older = page.replace("| 3.00 |\n", "|\n");
        assert_eq!(Tables::read(&older), Tables::default());
        assert_eq!(Tables::read(""), Tables::default());
    }

    #[test]
    fn options_are_read() {
        let read = |text: &str| options(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(read("--runs 5 sqlite --bless"), Ok((5, true, vec!["sqlite".to_owned()])));
        assert!(read("--runs 0").is_err() && read("--runs").is_err() && read("--what").is_err());
    }
}
