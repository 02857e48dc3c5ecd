//! Letters that change while a cache is used: new slabs follow, old ones keep their layout.

use kmem_core::cache::{CacheArgs, CacheRef, SwitchError};
use kmem_core::config::{Config, Hardened, KernelConfig, UserConfig};
use kmem_core::debug::{OnError, Which};
use kmem_core::engine::slub::Slub;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::classes::Kind;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::rig::{F, FZPU, P, Rig, U, Z, poke};

const NONE: SlabFlags = SlabFlags::empty();

fn set<C: Config>(rig: &Rig<C>, cache: CacheRef<C::Engine>, letters: SlabFlags) {
    // SAFETY: the cache is alive.
    assert_eq!(unsafe { rig.heap.set_debug_letters(cache, letters) }, Ok(()));
    // SAFETY: as above.
    assert_eq!(unsafe { rig.heap.debug_letters(cache) }, letters);
}

fn errors<C: Config>(rig: &Rig<C>) -> u64 {
    rig.heap.validate_all();
    rig.heap.debug().errors()
}

/// Objects of every choice of letters live side by side in one cache, are used, freed in any order, and found sound.
fn all_choices<C: Config<Engine = Slub>>(first: SlabFlags) {
    let rig = Rig::<C>::new();
    rig.heap.debug().set_on_error(OnError::Warn);
    let before = rig.holdings();
    for size in [20, 64, 500, 5000] {
        let args = CacheArgs { flags: Some(first), ..CacheArgs::default() };
        let cache = rig.create("changing", size, args).expect("a cache");
        let mut objects = rig.take(cache, 30);
        for round in 0..3 {
            for letters in [Z, FZPU, NONE, P, U, F, Z | P, NONE, P | U, Z | U, SlabFlags::TRACE & NONE] {
                set(&rig, cache, letters);
                let mut more = rig.take(cache, 40);
                for &object in &more {
                    assert!(object.addr().is_multiple_of(8));
                    // SAFETY: the object has that many bytes.
                    unsafe { object.write_bytes(round, size) };
                }
                objects.append(&mut more);
                // Every third goes, whatever slab it is in.
                for i in (0..objects.len()).rev().step_by(3) {
                    let object = objects.swap_remove(i);
                    assert_eq!(rig.free(cache, object), Ok(()), "{letters:?}");
                }
                assert_eq!(errors(&rig), 0, "{size} {letters:?}: {}", rig.said());
            }
        }
        let mut sorted: Vec<_> = objects.iter().map(|object| object.addr()).collect();
        sorted.sort_unstable();
        assert!(sorted.windows(2).all(|pair| pair[1] - pair[0] >= size), "no object lies in another");
        assert_eq!(rig.in_use(cache), objects.len() as u64);
        rig.give(cache, objects);
        assert_eq!(rig.in_use(cache), 0);
        assert_eq!(rig.destroy(cache), Ok(true));
        assert_eq!(errors(&rig), 0);
    }
    assert_eq!(rig.holdings(), before, "layouts are given back");
}

#[test]
fn all_choices_side_by_side() {
    all_choices::<KernelConfig>(NONE);
    all_choices::<UserConfig>(NONE);
    all_choices::<Hardened<UserConfig>>(NONE);
}

#[test]
fn all_choices_in_a_cache_made_with_letters() {
    all_choices::<KernelConfig>(FZPU);
    all_choices::<UserConfig>(Z);
}

/// A fault is found by the layout of the object's own slab, whatever the letters are now.
#[test]
fn old_slabs_keep_their_checks() {
    let rig = Rig::<KernelConfig>::new();
    let cache = rig.cache("changing", 64);
    let plain = rig.alloc(cache, Gfp::KERNEL);
    set(&rig, cache, F | Z);
    let zoned = rig.alloc(cache, Gfp::KERNEL);
    set(&rig, cache, F | P);
    let poisoned = rig.alloc(cache, Gfp::KERNEL);
    assert_ne!(rig.slab_of(plain), rig.slab_of(zoned));
    assert_ne!(rig.slab_of(zoned), rig.slab_of(poisoned));
    poke(zoned, 64, 0);
    assert_eq!(rig.free(cache, zoned), Ok(()));
    let said = rig.said();
    assert!(said.contains("Right Redzone overwritten"), "{said}");
    assert_eq!(rig.free(cache, poisoned), Ok(()));
    poke(poisoned, 0, 0);
    set(&rig, cache, F);
    // SAFETY: the cache is alive.
    assert_eq!(unsafe { rig.heap.validate(cache) }.expect("checked").errors, 2);
    assert!(rig.said().contains("Poison overwritten"));
    // The unchecked slab takes its object back as ever.
    assert_eq!(rig.free(cache, plain), Ok(()));
    assert_eq!(rig.heap.debug().errors(), 5);
}

