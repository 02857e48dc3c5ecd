//! What is asked of every engine: the loops.
//!
//! A loop is generic over where its blocks come from ([`Supply`]), so that nothing stands between it and an engine's own
//! functions. What must be there before (live blocks, orders, threads) is made outside of what the [`Meter`] sees.
//!
//! # Invariants
//! - I-WORK-1: every block that a loop takes it gives back before it returns, once, to where it came from.
//! - I-WORK-2: what is asked, and in which order, depends on the loop alone: numbers by lot are the same in every run.

use std::hint::{black_box, spin_loop};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Where blocks come from.
pub(super) trait Supply: Sync {
    /// An object of the cache.
    ///
    /// # Panics
    /// When there is no memory. So do all functions here.
    fn take(&self) -> *mut u8;

    /// Gives an object back.
    ///
    /// # Safety
    /// It came from [`Supply::take`], and nobody uses it any more.
    unsafe fn give(&self, object: *mut u8);

    /// A block of kmalloc.
    fn alloc(&self, size: usize) -> *mut u8;

    /// Ends a block.
    ///
    /// # Safety
    /// It came from [`Supply::alloc`], and nobody uses it any more.
    unsafe fn free(&self, block: *mut u8);
}

/// Sees where the part of a loop begins and ends that counts.
pub(super) trait Meter {
    /// Now.
    fn begin(&mut self);
    /// Until now.
    fn end(&mut self);
}

/// In which order a batch goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The oldest first.
    Fifo,
    /// The youngest first.
    Lifo,
    /// By lot.
    Random,
}

/// A loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loop {
    /// An object of a cache, and back at once.
    Object,
    /// A block of kmalloc of this size, and back at once.
    Block(usize),
    /// This many objects, then all of them back.
    Batch(usize, Order),
    /// A random one of this many blocks of 8 to 1024 bytes replaced.
    Living(usize),
    /// One thread takes, another gives back.
    Pipe,
}

/// A row of the comparison.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// As it is printed.
    pub(super) name: &'static str,
    /// The size of the cache's objects, for loops that use it.
    pub(super) size: usize,
    /// What is done.
    pub(super) what: Loop,
}

/// All of them.
pub(super) const ALL: [Work; 13] = [
    Work { name: "object_64", size: 64, what: Loop::Object },
    Work { name: "object_1024", size: 1024, what: Loop::Object },
    Work { name: "kmalloc_16", size: 64, what: Loop::Block(16) },
    Work { name: "kmalloc_64", size: 64, what: Loop::Block(64) },
    Work { name: "kmalloc_1000", size: 64, what: Loop::Block(1000) },
    Work { name: "kmalloc_64k", size: 64, what: Loop::Block(64 << 10) },
    Work { name: "batch_fifo_256", size: 256, what: Loop::Batch(100, Order::Fifo) },
    Work { name: "batch_lifo_256", size: 256, what: Loop::Batch(100, Order::Lifo) },
    Work { name: "batch_rand_256", size: 256, what: Loop::Batch(100, Order::Random) },
    Work { name: "thousand_64", size: 64, what: Loop::Batch(1000, Order::Fifo) },
    Work { name: "thousand_1024", size: 1024, what: Loop::Batch(1000, Order::Fifo) },
    Work { name: "living_2000", size: 64, what: Loop::Living(2000) },
    Work { name: "pipe_64", size: 64, what: Loop::Pipe },
];

/// A quick pseudo-random sequence (xorshift).
struct Random(u64);

impl Random {
    /// Below `bound`, by multiplication: a division would be part of what is timed.
    #[inline]
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * bound as u64) >> 32) as usize
    }
}

/// A user writes to what it takes.
#[inline(always)]
fn touched(block: *mut u8) -> *mut u8 {
    assert!(!block.is_null(), "no memory");
    // SAFETY: a block of at least one byte, which this loop alone knows.
    unsafe { block.write_volatile(1) };
    black_box(block)
}

impl Work {
    /// It needs a second thread.
    pub(super) fn is_threaded(&self) -> bool {
        self.what == Loop::Pipe
    }

