//! Creation: what may be asked, what is refused, and that a refusal leaves nothing behind.

use std::cell::Cell;

use kmem_core::cache::create::MAX_NAME;
use kmem_core::cache::{CacheArgs, CreateError};
use kmem_core::config::Config;
use kmem_core::engine::slub::geometry::{GeometryError, KernelVersion, MAX_SIZE};
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::heap::{Kmem, State};

use crate::support::{Rig, bytes, fill, for_each_config, is_zero, small_machine};

for_each_config! {
    kmem_cache_create
    kmem_cache_create_refuses
    kmem_cache_create_panics_if_asked
    kmem_cache_create_without_memory
    kmem_cache_create_names
    kmem_cache_create_more_than_there_are_stacks
    kmem_cache_args_freeptr_offset
    kmem_cache_create_usercopy
    kmem_cache_macro
    kmem_cache_size
    constructor_runs_once_for_each_object
    constructed_objects_keep_their_state
    slab_is_available
}

crate::support::for_slob! {
    kmem_cache_create
    kmem_cache_create_refuses
    kmem_cache_create_panics_if_asked
    kmem_cache_create_without_memory
    kmem_cache_create_names
    kmem_cache_create_usercopy
    kmem_cache_macro
    constructed_objects_keep_their_state
    slab_is_available
}

fn flags(flags: SlabFlags) -> CacheArgs {
    CacheArgs { flags: Some(flags), ..CacheArgs::default() }
}

fn kmem_cache_create<C: Config>() {
    let rig = Rig::<C>::new();
    for size in [1, 7, 8, 20, 64, 100, 1000, 4096, 5000, 100_000, MAX_SIZE] {
        for align in [0, 8, 64, 4096] {
            let cache = rig.create("c", size, CacheArgs { align, ..CacheArgs::default() }).expect("a cache");
            let objects = rig.take(cache, 3);
            for (i, &object) in objects.iter().enumerate() {
                assert!(object.addr().is_multiple_of(align.max(8)), "{size} at {align}");
                fill(object, size, i as u8);
            }
            for (i, &object) in objects.iter().enumerate() {
                assert!(crate::support::filled(object, size, i as u8), "{size} at {align}");
            }
            rig.give(cache, objects);
            assert_eq!(rig.destroy(cache), Ok(true));
        }
    }
    assert_eq!(rig.said(), "");
}

fn kmem_cache_create_refuses<C: Config>() {
    let rig = Rig::<C>::new();
    let before = rig.holdings();
    let refused = |name: &str, size, args| {
        let answer = rig.heap.create(name, size, args).expect_err("a refusal");
        let said = rig.said();
        assert!(said.contains("kmem_cache_create(") && said.contains(&answer.to_string()), "{said}");
        assert_eq!(rig.holdings(), before, "nothing is left behind");
        answer
    };
    let plain = CacheArgs::default();
    for bad in [
        SlabFlags::FAILSLAB,
        SlabFlags::CMPXCHG_DOUBLE,
        SlabFlags::OBJECT_POISON,
        SlabFlags::from_bits_retain(1),
    ] {
        assert_eq!(refused("c", 64, flags(bad | SlabFlags::HWCACHE_ALIGN)), CreateError::BadFlags(bad));
    }
    for align in [3, 12, 24, 100, usize::MAX] {
        let answer = refused("c", 64, CacheArgs { align, ..plain });
        assert_eq!(answer, CreateError::Geometry(GeometryError::BadAlign), "{align}");
    }
    assert_eq!(refused("c", 0, plain), CreateError::Geometry(GeometryError::ZeroSize));
    for size in [MAX_SIZE + 1, usize::MAX / 2, usize::MAX] {
        assert_eq!(refused("c", size, plain), CreateError::Geometry(GeometryError::TooLarge), "{size}");
    }
    let align = 2 * MAX_SIZE;
    let answer = refused("c", 8, CacheArgs { align, ..plain });
    assert_eq!(answer, CreateError::Geometry(GeometryError::TooLarge));
    // The object fits, its metadata do not. (SLAB has them where it was built with its checks only.)
    if crate::support::is_slub::<C>() {
        let answer = refused("c", MAX_SIZE, flags(SlabFlags::STORE_USER));
        assert_eq!(answer, CreateError::Geometry(GeometryError::TooLarge));
    }
    assert_eq!(refused("", 64, plain), CreateError::BadName);
    assert_eq!(refused(&"n".repeat(MAX_NAME + 1), 64, plain), CreateError::BadName);
}

