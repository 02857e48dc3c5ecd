//! System calls, without a trace in the caller.
//!
//! What for: `malloc` and `free` may enter the system, but the program that called them must not
//! notice. The wrappers of the C library set `errno`; these do not. Each function answers with the
//! kernel's own result, a negative error number in `Err`.
//!
//! Never: allocates, blocks (except [`futex_wait`] and its like), or touches `errno`.

use core::ffi::c_int;

/// An error number of the kernel (`libc::EEXIST`, ...), positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub c_int);

/// One system call.
///
/// # Safety
/// The call and its arguments must be sound: the kernel reads and writes whatever they point at.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) unsafe fn call(number: libc::c_long, a: [usize; 6]) -> Result<usize, Errno> {
    let result: isize;
    // SAFETY: the kernel changes rax, rcx, r11 and what the arguments point at; the caller vouches for those.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    if (-4095..0).contains(&result) { Err(Errno(-result as c_int)) } else { Ok(result as usize) }
}

/// One system call.
///
/// # Safety
/// The call and its arguments must be sound: the kernel reads and writes whatever they point at.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn call(number: libc::c_long, a: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: the C library's errno is always there; the caller vouches for the arguments.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let result = libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
        let error = *errno;
        *errno = before;
        if result == -1 { Err(Errno(error)) } else { Ok(result as usize) }
    }
}

/// Where a new mapping goes.
#[derive(Clone, Copy)]
pub(super) enum Place {
    /// Wherever the kernel likes.
    Any,
    /// At this address, and only if nothing is there.
    Exactly(usize),
}

/// Maps `len` bytes of zero. `Exactly` answers `EEXIST` when the place is taken.
pub(super) fn map(place: Place, len: usize, reserve: bool) -> Result<usize, Errno> {
    let mut flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    if !reserve {
        flags |= libc::MAP_NORESERVE;
    }
    let address = match place {
        Place::Any => 0,
        Place::Exactly(address) => {
            flags |= libc::MAP_FIXED_NOREPLACE;
            address
        }
    };
    let protection = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    // SAFETY: without MAP_FIXED a new mapping replaces nothing.
    let got = unsafe { call(libc::SYS_mmap, [address, len, protection, flags as usize, usize::MAX, 0]) }?;
    if let Place::Exactly(wanted) = place
        && got != wanted
    {
        // Kernels before 4.17 take the address as a mere hint.
        // SAFETY: the mapping was made just now and nobody knows it.
        let _ = unsafe { unmap(got, len) };
        return Err(Errno(libc::EEXIST));
    }
    Ok(got)
}

/// Removes mappings.
///
/// # Safety
/// Nobody uses the range any more.
pub(super) unsafe fn unmap(address: usize, len: usize) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { call(libc::SYS_munmap, [address, len, 0, 0, 0, 0]) }.map(drop)
}

/// Resizes a mapping, moving it only if `may_move`.
///
/// # Safety
/// The range is one mapping that the caller owns; on success the old address is dead.
pub(super) unsafe fn remap(address: usize, old: usize, new: usize, may_move: bool) -> Result<usize, Errno> {
    let flags = if may_move { libc::MREMAP_MAYMOVE as usize } else { 0 };
    // SAFETY: the caller's promise.
    unsafe { call(libc::SYS_mremap, [address, old, new, flags, 0, 0]) }
}

/// Takes `len` bytes of addresses that nobody may use yet.
pub(super) fn reserve(len: usize) -> Result<usize, Errno> {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE) as usize;
    // SAFETY: without MAP_FIXED a new mapping replaces nothing.
    unsafe { call(libc::SYS_mmap, [0, len, 0, flags, usize::MAX, 0]) }
}

/// Takes the memory of a range away and leaves its addresses, which nobody may use. Unless they are to be `alone` they become one
/// mapping with what [`reserve`] made beside them.
///
/// # Safety
/// The caller owns the range, and nobody uses it any more.
pub(super) unsafe fn fence(address: usize, len: usize, alone: bool) -> Result<(), Errno> {
    let joined = if alone { 0 } else { libc::MAP_NORESERVE };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | joined;
    // SAFETY: the caller's promise.
    unsafe { call(libc::SYS_mmap, [address, len, 0, flags as usize, usize::MAX, 0]) }.map(drop)
}