/// F and T are looked at now, in all slabs.
#[test]
fn looks_change_at_once() {
    let rig = Rig::<KernelConfig>::new();
    let args = CacheArgs { flags: Some(Z), ..CacheArgs::default() };
    let cache = rig.create("changing", 64, args).expect("a cache");
    let (a, b) = (rig.alloc(cache, Gfp::KERNEL), rig.alloc(cache, Gfp::KERNEL));
    poke(a, 64, 0);
    assert_eq!(rig.free(cache, a), Ok(()));
    assert_eq!(rig.heap.debug().errors(), 0, "without F nobody looks at a free");
    poke(b, 64, 0);
    set(&rig, cache, F | Z);
    assert_eq!(rig.free(cache, b), Ok(()));
    assert_eq!(rig.heap.debug().errors(), 3);
    rig.said();
    set(&rig, cache, Z | SlabFlags::TRACE);
    let c = rig.alloc(cache, Gfp::KERNEL);
    assert_eq!(rig.free(cache, c), Ok(()));
    let said = rig.said();
    assert!(said.contains("TRACE changing alloc 0x") && said.contains("TRACE changing free 0x"), "{said}");
}

#[test]
fn a_class_of_kmalloc_may_be_watched_for_a_while() {
    let rig = Rig::<UserConfig>::new();
    rig.heap.debug().set_on_error(OnError::Warn);
    let early = rig.kmalloc(50);
    let class = (0..kmem_core::kmalloc::MAX_CLASSES)
        .filter_map(|index| rig.heap.kmalloc_cache(Kind::Normal, index))
        .find(|cache| cache.object_size() == 64)
        .map(CacheRef::new)
        .expect("a class of 64");
    set(&rig, class, FZPU);
    rig.machine.set_calls(&["asker+0x1/0x2"]);
    let watched = rig.kmalloc(50);
    let mut text = String::new();
    // SAFETY: classes live as long as the heap.
    unsafe { rig.heap.write_traces(class, Which::Alloc, &mut text) }.expect("a String takes all");
    assert!(text.starts_with("      1 asker+0x1/0x2 waste=14/14 "), "{text}");
    poke(watched, 50, 0);
    assert_eq!(rig.kfree(watched), Ok(()));
    assert!(rig.said().contains("kmalloc Redzone overwritten"));
    assert_eq!(rig.kfree(early), Ok(()), "made before anybody looked");
    let kept = rig.kmalloc(40);
    set(&rig, class, NONE);
    // As before; what was watched goes home when it is freed, and its noted size is no trap for its next user.
    let blocks: Vec<_> = (0..100).map(|_| rig.kmalloc(64)).collect();
    assert_eq!(rig.kfree(kept), Ok(()));
    blocks.into_iter().for_each(|block| assert_eq!(rig.kfree(block), Ok(())));
    assert_eq!(rig.heap.debug().errors(), 3);
    // SAFETY: classes live as long as the heap.
    assert!(unsafe { class.stack_id() } != 0, "the class has its stacks again");
}

#[test]
fn what_is_refused() {
    let rig = Rig::<KernelConfig>::new();
    let mut own = None;
    rig.heap.for_each_cache(|cache| {
        if cache.name() == "kmem_cache" {
            own = Some(CacheRef::new(cache));
        }
    });
    // SAFETY: the heap's own caches live as long as the heap.
    let refused = unsafe { rig.heap.set_debug_letters(own.expect("the first cache"), FZPU) };
    assert_eq!(refused, Err(SwitchError::Internal));
    let cache = rig.cache("huge", 4 << 20);
    // SAFETY: the cache is alive.
    assert_eq!(unsafe { rig.heap.set_debug_letters(cache, Z) }, Err(SwitchError::Geometry));
    let cache = rig.cache("leaky", 64);
    rig.alloc(cache, Gfp::KERNEL);
    assert!(rig.destroy(cache).is_err());
    // SAFETY: its descriptor stays.
    assert_eq!(unsafe { rig.heap.set_debug_letters(cache, Z) }, Err(SwitchError::Destroyed));
    // Nobody joins a cache whose letters changed.
    let shared = rig.heap.create("shared", 5000, CacheArgs::default()).expect("a cache");
    set(&rig, shared, Z);
    let second = rig.heap.create("second", 5000, CacheArgs::default()).expect("a cache");
    assert!(shared != second);
}

