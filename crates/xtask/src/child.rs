//! Child processes with a time limit, and what the kernel says they used.
//!
//! Each runs in a process group of its own, which is killed when its time is over, when its leader has ended, and when
//! this program is interrupted: a run leaves nothing behind. A child that is this program again has children in groups of
//! their own; it is asked to end rather than killed, and ends them.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// How a child ended.
pub(crate) struct End {
    pub(crate) status: ExitStatus,
    /// Of the child and of all its children that it waited for.
    pub(crate) usage: libc::rusage,
    pub(crate) wall: Duration,
    /// Killed because its time was over.
    pub(crate) timed_out: bool,
}

/// The groups that run now, or 0: what an interrupt must end. All relaxed: nothing but the numbers is handed over.
struct Groups {
    /// What ends them.
    signal: libc::c_int,
    slots: [AtomicI32; 4],
}

impl Groups {
    const fn ended_by(signal: libc::c_int) -> Self {
        Self { signal, slots: [const { AtomicI32::new(0) }; 4] }
    }

    fn enter(&self, pid: libc::pid_t) -> &AtomicI32 {
        let free = |slot: &&AtomicI32| {
            slot.compare_exchange(0, pid, Ordering::Relaxed, Ordering::Relaxed).is_ok() // read by the handler
        };
        self.slots.iter().find(free).expect("as many slots as children at a time")
    }

    /// Callable in a signal handler.
    fn end(&self) {
        for slot in &self.slots {
            let pid = slot.load(Ordering::Relaxed); // of what `enter` and the end of a run wrote
            if pid > 0 {
                // SAFETY: the group is that of our own child, which is alive, or was reaped a moment ago.
                unsafe { libc::kill(-pid, self.signal) };
            }
        }
    }
}

static OTHERS: Groups = Groups::ended_by(libc::SIGKILL);
static OURSELVES: Groups = Groups::ended_by(libc::SIGTERM);

/// Runs `command` to its end, at most for `limit`. The error is that of starting it.
pub(crate) fn run(command: &mut Command, limit: Duration) -> io::Result<End> {
    run_among(&OTHERS, command, limit)
}

/// The same for a command that is this program: see above.
pub(crate) fn run_ourselves(command: &mut Command, limit: Duration) -> io::Result<End> {
    run_among(&OURSELVES, command, limit)
}

fn run_among(groups: &Groups, command: &mut Command, limit: Duration) -> io::Result<End> {
    static HANDLERS: Once = Once::new();
    HANDLERS.call_once(|| {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: the handler calls only what a handler may: an atomic load, kill and _exit.
            unsafe { libc::signal(signal, interrupted as *const () as libc::sighandler_t) };
        }
    });
    let start = Instant::now();
    // Reaped by wait4 below, which also tells what it used.
    let pid = command.process_group(0).spawn()?.id() as libc::pid_t;
    let slot = groups.enter(pid);
    let (status, usage, timed_out) = wait(pid, start + limit, groups.signal);
    slot.store(0, Ordering::Relaxed); // read by the handler
    Ok(End { status, usage, wall: start.elapsed(), timed_out })
}

extern "C" fn interrupted(signal: libc::c_int) {
    OTHERS.end();
    OURSELVES.end();
    // SAFETY: may be called in a handler.
    unsafe { libc::_exit(128 + signal) };
}

/// Waits for the leader of group `pid`, which `signal` ends when its time is over, then makes sure that the group is gone.
fn wait(pid: libc::pid_t, deadline: Instant, signal: libc::c_int) -> (ExitStatus, libc::rusage, bool) {
    // SAFETY: rusage is plain numbers, for which all-zero bytes are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let mut status = 0;
    let mut timed_out = false;
    loop {
        // SAFETY: both pointers are to live locals; `pid` is our own unreaped child.
        let reaped = unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage) };
        if reaped == pid {
            break;
        }
        if !timed_out && Instant::now() >= deadline {
            timed_out = true;
            // SAFETY: a negative number names the group that the child leads; the child is not reaped yet, so that
            // the number cannot belong to another.
            unsafe { libc::kill(-pid, signal) };
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // SAFETY: the group lives on as long as a member does, and its number is not given out before; without
    // a member the call fails.
    unsafe { libc::kill(-pid, libc::SIGKILL) };
    (ExitStatus::from_raw(status), usage, timed_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_ends_by_itself_or_at_its_limit() {
        let sh = |script: &str, limit| run(Command::new("/bin/sh").args(["-c", script]), limit).unwrap();
        let end = sh("exit 3", Duration::from_secs(60));
        assert_eq!((end.status.code(), end.timed_out), (Some(3), false));
        let end = sh("sleep 60 & sleep 60", Duration::from_millis(50));
        assert!(end.timed_out && end.status.signal() == Some(libc::SIGKILL));
        assert!(end.wall < Duration::from_secs(30));
    }
}
