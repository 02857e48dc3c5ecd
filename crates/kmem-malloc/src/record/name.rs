//! The names of trace files.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, Ordering};

/// Bytes of a file name, its end included.
const BYTES: usize = 4096;
/// `KMEM_RECORD`, copied: programs overwrite their environment. Written once, before the first name is made.
static BASE: [AtomicU8; BYTES] = [const { AtomicU8::new(0) }; BYTES];

/// Keeps the name that all others begin with. False for one that is not absolute, or too long.
pub(super) fn set(path: &[u8]) -> bool {
    // Room for a process id and a number, ten digits each.
    if !path.starts_with(b"/") || path.len() + 24 > BYTES {
        return false;
    }
    for (slot, &byte) in BASE.iter().zip(path) {
        slot.store(byte, Ordering::Relaxed);
    }
    true
}

/// A file name. Its last byte stays 0.
pub(super) struct Name {
    bytes: [u8; BYTES],
    used: usize,
}

impl Name {
    /// The empty name.
    pub(super) const fn new() -> Self {
        Self { bytes: [0; BYTES], used: 0 }
    }

    /// The name as given.
    pub(super) fn base() -> Self {
        let mut name = Self::new();
        for (place, slot) in name.bytes.iter_mut().zip(&BASE[..BYTES - 1]) {
            // Relaxed: a constant since `set`.
            *place = slot.load(Ordering::Relaxed);
            if *place == 0 {
                break;
            }
            name.used += 1;
        }
        name
    }

    /// The name of a process's own file.
    pub(super) fn of(pid: libc::c_int) -> Self {
        let mut name = Self::base();
        // There is room: `set` saw to it.
        let _ = write!(name, ".{pid}");
        name
    }

    /// The name of what a process wrote when it was executing its `n`-th program.
    pub(super) fn of_earlier(pid: libc::c_int, n: u32) -> Self {
        let mut name = Self::base();
        // As in `of`.
        let _ = write!(name, ".{pid}.{n}");
        name
    }

    /// As C takes it.
    pub(super) fn as_ptr(&self) -> *const libc::c_char {
        self.bytes.as_ptr().cast()
    }
}

impl Write for Name {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.used + text.len();
        if end >= BYTES {
            return Err(fmt::Error);
        }
        self.bytes[self.used..end].copy_from_slice(text.as_bytes());
        self.used = end;
        Ok(())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(core::str::from_utf8(&self.bytes[..self.used]).unwrap_or("?"))
    }
}
