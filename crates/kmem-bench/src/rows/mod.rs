//! What is measured. A row is a name, a unit and a function that returns one number.
//!
//! All rows write to each block they get: an allocator that touches a block's memory early must not look
//! slower than one that leaves the cache miss to the user.

mod crew;
pub(crate) mod floor;
mod large;
mod memory;
mod small;
mod tail;
mod threads;
pub(crate) mod typed;

use libc::c_void;

/// What a row's number means. Smaller is better in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Nanoseconds,
    Microseconds,
    Mebibytes,
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "us",
            Self::Mebibytes => "MiB",
        }
    }
}

/// One row.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) unit: Unit,
    /// Part of `--quick`.
    pub(crate) quick: bool,
    /// `--quick` fails when kmem is not faster than the system's malloc here.
    pub(crate) gate: bool,
    pub(crate) work: Work,
}

/// Who does a row's work.
pub(crate) enum Work {
    /// The driver, through malloc.
    Malloc(fn() -> f64),
    /// The driver: malloc, for kmem a typed cache linked in, and the least that one could do.
    Typed { malloc: fn() -> f64, cache: fn() -> f64, floor: fn() -> f64 },
    /// A small program of the system's, started by the parent with the allocator preloaded: time in microseconds.
    StartTime,
    /// The same program's peak resident size in MiB.
    StartSize,
    /// The program of `--objects`, which has the work.
    Object,
}

const fn row(name: &'static str, what: &'static str, work: fn() -> f64) -> Row {
    Row { name, what, unit: Unit::Nanoseconds, quick: false, gate: false, work: Work::Malloc(work) }
}

const fn gated(row: Row) -> Row {
    Row { quick: true, gate: true, ..row }
}

const fn quick(row: Row) -> Row {
    Row { quick: true, ..row }
}

const fn typed(
    name: &'static str,
    what: &'static str,
    malloc: fn() -> f64,
    cache: fn() -> f64,
    floor: fn() -> f64,
) -> Row {
    let work = Work::Typed { malloc, cache, floor };
    Row { name, what, unit: Unit::Nanoseconds, quick: true, gate: false, work }
}

const fn sized(row: Row) -> Row {
    Row { unit: Unit::Mebibytes, ..row }
}

const PAIR: &str = "malloc, write, free: one block at a time";
const FIFO: &str = "1000 mallocs, then 1000 frees in the same order";
const LIFO: &str = "1000 mallocs, then 1000 frees in opposite order";
const RAND: &str = "1000 mallocs, then 1000 frees in random order";
const LARGE: &str = "malloc, write one byte, free";
const TOUCH: &str = "malloc, write each page, free";

const MANY: &str = "1000 blocks of 8 to 1024 bytes a thread, random ones replaced; by all threads together";
const TAIL: &str = "two threads: the time of a single malloc or free that so many do not exceed";

/// The group on which the floors are right.
pub(crate) const FLOORED: &str = "small";

/// All rows, in the order of the table: groups, whose geometric means are told apart.
pub(crate) static GROUPS: &[(&str, &[Row])] = &[
    (FLOORED, SMALL),
    ("large", LARGER),
    ("threads", THREADS),
    ("tail", TAILS),
    ("memory", MEMORY),
    ("start", START),
];

