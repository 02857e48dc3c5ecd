//! Loops whose instructions are counted under callgrind (`--count`), not timed.
//!
//! Each loop is a function of its own under a fixed name, so that its inclusive cost can be read off; the cost of
//! [`count_loop`] is that of the loop alone. What they measure is warm: the same was done once before.

use std::hint::black_box;
use std::process::ExitCode;

use kmem::host::{Host, Options};
use kmem_core::cache::{CacheArgs, CacheRef};
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::{KernelConfig, Kmem};
use libc::c_void;

use crate::rows::typed;

/// Operations that each loop does: the divisor of its cost.
pub(crate) const OPERATIONS: u64 = 1600;
/// Blocks that [`count_malloc_64`] takes at a time: fewer than any CPU's stack holds.
const FEW: usize = 16;

/// The loop alone.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_loop(n: u64) {
    for _ in 0..n {
        black_box(std::ptr::null_mut::<c_void>());
    }
}

/// malloc and free of 64 bytes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_pair_64(n: u64) {
    for _ in 0..n {
        // SAFETY: freed once; free takes null.
        unsafe { libc::free(black_box(libc::malloc(64))) };
    }
}

/// malloc and free of 1024 bytes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_pair_1024(n: u64) {
    for _ in 0..n {
        // SAFETY: freed once; free takes null.
        unsafe { libc::free(black_box(libc::malloc(1024))) };
    }
}

/// malloc and free of more than a page, which the second table knows.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_pair_6000(n: u64) {
    for _ in 0..n {
        // SAFETY: freed once; free takes null.
        unsafe { libc::free(black_box(libc::malloc(6000))) };
    }
}

/// malloc and free of a block of whole pages.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_pair_256k(n: u64) {
    for _ in 0..n {
        // SAFETY: freed once; free takes null.
        unsafe { libc::free(black_box(libc::malloc(256 << 10))) };
    }
}

/// An aligned block, and its free.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_aligned_64(n: u64) {
    for _ in 0..n {
        // SAFETY: freed once; free takes null.
        unsafe { libc::free(black_box(libc::aligned_alloc(64, 100))) };
    }
}

/// malloc alone.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_malloc_64(blocks: &mut [*mut c_void; FEW]) {
    for block in blocks {
        // SAFETY: malloc takes any size.
        *block = black_box(unsafe { libc::malloc(64) });
    }
}

/// free alone.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_free_64(blocks: &[*mut c_void; FEW]) {
    for &block in blocks {
        // SAFETY: each is a live block and freed once: see `run`.
        unsafe { libc::free(black_box(block)) };
    }
}

/// calloc and free of 64 bytes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_calloc_64(n: u64) {
    for _ in 0..n {
        // SAFETY: freed once; free takes null.
        unsafe { libc::free(black_box(libc::calloc(1, 64))) };
    }
}

/// realloc to a size that the block has room for.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_realloc_stay(block: *mut c_void, n: u64) -> *mut c_void {
    let mut block = block;
    for _ in 0..n {
        // SAFETY: the last result, or the block given.
        block = black_box(unsafe { libc::realloc(block, 60) });
    }
    block
}

/// An object of a typed cache, made and dropped.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_typed_pair(n: u64) {
    for _ in 0..n {
        drop(typed::take());
    }
}

/// An object of a typed cache, made and dropped through a sheaf.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_typed_sheaf(n: u64) {
    let mut sheaf = typed::sheaf();
    for _ in 0..n {
        typed::through(&mut sheaf);
    }
}

/// A heap as a kernel has it, beside the process-wide one: what is counted is the core's own calls.
static CORE: Kmem<Host, KernelConfig> = Kmem::new(Host::new());

