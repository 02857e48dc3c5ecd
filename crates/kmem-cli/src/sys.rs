//! The system calls that the standard library does not offer. All its `unsafe` is here.
//!
//! Each function is a thin, safe face of one call: arguments are owned or borrowed Rust values, errors are
//! [`std::io::Error`].

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

mod terminal;

pub(crate) use terminal::{TerminalMode, terminal_columns};

/// Names of the signals a program is commonly killed by.
const SIGNALS: &[(i32, &str)] = &[
    (libc::SIGHUP, "SIGHUP"),
    (libc::SIGINT, "SIGINT"),
    (libc::SIGQUIT, "SIGQUIT"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGTRAP, "SIGTRAP"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGKILL, "SIGKILL"),
    (libc::SIGUSR1, "SIGUSR1"),
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGUSR2, "SIGUSR2"),
    (libc::SIGPIPE, "SIGPIPE"),
    (libc::SIGALRM, "SIGALRM"),
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGXCPU, "SIGXCPU"),
    (libc::SIGXFSZ, "SIGXFSZ"),
    (libc::SIGSYS, "SIGSYS"),
];

/// `SIGSEGV` for 11; `signal 40` for a number without a common name.
pub(crate) fn signal_name(signal: i32) -> String {
    SIGNALS
        .iter()
        .find(|(number, _)| *number == signal)
        .map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned())
}

/// What SIGPIPE did when this process started. The Rust runtime sets it to "ignore" before `main`, and an ignored
/// signal stays ignored across exec: the program must get what our caller gave us.
static SIGPIPE_AT_START: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);

/// Runs before the Rust runtime.
extern "C" fn note_sigpipe() {
    let mut old = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null new action only reads; `old` is large enough; the call writes it when it returns 0.
    unsafe {
        if libc::sigaction(libc::SIGPIPE, std::ptr::null(), old.as_mut_ptr()) == 0 {
            // Relaxed: one thread exists.
            SIGPIPE_AT_START.store(old.assume_init().sa_sigaction, Ordering::Relaxed);
        }
    }
}

// SAFETY: the section holds pointers to functions that the C runtime calls before `main`; this one needs nothing
// that is not ready by then.
#[used]
#[unsafe(link_section = ".init_array")]
static NOTE_SIGPIPE: extern "C" fn() = note_sigpipe;

