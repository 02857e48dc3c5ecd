//! The rows of single operations: pairs, halves, bulk, pages, and making a cache.

use core::ptr;

use kmem_core::cache::{CacheArgs, CacheRef};
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;

use super::{Wanted, sample, unseen};
use crate::cpu::without_interrupts;
use crate::heap::{self, Engine};

/// Samples of a row: enough for an interrupt not to be in all of them, and for a first one that warms up.
const SAMPLES: usize = 9;
/// Pairs in the row of a loop.
const LOOP: u64 = 1000;

/// A cache of the measurements, kept where every use must look it up, as a kernel keeps its caches in variables.
pub(super) struct Subject(CacheRef<Engine>);

impl Subject {
    /// A cache that shares its slabs with no other.
    pub(super) fn new(name: &str, size: usize) -> Option<Self> {
        let args = CacheArgs { flags: Some(SlabFlags::NO_MERGE), ..CacheArgs::default() };
        heap::with(|heap| heap.create(name, size, args)).ok().map(Self)
    }

    #[inline(always)]
    pub(super) fn get(&self) -> CacheRef<Engine> {
        let place =
            ptr::with_exposed_provenance::<CacheRef<Engine>>(unseen((&raw const self.0).expose_provenance()));
        // SAFETY: the address of a live field.
        unsafe { place.read() }
    }

    /// One object.
    #[inline(always)]
    pub(super) fn alloc(&self, gfp: Gfp) -> *mut u8 {
        // SAFETY: the cache lives until `end`.
        heap::with(|heap| unsafe { heap.alloc(self.get(), gfp) })
    }

    /// Gives an object back.
    ///
    /// # Panics
    /// When the heap refuses it.
    ///
    /// # Safety
    /// It came from [`Subject::alloc`] and is not used any more.
    #[inline(always)]
    pub(super) unsafe fn free(&self, object: *mut u8) {
        heap::with(|heap| {
            // SAFETY: the caller's promise.
            if let Err(error) = unsafe { heap.free(self.get(), object) } {
                heap::refused(object, error);
            }
        });
    }

    /// Sends all free objects back to slabs, and all empty slabs back to pages.
    pub(super) fn shrink(&self) {
        // SAFETY: the cache lives.
        heap::with(|heap| unsafe { heap.shrink(self.0) });
    }

    /// Destroys the cache; false when objects are left.
    pub(super) fn end(self) -> bool {
        // SAFETY: nobody else knows the cache.
        heap::with(|heap| unsafe { heap.destroy(self.0) }).is_ok()
    }
}

impl Wanted<'_> {
    /// A row: the least of its samples, for each of `operations`.
    #[inline(always)]
    fn row(self, name: &str, operations: u64, mut take: impl FnMut() -> u32) {
        if self.has(name) {
            let least = (0..SAMPLES).map(|_| take()).min().unwrap_or(0);
            self.show(name, least, operations);
        }
    }

    /// Two rows: the halves of an operation, sampled apart.
    #[inline(always)]
    fn halves(self, names: [&str; 2], operations: u64, mut take: impl FnMut() -> [u32; 2]) {
        if !names.iter().any(|name| self.has(name)) {
            return;
        }
        let mut least = [u32::MAX; 2];
        for _ in 0..SAMPLES {
            let taken = take();
            least = [least[0].min(taken[0]), least[1].min(taken[1])];
        }
        self.show(names[0], least[0], operations);
        self.show(names[1], least[1], operations);
    }
}

/// All rows of this file. False when an operation failed.
pub(super) fn run(wanted: Wanted<'_>) -> bool {
    without_interrupts(|| objects(wanted) & kmalloc(wanted))
        & waiting(wanted)
        & without_interrupts(|| pages(wanted))
        & caches(wanted)
}

