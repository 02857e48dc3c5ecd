//! `ci`: everything that decides whether a change may land, cheapest first. A failed step does not hide
//! the later ones.
//!
//! What is measured has the machine to itself and comes last. All the rest is cut into parts that run [beside] one another: first
//! those that build, so that none waits for another's lock on a directory of build products, then those that run what was built.

use std::time::Instant;

use crate::library::Engine;
use crate::step::Count;
use crate::{beside, check, cross, golden, kernel, programs, suites, tidy};

/// A part of the whole: its name as `ci NAME` knows it, and what it does.
type Part = (&'static str, fn() -> Count);

/// Parts that build. Each kind of build product has a directory, and a part, of its own.
const BUILDS: [Part; 2] = [("debug", debug), ("optimised", optimised)];

/// Parts that run what was built, the longest first.
const RUNS: [Part; 10] = [
    ("tests", suites::all),
    ("kernel", || kernel::run(&[])),
    ("cross", || cross::run(&[])),
    ("long", suites::long),
    ("slab", || suites::on(Engine::Slab)),
    ("hardened", || suites::on(Engine::Hardened)),
    ("slob", || suites::on(Engine::Slob)),
    ("engines", engines),
    ("golden", || golden::run(&[])),
    ("models", suites::models),
];

fn debug() -> Count {
    let mut count = check::run();
    count += suites::build_all();
    count
}

fn optimised() -> Count {
    let mut count = suites::libraries();
    count += golden::build();
    count += suites::build_long();
    count
}

/// The other engines under real programs: an interpreter, a sort with threads, and blocks that change threads. What counts is that they do
/// what they do and how much memory they take; their times are shown as they come.
fn engines() -> Count {
    let mut count = Count::default();
    for engine in ["slab", "slob", "hardened"] {
        let arguments = ["--engine", engine, "--runs", "1", "perl", "sort", "threads"];
        count += programs::run(&arguments.map(str::to_owned));
    }
    count
}

pub(crate) fn run(arguments: &[String]) -> Count {
    let parts = || BUILDS.iter().chain(&RUNS);
    let unknown = arguments.iter().find(|name| parts().all(|part| part.0 != *name));
    let count = match arguments {
        _ if unknown.is_some() => {
            let names: Vec<&str> = parts().map(|part| part.0).collect();
            eprintln!("ci: no part `{}`; there are {}", unknown.map_or("", |name| name), names.join(", "));
            Count::FAILED
        }
        [] => everything(),
        [name] => parts().find(|part| part.0 == name).map_or(Count::FAILED, |part| part.1()),
        several => beside::run(&several.iter().map(String::as_str).collect::<Vec<_>>()),
    };
    // The last line: `beside` reads it of a part.
    println!("{count}");
    count
}

fn everything() -> Count {
    let start = Instant::now();
    let mut count = tidy::run(&[]);
    count += beside::run(&BUILDS.map(|part| part.0));
    count += beside::run(&RUNS.map(|part| part.0));
    count += programs::run(&[]);
    count += crate::bench::run(&["--quick".to_owned()]);
    println!("{:.0} s in all", start.elapsed().as_secs_f64());
    count
}
