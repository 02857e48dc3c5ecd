//! The small facts a process has about itself: who runs, what time it is, what cannot be guessed,
//! what its environment says, and how to die.
//!
//! Never: allocates, changes `errno`, or depends on a constructor having run. All of it works in the
//! first `malloc` of a process, which the dynamic linker makes before any library is initialised.

use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicU64, Ordering};

use super::sys;

/// A number that tells this thread from all others that live: its thread pointer, without the bits
/// that alignment makes equal. Not 0, at most `i32::MAX`.
#[inline]
pub(super) fn thread_token() -> u32 {
    let token = (thread_pointer() >> 6) as u32 & 0x7fff_ffff;
    if token == 0 { 1 } else { token }
}

/// The C library's flag that the process has one thread; null where it has none.
pub(crate) fn alone_flag() -> *const u8 {
    super::weak::single_threaded()
}

/// The C library knows that the process has one thread. Where it tells nothing there may be others.
#[inline(always)]
pub(super) fn alone() -> bool {
    let flag = super::weak::single_threaded();
    // SAFETY: the C library's own flag, where it has one: it changes only when this thread starts another.
    !flag.is_null() && unsafe { flag.read_volatile() } != 0
}

// What `thread_id` remembers; 0: nothing.
#[cfg(target_arch = "x86_64")]
super::word::thread_word!("kmem_thread_id", known_thread_id, know_thread_id);

/// The system's number of this thread. Asked once a thread: it is noted with every request where tracks are kept, and
/// a system call costs as much as all the rest.
pub(super) fn thread_id() -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        let known = known_thread_id();
        if known != 0 {
            return known;
        }
    }
    renew_thread_id()
}

/// Asks for this thread's number anew. After a fork too: the child's thread is another one with the same memory.
#[cold]
pub(super) fn renew_thread_id() -> u32 {
    // SAFETY: gettid has no requirements, and leaves `errno` alone.
    let id = unsafe { libc::gettid() as u32 };
    #[cfg(target_arch = "x86_64")]
    know_thread_id(id);
    id
}

/// The thread pointer: different for each live thread of a process, the same after a fork.
#[inline]
pub(super) fn thread_pointer() -> usize {
    let pointer: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the first word of the thread control block is its own address.
    unsafe {
        core::arch::asm!("mov {}, qword ptr fs:[0]", out(reg) pointer,
            options(nostack, preserves_flags, readonly, pure));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: reading the thread register has no effect.
    unsafe {
        core::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, preserves_flags, nomem, pure));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        // SAFETY: always answers.
        pointer = unsafe { libc::pthread_self() } as usize;
    }
    pointer
}

/// Monotonic time in nanoseconds, as coarse as the kernel's tick.
pub(crate) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec. This clock always exists, so errno stays as it is.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A keyed counter: each call shows a keyed mix of a number that no other call sees.
/// All zero is a valid state; [`Entropy::seed`] gives it a key nobody can guess.
pub(super) struct Entropy {
    key: [AtomicU64; 2],
    count: AtomicU64,
}

impl Entropy {
    pub(super) const fn new() -> Self {
        Self { key: [AtomicU64::new(0), AtomicU64::new(0)], count: AtomicU64::new(0) }
    }

    /// Mixes into the key what the kernel offers. In the child of a fork it parts the child's numbers
    /// from the parent's.
    pub(super) fn seed(&self) {
        let mut fresh = sys::random().unwrap_or([0; 2]);
        let at_random = auxiliary(libc::AT_RANDOM) as *const [u64; 2];
        if !at_random.is_null() {
            // SAFETY: AT_RANDOM points to 16 bytes on the initial stack, which stay for ever.
            let bytes = unsafe { at_random.read_unaligned() };
            fresh[0] ^= bytes[0];
            fresh[1] ^= bytes[1].rotate_left(32);
        }
        fresh[0] ^= cycles();
        fresh[1] ^= now() ^ ((&raw const fresh as u64) << 16);
        // Relaxed: a caller on another thread that misses the new key draws from the old one, as unpredictable.
        for (key, word) in self.key.iter().zip(fresh) {
            key.store(key.load(Ordering::Relaxed).rotate_left(29) ^ word, Ordering::Relaxed);
        }
    }

    /// The next number.
    pub(super) fn next(&self) -> u64 {
        // Relaxed: only the atomicity matters, so that no two calls see one count.
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let [k0, k1] = [self.key[0].load(Ordering::Relaxed), self.key[1].load(Ordering::Relaxed)];
        // Add, rotate, xor over four words: enough rounds that outputs tell nothing about the key.
        let mut v = [
            k0 ^ 0x6b6d_656d_2d73_6c61,
            k1 ^ 0x622d_656e_7472_6f70,
            k0 ^ 0x7920_6f66_2061_2068,
            k1 ^ 0x6f73_7420_6865_6170 ^ count,
        ];
        for round in 0..6 {
            if round == 2 {
                v[0] ^= count;
            }
            v[0] = v[0].wrapping_add(v[1]);
            v[2] = v[2].wrapping_add(v[3]);
            v[1] = v[1].rotate_left(13) ^ v[0];
            v[3] = v[3].rotate_left(16) ^ v[2];
            v[0] = v[0].rotate_left(32).wrapping_add(v[3]);
            v[2] = v[2].wrapping_add(v[1]);
            v[1] = v[1].rotate_left(17) ^ v[2];
            v[3] = v[3].rotate_left(21) ^ v[0];
            v[2] = v[2].rotate_left(32);
        }
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }
}

fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the counter; a process forbidden to read it (PR_SET_TSC) is beyond our care.
    return unsafe { core::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    return thread_pointer() as u64;
}

/// This process. After a fork the child's own.
#[must_use]
pub fn process() -> u32 {
    sys::process()
}

/// Ends the process by SIGABRT. Does not come near the heap.
pub(super) fn abort() -> ! {
    // SAFETY: always allowed.
    unsafe { libc::abort() }
}

/// An entry of the auxiliary vector; 0 when the kernel did not give it.
pub(super) fn auxiliary(kind: libc::c_ulong) -> usize {
    // SAFETY: errno is this thread's own; the lookup may set it, so it is put back.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let value = libc::getauxval(kind);
        *errno = before;
        value as usize
    }
}

/// Where the program's own file is mapped: its code, as the kernel loaded it.
#[must_use]
pub fn program() -> core::ops::Range<usize> {
    let headers = auxiliary(libc::AT_PHDR) as *const libc::Elf64_Phdr;
    if headers.is_null() || auxiliary(libc::AT_PHENT) != size_of::<libc::Elf64_Phdr>() {
        return 0..0;
    }
    // SAFETY: the kernel's note of the program's headers, which stay mapped.
    let headers = unsafe { core::slice::from_raw_parts(headers, auxiliary(libc::AT_PHNUM)) };
    let own = headers.iter().find(|header| header.p_type == libc::PT_PHDR);
    let base = own.map_or(0, |own| (headers.as_ptr() as usize).wrapping_sub(own.p_vaddr as usize));
    let code =
        headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0);
    code.fold(0..0, |range, header| {
        let start = base.wrapping_add(header.p_vaddr as usize);
        let end = start + header.p_memsz as usize;
        if range.is_empty() { start..end } else { range.start.min(start)..range.end.max(end) }
    })
}

/// Writes the program's name as the kernel has it, blanks and what is no ASCII replaced; `?` for none.
///
/// # Errors
/// What `out` answers.
pub fn write_name(out: &mut dyn core::fmt::Write) -> core::fmt::Result {
    let mut name = kmem_core::report::Text::<16>::new();
    super::sink::program(&mut name)?;
    out.write_str(if name.as_str().is_empty() { "?" } else { name.as_str() })
}

/// Sleeps for a fifth of a millisecond.
pub(crate) fn pause() {
    sys::pause();
}

/// Bytes of [`map_page`].
pub(crate) const PAGE: usize = 4096;

/// A page of zeroes.
pub(crate) fn map_page() -> Option<*mut u8> {
    let address = sys::map(sys::Place::Any, PAGE, true).ok()?;
    Some(core::ptr::with_exposed_provenance_mut(address))
}

/// Gives a page back.
///
/// # Safety
/// It is one of [`map_page`], and nobody uses it any more.
pub(crate) unsafe fn unmap_page(page: *mut u8) {
    // SAFETY: the caller's promise.
    let _ = unsafe { sys::unmap(page.expose_provenance(), PAGE) };
}

/// Writes `bytes` at the end of a file. `new`: the file is created, and must not be there yet. False: not all of it was
/// written.
pub(crate) fn append(path: &CStr, bytes: &[u8], new: bool) -> bool {
    sys::append(path, bytes, new) == Ok(bytes.len())
}

/// The start of a file, as much as there is room for.
pub(crate) fn read_start<'a>(path: &CStr, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    sys::read_start(path, buffer)
}

/// True in a process that gained rights at exec (setuid, setgid, capabilities): it must not trust its environment.
#[must_use]
pub fn secure_exec() -> bool {
    auxiliary(libc::AT_SECURE) != 0
}

/// The value of an environment variable as it was when the process started or is now.
/// Never allocates, takes no lock; works before the C library is initialised.
///
/// # Safety
/// No other thread changes the environment meanwhile (true at start-up), and the bytes must not be
/// used after somebody does.
#[must_use]
pub unsafe fn getenv(name: &str) -> Option<&'static [u8]> {
    // SAFETY: the caller's promise makes the array and its strings stable.
    unsafe {
        let mut entry = environment();
        if entry.is_null() {
            return None;
        }
        while !(*entry).is_null() {
            let bytes = CStr::from_ptr(*entry).to_bytes();
            if let Some(value) = bytes.strip_prefix(name.as_bytes()).and_then(|r| r.strip_prefix(b"=")) {
                return Some(value);
            }
            entry = entry.add(1);
        }
        None
    }
}

/// The environment array: the C library's, or before it has one the kernel's on the initial stack.
unsafe fn environment() -> *const *const c_char {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    // SAFETY: a pointer variable of the C library.
    let now = unsafe { (&raw const environ).read() };
    if !now.is_null() {
        return now;
    }
    let stack_end = super::weak::stack_end();
    if stack_end.is_null() {
        return core::ptr::null();
    }
    // SAFETY: the dynamic linker's note of the initial stack: argc, argv with its null, the environment.
    unsafe {
        let start = stack_end.read().cast::<usize>();
        if start.is_null() {
            return core::ptr::null();
        }
        start.add(1 + start.read() + 1).cast()
    }
}
