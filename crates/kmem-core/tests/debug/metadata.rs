//! Damage to what the heap itself keeps of a slab: its counters, and the map of pages; and addresses of another heap.
//!
//! A descriptor's fields are the heap's own. The tests write to them by their places, which `page::desc` fixes.

use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use kmem_core::cache::CacheArgs;
use kmem_core::config::{Config, Hardened, KernelConfig, UserConfig};
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::FreeError;
use kmem_core::page::{Kind, Page};

use crate::rig::{Bad, FZPU, Rig, U};

/// Where a descriptor has what it is, the slab's word, its cache, and its number of objects.
const KIND: usize = 0;
/// Where it has its links.
const NEXT: usize = 8;
const PREV: usize = 12;
const WORD: usize = 16;
const CACHE: usize = 24;
const OBJECTS: usize = 32;
/// Where the word has the number of objects in use.
const IN_USE: u64 = 0xffff << 20;

/// The descriptor of the slab that an object lies in.
fn descriptor(bad: &Bad, object: *mut u8) -> *mut u8 {
    let pages = bad.rig.heap.pages();
    let page: &Page = pages.head(pages.at(object.addr()).expect("memory of the heap"));
    assert_eq!(page.kind(), Kind::Slab);
    std::ptr::from_ref(page).cast_mut().cast()
}

fn objects_of(bad: &Bad, object: *mut u8) -> &AtomicU16 {
    // SAFETY: a field of the descriptor, which is an atomic there too.
    unsafe { AtomicU16::from_ptr(descriptor(bad, object).add(OBJECTS).cast()) }
}

/// Says that so many objects are in use.
fn set_in_use(bad: &Bad, object: *mut u8, count: u64) {
    // SAFETY: as in `objects_of`.
    let word = unsafe { AtomicU64::from_ptr(descriptor(bad, object).add(WORD).cast()) };
    word.store(word.load(Relaxed) & !IN_USE | count << 20, Relaxed);
}

/// Titles and repairs since the last call.
fn titles(bad: &Bad) -> Vec<String> {
    let said = bad.rig.said();
    let bug = |line: &str| line.strip_prefix("BUG ")?.split_once("): ").map(|(_, title)| title.to_owned());
    let fix = |line: &str| line.strip_prefix("FIX ")?.split_once(": ").map(|(_, what)| format!("FIX {what}"));
    said.lines().filter_map(|line| bug(line).or_else(|| fix(line))).collect()
}

/// More objects than fit, more in use than there are: each look reports the slab, nothing goes back to it, and nothing is taken from it
/// any more. With too many in use it counts as full; with too many objects it is given up by who would take one.
#[test]
fn counters_out_of_range() {
    for (title, isolated) in [("objects 27 > max 26", true), ("inuse 27 > max 26", false)] {
        let bad = Bad::new("miscounted");
        let object = bad.filled();
        if isolated {
            objects_of(&bad, object).store(27, Relaxed);
        } else {
            set_in_use(&bad, object, 27);
        }
        for _ in 0..2 {
            assert_eq!(bad.validate().errors, 1);
            assert_eq!(titles(&bad), [title]);
        }
        bad.free(object);
        let said = titles(&bad);
        assert!(said.len() == 2 && said[0] == title && said[1].ends_with(" not freed"), "{said:?}");
        let other = bad.alloc();
        let expected: &[&str] = if isolated { &[title, "FIX Marking all objects used"] } else { &[] };
        assert_eq!(titles(&bad), expected);
        assert_ne!(bad.rig.slab_start(other), bad.rig.slab_start(object));
        bad.free(other);
        assert_eq!(bad.validate().errors, u64::from(!isolated), "{title}");
        // The cache works on.
        bad.rig.said();
        for object in (0..100).map(|_| bad.filled()).collect::<Vec<_>>() {
            bad.free(object);
        }
        assert_eq!(bad.rig.said(), "", "{title}");
    }
}

/// Fewer objects than the slab was made with: the number is set right, and nothing is lost.
#[test]
fn a_wrong_number_of_objects_is_adjusted() {
    let bad = Bad::new("miscounted");
    let objects: Vec<_> = (0..26).map(|_| bad.filled()).collect();
    bad.free(objects[0]);
    objects_of(&bad, objects[0]).store(25, Relaxed);
    bad.validate();
    let expected = ["Wrong number of objects. Found 25 but should be 26", "FIX Number of objects adjusted"];
    assert_eq!(titles(&bad), expected);
    assert_eq!(objects_of(&bad, objects[0]).load(Relaxed), 26);
    assert_eq!(bad.validate().errors, 0, "once was enough");
    objects[1..].iter().for_each(|&object| bad.free(object));
    assert_eq!((bad.rig.in_use(bad.cache), bad.rig.said().as_str()), (0, ""));
    assert!(bad.destroy());
}

