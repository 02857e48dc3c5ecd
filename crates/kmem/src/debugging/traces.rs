//! Who holds memory, as a kernel's debugfs shows it: `alloc_traces` and `free_traces` of every cache.
//!
//! They are written to `<directory>/<pid>/<cache>/`, at the end of the process and when they are asked for
//! ([`super::pace`]); each writing replaces what is there. Caches without tracks, and without objects, have no
//! files.
//!
//! Never: allocates from the heap, or keeps a descriptor. A failure is silent: a program must not notice.

use core::ffi::CStr;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, Ordering};

use kmem_core::cache::CacheRef;
use kmem_core::debug::{LARGE, Which};
use kmem_core::report::Text;

use crate::heap::Heap;
use crate::host::file::{self, Output};
use crate::host::misc;

const PATH_BYTES: usize = 1024;
/// Room for the process and a cache's name below the directory.
const BELOW: usize = 160;

/// The directory, ending in 0; empty: none is wanted. Written before the heap is made.
static DIRECTORY: [AtomicU8; PATH_BYTES] = [const { AtomicU8::new(0) }; PATH_BYTES];

/// Reads `KMEM_TRACES`. True: tracks are needed.
pub(super) fn configure(variable: &dyn Fn(&str) -> Option<&'static [u8]>, say: &dyn Fn(&str)) -> bool {
    let Some(path) = variable("KMEM_TRACES").filter(|path| !path.is_empty()) else { return false };
    let usable = path.len() < PATH_BYTES - BELOW && core::str::from_utf8(path).is_ok();
    if !usable {
        say("KMEM_TRACES is too long or no text");
        return false;
    }
    for (slot, &byte) in DIRECTORY.iter().zip(path) {
        slot.store(byte, Ordering::Relaxed);
    }
    true
}

/// Traces are to be written.
pub(super) fn wanted() -> bool {
    DIRECTORY[0].load(Ordering::Relaxed) != 0
}

fn directory(out: &mut Text<PATH_BYTES>) -> fmt::Result {
    let mut bytes = [0; PATH_BYTES];
    for (to, from) in bytes.iter_mut().zip(&DIRECTORY) {
        *to = from.load(Ordering::Relaxed);
    }
    let path = CStr::from_bytes_until_nul(&bytes).map_err(|_| fmt::Error)?;
    out.write_str(path.to_str().map_err(|_| fmt::Error)?)
}

/// A path below the directory.
fn path(below: fmt::Arguments<'_>) -> Option<Text<PATH_BYTES>> {
    let mut path = Text::new();
    directory(&mut path).ok()?;
    write!(path, "/{}{below}\0", misc::process()).ok()?;
    Some(path)
}

/// Writes the files, if a directory was given.
pub(crate) fn write(heap: &Heap) {
    if !wanted() {
        return;
    }
    heap.for_each_cache(|cache| {
        let name = cache.name();
        for (which, file) in [(Which::Alloc, "alloc_traces"), (Which::Free, "free_traces")] {
            let reference = CacheRef::new(cache);
            // SAFETY: the registry's lock is held, so the cache stays.
            let any = unsafe { heap.has_traces(reference, which) };
            if !any {
                continue;
            }
            if let Some(mut out) = create(name, file) {
                // SAFETY: as above.
                let _ = unsafe { heap.write_traces(reference, which, &mut out) };
            }
        }
    });
    if heap.has_large_traces()
        && let Some(mut out) = create(LARGE, "alloc_traces")
    {
        let _ = heap.write_large_traces(&mut out);
    }
}

/// The file of a cache, and the directories above it.
fn create(name: &str, file: &str) -> Option<Output> {
    for below in [format_args!(""), format_args!("/{name}")] {
        if let Some(directory) = path(below) {
            file::make_directory(directory.as_str());
        }
    }
    Output::create(path(format_args!("/{name}/{file}"))?.as_str())
}
