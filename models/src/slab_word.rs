//! The word of a slab: (head, objects in use, frozen), changed by compare-and-swap from any CPU.
//!
//! Specifies `engine/slub/word.rs`, `free.rs` (`free_chain`), `alloc.rs` (`own`, `freeze`, `thaw`, `drain`, `from_node`,
//! `take_from_list`) and `maintain.rs` (`deactivate`, `push_chain`, `thaw_chain`, `release_empty`).
//!
//! # Invariants checked
//! - I-SLUB-1: at rest, `inuse = objects - (on the slab's list) - (never carved)`; a CPU slab counts all as in use.
//! - I-SLUB-2: no object is lost and none is handed out twice: each is with a user, on its slab's list, in a
//!   CPU's hands, or not yet carved.
//! - I-SLUB-3: at rest, a slab that is not frozen and not full is on its node's list once, a full one on none, and a
//!   frozen one with one CPU. An empty slab is discarded at most once, and nobody touches it afterwards.
//! - I-SLUB-4: `carved` (a checked cell) is read and written in the hands of the owner.
//!
//! # What is left out
//! The CPU slab's own chain hangs on a transaction word in the code and is a plain list under `inner` here:
//! `transaction` is about that word. All frees are therefore those that did not get onto it. Locks are loom's: `lock` is
//! about ours. One node; sizes are 2 or 3 objects a slab.

mod scenarios;

use loom::cell::Cell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Mutex, MutexGuard};

/// Mistakes that a scenario must find.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// A free takes the node's lock after its compare-and-swap instead of before.
    LateLock,
    /// A free decides what to do from the first value it saw, not from the one it replaced.
    DecideOnce,
    /// A free that puts a slab on a CPU's chain freezes it when it is there, not in the compare-and-swap.
    FreezeLater,
    /// The end of ownership is a load and a store.
    BlindThaw,
    /// A slab stays on the list and not frozen, and the lock is dropped, while objects are taken off it.
    UnlockedDrain,
    /// A CPU that gives its slab away puts it on the list after the lock that covered the compare-and-swap.
    LateList,
    /// The compare-and-swap publishes nothing.
    RelaxedSwap,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Word {
    head: Option<usize>,
    inuse: usize,
    frozen: bool,
}

impl Word {
    fn bits(self) -> usize {
        self.head.map_or(0, |head| head + 1) | self.inuse << 8 | usize::from(self.frozen) << 16
    }

    fn from_bits(bits: usize) -> Self {
        Self { head: (bits & 0xff).checked_sub(1), inuse: bits >> 8 & 0xff, frozen: bits >> 16 != 0 }
    }
}

struct Slab {
    word: AtomicUsize,
    carved: Cell<usize>,
    /// The memory of the free objects.
    links: Vec<Cell<Option<usize>>>,
    /// Objects in the hands of users.
    held: Vec<Cell<bool>>,
    discarded: Cell<bool>,
}

/// What one CPU holds, under its lock.
#[derive(Default)]
struct Inner {
    slab: Option<usize>,
    /// Free objects of the CPU slab.
    hand: Vec<usize>,
    chain: Vec<usize>,
}

type List = Vec<usize>;

struct Machine {
    bug: Bug,
    /// Objects a slab.
    objects: usize,
    min_partial: usize,
    cpu_partial_slabs: usize,
    slabs: Vec<Slab>,
    list: Mutex<List>,
    cpus: Vec<Mutex<Inner>>,
}

/// A slab and an object in it.
type Object = (usize, usize);

impl Machine {
    /// Slabs that are full, in the hands of users, and on no list.
    fn new(bug: Bug, slabs: usize, objects: usize) -> Self {
        let slab = || Slab {
            word: AtomicUsize::new(Word { head: None, inuse: objects, frozen: false }.bits()),
            carved: Cell::new(objects),
            links: (0..objects).map(|_| Cell::new(None)).collect(),
            held: (0..objects).map(|_| Cell::new(true)).collect(),
            discarded: Cell::new(false),
        };
        Self {
            bug,
            objects,
            min_partial: 0,
            cpu_partial_slabs: 0,
            slabs: (0..slabs).map(|_| slab()).collect(),
            list: Mutex::new(List::new()),
            cpus: (0..2).map(|_| Mutex::default()).collect(),
        }
    }

