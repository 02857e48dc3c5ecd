//! The leak report tells what is lost from what was kept.

use std::ffi::OsStr;
use std::process::Command;

use crate::support::{Heap, KMEM, Outcome, command, compiled, engine, outcome};

fn run(heap: Heap, what: &str, show: &str) -> Outcome {
    let mut command = command(&compiled("reach.c", &["-O1", "-w"].map(OsStr::new)), heap);
    let run = outcome(ending(command.arg(what).env("KMEM_LEAKS", show)));
    assert!(run.stdout.starts_with("begin\n"), "{run:#?}");
    run
}

fn ending(command: &mut Command) -> &mut Command {
    command.env("KMEM_LEAKS_EXIT", "23")
}

/// First lines of groups.
fn heads(run: &Outcome) -> Vec<&str> {
    run.stderr.lines().filter(|line| line.ends_with(", allocated at")).collect()
}

fn summary(run: &Outcome) -> &str {
    run.stderr.lines().rfind(|line| line.starts_with("SUMMARY")).unwrap_or_default()
}

/// Engines that keep tracks, and who allocated.
fn tracks() -> bool {
    engine() == "slub"
}

#[test]
fn lost_blocks_are_told_and_kept_ones_are_not() {
    if !tracks() {
        return;
    }
    for &heap in KMEM {
        let run = run(heap, "lost", "1");
        assert_eq!(run.status.code(), Some(23), "{run:#?}");
        assert_eq!(
            heads(&run),
            [
                "9437184 bytes in 1 object of 9437184 bytes, definitely lost, allocated at",
                "300000 bytes in 1 object of 300000 bytes, definitely lost, allocated at",
                "480 bytes in 10 objects of 48 bytes, definitely lost, allocated at",
                "1000 bytes in 10 objects of 100 bytes, indirectly lost, allocated at",
            ],
            "{run:#?}"
        );
        assert!(run.stderr.contains("\n        lose+0x") && !run.stderr.contains("keep+0x"), "{run:#?}");
        let sums = "SUMMARY: 9738664 bytes in 22 objects leaked, from 4 places; still reachable: 960 bytes in 20 objects";
        assert!(summary(&run).starts_with(sums), "{run:#?}");
    }
}

/// Without letters the program runs on its CPUs' stacks, and what it lost is told by cache and size. What is free there, or kept, is
/// not; and how to learn who allocated it is said.
#[test]
fn without_letters_lost_blocks_are_told_by_cache() {
    if !["slub", "hardened"].contains(&engine()) {
        return;
    }
    for &heap in KMEM {
        let unchecked = |what: &str, show: &str| {
            let mut command = command(&compiled("reach.c", &["-O1", "-w"].map(OsStr::new)), heap);
            command.arg(what).env("KMEM_LEAKS", show).env("KMEM_LEAKS_EXIT", "23").env("KMEM_DEBUG", "-");
            outcome(&mut command)
        };
        let run = unchecked("lost", "1");
        assert_eq!(run.status.code(), Some(23), "{run:#?}");
        let told: Vec<_> = run.stderr.lines().filter(|line| line.contains(" lost, of cache ")).collect();
        let heads = [
            (" in 2 objects of ", ", definitely lost, of cache kmalloc-large"),
            (" in 10 objects of ", ", definitely lost, of cache kmalloc-"),
            (" in 10 objects of ", ", indirectly lost, of cache kmalloc-"),
        ];
        assert_eq!(told.len(), heads.len(), "{run:#?}");
        for (line, (objects, cache)) in told.iter().zip(heads) {
            assert!(line.contains(objects) && line.contains(cache), "{line}: {run:#?}");
        }
        assert!(run.stderr.lines().last().is_some_and(|line| line.contains("KMEM_DEBUG=U")), "{run:#?}");
        for what in ["", "kept", "exit"] {
            let run = unchecked(what, "1");
            assert_eq!((run.status.code(), run.stderr.as_str()), (Some(0), ""), "{what}: {run:#?}");
        }
    }
}

/// Two blocks that lead to each other, and nobody else to them.
#[test]
fn a_ring_is_lost() {
    if !tracks() {
        return;
    }
    let run = run(Heap::Preloaded, "ring", "1");
    assert_eq!(run.status.code(), Some(23), "{run:#?}");
    assert!(summary(&run).starts_with("SUMMARY: 400 bytes in 2 objects leaked, from "), "{run:#?}");
}

/// Thread-local data, mappings, mappings of the heap, blocks by blocks, pointers inside: none of these is lost.
#[test]
fn what_is_kept_is_not_told() {
    if !tracks() {
        return;
    }
    for &heap in KMEM {
        for what in ["", "kept", "exit"] {
            let quiet = run(heap, what, "1");
            assert!(quiet.status.success() && quiet.stderr.is_empty(), "{what}: {quiet:#?}");
        }
    }
    let all = run(Heap::Preloaded, "kept", "all");
    assert!(all.status.success(), "what can be reached is no leak: {all:#?}");
    for bytes in ["960", "555", "666", "777", "5242880"] {
        let head = format!("{bytes} bytes in ");
        let found = heads(&all).into_iter().find(|line| line.starts_with(&head));
        assert!(
            found.is_some_and(|line| line.ends_with("still reachable, allocated at")),
            "{bytes}: {all:#?}"
        );
    }
}

/// Other threads hold blocks on their stacks and in data of their own; they are stopped for the moment, or, where they refuse, looked at as
/// they are.
#[test]
fn what_other_threads_hold_is_not_lost() {
    if !tracks() {
        return;
    }
    for &heap in KMEM {
        for what in ["threads", "blocked"] {
            let run = run(heap, what, "1");
            assert_eq!(run.status.code(), Some(23), "{run:#?}");
            assert_eq!(
                heads(&run),
                [
                    "48 bytes in 1 object of 48 bytes, definitely lost, allocated at",
                    "100 bytes in 1 object of 100 bytes, indirectly lost, allocated at",
                ],
                "{what}: {run:#?}"
            );
        }
    }
}

/// Pages that cannot be read are passed over.
#[test]
fn closed_pages_are_no_fault() {
    if !tracks() {
        return;
    }
    let run = run(Heap::Preloaded, "closed", "1");
    assert_eq!(run.status.code(), Some(23), "{run:#?}");
    assert_eq!(heads(&run).len(), 2, "{run:#?}");
}

/// Without looking for pointers, as before the end nobody may be stopped: everything that was not freed.
#[test]
fn everything_in_use_is_told_when_asked_for() {
    if !tracks() {
        return;
    }
    let run = run(Heap::Preloaded, "", "in-use");
    assert_eq!(heads(&run), ["960 bytes in 20 objects of 48 bytes, allocated at"], "{run:#?}");
    assert_eq!(run.status.code(), Some(23), "{run:#?}");
}

/// A heap with damage may lead anywhere: nobody follows it.
#[test]
fn after_damage_nobody_looks_for_pointers() {
    if !tracks() {
        return;
    }
    let mut command = command(&compiled("watch.c", &["-O0", "-w"].map(OsStr::new)), Heap::Preloaded);
    let run = outcome(
        command.arg("helper").env("KMEM_LEAKS", "1").env("KMEM_DEBUG", "FZPU").env("KMEM_ON_ERROR", "warn"),
    );
    let leaks: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("SUMMARY")).collect();
    for line in leaks {
        assert!(line.contains("which of them can be reached is not known"), "{run:#?}");
    }
    assert!(!run.stderr.contains("definitely lost"), "{run:#?}");
}
