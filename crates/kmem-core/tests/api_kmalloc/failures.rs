//! Every request for memory that the family makes of the platform is refused once, and once from then on for good:
//! what was had stays sound, what was not had leaves nothing behind.

use std::ptr::null_mut;

use kmem_core::cache::CacheArgs;
use kmem_core::config::Config;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::buckets::BucketArgs;
use kmem_core::kmalloc::classes::ClassSet;
use kmem_core::platform::BLOCK_PAGES;
use kmem_sim::{Machine, Rng};

use crate::support::{QUIET, Rig, fill, filled, for_each_config, is_zero};

for_each_config! {
    each_request_for_memory_refused_once
    each_request_for_memory_refused_and_all_later_ones
}

crate::support::for_slob! {
    each_request_for_memory_refused_once
    each_request_for_memory_refused_and_all_later_ones
}

fn machine() -> kmem_sim::Machine {
    builder().build()
}

fn builder() -> kmem_sim::Builder {
    Machine::builder().cpus(2).memory_per_node(16 * BLOCK_PAGES)
}

/// How many requests for memory there are at least. SLAB has no arrays with the order of a cache's objects; where blocks have
/// headers, those of 9000 bytes lie in slabs.
fn requests<C: Config>() -> u64 {
    if crate::support::is_slub::<C>() && C::Classes::HEADED == 0 { 8 } else { 7 }
}

fn each_request_for_memory_refused_once<C: Config>() {
    let clean = Rig::<C>::on(machine()).holdings();
    let mut complete = 0;
    let runs = builder().each_failure(|machine| {
        let rig = scenario::<C>(machine, &mut complete);
        machine.fail_none();
        rig.warm();
        assert_eq!(rig.holdings(), clean);
    });
    assert!(runs >= requests::<C>(), "only {runs} requests were made");
    assert!(complete > 0, "some refusals have a way round");
}

fn each_request_for_memory_refused_and_all_later_ones<C: Config>() {
    let clean = Rig::<C>::on(machine()).holdings();
    let mut complete = 0;
    let runs = builder().each_exhaustion(|machine| {
        let rig = scenario::<C>(machine, &mut complete);
        machine.fail_none();
        rig.warm();
        assert_eq!(rig.holdings(), clean);
        // Small requests succeed again, and so do large ones.
        for size in [8, 1000, 100_000, 6 << 20] {
            let block = rig.heap.kvmalloc(size, Gfp::KERNEL);
            assert!(!block.is_null(), "{size}");
            assert_eq!(rig.kfree(block), Ok(()));
        }
    });
    assert!(runs >= requests::<C>(), "only {runs} requests were made");
    assert!(u64::from(complete) < runs, "most runs go without something");
}

/// Something of everything. Each step may fail; what it got is checked, and freed at the end.
fn scenario<C: Config>(machine: &Machine, complete: &mut u32) -> Rig<C> {
    let rig = Rig::<C>::raw(machine.clone());
    if !rig.init() {
        machine.fail_none();
        assert!(rig.init(), "the call may be repeated");
    }
    let mut failed = 0;
    let mut rng = Rng::new(7);
    let mut blocks: Vec<(*mut u8, usize)> = Vec::new();
    let keep = |block: *mut u8, size, failed: &mut u32, blocks: &mut Vec<(*mut u8, usize)>| {
        if block.is_null() {
            *failed += 1;
        } else {
            fill(block, size, blocks.len() as u8);
            blocks.push((block, size));
        }
    };
    for _ in 0..20 {
        let size = rng.between(1, 250_000);
        keep(rig.heap.kmalloc(size, QUIET), size, &mut failed, &mut blocks);
    }
    for size in [5 << 20, 50_000] {
        keep(rig.heap.kvzalloc(size, QUIET), size, &mut failed, &mut blocks);
    }
    for (i, entry) in blocks.iter_mut().enumerate() {
        let size = rng.between(1, 400_000);
        let new =
            if i % 2 == 0 { rig.krealloc(entry.0, size, QUIET) } else { rig.kvrealloc(entry.0, size, QUIET) };
        let new = new.expect("a good block");
        failed += u32::from(new.is_null());
        if !new.is_null() {
            assert!(filled(new, entry.1.min(size), i as u8));
            fill(new, size, i as u8);
            *entry = (new, size);
        }
    }
    let mut bulk = vec![null_mut(); 500];
    let got = rig.heap.kmalloc_bulk(9000, QUIET | Gfp::ZERO, &mut bulk);
    failed += u32::from(!got);
    assert!(bulk.iter().all(|&block| block.is_null() != got && (!got || is_zero(block, 9000))));
    // A cache with a sheaf, and a set of classes.
    match rig.create("c", 1024, CacheArgs::default()) {
        Ok(cache) => {
            // SAFETY: the sheaf is returned before the cache is destroyed, and both are of this heap.
            unsafe {
                match rig.heap.prefill_sheaf(cache, QUIET, 3000) {
                    Some(mut sheaf) => {
                        failed += u32::from(rig.heap.refill_sheaf(&mut sheaf, QUIET, 8000).is_err());
                        let promised = sheaf.size();
                        assert!(promised >= 3000);
                        for _ in 0..promised {
                            let object = rig.heap.alloc_from_sheaf(&mut sheaf, Gfp::ZERO);
                            assert_eq!(rig.free(cache, object), Ok(()));
                        }
                        rig.heap.return_sheaf(sheaf);
                    }
                    None => failed += 1,
                }
            }
            assert_eq!(rig.destroy(cache), Ok(true));
        }
        Err(_) => failed += 1,
    }
    match rig.heap.kmem_buckets_create("set", BucketArgs::default()) {
        Some(set) => {
            for size in (8..8192).step_by(300) {
                // SAFETY: the set is alive and of this heap.
                let block = unsafe { rig.heap.kmem_buckets_alloc(&set, size, QUIET, None) };
                failed += u32::from(block.is_null());
                assert_eq!(rig.kfree(block), Ok(()));
            }
            // SAFETY: all blocks were freed.
            assert_eq!(unsafe { rig.heap.kmem_buckets_destroy(set) }, Ok(()));
        }
        None => failed += 1,
    }
    for (i, &(block, size)) in blocks.iter().enumerate() {
        assert!(filled(block, size, i as u8));
    }
    bulk.extend(blocks.into_iter().map(|(block, _)| block));
    // SAFETY: the blocks are the test's own; null is fine.
    assert_eq!(unsafe { rig.heap.kfree_bulk(&mut bulk) }, Ok(()));
    *complete += u32::from(failed == 0);
    rig
}
