//! Address space of the process that runs the simulation.
//!
//! A [`Region`] is reserved without access and opened piece by piece, so that a stray access faults.
//! This is the only file of the crate that calls the operating system.

use std::ptr::{self, NonNull};

use kmem_core::platform::PAGE_SIZE;

/// A piece of address space; given back when dropped.
#[derive(Debug)]
pub(crate) struct Region {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a region is a range of addresses; all its operations are system calls, safe from any thread.
unsafe impl Send for Region {}
// SAFETY: as above; no operation through `&Region` touches Rust state.
unsafe impl Sync for Region {}

impl Region {
    /// Reserves `len` bytes aligned to `align`, without access. `None` when there is no such space.
    pub(crate) fn reserve(len: usize, align: usize) -> Option<Self> {
        assert!(len > 0 && len.is_multiple_of(PAGE_SIZE) && align.is_power_of_two() && align >= PAGE_SIZE);
        let spare = align - PAGE_SIZE;
        let total = len.checked_add(spare)?;
        // SAFETY: an anonymous mapping at no given address touches nothing that exists.
        let raw = unsafe {
            libc::mmap(
                ptr::null_mut(),
                total,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if raw == libc::MAP_FAILED {
            return None;
        }
        let raw = raw.cast::<u8>();
        let front = raw.align_offset(align);
        // SAFETY: the pieces cut off lie inside the mapping just made and nobody knows them.
        unsafe {
            if front > 0 {
                libc::munmap(raw.cast(), front);
            }
            if spare > front {
                libc::munmap(raw.add(front + len).cast(), spare - front);
            }
        }
        // SAFETY: `front + len` is at most `total`.
        let base = unsafe { raw.add(front) };
        // Small pages, so that what is resident is what was touched. Where the advice is unknown it is not needed.
        // SAFETY: the range is ours.
        unsafe { libc::madvise(base.cast(), len, libc::MADV_NOHUGEPAGE) };
        NonNull::new(base).map(|base| Self { base, len })
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn at(&self, offset: usize, len: usize) -> *mut libc::c_void {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len));
        assert!(offset.is_multiple_of(PAGE_SIZE) && len.is_multiple_of(PAGE_SIZE));
        self.base.as_ptr().wrapping_add(offset).cast()
    }

    /// Gives access to a part. False when the system refuses.
    pub(crate) fn open(&self, offset: usize, len: usize) -> bool {
        // SAFETY: the range is ours (checked by `at`), and more access breaks nobody.
        unsafe { libc::mprotect(self.at(offset, len), len, libc::PROT_READ | libc::PROT_WRITE) == 0 }
    }

    /// Drops the content of a part; it reads as zero when it is (or becomes) accessible.
    ///
    /// # Safety
    /// Nobody uses the content any more.
    pub(crate) unsafe fn clear(&self, offset: usize, len: usize) {
        // SAFETY: the range is ours and the caller gives up the content.
        let failed = unsafe { libc::madvise(self.at(offset, len), len, libc::MADV_DONTNEED) };
        assert_eq!(failed, 0, "the system would not drop pages");
    }

    /// Drops the content of a part and takes access away.
    ///
    /// # Safety
    /// Nobody uses the part any more.
    pub(crate) unsafe fn close(&self, offset: usize, len: usize) {
        // SAFETY: passed on to the caller.
        unsafe { self.clear(offset, len) };
        // SAFETY: the range is ours and the caller says that nobody uses it.
        let failed = unsafe { libc::mprotect(self.at(offset, len), len, libc::PROT_NONE) };
        assert_eq!(failed, 0, "the system would not protect pages");
    }

    /// How many pages of a part are in memory.
    pub(crate) fn resident(&self, offset: usize, len: usize) -> usize {
        let mut seen = vec![0u8; len / PAGE_SIZE];
        // SAFETY: the vector has one byte for each page asked about.
        let failed = unsafe { libc::mincore(self.at(offset, len), len, seen.as_mut_ptr().cast()) };
        assert_eq!(failed, 0, "the system would not tell about pages");
        seen.iter().filter(|&&page| page & 1 == 1).count()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the region is ours alone; whoever drops it says that nobody uses it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
