//! The transaction word of a CPU slab: (first free object, number), next to the number of the slab it belongs to.
//!
//! Specifies `engine/slub/cpu.rs` (`take_one`, `take_all`, `give`, `set_slab`) and how the slow paths of `alloc.rs` and
//! `maintain.rs` use them (`deactivate`, `adopt`, `publish`, `walk`). All threads of a scenario work on the word
//! of one CPU: some were migrated away in the middle, others came.
//!
//! # Invariants checked
//! - I-CSLAB-1: objects that hang on the word belong to the CPU slab, and those that a slow path takes from it
//!   belong to the slab it takes away. So an object given while `slab` was seen unchanged belongs to that slab.
//! - I-CSLAB-3: only holders of `inner` take objects from the word, so the slab whose links they read stays in the heap.
//! - No object is lost and none is handed out twice. Links are checked cells: nobody reads one that another may write.
//!
//! # What is left out
//! The number wraps after 2^26 changes in the code and never here: a thread would have to sleep between load
//! and compare-and-swap through exactly that many. A slab's own list is a plain list under a lock, and a slab that is empty
//! when its CPU lets it go leaves the heap at once: `slab_word` is about both.

use std::rc::Rc;

use loom::cell::Cell;
use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use loom::sync::{Mutex, MutexGuard};
use loom::thread;

use crate::check;

/// Mistakes that a scenario must find.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// The slab is taken away after its objects instead of before.
    TakeThenClear,
    /// `give` compares the slab before it reads the word instead of after.
    CompareThenRead,
    /// Taking nothing changes nothing: the number is raised only when objects hung on the word.
    QuietTake,
    /// The number is not raised.
    NoNumber,
    /// The fast path takes an object without the lock.
    TakeWithoutLock,
    /// `give` may see the word of after the change of slabs together with the slab of before.
    RelaxedRead,
    /// The compare-and-swap publishes nothing.
    RelaxedSwap,
}

const OBJECTS: usize = 2;
/// What a user's data looks like where a link was.
const DATA: usize = 0xdada;
const HEAD_BITS: u32 = 16;
const HEAD_MASK: u64 = (1 << HEAD_BITS) - 1;
const STEP: u64 = 1 << HEAD_BITS;

/// Slab 1 has objects 1 to `OBJECTS`, slab 2 the following. 0 is none, of both.
fn slab_of(object: usize) -> usize {
    (object - 1) / OBJECTS + 1
}

/// One CPU's state and the memory of the objects.
struct Cpu {
    bug: Bug,
    transaction: AtomicU64,
    slab: AtomicUsize,
    inner: Mutex<()>,
    /// The memory of the objects: a link while one is free.
    links: Vec<Cell<usize>>,
    held: Vec<Cell<bool>>,
    /// Free objects on the slabs' own lists.
    lists: Mutex<Vec<usize>>,
    /// Slabs that left the heap, with their memory.
    gone: Vec<Cell<bool>>,
}

impl Cpu {
    /// A CPU whose slab is 1; `free` hang on its word, the other objects of slab 1 are with users, those of slab 2 on its list.
    fn new(bug: Bug, free: &[usize]) -> Self {
        let cpu = Self {
            bug,
            transaction: AtomicU64::new(0),
            slab: AtomicUsize::new(1),
            inner: Mutex::new(()),
            links: (0..=2 * OBJECTS).map(|_| Cell::new(0)).collect(),
            held: (0..=2 * OBJECTS).map(|object| Cell::new((1..=OBJECTS).contains(&object))).collect(),
            lists: Mutex::new((OBJECTS + 1..=2 * OBJECTS).collect()),
            gone: (0..=2).map(|_| Cell::new(false)).collect(),
        };
        free.iter().for_each(|&object| cpu.free(object));
        cpu
    }

    fn link(&self, object: usize) -> usize {
        assert!(!self.gone[slab_of(object)].get(), "memory is read that left the heap");
        self.links[object].get()
    }

    fn set_link(&self, object: usize, next: usize) {
        self.links[object].set(next);
    }

    fn next(&self, word: u64, head: usize) -> u64 {
        let step = if self.bug == Bug::NoNumber { 0 } else { STEP };
        ((word & !HEAD_MASK) + step) | head as u64
    }

    fn replace(&self, old: u64, new: u64) -> bool {
        let success = if self.bug == Bug::RelaxedSwap { Ordering::Relaxed } else { Ordering::AcqRel };
        self.transaction.compare_exchange(old, new, success, Ordering::Relaxed).is_ok()
    }

    fn take_one(&self) -> usize {
        loop {
            let word = self.transaction.load(Ordering::Acquire);
            let object = (word & HEAD_MASK) as usize;
            if object == 0 {
                return 0;
            }
            let next = self.link(object);
            if self.replace(word, self.next(word, next)) {
                return object;
            }
        }
    }

