//! A thread has its own n-th request fail; others never notice.

use std::sync::Barrier;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use kmem::fault::{FailNthError, fail_nth, fail_nth_left};
use kmem::{Cache, KBox, heap};
use kmem_core::fault::{Attributes, Fault, Kind};
use kmem_core::flags::SlabFlags;

/// The heap has one rule at a time.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> std::sync::MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Which of a row of requests failed.
fn failures(sizes: &[usize]) -> Vec<usize> {
    let blocks: Vec<*mut u8> = sizes.iter().map(|&size| heap::malloc(size)).collect();
    // SAFETY: blocks of the heap, each once; null is fine.
    blocks.iter().for_each(|&block| unsafe { heap::free(block) });
    (0..sizes.len()).filter(|&at| blocks[at].is_null()).collect()
}

const SIZES: [usize; 6] = [24, 100, 5000, 60_000, 300_000, 8 << 20];

#[test]
fn every_point_of_failure_in_turn() {
    let _turn = turn();
    assert_eq!(fail_nth_left(), None);
    for n in 1.. {
        assert_eq!(fail_nth(n), Ok(()));
        let failed = failures(&SIZES);
        let left = fail_nth_left();
        assert_eq!(fail_nth(0), Ok(()));
        if left != Some(0) {
            assert_eq!((n, left, failed), (7, Some(1), vec![]));
            break;
        }
        assert_eq!(failed, [n as usize - 1]);
    }
    assert_eq!((fail_nth_left(), failures(&SIZES)), (None, vec![]));
}

#[test]
fn others_do_not_count() {
    let _turn = turn();
    let (start, stop) = (Barrier::new(3), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                start.wait();
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(failures(&SIZES), []);
                }
                assert_eq!(fail_nth_left(), None);
            });
        }
        start.wait();
        for round in 0..200 {
            let n = round % 6;
            assert_eq!(fail_nth(n as u64 + 1), Ok(()));
            assert_eq!(failures(&SIZES), [n]);
        }
        assert_eq!(fail_nth(0), Ok(()));
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn another_rule_comes_first() {
    let _turn = turn();
    static COUNT: Fault = Fault::new(Attributes::count());
    let heap = heap::heap().expect("a heap");
    heap.inject(Kind::Malloc, Some(&COUNT));
    assert_eq!(fail_nth(1), Err(FailNthError::OtherRule));
    assert_eq!((fail_nth_left(), failures(&SIZES)), (None, vec![]));
    heap.inject(Kind::Malloc, None);
    assert_eq!(fail_nth(2), Ok(()));
    assert_eq!(failures(&SIZES), [1]);
    assert_eq!(fail_nth(0), Ok(()));
    assert!(heap.fault(Kind::Malloc).is_none(), "the stacks are back");
}

/// Requests of both kinds, as a program mixes them.
static PAIRS: Cache<[u64; 2]> = Cache::with_flags("fail_pair", SlabFlags::NO_MERGE);
static ROWS: Cache<[u64; 700]> = Cache::with_flags("fail_row", SlabFlags::NO_MERGE);

/// Which of six requests failed: block, pair, block, row, pair of a sheaf, block.
fn mixed_failures() -> Vec<usize> {
    let mut sheaf = PAIRS.sheaf();
    let (mut failed, mut blocks) = (vec![], vec![]);
    let mut note = |at: usize, fails: bool| {
        if fails {
            failed.push(at)
        }
    };
    let mut block = |size| {
        blocks.push(heap::malloc(size));
        blocks[blocks.len() - 1].is_null()
    };
    note(0, block(24));
    let pair = PAIRS.alloc([1; 2]);
    note(1, pair.is_err());
    note(2, block(60_000));
    let row = ROWS.alloc([2; 700]);
    note(3, row.is_err());
    let last = sheaf.alloc([3; 2]);
    note(4, last.is_err());
    note(5, block(100));
    assert!(pair.is_ok_and(|pair| *pair == [1; 2]) || failed == [1]);
    assert!(row.is_ok_and(|row| *row == [2; 700]) || failed == [3]);
    if let Ok(last) = last {
        sheaf.free(last);
    }
    // SAFETY: blocks of the heap, each once; null is fine.
    blocks.into_iter().for_each(|block| unsafe { heap::free(block) });
    failed
}

#[test]
fn objects_of_typed_caches_are_counted_in_order() {
    let _turn = turn();
    // Before: both caches have objects on this CPU's stack.
    assert_eq!(mixed_failures(), []);
    for n in 1..=7_usize {
        assert_eq!(fail_nth(n as u64), Ok(()));
        let failed = mixed_failures();
        let left = fail_nth_left();
        assert_eq!(fail_nth(0), Ok(()));
        let (expected, rest) = if n == 7 { (vec![], 1) } else { (vec![n - 1], 0) };
        assert_eq!((failed, left), (expected, Some(rest)), "{n}");
    }
    // As if nothing had been.
    assert_eq!(mixed_failures(), []);
    assert_eq!((PAIRS.counts().in_use(), ROWS.counts().in_use()), (0, 0));
}

