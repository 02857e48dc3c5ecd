//! The hardened heap stops each sin of `hardened.c`, says which it was, and leaves a sound program alone.

use std::path::Path;

use crate::support::{
    ALL, Heap, KMEM, Outcome, ScratchDir, command, compiled, engine, library, library_of, outcome,
};

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
    ("over-65536", "(cache kmalloc-80k) was written past its end"),
    ("over-jump", "was written to after it was freed"),
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
    ("after-65536", "was written to after it was freed"),
    ("twice-65536", "double free of 0x"),
    ("usable-freed", "was freed before (cache kmalloc-80)"),
    ("realloc-freed", "was freed before (cache kmalloc-80)"),
    ("sized-more", "it has 40 bytes, not 41"),
    ("sized-less", "it has 40 bytes, not 39"),
    ("sized-delete", "it has 100 bytes, not 104"),
    ("sized-large", "not 200000"),
    ("aligned-wrong", "not asked for with an alignment of 4096"),
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

/// A write before a block, by the call that notices it. The block before stays in use, and nobody gives it back.
const LEFT: &[(&str, &str)] = &[
    ("left-1", "free"),
    ("left-nul", "free"),
    ("left-8", "free"),
    ("left-small", "free"),
    ("left-sized", "free"),
    ("left-realloc", "realloc"),
    ("left-usable", "malloc_usable_size"),
    ("left-free", "free"),
];

/// The message is all that is said, and the process ends, also where its user would go on after errors.
#[test]
fn what_is_written_before_a_block_is_noticed_at_the_block() {
    for &heap in if hardened() { KMEM } else { &[] } {
        for (case, call) in LEFT {
            for on_error in ["abort", "warn"] {
                let program = compiled("hardened.c", &[]);
                let mut command = command(Path::new(&program), heap);
                let outcome = outcome(command.arg(case).env("KMEM_ON_ERROR", on_error));
                let block = outcome.stdout.trim_end();
                let damage = "was written before its start, or the block before it past its end";
                let said = format!("{call}(): {block} (cache kmalloc-48) {damage}");
                assert_eq!(outcome.words("hardened"), [said], "{case} on {heap:?}, {on_error}: {outcome:#?}");
                assert_eq!(outcome.signal(), Some(SIGABRT), "{case} on {heap:?}, {on_error}: {outcome:#?}");
            }
        }
    }
}

/// What the system stops: the access, and where it was.
const TOUCHED: &[(&str, &str, &str)] = &[
    ("large-over", "write to", "2400 bytes behind a block of 100000 bytes"),
    ("large-over-1", "write to", "right behind a block of 102400 bytes"),
    ("large-over-zero", "write to", "1 byte behind a block of 102400 bytes"),
    ("large-over-aligned", "write to", "4096 bytes behind a block of 81920 bytes"),
    ("large-over-resized", "write to", "1400 bytes behind a block of 101000 bytes"),
    ("large-over-grown", "write to", "right behind a block of 204800 bytes"),
    ("large-under", "write to", "1 byte before a block of 100000 bytes"),
    ("large-read-under", "read of", "4096 bytes before a block of 100000 bytes"),
    ("large-after", "write to", "50000 bytes into a block of 100000 bytes that was freed"),
    ("large-after-start", "write to", "at the start of a block of 100000 bytes that was freed"),
    ("large-after-many", "write to", "50000 bytes into a block of 100000 bytes that was freed"),
    ("large-read-after", "read of", "50000 bytes into a block of 100000 bytes that was freed"),
    ("large-over-after", "write to", "2400 bytes behind a block of 100000 bytes that was freed"),
    ("huge-after", "write to", "5242880 bytes into a block of 8388608 bytes that was freed"),
    ("vast-after", "read of", "5242880 bytes into a block of 67108864 bytes that was freed"),
    ("moved", "write to", "5 bytes into a block of 100000 bytes that was freed"),
    ("in-a-thread", "write to", "1 byte before a block of 100000 bytes"),
];

/// The verb, where the processor tells.
fn verb(verb: &str) -> &str {
    if cfg!(target_arch = "x86_64") { verb } else { "access to" }
}

#[test]
fn what_touches_guard_pages_is_named_and_stopped_by_the_system() {
    for &heap in if hardened() { KMEM } else { &[] } {
        for (case, access, place) in TOUCHED {
            let outcome = run(heap, case);
            assert_eq!(outcome.signal(), Some(SIGSEGV), "{case} on {heap:?}: {outcome:#?}");
            let said = format!("{} {}, {place}", verb(access), outcome.stdout.trim_end());
            assert_eq!(outcome.words("hardened"), [said], "{case} on {heap:?}");
        }
        let outcome = run(heap, "wall");
        assert_eq!(outcome.signal(), Some(SIGSEGV), "{heap:?}: {outcome:#?}");
        let words = outcome.words("hardened");
        assert_eq!(words.len(), 1, "{heap:?}: {outcome:#?}");
        assert!(words[0].starts_with(verb("read of")), "{heap:?}: {outcome:#?}");
        assert!(words[0].ends_with(", in the wall behind a region of kmalloc-80"), "{heap:?}: {outcome:#?}");
    }
}

