//! The life of a process: fork handlers, and the report it leaves when it ends.
//!
//! # Fork
//! The three handlers bring the heap to rest around `fork`, so that the child finds no lock of a
//! thread it does not have. Before a fork, handlers run in reverse order of registration, after it in
//! order: the first registered closes the heap after every handler that may still allocate has run,
//! and opens it before any of them runs again. So ours must be the first. The library is marked
//! `initfirst`: the loader runs our constructor before every other one, even the C library's own, which is why it relies on
//! its arguments and on system calls alone.
//!
//! # Report
//! With `KMEM_REPORT_DIR` in the environment of a program that does not run with raised privileges,
//! the process writes `report.<pid>` and `slabinfo.<pid>` there when it ends: by `exit` or a return
//! from `main` (our destructor), or by `_exit` (interposed here, because forked children usually
//! end that way).
//!
//! - I-REPORT-1: only the process that owns the memory image writes: a vfork child, which borrows its
//!   parent's, has another pid than the owner and stays silent. A forked child becomes owner of its
//!   own image in the fork handler.
//! - I-REPORT-2: one process writes once.
//! - I-REPORT-3: the directory name is copied at start; programs overwrite their environment.
//! - I-REPORT-4: writing allocates nothing and a failure is silent: a program must not notice.
//! - I-REPORT-5: a process that steps into a sandbox ([`prctl`]) writes nothing any more: to open a file may be its end there.

use core::ffi::CStr;
use core::fmt::{self, Write};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};

use kmem::{debugging, heap};
use libc::{c_char, c_int, c_long, c_ulong, c_void};

use crate::callbacks;
use crate::handover;
use crate::record;
use crate::runtime::{errno, set_errno};
use crate::text::FdWriter;

const PATH_BYTES: usize = 4096;

/// The process whose memory this is and which writes the report; 0: no report is wanted.
static OWNER: AtomicI32 = AtomicI32::new(0);
/// The report was written, or is being written.
static WRITTEN: AtomicBool = AtomicBool::new(false);
/// The process, or one that it is a copy of, stepped into a sandbox.
static SANDBOXED: AtomicBool = AtomicBool::new(false);
/// `KMEM_REPORT_DIR`, NUL-terminated. Written by `start` before `OWNER` is, constant afterwards.
static DIRECTORY: [AtomicU8; PATH_BYTES] = [const { AtomicU8::new(0) }; PATH_BYTES];

unsafe extern "C" {
    static __dso_handle: c_void;
    fn __register_atfork(
        prepare: Option<unsafe extern "C" fn()>,
        parent: Option<unsafe extern "C" fn()>,
        child: Option<unsafe extern "C" fn()>,
        dso: *const c_void,
    ) -> c_int;
}

#[used]
#[unsafe(link_section = ".init_array")]
static START: unsafe extern "C" fn(c_int, *const *const c_char, *const *const c_char) = start;

#[used]
#[unsafe(link_section = ".fini_array")]
static FINISH: extern "C" fn() = finish;

/// Runs before all other constructors.
///
/// # Safety
/// Called by the loader: `environment` is null or a null-terminated array of C strings, and so are the arguments.
unsafe extern "C" fn start(
    _count: c_int,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) {
    register_fork_handlers();
    if heap::HARDENED {
        // Before anybody asks what happens at a fault, or wants something else to happen.
        heap::name_faults();
    }
    // SAFETY: getauxval has no requirements.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return;
    }
    // SAFETY: the loader's environment (contract).
    let asked = unsafe { variable(environment, b"KMEM_HARDENED=") };
    if !heap::HARDENED && asked.is_some_and(|value| value.to_bytes() == b"1") {
        // Not to be hardened where somebody counts on it would be worse than not to start.
        // SAFETY: the loader's arguments (contract).
        unsafe { handover::to_hardened(arguments, environment) };
    }
    // Whoever asks for stacks wants names too.
    for name in
        [&b"KMEM_DEBUG="[..], b"KMEM_LEAKS=", b"KMEM_TRACES=", b"KMEM_GUARD=", b"KMEM_FAIL=", b"KMEM_LIVE="]
    {
        // SAFETY: the loader's environment (contract).
        if unsafe { variable(environment, name) }.is_some() {
            find_namer();
            break;
        }
    }
    // SAFETY: the loader's environment (contract).
    let Some(dir) = (unsafe { variable(environment, b"KMEM_REPORT_DIR=") }) else { return };
    let bytes = dir.to_bytes();
    if bytes.is_empty() || bytes.len() >= PATH_BYTES {
        return;
    }
    for (slot, &byte) in DIRECTORY.iter().zip(bytes) {
        slot.store(byte, Ordering::Relaxed);
    }
    // Release pairs with the Acquire in `write_reports`: who sees the owner sees the directory.
    // SAFETY: getpid has no requirements.
    OWNER.store(unsafe { libc::getpid() }, Ordering::Release);
}

