//! `KMEM_DEBUG` and `KMEM_ON_ERROR`: faults of a C program are reported with its stacks, and end it or do not.

use std::ffi::OsStr;

use crate::support::{Heap, KMEM, Outcome, command, compiled, engine, outcome, usual_or};

const SIGABRT: i32 = 6;

/// The engine of the library is the one whose reports these are.
fn is_slub() -> bool {
    ["slub", "hardened"].contains(&engine())
}

/// Bytes of the class that the program's blocks come from.
fn class() -> usize {
    usual_or(56, 64)
}

fn run(heap: Heap, fault: &str, letters: &str, on_error: Option<&str>) -> Outcome {
    // Blocks must not be known to the compiler.
    let mut command = command(&compiled("debug.c", &["-O0", "-w"].map(OsStr::new)), heap);
    command.args([fault, &class().to_string()]).env("KMEM_DEBUG", letters);
    if let Some(on_error) = on_error {
        command.env("KMEM_ON_ERROR", on_error);
    }
    outcome(&mut command)
}

/// Fault, title of the report, and a repair that is done when the program goes on.
const FAULTS: &[(&str, &str, &str)] = &[
    ("over", "kmalloc Redzone overwritten", "Restoring kmalloc Redzone"),
    ("far", "Right Redzone overwritten", "Restoring Right Redzone"),
    ("under", "Left Redzone overwritten", "Restoring Left Redzone"),
    ("after", "Poison overwritten", "Marking all objects used"),
    ("twice", "Object already free", "not freed"),
    ("interior", "Invalid object pointer 0x", "not freed"),
];

/// The same in SLAB's words. It does not know how much of a block was asked for.
const SLAB_FAULTS: &[(&str, &str)] = &[
    ("far", "slab error in verify_redzone_free(): cache `kmalloc-64': memory outside object was overwritten"),
    (
        "under",
        "slab error in verify_redzone_free(): cache `kmalloc-64': memory outside object was overwritten",
    ),
    ("after", "kmalloc-64 start="),
    ("twice", "slab: double free detected in cache 'kmalloc-64'"),
    ("interior", "redzone 1:0x"),
];

#[test]
fn slab_has_checks_of_its_own() {
    if engine() != "slab" {
        return;
    }
    for &heap in KMEM {
        for (fault, title) in SLAB_FAULTS {
            let stopped = run(heap, fault, "FZPU", None);
            assert_eq!(stopped.signal(), Some(SIGABRT), "{fault} on {heap:?}: {stopped:#?}");
            let warned = run(heap, fault, "FZPU", Some("warn"));
            let told = || format!("{fault} on {heap:?}: {warned:#?}");
            assert_eq!((warned.signal(), warned.stdout.as_str()), (None, "on\n"), "{}", told());
            assert!(warned.stderr.contains(title), "{}", told());
        }
        for letters in ["", "F", "Z", "P", "U", "ZP", "FZPUO", "FZPU,kmalloc-64", "-"] {
            let sound = run(heap, "sound", letters, None);
            let seen = (sound.signal(), sound.stdout.as_str(), sound.stderr.as_str());
            assert_eq!(seen, (None, "on\n", ""), "{letters:?} on {heap:?}");
        }
    }
}

#[test]
fn the_first_fault_ends_the_program() {
    if !is_slub() {
        return;
    }
    for &heap in KMEM {
        for (fault, title, repair) in FAULTS {
            let outcome = run(heap, fault, "FZPU", None);
            let told = || format!("{fault} on {heap:?}: {outcome:#?}");
            assert_eq!(outcome.signal(), Some(SIGABRT), "{}", told());
            assert_eq!(outcome.stdout, "", "{}", told());
            let bug = outcome
                .stderr
                .lines()
                .find(|line| line.starts_with("BUG "))
                .unwrap_or_else(|| panic!("{}", told()));
            let begin = format!("BUG kmalloc-{} (Not tainted): ", class());
            assert!(bug.starts_with(&begin) && bug.contains(title), "{}", told());
            assert!(!outcome.stderr.contains(repair), "nothing was repaired: {}", told());
        }
    }
}

