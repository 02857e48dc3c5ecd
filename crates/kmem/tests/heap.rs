//! The process-wide heap and typed caches, used as a Rust program uses them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kmem::engine::Chosen;
use kmem::{Cache, KBox, Kmalloc, Sheaf, heap};
use kmem_core::engine::Engine;
use kmem_core::flags::SlabFlags;

/// Everything this test program allocates comes from the heap under test.
#[global_allocator]
static GLOBAL: Kmalloc = Kmalloc;

fn fill(block: *mut u8, size: usize, value: u8) {
    // SAFETY: the caller owns `size` bytes at `block`.
    unsafe { block.write_bytes(value, size) };
}

fn holds(block: *const u8, size: usize, value: u8) -> bool {
    // SAFETY: as in `fill`.
    unsafe { std::slice::from_raw_parts(block, size) }.iter().all(|&byte| byte == value)
}

#[test]
fn every_size_is_usable_aligned_and_its_own() {
    let sizes = (0..=1100).chain((1100..40_000).step_by(97)).chain([
        1 << 16,
        1 << 20,
        (4 << 20) - 1,
        4 << 20,
        5 << 20,
    ]);
    let mut blocks = Vec::new();
    for (i, size) in sizes.enumerate() {
        let block = heap::malloc(size);
        assert!(!block.is_null() && block.addr().is_multiple_of(16), "{size} bytes: {block:p}");
        // SAFETY: a live block.
        let usable = unsafe { heap::usable_size(block) };
        assert!(usable >= size, "{size} bytes: {usable}");
        fill(block, usable, i as u8);
        blocks.push((block, usable, i as u8));
    }
    for &(block, usable, value) in &blocks {
        assert!(holds(block, usable, value), "{usable} bytes at {block:p} changed");
    }
    for (block, ..) in blocks {
        // SAFETY: a live block, freed once.
        unsafe { heap::free(block) };
    }
}

#[test]
fn alignment_is_what_was_asked() {
    for shift in 0..=23 {
        for size in [0, 1, 24, 100, 1000, 5000, 100_000] {
            let align = 1 << shift;
            let block = heap::memalign(align, size);
            assert!(
                !block.is_null() && block.addr().is_multiple_of(align),
                "{size} bytes aligned to {align}: {block:p}"
            );
            fill(block, size, 7);
            // SAFETY: a live block, freed once.
            unsafe { heap::free(block) };
        }
    }
}

#[test]
fn zeroed_memory_is_zero_after_use() {
    for size in [1, 16, 100, 4000, 20_000, 100_000, 1 << 20, 5 << 20] {
        for _ in 0..3 {
            let block = heap::calloc(size);
            assert!(holds(block, size, 0), "{size} bytes");
            fill(block, size, 0xff);
            // SAFETY: a live block, freed once.
            unsafe { heap::free(block) };
        }
    }
}

#[test]
fn resizing_keeps_the_contents() {
    let sizes =
        [1, 20, 17, 300, 5000, 100, 40_000, 9000, 200_000, 33_000, 5 << 20, 9 << 20, 6 << 20, 1000, 1];
    let mut block = heap::malloc(sizes[0]);
    fill(block, sizes[0], 0xa5);
    let mut kept = sizes[0];
    for pair in sizes.windows(2) {
        // SAFETY: a live block; only the answer is used from here on.
        block = unsafe { heap::realloc(block, pair[1]) };
        assert!(!block.is_null());
        kept = kept.min(pair[1]);
        assert!(holds(block, kept, 0xa5), "{} to {} bytes", pair[0], pair[1]);
        fill(block, pair[1], 0xa5);
        kept = pair[1];
    }
    // SAFETY: a live block, freed once.
    unsafe { heap::free(block) };
}

#[test]
fn impossible_sizes_are_refused() {
    assert!(heap::malloc(isize::MAX as usize + 1).is_null());
    assert!(heap::malloc(usize::MAX).is_null());
    assert!(heap::calloc(usize::MAX - 4096).is_null());
    assert!(heap::memalign(64, usize::MAX - 10).is_null());
    let block = heap::malloc(100);
    // SAFETY: a live block; a refused resize leaves it alone.
    unsafe {
        assert!(heap::realloc(block, usize::MAX).is_null());
        heap::free(block);
        heap::free(std::ptr::null_mut());
    }
}

static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Counted([u64; 5]);

