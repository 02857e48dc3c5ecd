//! `kmem_malloc.h`: programs in C and C++ take the lines of messages, are shown errors, decide, give letters, validate.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Heap, KMEM, Outcome, command, compiled, conforms, engine, library, outcome, usual_or};

const SIGABRT: i32 = 6;

/// A fault that the library under test finds, and the letters that it needs for it.
fn fault() -> (&'static str, &'static str) {
    if engine() == "slob" { ("twice", "-") } else { ("far", "FZPU") }
}

fn run(heap: Heap, case: &str, (fault, letters): (&str, &str), on_error: Option<&str>) -> Outcome {
    let mut command = command(&compiled("callbacks.c", &["-O0", "-w"].map(OsStr::new)), heap);
    command.args([case, fault]).env("KMEM_DEBUG", letters);
    command.env("KMEM_TEST_CLASS", usual_or("56", "64"));
    if let Some(on_error) = on_error {
        command.env("KMEM_ON_ERROR", on_error);
    }
    outcome(&mut command)
}

/// Lines without what differs from run to run: numbers, decimal or hexadecimal.
fn without_numbers(text: &str) -> Vec<String> {
    let word = |word: &str| {
        let digits = word.strip_prefix("0x").unwrap_or(word);
        let number = !digits.is_empty() && digits.chars().all(|digit| digit.is_ascii_hexdigit());
        if number { "#".to_owned() } else { word.to_owned() }
    };
    let line = |line: &str| {
        let parts = line.split_inclusive(|end: char| !end.is_ascii_alphanumeric());
        parts
            .map(|part| {
                let end = part.len() - usize::from(part.ends_with(|end: char| !end.is_ascii_alphanumeric()));
                word(&part[..end]) + &part[end..]
            })
            .collect()
    };
    text.lines().map(line).collect()
}

#[test]
fn a_receiver_gets_the_lines_and_nobody_else_does() {
    for &heap in KMEM {
        let told = run(heap, "stderr", fault(), None);
        assert_eq!((told.status.code(), told.stdout.as_str()), (Some(0), "ok\n"), "{heap:?}: {told:#?}");
        assert!(!told.stderr.is_empty(), "{heap:?}: {told:#?}");
        let received = run(heap, "lines", fault(), None);
        assert_eq!((received.status.code(), received.stderr.as_str()), (Some(0), ""), "{received:#?}");
        let lines = received.stdout.strip_suffix("ok\n").unwrap_or_else(|| panic!("{received:#?}"));
        assert_eq!(without_numbers(lines), without_numbers(&told.stderr), "on {heap:?}");
        if engine() != "slob" {
            assert!(lines.lines().count() > 10 && lines.contains("do_fault+0x"), "{received:#?}");
        }
    }
}

/// What the callbacks wrote of errors.
fn told(outcome: &Outcome, who: &str) -> Vec<String> {
    let lines = outcome.stdout.lines().filter_map(|line| line.strip_prefix(who)?.strip_prefix(' '));
    lines.map(str::to_owned).collect()
}

#[test]
fn a_judge_lets_the_program_go_on_or_stops_it() {
    let title = match engine() {
        "slab" => "memory outside object was overwritten]",
        "slob" => "double free of 0x",
        _ => "Right Redzone overwritten]",
    };
    let cache = if engine() == "slob" { "slob" } else { usual_or("kmalloc-56", "kmalloc-64") };
    let begin = format!("BUG [{cache}] [");
    for &heap in KMEM {
        // The judge's word holds, not the environment's.
        for (case, on_error) in [("go on", "abort"), ("stop", "warn")] {
            let outcome = run(heap, case, fault(), Some(on_error));
            let goes_on = case == "go on";
            let ended = (outcome.signal(), outcome.stdout.ends_with("\nok\n"), outcome.stderr.as_str());
            assert_eq!(
                ended,
                ((!goes_on).then_some(SIGABRT), goes_on, ""),
                "{case} on {heap:?}: {outcome:#?}"
            );
            let judged = told(&outcome, "judge");
            assert_eq!(judged.len(), 1, "{outcome:#?}");
            assert!(judged[0].starts_with(&begin) && judged[0].contains(title), "{outcome:#?}");
            let shown = told(&outcome, "hook");
            assert_eq!(shown[0], judged[0], "{outcome:#?}");
            // Repairs come after the judge's word.
            let fixes = shown[1..].iter().filter(|line| line.starts_with("FIX [")).count();
            assert_eq!(fixes, shown.len() - 1, "{outcome:#?}");
            assert_eq!(fixes > 0, goes_on && ["slub", "hardened"].contains(&engine()), "{outcome:#?}");
        }
    }
}

#[test]
fn what_is_taken_back_is_as_it_was() {
    for (on_error, signal) in [(None, Some(SIGABRT)), (Some("abort"), Some(SIGABRT)), (Some("warn"), None)] {
        let outcome = run(Heap::Preloaded, "given back", fault(), on_error);
        let out = if signal.is_none() { "ok\n" } else { "" };
        assert_eq!((outcome.signal(), outcome.stdout.as_str()), (signal, out), "{on_error:?}: {outcome:#?}");
        assert!(!outcome.stderr.is_empty(), "{on_error:?}: {outcome:#?}");
    }
}

#[test]
fn a_forked_child_has_the_callbacks_of_its_parent() {
    let outcome = run(Heap::Preloaded, "fork", fault(), None);
    assert_eq!((outcome.status.code(), outcome.stdout.ends_with("\nok\n")), (Some(0), true), "{outcome:#?}");
    assert_eq!(told(&outcome, "judge").len(), 2, "{outcome:#?}");
}