/// The map of pages says that a slab is none, or is nobody's: nothing there can be freed, and that is said.
#[test]
fn a_wrong_entry_in_the_map_of_pages() {
    let bad = Bad::new("unmapped");
    let object = bad.filled();
    let place = descriptor(&bad, object);
    // SAFETY: as in `objects_of`.
    let (kind, cache) =
        unsafe { (AtomicU8::from_ptr(place.add(KIND)), AtomicPtr::<u8>::from_ptr(place.add(CACHE).cast())) };
    let refused = || {
        for refused in [bad.rig.free(bad.cache, object), bad.rig.kfree(object)] {
            assert_eq!(refused, Err(FreeError::NotObject(object.addr())));
        }
        let said = bad.rig.said();
        assert!(said.contains("virt_to_cache: Object is not a Slab page!\n"), "{said}");
    };
    let before = kind.swap(Kind::Allocated as u8, Relaxed);
    refused();
    kind.store(before, Relaxed);
    let before = cache.swap(std::ptr::null_mut(), Relaxed);
    refused();
    cache.store(before, Relaxed);
    // Nothing was changed.
    bad.free(object);
    bad.assert_sound();
    assert_eq!(bad.rig.in_use(bad.cache), 0);
}

/// The map of pages says that a slab is another cache's: who finds it on its own cache's list says so, and corrects it.
#[test]
fn a_slab_of_another_cache() {
    let bad = Bad::new("mistaken");
    let other = bad.rig.cache("other", 64);
    // SAFETY: it is alive.
    let other = std::ptr::from_ref(unsafe { other.get() }).cast_mut().cast::<u8>();
    let object = bad.filled();
    // SAFETY: as in `objects_of`.
    let cache = unsafe { AtomicPtr::<u8>::from_ptr(descriptor(&bad, object).add(CACHE).cast()) };
    let before = cache.swap(other, Relaxed);
    assert!(bad.validate().errors > 0);
    let expected = ["Slab of another cache by the map of pages", "FIX Map of pages adjusted"];
    assert_eq!(titles(&bad), expected);
    assert_eq!(cache.load(Relaxed), before);
    bad.free(object);
    bad.assert_sound();
}

/// A block of one heap is foreign to another, whatever that one checks.
fn another_heaps<C: Config>() {
    let (mine, other) = (Rig::<C>::new(), Rig::<C>::raw(kmem_sim::Machine::builder().build()));
    assert!(other.heap.set_debug_options("FZPU") && other.init());
    let cache = other.cache("own", 64);
    for size in [10, 1000, 20_000, 5 << 20] {
        let block = mine.heap.kvmalloc(size, kmem_core::gfp::Gfp::KERNEL);
        let foreign = Err(FreeError::Foreign(block.addr()));
        assert_eq!(other.kfree(block), foreign, "{size}");
        assert_eq!(other.free(cache, block), foreign, "{size}");
        assert!(other.heap.ksize(block).is_err(), "{size}");
        assert_eq!(mine.kfree(block), Ok(()), "{size}: it is still its owner's");
    }
    assert_eq!((other.heap.validate_all().errors, mine.said().as_str()), (0, ""));
}

#[test]
fn blocks_of_another_heap_are_foreign() {
    another_heaps::<KernelConfig>();
    another_heaps::<UserConfig>();
}

/// A write after a free in bulk is found like any other.
#[test]
fn objects_freed_in_bulk_are_watched() {
    let bad = Bad::new("bulk");
    let mut objects = [std::ptr::null_mut(); 20];
    // SAFETY: the cache is alive, and the objects are the test's own.
    unsafe {
        assert!(bad.rig.heap.alloc_bulk(bad.cache, kmem_core::gfp::Gfp::KERNEL, &mut objects));
        let kept = objects;
        assert_eq!(bad.rig.heap.free_bulk(Some(bad.cache), &mut objects), Ok(()));
        objects = kept;
    }
    crate::rig::poke(objects[11], 30, 1);
    assert_eq!(bad.validate().errors, 2);
    let said = titles(&bad);
    assert!(said[0] == "Poison overwritten" && said[1].starts_with("FIX Restoring Poison"), "{said:?}");
    bad.assert_sound();
}

/// Objects that may be read after their free stay what they were: no letter writes to them, and their slab stays.
#[test]
fn typesafe_objects_stay_readable() {
    let flags = FZPU | kmem_core::flags::SlabFlags::TYPESAFE_BY_RCU;
    for letters in [flags, flags - U, flags - FZPU] {
        let bad = Bad::with("typesafe", 64, letters);
        let objects: Vec<_> = (0..200).map(|_| bad.filled()).collect();
        for &object in &objects {
            assert_eq!(bad.rig.free(bad.cache, object), Ok(()));
        }
        for &object in &objects {
            let seen = crate::support::bytes(object, 64);
            assert!(seen.iter().all(|&byte| byte == 0x11), "{letters:?}: {seen:x?}");
        }
        // Legal, so nobody says a word.
        assert_eq!((bad.errors(), bad.rig.said().as_str()), (0, ""), "{letters:?}");
    }
}