/// Letters change under the feet of threads that allocate, free each other's objects and validate.
#[test]
fn while_threads_work() {
    let rig = Rig::<KernelConfig>::two_nodes();
    let cache = rig.cache("changing", 100);
    let done = AtomicBool::new(false);
    let shared: std::sync::Mutex<Vec<usize>> = std::sync::Mutex::new(Vec::new());
    let (rig, shared, done) = (&rig, &shared, &done);
    std::thread::scope(|scope| {
        for cpu in 0..4 {
            scope.spawn(move || {
                rig.machine.set_cpu(cpu);
                for i in 0..30_000 {
                    let object = rig.alloc(cache, Gfp::KERNEL);
                    assert!(!object.is_null(), "{:?} {}", rig.counts(cache), rig.said());
                    // SAFETY: the object has that many bytes.
                    unsafe { object.write_bytes(0x22, 100) };
                    let other = {
                        let mut shared = shared.lock().expect("nobody panics");
                        shared.push(object.addr());
                        let at = i * 7 % shared.len();
                        (shared.len() > 60).then(|| shared.swap_remove(at))
                    };
                    if let Some(other) = other {
                        let other = other as *mut u8;
                        // SAFETY: the object has that many bytes, and is this thread's now.
                        assert!(unsafe { std::slice::from_raw_parts(other, 100) }.iter().all(|&b| b == 0x22));
                        assert_eq!(rig.free(cache, other), Ok(()));
                    }
                }
                done.store(true, Ordering::Relaxed);
            });
        }
        let mut round = 0;
        while !done.load(Ordering::Relaxed) {
            set(rig, cache, [FZPU, NONE, Z, P | F, NONE, U][round % 6]);
            rig.heap.validate_all();
            round += 1;
        }
    });
    let objects = std::mem::take(&mut *shared.lock().expect("nobody panicked"));
    objects.into_iter().for_each(|object| assert_eq!(rig.free(cache, object as *mut u8), Ok(())));
    assert_eq!((rig.heap.debug().errors(), rig.said().as_str()), (0, ""));
    rig.shrink(cache);
    assert_eq!(rig.in_use(cache), 0);
    assert_eq!(rig.destroy(cache), Ok(true));
}

/// What a node keeps outside of slabs goes back to them with the first letters, whole: its arrays have the size that they were made with.
fn stock_goes_back<C: Config<Engine = Slub>>() {
    let rig = Rig::<C>::new();
    rig.heap.debug().set_on_error(OnError::Warn);
    let before = rig.holdings();
    let cache = rig.cache("stocked", 64);
    for (round, letters) in [FZPU, Z, P | U].into_iter().enumerate() {
        // More than one CPU's stack holds, so that sheaves are left with the node: until the cache has letters for the first time.
        let mut kept = Vec::new();
        for _ in 0..6 {
            let mut objects = rig.take(cache, 3000);
            kept.push(objects.swap_remove(7));
            rig.give(cache, objects);
        }
        assert!(round > 0 || rig.counts(cache).free_barn > 0, "{:?}", rig.counts(cache));
        set(&rig, cache, letters);
        let counts = rig.counts(cache);
        assert_eq!((counts.free_cpu, counts.free_barn), (0, 0), "{letters:?}: {counts:?}");
        rig.give(cache, kept);
        set(&rig, cache, NONE);
    }
    assert_eq!(errors(&rig), 0, "{}", rig.said());
    assert_eq!(rig.destroy(cache), Ok(true));
    assert_eq!(rig.holdings(), before);
}

#[test]
fn what_a_node_keeps_goes_back_to_its_slabs() {
    stock_goes_back::<UserConfig>();
    stock_goes_back::<Hardened<UserConfig>>();
    stock_goes_back::<KernelConfig>();
}

/// What the options' grammar says while the heap is used: of caches that are there, and of those that come.
#[test]
fn options_change_while_the_heap_is_used() {
    let rig = Rig::<KernelConfig>::new();
    let (apple, pear) = (rig.cache("apple", 64), rig.cache("pear", 200));
    rig.cache("huge", 4 << 20);
    let change = |text: &str, joined: &'static &'static str| {
        let mut told = Vec::new();
        rig.heap.change_debug_options(text, joined, &mut |cache| {
            told.push((cache.name.to_owned(), cache.letters, cache.result));
        });
        told.sort_by(|a, b| a.0.cmp(&b.0));
        told
    };
    // SAFETY: the caches are alive.
    let letters = |cache| unsafe { rig.heap.debug_letters(cache) };
    assert_eq!(change("Z,apple,plum", &"Z,apple,plum"), [("apple".to_owned(), Z, Ok(()))]);
    assert_eq!((letters(apple), letters(pear)), (Z, NONE));
    assert_eq!((letters(rig.cache("plum", 72)), letters(rig.cache("fig", 72))), (Z, NONE));
    // Of all caches, the heap's own left out: those that have nothing and are to have nothing are not told of.
    let told = change("-;FZPU,p*", &"-;FZPU,p*");
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!((letters(apple), letters(pear)), (NONE, FZPU));
    let own = |told: &[(String, SlabFlags, _)]| told.iter().any(|(name, ..)| name == "kmem_cache");
    assert!(!own(&told) && !own(&change("U", &"U")));
    assert_eq!((letters(apple), letters(rig.cache("quince", 72))), (U, U));
    assert_eq!(rig.heap.debug().large_letters(), U);
    // One that cannot have them keeps what it has, and the others get theirs.
    let told = change("Z,huge,pear", &"Z,huge,pear;U");
    let refused = Err(SwitchError::Geometry);
    assert_eq!(told, [("huge".to_owned(), Z, refused), ("pear".to_owned(), Z, Ok(()))]);
    assert_eq!((letters(apple), letters(pear)), (U, Z));
    assert_eq!(errors(&rig), 0, "{}", rig.said());
}