/// Rows of a cache's objects, interrupts off.
fn objects(wanted: Wanted<'_>) -> bool {
    let Some(cache) = Subject::new("measured", 64) else { return false };
    wanted.row("cache_pair", 1, || {
        // SAFETY: allocated here, freed once. So in all rows.
        sample(|| unsafe { cache.free(cache.alloc(Gfp::ATOMIC)) })
    });
    wanted.halves(["cache_alloc", "cache_free"], 1, || {
        let mut object = ptr::null_mut();
        let alloc = sample(|| object = cache.alloc(Gfp::ATOMIC));
        // SAFETY: as above.
        [alloc, sample(|| unsafe { cache.free(object) })]
    });
    wanted.row("cache_pair_loop", LOOP, || {
        sample(|| {
            for _ in 0..LOOP {
                // SAFETY: as above.
                unsafe { cache.free(cache.alloc(Gfp::ATOMIC)) };
            }
        })
    });
    let mut fine = bulk::<16>(wanted, &cache, ["alloc_bulk_16", "free_bulk_16"]);
    fine &= bulk::<64>(wanted, &cache, ["alloc_bulk_64", "free_bulk_64"]);
    fine & cache.end()
}

/// Rows of `N` objects at once, for each.
fn bulk<const N: usize>(wanted: Wanted<'_>, cache: &Subject, names: [&str; 2]) -> bool {
    let mut objects = [ptr::null_mut::<u8>(); N];
    let mut fine = true;
    wanted.halves(names, N as u64, || {
        // SAFETY: the cache lives; allocated here, freed once.
        unsafe {
            let get =
                sample(|| fine &= heap::with(|heap| heap.alloc_bulk(cache.get(), Gfp::ATOMIC, &mut objects)));
            let mut free = || heap::with(|heap| heap.free_bulk(Some(cache.get()), &mut objects)).is_ok();
            [get, sample(|| fine &= free())]
        }
    });
    fine
}

/// The pair of a caller that may wait, interrupts on.
fn waiting(wanted: Wanted<'_>) -> bool {
    let Some(cache) = Subject::new("measured", 64) else { return false };
    wanted.row("cache_pair_kernel", 1, || {
        // SAFETY: allocated here, freed once.
        sample(|| unsafe { cache.free(cache.alloc(Gfp::KERNEL)) })
    });
    cache.end()
}

/// Rows of kmalloc, interrupts off.
fn kmalloc(wanted: Wanted<'_>) -> bool {
    // SAFETY: allocated here, freed once; null is fine. So in all rows.
    wanted.row("kmalloc_64_const", 1, || sample(|| unsafe { heap::kfree(heap::kmalloc(64, Gfp::ATOMIC)) }));
    wanted.row("kmalloc_64_variable", 1, || {
        // SAFETY: as above.
        sample(|| unsafe { heap::kfree(heap::kmalloc(unseen(64), Gfp::ATOMIC)) })
    });
    wanted.row("kzalloc_64", 1, || {
        // SAFETY: as above.
        sample(|| unsafe { heap::kfree(heap::kmalloc(64, Gfp::ATOMIC | Gfp::ZERO)) })
    });
    let mut fine = true;
    wanted.halves(["kmalloc_alone", "kfree_alone"], 1, || {
        let mut block = ptr::null_mut();
        let alloc = sample(|| block = heap::kmalloc(unseen(64), Gfp::ATOMIC));
        fine &= !block.is_null();
        // SAFETY: as above.
        [alloc, sample(|| unsafe { heap::kfree(block) })]
    });
    fine
}

/// Rows of pages, interrupts off.
fn pages(wanted: Wanted<'_>) -> bool {
    let mut fine = true;
    for (name, order) in [("pages_0", 0), ("pages_1", 1), ("pages_3", 3), ("pages_4", 4), ("pages_10", 10)] {
        wanted.row(name, 1, || {
            sample(|| {
                heap::with(|heap| {
                    match heap.pages().alloc(heap.platform(), Gfp::ATOMIC, unseen(order) as u32, None) {
                        Some(run) => heap.pages().free(heap.platform(), run),
                        None => fine = false,
                    }
                });
            })
        });
    }
    fine
}

/// The row of making a cache, which nobody does in a hurry.
fn caches(wanted: Wanted<'_>) -> bool {
    let mut fine = true;
    wanted.row("cache_create", 1, || {
        let mut cache = None;
        let ticks = sample(|| cache = Subject::new("made", 64));
        fine &= cache.is_some_and(Subject::end);
        ticks
    });
    fine
}
