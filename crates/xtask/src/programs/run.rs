//! One run of one case on one variant: its own directory and environment, a time limit, and what the
//! kernel says it used.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use super::case::{Case, Variant};
use crate::{child, tree};

/// Where programs are looked for: the system's own, so that the same ones run everywhere.
pub(super) const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

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
    /// Reports that the library left: (processes, whether all say the CPUs were owned without rseq).
    pub(super) reports: (usize, bool),
}

/// The directories of one case.
pub(super) struct Place {
    base: PathBuf,
}

impl Place {
    /// Fresh directories, with the case's input made in them. `Err`: what went wrong.
    pub(super) fn prepare(case: &Case) -> Result<Self, String> {
        let place = Self { base: tree::target().join("programs").join(&case.name) };
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
        let name = format!("{verb}-{}-{turn}", variant.name());
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
        command.env("PROGRAMS", tree::root().join("programs")).env("KMEM_VARIANT", variant.name());
        if variant != Variant::System {
            command.env("LD_PRELOAD", tree::library()).env("KMEM_REPORT_DIR", &reports);
        }
        if variant == Variant::Portable {
            command.env("KMEM_RSEQ", "0");
        }

        let end = child::run(&mut command, case.limit).map_err(|error| format!("/bin/sh: {error}"))?;
        let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
        Ok(Run {
            status: end.status,
            timed_out: end.timed_out,
            output,
            errors,
            wall: end.wall,
            cpu: time(end.usage.ru_utime) + time(end.usage.ru_stime),
            peak: end.usage.ru_maxrss as u64 * 1024,
            reports: read_reports(&reports),
        })
    }
}

/// Counts the reports in `dir` and asks each how CPUs were owned.
fn read_reports(dir: &Path) -> (usize, bool) {
    let (mut processes, mut portable) = (0, true);
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("report.") {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            processes += 1;
            portable &= text.lines().any(|line| line.starts_with("engine ") && line.ends_with(" portable"));
        }
    }
    (processes, portable)
}
