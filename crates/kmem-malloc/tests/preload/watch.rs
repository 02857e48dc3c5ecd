//! What is told of a program, and where: stacks with names, leaks, sinks, limits, validation while it runs.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::{Heap, KMEM, Outcome, ScratchDir, command, compiled, engine, outcome};

const SIGABRT: i32 = 6;

/// The program with an argument. `-O1` of the harness is turned off: what is written must be written.
fn watched(heap: Heap, what: &str) -> Command {
    let mut command = command(&compiled("watch.c", &["-O0", "-w"].map(OsStr::new)), heap);
    command.arg(what);
    command
}

fn warned(what: &str) -> Command {
    let mut command = watched(Heap::Preloaded, what);
    command.env("KMEM_DEBUG", "FZPU").env("KMEM_ON_ERROR", "warn");
    command
}

/// Only SLUB tracks users so far.
fn tracks() -> bool {
    engine() == "slub"
}

/// A helper of a few lines of shell.
fn helper(dir: &ScratchDir, script: &str) -> PathBuf {
    let path = dir.path().join("helper");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Answers each question with a function, a line and two inlined functions; notes the questions.
fn answering(dir: &ScratchDir) -> PathBuf {
    let notes = dir.path().join("questions");
    helper(
        dir,
        &format!(
            "tab=$(printf '\\t')\nwhile read -r file offset; do\n echo \"$1 $file $offset\" >> {}\n \
             echo \"name+0x1/0x2${{tab}}src.c:7${{tab}}in src.h:8${{tab}}inner src.h:9\"\ndone",
            notes.display()
        ),
    )
}

const ANSWERED: &str = "name+0x1/0x2 src.c:7 [inlined in src.h:8] [inlined inner src.h:9]";

fn ends_well(outcome: &Outcome) {
    assert!(outcome.status.success() && outcome.stdout == "begin\non\n", "{outcome:#?}");
    assert!(!outcome.stderr.contains("failed"), "{outcome:#?}");
}

#[test]
fn the_helper_names_code_and_nobody_notices() {
    if !tracks() {
        return;
    }
    let dir = ScratchDir::new();
    let outcome = outcome(warned("helper").env("KMEM_SYMBOLIZER", answering(&dir)));
    ends_well(&outcome);
    assert_eq!(outcome.stderr.matches("BUG kmalloc-56").count(), 2, "{outcome:#?}");
    // A frame has all that is known; a call site the name alone, and the library it is in.
    assert!(outcome.stderr.contains(&format!("\n {ANSWERED}\n")), "{outcome:#?}");
    assert!(outcome.stderr.contains("\nAllocated in name+0x1/0x2 age="), "{outcome:#?}");
    assert!(outcome.stderr.contains("\n name+0x1/0x2 [libc.so.6] src.c:7 [inlined in"), "{outcome:#?}");
    let questions = fs::read_to_string(dir.path().join("questions")).unwrap();
    let program = compiled("watch.c", &["-O0", "-w"].map(OsStr::new));
    let program = fs::canonicalize(program).unwrap();
    assert!(questions.contains(&format!("symbolize {} 0x", program.display())), "{questions}");
    assert!(questions.contains("libc.so.6 0x"), "{questions}");
}

#[test]
fn each_process_has_its_own_helper() {
    if !tracks() {
        return;
    }
    let dir = ScratchDir::new();
    let outcome = outcome(warned("forked").env("KMEM_SYMBOLIZER", answering(&dir)));
    ends_well(&outcome);
    assert_eq!(outcome.stderr.matches("BUG kmalloc-56").count(), 3, "{outcome:#?}");
    assert!(!outcome.stderr.contains("watch+0x"), "{outcome:#?}");
}

/// A descriptor that the program closed and opened again is not the helper's any more.
#[test]
fn descriptors_of_the_program_are_left_alone() {
    if !tracks() {
        return;
    }
    let dir = ScratchDir::new();
    let mut command = warned("closed");
    command.arg(dir.path().join("file")).env("KMEM_SYMBOLIZER", answering(&dir));
    let outcome = outcome(&mut command);
    ends_well(&outcome);
    // The second report has names from the symbol table.
    let reports: Vec<&str> = outcome.stderr.split("BUG kmalloc-56").collect();
    assert_eq!(reports.len(), 3, "{outcome:#?}");
    assert!(reports[1].contains(ANSWERED) && !reports[2].contains(ANSWERED), "{outcome:#?}");
    assert!(reports[2].contains("\n overflow+0x"), "{outcome:#?}");
}

/// What a helper may do wrong costs lines, never names, and no time.
#[test]
fn a_bad_helper_is_given_up() {
    if !tracks() {
        return;
    }
    let dir = ScratchDir::new();
    for script in
        ["exit 3", "read -r x; exit 0", "read -r x; printf 'a\\nb\\n'", "exec 0<&-; exec 1>&-; sleep 3"]
    {
        let path = helper(&dir, script);
        let outcome = outcome(warned("helper").env("KMEM_SYMBOLIZER", &path));
        ends_well(&outcome);
        assert!(outcome.stderr.contains("\nAllocated in overflow+0x"), "{script}: {outcome:#?}");
        assert!(outcome.stderr.contains("\n main+0x"), "{script}: {outcome:#?}");
    }
    for path in ["/nonexistent", "/etc/passwd", ""] {
        let outcome = outcome(warned("helper").env("KMEM_SYMBOLIZER", path));
        ends_well(&outcome);
        assert!(outcome.stderr.contains("\nAllocated in overflow+0x"), "{path}: {outcome:#?}");
    }
}

#[test]
fn a_helper_that_hangs_is_waited_for_once() {
    if !tracks() {
        return;
    }
    let dir = ScratchDir::new();
    let path = helper(&dir, "sleep 20");
    let mut command = warned("helper");
    let start = std::time::Instant::now();
    let outcome = outcome(command.env("KMEM_SYMBOLIZER", path));
    ends_well(&outcome);
    assert!(outcome.stderr.contains("\nAllocated in overflow+0x"), "{outcome:#?}");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

/// A stripped program has no names: file and offset remain.
#[test]
fn without_symbols_there_are_offsets() {
    if !tracks() {
        return;
    }
    let program = compiled("watch.c", &["-O0", "-w", "-s"].map(OsStr::new));
    let mut command = command(&program, Heap::Preloaded);
    command.arg("helper").env("KMEM_DEBUG", "FZPU").env("KMEM_ON_ERROR", "warn");
    let outcome = outcome(&mut command);
    ends_well(&outcome);
    assert!(outcome.stderr.contains("\nAllocated in watch+0x"), "{outcome:#?}");
}

fn leaks(what: &str) -> Command {
    let mut command = watched(Heap::Preloaded, what);
    command.env("KMEM_LEAKS", "in-use");
    command
}

/// The groups of a leak report: first line, then frames without what differs from build to build.
fn groups(text: &str) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines() {
        if line.ends_with(" bytes, allocated at") {
            found.push((line.to_owned(), Vec::new()));
        } else if let Some(frame) = line.strip_prefix("        ")
            && let Some((_, frames)) = found.last_mut()
        {
            frames.push(frame.split("+0x").next().unwrap().to_owned());
        }
    }
    found
}

#[test]
fn leaks_are_grouped_by_stack() {
    if !tracks() {
        return;
    }
    for &heap in KMEM {
        let mut command = watched(heap, "leak");
        let outcome = outcome(command.env("KMEM_LEAKS", "in-use"));
        ends_well(&outcome);
        let groups = groups(&outcome.stderr);
        assert_eq!(groups.len(), 2, "{outcome:#?}");
        assert_eq!(groups[0].0, "960 bytes in 20 objects of 48 bytes, allocated at");
        assert_eq!(groups[0].1[..2], ["leak_nodes", "main"], "{outcome:#?}");
        assert_eq!(groups[1].0, "13 bytes in 1 object of 13 bytes, allocated at");
        assert_eq!(groups[1].1[1..3], ["leak_text", "main"], "{outcome:#?}");
        let lines: Vec<&str> = outcome.stderr.lines().collect();
        assert!(lines[1].starts_with("LEAKS watch (pid ") && lines[0].starts_with("====="), "{lines:?}");
        let summary = lines.last().unwrap();
        assert!(
            summary.starts_with("SUMMARY: 973 bytes in 21 objects leaked, from 2 places; suppressed: "),
            "{summary}"
        );
    }
}

#[test]
fn who_leaves_nothing_hears_nothing() {
    if !tracks() {
        return;
    }
    let outcome = outcome(leaks("clean").env("KMEM_LEAKS_EXIT", "23"));
    ends_well(&outcome);
    assert_eq!(outcome.stderr, "");
}

#[test]
fn leaks_may_have_an_exit_status() {
    if !tracks() {
        return;
    }
    // What the program printed is not lost.
    let outcome = outcome(leaks("leak").env("KMEM_LEAKS_EXIT", "23"));
    assert_eq!((outcome.status.code(), outcome.stdout.as_str()), (Some(23), "begin\non\n"));
    for (status, expected) in [(None, 5), (Some("23"), 23)] {
        let mut command = leaks("quick");
        command.envs(status.map(|status| ("KMEM_LEAKS_EXIT", status)));
        let outcome = crate::support::outcome(&mut command);
        assert_eq!((outcome.status.code(), outcome.stdout.as_str()), (Some(expected), "begin\n"));
        assert!(outcome.stderr.contains("SUMMARY: 144 bytes in 3 objects leaked"), "{outcome:#?}");
    }
}

#[test]
fn leaks_are_suppressed_by_pattern() {
    if !tracks() {
        return;
    }
    for (patterns, left) in [
        ("leak_text", "960 bytes in 20 objects leaked, from 1 place;"),
        ("leak_n*des", "13 bytes in 1 object leaked, from 1 place;"),
        // The innermost frame of one.
        ("^libc.so", "960 bytes in 20 objects leaked, from 1 place;"),
        ("nobody,^leak_text,", "973 bytes"),
    ] {
        let outcome = outcome(leaks("leak").env("KMEM_LEAKS_SUPPRESS", patterns));
        ends_well(&outcome);
        assert!(outcome.stderr.contains(&format!("SUMMARY: {left}")), "{patterns}: {outcome:#?}");
    }
    let all = outcome(leaks("leak").env("KMEM_LEAKS_SUPPRESS", "main").env("KMEM_LEAKS_EXIT", "23"));
    ends_well(&all);
    assert_eq!(all.stderr, "");
}

/// A forked child reports when it ends as a program does; what it only inherited when it ends at once is its parent's.
#[test]
fn forked_children_report_for_themselves() {
    if !tracks() {
        return;
    }
    let outcome = outcome(&mut leaks("fork"));
    assert_eq!(outcome.stderr.matches("LEAKS watch").count(), 2, "{outcome:#?}");
    assert_eq!(outcome.stderr.matches("leak_text").count(), 1, "{outcome:#?}");
}

/// Pages and mappings of their own, one of them resized: they keep the stack that allocated them.
#[test]
fn large_blocks_have_stacks_too() {
    if !tracks() {
        return;
    }
    let run = outcome(&mut leaks("large"));
    ends_well(&run);
    let groups = groups(&run.stderr);
    let found: Vec<(&str, &str)> =
        groups.iter().map(|(head, frames)| (head.as_str(), frames[0].as_str())).collect();
    assert_eq!(
        found,
        [
            ("20971520 bytes in 1 object of 20971520 bytes, allocated at", "leak_mapping"),
            ("204800 bytes in 2 objects of 102400 bytes, allocated at", "leak_pages"),
        ],
        "{run:#?}"
    );
    // Not asked for: not kept. They are told of without.
    let without = outcome(leaks("large").env("KMEM_DEBUG", "U,kmalloc-56"));
    ends_well(&without);
    assert!(!without.stderr.contains("leak_mapping"), "{without:#?}");
    let mapping = "20971520 bytes in 1 object of 20971520 bytes, of cache kmalloc-large\n";
    assert!(without.stderr.contains(mapping), "{without:#?}");
}

/// Files of traces, as a kernel has them.
fn trace_of(dir: &Path, cache: &str, file: &str) -> String {
    let process = fs::read_dir(dir).unwrap().next().expect("a process").unwrap().path();
    fs::read_to_string(process.join(cache).join(file)).unwrap()
}

fn trace(dir: &Path, file: &str) -> String {
    trace_of(dir, "kmalloc-56", file)
}

/// Who holds long blocks is in the files of their class, and of `kmalloc-large` where there is none.
#[test]
fn traces_name_large_blocks() {
    if !tracks() {
        return;
    }
    let dir = ScratchDir::new();
    let outcome = outcome(watched(Heap::Preloaded, "large").env("KMEM_TRACES", dir.path()));
    ends_well(&outcome);
    let class = if engine() == "slub" { "kmalloc-114680" } else { "kmalloc-112k" };
    let pages = trace_of(dir.path(), class, "alloc_traces");
    assert!(pages.starts_with("      2 leak_pages+0x") && pages.contains(" waste="), "{pages}");
    let mapping = trace_of(dir.path(), "kmalloc-large", "alloc_traces");
    // Who resized it has it.
    assert!(mapping.starts_with("      1 leak_mapping+0x"), "{mapping}");
    assert!(mapping.contains("\n        main+0x"), "{mapping}");
}

#[test]
fn traces_are_written_at_the_end() {
    if !tracks() {
        return;
    }
    let dir = ScratchDir::new();
    let outcome = outcome(watched(Heap::Preloaded, "leak").env("KMEM_TRACES", dir.path()));
    ends_well(&outcome);
    assert_eq!(outcome.stderr, "");
    let text = trace(dir.path(), "alloc_traces");
    let first = text.lines().next().unwrap();
    assert!(first.starts_with("     20 leak_nodes+0x") && first.contains(" age="), "{text}");
    assert!(text.contains("\n        main+0x"), "{text}");
}

#[test]
fn a_signal_asks_for_validation_and_traces() {
    if !tracks() {
        return;
    }
    let dir = ScratchDir::new();
    let mut command = warned("asked");
    let outcome = outcome(command.env("KMEM_SIGNAL", "USR1").env("KMEM_TRACES", dir.path()));
    // The program kills itself right behind: nothing was done at its end.
    assert_eq!((outcome.signal(), outcome.stdout.as_str()), (Some(9), "begin\n"), "{outcome:#?}");
    assert!(outcome.stderr.contains("BUG kmalloc-56") && outcome.stderr.contains("Redzone"), "{outcome:#?}");
    assert!(trace(dir.path(), "alloc_traces").starts_with("     20 leak_nodes+0x"));
}

#[test]
fn damage_is_found_while_the_program_runs() {
    if !tracks() {
        return;
    }
    let mut command = watched(Heap::Preloaded, "idle");
    command.env("KMEM_DEBUG", "FZPU");
    // Nobody frees the block: without validation nothing is noticed.
    let alone = outcome(&mut command);
    assert_eq!(
        (alone.signal(), alone.stdout.as_str(), alone.stderr.as_str()),
        (None, "begin\nlate\non\n", "")
    );
    let seen = outcome(command.env("KMEM_VALIDATE", "1"));
    assert_eq!((seen.signal(), seen.stdout.contains("late")), (Some(SIGABRT), false), "{seen:#?}");
    assert!(seen.stderr.contains("kmalloc Redzone overwritten"), "{seen:#?}");
}

#[test]
fn reports_are_limited() {
    if !tracks() {
        return;
    }
    let limited = outcome(&mut warned("storm"));
    ends_well(&limited);
    assert_eq!(limited.stderr.matches("BUG kmalloc-56").count(), 10, "{}", limited.stderr);
    assert_eq!(limited.stderr.matches("FIX kmalloc-56: Restoring").count(), 10);
    let last = format!("kmem: watch[{}]: slab_bug: 30 callbacks suppressed", limited.pid);
    assert_eq!(limited.stderr.lines().last(), Some(last.as_str()));
    let three = outcome(warned("storm").env("KMEM_RATELIMIT", "3/60"));
    assert_eq!(three.stderr.matches("BUG kmalloc-56").count(), 3);
    let all = outcome(warned("storm").env("KMEM_RATELIMIT", "0"));
    assert_eq!(all.stderr.matches("BUG kmalloc-56").count(), 40);
    assert!(!all.stderr.contains("suppressed"));
}

/// What has no report is told of in one line, which names the program and the process wherever it goes, and is limited like
/// reports are.
#[test]
fn single_lines_are_named_and_limited() {
    let strays = |variables: &[(&str, &str)]| {
        let mut command = watched(Heap::Preloaded, "strays");
        let outcome = outcome(command.env("KMEM_ON_ERROR", "warn").envs(variables.iter().copied()));
        ends_well(&outcome);
        outcome
    };
    let stray = |line: &&str| {
        line.starts_with("free(): invalid free of 0x") && line.ends_with(": not memory of this heap")
    };
    let limited = strays(&[]);
    let words = limited.words("watch");
    assert_eq!(
        (words.len(), words.iter().copied().filter(|line| stray(line)).count()),
        (11, 10),
        "{limited:#?}"
    );
    assert_eq!(words[10], "slab_bug: 30 callbacks suppressed");
    assert_eq!(strays(&[("KMEM_RATELIMIT", "3/60")]).words("watch").len(), 4);
    assert_eq!(strays(&[("KMEM_RATELIMIT", "0")]).words("watch").len(), 40);

    let dir = ScratchDir::new();
    let file = dir.path().join("log");
    let outcome = strays(&[("KMEM_LOG", file.to_str().unwrap())]);
    assert_eq!(outcome.stderr, "");
    let text = fs::read_to_string(&file).unwrap();
    let words = logged(&text);
    assert!(text.starts_with(&format!("watch[{}]: kmem: free(): invalid free of", outcome.pid)), "{text}");
    assert_eq!((words.len(), words[10]), (11, "slab_bug: 30 callbacks suppressed"), "{text}");

    let socket = UnixDatagram::bind(dir.path().join("socket")).unwrap();
    let place = format!("syslog:{}", dir.path().join("socket").display());
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        std::array::from_fn::<String, 11, _>(|_| {
            let len = socket.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..len]).into_owned()
        })
    });
    let outcome = strays(&[("KMEM_LOG", &place)]);
    assert_eq!(outcome.stderr, "");
    let messages = reader.join().unwrap();
    let begin = format!("<12>watch[{}]: ", outcome.pid);
    assert!(messages.iter().all(|message| message.starts_with(&begin)), "{messages:?}");
}

