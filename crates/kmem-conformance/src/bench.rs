//! The heap under test, with safe faces for what checks do with it.
//!
//! The checks keep the promises that the unsafe calls ask for: caches are used while they live, blocks are freed once, by
//! whoever holds them. Where a check breaks a promise on purpose (a stray pointer) it is one that the heap promises to notice.

use core::slice;

use kmem_core::Kmem;
use kmem_core::cache::{CacheArgs, CacheRef, CreateError, DestroyError};
use kmem_core::config::Config;
use kmem_core::engine::{Counts, Engine};
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::FreeError;
use kmem_core::kmalloc::classes::ClassSet;
use kmem_core::platform::{PAGE_SIZE, Platform};

use crate::expected::Expected;
use crate::failure::{Failure, Outcome, ensure, fail};
use crate::faulty::Faulty;
use crate::holdings::Holdings;
use crate::{Driver, expected};

/// A cache of the heap that a driver brings.
pub type Cache<D> = CacheRef<<<D as Driver>::Config as Config>::Engine>;

/// The heap type of a driver.
pub type Heap<D> = Kmem<Faulty<<D as Driver>::Platform>, <D as Driver>::Config>;

/// A request that may fail without a message.
pub(crate) const QUIET: Gfp = Gfp::KERNEL.union(Gfp::NOWARN);

/// A heap to check, and for how long.
pub struct Bench<'a, D: Driver> {
    /// The heap and its machine.
    pub driver: &'a D,
    /// How the engine differs from others.
    pub expected: &'static Expected,
    /// Operations of a random walk.
    pub steps: usize,
    /// Where randomness comes from.
    pub seed: u64,
}

impl<'a, D: Driver> Bench<'a, D> {
    /// A bench for this heap. Each of kmalloc's classes is used once, so that those that come at first use are there.
    ///
    /// # Panics
    /// When nobody described the engine in [`expected::ENGINES`].
    #[must_use]
    pub fn new(driver: &'a D, steps: usize, seed: u64) -> Self {
        let name = <D::Config as Config>::Engine::NAME;
        let Some(expected) = Expected::of(name) else {
            panic!("engine {name} has no row among the {} of expected::ENGINES", expected::ENGINES.len())
        };
        let heap = driver.heap();
        let classes = <D::Config as Config>::Classes::SIZES;
        let blocks = classes.iter().map(|&size| heap.kmalloc(size as usize, Gfp::KERNEL));
        // Some are for blocks of whole pages alone.
        let pages = classes.iter().filter(|&&size| (size as usize).is_multiple_of(PAGE_SIZE));
        let aligned = pages.map(|&size| heap.allocate_aligned(PAGE_SIZE, size as usize, Gfp::KERNEL));
        for block in blocks.chain(aligned) {
            // SAFETY: the block was just made, or is null.
            let freed = unsafe { heap.kfree(block) };
            debug_assert!(freed.is_ok());
        }
        Self { driver, expected, steps, seed }
    }

