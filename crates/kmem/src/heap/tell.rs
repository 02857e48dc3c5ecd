//! What the process-wide heap tells of itself: numbers, the table of slabs, and the report that a process leaves.

use core::fmt::{self, Write};

use kmem_core::guard::Stats;

use super::{HARDENED, cpus, heap, made};
use crate::host::{Ownership, misc};

/// What the heap holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapStats {
    /// Blocks in the program's hands, rounded up to their classes, without mappings of their own.
    pub in_use: usize,
    /// Pages taken for slabs and large blocks, and free pages that the system still backs.
    pub held: usize,
    /// Mappings of their own.
    pub mapped_huge: usize,
    /// Number of those.
    pub n_huge: usize,
    /// Free pages that the system still backs.
    pub free_held: usize,
    /// The most page bytes in use at one time.
    pub peak: usize,
}

/// What the heap holds. All zero before it is made.
pub fn stats() -> HeapStats {
    let Some(heap) = made() else { return HeapStats::default() };
    let totals = heap.totals();
    HeapStats {
        in_use: (totals.objects_bytes + totals.large_bytes) as usize,
        held: (totals.page_bytes + totals.resident_free_bytes) as usize,
        mapped_huge: totals.huge_bytes as usize,
        n_huge: totals.huge_blocks as usize,
        free_held: totals.resident_free_bytes as usize,
        peak: totals.peak_page_bytes as usize,
    }
}

/// How CPUs are owned, in one word.
pub fn ownership() -> &'static str {
    match cpus().ownership() {
        Ownership::Rseq => "rseq",
        Ownership::Portable => "portable",
    }
}

/// Writes `/proc/slabinfo` of this heap.
pub fn write_slabinfo(out: &mut dyn Write) -> fmt::Result {
    match heap() {
        Some(heap) => heap.write_slabinfo(out),
        None => Err(fmt::Error),
    }
}

/// Writes the report that `kmem run` reads.
pub fn write_report(out: &mut dyn Write) -> fmt::Result {
    write_report_with(out, |_| Ok(()))
}

/// [`write_report`], with further records before its end.
pub(crate) fn write_report_with(
    out: &mut dyn Write,
    more: impl Fn(&mut dyn Write) -> fmt::Result,
) -> fmt::Result {
    let Some(heap) = heap() else { return Err(fmt::Error) };
    writeln!(out, "kmem-report 1")?;
    // SAFETY: getpid has no requirements.
    write!(out, "process {} ", unsafe { libc::getpid() })?;
    misc::write_name(out)?;
    writeln!(out)?;
    if HARDENED {
        writeln!(out, "build hardened")?;
    }
    let layer = cpus();
    let cpus = if layer.indexed() > 0 { layer.indexed() } else { layer.count() };
    heap.write_report(out, cpus, ownership())?;
    let guard = heap.guard();
    if guard.is_on() {
        let Stats { placed, live, bugs, unsuitable, full, covered, .. } = guard.stats();
        writeln!(out, "guard {placed} {live} {} {bugs}", unsuitable + full + covered)?;
    }
    more(out)?;
    writeln!(out, "end")
}
