//! Which of several frees gets a large block: the kind of its head page is claimed by one compare-and-swap.
//!
//! Specifies `Page::claim` (`page/desc.rs`), `free_large` (`kmalloc/large.rs`) and what happens to the kind on the
//! way back (`Pages::free`, `page/free.rs`).
//!
//! # Invariants checked
//! - Of any number of frees of one large block, one succeeds; the others touch nothing but the kind.
//! - The block goes back to the free lists once, also when its page is something else by the time of the second free.
//!   (A page that is a large block *again* by then cannot be told from the first one.)

use std::rc::Rc;

use loom::cell::Cell;
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicU8, Ordering};
use loom::thread;

use crate::check;

const LIST: u8 = 2;
const ALLOCATED: u8 = 3;
const SLAB: u8 = 4;
const LARGE: u8 = 5;
const FREEING: u8 = 7;

struct Page {
    kind: AtomicU8,
    /// What the owner of the run alone writes: its length, its cache, its memory.
    fields: Cell<u32>,
    free_list: Mutex<Vec<()>>,
    blind: bool,
}

impl Page {
    fn new(blind: bool) -> Self {
        Self { kind: AtomicU8::new(LARGE), fields: Cell::new(0), free_list: Mutex::new(Vec::new()), blind }
    }

    fn claim(&self, from: u8) -> bool {
        if self.blind {
            let mine = self.kind.load(Ordering::Acquire) == from;
            if mine {
                self.kind.store(ALLOCATED, Ordering::Relaxed);
            }
            return mine;
        }
        self.kind.compare_exchange(from, ALLOCATED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn free_large(&self) -> bool {
        if !self.claim(LARGE) {
            return false;
        }
        self.kind.store(FREEING, Ordering::Relaxed);
        self.fields.set(self.fields.get() + 1);
        let mut list = self.free_list.lock().unwrap();
        self.kind.store(LIST, Ordering::Relaxed);
        assert!(list.is_empty(), "a block is on the free list twice");
        list.push(());
        true
    }

    /// Makes a slab of the page if it is free.
    fn reuse(&self) {
        let mut list = self.free_list.lock().unwrap();
        if list.pop().is_some() {
            self.kind.store(ALLOCATED, Ordering::Relaxed);
            drop(list);
            self.fields.set(self.fields.get() + 10);
            self.kind.store(SLAB, Ordering::Relaxed);
        }
    }
}

fn double_free(blind: bool) {
    let page = Rc::new(Page::new(blind));
    let mut others = Vec::new();
    for _ in 0..2 {
        let page = page.clone();
        others.push(thread::spawn(move || page.free_large()));
    }
    let mine = page.free_large();
    let theirs = others.into_iter().map(|other| other.join().unwrap());
    let won = theirs.filter(|&won| won).count() + usize::from(mine);
    assert_eq!(won, 1, "several frees of one block succeeded");
    assert_eq!(page.fields.get(), 1);
}

#[test]
fn one_free_of_three_wins() {
    check(3, || double_free(false));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn finds_a_claim_in_two_steps() {
    check(2, || double_free(true));
}

#[test]
fn a_reused_page_is_not_freed() {
    check(3, || {
        let page = Rc::new(Page::new(false));
        let (reuser, other) = (page.clone(), page.clone());
        let reuser = thread::spawn(move || reuser.reuse());
        let other = thread::spawn(move || other.free_large());
        let mine = page.free_large();
        let theirs = other.join().unwrap();
        reuser.join().unwrap();
        assert!(mine != theirs, "one of two frees wins");
        let list = page.free_list.lock().unwrap();
        let kind = page.kind.load(Ordering::Relaxed);
        assert_eq!((kind, page.fields.get()), if list.is_empty() { (SLAB, 11) } else { (LIST, 1) });
    });
}