fn kmem_cache_create_panics_if_asked<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.create("c", 64, flags(SlabFlags::PANIC)).expect("a cache");
    assert_eq!(rig.destroy(cache), Ok(true));
    let said = rig.machine.expect_fatal(|| rig.heap.create("c", 0, flags(SlabFlags::PANIC)));
    assert!(said.contains("kmem_cache_create(c) failed"), "{said}");
}

/// With 0, 1, 2, … free pages, until it works: creation takes all it needs or keeps nothing.
fn kmem_cache_create_without_memory<C: Config>() {
    let rig = Rig::<C>::on(small_machine());
    // A cache of one's own for each page that creation may need: names, sequences, descriptors.
    let mut created = Vec::new();
    let (mut refused, mut free) = (0, 0);
    while refused < 8 && created.len() < 400 {
        let mut runs = rig.exhaust();
        let rest = runs.split_off(free.min(runs.len()));
        rig.relent(runs);
        let before = rig.holdings();
        match rig.create("starved", 200, CacheArgs::default()) {
            Ok(cache) => {
                created.push(cache);
                rig.relent(rest);
                free = 0;
            }
            Err(error) => {
                assert_eq!(error, CreateError::NoMemory);
                assert_eq!(rig.holdings(), before, "with {free} free pages");
                rig.relent(rest);
                refused += 1;
                free += 1;
            }
        }
    }
    assert!(refused > 0, "memory was never short");
    let cache = rig.cache("fed", 200);
    let objects = rig.take(cache, 10);
    rig.give(cache, objects);
    created.push(cache);
    for cache in created {
        assert_eq!(rig.destroy(cache), Ok(true));
    }
    rig.holdings();
}

fn kmem_cache_create_names<C: Config>() {
    let rig = Rig::<C>::new();
    // The name is copied.
    let mut name = String::from("spelled out");
    let cache = rig.cache(&name, 64);
    name.replace_range(.., "overwritten");
    // SAFETY: the cache is alive.
    assert_eq!(unsafe { cache.get() }.name(), "spelled out");
    // It need not be unique, and may be as long as promised.
    let twin = rig.cache("spelled out", 64);
    assert_ne!(cache, twin);
    let long = "n".repeat(MAX_NAME);
    let longest = rig.cache(&long, 64);
    // SAFETY: the cache is alive.
    assert_eq!(unsafe { longest.get() }.name(), long);
    let mut names = Vec::new();
    rig.heap.for_each_cache(|cache| names.push(cache.name().to_owned()));
    names.retain(|name| !name.contains("kmalloc-"));
    assert_eq!(names[..3], [long, "spelled out".to_owned(), "spelled out".to_owned()], "newest first");
    for cache in [longest, twin, cache] {
        assert_eq!(rig.destroy(cache), Ok(true));
    }
}

/// The numbers of CPU stacks end at 4096: later caches work without stacks.
fn kmem_cache_create_more_than_there_are_stacks<C: Config>() {
    let rig = Rig::<C>::on(kmem_sim::Machine::builder().build());
    let caches: Vec<_> = (0..4200).map(|i| rig.cache(&format!("c{i}"), 40)).collect();
    let last = caches[caches.len() - 1];
    // SAFETY: the cache is alive.
    assert_eq!(unsafe { last.stack_id() }, 0);
    let objects = rig.take(last, 500);
    assert_eq!(rig.in_use(last), 500);
    rig.give(last, objects);
    assert_eq!(rig.in_use(last), 0);
    assert!(!rig.shrink(last));
    for cache in caches {
        assert_eq!(rig.destroy(cache), Ok(true));
    }
    // Numbers come back.
    let cache = rig.cache("after", 40);
    // SAFETY: the cache is alive.
    assert_ne!(unsafe { cache.stack_id() }, 0);
}