impl Counted {
    fn new(value: u64) -> Self {
        LIVE.fetch_add(1, Ordering::Relaxed);
        Self([value; 5])
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn a_typed_cache_keeps_values_and_drops_them_once() {
    static CACHE: Cache<Counted> = Cache::new("counted");
    let boxes: Vec<KBox<'_, Counted>> =
        (0..5000).map(|i| CACHE.alloc(Counted::new(i)).expect("memory")).collect();
    assert_eq!(LIVE.load(Ordering::Relaxed), 5000);
    assert!(boxes.iter().enumerate().all(|(i, value)| value.0 == [i as u64; 5]));
    assert_eq!(CACHE.counts().in_use(), 5000);
    let mut addresses: Vec<usize> = boxes.iter().map(|value| (&raw const **value).addr()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 5000);
    drop(boxes);
    assert_eq!(LIVE.load(Ordering::Relaxed), 0);
    assert_eq!(CACHE.counts().in_use(), 0);
    assert!(!CACHE.shrink(), "no slab is left once everything was freed and shrunk");
    assert_eq!(CACHE.alloc(Counted::new(9)).expect("memory").into_inner().0[0], 9);
}

#[test]
fn a_dropped_cache_gives_its_memory_back() {
    for round in 0..200 {
        let cache: Cache<[u8; 777]> = Cache::new("dropped");
        let boxes: Vec<_> = (0..50).map(|i| cache.alloc([i; 777]).expect("memory")).collect();
        assert!(boxes.iter().enumerate().all(|(i, value)| value[776] == i as u8), "round {round}");
        drop(boxes);
    }
    let mut text = String::new();
    heap::write_slabinfo(&mut text).expect("a String takes all");
    assert!(!text.contains("dropped"), "{text}");
}

/// Values live as long as their boxes, whatever way they go; what a sheaf keeps is in use until it is dropped.
#[test]
fn a_sheaf_keeps_slots_and_no_values() {
    static CACHE: Cache<Droppable> = Cache::with_flags("sheaf_of", SlabFlags::NO_MERGE);
    static DROPS: AtomicUsize = AtomicUsize::new(0);
    struct Droppable([usize; 6]);
    impl Drop for Droppable {
        fn drop(&mut self) {
            DROPS.fetch_add(1, Ordering::Relaxed);
        }
    }

    let mut sheaf = CACHE.sheaf();
    assert!(sheaf.is_empty());
    let mut boxes: Vec<KBox<'_, Droppable>> = Vec::new();
    let mut drops = 0;
    // Up and down, beyond the sheaf's ends.
    for round in 0..50_usize {
        let up = 1 + round * 7 % 90;
        boxes.extend((0..up).map(|i| sheaf.alloc(Droppable([round + i; 6])).expect("memory")));
        let mut addresses: Vec<usize> = boxes.iter().map(|value| (&raw const **value).addr()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), boxes.len(), "one slot for two");
        let first = boxes.len() - up;
        assert!((0..up).all(|i| boxes[first + i].0 == [round + i; 6]));
        let down = boxes.len().min(1 + round * 11 % 80);
        boxes.drain(boxes.len() - down..).for_each(|value| sheaf.free(value));
        drops += down;
        assert_eq!(DROPS.load(Ordering::Relaxed), drops);
        assert!(sheaf.len() <= 32);
        assert_eq!(CACHE.counts().in_use(), (boxes.len() + sheaf.len()) as u64);
    }
    assert!(!sheaf.is_empty() || !Chosen::STACKS || heap::HARDENED, "nothing is kept");
    boxes.drain(..).for_each(|value| sheaf.free(value));
    drop(sheaf);
    assert_eq!(CACHE.counts().in_use(), 0);
}

#[test]
fn sheaves_of_few_slots_and_objects_of_others() {
    static ONE: Cache<[u64; 9]> = Cache::with_flags("one", SlabFlags::NO_MERGE);
    static OTHER: Cache<[u64; 9]> = Cache::with_flags("other", SlabFlags::NO_MERGE);
    let mut none = Sheaf::<_, 0>::new(&ONE);
    let mut single = Sheaf::<_, 1>::new(&ONE);
    for i in 0..100 {
        let (first, second) =
            (none.alloc([i; 9]).expect("memory"), single.alloc([i + 1; 9]).expect("memory"));
        assert_eq!((first[8], second[8]), (i, i + 1));
        // Each to the other's: both are of one cache.
        none.free(second);
        single.free(first);
        assert_eq!(none.len(), 0);
    }
    let stranger = OTHER.alloc([5; 9]).expect("memory");
    let kept = single.len();
    single.free(stranger);
    assert_eq!((single.len(), OTHER.counts().in_use()), (kept, 0), "it went home");
    drop((none, single));
    assert_eq!(ONE.counts().in_use(), 0);
}

/// What a sheaf was filled with is what it hands out: the cache is not asked again.
#[test]
fn a_filled_sheaf_asks_nobody() {
    static CACHE: Cache<[u64; 4]> = Cache::with_flags("filled", SlabFlags::NO_MERGE);
    let mut sheaf = CACHE.sheaf();
    sheaf.prefill(8).expect("memory");
    sheaf.prefill(5).expect("it has more");
    assert_eq!((sheaf.len(), CACHE.counts().in_use()), (8, 8));
    let values: Vec<_> = (0..8).map(|i| sheaf.alloc([i; 4]).expect("it has eight")).collect();
    assert_eq!((sheaf.len(), CACHE.counts().in_use()), (0, 8));
    assert!(values.iter().zip(0..).all(|(value, i)| **value == [i; 4]));
    drop((values, sheaf));
    assert_eq!(CACHE.counts().in_use(), 0);
}

#[test]
#[should_panic(expected = "a sheaf of 4 slots was to hold 5")]
fn a_sheaf_is_not_filled_beyond_its_slots() {
    static CACHE: Cache<u64> = Cache::new("beyond");
    _ = Sheaf::<_, 4>::new(&CACHE).prefill(5);
}

#[test]
fn a_sheaf_moves_between_threads() {
    static CACHE: Cache<[usize; 5]> = Cache::with_flags("carried", SlabFlags::NO_MERGE);
    let mut sheaf = Sheaf::<_, 100>::new(&CACHE);
    sheaf.prefill(100).expect("memory");
    for turn in 0..20_usize {
        sheaf = std::thread::scope(|scope| {
            let work = move || {
                let values: Vec<_> = (0..150).map(|i| sheaf.alloc([turn + i; 5]).expect("memory")).collect();
                assert!(values.iter().enumerate().all(|(i, value)| value[4] == turn + i));
                values.into_iter().for_each(|value| sheaf.free(value));
                sheaf
            };
            scope.spawn(work).join().expect("no panic")
        });
    }
    drop(sheaf);
    assert_eq!(CACHE.counts().in_use(), 0);
}

#[test]
fn objects_move_between_threads() {
    static CACHE: Cache<Vec<u32>> = Cache::new("vectors");
    let shared: Mutex<Vec<KBox<'_, Vec<u32>>>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..8_u32 {
            let shared = &shared;
            scope.spawn(move || {
                for i in 0..5000_u32 {
                    let value = CACHE.alloc((0..i % 50).map(|k| k + thread).collect()).expect("memory");
                    let mut queue = shared.lock().expect("no panic");
                    queue.push(value);
                    if queue.len() > 500 {
                        let at = (i as usize * 7919) % queue.len();
                        let other = queue.swap_remove(at);
                        drop(queue);
                        assert!(other.windows(2).all(|pair| pair[0] + 1 == pair[1]));
                    }
                }
            });
        }
    });
    shared.into_inner().expect("no panic").clear();
    assert_eq!(CACHE.counts().in_use(), 0);
}

