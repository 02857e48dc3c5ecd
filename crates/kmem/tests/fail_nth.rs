//! A thread has its own n-th request fail; others never notice.

use std::sync::Barrier;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use kmem::fault::{FailNthError, fail_nth, fail_nth_left};
use kmem::heap;
use kmem_core::fault::{Attributes, Fault, Kind};

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
