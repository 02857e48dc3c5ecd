//! Random operations against a second book, which finds overlap, loss and double hand-out.
//!
//! One seed makes one walk. Everything that users do is in it: objects and blocks of all sizes, zeroed or not, resizing, bulks,
//! shrinking, CPUs that die, trimming; the caches' own counts are compared with the book's now and then.

use kmem_core::cache::CacheArgs;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;

use crate::bench::{Bench, QUIET, is_zero};
use crate::failure::{Outcome, ensure, equal, fail};
use crate::shadow::Shadow;
use crate::{Cache, Driver};

/// A generator of random numbers (SplitMix64): small, seeded, the same everywhere.
pub(crate) struct Rng(u64);

impl Rng {
    /// The generator of this seed.
    #[must_use]
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// True so many times of a hundred.
    pub(crate) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

/// What a walk is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    /// Of a hundred allocations, those of caches; the others are blocks.
    pub(crate) objects: usize,
    /// CPUs to wander over.
    pub(crate) cpus: usize,
}

/// Live blocks of a walk, at most.
const BOOK: usize = 900;
/// The tag of blocks that are of no cache.
const BLOCK: u32 = u32::MAX;

const SHAPES: [(usize, usize, SlabFlags); 8] = [
    (8, 0, SlabFlags::empty()),
    (24, 0, SlabFlags::empty()),
    (100, 64, SlabFlags::empty()),
    (192, 0, SlabFlags::HWCACHE_ALIGN),
    (700, 0, SlabFlags::empty()),
    (1000, 0, SlabFlags::TYPESAFE_BY_RCU),
    (3000, 0, SlabFlags::RECLAIM_ACCOUNT),
    (64, 0, SlabFlags::NOLEAKTRACE),
];

struct Walk<'b, 'a, D: Driver> {
    bench: &'b Bench<'a, D>,
    mix: Mix,
    caches: [Cache<D>; SHAPES.len()],
    book: Shadow<BOOK>,
    rng: Rng,
    limit: usize,
}

impl<D: Driver> Walk<'_, '_, D> {
    fn size(&mut self) -> usize {
        let largest = match self.rng.below(100) {
            0..70 => 512,
            70..92 => 8192,
            92..99 => 70_000,
            _ => 1 << 20,
        };
        1 + self.rng.below(largest)
    }

    fn alloc(&mut self) -> Outcome {
        let zero = self.rng.percent(10);
        let gfp = QUIET | if zero { Gfp::ZERO } else { Gfp::empty() };
        let heap = self.bench.heap();
        let (ptr, size, tag) = if self.rng.percent(self.mix.objects) {
            let index = self.rng.below(SHAPES.len());
            let node = self.rng.percent(5).then(|| self.rng.below(2));
            let ptr = match node {
                Some(node) => self.bench.alloc_node(self.caches[index], gfp, Some(node)),
                None => self.bench.alloc(self.caches[index], gfp),
            };
            (ptr, SHAPES[index].0, index as u32)
        } else {
            let size = self.size();
            let ptr = if self.rng.percent(10) {
                let align = 1 << self.rng.below(14);
                let ptr = heap.allocate_aligned(align, size, gfp);
                ensure!(ptr.addr().is_multiple_of(align), "{size} bytes at {align}: {ptr:p}");
                ptr
            } else {
                heap.kmalloc(size, gfp)
            };
            (ptr, size, BLOCK)
        };
        ensure!(!ptr.is_null(), "no memory for {size} bytes");
        ensure!(!zero || is_zero(ptr, size), "{size} zeroed bytes are dirty");
        let seed = self.rng.next_u64() as u32;
        self.book.enter(ptr, size, seed, tag)
    }

    fn free(&mut self) -> Outcome {
        if self.book.is_empty() {
            return Ok(());
        }
        let block = self.book.leave(self.rng.below(self.book.len()))?;
        let ptr = core::ptr::with_exposed_provenance_mut(block.start);
        // An object may leave by kfree as well, where that can tell what it is.
        if block.tag == BLOCK || (self.bench.knows_caches() && self.rng.percent(5)) {
            self.bench.kfree(ptr)
        } else {
            self.bench.free(self.caches[block.tag as usize], ptr)
        }
    }