/// Gives SIGPIPE its default action: a command that prints ends quietly when its reader has gone.
pub(crate) fn default_sigpipe() {
    // SAFETY: sets a disposition; no handler is involved.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// A set of signals.
#[derive(Clone, Copy)]
pub(crate) struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// The set of these signals.
    pub(crate) fn of(signals: &[i32]) -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset writes the whole set; sigaddset takes any number (and refuses bad ones).
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in signals {
                libc::sigaddset(set.as_mut_ptr(), *signal);
            }
            SignalSet(set.assume_init())
        }
    }

    /// Adds the set to the blocked signals of this thread; returns what was blocked before.
    pub(crate) fn block(&self) -> SignalSet {
        let mut old = MaybeUninit::uninit();
        // SAFETY: both sets are valid; the call cannot fail with SIG_BLOCK, so it writes `old`.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, &self.0, old.as_mut_ptr());
            SignalSet(old.assume_init())
        }
    }

    /// Makes the set the blocked signals of this thread.
    pub(crate) fn set(&self) {
        // SAFETY: the set is valid; what was blocked before is not asked for.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut());
        }
    }

    /// Waits for one signal of the set, which this thread blocks, at most so long; the number of the one that came.
    pub(crate) fn wait_for(&self, time: Duration) -> Option<i32> {
        let time = libc::timespec {
            tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(time.subsec_nanos() as i32),
        };
        // SAFETY: set and time are valid; nothing more about the signal is asked for.
        let signal = unsafe { libc::sigtimedwait(&self.0, std::ptr::null_mut(), &time) };
        (signal > 0).then_some(signal)
    }

    /// A descriptor that can be read while a signal of the set, which is blocked, waits to be taken.
    ///
    /// # Errors
    /// The process has no room for another descriptor.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        // SAFETY: the set is valid.
        let fd = unsafe { libc::signalfd(-1, &self.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call gave us this descriptor, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Waits for one signal of the set: its number, and whether a process sent it (not the kernel or a terminal).
    pub(crate) fn wait(&self) -> io::Result<(i32, bool)> {
        let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
        loop {
            // SAFETY: the set is valid; `info` is written when the call returns a signal number.
            let signal = unsafe { libc::sigwaitinfo(&self.0, info.as_mut_ptr()) };
            if signal > 0 {
                // SAFETY: written, see above.
                let code = unsafe { info.assume_init_ref() }.si_code;
                // SI_USER, SI_QUEUE, SI_TKILL: zero or negative. A terminal's and the kernel's are positive.
                return Ok((signal, code <= 0));
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

/// The signal state that our caller gave this process and that the program must get in turn.
#[derive(Clone, Copy)]
pub(crate) struct CallerSignals {
    mask: SignalSet,
    sigchld: libc::sighandler_t,
}

impl CallerSignals {
    /// Blocks `set`, so that its signals can be waited for, and makes children waitable.
    pub(crate) fn take(set: &SignalSet) -> Self {
        // SAFETY: sets a disposition; no handler is involved. Where SIGCHLD is ignored, children leave no status.
        let sigchld = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        CallerSignals { mask: set.block(), sigchld }
    }

    /// Async-signal-safe: called between fork and exec.
    fn restore(&self) {
        // Relaxed: written before there was a second thread.
        let sigpipe = SIGPIPE_AT_START.load(Ordering::Relaxed);
        // A handler cannot exist at the start of a process: dispositions are SIG_DFL or SIG_IGN.
        // SAFETY: the calls are async-signal-safe and take valid values.
        unsafe {
            libc::signal(libc::SIGPIPE, sigpipe);
            libc::signal(libc::SIGCHLD, self.sigchld);
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.mask.0, std::ptr::null_mut());
        }
    }
}

/// Makes `command`, when it starts, as if our caller had started it. It is killed when this process is killed.
pub(crate) fn prepare_child(command: &mut Command, signals: CallerSignals) {
    let parent = std::process::id();
    let child_setup = move || {
        // SAFETY: the calls are async-signal-safe and involve no memory.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // Killed in between? Then the signal above will never come.
            if libc::getppid() as u32 != parent {
                libc::_exit(i32::from(crate::failure::STATUS_KMEM));
            }
        }
        signals.restore();
        Ok(())
    };
    // SAFETY: the closure allocates nothing and takes no lock: only system calls on values it owns.
    unsafe {
        command.pre_exec(child_setup);
    }
}

/// Makes `command`, when it starts, the leader of a process group of its own, killed when this process is, without core
/// dumps, and with SIGPIPE as our caller has it.
pub(crate) fn prepare_experiment(command: &mut Command) {
    let child_setup = || {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // Relaxed: written before there was a second thread.
        let sigpipe = SIGPIPE_AT_START.load(Ordering::Relaxed);
        // SAFETY: the calls are async-signal-safe and take valid values.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
            libc::signal(libc::SIGPIPE, sigpipe);
        }
        Ok(())
    };
    command.process_group(0);
    // SAFETY: the closure allocates nothing and takes no lock: only system calls on values it owns.
    unsafe {
        command.pre_exec(child_setup);
    }
}

/// Kills what is left of a process group.
pub(crate) fn kill_group(leader: u32) {
    // SAFETY: sends a signal. The leader was not waited for, or its number is still that of its group.
    unsafe {
        libc::kill(-(leader as i32), libc::SIGKILL);
    }
}

/// As [`prepare_child`], for a program that takes the place of this process.
pub(crate) fn prepare_exec(command: &mut Command) {
    let signals = CallerSignals::take(&SignalSet::of(&[]));
    // SAFETY: as in `prepare_child`.
    unsafe {
        command.pre_exec(move || {
            signals.restore();
            Ok(())
        });
    }
}

/// What became of a child.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    /// Nothing new.
    None,
    /// It stopped.
    Stopped,
    /// It exited with a status; the most bytes it had resident.
    Exited(i32, u64),
    /// A signal killed it; the most bytes it had resident.
    Signalled(i32, u64),
}

/// Asks for news of a child without waiting.
pub(crate) fn wait_child(pid: u32) -> io::Result<Change> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are valid for writes; zeroed rusage is a valid value.
    let (found, usage) = unsafe {
        let found =
            libc::wait4(pid as libc::pid_t, &mut status, libc::WNOHANG | libc::WUNTRACED, usage.as_mut_ptr());
        (found, usage.assume_init())
    };
    if found < 0 {
        return Err(io::Error::last_os_error());
    }
    let max_rss = u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024);
    Ok(if found == 0 {
        Change::None
    } else if libc::WIFEXITED(status) {
        Change::Exited(libc::WEXITSTATUS(status), max_rss)
    } else if libc::WIFSIGNALED(status) {
        Change::Signalled(libc::WTERMSIG(status), max_rss)
    } else if libc::WIFSTOPPED(status) {
        Change::Stopped
    } else {
        Change::None
    })
}

/// Sends a signal to a process. A process that has gone is no error: the caller hears of its end elsewhere.
pub(crate) fn send(pid: u32, signal: i32) {
    // SAFETY: no memory is involved.
    unsafe {
        libc::kill(pid as libc::pid_t, signal);
    }
}

/// Sends a signal to one thread of a process. One that has gone is no error.
pub(crate) fn send_to_thread(pid: u32, thread: u32, signal: i32) {
    // SAFETY: no memory is involved.
    unsafe {
        libc::syscall(libc::SYS_tgkill, pid as libc::pid_t, thread as libc::pid_t, signal);
    }
}

