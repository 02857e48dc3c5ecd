//! The reserves of run classes: a class must prove that it needs one, what is not used between two looks goes back, what is used
//! stays.

use kmem_core::config::UserConfig;
use kmem_core::engine::slub::Slub;
use kmem_core::kmalloc::classes::{ClassSet, FineSet, Kind};
use kmem_core::kmalloc::runs::RunAges;

use crate::support::{Rig, fill};

type UserRig = Rig<UserConfig<Slub>>;

const MIB: usize = 1 << 20;

fn slabs(rig: &UserRig, size: usize) -> u64 {
    let cache = rig.heap.kmalloc_cache(Kind::Normal, FineSet::class_of(size)).expect("used");
    rig.heap.slabinfo_row(cache).num_slabs
}

/// Asks for so many blocks of a class that its CPU keeps some from then on.
fn prove(rig: &UserRig, size: usize) {
    for _ in 0..40 {
        let block = rig.kmalloc(size);
        assert_eq!(rig.kfree(block), Ok(()));
    }
    assert_eq!(slabs(rig, size), 1, "the class keeps what was freed last");
}

#[test]
fn a_class_that_few_ask_for_keeps_nothing() {
    let rig = UserRig::new();
    for size in [12 << 10, 100_000, MIB, 4 * MIB] {
        for _ in 0..3 {
            let blocks = [rig.kmalloc(size), rig.kmalloc(size)];
            assert_eq!(slabs(&rig, size), 2);
            for block in blocks {
                assert_eq!(rig.kfree(block), Ok(()));
            }
            assert_eq!(slabs(&rig, size), 0, "{size} bytes: other sizes can have the pages");
        }
    }
    rig.holdings();
}

#[test]
fn a_class_that_was_idle_proves_itself_again() {
    let rig = UserRig::new();
    let ages = RunAges::new();
    prove(&rig, MIB);
    assert!(rig.heap.age_large(&ages), "used since the first look");
    assert!(!rig.heap.age_large(&ages), "nothing of the kind is left");
    let block = rig.kmalloc(MIB);
    assert_eq!(rig.kfree(block), Ok(()));
    assert_eq!(slabs(&rig, MIB), 0);
    prove(&rig, MIB);
    rig.holdings();
}

#[test]
fn a_reserve_that_nobody_uses_goes_back() {
    let rig = UserRig::new();
    let ages = RunAges::new();
    prove(&rig, MIB);
    let (kept, gone) = (rig.kmalloc(MIB), [rig.kmalloc(MIB), rig.kmalloc(MIB)]);
    fill(kept, MIB, 7);
    for block in gone {
        assert_eq!(rig.kfree(block), Ok(()));
    }
    assert_eq!(slabs(&rig, MIB), 3, "two are in reserve");
    assert!(rig.heap.age_large(&ages), "they were used since the first look");
    assert_eq!(slabs(&rig, MIB), 3);
    assert!(rig.heap.age_large(&ages), "one block is live");
    assert_eq!(slabs(&rig, MIB), 1);
    assert!(crate::support::filled(kept, MIB, 7), "live blocks are not touched");
    assert_eq!(rig.kfree(kept), Ok(()));
    assert!(!rig.heap.age_large(&ages), "nothing of the kind is left");
    assert_eq!(slabs(&rig, MIB), 0);
    rig.holdings();
}

#[test]
fn a_class_in_use_keeps_its_reserve() {
    let rig = UserRig::new();
    let ages = RunAges::new();
    prove(&rig, 3 * MIB);
    prove(&rig, 100_000);
    for _ in 0..4 {
        let block = rig.kmalloc(100_000);
        assert_eq!(rig.kfree(block), Ok(()));
        assert!(rig.heap.age_large(&ages));
        assert_eq!(slabs(&rig, 100_000), 1);
    }
    assert_eq!(slabs(&rig, 3 * MIB), 0, "the other class was idle meanwhile");
    rig.holdings();
}
