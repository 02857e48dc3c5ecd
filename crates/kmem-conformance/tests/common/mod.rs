//! Prints one line for each entry of the table, as the usual harness does for its tests.
//!
//! `NAME` as an argument runs what contains it; `--ignored` runs the long walks, at full length, and nothing else; `--list`
//! lists. Other arguments of the usual harness mean nothing here.
#![allow(dead_code, reason = "each program uses its part")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kmem_conformance::Verdict;

/// One line.
pub(crate) struct Job {
    /// What is checked, on what.
    pub(crate) name: String,
    /// Has a long form.
    pub(crate) walks: bool,
    /// Does it, in its long form if asked.
    pub(crate) run: Box<dyn FnOnce(usize) -> Verdict + Send>,
}

/// A check that takes longer says how long.
const SLOW: Duration = Duration::from_secs(2);
/// Steps of a walk as developers run it.
const SHORT: usize = if cfg!(debug_assertions) { 6_000 } else { 100_000 };
/// Steps of a long walk, of which there are two: each check runs twice.
const LONG: usize = 1_000_000;

/// Runs the jobs, as many at a time as said, and ends the process.
pub(crate) fn run(jobs: Vec<Job>, threads: usize) -> ! {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let long = has("--ignored");
    let mut jobs: Vec<Job> = jobs
        .into_iter()
        .filter(|job| filters.is_empty() || filters.iter().any(|filter| job.name.contains(filter.as_str())))
        .filter(|job| !long || job.walks)
        .collect();
    if has("--list") {
        jobs.iter().for_each(|job| println!("{}: test", job.name));
        std::process::exit(0);
    }
    println!("\nrunning {} tests", jobs.len());
    let steps = if long { LONG } else { SHORT };
    jobs.reverse();
    let queue = Mutex::new(jobs);
    let (passed, failed, skipped) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no panic holds it").pop();
                    let Some(Job { name, run, .. }) = next else { break };
                    let began = Instant::now();
                    let verdict = catch_unwind(AssertUnwindSafe(|| run(steps)));
                    let count = match verdict {
                        Ok(Verdict::Passed) => {
                            let took = began.elapsed();
                            let note = if took > SLOW {
                                format!(" ({:.1} s)", took.as_secs_f32())
                            } else {
                                String::new()
                            };
                            println!("test {name} ... ok{note}");
                            &passed
                        }
                        Ok(Verdict::Skipped(why)) => {
                            println!("test {name} ... ignored, {why}");
                            &skipped
                        }
                        Ok(Verdict::Failed(failure)) => {
                            println!("test {name} ... FAILED\n    {failure}");
                            &failed
                        }
                        Err(_) => {
                            println!("test {name} ... FAILED\n    a panic, see above");
                            &failed
                        }
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let (passed, failed, skipped) = (passed.into_inner(), failed.into_inner(), skipped.into_inner());
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {result}. {passed} passed; {failed} failed; {skipped} ignored; 0 measured");
    std::process::exit(i32::from(failed > 0) * 101);
}
