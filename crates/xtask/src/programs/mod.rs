//! `programs`: programs that nobody wrote for kmem, run on it and on the system's allocator.
//!
//! For each case (a script below `programs/cases`) and each variant: exit status and output must equal the
//! system's, the library must have been there (it leaves a report of each process), and the peak resident
//! size must stay within a bound of the system's. Variants take turns, so that a busy machine troubles all
//! of them alike; times and sizes are medians of a case's runs.

mod case;
pub(crate) mod costs;
pub(crate) mod peers;
mod run;
mod table;

use std::process::Command;
use std::time::{Duration, Instant};

use case::{Case, Variant};
use run::{Place, Reports, Run};

use crate::library::{self, Engine};
use crate::step::Count;
use crate::tree;

const USAGE: &str = "\
cargo xtask programs [OPTIONS] [CASE...]

  --list            name the cases and stop
  --engine NAME     slub (default), slab, slob, hardened (a build of slub), or all of them in turn
  --rss-limit R     largest peak resident size, as a multiple of the system's (default 1.2; 1.1 with slab, 2 with slob, 1.6 hardened)
  --runs N          runs of each case, instead of what the case says
  KMEM_LIB=PATH     try another library in kmem's place
";

/// Programs below this peak are mostly start-up: there the difference counts, and may be this much.
const SMALL: u64 = 8 << 20;
const SMALL_DIFFERENCE: u64 = 1 << 20;

struct Options {
    list: bool,
    engines: Vec<Engine>,
    rss_limit: Option<f64>,
    runs: Option<usize>,
    cases: Vec<String>,
}

/// The largest peak resident size that is right, as a multiple of the system's. With SLOB, a block of
/// little more than a page takes two.
fn rss_limit(engine: Engine) -> f64 {
    match engine {
        // Small blocks have headers, as the system's have, and size classes besides.
        Engine::Slub => 1.2,
        Engine::Slab => 1.1,
        Engine::Slob => 2.0,
        // Seals and states, and a block of 16 bytes takes 32.
        Engine::Hardened => 1.6,
    }
}

/// Medians of one variant's runs, and what was wrong.
struct Measured {
    variant: Variant,
    wall: Duration,
    cpu: Duration,
    peak: u64,
    wrong: Vec<String>,
}

pub(crate) fn run(arguments: &[String]) -> Count {
    let (options, cases) =
        match options(arguments).and_then(|options| case::all().map(|cases| (options, cases))) {
            Ok(both) => both,
            Err(message) => {
                println!("programs: {message}");
                return Count::FAILED;
            }
        };
    if let Some(name) = options.cases.iter().find(|name| cases.iter().all(|case| case.name != **name)) {
        println!("programs: no case is called `{name}`");
        return Count::FAILED;
    }
    if options.list {
        cases.iter().for_each(|case| println!("{:<16} {}", case.name, case.what));
        return Count::PASSED;
    }
    let mut count = Count::default();
    for &engine in &options.engines {
        count += on_engine(engine, &cases, &options);
    }
    count
}

/// Runs the cases with one engine.
fn on_engine(engine: Engine, cases: &[Case], options: &Options) -> Count {
    if library::is_ours() {
        let built = library::build(engine);
        if built.failed > 0 {
            return built;
        }
    } else {
        println!("programs: on {} in kmem's place", library::path(engine).display());
    }
    let start = Instant::now();
    let mut count = Count::default();
    table::head(engine);
    for case in cases.iter().filter(|case| options.cases.is_empty() || options.cases.contains(&case.name)) {
        count += run_case(case, engine, options);
    }
    println!(
        "{:<24} {count} in {:.0} s",
        format!("programs on {}", engine.name()),
        start.elapsed().as_secs_f64()
    );
    count
}

