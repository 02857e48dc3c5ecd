//! Processes that went to sleep before they left a table.
//!
//! # Theory
//! The first table is written ten milliseconds after the heap was made, by whoever then comes by. A program that waits by then has none, but
//! it listens for the signal that wakes it ([`super::wake`]) from the start. That it is one of ours is seen by what the system tells:
//! it was started with the directory in its environment, and has the library mapped.
//!
//! One that the library is linked into, or whose library has a name of its own, is not found so.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::directory::{Found, VARIABLE};
use super::process::Process;
use super::{Who, printable, table_path};
use crate::report::Report;

/// The processes that are meant and will leave their tables in one of these directories, but have none yet. By number.
pub(crate) fn processes(who: &Who, directories: &[PathBuf]) -> Vec<Found> {
    let pids: Vec<u32> = match who {
        Who::Pid(pid) => vec![*pid],
        _ => {
            let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
        }
    };
    let mut found: Vec<Found> = pids
        .into_iter()
        .filter(|&pid| who.is(pid, &names(pid)))
        .filter_map(|pid| {
            let directory = directories.iter().find(|directory| is_in(directory, pid))?;
            Some(Found { pid, directory: directory.clone(), process: Process::find(pid)? })
        })
        .collect();
    found.sort_by_key(|found| found.pid);
    found
}

/// A process will leave its table in this directory when it comes by, and has none yet.
pub(crate) fn is_in(directory: &Path, pid: u32) -> bool {
    let read = |what: &str| fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
    !table_path(directory, pid).exists()
        && place_in(&read("environ")).is_some_and(|place| is_same(place, directory))
        && has_library(&read("maps"))
}

fn is_same(one: &Path, other: &Path) -> bool {
    one == other
        || fs::canonicalize(one).is_ok_and(|one| fs::canonicalize(other).is_ok_and(|other| one == other))
}

/// What a table would call it.
fn names(pid: u32) -> Report {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    Report {
        comm: printable(comm.trim_end_matches('\n')),
        exe: printable(&exe.to_string_lossy()),
        ..Report::default()
    }
}

/// The directory that an environment names.
fn place_in(environ: &[u8]) -> Option<&Path> {
    let mut entries = environ.split(|&byte| byte == 0);
    let place = entries.find_map(|entry| entry.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"="))?;
    (!place.is_empty()).then(|| Path::new(OsStr::from_bytes(place)))
}

/// One of the libraries is mapped, by the names that they have where they are built and installed.
fn has_library(maps: &[u8]) -> bool {
    maps.split(|&byte| byte == b'\n').any(|line| {
        let file = line.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        line.contains(&b'/')
            && ["libkmem_malloc", "libkmem_record"].iter().any(|name| file.starts_with(name.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_read_from_an_environment() {
        let place = |environ: &str| place_in(environ.as_bytes()).map(Path::to_owned);
        assert_eq!(place("A=1\0KMEM_LIVE=/run/a b\0B=2\0"), Some("/run/a b".into()));
        assert_eq!(place("KMEM_LIVE=/x\0KMEM_LIVE=/y\0"), Some("/x".into()));
        for none in
            ["", "A=1\0", "KMEM_LIVE=\0", "KMEM_LIVELY=/x\0", "OLD_KMEM_LIVE=/x\0", "A=KMEM_LIVE=/x\0"]
        {
            assert_eq!(place(none), None, "{none:?}");
        }
    }

    #[test]
    fn libraries_are_known_by_their_names() {
        let line = |path: &str| {
            format!("7f00-7f01 r-xp 00000000 fe:00 7 {path}\n7f02-7f03 rw-p 00000000 00:00 0 \n")
        };
        for (path, has) in [
            ("/a/release/libkmem_malloc.so", true),
            ("/usr/lib/kmem/libkmem_malloc_slab.so (deleted)", true),
            ("/lib/libkmem_record.so", true),
            ("/lib/libkmem_malloc/libc.so", false),
            ("/lib/libc.so.6", false),
            ("", false),
        ] {
            assert_eq!(has_library(line(path).as_bytes()), has, "{path}");
        }
    }

    #[test]
    fn who_is_not_on_kmem_is_not_found() {
        let own = std::process::id();
        let scratch = crate::run::tests::Scratch::new("early");
        assert!(!is_in(&scratch.path(""), own));
        assert_eq!(processes(&Who::Pid(own), &[scratch.path("")]), []);
        assert_eq!(processes(&Who::Name(names(own).comm), &[scratch.path("")]), []);
        let comm = names(own).comm;
        assert!(!comm.is_empty() && !comm.ends_with('\n') && names(own).exe.starts_with('/'));
    }
}
