//! Real threads on simulated CPUs: blocks wander between threads, CPUs die under them, and a fork finds a heap at rest.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kmem_core::cache::CacheArgs;
use kmem_core::config::Config;
use kmem_core::engine::Engine;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::platform::{BLOCK_PAGES, Platform};
use kmem_sim::{Machine, Rng, Shadow};

use crate::rig::{Cache, Rig, enter, leave};

crate::for_each_config! {
    blocks_wander_between_threads
    everyone_on_one_cpu
    caches_come_and_go_while_others_work
    cpus_are_flushed_under_running_threads
    caches_are_tuned_and_reaped_under_running_threads
    a_fork_finds_every_lock_and_gives_it_back
}

crate::for_slob! {
    blocks_wander_between_threads
    everyone_on_one_cpu
    caches_come_and_go_while_others_work
    cpus_are_flushed_under_running_threads
    a_fork_finds_every_lock_and_gives_it_back
}

const THREADS: usize = 4;
const ROUNDS: usize = if cfg!(debug_assertions) { 15_000 } else { 400_000 };

/// A block on its way to another thread. The address is enough: the pattern in it is made from it.
struct Parcel<C: Config> {
    cache: Option<Cache<C>>,
    ptr: usize,
    size: usize,
}

fn machine(seed: u64) -> Machine {
    let machine = Machine::builder().cpus(4).nodes(2).memory_per_node(16 * BLOCK_PAGES).seed(seed).build();
    machine.preempt_probability(0.01);
    machine
}

/// Allocates, keeps, frees and posts blocks; returns when `rounds` are over, holding nothing.
fn work<C: Config>(
    rig: &Rig<C>,
    caches: &[(Cache<C>, usize)],
    post: &[Mutex<Vec<Parcel<C>>>],
    me: usize,
    rounds: usize,
) {
    let mut rng = Rng::new(me as u64 + 100);
    let mut book = Shadow::new();
    let mut held: Vec<Parcel<C>> = Vec::new();
    rig.machine.set_cpu(me % rig.machine.cpus());
    let free = |parcel: Parcel<C>, book: &mut Shadow| {
        let ptr = parcel.ptr as *mut u8;
        leave(book, ptr);
        match parcel.cache {
            Some(cache) => rig.free(cache, ptr),
            None => rig.kfree(ptr),
        }
    };
    for round in 0..rounds {
        if rng.chance(0.52) && held.len() < 400 {
            let (cache, size, ptr) = if rng.chance(0.7) {
                let (cache, size) = caches[rng.below(caches.len())];
                (Some(cache), size, rig.alloc(cache, Gfp::KERNEL))
            } else {
                let largest = if rng.chance(0.05) { 200_000 } else { 4000 };
                let size = rng.between(1, largest);
                (None, size, rig.heap.kmalloc(size, Gfp::KERNEL))
            };
            assert!(!ptr.is_null(), "there is memory enough");
            enter(&mut book, ptr, size);
            held.push(Parcel { cache, ptr: ptr as usize, size });
        } else if !held.is_empty() {
            let parcel = held.swap_remove(rng.below(held.len()));
            if rng.chance(0.3) {
                // The pattern stays in the block and the receiver's book checks it when it leaves there.
                leave(&mut book, parcel.ptr as *mut u8);
                post[rng.below(post.len())].lock().expect("the post").push(parcel);
            } else {
                free(parcel, &mut book);
            }
        }
        if round % 16 == 0 {
            let mine = std::mem::take(&mut *post[me].lock().expect("the post"));
            for parcel in mine {
                check_and_free(rig, &parcel);
            }
        }
    }
    for parcel in held {
        free(parcel, &mut book);
    }
    assert!(book.is_empty());
}

/// Checks a block that another thread filled, and frees it here.
fn check_and_free<C: Config>(rig: &Rig<C>, parcel: &Parcel<C>) {
    let ptr = parcel.ptr as *mut u8;
    // SAFETY: the block is live and ours; nobody else writes to it.
    let damage = unsafe { Shadow::verify(ptr, parcel.size, ptr as u64) };
    assert!(damage.is_ok(), "{damage:?}");
    match parcel.cache {
        Some(cache) => rig.free(cache, ptr),
        None => rig.kfree(ptr),
    }
}

