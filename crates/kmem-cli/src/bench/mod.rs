//! `kmem bench engines`: the same work on SLUB, SLAB and SLOB, side by side.
//!
//! # How
//! Rows are loops ([`work`]) and recorded traces (those of `kmem replay`), done on heaps of this process ([`subject`]).
//! What is told of each: time ([`clock`]; the engines take turns, so that a busy minute on the machine troubles all of them
//! alike, and the best turn counts), instructions ([`count`]), hits of CPUs' stacks, memory, metadata. It is
//! shown as text ([`told`]), JSON ([`json`]) and plots ([`plot`]).
//!
//! # Order
//! All traces are checked on fresh heaps before anything is timed; rows of one thread stay on one CPU.

mod clock;
mod count;
mod json;
mod plot;
mod subject;
mod told;
mod work;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use kmem_trace::Trace;

use crate::cli::{Bench, BenchArgs, BenchConfig, EnginesArgs};
use crate::failure::{Failure, Result};
use crate::replay::load;
use crate::replay::pass::Blocks;
use crate::sys;
use crate::table::Paint;
use clock::{Pace, Stopwatch};
use subject::{Held, NAMES, Subject, Tally};

/// What one engine needed for one row.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    /// Nanoseconds a pair.
    ns: f64,
    /// Instructions a pair.
    instructions: Option<f64>,
    /// The share of allocations that CPUs' stacks served.
    hits: Option<f64>,
}

/// A row of loops.
#[derive(Clone, Debug)]
struct Row {
    name: &'static str,
    /// In the order of [`NAMES`].
    cells: [Cell; 3],
}

/// What one engine needed for a trace.
#[derive(Clone, Debug)]
struct TraceCell {
    /// Nanoseconds a call.
    ns: f64,
    held: Held,
}

/// A trace on all engines.
#[derive(Clone, Debug)]
struct TraceRow {
    /// The file's name, without what follows its last dot.
    name: String,
    about: load::About,
    /// In the order of [`NAMES`].
    cells: [TraceCell; 3],
}

/// All that was found in one configuration.
#[derive(Clone, Debug)]
struct Comparison {
    config: BenchConfig,
    /// How threads owned CPUs where time was taken.
    ownership: &'static str,
    /// And where instructions were counted; nothing: they were not.
    counted_on: Option<String>,
    /// Turns, of which the best counts.
    turns: u32,
    rows: Vec<Row>,
    traces: Vec<TraceRow>,
}

/// Runs the command.
///
/// # Errors
/// A file cannot be read or written or is no whole trace, or a heap did not do what was asked of it.
pub(crate) fn run(args: &BenchArgs) -> Result<u8> {
    match &args.what {
        Bench::Engines(args) => engines(args),
        Bench::Count(args) => count::child(args.config).map(|()| 0),
    }
}

fn engines(args: &EnginesArgs) -> Result<u8> {
    let mut traces = Vec::new();
    for file in &args.trace {
        let bytes = fs::read(file).map_err(|error| bad(file, &error))?;
        let trace = Trace::parse(&bytes).map_err(|error| bad(file, &error))?;
        let work = load::Work::of(&trace).map_err(|error| bad(file, &error))?;
        let name = file.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        traces.push((name, work));
    }
    let configs = match args.config {
        BenchConfig::Both => vec![BenchConfig::Kernel, BenchConfig::User],
        one => vec![one],
    };
    let pace = if args.quick { Pace::QUICK } else { Pace::FULL };
    let paint = Paint::for_terminal(io::stdout().is_terminal());
    let mut all = Vec::new();
    for config in configs {
        let found = compare(config, &traces, pace, args.stand_in.as_deref())?;
        print(&told::text(&found, paint, sys::terminal_columns(1)))?;
        all.push(found);
    }
    if let Some(file) = &args.json {
        fs::write(file, json::of(&all)).map_err(|error| bad(file, &error))?;
    }
    if let Some(directory) = &args.svg {
        plot::draw(directory, &all).map_err(|error| bad(directory, &error))?;
    }
    Ok(0)
}

fn compare(
    config: BenchConfig,
    traces: &[(String, load::Work)],
    pace: Pace,
    stand_in: Option<&Path>,
) -> Result<Comparison> {
    let subjects = subject::three(config).map_err(Failure::input)?;
    let counted = count::counted(config, stand_in)?;
    let mut trace_rows = Vec::new();
    for (name, work) in traces {
        let mut cells = [(); 3].map(|()| TraceCell { ns: f64::INFINITY, held: Held::default() });
        for ((cell, subject), engine) in cells.iter_mut().zip(&subjects).zip(NAMES) {
            cell.held =
                subject.held(work).map_err(|error| Failure::input(format!("{name}: {engine}: {error}")))?;
        }
        trace_rows.push(TraceRow { name: name.clone(), about: work.about(), cells });
    }
    let rows = time(&mut trace_rows, traces, &subjects, pace)?;
    let rows = rows.into_iter().map(|mut row| {
        if let Some(counts) = counted.as_ref().and_then(|counted| counted.counts.get(row.name)) {
            row.cells.iter_mut().zip(counts).for_each(|(cell, count)| cell.instructions = Some(*count));
        }
        row
    });
    let rows = rows.collect();
    Ok(Comparison {
        config,
        ownership: subject::ownership_here().map_err(Failure::input)?,
        counted_on: counted.map(|counted| counted.ownership),
        turns: pace.turns,
        rows,
        traces: trace_rows,
    })
}

