//! Many threads at once, with a checker among them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kmem_core::gfp::Gfp;
use kmem_core::page::{Kind, PageRun};
use kmem_core::platform::{BLOCK_PAGES, PageRange, Platform};
use kmem_sim::{Machine, Rng};

use super::Heap;

const WORKERS: usize = 6;

/// Every word of each page carries the owner's stamp.
fn stamp(run: &PageRun, value: u64) {
    for page in 0..run.pages() {
        // SAFETY: the run is owned, and both words lie in its memory.
        unsafe { run.address().add(page * 4096).cast::<[u64; 512]>().write([value; 512]) };
    }
}

fn assert_stamp(run: &PageRun, value: u64) {
    for page in 0..run.pages() {
        // SAFETY: as in `stamp`.
        let words = unsafe { run.address().add(page * 4096).cast::<[u64; 512]>().read() };
        assert!(words.iter().all(|&word| word == value), "another owner wrote here");
    }
}

/// Waits for the other workers, but not for ever: one of them may have failed.
fn wait_for_all(arrived: &AtomicUsize) {
    let round = arrived.fetch_add(1, Ordering::Relaxed) / WORKERS + 1;
    let deadline = Instant::now() + Duration::from_secs(5);
    while arrived.load(Ordering::Relaxed) < round * WORKERS && Instant::now() < deadline {
        std::thread::yield_now();
    }
}

fn work(heap: &Heap, thread: u64, steps: usize, arrived: &AtomicUsize) {
    let mut rng = Rng::new(thread + 100);
    let mut runs: Vec<(PageRun, u64)> = Vec::new();
    let (m, pages) = (&heap.machine, &heap.pages);
    for step in 0..steps as u64 {
        m.set_cpu(rng.below(4));
        match rng.below(10) {
            0..5 if runs.len() < 60 => {
                let gfp = [Gfp::KERNEL, Gfp::ATOMIC, Gfp::KERNEL | Gfp::RECLAIMABLE][rng.below(3)];
                let node = rng.chance(0.2).then(|| rng.below(2));
                let run = if rng.chance(0.8) {
                    pages.alloc(m, gfp, rng.below(6) as u32, node)
                } else {
                    pages.alloc_exact(m, gfp, rng.between(1, 60), node)
                };
                let Some(mut run) = run else { continue };
                let value = thread << 32 | step;
                if rng.chance(0.3) {
                    run.set_kind(Kind::Slab);
                    pages.set_tag(&run, 1 + thread as u16);
                }
                stamp(&run, value);
                runs.push((run, value));
            }
            5 if !runs.is_empty() => {
                let at = rng.below(runs.len());
                let (run, value) = &mut runs[at];
                let more = run.pages() + rng.between(1, 8);
                if pages.try_extend(m, run, more) {
                    stamp(run, *value);
                } else {
                    let less = run.pages().div_ceil(2);
                    pages.truncate(m, run, less);
                }
            }
            _ if !runs.is_empty() => {
                let (run, value) = runs.swap_remove(rng.below(runs.len()));
                assert_stamp(&run, value);
                heap.free(run);
            }
            _ => {}
        }
        // Now and then a thread rests, and when all do, whole blocks are free.
        if step % 200 == 199 {
            for (run, value) in runs.drain(..) {
                assert_stamp(&run, value);
                heap.free(run);
            }
            pages.trim(m, 100);
            wait_for_all(arrived);
        }
    }
    for (run, value) in runs {
        assert_stamp(&run, value);
        heap.free(run);
    }
}

#[test]
fn threads_share_the_heap_without_sharing_pages() {
    let heap =
        Heap::new(Machine::builder().cpus(4).nodes(2).memory_per_node(6 * BLOCK_PAGES).seed(3).scattered());
    heap.pages.set_trim_floor(64);
    heap.machine.preempt_probability(0.05);
    let arrived = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    let checks = AtomicUsize::new(0);
    let removed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS as u64)
            .map(|thread| {
                scope.spawn({
                    let (heap, arrived) = (&heap, &arrived);
                    move || work(heap, thread, 3000, arrived)
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                heap.pages.validate(&heap.machine).unwrap_or_else(|fault| panic!("{fault}"));
                checks.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Memory is taken away wherever it is not in use, and fetched again.
        scope.spawn(|| {
            let window = heap.machine.window().pages;
            for first in (0..window).step_by(BLOCK_PAGES).cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let range = PageRange { first, count: BLOCK_PAGES };
                removed.fetch_add(
                    usize::from(heap.pages.remove_memory(&heap.machine, range).is_ok()),
                    Ordering::Relaxed,
                );
            }
        });
        let results: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        assert!(results.into_iter().all(|result| result.is_ok()));
    });
    let (checks, removed) = (checks.into_inner(), removed.into_inner());
    assert!(checks > 3 && removed > 0, "{checks} checks, {removed} blocks removed");
    heap.check(0);
    heap.machine.preempt_probability(0.0);
    heap.pages.trim(&heap.machine, 0);
    let stats = heap.check(0);
    assert_eq!((stats.free, stats.resident_free), (stats.managed, 0));
}

#[test]
fn fork_hooks_hold_everything_still() {
    let heap = Heap::new(Machine::builder().cpus(2).nodes(2).memory_per_node(4 * BLOCK_PAGES));
    let run = heap.alloc(0).expect("memory");
    let passed = AtomicUsize::new(0);
    heap.machine.forking(|| {
        heap.pages.lock_for_fork(&heap.machine);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let run = heap.alloc(0).expect("memory");
                passed.fetch_add(1, Ordering::SeqCst);
                heap.free(run);
            });
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert_eq!(passed.load(Ordering::SeqCst), 0, "the other thread waits");
            // SAFETY: this thread took them above.
            unsafe { heap.pages.unlock_after_fork(&heap.machine) };
        });
    });
    assert_eq!(passed.load(Ordering::SeqCst), 1);
    heap.free(run);
    heap.check(0);
}
