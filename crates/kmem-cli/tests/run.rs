//! `kmem run`: what a caller and a program see of it.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Scratch, compile, fake_library, kmem, said};

#[test]
fn streams_pass_untouched_and_nothing_is_added() {
    let script = "cat; echo out; echo err >&2; exit 7";
    let mut command = kmem();
    command.args(["run", "--", "sh", "-c", script]);
    let scratch = Scratch::new("stdin");
    let input = scratch.file("input", "in\n");
    let said = said(command.stdin(fs::File::open(input).unwrap()));
    assert_eq!((said.status, said.out.as_str(), said.err.as_str()), (Some(7), "in\nout\n", "err\n"));
}

#[test]
fn the_library_is_preloaded_into_the_program_and_its_children() {
    let fake = fake_library().display().to_string();
    let script = "echo $LD_PRELOAD; sh -c 'grep -c libfake.so /proc/self/maps >/dev/null && echo child'";
    let plain = said(kmem().args(["run", "sh", "-c", script]));
    assert_eq!(plain.out, format!("{fake}\nchild\n"));
    let chained = said(kmem().env("LD_PRELOAD", "libdl.so.2").args(["run", "sh", "-c", "echo $LD_PRELOAD"]));
    assert_eq!(chained.out, format!("{fake}:libdl.so.2\n"));
}

#[test]
fn a_library_whose_name_separates_names_is_preloaded_too() {
    let scratch = Scratch::new("a b:c");
    let library = scratch.path("lib fake:2.so");
    fs::copy(fake_library(), &library).unwrap();
    let said =
        said(kmem().env("KMEM_LIB", &library).args(["run", "grep", "-c", "fake:2.so", "/proc/self/maps"]));
    assert_eq!((said.status, said.err.as_str()), (Some(0), ""));
    assert!(said.out.trim().parse::<u32>().unwrap() > 0);
}

#[test]
fn the_summary_goes_to_stderr_when_asked() {
    let said = said(kmem().args(["run", "--summary", "--", "sh", "-c", "echo out; sh -c 'exit 0'; exit 3"]));
    assert_eq!((said.status, said.out.as_str()), (Some(3), "out\n"));
    let first = said.err.lines().next().unwrap();
    assert!(first.starts_with("kmem: sh (pid "), "{first}");
    assert!(first.contains("), exit status 3, 0.") && first.ends_with("1 more process reported"), "{first}");
    assert!(
        said.err.contains(
            "heap of 'fake prog': engine slub, 2 CPUs, 1 node, CPU stacks by restartable sequences"
        )
    );
    let row = said.err.lines().find(|line| line.starts_with("kmalloc-64")).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(
        cells,
        ["kmalloc-64", "64", "100", "192", "52.1", "3", "12.0K", "5.8K", "20.0K", "100,000", "99.8"]
    );
    assert!(!said.err.contains('\x1b'), "colours without a terminal");
}

#[test]
fn the_program_is_told_to_do_without_restartable_sequences() {
    let said = said(kmem().args(["run", "--no-rseq", "--summary", "--", "sh", "-c", "echo $KMEM_RSEQ"]));
    assert_eq!(said.out, "0\n");
    assert!(said.err.contains("CPU stacks by the portable path"), "{}", said.err);
}

#[test]
fn a_summary_file_takes_the_place_of_stderr() {
    let scratch = Scratch::new("summary");
    let file = scratch.path("summary.txt");
    let quiet = said(kmem().args(["run", "--summary-file"]).arg(&file).args(["--", "true"]));
    assert_eq!((quiet.status, quiet.err.as_str()), (Some(0), ""));
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("kmem: true (pid "), "{text}");
    assert!(text.contains("huge: own mappings"));

    let both = said(kmem().args(["run", "--summary", "--summary-file"]).arg(&file).args(["--", "true"]));
    assert!(both.err.starts_with("kmem: true (pid "));

    let nowhere =
        said(kmem().args(["run", "--summary-file", "/nonexistent/file", "--", "sh", "-c", "exit 4"]));
    assert_eq!(nowhere.status, Some(4), "the program's status stays");
    assert_eq!(nowhere.err, "kmem: /nonexistent/file: No such file or directory (os error 2)\n");
}

