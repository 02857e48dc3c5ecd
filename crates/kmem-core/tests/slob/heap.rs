//! SLOB under the whole heap: what caches and kmalloc promise with it, and what they cannot.

use std::cell::Cell;

use kmem_core::cache::{CacheArgs, CacheRef, DestroyError};
use kmem_core::config::{Config, KernelConfig, UserConfig};
use kmem_core::engine::slob::Slob;
use kmem_core::flags::SlabFlags;
use kmem_core::heap::Kmem;
use kmem_core::kmalloc::{FreeError, ZERO_SIZE_PTR};

use super::*;

type Kernel = KernelConfig<Slob>;
type User = UserConfig<Slob>;
type Cache = CacheRef<Slob>;

/// A heap that works, on a machine of its own.
struct Rig<C: Config> {
    machine: Machine,
    heap: Box<Kmem<Machine, C>>,
}

impl<C: Config<Engine = Slob>> Rig<C> {
    fn new() -> Self {
        let machine = Machine::builder().cpus(2).memory_per_node(8 * BLOCK_PAGES).build();
        let heap = Box::new(Kmem::new(machine.clone()));
        // SAFETY: the heap is boxed and shared with nobody yet.
        unsafe { heap.init() }.expect("memory");
        Self { machine, heap }
    }

    fn create(&self, size: usize, args: CacheArgs) -> Cache {
        self.heap.create("c", size, args).expect("a cache")
    }

    fn alloc(&self, cache: Cache) -> *mut u8 {
        // SAFETY: the cache is alive.
        let object = unsafe { self.heap.alloc(cache, Gfp::KERNEL) };
        assert!(!object.is_null());
        object
    }

    fn free(&self, cache: Cache, object: *mut u8) -> Result<(), FreeError> {
        // SAFETY: the cache is alive; the test holds the object, or asks for the error.
        unsafe { self.heap.free(cache, object) }
    }

    fn kfree(&self, block: *mut u8) -> Result<(), FreeError> {
        // SAFETY: the test holds the block, or asks for the error.
        unsafe { self.heap.kfree(block) }
    }

    fn destroy(&self, cache: Cache) -> Result<bool, DestroyError> {
        // SAFETY: the test does not use the cache afterwards, but to free what is left.
        unsafe { self.heap.destroy(cache) }
    }

    fn in_use(&self, cache: Cache) -> u64 {
        // SAFETY: the cache is alive.
        unsafe { self.heap.counts(cache) }.in_use()
    }

    /// Checks everything; what the shared pages hold.
    #[track_caller]
    fn check(&self) -> Stats {
        self.heap.pages().validate(&self.machine).unwrap_or_else(|fault| panic!("{fault}"));
        self.heap.validate_slob().unwrap_or_else(|fault| panic!("{fault}"))
    }
}

thread_local! {
    static MADE: Cell<u64> = const { Cell::new(0) };
    static ENDED: Cell<u64> = const { Cell::new(0) };
}

unsafe extern "C" fn make(object: *mut u8) {
    MADE.set(MADE.get() + 1);
    // SAFETY: the heap calls this with an object of 48 bytes.
    unsafe { object.write_bytes(0xC5, 48) };
}

unsafe extern "C" fn end(object: *mut u8) {
    ENDED.set(ENDED.get() + 1);
    // SAFETY: as above, made by `make`.
    assert_eq!(unsafe { object.read() }, 0xC5);
}

#[test]
fn constructors_run_at_each_allocation_and_destructors_at_each_free() {
    let rig = Rig::<Kernel>::new();
    let cache = rig.create(48, CacheArgs { ctor: Some(make), dtor: Some(end), ..CacheArgs::default() });
    MADE.set(0);
    ENDED.set(0);
    for round in 1..=5 {
        let object = rig.alloc(cache);
        assert_eq!((MADE.get(), ENDED.get()), (round, round - 1));
        assert_eq!(rig.free(cache, object), Ok(()));
        assert_eq!(ENDED.get(), round);
    }
    let mut bulk = [std::ptr::null_mut(); 20];
    // SAFETY: the cache is alive.
    assert!(unsafe { rig.heap.alloc_bulk(cache, Gfp::KERNEL | Gfp::ZERO, &mut bulk) });
    assert_eq!(MADE.get(), 25);
    // SAFETY: the objects are the test's, of 48 bytes.
    assert!(bulk.iter().all(|&object| unsafe { object.add(47).read() } == 0xC5), "zeroing gives way");
    let again = bulk[3];
    // SAFETY: the cache is alive, the objects are the test's.
    assert_eq!(unsafe { rig.heap.free_bulk(Some(cache), &mut bulk) }, Ok(()));
    assert_eq!(ENDED.get(), 25);
    // Nothing is destructed that is free already.
    assert!(rig.free(cache, again).is_err());
    assert_eq!(ENDED.get(), 25);
    assert_eq!(rig.destroy(cache), Ok(true));
    rig.check();
}

