//! Memory of the recorder: private mappings that a forked child does not have, and the table of live blocks in one.

use core::ptr::null_mut;

use kmem_trace::live::{Entry, Live};

/// Blocks that the first table can take.
const FIRST: usize = 4096;

/// The system's page size.
pub(super) fn page_size() -> usize {
    // SAFETY: reads a table the kernel gave at program start.
    unsafe { libc::getauxval(libc::AT_PAGESZ) as usize }
}

/// `bytes` zero bytes, a multiple of the page size. `None`: no memory.
pub(super) fn map(bytes: usize) -> Option<*mut u8> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, where the kernel chooses.
    let got = unsafe { libc::mmap(null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    (got != libc::MAP_FAILED).then_some(got.cast())
}

/// Which block lives where.
pub(super) struct Table {
    live: Live,
    entries: *mut Entry,
    len: usize,
}

impl Table {
    /// A table without memory.
    pub(super) const fn new() -> Self {
        Self { live: Live::new(), entries: null_mut(), len: 0 }
    }

    fn bytes(len: usize) -> usize {
        (len * size_of::<Entry>()).next_multiple_of(page_size())
    }

    fn parts(&mut self) -> (&mut Live, &mut [Entry]) {
        if self.len == 0 {
            return (&mut self.live, &mut []);
        }
        // SAFETY: a mapping of that many entries, all of which are valid when zero; this value alone has it.
        (&mut self.live, unsafe { core::slice::from_raw_parts_mut(self.entries, self.len) })
    }

    /// Makes room for one more block. False: no memory.
    pub(super) fn reserve(&mut self) -> bool {
        let (live, entries) = self.parts();
        if !live.is_crowded(entries) {
            return true;
        }
        let len = if self.len == 0 { FIRST } else { self.len * 2 };
        let Some(memory) = map(Self::bytes(len)) else { return false };
        let memory: *mut Entry = memory.cast();
        // SAFETY: mapped just now, zero, with room for `len` entries. Without the advice a child has a copy that it
        // never looks at.
        let new = unsafe {
            libc::madvise(memory.cast(), Self::bytes(len), libc::MADV_DONTFORK);
            core::slice::from_raw_parts_mut(memory, len)
        };
        let (live, old) = self.parts();
        live.move_to(old, new);
        self.release();
        (self.entries, self.len) = (memory, len);
        true
    }

    /// Gives the entries' memory back.
    fn release(&mut self) {
        if self.len > 0 {
            // SAFETY: the mapping of `reserve`; no reference into it is left.
            unsafe { libc::munmap(self.entries.cast(), Self::bytes(self.len)) };
        }
        (self.entries, self.len) = (null_mut(), 0);
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.release();
        self.live = Live::new();
    }

    /// Says that `block` lives at `address`; see [`Live::insert`]. After [`Table::reserve`].
    pub(super) fn insert(&mut self, address: u64, block: u64) -> Option<u64> {
        let (live, entries) = self.parts();
        live.insert(entries, address, block)
    }

    /// Forgets the block at `address`; see [`Live::remove`].
    pub(super) fn remove(&mut self, address: u64) -> Option<u64> {
        let (live, entries) = self.parts();
        live.remove(entries, address)
    }
}