#[test]
fn slabinfo_of_the_program_and_of_its_children() {
    let scratch = Scratch::new("slabinfo");
    let file = scratch.path("out");
    let script = "sh -c 'exit 0'; sh -c 'exit 0'; echo $$";
    let said = said(kmem().args(["run", "--slabinfo"]).arg(&file).args(["--", "sh", "-c", script]));
    assert_eq!((said.status, said.err.as_str()), (Some(0), ""));
    let main = fs::read(&file).unwrap();
    assert!(main.starts_with(b"slabinfo - version: 2.1\n"));
    let mut children: Vec<_> =
        fs::read_dir(file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
    children.retain(|path| *path != file);
    assert_eq!(children.len(), 2, "{children:?}");
    for child in children {
        assert_ne!(
            child.extension().unwrap(),
            said.out.trim(),
            "the main process has the name without a number"
        );
        assert_eq!(fs::read(child).unwrap(), main);
    }
}

#[test]
fn a_program_that_leaves_no_report_is_said_so() {
    let scratch = Scratch::new("none");
    let mut command = kmem();
    command.env("FAKE_REPORT", "none").args(["run", "--summary", "--slabinfo"]).arg(scratch.path("out"));
    let none = said(command.args(["--", "sh", "-c", "exit 5"]));
    assert_eq!(none.status, Some(5));
    assert!(none.err.contains("the program left no report"), "{}", none.err);
    assert!(none.err.contains("kmem: no slabinfo: the program left no slabinfo"), "{}", none.err);
    assert!(!scratch.path("out").exists());

    let cut = said(kmem().env("FAKE_REPORT", "cut").args(["run", "--summary", "--", "true"]));
    assert!(cut.err.contains("its report cannot be read: line 8: cut off: no 'end'"), "{}", cut.err);
}

#[test]
fn the_directory_of_the_reports_is_removed() {
    let scratch = Scratch::new("tmp");
    let temporary = scratch.path("t");
    fs::create_dir(&temporary).unwrap();
    let script = "ls -d $KMEM_REPORT_DIR";
    let said = said(kmem().env("TMPDIR", &temporary).args(["run", "--summary", "--", "sh", "-c", script]));
    assert!(said.out.starts_with(temporary.to_str().unwrap()), "{}", said.out);
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    // Nothing to tell: no directory, and the program takes our place.
    let mut command = kmem();
    command.args(["run", "--no-summary", "--", "sh", "-c", "echo $$ $KMEM_REPORT_DIR"]);
    let child = command.env("KMEM_REPORT_DIR", "/inherited").stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    assert_eq!(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap(), format!("{pid}\n"));
}

#[test]
fn failures_to_start_have_the_statuses_of_a_shell() {
    let scratch = Scratch::new("start");
    let plain = scratch.file("plain", "text");
    for (program, status, message) in [
        ("no-such-program-here", 127, "kmem: no-such-program-here: command not found\n".to_owned()),
        ("/no/such/program", 127, "kmem: /no/such/program: no such file\n".to_owned()),
        ("/", 126, "kmem: /: is a directory\n".to_owned()),
        (plain.to_str().unwrap(), 126, format!("kmem: {}: permission denied\n", plain.display())),
    ] {
        for mode in ["--summary", "--no-summary"] {
            let said = said(kmem().args(["run", mode, "--", program]));
            assert_eq!((said.status, said.err.as_str()), (Some(status), message.as_str()));
        }
    }
}

#[test]
fn a_text_without_an_interpreter_line_is_run_by_the_shell() {
    let scratch = Scratch::new("text");
    let script = scratch.file("script", "echo from a shell, $1\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    for mode in ["--summary", "--no-summary"] {
        let said = said(kmem().args(["run", mode, "--"]).arg(&script).arg("argument"));
        assert_eq!((said.status, said.out.as_str()), (Some(0), "from a shell, argument\n"));
    }
}

#[test]
fn the_program_keeps_the_name_it_was_called_by() {
    let said = said(kmem().args(["run", "--", "sh", "-c", "tr '\\0' ' ' </proc/$$/cmdline"]));
    assert!(said.out.starts_with("sh -c "), "{}", said.out);
}

/// Says whether a library was to be preloaded into it.
const PROGRAM: &str = "
#include <stdio.h>
#include <stdlib.h>
int main(void)
{
	puts(getenv(\"LD_PRELOAD\") ? \"preloaded\" : \"alone\");
	return 9;
}
";

#[test]
fn statically_linked_programs_are_refused_or_forced() {
    let scratch = Scratch::new("static");
    let source = scratch.file("p.c", PROGRAM);
    let program = scratch.path("p");
    compile(&["-static"], &source, &program);
    let refused = said(kmem().args(["run", "--summary", "--"]).arg(&program));
    assert_eq!((refused.status, refused.out.as_str()), (Some(125), ""));
    let expected = format!(
        "kmem: {} is statically linked: nothing can be preloaded into it (--force runs it without kmem)\n",
        program.display()
    );
    assert_eq!(refused.err, expected);

    let forced = said(kmem().args(["run", "--force", "--"]).arg(&program));
    assert_eq!((forced.status, forced.out.as_str()), (Some(9), "alone\n"));
    assert!(forced.err.starts_with("kmem: running it without kmem: "), "{}", forced.err);

    compile(&["-static-pie"], &source, &program);
    assert_eq!(said(kmem().args(["run", "--"]).arg(&program)).status, Some(125));
    // Forcing a program that needs no force changes nothing.
    compile(&[], &source, &program);
    let normal = said(kmem().args(["run", "--force", "--"]).arg(&program));
    assert_eq!((normal.status, normal.out.as_str(), normal.err.as_str()), (Some(9), "preloaded\n", ""));
}

#[test]
fn programs_that_gain_rights_are_refused() {
    // SAFETY: no arguments, cannot fail.
    let root = unsafe { libc::getuid() } == 0;
    let scratch = Scratch::new("setuid");
    let program = if root {
        let copy = scratch.path("copy");
        fs::copy("/bin/true", &copy).unwrap();
        std::os::unix::fs::chown(&copy, Some(65_534), None).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755)).unwrap();
        copy
    } else {
        let known = ["/usr/bin/su", "/bin/su", "/usr/bin/passwd", "/usr/bin/mount"];
        let installed = known
            .iter()
            .map(Path::new)
            .find(|path| fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o4000 != 0));
        installed.expect("a set-user-ID program").to_path_buf()
    };
    let said = said(kmem().args(["run", "--"]).arg(&program));
    assert_eq!(said.status, Some(125));
    assert!(said.err.contains("is set-user-ID: the dynamic linker preloads nothing"), "{}", said.err);
}

