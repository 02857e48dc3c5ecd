//! Every detection three times: it fires, with its title and its repair; the nearest legal program is silent;
//! and the state afterwards is as documented.

use kmem_core::cache::CacheArgs;
use kmem_core::config::{KernelConfig, UserConfig};
use kmem_core::debug::{Error, OnError};
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::FreeError;
use kmem_sim::Machine;
use std::sync::Mutex;

use crate::rig::{Bad, F, FZPU, P, Rig, Z, peek, poke, word};

/// Bytes from one object of 56 bytes to the next, and from the object to its free pointer, under F Z P U.
const SLOT: isize = 152;
const LINK: usize = 64;

/// What a fault leaves behind.
#[derive(Clone, Copy, PartialEq)]
enum After {
    /// Nothing: all was repaired, and all objects are free.
    Repaired,
    /// So many objects that count as in use for ever.
    Leaked(u64),
    /// A slab that is never used again: all its objects count as in use.
    Isolated,
}

struct Case {
    name: &'static str,
    /// The titles and repairs, in order, as far as they are the same everywhere.
    says: &'static [&'static str],
    fault: fn(&Bad),
    /// The nearest program without a fault.
    legal: fn(&Bad),
    after: After,
}

/// Two objects side by side.
fn two(bad: &Bad) -> (*mut u8, *mut u8) {
    let (first, second) = (bad.filled(), bad.filled());
    assert_eq!(second.addr() - first.addr(), SLOT.unsigned_abs());
    (first, second)
}

fn free_both(bad: &Bad, objects: (*mut u8, *mut u8)) {
    bad.free(objects.0);
    bad.free(objects.1);
}

/// An object with `fault` written to it or around it, then freed.
fn used(bad: &Bad, at: isize, value: u8) {
    let object = bad.filled();
    poke(object, at, value);
    bad.free(object);
}

/// The same after the free; then the object is asked for again.
fn freed(bad: &Bad, at: isize, value: u8) {
    let object = bad.filled();
    bad.free(object);
    poke(object, at, value);
    let other = bad.alloc();
    bad.free(other);
}