fn options(arguments: &[String]) -> Result<Options, String> {
    let mut options =
        Options { list: false, engines: vec![Engine::Slub], rss_limit: None, runs: None, cases: Vec::new() };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value\n{USAGE}"));
        match argument.as_str() {
            "--list" => options.list = true,
            "--engine" => {
                options.engines = match value()?.as_str() {
                    "all" => Engine::ALL.to_vec(),
                    name => vec![Engine::named(name).ok_or("--engine takes slub, slab, slob or all")?],
                }
            }
            "--rss-limit" => {
                options.rss_limit = Some(value()?.parse().map_err(|_| "--rss-limit takes a number")?)
            }
            "--runs" => options.runs = Some(value()?.parse().map_err(|_| "--runs takes a number")?),
            flag if flag.starts_with('-') => return Err(format!("\n{USAGE}")),
            name => options.cases.push(name.to_owned()),
        }
    }
    Ok(options)
}

/// Runs one case on all its variants, prints its rows. Each comparison with the system counts as one.
fn run_case(case: &Case, engine: Engine, options: &Options) -> Count {
    if let Some(lack) = lacking(case) {
        if case.optional {
            println!("{:<15} left out: {lack}", case.name);
            return Count::default();
        }
        println!("{:<15} FAILED: {lack} (scripts/install-deps gets it)", case.name);
        return Count::FAILED;
    }
    let measured = Place::prepare(case, engine).and_then(|place| measure(case, &place, engine, options));
    let measured = match measured {
        Ok(measured) => measured,
        Err(message) => {
            println!("{:<15} FAILED: {message}", case.name);
            return Count::FAILED;
        }
    };
    let mut count = Count::default();
    for row in &measured {
        table::row(&case.name, row, &measured[0]);
        row.wrong.iter().for_each(|text| text.lines().for_each(|line| println!("    {line}")));
        if row.variant != Variant::System || !row.wrong.is_empty() {
            count += Count::of(row.wrong.is_empty());
        }
    }
    count
}

/// What the case needs and the machine does not have.
fn lacking(case: &Case) -> Option<String> {
    if let Some(program) = case.needs.iter().find(|program| !tree::in_path(program, run::PATH)) {
        return Some(format!("no {program} on this machine"));
    }
    let probe = case.probe.as_ref()?;
    let status = Command::new("/bin/sh").args(["-c", probe]).env("PATH", run::PATH).output();
    (!status.is_ok_and(|output| output.status.success())).then(|| format!("`{probe}` does not succeed"))
}

fn measure(case: &Case, place: &Place, engine: Engine, options: &Options) -> Result<Vec<Measured>, String> {
    let turns = options.runs.unwrap_or(case.runs);
    let mut runs: Vec<Vec<Run>> = case.variants.iter().map(|_| Vec::new()).collect();
    for turn in 0..turns {
        for (variant, runs) in case.variants.iter().zip(&mut runs) {
            runs.push(place.run(case, *variant, turn, "run")?);
        }
    }
    let expected = &runs[0][0];
    let mut measured: Vec<Measured> = Vec::new();
    for (&variant, runs) in case.variants.iter().zip(&runs) {
        let mut wrong = Vec::new();
        for run in runs {
            wrong.extend(compare(case, variant, run, expected));
        }
        let peak = median(runs.iter().map(|run| run.peak));
        if let Some(system) = measured.first().filter(|_| case.compare_rss) {
            wrong.extend(too_large(peak, system.peak, options.rss_limit.unwrap_or(rss_limit(engine))));
        }
        let wall = median(runs.iter().map(|run| run.wall));
        measured.push(Measured { variant, wall, cpu: median(runs.iter().map(|run| run.cpu)), peak, wrong });
    }
    Ok(measured)
}