/// A link of a slab to the next on its list, or to the one before.
fn link(slab: *mut u8, which: usize) -> &'static AtomicU32 {
    // SAFETY: a field of a descriptor, which is an atomic there too; the machine outlives the test's use of it.
    unsafe { AtomicU32::from_ptr(slab.add(which).cast()) }
}

/// Eight slabs on the list of those with free objects, each by the three objects of it that are in use: more than a cache keeps when they are empty.
fn eight_slabs(bad: &Bad) -> Vec<Vec<*mut u8>> {
    let objects: Vec<_> = (0..8 * 26).map(|_| bad.filled()).collect();
    let mut slabs: Vec<Vec<*mut u8>> = Vec::new();
    for object in objects {
        let start = bad.rig.slab_start(object);
        match slabs.iter_mut().find(|slab| bad.rig.slab_start(slab[0]) == start) {
            Some(slab) => slab.push(object),
            None => slabs.push(vec![object]),
        }
    }
    assert_eq!(slabs.iter().map(Vec::len).collect::<Vec<_>>(), [26; 8]);
    for slab in &mut slabs {
        slab.drain(3..).for_each(|object| bad.free(object));
    }
    slabs
}

/// A slab that is taken off its list twice, and links that lead elsewhere, out of the heap's memory too: nobody follows them. The list is
/// mended, once, and the cache works on.
#[test]
fn a_slab_is_unlinked_twice() {
    for damage in ["", "unlinked", "next", "prev", "foreign"] {
        let bad = Bad::new("unlinked");
        let slabs = eight_slabs(&bad);
        // One in the middle has neighbours.
        let middle = slabs.iter().position(|slab| {
            let place = descriptor(&bad, slab[0]);
            link(place, NEXT).load(Relaxed) != 0 && link(place, PREV).load(Relaxed) != 0
        });
        let slab = &slabs[middle.expect("a slab between two")];
        let place = descriptor(&bad, slab[0]);
        let (next, prev) = (link(place, NEXT).load(Relaxed), link(place, PREV).load(Relaxed));
        let of = |number: u32| {
            let base = bad.rig.heap.pages().base_address();
            let page = bad.rig.heap.pages().at(base + ((number as usize - 1) << 12)).expect("a slab");
            std::ptr::from_ref(page).cast_mut().cast::<u8>()
        };
        match damage {
            "unlinked" => {
                link(of(prev), NEXT).store(next, Relaxed);
                link(of(next), PREV).store(prev, Relaxed);
            }
            "next" => link(place, NEXT).store(prev, Relaxed),
            "prev" => link(place, PREV).store(0, Relaxed),
            "foreign" => link(place, NEXT).store(u32::MAX, Relaxed),
            _ => {}
        }
        bad.rig.said();
        // All its objects come back: the slab goes off the list, to be freed.
        slab.iter().for_each(|&object| bad.free(object));
        bad.rig.shrink(bad.cache);
        let expected: &[&str] =
            if damage.is_empty() { &[] } else { &["Slab list corrupt", "FIX List of slabs mended"] };
        assert_eq!(titles(&bad), expected, "{damage}");
        for object in (0..100).map(|_| bad.filled()).collect::<Vec<_>>() {
            bad.free(object);
        }
        assert_eq!(bad.rig.said(), "", "{damage}");
        if damage.is_empty() {
            bad.assert_sound();
        }
    }
}

/// The same in a hardened heap, which stops: at the slab's neighbour, or at itself.
#[test]
fn a_damaged_list_stops_a_hardened_heap() {
    for damage in [None, Some(NEXT), Some(PREV)] {
        let rig = Rig::<Hardened<UserConfig>>::new();
        let cache = rig.create("listed", 1000, CacheArgs::default()).expect("a cache");
        let objects: Vec<_> = (0..400).map(|_| rig.alloc(cache, Gfp::KERNEL)).collect();
        for &object in objects.iter().skip(1).step_by(2) {
            assert_eq!(rig.free(cache, object), Ok(()));
        }
        rig.shrink(cache);
        let pages = rig.heap.pages();
        let place = |object: &*mut u8| {
            let page: &Page = pages.head(pages.at(object.addr()).expect("memory of the heap"));
            std::ptr::from_ref(page).cast_mut().cast::<u8>()
        };
        let listed = |slab: &*mut u8| [NEXT, PREV].iter().all(|&which| link(*slab, which).load(Relaxed) != 0);
        let slab = objects.iter().step_by(2).map(place).find(listed).expect("a slab between two");
        match damage {
            None => {
                rig.shrink(cache);
                assert_eq!(rig.said(), "");
            }
            Some(which) => {
                link(slab, which).store(u32::MAX, Relaxed);
                let said = rig.machine.expect_fatal(|| rig.shrink(cache));
                let start = "kmem: the list of slabs of cache listed is damaged at 0x";
                assert!(
                    said.trim_start().starts_with(start) && said.lines().count() == 1,
                    "{damage:?}: {said}"
                );
            }
        }
    }
}
