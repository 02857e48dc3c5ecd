//! Real threads on one heap of this process, for every engine and configuration: blocks wander between threads, caches
//! come and go, stacks are flushed under running threads. Each thread keeps a book of its own.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kmem::host::{Host, Options};
use kmem_core::Kmem;
use kmem_core::cache::{CacheArgs, CacheRef};
use kmem_core::config::{Config, Headed, KernelConfig, SeedConfig, UserConfig};
use kmem_core::engine::slab::Slab;
use kmem_core::engine::slob::Slob;
use kmem_core::engine::slub::Slub;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_sim::{Rng, Shadow};

macro_rules! engines {
    ($($name:ident: $config:ty;)+) => {
        $(mod $name {
            use super::*;

            #[test]
            fn blocks_wander_between_threads() {
                wander::<$config>(if cfg!(debug_assertions) { 8_000 } else { 60_000 });
            }

            #[test]
            #[ignore = "takes long"]
            fn blocks_wander_between_threads_for_long() {
                wander::<$config>(350_000);
            }
        })+
    };
}

engines! {
    slub_kernel: KernelConfig<Slub>;
    slub_user: UserConfig<Slub>;
    slub_user_headed: Headed;
    slab_kernel: KernelConfig<Slab>;
    slab_user: UserConfig<Slab>;
    slab_seed: SeedConfig;
    slob_kernel: KernelConfig<Slob>;
    slob_user: UserConfig<Slob>;
}

const THREADS: usize = 4;
const SIZES: [usize; 4] = [24, 100, 700, 3000];

type Heap<C> = Kmem<Host, C>;

/// A block on its way to another thread. Its pattern is made of its address.
struct Parcel {
    /// Which of [`SIZES`] it is an object of; a block of kmalloc otherwise.
    cache: Option<usize>,
    address: usize,
    size: usize,
}

fn heap<C: Config>() -> &'static Heap<C> {
    let heap: &'static Heap<C> = Box::leak(Box::new(Kmem::new(Host::new())));
    // SAFETY: host and heap never move, and nobody else uses them yet.
    unsafe {
        let options = Options { window_pages: 1 << 20, ..Options::DEFAULT };
        heap.platform().init(&options).expect("a process has memory");
        heap.init().expect("a process has memory");
    }
    heap
}

struct Yard<C: Config> {
    heap: &'static Heap<C>,
    caches: [CacheRef<C::Engine>; SIZES.len()],
    post: [Mutex<Vec<Parcel>>; THREADS],
    wandered: AtomicUsize,
}

impl<C: Config> Yard<C> {
    fn give_back(&self, parcel: &Parcel) {
        let ptr: *mut u8 = std::ptr::with_exposed_provenance_mut(parcel.address);
        // SAFETY: the block is live, and whoever holds the parcel holds it; the cache is alive.
        unsafe {
            Shadow::verify(ptr, parcel.size, parcel.address as u64)
                .unwrap_or_else(|damage| panic!("{damage}"));
            match parcel.cache {
                Some(cache) => self.heap.free(self.caches[cache], ptr).expect("a good object"),
                None => self.heap.kfree(ptr).expect("a good block"),
            }
        }
    }

    fn work(&self, me: usize, rounds: usize) {
        let mut rng = Rng::new(me as u64 + 1);
        let mut book = Shadow::new();
        let mut held: Vec<Parcel> = Vec::new();
        for round in 0..rounds {
            if rng.chance(0.52) && held.len() < 300 {
                let cache = rng.chance(0.7).then(|| rng.below(SIZES.len()));
                let largest = if rng.chance(0.03) { 100_000 } else { 4000 };
                let size = cache.map_or_else(|| rng.between(1, largest), |cache| SIZES[cache]);
                let ptr = match cache {
                    // SAFETY: the cache is alive.
                    Some(cache) => unsafe { self.heap.alloc(self.caches[cache], Gfp::KERNEL) },
                    None => self.heap.kmalloc(size, Gfp::KERNEL),
                };
                assert!(!ptr.is_null(), "there is memory enough");
                let address = ptr.expose_provenance();
                // SAFETY: the heap said that the block is ours; if it lies on another nothing is written.
                unsafe { book.enter(ptr, size, address as u64) }.unwrap_or_else(|damage| panic!("{damage}"));
                held.push(Parcel { cache, address, size });
            } else if !held.is_empty() {
                let parcel = held.swap_remove(rng.below(held.len()));
                let ptr: *mut u8 = std::ptr::with_exposed_provenance_mut(parcel.address);
                // SAFETY: the block is live.
                unsafe { book.leave(ptr) }.unwrap_or_else(|damage| panic!("{damage}"));
                if rng.chance(0.3) {
                    self.wandered.fetch_add(1, Ordering::Relaxed);
                    self.post[rng.below(THREADS)].lock().expect("the post").push(parcel);
                } else {
                    self.give_back(&parcel);
                }
            }
            if round % 16 == 0 {
                let mine = std::mem::take(&mut *self.post[me].lock().expect("the post"));
                mine.iter().for_each(|parcel| self.give_back(parcel));
            }
            match round % 2048 {
                500 => self.come_and_go(round),
                // SAFETY: the cache is alive.
                1000 => drop(unsafe { self.heap.shrink(self.caches[rng.below(SIZES.len())]) }),
                1500 => self.heap.cpu_dead(rng.below(2)),
                _ => {}
            }
        }
        for parcel in held {
            // SAFETY: the block is live.
            unsafe { book.leave(std::ptr::with_exposed_provenance_mut(parcel.address)) }
                .unwrap_or_else(|damage| panic!("{damage}"));
            self.give_back(&parcel);
        }
        assert!(book.is_empty());
    }

    fn come_and_go(&self, round: usize) {
        let args = CacheArgs { flags: Some(SlabFlags::NO_MERGE), ..CacheArgs::default() };
        let cache = self.heap.create("passing", 40 + round % 300, args).expect("a cache");
        // SAFETY: the cache is this thread's, and its objects too.
        unsafe {
            let objects: Vec<_> = (0..30).map(|_| self.heap.alloc(cache, Gfp::KERNEL)).collect();
            for object in objects {
                self.heap.free(cache, object).expect("a good object");
            }
            assert_eq!(self.heap.destroy(cache), Ok(true));
        }
    }
}

fn wander<C: Config>(rounds: usize) {
    let heap = heap::<C>();
    let caches = SIZES.map(|size| {
        let args = CacheArgs { flags: Some(SlabFlags::NO_MERGE), ..CacheArgs::default() };
        heap.create("wander", size, args).expect("a cache")
    });
    let post = [const { Mutex::new(Vec::new()) }; THREADS];
    let yard = Yard::<C> { heap, caches, post, wandered: AtomicUsize::new(0) };
    std::thread::scope(|scope| {
        for me in 0..THREADS {
            let yard = &yard;
            scope.spawn(move || yard.work(me, rounds));
        }
    });
    for office in &yard.post {
        office.lock().expect("the post").iter().for_each(|parcel| yard.give_back(parcel));
    }
    assert!(yard.wandered.into_inner() > rounds / 10, "blocks do wander");
    for cache in caches {
        // SAFETY: the cache is alive, and nobody works on it any more.
        unsafe {
            assert_eq!(heap.counts(cache).in_use(), 0);
            assert!(heap.validate_cache(cache).is_ok());
            assert_eq!(heap.destroy(cache), Ok(true));
        }
    }
    heap.pages().validate(heap.platform()).expect("sound pages");
    let totals = heap.totals();
    assert_eq!((totals.large_bytes, totals.huge_bytes), (0, 0));
}
