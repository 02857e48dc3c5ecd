//! Out of memory at every possible point: the request fails cleanly, nothing is lost, the next one succeeds.
//!
//! Three ways to run out. *The world refuses*: a fresh machine for each request that a scenario makes to the
//! platform. *The pages are gone*: one heap, all its pages taken by the test, of which it leaves more and more;
//! that reaches every request for pages inside the heap. *The heap is told to*: see `refused`.

use kmem_core::cache::{CacheArgs, CreateError};
use kmem_core::config::Config;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::page::ZoneKind;
use kmem_core::platform::{BLOCK_PAGES, PAGE_SIZE};
use kmem_sim::{Builder, Machine, Shadow};

use crate::refused;
use crate::rig::{Rig, enter, is_zero, leave, resized};

crate::for_each_config! {
    bootstrap_fails_cleanly_at_every_point
    create_and_destroy
    many_caches_at_once
    fill_and_free
    bulk
    blocks_of_all_sizes
    growing_blocks
    zeroed_objects
    shrinking_in_between
    a_full_machine_works_again
    a_world_that_fails_at_random
}

crate::for_slob! {
    bootstrap_fails_cleanly_at_every_point
    create_and_destroy
    many_caches_at_once
    fill_and_free
    bulk
    blocks_of_all_sizes
    growing_blocks
    zeroed_objects
    a_world_that_fails_at_random
}

fn builder() -> Builder {
    Machine::builder()
        .cpus(2)
        .nodes(2)
        .memory_per_node(4 * BLOCK_PAGES)
        .zones([BLOCK_PAGES, 0])
        .map_limit(64 << 20)
}

fn bootstrap_fails_cleanly_at_every_point<C: Config>() {
    let attempt = |machine: &Machine| {
        let rig = Rig::<C>::raw(machine);
        let first = rig.init();
        assert!(first || machine.counters().refused > 0, "failed without a reason");
        machine.fail_none();
        assert!(rig.init(), "the second attempt has memory");
        rig.check();
        let cache = rig.cache("after", 100);
        let object = rig.alloc(cache, Gfp::KERNEL);
        assert!(!object.is_null());
        assert_eq!(rig.in_use(cache), 1);
        rig.free(cache, object);
        rig.destroy(cache).expect("an empty cache");
    };
    let failures = builder().each_failure(attempt) + builder().each_exhaustion(attempt);
    assert!(failures >= 2, "the bootstrap asked for memory {failures} times");
}

/// Something that programs do, with every failure accepted and everything given back. True when nothing failed.
type Scenario<C> = fn(&Rig<C>) -> bool;

/// All pages of a machine, held by the test: addresses of single pages.
struct Ballast(Vec<usize>);

impl Ballast {
    fn take_all<C: Config>(rig: &Rig<C>) -> Self {
        let mut pages = Vec::new();
        let gfp = Gfp::KERNEL | Gfp::NOWARN | Gfp::MEMALLOC;
        for node in 0..2 {
            for gfp in [gfp, gfp | Gfp::DMA] {
                while let Some(run) = rig.heap.pages().alloc(&rig.machine, gfp, 0, Some(node)) {
                    pages.push(rig.heap.pages().address(rig.heap.pages().into_head(run)) as usize);
                }
            }
        }
        pages.sort_unstable();
        Self(pages)
    }

    /// Gives `count` pages back, every `stride`-th one.
    fn give<C: Config>(&mut self, rig: &Rig<C>, count: usize, stride: usize) {
        let count = count.min(self.0.len().div_ceil(stride));
        for i in (0..count).rev() {
            let page = self.0.remove(i * stride);
            // SAFETY: the test holds the page and does not use it.
            unsafe { rig.heap.pages().free_at(&rig.machine, page, Some(0)) }.expect("a page of ours");
        }
    }
}