fn post_offices<C: Config>() -> Vec<Mutex<Vec<Parcel<C>>>> {
    (0..THREADS).map(|_| Mutex::new(Vec::new())).collect()
}

fn empty_the_post<C: Config>(rig: &Rig<C>, post: &[Mutex<Vec<Parcel<C>>>]) {
    for office in post {
        for parcel in office.lock().expect("the post").drain(..) {
            check_and_free(rig, &parcel);
        }
    }
}

fn finish<C: Config>(rig: &Rig<C>, caches: &[(Cache<C>, usize)]) {
    for &(cache, _) in caches {
        assert_eq!(rig.in_use(cache), 0);
    }
    rig.check();
    for &(cache, _) in caches {
        assert_eq!(rig.destroy(cache), Ok(true));
    }
    rig.heap.trim(0);
    let stats = rig.check();
    assert!(stats.in_use < 400, "{} pages in use by an empty heap", stats.in_use);
}

fn blocks_wander_between_threads<C: Config>() {
    let rig = Rig::<C>::new(&machine(1));
    let caches = [(rig.cache("a", 40), 40), (rig.cache("b", 500), 500), (rig.cache("c", 2500), 2500)];
    let post = post_offices();
    std::thread::scope(|scope| {
        for me in 0..THREADS {
            let (rig, caches, post) = (&rig, &caches, &post);
            scope.spawn(move || work(rig, caches, post, me, ROUNDS));
        }
    });
    empty_the_post(&rig, &post);
    assert!(rig.machine.counters().migrations > 0);
    finish(&rig, &caches);
}

/// All threads share the stacks, the CPU slabs and the transaction words of one CPU; one cache has no stacks at all.
fn everyone_on_one_cpu<C: Config>() {
    let rig = Rig::<C>::new(&Machine::builder().memory_per_node(32 * BLOCK_PAGES).build());
    let bare = CacheArgs { flags: Some(SlabFlags::NOLEAKTRACE), ..CacheArgs::default() };
    let caches = [
        (rig.cache("stacked", 48), 48),
        (rig.create("bare", 48, bare).expect("a cache"), 48),
        (rig.create("bare and few to a slab", 2000, bare).expect("a cache"), 2000),
    ];
    let post = post_offices();
    std::thread::scope(|scope| {
        for me in 0..THREADS {
            let (rig, caches, post) = (&rig, &caches, &post);
            scope.spawn(move || work(rig, caches, post, me, ROUNDS));
        }
    });
    empty_the_post(&rig, &post);
    finish(&rig, &caches);
}

fn caches_come_and_go_while_others_work<C: Config>() {
    let rig = Rig::<C>::new(&machine(2));
    let caches = [(rig.cache("steady", 64), 64)];
    let post = post_offices();
    let left = AtomicUsize::new(2);
    std::thread::scope(|scope| {
        for me in 0..2 {
            let (rig, caches, post, left) = (&rig, &caches, &post, &left);
            scope.spawn(move || {
                work(rig, caches, post, me, ROUNDS / 2);
                left.fetch_sub(1, Ordering::Release);
            });
        }
        scope.spawn(|| {
            rig.machine.set_cpu(2);
            let mut rng = Rng::new(77);
            let mut made = 0;
            while left.load(Ordering::Acquire) > 0 || made < 10 {
                let size = rng.between(8, 3000);
                let cache = rig.cache(&format!("fleeting-{made}"), size);
                let objects: Vec<*mut u8> =
                    (0..rng.below(100)).map(|_| rig.alloc(cache, Gfp::KERNEL)).collect();
                objects.into_iter().for_each(|object| rig.free(cache, object));
                assert_eq!(rig.destroy(cache), Ok(true));
                made += 1;
            }
        });
    });
    empty_the_post(&rig, &post);
    finish(&rig, &caches);
}

