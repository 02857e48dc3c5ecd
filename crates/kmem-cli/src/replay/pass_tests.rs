//! Tests of the passes: on the C library's heap, and on heaps that do not do what they are asked.

use std::cell::Cell;

use super::*;
use crate::replay::heaps::System;
use crate::replay::load::tests::file;
use kmem_trace::Trace;

/// What a bad heap does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Dirty,
    Crooked,
    Overlapping,
    Forgetful,
    Refusing,
}

/// The C library's heap with a fault.
struct Bad {
    system: System,
    fault: Fault,
    last: Cell<*mut u8>,
    live: Cell<i64>,
}

impl Bad {
    fn new(fault: Fault) -> Self {
        Bad { system: System::new(), fault, last: Cell::new(null_mut()), live: Cell::new(0) }
    }

    fn made(&self, ptr: *mut u8) -> *mut u8 {
        self.live.set(self.live.get() + 1);
        self.last.set(ptr);
        ptr
    }
}

impl Heap for Bad {
    const ALIGN: usize = 16;

    fn alloc(&self, size: usize) -> *mut u8 {
        match self.fault {
            Fault::Refusing if size == 77 => null_mut(),
            // The block made before, once more; it is freed once only, see `free`.
            Fault::Overlapping if size == 77 => self.last.get(),
            // With room for the larger block that will be said to be there.
            _ => self.made(self.system.alloc(size + 100)),
        }
    }

    fn zeroed(&self, size: usize) -> *mut u8 {
        let ptr = self.made(self.system.zeroed(size));
        if self.fault == Fault::Dirty && size > 5 {
            // SAFETY: within the block.
            unsafe { ptr.add(size - 1).write(1) };
        }
        ptr
    }

    fn aligned(&self, align: usize, size: usize) -> *mut u8 {
        if self.fault == Fault::Crooked {
            return self.made(self.system.aligned(2 * align, size + align)).wrapping_add(align / 2);
        }
        self.made(self.system.aligned(align, size))
    }

    unsafe fn free(&self, ptr: *mut u8) {
        if matches!(self.fault, Fault::Crooked | Fault::Overlapping) {
            return; // leaked: its address may not be the block's, or not the block's alone
        }
        self.live.set(self.live.get() - 1);
        // SAFETY: the caller's promise.
        unsafe { self.system.free(ptr) }
    }

    unsafe fn resize(&self, ptr: *mut u8, size: usize) -> *mut u8 {
        if self.fault == Fault::Forgetful {
            // SAFETY: the caller's promise.
            unsafe { self.system.free(ptr) };
            return self.system.zeroed(size);
        }
        // SAFETY: the caller's promise.
        unsafe { self.system.resize(ptr, size) }
    }

    fn held(&self) -> u64 {
        self.live.get() as u64
    }

    fn counts(&self) -> Option<Counts> {
        None
    }
}

fn sample() -> Work {
    let bytes = file(11, |encoder, put| {
        put(encoder.alloc(40)); // 0
        put(encoder.alloc(77)); // 1
        put(encoder.zeroed(200_000)); // 2
        put(encoder.aligned(8, 3)); // 3
        put(encoder.resize(0, 5000)); // 4
        put(encoder.resize(4, 7)); // 5
        put(encoder.free(1));
        put(encoder.free(2));
        put(encoder.free(5));
        put(encoder.alloc(0)); // 6
        put(encoder.alloc(9)); // 7, never freed
    });
    Work::of(&Trace::parse(&bytes).unwrap()).unwrap()
}

fn outcome(fault: Fault) -> Result<Memory, String> {
    let work = sample();
    checked(&Bad::new(fault), &work, &mut Blocks::new(work.slots))
}

#[test]
fn a_good_heap_passes_and_is_left_empty() {
    let work = sample();
    let heap = Bad::new(Fault::None);
    let mut blocks = Blocks::new(work.slots);
    let memory = checked(&heap, &work, &mut blocks).unwrap();
    assert_eq!(heap.live.get(), 0, "what the program never freed is freed at the end");
    let point = |call, live, held| Point { call, live, held };
    assert_eq!(memory.at_peak, point(5, 5000 + 77 + 200_000 + 3, 4));
    assert_eq!(memory.at_end, point(11, 3 + 9, 3));
    assert_eq!(memory.most_held, 4);
    assert_eq!(memory.series.len(), 2, "{:?}", memory.series);
    timed(&heap, &work, &mut blocks).unwrap();
    assert_eq!(heap.live.get(), 0);
}

#[test]
fn every_fault_is_noticed() {
    for (fault, expected) in [
        (Fault::Dirty, "call 2 (Zeroed of 200000 bytes): its block is not zero"),
        (Fault::Crooked, "call 3 (Aligned of 3 bytes): its block is not aligned"),
        (Fault::Overlapping, "call 4 (Resize of 5000 bytes): the beginning of the block was overwritten"),
        (Fault::Forgetful, "call 4 (Resize of 5000 bytes): it lost the content"),
        (Fault::Refusing, "call 1: no memory for 77 bytes"),
    ] {
        assert_eq!(outcome(fault).unwrap_err(), expected, "{fault:?}");
    }
    let work = sample();
    let refused = timed(&Bad::new(Fault::Refusing), &work, &mut Blocks::new(work.slots));
    assert_eq!(refused.unwrap_err(), "call 1: no memory for 77 bytes");
}

#[test]
fn the_last_byte_of_a_block_is_checked() {
    let heap = Bad::new(Fault::None);
    let block = Block { ptr: heap.alloc(100), size: 100, seed: u64::MAX };
    block.mark();
    assert_eq!(block.check(100), Ok(()));
    // SAFETY: the last byte of the block.
    unsafe { block.ptr.add(99).write(0) };
    assert_eq!(block.check(100), Err("the end of the block was overwritten"));
    assert_eq!(block.check(99), Ok(()), "of a block that shrank only its beginning is left");
    // SAFETY: nobody uses it any more.
    unsafe { heap.free(block.ptr) };
}

#[test]
fn a_long_trace_has_two_hundred_points() {
    let bytes = file(10_001, |encoder, put| {
        (0..5_000).for_each(|_| put(encoder.alloc(16)));
        (0..5_000).for_each(|block| put(encoder.free(block)));
        put(encoder.alloc(1));
    });
    let work = Work::of(&Trace::parse(&bytes).unwrap()).unwrap();
    let memory = checked(&Bad::new(Fault::None), &work, &mut Blocks::new(work.slots)).unwrap();
    assert!((150..=201).contains(&memory.series.len()), "{}", memory.series.len());
    assert!(memory.series.windows(2).all(|pair| pair[0].call < pair[1].call));
    assert_eq!(memory.series.last().unwrap().call, 10_001);
    assert_eq!(memory.most_held, 5_000);
}
