//! `kmem run`: a program on kmem, and where its memory was.
//!
//! # How
//! The library is preloaded (`LD_PRELOAD`), which the program's children inherit. When something is to be
//! told at the end, the library is given a directory to leave its report in (`KMEM_REPORT_DIR`), and this command
//! stays as the program's parent ([`supervise`]). When nothing is, the program simply takes our place.
//!
//! # Exit status
//! The program's. A program killed by a signal kills this command by the same signal, so that a caller sees what it
//! would have seen without us. 125: `kmem` could not do its work; 126: the program cannot be executed; 127: there is no
//! such program.
//!
//! # Never
//! Nothing is written to stdout, nothing is read from stdin.

mod debug;
pub(crate) mod find;
pub(crate) mod library;
pub(crate) mod preload;
mod record;
mod supervise;
mod watch;

use std::collections::hash_map::RandomState;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, process};

use kmem_core::fault::options;

use crate::cli::RunArgs;
use crate::failure::{Failure, Result, STATUS_NOT_EXECUTABLE, STATUS_NOT_FOUND};
use crate::report::Report;
use crate::slabinfo::Slabinfo;
use crate::summary::{self, Ending, Look, Outcome};
use crate::sys;
use crate::table::Paint;
use record::Recording;

/// Runs the command. Returns the exit status; does not return where the program took our place or its signal killed us.
///
/// # Errors
/// The program was not started.
pub(crate) fn run(args: &RunArgs) -> Result<u8> {
    check_options(args)?;
    let [program, arguments @ ..] = &args.command[..] else {
        return Err(Failure::run("no program given"));
    };
    let file = find::program(program, env::var_os("PATH").as_deref())?;
    let mut command = Command::new(&file);
    command.arg0(program).args(arguments);

    if args.force
        && let Err(obstacle) = preload::check(&file)
        && obstacle.status == crate::failure::STATUS_KMEM
    {
        eprintln!("kmem: running it without kmem: {}", obstacle.message);
        return Err(take_our_place(command, &file));
    }
    preload::check(&file)?;
    let kind = if args.record.is_some() { &library::RECORDING } else { &library::PLAIN };
    let library = library::locate(kind, args.build())?;
    let recording = args.record.as_deref().map(Recording::prepare).transpose()?;
    match &recording {
        Some(recording) => command.env("KMEM_RECORD", recording.value()),
        None => command.env_remove("KMEM_RECORD"),
    };
    if args.build() != library::Build::Hardened {
        // The library refuses to be what it is not.
        command.env_remove("KMEM_HARDENED");
    }
    if let Some(bytes) = args.quarantine {
        command.env("KMEM_QUARANTINE", bytes.to_string());
    }
    if args.origins {
        command.env("KMEM_ORIGINS", "1");
    }
    if args.no_rseq {
        command.env("KMEM_RSEQ", "0");
    }
    if let Some(letters) = &args.debug {
        command.env("KMEM_DEBUG", letters);
    }
    if let Some(guard) = args.guard {
        command.env("KMEM_GUARD", guard.to_string());
    }
    if let Some(rules) = &args.fail {
        command.env("KMEM_FAIL", rules).env_remove("KMEM_FAIL_REPORT");
    }
    if let Some(what) = args.on_error {
        command.env("KMEM_ON_ERROR", what.name());
    }

    watch::apply(args, &mut command)?;

    let wants = Wants::of(args);
    let needs_link = library.as_os_str().as_bytes().iter().any(|byte| matches!(byte, b' ' | b':'));
    if !wants.anything() && !needs_link {
        command.env("LD_PRELOAD", preload_value(&library));
        command.env_remove("KMEM_REPORT_DIR");
        return Err(take_our_place(command, &file));
    }

    let reports = ReportDir::new()?;
    let library = if needs_link { reports.link(&library, kind)? } else { library };
    command.env("LD_PRELOAD", preload_value(&library)).env("KMEM_REPORT_DIR", &reports.path);
    let ended = supervise::run(command).map_err(|error| not_started(&file, &error))?;

    let outcome = Outcome {
        program: program.to_string_lossy().into_owned(),
        pid: ended.pid,
        ending: ended.ending,
        wall: ended.wall,
        max_rss: ended.max_rss,
        others: reports
            .others("report", ended.pid)
            .into_iter()
            .filter_map(|pid| Report::parse(&reports.read("report", pid).ok()??).ok())
            .collect(),
    };
    tell(args, &wants, &outcome, &reports);
    drop(reports);
    for line in recording.iter().flat_map(|recording| recording.tidy(wants.summary_on_stderr)) {
        // As in `tell`: nobody is left to tell of a failure.
        let _ = writeln!(io::stderr(), "kmem: {line}");
    }
    match ended.ending {
        Ending::Exited(status) => Ok(status as u8),
        Ending::Signalled(signal) => {
            sys::die_by(signal);
            Ok(128 + signal as u8)
        }
    }
}