const CASES: &[Case] = &[
    Case {
        name: "one byte past the end",
        says: &["BUG: Right Redzone overwritten", "FIX: Restoring Right Redzone", "FIX: Object at"],
        fault: |bad| used(bad, 56, 0),
        legal: |bad| used(bad, 55, 0),
        after: After::Leaked(1),
    },
    Case {
        name: "one byte before the start",
        says: &["BUG: Left Redzone overwritten", "FIX: Restoring Left Redzone", "FIX: Object at"],
        fault: |bad| used(bad, -1, 0),
        legal: |bad| used(bad, 0, 0),
        after: After::Leaked(1),
    },
    Case {
        name: "the whole right red zone",
        says: &["BUG: Right Redzone overwritten", "FIX: Restoring Right Redzone", "FIX: Object at"],
        fault: |bad| {
            let object = bad.filled();
            (56..64).for_each(|at| poke(object, at, 0x41));
            bad.free(object);
        },
        legal: |bad| used(bad, 8, 0x41),
        after: After::Leaked(1),
    },
    Case {
        name: "far past the end, into the next object's left red zone",
        says: &["BUG: Left Redzone overwritten", "FIX: Restoring Left Redzone", "FIX: Object at"],
        fault: |bad| {
            let objects = two(bad);
            poke(objects.0, SLOT - 1, 0);
            free_both(bad, objects);
        },
        legal: |bad| {
            let objects = two(bad);
            poke(objects.1, 0, 0);
            free_both(bad, objects);
        },
        after: After::Leaked(1),
    },
    Case {
        name: "padding behind the metadata",
        says: &["BUG: Object padding overwritten", "FIX: Restoring Object padding"],
        fault: |bad| used(bad, 136, 0),
        legal: |bad| used(bad, 7, 0),
        after: After::Repaired,
    },
    Case {
        name: "the tail of the slab",
        says: &["BUG: Padding overwritten. ", "FIX: Restoring slab padding"],
        fault: |bad| {
            let object = bad.filled();
            poke(bad.rig.slab_start(object), 4095, 0);
            bad.free(object);
        },
        legal: |bad| used(bad, 1, 0),
        after: After::Repaired,
    },
    Case {
        name: "first byte after the free",
        says: &["BUG: Poison overwritten", "FIX: Restoring Poison", "FIX: Marking all objects used"],
        fault: |bad| freed(bad, 0, 1),
        legal: |bad| freed(bad, 0, 0x6b),
        after: After::Isolated,
    },
    Case {
        name: "a byte in the middle after the free",
        says: &["BUG: Poison overwritten", "FIX: Restoring Poison", "FIX: Marking all objects used"],
        fault: |bad| freed(bad, 30, 1),
        legal: |bad| freed(bad, 30, 0x6b),
        after: After::Isolated,
    },
    Case {
        name: "last byte after the free",
        says: &["BUG: End Poison overwritten", "FIX: Restoring End Poison", "FIX: Marking all objects used"],
        fault: |bad| freed(bad, 55, 1),
        legal: |bad| freed(bad, 55, 0xa5),
        after: After::Isolated,
    },
    Case {
        name: "past the end after the free",
        says: &[
            "BUG: Right Redzone overwritten",
            "FIX: Restoring Right Redzone",
            "FIX: Marking all objects used",
        ],
        fault: |bad| freed(bad, 56, 1),
        legal: |bad| freed(bad, 56, 0xbb),
        after: After::Isolated,
    },
    Case {
        name: "the free pointer, to nowhere",
        says: &["BUG: Freepointer corrupt", "FIX: Marking all objects used"],
        fault: |bad| freed(bad, LINK as isize, 1),
        legal: |bad| freed(bad, 2, 0x6b),
        after: After::Isolated,
    },
    Case {
        name: "the free pointer, while in use",
        says: &["BUG: Left Redzone overwritten", "FIX: Restoring Left Redzone", "FIX: Object at"],
        // The link of an object in use is written anew when it is freed: only what is around it tells.
        fault: |bad| {
            let object = bad.filled();
            poke(object, LINK as isize, 1);
            poke(object, -8, 1);
            bad.free(object);
        },
        legal: |bad| used(bad, LINK as isize, 1),
        after: After::Leaked(1),
    },
    Case {
        name: "freed twice at once, another in use",
        says: &[
            "BUG: Object already free",
            "FIX: Object at",
            "BUG: Wrong object count. Counter is 1 but counted were 25",
            "FIX: Object count adjusted",
        ],
        fault: |bad| {
            let (first, second) = two(bad);
            bad.free(first);
            bad.free(first);
            bad.free(second);
        },
        legal: |bad| {
            let objects = two(bad);
            bad.free(objects.0);
            let again = bad.filled();
            assert_eq!(again, objects.0);
            free_both(bad, objects);
        },
        after: After::Leaked(24),
    },
    Case {
        name: "freed twice with another free between",
        says: &["BUG: Object already free", "FIX: Object at"],
        fault: |bad| {
            let (first, second) = two(bad);
            let third = bad.filled();
            bad.free(first);
            bad.free(second);
            bad.free(first);
            let _ = third;
        },
        legal: |bad| {
            let objects = two(bad);
            let third = bad.filled();
            free_both(bad, objects);
            bad.free(third);
        },
        after: After::Leaked(u64::MAX),
    },
    Case {
        name: "freed twice, nothing else in use",
        says: &["BUG: Slab has 0 allocated objects but 1 are to be freed", "FIX: Object at"],
        fault: |bad| {
            let object = bad.filled();
            bad.free(object);
            bad.free(object);
        },
        legal: |bad| used(bad, 0, 0),
        after: After::Leaked(u64::MAX),
    },
    Case {
        name: "an address inside an object",
        says: &["BUG: Invalid object pointer 0x", "FIX: Object at"],
        fault: |bad| {
            let object = bad.filled();
            let refused = bad.rig.free(bad.cache, object.wrapping_add(1));
            assert!(matches!(refused, Err(FreeError::Interior { .. })));
            bad.free(object);
        },
        legal: |bad| used(bad, 0, 0),
        after: After::Repaired,
    },
    Case {
        name: "an address in the tail of the slab",
        says: &["BUG: Invalid object pointer 0x", "FIX: Object at"],
        fault: |bad| {
            let object = bad.filled();
            let tail = bad.rig.slab_start(object).wrapping_add(4000);
            assert!(matches!(bad.rig.free(bad.cache, tail), Err(FreeError::Interior { .. })));
            bad.free(object);
        },
        legal: |bad| used(bad, 0, 0),
        after: After::Repaired,
    },
];