    /// Does about `pairs` allocations and as many frees; returns how many.
    #[inline(never)]
    pub(super) fn run<S: Supply>(&self, supply: &S, pairs: u64, meter: &mut dyn Meter) -> u64 {
        match self.what {
            Loop::Object => objects(supply, pairs, meter),
            Loop::Block(size) => blocks(supply, size, pairs, meter),
            Loop::Batch(count, order) => batches(supply, count, order, pairs, meter),
            Loop::Living(count) => living(supply, count, pairs, meter),
            Loop::Pipe => pipe(supply, pairs, meter),
        }
    }
}

fn objects<S: Supply>(supply: &S, pairs: u64, meter: &mut dyn Meter) -> u64 {
    meter.begin();
    for _ in 0..pairs {
        // SAFETY: just taken (I-WORK-1).
        unsafe { supply.give(touched(supply.take())) };
    }
    meter.end();
    pairs
}

fn blocks<S: Supply>(supply: &S, size: usize, pairs: u64, meter: &mut dyn Meter) -> u64 {
    meter.begin();
    for _ in 0..pairs {
        // SAFETY: just made (I-WORK-1).
        unsafe { supply.free(touched(supply.alloc(black_box(size)))) };
    }
    meter.end();
    pairs
}

fn batches<S: Supply>(supply: &S, count: usize, order: Order, pairs: u64, meter: &mut dyn Meter) -> u64 {
    let mut places: Vec<usize> = (0..count).collect();
    match order {
        Order::Fifo => {}
        Order::Lifo => places.reverse(),
        Order::Random => {
            let mut random = Random(7);
            (1..count).rev().for_each(|last| places.swap(last, random.below(last + 1)));
        }
    }
    let mut objects = vec![null_mut(); count];
    let rounds = pairs.div_ceil(count as u64);
    meter.begin();
    for _ in 0..rounds {
        for object in &mut objects {
            *object = touched(supply.take());
        }
        for &place in &places {
            // SAFETY: `places` has every place once, and each was just filled (I-WORK-1).
            unsafe { supply.give(objects[place]) };
        }
    }
    meter.end();
    rounds * count as u64
}

fn living<S: Supply>(supply: &S, count: usize, pairs: u64, meter: &mut dyn Meter) -> u64 {
    const SMALLEST: usize = 8;
    const SPREAD: usize = 1024 - SMALLEST + 1;
    let mut random = Random(11);
    let mut blocks: Vec<*mut u8> =
        (0..count).map(|_| touched(supply.alloc(SMALLEST + random.below(SPREAD)))).collect();
    meter.begin();
    for _ in 0..pairs {
        let block = &mut blocks[random.below(count)];
        // SAFETY: the place's block, which another takes the place of (I-WORK-1).
        unsafe { supply.free(*block) };
        *block = touched(supply.alloc(SMALLEST + random.below(SPREAD)));
    }
    meter.end();
    for block in blocks {
        // SAFETY: what is left, each once.
        unsafe { supply.free(block) };
    }
    pairs
}

