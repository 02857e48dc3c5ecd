//! The file under a trace: a piece of it is mapped, and what is written there is in the file, however the process ends.
//!
//! The file grows by [`PIECE`] bytes, which are allocated on the disk before they are mapped: a store into a hole of a full
//! disk would be a signal. No descriptor stays open, since programs count and close theirs; to grow, the file is opened by
//! name again, and must be the same one.
//!
//! Mappings are not inherited by forked children. Calls of the C library that are cancellation points are made as
//! raw system calls: malloc is none.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kmem_trace::header;
use libc::{c_int, c_void};

use super::name::Name;
use super::table::page_size;
use crate::runtime::errno;

/// Bytes that the file grows by: a multiple of every page size.
const PIECE: usize = 1 << 20;

/// How many programs a process can execute one after the other, each with a trace of its own.
const PROGRAMS: u32 = 1000;

/// An `errno`.
type Code = c_int;

/// A file that is written from its beginning to its end.
pub(super) struct File {
    name: Name,
    /// Device and number: what makes it the same file.
    identity: (u64, u64),
    /// The header, mapped for good. Null: no file.
    header: *mut u8,
    /// The piece that is written to.
    piece: *mut u8,
    /// Offset of the piece.
    start: u64,
    /// Offset of the next byte.
    end: u64,
}

/// A descriptor, closed at the end.
struct Descriptor(c_int);

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: ours.
        unsafe { libc::syscall(libc::SYS_close, self.0) };
    }
}

fn open(name: &Name, flags: c_int) -> Result<Descriptor, Code> {
    let flags = flags | libc::O_RDWR | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    loop {
        // SAFETY: a name that ends with 0.
        let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, name.as_ptr(), flags, 0o644) };
        if fd >= 0 {
            return Ok(Descriptor(fd as c_int));
        }
        if errno() != libc::EINTR {
            return Err(errno());
        }
    }
}

fn identity(file: &Descriptor) -> Result<(u64, u64), Code> {
    let mut stat = core::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: writes a whole `stat` when it succeeds.
    unsafe {
        if libc::fstat(file.0, stat.as_mut_ptr()) != 0 {
            return Err(errno());
        }
        let stat = stat.assume_init();
        Ok((stat.st_dev, stat.st_ino))
    }
}

/// The process that wrote a trace; `None` where there is none.
fn writer_of(name: &Name) -> Option<u32> {
    let file = open(name, 0).ok()?;
    let mut bytes = [0u8; header::BYTES];
    // SAFETY: that many bytes may be written there.
    let got = unsafe { libc::syscall(libc::SYS_pread64, file.0, bytes.as_mut_ptr(), bytes.len(), 0) };
    if got != bytes.len() as i64 {
        return None;
    }
    header::Header::from_bytes(&bytes).ok().map(|(header, _)| header.pid)
}

/// Calls a file `<name>.<pid>.<n>`.
fn set_aside(name: &Name, pid: c_int) -> Result<(), Code> {
    for n in 1..PROGRAMS {
        let aside = Name::of_earlier(pid, n);
        // SAFETY: names that end with 0. A link takes no name that is taken.
        unsafe {
            if libc::link(name.as_ptr(), aside.as_ptr()) == 0 {
                return if libc::unlink(name.as_ptr()) == 0 { Ok(()) } else { Err(errno()) };
            }
        }
        if errno() != libc::EEXIST {
            return Err(errno());
        }
    }
    Err(libc::EEXIST)
}

/// Gives the file a piece at `start`, so that stores there cannot fail.
fn allocate(file: &Descriptor, start: u64) -> Result<(), Code> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let end = start + PIECE as u64;
    // SAFETY: writes one `rlimit`. To exceed it would be a signal.
    if unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) } == 0 && limit.rlim_cur < end {
        return Err(libc::EFBIG);
    }
    // SAFETY: of a descriptor of ours.
    unsafe {
        if libc::syscall(libc::SYS_fallocate, file.0, 0, start as libc::off_t, PIECE as libc::off_t) == 0 {
            return Ok(());
        }
        // A file system that knows no allocation: then only the length.
        if matches!(errno(), libc::EOPNOTSUPP | libc::ENOSYS)
            && libc::ftruncate(file.0, end as libc::off_t) == 0
        {
            return Ok(());
        }
    }
    Err(errno())
}

fn map(file: &Descriptor, start: u64, bytes: usize) -> Result<*mut u8, Code> {
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, where the kernel chooses.
    unsafe {
        let got = libc::mmap(null_mut(), bytes, rights, libc::MAP_SHARED, file.0, start as libc::off_t);
        if got == libc::MAP_FAILED {
            return Err(errno());
        }
        libc::madvise(got, bytes, libc::MADV_DONTFORK);
        Ok(got.cast())
    }
}

impl File {
    /// No file.
    pub(super) const fn new() -> Self {
        Self {
            name: Name::new(),
            identity: (0, 0),
            header: null_mut(),
            piece: null_mut(),
            start: 0,
            end: header::BYTES as u64,
        }
    }

