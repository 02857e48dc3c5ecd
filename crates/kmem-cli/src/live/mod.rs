//! Processes that run: where they keep their tables, and how one of them is asked to do something.
//!
//! # Protocol
//! A process on kmem that was given a *live directory* (`KMEM_LIVE`) replaces `PID.table` there about once a second, whenever
//! one of its threads comes by a slow path of malloc or free: there is no thread and no timer. The text is that of a
//! report ([`crate::report`]); the time the file was written is the age of the table. At the same moments it looks for
//! `PID.ask`, one line `N COMMAND`, removes it, does as asked and leaves `PID.answer.N`: a first line `ok` or
//! `error: WHY`, then lines to show. For ten seconds after each ask it comes by ten times a second. One whose table says so can be
//! made to come by: [`wake`].
//!
//! # Invariants
//! - What is in a live directory is written by others: every file is read as text of bounded length, is a regular file
//!   (never waited for, no link followed), and may be missing, cut off or senseless.
//! - An asker never replaces the ask of another ([`ask`]).
//! - Only what nobody can need any more is removed: files of processes that are gone, and only those of this user
//!   ([`directory`]).
//!
//! The other side of it is in the library, and told in `docs/live.md`.

pub(crate) mod ask;
pub(crate) mod directory;
pub(crate) mod early;
pub(crate) mod process;
pub(crate) mod wake;

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::failure::Failure;
use crate::report::Report;
use directory::Found;
use process::Process;

/// No file of the protocol is longer.
const LONGEST: u64 = 64 << 20;

/// A table as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// What it says.
    pub(crate) report: Report,
    /// When it was written.
    pub(crate) written: SystemTime,
}

/// `DIR/PID.table`.
pub(crate) fn table_path(directory: &Path, pid: u32) -> PathBuf {
    directory.join(format!("{pid}.table"))
}

/// Reads the table of a process; nothing when it has none.
///
/// # Errors
/// The table cannot be read or understood: one line that says why.
pub(crate) fn read_table(directory: &Path, pid: u32) -> Result<Option<Table>, String> {
    let path = table_path(directory, pid);
    let (text, written) = match read(&path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let mut report = Report::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let words =
        [&mut report.comm, &mut report.exe, &mut report.engine, &mut report.build, &mut report.ownership];
    for text in words.into_iter().chain(report.caches.iter_mut().map(|cache| &mut cache.name)) {
        *text = printable(text);
    }
    Ok(Some(Table { report, written }))
}

/// Reads a file of the protocol, and when it was written.
///
/// # Errors
/// Those of the system; `InvalidData` for what is no regular file, too long, or no text.
fn read(path: &Path) -> io::Result<(String, SystemTime)> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text)?;
    Ok((text, about.modified()?))
}

/// Whom a user means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Everybody.
    All,
    /// The process with this number.
    Pid(u32),
    /// Those of this name.
    Name(String),
}

impl Who {
    /// A number is a process's, everything else a name.
    pub(crate) fn of(text: Option<&str>) -> Self {
        match text {
            None => Who::All,
            Some(text) => text.parse().map_or_else(|_| Who::Name(text.to_owned()), Who::Pid),
        }
    }

    /// False where its name need not be asked for.
    pub(crate) fn may_be(&self, pid: u32) -> bool {
        !matches!(self, Who::Pid(meant) if *meant != pid)
    }

    /// True for a process of this number and name; that of its program's file counts, too, of which the name may be a part.
    pub(crate) fn is(&self, pid: u32, report: &Report) -> bool {
        match self {
            Who::All => true,
            Who::Pid(meant) => *meant == pid,
            Who::Name(meant) => {
                report.comm == *meant || report.exe.rsplit('/').next().is_some_and(|file| file == meant)
            }
        }
    }
}

/// What is said where nobody is found.
pub(crate) fn nobody(who: &Who, directories: &[PathBuf]) -> Failure {
    let places: Vec<String> = directories.iter().map(|path| path.display().to_string()).collect();
    let places = if places.is_empty() { "any live directory".to_owned() } else { places.join(" or ") };
    let how = format!("start it by 'kmem run', or with {}=DIR (see 'kmem top --help')", directory::VARIABLE);
    Failure::input(match who {
        Who::All => format!("no process has a table in {places}: {}", how.replacen("it", "one", 1)),
        Who::Pid(pid) if Process::find(*pid).is_none() => format!("there is no process {pid}"),
        Who::Pid(pid) => format!("process {pid} has no table in {places}: {how}"),
        Who::Name(name) => format!("no process called {name} has a table in {places}: {how}"),
    })
}

