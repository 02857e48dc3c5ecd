//! The hardened heap stops each sin of `hardened.c`, says which it was, and leaves a sound program alone.

use std::path::Path;

use crate::support::{Heap, KMEM, Outcome, command, compiled, engine, outcome};

const SIGABRT: i32 = 6;
const SIGSEGV: i32 = 11;

fn run(heap: Heap, case: &str) -> Outcome {
    let program = compiled("hardened.c", &[]);
    outcome(command(Path::new(&program), heap).arg(case))
}

/// The library under test is the hardened one.
fn hardened() -> bool {
    engine() == "hardened"
}

/// What a case ends with, and a part of what is said.
const STOPPED: &[(&str, &str)] = &[
    ("over-1", "(cache kmalloc-48) was written past its end"),
    ("over-nul", "was written past its end"),
    ("over-8", "was written past its end"),
    ("over-whole-class", "(cache kmalloc-64) was written past its end"),
    ("over-slack", "(cache kmalloc-1280) was written past its end"),
    ("over-1000", "was written past its end"),
    ("over-30000", "was written past its end"),
    ("over-none", "was written past its end"),
    ("over-realloc", "was written past its end"),
    ("over-usable", "was written past its end"),
    ("over-resized", "was written past its end"),
    ("under-1", "was written "),
    ("after-first", "was written to after it was freed"),
    ("after-middle", "was written to after it was freed"),
    ("after-last", "was written to after it was freed"),
    ("after-2000", "was written to after it was freed"),
    ("after-20000", "was written to after it was freed"),
    ("usable-freed", "was freed before (cache kmalloc-80)"),
    ("realloc-freed", "was freed before (cache kmalloc-80)"),
    ("sized-more", "it has 40 bytes, not 41"),
    ("sized-less", "it has 40 bytes, not 39"),
    ("sized-delete", "it has 100 bytes, not 104"),
    ("sized-large", "not 200000"),
    ("aligned-wrong", "it is not aligned to 4096"),
];

#[test]
fn what_the_heap_notices_is_named_and_stopped() {
    for &heap in if hardened() { KMEM } else { &[] } {
        for (case, told) in STOPPED {
            let outcome = run(heap, case);
            assert_eq!(outcome.signal(), Some(SIGABRT), "{case} on {heap:?}: {outcome:#?}");
            assert_eq!(outcome.stdout, "", "{case} on {heap:?}: {outcome:#?}");
            assert!(outcome.stderr.starts_with("kmem: "), "{case} on {heap:?}: {outcome:#?}");
            assert!(outcome.stderr.contains(told), "{case} on {heap:?}: {outcome:#?}");
        }
    }
}

#[test]
fn what_touches_guard_pages_is_stopped_by_the_system() {
    for &heap in if hardened() { KMEM } else { &[] } {
        for case in ["large-over", "large-under", "large-after", "large-read-after", "huge-after", "wall"] {
            let outcome = run(heap, case);
            assert_eq!(outcome.signal(), Some(SIGSEGV), "{case} on {heap:?}: {outcome:#?}");
        }
    }
}

/// Whoever of the two comes second; not "nearly always".
#[test]
fn two_threads_that_free_one_block_at_once_are_noticed() {
    for &heap in if hardened() { KMEM } else { &[] } {
        for turn in 0..20 {
            let outcome = run(heap, "twice-at-once");
            assert_eq!(outcome.signal(), Some(SIGABRT), "turn {turn} on {heap:?}: {outcome:#?}");
            assert!(outcome.stderr.contains("double free of 0x"), "turn {turn} on {heap:?}: {outcome:#?}");
        }
    }
}

#[test]
fn sound_programs_are_left_alone() {
    for &heap in if hardened() { KMEM } else { &[] } {
        for case in ["sound", "pinned"] {
            let outcome = run(heap, case);
            let ended = (outcome.signal(), outcome.stdout.as_str(), outcome.stderr.as_str());
            assert_eq!(ended, (None, "on\n", ""), "{case} on {heap:?}");
        }
    }
}

#[test]
fn where_blocks_lie_differs_from_run_to_run() {
    if hardened() {
        let [first, second] = [0, 1].map(|_| run(Heap::Preloaded, "order").stdout);
        assert!(first.ends_with(" on\n") && first != second, "{first}{second}");
    }
}