/// What is wrong with a run, beside the first run on the system's allocator.
fn compare(case: &Case, variant: Variant, run: &Run, expected: &Run) -> Vec<String> {
    let mut wrong = Vec::new();
    if run.timed_out {
        wrong.push(format!("not done after {} s", case.limit.as_secs()));
    } else if run.status != expected.status || (variant == Variant::System && !run.status.success()) {
        wrong.push(format!("ended with {}, on the system's allocator with {}", run.status, expected.status));
    }
    let read = |run: &Run| std::fs::read(&run.output).unwrap_or_default();
    let (ours, theirs) = (read(run), read(expected));
    if ours != theirs {
        wrong.push(format!("other output:\n{}", table::difference(&theirs, &ours)));
    }
    if !wrong.is_empty() {
        let errors = std::fs::read(&run.errors).unwrap_or_default();
        wrong.push(format!("standard error ends with:\n{}", table::tail(&errors, 25)));
    }
    if variant != Variant::System && library::is_ours() && wrong.is_empty() {
        let Reports { processes, portable, right_engine } = run.reports;
        if processes == 0 {
            wrong.push("no process left a report: was the library loaded?".to_owned());
        }
        if variant == Variant::Portable && !portable {
            wrong.push("restartable sequences were used".to_owned());
        }
        if !right_engine {
            wrong.push("a process had another engine".to_owned());
        }
    }
    wrong
}

fn too_large(peak: u64, system: u64, limit: f64) -> Option<String> {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    if system < SMALL {
        let most = system + SMALL_DIFFERENCE;
        return (peak > most).then(|| format!("peak {:.1} MiB, at most {:.1}", mib(peak), mib(most)));
    }
    let ratio = peak as f64 / system as f64;
    (ratio > limit)
        .then(|| format!("peak {:.1} MiB is {ratio:.2} times the system's, at most {limit}", mib(peak)))
}

fn median<T: Ord>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<T> = values.collect();
    values.sort();
    let middle = values.len() / 2;
    values.swap_remove(middle)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn peaks_are_held_to_a_ratio_or_small_ones_to_a_difference() {
        let mib = |n: u64| n << 20;
        assert!(too_large(mib(109), mib(100), 1.1).is_none());
        assert!(too_large(mib(112), mib(100), 1.1).is_some());
        assert!(
            too_large(mib(32), mib(30), 1.1).is_none(),
            "a few MiB of a program are held to the ratio too"
        );
        assert!(too_large(mib(34), mib(30), 1.1).is_some());
        assert!(too_large(mib(5), mib(4), 1.1).is_none(), "1 MiB more than a small one");
        assert!(too_large(mib(6), mib(4), 1.1).is_some());
        assert_eq!(median([3, 1, 2].into_iter()), 2);
    }

    #[test]
    fn an_exit_status_output_or_missing_report_is_told() {
        let directory = std::env::temp_dir().join(format!("xtask-programs-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let make = |name: &str, text: &str, code: i32, reports| {
            let output = directory.join(name);
            std::fs::write(&output, text).unwrap();
            let zero = Duration::ZERO;
            let errors = directory.join("none");
            Run {
                status: ExitStatus::from_raw(code << 8),
                timed_out: false,
                output,
                errors,
                wall: zero,
                cpu: zero,
                peak: 0,
                faults: 0,
                reports,
            }
        };
        let case = &case::all().unwrap()[0];
        let reports = |processes, portable| Reports { processes, portable, right_engine: true };
        let system = make("a", "one\ntwo\n", 0, reports(0, true));
        let wrong = |run: &Run, variant| compare(case, variant, run, &system);
        assert!(wrong(&system, Variant::System).is_empty());
        assert!(wrong(&make("b", "one\ntwo\n", 0, reports(2, false)), Variant::Kmem).is_empty());
        assert!(!wrong(&make("c", "one\n2\n", 0, reports(2, false)), Variant::Kmem).is_empty());
        assert!(!wrong(&make("d", "one\ntwo\n", 1, reports(2, false)), Variant::Kmem).is_empty());
        if library::is_ours() {
            let another = Reports { right_engine: false, ..reports(1, false) };
            assert!(!wrong(&make("g", "one\ntwo\n", 0, another), Variant::Kmem).is_empty());
            assert!(!wrong(&make("e", "one\ntwo\n", 0, reports(0, true)), Variant::Kmem).is_empty());
            assert!(!wrong(&make("f", "one\ntwo\n", 0, reports(1, false)), Variant::Portable).is_empty());
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
