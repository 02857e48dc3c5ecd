//! `costs`: what each debug letter costs, alone and together, on the programs.
//!
//! Every program runs with the library without letters, and with each of [`SETTINGS`]. The settings take turns, so that a busy
//! machine troubles all of them alike. Times are processor time, of the cheapest run, as others can only make a run dearer; sizes are
//! the median peak of the largest process. The page `docs/debug-costs.md` is what `--bless` makes of it.

use std::fmt::Write;
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
  --bless           write docs/debug-costs.md
";

/// The debug letters, alone and together. T prints a line for each request, which is a matter of the terminal.
const SETTINGS: [&str; 8] = ["F", "Z", "P", "U", "A", "FZ", "FZP", "FZPU"];

const HEADER: &str = "\
<!-- Written by `cargo xtask costs --bless`. -->

# What the debug letters cost

Processor time and peak resident size of real programs (`programs/cases`) with debug letters for every cache, as multiples of the
same run without letters: `KMEM_DEBUG=FZPU` and so on, or `kmem run --debug`. The first column is the run without, in
seconds and MiB. A cache without letters pays nothing: its fast path has the same instructions as in a build without the debug layer
(`golden/fast-path.txt`), so letters for a few caches (`FZPU,kmalloc-64`) cost as much as those caches are used.

F looks at each object and at the slab it is in, with a walk of the slab's free objects; Z and P write and compare red zones and poison;
U saves the stack of each request and of each free; A does nothing until a failure is asked for. Where programs take turns on a
busy machine, a difference below a tenth says nothing.
";

/// The cheapest processor time and the median peak of one setting's runs.
struct Cost {
    cpu: Duration,
    peak: u64,
}

pub(crate) fn run(arguments: &[String]) -> Count {
    match options(arguments).and_then(|(runs, bless, names)| table(runs, &names).map(|text| (bless, text))) {
        Ok((false, text)) => {
            println!("{text}");
            Count::PASSED
        }
        Ok((true, text)) => Count::of(std::fs::write(tree::root().join(FILE), text).is_ok()),
        Err(message) => {
            println!("costs: {message}");
            Count::FAILED
        }
    }
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

/// The page: a row for each program that this machine can run.
fn table(runs: usize, names: &[String]) -> Result<String, String> {
    let cases = case::all()?;
    if let Some(name) = names.iter().find(|name| cases.iter().all(|case| case.name != **name)) {
        return Err(format!("no case is called `{name}`"));
    }
    if library::build(Engine::Slub).failed > 0 {
        return Err("the library does not build".to_owned());
    }
    let mut times = format!("\n## Processor time\n\n{}", head("seconds"));
    let mut sizes = format!("\n## Peak resident size\n\n{}", head("MiB"));
    for case in cases.iter().filter(|case| names.is_empty() || names.contains(&case.name)) {
        if let Some(lack) = lacking(case) {
            println!("{:<15} left out: {lack}", case.name);
            continue;
        }
        let costs = match measure(case, runs) {
            Ok(costs) => costs,
            Err(message) => {
                println!("{:<15} FAILED: {message}", case.name);
                return Err("a program is not what it is without letters".to_owned());
            }
        };
        let (plain, letters) = (&costs[0], &costs[1..]);
        write!(times, "| {} | {:.2} |", case.name, plain.cpu.as_secs_f64()).expect("a string");
        write!(sizes, "| {} | {:.1} |", case.name, plain.peak as f64 / f64::from(1 << 20)).expect("a string");
        for cost in letters {
            let ratio = cost.cpu.as_secs_f64() / plain.cpu.as_secs_f64().max(1e-9);
            write!(times, " {ratio:.2} |").expect("a string");
            write!(sizes, " {:.2} |", cost.peak as f64 / plain.peak.max(1) as f64).expect("a string");
        }
        times.push('\n');
        sizes.push('\n');
        println!("{:<15} measured", case.name);
    }
    Ok(format!("{HEADER}{times}{sizes}"))
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
    fn options_are_read() {
        let read = |text: &str| options(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(read("--runs 5 sqlite --bless"), Ok((5, true, vec!["sqlite".to_owned()])));
        assert!(read("--runs 0").is_err() && read("--runs").is_err() && read("--what").is_err());
    }
}