/// Titles and repairs in a text, shortened to what the cases write down.
fn titles(said: &str) -> Vec<String> {
    said.lines()
        .filter_map(|line| {
            if let Some(rest) = line.strip_prefix("BUG ") {
                return rest.split_once("): ").map(|(_, title)| format!("BUG: {title}"));
            }
            let (_, what) = line.strip_prefix("FIX ")?.split_once(": ")?;
            Some(format!("FIX: {what}"))
        })
        .collect()
}

#[test]
fn each_fires_and_says_what_and_what_was_done() {
    for case in CASES {
        let bad = Bad::new("faulty");
        (case.fault)(&bad);
        let said = bad.rig.said();
        let titles = titles(&said);
        assert_eq!(titles.len(), case.says.len(), "{}: {titles:#?}", case.name);
        for (title, expected) in titles.iter().zip(case.says) {
            assert!(title.starts_with(expected), "{}: {title} is not {expected}", case.name);
        }
        assert_eq!(bad.errors(), case.says.len() as u64, "{}: each is one error", case.name);
    }
}

#[test]
fn the_nearest_legal_program_is_silent() {
    for case in CASES {
        let bad = Bad::new("sound");
        (case.legal)(&bad);
        bad.validate();
        assert_eq!((bad.errors(), bad.rig.said().as_str()), (0, ""), "{}", case.name);
        assert_eq!(bad.rig.in_use(bad.cache), 0, "{}", case.name);
        assert!(bad.destroy(), "{}", case.name);
    }
}

#[test]
fn the_state_afterwards_is_as_documented() {
    for case in CASES {
        let bad = Bad::new("faulty");
        (case.fault)(&bad);
        bad.rig.said();
        let objects = 26;
        match case.after {
            After::Repaired => assert_eq!(bad.rig.in_use(bad.cache), 0, "{}", case.name),
            After::Leaked(u64::MAX) => {}
            After::Leaked(count) => assert_eq!(bad.rig.in_use(bad.cache), count, "{}", case.name),
            After::Isolated => assert_eq!(bad.rig.in_use(bad.cache), objects, "{}", case.name),
        }
        // A second look finds no more than the count that a cut chain left behind; a third nothing.
        assert!(bad.validate().errors <= 2, "{}: {}", case.name, bad.rig.said());
        assert_eq!(bad.validate().errors, 0, "{}", case.name);
        // The cache works on.
        bad.assert_sound();
    }
}

/// Objects of an isolated slab cannot be given back any more; that is said, and does no harm.
#[test]
fn an_isolated_slab_takes_nothing_back() {
    let bad = Bad::new("faulty");
    let (first, second) = two(&bad);
    bad.free(first);
    poke(first, 3, 0);
    let third = bad.alloc();
    assert_ne!(bad.rig.slab_start(third), bad.rig.slab_start(first));
    bad.rig.said();
    bad.free(second);
    let said = titles(&bad.rig.said());
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!(said[0], "BUG: Slab disabled since SLUB metadata consistency check failed");
    assert!(said[1].ends_with(" not freed"));
    bad.free(third);
    bad.assert_sound();
}

/// A link that leads back into the chain would be followed for ever.
#[test]
fn a_cycle_is_found() {
    let bad = Bad::new("faulty");
    let (first, second) = two(&bad);
    free_both(&bad, (first, second));
    // The chain is second, first, the rest: now first leads to second.
    // SAFETY: a word of the slab.
    unsafe { word(first, LINK).write(second as u64) };
    assert_eq!(bad.validate().errors, 2);
    assert_eq!(titles(&bad.rig.said()), ["BUG: Freelist cycle detected", "FIX: Freelist cleared"]);
    bad.assert_sound();
}

