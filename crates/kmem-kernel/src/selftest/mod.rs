//! The kernel's tests of itself: one line each, `test NAME ok` or `test NAME FAILED: why`.
//!
//! | group | what it shows |
//! |---|---|
//! | [`basic`] | sizes, alignment, zones, nodes, collections, caches, running out of memory |
//! | [`pieces`] | the operations on CPU stacks, interrupted after every single instruction |
//! | [`interrupts`] | a timer whose handler allocates and frees while the interrupted code does |
//! | [`cpus`] | calls between CPUs, blocks freed on another CPU, stacks taken away, CPUs that leave and come back |
//! | [`stress`] | all CPUs at once, every byte checked |
//! | [`damage`] | wrong writes are reported, where the command line asks for checks |
//! | `conformance` | the suite that every engine passes on every platform (where it was built in) |
//!
//! After each test the whole heap is checked: page lists, slabs, and that nothing is in use that was not before.

mod basic;
#[cfg(feature = "conformance")]
mod conformance;
mod cpus;
mod damage;
mod interrupts;
mod pieces;
mod stress;

use alloc::string::String;
use core::sync::atomic::{AtomicU64, Ordering};

use kmem_core::cache::CacheRef;
use kmem_core::gfp::Gfp;

use crate::cpu::interrupts_on;
use crate::cpu::serial::println;
use crate::cpu::time;
use crate::heap;
use crate::smp::{self, hotplug};

/// What a test says when something is wrong.
type Outcome = Result<(), String>;

/// One test.
struct Test {
    name: &'static str,
    run: fn() -> Outcome,
    /// Fewest CPUs that it needs.
    cpus: usize,
    /// It needs an engine with CPU stacks.
    stacks: bool,
}

/// Fails the test with a message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            return Err($crate::selftest::line(format_args!($($message)*)));
        }
    };
}
use ensure;

/// A message. It is on the heap: when that is broken, a panic tells so instead.
fn line(message: core::fmt::Arguments<'_>) -> String {
    alloc::fmt::format(message)
}

/// Operations of a CPU in the stress test.
static STRESS: AtomicU64 = AtomicU64::new(0);

/// Runs all tests, or those whose names contain `only`. True when all passed.
pub(crate) fn run(only: Option<&str>, stress: u64) -> bool {
    STRESS.store(stress, Ordering::Relaxed);
    let (mut passed, mut failed) = (0, 0);
    let damage = if damage::asked() { damage::TESTS } else { &[] };
    for group in [basic::TESTS, pieces::TESTS, interrupts::TESTS, cpus::TESTS, stress::TESTS, damage] {
        for test in group.iter().filter(|test| only.is_none_or(|only| test.name.contains(only))) {
            if smp::online() < test.cpus || test.stacks && !heap::HAS_STACKS {
                println!(
                    "test {} skipped: it needs {} CPUs or an engine with CPU stacks",
                    test.name, test.cpus
                );
                continue;
            }
            if run_one(test) { passed += 1 } else { failed += 1 }
        }
    }
    #[cfg(feature = "conformance")]
    if only.is_none_or(|only| only == "conformance") {
        if conformance::run() { passed += 1 } else { failed += 1 }
    }
    println!("tests: {passed} passed, {failed} failed");
    failed == 0 && passed > 0
}

fn run_one(test: &Test) -> bool {
    let before = in_use();
    let start = time::nanoseconds();
    let outcome = (test.run)().and_then(|()| check_heap(before));
    let ms = (time::nanoseconds() - start) / 1_000_000;
    match &outcome {
        Ok(()) => println!("test {} ok ({ms} ms)", test.name),
        Err(why) => println!("test {} FAILED: {}", test.name, why),
    }
    outcome.is_ok()
}

/// Objects in use, apart from the heap's own.
fn in_use() -> u64 {
    let mut total = 0;
    heap::with(|heap| {
        heap.for_each_cache(|cache| {
            if !own(cache.name()) {
                // SAFETY: the cache is in the list, which stands still.
                total += unsafe { heap.counts(CacheRef::new(cache)) }.in_use();
            }
        });
    });
    total
}

/// Caches of the heap's own structures: arrays of stacks come and go as it likes.
fn own(name: &str) -> bool {
    name.starts_with("sheaf-") || name.starts_with("kmem_cache")
}

/// The whole heap: interrupts as they should be, pages, slabs, nothing lost.
fn check_heap(before: u64) -> Outcome {
    ensure!(interrupts_on(), "interrupts are off");
    let held = (0..smp::count()).find(|&number| smp::block(number).heap_locks() > 0);
    ensure!(held.is_none(), "CPU {held:?} holds a lock of the heap");
    let mut fault = None;
    heap::with(|heap| {
        heap.for_each_cache(|cache| {
            // SAFETY: the cache is in the list, which stands still.
            if let Err(found) = unsafe { heap.validate_cache(CacheRef::new(cache)) } {
                fault = Some(line(format_args!("cache {}: {found:?}", cache.name())));
            }
        });
    });
    if let Some(fault) = fault {
        return Err(fault);
    }
    if let Err(fault) = heap::with(|heap| heap.pages().validate(heap.platform())) {
        return Err(line(format_args!("pages: {fault:?}")));
    }
    let after = in_use();
    ensure!(after == before, "{before} objects in use before, {after} after");
    Ok(())
}

/// Random numbers that a test can repeat.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> usize {
        (self.next() % limit) as usize
    }
}

/// A block whose bytes tell whose it is.
#[derive(Clone, Copy)]
struct Marked {
    block: *mut u8,
    len: usize,
}

impl Marked {
    /// A block filled with bytes that follow from its address; `None`: no memory.
    fn new(len: usize, gfp: Gfp) -> Option<Self> {
        let block = heap::kmalloc(len, gfp);
        if block.is_null() {
            return None;
        }
        let marked = Self { block, len };
        // SAFETY: the block has so many bytes and is this function's.
        unsafe { block.write_bytes(marked.byte(), len) };
        Some(marked)
    }

    fn byte(self) -> u8 {
        let x = (self.block.addr() as u64 ^ self.len as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (x >> 56) as u8
    }

    /// Whether every byte is still there; the block is freed.
    fn check_and_free(self) -> bool {
        // SAFETY: the block has so many bytes.
        let bytes = unsafe { core::slice::from_raw_parts(self.block, self.len) };
        let whole = bytes.iter().all(|&byte| byte == self.byte());
        // SAFETY: the holder gives it up.
        unsafe { heap::kfree(self.block) };
        whole
    }
}

/// Runs `work` on all CPUs.
fn everywhere(work: fn()) {
    hotplug::everywhere(work);
}
