//! Live directories: where they are, who is in them, and what is cleared away.
//!
//! `kmem run` makes one for each user: `$XDG_RUNTIME_DIR/kmem`, or `kmem-UID` in the directory for temporary files. The
//! name is known to everybody and the place may be everybody's, so it is used only if it is a directory (no link), this
//! user's, and nobody else may write there: who could write there could have this user's processes asked.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{env, io};

use super::process::Process;
use crate::failure::{Failure, Result};
use crate::sys;

/// The variable that names the directory to a program.
pub(crate) const VARIABLE: &str = "KMEM_LIVE";

/// An answer whose asker may still come for it.
const FRESH: Duration = Duration::from_secs(60);

/// This user's directories, the preferred one first.
fn usual() -> Vec<PathBuf> {
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let shared = env::temp_dir().join(format!("kmem-{}", sys::real_ids().0));
    runtime.map(|path| path.join("kmem")).into_iter().chain([shared]).collect()
}

/// The directory for a program that is started, made if need be; nothing where no place for one is safe.
pub(crate) fn make() -> Option<PathBuf> {
    usual().into_iter().find(|path| {
        let made = DirBuilder::new().mode(0o700).create(path);
        let there = made.is_ok() || made.is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists);
        there && path.is_absolute() && is_safe(path)
    })
}

/// A directory, no link, of this user, where nobody else may write.
fn is_safe(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|about| {
        about.is_dir() && about.uid() == sys::real_ids().0 && about.permissions().mode() & 0o022 == 0
    })
}

/// Where to look for processes: the directory that was named, that of `KMEM_LIVE`, or this user's own.
///
/// # Errors
/// The directory that was named is none.
pub(crate) fn to_look_in(named: Option<&Path>) -> Result<Vec<PathBuf>> {
    if let Some(path) = named {
        return match fs::metadata(path) {
            Ok(about) if about.is_dir() => Ok(vec![path.to_owned()]),
            Ok(_) => Err(Failure::input(format!("{}: not a directory", path.display()))),
            Err(error) => Err(Failure::input(format!("{}: {error}", path.display()))),
        };
    }
    match env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        Some(value) => Ok(vec![PathBuf::from(value)]),
        None => Ok(usual().into_iter().filter(|path| is_safe(path)).collect()),
    }
}

/// A process that left a table and runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its number.
    pub(crate) pid: u32,
    /// The directory with its table.
    pub(crate) directory: PathBuf,
    /// What the system knows of it.
    pub(crate) process: Process,
}

/// The processes with tables in these directories, by number. On the way, what processes left that are gone is removed.
pub(crate) fn processes(directories: &[PathBuf]) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    // Where the system does not tell of processes, this one is missing, too, and nobody is known to be gone.
    if Process::find(std::process::id()).is_none() {
        return found;
    }
    for directory in directories {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some((pid, kind)) = name.to_str().and_then(kind_of) else { continue };
            let process = Process::find(pid);
            let Ok(about) = fs::symlink_metadata(entry.path()) else { continue };
            let Ok(written) = about.modified() else { continue };
            let stale = process.is_none_or(|process| process.is_younger_than(written));
            if stale {
                let old = SystemTime::now().duration_since(written).is_ok_and(|age| age > FRESH);
                if about.uid() == sys::real_ids().0 && (old || kind == Kind::Table) && !about.is_dir() {
                    // Another viewer may have been faster.
                    let _ = fs::remove_file(entry.path());
                }
            } else if let (Kind::Table, Some(process)) = (kind, process)
                && !found.iter().any(|other| other.pid == pid)
            {
                found.push(Found { pid, directory: directory.clone(), process });
            }
        }
    }
    found.sort_by_key(|found| found.pid);
    found
}

/// What a file of a live directory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Table,
    /// An ask, an answer, or what was to become a file of the protocol and did not.
    Passing,
}

/// Whose file a name is of, and what for. Traces are nobody's to remove but the user's who asked for them.
fn kind_of(name: &str) -> Option<(u32, Kind)> {
    let (pid, kind) = name.split_once('.')?;
    let pid = pid.parse().ok().filter(|pid: &u32| *pid > 0)?;
    let kind = match kind {
        "table" => Kind::Table,
        _ if ["table.", "ask", "told", "answer."].iter().any(|begin| kind.starts_with(begin)) => {
            Kind::Passing
        }
        _ => return None,
    };
    Some((pid, kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::Scratch;
    use std::fs::File;

    #[test]
    fn only_a_private_directory_is_used() {
        let scratch = Scratch::new("private");
        let place = scratch.path("live");
        assert!(!is_safe(&place));
        fs::create_dir(&place).unwrap();
        for (mode, safe) in [(0o700, true), (0o755, true), (0o770, false), (0o702, false)] {
            fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_safe(&place), safe, "{mode:o}");
        }
        fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&place, scratch.path("link")).unwrap();
        assert!(!is_safe(&scratch.path("link")), "a link");
        assert!(!is_safe(&scratch.file("file", b"", 0o600)), "a file");
        if sys::real_ids().0 == 0 {
            std::os::unix::fs::chown(&place, Some(65534), None).unwrap();
            assert!(!is_safe(&place), "somebody else's");
        }
    }

    #[test]
    fn names_tell_whose_and_what_for() {
        for (name, expected) in [
            ("12.table", Some((12, Kind::Table))),
            ("12.table.new", Some((12, Kind::Passing))),
            ("12.ask", Some((12, Kind::Passing))),
            ("12.told", Some((12, Kind::Passing))),
            ("12.answer.99", Some((12, Kind::Passing))),
            ("12.traces", None),
            ("12.txt", None),
            ("table", None),
            ("x.table", None),
            ("0.table", None),
            ("99999999999.table", None),
        ] {
            assert_eq!(kind_of(name), expected, "{name}");
        }
    }

    #[test]
    fn what_the_dead_left_is_removed_and_nothing_else() {
        let scratch = Scratch::new("stale");
        let own = std::process::id();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let dead = child.id();
        let hour = Duration::from_secs(3600);
        let put = |name: String, age: Duration| {
            let path = scratch.file(&name, b"", 0o600);
            File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now() - age).unwrap();
            path
        };
        let kept = [
            put(format!("{own}.table"), Duration::ZERO),
            put(format!("{own}.ask"), Duration::ZERO),
            put(format!("{dead}.answer.7"), Duration::ZERO),
            put(format!("{dead}.notes"), hour),
            put("notes".into(), hour),
        ];
        let removed = [
            put(format!("{dead}.table"), Duration::ZERO),
            put(format!("{dead}.ask"), hour),
            put(format!("{dead}.answer.8"), hour),
        ];
        let traces = scratch.path(&format!("{dead}.traces"));
        fs::create_dir(&traces).unwrap();
        let found = processes(&[scratch.path(""), scratch.path("nowhere")]);
        assert_eq!(found.iter().map(|found| found.pid).collect::<Vec<_>>(), [own]);
        assert!(kept.iter().all(|path| path.exists()) && traces.exists());
        assert!(!removed.iter().any(|path| path.exists()));

        // A number that was given again: the table is older than the process.
        let again = put(format!("{own}.table"), 1000 * hour);
        assert_eq!(processes(&[scratch.path("")]), []);
        assert!(!again.exists());
    }
}
