//! Tunables, written while the heap runs.

use kmem_core::engine::NotTunable;
use kmem_core::view::slabinfo::{WriteError, write_row};

use super::{Rig, check, row};
use crate::support::Rig as AnyRig;

/// Every captured write has the captured answer, and leaves the captured line.
#[test]
fn every_row_of_slabinfo_writes_lives() {
    let rig = Rig::new();
    let cache = rig.cache("mycache", 20);
    // The capturing program held ten objects.
    let objects = rig.take(cache, 10);
    let (mut written, mut refused) = (0, 0);
    for line in golden!("slabinfo_slab_writes.txt").lines() {
        let Some(rest) = line.strip_prefix("write '") else { continue };
        let (text, rest) = rest.split_once("' to /proc/slabinfo rc=").expect("a line");
        let answer = rig.heap.write_slabinfo_tunables(format!("{text}\n").as_bytes());
        assert_eq!(answer.is_err(), rest.starts_with("1 err='Invalid argument'"), "{line}");
        refused += usize::from(answer.is_err());
        written += 1;
        let (_, captured) = rest.split_once("line: ").expect("a listing");
        let mut ours = String::new();
        write_row(&mut ours, "mycache", &row(&rig, cache)).expect("a String takes all");
        // The first write found the objects of the first refill on the CPU; the kernel's test machine had the same 10 left.
        assert_eq!(ours.trim_end(), captured.trim_end(), "{line}");
    }
    assert_eq!((written, refused), (7, 3));
    rig.give(cache, objects);
    check(&rig, cache);
    rig.holdings();
}

/// The new limit is what a CPU may keep, on all CPUs, at once.
#[test]
fn a_new_limit_holds_on_every_cpu() {
    let rig = Rig::new();
    let cache = rig.cache("c", 64);
    let fill = || {
        for cpu in 0..4 {
            rig.machine.on_cpu(cpu, || {
                let objects = rig.take(cache, 200);
                rig.give(cache, objects);
            });
        }
        rig.counts(cache)
    };
    let before = fill();
    assert!(before.free_cpu > 4 * 10 && before.free_barn > 0, "{before:?}");
    assert_eq!(rig.heap.write_slabinfo_tunables(b"c 10 5 0"), Ok(()));
    let flushed = rig.counts(cache);
    assert_eq!((flushed.free_cpu, flushed.free_barn, flushed.in_use()), (0, 0, 0));
    let after = fill();
    assert!(after.free_cpu <= 4 * 10 && after.free_cpu > 0, "{after:?}");
    assert_eq!((after.free_barn, after.in_use()), (0, 0), "no shared arrays");
    assert_eq!(rig.heap.write_slabinfo_tunables(b"c 126 63 2"), Ok(()));
    let larger = fill();
    assert!(larger.free_cpu > 4 * 50 && larger.free_barn > 0 && larger.free_barn <= 126, "{larger:?}");
    check(&rig, cache);
    assert_eq!(rig.destroy(cache), Ok(true));
    rig.holdings();
}

#[test]
fn what_cannot_be_is_refused() {
    let rig = Rig::new();
    let cache = rig.cache("c", 64);
    let write = |line: &str| rig.heap.write_slabinfo_tunables(line.as_bytes());
    let too_large = Err(WriteError::NotTunable(NotTunable::TooLarge));
    assert_eq!(write(&format!("c {} 60 8", kmem_core::engine::sheaf::MAX_CAPACITY + 1)), too_large);
    assert_eq!(write("c 120 120 18"), too_large, "2160 pointers are more than 8192 bytes");
    assert_eq!(write("c"), Err(WriteError::BadLine));
    assert_eq!(write("d 10 5 0"), Err(WriteError::NoCache));
    assert_eq!(write("kmem_cache 10 5 0"), Err(WriteError::NotTunable(NotTunable::NoArrays)));
    assert_eq!(row(&rig, cache).tunables, [120, 60, 8]);
    assert_eq!(write("c 126 64 8"), Ok(()));
    // A batch beyond what moves at a time at most still works.
    assert_eq!(write("c 126 126 0"), Ok(()));
    let objects = rig.take(cache, 1000);
    rig.give(cache, objects);
    assert_eq!(rig.in_use(cache), 0);

    let slub = AnyRig::<kmem_core::config::KernelConfig>::new();
    slub.cache("c", 64);
    let answer = slub.heap.write_slabinfo_tunables(b"c 10 5 0");
    assert_eq!(answer, Err(WriteError::NotTunable(NotTunable::Engine)));
}

/// Ten objects of a fresh cache, as the capturing program took them: the long form says what the kernel's did.
#[test]
fn statistics_of_the_captured_program() {
    let rig = Rig::new();
    let cache = rig.cache("mycache", 20);
    let objects = rig.take(cache, 10);
    let line = || {
        let mut text = String::new();
        rig.heap.write_slabinfo_statistics(&mut text).expect("a String takes all");
        let line = text.lines().find(|line| line.starts_with("mycache ")).expect("listed");
        line.split_once(" : globalstat").expect("the long form").1.to_owned()
    };
    let captured = golden!("slabinfo_slab_debug.txt");
    let captured = captured.lines().find(|line| line.starts_with("mycache ")).expect("captured");
    assert_eq!(line(), captured.split_once(" : globalstat").expect("the long form").1);
    // Nine frees hit the array, and the tenth too: it has room.
    rig.give(cache, objects);
    assert!(line().ends_with(": cpustat      9      1     10      0"), "{}", line());
    // 200 more overflow it twice or more, and come back by the batch.
    let objects = rig.take(cache, 400);
    rig.give(cache, objects);
    let words: Vec<u64> = line().split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [taken, most, grown, .., alloc_hit, alloc_miss, free_hit, free_miss] = words[..] else {
        panic!("{words:?}")
    };
    assert!(taken >= 400 && most >= 400 && most <= taken && grown == 3, "{words:?}");
    assert_eq!((alloc_hit + alloc_miss, free_hit + free_miss), (410, 410));
    // 16 were on the CPU, seven refills of 60 left 36 over; 120 fit, then a batch of 60 leaves at a time.
    assert_eq!(free_miss, (400_u64 + 36 - 120).div_ceil(60));
}