/// Of how many pages of `page` bytes there is memory, from `address` on; `seen` has a byte for each that is asked about.
pub(super) fn resident(address: usize, page: usize, seen: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes a byte for each page of the length: as many as the slice has.
    unsafe { call(libc::SYS_mincore, [address, seen.len() * page, seen.as_mut_ptr() as usize, 0, 0, 0]) }?;
    Ok(seen.iter().filter(|&&page| page & 1 != 0).count())
}

/// Moves a mapping to `home`, with another length.
///
/// # Safety
/// The range is one mapping that the caller owns, and so is all of the new one; on success the old addresses are free, and after an
/// error nothing may be mapped at `home`.
pub(super) unsafe fn remap_to(address: usize, old: usize, new: usize, home: usize) -> Result<(), Errno> {
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as usize;
    // SAFETY: the caller's promise.
    unsafe { call(libc::SYS_mremap, [address, old, new, flags, home, 0]) }.map(drop)
}

/// Moves the pages of a mapping to another address; the mapping stays, empty. What was at `home` is replaced.
///
/// # Safety
/// Both ranges are the caller's, the old one a mapping or a part of one. After an error nothing may be mapped at `home`.
pub(super) unsafe fn remap_pages(address: usize, len: usize, home: usize) -> Result<(), Errno> {
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP) as usize;
    // SAFETY: the caller's promise.
    unsafe { call(libc::SYS_mremap, [address, len, len, flags, home, 0]) }.map(drop)
}

/// Advice about a range of mapped memory.
///
/// # Safety
/// With `MADV_DONTNEED` the content is lost: the caller owns the range.
pub(super) unsafe fn advise(address: usize, len: usize, advice: c_int) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { call(libc::SYS_madvise, [address, len, advice as usize, 0, 0, 0]) }.map(drop)
}

/// Forbids every access to mapped memory, or allows reading and writing.
///
/// # Safety
/// The caller owns the range: whoever touches it while it is forbidden faults.
pub(super) unsafe fn protect(address: usize, len: usize, allow: bool) -> Result<(), Errno> {
    let protection = if allow { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
    // SAFETY: the caller's promise.
    unsafe { call(libc::SYS_mprotect, [address, len, protection as usize, 0, 0, 0]) }.map(drop)
}

/// Forbids to write to mapped memory.
///
/// # Safety
/// The caller owns the range: whoever writes to it faults.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn forbid_writes(address: usize, len: usize) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    unsafe { call(libc::SYS_mprotect, [address, len, libc::PROT_READ as usize, 0, 0, 0]) }.map(drop)
}

/// Asks that pages of the range come from `node` if it has any.
pub(super) fn prefer_node(address: usize, len: usize, node: usize) -> Result<(), Errno> {
    const MPOL_PREFERRED: usize = 1;
    let mask: u64 = 1 << node;
    // SAFETY: a memory policy changes no content, and the kernel only reads the mask. It takes one bit
    // less than it is told.
    unsafe { call(libc::SYS_mbind, [address, len, MPOL_PREFERRED, &raw const mask as usize, 65, 0]) }
        .map(drop)
}

/// A command of `membarrier`.
pub(super) fn membarrier(command: c_int) -> Result<usize, Errno> {
    // SAFETY: orders memory, touches none.
    unsafe { call(libc::SYS_membarrier, [command as usize, 0, 0, 0, 0, 0]) }
}

/// Sleeps while `word` holds `value`. Returns early as it likes.
pub(super) fn futex_wait(word: &core::sync::atomic::AtomicU32, value: u32) {
    let op = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize;
    // SAFETY: the kernel only reads the word, which the reference keeps alive; a null timeout waits for ever.
    let _ = unsafe { call(libc::SYS_futex, [word.as_ptr() as usize, op, value as usize, 0, 0, 0]) };
}

/// As [`futex_wait`], for a second at most. False: that is over.
#[cfg(target_arch = "x86_64")]
pub(super) fn futex_wait_a_second(word: &core::sync::atomic::AtomicU32, value: u32) -> bool {
    let op = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize;
    let second = libc::timespec { tv_sec: 1, tv_nsec: 0 };
    let time = &raw const second as usize;
    // SAFETY: the kernel only reads the word, which the reference keeps alive, and the time.
    let woken = unsafe { call(libc::SYS_futex, [word.as_ptr() as usize, op, value as usize, time, 0, 0]) };
    woken != Err(Errno(libc::ETIMEDOUT))
}

