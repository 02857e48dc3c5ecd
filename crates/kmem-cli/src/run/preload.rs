//! Can this file be run with a preloaded library?
//!
//! The dynamic linker is what preloads, so a program without one cannot be helped, and a program that gains
//! rights when it starts makes the linker ignore us. Both would run, silently, on the system's allocator: that is
//! why `kmem run` looks before it starts anything.
//!
//! A script is judged by its interpreter, which may be a script again.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use object::elf;
use object::endian::Endianness;
use object::read::elf::{FileHeader, ProgramHeader};

use crate::failure::{Failure, Result, STATUS_NOT_EXECUTABLE};
use crate::sys;

/// How many interpreters may stand behind each other, as the kernel allows.
const MAX_SCRIPTS: usize = 5;

/// How much of a file is read: the headers of a program are at its start, a `#!` line is at most this long.
const HEAD: usize = 64 * 1024;

/// The machine this command was built for: the library is of the same.
#[cfg(target_arch = "x86_64")]
const MACHINE: elf::Machine = elf::EM_X86_64;
/// See above.
#[cfg(target_arch = "aarch64")]
const MACHINE: elf::Machine = elf::EM_AARCH64;

/// Why a file cannot be run on kmem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// No dynamic linker.
    Static,
    /// Built for another machine or word size.
    Foreign,
    /// Its C library is not the one our library is built for.
    OtherLibc(String),
    /// It gains a user, a group or capabilities when it starts.
    Privileged(&'static str),
}

impl Obstacle {
    /// The reason in words, after the name of the file.
    fn describe(&self) -> String {
        match self {
            Obstacle::Static => "is statically linked: nothing can be preloaded into it".to_owned(),
            Obstacle::Foreign => "is built for another machine or word size than kmem".to_owned(),
            Obstacle::OtherLibc(linker) => {
                format!("is built for another C library ({linker}): kmem's library needs glibc")
            }
            Obstacle::Privileged(what) => {
                format!("{what}: the dynamic linker preloads nothing into such programs")
            }
        }
    }
}

/// Checks `path` and, when it is a script, every interpreter behind it.
///
/// # Errors
/// Status 125 with the obstacle; 126 when an interpreter is missing or cannot be read.
pub(crate) fn check(path: &Path) -> Result<()> {
    let mut file = path.to_path_buf();
    for _ in 0..=MAX_SCRIPTS {
        match judge(&file).map_err(|error| unreadable(&file, &error))? {
            Verdict::Fine => return Ok(()),
            Verdict::Blocked(obstacle) => {
                let whose = if file == path {
                    String::new()
                } else {
                    format!(", the interpreter of {},", path.display())
                };
                return Err(Failure::run(format!(
                    "{}{whose} {} (--force runs it without kmem)",
                    file.display(),
                    obstacle.describe()
                )));
            }
            Verdict::Script(interpreter) => {
                if let Err(error) = sys::may_execute(&interpreter) {
                    let reason =
                        format!("{}: bad interpreter {}: {error}", file.display(), interpreter.display());
                    return Err(Failure::new(STATUS_NOT_EXECUTABLE, reason));
                }
                file = interpreter;
            }
        }
    }
    Err(Failure::new(STATUS_NOT_EXECUTABLE, format!("{}: too many levels of interpreters", path.display())))
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    // A program that may be executed but not read: the kernel would run it, only we cannot look inside.
    Failure::run(format!("{}: cannot tell whether it can be preloaded: {error}", path.display()))
}

enum Verdict {
    Fine,
    Blocked(Obstacle),
    Script(PathBuf),
}

fn judge(path: &Path) -> io::Result<Verdict> {
    let mut head = Vec::new();
    File::open(path)?.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(if head.starts_with(&elf::ELFMAG) {
        match obstacle_in_elf(&head).or_else(|| obstacle_in_rights(path)) {
            Some(obstacle) => Verdict::Blocked(obstacle),
            None => Verdict::Fine,
        }
    } else {
        Verdict::Script(interpreter(&head))
    })
}

/// The program of a `#!` line. Any other text is run by the shell, as `execvp` does it.
fn interpreter(head: &[u8]) -> PathBuf {
    let line = head.strip_prefix(b"#!").and_then(|rest| rest.split(|byte| *byte == b'\n').next());
    let word = line.and_then(|line| {
        line.split(|byte| matches!(byte, b' ' | b'\t' | b'\r' | 0)).find(|word| !word.is_empty())
    });
    word.map_or_else(|| PathBuf::from("/bin/sh"), |word| PathBuf::from(OsStr::from_bytes(word)))
}

/// What in the program's headers keeps a library from being preloaded.
fn obstacle_in_elf(head: &[u8]) -> Option<Obstacle> {
    let Ok(header) = elf::FileHeader64::<Endianness>::parse(head) else {
        return Some(Obstacle::Foreign);
    };
    let Ok(endian) = header.endian() else { return Some(Obstacle::Foreign) };
    let native = if cfg!(target_endian = "big") { Endianness::Big } else { Endianness::Little };
    if endian != native || header.e_machine(endian) != MACHINE {
        return Some(Obstacle::Foreign);
    }
    let Ok(segments) = header.program_headers(endian, head) else { return Some(Obstacle::Static) };
    let Some(interp) = segments.iter().find(|segment| segment.p_type(endian) == elf::PT_INTERP) else {
        return Some(Obstacle::Static);
    };
    // The linker's name usually follows the headers; where it lies further off, assume the usual one.
    let linker = interp.data(endian, head).unwrap_or_default();
    let linker = String::from_utf8_lossy(linker.strip_suffix(b"\0").unwrap_or(linker)).into_owned();
    let name = linker.rsplit('/').next().unwrap_or_default();
    (name.starts_with("ld-musl") || linker.starts_with("/system/")).then_some(Obstacle::OtherLibc(linker))
}

/// What in the file's mode makes the dynamic linker distrust the environment (AT_SECURE).
fn obstacle_in_rights(path: &Path) -> Option<Obstacle> {
    let meta = std::fs::metadata(path).ok()?;
    if sys::no_new_privileges() || sys::on_nosuid(path) {
        return None;
    }
    let (user, group) = sys::real_ids();
    let rights = Rights {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        capabilities: sys::has_capabilities(path),
    };
    rights.gained_by(user, group).map(Obstacle::Privileged)
}

/// What a file can give to whoever executes it.
struct Rights {
    mode: u32,
    owner: (u32, u32),
    capabilities: bool,
}

impl Rights {
    /// What the real `user` and `group` would gain. A set-user-ID program of one's own gains nothing, and a real
    /// root gains nothing by file capabilities.
    fn gained_by(&self, user: u32, group: u32) -> Option<&'static str> {
        let set_group = self.mode & libc::S_ISGID != 0 && self.mode & libc::S_IXGRP != 0;
        if self.mode & libc::S_ISUID != 0 && self.owner.0 != user {
            Some("is set-user-ID")
        } else if set_group && self.owner.1 != group {
            Some("is set-group-ID")
        } else if self.capabilities && user != 0 {
            Some("has file capabilities")
        } else {
            None
        }
    }
}

#[cfg(test)]
#[path = "preload_tests.rs"]
mod tests;