/// Stops this process until somebody continues it.
pub(crate) fn stop_self() {
    // SAFETY: no memory is involved.
    unsafe {
        libc::raise(libc::SIGSTOP);
    }
}

/// Ends this process by `signal`, without a core dump of its own. Returns when the signal does not kill.
pub(crate) fn die_by(signal: i32) {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is a valid value; the disposition is the default one; no memory is shared.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &none);
        libc::signal(signal, libc::SIG_DFL);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &SignalSet::of(&[signal]).0, std::ptr::null_mut());
        libc::raise(signal);
    }
}

/// Real user and group of this process.
pub(crate) fn real_ids() -> (u32, u32) {
    // SAFETY: no arguments, cannot fail.
    unsafe { (libc::getuid(), libc::getgid()) }
}

/// True when exec grants nothing to this process (`no_new_privs`).
pub(crate) fn no_new_privileges() -> bool {
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 }
}

/// True when the file system of `path` ignores set-user-ID bits and file capabilities.
pub(crate) fn on_nosuid(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    let mut stat = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path is terminated; `stat` is read only when the call says it was written.
    unsafe {
        libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) == 0
            && stat.assume_init().f_flag & libc::ST_NOSUID != 0
    }
}

/// True when the file carries capabilities.
pub(crate) fn has_capabilities(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: both strings are terminated; a null buffer of length 0 only asks for the length.
    unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

/// True when this process may execute the file, as far as its mode and its mount say.
pub(crate) fn may_execute(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is terminated.
    if unsafe { libc::access(path.as_ptr(), libc::X_OK) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Waits until one of two descriptors can be read, at most so long: which of them can. A descriptor that is closed at its
/// other end can be read, too.
///
/// # Errors
/// Those of the system; a signal's handler that ran is none.
pub(crate) fn wait_readable(fds: [BorrowedFd<'_>; 2], time: Duration) -> io::Result<[bool; 2]> {
    let mut asked = fds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    // A part of a millisecond is waited for too: else the rest of a time would be spent turning round.
    let time = i32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    // SAFETY: the call writes the two entries it is given.
    if unsafe { libc::poll(asked.as_mut_ptr(), 2, time) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        return Ok([false; 2]);
    }
    Ok(asked.map(|entry| entry.revents != 0))
}

/// Bytes of a page of memory.
pub(crate) fn page_size() -> u64 {
    // SAFETY: no memory is involved.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Ticks a second in which the system counts a process's times.
pub(crate) fn clock_ticks() -> f64 {
    // SAFETY: no memory is involved.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { ticks as f64 } else { 100.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names() {
        assert_eq!(signal_name(11), "SIGSEGV");
        assert_eq!(signal_name(40), "signal 40");
    }

    #[test]
    fn a_blocked_signal_is_waited_for_and_its_sender_known() {
        let set = SignalSet::of(&[libc::SIGUSR2]);
        set.block();
        // SAFETY: the signal is blocked in this thread and sent to this thread alone.
        unsafe {
            libc::pthread_kill(libc::pthread_self(), libc::SIGUSR2);
        }
        assert_eq!(set.wait().unwrap(), (libc::SIGUSR2, true));
    }

    #[test]
    fn a_signal_is_waited_for_no_longer_than_asked() {
        use std::os::fd::AsFd;
        let set = SignalSet::of(&[libc::SIGWINCH]);
        let before = set.block();
        let (fd, time) = (set.descriptor().unwrap(), Duration::from_millis(2));
        let readable = || wait_readable([fd.as_fd(), fd.as_fd()], time).unwrap();
        assert_eq!((set.wait_for(time), readable()), (None, [false; 2]));
        // SAFETY: the signal is blocked in this thread and sent to this thread alone.
        unsafe {
            libc::pthread_kill(libc::pthread_self(), libc::SIGWINCH);
        }
        assert_eq!((readable(), set.wait_for(time)), ([true; 2], Some(libc::SIGWINCH)));
        assert_eq!((readable(), set.wait_for(Duration::ZERO)), ([false; 2], None));
        before.set();
    }

    #[test]
    fn facts_about_files() {
        assert!(may_execute(Path::new("/bin/sh")).is_ok());
        let error = may_execute(Path::new("/nonexistent/program")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!has_capabilities(Path::new("/bin/sh")));
    }

    #[test]
    fn nosuid_mounts_are_known() {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mut checked = 0;
        for line in mounts.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let (point, options) = (words[1], words[3]);
            // A later mount on the same point hides an earlier one.
            let hidden = mounts.lines().filter(|line| line.split(' ').nth(1) == Some(point)).count() > 1;
            if hidden || std::fs::metadata(point).is_err() {
                continue;
            }
            assert_eq!(
                on_nosuid(Path::new(point)),
                options.split(',').any(|option| option == "nosuid"),
                "{point}"
            );
            checked += 1;
        }
        assert!(checked > 0);
    }
}