/// Wakes one sleeper of `word`.
pub(super) fn futex_wake(word: &core::sync::atomic::AtomicU32) {
    let op = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as usize;
    // SAFETY: the kernel uses the address as a name only.
    let _ = unsafe { call(libc::SYS_futex, [word.as_ptr() as usize, op, 1, 0, 0, 0]) };
}

/// Random bytes, if the kernel has them ready.
pub(super) fn random() -> Option<[u64; 2]> {
    let mut bytes = [0u64; 2];
    // SAFETY: the kernel writes at most 16 bytes into an array of 16.
    let got = unsafe {
        call(libc::SYS_getrandom, [bytes.as_mut_ptr() as usize, 16, libc::GRND_NONBLOCK as usize, 0, 0, 0])
    };
    (got == Ok(16)).then_some(bytes)
}

/// The CPU and the node the caller runs on.
pub(super) fn cpu_and_node() -> Result<(u32, u32), Errno> {
    let mut cpu = 0u32;
    let mut node = 0u32;
    // SAFETY: the kernel writes one word to each pointer.
    unsafe {
        call(libc::SYS_getcpu, [&raw mut cpu as usize, &raw mut node as usize, 0, 0, 0, 0])?;
    }
    Ok((cpu, node))
}

/// A set of CPUs as the kernel takes it.
pub(super) type CpuMask = [u64; 128];

/// The CPUs the calling thread may run on, and how many bytes of masks the kernel keeps: an upper
/// bound of CPU numbers where nothing better is known.
pub(super) fn affinity() -> Result<(CpuMask, usize), Errno> {
    let mut mask = [0u64; 128];
    // SAFETY: the kernel writes at most the length given into the array.
    let bytes = unsafe {
        call(libc::SYS_sched_getaffinity, [0, size_of_val(&mask), mask.as_mut_ptr() as usize, 0, 0, 0])
    }?;
    Ok((mask, bytes))
}

/// Sends the calling thread to one of these CPUs, before it returns.
pub(super) fn set_affinity(mask: &CpuMask) -> Result<(), Errno> {
    // SAFETY: the kernel reads the mask.
    unsafe { call(libc::SYS_sched_setaffinity, [0, size_of_val(mask), mask.as_ptr() as usize, 0, 0, 0]) }
        .map(drop)
}

/// Bytes of addresses that the process may map, as far as it is limited.
pub(super) fn address_limit() -> usize {
    let limit = |resource: usize| {
        let mut limits = [u64::MAX; 2];
        // SAFETY: process 0 is this one; the kernel writes two words to the array and reads no new limits.
        let asked =
            unsafe { call(libc::SYS_prlimit64, [0, resource, 0, limits.as_mut_ptr() as usize, 0, 0]) };
        if asked.is_ok() { limits[0] as usize } else { usize::MAX }
    };
    limit(libc::RLIMIT_AS as usize).min(limit(libc::RLIMIT_DATA as usize))
}

/// Writes `bytes` to a descriptor; how many were taken.
pub(super) fn write(fd: c_int, bytes: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel reads the slice.
    unsafe { call(libc::SYS_write, [fd as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]) }
}

/// This process.
pub(super) fn process() -> u32 {
    // SAFETY: no arguments, no failure.
    unsafe { call(libc::SYS_getpid, [0; 6]) }.unwrap_or(0) as u32
}

/// Sleeps for a moment.
pub(super) fn pause() {
    let time = libc::timespec { tv_sec: 0, tv_nsec: 200_000 };
    // SAFETY: the kernel reads one timespec and writes nothing.
    let _ = unsafe { call(libc::SYS_nanosleep, [&raw const time as usize, 0, 0, 0, 0, 0]) };
}

/// Makes a directory, if it is not there.
pub(super) fn make_directory(path: &core::ffi::CStr) {
    // SAFETY: a path that ends in zero.
    let _ =
        unsafe { call(libc::SYS_mkdirat, [libc::AT_FDCWD as usize, path.as_ptr() as usize, 0o755, 0, 0, 0]) };
}

