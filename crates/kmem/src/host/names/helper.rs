//! The helper: `kmem symbolize` in a process of its own, which reads debug information for this one.
//!
//! # Theory
//! Debug information is large and its readers allocate; a heap in trouble can do neither in its own process. So the first name
//! that is wanted starts the helper, and each question goes to it over a socket as a line with a file and an offset
//! (`crates/kmem-cli/src/symbolize`).
//!
//! The program must not notice. The helper is started as `posix_spawn` does it: by a child that shares this process's
//! memory for a moment, with all signals blocked and on a stack of its own, and executes. It is the child of a child that has ended: no
//! signal tells of its end, and no `wait` of the program ever sees it. It holds none of the program's
//! descriptors, gets an environment without `LD_PRELOAD`, and ends when the other end of its socket is closed.
//!
//! Our end is a descriptor with a high number. Programs close what they do not know, and the number may then become
//! another file's: each use first makes sure that it is still the same socket (I-HELPER-1).
//!
//! A helper that does not start, ends, or does not answer in time is given up for good, and names come from symbol tables.
//!
//! # Invariants
//! - I-HELPER-1: nothing is written to or closed but the socket that was made here.
//! - I-HELPER-2: all functions but `set_helper` run under the turn of the lookups; so state needs no ordering.

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr::null;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::{PATH_BYTES, PATIENCE, place};
use crate::host::{misc, sys};

/// The helper's file, ending in 0; empty: none was named.
static FILE: [AtomicU8; PATH_BYTES] = [const { AtomicU8::new(0) }; PATH_BYTES];
/// Somebody said which file, or that there shall be none.
static NAMED: AtomicBool = AtomicBool::new(false);

/// Our end of the socket; -1: there is none.
static SOCKET: AtomicI32 = AtomicI32::new(-1);
/// Its number in the file system of sockets.
static IDENTITY: AtomicU64 = AtomicU64::new(0);
/// The process that started the helper.
static STARTER: AtomicU32 = AtomicU32::new(0);
/// The helper was given up.
static GONE: AtomicBool = AtomicBool::new(false);

/// Uses this program as the helper; empty: none. For the first lookup at the latest.
pub(crate) fn set_helper(path: &[u8]) {
    let fits = path.len() < PATH_BYTES && !path.contains(&0);
    for (slot, &byte) in FILE.iter().zip(if fits { path } else { &[] }.iter().chain(&[0])) {
        slot.store(byte, Ordering::Relaxed);
    }
    // Release pairs with the Acquire of `file`.
    NAMED.store(true, Ordering::Release);
}

/// Asks what is before the return address `offset` of a file. The answer's fields, with tabs between them.
pub(super) fn ask<'a>(path: &CStr, offset: usize, text: &'a mut [u8; PATH_BYTES]) -> Option<&'a str> {
    if GONE.load(Ordering::Relaxed) || path.to_bytes().contains(&b'\n') {
        return None;
    }
    let socket = match socket() {
        Some(socket) => socket,
        None => start(text)?,
    };
    let answer = exchange(socket, path, offset, text);
    if answer.is_none() {
        give_up();
    }
    let len = answer?;
    core::str::from_utf8(&text[..len]).ok()
}

/// The socket, if it is still ours. The helper of a parent process is not.
fn socket() -> Option<c_int> {
    let fd = SOCKET.load(Ordering::Relaxed);
    if fd < 0 || STARTER.load(Ordering::Relaxed) != sys::process() {
        return None;
    }
    if identity(fd) != Some(IDENTITY.load(Ordering::Relaxed)) {
        // The program closed it. It will close the next one too.
        SOCKET.store(-1, Ordering::Relaxed);
        GONE.store(true, Ordering::Relaxed);
        return None;
    }
    Some(fd)
}

fn give_up() {
    GONE.store(true, Ordering::Relaxed);
    let fd = SOCKET.swap(-1, Ordering::Relaxed);
    if fd >= 0 && identity(fd) == Some(IDENTITY.load(Ordering::Relaxed)) {
        sys::close(fd);
    }
}

