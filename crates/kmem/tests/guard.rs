//! The guard of the process-wide heap, from Rust: typed caches, threads, faults that are reported and survived.
//!
//! One test: there is one heap in a process, and it counts its errors.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::thread;
use std::time::Duration;

use kmem::{Cache, KBox, guard, heap};
use kmem_core::debug::OnError;

type Record = [u64; 5];

static RECORDS: Cache<Record> = Cache::new("guarded_record");

fn is_guarded<T>(object: &KBox<'_, T>) -> bool {
    let address = (&raw const **object).addr();
    heap::heap().expect("made").guard().holds(address)
}

fn errors() -> u64 {
    heap::heap().expect("made").debug().errors()
}

/// Reads a byte wherever it is.
fn read(at: *const u8) -> u8 {
    // SAFETY: none; that is the point. The page is mapped, and the heap opens it after its report.
    unsafe { at.read_volatile() }
}

#[test]
fn guarded_objects_of_typed_caches() {
    let heap = heap::heap().expect("memory");
    heap.debug().set_on_error(OnError::Warn);
    heap.debug().set_quiet(true);

    // Before: the fast path has objects on this CPU's stack.
    let some: Vec<_> = (0..200).map(|i| RECORDS.alloc([i; 5]).expect("memory")).collect();
    drop(some);
    assert!(guard::start_with_all());
    // Until the stacks are used up.
    let mut held: Vec<KBox<'_, Record>> = Vec::new();
    while !held.last().is_some_and(is_guarded) {
        assert!(held.len() < 10_000, "nobody is guarded");
        held.push(RECORDS.alloc([held.len() as u64; 5]).expect("memory"));
    }
    guard::stop();
    let placed = guard::stats().placed;
    assert!(placed > 0 && errors() == 0);

    // Objects of both kinds, given back by other threads while this one allocates more.
    let guarded = held.pop().expect("there is one");
    assert_eq!(*guarded, [held.len() as u64; 5]);
    let place = (&raw const *guarded).cast::<u8>();
    thread::scope(|scope| {
        for part in held.chunks_mut(50).map(|part| part.iter_mut()) {
            scope.spawn(move || part.for_each(|object| object[0] += 1));
        }
        scope.spawn(move || drop(guarded));
        for i in 0..1000 {
            let one = RECORDS.alloc([i; 5]).expect("memory");
            assert!(!is_guarded(&one), "a guarded object came back by a stack");
            assert_eq!(*one, [i; 5]);
        }
    });
    let stats = guard::stats();
    assert_eq!((stats.placed, stats.bugs, errors()), (placed, 0, 0));

    // The object is gone, and its page tells.
    read(place);
    assert_eq!((guard::stats().bugs, errors()), (1, 1));
    read(place);
    assert_eq!(errors(), 1, "the program goes on");

    // All others are as they were, and the pool is empty of this cache's.
    assert!(held.iter().enumerate().all(|(i, object)| object[1] == i as u64 && object[0] == i as u64 + 1));
    drop(held);
    let again: Vec<_> = (0..500).map(|i| RECORDS.alloc([i; 5]).expect("memory")).collect();
    assert!(again.iter().all(|object| !is_guarded(object)));
    assert_eq!(errors(), 1);

    // By time: one in an interval, whoever comes by.
    let before = guard::stats().placed;
    assert!(guard::start(Duration::from_millis(20)));
    let until = std::time::Instant::now() + Duration::from_millis(400);
    let mut blocks = Vec::new();
    while std::time::Instant::now() < until {
        blocks.extend((0..100).map(|i| heap::malloc(16 * i)));
        // SAFETY: each was allocated here and is freed once.
        blocks.drain(..).for_each(|block| unsafe { heap::free(block) });
    }
    guard::stop();
    let sampled = guard::stats().placed - before;
    assert!((1..=25).contains(&sampled), "{sampled} in 20 intervals");
    assert_eq!(errors(), 1);
}