    fn take_all(&self) -> usize {
        loop {
            let word = self.transaction.load(Ordering::Acquire);
            if self.bug == Bug::QuietTake && word & HEAD_MASK == 0 {
                return 0;
            }
            if self.replace(word, self.next(word, 0)) {
                return (word & HEAD_MASK) as usize;
            }
        }
    }

    fn give(&self, slab: usize, head: usize, tail: usize) -> bool {
        let read = if self.bug == Bug::RelaxedRead { Ordering::Relaxed } else { Ordering::Acquire };
        loop {
            let early = self.slab.load(Ordering::Acquire);
            let word = self.transaction.load(read);
            let seen =
                if self.bug == Bug::CompareThenRead { early } else { self.slab.load(Ordering::Acquire) };
            if seen != slab {
                return false;
            }
            self.set_link(tail, (word & HEAD_MASK) as usize);
            if self.replace(word, self.next(word, head)) {
                return true;
            }
        }
    }

    fn set_slab(&self, slab: usize) {
        self.slab.store(slab, Ordering::Release);
    }

    // The callers.

    fn hand_out(&self, object: usize) -> usize {
        assert!(!self.held[object].replace(true), "an object is handed out twice");
        // The user's data.
        self.set_link(object, DATA);
        object
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.inner.lock().unwrap()
    }

    /// The short path of an allocation; 0 when there is nothing.
    fn alloc(&self) -> usize {
        let _inner = (self.bug != Bug::TakeWithoutLock).then(|| self.lock());
        match self.take_one() {
            0 => 0,
            object => self.hand_out(object),
        }
    }

    fn free(&self, object: usize) {
        assert!(self.held[object].replace(false));
        let slab = slab_of(object);
        if !(self.slab.load(Ordering::Acquire) == slab && self.give(slab, object, object)) {
            self.lists.lock().unwrap().push(object);
        }
    }

    /// A chain that a slow path took: it owns the objects, and they belong to its slab.
    fn chain(&self, slab: usize, head: usize) -> Vec<usize> {
        let mut chain = Vec::new();
        let mut object = head;
        while object != 0 {
            assert_ne!(object, DATA, "a chain leads into a user's data");
            assert_eq!(slab_of(object), slab, "I-CSLAB-1: an object of another slab hangs on the word");
            assert!(!self.held[object].get(), "a user holds an object of the chain");
            assert!(chain.len() < OBJECTS, "a chain has no end");
            chain.push(object);
            object = self.link(object);
        }
        chain
    }

    /// Puts a slab in place with the free objects of its list.
    fn adopt(&self, slab: usize) {
        let mut lists = self.lists.lock().unwrap();
        let free: Vec<_> = lists.iter().copied().filter(|&object| slab_of(object) == slab).collect();
        lists.retain(|&object| slab_of(object) != slab);
        drop(lists);
        self.set_slab(slab);
        for pair in free.windows(2) {
            self.set_link(pair[0], pair[1]);
        }
        if let (Some(&head), Some(&tail)) = (free.first(), free.last()) {
            assert!(self.give(slab, head, tail), "the slab changes under the lock");
        }
    }

    /// Takes the CPU slab away and puts another in its place, if that is still there.
    fn change(&self, slab: usize) {
        let _inner = self.lock();
        let old = self.slab.load(Ordering::Acquire);
        let chain = if self.bug == Bug::TakeThenClear {
            let chain = self.take_all();
            self.set_slab(0);
            chain
        } else {
            self.set_slab(0);
            self.take_all()
        };
        let free = self.chain(old, chain);
        {
            let mut lists = self.lists.lock().unwrap();
            lists.extend(free);
            if slab != old && lists.iter().filter(|&&object| slab_of(object) == old).count() == OBJECTS {
                lists.retain(|&object| slab_of(object) != old);
                self.gone[old].set(true);
            }
        }
        if !self.gone[slab].get() {
            self.adopt(slab);
        }
    }

    /// A refill that wants one object: takes all and hangs the rest on the word again.
    fn refill(&self) -> usize {
        let _inner = self.lock();
        let slab = self.slab.load(Ordering::Acquire);
        let free = self.chain(slab, self.take_all());
        let Some((&object, rest)) = free.split_first() else { return 0 };
        if let (Some(&head), Some(&tail)) = (rest.first(), rest.last()) {
            assert!(self.give(slab, head, tail), "the slab changes under the lock");
        }
        self.hand_out(object)
    }