/// In the child of a fork: the parent's helper is let go.
pub(in crate::host) fn after_fork_child() {
    let fd = SOCKET.swap(-1, Ordering::Relaxed);
    if fd >= 0 && identity(fd) == Some(IDENTITY.load(Ordering::Relaxed)) {
        sys::close(fd);
    }
}

/// What tells an open socket from every other file.
fn identity(fd: c_int) -> Option<u64> {
    // SAFETY: all zero is a value of this structure of numbers.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: the kernel writes one structure. (An empty path names the descriptor itself.)
    let asked = unsafe {
        let empty = c"".as_ptr() as usize;
        let to = &raw mut stat as usize;
        sys::call(libc::SYS_newfstatat, [fd as usize, empty, to, libc::AT_EMPTY_PATH as usize, 0, 0])
    };
    asked.ok()?;
    (stat.st_mode & libc::S_IFMT == libc::S_IFSOCK).then_some(stat.st_ino)
}

/// Sends a question and reads the answer into `text`; its length without the end of the line.
fn exchange(socket: c_int, path: &CStr, offset: usize, text: &mut [u8; PATH_BYTES]) -> Option<usize> {
    let mut number = kmem_core::report::Text::<24>::new();
    core::fmt::write(&mut number, format_args!(" {offset:#x}\n")).ok()?;
    send(socket, path.to_bytes())?;
    send(socket, number.as_str().as_bytes())?;
    let start = misc::now();
    let mut len = 0;
    loop {
        wait(socket, start)?;
        let room = &mut text[len..];
        // More than fits is no answer that we asked for.
        let got = sys::read(socket, room).or_else(interrupted).ok()?;
        if got == 0 && !room.is_empty() && misc::now().wrapping_sub(start) > PATIENCE {
            return None;
        }
        let end = text[len..len + got].iter().position(|&byte| byte == b'\n');
        len += got;
        match end {
            // Exactly one line was asked for.
            Some(_) if text[len - 1] == b'\n' => return Some(len - 1),
            Some(_) => return None,
            None if got == 0 || len == PATH_BYTES => return None,
            None => {}
        }
    }
}

/// A call that a signal interrupted did nothing.
fn interrupted(error: sys::Errno) -> Result<usize, sys::Errno> {
    if error.0 == libc::EINTR { Ok(0) } else { Err(error) }
}

/// Sends all of `bytes`. A helper that does not listen is not waited for: the socket holds many questions.
fn send(socket: c_int, bytes: &[u8]) -> Option<()> {
    let flags = (libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) as usize;
    let mut sent = 0;
    while sent < bytes.len() {
        let rest = &bytes[sent..];
        // SAFETY: the kernel reads the slice.
        let got = unsafe {
            let at = rest.as_ptr() as usize;
            sys::call(libc::SYS_sendto, [socket as usize, at, rest.len(), flags, 0, 0])
        };
        sent += got.or_else(interrupted).ok()?;
    }
    Some(())
}

/// Waits until there is something to read.
fn wait(socket: c_int, start: u64) -> Option<()> {
    loop {
        let left = PATIENCE.checked_sub(misc::now().wrapping_sub(start))?;
        let time = libc::timespec {
            tv_sec: (left / 1_000_000_000) as libc::time_t,
            tv_nsec: (left % 1_000_000_000) as libc::c_long,
        };
        let mut poll = libc::pollfd { fd: socket, events: libc::POLLIN, revents: 0 };
        // SAFETY: the kernel reads the time, and reads and writes one structure.
        let ready = unsafe {
            sys::call(libc::SYS_ppoll, [&raw mut poll as usize, 1, &raw const time as usize, 0, 0, 0])
        };
        match ready.or_else(interrupted) {
            Ok(0) => {}
            Ok(_) => return Some(()),
            Err(_) => return None,
        }
    }
}

/// What the child needs to know.
struct Order {
    file: *const c_char,
    socket: c_int,
}

const STACK_BYTES: usize = 16 * 1024;

/// Stacks of the two children, and what is on them.
#[repr(C, align(64))]
struct Stacks(UnsafeCell<[[u8; STACK_BYTES]; 2]>);

// SAFETY: I-HELPER-2.
unsafe impl Sync for Stacks {}

