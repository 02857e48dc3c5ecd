//! Random work on several caches and block sizes, with migrations and failures, against a second book.

use kmem_core::cache::CacheArgs;
use kmem_core::config::Config;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::platform::{BLOCK_PAGES, PAGE_SIZE, Platform};
use kmem_sim::{Machine, Rng, Shadow};

use crate::rig::{Cache, Rig, enter, is_zero, leave, resized};

crate::for_each_config! {
    on_a_calm_machine
    with_migrations
    with_migrations_and_failures
    on_one_cpu_of_a_scattered_machine
}

crate::for_slob! {
    on_a_calm_machine
    with_migrations
    with_migrations_and_failures
    on_one_cpu_of_a_scattered_machine
}

/// How many operations a run makes.
const STEPS: usize = if cfg!(debug_assertions) { 12_000 } else { 1_000_000 };

/// What the test holds.
#[derive(Clone, Copy)]
enum Held {
    Object { cache: usize, ptr: *mut u8 },
    Block { ptr: *mut u8, size: usize },
}

struct Walk<C: Config> {
    rig: Rig<C>,
    caches: Vec<(Cache<C>, usize)>,
    book: Shadow,
    held: Vec<Held>,
    rng: Rng,
    limit: usize,
    refused: usize,
}

impl<C: Config> Walk<C> {
    fn new(machine: &Machine, seed: u64) -> Self {
        let rig = Rig::<C>::new(machine);
        let caches = [
            (8, 0, SlabFlags::empty()),
            (24, 0, SlabFlags::empty()),
            (100, 64, SlabFlags::empty()),
            (192, 0, SlabFlags::HWCACHE_ALIGN),
            (1000, 0, SlabFlags::TYPESAFE_BY_RCU),
            (3000, 0, SlabFlags::RECLAIM_ACCOUNT),
            (64, 0, SlabFlags::NOLEAKTRACE),
        ]
        .into_iter()
        .enumerate()
        .map(|(i, (size, align, flags))| {
            let args = CacheArgs { align, flags: Some(flags), ..CacheArgs::default() };
            (rig.create(&format!("walk-{i}"), size, args).expect("a cache"), size)
        })
        .collect();
        Self {
            rig,
            caches,
            book: Shadow::new(),
            held: Vec::new(),
            rng: Rng::new(seed),
            limit: 3000,
            refused: 0,
        }
    }

    fn note(&mut self, ptr: *mut u8, size: usize, held: impl FnOnce(*mut u8) -> Held) {
        if ptr.is_null() {
            self.refused += 1;
            return;
        }
        enter(&mut self.book, ptr, size);
        self.held.push(held(ptr));
    }

    fn size(&mut self) -> usize {
        match self.rng.below(100) {
            0..70 => self.rng.between(1, 512),
            70..90 => self.rng.between(1, 8192),
            90..99 => self.rng.between(8192, 100_000),
            _ => self.rng.between(100_000, 3 << 20),
        }
    }

    fn alloc(&mut self) {
        let zero = self.rng.chance(0.1);
        let gfp = Gfp::KERNEL | Gfp::NOWARN | if zero { Gfp::ZERO } else { Gfp::empty() };
        if self.rng.chance(0.6) {
            let index = self.rng.below(self.caches.len());
            let (cache, size) = self.caches[index];
            let ptr = match self.rng.below(10) {
                0 => self.rig.alloc_node(cache, gfp, self.rng.below(3)),
                _ => self.rig.alloc(cache, gfp),
            };
            assert!(!zero || ptr.is_null() || is_zero(ptr, size));
            self.note(ptr, size, |ptr| Held::Object { cache: index, ptr });
        } else {
            let size = self.size();
            let ptr = if self.rng.chance(0.1) {
                let align = 1 << self.rng.between(4, 14);
                let ptr = self.rig.heap.allocate_aligned(align, size, gfp);
                assert_eq!(ptr as usize % align, 0);
                ptr
            } else {
                self.rig.heap.kmalloc(size, gfp)
            };
            assert!(!zero || ptr.is_null() || is_zero(ptr, size));
            self.note(ptr, size, |ptr| Held::Block { ptr, size });
        }
    }

    fn free(&mut self) {
        if self.held.is_empty() {
            return;
        }
        // Mostly the youngest, as programs do.
        let len = self.held.len();
        let place =
            if self.rng.chance(0.5) { len - 1 - self.rng.below(len.min(32)) } else { self.rng.below(len) };
        match self.held.swap_remove(place) {
            Held::Object { cache, ptr } => {
                leave(&mut self.book, ptr);
                self.rig.free(self.caches[cache].0, ptr);
            }
            Held::Block { ptr, .. } => {
                leave(&mut self.book, ptr);
                self.rig.kfree(ptr);
            }
        }
    }

