//! `kmem run` and signals: how it passes them on, and how a program's end by one is passed back.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Stdio};

use support::{eventually, kmem, state};

/// A program under `kmem run` that has announced its process id.
struct Running {
    kmem: Child,
    lines: BufReader<std::process::ChildStdout>,
    program: u32,
}

/// Starts a shell script; it must print `$$` first.
fn start(script: &str) -> Running {
    start_in(&std::env::temp_dir(), script)
}

/// As [`start`], with another directory for temporary files.
fn start_in(temporary: &Path, script: &str) -> Running {
    let mut command = kmem();
    command.env("TMPDIR", temporary);
    // A group of its own, as a shell with job control makes one.
    command.args(["run", "--summary", "--", "sh", "-c", script]).process_group(0);
    // Whoever runs the tests in the background ignores some signals, and a shell cannot trap what it was born to ignore.
    let heed_all = || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
            // SAFETY: no handler is involved.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: between fork and exec it calls what may be called there, and allocates nothing.
    unsafe { command.pre_exec(heed_all) };
    let mut kmem = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(kmem.stdout.take().unwrap());
    let mut first = String::new();
    lines.read_line(&mut first).unwrap();
    let program = first.trim().parse().unwrap_or_else(|_| panic!("'{first}' is not a process id"));
    assert_ne!(program, kmem.id(), "the program is a child");
    Running { kmem, lines, program }
}

fn send(pid: u32, signal: i32) {
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0);
}

#[test]
fn a_signal_sent_to_kmem_reaches_the_program() {
    for (signal, name) in [
        (libc::SIGTERM, "TERM"),
        (libc::SIGINT, "INT"),
        (libc::SIGHUP, "HUP"),
        (libc::SIGQUIT, "QUIT"),
        (libc::SIGUSR1, "USR1"),
        (libc::SIGWINCH, "WINCH"),
    ] {
        let script = format!("trap 'echo got; exit 42' {name}; echo $$; while :; do sleep 0.02; done");
        let mut running = start(&script);
        send(running.kmem.id(), signal);
        let mut rest = String::new();
        running.lines.read_to_string(&mut rest).unwrap();
        assert_eq!((rest.as_str(), running.kmem.wait().unwrap().code()), ("got\n", Some(42)), "{name}");
    }
}

#[test]
fn a_program_killed_by_a_signal_kills_kmem_by_the_same() {
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGSEGV, libc::SIGABRT] {
        let mut running = start("echo $$; exec sleep 60");
        send(running.program, signal);
        let status = running.kmem.wait().unwrap();
        assert_eq!((status.signal(), status.core_dumped()), (Some(signal), false));
        let mut err = String::new();
        running.kmem.stderr.unwrap().read_to_string(&mut err).unwrap();
        assert!(err.contains(", killed by SIG"), "{err}");
        assert!(err.contains("left no report, as none can that a signal kills"), "{err}");
    }
}

#[test]
fn kmem_stops_and_continues_with_the_program() {
    let mut running = start("echo $$; exec sleep 0.3");
    send(running.program, libc::SIGSTOP);
    eventually("kmem stops", || (state(running.kmem.id()) == Some('T')).then_some(()));
    assert_eq!(state(running.program), Some('T'));
    // Only kmem is told to go on.
    send(running.kmem.id(), libc::SIGCONT);
    assert_eq!(running.kmem.wait().unwrap().code(), Some(0));
}

#[test]
fn a_stop_from_the_terminal_stops_both() {
    let mut running = start("echo $$; exec sleep 0.3");
    let group = running.kmem.id();
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::killpg(group as i32, libc::SIGSTOP) }, 0);
    eventually("both stop", || {
        (state(group) == Some('T') && state(running.program) == Some('T')).then_some(())
    });
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::killpg(group as i32, libc::SIGCONT) }, 0);
    assert_eq!(running.kmem.wait().unwrap().code(), Some(0));
}

#[test]
fn the_program_does_not_outlive_a_killed_kmem() {
    // It cannot clear up after itself either.
    let scratch = support::Scratch::new("killed");
    let mut running = start_in(&scratch.path(""), "echo $$; exec sleep 60");
    send(running.kmem.id(), libc::SIGKILL);
    running.kmem.wait().unwrap();
    eventually("the program ends", || matches!(state(running.program), None | Some('Z')).then_some(()));
}

#[test]
fn a_signal_that_the_program_ignores_is_ignored() {
    let mut running = start("trap '' TERM; echo $$; sleep 0.3; exit 6");
    send(running.kmem.id(), libc::SIGTERM);
    assert_eq!(running.kmem.wait().unwrap().code(), Some(6));
}
