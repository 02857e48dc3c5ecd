//! The pool's rules: how many, in which order, at which addresses; what happens without memory, and when caches die.

use kmem_core::cache::CacheArgs;
use kmem_core::config::{Config, KernelConfig, UserConfig};
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::guard::{Access, EVERY, OBJECTS};
use kmem_core::platform::PAGE_SIZE;
use kmem_sim::Machine;

use crate::rig::{Bed, Rig, Side, for_each_engine};

for_each_engine! {
    no_more_objects_than_pages
    pages_are_reused_last_of_all
    neighbours_are_told_by_distance
    alignment_is_kept
    a_destroyed_cache_leaves_protected_objects
    a_wrong_cache_is_said_and_the_right_one_taken
    nothing_is_taken_before_the_first_sample
    without_memory_there_is_no_pool
    a_page_that_cannot_be_opened_is_not_used
    usercopy_sees_the_object
}

fn no_more_objects_than_pages<C: Config>() {
    let bed = Bed::<C>::kmalloc(64);
    let guard = bed.rig.heap.guard();
    let mut held = Vec::new();
    // From stacks that differ, so that a crowded pool takes them all.
    let calls: Vec<&'static str> =
        (0..2000).map(|i| &*Box::leak(format!("f{i}+0x1/0x2").into_boxed_str())).collect();
    for call in calls {
        bed.rig.machine.set_calls(&[call]);
        held.push(bed.rig.kmalloc(64));
    }
    let stats = guard.stats();
    assert_eq!((stats.live, stats.placed), (OBJECTS as u64, OBJECTS as u64), "{stats:?}");
    assert!(stats.full > 0);
    assert_eq!(held.iter().filter(|object| guard.holds(object.addr())).count(), OBJECTS);
    for object in held {
        assert_eq!(bed.free(object), Ok(()));
    }
    bed.assert_silent();
}

/// A page that was freed comes again after all others that were free then.
fn pages_are_reused_last_of_all<C: Config>() {
    let bed = Bed::<C>::kmalloc(64);
    let page = |object: *mut u8| object.addr() & !(PAGE_SIZE - 1);
    let first = bed.alloc();
    assert_eq!(bed.free(first), Ok(()));
    let mut pages = Vec::new();
    for _ in 0..OBJECTS {
        assert!(bed.rig.machine.is_forbidden(first.addr()));
        let object = bed.alloc();
        pages.push(page(object));
        assert_eq!(bed.free(object), Ok(()));
    }
    assert_eq!(pages.iter().position(|&p| p == page(first)), Some(OBJECTS - 1));
    pages.sort_unstable();
    pages.dedup();
    assert_eq!(pages.len(), OBJECTS);
}

/// Of two objects at an edge the nearer one is named.
fn neighbours_are_told_by_distance<C: Config>() {
    let bed = Bed::<C>::kmalloc(64);
    // Neighbours: one that ends at an edge, and the next, which starts behind it.
    let (mut before, mut behind) = (core::ptr::null_mut::<u8>(), core::ptr::null_mut());
    for _ in 0..100 {
        before = behind;
        behind = bed.alloc();
        if !before.is_null()
            && bed.side(before) == Side::Right
            && bed.side(behind) == Side::Left
            && before.addr() + 64 + PAGE_SIZE == behind.addr()
        {
            break;
        }
    }
    assert_eq!(before.addr() + 64 + PAGE_SIZE, behind.addr(), "chance was against it");
    for (byte, place) in [(before.wrapping_add(64 + 9), "73B right"), (behind.wrapping_sub(9), "9B left")] {
        bed.said();
        assert!(bed.touch(byte, Access::Read));
        let line = format!("Out-of-bounds read at {:#018x} ({place} of guard-#N):", byte.addr());
        assert_eq!(bed.said()[3], line);
        // Closes the edge again.
        let owner = if place.ends_with("left") { behind } else { before };
        assert_eq!(bed.free(owner), Ok(()));
    }
}

fn alignment_is_kept<C: Config>() {
    for align in [8, 16, 64, 256, 4096] {
        let bed = Bed::<C>::cache_with(200, CacheArgs { align, ..CacheArgs::default() });
        let objects: Vec<_> = (0..30).map(|_| bed.alloc()).collect();
        assert!(objects.iter().all(|object| object.addr().is_multiple_of(align)), "{align}");
        assert!(align > 2048 || objects.iter().any(|object| bed.side(*object) == Side::Right), "{align}");
        objects.into_iter().for_each(|object| assert_eq!(bed.free(object), Ok(())));
        bed.assert_silent();
    }
    for size in [16, 32, 64, 512, 2048] {
        let bed = Bed::<C>::kmalloc(size);
        assert!((0..20).all(|_| bed.alloc().addr().is_multiple_of(size)), "{size}");
    }
}

fn a_destroyed_cache_leaves_protected_objects<C: Config>() {
    let bed = Bed::<C>::cache(32);
    let Some(cache) = bed.cache else { return };
    let (live, freed) = (bed.alloc(), bed.alloc());
    assert_eq!(bed.free(freed), Ok(()));
    bed.rig.heap.set_guard_interval(0);
    // What was not guarded is not this test's matter.
    let _ = bed.rig.destroy(cache);
    bed.said();
    let stats = bed.rig.heap.guard().stats();
    assert_eq!((stats.live, stats.orphaned, stats.bugs), (0, 1, 0));
    for object in [live, freed] {
        assert!(bed.touch(object, Access::Write));
        let said = bed.said();
        assert!(said[1].starts_with("BUG: kmem: use-after-free write in "), "{said:?}");
        assert!(said.iter().any(|line| line.ends_with(", cache=test (destroyed)")), "{said:?}");
    }
}

