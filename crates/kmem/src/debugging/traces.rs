//! Who holds memory, as a kernel's debugfs shows it: `alloc_traces` and `free_traces` of every cache.
//!
//! They are written to `<directory>/<pid>/<cache>/`, at the end of the process and when they are asked for
//! ([`super::pace`]); each writing replaces what is there. Caches without tracks, and without objects, have no
//! files.
//!
//! Never: allocates from the heap, or keeps a descriptor. A failure is silent: a program must not notice.

use core::fmt;

use kmem_core::cache::CacheRef;
use kmem_core::debug::{LARGE, Which};

use crate::heap::Heap;
use crate::host::file::{self, Directory, Output, Path};
use crate::host::misc;

/// Where they go, if they are wanted.
static DIRECTORY: Directory = Directory::none();

/// Makes a path of what stands below the directory of this process's traces.
pub(crate) type Below<'a> = &'a dyn Fn(fmt::Arguments<'_>) -> Option<Path>;

/// Reads `KMEM_TRACES`. True: tracks are needed.
pub(super) fn configure(variable: &dyn Fn(&str) -> Option<&'static [u8]>, say: &dyn Fn(&str)) -> bool {
    let Some(path) = variable("KMEM_TRACES").filter(|path| !path.is_empty()) else { return false };
    let usable = DIRECTORY.set(path);
    if !usable {
        say("KMEM_TRACES is too long or no text");
    }
    usable
}

/// Traces are to be written.
pub(super) fn wanted() -> bool {
    DIRECTORY.is_set()
}

/// Writes the files, if a directory was given.
pub(crate) fn write(heap: &Heap) {
    if wanted() {
        let process = misc::process();
        write_below(heap, &|rest| DIRECTORY.below(format_args!("/{process}{rest}")));
    }
}

/// Writes the files into a directory.
pub(crate) fn write_below(heap: &Heap, below: Below<'_>) {
    heap.for_each_cache(|cache| {
        let name = cache.name();
        for (which, file) in [(Which::Alloc, "alloc_traces"), (Which::Free, "free_traces")] {
            let reference = CacheRef::new(cache);
            // SAFETY: the registry's lock is held, so the cache stays.
            let any = unsafe { heap.has_traces(reference, which) };
            if !any {
                continue;
            }
            if let Some(mut out) = create(below, name, file) {
                // SAFETY: as above.
                let _ = unsafe { heap.write_traces(reference, which, &mut out) };
            }
        }
    });
    if heap.has_large_traces()
        && let Some(mut out) = create(below, LARGE, "alloc_traces")
    {
        let _ = heap.write_large_traces(&mut out);
    }
}

/// The file of a cache, and the directories above it.
fn create(below: Below<'_>, name: &str, file: &str) -> Option<Output> {
    for rest in [format_args!(""), format_args!("/{name}")] {
        if let Some(directory) = below(rest) {
            file::make_directory(directory.as_str());
        }
    }
    Output::create(below(format_args!("/{name}/{file}"))?.as_str())
}