/// Gives a file another name, in the place of a file that had it.
pub(super) fn rename(from: &core::ffi::CStr, to: &core::ffi::CStr) -> Result<(), Errno> {
    let here = libc::AT_FDCWD as usize;
    let (from, to) = (from.as_ptr() as usize, to.as_ptr() as usize);
    // SAFETY: paths that end in zero.
    unsafe { call(libc::SYS_renameat2, [here, from, here, to, 0, 0]) }.map(drop)
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &core::ffi::CStr) {
    // SAFETY: a path that ends in zero.
    let _ =
        unsafe { call(libc::SYS_unlinkat, [libc::AT_FDCWD as usize, path.as_ptr() as usize, 0, 0, 0, 0]) };
}

/// The user whose rights this process has.
pub(super) fn user() -> u32 {
    // SAFETY: no arguments, no failure.
    unsafe { call(libc::SYS_geteuid, [0; 6]) }.unwrap_or(0) as u32
}

/// The user that a file belongs to.
pub(super) fn owner(fd: c_int) -> Result<u32, Errno> {
    let mut known = core::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the kernel writes one such structure, for which zero bytes are a value too.
    unsafe {
        call(libc::SYS_fstat, [fd as usize, known.as_mut_ptr() as usize, 0, 0, 0, 0])?;
        Ok(known.assume_init().st_uid)
    }
}

/// Opens a file; the descriptor closes at exec.
pub(super) fn open(path: &core::ffi::CStr, flags: c_int, mode: u32) -> Result<c_int, Errno> {
    let flags = (flags | libc::O_CLOEXEC) as usize;
    // SAFETY: a path that ends in zero.
    unsafe {
        call(libc::SYS_openat, [libc::AT_FDCWD as usize, path.as_ptr() as usize, flags, mode as usize, 0, 0])
    }
    .map(|fd| fd as c_int)
}

/// Closes a descriptor of ours.
pub(super) fn close(fd: c_int) {
    // SAFETY: the caller opened it, and nobody else uses it.
    let _ = unsafe { call(libc::SYS_close, [fd as usize, 0, 0, 0, 0, 0]) };
}

/// Reads from a place in a file; how many bytes came.
pub(super) fn read_at(fd: c_int, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let (at, len) = (buffer.as_mut_ptr() as usize, buffer.len());
    // SAFETY: the kernel writes at most the buffer's length.
    unsafe { call(libc::SYS_pread64, [fd as usize, at, len, offset as usize, 0, 0]) }
}

/// Reads from a descriptor; how many bytes came, 0 at the end.
pub(super) fn read(fd: c_int, buffer: &mut [u8]) -> Result<usize, Errno> {
    let (at, len) = (buffer.as_mut_ptr() as usize, buffer.len());
    // SAFETY: the kernel writes at most the buffer's length.
    unsafe { call(libc::SYS_read, [fd as usize, at, len, 0, 0, 0]) }
}

/// What a symbolic link says; its length.
pub(super) fn read_link(path: &core::ffi::CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
    let (at, len) = (buffer.as_mut_ptr() as usize, buffer.len());
    // SAFETY: a path that ends in zero; the kernel writes at most the buffer's length.
    unsafe { call(libc::SYS_readlinkat, [libc::AT_FDCWD as usize, path.as_ptr() as usize, at, len, 0, 0]) }
}

/// Opens a file for writing at its end, which is created, and must not be there yet, when it is `new`; writes; closes it.
pub(super) fn append(path: &core::ffi::CStr, bytes: &[u8], new: bool) -> Result<usize, Errno> {
    let new = if new { libc::O_CREAT | libc::O_EXCL } else { 0 };
    let fd = open(path, libc::O_WRONLY | libc::O_APPEND | libc::O_NOFOLLOW | new, 0o600)?;
    let written = write(fd, bytes);
    close(fd);
    written
}

/// Reads a small file; `None` when it cannot be opened or does not fit.
pub(super) fn read_file<'a>(path: &core::ffi::CStr, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let room = buffer.len();
    read_start(path, buffer).filter(|read| read.len() < room)
}

