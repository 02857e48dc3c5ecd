//! One run of one case on one variant: its own directory and environment, a time limit, and what the
//! kernel says it used.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use super::case::{Case, Variant};
use crate::library::{self, Engine};
use crate::{child, tree};

/// Where programs are looked for: the system's own, so that the same ones run everywhere.
pub(super) const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// How much longer a program may take with debug letters.
const CHECKED: u32 = 10;

/// What a run left behind.
pub(super) struct Run {
    pub(super) status: ExitStatus,
    pub(super) timed_out: bool,
    pub(super) output: PathBuf,
    pub(super) errors: PathBuf,
    pub(super) wall: Duration,
    /// User and system time of the case and all its children.
    pub(super) cpu: Duration,
    /// Peak resident size of the largest process, bytes.
    pub(super) peak: u64,
    /// Pages that were faulted in without input, by all its processes.
    pub(super) faults: u64,
    pub(super) reports: Reports,
}

/// What a run is on.
pub(super) struct Setting<'a> {
    /// In the names of its files.
    pub(super) name: &'a str,
    /// What the case's script is told: `system`, or anything else.
    pub(super) kind: &'a str,
    /// What is preloaded.
    pub(super) library: Option<&'a Path>,
    pub(super) limit: Duration,
}

/// What the reports tell that the library left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reports {
    pub(super) processes: usize,
    /// All say that the CPUs were owned without restartable sequences.
    pub(super) portable: bool,
    /// All say that the engine was the one asked for.
    pub(super) right_engine: bool,
}

/// The directories of one case, and the engine of its runs.
pub(super) struct Place {
    base: PathBuf,
    engine: Engine,
}

impl Place {
    /// Fresh directories, with the case's input made in them. `Err`: what went wrong.
    pub(super) fn prepare(case: &Case, engine: Engine) -> Result<Self, String> {
        let place = Self { base: tree::target().join("programs").join(&case.name), engine };
        let _ = std::fs::remove_dir_all(&place.base);
        let data = place.base.join("data");
        std::fs::create_dir_all(&data).map_err(|error| format!("{}: {error}", data.display()))?;
        let run = place.run(case, Variant::System, 0, "prepare")?;
        if run.status.success() {
            return Ok(place);
        }
        let errors = std::fs::read_to_string(&run.errors).unwrap_or_default();
        Err(format!("prepare: {}\n{errors}", run.status))
    }

    /// Runs the case once. `Err`: it could not be started.
    pub(super) fn run(&self, case: &Case, variant: Variant, turn: usize, verb: &str) -> Result<Run, String> {
        self.run_checked(case, variant, turn, verb, None)
    }

    /// Runs it with debug letters for every cache.
    pub(super) fn run_checked(
        &self,
        case: &Case,
        variant: Variant,
        turn: usize,
        verb: &str,
        letters: Option<&str>,
    ) -> Result<Run, String> {
        let name = format!("{}{}", variant.name(), letters.unwrap_or_default());
        let library = (variant != Variant::System).then(|| library::path(self.engine));
        let portable = (variant == Variant::Portable).then_some(("KMEM_RSEQ", "0"));
        let environment: Vec<_> =
            portable.into_iter().chain(letters.map(|letters| ("KMEM_DEBUG", letters))).collect();
        let limit = case.limit * if letters.is_some() { CHECKED } else { 1 };
        let setting = Setting { name: &name, kind: variant.name(), library: library.as_deref(), limit };
        self.run_as(case, &setting, &environment, turn, verb)
    }

    /// Runs it with any library preloaded, and more in its environment.
    pub(super) fn run_as(
        &self,
        case: &Case,
        setting: &Setting<'_>,
        environment: &[(&str, &str)],
        turn: usize,
        verb: &str,
    ) -> Result<Run, String> {
        let name = format!("{verb}-{}-{turn}", setting.name);
        let work = self.base.join("work");
        let reports = self.base.join(format!("{name}.reports"));
        let _ = std::fs::remove_dir_all(&work);
        let output = self.base.join(format!("{name}.out"));
        let errors = self.base.join(format!("{name}.err"));
        let make = |path: &Path| File::create(path).map_err(|error| format!("{}: {error}", path.display()));
        std::fs::create_dir_all(&work)
            .and_then(|()| std::fs::create_dir_all(&reports))
            .map_err(|error| format!("{}: {error}", work.display()))?;

        let mut command = Command::new("/bin/sh");
        command.arg(&case.script).arg(verb).current_dir(&work);
        command.stdin(Stdio::null()).stdout(make(&output)?).stderr(make(&errors)?);
        command.env_clear().envs([("PATH", PATH), ("LC_ALL", "C.UTF-8"), ("TZ", "UTC")]);
        command
            .env("WORK", &work)
            .env("TMPDIR", &work)
            .env("HOME", &work)
            .env("DATA", self.base.join("data"));
        command.env("PROGRAMS", tree::root().join("programs")).env("KMEM_VARIANT", setting.kind);
        if let Some(library) = setting.library {
            command.env("LD_PRELOAD", library).env("KMEM_REPORT_DIR", &reports);
        }
        command.envs(environment.iter().copied());

        let end = child::run(&mut command, setting.limit).map_err(|error| format!("/bin/sh: {error}"))?;
        let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
        Ok(Run {
            status: end.status,
            timed_out: end.timed_out,
            output,
            errors,
            wall: end.wall,
            cpu: time(end.usage.ru_utime) + time(end.usage.ru_stime),
            peak: end.usage.ru_maxrss as u64 * 1024,
            faults: end.usage.ru_minflt as u64,
            reports: Reports::read(&reports, self.engine),
        })
    }
}

impl Reports {
    /// Those in `dir`.
    fn read(dir: &Path, engine: Engine) -> Self {
        let mut all = Self { processes: 0, portable: true, right_engine: true };
        let ours = format!("engine {} ", engine.said());
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("report.") {
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let line = text.lines().find(|line| line.starts_with("engine ")).unwrap_or_default();
                all.processes += 1;
                all.portable &= line.ends_with(" portable");
                all.right_engine &= line.starts_with(&ours);
            }
        }
        all
    }
}