/// The one process that a user means.
///
/// # Errors
/// Status 1: there is none with a table, nor one that will leave one, or more than one.
pub(crate) fn one(text: &str, directories: &[PathBuf]) -> Result<Found, Failure> {
    let who = Who::of(Some(text));
    let mut found = directory::processes(directories);
    // A table that cannot be read still has its process's number.
    found.retain(|found| {
        let table = read_table(&found.directory, found.pid).ok().flatten();
        who.may_be(found.pid) && who.is(found.pid, &table.map(|table| table.report).unwrap_or_default())
    });
    if found.is_empty() {
        found = early::processes(&who, directories);
    }
    match found.len() {
        0 => Err(nobody(&who, directories)),
        1 => Ok(found.remove(0)),
        _ => {
            let pids: Vec<String> = found.iter().map(|found| found.pid.to_string()).collect();
            Err(Failure::input(format!("{text} is the name of several: {}", pids.join(", "))))
        }
    }
}

/// The text without what a terminal would take for a command.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::SAMPLE;
    use crate::run::tests::Scratch;

    #[test]
    fn a_table_is_read_with_its_time() {
        let scratch = Scratch::new("table");
        let path = scratch.file("4711.table", SAMPLE.replace("my prog", "my\x1bprog").as_bytes(), 0o600);
        let table = read_table(&scratch.path(""), 4711).unwrap().unwrap();
        assert_eq!((table.report.pid, table.report.comm.as_str()), (4711, "my?prog"));
        assert_eq!(table.written, path.metadata().unwrap().modified().unwrap());
        assert!(read_table(&scratch.path(""), 4712).unwrap().is_none());
    }

    #[test]
    fn who_is_meant() {
        assert_eq!((Who::of(None), Who::of(Some("12"))), (Who::All, Who::Pid(12)));
        let name = Who::of(Some("a-rather-long-name"));
        for (comm, exe, is) in [
            ("a-rather-long-name", "", true),
            ("a-rather-long-n", "/usr/bin/a-rather-long-name", true),
            ("a-rather-long-n", "/a-rather-long-name/x", false),
            ("", "", false),
        ] {
            let report = Report { comm: comm.into(), exe: exe.into(), ..Report::default() };
            assert_eq!(name.is(1, &report), is, "{comm} {exe}");
        }
        let any = Report::default();
        assert!(name.may_be(3) && !Who::Pid(4).may_be(3) && Who::Pid(3).is(3, &any) && Who::All.is(3, &any));
    }

    #[test]
    fn whoever_is_not_there_is_told_how_to_be() {
        let places = [PathBuf::from("/a"), PathBuf::from("/b")];
        let how = "by 'kmem run', or with KMEM_LIVE=DIR (see 'kmem top --help')";
        let own = std::process::id();
        for (who, message) in [
            (Who::All, format!("no process has a table in /a or /b: start one {how}")),
            (Who::Pid(own), format!("process {own} has no table in /a or /b: start it {how}")),
            (Who::Pid(u32::MAX), format!("there is no process {}", u32::MAX)),
            (Who::Name("x".into()), format!("no process called x has a table in /a or /b: start it {how}")),
        ] {
            let failure = nobody(&who, &places);
            assert_eq!((failure.status, failure.message), (1, message));
        }
        assert!(nobody(&Who::All, &[]).message.contains(" in any live directory: "));
    }

    #[test]
    fn one_is_found_by_number_or_name() {
        let scratch = Scratch::new("one");
        let (own, parent) = (std::process::id(), std::os::unix::process::parent_id());
        for pid in [own, parent] {
            scratch.file(&format!("{pid}.table"), SAMPLE.as_bytes(), 0o600);
        }
        let places = [scratch.path("")];
        let found = |text: &str| one(text, &places).map(|found| found.pid).map_err(|error| error.message);
        assert_eq!(found(&own.to_string()), Ok(own));
        let (low, high) = (own.min(parent), own.max(parent));
        assert_eq!(found("my prog"), Err(format!("my prog is the name of several: {low}, {high}")));
        scratch.file(&format!("{parent}.table"), b"damaged", 0o600);
        assert_eq!((found("my prog"), found(&parent.to_string())), (Ok(own), Ok(parent)));
        assert!(found("your prog").unwrap_err().starts_with("no process called your prog has a table in "));
    }

    #[test]
    fn what_is_no_table_is_told_and_never_waited_for() {
        let scratch = Scratch::new("malformed");
        scratch.file("1.table", b"kmem-report 1\nprocess 1 x\n", 0o600);
        scratch.file("2.table", b"\xff\xfe", 0o600);
        std::fs::create_dir(scratch.path("3.table")).unwrap();
        std::os::unix::fs::symlink("1.table", scratch.path("4.table")).unwrap();
        let fifo = std::process::Command::new("mkfifo").arg(scratch.path("5.table")).status().unwrap();
        assert!(fifo.success());
        for (pid, why) in [
            (1, "cut off"),
            (2, "UTF-8"),
            (3, "not a regular file"),
            (4, "symbolic link"),
            (5, "not a regular"),
        ] {
            let error = read_table(&scratch.path(""), pid).unwrap_err();
            assert!(error.contains(why) && error.lines().count() == 1, "{error}");
        }
    }
}