    /// Looks for every object. Nobody else runs.
    fn validate(&self) {
        let slab = self.slab.load(Ordering::Acquire);
        let word = self.transaction.load(Ordering::Acquire);
        let hanging = self.chain(slab, (word & HEAD_MASK) as usize);
        let lists = self.lists.lock().unwrap();
        for object in 1..=2 * OBJECTS {
            let places = usize::from(self.held[object].get())
                + hanging.iter().chain(lists.iter()).filter(|&&free| free == object).count();
            let gone = self.gone[slab_of(object)].get();
            assert_eq!(places, usize::from(!gone), "object {object} is in {places} places");
        }
    }
}

/// Runs each piece on a thread of its own, the first on this one, and looks at what is left.
fn run(bug: Bug, free: &[usize], pieces: &[fn(&Cpu)]) {
    let cpu = Rc::new(Cpu::new(bug, free));
    let spawn = |&piece: &fn(&Cpu)| {
        let cpu = cpu.clone();
        thread::spawn(move || piece(&cpu))
    };
    let others: Vec<_> = pieces[1..].iter().map(spawn).collect();
    pieces[0](&cpu);
    others.into_iter().for_each(|other| other.join().unwrap());
    cpu.validate();
}

fn alloc(cpu: &Cpu) {
    cpu.alloc();
}

/// Takes two and gives the first back: the head is the same again, what hangs on it is not.
fn alloc_two_free_one(cpu: &Cpu) {
    let first = cpu.alloc();
    cpu.alloc();
    if first != 0 {
        cpu.free(first);
    }
}

fn alloc_and_free(cpu: &Cpu) {
    let object = cpu.alloc();
    if object != 0 {
        cpu.free(object);
    }
}

#[test]
fn allocations_meet() {
    check(3, || run(Bug::None, &[2, 1], &[alloc, alloc_two_free_one]));
    check(2, || run(Bug::None, &[2, 1], &[alloc, alloc_and_free, alloc_and_free]));
}

#[test]
fn frees_meet_a_change_of_slabs() {
    check(4, || run(Bug::None, &[1], &[|cpu| cpu.change(2), |cpu| cpu.free(2)]));
    check(2, || run(Bug::None, &[], &[|cpu| cpu.change(2), |cpu| cpu.free(1), |cpu| cpu.free(2)]));
}

#[test]
fn allocations_meet_a_change_of_slabs() {
    check(4, || run(Bug::None, &[1], &[|cpu| cpu.change(2), alloc_and_free]));
    check(2, || run(Bug::None, &[1], &[|cpu| cpu.change(2), alloc_and_free, |cpu| cpu.free(2)]));
}

#[test]
fn the_slab_comes_back() {
    let back = |cpu: &Cpu| {
        cpu.change(2);
        cpu.change(1);
    };
    check(3, move || run(Bug::None, &[1], &[back, |cpu| cpu.free(2)]));
    check(2, move || run(Bug::None, &[1], &[back, |cpu| cpu.free(2), alloc]));
}

#[test]
fn a_refill_meets_the_fast_paths() {
    let refill = |cpu: &Cpu| _ = cpu.refill();
    check(3, move || run(Bug::None, &[2, 1], &[refill, alloc_and_free]));
    check(2, move || run(Bug::None, &[1], &[refill, alloc_and_free, |cpu| cpu.free(2)]));
}

#[test]
#[should_panic(expected = "I-CSLAB-1")]
fn finds_objects_taken_before_the_slab() {
    check(2, || run(Bug::TakeThenClear, &[], &[|cpu| cpu.change(2), |cpu| cpu.free(1)]));
}

#[test]
#[should_panic(expected = "I-CSLAB-1")]
fn finds_a_slab_compared_too_early() {
    check(2, || run(Bug::CompareThenRead, &[], &[|cpu| cpu.change(2), |cpu| cpu.free(1)]));
}

#[test]
#[should_panic(expected = "I-CSLAB-1")]
fn finds_an_unnoticed_take() {
    check(2, || run(Bug::QuietTake, &[], &[|cpu| cpu.change(2), |cpu| cpu.free(1)]));
}

#[test]
#[should_panic(expected = "I-CSLAB-1")]
fn finds_a_word_read_without_order() {
    check(2, || run(Bug::RelaxedRead, &[], &[|cpu| cpu.change(2), |cpu| cpu.free(1)]));
}

#[test]
#[should_panic(expected = "I-CSLAB-1")]
fn finds_a_word_that_came_back() {
    check(2, || run(Bug::NoNumber, &[], &[|cpu| cpu.change(2), |cpu| cpu.free(1)]));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn finds_an_object_taken_without_the_lock() {
    check(2, || run(Bug::TakeWithoutLock, &[2, 1], &[|cpu| cpu.change(2), alloc]));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn finds_objects_that_are_not_published() {
    check(2, || run(Bug::RelaxedSwap, &[2, 1], &[alloc_and_free, alloc]));
}
