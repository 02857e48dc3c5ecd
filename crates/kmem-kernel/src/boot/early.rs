//! Memory before there is a heap, and what is left of it for the heap.
//!
//! # Theory
//! What must exist before the heap (page tables, the CPUs' blocks, the page descriptors) is taken from the top of
//! the highest range of its node, and never given back. What is left goes to the heap in whole blocks of 4 MiB,
//! lowest first; with each block the memory for its descriptors is taken from the top, until the two ends meet.
//!
//! Until the direct map is there ([`mapped`]) only the first 4 GiB can be reached, so only they are taken from.
//!
//! # Invariants
//! - I-EARLY-1: a byte of memory is in one range, or was taken once, or was given to the heap once.
//! - I-EARLY-2: no range crosses 4 GiB.
//!
//! # Locks
//! A [`Spin`]: other CPUs take their interrupt stacks when they start.

use kmem_core::platform::{BLOCK_PAGES, PAGE_SIZE};

use super::acpi::Machine;
use super::paging;
use super::pvh::{Range, Told};
use crate::spin::Spin;

/// Ranges that are kept.
const MAX: usize = 32;
/// Bytes of a block of the heap.
const BLOCK: usize = BLOCK_PAGES * PAGE_SIZE;
/// Below this, memory is reached by its physical address from the first instruction on.
pub(crate) const IDENTITY_END: usize = 1 << 32;

struct Ranges {
    /// What lies beyond can not be taken yet.
    ceiling: usize,
    /// What is left.
    ranges: [(Range, usize); MAX],
    /// What there was.
    all: [(Range, usize); MAX],
    count: usize,
}

const NOTHING: [(Range, usize); MAX] = [(Range { start: 0, end: 0 }, 0); MAX];
static MEMORY: Spin<Ranges> =
    Spin::new(Ranges { ceiling: IDENTITY_END, ranges: NOTHING, all: NOTHING, count: 0 });

unsafe extern "C" {
    static kernel_end: u8;
}

/// Learns what memory there is. The first MiB and the kernel's image are left out.
pub(crate) fn init(told: &Told, machine: &Machine) {
    let floor = (&raw const kernel_end).addr();
    let mut memory = MEMORY.lock();
    for range in told.memory() {
        let range = Range {
            start: range.start.max(floor).next_multiple_of(PAGE_SIZE),
            end: range.end & !(PAGE_SIZE - 1),
        };
        if range.start >= range.end {
            continue;
        }
        machine.split(range, |range, node| {
            // I-EARLY-2.
            let middle = range.end.min(IDENTITY_END).max(range.start);
            for part in [Range { start: range.start, end: middle }, Range { start: middle, end: range.end }] {
                if part.start < part.end && memory.count < MAX {
                    let count = memory.count;
                    memory.ranges[count] = (part, node);
                    memory.all[count] = (part, node);
                    memory.count += 1;
                }
            }
        });
    }
}

/// The node of a physical address that is memory, as the firmware has it.
pub(crate) fn node_of(address: usize) -> Option<usize> {
    let memory = MEMORY.lock();
    let mut all = memory.all[..memory.count].iter();
    all.find(|(range, _)| range.start <= address && address < range.end).map(|&(_, node)| node)
}

/// Bytes that there were.
pub(crate) fn all_bytes() -> usize {
    let memory = MEMORY.lock();
    memory.all[..memory.count].iter().map(|(range, _)| range.end - range.start).sum()
}

/// Bytes that are left.
pub(crate) fn bytes() -> usize {
    let memory = MEMORY.lock();
    memory.ranges[..memory.count].iter().map(|(range, _)| range.end - range.start).sum()
}

/// The end of the highest memory.
pub(crate) fn top() -> usize {
    let memory = MEMORY.lock();
    memory.ranges[..memory.count].iter().map(|(range, _)| range.end).max().unwrap_or(0)
}

/// Calls `visit` with each range that is left and its node.
pub(crate) fn for_each(mut visit: impl FnMut(Range, usize)) {
    for i in 0.. {
        let memory = MEMORY.lock();
        if i >= memory.count {
            return;
        }
        let (range, node) = memory.ranges[i];
        drop(memory);
        visit(range, node);
    }
}

/// The direct map is there: from now on memory beyond 4 GiB is taken as well.
pub(crate) fn mapped() {
    MEMORY.lock().ceiling = usize::MAX;
}

/// `bytes` of zero memory, aligned to `align`, of `node` if it can be; `None`: none left. For ever.
pub(crate) fn take(bytes: usize, align: usize, node: usize) -> Option<*mut u8> {
    take_below(usize::MAX, bytes, align, node).map(paging::reach)
}

/// As [`take`], but all of it ends at `limit` or before, and it is the physical address.
pub(crate) fn take_below(limit: usize, bytes: usize, align: usize, node: usize) -> Option<usize> {
    let found = {
        let mut memory = MEMORY.lock();
        let (count, limit) = (memory.count, limit.min(memory.ceiling));
        let place = |(range, _): &(Range, usize)| {
            let start = range.end.checked_sub(bytes)? & !(align - 1);
            (start >= range.start && range.end <= limit).then_some(start)
        };
        let ranges = &mut memory.ranges[..count];
        let best = (0..count)
            .filter_map(|i| place(&ranges[i]).map(|start| (ranges[i].1 == node, start, i)))
            // Its own node first, then the highest address.
            .max()?;
        let (_, start, i) = best;
        ranges[i].0.end = start;
        start
    };
    // SAFETY: I-EARLY-1: it left the range just now; it is memory, and mapped where it is reached.
    unsafe { paging::clear(paging::reach(found), bytes) };
    Some(found)
}

/// The physical address and the node of the lowest whole block that is left; it leaves the ranges.
pub(crate) fn take_block() -> Option<(usize, usize)> {
    let mut memory = MEMORY.lock();
    let count = memory.count;
    for (range, node) in &mut memory.ranges[..count] {
        let start = range.start.next_multiple_of(BLOCK);
        if start + BLOCK <= range.end {
            range.start = start + BLOCK;
            return Some((start, *node));
        }
    }
    None
}