/// A child's fault is the child's, and a program's own handler gets its own.
#[test]
fn whose_fault_it_is() {
    for &heap in if hardened() { KMEM } else { &[] } {
        let forked = run(heap, "in-a-child");
        let child = forked.stdout.split(' ').next().unwrap_or_default();
        assert_eq!(forked.stdout, format!("{child} {SIGSEGV}\non\n"), "{heap:?}: {forked:#?}");
        assert!(forked.stderr.starts_with(&format!("kmem: hardened[{child}]: ")), "{heap:?}: {forked:#?}");
        assert!(
            forked.stderr.ends_with(", 1 byte before a block of 100000 bytes\n"),
            "{heap:?}: {forked:#?}"
        );
        assert_eq!(forked.stderr.lines().count(), 1, "{heap:?}: {forked:#?}");

        let handled = run(heap, "own-handler");
        let mut lines = handled.stdout.lines();
        let places = [
            "1 byte before a block of 100000 bytes",
            "at the start of a block of 100000 bytes that was freed",
        ];
        let said =
            places.map(|place| format!("{} {}, {place}", verb("write to"), lines.next().unwrap_or("?")));
        assert_eq!(lines.collect::<Vec<_>>(), ["on"], "{heap:?}: {handled:#?}");
        assert_eq!(
            (handled.signal(), handled.words("hardened")),
            (None, said.iter().map(String::as_str).collect())
        );
    }
}

/// On any heap, and none has anything to say.
#[test]
fn faults_of_the_program_are_its_own() {
    for &heap in ALL {
        let outcome = run(heap, "own-faults");
        let ended = (outcome.signal(), outcome.stdout.as_str(), outcome.stderr.as_str());
        assert_eq!(ended, (None, "on\n", ""), "{heap:?}");
        let outcome = run(heap, "null");
        let ended = (outcome.signal(), outcome.stdout.as_str(), outcome.stderr.as_str());
        assert_eq!(ended, (Some(SIGSEGV), "", ""), "{heap:?}");
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
        for case in ["sound", "pinned", "left-none"] {
            let outcome = run(heap, case);
            let said = outcome.stdout.lines().last();
            let ended = (outcome.signal(), said, outcome.stderr.as_str());
            assert_eq!(ended, (None, Some("on"), ""), "{case} on {heap:?}");
        }
    }
}

/// Six megabytes that come and go are more than a class keeps at first. It learns, and forgets when they do not come any more.
#[test]
fn what_comes_and_goes_stays_in_memory_for_a_while() {
    for &heap in if hardened() { KMEM } else { &[] } {
        let outcome = run(heap, "rounds");
        let numbers: Vec<i64> = outcome.stdout.split(' ').map_while(|number| number.parse().ok()).collect();
        let &[early, late, full, idle] = &numbers[..] else { panic!("{heap:?}: {outcome:#?}") };
        assert!(late - early < 100, "twenty rounds of 1600 pages on {heap:?}: {numbers:?}");
        assert!(idle + 4096 < full, "two looks later on {heap:?}: {numbers:?}");
    }
}

/// Of 100 blocks of 64 pages, and at last of 1024: as many pages are made at once as the blocks before let expect.
#[test]
fn what_is_touched_every_time_is_made_at_once() {
    for &heap in if hardened() { KMEM } else { &[] } {
        let outcome = run(heap, "touched");
        let numbers: Vec<usize> = outcome.stdout.split(' ').map_while(|number| number.parse().ok()).collect();
        let &[before, touched, after, long] = &numbers[..] else { panic!("{heap:?}: {outcome:#?}") };
        assert_eq!((before, after), (0, 0), "untouched ones, on {heap:?}");
        assert!(touched >= 80 * 64 && long >= 80 * 1024, "{numbers:?} on {heap:?}");
    }
}

/// A block that has the pages of another is as closed as any, before and after its free.
#[test]
fn pages_that_are_handed_on_are_nobody_elses() {
    let program = compiled("pages.c", &[]);
    let touched = [
        ("after", "write to", "5000 bytes into a block of 262144 bytes that was freed"),
        ("after-next", "read of", "at the start of a block of 262144 bytes that was freed"),
        ("over", "write to", "right behind a block of 262144 bytes"),
    ];
    for &heap in if hardened() { KMEM } else { &[] } {
        for (case, access, place) in touched {
            let outcome = outcome(command(&program, heap).arg(case));
            assert_eq!(outcome.signal(), Some(SIGSEGV), "{case} on {heap:?}: {outcome:#?}");
            let said = format!("{} {}, {place}", verb(access), outcome.stdout.trim_end());
            assert_eq!(outcome.words("pages"), [said], "{case} on {heap:?}");
        }
    }
}