static STACKS: Stacks = Stacks(UnsafeCell::new([[0; STACK_BYTES]; 2]));

fn stack_top(number: usize) -> *mut c_void {
    let base = STACKS.0.get().cast::<u8>();
    // SAFETY: the end of one of the two.
    unsafe { base.add((number + 1) * STACK_BYTES) }.cast()
}

/// Starts the helper; the socket to it. `path` is room for its file's name.
fn start(path: &mut [u8; PATH_BYTES]) -> Option<c_int> {
    // Whatever happens: it is tried once in a process.
    let started = try_start(path);
    if started.is_none() {
        GONE.store(true, Ordering::Relaxed);
    }
    started
}

fn try_start(path: &mut [u8; PATH_BYTES]) -> Option<c_int> {
    file(path)?;
    let mut pair = [-1; 2];
    let kind = (libc::SOCK_STREAM | libc::SOCK_CLOEXEC) as usize;
    // SAFETY: the kernel writes two descriptors.
    unsafe {
        let to = pair.as_mut_ptr() as usize;
        sys::call(libc::SYS_socketpair, [libc::AF_UNIX as usize, kind, 0, to, 0, 0]).ok()?;
    }
    let ours = out_of_the_way(pair[0]);
    let theirs = out_of_the_way(pair[1]);
    let started = identity(ours).filter(|_| spawn(path.as_ptr().cast(), theirs));
    sys::close(theirs);
    let Some(identity) = started else {
        sys::close(ours);
        return None;
    };
    IDENTITY.store(identity, Ordering::Relaxed);
    STARTER.store(sys::process(), Ordering::Relaxed);
    SOCKET.store(ours, Ordering::Relaxed);
    Some(ours)
}

/// The same descriptor with a number that programs do not count on.
fn out_of_the_way(fd: c_int) -> c_int {
    for least in [960, 200, 64, 10] {
        // SAFETY: makes a descriptor, touches no memory.
        let got = unsafe {
            sys::call(libc::SYS_fcntl, [fd as usize, libc::F_DUPFD_CLOEXEC as usize, least, 0, 0, 0])
        };
        if let Ok(high) = got {
            sys::close(fd);
            return high as c_int;
        }
    }
    fd
}

/// Executes the helper with `socket` as its standard input and output. True when a process was made for it.
fn spawn(file: *const c_char, socket: c_int) -> bool {
    let order = Order { file, socket };
    let (all, mut before) = (u64::MAX, 0u64);
    let set = |set: *const u64, old: *mut u64| {
        let how = libc::SIG_SETMASK as usize;
        // SAFETY: the kernel reads and writes one word each; null is neither.
        let _ = unsafe { sys::call(libc::SYS_rt_sigprocmask, [how, set as usize, old as usize, 8, 0, 0]) };
    };
    // No handler of the program may run in the children, which share its memory.
    set(&raw const all, &raw mut before);
    // SAFETY: errno is this thread's; `clone` of the C library sets it when it fails. The child runs `first` on a
    // stack of its own while this thread waits for its end (VFORK), so that `order` and the stacks outlive it; it
    // touches nothing else.
    let child = unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK;
        let child = libc::clone(first, stack_top(0), flags, (&raw const order).cast_mut().cast());
        *errno = saved;
        child
    };
    set(&raw const before, core::ptr::null_mut());
    if child < 0 {
        return false;
    }
    let mut status: c_int = -1;
    // It has ended already, without a signal: only who asks for such children finds it.
    // SAFETY: the kernel writes the status.
    let waited = unsafe {
        let options = libc::__WCLONE as usize;
        sys::call(libc::SYS_wait4, [child as usize, &raw mut status as usize, options, 0, 0, 0])
    };
    waited.is_ok() && status == 0
}

/// The child: makes the helper's process and ends, so that the helper is nobody's child.
extern "C" fn first(order: *mut c_void) -> c_int {
    // SAFETY: as in `spawn`.
    let child = unsafe { libc::clone(second, stack_top(1), libc::CLONE_VM | libc::CLONE_VFORK, order) };
    c_int::from(child < 0)
}

