//! kmalloc and kfree without locks.

use std::collections::BTreeSet;

use kmem_core::cache::CacheRef;
use kmem_core::config::Config;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::classes::{ClassSet, Kind};
use kmem_core::kmalloc::nolock::NOLOCK_MAX;
use kmem_core::kmalloc::{FreeError, ZERO_SIZE_PTR};

use crate::support::{Rig, fill, for_each_config, is_zero};

for_each_config! {
    kmalloc_nolock
    kmalloc_nolock_refuses
    kmalloc_nolock_waits_for_no_lock
    kmalloc_nolock_may_be_served_by_the_next_class
    kfree_nolock
    kfree_nolock_of_no_block
    kfree_nolock_puts_aside_what_does_not_fit
    kfree_nolock_of_another_nodes_block
    many_threads_put_aside_and_bring_home
    an_interruption_at_any_point
}

crate::support::for_slob! {
    kmalloc_nolock_refuses
    kfree_nolock_of_another_nodes_block
    many_threads_put_aside_and_bring_home
    an_interruption_at_any_point
}

const NONE: Gfp = Gfp::empty();

fn free<C: Config>(rig: &Rig<C>, block: *mut u8) -> Result<(), FreeError> {
    // SAFETY: the test holds the block, or asks for the error.
    unsafe { rig.heap.kfree_nolock(block) }
}

fn kmalloc_nolock<C: Config>() {
    let rig = Rig::<C>::new();
    assert_eq!(rig.heap.kmalloc_nolock(0, NONE, None), ZERO_SIZE_PTR);
    // A block of whole pages need not be at hand.
    let longest = NOLOCK_MAX.min(C::Classes::size_of(C::Classes::SLAB_CLASSES - 1));
    for size in [8, 100, 1000, 4096, longest] {
        let block = rig.kmalloc(size);
        fill(block, size, 5);
        assert_eq!(rig.kfree(block), Ok(()));
        // What this CPU has at hand serves.
        let again = rig.heap.kmalloc_nolock(size, Gfp::ZERO, Some(0));
        assert!(again == block && is_zero(again, rig.ksize(again)), "{size}");
        assert_eq!(rig.kfree(again), Ok(()), "kfree may free it");
    }
}

fn kmalloc_nolock_refuses<C: Config>() {
    let rig = Rig::<C>::new();
    assert_eq!(rig.kfree(rig.kmalloc(100)), Ok(()));
    assert_eq!(rig.kfree(rig.kmalloc(NOLOCK_MAX + 1)), Ok(()));
    for gfp in [Gfp::KERNEL, Gfp::NOWAIT, Gfp::ATOMIC, Gfp::DMA, Gfp::THISNODE, Gfp::ZERO | Gfp::HIGH] {
        assert!(rig.heap.kmalloc_nolock(100, gfp, None).is_null(), "{gfp:?}");
        assert!(rig.heap.kmalloc_nolock(0, gfp, None).is_null(), "{gfp:?}");
    }
    for size in [NOLOCK_MAX + 1, usize::MAX] {
        assert!(rig.heap.kmalloc_nolock(size, NONE, None).is_null(), "{size}");
    }
    // Another CPU has nothing at hand. In SLAB its node has, as long as nobody holds the lock.
    let elsewhere = rig.machine.on_cpu(2, || rig.heap.kmalloc_nolock(100, NONE, None));
    assert_eq!(elsewhere.is_null(), crate::support::is_slub::<C>());
    assert!(!rig.heap.kmalloc_nolock(100, NONE, None).is_null());
}

