//! `KMEM_GUARD`: faults of a C program on guarded blocks are reported at the instruction, and end it or do not; all other faults are
//! the program's own.

use std::ffi::OsStr;
use std::fs;

use crate::support::{
    ALL, Heap, KMEM, Outcome, ScratchDir, THREADED, command, compiled, engine, outcome, usual_or,
};

const SIGABRT: i32 = 6;

fn run(heap: Heap, case: &str, on_error: Option<&str>) -> Outcome {
    let mut command = command(&compiled("guard.c", &["-O0", "-w"].map(OsStr::new)), heap);
    command.arg(case).env("KMEM_GUARD", "all");
    if let Some(on_error) = on_error {
        command.env("KMEM_ON_ERROR", on_error);
    }
    outcome(&mut command)
}

/// What a case must be called, its line with `AT` for the address; the address's distance from the block; whether the
/// block was freed before.
struct Case {
    name: &'static str,
    title: &'static str,
    line: &'static str,
    distance: isize,
    freed: bool,
}

const fn case(
    name: &'static str,
    title: &'static str,
    line: &'static str,
    distance: isize,
    freed: bool,
) -> Case {
    Case { name, title, line, distance, freed }
}

const CASES: &[Case] = &[
    case("read-right", "out-of-bounds read", "Out-of-bounds read at AT (48B right of guard-#N):", 48, false),
    case(
        "write-right",
        "out-of-bounds write",
        "Out-of-bounds write at AT (48B right of guard-#N):",
        48,
        false,
    ),
    case("read-left", "out-of-bounds read", "Out-of-bounds read at AT (1B left of guard-#N):", -1, false),
    case("write-left", "out-of-bounds write", "Out-of-bounds write at AT (1B left of guard-#N):", -1, false),
    case("read-freed", "use-after-free read", "Use-after-free read at AT (in guard-#N):", 3, true),
    case("write-freed", "use-after-free write", "Use-after-free write at AT (in guard-#N):", 47, true),
    case("thread-freed", "use-after-free read", "Use-after-free read at AT (in guard-#N):", 3, true),
    case("after-realloc", "use-after-free read", "Use-after-free read at AT (in guard-#N):", 0, true),
    case("own-handler", "use-after-free read", "Use-after-free read at AT (in guard-#N):", 3, true),
    case("in-child", "use-after-free read", "Use-after-free read at AT (in guard-#N):", 3, true),
    case("twice", "invalid free", "Invalid free of AT (in guard-#N):", 0, true),
    case("interior", "invalid free", "Invalid free of AT (in guard-#N):", 1, false),
    case(
        "pattern-right",
        "memory corruption",
        "Corrupted memory at AT [ 0x01 . . . . . . . . . . . . . . . ] (in guard-#N):",
        48,
        false,
    ),
    case("pattern-left", "memory corruption", "Corrupted memory at AT [ 0x01 ] (in guard-#N):", -1, false),
];

/// The report on standard error is this case's, part by part, and names the block that the program printed.
fn check(case: &Case, outcome: &Outcome, told: &str) {
    let address = outcome.stdout.lines().next().and_then(|text| text.strip_prefix("0x"));
    let block = usize::from_str_radix(address.unwrap_or_else(|| panic!("{told}")), 16).expect("an address");
    check_of(case, outcome, "guard", block, told);
}