/// Waits for `turn` to give something, and lets others run when that takes long.
fn wait<T>(mut turn: impl FnMut() -> Option<T>) -> T {
    const PATIENCE: u32 = 100;
    let mut tries = 0;
    loop {
        if let Some(value) = turn() {
            return value;
        }
        tries += 1;
        if tries < PATIENCE {
            spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

fn pipe<S: Supply>(supply: &S, pairs: u64, meter: &mut dyn Meter) -> u64 {
    const ROOM: usize = 256;
    let ring: Vec<AtomicPtr<u8>> = (0..ROOM).map(|_| AtomicPtr::new(null_mut())).collect();
    let place = |number: u64| &ring[number as usize % ROOM];
    std::thread::scope(|scope| {
        let giver = scope.spawn(|| {
            for number in 0..pairs {
                let object = wait(|| {
                    // Acquire pairs with the Release of who filled the place: its write to the object came before.
                    let object = place(number).load(Ordering::Acquire);
                    (!object.is_null()).then_some(object)
                });
                // Release pairs with the Acquire of who fills it next.
                place(number).store(null_mut(), Ordering::Release);
                // SAFETY: taken by the other thread, which passed it on and forgot it (I-WORK-1).
                unsafe { supply.give(object) };
            }
        });
        meter.begin();
        for number in 0..pairs {
            let object = touched(supply.take());
            // Acquire pairs with the Release of who emptied it.
            wait(|| place(number).load(Ordering::Acquire).is_null().then_some(()));
            // Release pairs with the Acquire of who waits for it.
            place(number).store(object, Ordering::Release);
        }
        giver.join().expect("the giving thread ends");
        meter.end();
    });
    pairs
}

/// Gives the same memory to everybody, for nothing: what a loop costs by itself.
pub(super) struct Nothing(AtomicPtr<u8>);

impl Nothing {
    pub(super) fn new() -> Self {
        Nothing(AtomicPtr::new(Box::leak(Box::new([0u8; 64])).as_mut_ptr()))
    }
}

impl Supply for Nothing {
    #[inline]
    fn take(&self) -> *mut u8 {
        self.0.load(Ordering::Relaxed)
    }
    #[inline]
    unsafe fn give(&self, object: *mut u8) {
        black_box(object);
    }
    #[inline]
    fn alloc(&self, size: usize) -> *mut u8 {
        black_box(size);
        self.0.load(Ordering::Relaxed)
    }
    #[inline]
    unsafe fn free(&self, block: *mut u8) {
        black_box(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::Mutex;

    /// Counts, and checks I-WORK-1.
    #[derive(Default)]
    struct Books {
        out: Mutex<HashSet<usize>>,
        taken: Mutex<Vec<usize>>,
    }

    impl Books {
        fn make(&self, size: usize) -> *mut u8 {
            let block = Box::leak(vec![0u8; size].into_boxed_slice()).as_mut_ptr();
            assert!(self.out.lock().unwrap().insert(block.expose_provenance()));
            self.taken.lock().unwrap().push(size);
            block
        }
        fn end(&self, block: *mut u8) {
            assert!(self.out.lock().unwrap().remove(&block.addr()), "never taken, or given back twice");
        }
    }

    impl Supply for Books {
        fn take(&self) -> *mut u8 {
            self.make(1)
        }
        unsafe fn give(&self, object: *mut u8) {
            self.end(object);
        }
        fn alloc(&self, size: usize) -> *mut u8 {
            self.make(size)
        }
        unsafe fn free(&self, block: *mut u8) {
            self.end(block);
        }
    }

    /// What happened between begin and end.
    struct Seen<'a>(&'a Books, usize, usize);

    impl Meter for Seen<'_> {
        fn begin(&mut self) {
            self.1 = self.0.taken.lock().unwrap().len();
        }
        fn end(&mut self) {
            self.2 = self.0.taken.lock().unwrap().len() - self.1;
        }
    }

    #[test]
    fn every_loop_does_what_it_says_and_keeps_nothing() {
        for work in ALL {
            let books = Books::default();
            let mut seen = Seen(&books, 0, 0);
            let pairs = work.run(&books, 250, &mut seen);
            assert_eq!(seen.2 as u64, pairs, "{}: pairs that the meter saw", work.name);
            assert!(books.out.lock().unwrap().is_empty(), "{} keeps blocks", work.name);
            let taken = books.taken.lock().unwrap();
            match work.what {
                Loop::Living(count) => {
                    assert_eq!((seen.1, pairs), (count, 250));
                    assert!(taken.iter().all(|size| (8..=1024).contains(size)));
                    assert!(taken.iter().any(|&size| size > 1000) && taken.iter().any(|&size| size < 32));
                }
                Loop::Batch(count, _) => assert_eq!(pairs, 250_u64.next_multiple_of(count as u64)),
                Loop::Block(size) => assert!(pairs == 250 && taken.iter().all(|&taken| taken == size)),
                Loop::Object | Loop::Pipe => assert_eq!(pairs, 250),
            }
        }
    }

    #[test]
    fn names_are_different_words() {
        let names: HashSet<&str> = ALL.iter().map(|work| work.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(names.iter().all(|name| !name.contains([' ', '"', '<'])));
    }
}
