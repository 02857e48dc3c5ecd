//! Where threads run, how the script moves and interrupts them, and the rest of the world: time, chance, console.

use std::cell::Cell;

use kmem_core::platform::Platform;
use kmem_core::sync::{Lock, rank};
use kmem_sim::Machine;

#[test]
fn cpus_belong_to_nodes_in_equal_shares() {
    let machine = Machine::builder().cpus(6).nodes(3).build();
    let nodes: Vec<usize> = (0..6).map(|cpu| machine.on_cpu(cpu, || machine.current_node())).collect();
    assert_eq!(nodes, [0, 0, 1, 1, 2, 2]);
    assert_eq!((machine.cpu_of_node(2), machine.nearest_node(2, 0), machine.nearest_node(2, 1)), (4, 2, 0));
}

#[test]
fn a_thread_comes_back_from_on_cpu_even_by_panic() {
    let machine = Machine::builder().cpus(4).build();
    assert_eq!(machine.current_cpu(), 0);
    machine.set_cpu(1);
    machine.on_cpu(2, || {
        assert_eq!(machine.current_cpu(), 2);
        machine.on_cpu(3, || assert_eq!(machine.current_cpu(), 3));
        assert_eq!(machine.current_cpu(), 2);
    });
    let panic = std::panic::catch_unwind(|| machine.on_cpu(3, || panic!("on purpose")));
    assert!(panic.is_err());
    assert_eq!(machine.current_cpu(), 1);
}

#[test]
fn each_thread_has_its_cpu_on_each_machine() {
    let machine = Machine::builder().cpus(4).build();
    let other = Machine::builder().cpus(2).build();
    machine.set_cpu(3);
    other.set_cpu(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!((machine.current_cpu(), other.current_cpu()), (0, 0));
            machine.set_cpu(2);
        });
    });
    assert_eq!((machine.current_cpu(), other.current_cpu()), (3, 1));
}

#[test]
#[should_panic(expected = "CPU 2 of a machine with 2")]
fn a_cpu_that_is_not_there_is_refused() {
    Machine::builder().cpus(2).build().set_cpu(2);
}

#[test]
fn preemption_moves_threads_and_one_seed_moves_them_alike() {
    let walk = |seed, p| {
        let machine = Machine::builder().cpus(4).seed(seed).build();
        machine.preempt_probability(p);
        let walk: Vec<usize> = (0..400).map(|_| machine.current_cpu()).collect();
        let moves = walk.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64;
        assert!((moves..=moves + 1).contains(&machine.counters().migrations));
        walk
    };
    assert_eq!(walk(5, 0.5), walk(5, 0.5));
    assert_ne!(walk(5, 0.5), walk(6, 0.5));
    assert_eq!(walk(5, 0.0), [0; 400]);
    let busy = walk(5, 1.0);
    assert!(busy.windows(2).all(|pair| pair[0] != pair[1]), "certainty moves at every point");
    assert!((0..4).all(|cpu| busy.contains(&cpu)));
}

#[test]
fn one_migration_can_be_put_at_any_point() {
    let machine = Machine::builder().cpus(3).build();
    for n in 1..=5 {
        let seen = machine.migrating(n, 2, || [0; 5].map(|_: i32| machine.current_cpu()));
        // The point comes after the answer: the n-th answer is the last from the old CPU.
        let expected: Vec<usize> = (1..=5).map(|i| if i <= n { 0 } else { 2 }).collect();
        assert_eq!(seen.to_vec(), expected);
        machine.set_cpu(0);
    }
    let before = machine.points();
    machine.migrating(100, 1, || machine.current_cpu());
    assert_eq!(machine.points(), before + 1);
    for _ in 0..200 {
        assert_eq!(machine.current_cpu(), 0, "what did not happen in time does not happen");
    }
}

