//! Running the program with one request refused, and doing so for all of them.
//!
//! Each run has its own process group, which is gone when the run is over, output that goes to files (a pipe would be held
//! open by grandchildren), no core dumps, and no terminal to read from.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use super::judge::{Baseline, Verdict};
use super::report::Report;
use super::{Step, read_limited};
use crate::cli::SweepArgs;
use crate::failure::{Failure, Result};
use crate::run::not_started;
use crate::summary::Ending;
use crate::sys;

/// How a program is run.
pub(super) struct Runner {
    pub(super) file: PathBuf,
    pub(super) program: OsString,
    pub(super) arguments: Vec<OsString>,
    /// `LD_PRELOAD`.
    pub(super) preload: OsString,
    /// `KMEM_FAIL` but for the number.
    pub(super) rule: String,
    /// Where standard input comes from; none: there is none.
    pub(super) input: Option<PathBuf>,
    pub(super) timeout: Duration,
    /// For output and reports.
    pub(super) directory: PathBuf,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// How it ended; none: it did not in time, and was killed.
    pub(super) ending: Option<Ending>,
    pub(super) out: Vec<u8>,
    pub(super) err: Vec<u8>,
    /// What the library told; none: it was not there.
    pub(super) report: Option<Report>,
}

impl Runner {
    /// Runs the program with its `n`-th request refused.
    ///
    /// # Errors
    /// It could not be started.
    pub(super) fn run(&self, n: u64) -> Result<Run> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let place = |kind: &str| self.directory.join(format!("{kind}.{number}"));
        let (out, err, report) = (place("out"), place("err"), place("fail"));
        let create = |path: &PathBuf| File::create(path).map_err(|error| io_failure(path, &error));
        let stdin = match &self.input {
            None => Stdio::null(),
            Some(path) => File::open(path).map_err(|error| io_failure(path, &error))?.into(),
        };
        let mut command = Command::new(&self.file);
        command.arg0(&self.program).args(&self.arguments);
        command.stdin(stdin).stdout(create(&out)?).stderr(create(&err)?);
        command.env("LD_PRELOAD", &self.preload).env("KMEM_FAIL", format!("nth={n},{}", self.rule));
        command.env("KMEM_FAIL_REPORT", &report);
        for other in ["KMEM_REPORT_DIR", "KMEM_RECORD", "KMEM_LEAKS", "KMEM_TRACES", "KMEM_LOG", "KMEM_LIVE"]
        {
            command.env_remove(other);
        }
        sys::prepare_experiment(&mut command);
        let ending = self.wait(command)?;
        let run = Run {
            ending,
            out: read_limited(&out),
            err: read_limited(&err),
            report: Report::parse(&String::from_utf8_lossy(&read_limited(&report))),
        };
        for path in [out, err, report] {
            // What stays goes with the directory.
            let _ = fs::remove_file(path);
        }
        Ok(run)
    }

    fn wait(&self, mut command: Command) -> Result<Option<Ending>> {
        let start = Instant::now();
        let mut child = command.spawn().map_err(|error| not_started(&self.file, &error))?;
        let mut pause = Duration::from_micros(200);
        let ended = loop {
            match child.try_wait().map_err(|error| Failure::run(format!("waiting: {error}")))? {
                Some(status) => break Some(status),
                None if start.elapsed() >= self.timeout => break None,
                None => thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(10));
        };
        // Its children too, which must not outlive the experiment.
        sys::kill_group(child.id());
        if ended.is_none() {
            // Killed: this ends at once.
            let _ = child.wait();
        }
        Ok(ended.map(|status| match status.signal() {
            Some(signal) => Ending::Signalled(signal),
            None => Ending::Exited(status.code().unwrap_or_default()),
        }))
    }

    /// Refuses request after request, until a run has none to refuse, or the limits that were given are reached.
    ///
    /// # Errors
    /// The program could not be started.
    pub(super) fn sweep(&self, args: &SweepArgs, baseline: &Baseline) -> Result<Vec<Step>> {
        let sweep = Sweep {
            next: AtomicU64::new(args.from),
            end: AtomicU64::new(args.to.map_or(u64::MAX, |to| to.saturating_add(1))),
            done: Mutex::new(BTreeMap::new()),
            error: Mutex::new(None),
        };
        thread::scope(|scope| {
            for _ in 0..args.jobs {
                scope.spawn(|| self.work(args, baseline, &sweep));
            }
        });
        if let Some(error) = sweep.error.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            return Err(error);
        }
        let end = sweep.end.into_inner();
        let done = sweep.done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(done.into_iter().take_while(|(n, _)| *n < end).filter_map(|(_, step)| step).collect())
    }

    /// One worker: takes numbers until there are none.
    fn work(&self, args: &SweepArgs, baseline: &Baseline, sweep: &Sweep) {
        loop {
            let n = sweep.next.fetch_add(1, Ordering::Relaxed);
            // Relaxed: a worker that misses the end makes a run too many, which is left out.
            if n >= sweep.end.load(Ordering::Relaxed) {
                return;
            }
            let step = match self.run(n) {
                Ok(run) => run.failure().map(|failure| Step {
                    n,
                    verdict: Verdict::of(&run, baseline),
                    failure: failure.clone(),
                }),
                Err(error) => {
                    sweep
                        .error
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner)
                        .get_or_insert(error);
                    sweep.end.store(0, Ordering::Relaxed);
                    return;
                }
            };
            sweep.add(n, step, args.stop_after);
        }
    }
}

/// A sweep under way.
struct Sweep {
    /// The number that is run next.
    next: AtomicU64,
    /// The first that is not.
    end: AtomicU64,
    /// By number; none: nothing was refused.
    done: Mutex<BTreeMap<u64, Option<Step>>>,
    error: Mutex<Option<Failure>>,
}

impl Sweep {
    fn add(&self, n: u64, step: Option<Step>, stop_after: Option<u64>) {
        let mut done = self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if step.is_none() {
            self.end.fetch_min(n, Ordering::Relaxed);
        }
        done.insert(n, step);
        let Some(limit) = stop_after else { return };
        // The crash that reaches the limit, counted by number as if one run had followed the other.
        let Some(&first) = done.keys().next() else { return };
        let in_row = done.iter().zip(first..).take_while(|((n, _), expected)| *n == expected);
        let mut bad = in_row.filter(|((_, step), _)| step.as_ref().is_some_and(|step| step.verdict.is_bad()));
        if let Some(((&last, _), _)) = bad.nth(limit.saturating_sub(1) as usize) {
            self.end.fetch_min(last + 1, Ordering::Relaxed);
        }
    }
}

fn io_failure(path: &std::path::Path, error: &io::Error) -> Failure {
    Failure::run(format!("{}: {error}", path.display()))
}
