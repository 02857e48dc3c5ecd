//! Where messages go: standard error, a file, the system's log, or a function of the program.
//!
//! | `KMEM_LOG` | |
//! |---|---|
//! | not set | standard error: the lines of a report alone, a message of one line with who says it: `kmem: name[pid]: ` |
//! | `stderr` | standard error |
//! | `syslog`, `syslog:PATH` | the system's log, by its socket (`/dev/log`) |
//! | anything else | that file, to whose end each line is added; `%p` in its name is the process, `%%` a `%` |
//!
//! Where it is set each line begins with the program and the process, `name[pid]: `, as a log's lines do: many may write
//! to one place. What cannot be written where it should goes to standard error.
//!
//! # Never
//! Nothing here allocates, waits (but a moment for the system's log), keeps a descriptor (the program may close it, and another file gets its
//! number) or changes `errno`. Each line is one write, so lines of several threads do not mix.

use core::ffi::CStr;
use core::fmt::{self, Write};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

use super::sys;

/// Receives one line, which ends in a newline. It must not use the heap, whose locks may be held.
pub type Receiver = fn(&str);

const PATH_BYTES: usize = 1024;
/// A line, and what is put before it.
const LINE_BYTES: usize = 1024 + 64;

/// How long the log is waited for, a line.
static PATIENCE: libc::timeval = libc::timeval { tv_sec: 0, tv_usec: 200_000 };

/// Ways to go.
mod way {
    pub(super) const PLAIN: u8 = 0;
    pub(super) const STDERR: u8 = 1;
    pub(super) const FILE: u8 = 2;
    pub(super) const SYSLOG: u8 = 3;
}

static WAY: AtomicU8 = AtomicU8::new(way::PLAIN);
/// The file, or the socket of the log, ending in 0. Written before `WAY` is, and never after.
static PATH: [AtomicU8; PATH_BYTES] = [const { AtomicU8::new(0) }; PATH_BYTES];
static RECEIVER: AtomicPtr<()> = AtomicPtr::new(null_mut());

/// Sends messages where `text` says: the table above. False: the name is too long, and nothing changed. Once, before there
/// are threads that have something to say.
pub fn set(text: &[u8]) -> bool {
    let (way, path) = match text {
        b"stderr" => (way::STDERR, &b""[..]),
        b"syslog" => (way::SYSLOG, &b"/dev/log"[..]),
        _ => match text.strip_prefix(b"syslog:") {
            Some(path) => (way::SYSLOG, path),
            None => (way::FILE, text),
        },
    };
    if path.len() >= PATH_BYTES {
        return false;
    }
    for (slot, &byte) in PATH.iter().zip(path.iter().chain(&[0])) {
        slot.store(byte, Ordering::Relaxed);
    }
    // Release pairs with the Acquire of `write`.
    WAY.store(way, Ordering::Release);
    true
}

/// Sends messages to a function instead; `None`: where they went before.
pub fn set_receiver(receiver: Option<Receiver>) {
    let receiver = receiver.map_or(null_mut(), |receiver| receiver as *mut ());
    // Release pairs with the Acquire of `write`: what the function uses was made before.
    RECEIVER.store(receiver, Ordering::Release);
}

/// Sends one message, formatted: for libraries around the heap. What does not fit into a line is cut.
pub fn say(what: fmt::Arguments<'_>) {
    let mut text = kmem_core::report::Text::<LINE_BYTES>::new();
    let _ = text.write_fmt(format_args!("kmem: {what}"));
    text.end_line();
    message(text.as_str());
}

/// Sends a message of one line that stands alone: who reads it learns which program and which process speak.
pub(super) fn message(line: &str) {
    // Every line of these has both anyway.
    if WAY.load(Ordering::Acquire) != way::PLAIN && RECEIVER.load(Ordering::Acquire).is_null() {
        return write(line);
    }
    let mut text = kmem_core::report::Text::<LINE_BYTES>::new();
    let _ = text.write_str("kmem: ").and_then(|()| prefix(&mut text));
    let words = line.trim_end_matches('\n');
    let _ = text.write_str(words.strip_prefix("kmem: ").unwrap_or(words));
    text.end_line();
    write(text.as_str());
}

/// Sends one line, ending in a newline.
pub(super) fn write(line: &str) {
    let receiver = RECEIVER.load(Ordering::Acquire);
    if !receiver.is_null() {
        // SAFETY: only `set_receiver` stores here, and it stores functions of this type.
        return unsafe { core::mem::transmute::<*mut (), Receiver>(receiver) }(line);
    }
    let way = WAY.load(Ordering::Acquire);
    if way == way::PLAIN {
        let _ = all(2, line.as_bytes());
        return;
    }
    // What does not fit is cut.
    if way == way::SYSLOG {
        let mut text = kmem_core::report::Text::<LINE_BYTES>::new();
        let _ = log_line(line, &mut text);
        if to_log(text.as_str().as_bytes()).is_some() {
            return;
        }
    }
    let mut text = kmem_core::report::Text::<LINE_BYTES>::new();
    let _ = prefix(&mut text).and_then(|()| text.write_str(line));
    let bytes = text.as_str().as_bytes();
    if way != way::FILE || to_file(bytes).is_none() {
        let _ = all(2, bytes);
    }
}

