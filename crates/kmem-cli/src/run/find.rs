//! From the name a user types to the file the kernel would execute, as a shell finds it.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result, STATUS_NOT_EXECUTABLE, STATUS_NOT_FOUND};
use crate::sys;

/// Where programs are when PATH is not set.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Finds `program`: a name with a slash is a path, any other is looked for in the directories of `search`
/// (the value of PATH; an empty entry is the current directory).
///
/// # Errors
/// Status 127 when there is no such file, 126 when there are only files that cannot be executed.
pub(crate) fn program(program: &OsStr, search: Option<&OsStr>) -> Result<PathBuf> {
    let name = program.to_string_lossy();
    if program.is_empty() {
        return Err(Failure::new(STATUS_NOT_FOUND, "the name of the program is empty"));
    }
    if program.as_bytes().contains(&b'/') {
        let path = PathBuf::from(program);
        return match usable(&path) {
            Ok(()) => Ok(path),
            Err(error) => Err(failure(&name, &error)),
        };
    }
    let search = search.unwrap_or(OsStr::new(DEFAULT_PATH));
    let mut found_unusable = None;
    for directory in search.as_bytes().split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let path = Path::new(OsStr::from_bytes(directory)).join(program);
        match usable(&path) {
            Ok(()) => return Ok(path),
            // Remembered: a later directory may hold one that works. What cannot even be looked at is not there.
            Err(error) if path.exists() => found_unusable = Some(error),
            Err(_) => {}
        }
    }
    Err(match found_unusable {
        Some(error) => failure(&name, &error),
        None => Failure::new(STATUS_NOT_FOUND, format!("{name}: command not found")),
    })
}

/// A regular file that this process may execute.
fn usable(path: &Path) -> io::Result<()> {
    let meta = std::fs::metadata(path)?;
    if meta.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    if !meta.is_file() {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    sys::may_execute(path)
}

fn failure(name: &str, error: &io::Error) -> Failure {
    let (status, reason) = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => (STATUS_NOT_FOUND, "no such file".to_owned()),
        Some(libc::EISDIR) => (STATUS_NOT_EXECUTABLE, "is a directory".to_owned()),
        Some(libc::EACCES) => (STATUS_NOT_EXECUTABLE, "permission denied".to_owned()),
        _ => (STATUS_NOT_EXECUTABLE, error.to_string()),
    };
    Failure::new(status, format!("{name}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::Scratch;

    fn found(name: &str, search: Option<&str>) -> std::result::Result<PathBuf, (u8, String)> {
        program(OsStr::new(name), search.map(OsStr::new)).map_err(|failure| (failure.status, failure.message))
    }

    #[test]
    fn names_and_paths() {
        assert_eq!(found("/bin/sh", None).unwrap(), Path::new("/bin/sh"));
        assert_eq!(found("sh", Some("/nonexistent:/bin")).unwrap(), Path::new("/bin/sh"));
        assert_eq!(found("sh", None).unwrap(), Path::new("/bin/sh"));
        assert_eq!(found("", None).unwrap_err().0, 127);
        assert_eq!(
            found("no-such-program", None).unwrap_err(),
            (127, "no-such-program: command not found".into())
        );
        assert_eq!(
            found("/no/such/program", None).unwrap_err(),
            (127, "/no/such/program: no such file".into())
        );
        assert_eq!(found("/etc/passwd/x", None).unwrap_err().0, 127);
        assert_eq!(found("/usr", None).unwrap_err(), (126, "/usr: is a directory".into()));
        assert_eq!(found("/dev/null", None).unwrap_err(), (126, "/dev/null: permission denied".into()));
        assert_eq!(found("/etc/passwd", None).unwrap_err().0, 126);
    }

    #[test]
    fn a_file_that_cannot_be_executed_does_not_hide_one_that_can() {
        let scratch = Scratch::new("find");
        let first = scratch.file("first/tool", b"#!/bin/sh\n", 0o644);
        let second = scratch.file("second/tool", b"#!/bin/sh\n", 0o755);
        let both = format!("{}:{}", first.parent().unwrap().display(), second.parent().unwrap().display());
        assert_eq!(found("tool", Some(&both)).unwrap(), second);
        let only = first.parent().unwrap().to_str().unwrap();
        assert_eq!(found("tool", Some(only)).unwrap_err(), (126, "tool: permission denied".into()));
    }
}
