//! A step: one command whose output matters only when it fails.

use std::fmt;
use std::fs::File;
use std::ops::AddAssign;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{child, tree};

/// How many tests or checks passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
}

impl Count {
    pub(crate) const PASSED: Self = Self { passed: 1, failed: 0 };
    pub(crate) const FAILED: Self = Self { passed: 0, failed: 1 };

    /// One check that passed or failed.
    pub(crate) fn of(passed: bool) -> Self {
        if passed { Self::PASSED } else { Self::FAILED }
    }

    /// What [`fmt::Display`] wrote.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (passed, failed) = line.strip_suffix(" failed")?.split_once(" passed, ")?;
        Some(Self { passed: passed.parse().ok()?, failed: failed.parse().ok()? })
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// A named command, its output kept in a file below the target directory.
pub(crate) struct Step {
    name: &'static str,
    command: Command,
    limit: Duration,
}

impl Step {
    pub(crate) fn new(name: &'static str, command: Command) -> Self {
        Self { name, command, limit: Duration::from_secs(600) }
    }

    pub(crate) fn cargo(name: &'static str, arguments: &[&str]) -> Self {
        let mut command = tree::cargo();
        command.args(arguments);
        Self::new(name, command)
    }

    pub(crate) fn env(mut self, key: &str, value: &str) -> Self {
        self.command.env(key, value);
        self
    }

    /// Fails it after `seconds`, instead of ten minutes: a test that hangs must not hang the whole.
    pub(crate) fn limit(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Runs it; prints one line, and the whole log when it failed. Counts as one.
    pub(crate) fn run(self) -> Count {
        let (ok, line, log) = self.finish();
        println!("{line}");
        if !ok {
            print_log(&log);
        }
        Count::of(ok)
    }

    /// Runs it and gives the log to `count`, which finds the tests in it. A command that fails without a
    /// failed test in its log counts as one failure; one that succeeds without a test as one pass.
    pub(crate) fn run_counting(self, count: impl Fn(&str) -> Count) -> Count {
        let (ok, line, log) = self.finish();
        let mut counted = count(&log);
        if !ok && counted.failed == 0 {
            counted.failed = 1;
        } else if ok && counted == Count::default() {
            counted = Count::PASSED;
        }
        println!("{line} ({counted})");
        if !ok || counted.failed > 0 {
            print_log(&log);
        }
        counted
    }

    fn finish(mut self) -> (bool, String, String) {
        let start = Instant::now();
        let directory = tree::target().join("xtask");
        let path = directory.join(format!("{}.log", self.name.replace(' ', "-")));
        let outcome =
            std::fs::create_dir_all(&directory).and_then(|()| File::create(&path)).and_then(|log| {
                let errors = log.try_clone()?;
                self.command.stdin(Stdio::null()).stdout(log).stderr(errors);
                child::run(&mut self.command, self.limit)
            });
        let mut log = std::fs::read(&path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let ok = match outcome {
            Ok(end) => {
                if end.timed_out {
                    log.push_str(&format!("stopped: not done after {} s\n", self.limit.as_secs()));
                }
                end.status.success()
            }
            Err(error) => {
                log.push_str(&format!("cannot run {:?}: {error}\n", self.command.get_program()));
                false
            }
        };
        let word = if ok { "ok" } else { "FAILED" };
        (ok, format!("{:<24} {word:<6} {:>6.1} s", self.name, start.elapsed().as_secs_f64()), log)
    }
}

/// The log, without the tests that passed: they are counted.
fn print_log(log: &str) {
    for line in log.lines().filter(|line| !(line.starts_with("test ") && line.ends_with(" ... ok"))) {
        println!("    {line}");
    }
}
