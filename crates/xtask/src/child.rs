//! Child processes with a time limit, and what the kernel says they used.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// How a child ended.
pub(crate) struct End {
    pub(crate) status: ExitStatus,
    /// Of the child and of all its children that it waited for.
    pub(crate) usage: libc::rusage,
    /// Killed because its time was over.
    pub(crate) timed_out: bool,
}

/// Waits for process group `pid`'s leader; at `deadline` the whole group is killed. Whatever of the group
/// outlives its leader is killed too: a run leaves nothing behind.
pub(crate) fn wait(pid: u32, deadline: Instant) -> End {
    let pid = pid as libc::pid_t;
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
            // SAFETY: a negative pid names the process group that the child leads; it is not reaped yet,
            // so that the number cannot belong to another.
            unsafe { libc::kill(-pid, libc::SIGKILL) };
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // SAFETY: the group lives on as long as a member does, and its number is not given out before; with
    // no member the call fails.
    unsafe { libc::kill(-pid, libc::SIGKILL) };
    End { status: ExitStatus::from_raw(status), usage, timed_out }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_child_ends_by_itself_or_at_its_limit() {
        let run = |script: &str, limit| {
            let child = Command::new("/bin/sh").args(["-c", script]).process_group(0).spawn().unwrap();
            wait(child.id(), Instant::now() + limit)
        };
        let end = run("exit 3", Duration::from_secs(60));
        assert_eq!((end.status.code(), end.timed_out), (Some(3), false));
        let start = Instant::now();
        let end = run("sleep 60 & sleep 60", Duration::from_millis(50));
        assert!(end.timed_out && end.status.signal() == Some(libc::SIGKILL));
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
