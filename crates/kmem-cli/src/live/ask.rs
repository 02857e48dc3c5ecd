//! Asking a process: one line in `PID.ask`, and the answer from `PID.answer.N`.
//!
//! # Theory
//! A process reads its asks one by one. The file appears whole or not at all: it is written under another name and
//! then linked, and a link never replaces what is there. So an asker that finds another's ask waits until the process has
//! taken it. `N` tells apart whose answer is whose: the number of this process and a time, which no two asks share.
//!
//! An ask that was not answered in time is taken back, so that it is not done when nobody expects it any more. To see
//! whether it still is ours it is taken out of the way first, and put back if it is not.
//!
//! A process that neither allocates nor frees does not answer by itself. One that did not soon is woken ([`super::wake`]), unless the
//! user does not want that.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::directory::Found;
use super::process::Process;
use super::wake::Waker;
use crate::failure::{Failure, Result};
use crate::sys::{self, SignalSet};

/// How often the answer is looked for.
const POLL: Duration = Duration::from_millis(20);

/// Who has not answered by then is woken. A busy program comes by in a second at most, if its last look was just now.
const ASLEEP: Duration = Duration::from_millis(300);

/// The longest line that a process reads, its end included.
const LONGEST: usize = 2048;

/// What a process answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Why it could not do it.
    pub(crate) error: Option<String>,
    /// Lines to show.
    pub(crate) text: String,
}

/// Asks, and waits for the answer at most so long; with `wake` the process is woken if need be. A signal that would end this process takes the ask back first.
///
/// # Errors
/// Status 1: the process is somebody else's, has ended, or did not answer in time; or the directory cannot be written to.
pub(crate) fn ask(found: &Found, command: &str, wait: Duration, wake: bool) -> Result<Answer> {
    let Found { pid, directory, process } = found;
    let own = sys::real_ids().0;
    if process.user != own && own != 0 {
        return Err(Failure::input(format!("process {pid} is another user's")));
    }
    let ask = Ask::new(*pid, directory, command);
    if ask.line.len() > LONGEST {
        return Err(Failure::input(format!("no command is longer than {LONGEST} bytes")));
    }
    let signals = SignalSet::of(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP]);
    let before = signals.block();
    let mut waker = wake.then(|| Waker::new(*pid));
    let result = ask.wait(wait, waker.as_mut(), &signals);
    before.set();
    result
}

/// One ask under way.
struct Ask {
    pid: u32,
    number: u64,
    line: String,
    /// Where the process looks.
    place: PathBuf,
    answer: PathBuf,
    /// A name that is only ours.
    aside: PathBuf,
}

impl Ask {
    fn new(pid: u32, directory: &Path, command: &str) -> Self {
        let number = number();
        Ask {
            pid,
            number,
            line: format!("{number} {command}\n"),
            place: directory.join(format!("{pid}.ask")),
            answer: directory.join(format!("{pid}.answer.{number}")),
            aside: directory.join(format!("{pid}.ask.{number}")),
        }
    }

    fn wait(&self, wait: Duration, mut waker: Option<&mut Waker>, signals: &SignalSet) -> Result<Answer> {
        let start = Instant::now();
        let mut placed = false;
        loop {
            if !placed {
                placed = self.place().map_err(|error| self.failed(&error))?;
            }
            if let Some(answer) = self.take_answer().map_err(|error| self.failed(&error))? {
                return Ok(answer);
            }
            if Process::find(self.pid).is_none() {
                // Its last act may have been the answer.
                let answer = self.take_answer().map_err(|error| self.failed(&error))?;
                self.take_back(placed);
                return answer
                    .ok_or_else(|| Failure::input(format!("process {} ended before it answered", self.pid)));
            }
            if start.elapsed() >= wait {
                self.take_back(placed);
                return Err(Failure::input(self.late(wait, placed, waker.map_or(0, |waker| waker.woken()))));
            }
            if placed
                && start.elapsed() >= ASLEEP
                && let Some(waker) = &mut waker
                && let Some(directory) = self.place.parent()
            {
                waker.turn(directory);
            }
            if let Some(signal) = signals.wait_for(POLL) {
                self.take_back(placed);
                sys::die_by(signal);
            }
        }
    }

    /// Puts the ask where the process looks; false while another's is there.
    fn place(&self) -> io::Result<bool> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.aside)?;
        let linked =
            file.write_all(self.line.as_bytes()).and_then(|()| fs::hard_link(&self.aside, &self.place));
        let removed = fs::remove_file(&self.aside);
        match linked {
            Ok(()) => removed.map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => removed.map(|()| false),
            Err(error) => Err(error),
        }
    }

    fn take_answer(&self) -> io::Result<Option<Answer>> {
        match super::read(&self.answer) {
            Ok((text, _)) => {
                fs::remove_file(&self.answer)?;
                Ok(Some(parse(&text)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the ask, unless the process has taken it, or another's is in its place. Failures leave it there.
    fn take_back(&self, placed: bool) {
        if placed && fs::rename(&self.place, &self.aside).is_ok() {
            let others = super::read(&self.aside).is_ok_and(|(text, _)| text != self.line);
            if others {
                let _ = fs::hard_link(&self.aside, &self.place);
            }
            let _ = fs::remove_file(&self.aside);
        }
    }

    fn late(&self, wait: Duration, placed: bool, woken: usize) -> String {
        let seconds = wait.as_secs_f64();
        let why = if placed && woken > 0 {
            "it was woken, but no thread allocated or freed, or waited in a system call, where it could answer"
        } else if placed {
            "the program did not allocate or free meanwhile (or only what its CPUs have at hand)"
        } else {
            "another command still waits for one"
        };
        format!("no answer from process {} within {seconds} s: {why}", self.pid)
    }

    fn failed(&self, error: &io::Error) -> Failure {
        self.take_back(true);
        let directory = self.place.parent().unwrap_or(&self.place);
        Failure::input(format!(
            "{}: ask {} of process {}: {error}",
            directory.display(),
            self.number,
            self.pid
        ))
    }
}

/// A number that no other ask has: a time in microseconds, moved on by each ask, and this process. Below 2^63.
fn number() -> u64 {
    static ASKS: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Relaxed: only that no two are alike matters.
    let time = (since.as_micros() as u64).wrapping_add(ASKS.fetch_add(1, Ordering::Relaxed));
    // 41 bits of microseconds come again after 25 days, by when no answer is left; a process id has 22.
    (time & ((1 << 41) - 1)) << 22 | u64::from(std::process::id()) & ((1 << 22) - 1)
}

/// An answer that begins with neither word is an error of its own.
fn parse(text: &str) -> Answer {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let error = match first.strip_prefix("error:") {
        _ if first == "ok" => None,
        Some(why) => Some(super::printable(why.trim())),
        None => Some(format!("it answered '{}'", super::printable(first))),
    };
    Answer { error, text: rest.to_owned() }
}

#[cfg(test)]
#[path = "ask_tests.rs"]
mod tests;