    fn resize(&mut self) {
        let Some(place) = self.held.iter().rposition(|held| matches!(held, Held::Block { .. })) else {
            return;
        };
        let Held::Block { ptr, size } = self.held[place] else { unreachable!("just found") };
        let wanted = if self.rng.chance(0.5) { self.size() } else { (size + self.rng.below(64)).max(1) };
        let new = self.rig.reallocate(ptr, wanted);
        if new.is_null() {
            self.refused += 1;
            return;
        }
        resized(&mut self.book, ptr, new, wanted);
        self.held[place] = Held::Block { ptr: new, size: wanted };
    }

    fn bulk(&mut self) {
        let index = self.rng.below(self.caches.len());
        let (cache, size) = self.caches[index];
        let mut objects = vec![std::ptr::null_mut(); self.rng.below(90)];
        if !self.rig.alloc_bulk(cache, &mut objects) {
            self.refused += 1;
            return;
        }
        for &ptr in &objects {
            enter(&mut self.book, ptr, size);
        }
        if self.rng.chance(0.5) {
            self.held.extend(objects.into_iter().map(|ptr| Held::Object { cache: index, ptr }));
        } else {
            objects.iter().for_each(|&ptr| leave(&mut self.book, ptr));
            self.rig.free_bulk(cache, &mut objects);
        }
    }

    fn step(&mut self) {
        let grow = if self.held.len() < self.limit { 0.52 } else { 0.45 };
        match self.rng.below(1000) {
            0..20 => self.resize(),
            20..26 => self.bulk(),
            26 => {
                let cache = self.caches[self.rng.below(self.caches.len())].0;
                self.rig.shrink(cache);
            }
            27 => self.rig.heap.cpu_dead(self.rng.below(self.rig.machine.cpus())),
            28 => {
                // From a program that grows to one that shrinks, and back.
                self.limit = self.rng.between(10, 4000);
            }
            29 if self.rng.chance(0.05) => {
                self.rig.heap.trim(0);
            }
            _ if self.rng.chance(grow) => self.alloc(),
            _ => self.free(),
        }
    }

    fn check(&self) {
        let mut objects = vec![0u64; self.caches.len()];
        for held in &self.held {
            if let Held::Object { cache, .. } = held {
                objects[*cache] += 1;
            }
        }
        for (i, &(cache, size)) in self.caches.iter().enumerate() {
            assert_eq!(self.rig.in_use(cache), objects[i], "cache {i} of {size} bytes");
        }
        self.rig.check();
    }

    fn run(mut self, steps: usize) -> usize {
        for step in 1..=steps {
            self.step();
            if step % (steps / 8) == 0 {
                self.check();
            }
        }
        assert!(self.held.len() > 5, "the walk holds something at its end");
        while !self.held.is_empty() {
            self.free();
        }
        assert!(self.book.is_empty());
        self.check();
        for &(cache, _) in &self.caches {
            assert_eq!(self.rig.destroy(cache), Ok(true));
        }
        self.rig.heap.trim(0);
        let stats = self.rig.check();
        assert!(stats.in_use < 400, "{} pages in use by an empty heap", stats.in_use);
        self.refused
    }
}

fn on_a_calm_machine<C: Config>() {
    let machine = Machine::builder().cpus(2).nodes(2).memory_per_node(96 * BLOCK_PAGES).build();
    assert_eq!(Walk::<C>::new(&machine, 1).run(STEPS), 0, "there is memory enough");
}

fn with_migrations<C: Config>() {
    let machine = Machine::builder().cpus(4).nodes(2).memory_per_node(32 * BLOCK_PAGES).seed(2).build();
    let walk = Walk::<C>::new(&machine, 2);
    machine.preempt_probability(0.02);
    walk.run(STEPS);
    assert!(machine.counters().migrations > STEPS as u64 / 100);
}

fn with_migrations_and_failures<C: Config>() {
    let machine =
        Machine::builder().cpus(3).nodes(2).memory_per_node(2 * BLOCK_PAGES).map_limit(0).seed(3).build();
    let walk = Walk::<C>::new(&machine, 3);
    machine.preempt_probability(0.05);
    machine.fail_probability(0.3);
    let refused = walk.run(STEPS);
    assert!(refused > 0, "a machine of {} bytes is too large for this test", 4 * BLOCK_PAGES * PAGE_SIZE);
}

fn on_one_cpu_of_a_scattered_machine<C: Config>() {
    let machine = Machine::builder()
        .cpus(1)
        .nodes(1)
        .memory_per_node(40 * BLOCK_PAGES)
        .zones([BLOCK_PAGES, 2 * BLOCK_PAGES])
        .seed(4)
        .scattered()
        .build();
    machine.refuse_discards(true);
    Walk::<C>::new(&machine, 4).run(STEPS);
}
