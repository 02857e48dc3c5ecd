//! One walk over the operations: checked, with memory sampled, or against the clock.

use std::ptr::null_mut;
use std::time::{Duration, Instant};

use super::heaps::{Counts, Heap};
use super::load::{Kind, Op, Work};

/// Points of the series, about.
const POINTS: usize = 200;
/// Looks at the heap between two points, to find the most it held.
const LOOKS: usize = 10;
/// Bytes that are written at each end of a block.
const EDGE: usize = 8;
/// Zeroed blocks are looked at to the last byte up to this size; larger ones at both ends, half as far each.
const ZEROES: usize = 64 << 10;

/// The blocks of a pass, by slot.
pub(crate) struct Blocks(Vec<Block>);

#[derive(Clone, Copy)]
struct Block {
    ptr: *mut u8,
    size: usize,
    /// What its edges are made of.
    seed: u64,
}

impl Blocks {
    /// Room for the blocks of this many slots.
    pub(crate) fn new(slots: usize) -> Self {
        Blocks(vec![Block { ptr: null_mut(), size: 0, seed: 0 }; slots])
    }
}

/// Memory after some call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Point {
    /// Calls so far.
    pub(crate) call: u64,
    /// Bytes that the program had asked for and not freed.
    pub(crate) live: u64,
    /// Bytes that the heap held.
    pub(crate) held: u64,
}

/// What a checked pass saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// About 200 points, evenly spread over the calls, the last at the end.
    pub(crate) series: Vec<Point>,
    /// When the most bytes were alive.
    pub(crate) at_peak: Point,
    /// At the end of the trace.
    pub(crate) at_end: Point,
    /// The most bytes that were seen held.
    pub(crate) most_held: u64,
    /// What the heap counted until the end.
    pub(crate) counts: Option<Counts>,
}

fn refused(call: usize, op: &Op) -> String {
    format!("call {call}: no memory for {} bytes", op.size)
}

#[inline]
fn perform<H: Heap>(heap: &H, op: &Op, old: *mut u8) -> *mut u8 {
    let size = op.size as usize;
    match op.kind {
        Kind::Alloc => heap.alloc(size),
        Kind::Zeroed => heap.zeroed(size),
        Kind::Aligned => heap.aligned(1 << op.shift, size),
        Kind::Free => {
            // SAFETY: the slot's block, which ends here: `Work` has every block end once.
            unsafe { heap.free(old) };
            null_mut()
        }
        // SAFETY: the slot's block, which the answer takes the place of.
        Kind::Resize => unsafe { heap.resize(old, size.max(1)) },
    }
}

/// Frees what the program never did.
fn sweep<H: Heap>(heap: &H, blocks: &mut Blocks) {
    for block in &mut blocks.0 {
        if !block.ptr.is_null() {
            // SAFETY: a live block, which nobody knows any more.
            unsafe { heap.free(block.ptr) };
            block.ptr = null_mut();
        }
    }
}

/// All calls against the clock; a byte of each block is written.
///
/// # Errors
/// The heap refused a call.
pub(crate) fn timed<H: Heap>(heap: &H, work: &Work, blocks: &mut Blocks) -> Result<Duration, String> {
    let start = Instant::now();
    let mut failed = None;
    for (call, op) in work.ops.iter().enumerate() {
        let block = &mut blocks.0[op.slot as usize];
        let ptr = perform(heap, op, block.ptr);
        if op.kind != Kind::Free {
            if ptr.is_null() {
                failed = Some(refused(call, op));
                break;
            }
            if op.size > 0 {
                // SAFETY: a block of at least one byte.
                unsafe { ptr.write_volatile(op.slot as u8) };
            }
        }
        block.ptr = ptr;
    }
    let time = start.elapsed();
    sweep(heap, blocks);
    failed.map_or(Ok(time), Err)
}

/// All calls with every block checked, and a look at the memory between them.
///
/// # Errors
/// The heap refused a call, or gave what was not asked for.
pub(crate) fn checked<H: Heap>(heap: &H, work: &Work, blocks: &mut Blocks) -> Result<Memory, String> {
    let result = checked_calls(heap, work, blocks);
    sweep(heap, blocks);
    result
}

