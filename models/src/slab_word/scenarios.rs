//! Who meets whom on a slab's word, and the bugs that the meetings must find.

use std::rc::Rc;

use loom::thread;

use super::{Bug, Inner, Machine, Object, Word};
use crate::check;

/// Runs each piece on a thread of its own, the first on this one, and looks at what is left.
fn run(machine: Machine, pieces: Vec<fn(&Machine)>) {
    let machine = Rc::new(machine);
    let others: Vec<_> = pieces[1..]
        .iter()
        .map(|&piece| {
            let machine = machine.clone();
            thread::spawn(move || piece(&machine))
        })
        .collect();
    pieces[0](&machine);
    others.into_iter().for_each(|other| other.join().unwrap());
    machine.validate();
}

/// Gives objects back to slab 0 from a CPU whose slab it is not.
fn free(machine: &Machine, objects: &[usize]) {
    machine.free_chain(Some(1), 0, objects);
}

fn free_again(machine: &Machine, got: Vec<Object>) {
    for (slab, object) in got {
        machine.free_chain(None, slab, &[object]);
    }
}

/// A full slab that nobody owns: each free changes what must be done with it.
fn frees_of_a_full_slab(bug: Bug, min_partial: usize, cpu_partial_slabs: usize) -> impl Fn() {
    move || {
        let machine = Machine { min_partial, cpu_partial_slabs, ..Machine::new(bug, 1, 3) };
        run(machine, vec![|m| free(m, &[0]), |m| free(m, &[1]), |m| m.free_chain(None, 0, &[2])]);
    }
}

#[test]
fn full_slab_is_listed_once_and_discarded_once() {
    check(5, frees_of_a_full_slab(Bug::None, 0, 0));
}

#[test]
fn full_slab_is_listed_once_and_kept() {
    check(5, frees_of_a_full_slab(Bug::None, 1, 0));
}

#[test]
fn full_slab_goes_to_one_chain() {
    check(5, frees_of_a_full_slab(Bug::None, 0, 1));
}

#[test]
#[should_panic(expected = "a slab is taken off a list that it is not on")]
fn finds_a_lock_taken_too_late() {
    check(2, frees_of_a_full_slab(Bug::LateLock, 0, 0));
}

#[test]
#[should_panic(expected = "a slab is put on a list that it is on")]
fn finds_a_decision_about_an_old_word() {
    check(2, frees_of_a_full_slab(Bug::DecideOnce, 1, 0));
}

#[test]
#[should_panic(expected = "a slab is taken off a list that it is not on")]
fn finds_a_slab_frozen_too_late() {
    check(2, frees_of_a_full_slab(Bug::FreezeLater, 0, 1));
}

/// A slab of CPU 0 whose objects are with users, but for those in the CPU's hands.
fn with_cpu_slab(bug: Bug, cpu_partial_slabs: usize, hand: Vec<usize>) -> Machine {
    let machine = Machine { cpu_partial_slabs, ..Machine::new(bug, 1, 3) };
    machine.own(0);
    hand.iter().for_each(|&object| machine.slabs[0].held[object].set(false));
    *machine.cpus[0].lock().unwrap() = Inner { slab: Some(0), hand, chain: Vec::new() };
    machine
}

/// A CPU takes what others give back to its slab without any lock: the word alone orders the links.
fn cpu_slab_gets_objects_back(bug: Bug) -> impl Fn() {
    move || {
        let machine = with_cpu_slab(bug, 0, vec![]);
        run(machine, vec![|m| drop(m.take(0, 2)), |m| free(m, &[0, 1]), |m| free(m, &[2])]);
    }
}