/// Blocks up to 1 KiB on one thread.
static SMALL: &[Row] = &[
    gated(row("pair_16", PAIR, small::pair::<16>)),
    gated(row("pair_64", PAIR, small::pair::<64>)),
    gated(row("pair_256", PAIR, small::pair::<256>)),
    gated(row("pair_1024", PAIR, small::pair::<1024>)),
    gated(typed(
        "typed_pair_64",
        "Cache<T>::alloc and drop, beside malloc and free",
        small::pair::<64>,
        typed::pair,
        floor::pair,
    )),
    typed(
        "typed_sheaf_64",
        "the same of a Sheaf that the thread keeps",
        small::pair::<64>,
        typed::sheaf_pair,
        floor::pair,
    ),
    typed(
        "typed_rand_64",
        "1000 of Cache<T>, dropped in random order",
        small::batch_rand::<64>,
        typed::batch_rand,
        floor::batch_rand,
    ),
    row("batch_fifo_16", FIFO, small::batch_fifo::<16>),
    row("batch_lifo_16", LIFO, small::batch_lifo::<16>),
    row("batch_rand_16", RAND, small::batch_rand::<16>),
    row("batch_fifo_64", FIFO, small::batch_fifo::<64>),
    row("batch_lifo_64", LIFO, small::batch_lifo::<64>),
    quick(row("batch_rand_64", RAND, small::batch_rand::<64>)),
    row("batch_fifo_256", FIFO, small::batch_fifo::<256>),
    row("batch_lifo_256", LIFO, small::batch_lifo::<256>),
    row("batch_rand_256", RAND, small::batch_rand::<256>),
    row("batch_fifo_1024", FIFO, small::batch_fifo::<1024>),
    row("batch_lifo_1024", LIFO, small::batch_lifo::<1024>),
    row("batch_rand_1024", RAND, small::batch_rand::<1024>),
    quick(row("ws_10k", "replace a random one of 10,000 blocks of 8 to 1024 bytes", small::working_set)),
    row("calloc_64", "calloc, write, free", small::zeroed::<64>),
    row("calloc_1024", "calloc, write, free", small::zeroed::<1024>),
    row("calloc_batch_64", "1000 callocs, then 1000 frees", small::zeroed_batch::<64>),
    row("aligned_64", "aligned_alloc of 64 bytes at a multiple of 64, free", small::aligned::<64, 64>),
    row("aligned_256", "aligned_alloc of 512 bytes at a multiple of 256, free", small::aligned::<256, 512>),
];

/// Reallocation, large and huge blocks.
static LARGER: &[Row] = &[
    row("calloc_256k", "calloc, write, free", small::zeroed::<{ 256 << 10 }>),
    row(
        "realloc_x2_64k",
        "realloc from 16 bytes, doubling to 64 KiB, per call",
        small::doubling::<{ 64 << 10 }>,
    ),
    row("realloc_inc_4k", "realloc by 16 bytes more to 4 KiB, per call", small::growing),
    row(
        "realloc_x2_64m",
        "realloc from 16 bytes, doubling to 64 MiB, all written, per call",
        large::doubling,
    ),
    row("aligned_4k", "aligned_alloc of a page at a page, free", small::aligned::<4096, 4096>),
    row(
        "aligned_64k",
        "aligned_alloc of 64 KiB at a multiple of 16 KiB, free",
        small::aligned::<{ 16 << 10 }, { 64 << 10 }>,
    ),
    row("large_64k", LARGE, large::pair::<{ 64 << 10 }>),
    row("large_touch_64k", TOUCH, large::touched::<{ 64 << 10 }>),
    row("large_256k", LARGE, large::pair::<{ 256 << 10 }>),
    row("large_touch_256k", TOUCH, large::touched::<{ 256 << 10 }>),
    row("large_1m", LARGE, large::pair::<{ 1 << 20 }>),
    row("large_touch_1m", TOUCH, large::touched::<{ 1 << 20 }>),
    row("large_4m", LARGE, large::pair::<{ 4 << 20 }>),
    row("large_touch_4m", TOUCH, large::touched::<{ 4 << 20 }>),
    row(
        "large_ws",
        "replace a random one of 64 blocks of 16 KiB to 2 MiB, first page written",
        large::working_set,
    ),
];

/// Several threads.
static THREADS: &[Row] = &[
    row("pc_64", "one thread allocates 64 bytes, another frees", threads::pass::<64, 64>),
    row("pc_mix", "one thread allocates 16 to 1024 bytes, another frees", threads::pass::<16, 1024>),
    row("pc_bidir_64", "two threads, each frees what the other allocates", threads::exchange),
    row("mt2_pair_64", "pairs of 64 bytes on two threads at once; by both together", crew::pairs::<2>),
    row("mt2_ws", MANY, crew::working_sets::<2>),
    row("mt4_ws", MANY, crew::working_sets::<4>),
    row("mt8_ws", MANY, crew::working_sets::<8>),
    row("mt16_ws", MANY, crew::working_sets::<16>),
    row("mt32_ws", MANY, crew::working_sets::<32>),
    row("mt64_ws", MANY, crew::working_sets::<64>),
    row("mt64_pair_64", "pairs of 64 bytes on 64 threads; by all together", crew::pairs::<64>),
    row("sessions", "4 threads replace blocks, and take over another's every 5000 times", crew::sessions),
    row(
        "meeting",
        "4 threads put blocks into 1000 shared places and free what was there",
        crew::meeting_places,
    ),
    row("parcels", "4 threads queue parcels of 100 blocks and free the oldest, per block", crew::parcels),
    row("scratch", "2 threads write 100 times to a block of 8 bytes of their own, per block", crew::scratch),
    row("thread_churn", "a thread made, 100 blocks of which half outlive it, joined", threads::churn),
];