/// The heap, made, and a cache of 64 bytes.
fn core_cache() -> CacheRef {
    // SAFETY: a static, used first here, by the only thread.
    unsafe {
        CORE.platform().init(&Options::from_env()).expect("a host");
        CORE.init().expect("memory");
    }
    let args = CacheArgs { flags: Some(SlabFlags::NO_MERGE), sheaf_capacity: 100, ..CacheArgs::default() };
    CORE.create("counted", 64, args).expect("a cache")
}

/// An object of a cache of the core, and its free.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_core_pair_64(cache: &CacheRef, n: u64) {
    for _ in 0..n {
        // SAFETY: the cache is never destroyed; the object is freed once.
        let freed = unsafe { CORE.free(*cache, black_box(CORE.alloc(*cache, Gfp::KERNEL))) };
        assert!(freed.is_ok());
    }
}

/// The core's kmalloc of 64 bytes, and kfree.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_core_kmalloc_64(n: u64) {
    for _ in 0..n {
        // SAFETY: freed once.
        let freed = unsafe { CORE.kfree(black_box(CORE.kmalloc(64, Gfp::KERNEL))) };
        assert!(freed.is_ok());
    }
}

/// Objects of a cache of the core, taken and freed sixteen at a time.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_core_bulk_16(cache: &CacheRef, n: u64) {
    let mut objects = [std::ptr::null_mut(); 16];
    for _ in 0..n / 16 {
        // SAFETY: the cache is never destroyed; each object is freed once.
        unsafe {
            assert!(CORE.alloc_bulk(*cache, Gfp::KERNEL, black_box(&mut objects)));
            assert!(CORE.free_bulk(Some(*cache), black_box(&mut objects)).is_ok());
        }
    }
}

/// What is counted.
enum Kind {
    /// The process's malloc.
    Malloc,
    /// The typed cache linked in.
    Typed,
    /// The calls of the core, with this cache.
    Core(CacheRef),
}

/// All loops of a kind, each for [`OPERATIONS`].
fn round(kind: &Kind) {
    count_loop(OPERATIONS);
    match kind {
        Kind::Malloc => {}
        Kind::Typed => {
            count_typed_pair(OPERATIONS);
            return count_typed_sheaf(OPERATIONS);
        }
        Kind::Core(cache) => {
            count_core_pair_64(cache, OPERATIONS);
            count_core_kmalloc_64(OPERATIONS);
            return count_core_bulk_16(cache, OPERATIONS);
        }
    }
    count_pair_64(OPERATIONS);
    count_pair_1024(OPERATIONS);
    count_pair_6000(OPERATIONS);
    count_pair_256k(OPERATIONS);
    count_aligned_64(OPERATIONS);
    count_calloc_64(OPERATIONS);
    let mut blocks = [std::ptr::null_mut(); FEW];
    for _ in 0..OPERATIONS / FEW as u64 {
        count_malloc_64(&mut blocks);
        count_free_64(&blocks);
    }
    // SAFETY: malloc takes any size; the block is freed once.
    unsafe { libc::free(count_realloc_stay(libc::malloc(64), OPERATIONS)) };
}

/// The round that callgrind collects, by this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn counted(kind: &Kind) {
    round(black_box(kind));
}

/// One round to warm up, one to be counted; prints the operations of each loop.
/// `kind` is `typed`, `core`, or anything else for malloc.
pub(crate) fn run(kind: &str) -> ExitCode {
    let kind = match kind {
        "typed" => Kind::Typed,
        "core" => {
            let cache = core_cache();
            let mut objects = [std::ptr::null_mut(); FEW];
            // SAFETY: the cache was just made; each object is freed once.
            unsafe {
                // One by one: so many wait on the stack afterwards that no bulk leaves it.
                objects.iter_mut().for_each(|object| *object = CORE.alloc(cache, Gfp::KERNEL));
                assert!(objects.iter().all(|&object| CORE.free(cache, object).is_ok()));
            }
            Kind::Core(cache)
        }
        _ => Kind::Malloc,
    };
    round(&kind);
    counted(&kind);
    println!("{OPERATIONS}");
    ExitCode::SUCCESS
}
