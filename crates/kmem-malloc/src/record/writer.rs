//! From calls to records: the state behind the lock.

use kmem_trace::encode::Encoder;
use kmem_trace::header::{self, Header};
use kmem_trace::record::Bytes;
use libc::c_int;

use super::file::File;
use super::me;
use super::table::{Table, page_size};
use crate::runtime::{errno, set_errno};

/// Calls between two marks of time.
const TIMED: u64 = 1024;

/// The writer of one process's trace.
pub(super) struct Writer {
    file: File,
    encoder: Encoder,
    table: Table,
    /// The process whose memory this is.
    pid: c_int,
    /// The thread that spoke last, by thread pointer. A thread that begins with the pointer of one that ended, nobody
    /// else having spoken between them, is taken for it.
    speaker: usize,
    /// When it began, on the monotonic clock.
    began: u64,
    events: u64,
    stopped: bool,
}

fn clock(which: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(which, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

impl Writer {
    /// A writer without a file.
    pub(super) const fn new() -> Self {
        Self {
            file: File::new(),
            encoder: Encoder::new(),
            table: Table::new(),
            pid: 0,
            speaker: 0,
            began: 0,
            events: 0,
            stopped: false,
        }
    }

    /// Begins a trace in a file of this process's; see [`File::create`].
    ///
    /// # Errors
    /// The `errno` of what failed.
    pub(super) fn open(&mut self, may_be_first: bool) -> Result<(), c_int> {
        let mut name = [0; 16];
        // SAFETY: PR_GET_NAME writes at most 16 bytes; the others have no requirements.
        let parent = unsafe {
            libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr());
            self.pid = libc::getpid();
            libc::getppid()
        };
        let header = Header {
            pid: self.pid as u32,
            parent: parent as u32,
            page_size: page_size() as u32,
            start: clock(libc::CLOCK_REALTIME),
            name,
            ..Header::default()
        };
        self.began = clock(libc::CLOCK_MONOTONIC);
        // The thread that begins is the process's first; or, in a forked child, has become it.
        self.speaker = me();
        self.file.create(may_be_first, &header)
    }

    /// True when there was no room for more.
    pub(super) fn has_stopped(&self) -> bool {
        self.stopped
    }

    /// Counts a call that cannot be recorded.
    pub(super) fn count_lost(&self) {
        self.file.count(header::AT_LOST);
    }

    #[cold]
    fn stop(&mut self) {
        if !self.stopped {
            self.stopped = true;
            self.file.close(header::STOPPED, self.events);
            self.table.clear();
        }
    }

    /// Appends a record of a call, and the marks that belong before it.
    #[inline]
    fn put(&mut self, record: Bytes) {
        let mut written = Ok(());
        if self.speaker != me() {
            written = self.speak();
        }
        if self.events % TIMED == TIMED - 1 {
            written = written.and(self.mark_time());
        }
        if written.and_then(|()| self.file.append(record.as_slice())).is_err() {
            return self.stop();
        }
        self.events += 1;
        self.file.commit(self.events);
    }

    #[cold]
    fn speak(&mut self) -> Result<(), c_int> {
        self.speaker = me();
        // SAFETY: gettid has no requirements and always answers.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) };
        match self.encoder.thread(thread - i64::from(self.pid)) {
            Some(record) => self.file.append(record.as_slice()),
            None => Ok(()),
        }
    }

    #[cold]
    fn mark_time(&mut self) -> Result<(), c_int> {
        let record = self.encoder.time(clock(libc::CLOCK_MONOTONIC).saturating_sub(self.began));
        self.file.append(record.as_slice())
    }

    /// Runs `work` and puts `errno` back as it was.
    #[inline]
    fn keeping_errno(&mut self, work: impl FnOnce(&mut Self)) {
        let saved = errno();
        work(self);
        set_errno(saved);
    }

    /// A block was made, or refused if it is null; `record` makes its record.
    #[inline]
    pub(super) fn made(&mut self, block: *mut u8, record: impl FnOnce(&mut Encoder) -> Bytes) {
        self.keeping_errno(|writer| {
            if block.is_null() {
                return writer.file.count(header::AT_FAILED);
            }
            writer.enter(block);
            let record = record(&mut writer.encoder);
            writer.put(record);
        });
    }

    /// Gives the next block its address. A block that was there before was freed without a record.
    #[inline]
    fn enter(&mut self, block: *mut u8) {
        if !self.table.reserve() {
            return self.stop();
        }
        let number = self.encoder.next_block();
        if let Some(freed) = self.table.insert(block.addr() as u64, number) {
            let record = self.encoder.free(freed);
            self.put(record);
        }
    }

    /// A block is about to be freed.
    #[inline]
    pub(super) fn freeing(&mut self, ptr: *mut u8) {
        self.keeping_errno(|writer| match writer.table.remove(ptr.addr() as u64) {
            Some(block) => {
                let record = writer.encoder.free(block);
                writer.put(record);
            }
            None => writer.file.count(header::AT_UNKNOWN),
        });
    }

    /// The block at `old` was given `size` bytes and is at `new` now; null: refused, it is where and as it was.
    pub(super) fn resized(&mut self, old: *mut u8, new: *mut u8, size: usize) {
        self.keeping_errno(|writer| {
            if new.is_null() {
                return writer.file.count(header::AT_FAILED);
            }
            let known = writer.table.remove(old.addr() as u64);
            writer.enter(new);
            let record = match known {
                Some(block) => writer.encoder.resize(block, size as u64),
                None => {
                    writer.file.count(header::AT_UNKNOWN);
                    writer.encoder.alloc(size as u64)
                }
            };
            writer.put(record);
        });
    }

    /// The process ends.
    pub(super) fn finish(&mut self) {
        // SAFETY: getpid has no requirements. A vfork child has its parent's memory and another pid.
        if self.stopped || self.pid != unsafe { libc::getpid() } {
            return;
        }
        // Without room for the last mark the trace is as good.
        let _ = self.mark_time();
        self.stopped = true;
        self.file.close(header::ENDED, self.events);
        self.table.clear();
    }
}