    fn resize(&mut self) -> Outcome {
        let Some(at) = self.book.blocks().iter().rposition(|block| block.tag == BLOCK) else {
            return Ok(());
        };
        let block = self.book.blocks()[at];
        let size = if self.rng.percent(50) { self.size() } else { block.len + self.rng.below(64) };
        let old = core::ptr::with_exposed_provenance_mut(block.start);
        let new = if self.rng.percent(50) {
            self.bench.krealloc(old, size, QUIET)?
        } else {
            // SAFETY: the walk holds the block.
            match unsafe { self.bench.heap().reallocate(old, size, QUIET) } {
                Ok(new) => new,
                Err(error) => fail!("a good block of {} to {size} bytes: {error}", block.len),
            }
        };
        ensure!(!new.is_null(), "no memory for a resize to {size} bytes");
        self.book.moved(at, new, size)?;
        let seed = self.rng.next_u64() as u32;
        self.book.enter(new, size, seed, BLOCK)
    }

    fn bulk(&mut self) -> Outcome {
        let index = self.rng.below(SHAPES.len());
        let mut objects = [core::ptr::null_mut(); 80];
        let room = BOOK - self.book.len();
        let objects = &mut objects[..self.rng.below(80).min(room)];
        ensure!(self.bench.alloc_bulk(self.caches[index], QUIET, objects), "no memory for a bulk");
        let keep = self.rng.percent(40);
        for &object in objects.iter() {
            let seed = self.rng.next_u64() as u32;
            self.book.enter(object, SHAPES[index].0, seed, index as u32)?;
        }
        if keep {
            return Ok(());
        }
        for &object in objects.iter() {
            let start = object.expose_provenance();
            let at = self.book.blocks().partition_point(|block| block.start < start);
            self.book.leave(at)?;
        }
        self.bench.free_bulk(Some(self.caches[index]), objects)
    }

    fn step(&mut self) -> Outcome {
        if self.mix.cpus > 1 && self.rng.percent(3) {
            self.bench.go(self.rng.below(self.mix.cpus))?;
        }
        match self.rng.below(2000) {
            0..60 => self.resize(),
            60..75 => self.bulk(),
            75..77 => {
                let index = self.rng.below(SHAPES.len());
                self.bench.shrink(self.caches[index]);
                Ok(())
            }
            77 => {
                self.bench.heap().cpu_dead(self.rng.below(self.bench.cpus()));
                Ok(())
            }
            78 if self.rng.percent(10) => {
                self.bench.heap().trim(0);
                Ok(())
            }
            79 => {
                // From a program that grows to one that shrinks, and back.
                self.limit = 10 + self.rng.below(BOOK - 10);
                Ok(())
            }
            _ if self.book.is_full() => self.free(),
            choice => {
                let grow = if self.book.len() < self.limit { 1100 } else { 880 };
                if choice < grow { self.alloc() } else { self.free() }
            }
        }
    }

    fn check(&self) -> Outcome {
        self.book.check()?;
        let mut objects = [0_u64; SHAPES.len()];
        for block in self.book.blocks().iter().filter(|block| block.tag != BLOCK) {
            objects[block.tag as usize] += 1;
        }
        for (index, &cache) in self.caches.iter().enumerate() {
            equal!(self.bench.in_use(cache), objects[index], "objects of {} bytes in use", SHAPES[index].0);
        }
        // Also validates every structure.
        self.bench.holdings().map(|_| ())
    }
}

/// Walks, checks on the way, gives everything back.
///
/// # Errors
/// The book and the heap disagree, or there is no memory.
pub(crate) fn walk<D: Driver>(bench: &Bench<'_, D>, mix: Mix) -> Outcome {
    let make = |(size, align, flags)| {
        bench.create("walk", size, CacheArgs { align, flags: Some(flags), ..CacheArgs::default() })
    };
    let [a, b, c, d, e, f, g, h] = SHAPES;
    let caches = [make(a)?, make(b)?, make(c)?, make(d)?, make(e)?, make(f)?, make(g)?, make(h)?];
    let mut walk =
        Walk { bench, mix, caches, book: Shadow::new(), rng: Rng::new(bench.seed), limit: BOOK / 2 };
    for step in 1..=bench.steps {
        walk.step()?;
        if step % (bench.steps / 6).max(1) == 0 {
            walk.check()?;
        }
    }
    while !walk.book.is_empty() {
        walk.free()?;
    }
    walk.check()?;
    caches.into_iter().try_for_each(|cache| bench.destroy(cache))
}