fn check_options(args: &RunArgs) -> Result<()> {
    args.debug.as_deref().map_or(Ok(()), |text| debug::check(text, args.engine)).map_err(Failure::run)?;
    check_hardening(args)?;
    let Some(rules) = &args.fail else { return Ok(()) };
    // Rules keep parts of their text, for as long as a library lives; here that is this call.
    let kept: &'static str = Box::leak(rules.clone().into_boxed_str());
    options::parse(kept, 0).map(drop).map_err(|error| Failure::run(format!("--fail: {error}")))
}

/// What only a hardened heap does is not asked of another: it would run the program, and do nothing of it.
fn check_hardening(args: &RunArgs) -> Result<()> {
    let option = if args.quarantine.is_some() {
        "--quarantine"
    } else if args.origins {
        "--origins"
    } else {
        return Ok(());
    };
    if args.build() == library::Build::Hardened {
        return Ok(());
    }
    Err(Failure::run(format!("{option} is for a hardened heap: give --hardened too (docs/hardened.md)")))
}

/// What is to be told at the end.
struct Wants {
    summary_on_stderr: bool,
    summary_file: bool,
    slabinfo: bool,
    /// Traces are tidied.
    record: bool,
}

impl Wants {
    fn of(args: &RunArgs) -> Self {
        let by_default = args.summary_file.is_none() && io::stderr().is_terminal();
        Wants {
            summary_on_stderr: args.summary || (by_default && !args.no_summary),
            summary_file: args.summary_file.is_some(),
            slabinfo: args.slabinfo.is_some(),
            record: args.record.is_some(),
        }
    }

    fn anything(&self) -> bool {
        self.summary_on_stderr || self.summary_file || self.slabinfo || self.record
    }
}

/// Executes the program in place of this process; returns only the reason why that failed.
fn take_our_place(mut command: Command, file: &Path) -> Failure {
    sys::prepare_exec(&mut command);
    not_started(file, &command.exec())
}

pub(crate) fn not_started(file: &Path, error: &io::Error) -> Failure {
    let status = match error.kind() {
        io::ErrorKind::NotFound => STATUS_NOT_FOUND,
        _ => STATUS_NOT_EXECUTABLE,
    };
    Failure::new(status, format!("{}: {error}", file.display()))
}

/// The library first, then whatever was preloaded anyway.
fn preload_value(library: &Path) -> OsString {
    let mut value = library.as_os_str().to_owned();
    if let Some(others) = env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        value.push(":");
        value.push(others);
    }
    value
}

