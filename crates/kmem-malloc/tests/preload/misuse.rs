//! The table of misuse: every sin ends as the table says, and the nearest legal program of each runs in peace.

mod table;

use std::ffi::{CStr, OsStr};
use std::process::Command;

use crate::support::{Heap, KMEM, Outcome, command, compiled, engine, outcome};
use table::{End, GLIBC, LEAKS, Leak, PROGRAMS, Program, Row};

const SIGABRT: i32 = 6;
const SIGSEGV: i32 = 11;
/// Exit status of a program that found its heap broken.
const BROKEN: i32 = 3;

/// How the library is run.
#[derive(Clone, Copy, Debug)]
struct Mode {
    heap: Heap,
    variables: &'static [(&'static str, &'static str)],
}

const GLIBC_ITSELF: Mode = Mode { heap: Heap::Plain, variables: &[] };
const DEFAULT: Mode = Mode { heap: Heap::Preloaded, variables: &[] };
const PORTABLE: Mode = Mode { heap: Heap::Portable, variables: &[] };
const STRICT: Mode =
    Mode { heap: Heap::Preloaded, variables: &[("KMEM_ORIGINS", "1"), ("KMEM_QUARANTINE", "1M")] };
const DEFAULT_WARN: Mode = Mode { heap: Heap::Preloaded, variables: &[("KMEM_ON_ERROR", "warn")] };
const DEBUG: Mode = Mode { heap: Heap::Preloaded, variables: &[("KMEM_DEBUG", "FZPU")] };
const WARN: Mode =
    Mode { heap: Heap::Preloaded, variables: &[("KMEM_DEBUG", "FZPU"), ("KMEM_ON_ERROR", "warn")] };

/// The program, compiled.
fn program(program: &Program) -> std::path::PathBuf {
    let kind = if program.name == "mismatch" { "cc" } else { "c" };
    compiled(&format!("misuse/{}.{kind}", program.name), &[])
}

fn run(of: &Program, case: &str, legal: bool, mode: Mode) -> Outcome {
    let mut command: Command = command(&program(of), mode.heap);
    command.arg(case).args(legal.then_some(OsStr::new("legal"))).envs(mode.variables.iter().copied());
    // How large slabs are.
    command.env("KMEM_TEST_ENGINE", engine());
    let outcome = outcome(&mut command);
    let reports = |(name, _): &(&str, &str)| ["KMEM_DEBUG", "KMEM_LEAKS"].contains(name);
    if mode.heap != Heap::Plain && !mode.variables.iter().any(reports) {
        // Without letters what is said is lines that stand alone: each tells whose it is.
        let _ = outcome.words(of.name);
    }
    outcome
}

/// The message is part of what was said, with the address that the program was about to misuse.
fn says(text: &str, outcome: &Outcome) -> bool {
    let address = outcome.stdout.lines().rfind(|line| line.starts_with("0x"));
    let Some(digits) = address.map(|address| &address[2..]) else { return false };
    let said =
        outcome.stderr.replace(&format!("0x{digits:0>16}"), "{}").replace(&format!("0x{digits}"), "{}");
    said.contains(text)
}

/// How it ended, and the first lines of what it said.
fn told_of(outcome: &Outcome) -> String {
    let stderr: Vec<_> = outcome.stderr.lines().take(4).collect();
    format!("{}, printed {:?}, said {stderr:?}", outcome.status, outcome.stdout)
}