/// Nor do they stay when nobody wants them, or somebody else needs memory. What their last holder asked the system for does not go with them.
#[test]
fn pages_that_are_handed_on_go_when_they_should() {
    let program = compiled("pages.c", &[]);
    for &heap in if hardened() { KMEM } else { &[] } {
        for case in ["idle", "trim", "limit", "protected", "forked"] {
            let outcome = outcome(command(&program, heap).arg(case));
            let ended = (outcome.signal(), outcome.stdout.as_str(), outcome.stderr.as_str());
            assert_eq!(ended, (None, "ok\n", ""), "{case} on {heap:?}");
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

/// A block of 64 bytes takes 80. Its class has the same part of the quarantine as each of the others.
#[test]
fn a_freed_block_waits_in_the_quarantine() {
    for &heap in if hardened() { KMEM } else { &[] } {
        let away = |bytes: Option<&str>| {
            let mut command = command(&compiled("quarantine.c", &[]), heap);
            let outcome = outcome(command.envs(bytes.map(|bytes| ("KMEM_QUARANTINE", bytes))));
            let ended = (outcome.signal(), outcome.stderr.as_str());
            assert_eq!(ended, (None, ""), "{bytes:?} on {heap:?}: {outcome:#?}");
            outcome.stdout.trim().parse::<usize>().expect("a number")
        };
        assert_eq!(away(None), 0, "{heap:?}");
        assert_eq!(away(Some("100")), 0, "{heap:?}: not a block of each class");
        let [small, large] = ["512k", "4M"].map(|bytes| away(Some(bytes)));
        assert!(small >= 32 && large == 8 * small && large * 80 < 4 << 20, "{heap:?}: {small} {large}");
    }
}

#[test]
fn a_quarantine_of_no_number_is_told() {
    if hardened() {
        let mut command = command(&compiled("quarantine.c", &[]), Heap::Preloaded);
        let outcome = outcome(command.env("KMEM_QUARANTINE", "much"));
        let said = "KMEM_QUARANTINE is a number of bytes, like 1048576, 512k or 8M";
        assert_eq!((outcome.stdout.as_str(), outcome.words("quarantine")), ("0\n", vec![said]));
    }
}

/// Where the hardened library lies beside the usual one, under the name that it is installed by, `KMEM_HARDENED=1` means it: the
/// program runs on the hardened heap, and so do its children. Where it does not, nothing runs on less.
#[test]
fn the_usual_library_hands_over_to_the_hardened_one() {
    if engine() != "slub" {
        return;
    }
    let dir = ScratchDir::new();
    let usual = dir.path().join("libkmem_malloc.so");
    std::fs::copy(library(), &usual).expect("a copy");
    let run = |program: &[&str]| {
        let mut command = command(Path::new(program[0]), Heap::Plain);
        command.args(&program[1..]).env("LD_PRELOAD", &usual).env("KMEM_HARDENED", "1");
        outcome(&mut command)
    };
    let alone = run(&["/bin/echo", "on"]);
    assert_eq!((alone.signal(), alone.stdout.as_str()), (Some(SIGABRT), ""), "{alone:#?}");
    assert!(alone.stderr.contains("libkmem_malloc_hardened.so"), "{alone:#?}");

    std::fs::copy(library_of("hardened"), dir.path().join("libkmem_malloc_hardened.so")).expect("a copy");
    let sin = compiled("hardened.c", &[]);
    let sin = sin.to_str().expect("a name");
    let caught = run(&[sin, "over-1"]);
    assert_eq!(caught.signal(), Some(SIGABRT), "{caught:#?}");
    assert!(caught.words("hardened")[0].contains("was written past its end"), "{caught:#?}");
    // The process has the name that it had.
    assert_eq!(run(&["/bin/cat", "/proc/self/comm"]).stdout, "cat\n");
    let link = dir.path().join("another");
    std::os::unix::fs::symlink("/bin/cat", &link).expect("a link");
    assert_eq!(run(&[link.to_str().expect("a name"), "/proc/self/comm"]).stdout, "another\n");
    let child = run(&["/bin/sh", "-c", "\"$0\" over-1; echo $? $#; cat /proc/self/maps", sin, "a b", "c"]);
    assert!(child.stdout.starts_with("134 2\n"), "{child:#?}");
    let mapped: Vec<_> = child.stdout.lines().filter(|line| line.contains("libkmem_malloc")).collect();
    assert!(!mapped.is_empty(), "{child:#?}");
    assert!(mapped.iter().all(|line| line.ends_with("libkmem_malloc_hardened.so")), "{child:#?}");
    let sound = run(&[sin, "sound"]);
    assert_eq!((sound.stdout.as_str(), sound.stderr.as_str()), ("on\n", ""), "{sound:#?}");
}

#[test]
fn the_report_says_that_the_heap_is_hardened() {
    let dir = ScratchDir::new();
    let mut command = command(&compiled("report.c", &[]), Heap::Preloaded);
    let outcome = outcome(command.arg("return").env("KMEM_REPORT_DIR", dir.path()));
    assert!(outcome.status.success(), "{outcome:#?}");
    let reports: Vec<String> = std::fs::read_dir(dir.path())
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("report.")))
        .map(|path| std::fs::read_to_string(path).expect("a report"))
        .collect();
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].lines().any(|line| line == "build hardened"), hardened(), "{}", reports[0]);
}
