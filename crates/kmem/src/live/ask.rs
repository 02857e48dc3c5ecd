//! What a running heap is asked to do: `DIR/PID.ask`, one line, `N COMMAND`.
//!
//! ```text
//! table                    nothing but a fresh table
//! letters TEXT             other debug letters, in the grammar of KMEM_DEBUG: for the caches that TEXT speaks of, and for
//!                          those that are made later (kmem_core::debug::options::joined)
//! validate                 all checked caches are looked through
//! traces                   who holds memory: DIR/PID.traces/CACHE/alloc_traces, free_traces
//! leaks [lost|all|in-use]  what no pointer leads to any more, by who allocated it
//! shrink                   empty slabs and free pages go back to the system
//! on-error abort|warn      what happens after a report from now on
//! ```
//!
//! The file is taken away, the command done, a fresh table written, and then there is `DIR/PID.answer.N`: `ok`, or `error: ` and why, and
//! below it what there is to say. A file of another user than this process or root says nothing, and stays.

use core::fmt::{self, Write};

use kmem_core::debug::OnError;

use super::{DIRECTORY, letters, path, publish};
use crate::debugging::leaks::{self, Show};
use crate::debugging::traces;
use crate::heap::Heap;
use crate::host::file::{self, Output};

/// The longest question.
const LINE_BYTES: usize = 2048;

/// Does what is asked, if anything is, and answers.
pub(super) fn answer(heap: &Heap, process: u32) -> bool {
    let mut line = [0; LINE_BYTES];
    let Some(ask) = path(process, "ask") else { return false };
    let Some(line) = file::read_own(ask.as_str(), &mut line) else { return false };
    file::remove(ask.as_str());
    let text = core::str::from_utf8(line).unwrap_or_default();
    let text = text.lines().next().unwrap_or_default();
    let (number, command) = text.split_once(' ').unwrap_or((text, ""));
    let Ok(number) = number.parse::<u64>() else { return false };
    let told = path(process, "told");
    let place = DIRECTORY.below(format_args!("/{process}.answer.{number}"));
    let (Some(told), Some(place)) = (told, place) else { return false };
    let Some(mut out) = Output::create(told.as_str()) else { return false };
    // What cannot be written is noticed when the file is finished.
    let _ = obey(heap, process, command.trim(), &mut out);
    publish(process);
    if out.finish() {
        file::rename(told.as_str(), place.as_str());
    } else {
        file::remove(told.as_str());
    }
    true
}

/// Does one command, and writes the answer.
fn obey(heap: &Heap, process: u32, command: &str, out: &mut Output) -> fmt::Result {
    let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
    match (verb, rest.trim()) {
        ("table", "") => ok(out),
        ("letters", text) => letters::change(heap, text, out),
        ("validate", "") => {
            let found = heap.validate_all();
            ok(out)?;
            writeln!(
                out,
                "{} slabs and {} mappings looked at, {} errors",
                found.slabs, found.mappings, found.errors
            )
        }
        ("traces", "") => {
            let below = |rest: fmt::Arguments<'_>| DIRECTORY.below(format_args!("/{process}.traces{rest}"));
            let Some(place) = below(format_args!("")) else {
                return refuse(out, format_args!("the path is too long"));
            };
            traces::write_below(heap, &below);
            ok(out)?;
            writeln!(out, "{}", place.as_str().trim_end_matches('\0'))
        }
        ("leaks", what) => {
            let show = match what {
                "" | "lost" => Show::Lost,
                "all" => Show::All,
                "in-use" => Show::InUse,
                _ => return refuse(out, format_args!("leaks: lost, all or in-use, not '{what}'")),
            };
            ok(out)?;
            if leaks::write_to(heap, show, out) { Ok(()) } else { writeln!(out, "no leaks") }
        }
        ("shrink", "") => {
            let pages = heap.trim(0);
            ok(out)?;
            writeln!(out, "{pages} pages given back")
        }
        ("on-error", "abort") => {
            heap.debug().set_on_error(OnError::Abort);
            ok(out)
        }
        ("on-error", "warn") => {
            heap.debug().set_on_error(OnError::Warn);
            ok(out)
        }
        _ => refuse(out, format_args!("not a command: '{command}'")),
    }
}

pub(super) fn ok(out: &mut Output) -> fmt::Result {
    writeln!(out, "ok")
}

pub(super) fn refuse(out: &mut Output, why: fmt::Arguments<'_>) -> fmt::Result {
    writeln!(out, "error: {why}")
}