/// The program, as the kernel has it. Blanks and what is not text are replaced.
pub(crate) fn program(out: &mut dyn Write) -> fmt::Result {
    let mut name = [0_u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes.
    let _ = unsafe {
        sys::call(libc::SYS_prctl, [libc::PR_GET_NAME as usize, name.as_mut_ptr() as usize, 0, 0, 0, 0])
    };
    // The name of the process is that of its first thread.
    let mut first = [0; 32];
    if let Some(text) = sys::read_file(c"/proc/self/comm", &mut first) {
        let len = text.len().min(16).saturating_sub(1);
        name[..len].copy_from_slice(&text[..len]);
        name[len] = 0;
    }
    let len = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    for &byte in &name[..len] {
        out.write_char(if byte.is_ascii_graphic() { byte as char } else { '_' })?;
    }
    Ok(())
}

fn prefix(out: &mut dyn Write) -> fmt::Result {
    program(out)?;
    write!(out, "[{}]: ", sys::process())
}

/// As the log's socket takes it: what kind, from whom, and the words. An empty line is no message.
fn log_line(line: &str, out: &mut dyn Write) -> fmt::Result {
    const USER_WARNING: u32 = 1 << 3 | 4;
    write!(out, "<{USER_WARNING}>")?;
    prefix(out)?;
    let words = line.trim_end_matches('\n');
    out.write_str(if words.is_empty() { " " } else { words })
}

/// All bytes to a descriptor, whatever interrupts it.
fn all(fd: i32, mut rest: &[u8]) -> Option<()> {
    while !rest.is_empty() {
        match sys::write(fd, rest) {
            Ok(0) => return None,
            Ok(taken) => rest = &rest[taken.min(rest.len())..],
            Err(sys::Errno(libc::EINTR)) => {}
            Err(_) => return None,
        }
    }
    Some(())
}

/// The name that was set, with what its `%` stand for.
fn path(out: &mut kmem_core::report::Text<PATH_BYTES>) -> fmt::Result {
    let mut name = [0; PATH_BYTES];
    for (to, from) in name.iter_mut().zip(&PATH) {
        *to = from.load(Ordering::Relaxed);
        if *to == 0 {
            break;
        }
    }
    let name = CStr::from_bytes_until_nul(&name).map_err(|_| fmt::Error)?;
    let mut parts = name.to_str().map_err(|_| fmt::Error)?.split('%');
    out.write_str(parts.next().unwrap_or_default())?;
    while let Some(part) = parts.next() {
        match part.strip_prefix('p') {
            Some(rest) => write!(out, "{}{rest}", sys::process())?,
            // Two in a row.
            None if part.is_empty() => write!(out, "%{}", parts.next().unwrap_or_default())?,
            None => write!(out, "%{part}")?,
        }
    }
    out.write_str("\0")
}

fn to_file(line: &[u8]) -> Option<()> {
    let mut name = kmem_core::report::Text::<PATH_BYTES>::new();
    path(&mut name).ok()?;
    let name = CStr::from_bytes_until_nul(name.as_str().as_bytes()).ok()?;
    let fd = sys::open(name, libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_NOCTTY, 0o644).ok()?;
    let done = all(fd, line);
    sys::close(fd);
    done
}

fn to_log(line: &[u8]) -> Option<()> {
    // SAFETY: all zero is a value of this structure of numbers.
    let mut address: libc::sockaddr_un = unsafe { core::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let mut len = 0;
    for (to, from) in address.sun_path.iter_mut().zip(&PATH) {
        *to = from.load(Ordering::Relaxed) as libc::c_char;
        if *to == 0 {
            break;
        }
        len += 1;
    }
    if len == address.sun_path.len() {
        return None;
    }
    let kind = (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as usize;
    let flags = libc::MSG_NOSIGNAL as usize;
    // SAFETY: makes a descriptor, which is closed below; the kernel reads the time, the line and the address.
    unsafe {
        let fd = sys::call(libc::SYS_socket, [libc::AF_UNIX as usize, kind, 0, 0, 0, 0]).ok()?;
        // The log takes few messages at a time. It is waited for a little.
        let (level, name) = (libc::SOL_SOCKET as usize, libc::SO_SNDTIMEO as usize);
        let time = [&raw const PATIENCE as usize, size_of_val(&PATIENCE)];
        let _ = sys::call(libc::SYS_setsockopt, [fd, level, name, time[0], time[1], 0]);
        let to = &raw const address as usize;
        let message = [fd, line.as_ptr() as usize, line.len(), flags, to, size_of_val(&address)];
        let sent = sys::call(libc::SYS_sendto, message);
        sys::close(fd as i32);
        (sent.ok()? == line.len()).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> String {
        for (slot, &byte) in PATH.iter().zip(text.as_bytes().iter().chain(&[0])) {
            slot.store(byte, Ordering::Relaxed);
        }
        let mut out = kmem_core::report::Text::<PATH_BYTES>::new();
        path(&mut out).unwrap();
        out.as_str().trim_end_matches('\0').to_owned()
    }

    #[test]
    fn names_of_files() {
        let pid = std::process::id();
        for (text, name) in [
            ("/a/b.log", "/a/b.log".to_owned()),
            ("/a/%p.log", format!("/a/{pid}.log")),
            ("%p%p", format!("{pid}{pid}")),
            ("100%%p", "100%p".to_owned()),
            ("%x%", "%x%".to_owned()),
        ] {
            assert_eq!(named(text), name, "{text}");
        }
    }

    #[test]
    fn lines_name_the_program() {
        let mut text = kmem_core::report::Text::<100>::new();
        log_line("words\n", &mut text).unwrap();
        let (kind, rest) = text.as_str().split_at(4);
        assert_eq!(kind, "<12>");
        let (program, rest) = rest.split_once('[').unwrap();
        assert!(!program.is_empty() && !program.contains(' '), "{program}");
        assert_eq!(rest, format!("{}]: words", std::process::id()));
    }
}