    /// The slab, by somebody who may touch it: it is not discarded, and whoever discards it does so after this.
    fn slab(&self, number: usize) -> &Slab {
        let slab = &self.slabs[number];
        assert!(!slab.discarded.get(), "a discarded slab is touched");
        slab
    }

    fn load(&self, slab: usize) -> Word {
        Word::from_bits(self.slab(slab).word.load(Ordering::Acquire))
    }

    fn swap_if(&self, slab: usize, old: Word, new: Word) -> Result<(), Word> {
        let success = if self.bug == Bug::RelaxedSwap { Ordering::Relaxed } else { Ordering::AcqRel };
        let word = &self.slab(slab).word;
        match word.compare_exchange_weak(old.bits(), new.bits(), success, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(now) => Err(Word::from_bits(now)),
        }
    }

    /// Replaces the word by what `new` makes of it; returns what it was.
    fn update(&self, slab: usize, new: impl Fn(Word) -> Word) -> Word {
        let mut old = self.load(slab);
        while let Err(now) = self.swap_if(slab, old, new(old)) {
            old = now;
        }
        old
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap()
    }

    fn push(list: &mut List, slab: usize) {
        assert!(!list.contains(&slab), "a slab is put on a list that it is on");
        list.push(slab);
    }

    fn remove(list: &mut List, slab: usize) {
        let at = list.iter().position(|&listed| listed == slab);
        list.remove(at.expect("a slab is taken off a list that it is not on"));
    }

    fn discard(&self, slab: usize) {
        let slab = self.slab(slab);
        assert!(slab.held.iter().all(|held| !held.get()), "a slab with live objects is discarded");
        slab.discarded.set(true);
    }

    fn hand_out(&self, slab: usize, object: usize) -> Object {
        assert!(!self.slabs[slab].held[object].replace(true), "an object is handed out twice");
        (slab, object)
    }

    // free.rs

    fn free_chain(&self, cpu: Option<usize>, slab: usize, chain: &[usize]) {
        let links = &self.slab(slab).links;
        for pair in chain.windows(2) {
            links[pair[0]].set(Some(pair[1]));
        }
        let (head, tail) = (chain[0], chain[chain.len() - 1]);
        for &object in chain {
            assert!(self.slab(slab).held[object].replace(false));
        }
        let chains = self.cpu_partial_slabs > 0 && cpu.is_some();
        let mut lock = None;
        let mut old = self.load(slab);
        let first = old;
        let (old, new, to_chain) = loop {
            links[tail].set(old.head);
            let inuse = old.inuse.checked_sub(chain.len()).expect("more objects are freed than are in use");
            let was_full = old.inuse == self.objects;
            let to_chain = !old.frozen && was_full && inuse > 0 && chains;
            let listed = !old.frozen && !to_chain && (inuse == 0 || was_full);
            if listed && lock.is_none() && self.bug != Bug::LateLock {
                lock = Some(self.lock());
                old = self.load(slab);
                continue;
            }
            let frozen = old.frozen || to_chain && self.bug != Bug::FreezeLater;
            let new = Word { head: Some(head), inuse, frozen };
            match self.swap_if(slab, old, new) {
                Ok(()) => break (old, new, to_chain),
                Err(now) => old = now,
            }
        };
        let old = if self.bug == Bug::DecideOnce { first } else { old };
        if old.frozen {
            return;
        }
        let was_full = old.inuse == self.objects;
        if let (true, Some(cpu)) = (to_chain, cpu) {
            drop(lock);
            self.push_chain(cpu, slab);
            return;
        }
        if self.bug == Bug::LateLock && (new.inuse == 0 || was_full) {
            lock = Some(self.lock());
        }
        let Some(mut list) = lock else { return };
        if new.inuse == 0 && list.len() >= self.min_partial {
            if !was_full {
                Self::remove(&mut list, slab);
            }
            drop(list);
            self.discard(slab);
        } else if was_full {
            Self::push(&mut list, slab);
        }
    }

    // maintain.rs

    fn push_chain(&self, cpu: usize, slab: usize) {
        let overflow = {
            let mut inner = self.cpus[cpu].lock().unwrap();
            let overflow = if inner.chain.len() >= self.cpu_partial_slabs {
                std::mem::take(&mut inner.chain)
            } else {
                Vec::new()
            };
            if self.bug == Bug::FreezeLater {
                self.update(slab, |old| Word { frozen: true, ..old });
            }
            inner.chain.push(slab);
            overflow
        };
        self.thaw_chain(overflow);
    }