/// The program ended as the table says.
fn ended(end: End, outcome: &Outcome) -> bool {
    let (code, signal) = (outcome.status.code(), outcome.signal());
    let line = |text: &str| outcome.stdout.lines().any(|line| line == text);
    match end {
        End::Stopped(text) => signal == Some(SIGABRT) && !line("after") && says(text, outcome),
        End::Later(text) => signal == Some(SIGABRT) && line("after") && says(text, outcome),
        End::Noticed(text) => {
            [End::Stopped(text), End::Later(text)].into_iter().any(|end| ended(end, outcome))
        }
        End::Fault => signal == Some(SIGSEGV) && outcome.stderr.is_empty(),
        End::Named(text) => {
            let lines = outcome.stderr.lines().count();
            signal == Some(SIGSEGV) && !line("after") && lines == 1 && says(text, outcome)
        }
        End::Dies => signal.is_some(),
        End::Reads(byte) => code == Some(0) && line(&format!("read {byte}")) && outcome.stderr.is_empty(),
        End::Unnoticed => code == Some(0) && line("whole") && outcome.stderr.is_empty(),
        End::Broken => code == Some(BROKEN) && line("after") && !line("whole") && outcome.stderr.is_empty(),
    }
}

/// Runs all rows; `judge` says of each how it should have ended, if it did not.
fn each(mode: Mode, judge: impl Fn(&Program, &Row, Mode) -> Option<String>) {
    let mut wrong = String::new();
    for program in PROGRAMS {
        for row in program.rows {
            if let Some(complaint) = judge(program, row, mode) {
                let (name, case) = (program.name, row.case);
                wrong += &format!("\n{name} {case} ({}: {}), {mode:?}: {complaint}", program.title, row.what);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn sin_ends(of: fn(&Row) -> End) -> impl Fn(&Program, &Row, Mode) -> Option<String> {
    move |program, row, mode| {
        let outcome = run(program, row.case, false, mode);
        (!ended(of(row), &outcome)).then(|| format!("expected {:?}: {}", of(row), told_of(&outcome)))
    }
}

/// The C library of this machine is the one that the column is about.
fn described_glibc() -> bool {
    // SAFETY: the function returns a constant string.
    unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) }.to_str() == Ok(GLIBC)
}

#[test]
fn under_glibc() {
    if described_glibc() {
        each(GLIBC_ITSELF, sin_ends(|row| row.glibc));
    }
}

/// Other engines have other names for their caches and no chain in free objects: what they must do is stop where SLUB stops, with
/// a message that names the address.
fn by_default(mode: Mode) {
    if engine() == "slub" {
        return each(mode, sin_ends(|row| row.default));
    }
    if engine() == "hardened" {
        return each(mode, sin_ends(|row| row.hardened));
    }
    each(mode, |program, row, mode| {
        let End::Stopped(text) = row.default else { return None };
        if program.name == "free_list" || !text.contains("{}") {
            return None;
        }
        let outcome = run(program, row.case, false, mode);
        let stopped = outcome.signal() == Some(SIGABRT) && says("{}", &outcome);
        (!stopped).then(|| told_of(&outcome))
    });
}

#[test]
fn default_with_sequences() {
    by_default(DEFAULT);
}

#[test]
fn default_portable() {
    by_default(PORTABLE);
}

/// A hardened heap compares the calls that a block comes and goes by, where it is asked to; and what it does otherwise it does
/// then too.
#[test]
fn hardened_with_origins() {
    if engine() != "hardened" {
        return;
    }
    let mode = Mode { heap: Heap::Preloaded, variables: &[("KMEM_ORIGINS", "1")] };
    each(mode, |program, row, mode| {
        let told = match row.debug {
            End::Stopped(text) => text.strip_prefix("Allocated by "),
            _ => None,
        };
        let Some(told) = told else { return sin_ends(|row| row.hardened)(program, row, mode) };
        let outcome = run(program, row.case, false, mode);
        let text = format!("invalid free of {{}}: allocated by {told}");
        // An alignment is looked at first.
        let first = matches!(row.hardened, End::Stopped(text) if says(text, &outcome));
        let good = outcome.signal() == Some(SIGABRT) && (first || says(&text, &outcome));
        (!good).then(|| format!("expected {text}: {}", told_of(&outcome)))
    });
}

#[test]
fn debug_and_stop() {
    if engine() == "slub" {
        each(DEBUG, sin_ends(|row| row.debug));
    }
}

/// What is reported is repaired or left alone; the program goes on, and its heap is whole.
fn goes_on(of: fn(&Row) -> End) -> impl Fn(&Program, &Row, Mode) -> Option<String> {
    move |program, row, mode| {
        let outcome = run(program, row.case, false, mode);
        let good = match of(row) {
            End::Stopped(text) | End::Later(text) | End::Noticed(text) => {
                let whole = outcome.status.code() == Some(0) && outcome.stdout.ends_with("whole\n");
                whole && says(text, &outcome)
            }
            end => ended(end, &outcome),
        };
        (!good).then(|| format!("expected {:?} and to go on: {}", of(row), told_of(&outcome)))
    }
}

#[test]
fn debug_and_go_on() {
    if engine() == "slub" {
        each(WARN, goes_on(|row| row.debug));
    }
}

#[test]
fn default_and_go_on() {
    if engine() == "slub" {
        each(DEFAULT_WARN, goes_on(|row| row.default));
    }
}

/// The nearest legal program: it runs to its end, and nobody says a word.
fn in_peace(mode: Mode) {
    each(mode, |program, row, mode| {
        let outcome = run(program, row.case, true, mode);
        let good =
            outcome.status.success() && outcome.stdout.ends_with("whole\n") && outcome.stderr.is_empty();
        (!good).then(|| told_of(&outcome))
    });
}

#[test]
fn the_nearest_legal_programs() {
    in_peace(GLIBC_ITSELF);
    in_peace(DEFAULT);
    if engine() == "hardened" {
        in_peace(STRICT);
    }
}

#[test]
fn the_nearest_legal_programs_checked() {
    if engine() == "slub" {
        in_peace(DEBUG);
    }
}

/// Where the C library stops a program, so does ours.
#[test]
fn never_worse_than_glibc() {
    use End::{Dies, Fault, Later, Named, Noticed, Stopped};
    let notices = |end| matches!(end, Stopped(_) | Later(_) | Noticed(_) | Fault | Named(_) | Dies);
    let rows = || PROGRAMS.iter().flat_map(|program| program.rows);
    assert!(rows().any(table::better));
    let worse: Vec<_> =
        rows().filter(|row| notices(row.glibc) && !notices(row.default)).map(|row| row.case).collect();
    assert!(worse.is_empty(), "{worse:?}");
}

#[test]
fn new_without_a_runtime() {
    for &heap in KMEM {
        let outcome = outcome(&mut command(&compiled("new_without_runtime.c", &[]), heap));
        assert_eq!(outcome.signal(), Some(SIGABRT), "{outcome:#?}");
        assert_eq!(outcome.stdout, "ok\n", "{outcome:#?}");
        // A process's name has 15 characters.
        let said = outcome.words("new_without_run");
        assert!(said[0].starts_with("operator new: no memory for "), "{outcome:#?}");
    }
}

/// Who asked for leaks is told of what was lost, and of nothing where the same was freed.
#[test]
fn leaks_are_told_to_who_asks() {
    let Some(leak) = PROGRAMS.iter().find(|program| program.name == "leak") else {
        panic!("no such program")
    };
    for &Leak { options, variables, default, hardened } in LEAKS {
        let told = match engine() {
            "slub" => default,
            "hardened" => hardened,
            // It has tracks, and does not know without them which objects are in use.
            "slab" if !variables.contains(&("KMEM_DEBUG", "-")) => default,
            _ => continue,
        };
        let mode = Mode { heap: Heap::Preloaded, variables };
        let [lost, freed] = [false, true].map(|legal| run(leak, leak.rows[0].case, legal, mode));
        let whole =
            |outcome: &Outcome| outcome.status.code() == Some(0) && outcome.stdout.ends_with("whole\n");
        assert!(whole(&lost) && says(told, &lost), "{options}: expected {told:?}: {lost:#?}");
        assert!(whole(&freed) && freed.stderr.is_empty(), "{options}: {freed:#?}");
    }
}
