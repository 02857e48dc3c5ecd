//! `kmem fail-sweep`: a program run once for each of its requests for memory, with that one refused.
//!
//! # How
//! The library counts the requests of the program and refuses the n-th (`KMEM_FAIL=nth=N`); a report that it leaves
//! ([`report`]) tells whether it came so far, and who asked. [`runner`] runs the program for n = 1, 2, 3, …, several at a time if
//! asked, until a run ends without a refusal. [`judge`] compares each with a run in which nothing was refused, and
//! [`table`] tells what became of it.
//!
//! # Same again
//! What is told depends on the runs alone, not on when or beside which others they ran: a program that does the same each time has the
//! same table each time. Two runs without refusals come first; where they differ, output is not compared.
//!
//! # Exit status
//! 0: no refusal made the program crash or hang; 1: some did; 125 to 127 as `kmem run`.

mod judge;
mod report;
mod runner;
mod table;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{env, fs};

use kmem_core::fault::{Kind, options};

use crate::cli::SweepArgs;
use crate::failure::{Failure, Result};
use crate::run::{ReportDir, find, library, preload};
use crate::summary::Ending;
use crate::sys;
use crate::table::Paint;
use judge::{Baseline, Verdict};
use runner::{Run, Runner};

/// One refusal and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    /// The number of the request.
    n: u64,
    verdict: Verdict,
    /// Which request it was, and who asked.
    failure: report::Failed,
}

/// Runs the command. Returns the exit status.
///
/// # Errors
/// The program could not be run, or not so that requests could be refused, or it crashes without refusals.
pub(crate) fn run(args: &SweepArgs) -> Result<u8> {
    let filters = check_filters(args.only.as_deref().unwrap_or_default())?;
    let [program, arguments @ ..] = &args.command[..] else {
        return Err(Failure::run("no program given"));
    };
    let file = find::program(program, env::var_os("PATH").as_deref())?;
    preload::check(&file)?;
    let build = if args.hardened { library::Build::Hardened } else { library::Build::Engine(args.engine) };
    let library = library::locate(&library::PLAIN, build)?;
    let scratch = ReportDir::new()?;
    // A name without the characters that separate names.
    let library = scratch.link(&library, &library::PLAIN)?;
    let runner = Runner {
        file,
        program: program.clone(),
        arguments: arguments.to_vec(),
        preload: preload_value(library),
        rule: rule(args, &filters),
        input: args.stdin.clone(),
        timeout: Duration::from_secs_f64(args.timeout),
        directory: scratch.path().to_path_buf(),
    };

    let start = Instant::now();
    let baseline = baseline(&runner)?;
    let steps = runner.sweep(args, &baseline)?;
    let told = table::Told {
        args,
        program: program.to_string_lossy().into_owned(),
        file: fs::canonicalize(&runner.file).unwrap_or_default(),
        baseline: &baseline,
        steps: &steps,
        took: start.elapsed(),
    };
    sys::default_sigpipe();
    let look = Paint::for_terminal(io::stdout().is_terminal());
    print!("{}", told.render(look));
    Ok(u8::from(steps.iter().any(|step| step.verdict.is_bad())))
}

/// The filters of `--only`, which must not say which requests fail: the sweep does.
fn check_filters(text: &str) -> Result<String> {
    let refuse = |why: String| Err(Failure::run(format!("--only: {why}")));
    // Rules keep parts of their text, for as long as a library lives; here that is this call.
    let kept: &'static str = Box::leak(text.to_owned().into_boxed_str());
    let rules = match options::parse(kept, 0) {
        Ok(rules) => rules,
        Err(error) => return refuse(error.to_string()),
    };
    if rules[Kind::Slab as usize].is_some() || rules[Kind::Page as usize].is_some() {
        return refuse("only the requests of programs are swept".to_owned());
    }
    let decides = [
        "each",
        "nth",
        "probability",
        "interval",
        "times",
        "space",
        "seed",
        "verbose",
        "since",
        "failmalloc",
    ];
    match text.split([',', ':', ';', '=']).find(|word| decides.contains(word)) {
        Some(word) => refuse(format!("'{word}' is no filter")),
        None => Ok(text.trim_start_matches("malloc:").to_owned()),
    }
}

/// What the library is told beside the number.
fn rule(args: &SweepArgs, filters: &str) -> String {
    let since = if args.from_start { "start" } else { "main" };
    let comma = if filters.is_empty() { "" } else { "," };
    format!("since={since}{comma}{filters}")
}

fn preload_value(library: PathBuf) -> OsString {
    let mut value = library.into_os_string();
    if let Some(others) = env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        value.push(":");
        value.push(others);
    }
    value
}

/// Two runs in which nothing is refused.
fn baseline(runner: &Runner) -> Result<Baseline> {
    let [first, second] = [runner.run(u64::MAX)?, runner.run(u64::MAX)?];
    for run in [&first, &second] {
        if run.report.is_none() {
            return Err(Failure::run(
                "the program left no report: it cleared its environment, or no process has the name asked for",
            ));
        }
        match run.ending {
            None => {
                let limit = runner.timeout.as_secs_f64();
                return Err(Failure::run(format!(
                    "without any refusal the program takes more than {limit} s"
                )));
            }
            Some(Ending::Signalled(signal)) => {
                let signal = sys::signal_name(signal);
                return Err(Failure::run(format!("the program ends by {signal} without any refusal")));
            }
            Some(Ending::Exited(_)) => {}
        }
    }
    Ok(Baseline::of(first, second))
}

impl Run {
    /// The failure that was injected.
    fn failure(&self) -> Option<&report::Failed> {
        self.report.as_ref()?.failed.as_ref()
    }
}

/// The content of a file of a run, at most so much of it that memory suffices.
fn read_limited(path: &std::path::Path) -> Vec<u8> {
    use std::io::Read;
    const LIMIT: u64 = 64 << 20;
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(path) {
        // What cannot be read is as if it had not been written.
        let _ = file.take(LIMIT).read_to_end(&mut bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::check_filters;

    #[test]
    fn filters_do_not_decide() {
        assert_eq!(check_filters("").unwrap(), "");
        assert_eq!(check_filters("malloc:size=10-20").unwrap(), "size=10-20");
        assert_eq!(check_filters("cache=kmalloc-64,stack=libz*").unwrap(), "cache=kmalloc-64,stack=libz*");
        for bad in ["nth=3", "task=each", "size=1-2,probability=4", "since=start", "slab:size=4"] {
            assert!(check_filters(bad).is_err(), "{bad}");
        }
        let refused = check_filters("sizes=3").unwrap_err();
        assert!(refused.message.starts_with("--only: 'sizes' is no"), "{}", refused.message);
    }
}
