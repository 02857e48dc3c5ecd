//! Resident size comes back, and what is zero is known to be zero.

use kmem_core::gfp::Gfp;
use kmem_core::page::PageRun;
use kmem_core::platform::BLOCK_PAGES;

use super::{Heap, fill, is_filled, small};

#[test]
fn fresh_memory_is_known_to_be_zero_until_it_is_used() {
    let heap = Heap::new(small(4));
    for order in [0, 3, 4, 7, 9, 10] {
        let fresh = heap.alloc(order).expect("memory");
        assert!(is_filled(&fresh, 0), "memory of a fresh machine is zero");
        fill(&fresh, 0xff);
        heap.free(fresh);
    }
    let heap = Heap::new(small(4));
    let runs: Vec<_> = (0..20).map(|i| heap.alloc(i % 8).expect("memory")).collect();
    assert!(runs.iter().all(PageRun::is_zeroed), "nothing was used before");
    heap.free_all(runs);
    // Now the CPU's list and the zone both hold used blocks, and hand them out first.
    for order in [0, 3, 6] {
        let run = heap.alloc(order).expect("memory");
        assert!(!run.is_zeroed(), "order {order}");
        heap.free(run);
    }
    heap.check(0);
}

#[test]
fn zero_is_never_claimed_of_memory_that_is_not() {
    let heap = Heap::new(small(6).cpus(2));
    heap.pages.set_trim_floor(200);
    let mut rng = kmem_sim::Rng::new(5);
    let mut runs: Vec<PageRun> = Vec::new();
    let (mut zeroed, mut used) = (0, 0);
    for step in 0..3000 {
        heap.machine.set_cpu(rng.below(2));
        if runs.is_empty() || (rng.chance(0.55) && runs.len() < 200) {
            let order = rng.below(8) as u32;
            let run = if rng.chance(0.7) {
                heap.alloc(order)
            } else {
                heap.pages.alloc_exact(&heap.machine, Gfp::KERNEL, rng.between(1, 200), None)
            };
            let Some(run) = run else { continue };
            if run.is_zeroed() {
                assert!(is_filled(&run, 0), "step {step}");
                zeroed += 1;
            } else {
                used += 1;
            }
            fill(&run, 0x5a);
            runs.push(run);
        } else {
            let at = rng.below(runs.len());
            heap.free(runs.swap_remove(at));
        }
    }
    assert!(zeroed > 100 && used > 100, "{zeroed} {used}");
    heap.check(runs.iter().map(PageRun::pages).sum());
    heap.free_all(runs);
    heap.check(0);
}

#[test]
fn resident_size_comes_back_after_load() {
    let heap = Heap::new(small(20));
    let runs = heap.exhaust(Gfp::KERNEL, 2);
    runs.iter().for_each(|run| fill(run, 1));
    assert!(heap.machine.resident_pages() > 19 * BLOCK_PAGES);
    heap.free_all(runs);
    let stats = heap.check(0);
    // The floor is 512 pages, and a CPU's list keeps up to 64.
    assert!(stats.resident_free <= 512 + 64, "{stats:?}");
    let resident = heap.machine.resident_pages();
    assert!(resident <= 512 + 64 + stats.reserved, "{resident} pages resident");
    assert!(stats.discarded > 18 * BLOCK_PAGES as u64);
    heap.pages.trim(&heap.machine, 0);
    assert_eq!(heap.check(0).resident_free, 0);
    assert_eq!(heap.machine.resident_pages(), stats.reserved);
}

#[test]
fn trimming_keeps_what_it_is_told_to() {
    let heap = Heap::new(small(8));
    heap.pages.set_trim_floor(usize::MAX);
    let runs: Vec<_> = (0..1500).map(|i| heap.alloc(i % 3).expect("memory")).collect();
    runs.iter().for_each(|run| fill(run, 1));
    heap.free_all(runs);
    let before = heap.check(0);
    assert!(before.resident_free > 3000 && before.discarded == 0, "a floor beyond everything: {before:?}");
    let gone = heap.pages.trim(&heap.machine, 1000);
    let after = heap.check(0);
    assert_eq!(gone as u64, after.discarded);
    assert!(after.resident_free <= 1000, "{after:?}");
    assert_eq!(heap.pages.trim(&heap.machine, 1000), 0, "nothing left to do");
    assert!(heap.pages.trim(&heap.machine, 0) > 0);
    assert_eq!(heap.check(0).resident_free, 0);
}

#[test]
fn a_breathing_program_is_not_trimmed() {
    let heap = Heap::new(small(20));
    let base: Vec<_> = (0..4096).map(|_| heap.alloc(2).expect("memory")).collect();
    // An eighth of 16384 pages may lie free.
    for _ in 0..50 {
        let runs: Vec<_> = (0..3).map(|_| heap.alloc(9).expect("memory")).collect();
        heap.free_all(runs);
    }
    assert_eq!(heap.check(4 * 4096).discarded, 0);
    heap.free_all(base);
    heap.check(0);
}

#[test]
fn a_buffer_used_again_and_again_stays_resident() {
    let heap = Heap::new(small(4));
    let first = heap.alloc(10).expect("memory");
    heap.free(first);
    let discarded = heap.check(0).discarded;
    for _ in 0..20 {
        let run = heap.alloc(10).expect("memory");
        assert!(!run.is_zeroed());
        heap.free(run);
    }
    assert_eq!(heap.check(0).discarded, discarded);
    // Until somebody says what may stay.
    heap.pages.set_trim_floor(512);
    let run = heap.alloc(10).expect("memory");
    heap.free(run);
    assert!(heap.check(0).discarded >= discarded + 1024);
}

#[test]
fn a_world_that_does_not_take_memory_back_is_asked_once() {
    let heap = Heap::new(small(8));
    heap.machine.refuse_discards(true);
    let runs = heap.exhaust(Gfp::KERNEL | Gfp::MEMALLOC, 4);
    runs.iter().for_each(|run| fill(run, 1));
    heap.free_all(runs);
    assert_eq!(heap.check(0).discarded, 0);
    // Willing again, but nobody asks at each free any more.
    heap.machine.refuse_discards(false);
    let run = heap.alloc(10).expect("memory");
    assert!(!run.is_zeroed() && is_filled(&run, 1), "refused memory keeps its content");
    heap.free(run);
    assert_eq!(heap.machine.counters().discards, 0);
    assert!(heap.pages.trim(&heap.machine, 0) > 0, "an explicit trim asks again");
    assert!(heap.machine.counters().discards > 0);
    heap.check(0);
}
