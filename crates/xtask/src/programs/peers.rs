//! `bench --programs`: the programs on every allocator: time, peak resident size, page faults.
//!
//! The allocators take turns, program by program. Each must do what it does on the system's allocator, and one that does not is told
//! and has no numbers. Times are processor time of the cheapest run, as others on the machine can only make a run dearer; sizes and
//! faults are medians. Page faults are those of all processes of a program.

use std::path::PathBuf;
use std::time::Duration;

use super::case::{self, Case};
use super::run::{Place, Run, Setting};
use super::{lacking, median};
use crate::library::Engine;
use crate::step::Count;

const USAGE: &str = "\
cargo xtask bench --programs [--peers all] [--hardened] [--runs N] [--without CASE] [CASE...]
";

/// A name, and what is preloaded: nothing for the system's own.
type Allocator<'a> = (&'a str, Option<&'a PathBuf>);

/// What one program took on one allocator.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Taken {
    cpu: Duration,
    wall: Duration,
    peak: u64,
    faults: u64,
}

impl Taken {
    /// Of a program's runs on one allocator.
    fn of(runs: &[Run]) -> Self {
        Self {
            cpu: runs.iter().map(|run| run.cpu).min().unwrap_or_default(),
            wall: runs.iter().map(|run| run.wall).min().unwrap_or_default(),
            peak: median(runs.iter().map(|run| run.peak)),
            faults: median(runs.iter().map(|run| run.faults)),
        }
    }
}

/// What the arguments ask for.
#[derive(Debug)]
struct Options {
    runs: Option<usize>,
    /// The system's malloc and the usual library are shown, but the hardened one is not held against them.
    hardened: bool,
    cases: Vec<Case>,
}

/// A column of numbers that are compared.
type Column = (&'static str, fn(&Taken) -> f64);

const COLUMNS: [Column; 4] = [
    ("cpu s", |taken| taken.cpu.as_secs_f64()),
    ("wall s", |taken| taken.wall.as_secs_f64()),
    ("peak MiB", |taken| taken.peak as f64 / f64::from(1 << 20)),
    ("faults k", |taken| taken.faults as f64 / 1000.0),
];

/// Runs the programs that the arguments name (all, without names) on the system's allocator and on these.
pub(crate) fn run(libraries: &[(&'static str, PathBuf)], arguments: &[String]) -> Count {
    let Options { runs, hardened, cases } = match options(arguments) {
        Ok(options) => options,
        Err(message) => {
            println!("bench --programs: {message}\n{USAGE}");
            return Count::FAILED;
        }
    };
    let allocators: Vec<Allocator<'_>> = std::iter::once(("system", None))
        .chain(libraries.iter().map(|(name, path)| (*name, Some(path))))
        .collect();
    let mut all: Vec<(String, Vec<Option<Taken>>)> = Vec::new();
    let mut count = Count::default();
    for case in &cases {
        if let Some(lack) = lacking(case) {
            println!("{:<15} left out: {lack}", case.name);
            continue;
        }
        match measure(case, &allocators, runs.unwrap_or(case.runs)) {
            Ok(taken) => all.push((case.name.clone(), taken)),
            Err(message) => {
                println!("{:<15} FAILED: {message}", case.name);
                count += Count::FAILED;
                continue;
            }
        }
        // kmem is the last; what others do is not this program's failure.
        count += Count::of(all.last().is_some_and(|(_, taken)| taken.last().is_some_and(Option::is_some)));
    }
    let rivals: Vec<bool> =
        allocators.iter().map(|(name, _)| !(hardened && ["system", "usual"].contains(name))).collect();
    for column in COLUMNS {
        table(column, &allocators, &rivals, &all);
    }
    count
}

fn options(arguments: &[String]) -> Result<Options, String> {
    let mut cases = case::all()?;
    let (mut runs, mut hardened, mut names) = (None, false, Vec::new());
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--runs" => {
                let value = arguments.next().and_then(|value| value.parse().ok()).filter(|&runs| runs > 0);
                runs = Some(value.ok_or("--runs takes a number")?);
            }
            "--hardened" => hardened = true,
            "--without" => {
                let name = arguments.next().ok_or("--without takes a program's name")?;
                cases.retain(|case| case.name != *name);
            }
            name if cases.iter().any(|case| case.name == name) => names.push(name),
            other => return Err(format!("no program is called `{other}`")),
        }
    }
    if !names.is_empty() {
        cases.retain(|case| names.contains(&case.name.as_str()));
    }
    Ok(Options { runs, hardened, cases })
}