    /// Makes the file of this process and writes its header. Only the first process `may_be_first`: then the file has the
    /// name as it was given, if it is new or this process's.
    ///
    /// # Errors
    /// The `errno` of what failed; there is no file then, or an empty one.
    pub(super) fn create(&mut self, may_be_first: bool, content: &header::Header) -> Result<(), Code> {
        let pid = content.pid as c_int;
        let new = libc::O_CREAT | libc::O_EXCL;
        let base = Name::base();
        let mut made = Err(libc::EEXIST);
        if may_be_first {
            made = open(&base, new);
            if matches!(made, Err(libc::EEXIST)) && writer_of(&base) == Some(content.pid) {
                set_aside(&base, pid)?;
                made = open(&base, new);
            }
            self.name = base;
        }
        if matches!(made, Err(libc::EEXIST)) {
            self.name = Name::of(pid);
            made = open(&self.name, new);
            if matches!(made, Err(libc::EEXIST)) {
                set_aside(&self.name, pid)?;
                made = open(&self.name, new);
            }
        }
        let file = made?;
        self.identity = identity(&file)?;
        allocate(&file, 0)?;
        let header = map(&file, 0, page_size())?;
        self.piece = map(&file, 0, PIECE)?;
        let bytes = content.to_bytes();
        // SAFETY: a page is longer than a header.
        unsafe { header.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.header = header;
        Ok(())
    }

    /// Opens the file again.
    fn reopen(&self) -> Result<Descriptor, Code> {
        let file = open(&self.name, 0)?;
        if identity(&file)? == self.identity { Ok(file) } else { Err(libc::ESTALE) }
    }

    fn next_piece(&mut self) -> Result<(), Code> {
        let start = self.start + PIECE as u64;
        let file = self.reopen()?;
        allocate(&file, start)?;
        let piece = map(&file, start, PIECE)?;
        self.unmap_piece();
        (self.piece, self.start) = (piece, start);
        Ok(())
    }

    fn unmap_piece(&mut self) {
        if !self.piece.is_null() {
            // SAFETY: the mapping of the piece, to which no reference is left.
            unsafe { libc::munmap(self.piece.cast::<c_void>(), PIECE) };
        }
        self.piece = null_mut();
    }

    /// Appends bytes. They count when the header says so.
    ///
    /// # Errors
    /// There is no room for them; some may have been written.
    #[inline]
    pub(super) fn append(&mut self, mut bytes: &[u8]) -> Result<(), Code> {
        while !bytes.is_empty() {
            if self.piece.is_null() {
                return Err(libc::EBADF);
            }
            let at = (self.end - self.start) as usize;
            let part = bytes.len().min(PIECE - at);
            // SAFETY: the piece is mapped and has room for that many bytes.
            unsafe { self.piece.add(at).copy_from_nonoverlapping(bytes.as_ptr(), part) };
            self.end += part as u64;
            bytes = &bytes[part..];
            if at + part == PIECE {
                self.next_piece()?;
            }
        }
        Ok(())
    }

    /// A field of the header; `None` without a file.
    fn field<T>(&self, at: usize) -> Option<&T> {
        // SAFETY: the header is mapped for good; the fields are aligned, and 4 or 8 bytes long as `T` is (an atomic).
        unsafe { (!self.header.is_null()).then(|| &*self.header.add(at).cast::<T>()) }
    }

    /// The header covers all that was appended (I-TRACE-2), and `events` calls.
    #[inline]
    pub(super) fn commit(&self, events: u64) {
        if let (Some(used), Some(count)) = (self.field(header::AT_USED), self.field(header::AT_EVENTS)) {
            let (used, count): (&AtomicU64, &AtomicU64) = (used, count);
            count.store(events.to_le(), Ordering::Relaxed);
            // Release: records before the word that covers them. There is no reader in this process; another sees
            // what was stored before the end.
            used.store((self.end - header::BYTES as u64).to_le(), Ordering::Release);
        }
    }

    /// Adds 1 to a counter of the header.
    pub(super) fn count(&self, at: usize) {
        if let Some(counter) = self.field::<AtomicU64>(at) {
            let value = u64::from_le(counter.load(Ordering::Relaxed)) + 1;
            counter.store(value.to_le(), Ordering::Relaxed);
        }
    }

    /// Ends the writing: sets a flag, and cuts off what was allocated beyond the records.
    pub(super) fn close(&mut self, flag: u32, events: u64) {
        self.commit(events);
        if let Some(flags) = self.field::<AtomicU32>(header::AT_FLAGS) {
            flags.fetch_or(flag.to_le(), Ordering::Relaxed);
        }
        self.unmap_piece();
        if let Ok(file) = self.reopen() {
            let used =
                self.field::<AtomicU64>(header::AT_USED).map_or(0, |used| used.load(Ordering::Relaxed));
            // The header's page stays mapped, and within the file's last page a store is harmless.
            let len = u64::from_le(used) + header::BYTES as u64;
            // SAFETY: a descriptor of ours. What cannot be cut off stays; readers ignore it.
            let _ = unsafe { libc::ftruncate(file.0, len as libc::off_t) };
        }
    }
}
