//! `kmalloc_growing`: few blocks, of one class, and nothing where there is none.

use kmem_core::cache::CacheRef;
use kmem_core::config::{Config, Headed, UserConfig};
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::FreeError;
use kmem_core::kmalloc::classes::{ClassSet, Kind};
use kmem_core::kmalloc::runs::RunAges;

use crate::support::{Rig, fill, for_each_config};

for_each_config! { as_many_as_the_class_may_have }

fn as_many_as_the_class_may_have<C: Config>() {
    let rig = Rig::<C>::new();
    let get = || rig.heap.kmalloc_growing(Gfp::KERNEL);
    let Some(class) = C::Classes::GROWING else {
        assert!(get().is_null());
        rig.holdings();
        return;
    };
    for _ in 0..3 {
        let blocks: Vec<_> = (0..10).map(|_| get()).take_while(|block| !block.is_null()).collect();
        assert_eq!(blocks.len(), 4);
        for &block in &blocks {
            assert_eq!(rig.heap.ksize(block), Ok(C::Classes::size_of(class)));
            fill(block, C::Classes::size_of(class), 9);
        }
        // One comes back, one may go.
        assert_eq!(rig.kfree(blocks[1]), Ok(()));
        let again = get();
        assert!(!again.is_null() && get().is_null());
        assert_eq!(rig.kfree(again), Ok(()));
        for block in [&blocks[..1], &blocks[2..]].concat() {
            assert_eq!(rig.kfree(block), Ok(()));
        }
    }
    rig.holdings();
}

/// Who wants to see where a block ends, or when it is freed, gets one of its own size.
#[test]
fn none_while_the_class_is_checked() {
    type Ours = Headed<UserConfig>;
    let rig = Rig::<Ours>::new();
    let class = <Ours as Config>::Classes::GROWING.expect("there is one");
    let block = rig.heap.kmalloc_growing(Gfp::KERNEL);
    let cache = CacheRef::new(rig.heap.kmalloc_cache(Kind::Normal, class).expect("used"));
    // SAFETY: a live cache.
    let give = |letters| unsafe { rig.heap.set_debug_letters(cache, letters) }.expect("a live cache");
    assert_eq!(rig.kfree(block), Ok(()));
    give(SlabFlags::CONSISTENCY_CHECKS);
    assert!(rig.heap.kmalloc_growing(Gfp::KERNEL).is_null());
    give(SlabFlags::empty());
    let block = rig.heap.kmalloc_growing(Gfp::KERNEL);
    assert!(!block.is_null());
    assert_eq!(rig.kfree(block), Ok(()));
    rig.holdings();
}

/// The first one that is freed stays at hand, marked as a free one, and goes when nobody took any for a while.
#[test]
fn what_is_freed_is_kept_from_the_first_on() {
    type Ours = Headed<UserConfig>;
    let rig = Rig::<Ours>::new();
    let class = <Ours as Config>::Classes::GROWING.expect("there is one");
    let block = rig.heap.kmalloc_growing(Gfp::KERNEL);
    let cache = rig.heap.kmalloc_cache(Kind::Normal, class).expect("used");
    let slabs = || rig.counts(CacheRef::new(cache)).slabs;
    assert_eq!(rig.kfree(block), Ok(()));
    assert_eq!(slabs(), 1);
    assert_eq!(rig.kfree(block), Err(FreeError::Double { address: block.addr(), cache: "kmalloc-252k" }));
    assert_eq!(rig.heap.kmalloc_growing(Gfp::KERNEL), block);
    assert_eq!(rig.kfree(block), Ok(()));
    let ages = RunAges::new();
    assert!(rig.heap.age_large(&ages), "used since the first look");
    assert_eq!(slabs(), 1);
    assert!(!rig.heap.age_large(&ages), "nothing is left");
    assert_eq!(slabs(), 0);
    rig.holdings();
}