#[test]
fn options_are_checked_before_anything_runs() {
    for (arguments, message) in [
        (
            &["--engine", "slop"][..],
            "kmem: invalid value 'slop' for '--engine <NAME>' [possible values: slub, slab, slob] (see 'kmem run --help')\n",
        ),
        (
            &["--engine", "slob", "--debug", "FZ"],
            "kmem: --debug: the engine slob has no checks for FZ (slub and slab have)\n",
        ),
        (
            &["--debug", "fq"],
            "kmem: unknown debug letter 'q' (there are: F consistency checks, Z red zones, P poisoning, \
             U user tracking, T trace, A fault injection, O no debugging that would raise a cache's order, \
             - none of the letters before it)\n",
        ),
        (&["--debgu"], "kmem: unexpected argument '--debgu' found (see 'kmem run --help')\n"),
        (
            &["--top", "many"],
            "kmem: invalid value 'many' for '--top <N>': invalid digit found in string (see 'kmem run --help')\n",
        ),
    ] {
        let said = said(kmem().arg("run").args(arguments).args(["--", "echo", "started"]));
        assert_eq!((said.status, said.out.as_str(), said.err.as_str()), (Some(125), "", message));
    }
    // No letters are left: nothing to refuse.
    assert_eq!(said(kmem().args(["run", "--debug", "F-", "--", "echo", "started"])).out, "started\n");
    assert_eq!(said(kmem().args(["run", "--engine", "slub", "--", "echo", "started"])).out, "started\n");
    let nothing = said(kmem().args(["run", "--summary"]));
    assert_eq!(nothing.status, Some(125));
    assert!(nothing.err.contains("required arguments were not provided: <PROGRAM>"), "{}", nothing.err);
    assert_eq!(nothing.err.lines().count(), 1);
}

