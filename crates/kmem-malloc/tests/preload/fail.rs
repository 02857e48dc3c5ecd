//! `KMEM_FAIL` and `KMEM_FAIL_REPORT`: requests of a C program fail as the rule says, and the report tells which.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Heap, KMEM, Outcome, ScratchDir, command, compiled, engine, outcome, usual_or};

fn program() -> PathBuf {
    // Blocks must not be known to the compiler.
    compiled("fail.c", &["-O0"].map(OsStr::new))
}

fn run_on(heap: Heap, arguments: &[&str], rule: &str, report: Option<&Path>) -> Outcome {
    let mut command = command(&program(), heap);
    command.args(arguments).env("KMEM_FAIL", rule);
    match report {
        Some(report) => command.env("KMEM_FAIL_REPORT", report),
        None => command.env_remove("KMEM_FAIL_REPORT"),
    };
    outcome(&mut command)
}

fn run(arguments: &[&str], rule: &str, report: Option<&Path>) -> Outcome {
    run_on(Heap::Preloaded, arguments, rule, report)
}

/// What the program printed, when it came to its end and nothing was said.
fn letters(arguments: &[&str], rule: &str) -> String {
    let outcome = run(arguments, rule, None);
    assert!(outcome.status.success() && outcome.stderr.is_empty(), "{arguments:?} {rule}: {outcome:#?}");
    outcome.stdout.trim_end().to_owned()
}

#[test]
fn every_way_to_ask_is_refused() {
    for &heap in KMEM {
        for size in [100, 1000, 3000, 20_000, 300_000, 6_000_000, 12_000_000] {
            let rule = format!("size={size}-{size}");
            let outcome = run_on(heap, &["every", &size.to_string()], &rule, None);
            assert_eq!(
                (outcome.stdout.as_str(), outcome.stderr.as_str()),
                ("ok\n", ""),
                "{size} bytes on {heap:?}: {outcome:?}"
            );
        }
    }
}

/// What is behind a request fails too, and malloc asks again, as when memory is short: pages that are there the second
/// time serve.
#[test]
fn pages_that_fail_once_do_not_fail_the_program() {
    let rule = "page:size=-100000,nth=1";
    assert_eq!(letters(&["draw"], rule), ".".repeat(200));
}

#[test]
fn draws_repeat_with_their_seed() {
    let rule = |seed| format!("probability=20,since=main,seed={seed}");
    let first = letters(&["draw"], &rule(1));
    let failed = first.matches('x').count();
    assert!((20..60).contains(&failed), "{failed} of 200: {first}");
    assert_eq!(letters(&["draw"], &rule(1)), first);
    assert_ne!(letters(&["draw"], &rule(2)), first);
    assert_eq!(letters(&["draw"], "interval=3,times=2,since=main"), format!("..x..x{}", ".".repeat(194)));
}

#[test]
fn caches_with_the_letter_a_are_meant() {
    if engine() == "slob" {
        return;
    }
    let with_letters = |letters: &str| {
        let mut command = command(&program(), Heap::Preloaded);
        command.arg("draw").env("KMEM_FAIL", "cache-filter,since=main").env("KMEM_DEBUG", letters);
        let outcome = outcome(&mut command);
        assert_eq!(outcome.stderr, "", "{letters}");
        outcome.stdout.matches('x').count()
    };
    assert_eq!(with_letters(usual_or("A,kmalloc-104", "A,kmalloc-112")), 200);
    assert_eq!(with_letters(usual_or("A,kmalloc-88", "A,kmalloc-96")), 0);
}

#[test]
fn the_report_tells_which_request_failed_and_who_asked() {
    let scratch = ScratchDir::new();
    let path = scratch.path().join("fail");
    let outcome = run(&["draw"], "nth=7,since=main", Some(&path));
    assert_eq!(outcome.stdout.find('x'), Some(6), "{outcome:?}");
    let text = fs::read_to_string(&path).expect("a report");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "kmem-fail 1");
    assert!(lines[1].starts_with("process ") && lines[1].ends_with(" fail"), "{text}");
    let class = if engine() == "slob" { "slob" } else { usual_or("kmalloc-104", "kmalloc-112") };
    assert_eq!(lines[2], format!("failed 7 failmalloc 100 {class}"));
    // letter, main; below them whatever the C library has.
    for line in &lines[3..5] {
        assert!(line.starts_with("frame 0x") && line.ends_with(&program().display().to_string()), "{text}");
    }
    assert!(lines[5].ends_with("/libc.so.6"), "{text}");
    assert!(!text.contains("libkmem"), "{text}");
    assert_eq!(lines.last(), Some(&"asked failmalloc 200"), "{text}");
    assert!(outcome.stderr.is_empty());
    // The file is another process's now.
    let second = run(&["draw"], "nth=7,since=main", Some(&path));
    assert_eq!(second.stdout.find('x'), None, "{second:?}");
    assert_eq!(fs::read_to_string(&path).expect("a report"), text);
}

#[test]
fn with_a_report_one_process_has_one_failure() {
    let scratch = ScratchDir::new();
    let report = |name: &str| scratch.path().join(name);
    // A copy has failures of its own, unless somebody wants to know of one process.
    assert_eq!(letters(&["fork"], "nth=1,since=main"), "xx");
    assert_eq!(run(&["fork"], "nth=1,since=main", Some(&report("a"))).stdout, ".x\n");
    // What takes the program's place goes on with its file.
    let other = program().display().to_string();
    let exec = run(&["exec", &other], "nth=1,since=main", Some(&report("b")));
    assert_eq!(exec.stdout, format!("x{}\n", ".".repeat(200)));
    let exec = run(&["exec", &other], "nth=2,since=main", Some(&report("c")));
    assert_eq!(exec.stdout, format!("..x{}\n", ".".repeat(198)));
}

#[test]
fn who_asks_may_matter() {
    assert_eq!(letters(&["thread"], "size=100,task=main"), ".x");
    assert_eq!(letters(&["thread"], "size=100"), "xx");
    assert_eq!(letters(&["draw"], "program=fail,nth=1,since=main").find('x'), Some(0));
    assert_eq!(letters(&["draw"], "program=other|f,nth=1,since=main").find('x'), None);
    assert_eq!(letters(&["draw"], "stack=lett*,nth=3").find('x'), Some(2));
    assert_eq!(letters(&["draw"], "stack=in_thread,size=100").find('x'), None);
    assert_eq!(letters(&["thread"], "stack=in_thread,size=100"), "x.");
    assert_eq!(letters(&["thread"], "no-stack=in_thread,stack=libc.so.6,size=100"), ".x");
}

#[test]
fn failures_are_told_if_asked() {
    let outcome = run(&["draw"], "nth=2,since=main,verbose=1", None);
    let class = if engine() == "slob" { "slob" } else { usual_or("kmalloc-104", "kmalloc-112") };
    assert_eq!(
        outcome.stderr,
        format!(
            "kmem: fail[{}]: FAULT_INJECTION: forcing a failure.\n\
             name failmalloc, interval 1, probability 100, space 0, times -1\n\
             request 2: 100 bytes of {class}\n",
            outcome.pid
        )
    );
}

#[test]
fn what_cannot_be_understood_is_said() {
    let outcome = run(&["draw"], "nth=0", None);
    assert_eq!(
        (outcome.stdout.find('x'), outcome.words("fail")),
        (None, vec!["KMEM_FAIL: 'nth=0' has a value that it cannot have: no faults are injected"])
    );
    assert_eq!(letters(&["draw"], "").find('x'), None);
}