/// Looks up what the debug layer names code by. Nothing may be loaded here: the C library may not be initialised yet.
pub(crate) fn find_namer() {
    // SAFETY: a string; where there is such a function it is the C library's, which stays.
    unsafe {
        let object = libc::dlsym(libc::RTLD_DEFAULT, c"_dl_find_object".as_ptr());
        kmem::host::trace::set_functions([null_mut(), null_mut(), object.cast()]);
    }
}

// The unwinder that the library brings asks the C library for the file that an address lies in, by a function that is new in
// glibc 2.35. A reference would keep the library from older systems: it gets this one, which asks the C library's where there is one and
// knows nothing elsewhere. Hidden, so that nobody else gets it.
#[cfg(unwinder)]
core::arch::global_asm!(
    ".globl _dl_find_object",
    ".hidden _dl_find_object",
    ".type _dl_find_object, @function",
    "_dl_find_object:",
    "jmp {find}",
    find = sym find_object,
);

#[cfg(unwinder)]
unsafe extern "C" fn find_object(address: *const c_void, found: *mut c_void) -> c_int {
    // SAFETY: the unwinder's own request, passed on.
    unsafe { kmem::host::trace::find_object(address, found) }
}

/// The value of a variable in an environment; `name` ends with `=`.
///
/// # Safety
/// `entry` is null or points into a null-terminated array of C strings that nobody changes meanwhile.
unsafe fn variable<'a>(environment: *const *const c_char, name: &[u8]) -> Option<&'a CStr> {
    // SAFETY: the caller's promise; `name` fits into the string it is a prefix of.
    unsafe { entry_of(environment, name).map(|entry| CStr::from_ptr((*entry).add(name.len()))) }
}

/// The place of a variable in an environment; `name` ends with `=`.
///
/// # Safety
/// As [`variable`].
pub(crate) unsafe fn entry_of(mut entry: *const *const c_char, name: &[u8]) -> Option<*const *const c_char> {
    // SAFETY: the walk ends at the array's null (contract).
    unsafe {
        while !entry.is_null() && !(*entry).is_null() {
            if CStr::from_ptr(*entry).to_bytes().starts_with(name) {
                return Some(entry);
            }
            entry = entry.add(1);
        }
    }
    None
}

/// The handlers below lock the heap. Not when somebody allocated before this library's constructor: the heap has
/// registered its own handlers then, ahead of everybody's.
static LOCKS: AtomicBool = AtomicBool::new(false);

fn register_fork_handlers() {
    // Relaxed: no threads yet.
    LOCKS.store(heap::take_over_forks(), Ordering::Relaxed);
    // Registering may allocate, which needs nothing of this module. A failure (no memory at the very start) leaves a
    // process that can run, but whose forks may meet a locked heap; there is nobody to tell.
    // SAFETY: the handlers stay mapped for the life of the process (the library is never unloaded), and
    // `__dso_handle` is this library's own mark.
    unsafe {
        __register_atfork(
            Some(before_fork),
            Some(after_fork_parent),
            Some(after_fork_child),
            &raw const __dso_handle,
        )
    };
}

unsafe extern "C" fn before_fork() {
    record::prefork();
    if LOCKS.load(Ordering::Relaxed) {
        heap::prefork();
    }
}

unsafe extern "C" fn after_fork_parent() {
    if LOCKS.load(Ordering::Relaxed) {
        heap::postfork_parent();
    }
    record::postfork_parent();
}