    fn thaw_chain(&self, chain: Vec<usize>) {
        for slab in chain {
            let mut list = self.lock();
            let new = self.thaw(slab);
            if new.inuse == 0 && list.len() >= self.min_partial {
                drop(list);
                self.discard(slab);
            } else if new.inuse < self.objects {
                Self::push(&mut list, slab);
            }
        }
    }

    fn deactivate(&self, inner: &mut Inner) {
        let Some(slab) = inner.slab.take() else { return };
        let links = &self.slab(slab).links;
        let chain = std::mem::take(&mut inner.hand);
        for pair in chain.windows(2) {
            links[pair[0]].set(Some(pair[1]));
        }
        let fresh = self.objects - self.slab(slab).carved.get();
        let mut lock = None;
        let mut old = self.load(slab);
        loop {
            if let Some(&last) = chain.last() {
                links[last].set(old.head);
            }
            let head = chain.first().copied().or(old.head);
            let new = Word { head, inuse: old.inuse - chain.len() - fresh, frozen: false };
            if new.inuse < self.objects && lock.is_none() {
                lock = Some(self.lock());
                old = self.load(slab);
                continue;
            }
            match self.swap_if(slab, old, new) {
                Ok(()) => {
                    if self.bug == Bug::LateList && lock.take().is_some() {
                        lock = Some(self.lock());
                    }
                    if let (true, Some(list)) = (new.inuse < self.objects, &mut lock) {
                        Self::push(list, slab);
                    }
                    return;
                }
                Err(now) => old = now,
            }
        }
    }

    /// The part of `flush_cpu` below the stack.
    fn flush_cpu(&self, cpu: usize) {
        let chain = {
            let mut inner = self.cpus[cpu].lock().unwrap();
            self.deactivate(&mut inner);
            std::mem::take(&mut inner.chain)
        };
        self.thaw_chain(chain);
    }

    fn release_empty(&self) {
        let mut empty = Vec::new();
        self.lock().retain(|&slab| {
            let unused = self.load(slab).inuse == 0;
            if unused {
                empty.push(slab);
            }
            !unused
        });
        for slab in empty {
            self.discard(slab);
        }
    }

    // alloc.rs

    fn own(&self, slab: usize) -> Option<usize> {
        self.update(slab, |_| Word { head: None, inuse: self.objects, frozen: true }).head
    }

    fn freeze(&self, slab: usize) {
        self.update(slab, |old| Word { frozen: true, ..old });
    }

    fn thaw(&self, slab: usize) -> Word {
        if self.bug == Bug::BlindThaw {
            let new = Word { frozen: false, ..self.load(slab) };
            self.slab(slab).word.store(new.bits(), Ordering::Release);
            return new;
        }
        let old = self.update(slab, |old| Word { frozen: false, ..old });
        Word { frozen: false, ..old }
    }

    /// Objects that were never handed out, by the owner.
    fn carve(&self, slab: usize, most: usize) -> Vec<usize> {
        let carved = self.slab(slab).carved.get();
        let end = self.objects.min(carved + most);
        if end > carved {
            self.slab(slab).carved.set(end);
        }
        (carved..end).collect()
    }

    /// Makes a frozen slab the CPU slab, with all its objects in the CPU's hands.
    fn adopt(&self, inner: &mut Inner, slab: usize) {
        let mut next = self.own(slab);
        inner.slab = Some(slab);
        while let Some(object) = next {
            inner.hand.push(object);
            next = self.slab(slab).links[object].get();
        }
    }

    /// `from_node`.
    fn adopt_from_node(&self, inner: &mut Inner) -> bool {
        let first = {
            let mut list = self.lock();
            let Some(&first) = list.first() else { return false };
            Self::remove(&mut list, first);
            self.freeze(first);
            while inner.chain.len() < self.cpu_partial_slabs / 2 {
                let Some(&more) = list.first() else { break };
                Self::remove(&mut list, more);
                self.freeze(more);
                inner.chain.push(more);
            }
            first
        };
        self.adopt(inner, first);
        true
    }