#[test]
fn cpu_slab_serves_what_comes_back() {
    check(4, cpu_slab_gets_objects_back(Bug::None));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn finds_links_that_are_not_published() {
    check(2, cpu_slab_gets_objects_back(Bug::RelaxedSwap));
}

/// A CPU gives its slab away, with an object in its hands, while others give objects back to it.
fn frees_during_deactivation(bug: Bug, cpu_partial_slabs: usize) -> impl Fn() {
    move || {
        let machine = with_cpu_slab(bug, cpu_partial_slabs, vec![0]);
        run(machine, vec![|m| m.flush_cpu(0), |m| free(m, &[1]), |m| free(m, &[2])]);
    }
}

#[test]
fn deactivation_keeps_what_is_freed_meanwhile() {
    check(4, frees_during_deactivation(Bug::None, 0));
    check(4, frees_during_deactivation(Bug::None, 1));
}

/// Nothing is free when the CPU gives up: it takes no lock, and the frees find the slab frozen, or full, or listed.
#[test]
fn deactivation_as_a_full_slab() {
    for cpu_partial_slabs in [0, 1] {
        check(4, move || {
            let machine = with_cpu_slab(Bug::None, cpu_partial_slabs, vec![]);
            run(machine, vec![|m| m.flush_cpu(0), |m| free(m, &[1]), |m| free(m, &[2])]);
        });
    }
}

#[test]
#[should_panic(expected = "a slab is taken off a list that it is not on")]
fn finds_a_slab_listed_too_late() {
    check(2, frees_during_deactivation(Bug::LateList, 0));
}

/// A slab moves from the list to a CPU and is used there, down to the objects never carved.
#[test]
fn allocation_meets_frees() {
    check(3, || {
        let machine = Machine { min_partial: 1, ..Machine::new(Bug::None, 1, 3) };
        machine.slabs[0].carved.set(2);
        machine.slabs[0].held[2].set(false);
        machine.slabs[0]
            .word
            .store(Word { head: None, inuse: 2, frozen: false }.bits(), super::Ordering::Release);
        machine.lock().push(0);
        run(machine, vec![|m| free_again(m, m.take(0, 2)), |m| free(m, &[0]), |m| free(m, &[1])]);
    });
}

/// Two CPUs want slabs of the same node, and the slab that both want gets objects back.
#[test]
fn two_cpus_take_different_slabs() {
    check(3, || {
        let machine = Machine { cpu_partial_slabs: 2, ..Machine::new(Bug::None, 2, 2) };
        machine.free_chain(None, 0, &[0]);
        machine.free_chain(None, 1, &[0]);
        run(machine, vec![|m| drop(m.take(0, 1)), |m| drop(m.take(1, 1)), |m| free(m, &[1])]);
    });
}

/// Objects are taken off a slab of the list under the node's lock while others are given back.
fn drain_meets_frees(bug: Bug) -> impl Fn() {
    move || {
        let machine = Machine { min_partial: 1, ..Machine::new(bug, 1, 3) };
        machine.free_chain(None, 0, &[0]);
        run(machine, vec![|m| drop(m.take_from_list(2)), |m| free(m, &[1]), |m| free(m, &[2])]);
    }
}

#[test]
fn nothing_freed_during_a_drain_is_lost() {
    check(3, drain_meets_frees(Bug::None));
}

#[test]
#[should_panic(expected = "I-SLUB-")]
fn finds_a_free_overwritten_by_a_thaw() {
    check(3, drain_meets_frees(Bug::BlindThaw));
}

/// Two threads drain the same slab, and one gives back what it got: the head is the same again, what is behind it is not.
fn drains_meet(bug: Bug) -> impl Fn() {
    move || {
        let machine = Machine::new(bug, 1, 5);
        [3, 2, 1, 0].iter().for_each(|&object| machine.free_chain(None, 0, &[object]));
        run(
            machine,
            vec![|m| drop(m.take_from_list(1)), |m| {
                let got = m.take_from_list(2);
                m.free_chain(None, 0, &[4]);
                m.free_chain(None, 0, &[got[0].1]);
            }],
        );
    }
}

#[test]
fn drains_hand_out_different_objects() {
    check(4, drains_meet(Bug::None));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn finds_a_drain_without_ownership() {
    check(3, drains_meet(Bug::UnlockedDrain));
}

/// The last object comes back while empty slabs are being released.
#[test]
fn an_empty_slab_is_discarded_by_one() {
    for min_partial in [0, 1] {
        check(4, move || {
            let machine = Machine { min_partial, ..Machine::new(Bug::None, 2, 2) };
            machine.free_chain(None, 0, &[0]);
            machine.free_chain(None, 1, &[0]);
            run(
                machine,
                vec![|m| m.release_empty(), |m| free(m, &[1]), |m| {
                    m.free_chain(None, 1, &[1]);
                    m.release_empty();
                }],
            );
        });
    }
}

/// Slabs that frees put on a CPU's chain: the chain overflows, is flushed, and is used, all at once.
#[test]
fn chained_slabs_find_their_way_back() {
    check(3, || {
        let machine = Machine { cpu_partial_slabs: 1, ..Machine::new(Bug::None, 2, 2) };
        run(
            machine,
            vec![
                |m| {
                    m.free_chain(Some(1), 0, &[0]);
                    m.free_chain(Some(1), 1, &[0]);
                },
                |m| m.free_chain(Some(0), 0, &[1]),
                |m| m.flush_cpu(1),
            ],
        );
    });
}

#[test]
fn a_chain_is_used_while_objects_come_back() {
    check(3, || {
        let machine = Machine { cpu_partial_slabs: 1, ..Machine::new(Bug::None, 1, 2) };
        run(machine, vec![|m| free(m, &[0]), |m| free(m, &[1]), |m| free_again(m, m.take(1, 1))]);
    });
}