/// Runs a scenario with every request to the world failing in turn, then with every amount of pages left, then with
/// every request to the heap refused in turn.
fn everywhere<C: Config>(scenario: Scenario<C>) {
    let with_faults = |machine: &Machine| {
        // The heap itself starts in peace: its own failures have a test of their own.
        let armed = machine.counters().requests;
        assert_eq!(armed, 0);
        let rig = Rig::<C>::raw(machine);
        if !rig.init() {
            return;
        }
        let clean = scenario(&rig);
        assert!(clean || machine.counters().refused > 0, "failed with memory to spare");
        machine.fail_none();
        assert!(scenario(&rig), "the next attempt has memory");
        let first = rig.holdings();
        assert!(scenario(&rig));
        assert_eq!(rig.holdings(), first, "a run that is not the first must leave nothing behind");
    };
    builder().each_failure(with_faults);
    builder().each_exhaustion(with_faults);

    // Two blocks are enough to fill and quick to fill.
    let machine = Machine::builder()
        .cpus(2)
        .nodes(2)
        .memory_per_node(2 * BLOCK_PAGES)
        .memory(0, ZoneKind::Dma, BLOCK_PAGES)
        .map_limit(64 << 20)
        .build();
    let rig = Rig::<C>::new(&machine);
    // Twice: a program's first large blocks are mappings, and the next ones of their classes.
    assert!(scenario(&rig) && scenario(&rig));
    let before = rig.holdings();
    machine.fail_after(1_000_000);
    for stride in [1, 2] {
        let mut left = 0;
        let mut failures = 0;
        loop {
            let mut ballast = Ballast::take_all(&rig);
            assert!(ballast.0.len() > 1000);
            ballast.give(&rig, left, stride);
            let done = scenario(&rig);
            rig.check();
            ballast.give(&rig, usize::MAX, 1);
            assert_eq!(rig.holdings(), before, "with {left} pages left, every {stride}");
            if done {
                break;
            }
            failures += 1;
            left += 1 + left / 16;
            if stride > 1 && left > 900 {
                // Scenarios with blocks of several pages never succeed on scattered ones.
                break;
            }
            assert!(left < 3000, "the scenario fails with {left} pages");
        }
        assert!(failures > 0, "the scenario needs no memory");
    }
    machine.fail_none();
    refused::each_request(&rig, scenario);
}

fn create_and_destroy<C: Config>() {
    extern "C" fn construct(object: *mut u8) {
        // SAFETY: the heap constructs objects of at least a word.
        unsafe { object.cast::<u64>().write(0x600D) };
    }
    everywhere::<C>(|rig| {
        let requests = [
            ("small", 24, CacheArgs::default()),
            ("aligned", 200, CacheArgs { align: 64, ..CacheArgs::default() }),
            ("constructed", 72, CacheArgs { ctor: Some(construct), ..CacheArgs::default() }),
            ("large", 5000, CacheArgs::default()),
            ("dma", 128, CacheArgs { flags: Some(SlabFlags::CACHE_DMA), ..CacheArgs::default() }),
            ("typesafe", 128, CacheArgs { flags: Some(SlabFlags::TYPESAFE_BY_RCU), ..CacheArgs::default() }),
        ];
        let mut done = true;
        for (name, size, args) in requests {
            match rig.create(name, size, args) {
                Err(error) => {
                    assert_eq!(error, CreateError::NoMemory);
                    done = false;
                }
                Ok(cache) => {
                    let object = rig.alloc(cache, Gfp::KERNEL);
                    if object.is_null() {
                        done = false;
                    } else {
                        if name == "constructed" {
                            // SAFETY: the object is ours and at least a word.
                            assert_eq!(unsafe { object.cast::<u64>().read() }, 0x600D);
                        }
                        rig.free(cache, object);
                    }
                    assert_eq!(rig.destroy(cache), Ok(true));
                }
            }
        }
        rig.hush();
        done
    });
}

/// So many caches that descriptors, node structures, names and orders each need new slabs on the way.
fn many_caches_at_once<C: Config>() {
    everywhere::<C>(|rig| {
        let name = "a name that is long enough to come from a class that holds few of them, to be out of memory sooner";
        let mut caches = Vec::new();
        let mut done = true;
        for i in 0..70 {
            match rig.create(name, 40 + 8 * (i % 20), CacheArgs::default()) {
                Ok(cache) => caches.push(cache),
                Err(error) => {
                    assert_eq!(error, CreateError::NoMemory);
                    done = false;
                }
            }
        }
        for cache in caches {
            assert_eq!(rig.destroy(cache), Ok(true));
        }
        rig.hush();
        done
    });
}