/// Lines of a log: program and process, then the words.
fn logged(text: &str) -> Vec<&str> {
    let lines = text.lines().map(|line| {
        let (program, rest) = line.split_once('[').expect(line);
        let (pid, words) = rest.split_once("]: ").expect(line);
        assert!(program == "watch" && pid.parse::<u32>().is_ok(), "{line}");
        words
    });
    lines.collect()
}

#[test]
fn messages_go_to_a_file() {
    if !tracks() {
        return;
    }
    let dir = ScratchDir::new();
    let outcome = outcome(warned("helper").env("KMEM_LOG", dir.path().join("log.%p")));
    ends_well(&outcome);
    assert_eq!(outcome.stderr, "");
    let entry = fs::read_dir(dir.path()).unwrap().next().expect("a file").unwrap();
    let pid = entry.file_name().to_str().unwrap().strip_prefix("log.").unwrap().to_owned();
    let text = fs::read_to_string(entry.path()).unwrap();
    assert!(text.starts_with(&format!("watch[{pid}]: =====")), "{text}");
    let words = logged(&text);
    assert!(words.iter().any(|line| line.starts_with("BUG kmalloc-56 (Not tainted): ")), "{text}");
    assert!(words.iter().any(|line| line.contains(" Comm: watch Not tainted")), "{text}");
}