/// What the case took on each allocator, `None` where it did not do what it does on the system's.
fn measure(case: &Case, allocators: &[Allocator<'_>], turns: usize) -> Result<Vec<Option<Taken>>, String> {
    let place = Place::prepare(case, Engine::Slub)?;
    let mut runs: Vec<Vec<Run>> = allocators.iter().map(|_| Vec::new()).collect();
    for turn in 0..turns {
        // Each turn begins with another one: what comes after what must not be the same each time.
        for place_in_turn in 0..allocators.len() {
            let index = (turn + place_in_turn) % allocators.len();
            let ((name, path), runs) = (allocators[index], &mut runs[index]);
            let kind = if path.is_some() { name } else { "system" };
            let setting = Setting { name, kind, library: path.map(PathBuf::as_path), limit: case.limit };
            runs.push(place.run_as(case, &setting, &[], turn, "run")?);
        }
    }
    let expected = std::fs::read(&runs[0][0].output).map_err(|error| error.to_string())?;
    let status = runs[0][0].status;
    let right = |run: &Run| {
        !run.timed_out
            && run.status == status
            && std::fs::read(&run.output).is_ok_and(|output| output == expected)
    };
    let taken = allocators.iter().zip(&runs).map(|(&(name, _), runs)| {
        if let Some(run) = runs.iter().find(|run| !right(run)) {
            println!("{:<15} on {name}: {}, not as on the system's", case.name, run.status);
            return None;
        }
        Some(Taken::of(runs))
    });
    let taken = taken.collect();
    println!("{:<15} measured", case.name);
    Ok(taken)
}

/// One column of all programs, a column for each allocator, and kmem (the last) beside the best of its rivals.
fn table(
    (unit, value): Column,
    allocators: &[Allocator<'_>],
    rivals: &[bool],
    all: &[(String, Vec<Option<Taken>>)],
) {
    print!("\n{unit:<15}");
    allocators.iter().for_each(|(name, _)| print!(" {:>9}", name.chars().take(9).collect::<String>()));
    println!("  | /system   /best");
    let mut means: Vec<Vec<f64>> = vec![Vec::new(); 2];
    for (name, taken) in all {
        print!("{name:<15}");
        let values: Vec<Option<f64>> = taken.iter().map(|taken| taken.as_ref().map(value)).collect();
        for value in &values {
            value.map_or_else(|| print!(" {:>9}", "-"), |value| print!(" {value:>9.2}"));
        }
        let ratios = ratios(&values, rivals);
        println!("  | {:>7.2} {:>7.2}", ratios[0], ratios[1]);
        means.iter_mut().zip(ratios).for_each(|(mean, ratio)| mean.push(ratio.ln()));
    }
    let mean = |logarithms: &[f64]| (logarithms.iter().sum::<f64>() / logarithms.len().max(1) as f64).exp();
    let width = 15 + 10 * allocators.len();
    println!("{:<width$}  | {:>7.2} {:>7.2}", "geometric mean", mean(&means[0]), mean(&means[1]));
}

/// The last over the first, and over the best of its rivals before it; 1 where there is nothing to compare.
fn ratios(values: &[Option<f64>], rivals: &[bool]) -> [f64; 2] {
    let Some((Some(ours), others)) = values.split_last() else { return [1.0; 2] };
    let rivals = others.iter().zip(rivals).filter(|(_, rival)| **rival);
    let best = rivals.filter_map(|(value, _)| *value).fold(f64::INFINITY, f64::min);
    let over = |other: f64| if other > 0.0 && other.is_finite() { ours / other } else { 1.0 };
    [others.first().copied().flatten().map_or(1.0, over), over(best)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_is_compared_with_the_first_and_the_best() {
        let all = [true; 4];
        assert_eq!(ratios(&[Some(4.0), None, Some(1.0), Some(2.0)], &all), [0.5, 2.0]);
        assert_eq!(ratios(&[Some(1.0), Some(4.0), Some(2.0)], &[false, true, true]), [2.0, 0.5]);
        assert_eq!(ratios(&[Some(4.0), None], &all), [1.0, 1.0], "it did not do what it should");
        assert_eq!(ratios(&[None, Some(2.0)], &all), [1.0, 1.0]);
    }

    #[test]
    fn programs_are_chosen_by_name() {
        let names = |text: &str| {
            options(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
                .map(|it| (it.runs, it.cases.into_iter().map(|case| case.name).collect::<Vec<_>>()))
        };
        assert_eq!(names("sort --runs 2"), Ok((Some(2), vec!["sort".to_owned()])));
        assert!(!names("--without valgrind").unwrap().1.contains(&"valgrind".to_owned()));
        assert!(names("nothing").is_err() && names("--runs 0").is_err());
    }
}
