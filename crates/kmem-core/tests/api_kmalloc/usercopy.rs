//! What may be copied to and from users, and what is known of an address.

use kmem_core::cache::CacheArgs;
use kmem_core::config::Config;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::ZERO_SIZE_PTR;
use kmem_core::kmalloc::usercopy::UsercopyError;

use crate::support::{Rig, for_each_config};

for_each_config! {
    check_usercopy_of_a_window
    check_usercopy_of_a_cache_without_window
    check_usercopy_of_kmalloc
    check_usercopy_of_other_memory
    mem_dump_obj
}

fn check_usercopy_of_a_window<C: Config>() {
    let rig = Rig::<C>::new();
    for flags in [SlabFlags::empty(), SlabFlags::RED_ZONE | SlabFlags::STORE_USER] {
        let args = CacheArgs { useroffset: 16, usersize: 32, flags: Some(flags), ..CacheArgs::default() };
        let cache = rig.create("window", 100, args).expect("a cache");
        for object in rig.take(cache, 50) {
            let check = |offset, len| rig.heap.check_usercopy(object.wrapping_add(offset), len);
            let outside = |offset, len| Err(UsercopyError::Outside { name: "window", offset, len });
            for (offset, len) in [(16, 32), (16, 1), (47, 1), (20, 10), (0, 0), (99, 0)] {
                assert_eq!(check(offset, len), Ok(()), "{offset}, {len}");
            }
            let bad =
                [(15, 1), (15, 33), (16, 33), (47, 2), (48, 1), (0, 100), (20, usize::MAX / 256), (99, 1)];
            for (offset, len) in bad {
                assert_eq!(check(offset, len), outside(offset, len), "{offset}, {len}");
            }
            // SLAB has red zones where it was built with its checks only.
            if flags.contains(SlabFlags::RED_ZONE) && crate::support::is_slub::<C>() {
                assert_eq!(rig.heap.check_usercopy(object.wrapping_sub(4), 8), Err(UsercopyError::NotObject));
            }
        }
        let text = UsercopyError::Outside { name: "window", offset: 48, len: 1 }.to_string();
        assert!(text.contains("window") && text.contains("offset 48, size 1"), "{text}");
    }
}

fn check_usercopy_of_a_cache_without_window<C: Config>() {
    let rig = Rig::<C>::new();
    let cache = rig.cache("closed", 100);
    let object = rig.alloc(cache, Gfp::KERNEL);
    let error = UsercopyError::Outside { name: "closed", offset: 8, len: 1 };
    assert_eq!(rig.heap.check_usercopy(object.wrapping_add(8), 1), Err(error));
    assert_eq!(rig.heap.check_usercopy(object, 0), Ok(()));
}

fn check_usercopy_of_kmalloc<C: Config>() {
    let rig = Rig::<C>::new();
    for size in [1, 8, 100, 5000, 9000, 50_000] {
        let block = rig.kmalloc(size);
        let usable = rig.ksize(block);
        let check = |offset, len| rig.heap.check_usercopy(block.wrapping_add(offset), len);
        assert_eq!(check(0, usable), Ok(()), "{size}");
        assert_eq!(check(usable - 1, 1), Ok(()), "{size}");
        for (offset, len) in [(0, usable + 1), (usable - 1, 2), (usable / 2, usable)] {
            let answer = check(offset, len);
            assert!(matches!(answer, Err(UsercopyError::Outside { .. })), "{size}: {answer:?}");
        }
    }
    let mapping = rig.heap.kvmalloc(5 << 20, Gfp::KERNEL);
    assert_eq!(rig.heap.check_usercopy(mapping, 5 << 20), Ok(()));
    let over = rig.heap.check_usercopy(mapping, (5 << 20) + 1);
    assert!(matches!(over, Err(UsercopyError::Outside { name: "mapping", .. })), "{over:?}");
}

fn check_usercopy_of_other_memory<C: Config>() {
    let rig = Rig::<C>::new();
    let check = |ptr: *const u8, len| rig.heap.check_usercopy(ptr, len);
    assert_eq!(check(std::ptr::null(), 1), Err(UsercopyError::Null));
    assert_eq!(check(ZERO_SIZE_PTR, 1), Err(UsercopyError::Null));
    assert_eq!(check(std::ptr::null(), 0), Ok(()), "no bytes may always be copied");
    let end = std::ptr::without_provenance(usize::MAX);
    assert_eq!(check(end, 2), Err(UsercopyError::Wraps));
    assert_eq!(check(end, 1), Err(UsercopyError::Foreign));
    let local = 0_u8;
    assert_eq!(check(&raw const local, 1), Err(UsercopyError::Foreign));
    // The end of a slab, free pages, pages that are no block.
    let cache = rig.cache("c", 1000);
    let (slab, pages) = rig.slab_of(rig.alloc(cache, Gfp::KERNEL));
    let tail = std::ptr::without_provenance(slab + pages * 4096 - 1);
    assert_eq!(check(tail, 1), Err(UsercopyError::NotObject));
    let run = rig.heap.pages().alloc(&rig.machine, Gfp::KERNEL, 0, None).expect("a page");
    let page = run.address();
    assert_eq!(check(page, 1), Err(UsercopyError::NotObject));
    rig.heap.pages().free(&rig.machine, run);
    assert_eq!(check(page, 1), Err(UsercopyError::NotObject));
}

/// Also `kmem_dump_obj`.
fn mem_dump_obj<C: Config>() {
    let rig = Rig::<C>::new();
    let told = |ptr: *const u8| {
        let mut text = String::new();
        let known = rig.heap.dump_obj(ptr, &mut text).expect("a string takes it");
        (known, text)
    };
    let cache = rig.cache("things", 1000);
    let object = rig.alloc(cache, Gfp::KERNEL);
    let start = object.addr();
    let facts = format!("slab things start {start:#x} pointer offset 40 size 1000");
    assert_eq!(told(object.wrapping_add(40)), (true, facts));
    let (slab, pages) = rig.slab_of(object);
    let tail = std::ptr::without_provenance(slab + pages * 4096 - 1);
    assert_eq!(told(tail), (true, "slab things, behind its last object".to_owned()));
    let large = rig.pages_block(100_000);
    let facts =
        format!("large block start {:#x} pointer offset 5000 size {}", large.addr(), rig.ksize(large));
    assert_eq!(told(large.wrapping_add(5000)), (true, facts));
    let mapping = rig.heap.kvmalloc(5 << 20, Gfp::KERNEL);
    assert_eq!(told(mapping), (true, format!("1280-page mapping starting at {:#x}", mapping.addr())));
    assert_eq!(told(std::ptr::null()), (false, "NULL pointer".to_owned()));
    assert_eq!(told(ZERO_SIZE_PTR), (false, "zero-size pointer".to_owned()));
    let local = 0_u8;
    assert_eq!(told(&raw const local), (false, "non-slab memory".to_owned()));
    let run = rig.heap.pages().alloc(&rig.machine, Gfp::KERNEL, 0, None).expect("a page");
    let page = run.address();
    assert_eq!(told(page), (false, "pages in use that are no block".to_owned()));
    rig.heap.pages().free(&rig.machine, run);
    assert_eq!(told(page), (false, "free pages".to_owned()));
}
