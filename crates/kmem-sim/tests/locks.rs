//! The order of locks, the rule about calls below, sleeping and waking.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kmem_core::page::ZoneKind;
use kmem_core::platform::{PAGE_SIZE, Platform};
use kmem_core::sync::{Lock, rank};
use kmem_sim::Machine;

#[test]
fn rising_ranks_are_fine_and_counted() {
    let machine = Machine::builder().cpus(2).build();
    let node: Lock<u32, { rank::NODE }> = Lock::new(0);
    let zone: Lock<u32, { rank::ZONE }> = Lock::new(0);
    for _ in 0..3 {
        let _node = node.lock(&machine);
        assert_eq!(machine.highest_lock(), Some(rank::NODE));
        let _zone = zone.lock(&machine);
        assert_eq!(machine.highest_lock(), Some(rank::ZONE));
    }
    assert_eq!(machine.highest_lock(), None);
    machine.on_cpu(1, || drop(node.lock(&machine)));
    machine.on_cpu(1, || drop(node.lock(&machine)));
    let counters = machine.counters();
    assert_eq!(counters.locks[usize::from(rank::NODE)], 5);
    assert_eq!(counters.lock_transfers[usize::from(rank::NODE)], 1, "the lock went to CPU 1 once");
    assert_eq!(counters.locks[usize::from(rank::ZONE)], 3);
    assert_eq!(counters.total_locks(), 8);
    assert_eq!(counters.total_transfers(), 1);
}

#[test]
fn locks_may_be_released_in_any_order() {
    let machine = Machine::builder().build();
    let node: Lock<(), { rank::NODE }> = Lock::new(());
    let zone: Lock<(), { rank::ZONE }> = Lock::new(());
    let lower = node.lock(&machine);
    let upper = zone.lock(&machine);
    drop(lower);
    assert_eq!(machine.highest_lock(), Some(rank::ZONE));
    drop(upper);
    assert_eq!(machine.highest_lock(), None);
}

#[test]
#[should_panic(expected = "rank 3 (NODE) was taken while one of rank 6 (ZONE) is held")]
fn a_falling_rank_is_noticed() {
    let machine = Machine::builder().build();
    let zone: Lock<(), { rank::ZONE }> = Lock::new(());
    let node: Lock<(), { rank::NODE }> = Lock::new(());
    let _zone = zone.lock(&machine);
    let _node = node.lock(&machine);
}

#[test]
#[should_panic(expected = "rank 3 (NODE) was taken while one of rank 3 (NODE) is held")]
fn two_locks_of_one_rank_are_noticed() {
    let machine = Machine::builder().build();
    let a: Lock<(), { rank::NODE }> = Lock::new(());
    let b: Lock<(), { rank::NODE }> = Lock::new(());
    let _a = a.lock(&machine);
    let _b = b.try_lock(&machine);
}

#[test]
fn a_fork_may_take_all_locks_of_a_rank_but_not_against_the_order() {
    let machine = Machine::builder().build();
    let a: Lock<(), { rank::NODE }> = Lock::new(());
    let b: Lock<(), { rank::NODE }> = Lock::new(());
    machine.forking(|| {
        // The second time it is its own lock, which is left alone.
        a.lock_for_fork(&machine);
        b.lock_for_fork(&machine);
        a.lock_for_fork(&machine);
        assert!(a.try_lock(&machine).is_none() && b.try_lock(&machine).is_none());
        // SAFETY: this thread took them.
        unsafe {
            b.unlock_after_fork(&machine);
            a.unlock_after_fork(&machine);
            a.unlock_after_fork(&machine);
        }
    });
    assert_eq!(machine.highest_lock(), None);
    let falling = std::panic::catch_unwind(|| {
        let machine = Machine::builder().build();
        let cpu: Lock<(), { rank::CPU_SLAB }> = Lock::new(());
        let zone: Lock<(), { rank::ZONE }> = Lock::new(());
        machine.forking(|| {
            zone.lock_for_fork(&machine);
            cpu.lock_for_fork(&machine);
        });
    });
    assert!(falling.is_err());
}

#[test]
#[should_panic(expected = "a lock that it holds itself")]
fn taking_a_lock_twice_is_noticed() {
    let machine = Machine::builder().build();
    let lock: Lock<(), { rank::NODE }> = Lock::new(());
    let _once = lock.lock(&machine);
    let _twice = lock.lock(&machine);
}

#[test]
fn no_call_for_memory_under_a_lock_except_the_registrys() {
    fn complains<const RANK: u8>(call: impl FnOnce(&Machine) + std::panic::UnwindSafe) -> bool {
        let machine = Machine::builder().build();
        let result = std::panic::catch_unwind(move || {
            let lock: Lock<(), RANK> = Lock::new(());
            let _held = lock.lock(&machine);
            call(&machine);
        });
        match result {
            Ok(()) => false,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().expect("a message");
                assert!(text.contains("was called with a lock of rank"), "{text}");
                true
            }
        }
    }
    let grow = |machine: &Machine| assert!(machine.grow(0, ZoneKind::Normal, 1).is_some());
    let map = |machine: &Machine| assert!(machine.map(PAGE_SIZE, PAGE_SIZE).is_some());
    assert!(!complains::<{ rank::REGISTRY }>(grow));
    assert!(!complains::<{ rank::REGISTRY }>(map));
    assert!(complains::<{ rank::CPU_SLAB }>(grow));
    assert!(complains::<{ rank::ZONE }>(grow));
    assert!(complains::<{ rank::HUGE }>(map));
    let range = kmem_core::platform::PageRange { first: 0, count: 1024 };
    // SAFETY: refused before anything happens.
    assert!(complains::<{ rank::ZONE }>(move |machine| assert!(unsafe { machine.discard(range) })));
    // SAFETY: as above.
    assert!(complains::<{ rank::ZONE }>(move |machine| unsafe { machine.release(range) }));
}

#[test]
fn sleepers_are_woken_and_no_count_is_lost() {
    let machine = Machine::builder().cpus(4).build();
    let lock: Arc<Lock<u64, { rank::NODE }>> = Arc::new(Lock::new(0));
    let inside = AtomicU64::new(0);
    let rounds = 3000;
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (machine, lock, inside) = (machine.clone(), Arc::clone(&lock), &inside);
            scope.spawn(move || {
                machine.set_cpu(thread % 4);
                for round in 0..rounds {
                    let mut guard = lock.lock(&machine);
                    assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0, "two owners");
                    *guard += 1;
                    if round % 100 == 0 {
                        // Give up the real CPU with the lock held: now the others must sleep.
                        std::thread::yield_now();
                    }
                    inside.fetch_sub(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(*lock.lock(&machine), 8 * rounds);
    assert!(machine.counters().lock_waits > 0, "nobody ever slept");
}

#[test]
fn a_machine_judges_only_its_own_locks() {
    let (one, two) = (Machine::builder().build(), Machine::builder().build());
    let zone: Lock<(), { rank::ZONE }> = Lock::new(());
    let node: Lock<(), { rank::NODE }> = Lock::new(());
    let _zone = zone.lock(&one);
    let _node = node.lock(&two);
    assert_eq!((one.highest_lock(), two.highest_lock()), (Some(rank::ZONE), Some(rank::NODE)));
}
