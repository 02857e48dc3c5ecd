//! `--record FILE`: a place for the traces before the program starts, and their tidying when it has ended.
//!
//! The first process to begin a trace makes FILE, which must not be there then: that is the program itself. Every other
//! process makes `FILE.<pid>`. What a process recorded before it executed its last program is in `FILE.<pid>.<n>`. What
//! an earlier recording left under these names is removed; what is no trace is never touched.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kmem_trace::header::{self, Header, MAGIC};

use crate::failure::{Failure, Result};
use crate::units::count;

/// Where the traces of one run go.
pub(super) struct Recording {
    file: PathBuf,
}

impl Recording {
    /// Looks whether traces can be written to `file`, and makes room for them.
    ///
    /// # Errors
    /// Status 125, with the reason.
    pub(super) fn prepare(file: &Path) -> Result<Self> {
        let bad = |error: &dyn std::fmt::Display| {
            Failure::run(format!("cannot record to {}: {error}", file.display()))
        };
        let name = file.file_name().ok_or_else(|| bad(&"not a file name"))?;
        let directory = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = fs::canonicalize(directory).map_err(|error| bad(&error))?;
        let recording = Recording { file: directory.join(name) };
        match fs::symlink_metadata(&recording.file) {
            Ok(meta) if meta.is_dir() => return Err(bad(&"is a directory")),
            Ok(meta) if !meta.is_file() => return Err(bad(&"not a regular file")),
            Ok(meta) if meta.len() > 0 && !is_trace(&recording.file) => {
                return Err(bad(&"there is a file of this name, which is no trace"));
            }
            _ => {}
        }
        for old in recording.traces().map_err(|error| bad(&error))? {
            fs::remove_file(&old).map_err(|error| bad(&error))?;
        }
        let _ = fs::remove_file(&recording.file);
        // To make it is to know that it can be made. The program makes it again.
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&recording.file)
            .and_then(|mut probe| probe.write_all(&MAGIC))
            .map_err(|error| bad(&error))?;
        fs::remove_file(&recording.file).map_err(|error| bad(&error))?;
        Ok(recording)
    }

    /// What the library is told.
    pub(super) fn value(&self) -> &Path {
        &self.file
    }

    /// The traces that are there, the first process's first.
    fn traces(&self) -> io::Result<Vec<PathBuf>> {
        let stem = self.file.file_name().unwrap_or_default().as_bytes();
        let directory = self.file.parent().unwrap_or(Path::new("/"));
        let mut found = Vec::new();
        for entry in fs::read_dir(directory)?.flatten() {
            let name = entry.file_name();
            let Some(rest) = name.as_bytes().strip_prefix(stem) else { continue };
            if let Some(numbers) = numbers(OsStr::from_bytes(rest))
                && is_trace(&entry.path())
            {
                found.push((numbers, entry.path()));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    /// Cuts off what the processes that were killed, or executed another program, had allocated and not used; removes
    /// traces other than the first that hold nothing. Returns what is to be said: about every trace if `all`, else about those that are not whole.
    pub(super) fn tidy(&self, all: bool) -> Vec<String> {
        let traces = match self.traces() {
            Ok(traces) => traces,
            Err(error) => return vec![format!("{}: {error}", self.file.display())],
        };
        let mut lines = Vec::new();
        if !traces.contains(&self.file) {
            lines.push(format!("the program left no trace in {}", self.file.display()));
        }
        for path in traces {
            match tidy_one(&path, path == self.file) {
                Ok(None) => {}
                Ok(Some(header)) => {
                    let said = describe(&header);
                    if all || said.is_warning {
                        lines.push(format!("{}: {}", path.display(), said.text));
                    }
                }
                Err(error) => lines.push(format!("{}: {error}", path.display())),
            }
        }
        lines
    }
}

/// The numbers of `.<pid>.<n>` or less of it; `None` for any other ending.
fn numbers(rest: &OsStr) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    if !rest.is_empty() {
        for word in rest.to_str()?.strip_prefix('.')?.split('.') {
            let digits = word.bytes().all(|byte| byte.is_ascii_digit());
            numbers.push(word.parse().ok().filter(|_| digits)?);
        }
    }
    (numbers.len() <= 2).then_some(numbers)
}

fn is_trace(path: &Path) -> bool {
    let mut magic = [0; MAGIC.len()];
    let regular = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    let read = regular && File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok();
    read && magic == MAGIC
}

/// The header of a trace; `None` when it held nothing and is not to `stay` all the same.
fn tidy_one(path: &Path, stay: bool) -> io::Result<Option<Header>> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut bytes = [0; header::BYTES];
    file.read_exact(&mut bytes)?;
    let (header, first) =
        Header::from_bytes(&bytes).map_err(|_| io::Error::other("the trace's header is damaged"))?;
    if header.flags & header::ENDED == 0 && running(header.pid) {
        return Ok(Some(header));
    }
    if header.events == 0 && !stay {
        fs::remove_file(path)?;
        return Ok(None);
    }
    let len = first as u64 + header.used;
    if file.seek(SeekFrom::End(0))? > len {
        file.set_len(len)?;
    }
    Ok(Some(header))
}