    /// The heap.
    pub fn heap(&self) -> &'a Heap<D> {
        self.driver.heap()
    }

    /// The platform as the heap sees it.
    pub(crate) fn faults(&self) -> &'a Faulty<D::Platform> {
        self.heap().platform()
    }

    /// Moves to the first CPU, where that can be done.
    pub fn home(&self) {
        let _ = self.driver.move_to(0);
    }

    /// Moves to this CPU, for a check that [needs](crate::Needs) to.
    ///
    /// # Errors
    /// The driver could not.
    pub(crate) fn go(&self, cpu: usize) -> Outcome {
        ensure!(self.driver.move_to(cpu), "the driver does not move to CPU {cpu}");
        Ok(())
    }

    /// Number of CPUs that a check can move between.
    pub(crate) fn cpus(&self) -> usize {
        self.driver.cpus()
    }

    /// Number of nodes.
    pub(crate) fn nodes(&self) -> usize {
        self.faults().nodes()
    }

    /// Whether objects in slabs are handed out in random order.
    pub(crate) fn is_random(&self) -> bool {
        D::Config::RANDOM
    }

    /// Whether an object's address alone tells its cache.
    pub(crate) fn knows_caches(&self) -> bool {
        <D::Config as Config>::Engine::KNOWS_CACHE
    }

    /// What a block of kmalloc of `size` bytes, a power of two, is aligned to.
    pub fn natural_alignment(&self, size: usize) -> usize {
        natural_alignment::<D::Config>(size)
    }

    /// What the heap holds, at rest. Checks every structure on the way.
    ///
    /// # Errors
    /// Something is wrong with a structure.
    pub(crate) fn holdings(&self) -> Result<Holdings, Failure> {
        Holdings::of(self, true)
    }

    /// The same without sending home what CPUs and nodes keep, and without the arrays of stacks.
    ///
    /// # Errors
    /// Something is wrong with a structure.
    pub(crate) fn quick_holdings(&self) -> Result<Holdings, Failure> {
        Holdings::of(self, false)
    }

    /// Creates a cache that is an alias of nothing.
    ///
    /// # Errors
    /// The heap's.
    pub(crate) fn try_create(
        &self,
        name: &str,
        size: usize,
        args: CacheArgs,
    ) -> Result<Cache<D>, CreateError> {
        let flags = args.flags.unwrap_or(SlabFlags::empty()) | SlabFlags::NO_MERGE;
        self.heap().create(name, size, CacheArgs { flags: Some(flags), ..args })
    }

    /// Creates a cache, which must succeed.
    ///
    /// # Errors
    /// It did not.
    pub(crate) fn create(&self, name: &str, size: usize, args: CacheArgs) -> Result<Cache<D>, Failure> {
        match self.try_create(name, size, args) {
            Ok(cache) => Ok(cache),
            Err(error) => fail!("cache of {size} bytes at {} was refused: {error}", args.align),
        }
    }

    /// Creates a plain cache, which must succeed.
    ///
    /// # Errors
    /// It did not.
    pub(crate) fn cache(&self, name: &str, size: usize) -> Result<Cache<D>, Failure> {
        self.create(name, size, CacheArgs::default())
    }

    /// One object or null.
    pub(crate) fn alloc(&self, cache: Cache<D>, gfp: Gfp) -> *mut u8 {
        // SAFETY: the check holds the cache.
        unsafe { self.heap().alloc(cache, gfp) }
    }

    /// One object or null, of a node.
    pub(crate) fn alloc_node(&self, cache: Cache<D>, gfp: Gfp, node: Option<usize>) -> *mut u8 {
        // SAFETY: the check holds the cache.
        unsafe { self.heap().alloc_node(cache, gfp, node) }
    }

    /// One object, which must be had.
    ///
    /// # Errors
    /// There was none.
    pub(crate) fn take(&self, cache: Cache<D>) -> Result<*mut u8, Failure> {
        let object = self.alloc(cache, Gfp::KERNEL);
        ensure!(!object.is_null(), "no memory for an object of {}", self.name(cache));
        Ok(object)
    }

    /// Fills a slice with objects, which must be had.
    ///
    /// # Errors
    /// There were not as many.
    pub(crate) fn take_all(&self, cache: Cache<D>, out: &mut [*mut u8]) -> Outcome {
        for object in out {
            *object = self.take(cache)?;
        }
        Ok(())
    }

    /// Frees an object; what the heap says.
    ///
    /// # Errors
    /// The heap's.
    pub(crate) fn try_free(&self, cache: Cache<D>, object: *mut u8) -> Result<(), FreeError> {
        // SAFETY: the check holds the cache, and the object too unless it asks for the error.
        unsafe { self.heap().free(cache, object) }
    }

    /// Frees an object, which must succeed.
    ///
    /// # Errors
    /// It did not.
    pub(crate) fn free(&self, cache: Cache<D>, object: *mut u8) -> Outcome {
        match self.try_free(cache, object) {
            Ok(()) => Ok(()),
            Err(error) => fail!("free of a good object of {}: {error}", self.name(cache)),
        }
    }

    /// Frees objects, which must succeed.
    ///
    /// # Errors
    /// It did not.
    pub(crate) fn free_all(&self, cache: Cache<D>, objects: &[*mut u8]) -> Outcome {
        objects.iter().try_for_each(|&object| self.free(cache, object))
    }

    /// Fills all of a slice, or nothing.
    pub(crate) fn alloc_bulk(&self, cache: Cache<D>, gfp: Gfp, out: &mut [*mut u8]) -> bool {
        // SAFETY: the check holds the cache.
        unsafe { self.heap().alloc_bulk(cache, gfp, out) }
    }

    /// Frees a slice of objects, of any cache without one, which must succeed.
    ///
    /// # Errors
    /// It did not.
    pub(crate) fn free_bulk(&self, cache: Option<Cache<D>>, objects: &mut [*mut u8]) -> Outcome {
        // SAFETY: the check holds cache and objects.
        match unsafe { self.heap().free_bulk(cache, objects) } {
            Ok(()) => Ok(()),
            Err(error) => fail!("free of {} good objects: {error}", objects.len()),
        }
    }

    /// A block of kmalloc, which must be had.
    ///
    /// # Errors
    /// There was none.
    pub(crate) fn kmalloc(&self, size: usize) -> Result<*mut u8, Failure> {
        let block = self.heap().kmalloc(size, Gfp::KERNEL);
        ensure!(!block.is_null(), "no memory for {size} bytes");
        Ok(block)
    }

    /// Frees a block; what the heap says.
    ///
    /// # Errors
    /// The heap's.
    pub(crate) fn try_kfree(&self, block: *mut u8) -> Result<(), FreeError> {
        // SAFETY: the check holds the block unless it asks for the error.
        unsafe { self.heap().kfree(block) }
    }

    /// Frees a block, which must succeed.
    ///
    /// # Errors
    /// It did not.
    pub(crate) fn kfree(&self, block: *mut u8) -> Outcome {
        match self.try_kfree(block) {
            Ok(()) => Ok(()),
            Err(error) => fail!("free of a good block: {error}"),
        }
    }

    /// `krealloc` of a good block: null or the block.
    ///
    /// # Errors
    /// The heap does not know the block.
    pub(crate) fn krealloc(&self, block: *mut u8, size: usize, gfp: Gfp) -> Result<*mut u8, Failure> {
        // SAFETY: the check holds the block.
        match unsafe { self.heap().krealloc(block, size, gfp) } {
            Ok(new) => Ok(new),
            Err(error) => fail!("krealloc of a good block to {size}: {error}"),
        }
    }

    /// The usable bytes of a good block.
    ///
    /// # Errors
    /// The heap does not know the block.
    pub(crate) fn ksize(&self, block: *mut u8) -> Result<usize, Failure> {
        match self.heap().ksize(block) {
            Ok(bytes) => Ok(bytes),
            Err(error) => fail!("ksize of a good block: {error}"),
        }
    }

    /// Shrinks a cache; whether slabs are left, as the heap says.
    pub(crate) fn shrink(&self, cache: Cache<D>) -> bool {
        // SAFETY: the check holds the cache.
        unsafe { self.heap().shrink(cache) }
    }

    /// What a cache holds.
    pub(crate) fn counts(&self, cache: Cache<D>) -> Counts {
        // SAFETY: the check holds the cache.
        unsafe { self.heap().counts(cache) }
    }

    /// Objects in the hands of users.
    pub(crate) fn in_use(&self, cache: Cache<D>) -> u64 {
        self.counts(cache).in_use()
    }

    /// The name of a cache.
    pub(crate) fn name(&self, cache: Cache<D>) -> &'a str {
        // SAFETY: the check holds the cache.
        unsafe { cache.get() }.name()
    }

    /// Destroys a cache; what the heap says.
    ///
    /// # Errors
    /// The heap's.
    pub(crate) fn try_destroy(&self, cache: Cache<D>) -> Result<bool, DestroyError> {
        // SAFETY: the check holds a use of the cache, or knows that its descriptor stays.
        unsafe { self.heap().destroy(cache) }
    }

    /// Destroys a cache with one user and no objects, which must succeed.
    ///
    /// # Errors
    /// It did not.
    pub(crate) fn destroy(&self, cache: Cache<D>) -> Outcome {
        match self.try_destroy(cache) {
            Ok(true) => Ok(()),
            Ok(false) => fail!("a cache has users that nobody knows"),
            Err(error) => fail!("destroying an empty cache: {error}"),
        }
    }
}

