//! Floors: libraries of the project's own that are hardly allocators (`crates/kmem-bench/peers/floors`). They tell what a row of the
//! bench costs where malloc and free do next to nothing.

use std::path::{Path, PathBuf};

use super::build::{Built, compile, directory};
use crate::tree;

const SOURCES: &str = "crates/kmem-bench/peers/floors";
/// The one that does least first.
const NAMES: [&str; 2] = ["nothing", "barest"];
/// The hardened heaps'.
const WIPING: &str = "wiping";

/// All of them, compiled.
pub(super) fn floors() -> Vec<Built> {
    NAMES.into_iter().map(|name| (name, floor(name, &directory()))).collect()
}

/// What it costs to clear a block when it is freed, and nothing else.
pub(super) fn wiping() -> Built {
    (WIPING, floor(WIPING, &directory()))
}

/// Compiles one into a directory.
fn floor(name: &str, to: &Path) -> Result<PathBuf, String> {
    let source = tree::root().join(SOURCES).join(format!("{name}.c"));
    let library = to.join(format!("lib{name}.so"));
    std::fs::create_dir_all(to).map_err(|error| error.to_string())?;
    // Other peers' sources never change under their name; these may.
    let changed = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    if changed(&library) <= changed(&source) {
        let _ = std::fs::remove_file(&library);
    }
    compile("gcc", library, |gcc| {
        // Functions at the start of a cache line, wherever they are linked; a short loop that clears stays one.
        gcc.args(["-falign-functions=64", "-fno-tree-loop-distribute-patterns"]).arg(source);
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::{CStr, CString, c_void};
    use std::mem::transmute;

    use super::*;

    type Malloc = extern "C" fn(usize) -> *mut u8;
    type Free = unsafe extern "C" fn(*mut u8);
    type Two = extern "C" fn(usize, usize) -> *mut u8;

    /// A floor beside this process's own allocator.
    struct Floor {
        malloc: Malloc,
        free: Free,
        calloc: Two,
        aligned_alloc: Two,
        /// How `nothing` is told of the ring.
        ring: Option<extern "C" fn(usize, usize)>,
    }

    /// Each test has libraries of its own: they remember what was asked for.
    fn each(test: &str, check: impl Fn(Floor)) {
        let to = std::env::temp_dir().join(format!("kmem-floors-{test}-{}", std::process::id()));
        for name in NAMES.into_iter().chain([WIPING]) {
            let path = floor(name, &to).unwrap();
            let path = CString::new(path.to_str().unwrap()).unwrap();
            // SAFETY: the library's start does nothing; the types are those of its sources.
            unsafe {
                let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
                assert!(!library.is_null(), "{:?}", CStr::from_ptr(libc::dlerror()));
                let find = |name: &CStr| libc::dlsym(library, name.as_ptr());
                let there = |name: &CStr| Some(find(name)).filter(|found| !found.is_null()).unwrap();
                check(Floor {
                    malloc: transmute::<*mut c_void, Malloc>(there(c"malloc")),
                    free: transmute::<*mut c_void, Free>(there(c"free")),
                    calloc: transmute::<*mut c_void, Two>(there(c"calloc")),
                    aligned_alloc: transmute::<*mut c_void, Two>(there(c"aligned_alloc")),
                    ring: transmute::<*mut c_void, Option<extern "C" fn(usize, usize)>>(find(
                        c"nothing_ring",
                    )),
                });
            }
        }
        std::fs::remove_dir_all(&to).unwrap();
    }

    impl Floor {
        fn told(&self, size: usize, blocks: usize) {
            self.ring.inspect(|ring| ring(size, blocks));
        }

        /// A block of `size` bytes, all of them this byte.
        fn filled(&self, size: usize, byte: u8) -> *mut u8 {
            let block = (self.malloc)(size);
            assert!(!block.is_null() && block.addr().is_multiple_of(16));
            // SAFETY: the block is `size` bytes long.
            unsafe { block.write_bytes(byte, size) };
            block
        }

        /// Frees a block that must still be what [`Self::filled`] left.
        fn empty(&self, block: *mut u8, size: usize, byte: u8) {
            // SAFETY: a live block of `size` bytes, freed once.
            unsafe {
                assert!(std::slice::from_raw_parts(block, size).iter().all(|&found| found == byte));
                (self.free)(block);
            }
        }
    }

    #[test]
    fn blocks_of_a_batch_are_apart() {
        each("batch", |floor| {
            for size in [16, 64, 256, 1024, 5000] {
                // 5000 bytes are longer than a slot: such blocks are never used again.
                let rounds = if size > 1024 { 1 } else { 40 };
                floor.told(size.min(1024), 1000);
                for round in 0..rounds {
                    let mut batch: Vec<_> = (0..1000).map(|at| (floor.filled(size, at as u8), at)).collect();
                    match round % 3 {
                        0 => {}
                        1 => batch.reverse(),
                        _ => batch.sort_by_key(|(_, at)| at * 7919 % 1000),
                    }
                    batch.into_iter().for_each(|(block, at)| floor.empty(block, size, at as u8));
                }
            }
        });
    }

    #[test]
    fn replaced_blocks_are_apart() {
        each("set", |floor| {
            floor.told(1024, 3000);
            let size = |at: usize| 8 + at * 7919 % 1017;
            let mut set: Vec<_> = (0..3000).map(|at| (floor.filled(size(at), at as u8), at)).collect();
            for next in 3000..100_000_usize {
                let place = next.wrapping_mul(0x9E37_79B9) % 3000;
                let (block, at) = set[place];
                floor.empty(block, size(at), at as u8);
                set[place] = (floor.filled(size(next), next as u8), next);
            }
            set.into_iter().for_each(|(block, at)| floor.empty(block, size(at), at as u8));
        });
    }

    #[test]
    fn zeroed_blocks_are_and_aligned_ones_are() {
        each("kinds", |floor| {
            // What was asked for before there is a ring lives on.
            let before: Vec<_> = (0..100).map(|at| floor.filled(1 + 20 * at, at as u8)).collect();
            for size in [1, 64, 100, 128, 1024, 3000] {
                floor.told(1024, 1);
                floor.empty(floor.filled(size, 0xff), size, 0xff);
                floor.empty((floor.calloc)(1, size), size, 0);
            }
            for (align, size) in [(64, 64), (256, 512), (4096, 4096), (64, 100)] {
                floor.told(1024, 1);
                for _ in 0..3 {
                    let block = (floor.aligned_alloc)(align, size);
                    assert!(!block.is_null() && block.addr().is_multiple_of(align));
                    // SAFETY: a live block, freed once; free takes null.
                    unsafe {
                        (floor.free)(block);
                        (floor.free)(std::ptr::null_mut());
                    }
                }
            }
            before.into_iter().enumerate().for_each(|(at, block)| floor.empty(block, 1 + 20 * at, at as u8));
        });
    }
}