/// Fills a cache with `count` objects or until memory ends; all are distinct and keep their content.
fn fill<C: Config>(rig: &Rig<C>, count: usize, size: usize) -> bool {
    let Ok(cache) = rig.create("filled", size, CacheArgs::default()) else {
        rig.hush();
        return false;
    };
    let mut book = Shadow::new();
    let mut objects = Vec::new();
    while objects.len() < count {
        let object = rig.machine.on_cpu(objects.len() % 2, || rig.alloc(cache, Gfp::KERNEL));
        if object.is_null() {
            break;
        }
        enter(&mut book, object, size);
        objects.push(object);
    }
    let done = objects.len() == count;
    assert_eq!(rig.in_use(cache), objects.len() as u64);
    // From both ends to the middle, on the other CPU half of the time.
    let mut front = true;
    while !objects.is_empty() {
        let object = if front { objects.remove(0) } else { objects.pop().expect("not empty") };
        front = !front;
        leave(&mut book, object);
        rig.machine.on_cpu(usize::from(front), || rig.free(cache, object));
    }
    assert_eq!(rig.in_use(cache), 0);
    assert_eq!(rig.destroy(cache), Ok(true));
    done
}

fn fill_and_free<C: Config>() {
    everywhere::<C>(|rig| fill(rig, 300, 40) & fill(rig, 60, 700) & fill(rig, 12, 3000));
}

fn bulk<C: Config>() {
    everywhere::<C>(|rig| {
        let Ok(cache) = rig.create("bulk", 256, CacheArgs::default()) else {
            rig.hush();
            return false;
        };
        let mut done = true;
        let mut book = Shadow::new();
        for len in [0, 1, 3, 64, 200] {
            let mut objects = vec![std::ptr::null_mut(); len];
            if !rig.alloc_bulk(cache, &mut objects) {
                done = false;
                assert_eq!(rig.in_use(cache), 0, "all or nothing");
                continue;
            }
            assert_eq!(rig.in_use(cache), len as u64);
            objects.iter().for_each(|&object| enter(&mut book, object, 256));
            objects.iter().for_each(|&object| leave(&mut book, object));
            rig.free_bulk(cache, &mut objects);
        }
        assert_eq!(rig.destroy(cache), Ok(true));
        done
    });
}

const SIZES: [usize; 12] = [1, 8, 96, 512, 1024, 4000, 8192, 9000, 40_000, 300_000, 3 << 20, 4 << 20];

fn blocks_of_all_sizes<C: Config>() {
    everywhere::<C>(|rig| {
        let mut done = true;
        let mut book = Shadow::new();
        let mut blocks = Vec::new();
        for size in SIZES {
            // The largest blocks of pages are not there on a machine this small; a failure of those is not the point.
            let block = rig.heap.allocate(size, Gfp::KERNEL | Gfp::NOWARN);
            if block.is_null() {
                done &= size > 300_000;
                continue;
            }
            enter(&mut book, block, size);
            blocks.push(block);
        }
        for size in [5 << 20, 9 << 20] {
            let block = rig.heap.allocate(size, Gfp::KERNEL | Gfp::NOWARN);
            if block.is_null() {
                done = false;
            } else {
                enter(&mut book, block, size);
                blocks.push(block);
            }
        }
        for block in blocks {
            leave(&mut book, block);
            rig.kfree(block);
        }
        assert!(book.is_empty());
        rig.hush();
        done
    });
}

fn growing_blocks<C: Config>() {
    everywhere::<C>(|rig| {
        let mut book = Shadow::new();
        let mut size = 20;
        let mut block = rig.heap.allocate(size, Gfp::KERNEL | Gfp::NOWARN);
        if block.is_null() {
            return false;
        }
        let mut done = true;
        enter(&mut book, block, size);
        for next in [60, 61, 500, 5000, 9000, 20_000, 100_000, 5 << 20, 7 << 20, 6 << 20, 90_000, 3000, 10] {
            let new = rig.reallocate(block, next);
            if new.is_null() {
                // The old block must be as it was: the book looks when it follows it the next time.
                done = false;
                assert!(next > size, "a smaller size always succeeds");
                continue;
            }
            resized(&mut book, block, new, next);
            (block, size) = (new, next);
        }
        leave(&mut book, block);
        rig.kfree(block);
        rig.hush();
        done
    });
}

