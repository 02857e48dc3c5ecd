//! Call stacks: by rules that are kept they are those of the compiler's unwinder, in programs without frame pointers, in code of
//! every origin, after a library went and another came.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use crate::support::{Heap, ScratchDir, command, compiled, engine, outcome};

/// Every stack is walked both ways; the first that differs ends the program.
fn compared(command: &mut Command) -> &mut Command {
    command.env("KMEM_DEBUG", "U").env("KMEM_UNWIND", "both")
}

/// Programs that distributions compile: C, C++, hand-written code of the C library, code made at run time.
#[test]
fn real_programs_have_the_same_stacks() {
    if engine() != "slub" {
        return;
    }
    let dir = ScratchDir::new();
    let object = dir.path().join("out.o");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/watch.c");
    let text = "my %h; $h{$_ % 97} .= \"v$_\" for 1..3000; print join(',', map { length $h{$_} } sort keys %h), \"\\n\"";
    let numbers = "import json, re, threading\nt = threading.Thread(target=lambda: sorted(str(n) for n in range(2000)))\n\
                   t.start()\nt.join()\nprint(len(json.dumps([re.escape(str(n)) for n in range(500)])))";
    let runs: [(&str, Vec<&OsStr>); 4] = [
        ("perl", vec!["-e".as_ref(), text.as_ref()]),
        ("python3", vec!["-c".as_ref(), numbers.as_ref()]),
        ("sort", vec!["-n".as_ref(), source.as_os_str()]),
        (
            "gcc",
            vec![
                "-O2".as_ref(),
                "-w".as_ref(),
                "-c".as_ref(),
                source.as_os_str(),
                "-o".as_ref(),
                object.as_os_str(),
            ],
        ),
    ];
    for (program, arguments) in runs {
        let known = Command::new(program).arg("--version").output().is_ok();
        assert!(known || program != "gcc", "gcc is needed");
        if !known {
            continue;
        }
        let run = |heap| {
            let mut command = command(Path::new(program), heap);
            command.args(&arguments).env("PYTHONMALLOC", "malloc");
            command
        };
        let (plain, watched) = (outcome(&mut run(Heap::Plain)), outcome(compared(&mut run(Heap::Preloaded))));
        assert!(
            watched.status == plain.status
                && watched.stdout == plain.stdout
                && watched.stderr == plain.stderr,
            "{program}: {watched:#?}"
        );
    }
}

/// Frames that compilers make seldom: aligned stacks, stacks of a size known late, a signal's handler, a handler on a stack of its own,
/// coroutines, a library that is unloaded for another.
#[test]
fn unusual_frames_have_the_same_stacks() {
    if engine() != "slub" {
        return;
    }
    let library = |value: &str| compiled("unloaded.c", &["-shared", "-fPIC", "-O2", value].map(OsStr::new));
    let libraries = [library("-DFRAME=64"), library("-DFRAME=4096")];
    for flags in [&["-w", "-O2"][..], &["-w", "-O2", "-fno-omit-frame-pointer"], &["-w", "-O0", "-mavx"]] {
        let flags: Vec<&OsStr> = flags.iter().map(OsStr::new).collect();
        let program = compiled("frames.c", &flags);
        let outcome = outcome(compared(command(&program, Heap::Preloaded).args(&libraries)));
        assert!(outcome.status.success() && outcome.stdout == "ok\n", "{flags:?}: {outcome:#?}");
        assert!(outcome.stderr.is_empty(), "{outcome:#?}");
    }
}
