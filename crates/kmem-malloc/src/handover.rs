//! `KMEM_HARDENED=1` with the usual library: the process starts over, on the hardened one.
//!
//! # Theory
//! The hardened heap is a build of its own, so that the usual one has not an instruction for it. Both in one library would be twice
//! the code, and a test in front of every call. So where the environment asks for the hardened heap, the constructor of the usual
//! library executes the program again, with `libkmem_malloc_hardened.so` of its own directory in its place in `LD_PRELOAD`. Nothing
//! of the program has run by then: the loader calls this constructor before all others. Children inherit the variable, and start
//! on the hardened heap at once.
//!
//! # Invariants
//! - I-HAND-1: a process that was asked to be hardened either is, or does not run.
//! - I-HAND-2: no process starts over twice: who finds the hardened library in `LD_PRELOAD` and is the program's malloc all the same
//!   gives up.
//!
//! # Never
//! Nothing is allocated, and nothing of the C library is used that needs its own constructor. A library that is loaded later, by
//! `dlopen`, is not the program's malloc and hands nothing over.

use core::ffi::CStr;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, Ordering};

use libc::{c_char, c_void};

use crate::blocks::malloc;
use crate::process::entry_of;
use crate::runtime::{die, errno};

const HARDENED: &[u8] = b"libkmem_malloc_hardened.so";
const NAME: &[u8] = b"LD_PRELOAD=";
const BYTES: usize = 16 << 10;

/// The new entry of the environment. One thread writes it, before there are others.
static ENTRY: [AtomicU8; BYTES] = [const { AtomicU8::new(0) }; BYTES];
/// The hardened library's path.
static LIBRARY: [AtomicU8; BYTES] = [const { AtomicU8::new(0) }; BYTES];

/// A text in one of these places, always ended by a zero.
struct Text(&'static [AtomicU8; BYTES], usize);

impl Text {
    /// Appends. What is too long ends the process.
    fn push(&mut self, bytes: &[u8]) {
        if self.1 + bytes.len() >= BYTES {
            die(format_args!("KMEM_HARDENED=1: LD_PRELOAD is too long"));
        }
        for &byte in bytes {
            // Relaxed: this thread's alone.
            self.0[self.1].store(byte, Ordering::Relaxed);
            self.1 += 1;
        }
    }

    fn pointer(&self) -> *const c_char {
        self.0.as_ptr().cast()
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: as many bytes of the place were written, by this thread alone.
        unsafe { core::slice::from_raw_parts(self.0.as_ptr().cast(), self.1) }
    }
}

/// The part of a path behind its last slash.
fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// Elements of `LD_PRELOAD`.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| matches!(byte, b':' | b' ')).filter(|element| !element.is_empty())
}

/// What `LD_PRELOAD` is to be: the hardened library in place of the usual one, or in front.
fn replace(text: &mut Text, value: &[u8], own: &[u8], library: &[u8]) {
    text.push(NAME);
    let replaces = elements(value).any(|element| name_of(element) == own);
    if !replaces {
        text.push(library);
    }
    for (at, element) in elements(value).enumerate() {
        if at > 0 || !replaces {
            text.push(b":");
        }
        text.push(if name_of(element) == own { library } else { element });
    }
}

/// Starts the process over on the hardened library. Returns where it is there already, in front of this one.
///
/// # Safety
/// Called by the loader's constructor: both are null-terminated arrays of C strings, and nobody else uses the environment yet.
pub(crate) unsafe fn to_hardened(arguments: *const *const c_char, environment: *const *const c_char) {
    // SAFETY: strings; what is looked up are addresses only. The structure is filled where the answer is not 0.
    let (ours, path) = unsafe {
        let found = libc::dlsym(libc::RTLD_DEFAULT, c"malloc".as_ptr());
        let mut of = MaybeUninit::<libc::Dl_info>::zeroed();
        if libc::dladdr(malloc as *const c_void, of.as_mut_ptr()) == 0 {
            die(format_args!("KMEM_HARDENED=1: this library's own path is not known"));
        }
        (found == malloc as *mut c_void, CStr::from_ptr(of.assume_init().dli_fname).to_bytes())
    };
    let own = name_of(path);
    let mut library = Text(&LIBRARY, 0);
    library.push(&path[..path.len() - own.len()]);
    library.push(HARDENED);

    // SAFETY: the loader's environment (contract).
    let entry = unsafe { entry_of(environment, NAME) };
    // SAFETY: an entry is a string with this name in front.
    let value = entry.map_or(&[][..], |entry| unsafe { CStr::from_ptr((*entry).add(NAME.len())) }.to_bytes());
    let named = elements(value).any(|element| name_of(element) == HARDENED);
    if named && !ours {
        return;
    }
    let spoken = library.bytes().iter().all(|byte| !matches!(byte, b':' | b' '));
    // SAFETY: a string.
    let there = unsafe { libc::access(library.pointer(), libc::R_OK) } == 0;
    if named || !ours || !spoken || !there || executed_by_loader() {
        die(format_args!(
            "KMEM_HARDENED=1 asks for the hardened heap, which this library is not: preload libkmem_malloc_hardened.so"
        ));
    }

    let mut text = Text(&ENTRY, 0);
    replace(&mut text, value, own, library.bytes());
    // SAFETY: the loader's own arrays. A program that is linked with this library has no such entry: the one that asked takes its
    // place, which nobody needs any more. There is one, or nobody would be here.
    unsafe {
        let entry = entry.or_else(|| entry_of(environment, b"KMEM_HARDENED="));
        let Some(entry) = entry else { return };
        entry.cast_mut().write(text.pointer());
        // By the name that it was executed by, if that is still its file (of a script it is not): a process is called after it.
        let name = libc::getauxval(libc::AT_EXECFN) as *const c_char;
        if is_own(name) {
            libc::execve(name, arguments, environment);
        }
        let mut file = [0_u8; 4096];
        if own_file(&mut file).is_some() && is_own(file.as_ptr().cast()) {
            libc::execve(file.as_ptr().cast(), arguments, environment);
        }
        libc::execve(OWN.as_ptr(), arguments, environment);
    }
    die(format_args!("KMEM_HARDENED=1: the program cannot be executed again (error {})", errno()));
}

/// The file of this process, whatever it is called.
const OWN: &CStr = c"/proc/self/exe";

/// This path leads to the file of this process.
///
/// # Safety
/// A string, or null.
unsafe fn is_own(path: *const c_char) -> bool {
    let of = |path: *const c_char| {
        let mut known = MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: a string (contract); the structure is filled where the answer is 0, and zeroes are a value of it.
        let (found, known) = unsafe { (libc::stat(path, known.as_mut_ptr()) == 0, known.assume_init()) };
        found.then_some((known.st_dev, known.st_ino))
    };
    !path.is_null() && of(path).is_some_and(|file| of(OWN.as_ptr()) == Some(file))
}

/// The path of this process's file, in a place that is all zero.
fn own_file(path: &mut [u8; 4096]) -> Option<&[u8]> {
    // SAFETY: a string, and fewer bytes than the place has are told.
    let got = unsafe { libc::readlink(OWN.as_ptr(), path.as_mut_ptr().cast(), path.len() - 1) };
    path.get(..usize::try_from(got).ok()?)
}

/// The file of this process is the loader, which was given the program as an argument: what it would be given again is not known.
fn executed_by_loader() -> bool {
    let mut path = [0_u8; 4096];
    let Some(path) = own_file(&mut path) else { return true };
    let name = name_of(path);
    name.starts_with(b"ld-") || name.starts_with(b"ld.so")
}