/// What was filled beforehand cannot fail, the rule is for another cache or size, and the requests are other threads'.
#[test]
fn what_a_rule_is_not_for_does_not_fail() {
    let _turn = turn();
    let heap = heap::heap().expect("a heap");
    let mut sheaf = PAIRS.sheaf();
    sheaf.prefill(2).expect("memory");
    assert_eq!(fail_nth(1), Ok(()));
    let first = sheaf.alloc([1; 2]).expect("at hand");
    sheaf.free(first);
    let rest: Vec<KBox<'_, _>> = (0..sheaf.len()).map(|_| sheaf.alloc([1; 2]).expect("at hand")).collect();
    assert_eq!((fail_nth_left(), sheaf.len()), (Some(1), 0), "nobody was asked");
    std::thread::scope(|scope| {
        scope.spawn(|| (0..100).for_each(|_| drop(PAIRS.alloc([4; 2]).expect("another thread's"))));
    });
    assert!(sheaf.alloc([1; 2]).is_err(), "and now it is");
    assert!(sheaf.alloc([1; 2]).is_ok() && PAIRS.alloc([1; 2]).is_ok(), "once");
    drop((rest, sheaf));
    assert_eq!(fail_nth(0), Ok(()));

    static OTHER: Fault = Fault::new(Attributes { caches: Some("fail_row"), ..Attributes::ALWAYS });
    static LARGER: Fault = Fault::new(Attributes { sizes: (17, 5599), ..Attributes::ALWAYS });
    static EXACT: Fault = Fault::new(Attributes { sizes: (16, 16), ..Attributes::ALWAYS });
    for (rule, refused) in [(&OTHER, [false, true]), (&LARGER, [false, false]), (&EXACT, [true, false])] {
        heap.inject(Kind::Malloc, Some(rule));
        let got = [PAIRS.alloc([1; 2]).is_err(), ROWS.alloc([1; 700]).is_err()];
        heap.inject(Kind::Malloc, None);
        assert_eq!(
            (got, rule.failed()),
            (refused, refused.iter().filter(|&&refused| refused).count() as u64)
        );
    }
    assert_eq!((PAIRS.counts().in_use(), ROWS.counts().in_use()), (0, 0));
}

/// A refused value is dropped, once; and after the rule all is as before: sheaves keep what is freed, in the cache nothing is lost.
#[test]
fn after_a_failure_the_cache_is_as_before() {
    struct Noted(&'static Mutex<Vec<u32>>, u32);
    impl Drop for Noted {
        fn drop(&mut self) {
            self.0.lock().expect("no panic").push(self.1);
        }
    }
    static DROPPED: Mutex<Vec<u32>> = Mutex::new(Vec::new());
    static NOTED: Cache<Noted> = Cache::with_flags("fail_noted", SlabFlags::NO_MERGE);
    let _turn = turn();
    DROPPED.lock().expect("no panic").reserve(100);
    let mut sheaf = NOTED.sheaf();
    let make = |number| Noted(&DROPPED, number);
    let before = sheaf.alloc(make(0)).expect("memory");
    let quick = !sheaf.is_empty();
    drop(sheaf);

    let mut sheaf = NOTED.sheaf();
    assert_eq!(fail_nth(2), Ok(()));
    let first = NOTED.alloc(make(1)).expect("not the second");
    assert!(NOTED.alloc(make(2)).is_err());
    assert_eq!(*DROPPED.lock().expect("no panic"), [2]);
    let third = sheaf.alloc(make(3)).expect("not the second");
    assert_eq!((sheaf.len(), fail_nth_left()), (0, Some(0)), "a sheaf asks for one at a time");
    sheaf.free(third);
    assert_eq!((sheaf.len(), NOTED.counts().in_use()), (0, 2), "and keeps none");
    assert_eq!(fail_nth(0), Ok(()));

    drop(first);
    let values: Vec<_> = (4..40).map(|number| sheaf.alloc(make(number)).expect("memory")).collect();
    values.into_iter().for_each(|value| sheaf.free(value));
    assert_eq!(!sheaf.is_empty(), quick, "the fast path is back");
    assert_eq!(NOTED.counts().in_use(), 1 + sheaf.len() as u64);
    drop((before, sheaf));
    assert_eq!(NOTED.counts().in_use(), 0);
    let mut dropped = DROPPED.lock().expect("no panic").clone();
    dropped.sort_unstable();
    assert!(dropped.into_iter().eq(0..40), "each once");
}