fn kmem_cache_args_freeptr_offset<C: Config>() {
    let rig = Rig::<C>::new();
    let with = |flags, freeptr_offset, ctor| {
        let args = CacheArgs { freeptr_offset, flags: Some(flags), ctor, ..CacheArgs::default() };
        rig.create("c", 64, args)
    };
    let refused = Err(CreateError::Geometry(GeometryError::BadFreePointer));
    let typesafe = SlabFlags::TYPESAFE_BY_RCU;
    assert_eq!(with(SlabFlags::empty(), Some(8), None), refused, "no reason to choose");
    assert_eq!(with(typesafe, Some(64), None), refused, "outside the object");
    assert_eq!(with(typesafe, Some(4), None), refused, "not at a word");
    if C::rules(1).version == KernelVersion::V6_1 {
        assert_eq!(with(typesafe, Some(8), None), refused, "6.1 has no such choice");
        return;
    }
    let chosen = with(typesafe, Some(8), None).expect("a cache");
    let default = with(typesafe, None, None).expect("a cache");
    // SAFETY: the caches are alive.
    let (chosen, default) = unsafe { (chosen.get().geometry(), default.get().geometry()) };
    if !crate::support::is_slub::<C>() {
        assert_eq!((chosen.size, default.size), (64, 64), "no pointer lies in or behind a free object");
        return;
    }
    assert_eq!((chosen.offset, chosen.size), (8, 64), "no word is added");
    assert_eq!((default.offset, default.size), (64, 72));
}

fn kmem_cache_create_usercopy<C: Config>() {
    let rig = Rig::<C>::new();
    let window = |useroffset, usersize| {
        let none = SlabFlags::empty();
        let cache =
            rig.heap.create_usercopy("c", 100, 0, none, (useroffset, usersize), None).expect("a cache");
        // SAFETY: the cache is alive.
        (unsafe { cache.get() }.usercopy(), rig.said(), cache)
    };
    let (got, said, first) = window(16, 32);
    assert_eq!((got, said.as_str()), ((16, 32), ""));
    let (_, _, second) = window(16, 32);
    assert_ne!(first, second, "a cache with a window is never merged");
    assert_eq!(window(0, 100).0, (0, 100));
    let (got, said, _) = window(50, 0);
    assert_eq!((got, said.as_str()), ((0, 0), ""), "no bytes: no offset either");
    for (offset, size) in [(90, 11), (101, 1), (usize::MAX, 2), (1, usize::MAX)] {
        let (got, said, _) = window(offset, size);
        assert_eq!(got, (0, 0));
        assert!(said.contains("usercopy window"), "{said}");
    }
}

/// `KMEM_CACHE` and `KMEM_CACHE_USERCOPY`.
fn kmem_cache_macro<C: Config>() {
    #[repr(align(32))]
    struct Thing {
        _head: u64,
        buffer: [u8; 20],
    }
    let rig = Rig::<C>::new();
    let cache = rig.heap.create_for::<Thing>("thing", SlabFlags::NO_MERGE).expect("a cache");
    // SAFETY: the cache is alive.
    let descriptor = unsafe { cache.get() };
    assert_eq!((descriptor.object_size(), descriptor.geometry().align), (32, 32));
    assert_eq!((descriptor.name(), descriptor.usercopy()), ("thing", (0, 0)));
    let field = (std::mem::offset_of!(Thing, buffer), 20);
    let copied = rig.heap.create_for_usercopy::<Thing>("thing", SlabFlags::empty(), field).expect("a cache");
    // SAFETY: the cache is alive.
    assert_eq!(unsafe { copied.get() }.usercopy(), field);
    let nothing = rig.heap.create_for::<()>("nothing", SlabFlags::empty());
    assert_eq!(nothing, Err(CreateError::Geometry(GeometryError::ZeroSize)));
}

