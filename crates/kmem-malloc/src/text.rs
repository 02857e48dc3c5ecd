//! Text without allocation: a writer over a file descriptor, one over a C stream, and C strings.
//!
//! The writers collect into a small buffer inside themselves, so that one record costs few system calls,
//! and remember a failure instead of panicking: a full disk must not end a program.

use core::fmt;

use libc::{c_char, c_int, c_void};

use crate::runtime::errno;

const BUFFER: usize = 1024;

/// Writes to a file descriptor with `write(2)`.
pub(crate) struct FdWriter {
    fd: c_int,
    used: usize,
    failed: bool,
    buffer: [u8; BUFFER],
}

impl FdWriter {
    /// A writer over an open descriptor, which stays the caller's.
    pub(crate) fn new(fd: c_int) -> Self {
        Self { fd, used: 0, failed: false, buffer: [0; BUFFER] }
    }

    /// Writes out what is collected. False when anything was lost since the beginning.
    pub(crate) fn flush(&mut self) -> bool {
        let mut done = 0;
        while done < self.used && !self.failed {
            let rest = &self.buffer[done..self.used];
            // SAFETY: `rest` is readable for its length.
            let n = unsafe { libc::write(self.fd, rest.as_ptr().cast::<c_void>(), rest.len()) };
            if n > 0 {
                done += n as usize;
            } else if n == 0 || errno() != libc::EINTR {
                self.failed = true;
            }
        }
        self.used = 0;
        !self.failed
    }
}

impl fmt::Write for FdWriter {
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

/// A C string of at most `N - 1` bytes; what does not fit is cut, between characters.
pub(crate) struct CText<const N: usize> {
    used: usize,
    /// Zero from `used` on, the last one always.
    bytes: [u8; N],
}

impl<const N: usize> CText<N> {
    pub(crate) const fn new() -> Self {
        Self { used: 0, bytes: [0; N] }
    }

    /// All of a text, if it fits.
    pub(crate) fn of(text: &str) -> Self {
        let mut all = Self::new();
        let _ = fmt::Write::write_str(&mut all, text);
        all
    }

    pub(crate) fn as_ptr(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }

    /// With the zero at its end.
    pub(crate) fn bytes(&self) -> &[u8; N] {
        &self.bytes
    }

    /// From bytes that [`CText::bytes`] gave.
    pub(crate) fn from_bytes(mut bytes: [u8; N]) -> Self {
        bytes[N - 1] = 0;
        Self { used: N - 1, bytes }
    }
}

impl<const N: usize> fmt::Write for CText<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut take = text.len().min(N - 1 - self.used);
        while !text.is_char_boundary(take) {
            take -= 1;
        }
        self.bytes[self.used..self.used + take].copy_from_slice(&text.as_bytes()[..take]);
        // Nothing may follow a text that was cut.
        self.used = if take < text.len() { N - 1 } else { self.used + take };
        Ok(())
    }
}

/// Writes to a C stream. The stream buffers; nothing is kept here.
pub(crate) struct StreamWriter(*mut libc::FILE);

impl StreamWriter {
    /// A writer over an open stream, which stays the caller's.
    ///
    /// # Safety
    /// `stream` is open for writing as long as the writer lives.
    pub(crate) unsafe fn new(stream: *mut libc::FILE) -> Self {
        Self(stream)
    }
}

impl fmt::Write for StreamWriter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: the stream is open (contract of `new`); `text` is readable for its length.
        let n = unsafe { libc::fwrite(text.as_ptr().cast::<c_void>(), 1, text.len(), self.0) };
        if n == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}