/// A free is believed as to its cache, and refused where memory says otherwise.
#[test]
fn frees_that_cannot_be_right() {
    let rig = Rig::<Kernel>::new();
    let [cache, aligned] = [
        rig.create(100, CacheArgs::default()),
        rig.create(64, CacheArgs { align: 64, ..CacheArgs::default() }),
    ];
    let [keep, object] = [rig.alloc(cache), rig.alloc(cache)];
    assert_eq!(rig.free(cache, object), Ok(()));
    let name = "c";
    assert_eq!(rig.free(cache, object), Err(FreeError::Double { address: object.addr(), cache: name }));
    for offset in [1, 4] {
        let inside = keep.wrapping_add(offset);
        let refused = Err(FreeError::Interior { address: inside.addr(), cache: name });
        assert_eq!(rig.free(cache, inside), refused, "{offset}");
    }
    let stray = rig.alloc(aligned).wrapping_add(8);
    assert_eq!(rig.free(aligned, stray), Err(FreeError::Interior { address: stray.addr(), cache: name }));
    let local = 0_u64;
    let stack = std::ptr::from_ref(&local).cast_mut().cast::<u8>();
    assert_eq!(rig.free(cache, stack), Err(FreeError::Foreign(stack.addr())));
    let large = rig.heap.kmalloc(20_000, Gfp::KERNEL);
    assert_eq!(rig.free(cache, large), Err(FreeError::NotObject(large.addr())));
    // Objects of caches are not kmalloc's.
    assert_eq!(rig.kfree(keep), Err(FreeError::Interior { address: keep.addr(), cache: "slob" }));
    assert_eq!(rig.in_use(cache), 1);
    let before = rig.check();
    let block = rig.heap.kmalloc(40, Gfp::KERNEL);
    assert_eq!(rig.kfree(block), Ok(()));
    assert_eq!(rig.kfree(block), Err(FreeError::Double { address: block.addr(), cache: "slob" }));
    assert_eq!(rig.check(), before);
}

/// Linux cannot tell; the counters can.
#[test]
fn a_cache_that_dies_too_early_is_noticed() {
    let rig = Rig::<Kernel>::new();
    let before = rig.check();
    let cache = rig.create(100, CacheArgs::default());
    let objects = [rig.alloc(cache), rig.alloc(cache)];
    // SAFETY: the cache is alive.
    assert!(!unsafe { rig.heap.shrink(cache) }, "there is nothing to give back");
    assert_eq!(rig.free(cache, objects[0]), Ok(()));
    assert_eq!(rig.destroy(cache), Err(DestroyError::ObjectsRemain(1)));
    assert!(rig.machine.take_console().contains("Objects remaining"));
    // Its descriptor stays for this.
    assert_eq!(rig.free(cache, objects[1]), Ok(()));
    let fine = rig.create(100, CacheArgs::default());
    let object = rig.alloc(fine);
    assert_eq!(rig.free(fine, object), Ok(()));
    assert_eq!(rig.destroy(fine), Ok(true));
    // The descriptor, its node's and the name of the first.
    assert!(rig.check().blocks <= before.blocks + 3);
}