/// With every lock of the heap taken, and no memory to be had.
fn kmalloc_nolock_waits_for_no_lock<C: Config>() {
    let rig = Rig::<C>::new();
    let before = rig.holdings();
    // A slab holds more of these than are used here, so the CPU keeps its slab.
    let warm: Vec<_> = (0..100).map(|_| rig.kmalloc(16)).collect();
    warm.into_iter().for_each(|block| assert_eq!(rig.kfree(block), Ok(())));
    let refused = rig.machine.counters().refused;
    rig.machine.fail_after(1);
    let take_all = || {
        let next = || rig.heap.kmalloc_nolock(16, NONE, None);
        std::iter::from_fn(|| Some(next()).filter(|block| !block.is_null())).collect::<Vec<_>>()
    };
    let mut blocks = rig.machine.forking(|| {
        rig.heap.lock_for_fork();
        let mut blocks = take_all();
        assert!(!blocks.is_empty() && blocks.len() < 1000, "it may fail at any time: {}", blocks.len());
        for block in blocks.split_off(blocks.len() / 2) {
            assert_eq!(free(&rig, block), Ok(()));
        }
        blocks.extend(take_all());
        assert!(rig.heap.kmalloc_nolock(4000, NONE, None).is_null(), "a class that nobody used yet");
        // SAFETY: taken above, by this thread.
        unsafe { rig.heap.unlock_after_fork() };
        blocks
    });
    // Back to their slabs, not to the stack: with the locks free, those of the CPU slab are at hand too.
    let class = rig.heap.kmalloc_cache(Kind::Normal, C::Classes::class_of(16)).map(CacheRef::new);
    // SAFETY: classes live as long as the heap, and the test holds the blocks.
    assert_eq!(unsafe { rig.heap.free_bulk(class, &mut blocks) }, Ok(()));
    let blocks = take_all();
    assert!(!blocks.is_empty());
    assert_eq!(blocks.iter().collect::<BTreeSet<_>>().len(), blocks.len(), "each once");
    let locks = rig.machine.counters().total_locks();
    for block in blocks {
        assert_eq!(free(&rig, block), Ok(()));
    }
    assert_eq!(rig.machine.counters().total_locks(), locks, "freeing takes none");
    assert_eq!(rig.machine.counters().refused, refused, "no memory was asked for");
    rig.machine.fail_none();
    rig.heap.drain_deferred();
    assert_eq!(rig.holdings(), before);
}

fn kmalloc_nolock_may_be_served_by_the_next_class<C: Config>() {
    let rig = Rig::<C>::new();
    // The class of 256 bytes has its cache, but this CPU nothing of it.
    rig.machine.on_cpu(1, || assert_eq!(rig.kfree(rig.kmalloc(256)), Ok(())));
    assert!(rig.heap.kmalloc_nolock(256, NONE, None).is_null());
    let larger = rig.kmalloc(257);
    assert_eq!(rig.kfree(larger), Ok(()));
    assert_eq!(rig.heap.kmalloc_nolock(256, NONE, None), larger);
    assert_eq!(free(&rig, larger), Ok(()));
    assert_eq!(rig.kmalloc(257), larger, "it went home to its own class");
}

fn kfree_nolock<C: Config>() {
    let rig = Rig::<C>::new();
    assert_eq!(free(&rig, std::ptr::null_mut()), Ok(()));
    assert_eq!(free(&rig, ZERO_SIZE_PTR), Ok(()));
    let block = rig.kmalloc(100);
    assert_eq!(free(&rig, block), Ok(()));
    assert!(matches!(free(&rig, block), Err(FreeError::Double { .. })), "the last freed here");
    assert_eq!(rig.kmalloc(100), block);
}

fn kfree_nolock_of_no_block<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("typed", 100);
    let (object, large) = (rig.alloc(cache, Gfp::KERNEL), rig.pages_block(100_000));
    let mapping = rig.heap.kvmalloc(5 << 20, Gfp::KERNEL);
    let block = rig.kmalloc(100);
    assert_eq!(free(&rig, object), Err(FreeError::NotObject(object.addr())));
    assert_eq!(free(&rig, large), Err(FreeError::NotObject(large.addr())));
    assert_eq!(free(&rig, mapping), Err(FreeError::Foreign(mapping.addr())));
    assert!(matches!(free(&rig, block.wrapping_add(8)), Err(FreeError::Interior { .. })));
    assert_eq!(rig.heap.drain_deferred(), 0, "nothing was put aside");
}

