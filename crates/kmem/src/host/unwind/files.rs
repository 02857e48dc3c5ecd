//! Which files the kept rules are from.
//!
//! # Theory
//! A library may be unloaded, and another one come to its place; then rules of the first would be taken for the second's. Nobody tells us.
//! But the second one's code has places of its own, and the first of them that is looked up shows a file that lies where
//! another one did: then all rules are forgotten. Until then a wrong rule gives at most a stack with wrong frames, never a read
//! outside of the stack (I-UNWIND-1).
//!
//! Looking up is rare (once a place), so it is done by one thread at a time. Who comes meanwhile, or interrupts, finds out for himself
//! and keeps nothing.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::rule::{self, Kind, Rule};
use super::tables;
use crate::host::fault;
use crate::host::trace::{self, Found};

/// Files that are remembered.
const FILES: usize = 256;

/// A file: where it begins and ends, and what tells it from another that lies there. End 0: none.
struct File {
    start: AtomicUsize,
    end: AtomicUsize,
    mark: AtomicUsize,
}

/// Used by who holds [`BUSY`].
static KNOWN: [File; FILES] =
    [const { File { start: AtomicUsize::new(0), end: AtomicUsize::new(0), mark: AtomicUsize::new(0) } };
        FILES];

static BUSY: AtomicBool = AtomicBool::new(false);

/// Finds out the rule of the code before an address, and keeps it.
#[cold]
#[inline(never)]
pub(super) fn resolve(place: usize) -> Rule {
    // To read the tables takes more than a handler's stack may have.
    fault::with_room(|| resolve_here(place))
}

#[inline(never)]
fn resolve_here(place: usize) -> Rule {
    // Nobody knows a file there: code that a program made. The compiler's unwinder may have been told of it.
    let address = place.wrapping_sub(1);
    let Some(found) = trace::object_at(address).or_else(|| listed(address)) else {
        return Rule::plain(Kind::Other);
    };
    let (rule, mark) = tables::rule(&found, address);
    // Acquire pairs with the Release below: what one holder wrote the next one sees.
    if !BUSY.swap(true, Ordering::Acquire) {
        if !is_known(&found, mark) {
            rule::forget();
        }
        rule::keep(place, rule);
        BUSY.store(false, Ordering::Release);
    }
    rule
}

/// The file that an address lies in, where nobody looked up the function that tells at once: from the loader's list, as the
/// compiler's unwinder does it there. The list's lock is the loader's, held for moments.
fn listed(address: usize) -> Option<Found> {
    let mut search = (address, None);
    // SAFETY: the function matches, and what it is given outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(look_at), (&raw mut search).cast()) };
    search.1
}

/// Notes the file if the address that is searched lies in it; 1 ends the search.
unsafe extern "C" fn look_at(info: *mut libc::dl_phdr_info, _size: usize, search: *mut c_void) -> c_int {
    // SAFETY: what `listed` gave, and what the loader tells of a file, with its program headers.
    let (search, info, segments) = unsafe {
        let info = &*info;
        let segments = core::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum));
        (&mut *search.cast::<(usize, Option<Found>)>(), info, segments)
    };
    let base = info.dlpi_addr as usize;
    let bounds = |segment: &libc::Elf64_Phdr| {
        let start = base.wrapping_add(segment.p_vaddr as usize);
        (start & !0xfff, start.wrapping_add(segment.p_memsz as usize))
    };
    let loaded = || segments.iter().filter(|segment| segment.p_type == libc::PT_LOAD).map(bounds);
    if !loaded().any(|(start, end)| (start..end).contains(&search.0)) {
        return 0;
    }
    let tables = segments.iter().find(|segment| segment.p_type == libc::PT_GNU_EH_FRAME);
    let tables = tables.map_or(0, |tables| base.wrapping_add(tables.p_vaddr as usize));
    let start = loaded().map(|(start, _)| start).min().unwrap_or_default();
    let end = loaded().map(|(_, end)| end).max().unwrap_or_default();
    search.1 = Some(Found::new(start, end, tables as *const c_void));
    1
}

/// Remembers a file. False: it lies where another one did, which is forgotten, with all others.
fn is_known(found: &Found, mark: usize) -> bool {
    let (start, end) = (found.start, found.end);
    for file in &KNOWN {
        // Relaxed, all of them: by the holder of `BUSY` only.
        let known = (file.start.load(Ordering::Relaxed), file.end.load(Ordering::Relaxed));
        if known.1 == 0 {
            remember(file, found, mark);
            return true;
        }
        if known == (start, end) && file.mark.load(Ordering::Relaxed) == mark {
            return true;
        }
        if known.0 < end && start < known.1 {
            break;
        }
    }
    for file in &KNOWN {
        file.end.store(0, Ordering::Relaxed);
    }
    remember(&KNOWN[0], found, mark);
    false
}

fn remember(file: &File, found: &Found, mark: usize) {
    file.start.store(found.start, Ordering::Relaxed);
    file.mark.store(mark, Ordering::Relaxed);
    file.end.store(found.end, Ordering::Relaxed);
}

/// In the child of a fork: the thread that held it may not be there.
pub(in crate::host) fn after_fork_child() {
    BUSY.store(false, Ordering::Relaxed);
}