#[test]
fn messages_go_to_the_log() {
    if !tracks() {
        return;
    }
    let dir = ScratchDir::new();
    let path = dir.path().join("log");
    let socket = UnixDatagram::bind(&path).unwrap();
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        let mut text = String::new();
        while text.matches("not freed\n").count() < 2 {
            let len = socket.recv(&mut buffer).unwrap();
            let message = std::str::from_utf8(&buffer[..len]).unwrap();
            text += message.strip_prefix("<12>").expect(message);
            text.push('\n');
        }
        text
    });
    let mut command = warned("helper");
    let outcome = outcome(command.env("KMEM_LOG", format!("syslog:{}", path.display())));
    ends_well(&outcome);
    assert_eq!(outcome.stderr, "");
    let text = reader.join().unwrap();
    let bugs = logged(&text).iter().filter(|line| line.starts_with("BUG kmalloc-56")).count();
    assert_eq!(bugs, 2, "{text}");
}

/// Where nothing can be written, messages are seen at least.
#[test]
fn what_cannot_be_logged_is_said() {
    if !tracks() {
        return;
    }
    for place in ["/nonexistent/log", "syslog:/nonexistent", "stderr"] {
        let outcome = outcome(warned("helper").env("KMEM_LOG", place));
        ends_well(&outcome);
        let words = logged(&outcome.stderr);
        assert!(words.iter().any(|line| line.starts_with("BUG kmalloc-56")), "{place}: {outcome:#?}");
    }
}

#[test]
fn what_cannot_be_understood_is_said() {
    for (name, value, said) in [
        ("KMEM_VALIDATE", "soon", "KMEM_VALIDATE is a number of seconds"),
        ("KMEM_SIGNAL", "KILL", "KMEM_SIGNAL is a signal, like `USR1`"),
        ("KMEM_SIGNAL", "9", "KMEM_SIGNAL is a signal, like `USR1`"),
        ("KMEM_LEAKS", "yes", "KMEM_LEAKS is `0`, `1`, `all` or `in-use`"),
        ("KMEM_RATELIMIT", "many", "KMEM_RATELIMIT is `0` or reports/seconds, like `10/5`"),
    ] {
        let outcome = outcome(watched(Heap::Preloaded, "clean").env(name, value));
        ends_well(&outcome);
        assert_eq!(outcome.words("watch"), [said], "{name}={value}");
    }
}