#[test]
fn objects_of_a_page_and_more_are_runs() {
    let rig = Rig::<Kernel>::new();
    for (size, pages) in [(4096, 1), (5000, 2), (12_289, 4), (4 << 20, 1024)] {
        let cache = rig.create(size, CacheArgs::default());
        let other = rig.create(size, CacheArgs::default());
        let object = rig.alloc(cache);
        assert_eq!(object.addr() % (pages * PAGE_SIZE), 0, "{size}");
        let stats = rig.check();
        assert_eq!((stats.wholes, stats.whole_pages), (1, pages), "{size}");
        let refused = Err(FreeError::Interior { address: object.addr(), cache: "c" });
        assert_eq!(rig.free(other, object), refused, "only to its own cache");
        assert_eq!(rig.kfree(object), Err(FreeError::Interior { address: object.addr(), cache: "slob" }));
        assert_eq!(rig.free(cache, object), Ok(()));
        assert!(rig.free(cache, object).is_err());
        assert_eq!((rig.destroy(cache), rig.destroy(other)), (Ok(true), Ok(true)));
    }
    // With its footer it is larger than every block of pages: a cache without objects.
    let flags = Some(SlabFlags::TYPESAFE_BY_RCU);
    let cache = rig.create(4 << 20, CacheArgs { flags, ..CacheArgs::default() });
    // SAFETY: the cache is alive.
    assert!(unsafe { rig.heap.alloc(cache, Gfp::KERNEL | Gfp::NOWARN) }.is_null());
    assert_eq!(rig.destroy(cache), Ok(true));
}

#[test]
fn the_same_request_twice_is_two_caches() {
    let rig = Rig::<Kernel>::new();
    let [a, b] = [(); 2].map(|()| rig.create(64, CacheArgs::default()));
    assert_ne!(a, b);
    let [x, y] = [rig.alloc(a), rig.alloc(b)];
    assert_eq!(x.addr() / PAGE_SIZE, y.addr() / PAGE_SIZE, "and their objects share a page all the same");
    assert_eq!((rig.in_use(a), rig.in_use(b)), (1, 1));
}

/// What kmalloc promises, on both configurations: the kernel's blocks are naturally aligned, those of programs
/// to 16.
fn kmalloc_keeps_its_promises<C: Config<Engine = Slob>>(natural: bool, least: usize) {
    let rig = Rig::<C>::new();
    let before = rig.check();
    assert_eq!(rig.heap.kmalloc(0, Gfp::KERNEL), ZERO_SIZE_PTR);
    let mut blocks = Vec::new();
    for size in (1..600).chain([1024, 2048, 4000, 4080, 4081, 4088, 4089, 4096, 5000, 8192, 100_000, 4 << 20])
    {
        let block = rig.heap.kmalloc(size, Gfp::KERNEL | Gfp::ZERO);
        let usable = rig.heap.ksize(block).expect("a block");
        assert!(usable >= size && block.addr().is_multiple_of(least), "{size}");
        if size <= PAGE_SIZE - least {
            // Programs get what lies before the next header.
            let whole = ((size + 8).next_multiple_of(16) - 8).min(4080);
            assert_eq!(usable, if natural { size.next_multiple_of(2) } else { whole }, "{size}");
        }
        if natural && size.is_power_of_two() {
            assert!(block.addr().is_multiple_of(size), "{size}");
        }
        // SAFETY: the block is the test's, and was cleared.
        let bytes = unsafe { std::slice::from_raw_parts_mut(block, usable) };
        assert!(bytes.iter().all(|&byte| byte == 0), "{size}: all of the usable bytes");
        bytes.fill(size as u8);
        blocks.push((size, block, bytes));
    }
    rig.check();
    for (size, block, bytes) in blocks {
        assert!(bytes.iter().all(|&byte| byte == size as u8), "{size}");
        assert_eq!(rig.kfree(block), Ok(()), "{size}");
        assert!(rig.kfree(block).is_err(), "{size}");
    }
    assert!(rig.heap.kmalloc((4 << 20) + 1, Gfp::KERNEL | Gfp::NOWARN).is_null());
    for align in [1, 8, 16, 64, 1024, 2048, 4096, 65_536, 1 << 20] {
        for size in [1, 100, 2047, 2048, 2049, 4000, 9000] {
            let block = rig.heap.allocate_aligned(align, size, Gfp::KERNEL);
            assert!(!block.is_null() && block.addr().is_multiple_of(align.max(least)), "{size} at {align}");
            assert!(rig.heap.ksize(block).is_ok_and(|usable| usable >= size));
            assert_eq!(rig.kfree(block), Ok(()));
        }
    }
    assert_eq!(rig.check(), before);
}

#[test]
fn kmalloc_of_the_kernel() {
    kmalloc_keeps_its_promises::<Kernel>(true, 8);
}

#[test]
fn kmalloc_of_programs() {
    kmalloc_keeps_its_promises::<User>(false, 16);
}

