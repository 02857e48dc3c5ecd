//! What a process can ask about its own memory: where it is mapped, which of it is there, what it holds.
//!
//! Nothing here allocates or changes `errno`; a range that cannot be read is an answer, not a fault.

use core::ffi::{CStr, c_int};

use super::sys;

const PAGE: usize = 4096;

/// Maps fresh memory, of zeros.
pub(crate) fn map(len: usize) -> Option<usize> {
    sys::map(sys::Place::Any, len, false).ok()
}

/// Gives back what [`map`] gave.
///
/// # Safety
/// Nobody uses it any more.
pub(crate) unsafe fn unmap(address: usize, len: usize) {
    // SAFETY: the caller's promise.
    let _ = unsafe { sys::unmap(address, len) };
}

/// Copies words from an address. False: not all of it can be read.
pub(crate) fn peek(from: usize, to: &mut [usize]) -> bool {
    sys::peek(from, to)
}

/// Shows a file line by line, as much of each as there is room for. False: it cannot be read to its end.
pub(crate) fn each_line(path: &CStr, room: &mut [u8], visit: &mut dyn FnMut(&[u8])) -> bool {
    let Ok(fd) = sys::open(path, libc::O_RDONLY, 0) else { return false };
    let (mut chunk, mut len) = ([0; 1024], 0);
    let ended = loop {
        let Ok(got) = sys::read(fd, &mut chunk) else { break false };
        if got == 0 {
            break true;
        }
        for &byte in &chunk[..got] {
            if byte == b'\n' {
                visit(&room[..len]);
                len = 0;
            } else if len < room.len() {
                room[len] = byte;
                len += 1;
            }
        }
    };
    sys::close(fd);
    ended
}

/// Which pages of the process are there.
pub(crate) struct Pagemap(Option<c_int>);

impl Pagemap {
    /// Where it cannot be asked all pages count as present.
    pub(crate) fn open() -> Self {
        Self(sys::open(c"/proc/self/pagemap", libc::O_RDONLY, 0).ok())
    }

    /// Shows the parts of a range whose pages are in memory or swapped out.
    pub(crate) fn each_present(&self, start: usize, end: usize, visit: &mut dyn FnMut(usize, usize)) {
        const ENTRIES: usize = 256;
        /// The bits of an entry: in memory, swapped out.
        const PRESENT: u64 = 3 << 62;
        let mut at = start;
        while at < end {
            let mut bytes = [0; ENTRIES * 8];
            let got = self.0.map(|fd| sys::read_at(fd, &mut bytes, (at / PAGE * 8) as u64));
            let Some(Ok(got @ 8..)) = got else { return visit(at, end) };
            let entry = |page: &[u8]| page.try_into().map_or(PRESENT, u64::from_le_bytes);
            for page in bytes[..got].chunks_exact(8) {
                let next = ((at / PAGE + 1) * PAGE).min(end);
                if entry(page) & PRESENT != 0 && at < next {
                    visit(at, next);
                }
                at = next;
            }
        }
    }
}

impl Drop for Pagemap {
    fn drop(&mut self) {
        if let Some(fd) = self.0 {
            sys::close(fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_no_fault() {
        let words = [1_usize, 2, 3];
        let mut copy = [0; 3];
        assert!(peek(words.as_ptr().addr(), &mut copy) && copy == words);
        assert!(!peek(8, &mut copy));
    }

    #[test]
    fn pages_that_nobody_touched_are_not_there() {
        let len = 600 * PAGE;
        let base = map(len).unwrap();
        for page in [0, 7, 299, 599] {
            // SAFETY: in the mapping.
            unsafe { ((base + page * PAGE) as *mut u8).write_volatile(1) };
        }
        let mut seen = Vec::new();
        Pagemap::open().each_present(base, base + len, &mut |start, end| {
            assert_eq!(end - start, PAGE);
            seen.push((start - base) / PAGE);
        });
        assert!([0, 7, 299, 599].iter().all(|page| seen.contains(page)), "{seen:?}");
        // The kernel may have given a larger page at once; but not for all.
        assert!(seen.len() < 600);
        // SAFETY: nobody else knows it.
        unsafe { unmap(base, len) };
    }

    #[test]
    fn files_are_shown_by_lines() {
        let mut lines = 0;
        assert!(each_line(c"/proc/self/maps", &mut [0; 100], &mut |line| {
            assert!(line.contains(&b'-') && line.len() <= 100);
            lines += 1;
        }));
        assert!(lines > 5);
        assert!(!each_line(c"/nonexistent", &mut [0; 100], &mut |_| unreachable!()));
    }
}
