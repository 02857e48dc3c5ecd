//! Slabs made by refills: how many at a time, in which order their objects go out, and what happens without memory.

use kmem_core::cache::CacheArgs;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::platform::{BLOCK_PAGES, PAGE_SIZE};
use kmem_sim::Machine;

use super::{Rig, check, flags};

const SIZE: usize = 1024;
const PER_SLAB: u64 = 4;

/// One slab at first, then up to twice as many each time, never more than a batch: what nobody asked for stays below what was
/// asked for, and below a batch.
#[test]
fn refills_in_a_row_make_more_slabs_each() {
    let rig = Rig::new();
    let cache = rig.cache("c", SIZE);
    let (mut objects, mut steps) = (Vec::new(), Vec::new());
    let mut slabs = rig.counts(cache).slabs;
    for n in 1..=400_u64 {
        objects.extend(rig.take(cache, 1));
        let now = rig.counts(cache).slabs;
        if now > slabs {
            steps.push(now - slabs);
        }
        slabs = now;
        let needed = n.div_ceil(PER_SLAB);
        assert!(slabs >= needed && slabs <= (2 * needed).min(needed + 6), "{slabs} for {n}");
    }
    // Of batches of 27, of which six slabs are the whole ones.
    assert_eq!(steps[..5], [1, 2, 4, 6, 6], "{steps:?}");
    check(&rig, cache);
    // A refill that finds something ends the row.
    rig.give(cache, objects.split_off(300));
    let mut slabs = rig.counts(cache).slabs;
    let step = loop {
        objects.extend(rig.take(cache, 1));
        let now = rig.counts(cache).slabs;
        if now > slabs {
            break now - slabs;
        }
        slabs = now;
    };
    assert_eq!(step, 1);
    rig.give(cache, objects);
    check(&rig, cache);
    rig.holdings();
}

/// Slabs are used up in the order in which they were made: their colours follow one another.
#[test]
fn the_slab_made_first_goes_out_first() {
    let rig = Rig::new();
    // 13 objects and 196 bytes of tail: three colours.
    let cache = rig.create("c", 300, flags(SlabFlags::empty())).expect("a cache");
    let objects = rig.take(cache, 13 * 20);
    let leads: Vec<usize> = objects
        .chunks(13)
        .map(|slab| {
            let (base, _) = rig.slab_of(slab[0]);
            assert!(slab.iter().all(|&object| rig.slab_of(object).0 == base), "one after the other");
            slab.iter().map(|object| object.addr() - base).min().expect("objects")
        })
        .collect();
    let colours = leads.iter().max().expect("slabs") / 64 + 1;
    assert!(colours > 1);
    assert!(leads.windows(2).all(|pair| (pair[0] / 64 + 1) % colours == pair[1] / 64), "{leads:?}");
    rig.give(cache, objects);
    check(&rig, cache);
}

/// Objects of slabs that were full from the beginning were constructed, and come and go as all others.
#[test]
fn objects_of_full_slabs_are_like_all_others() {
    unsafe extern "C" fn ctor(object: *mut u8) {
        // SAFETY: an object of the cache, of that many bytes.
        unsafe { object.write_bytes(0xc7, SIZE) };
    }
    let rig = Rig::new();
    let args = CacheArgs { ctor: Some(ctor), ..flags(SlabFlags::empty()) };
    let cache = rig.create("c", SIZE, args).expect("a cache");
    for _ in 0..3 {
        let objects = rig.take(cache, 200);
        for &object in &objects {
            // SAFETY: as above; the test writes nothing to them.
            assert!(unsafe { std::slice::from_raw_parts(object, SIZE) }.iter().all(|&byte| byte == 0xc7));
        }
        let mut different = objects.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!((different.len(), rig.in_use(cache)), (200, 200));
        rig.give(cache, objects);
        assert_eq!(rig.in_use(cache), 0);
    }
    check(&rig, cache);
    rig.holdings();
}

/// What a batch has too much of is not worth other nodes' memory, nor a message.
#[test]
fn more_slabs_are_made_of_local_memory_only() {
    let rig = Rig::on(Machine::builder().cpus(2).nodes(2).memory_per_node(2 * BLOCK_PAGES).build());
    let cache = rig.cache("c", SIZE);
    let mut objects = Vec::new();
    let fits = 2 * BLOCK_PAGES * (PAGE_SIZE / SIZE);
    loop {
        let object = rig.alloc(cache, Gfp::KERNEL | Gfp::THISNODE | Gfp::NOWARN);
        if object.is_null() {
            break;
        }
        assert_eq!(rig.node_of(object), 0);
        objects.push(object);
        assert!(objects.len() <= fits);
    }
    assert!(objects.len() > fits * 3 / 4, "{} of {fits}", objects.len());
    // The next come from the other node.
    let away = rig.take(cache, 9);
    assert!(away.iter().all(|&object| rig.node_of(object) == 1));
    assert_eq!(rig.said(), "");
    objects.extend(away);
    rig.give(cache, objects);
    check(&rig, cache);
}