/// Everything that is timed. A turn is one piece of each row on each engine, so that the turns of a row are seconds
/// apart: a neighbour that is busy for a while meets few of them.
fn time(
    trace_rows: &mut [TraceRow],
    traces: &[(String, load::Work)],
    subjects: &[Box<dyn Subject>; 3],
    pace: Pace,
) -> Result<Vec<Row>> {
    let before = clock::pin();
    let mut clocks = Vec::new();
    for work in &work::ALL {
        if work.is_threaded() {
            clock::unpin(&before);
        }
        clocks.push(Clocked::new(work, subjects, pace));
        clock::pin();
    }
    for _ in 0..pace.turns {
        for row in &mut clocks {
            if row.work.is_threaded() {
                clock::unpin(&before);
            }
            row.turn(subjects);
            clock::pin();
        }
        for (row, (name, work)) in trace_rows.iter_mut().zip(traces) {
            time_trace(row, work, subjects, pace)
                .map_err(|error| Failure::input(format!("{name}: {error}")))?;
        }
    }
    clock::unpin(&before);
    Ok(clocks.into_iter().map(|row| Row { name: row.work.name, cells: row.cells }).collect())
}

/// A row between two turns.
struct Clocked {
    work: &'static work::Work,
    /// That fill a piece, by engine.
    pairs: [u64; 3],
    cells: [Cell; 3],
    /// Served in all turns so far, by engine.
    served: [Tally; 3],
}

fn run_once(work: &work::Work, subject: &dyn Subject, pairs: u64) -> (u64, Duration) {
    let mut watch = Stopwatch::new();
    (subject.run(work, pairs, &mut watch), watch.time)
}

impl Clocked {
    fn new(work: &'static work::Work, subjects: &[Box<dyn Subject>; 3], pace: Pace) -> Self {
        let least = if work.is_threaded() { pace.pairs_of_two } else { 100 };
        let pairs = subjects
            .each_ref()
            .map(|subject| clock::calibrate(pace.piece, least, |pairs| run_once(work, &**subject, pairs)));
        let cells = [Cell { ns: f64::INFINITY, ..Cell::default() }; 3];
        Self { work, pairs, cells, served: [Tally::default(); 3] }
    }

    fn turn(&mut self, subjects: &[Box<dyn Subject>; 3]) {
        for (engine, subject) in subjects.iter().enumerate() {
            let before = subject.tally();
            let (did, time) = run_once(self.work, &**subject, self.pairs[engine]);
            let cell = &mut self.cells[engine];
            cell.ns = cell.ns.min(time.as_nanos() as f64 / did as f64);
            if let (Some(before), Some(after)) = (before, subject.tally()) {
                let served = &mut self.served[engine];
                served.allocs += after.allocs.saturating_sub(before.allocs);
                served.hits += after.hits.saturating_sub(before.hits);
                cell.hits = served.rate_since(Tally::default());
            }
        }
    }
}

/// One turn of a trace.
fn time_trace(
    row: &mut TraceRow,
    work: &load::Work,
    subjects: &[Box<dyn Subject>; 3],
    pace: Pace,
) -> std::result::Result<(), String> {
    let mut blocks = Blocks::new(work.slots);
    for (cell, subject) in row.cells.iter_mut().zip(subjects) {
        for _ in 0..pace.passes {
            let time = subject.timed(work, &mut blocks)?;
            cell.ns = cell.ns.min(time.as_nanos() as f64 / row.about.calls.max(1) as f64);
        }
    }
    Ok(())
}

fn bad(file: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::input(format!("{}: {error}", file.display()))
}

fn print(text: &str) -> Result<()> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::input(format!("stdout: {error}")))
}

#[cfg(test)]
mod sample {
    use super::*;
    use crate::replay::pass::{Memory, Point};
    use subject::Metadata;

    /// A comparison with round numbers, for tests of what is made of one.
    pub(super) fn comparison() -> Comparison {
        let cell = |ns, instructions, hits| Cell { ns, instructions, hits };
        let held = |factor: u64, hits| Held {
            memory: Memory {
                series: (1..=4)
                    .map(|n| Point { call: 25 * n, live: 1000 * n, held: 4096 * n * factor })
                    .collect(),
                at_peak: Point { call: 100, live: 4000, held: 16_384 * factor },
                at_end: Point { call: 100, live: 4000, held: 16_384 * factor },
                most_held: 16_384 * factor,
                counts: None,
            },
            metadata: Metadata { pages: 264, caches: 2048, arrays: 0, index: 16, headers: 8 },
            hits,
        };
        let about = load::About {
            program: "prog".into(),
            pid: 7,
            calls: 100,
            allocs: 60,
            bytes: 250,
            peak: 4000,
            peak_at: 99,
        };
        Comparison {
            config: BenchConfig::Kernel,
            ownership: "rseq",
            counted_on: Some("portable".into()),
            turns: 5,
            rows: vec![
                Row {
                    name: "object_64",
                    cells: [
                        cell(10.0, Some(100.0), Some(1.0)),
                        cell(12.0, Some(110.0), Some(0.995)),
                        cell(90.0, Some(450.0), None),
                    ],
                },
                Row {
                    name: "pipe_64",
                    cells: [
                        cell(50.0, None, Some(0.5)),
                        cell(25.0, None, Some(0.75)),
                        cell(1200.0, None, None),
                    ],
                },
            ],
            traces: vec![TraceRow {
                name: "prog".into(),
                about,
                cells: [(2, Some(0.9)), (1, Some(0.8)), (1, None)]
                    .map(|(factor, hits)| TraceCell { ns: 20.0 / factor as f64, held: held(factor, hits) }),
            }],
        }
    }
}
