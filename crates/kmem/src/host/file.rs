//! Files that the library writes: text, without the C library's streams and without allocation.

use core::ffi::CStr;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, Ordering};

use kmem_core::report::Text;

use super::sys;

const BUFFER: usize = 1024;

/// The longest path.
pub(crate) const PATH_BYTES: usize = 1024;
/// Room for what stands below a directory.
const BELOW: usize = 160;

/// A path. It ends in a zero byte.
pub(crate) type Path = Text<PATH_BYTES>;

/// A directory that the environment named, kept as long as the process lives: the program may change its environment. Written before
/// the heap is made.
pub(crate) struct Directory([AtomicU8; PATH_BYTES - BELOW]);

impl Directory {
    pub(crate) const fn none() -> Self {
        Self([const { AtomicU8::new(0) }; PATH_BYTES - BELOW])
    }

    /// Keeps a path. False: it is too long, or no text.
    pub(crate) fn set(&self, path: &[u8]) -> bool {
        let usable = path.len() < self.0.len() && core::str::from_utf8(path).is_ok();
        if usable {
            // Relaxed, here and below: it is set before there is anybody to read it.
            for (slot, &byte) in self.0.iter().zip(path) {
                slot.store(byte, Ordering::Relaxed);
            }
        }
        usable
    }

    /// There is one.
    pub(crate) fn is_set(&self) -> bool {
        self.0[0].load(Ordering::Relaxed) != 0
    }

    /// A path below it; none: there is no directory, or the path is too long.
    pub(crate) fn below(&self, rest: fmt::Arguments<'_>) -> Option<Path> {
        let mut bytes = [0; PATH_BYTES - BELOW];
        for (to, from) in bytes.iter_mut().zip(&self.0) {
            *to = from.load(Ordering::Relaxed);
        }
        let directory = CStr::from_bytes_until_nul(&bytes).ok()?.to_str().ok()?;
        let mut path = Path::new();
        write!(path, "{directory}{rest}\0").ok()?;
        (self.is_set() && path.as_str().ends_with('\0')).then_some(path)
    }
}

/// A file being written. What is written is collected into few system calls; a failure is remembered and silent.
pub(crate) struct Output {
    fd: i32,
    used: usize,
    failed: bool,
    buffer: [u8; BUFFER],
}

impl Output {
    /// Creates or empties the file; `path` ends in a zero byte.
    #[must_use]
    pub(crate) fn create(path: &str) -> Option<Self> {
        let path = c_path(path)?;
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_NOFOLLOW;
        let fd = sys::open(path, flags, 0o644).ok()?;
        Some(Self { fd, used: 0, failed: false, buffer: [0; BUFFER] })
    }

    /// Writes what is left. False: not all of it could be written.
    pub(crate) fn finish(&mut self) -> bool {
        self.flush();
        !self.failed
    }

    fn flush(&mut self) {
        let mut done = 0;
        while done < self.used && !self.failed {
            match sys::write(self.fd, &self.buffer[done..self.used]) {
                Ok(taken) if taken > 0 => done += taken,
                Err(sys::Errno(libc::EINTR)) => {}
                _ => self.failed = true,
            }
        }
        self.used = 0;
    }
}

impl fmt::Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for chunk in text.as_bytes().chunks(BUFFER) {
            if self.used + chunk.len() > BUFFER {
                self.flush();
            }
            self.buffer[self.used..self.used + chunk.len()].copy_from_slice(chunk);
            self.used += chunk.len();
        }
        if self.failed { Err(fmt::Error) } else { Ok(()) }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.flush();
        sys::close(self.fd);
    }
}

/// Makes a directory, if it is not there; `path` ends in a zero byte.
pub(crate) fn make_directory(path: &str) {
    if let Some(path) = c_path(path) {
        sys::make_directory(path);
    }
}

/// Gives a file another name, in the place of a file that had it; both paths end in a zero byte.
pub(crate) fn rename(from: &str, to: &str) -> bool {
    match (c_path(from), c_path(to)) {
        (Some(from), Some(to)) => sys::rename(from, to).is_ok(),
        _ => false,
    }
}

/// Removes a file, if it is there; `path` ends in a zero byte.
pub(crate) fn remove(path: &str) {
    if let Some(path) = c_path(path) {
        sys::remove(path);
    }
}

/// The start of a file that belongs to this process's user, or to root; `path` ends in a zero byte.
pub(crate) fn read_own<'a>(path: &str, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let fd = sys::open(c_path(path)?, flags, 0).ok()?;
    let owner = sys::owner(fd);
    let read = sys::read(fd, buffer);
    sys::close(fd);
    if owner.is_ok_and(|owner| owner == 0 || owner == sys::user()) { buffer.get(..read.ok()?) } else { None }
}

/// What a symbolic link says.
pub(crate) fn read_link<'a>(path: &CStr, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let len = sys::read_link(path, buffer).ok()?;
    buffer.get(..len)
}

fn c_path(path: &str) -> Option<&CStr> {
    CStr::from_bytes_until_nul(path.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_below_a_directory() {
        static NONE: Directory = Directory::none();
        static SOME: Directory = Directory::none();
        assert!(!NONE.is_set() && NONE.below(format_args!("/x")).is_none());
        assert!(!NONE.set(&[b'a'; PATH_BYTES]) && !NONE.set(b"\xff") && !NONE.is_set());
        assert!(SOME.set(b"/tmp") && SOME.is_set());
        assert_eq!(SOME.below(format_args!("/{}.x", 12)).expect("short").as_str(), "/tmp/12.x\0");
        let long = "n".repeat(PATH_BYTES);
        assert!(SOME.below(format_args!("/{long}")).is_none(), "a path that was cut is none");
    }
}
