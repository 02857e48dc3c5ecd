//! Files that the library writes: text, without the C library's streams and without allocation.

use core::ffi::CStr;
use core::fmt;

use super::sys;

const BUFFER: usize = 1024;

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
        let path = CStr::from_bytes_until_nul(path.as_bytes()).ok()?;
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_NOFOLLOW;
        let fd = sys::open(path, flags, 0o644).ok()?;
        Some(Self { fd, used: 0, failed: false, buffer: [0; BUFFER] })
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
    if let Ok(path) = CStr::from_bytes_until_nul(path.as_bytes()) {
        sys::make_directory(path);
    }
}