/// Reads the start of a file, as much as there is room for; `None` when it cannot be opened.
pub(super) fn read_start<'a>(path: &core::ffi::CStr, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as usize;
    // SAFETY: a path that ends in zero, and a buffer of the length given; the descriptor is closed here.
    unsafe {
        let fd =
            call(libc::SYS_openat, [libc::AT_FDCWD as usize, path.as_ptr() as usize, flags, 0, 0, 0]).ok()?;
        let got = call(libc::SYS_read, [fd, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0]);
        let _ = call(libc::SYS_close, [fd, 0, 0, 0, 0, 0]);
        Some(&buffer[..got.ok()?])
    }
}

/// Sends a signal to a thread of this process. False: it is not there.
pub(super) fn tell(thread: u32, signal: c_int) -> bool {
    // SAFETY: whoever sends a signal has a handler for it.
    unsafe { call(libc::SYS_tgkill, [process() as usize, thread as usize, signal as usize, 0, 0, 0]).is_ok() }
}

/// The calling thread blocks this signal.
pub(super) fn blocks(signal: c_int) -> bool {
    let mut mask = 0_u64;
    let (none, size) = (0, size_of::<u64>());
    // SAFETY: changes nothing, and writes one mask of that size.
    let asked = unsafe {
        call(libc::SYS_rt_sigprocmask, [libc::SIG_BLOCK as usize, none, &raw mut mask as usize, size, 0, 0])
    };
    asked.is_err() || mask >> (signal - 1) & 1 != 0
}

/// A timer on the CPU time of the calling thread, that sends it a signal with a value; its number.
pub(super) fn new_cpu_timer(signal: c_int, thread: u32, value: usize) -> Result<u32, Errno> {
    // SAFETY: all zero is a value of the structure.
    let mut event: libc::sigevent = unsafe { core::mem::zeroed() };
    event.sigev_value.sival_ptr = value as *mut core::ffi::c_void;
    event.sigev_signo = signal;
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_notify_thread_id = thread as c_int;
    let mut timer: c_int = 0;
    let (clock, event) = (libc::CLOCK_THREAD_CPUTIME_ID as usize, &raw const event as usize);
    // SAFETY: the kernel reads the event and writes the number; whoever has a signal sent has a handler for it.
    unsafe { call(libc::SYS_timer_create, [clock, event, &raw mut timer as usize, 0, 0, 0]) }?;
    Ok(timer as u32)
}

/// Has a timer ring every `period` nanoseconds.
pub(super) fn set_timer(timer: u32, period: u64) {
    let time = libc::timespec {
        tv_sec: (period / 1_000_000_000) as libc::time_t,
        tv_nsec: (period % 1_000_000_000) as libc::c_long,
    };
    let times = [time; 2];
    // SAFETY: the kernel reads an interval and a first time.
    let _ = unsafe { call(libc::SYS_timer_settime, [timer as usize, 0, times.as_ptr() as usize, 0, 0, 0]) };
}

/// A timer goes.
pub(super) fn delete_timer(timer: u32) {
    // SAFETY: a number; of what is no timer the kernel says so.
    let _ = unsafe { call(libc::SYS_timer_delete, [timer as usize, 0, 0, 0, 0, 0]) };
}

/// The next entries of a directory; how many bytes they have, 0 at the end.
pub(super) fn list(fd: c_int, buffer: &mut [u64]) -> Result<usize, Errno> {
    let (at, len) = (buffer.as_mut_ptr() as usize, size_of_val(buffer));
    // SAFETY: the kernel writes at most the buffer's length.
    unsafe { call(libc::SYS_getdents64, [fd as usize, at, len, 0, 0, 0]) }
}

/// Copies words of this process from an address that may not be readable. False: not all of it is.
pub(super) fn peek(from: usize, to: &mut [usize]) -> bool {
    let len = size_of_val(to);
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: len };
    let remote = libc::iovec { iov_base: from as *mut core::ffi::c_void, iov_len: len };
    let lists = (&raw const local as usize, &raw const remote as usize);
    // SAFETY: the kernel writes at most the slice's length, and answers with an error where it cannot read.
    unsafe { call(libc::SYS_process_vm_readv, [process() as usize, lists.0, 1, lists.1, 1, 0]) == Ok(len) }
}