/// Single calls.
static TAILS: &[Row] = &[
    row("tail_p50", TAIL, tail::quantile::<500>),
    row("tail_p99", TAIL, tail::quantile::<990>),
    row("tail_p999", TAIL, tail::quantile::<999>),
    row("tail_max", TAIL, tail::quantile::<1000>),
];

/// What growing costs, and what is resident.
static MEMORY: &[Row] = &[
    row(
        "grow_64",
        "a heap that grows to 64 MiB of blocks of 64 bytes, all written, per block",
        memory::growing::<64, 64>,
    ),
    row("grow_1024", "the same of blocks of 1024 bytes", memory::growing::<1024, 64>),
    row("grow_256m", "the same to 256 MiB", memory::growing::<1024, 256>),
    sized(row("build_peak", "peak with 1,000,000 blocks of 64 bytes live (61 MiB asked for)", memory::peak)),
    sized(row("build_after", "resident after all of them are freed", memory::after)),
    sized(row("build_later", "resident one second and some small work after that", memory::later)),
    sized(row("build_2s", "resident two idle seconds after that", memory::quiet)),
    sized(row(
        "ebb_2s",
        "200,000 blocks of 16 to 1024 bytes, the newest tenth stays (10 MiB): resident two seconds later",
        memory::ebb,
    )),
    sized(row("holes_2s", "the same, and a random tenth stays", memory::holes)),
];

/// Programs that are hardly there.
static START: &[Row] = &[
    Row {
        unit: Unit::Microseconds,
        work: Work::StartTime,
        ..row("start_time", "start of a trivial program", || 0.0)
    },
    Row { work: Work::StartSize, ..sized(row("start_peak", "peak of a trivial program", || 0.0)) },
];

/// Rows of the program of `--objects`, which has the work of each under the same name.
pub(crate) static OBJECTS: [(&str, &[Row]); 1] = [("objects", OBJECT)];

static OBJECT: &[Row] = &[
    object("object_pair", "an object of 64 bytes made and dropped"),
    object("object_lifo", "1000 objects made, dropped in opposite order"),
    object("object_rand", "1000 objects made, dropped in random order"),
    object("object_mt2", "object_rand on two threads at once, where it can be shared"),
];

const fn object(name: &'static str, what: &'static str) -> Row {
    Row { work: Work::Object, ..row(name, what, || 0.0) }
}

/// All rows, those of `--objects` too.
pub(crate) fn all() -> impl Iterator<Item = &'static Row> {
    GROUPS.iter().chain(&OBJECTS).flat_map(|(_, rows)| rows.iter())
}

/// A block of `size` bytes whose first byte is written.
#[inline]
fn take(size: usize) -> *mut u8 {
    // SAFETY: malloc takes any size; the block is checked and at least one byte long.
    unsafe {
        let block = std::hint::black_box(libc::malloc(size)).cast::<u8>();
        assert!(!block.is_null(), "out of memory");
        block.write_volatile(1);
        block
    }
}

/// # Safety
/// `block` came from malloc, is not freed, and is not used again.
#[inline]
unsafe fn give(block: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { libc::free(block.cast::<c_void>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_gated_rows_are_quick() {
        for (at, row) in all().enumerate() {
            assert!(all().skip(at + 1).all(|other| other.name != row.name), "{}", row.name);
            assert!(row.quick || !row.gate, "{}", row.name);
        }
    }
}
