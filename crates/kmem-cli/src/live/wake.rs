//! Waking a process that does not come by: its threads get a signal, one after the other.
//!
//! # Theory
//! The library listens to SIGURG where the program does not, and its table says so; where there is none yet the system tells ([`early`]). A thread that gets it while it waits in a system call does
//! what there is to do at once; one that runs comes by at its next malloc or free, or does not, if it never allocates. Nobody can tell
//! from outside which thread will: so each is tried, those that run first, then those that wait in calls which go on after a signal, and
//! last those whose call ends (`poll`, `nanosleep`).
//!
//! # Never
//! A process is sent the signal only if its table says that it listens, or there is none and the library is in it, and only while the system says that it has a handler for it: it
//! may have taken the signal for its own ends meanwhile, or be another program since. Another signal than this is never sent, whatever
//! a table says.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{early, read_table};
use crate::sys;

/// The signal. Whoever does not listen to it ignores it.
const SIGNAL: i32 = libc::SIGURG;

/// Between two threads: time to answer.
const STEP: Duration = Duration::from_millis(100);
/// After all threads.
const ROUND: Duration = Duration::from_millis(1000);

/// Wakes one process.
#[derive(Debug)]
pub(crate) struct Waker {
    pid: u32,
    tried: Vec<u32>,
    next: Instant,
    woken: usize,
}

impl Waker {
    pub(crate) fn new(pid: u32) -> Self {
        Waker { pid, tried: Vec::new(), next: Instant::now(), woken: 0 }
    }

    /// Threads that were sent the signal so far.
    pub(crate) fn woken(&self) -> usize {
        self.woken
    }

    /// Wakes the next thread, if it is time for that. `directory`: where the table is.
    pub(crate) fn turn(&mut self, directory: &Path) {
        if Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + STEP;
        let listens = match read_table(directory, self.pid) {
            Ok(Some(table)) => table.report.wake == SIGNAL as u64,
            Ok(None) => early::is_in(directory, self.pid),
            Err(_) => false,
        };
        if !listens {
            return;
        }
        let next = threads(self.pid).into_iter().find(|thread| !self.tried.contains(thread));
        if let Some(thread) = next {
            sys::send_to_thread(self.pid, thread, SIGNAL);
            self.tried.push(thread);
            self.woken += 1;
        } else {
            self.tried.clear();
            self.next = Instant::now() + ROUND;
        }
    }
}

/// The threads of a process that would hear the signal, those first that had best get it.
fn threads(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let ids = tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok());
    let mut threads: Vec<(u32, u32)> = ids
        .filter_map(|thread: u32| {
            let read = |what: &str| fs::read_to_string(format!("/proc/{pid}/task/{thread}/{what}"));
            // Where it waits may be nobody's business: then it counts as any.
            Some((order(&read("status").ok()?, &read("wchan").unwrap_or_default())?, thread))
        })
        .collect();
    threads.sort_unstable();
    threads.into_iter().map(|(_, thread)| thread).collect()
}

/// When it is the turn of a thread with this status that waits in this function of the kernel; `None`: never.
fn order(status: &str, waits: &str) -> Option<u32> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let has = |name: &str| u64::from_str_radix(field(name)?, 16).ok().map(|set| set >> (SIGNAL - 1) & 1 == 1);
    if has("SigBlk:")? || !has("SigCgt:")? {
        return None;
    }
    // Calls that end when a handler ran (signal(7)).
    const ENDS: [&str; 6] = ["poll", "select", "nanosleep", "pause", "sigsuspend", "sigtimedwait"];
    match field("State:")?.chars().next()? {
        'R' => Some(0),
        'S' if ENDS.iter().any(|call| waits.contains(call)) => Some(2),
        'S' => Some(1),
        'D' => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: &str, blocked: u64, caught: u64) -> String {
        format!(
            "Name:\ta\nState:\t{state}\nSigBlk:\t{blocked:016x}\nSigIgn:\t0000000000000000\nSigCgt:\t{caught:016x}\n"
        )
    }

    #[test]
    fn threads_that_run_come_first_and_those_that_cannot_hear_never() {
        const URG: u64 = 1 << 22;
        for (text, waits, expected) in [
            (status("R (running)", 0, URG), "0", Some(0)),
            (status("S (sleeping)", 0, URG), "futex_do_wait", Some(1)),
            (status("S (sleeping)", 0, URG), "0", Some(1)),
            (status("S (sleeping)", !URG, !0), "", Some(1)),
            (status("S (sleeping)", 0, URG), "do_poll.constprop.0", Some(2)),
            (status("S (sleeping)", 0, URG), "hrtimer_nanosleep", Some(2)),
            (status("D (disk sleep)", 0, URG), "io_schedule", Some(3)),
            (status("S (sleeping)", URG, URG), "0", None),
            (status("S (sleeping)", 0, !URG), "0", None),
            (status("T (stopped)", 0, URG), "0", None),
            (status("Z (zombie)", 0, URG), "0", None),
            (String::new(), "0", None),
            ("State:\tR\nSigBlk:\tx\nSigCgt:\tx\n".to_owned(), "0", None),
        ] {
            assert_eq!(order(&text, waits), expected, "{text} {waits}");
        }
    }

    #[test]
    fn who_does_not_listen_is_left_alone() {
        let scratch = crate::run::tests::Scratch::new("waker");
        let own = std::process::id();
        let table = |more: &str| crate::report::tests::SAMPLE.replace("gauge", &format!("{more}gauge"));
        // This process has no handler, whatever its table says.
        for more in ["", "wake 9\n", "wake 23\n"] {
            scratch.file(&format!("{own}.table"), table(more).as_bytes(), 0o600);
            let mut waker = Waker::new(own);
            waker.turn(&scratch.path(""));
            assert_eq!((waker.woken(), waker.tried.len()), (0, 0), "{more}");
        }
    }
}