/// The same, of this program and this block.
fn check_of(case: &Case, outcome: &Outcome, program: &str, block: usize, told: &str) {
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let rule = "=".repeat(66);
    let number = lines.iter().find_map(|line| line.strip_prefix("guard-#")?.split(':').next());
    let number = number.unwrap_or_else(|| panic!("{told}"));
    let cache = if engine() == "slob" { "slob" } else { usual_or("kmalloc-56", "kmalloc-48") };

    let mut parts = lines.split(|line| line.is_empty());
    let mut part = || parts.next().unwrap_or_else(|| panic!("{told}"));
    let title = part();
    assert_eq!(title[0], rule, "{told}");
    let title =
        title[1].strip_prefix(&format!("BUG: kmem: {} in ", case.title)).unwrap_or_else(|| panic!("{told}"));
    let access = part();
    let at = format!("{:#018x}", block.wrapping_add_signed(case.distance));
    assert_eq!(access[0], case.line.replace("AT", &at).replace('N', number), "{told}");
    assert_eq!(access[1], format!(" {title}"), "the nearest frame is the title's: {told}");
    let own_free = case.title == "invalid free" || case.title == "memory corruption";
    let by = if own_free {
        "drop+0x"
    } else if case.name == "thread-freed" {
        "other_thread+0x"
    } else {
        "main+0x"
    };
    assert!(title.starts_with(by), "it was {by}: {told}");
    let object = part();
    let line =
        |cache| [format!("guard-#{number}: {block:#018x}-{:#018x}, size=48, cache={cache}", block + 47)];
    // The hardened heap's class for 48 bytes is that for them and a seal; what it asks first has none.
    let sealed = engine() == "hardened" && object == line("kmalloc-64");
    assert!(sealed || object == line(cache), "{told}");
    let freed_by = if case.name == "after-realloc" { " main+0x" } else { " drop+0x" };
    let tracks = [("allocated", " get+0x"), ("freed", freed_by)];
    for (verb, by) in tracks.into_iter().take(if case.freed { 2 } else { 1 }) {
        let track = part();
        let rest = track[0].strip_prefix(&format!("{verb} by task ")).unwrap_or_else(|| panic!("{told}"));
        assert!(rest.contains(" on cpu ") && rest.ends_with("s ago):"), "{told}");
        assert!(track[1].starts_with(by), "{told}");
    }
    let end = part();
    assert!(
        end[0].starts_with("CPU: ") && end[0].ends_with(&format!(" Comm: {program} Not tainted")),
        "{told}"
    );
    assert_eq!(end[1], rule, "{told}");
}

#[test]
fn the_first_fault_ends_the_program() {
    for &heap in KMEM {
        for case in CASES {
            let outcome = run(heap, case.name, None);
            let told = format!("{} on {heap:?}: {outcome:#?}", case.name);
            assert_eq!(outcome.signal(), Some(SIGABRT), "{told}");
            assert_eq!(outcome.stdout.lines().count(), 1, "{told}");
            check(case, &outcome, &told);
        }
    }
}

#[test]
fn a_program_may_go_on() {
    for case in CASES {
        let outcome = run(Heap::Preloaded, case.name, Some("warn"));
        let told = format!("{}: {outcome:#?}", case.name);
        assert_eq!(outcome.signal(), None, "{told}");
        assert!(outcome.stdout.ends_with("\non\n"), "{told}");
        check(case, &outcome, &told);
        assert_eq!(outcome.stderr.matches("BUG: ").count(), 1, "{told}");
    }
}

/// Stacks of reports lead through the heap's own stack to the code that faulted, whichever way they are walked.
#[test]
fn both_ways_show_the_same_stacks() {
    for case in CASES {
        let mut command = command(&compiled("guard.c", &["-O0", "-w"].map(OsStr::new)), Heap::Preloaded);
        let outcome = outcome(command.arg(case.name).env("KMEM_GUARD", "all").env("KMEM_UNWIND", "both"));
        let told = format!("{}: {outcome:#?}", case.name);
        assert_eq!(outcome.signal(), Some(SIGABRT), "{told}");
        check(case, &outcome, &told);
    }
}

#[test]
fn a_sound_program_is_left_alone() {
    for &heap in KMEM {
        let outcome = run(heap, "sound", None);
        assert_eq!((outcome.signal(), outcome.stdout.as_str(), outcome.stderr.as_str()), (None, "on\n", ""));
    }
}

/// Without the guard nobody looks, and the switch is what it says.
#[test]
fn the_switch() {
    for (value, finds, says) in
        [("0", false, false), ("", false, false), ("all", true, false), ("soon", false, true)]
    {
        let program = compiled("guard.c", &["-O0", "-w"].map(OsStr::new));
        let outcome = outcome(command(&program, Heap::Preloaded).arg("sound").env("KMEM_GUARD", value));
        assert_eq!(outcome.stdout, "on\n", "{value:?}");
        assert_eq!(outcome.stderr.contains("KMEM_GUARD"), says, "{value:?}: {outcome:#?}");
        // Without the guard a read of what was freed is nobody's affair.
        let mut read = command(&program, Heap::Preloaded);
        let found = crate::support::outcome(read.arg("read-freed").env("KMEM_GUARD", value));
        assert_eq!(found.stderr.contains("BUG: kmem: use-after-free read"), finds, "{value:?}: {found:#?}");
        assert_eq!(found.signal() == Some(SIGABRT), finds, "{value:?}: {found:#?}");
    }
}