fn kfree_nolock_puts_aside_what_does_not_fit<C: Config>() {
    let rig = Rig::<C>::new();
    let before = rig.holdings();
    let blocks: Vec<_> = (0..1000).map(|_| rig.kmalloc(100)).collect();
    for &block in &blocks {
        assert_eq!(free(&rig, block), Ok(()));
    }
    let put_aside = rig.heap.drain_deferred();
    assert!((1..1000).contains(&put_aside), "{put_aside}");
    assert_eq!(rig.heap.drain_deferred(), 0);
    assert_eq!(rig.holdings(), before);
    // Trimming and shrinking bring them home too.
    let blocks: Vec<_> = (0..1000).map(|_| rig.kmalloc(100)).collect();
    blocks.iter().for_each(|&block| assert_eq!(free(&rig, block), Ok(())));
    assert_eq!(rig.holdings(), before, "after a trim");
    assert_eq!(rig.heap.drain_deferred(), 0);
}

fn kfree_nolock_of_another_nodes_block<C: Config>() {
    let rig = Rig::<C>::two_nodes();
    let block = rig.heap.kmalloc_node(100, Gfp::KERNEL, Some(1));
    assert_eq!(free(&rig, block), Ok(()));
    assert!(matches!(free(&rig, block), Err(FreeError::Double { .. })), "the last put aside");
    assert_ne!(rig.heap.kmalloc_nolock(100, NONE, None), block, "it is not this node's");
    assert_eq!(rig.heap.drain_deferred(), 1);
    rig.machine.set_cpu(3);
    rig.holdings();
}

fn many_threads_put_aside_and_bring_home<C: Config>() {
    let rig = Rig::<C>::two_nodes();
    let before = rig.holdings();
    let freed = std::sync::atomic::AtomicUsize::new(0);
    let home = std::sync::atomic::AtomicUsize::new(0);
    let order = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        for cpu in 0..4 {
            let (rig, freed, home) = (&rig, &freed, &home);
            scope.spawn(move || {
                rig.machine.set_cpu(cpu);
                for round in 0..300 {
                    // Blocks of the other node: each is put aside.
                    let other = 1 - rig.machine.node_of_cpu(cpu);
                    let blocks: Vec<_> =
                        (0..10).map(|_| rig.heap.kmalloc_node(64, Gfp::KERNEL, Some(other))).collect();
                    for &block in &blocks {
                        fill(block, 64, round as u8);
                        assert_eq!(free(rig, block), Ok(()));
                    }
                    freed.fetch_add(blocks.len(), order);
                    if round % 3 == cpu % 3 {
                        home.fetch_add(rig.heap.drain_deferred(), order);
                    }
                }
            });
        }
    });
    home.fetch_add(rig.heap.drain_deferred(), order);
    assert_eq!((freed.load(order), home.load(order)), (12_000, 12_000));
    assert_eq!(rig.holdings(), before);
}

/// What it is for: an interrupt in the middle of the heap's own work allocates and frees, and nobody notices.
fn an_interruption_at_any_point<C: Config>() {
    let rig = Rig::<C>::new();
    let mut served = 0;
    for n in 1.. {
        let mut taken = Vec::new();
        let (_, interrupted) = rig.machine.interrupted(
            n,
            || {
                for size in [100, 100, 3000] {
                    let block = rig.heap.kmalloc_nolock(size, Gfp::ZERO, None);
                    if !block.is_null() {
                        fill(block, size, n as u8);
                        taken.push(block);
                    }
                }
                if let Some(block) = taken.pop() {
                    assert_eq!(free(&rig, block), Ok(()));
                }
            },
            || {
                let blocks: Vec<_> =
                    (0..70).map(|i| rig.kmalloc(if i % 2 == 0 { 100 } else { 3000 })).collect();
                blocks.into_iter().for_each(|block| assert_eq!(rig.kfree(block), Ok(())));
            },
        );
        served += taken.len();
        taken.into_iter().for_each(|block| assert_eq!(free(&rig, block), Ok(())));
        if !interrupted {
            break;
        }
    }
    assert!(served > 20, "only {served} requests were served");
    rig.heap.drain_deferred();
    assert_eq!(rig.holdings(), Rig::<C>::new().holdings());
}
