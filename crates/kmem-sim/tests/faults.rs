//! Every request for memory can fail, and only those.

use kmem_core::page::ZoneKind;
use kmem_core::platform::{BLOCK_PAGES, PAGE_SIZE, Platform};
use kmem_sim::Machine;

/// One request of each kind, in turn; tells which succeeded. Leaves nothing behind but window memory.
fn requests(machine: &Machine, count: usize) -> Vec<bool> {
    let base = machine.map(PAGE_SIZE, PAGE_SIZE).expect("a mapping to resize");
    let mut len = PAGE_SIZE;
    let mut base = base;
    let answers = (0..count)
        .map(|i| match i % 3 {
            0 => machine.grow(0, ZoneKind::Normal, 1).is_some(),
            1 => machine
                .map(PAGE_SIZE, PAGE_SIZE)
                // SAFETY: just made, used by nobody.
                .map(|ptr| unsafe { machine.unmap(ptr, PAGE_SIZE) })
                .is_some(),
            // SAFETY: live, of this length.
            _ => unsafe { machine.remap(base, len, len + PAGE_SIZE, true) }
                .map(|ptr| {
                    base = ptr;
                    len += PAGE_SIZE;
                })
                .is_some(),
        })
        .collect();
    // SAFETY: live, of this length, used by nobody.
    unsafe { machine.unmap(base, len) };
    answers
}

#[test]
fn the_nth_request_fails_and_no_other() {
    for n in 1..=9 {
        let machine = Machine::builder().build();
        // One request is the mapping that `requests` begins with.
        machine.fail_nth(n + 1);
        let answers = requests(&machine, 9);
        let expected: Vec<bool> = (1..=9).map(|i| i != n).collect();
        assert_eq!(answers, expected);
        let counters = machine.counters();
        assert_eq!((counters.requests, counters.refused), (10, 1));
        assert_eq!(machine.outstanding().maps, 0);
    }
}

#[test]
fn from_the_nth_request_on_all_fail_until_told_otherwise() {
    let machine = Machine::builder().build();
    machine.fail_after(5);
    assert_eq!(requests(&machine, 6), [true, true, true, false, false, false]);
    machine.fail_none();
    assert_eq!(requests(&machine, 6), [true; 6]);
    assert_eq!(machine.counters().refused, 3);
}

#[test]
fn a_probability_fails_its_share_the_same_way_for_one_seed() {
    let failures = |seed, p| {
        let machine = Machine::builder().memory_per_node(BLOCK_PAGES).seed(seed).build();
        machine.fail_probability(p);
        let answers: Vec<bool> = (0..2000)
            .map(|_| {
                machine
                    .map(PAGE_SIZE, PAGE_SIZE)
                    // SAFETY: just made, used by nobody.
                    .map(|ptr| unsafe { machine.unmap(ptr, PAGE_SIZE) })
                    .is_some()
            })
            .collect();
        assert_eq!(machine.counters().refused, answers.iter().filter(|ok| !**ok).count() as u64);
        answers
    };
    let share = failures(1, 0.25).iter().filter(|ok| !**ok).count();
    assert!((400..600).contains(&share), "{share} of 2000 at one in four");
    assert_eq!(failures(1, 0.25), failures(1, 0.25));
    assert_ne!(failures(1, 0.25), failures(2, 0.25));
    assert!(failures(1, 1.0).iter().all(|ok| !ok));
    assert!(failures(1, 0.0).iter().all(|ok| *ok));
}

#[test]
fn shrinking_and_giving_back_never_fail() {
    let machine = Machine::builder().build();
    let ptr = machine.map(4 * PAGE_SIZE, PAGE_SIZE).expect("a mapping");
    let range = machine.grow(0, ZoneKind::Normal, 1).expect("memory");
    machine.fail_after(1);
    // SAFETY: live, of these lengths, used by nobody.
    unsafe {
        assert_eq!(machine.remap(ptr, 4 * PAGE_SIZE, PAGE_SIZE, true), Some(ptr));
        machine.unmap(ptr, PAGE_SIZE);
        assert!(machine.discard(range));
        machine.release(range);
    }
    assert_eq!(machine.counters().refused, 0);
}

#[test]
#[should_panic(expected = "counted from 1")]
fn the_zeroth_request_does_not_exist() {
    Machine::builder().build().fail_nth(0);
}

#[test]
fn each_failure_visits_every_request_once() {
    let builder = Machine::builder().memory_per_node(4 * BLOCK_PAGES);
    let mut seen = Vec::new();
    let runs = builder.each_failure(|machine| {
        seen.push([0; 4].map(|_: i32| machine.grow(0, ZoneKind::Normal, 1).is_some()));
    });
    assert_eq!(runs, 4);
    let expected: Vec<[bool; 4]> = (0..=4).map(|n| std::array::from_fn(|i| i != n)).collect();
    assert_eq!(seen, expected);

    seen.clear();
    let runs = builder.each_exhaustion(|machine| {
        seen.push([0; 4].map(|_: i32| machine.grow(0, ZoneKind::Normal, 1).is_some()));
    });
    assert_eq!(runs, 4);
    let expected: Vec<[bool; 4]> = (0..=4).map(|n| std::array::from_fn(|i| i < n)).collect();
    assert_eq!(seen, expected);
}