/// Poison alone, and red zones alone, without the thorough checks: a damaged link is still not followed.
#[test]
fn without_f_a_damaged_link_still_isolates_the_slab() {
    for letters in [P, P | Z, SlabFlags::STORE_USER] {
        let bad = Bad::with("faulty", 64, letters);
        let object = bad.alloc();
        bad.free(object);
        // SAFETY: the cache is alive.
        let link = unsafe { bad.cache.get() }.geometry().offset;
        // SAFETY: a word of the slab.
        unsafe { word(object, link).write(0x4141_4141_4141_4141) };
        let other = bad.alloc();
        assert_ne!(bad.rig.slab_start(other), bad.rig.slab_start(object));
        assert_eq!(titles(&bad.rig.said()), ["BUG: Freepointer corrupt", "FIX: Marking all objects used"]);
        bad.free(other);
        assert_eq!(bad.validate().errors, 0);
    }
}

/// The wrong cache: said once, the object goes home, both caches are sound.
#[test]
fn the_wrong_cache() {
    let bad = Bad::new("home");
    let other = Bad::create(&bad.rig, "other", 56, F | Z);
    let object = bad.filled();
    assert_eq!(bad.rig.free(other, object), Ok(()));
    let said = bad.rig.said();
    assert!(said.contains("cache_from_obj: Wrong slab cache. other but object is from home\n"), "{said}");
    assert_eq!(bad.errors(), 1);
    assert_eq!((bad.rig.in_use(bad.cache), bad.rig.in_use(other)), (0, 0));
    bad.assert_sound();
}

/// A fault on one CPU, found on another; and frees from everywhere.
#[test]
fn across_cpus() {
    let rig = Rig::<KernelConfig>::two_nodes();
    let cache = Bad::create(&rig, "remote", 56, FZPU);
    let objects = rig.machine.on_cpu(0, || rig.take(cache, 60));
    for (i, &object) in objects.iter().enumerate() {
        rig.machine.on_cpu(i % 4, || assert_eq!(rig.free(cache, object), Ok(())));
    }
    assert_eq!((rig.heap.validate_all().errors, rig.said().as_str()), (0, ""));
    let (first, second) =
        rig.machine.on_cpu(1, || (rig.alloc(cache, Gfp::KERNEL), rig.alloc(cache, Gfp::KERNEL)));
    rig.machine.on_cpu(2, || assert_eq!(rig.free(cache, first), Ok(())));
    rig.machine.on_cpu(3, || assert_eq!(rig.free(cache, first), Ok(())));
    assert!(titles(&rig.said())[0].starts_with("BUG: Object already free"));
    rig.machine.on_cpu(0, || assert_eq!(rig.free(cache, second), Ok(())));
}

/// Threads that allocate, free each other's objects, and validate meanwhile, find nothing wrong.
#[test]
fn threads_find_nothing_wrong() {
    let rig = Rig::<KernelConfig>::two_nodes();
    let cache = Bad::create(&rig, "busy", 56, FZPU);
    let shared: Mutex<Vec<usize>> = Mutex::new(Vec::new());
    let (rig, shared) = (&rig, &shared);
    std::thread::scope(|scope| {
        for cpu in 0..4 {
            scope.spawn(move || {
                rig.machine.set_cpu(cpu);
                for i in 0..1500 {
                    let object = rig.alloc(cache, Gfp::KERNEL);
                    // SAFETY: the object has that many bytes.
                    unsafe { object.write_bytes(0x11, 56) };
                    let other = {
                        let mut shared = shared.lock().expect("nobody panics");
                        shared.push(object.addr());
                        let at = i * 7 % shared.len();
                        (shared.len() > 40).then(|| shared.swap_remove(at))
                    };
                    if let Some(other) = other {
                        assert_eq!(rig.free(cache, other as *mut u8), Ok(()));
                    }
                    if i % 500 == cpu {
                        // SAFETY: the cache is alive.
                        let found = unsafe { rig.heap.validate(cache) }.expect("checked");
                        assert_eq!(found.errors, 0);
                    }
                }
            });
        }
    });
    for &object in shared.lock().expect("nobody panicked").iter() {
        assert_eq!(rig.free(cache, object as *mut u8), Ok(()));
    }
    assert_eq!((rig.heap.debug().errors(), rig.said().as_str()), (0, ""));
    assert_eq!(rig.in_use(cache), 0);
    assert_eq!(rig.destroy(cache), Ok(true));
}