/// Function and context belong together, and text and thread. (The hardened heap stops at a double free, whoever is asked.)
#[test]
fn threads_are_judged_while_the_judge_changes() {
    for &heap in if engine() == "hardened" { &[] } else { KMEM } {
        let outcome = run(heap, "threads", ("-", "-"), None);
        assert_eq!(
            (outcome.status.code(), outcome.stdout.as_str()),
            (Some(0), "ok\n"),
            "{heap:?}: {outcome:#?}"
        );
    }
}

#[test]
fn letters_are_given_and_bad_ones_refused() {
    for &heap in KMEM {
        let fault = if engine() == "slob" { "none" } else { "some" };
        let outcome = run(heap, "letters", (fault, "-"), None);
        assert_eq!(
            (outcome.status.code(), outcome.stdout.ends_with("ok\n")),
            (Some(0), true),
            "{outcome:#?}"
        );
    }
}

#[test]
fn validation_finds_a_write_after_a_free() {
    if engine() == "slob" {
        return;
    }
    for &heap in KMEM {
        let outcome = run(heap, "validate", ("-", "FZPU"), None);
        assert_eq!(
            (outcome.status.code(), outcome.stdout.ends_with("ok\n")),
            (Some(0), true),
            "{outcome:#?}"
        );
        let judged = told(&outcome, "judge");
        assert!(!judged.is_empty(), "{outcome:#?}");
        // The report shows the byte that was written, among the poison.
        assert!(outcome.stderr.contains(" 6b 01 6b "), "{outcome:#?}");
    }
}

#[test]
fn leaks_are_told_now() {
    // SLOB knows nothing of small blocks.
    if engine() == "slob" {
        return;
    }
    let outcome = run(Heap::Preloaded, "leaks", ("-", "U"), None);
    assert_eq!((outcome.status.code(), outcome.stderr.as_str()), (Some(0), ""), "{outcome:#?}");
    for words in ["objects in use now", "lose+0x", "SUMMARY: "] {
        assert!(outcome.stdout.contains(words), "{words}: {outcome:#?}");
    }
    // SLAB does not know how much of a block was asked for. A register or a word of the stack may still name the last one.
    let size = if engine() == "slab" { 384 } else { 333 };
    let lost =
        |count: u32| format!("{} bytes in {count} objects of {size} bytes, definitely lost", count * size);
    assert!([19, 20].into_iter().any(|count| outcome.stdout.contains(&lost(count))), "{outcome:#?}");
}

#[test]
fn a_program_may_do_without_the_library() {
    let programs = [&[][..], &["-no-pie", "-fPIE"], &["-O2"]];
    for flags in programs {
        let flags: Vec<&OsStr> = flags.iter().map(OsStr::new).collect();
        conforms(&compiled("callbacks_weak.c", &flags), &[], crate::support::ALL);
    }
}

/// A program that is linked with the library.
fn linked(source: &str) -> PathBuf {
    let dir = library().parent().expect("library directory").display();
    let flags = [format!("-L{dir}"), format!("-Wl,-rpath,{dir}"), "-lkmem_malloc".to_owned()];
    compiled(source, &flags.each_ref().map(OsStr::new))
}

/// Also in C++, and before anything else is called. (The hardened heap stops at a double free, whoever is asked.)
#[test]
fn the_first_call_may_be_one_of_these() {
    if engine() != "hardened" {
        conforms(&linked("callbacks_first.cc"), &[], &[Heap::Plain]);
    }
}

/// The header stands alone, in each language, with warnings that programs may ask for.
#[test]
fn the_header_is_c_and_cpp() {
    for (compiler, language, standard) in [
        ("gcc", "c", "-std=c99"),
        ("gcc", "c", "-std=c17"),
        ("g++", "c++", "-std=c++98"),
        ("g++", "c++", "-std=c++20"),
    ] {
        for define in ["-DKMEM_OPTIONAL", "-DSOMETHING"] {
            let header = crate::support::headers().join("kmem_malloc.h");
            let output = std::process::Command::new(compiler)
                .args(["-x", language, standard, define, "-Wall", "-Wextra", "-Werror", "-pedantic"])
                .args(["-Wstrict-aliasing", "-Wundef", "-fsyntax-only"])
                .arg(header)
                .output()
                .unwrap_or_else(|e| panic!("{compiler} is needed: {e}"));
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && told.is_empty(), "{compiler} {standard} {define}: {told}");
        }
    }
}

/// What the documentation shows is this program, and does what it says.
#[test]
fn the_example_works() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = fs::read_to_string(root.join("tests/c/callbacks_example.c")).expect("the example");
    let page = fs::read_to_string(root.join("../../docs/diagnostics.md")).expect("the page");
    assert!(page.contains(&format!("```c\n{source}```\n")), "docs/diagnostics.md shows another program");
    let program = compiled("callbacks_example.c", &[]);
    if engine() == "slub" {
        for &heap in KMEM {
            let outcome = outcome(&mut command(&program, heap));
            assert_eq!(
                (outcome.status.code(), outcome.stderr.as_str()),
                (Some(0), ""),
                "{heap:?}: {outcome:#?}"
            );
            let title = "BUG kmalloc-2040 (Not tainted): kmalloc Redzone overwritten\n";
            assert!(outcome.stdout.contains(title), "{heap:?}: {outcome:#?}");
        }
    }
    let plain = outcome(&mut command(&program, Heap::Plain));
    assert_eq!((plain.status.code(), plain.stdout.as_str(), plain.stderr.as_str()), (Some(0), "", ""));
}
