//! `kmem replay`: what a recorded program asked of malloc, asked of a heap of ours.
//!
//! # How
//! The trace is read and checked once ([`load`]), so that a pass is a walk over an array. A heap is whatever
//! implements [`heaps::Heap`]; the passes ([`pass`]) are generic over it, so that nothing stands between them and its
//! functions. What is told is computed from the passes ([`told`]); `--info` needs the trace alone ([`info`]).
//!
//! # Order
//! All of it happens in one thread, in the order of the trace: the heap's behaviour is then the same in every run, and what
//! differs between heaps is theirs.

pub(crate) mod heaps;
mod info;
pub(crate) mod load;
pub(crate) mod pass;
mod told;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use kmem_trace::Trace;

use crate::cli::{ReplayArgs, Replayed};
use crate::failure::{Failure, Result};
use crate::sys;
use crate::table::Paint;
use heaps::{Heap, Program, System};
use load::Work;
use pass::Memory;
use told::Told;

/// Runs the command.
///
/// # Errors
/// The file is no whole trace, there is no such engine, or the heap did not do what was asked of it.
pub(crate) fn run(args: &ReplayArgs) -> Result<u8> {
    let bytes = fs::read(&args.file).map_err(|error| bad(&args.file, &error))?;
    let trace = Trace::parse(&bytes).map_err(|error| bad(&args.file, &error))?;
    if args.info {
        let info = info::Info::of(&trace).map_err(|error| bad(&args.file, &error))?;
        let paint = Paint::for_terminal(io::stdout().is_terminal());
        return print(&if args.json { info.json() } else { info.text(paint, sys::terminal_columns(1)) });
    }
    let work = Work::of(&trace).map_err(|error| bad(&args.file, &error))?;
    let name = match args.engine {
        Replayed::Slub => "slub",
        Replayed::Slab => "slab",
        Replayed::Slob => "slob",
        Replayed::Kmem => "kmem",
        Replayed::System => "system",
    };
    let told = match args.engine {
        Replayed::Slub => heaps::slub().and_then(|heap| replay(&heap, args, &work)),
        Replayed::Slab => heaps::slab().and_then(|heap| replay(&heap, args, &work)),
        Replayed::Slob => heaps::slob().and_then(|heap| replay(&heap, args, &work)),
        Replayed::Kmem => replay(&Program, args, &work),
        Replayed::System => replay(&System::new(), args, &work),
    };
    let (memory, times) = told.map_err(|error| Failure::input(format!("{name}: {error}")))?;
    let told = Told { engine: name.to_owned(), work: work.about(), memory, times };
    print(&if args.json { told.json() } else { told.text() })
}

/// What the checked pass saw, and how long the timed ones took.
type Passes = (Memory, Vec<Duration>);

/// All passes on one heap.
fn replay<H: Heap>(heap: &H, args: &ReplayArgs, work: &Work) -> std::result::Result<Passes, String> {
    let mut blocks = pass::Blocks::new(work.slots);
    let memory = pass::checked(heap, work, &mut blocks)?;
    let mut times = Vec::new();
    for _ in 0..args.repeat {
        times.push(pass::timed(heap, work, &mut blocks)?);
    }
    Ok((memory, times))
}

fn bad(file: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::input(format!("{}: {error}", file.display()))
}

fn print(text: &str) -> Result<u8> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::input(format!("stdout: {error}")))?;
    Ok(0)
}
