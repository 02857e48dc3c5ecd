//! Names of code: from an address to a function, and to a file and a line.
//!
//! # Theory
//! ```text
//! function+0xoffset/0xsize [library] file:line [inlined function file:line]
//! ```
//! is how a place in code is shown: what a kernel prints, and behind it what a kernel's scripts add. Offset and size are
//! those of the function in the symbol table; the library is named where it is not the program itself; the line is
//! that of the call; then come the functions inlined there, from the outside in. Nothing is shown of what is not known.
//! Where there is no name it is `file+0xoffset`, as `addr2line` and `kmem symbolize` take it, or a plain number.
//!
//! | file | decides |
//! |---|---|
//! | [`place`] | which file an address lies in, and where in it |
//! | [`helper`] | the process that reads debug information for us: `kmem symbolize` |
//! | [`elf`] | where there is none: names from the file's own symbol table |
//!
//! # Invariants
//! - I-NAMES-1: buffers and the helper are used under [`Turn`], by one thread at a time.
//! - I-NAMES-2: who interrupts his own turn (a signal handler) does without: the address is shown by file and offset.
//!
//! # Never
//! Nothing here allocates, or changes `errno`. Nobody waits for longer than [`PATIENCE`]. It works with locks of the
//! heap held, in signal handlers and after a fork.

mod elf;
mod helper;
mod place;
mod turn;

use core::cell::UnsafeCell;
use core::fmt::{self, Write};

use place::Place;
use turn::Turn;

pub(super) use helper::after_fork_child;
pub(crate) use helper::set_helper;

/// How long a turn, or an answer, is waited for, in nanoseconds of the coarse clock. Debug information of a large program takes
/// a second or two to read.
const PATIENCE: u64 = 6_000_000_000;

const PATH_BYTES: usize = 4096;

/// What a lookup works in. Not on the stack: a signal handler's may be small.
struct Buffers {
    path: [u8; PATH_BYTES],
    text: [u8; PATH_BYTES],
}

struct Shared(UnsafeCell<Buffers>);

// SAFETY: I-NAMES-1.
unsafe impl Sync for Shared {}

static BUFFERS: Shared = Shared(UnsafeCell::new(Buffers { path: [0; PATH_BYTES], text: [0; PATH_BYTES] }));

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// The function.
    Name,
    /// The line too.
    Line,
}

/// Writes what the code before a return address is called.
pub(super) fn write(address: usize, detail: Detail, out: &mut dyn Write) -> fmt::Result {
    let Some(_turn) = Turn::take() else { return write!(out, "{address:#x}") };
    // SAFETY: this thread has the turn (I-NAMES-1).
    let buffers = unsafe { &mut *BUFFERS.0.get() };
    // A return address may be the first byte behind its function: the call lies before it.
    let Some(place) = Place::find(address.wrapping_sub(1), &mut buffers.path, &mut buffers.text) else {
        return write!(out, "{address:#x}");
    };
    let offset = place.offset + 1;
    if let Some(fields) = helper::ask(place.path, offset, &mut buffers.text) {
        return from_helper(&place, offset, fields, detail, out);
    }
    match elf::symbol(place.path, place.offset as u64, &mut buffers.text) {
        Some(symbol) => {
            let into = offset as u64 - symbol.start;
            write!(out, "{}+{into:#x}/{:#x}", symbol.name, symbol.size)?;
            library(&place, out)
        }
        None => write!(out, "{}+{offset:#x}", place.file()),
    }
}

/// Writes where a return address lies: the offset in its file, as [`write()`] asks for its name, and the file. Nobody else is
/// asked for anything.
pub(crate) fn write_place(address: usize, out: &mut dyn Write) -> fmt::Result {
    let Some(_turn) = Turn::take() else { return write!(out, "{address:#x} ?") };
    // SAFETY: this thread has the turn (I-NAMES-1).
    let buffers = unsafe { &mut *BUFFERS.0.get() };
    match Place::find(address.wrapping_sub(1), &mut buffers.path, &mut buffers.text) {
        Some(place) => {
            write!(
                out,
                "{:#x} {}",
                place.offset + 1,
                core::str::from_utf8(place.path.to_bytes()).unwrap_or("?")
            )
        }
        None => write!(out, "{address:#x} ?"),
    }
}

/// Writes a frame's line.
pub(crate) fn write_line(address: usize, out: &mut dyn Write) -> fmt::Result {
    write(address, Detail::Line, out)
}

fn from_helper(
    place: &Place<'_>,
    offset: usize,
    fields: &str,
    detail: Detail,
    out: &mut dyn Write,
) -> fmt::Result {
    let mut fields = fields.split('\t');
    match fields.next().filter(|symbol| !symbol.is_empty()) {
        Some(symbol) => {
            out.write_str(symbol)?;
            library(place, out)?;
        }
        None => write!(out, "{}+{offset:#x}", place.file())?,
    }
    if detail == Detail::Name {
        return Ok(());
    }
    if let Some(line) = fields.next() {
        write!(out, " {line}")?;
    }
    for inlined in fields {
        write!(out, " [inlined {inlined}]")?;
    }
    Ok(())
}

fn library(place: &Place<'_>, out: &mut dyn Write) -> fmt::Result {
    if place.is_program { Ok(()) } else { write!(out, " [{}]", place.file()) }
}