/// Writes summary and slabinfo. The program has run: what goes wrong here is said on stderr and changes no status.
fn tell(args: &RunArgs, wants: &Wants, outcome: &Outcome, reports: &ReportDir) {
    let report = reports.read("report", outcome.pid).and_then(|text| {
        let text = text.ok_or_else(|| absent("report", outcome.ending))?;
        Report::parse(&text).map_err(|error| format!("its report cannot be read: {error}"))
    });
    let report = report.as_ref().map_err(String::as_str);
    let mut errors = Vec::new();
    if let Some(path) = &args.slabinfo {
        errors.extend(save_slabinfo(path, outcome, reports).err());
    }
    if let Some(path) = &args.summary_file {
        let look = Look { paint: Paint { on: false }, columns: None, top: 0 };
        let text = summary::render(outcome, report, look);
        errors.extend(fs::write(path, text).err().map(|error| format!("{}: {error}", path.display())));
    }
    let mut text = String::new();
    if wants.summary_on_stderr {
        let look = Look {
            paint: Paint::for_terminal(io::stderr().is_terminal()),
            columns: sys::terminal_columns(2),
            top: args.top,
        };
        text = summary::render(outcome, report, look);
    }
    for error in errors {
        text.push_str(&format!("kmem: {error}\n"));
    }
    // One write: other processes may still be writing to the same terminal. Nobody is left to tell of a failure.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Why there is no file of this kind from a program that ended so.
fn absent(kind: &str, ending: Ending) -> String {
    match ending {
        Ending::Signalled(_) => format!("the program left no {kind}, as none can that a signal kills"),
        Ending::Exited(_) => {
            format!("the program left no {kind}: it cleared its environment, or ended by a raw system call")
        }
    }
}

/// The main process's slabinfo goes to `path`, that of another process to `path.<pid>`.
fn save_slabinfo(path: &Path, outcome: &Outcome, reports: &ReportDir) -> std::result::Result<(), String> {
    let save = |path: &Path, pid: u32| -> std::result::Result<(), String> {
        let text = reports.read("slabinfo", pid)?.ok_or_else(|| absent("slabinfo", outcome.ending))?;
        Slabinfo::parse(&text).map_err(|error| format!("slabinfo of process {pid}: {error}"))?;
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    let mut result = save(path, outcome.pid).map_err(|error| format!("no slabinfo: {error}"));
    for other in reports.others("slabinfo", outcome.pid) {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{other}"));
        result = result.and(save(Path::new(&name), other));
    }
    result
}

/// A directory of our own for the reports, removed when dropped.
pub(crate) struct ReportDir {
    path: PathBuf,
}

impl ReportDir {
    /// A new one, for nobody else.
    ///
    /// # Errors
    /// Status 125: there is no place for it.
    pub(crate) fn new() -> Result<Self> {
        let base = env::temp_dir();
        let base =
            fs::canonicalize(&base).map_err(|error| Failure::run(format!("{}: {error}", base.display())))?;
        for _ in 0..100 {
            // The hasher's keys are random: nobody can occupy the names beforehand.
            let number = RandomState::new().build_hasher().finish();
            let path = base.join(format!("kmem-{}-{number:016x}", process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(ReportDir { path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Failure::run(format!("{}: {error}", path.display()))),
            }
        }
        Err(Failure::run(format!("no free name for a directory in {}", base.display())))
    }

    /// A name for the library without the characters that separate names in `LD_PRELOAD`.
    ///
    /// # Errors
    /// Status 125.
    pub(crate) fn link(&self, library: &Path, kind: &library::Library) -> Result<PathBuf> {
        let link = self.path.join(kind.file);
        std::os::unix::fs::symlink(library, &link)
            .map_err(|error| Failure::run(format!("{}: {error}", link.display())))?;
        Ok(link)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What a process left; nothing when it left nothing.
    fn read(&self, kind: &str, pid: u32) -> std::result::Result<Option<String>, String> {
        let path = self.path.join(format!("{kind}.{pid}"));
        match fs::read(&path) {
            Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| format!("its {kind} is not text")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    /// Ids of the processes besides `main` that left a file of this kind.
    fn others(&self, kind: &str, main: u32) -> Vec<u32> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Vec::new() };
        let mut pids: Vec<u32> = entries
            .flatten()
            .filter_map(|entry| pid_of(&entry.file_name(), kind))
            .filter(|pid| *pid != main)
            .collect();
        pids.sort_unstable();
        pids
    }
}

fn pid_of(name: &OsStr, kind: &str) -> Option<u32> {
    name.to_str()?.strip_prefix(kind)?.strip_prefix('.')?.parse().ok()
}

impl Drop for ReportDir {
    fn drop(&mut self) {
        // Children that still run may yet write a report: then something is left behind in the temporary directory.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A directory for the files of one test, removed at its end.
    pub(crate) struct Scratch(PathBuf);

    impl Scratch {
        pub(crate) fn new(name: &str) -> Self {
            let number = RandomState::new().build_hasher().finish();
            let path = env::temp_dir().join(format!("kmem-test-{name}-{number:016x}"));
            fs::create_dir(&path).unwrap();
            Scratch(path)
        }

        pub(crate) fn path(&self, name: &str) -> PathBuf {
            if name.is_empty() { self.0.clone() } else { self.0.join(name) }
        }

        pub(crate) fn file(&self, name: &str, content: &[u8], mode: u32) -> PathBuf {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_report_directory_is_private_and_goes_away() {
        let reports = ReportDir::new().unwrap();
        let path = reports.path.clone();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        for name in ["report.7", "report.9", "report.100", "slabinfo.9", "report.x", "report"] {
            fs::write(path.join(name), name).unwrap();
        }
        assert_eq!(reports.others("report", 9), [7, 100]);
        assert_eq!(reports.others("slabinfo", 9), []);
        assert_eq!(reports.read("report", 7).unwrap().unwrap(), "report.7");
        assert_eq!(reports.read("slabinfo", 7), Ok(None));
        drop(reports);
        assert!(!path.exists());
    }
}