/// Bulk calls are checked object by object.
#[test]
fn bulk_calls() {
    let bad = Bad::new("bulk");
    let mut objects = [std::ptr::null_mut(); 100];
    // SAFETY: the cache is alive.
    assert!(unsafe { bad.rig.heap.alloc_bulk(bad.cache, Gfp::KERNEL, &mut objects) });
    assert_eq!(bad.validate().slabs, 4);
    poke(objects[50], 56, 1);
    // SAFETY: the test's own objects.
    assert_eq!(unsafe { bad.rig.heap.free_bulk(Some(bad.cache), &mut objects) }, Ok(()));
    assert_eq!(bad.errors(), 3);
    assert_eq!(bad.rig.in_use(bad.cache), 1);
    bad.assert_sound();
}

/// There is no memory: nothing is reported, and nothing is lost.
#[test]
fn without_memory() {
    let rig = Rig::<KernelConfig>::on(crate::support::small_machine());
    let cache = Bad::create(&rig, "poor", 56, FZPU);
    let runs = rig.exhaust();
    let mut got = Vec::new();
    loop {
        let object = rig.alloc(cache, Gfp::KERNEL | Gfp::NOWARN);
        if object.is_null() {
            break;
        }
        got.push(object);
    }
    assert!(got.len() < 200);
    rig.relent(runs);
    rig.give(cache, got);
    assert_eq!(rig.heap.debug().errors(), 0);
    assert_eq!(rig.in_use(cache), 0);
}

static SEEN: Mutex<Vec<(Error, String, String)>> = Mutex::new(Vec::new());

/// The hook sees each error, printed or not.
#[test]
fn the_hook_sees_each_error() {
    let bad = Bad::new("hooked");
    bad.rig.heap.debug().set_hook(Some(|what, cache, text| {
        SEEN.lock().expect("one thread").push((what, cache.to_owned(), text.to_string()));
    }));
    bad.rig.heap.debug().set_quiet(true);
    used(&bad, 56, 1);
    bad.rig.heap.debug().set_hook(None);
    used(&bad, 56, 1);
    let seen = SEEN.lock().expect("one thread");
    let kinds: Vec<Error> = seen.iter().map(|(what, ..)| *what).collect();
    assert_eq!(kinds, [Error::Bug, Error::Fix, Error::Fix]);
    assert!(seen.iter().all(|(_, cache, _)| cache == "hooked"));
    assert_eq!(seen[0].2, "Right Redzone overwritten");
    assert_eq!(bad.rig.said(), "");
}

/// Programs stop at the first report, unless they were told to go on.
#[test]
fn what_happens_after_a_report() {
    let fault = |rig: &Rig<UserConfig>| {
        let args = CacheArgs { flags: Some(FZPU), ..CacheArgs::default() };
        let cache = rig.create("faulty", 56, args).expect("a cache");
        let object = rig.alloc(cache, Gfp::KERNEL);
        poke(object, 56, 0);
        assert_eq!(rig.free(cache, object), Ok(()));
        peek(object, 56)
    };
    let rig = Rig::<UserConfig>::new();
    let said = rig.machine.expect_fatal(|| fault(&rig));
    assert_eq!(
        titles(&said),
        ["BUG: Right Redzone overwritten"],
        "the report is whole, nothing was repaired"
    );
    assert!(said.contains("\nRedzone  ") && said.contains("\nCall Trace:\n"), "{said}");
    let rig = Rig::<UserConfig>::new();
    rig.heap.debug().set_on_error(OnError::Warn);
    assert_eq!(fault(&rig), 0xcc);
    let kernel = Rig::<KernelConfig>::on(Machine::builder().build());
    kernel.heap.debug().set_on_error(OnError::Abort);
    let cache = Bad::create(&kernel, "faulty", 56, FZPU);
    let object = kernel.alloc(cache, Gfp::KERNEL);
    poke(object, 56, 0);
    kernel.machine.expect_fatal(|| kernel.free(cache, object));
}
