//! The CPU layer on slots alone, as under `KMEM_RSEQ=0`. In a process of its own: the first heap
//! decides for all.

#[path = "host/mod.rs"]
mod support;

use kmem::host::Ownership;
use kmem_core::platform::Platform;
use support::{ID, Rig, host};

#[test]
fn slots_are_used_when_asked_for() {
    let portable = host(true);
    assert_eq!(portable.cpus_layer().ownership(), Ownership::Portable);
    // A later heap that would rather not is not asked.
    assert_eq!(host(false).cpus_layer().ownership(), Ownership::Portable);
    assert!(portable.current_cpu() < portable.cpus());
}

#[test]
fn no_object_has_two_owners() {
    support::stress(&Rig::new(host(true), ID, 256), 16, 100_000);
}

#[test]
fn stacks_can_be_seized_under_fire() {
    support::stress_under_seizure(&Rig::new(host(true), ID, 256), 3, 60_000);
}

#[test]
fn signal_handlers_may_interrupt_anything() {
    support::signal_storm(host(true), 3, 1000);
}

#[test]
fn children_of_a_fork_find_sound_stacks() {
    support::fork_under_fire(&Rig::new(host(true), ID, 256), 4, 60);
}

#[test]
fn threads_are_dealt_to_slots_in_turn() {
    let host = host(true);
    let mut seen = vec![0; host.cpus()];
    for _ in 0..host.cpus() * 8 {
        let cpu = std::thread::spawn(|| host.current_cpu()).join().expect("a thread");
        seen[cpu] += 1;
    }
    assert!(seen.iter().all(|&count| count > 0), "a slot that nobody got: {seen:?}");
}