/// The process is there, whether or not it is the one that wrote the trace.
fn running(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

struct Said {
    text: String,
    is_warning: bool,
}

fn describe(header: &Header) -> Said {
    let mut text = format!("{} calls of {} (pid {})", count(header.events), header.name(), header.pid);
    let mut is_warning = false;
    if header.flags & header::STOPPED != 0 {
        text.push_str("; there was no room for more");
        is_warning = true;
    }
    if header.lost > 0 {
        text.push_str(&format!("; {} in signal handlers are missing", count(header.lost)));
        is_warning = true;
    }
    Said { text, is_warning }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::Scratch;

    fn trace(events: u64, used: u64, flags: u32) -> Vec<u8> {
        // No process has this id.
        let header = Header { pid: u32::MAX, events, used, flags, ..Header::default() };
        header.to_bytes().to_vec()
    }

    #[test]
    fn only_names_of_processes_are_ours() {
        for (rest, expected) in [
            ("", Some(vec![])),
            (".12", Some(vec![12])),
            (".12.3", Some(vec![12, 3])),
            (".12.3.4", None),
            (".", None),
            (".+1", None),
            (".x", None),
            ("12", None),
            (".12.", None),
        ] {
            assert_eq!(numbers(OsStr::new(rest)), expected, "{rest}");
        }
    }

    #[test]
    fn a_place_for_the_traces() {
        let scratch = Scratch::new("record");
        let file = scratch.path("trace");
        scratch.file("trace", &trace(1, 1, 0), 0o644);
        scratch.file("trace.7", &trace(1, 1, 0), 0o644);
        scratch.file("trace.8", b"notes", 0o644);
        scratch.file("trace.txt", &trace(1, 1, 0), 0o644);
        let recording = Recording::prepare(&file).unwrap();
        assert!(!file.exists() && !scratch.path("trace.7").exists(), "old traces are removed");
        assert!(scratch.path("trace.8").exists() && scratch.path("trace.txt").exists());
        assert!(recording.value().is_absolute() && recording.value().ends_with("trace"));

        let empty = scratch.file("empty", b"", 0o644);
        Recording::prepare(&empty).unwrap();
        let refused = |file: &Path| {
            let failure = Recording::prepare(file).err().unwrap();
            assert_eq!(failure.status, 125);
            failure
                .message
                .strip_prefix(&format!("cannot record to {}: ", file.display()))
                .unwrap()
                .to_owned()
        };
        let notes = scratch.path("trace.8");
        assert_eq!(refused(&notes), "there is a file of this name, which is no trace");
        assert_eq!(fs::read(&notes).unwrap(), b"notes");
        assert_eq!(refused(&scratch.path("")), "is a directory");
        assert_eq!(refused(&scratch.path("no/such")), "No such file or directory (os error 2)");
        assert_eq!(refused(Path::new("/dev/null")), "not a regular file");
        assert_eq!(refused(Path::new("/")), "not a file name");
    }

    #[test]
    fn traces_are_tidied() {
        let scratch = Scratch::new("tidy");
        let mut long = trace(2, 2, 0);
        long.resize(5000, 0);
        scratch.file("t", &long, 0o644);
        scratch.file("t.5", &trace(0, 0, 0), 0o644);
        scratch.file("t.6", &trace(3, 0, header::STOPPED), 0o644);
        let recording = Recording { file: scratch.path("t") };
        let lines = recording.tidy(false);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].ends_with("t.6: 3 calls of ? (pid 4294967295); there was no room for more"));
        assert_eq!(fs::metadata(scratch.path("t")).unwrap().len(), header::BYTES as u64 + 2);
        assert!(!scratch.path("t.5").exists());
        assert_eq!(recording.tidy(true).len(), 2);
        fs::remove_file(scratch.path("t")).unwrap();
        assert!(recording.tidy(false)[0].starts_with("the program left no trace in "));
    }
}