fn cpus_are_flushed_under_running_threads<C: Config>() {
    let rig = Rig::<C>::new(&machine(3));
    let caches = [(rig.cache("a", 40), 40), (rig.cache("b", 500), 500)];
    let post = post_offices();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS - 1)
            .map(|me| {
                let (rig, caches, post) = (&rig, &caches, &post);
                scope.spawn(move || work(rig, caches, post, me, ROUNDS / 2))
            })
            .collect();
        let flusher = scope.spawn(|| {
            rig.machine.set_cpu(3);
            let mut rng = Rng::new(5);
            let mut flushes = 0;
            while !done.load(Ordering::Acquire) || flushes < 20 {
                match rng.below(8) {
                    0 => {
                        rig.heap.trim(0);
                    }
                    1..4 => {
                        rig.shrink(caches[rng.below(caches.len())].0);
                    }
                    _ => rig.heap.cpu_dead(rng.below(4)),
                }
                flushes += 1;
                std::thread::yield_now();
            }
            flushes
        });
        for worker in workers {
            worker.join().expect("a worker");
        }
        done.store(true, Ordering::Release);
        assert!(flusher.join().expect("the flusher") >= 20);
    });
    empty_the_post(&rig, &post);
    finish(&rig, &caches);
}

/// Arrays change their sizes, and the reaper comes round, while threads work. (Engines that have neither pass the time.)
fn caches_are_tuned_and_reaped_under_running_threads<C: Config>() {
    let rig = Rig::<C>::new(&machine(6));
    let caches = [(rig.cache("a", 40), 40), (rig.cache("b", 500), 500)];
    let post = post_offices();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS - 1)
            .map(|me| {
                let (rig, caches, post) = (&rig, &caches, &post);
                scope.spawn(move || work(rig, caches, post, me, ROUNDS / 2))
            })
            .collect();
        let tuner = scope.spawn(|| {
            rig.machine.set_cpu(3);
            let mut rng = Rng::new(8);
            let mut turns = 0;
            while !done.load(Ordering::Acquire) || turns < 20 {
                if rng.chance(0.3) {
                    let limit = rng.between(1, 126);
                    let (batch, shared) = (rng.between(1, limit), rng.below(5));
                    let name = ["a", "b"][rng.below(2)];
                    let line = format!("{name} {limit} {batch} {shared}");
                    let tuned = rig.heap.write_slabinfo_tunables(line.as_bytes());
                    assert_eq!(tuned.is_ok(), C::Engine::NAME == "slab", "{line}: {tuned:?}");
                } else {
                    rig.machine.advance(2_000_000_000);
                    rig.heap.cache_reap(rng.below(4));
                }
                turns += 1;
                std::thread::yield_now();
            }
            turns
        });
        for worker in workers {
            worker.join().expect("a worker");
        }
        done.store(true, Ordering::Release);
        assert!(tuner.join().expect("the tuner") >= 20);
    });
    empty_the_post(&rig, &post);
    finish(&rig, &caches);
}

fn a_fork_finds_every_lock_and_gives_it_back<C: Config>() {
    let rig = Rig::<C>::new(&machine(4));
    let caches = [(rig.cache("a", 40), 40), (rig.cache("b", 500), 500)];
    let post = post_offices();
    let left = AtomicUsize::new(2);
    std::thread::scope(|scope| {
        for me in 0..2 {
            let (rig, caches, post, left) = (&rig, &caches, &post, &left);
            scope.spawn(move || {
                work(rig, caches, post, me, ROUNDS / 4);
                left.fetch_sub(1, Ordering::Release);
            });
        }
        let mut forks = 0;
        while left.load(Ordering::Acquire) > 0 || forks < 3 {
            rig.machine.forking(|| {
                rig.heap.lock_for_fork();
                // SAFETY: this thread took the locks just now.
                unsafe { rig.heap.unlock_after_fork() };
            });
            assert_eq!(rig.machine.highest_lock(), None, "every lock came back");
            forks += 1;
            std::thread::yield_now();
        }
    });
    empty_the_post(&rig, &post);
    finish(&rig, &caches);
}
