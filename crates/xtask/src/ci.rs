//! `ci`: everything that decides whether a change may land, cheapest first. A failed step does not hide
//! the later ones.

use std::time::Instant;

use crate::step::Count;
use crate::{check, cross, golden, kernel, programs, suites, tidy};

pub(crate) fn run(_arguments: &[String]) -> Count {
    let start = Instant::now();
    let mut count = tidy::run(&[]);
    count += check::run();
    count += suites::run();
    count += cross::run(&[]);
    count += kernel::run(&[]);
    count += suites::models();
    count += golden::run(&[]);
    count += programs::run(&[]);
    // The other engines: an interpreter, a sort with threads, and blocks that change threads.
    for engine in ["slab", "slob", "hardened"] {
        count +=
            programs::run(&["--engine", engine, "--runs", "1", "perl", "sort", "threads"].map(str::to_owned));
    }
    count += crate::bench::run(&["--quick".to_owned()]);
    println!("{:.0} s in all", start.elapsed().as_secs_f64());
    println!("{count}");
    count
}