#[test]
fn blocks_grow_and_shrink() {
    let rig = Rig::<User>::new();
    let before = rig.check();
    let mut block = rig.heap.allocate(10, Gfp::KERNEL);
    // SAFETY: the block is the test's.
    unsafe { block.write_bytes(7, 10) };
    for size in [11, 12, 40, 4000, 4081, 70_000, 300_000, 500, 100, 90, 60, 10] {
        // SAFETY: the block is the test's.
        block = unsafe { rig.heap.reallocate(block, size, Gfp::KERNEL) }.expect("a block");
        // SAFETY: as above; 10 bytes of it were never given up.
        assert_eq!(unsafe { std::slice::from_raw_parts(block, 10) }, [7; 10], "{size}");
    }
    let small = block;
    // SAFETY: the block is the test's.
    block = unsafe { rig.heap.krealloc(block, 25, Gfp::KERNEL) }.expect("a block");
    assert!(block != small && rig.heap.ksize(block) == Ok(40));
    // SAFETY: the block is the test's.
    let smaller = unsafe { rig.heap.krealloc(block, 3, Gfp::KERNEL) };
    assert_eq!(smaller, Ok(block), "krealloc never moves to shrink");
    assert_eq!(rig.kfree(block), Ok(()));
    assert_eq!(rig.check(), before);
}

#[test]
fn without_locks() {
    let rig = Rig::<Kernel>::new();
    let take = |size| rig.heap.kmalloc_nolock(size, Gfp::ZERO, None);
    let before = rig.check();
    let block = take(1);
    assert!(!block.is_null(), "some page has room");
    assert!(take(4089).is_null(), "no page is asked for");
    assert_eq!(rig.heap.ksize(block), Ok(size_of::<usize>()), "room for the link that a free needs");
    // SAFETY: the block is the test's.
    assert_eq!(unsafe { rig.heap.kfree_nolock(block) }, Ok(()));
    // SAFETY: as above, to see it refused.
    assert!(unsafe { rig.heap.kfree_nolock(block) }.is_err(), "the last one that came");
    let short = rig.heap.kmalloc(1, Gfp::KERNEL);
    // SAFETY: the block is the test's.
    let refused = unsafe { rig.heap.kfree_nolock(short) };
    assert_eq!(refused, Err(FreeError::NotObject(short.addr())), "no room for the link");
    assert_eq!(rig.kfree(short), Ok(()));
    rig.machine.forking(|| {
        rig.heap.lock_for_fork();
        assert!(take(8).is_null());
        // SAFETY: locked by this thread just above.
        unsafe { rig.heap.unlock_after_fork() };
    });
    assert_eq!(rig.heap.drain_deferred(), 1);
    assert_eq!(rig.check(), before);
}

/// Without memory nothing is lost and everything says so; afterwards all works again.
#[test]
fn each_request_for_memory_refused() {
    let mut complete = 0;
    let builder = Machine::builder().cpus(2).memory_per_node(4 * BLOCK_PAGES);
    let runs = builder.each_failure(|machine| {
        let heap = Box::new(Kmem::<Machine, Kernel>::new(machine.clone()));
        // SAFETY: the heap is boxed and shared with nobody yet.
        if unsafe { heap.init() }.is_err() {
            machine.fail_none();
            // SAFETY: as above.
            unsafe { heap.init() }.expect("the call may be repeated");
        }
        let rig = Rig { machine: machine.clone(), heap };
        let before = rig.check();
        let cache = rig.heap.create("c", 3000, CacheArgs::default());
        let mut blocks: Vec<_> = (0..2500).map(|_| rig.heap.kmalloc(3000, Gfp::KERNEL)).collect();
        let mut bulk = [std::ptr::null_mut(); 500];
        // SAFETY: the cache is alive.
        let got = cache.is_ok_and(|cache| unsafe { rig.heap.alloc_bulk(cache, Gfp::KERNEL, &mut bulk) });
        complete += u32::from(got && blocks.iter().all(|block| !block.is_null()));
        machine.fail_none();
        if let (Ok(cache), true) = (cache, got) {
            // SAFETY: the cache is alive, the objects are the test's.
            assert_eq!(unsafe { rig.heap.free_bulk(Some(cache), &mut bulk) }, Ok(()));
        }
        blocks.retain(|block| !block.is_null());
        blocks.into_iter().for_each(|block| assert_eq!(rig.kfree(block), Ok(())));
        if let Ok(cache) = cache {
            assert_eq!(rig.destroy(cache), Ok(true));
        }
        assert_eq!(rig.check(), before);
    });
    assert!(runs >= 3 && complete > 0, "{runs} {complete}");
}