#[test]
fn an_interruption_runs_once_at_its_point() {
    let machine = Machine::builder().cpus(2).build();
    for n in 1..=4 {
        let step = Cell::new(0);
        let at = Cell::new(None);
        let ((), ran) = machine.interrupted(
            n,
            || {
                assert!(at.replace(Some(step.get())).is_none());
                machine.set_cpu(1);
                // Points of the interruption's own do not interrupt it again.
                machine.current_cpu();
            },
            || {
                for i in 1..=3 {
                    step.set(i);
                    assert_eq!(machine.current_cpu(), 0, "the interrupted thread is where it was");
                }
            },
        );
        assert_eq!(ran, n <= 3);
        assert_eq!(at.get(), (n <= 3).then_some(n));
    }
    assert_eq!(machine.counters().interrupts, 3);
}

#[test]
fn an_interruption_waits_for_locks_to_be_released() {
    let machine = Machine::builder().build();
    let lock: Lock<u32, { rank::NODE }> = Lock::new(0);
    let ((), ran) = machine.interrupted(
        2,
        || *lock.lock(&machine) += 10,
        || {
            let mut guard = lock.lock(&machine); // point 1
            machine.current_cpu(); // points 2 and 3, with the lock held
            machine.current_cpu();
            *guard += 1;
            assert_eq!(*guard, 1);
            drop(guard);
            machine.current_cpu(); // point 4: now
            assert_eq!(*lock.lock(&machine), 11);
        },
    );
    assert!(ran);
}

#[test]
fn a_panic_inside_an_interruption_leaves_the_schedule_clean() {
    let machine = Machine::builder().build();
    let panic = std::panic::catch_unwind(|| {
        machine.interrupted(1, || panic!("on purpose"), || machine.current_cpu());
    });
    assert!(panic.is_err());
    let (cpu, ran) = machine.interrupted(1, || (), || machine.current_cpu());
    assert_eq!((cpu, ran), (0, true));
}

#[test]
fn a_thread_keeps_scripts_and_locks_on_any_number_of_machines() {
    let first = Machine::builder().cpus(2).build();
    let lock: Lock<(), { rank::NODE }> = Lock::new(());
    let _held = lock.lock(&first);
    for _ in 0..40 {
        Machine::builder().memory_per_node(1024).build().current_cpu();
    }
    assert_eq!(first.highest_lock(), Some(rank::NODE));
}

#[test]
fn time_passes_only_when_told() {
    let machine = Machine::builder().build();
    let start = machine.now();
    assert_eq!(machine.now(), start);
    machine.advance(1_500);
    assert_eq!(machine.now(), start + 1_500);
}

#[test]
fn entropy_is_the_seeds() {
    let draw = |seed| {
        let machine = Machine::builder().seed(seed).build();
        [0; 8].map(|_: i32| machine.entropy())
    };
    assert_eq!(draw(1), draw(1));
    let (a, b) = (draw(1), draw(2));
    assert!(a.iter().all(|x| !b.contains(x)));
}

#[test]
fn the_console_is_captured_and_fatal_reports_are_caught() {
    let machine = Machine::builder().build();
    machine.console("one ");
    machine.console("two\n");
    assert_eq!(machine.take_console(), "one two\n");
    assert_eq!(machine.take_console(), "");
    let text = machine.expect_fatal(|| {
        machine.console("BUG mycache: object 0x10 was freed twice\n");
        machine.fatal();
    });
    assert_eq!(text, "BUG mycache: object 0x10 was freed twice\n");
}

#[test]
#[should_panic(expected = "no fatal report")]
fn a_fatal_report_that_does_not_come_is_noticed() {
    Machine::builder().build().expect_fatal(|| 5);
}

#[test]
#[should_panic(expected = "another reason")]
fn another_panic_is_not_taken_for_a_fatal_report() {
    Machine::builder().build().expect_fatal(|| panic!("another reason"));
}

#[test]
fn lock_tokens_tell_threads_apart() {
    let machine = Machine::builder().build();
    let mine = machine.lock_token();
    assert!(mine > 0 && mine <= i32::MAX as u32);
    assert_eq!(machine.lock_token(), mine);
    let other = std::thread::scope(|scope| scope.spawn(|| machine.lock_token()).join().expect("a token"));
    assert_ne!(mine, other);
}
