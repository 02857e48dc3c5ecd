//! Standing between a caller and the program without being noticed.
//!
//! # Theory
//! The program runs as our child in our process group, with our standard streams. A terminal sends its signals
//! (^C, ^\, ^Z, window size, hang-up) to the whole group: the program has them already, and we only drop our copy. A
//! signal that a process sends to us by `kill` is meant for the program and is passed on. All these signals are
//! blocked here and taken one by one with `sigwaitinfo`, SIGCHLD among them: no handler, no race.
//!
//! - The program stops: we stop too, so that a shell takes its terminal back; when we are continued, so is it.
//! - We are killed (SIGKILL): the program is killed too, by its parent-death signal.
//! - The program ends: its status is ours to pass on, see [`crate::run`].
//!
//! A signal that a process sends to the *group* reaches the program twice, directly and through us; the
//! system does not tell the two ways of sending apart.

use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::summary::Ending;
use crate::sys::{self, CallerSignals, Change, SignalSet};

/// Signals that end, stop or inform a program and that others may send to us in its place. Missing are those that
/// cannot be caught, and those by which the processor reports a fault in our own code.
const PASSED_ON: &[i32] = &[
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGABRT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGCONT,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGURG,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGWINCH,
    libc::SIGIO,
    libc::SIGPWR,
];

/// What is known of a program that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// Its process id.
    pub(crate) pid: u32,
    /// How it ended.
    pub(crate) ending: Ending,
    /// How long it ran.
    pub(crate) wall: Duration,
    /// The most bytes it had resident.
    pub(crate) max_rss: u64,
}

/// Runs the program to its end.
///
/// # Errors
/// The error of starting it; or, which should never be, of waiting for it.
pub(crate) fn run(mut command: Command) -> io::Result<Ended> {
    let realtime: Vec<i32> = (libc::SIGRTMIN()..=libc::SIGRTMAX()).collect();
    let signals: Vec<i32> = PASSED_ON.iter().copied().chain([libc::SIGCHLD]).chain(realtime).collect();
    let set = SignalSet::of(&signals);
    let caller = CallerSignals::take(&set);
    sys::prepare_child(&mut command, caller);

    let start = Instant::now();
    let pid = command.spawn()?.id();
    let ended = |ending, max_rss| Ended { pid, ending, wall: start.elapsed(), max_rss };
    loop {
        match set.wait()? {
            (libc::SIGCHLD, _) => match sys::wait_child(pid)? {
                Change::None => {}
                Change::Stopped => {
                    sys::stop_self();
                    // Whoever continued us may have meant us alone; to continue it twice is to continue it once.
                    sys::send(pid, libc::SIGCONT);
                }
                Change::Exited(status, max_rss) => return Ok(ended(Ending::Exited(status), max_rss)),
                Change::Signalled(signal, max_rss) => return Ok(ended(Ending::Signalled(signal), max_rss)),
            },
            (signal, true) => sys::send(pid, signal),
            // From the terminal or the kernel: the program got its own.
            (_, false) => {}
        }
    }
}