#[test]
fn a_report_has_its_records_and_the_heap_is_sound() {
    let keep: Vec<Vec<u8>> = (0..1000).map(|i| vec![1; i]).collect();
    // Room for all of it: caches cannot be made while they are visited, and to grow may need the first block of a class.
    let mut text = String::with_capacity(256 << 10);
    heap::write_report(&mut text).expect("a String takes all");
    let engine = format!("\nengine {} cpus ", Chosen::NAME);
    // SAFETY: a live block.
    let size = unsafe { heap::usable_size(keep[64].as_ptr()) };
    let class = format!("\ncache kmalloc-{size} {size} ");
    let cache = if Chosen::CLASSES { &class } else { "\ncache kmem_cache " };
    for record in ["kmem-report 1\n", &engine, cache, "\nlarge ", "\nhuge ", "\npages "] {
        assert!(text.contains(record), "{record:?} is missing in\n{text}");
    }
    assert!(text.ends_with("\nend\n"));
    let stats = heap::stats();
    assert!(stats.in_use > 400_000 && stats.held >= stats.in_use, "{stats:?}");
    assert_eq!(keep.iter().map(Vec::len).sum::<usize>(), 499_500);
    heap::heap()
        .expect("made")
        .pages()
        .validate(heap::heap().expect("made").platform())
        .expect("sound pages");
}