#[test]
fn a_library_that_is_not_there_is_named() {
    let said = said(kmem().env("KMEM_LIB", "/no/such/lib.so").args(["run", "--", "true"]));
    assert_eq!(said.status, Some(125));
    assert_eq!(said.err, "kmem: KMEM_LIB=/no/such/lib.so: No such file or directory (os error 2)\n");
}

#[test]
fn the_manuals_are_answers() {
    for arguments in
        [&["--help"][..], &["run", "--help"], &["info", "--help"], &["lab", "--help"], &["--version"]]
    {
        let said = said(kmem().args(arguments));
        assert_eq!((said.status, said.err.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(!said.out.is_empty());
        for line in said.out.lines() {
            assert!(line.chars().count() <= 110, "{arguments:?}: {line}");
        }
    }
    assert!(said(kmem().args(["run", "--help"])).out.contains("Exit status:"));
    let bare = said(&mut kmem());
    assert_eq!((bare.status, bare.out.as_str()), (Some(1), ""));
    assert!(bare.err.contains("Usage: kmem"), "{}", bare.err);
}

/// The signal state that a program inherits must be ours, not that of this command or its runtime.
#[test]
fn signal_state_is_inherited() {
    let fields = "grep -E '^Sig(Blk|Ign)' /proc/self/status";
    for prelude in ["", "trap '' PIPE; ", "trap '' HUP CHLD INT; "] {
        let kmem_line = |mode| {
            format!(
                "{prelude}exec {} run {mode} -- grep -E '^Sig(Blk|Ign)' /proc/self/status",
                env!("CARGO_BIN_EXE_kmem")
            )
        };
        let shell =
            |line: &str| said(Command::new("sh").env("KMEM_LIB", fake_library()).args(["-c", line])).out;
        let expected = shell(&format!("{prelude}exec {fields}"));
        assert!(expected.contains("SigIgn:"));
        for mode in ["--summary", "--no-summary"] {
            assert_eq!(shell(&kmem_line(mode)), expected, "{mode} after '{prelude}'");
        }
    }
}

#[test]
fn what_only_a_hardened_heap_does_is_asked_of_one() {
    // Another build of the library lies beside the usual one.
    let scratch = Scratch::new("hardened");
    let library = scratch.path("libkmem_malloc.so");
    for name in ["libkmem_malloc.so", "libkmem_malloc_hardened.so"] {
        fs::copy(fake_library(), scratch.path(name)).unwrap();
    }
    let script = "echo $KMEM_QUARANTINE $KMEM_ORIGINS; echo $LD_PRELOAD";
    let run = |options: &[&str], hardened: Option<&str>| {
        let mut command = kmem();
        command.env("KMEM_LIB", &library).envs(hardened.map(|value| ("KMEM_HARDENED", value)));
        said(command.arg("run").args(options).args(["--", "sh", "-c", script]))
    };
    for (options, hardened, told) in [
        (&["--hardened", "--quarantine", "512k"][..], None, "524288"),
        (&["--hardened", "--quarantine=8M", "--origins"], None, "8388608 1"),
        (&["--origins"], Some("1"), "1"),
        (&["--hardened"], None, ""),
    ] {
        let ran = run(options, hardened);
        let lines: Vec<_> = ran.out.lines().collect();
        assert_eq!((ran.status, ran.err.as_str(), lines[0]), (Some(0), "", told), "{options:?}");
        assert!(lines[1].ends_with("/libkmem_malloc_hardened.so"), "{options:?}: {}", lines[1]);
    }
    for (options, complaint) in [
        (&["--quarantine", "8M"][..], "--quarantine is for a hardened heap: give --hardened too"),
        (&["--origins"], "--origins is for a hardened heap: give --hardened too"),
        (&["--engine=slab", "--origins"], "--origins is for a hardened heap: give --hardened too"),
        (&["--hardened", "--quarantine", "much"], "a number of bytes is expected, like 1048576, 512k or 8M"),
    ] {
        let refused = run(options, Some("0"));
        assert_eq!((refused.status, refused.out.as_str()), (Some(125), ""), "{options:?}");
        assert!(refused.err.contains(complaint), "{options:?}: {}", refused.err);
    }
}