/// The helper's process until it executes.
extern "C" fn second(order: *mut c_void) -> c_int {
    // SAFETY: `spawn` waits for this, and made it.
    let order = unsafe { &*order.cast::<Order>() };
    let name = c"symbolize".as_ptr();
    let arguments = [c"kmem".as_ptr(), name, null()];
    let environment = [c"PATH=/usr/local/bin:/usr/bin:/bin".as_ptr(), null()];
    let duplicate = |from: c_int, to: c_int| {
        // SAFETY: descriptors of this process, which shares none with the program's.
        unsafe { sys::call(libc::SYS_dup3, [from as usize, to as usize, 0, 0, 0, 0]) }.is_ok()
    };
    let quiet = sys::open(c"/dev/null", libc::O_WRONLY, 0).unwrap_or(-1);
    if !duplicate(order.socket, 0) || !duplicate(order.socket, 1) {
        return 1;
    }
    if quiet == 2 {
        // The only one that would close at exec.
        // SAFETY: changes a flag of a descriptor.
        let _ = unsafe { sys::call(libc::SYS_fcntl, [2, libc::F_SETFD as usize, 0, 0, 0, 0]) };
    } else {
        duplicate(quiet, 2);
    }
    // SAFETY: descriptors of this process alone. Before Linux 5.9 one by one.
    unsafe {
        if sys::call(libc::SYS_close_range, [3, u32::MAX as usize, 0, 0, 0, 0]).is_err() {
            for fd in 3..1024 {
                sys::close(fd);
            }
        }
        let none = 0u64;
        let how = libc::SIG_SETMASK as usize;
        let defaults = reset_signals();
        if defaults {
            let _ = sys::call(libc::SYS_rt_sigprocmask, [how, &raw const none as usize, 0, 8, 0, 0]);
        }
        let _ = sys::call(
            libc::SYS_execve,
            [order.file as usize, arguments.as_ptr() as usize, environment.as_ptr() as usize, 0, 0, 0],
        );
    }
    127
}

/// Gives every signal its default, so that none runs a handler of the program here.
fn reset_signals() -> bool {
    // What the kernel takes: handler, flags, restorer, mask. All zero is the default.
    let action = [0u64; 4];
    for signal in (1..=64).filter(|&signal| signal != libc::SIGKILL && signal != libc::SIGSTOP) {
        // SAFETY: the kernel reads the structure. The table of handlers is this process's own: it was copied when the process was made.
        let set = unsafe {
            let new = action.as_ptr() as usize;
            sys::call(libc::SYS_rt_sigaction, [signal as usize, new, 0, 8, 0, 0])
        };
        if set.is_err() {
            return false;
        }
    }
    true
}

/// The helper's file: the one that was named, or `kmem` beside the library or in `../bin` from there.
fn file(path: &mut [u8; PATH_BYTES]) -> Option<()> {
    // Acquire pairs with the Release of `set_helper`.
    if NAMED.load(Ordering::Acquire) {
        for (to, from) in path.iter_mut().zip(&FILE) {
            *to = from.load(Ordering::Relaxed);
            if *to == 0 {
                break;
            }
        }
        return (path[0] != 0).then_some(());
    }
    if misc::secure_exec() {
        return None;
    }
    let own = file as *const () as usize;
    // SAFETY: the children that use the stacks do not run yet, and their first page is as good as any (I-HELPER-2).
    let room = unsafe { &mut *STACKS.0.get().cast::<[u8; PATH_BYTES]>() };
    let len = place::Place::find(own, path, room)?.path.to_bytes().len();
    let directory = path[..len].iter().rposition(|&byte| byte == b'/')?;
    for name in [&b"/kmem\0"[..], b"/../bin/kmem\0", b"/../../bin/kmem\0"] {
        let room = path.get_mut(directory..directory + name.len())?;
        room.copy_from_slice(name);
        let flags = libc::X_OK as usize;
        // SAFETY: a path that ends in zero.
        let may = unsafe {
            let at = path.as_ptr() as usize;
            sys::call(libc::SYS_faccessat, [libc::AT_FDCWD as usize, at, flags, 0, 0, 0])
        };
        if may.is_ok() {
            return Some(());
        }
    }
    None
}