#[test]
fn a_program_may_go_on() {
    if !is_slub() {
        return;
    }
    for &heap in KMEM {
        for (fault, title, repair) in FAULTS {
            let outcome = run(heap, fault, "FZPU", Some("warn"));
            let told = || format!("{fault} on {heap:?}: {outcome:#?}");
            assert_eq!((outcome.signal(), outcome.stdout.as_str()), (None, "on\n"), "{}", told());
            assert!(outcome.stderr.contains(title) && outcome.stderr.contains(repair), "{}", told());
        }
    }
}

#[test]
fn a_sound_program_is_left_alone() {
    if !is_slub() {
        return;
    }
    for &heap in KMEM {
        for letters in
            ["", "F", "Z", "P", "U", "ZP", "FZPUO", usual_or("FZPU,kmalloc-56", "FZPU,kmalloc-64"), "-"]
        {
            let outcome = run(heap, "sound", letters, None);
            assert_eq!(
                (outcome.signal(), outcome.stdout.as_str(), outcome.stderr.as_str()),
                (None, "on\n", ""),
                "{letters:?} on {heap:?}"
            );
        }
    }
}

/// Without the letters, or in another class, nobody looks.
#[test]
fn only_what_was_named_is_checked() {
    if !is_slub() {
        return;
    }
    // (But for the hardened heap: it looks at all of them.)
    let others = ["-", "FZPU,kmalloc-120", "FZPU,dentry*"].into_iter().filter(|_| engine() != "hardened");
    for letters in others {
        let outcome = run(Heap::Preloaded, "over", letters, None);
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("on\n", ""), "{letters:?}");
    }
    let outcome = run(Heap::Preloaded, "over", usual_or("FZU,kmalloc-5*", "FZU,kmalloc-6*"), None);
    assert_eq!(outcome.signal(), Some(SIGABRT));
}

/// Who allocated and who freed, by function; the program's own frames first.
#[test]
fn reports_name_the_callers() {
    if !is_slub() {
        return;
    }
    let outcome = run(Heap::Preloaded, "after", "FZPU", None);
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    for (verb, own) in [("Allocated", &["ask", "main"][..]), ("Freed", &["main"])] {
        let at = lines.iter().position(|line| line.starts_with(&format!("{verb} in {}+0x", own[0])));
        let at = at.unwrap_or_else(|| panic!("{verb}: {}", outcome.stderr));
        let frames: Vec<&&str> = lines[at + 1..].iter().take_while(|line| line.starts_with(' ')).collect();
        for (frame, name) in frames.iter().zip(own) {
            assert!(frame.starts_with(&format!(" {name}+0x")), "{verb}: {}", outcome.stderr);
        }
        assert!(frames[own.len()].contains("libc.so.6"), "{}", outcome.stderr);
    }
    assert!(!outcome.stderr.contains("libkmem_malloc"), "{}", outcome.stderr);
}

#[test]
fn what_cannot_be_understood_is_said() {
    if !is_slub() {
        return;
    }
    let outcome = run(Heap::Preloaded, "sound", "FXP", Some("stop"));
    let lines = outcome.words("debug");
    let expected = ["slub_debug option 'X' unknown. skipped", "KMEM_ON_ERROR is `abort` or `warn`"];
    assert_eq!((lines.as_slice(), outcome.stdout.as_str()), (&expected[..], "on\n"));
}

#[test]
fn an_engine_without_checks_says_so_and_goes_on() {
    if engine() != "slob" {
        return;
    }
    let engine = engine();
    for (letters, skipped) in [("", "FZPU"), ("FZ,kmalloc-64;t", "FZT")] {
        let outcome = run(Heap::Preloaded, "sound", letters, None);
        let expected = format!("slub_debug letters {skipped} have no checks in engine {engine}. skipped");
        assert_eq!((outcome.stdout.as_str(), outcome.words("debug")), ("on\n", vec![expected.as_str()]));
    }
    let outcome = run(Heap::Preloaded, "sound", "-", None);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("on\n", ""));
}