/// The program's own handlers, on any heap; the C library's own behaviour proves the program right.
#[test]
fn the_programs_handlers_are_its_own() {
    let program = compiled("handlers.c", &["-Wno-deprecated-declarations"].map(OsStr::new));
    for &heap in ALL {
        for guard in ["0", "all"] {
            let outcome = outcome(command(&program, heap).env("KMEM_GUARD", guard));
            assert!(
                outcome.status.success() && outcome.stdout == "ok\n" && outcome.stderr.is_empty(),
                "{heap:?}, KMEM_GUARD={guard}: {outcome:#?}"
            );
        }
    }
}

/// Between two samples, in the programs that are in balance: milliseconds of CPU time.
const INTERVAL: &str = "20";

fn in_balance(heap: Heap, case: &str, interval: &str, reports: Option<&ScratchDir>) -> Outcome {
    let program = compiled("guard_timer.c", &["-O0", "-w", "-pthread"].map(OsStr::new));
    let mut command = command(&program, heap);
    command.arg(case).arg(INTERVAL).env("KMEM_GUARD", interval);
    if let Some(reports) = reports {
        command.env("KMEM_REPORT_DIR", reports.path());
    }
    outcome(&mut command)
}

/// A program that never needs a refill is sampled all the same: within a few intervals its bug is found, with the same report.
#[test]
fn a_bug_in_balance_is_found() {
    for &heap in &THREADED[1..] {
        for case in CASES {
            if !["read-freed", "read-right", "thread-freed", "in-child"].contains(&case.name) {
                continue;
            }
            let outcome = in_balance(heap, case.name, INTERVAL, None);
            let told = format!("{} on {heap:?}: {outcome:#?}", case.name);
            assert_eq!((outcome.signal(), outcome.stdout.as_str()), (Some(SIGABRT), ""), "{told}");
            let object = outcome.stderr.lines().find_map(|line| line.strip_prefix("guard-#"));
            let block = object.and_then(|line| line.split_once(": 0x")?.1.split_once('-'));
            let block = block.unwrap_or_else(|| panic!("{told}")).0;
            let block = usize::from_str_radix(block, 16).unwrap_or_else(|_| panic!("{told}"));
            check_of(case, &outcome, "guard_timer", block, &told);
            assert_eq!(outcome.stderr.matches("BUG: ").count(), 1, "{told}");
        }
    }
}

/// What a sound program in balance may notice of it: nothing. The signal is its own when it wants it; waits are not ended; the timers go when they
/// must, and those of threads that ended do.
#[test]
fn a_sound_program_in_balance_is_left_alone() {
    let cases = [
        "count",
        "own-handler",
        "ignored",
        "blocked",
        "waiting",
        "sleeping",
        "churn",
        "vfork",
        "sandbox",
        "refused",
    ];
    for &heap in &THREADED[1..] {
        for case in cases {
            let outcome = in_balance(heap, case, INTERVAL, None);
            let what = (outcome.signal(), outcome.stdout.as_str(), outcome.stderr.as_str());
            assert_eq!(what, (None, "on\n", ""), "{case} on {heap:?}");
        }
    }
}

/// One sample in an interval of CPU time, more or less: of 40 intervals at least a quarter, on a machine with other work.
#[test]
fn a_program_in_balance_is_sampled_as_often_as_it_says() {
    for &heap in &THREADED[1..] {
        for (interval, at_least) in [(INTERVAL, 10), ("0", 0)] {
            let reports = ScratchDir::new();
            let outcome = in_balance(heap, "count", interval, Some(&reports));
            let told = format!("every {interval} ms on {heap:?}: {outcome:#?}");
            assert_eq!(outcome.stdout, "on\n", "{told}");
            let report = fs::read_to_string(reports.path().join(format!("report.{}", outcome.pid)));
            let report = report.unwrap_or_else(|why| panic!("{why}: {told}"));
            let guard = report.lines().find_map(|line| line.strip_prefix("guard "));
            let samples: Option<u32> = guard.and_then(|text| text.split(' ').next()?.parse().ok());
            if at_least == 0 {
                assert_eq!(samples.unwrap_or(0), 0, "{told}");
            } else {
                let samples = samples.unwrap_or_else(|| panic!("{report}"));
                assert!(samples >= at_least, "{samples} samples: {told}");
            }
        }
    }
}