fn zeroed_objects<C: Config>() {
    everywhere::<C>(|rig| {
        let mut done = true;
        for round in 0..2 {
            let mut blocks = Vec::new();
            for size in [8, 100, 1000, 8192, 20_000] {
                let block = rig.heap.kmalloc(size, Gfp::KERNEL | Gfp::ZERO | Gfp::NOWARN);
                if block.is_null() {
                    done = false;
                    continue;
                }
                assert!(is_zero(block, size), "round {round}: {size} bytes were not zero");
                // SAFETY: the block is ours and that long.
                unsafe { block.write_bytes(0xFF, size) };
                blocks.push(block);
            }
            blocks.into_iter().for_each(|block| rig.kfree(block));
        }
        rig.hush();
        done
    });
}

fn shrinking_in_between<C: Config>() {
    everywhere::<C>(|rig| {
        let Ok(cache) = rig.create("shrunk", 512, CacheArgs::default()) else {
            rig.hush();
            return false;
        };
        let mut book = Shadow::new();
        let mut objects = Vec::new();
        let mut done = true;
        for i in 0..100 {
            let object = rig.alloc(cache, Gfp::KERNEL);
            if object.is_null() {
                done = false;
            } else {
                enter(&mut book, object, 512);
                objects.push(object);
            }
            if i % 10 == 9 {
                for _ in 0..objects.len() / 2 {
                    let object = objects.swap_remove(objects.len() / 3);
                    leave(&mut book, object);
                    rig.free(cache, object);
                }
                assert_eq!(rig.shrink(cache), !objects.is_empty());
                let counts = rig.counts(cache);
                assert_eq!(counts.in_use(), objects.len() as u64);
                assert_eq!(counts.free_cpu + counts.free_barn, 0, "shrinking leaves nothing with CPUs");
            }
        }
        for object in objects {
            leave(&mut book, object);
            rig.free(cache, object);
        }
        assert!(!rig.shrink(cache), "all slabs are gone");
        assert_eq!(rig.destroy(cache), Ok(true));
        done
    });
}

/// A machine that is filled to the last page by small objects, by large blocks, and by both serves again afterwards.
fn a_full_machine_works_again<C: Config>() {
    let machine = builder().build();
    let rig = Rig::<C>::new(&machine);
    for wanted in [64, 8192, 1 << 20] {
        // Blocks that fill their class: what rounding loses is not asked here.
        let one = rig.heap.kmalloc(wanted, Gfp::KERNEL);
        let size = rig.heap.ksize(one).expect("a block");
        assert!(size <= wanted + wanted / 4, "{size} bytes for {wanted}");
        rig.kfree(one);
        // What the sizes before left with CPUs and nodes would stand in the way of large blocks.
        rig.heap.trim(0);
        for round in 0..2 {
            let mut book = Shadow::new();
            let mut blocks = Vec::new();
            loop {
                let block = rig.heap.kmalloc(size, Gfp::KERNEL | Gfp::NOWARN);
                if block.is_null() {
                    break;
                }
                enter(&mut book, block, size);
                blocks.push(block);
            }
            let bytes = blocks.len() * size;
            // 8 blocks of NORMAL memory and one of DMA; some of it is reserve, descriptors, stacks, rounding.
            assert!(
                bytes > 7 * BLOCK_PAGES * PAGE_SIZE,
                "round {round}: only {bytes} bytes in blocks of {size}"
            );
            rig.hush();
            rig.check();
            for block in blocks.drain(..) {
                leave(&mut book, block);
                rig.kfree(block);
            }
            rig.check();
        }
        let page = rig.heap.kmalloc(PAGE_SIZE, Gfp::KERNEL);
        assert!(!page.is_null());
        rig.kfree(page);
    }
    rig.heap.trim(0);
    let held = rig.check();
    assert!(held.in_use < 200, "{} pages are still in use", held.in_use);
    assert!(machine.resident_pages() < 400, "{} pages are still resident", machine.resident_pages());
}

fn a_world_that_fails_at_random<C: Config>() {
    for seed in 0..8 {
        let machine = builder().seed(seed).scattered().build();
        let rig = Rig::<C>::new(&machine);
        machine.fail_probability(0.7);
        let mut ok = 0;
        for _ in 0..6 {
            ok += usize::from(fill(&rig, 2000, 300));
        }
        machine.fail_none();
        assert!(fill(&rig, 2000, 300), "seed {seed}: memory is back ({ok} of 6 succeeded without)");
        rig.check();
    }
}