fn kmem_cache_size<C: Config>() {
    let rig = Rig::<C>::new();
    for (size, flags) in
        [(20, SlabFlags::empty()), (100, SlabFlags::HWCACHE_ALIGN), (8, SlabFlags::STORE_USER)]
    {
        let cache = rig.create("c", size, self::flags(flags)).expect("a cache");
        // SAFETY: the cache is alive.
        assert_eq!(unsafe { rig.heap.cache_size(cache) }, size, "what was asked, without padding");
        // SAFETY: as above.
        assert!(unsafe { cache.get() }.geometry().size > size);
    }
}

thread_local! {
    static CONSTRUCTED: Cell<u64> = const { Cell::new(0) };
}

unsafe extern "C" fn construct(object: *mut u8) {
    CONSTRUCTED.set(CONSTRUCTED.get() + 1);
    // SAFETY: the heap calls this with an object of 48 bytes.
    unsafe { object.write_bytes(0xC5, 48) };
}

fn constructor_runs_once_for_each_object<C: Config>() {
    let rig = Rig::<C>::new();
    let args = CacheArgs { ctor: Some(construct), ..CacheArgs::default() };
    let cache = rig.create("constructed", 48, args).expect("a cache");
    CONSTRUCTED.set(0);
    for _ in 0..3 {
        let objects = rig.take(cache, 500);
        rig.give(cache, objects);
    }
    let counts = rig.counts(cache);
    assert_eq!(CONSTRUCTED.get(), counts.objects, "each object of each slab, once");
    assert!(counts.slabs > 1);
    rig.shrink(cache);
    let again = rig.alloc(cache, Gfp::KERNEL);
    assert_eq!(CONSTRUCTED.get(), counts.objects + rig.counts(cache).objects, "and again for a new slab");
    assert_eq!(rig.free(cache, again), Ok(()));
}

fn constructed_objects_keep_their_state<C: Config>() {
    let rig = Rig::<C>::new();
    let args = CacheArgs { ctor: Some(construct), ..CacheArgs::default() };
    let cache = rig.create("constructed", 48, args).expect("a cache");
    let constructed = |object| bytes(object, 48).iter().all(|&byte| byte == 0xC5);
    for round in 0..4 {
        // Zeroing gives way to the constructor.
        let gfp = if round % 2 == 0 { Gfp::KERNEL } else { Gfp::KERNEL | Gfp::ZERO };
        let mut objects: Vec<*mut u8> = (0..300).map(|_| rig.alloc(cache, gfp)).collect();
        assert!(objects.iter().all(|&object| constructed(object)), "round {round}");
        // Through the stacks, and through the slabs' own lists.
        rig.give(cache, objects.drain(..150).collect());
        rig.shrink(cache);
        rig.give(cache, objects);
    }
    let mut bulk = [std::ptr::null_mut(); 100];
    // SAFETY: the cache is alive.
    assert!(unsafe { rig.heap.alloc_bulk(cache, Gfp::KERNEL | Gfp::ZERO, &mut bulk) });
    assert!(bulk.iter().all(|&object| constructed(object)));
    // A cache without one is cleared.
    let plain = rig.cache("plain", 48);
    let dirty = rig.alloc(plain, Gfp::KERNEL);
    fill(dirty, 48, 1);
    assert_eq!(rig.free(plain, dirty), Ok(()));
    assert!(is_zero(rig.alloc(plain, Gfp::KERNEL | Gfp::ZERO), 48));
}

fn slab_is_available<C: Config>() {
    let machine = small_machine();
    let heap = Box::new(Kmem::<_, C>::new(machine.clone()));
    assert!(!heap.slab_is_available() && heap.state() == State::Down);
    assert_eq!(heap.create("early", 8, CacheArgs::default()), Err(CreateError::NoMemory));
    assert!(heap.kmalloc(8, Gfp::KERNEL).is_null());
    // SAFETY: the heap is boxed and shared with nobody yet.
    assert!(unsafe { heap.init() }.is_ok());
    assert!(heap.slab_is_available() && heap.state() == State::Full);
    assert!(!heap.kmalloc(8, Gfp::KERNEL).is_null());
    // SAFETY: as above; a second call is no harm.
    assert!(unsafe { heap.init() }.is_ok());
}