fn a_wrong_cache_is_said_and_the_right_one_taken<C: Config>() {
    let bed = Bed::<C>::cache(32);
    let object = bed.alloc();
    let other = bed.rig.cache("other", 32);
    assert_eq!(bed.rig.free(other, object), Ok(()));
    let said = bed.said().join("\n");
    assert!(said.starts_with("cache_from_obj: Wrong slab cache. other but object 0x"), "{said}");
    assert!(said.ends_with(" is from test"), "{said}");
    assert!(bed.rig.machine.is_forbidden(object.addr()));
}

fn nothing_is_taken_before_the_first_sample<C: Config>() {
    let rig = Rig::<C>::new();
    let held = rig.machine.outstanding().map_bytes;
    rig.heap.set_guard_interval(1_000_000);
    let block = rig.kmalloc(40);
    assert_eq!(rig.machine.outstanding().map_bytes, held);
    assert_eq!(rig.kfree(block), Ok(()));
    assert_eq!(rig.heap.guard().stats(), Default::default());
}

fn without_memory_there_is_no_pool<C: Config>() {
    let rig = Rig::<C>::on(Machine::builder().cpus(1).map_limit(1 << 20).build());
    rig.heap.set_guard_interval(EVERY);
    for _ in 0..200 {
        let block = rig.kmalloc(40);
        assert!(!rig.heap.guard().holds(block.addr()));
        assert_eq!(rig.kfree(block), Ok(()));
    }
    assert_eq!((rig.heap.guard().stats().placed, rig.said().as_str()), (0, ""));
}

fn a_page_that_cannot_be_opened_is_not_used<C: Config>() {
    let bed = Bed::<C>::kmalloc(64);
    let object = bed.alloc();
    assert_eq!(bed.free(object), Ok(()));
    bed.rig.machine.fail_probability(1.0);
    let blocks: Vec<_> = (0..50).map(|_| bed.rig.kmalloc(64)).collect();
    bed.rig.machine.fail_none();
    assert!(blocks.iter().all(|block| !bed.rig.heap.guard().holds(block.addr())));
    assert!(bed.rig.heap.guard().stats().full > 0);
    assert_eq!(bed.rig.heap.guard().stats().live, 0);
    bed.alloc();
    bed.assert_silent();
}

fn usercopy_sees_the_object<C: Config>() {
    let bed = Bed::<C>::kmalloc(60);
    let object = bed.alloc();
    let heap = &bed.rig.heap;
    assert_eq!(heap.check_usercopy(object, 60), Ok(()));
    assert_eq!(heap.check_usercopy(object.wrapping_add(10), 50), Ok(()));
    assert!(heap.check_usercopy(object.wrapping_add(10), 51).is_err());
}

/// Where errors stop the program the first report is the last.
#[test]
fn a_programs_heap_stops() {
    let rig = Rig::<UserConfig>::on(Machine::builder().cpus(1).build());
    rig.heap.set_guard_interval(EVERY);
    let object =
        (0..500).map(|_| rig.kmalloc(40)).find(|b| rig.heap.guard().holds(b.addr())).expect("guarded");
    assert_eq!(rig.kfree(object), Ok(()));
    rig.machine.expect_fatal(|| rig.heap.report_fault(object.addr(), Access::Read, &[0x1234]));
    assert!(rig.machine.is_forbidden(object.addr()));
    rig.machine.expect_fatal(|| rig.kfree(object));
}

/// Pages of a special zone cannot be had from the pool, nor those of a node.
#[test]
fn special_requests_are_not_sampled() {
    let bed = Bed::<KernelConfig>::cache_with(
        64,
        CacheArgs { flags: Some(SlabFlags::CACHE_DMA), ..CacheArgs::default() },
    );
    let cache = bed.cache.expect("made");
    let plain = bed.rig.cache("plain", 64);
    for _ in 0..200 {
        let object = bed.rig.alloc(cache, Gfp::KERNEL);
        assert!(!bed.rig.heap.guard().holds(object.addr()));
        // SAFETY: the cache is alive.
        let object = unsafe { bed.rig.heap.alloc_node(plain, Gfp::KERNEL | Gfp::THISNODE, Some(0)) };
        assert!(!bed.rig.heap.guard().holds(object.addr()));
    }
}

/// Blocks of checked classes are guarded like any other, and what is kept beside the others' is not looked for.
#[test]
fn checked_classes_are_sampled_too() {
    let rig = Rig::<KernelConfig>::raw(Machine::builder().cpus(1).build());
    assert!(rig.heap.set_debug_options("FZPU"));
    assert!(rig.init());
    rig.heap.set_guard_interval(EVERY);
    for size in [1, 40, 64, 1000] {
        let block = rig.kmalloc(size);
        assert!(rig.heap.guard().holds(block.addr()));
        assert_eq!(rig.ksize(block), size);
        let moved = rig.krealloc(block, size + 30, Gfp::KERNEL).expect("a good block");
        assert_eq!(rig.kfree(moved), Ok(()));
    }
    assert_eq!((rig.heap.debug().errors(), rig.said().as_str()), (0, ""));
}