unsafe extern "C" fn after_fork_child() {
    callbacks::after_fork_child();
    if LOCKS.load(Ordering::Relaxed) {
        heap::postfork_child();
    }
    // Relaxed: the child has one thread.
    if OWNER.load(Ordering::Relaxed) != 0 {
        // SAFETY: getpid has no requirements.
        OWNER.store(unsafe { libc::getpid() }, Ordering::Relaxed);
        WRITTEN.store(SANDBOXED.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    record::postfork_child();
}

/// Runs with the destructors.
extern "C" fn finish() {
    write_reports();
    kmem::live::leave();
    kmem::fault::finish();
    record::finish();
    if let Some(status) = debugging::at_exit(true) {
        debugging::leave(status);
    }
}

fn write_reports() {
    // Acquire pairs with the Release in `start`.
    let owner = OWNER.load(Ordering::Acquire);
    // SAFETY: getpid has no requirements.
    if owner == 0 || owner != unsafe { libc::getpid() } || WRITTEN.swap(true, Ordering::Relaxed) {
        return;
    }
    let saved = errno();
    write_file("report", owner, heap::write_report);
    write_file("slabinfo", owner, heap::write_slabinfo);
    set_errno(saved);
}

/// Writes `<directory>/<kind>.<pid>`.
fn write_file(kind: &str, pid: c_int, content: fn(&mut dyn Write) -> fmt::Result) {
    let mut path = Path::new();
    if path.directory().and_then(|()| write!(path, "/{kind}.{pid}")).is_err() {
        return;
    }
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: the path is NUL-terminated: `Path` keeps its last byte zero.
    let fd = unsafe { libc::open(path.bytes.as_ptr().cast::<c_char>(), flags, 0o644) };
    if fd < 0 {
        return;
    }
    let mut out = FdWriter::new(fd);
    let _ = content(&mut out);
    out.flush();
    // SAFETY: the descriptor is ours.
    unsafe { libc::close(fd) };
}

/// A file name under construction. The last byte stays 0.
struct Path {
    used: usize,
    bytes: [u8; PATH_BYTES],
}

impl Path {
    fn new() -> Self {
        Self { used: 0, bytes: [0; PATH_BYTES] }
    }

    /// Appends the report directory.
    fn directory(&mut self) -> fmt::Result {
        for slot in &DIRECTORY {
            match slot.load(Ordering::Relaxed) {
                0 => return Ok(()),
                byte => self.push(&[byte])?,
            }
        }
        Err(fmt::Error)
    }

    fn push(&mut self, text: &[u8]) -> fmt::Result {
        let end = self.used + text.len();
        if end >= PATH_BYTES {
            return Err(fmt::Error);
        }
        self.bytes[self.used..end].copy_from_slice(text);
        self.used = end;
        Ok(())
    }
}

impl Write for Path {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes())
    }
}

/// The C library's `prctl`, before which the library takes its leave of the file system where that may be the step into a sandbox: a filter
/// of system calls needs one of these two options, but in a process with privileges.
///
/// # Safety
/// As the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prctl(option: c_int, a: c_ulong, b: c_ulong, c: c_ulong, d: c_ulong) -> c_int {
    if matches!(option, libc::PR_SET_SECCOMP | libc::PR_SET_NO_NEW_PRIVS) {
        let saved = errno();
        kmem::guard::leave_for_sandbox();
        kmem::live::leave_for_sandbox();
        set_errno(saved);
        let owner = OWNER.load(Ordering::Acquire);
        // SAFETY: getpid has no requirements.
        if owner != 0 && owner == unsafe { libc::getpid() } {
            // Relaxed: who ends the process later ran this, or does not know of it.
            SANDBOXED.store(true, Ordering::Relaxed);
            WRITTEN.store(true, Ordering::Relaxed);
        }
    }
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(libc::SYS_prctl, c_long::from(option), a, b, c, d) as c_int }
}

/// Ends the process without running destructors, after its report. The C library's own `exit` does not
/// come through here.
#[unsafe(no_mangle)]
pub extern "C" fn _exit(status: c_int) -> ! {
    write_reports();
    kmem::live::leave();
    kmem::fault::finish();
    record::finish();
    // What a forked child holds is its parent's, as a rule.
    let status = debugging::at_exit(false).unwrap_or(status);
    loop {
        // SAFETY: ends every thread of the process; it does not return.
        unsafe { libc::syscall(libc::SYS_exit_group, c_int::from(status)) };
    }
}

/// The standard's name of [`_exit`].
#[unsafe(no_mangle)]
pub extern "C" fn _Exit(status: c_int) -> ! {
    _exit(status)
}