    /// Takes up to `most` objects from what the CPU and the node have, as `alloc_many` does without making slabs.
    fn take(&self, cpu: usize, most: usize) -> Vec<Object> {
        let mut inner = self.cpus[cpu].lock().unwrap();
        let mut got = Vec::new();
        while got.len() < most {
            let Some(slab) = inner.slab else {
                if let Some(slab) = inner.chain.pop() {
                    self.adopt(&mut inner, slab);
                } else if !self.adopt_from_node(&mut inner) {
                    break;
                }
                continue;
            };
            if !inner.hand.is_empty() {
                got.push(self.hand_out(slab, inner.hand.remove(0)));
                continue;
            }
            if self.load(slab).head.is_some() {
                self.adopt(&mut inner, slab);
                continue;
            }
            got.extend(
                self.carve(slab, most - got.len()).into_iter().map(|object| self.hand_out(slab, object)),
            );
            if got.len() < most {
                self.deactivate(&mut inner);
            }
        }
        got
    }

    fn take_from_list(&self, most: usize) -> Vec<Object> {
        let mut got = Vec::new();
        let mut list = self.lock();
        while got.len() < most {
            let Some(&slab) = list.first() else { break };
            if self.bug == Bug::UnlockedDrain {
                drop(list);
                got.extend(self.drain(slab, most - got.len()));
                return got;
            }
            Self::remove(&mut list, slab);
            self.freeze(slab);
            got.extend(self.drain(slab, most - got.len()));
            if self.thaw(slab).inuse < self.objects {
                Self::push(&mut list, slab);
            }
        }
        got
    }

    fn drain(&self, slab: usize, most: usize) -> Vec<Object> {
        let mut got = Vec::new();
        let mut old = self.load(slab);
        while got.len() < most {
            let Some(head) = old.head else { break };
            let next = self.slab(slab).links[head].get();
            match self.swap_if(slab, old, Word { head: next, inuse: old.inuse + 1, frozen: old.frozen }) {
                Ok(()) => {
                    got.push(self.hand_out(slab, head));
                    old = self.load(slab);
                }
                Err(now) => old = now,
            }
        }
        let fresh = self.carve(slab, most - got.len());
        self.update(slab, |old| Word { inuse: old.inuse + fresh.len(), ..old });
        got.extend(fresh.into_iter().map(|object| self.hand_out(slab, object)));
        got
    }

    /// Looks for every object and every slab. Nobody else runs.
    fn validate(&self) {
        let list = self.lock();
        for (number, slab) in self.slabs.iter().enumerate() {
            let word = Word::from_bits(slab.word.load(Ordering::Acquire));
            let mut places = vec![0; self.objects];
            let held = (0..self.objects).filter(|&object| slab.held[object].get());
            held.for_each(|object| places[object] += 1);
            let mut next = word.head;
            let mut free = 0;
            while let Some(object) = next {
                places[object] += 1;
                free += 1;
                assert!(free <= self.objects, "the list of a slab has no end");
                next = slab.links[object].get();
            }
            let carved = slab.carved.get();
            places[carved..].iter_mut().for_each(|place| *place += 1);
            let (mut cpu_slab, mut chained) = (0, 0);
            for cpu in &self.cpus {
                let inner = cpu.lock().unwrap();
                if inner.slab == Some(number) {
                    cpu_slab += 1;
                    inner.hand.iter().for_each(|&object| places[object] += 1);
                }
                chained += inner.chain.iter().filter(|&&chained| chained == number).count();
            }
            let listed = list.iter().filter(|&&listed| listed == number).count();
            if slab.discarded.get() {
                assert_eq!((cpu_slab, chained, listed), (0, 0, 0), "I-SLUB-3: a discarded slab is known");
                assert!(
                    slab.held.iter().all(|held| !held.get()),
                    "a user holds an object of a discarded slab"
                );
                continue;
            }
            assert!(places.iter().all(|&place| place == 1), "I-SLUB-2: places of objects {places:?}");
            let fresh = if cpu_slab == 0 { self.objects - carved } else { 0 };
            assert_eq!(word.inuse, self.objects - free - fresh, "I-SLUB-1");
            assert_eq!(usize::from(word.frozen), cpu_slab + chained, "I-SLUB-3: frozen");
            let partial = !word.frozen && word.inuse < self.objects;
            assert_eq!(usize::from(partial), listed, "I-SLUB-3: on the node's list");
        }
    }
}