/// What a block of kmalloc of `size` bytes, a power of two, is aligned to: to itself, unless the size classes say otherwise.
#[must_use]
pub fn natural_alignment<C: Config>(size: usize) -> usize {
    let least = C::Classes::MIN_ALIGN;
    if C::Classes::COUNT > 0 && size <= C::Classes::LARGEST {
        C::Classes::align_of(C::Classes::class_of(size), C::rules(1).version)
    } else if C::Classes::COUNT > 0 || least == 8 || size >= PAGE_SIZE {
        size
    } else {
        // Without classes, and more than the kernel's minimum for all.
        least
    }
}

/// After so many bytes a pattern begins again.
const PERIOD: usize = 256;

/// Writes `len` bytes that depend on `seed`.
pub(crate) fn fill(block: *mut u8, len: usize, seed: usize) {
    for i in 0..len.min(PERIOD) {
        // SAFETY: the caller holds a block of that length.
        unsafe { block.add(i).write(pattern(i, seed)) };
    }
    let mut done = PERIOD;
    while done < len {
        // SAFETY: as above; what is copied was written and lies before where it goes.
        unsafe { block.add(done).copy_from_nonoverlapping(block, done.min(len - done)) };
        done *= 2;
    }
}

/// Whether the first `len` bytes are those of [`fill`].
#[must_use]
pub(crate) fn is_filled(block: *const u8, len: usize, seed: usize) -> bool {
    // SAFETY: the caller holds a block of that length.
    (0..len.min(PERIOD)).all(|i| unsafe { block.add(i).read() } == pattern(i, seed))
        && repeats(block, len, PERIOD)
}

/// Whether the first `len` bytes are zero.
#[must_use]
pub(crate) fn is_zero(block: *const u8, len: usize) -> bool {
    // SAFETY: the caller holds a block of that length.
    len == 0 || unsafe { block.read() } == 0 && repeats(block, len, 1)
}

/// Whether each byte is the one `period` before it: the one comparison is fast in every build.
fn repeats(block: *const u8, len: usize, period: usize) -> bool {
    let Some(rest) = len.checked_sub(period) else { return true };
    // SAFETY: the callers' callers hold a block of that length, and write nothing meanwhile.
    unsafe { slice::from_raw_parts(block, rest) == slice::from_raw_parts(block.add(period), rest) }
}

const fn pattern(offset: usize, seed: usize) -> u8 {
    (offset.wrapping_mul(31).wrapping_add(seed.wrapping_mul(89)).wrapping_add(seed >> 8) as u8) | 1
}
