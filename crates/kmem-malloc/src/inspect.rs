//! Statistics and tuning: `mallinfo2`, `malloc_info`, `malloc_stats`, `malloc_trim`, `mallopt`.
//!
//! Programs read these numbers to watch their own growth, so each field means what it means in the C
//! library, translated to a heap of slabs and pages:
//!
//! | field | here |
//! |---|---|
//! | `arena` | bytes of slab and page memory held from the system |
//! | `uordblks` | bytes of it inside live blocks |
//! | `fordblks` | the rest: `arena - uordblks` |
//! | `keepcost` | bytes a `malloc_trim(0)` could return now |
//! | `hblks`, `hblkhd` | live mappings of their own: number and bytes |
//! | `ordblks` | 1 when there is free memory; a slab's free objects are not chunks |
//! | `smblks`, `usmblks`, `fsmblks` | 0: no counterpart |
//!
//! `mallopt` accepts what the C library accepts. The heap decides by itself what those settings are
//! about, so none changes anything: a program tuned for another allocator must not fail here.

use core::fmt::{self, Write};

use kmem::heap::{self, HeapStats};
use libc::{c_int, mallinfo as Mallinfo, mallinfo2 as Mallinfo2, size_t};

use crate::text::{FdWriter, StreamWriter};

/// `mallopt`'s limit of small blocks that stay apart from the rest. The C library's value of the name.
const M_MXFAST: c_int = 1;
/// The largest value the C library takes for [`M_MXFAST`].
const MAX_FAST: c_int = 160;

fn fields(stats: &HeapStats) -> Mallinfo2 {
    let free = stats.held.saturating_sub(stats.in_use);
    Mallinfo2 {
        arena: stats.held,
        ordblks: usize::from(free > 0),
        smblks: 0,
        hblks: stats.n_huge,
        hblkhd: stats.mapped_huge,
        usmblks: 0,
        fsmblks: 0,
        uordblks: stats.in_use,
        fordblks: free,
        keepcost: stats.free_held,
    }
}

/// How the heap stands now. Other threads may change it while it is read.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo2() -> Mallinfo2 {
    fields(&heap::stats())
}

/// [`mallinfo2`] cut down to `int`: each field keeps its lower 32 bits, as in the C library.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo() -> Mallinfo {
    let now = fields(&heap::stats());
    Mallinfo {
        arena: now.arena as c_int,
        ordblks: now.ordblks as c_int,
        smblks: now.smblks as c_int,
        hblks: now.hblks as c_int,
        hblkhd: now.hblkhd as c_int,
        usmblks: now.usmblks as c_int,
        fsmblks: now.fsmblks as c_int,
        uordblks: now.uordblks as c_int,
        fordblks: now.fordblks as c_int,
        keepcost: now.keepcost as c_int,
    }
}

fn write_xml(out: &mut dyn Write, stats: &HeapStats) -> fmt::Result {
    let now = fields(stats);
    let totals = |out: &mut dyn Write| -> fmt::Result {
        writeln!(out, "<total type=\"fast\" count=\"0\" size=\"0\"/>")?;
        writeln!(out, "<total type=\"rest\" count=\"{}\" size=\"{}\"/>", now.ordblks, now.fordblks)
    };
    let sizes = |out: &mut dyn Write| -> fmt::Result {
        writeln!(out, "<system type=\"current\" size=\"{}\"/>", now.arena)?;
        writeln!(out, "<system type=\"max\" size=\"{}\"/>", stats.peak.max(now.arena))?;
        writeln!(out, "<aspace type=\"total\" size=\"{}\"/>", now.arena)?;
        writeln!(out, "<aspace type=\"mprotect\" size=\"{}\"/>", now.arena)
    };
    writeln!(out, "<malloc version=\"1\">\n<heap nr=\"0\">\n<sizes>\n</sizes>")?;
    totals(out)?;
    sizes(out)?;
    writeln!(out, "</heap>")?;
    totals(out)?;
    writeln!(out, "<total type=\"mmap\" count=\"{}\" size=\"{}\"/>", now.hblks, now.hblkhd)?;
    sizes(out)?;
    writeln!(out, "</malloc>")
}

/// Writes the state of the heap to a stream, in the C library's XML frame: one heap, totals, system
/// sizes. Returns 0, or `EINVAL` when `options` is not 0.
///
/// # Safety
/// `stream` is a stream open for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_info(options: c_int, stream: *mut libc::FILE) -> c_int {
    if options != 0 {
        return libc::EINVAL;
    }
    // One reading for the whole text: the stream's own buffer may be allocated while we write.
    let stats = heap::stats();
    // SAFETY: the caller's stream is open.
    let mut out = unsafe { StreamWriter::new(stream) };
    // A stream that takes no more keeps its own error mark, which is where the caller looks for it.
    let _ = write_xml(&mut out, &stats);
    0
}

fn write_stats(out: &mut dyn Write, stats: &HeapStats) -> fmt::Result {
    writeln!(out, "Arena 0:")?;
    writeln!(out, "system bytes     = {:>10}", stats.held)?;
    writeln!(out, "in use bytes     = {:>10}", stats.in_use)?;
    writeln!(out, "Total (incl. mmap):")?;
    writeln!(out, "system bytes     = {:>10}", stats.held + stats.mapped_huge)?;
    writeln!(out, "in use bytes     = {:>10}", stats.in_use + stats.mapped_huge)?;
    writeln!(out, "max mmap regions = {:>10}", stats.n_huge)?;
    writeln!(out, "max mmap bytes   = {:>10}", stats.mapped_huge)
}

/// Prints bytes held and bytes in use on the standard error descriptor.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_stats() {
    let mut out = FdWriter::new(libc::STDERR_FILENO);
    let _ = write_stats(&mut out, &heap::stats());
    out.flush();
}

/// Returns free memory to the system, keeping about `keep` bytes of it. 1 when any went back, else 0.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_trim(keep: size_t) -> c_int {
    c_int::from(heap::trim(keep))
}

/// Accepts every tuning parameter and changes nothing. 1, or 0 for an `M_MXFAST` outside 0..=160,
/// which is the only value the C library itself refuses.
#[unsafe(no_mangle)]
pub extern "C" fn mallopt(name: c_int, value: c_int) -> c_int {
    c_int::from(name != M_MXFAST || (0..=MAX_FAST).contains(&value))
}