fn checked_calls<H: Heap>(heap: &H, work: &Work, blocks: &mut Blocks) -> Result<Memory, String> {
    let mut memory = Memory::default();
    memory.series.reserve(POINTS + 2);
    let step = work.ops.len().div_ceil(POINTS * LOOKS).max(1);
    let mut live = 0u64;
    for (call, op) in work.ops.iter().enumerate() {
        let block = &mut blocks.0[op.slot as usize];
        let old = *block;
        let wrong = |what: &str| format!("call {call} ({:?} of {} bytes): {what}", op.kind, op.size);
        if !old.ptr.is_null() {
            old.check(old.size).map_err(wrong)?;
            live -= old.size as u64;
        }
        let ptr = perform(heap, op, old.ptr);
        let size = op.size as usize;
        if op.kind == Kind::Free {
            block.ptr = null_mut();
        } else {
            if ptr.is_null() {
                return Err(refused(call, op));
            }
            let align = if op.kind == Kind::Aligned { 1 << op.shift } else { H::ALIGN };
            *block = Block { ptr, size, seed: (call as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) };
            live += op.size;
            if !ptr.addr().is_multiple_of(align) {
                return Err(wrong("its block is not aligned"));
            }
            match op.kind {
                Kind::Resize => {
                    Block { ptr, ..old }
                        .check(old.size.min(size))
                        .map_err(|_| wrong("it lost the content"))?;
                }
                Kind::Zeroed if !block.is_zero() => return Err(wrong("its block is not zero")),
                _ => {}
            }
            block.mark();
        }
        let is_peak = call == work.peak_at;
        if is_peak || (call + 1) % step == 0 || call + 1 == work.ops.len() {
            let point = Point { call: call as u64 + 1, live, held: heap.held() };
            memory.most_held = memory.most_held.max(point.held);
            if is_peak {
                memory.at_peak = point;
                heap.at_peak();
            }
            if (call + 1) % (step * LOOKS) == 0 || call + 1 == work.ops.len() {
                memory.series.push(point);
            }
            memory.at_end = point;
        }
    }
    memory.counts = heap.counts();
    Ok(memory)
}

impl Block {
    fn bytes(&self) -> [u8; EDGE] {
        self.seed.to_le_bytes()
    }

    /// Writes to both ends.
    fn mark(&self) {
        let head = self.size.min(EDGE);
        // SAFETY: within the block, which is the pass's own.
        unsafe {
            self.ptr.copy_from_nonoverlapping(self.bytes().as_ptr(), head);
            if self.size >= 2 * EDGE {
                self.ptr.add(self.size - EDGE).copy_from_nonoverlapping(self.bytes().as_ptr(), EDGE);
            }
        }
    }

    /// Whether what was written is still there, as far as the first `valid` bytes hold it.
    fn check(&self, valid: usize) -> Result<(), &'static str> {
        let expected = self.bytes();
        // SAFETY: within the block: its first `valid` bytes are at most its size.
        let edge = |at: usize, len: usize| unsafe { std::slice::from_raw_parts(self.ptr.add(at), len) };
        let head = valid.min(EDGE);
        if edge(0, head) != &expected[..head] {
            return Err("the beginning of the block was overwritten");
        }
        if self.size >= 2 * EDGE && valid == self.size && edge(self.size - EDGE, EDGE) != expected {
            return Err("the end of the block was overwritten");
        }
        Ok(())
    }

    fn is_zero(&self) -> bool {
        let parts = if self.size <= ZEROES {
            [(0, self.size), (0, 0)]
        } else {
            [(0, ZEROES / 2), (self.size - ZEROES / 2, ZEROES / 2)]
        };
        parts.iter().all(|&(at, len)| {
            // SAFETY: within the block.
            unsafe { std::slice::from_raw_parts(self.ptr.add(at), len) }.iter().all(|byte| *byte == 0)
        })
    }
}

#[cfg(test)]
#[path = "pass_tests.rs"]
mod tests;
