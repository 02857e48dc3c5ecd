//! Random sequences of operations against a model. A sequence that fails is shrunk to the shortest that still does, and printed.
//!
//! The model knows what a heap promises and nothing of how: which blocks are alive, how large, what is in them. Failures
//! of the platform are operations too, so sequences run out of memory wherever they like.

use std::collections::BTreeMap;

use kmem_conformance::Faulty;
use kmem_conformance::bench::natural_alignment;
use kmem_core::Kmem;
use kmem_core::cache::{CacheArgs, CacheRef};
use kmem_core::config::{Config, Headed, KernelConfig, SeedConfig, UserConfig};
use kmem_core::engine::slab::Slab;
use kmem_core::engine::slob::Slob;
use kmem_core::engine::slub::Slub;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::classes::ClassSet;
use kmem_core::kmalloc::{FreeError, ZERO_SIZE_PTR};
use kmem_core::platform::BLOCK_PAGES;
use kmem_sim::Machine;
use proptest::prelude::*;
use proptest::test_runner::{Config as Settings, TestCaseError, TestRunner};

/// Both lengths of the property for each engine and configuration.
macro_rules! engines {
    ($($name:ident: $config:ty;)+) => {
        $(mod $name {
            use super::*;

            #[test]
            fn a_heap_does_what_the_model_does() {
                hold::<$config>(if cfg!(debug_assertions) { 60 } else { 300 }, 120);
            }

            #[test]
            #[ignore = "takes long"]
            fn a_heap_does_what_the_model_does_for_long() {
                hold::<$config>(2000, 400);
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

/// One thing that users do. Numbers choose among what there is, modulo how many there are.
#[derive(Clone, Debug)]
enum Op {
    Create { size: usize, align: u32, kind: u8 },
    Destroy { cache: usize },
    Alloc { cache: usize, zero: bool, node: Option<usize> },
    Bulk { cache: usize, count: usize },
    Free { block: usize, by_kfree: bool },
    FreeInside { block: usize, by: usize },
    FreeTwice { block: usize },
    Kmalloc { size: usize, zero: bool },
    Aligned { size: usize, align: u32 },
    Krealloc { block: usize, size: usize, zero: bool },
    Reallocate { block: usize, size: usize },
    Shrink { cache: usize },
    MoveTo { cpu: usize },
    CpuDead { cpu: usize },
    Trim,
    Refuse { nth: u64 },
    Check,
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 1usize..300, 3 => 300usize..9000, 1 => 9000usize..300_000]
}

fn op() -> impl Strategy<Value = Op> {
    let which = any::<usize>;
    prop_oneof![
        3 => (prop_oneof![8 => 1usize..1500, 1 => 1500usize..20_000], 0u32..10, 0u8..6)
            .prop_map(|(size, align, kind)| Op::Create { size, align, kind }),
        1 => which().prop_map(|cache| Op::Destroy { cache }),
        20 => (which(), any::<bool>(), prop::option::weighted(0.2, 0usize..2))
            .prop_map(|(cache, zero, node)| Op::Alloc { cache, zero, node }),
        4 => (which(), 0usize..140).prop_map(|(cache, count)| Op::Bulk { cache, count }),
        20 => (which(), any::<bool>()).prop_map(|(block, by_kfree)| Op::Free { block, by_kfree }),
        1 => (which(), which()).prop_map(|(block, by)| Op::FreeInside { block, by }),
        1 => which().prop_map(|block| Op::FreeTwice { block }),
        12 => (size(), any::<bool>()).prop_map(|(size, zero)| Op::Kmalloc { size, zero }),
        3 => (size(), 0u32..15).prop_map(|(size, align)| Op::Aligned { size, align }),
        5 => (which(), size(), any::<bool>()).prop_map(|(block, size, zero)| Op::Krealloc { block, size, zero }),
        5 => (which(), size()).prop_map(|(block, size)| Op::Reallocate { block, size }),
        1 => which().prop_map(|cache| Op::Shrink { cache }),
        4 => (0usize..4).prop_map(|cpu| Op::MoveTo { cpu }),
        1 => (0usize..5).prop_map(|cpu| Op::CpuDead { cpu }),
        1 => Just(Op::Trim),
        1 => (1u64..4).prop_map(|nth| Op::Refuse { nth }),
        1 => Just(Op::Check),
    ]
}

/// What the model knows of a block.
#[derive(Clone, Copy, Debug)]
struct Block {
    len: usize,
    seed: u8,
    cache: Option<u64>,
}

struct Model<C: Config> {
    machine: Machine,
    heap: Box<Kmem<Faulty<Machine>, C>>,
    caches: BTreeMap<u64, (CacheRef<C::Engine>, usize, usize)>,
    blocks: BTreeMap<usize, Block>,
    made: u64,
    seed: u8,
}

type Step = Result<(), TestCaseError>;

const QUIET: Gfp = Gfp::KERNEL.union(Gfp::NOWARN);
/// Live blocks at most.
const LIMIT: usize = 1500;

fn byte(seed: u8, at: usize) -> u8 {
    (at as u8).wrapping_mul(37).wrapping_add(seed)
}

/// The offsets of a block that are written and looked at: both ends.
fn looked_at(len: usize) -> impl Iterator<Item = usize> {
    (0..len.min(100)).chain(len.saturating_sub(50).max(100)..len)
}

fn at(address: usize) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address)
}

impl<C: Config> Model<C> {
    fn new() -> Self {
        let machine = Machine::builder().cpus(4).nodes(2).memory_per_node(3 * BLOCK_PAGES).build();
        let heap = Box::new(Kmem::new(Faulty::new(machine.clone())));
        // SAFETY: the heap is boxed and shared with nobody yet.
        unsafe { heap.init() }.expect("a machine has memory");
        Self { machine, heap, caches: BTreeMap::new(), blocks: BTreeMap::new(), made: 0, seed: 0 }
    }

    /// The `choice`-th of the live blocks that pass.
    fn block(&self, choice: usize, pass: impl Fn(&Block) -> bool) -> Option<(usize, Block)> {
        let of: Vec<_> = self.blocks.iter().filter(|(_, block)| pass(block)).collect();
        (!of.is_empty()).then(|| of[choice % of.len()]).map(|(&start, &block)| (start, block))
    }

    fn cache(&self, choice: usize) -> Option<(u64, CacheRef<C::Engine>, usize, usize)> {
        let count = self.caches.len();
        let (&id, &(cache, size, align)) = self.caches.iter().nth(choice.checked_rem(count)?)?;
        Some((id, cache, size, align))
    }

    /// A block came from the heap: it lies on no other, and is ours to write.
    fn enter(&mut self, ptr: *mut u8, len: usize, cache: Option<u64>, zero: bool) -> Step {
        if ptr.is_null() {
            return Ok(());
        }
        let start = ptr.expose_provenance();
        let before = self.blocks.range(..start + len).next_back();
        if let Some((&live, block)) = before {
            prop_assert!(live + block.len <= start, "{start:#x}+{len} lies on {live:#x}+{}", block.len);
        }
        self.seed = self.seed.wrapping_add(17);
        for offset in looked_at(len) {
            // SAFETY: the block has `len` bytes and is nobody else's.
            unsafe {
                prop_assert!(!zero || ptr.add(offset).read() == 0, "byte {offset} of {len} is dirty");
                ptr.add(offset).write(byte(self.seed, offset));
            }
        }
        self.blocks.insert(start, Block { len, seed: self.seed, cache });
        Ok(())
    }

    /// The first `len` bytes at `start` are what the block had.
    fn look(start: usize, len: usize, block: &Block) -> Step {
        for offset in looked_at(block.len).take_while(|&offset| offset < len) {
            // SAFETY: the bytes belong to a live block.
            let found = unsafe { at(start).add(offset).read() };
            prop_assert_eq!(found, byte(block.seed, offset), "byte {} of {}", offset, len);
        }
        Ok(())
    }

    fn free(&mut self, start: usize, block: Block, by_kfree: bool) -> Step {
        Self::look(start, block.len, &block)?;
        self.blocks.remove(&start);
        // SAFETY: the model holds the block, and its cache if it has one.
        let freed = unsafe {
            match block.cache {
                Some(id) if !(by_kfree && <C::Engine as kmem_core::engine::Engine>::KNOWS_CACHE) => {
                    self.heap.free(self.caches[&id].0, at(start))
                }
                _ => self.heap.kfree(at(start)),
            }
        };
        prop_assert_eq!(freed, Ok(()));
        Ok(())
    }

    fn resized(&mut self, start: usize, old: Block, new: *mut u8, len: usize) -> Step {
        if new.is_null() {
            return Self::look(start, old.len, &old);
        }
        self.blocks.remove(&start);
        Self::look(new.expose_provenance(), len.min(old.len), &old)?;
        self.enter(new, len, None, false)
    }

    fn apply(&mut self, op: &Op) -> Step {
        match *op {
            Op::Create { size, align, kind } if self.caches.len() < 12 => {
                let align = if align < 3 { 0 } else { 1 << align };
                let flags = [
                    SlabFlags::empty(),
                    SlabFlags::NO_MERGE,
                    SlabFlags::HWCACHE_ALIGN,
                    SlabFlags::TYPESAFE_BY_RCU,
                    SlabFlags::NOLEAKTRACE,
                    SlabFlags::RECLAIM_ACCOUNT,
                ][usize::from(kind)];
                let args = CacheArgs { align, flags: Some(flags), ..CacheArgs::default() };
                if let Ok(cache) = self.heap.create("model", size, args) {
                    self.made += 1;
                    self.caches.insert(self.made, (cache, size, align.max(1)));
                }
            }
            Op::Destroy { cache } => {
                // Only without objects of its own: of an alias others may be left.
                let Some((id, cache, ..)) = self.cache(cache) else { return Ok(()) };
                let alone = self.caches.values().filter(|other| other.0 == cache).count() == 1;
                if self.blocks.values().any(|block| block.cache == Some(id)) {
                    return Ok(());
                }
                // SAFETY: the model holds a use of the cache, and none of its objects.
                prop_assert_eq!(unsafe { self.heap.destroy(cache) }, Ok(alone));
                self.caches.remove(&id);
            }
            Op::Alloc { cache, zero, node } if self.blocks.len() < LIMIT => {
                let Some((id, cache, size, align)) = self.cache(cache) else { return Ok(()) };
                let gfp = QUIET | if zero { Gfp::ZERO } else { Gfp::empty() };
                // SAFETY: the cache is alive.
                let object = unsafe {
                    match node {
                        Some(_) => self.heap.alloc_node(cache, gfp | Gfp::THISNODE, node),
                        None => self.heap.alloc(cache, gfp),
                    }
                };
                prop_assert!(object.addr().is_multiple_of(align), "{:p} at {}", object, align);
                if let (Some(node), false) = (node, object.is_null()) {
                    prop_assert_eq!(self.machine.node_of_address(object), Some(node));
                }
                self.enter(object, size, Some(id), zero)?;
            }
            Op::Bulk { cache, count } if self.blocks.len() < LIMIT => {
                let Some((id, cache, size, _)) = self.cache(cache) else { return Ok(()) };
                let mut objects = vec![std::ptr::null_mut(); count];
                // SAFETY: the cache is alive.
                if unsafe { self.heap.alloc_bulk(cache, QUIET, &mut objects) } {
                    for object in objects {
                        prop_assert!(!object.is_null());
                        self.enter(object, size, Some(id), false)?;
                    }
                }
            }
            Op::Free { block, by_kfree } => {
                let Some((start, block)) = self.block(block, |_| true) else { return Ok(()) };
                self.free(start, block, by_kfree)?;
            }
            Op::FreeInside { block, by } => {
                let Some((start, block)) = self.block(block, |block| block.len > 1) else { return Ok(()) };
                let inside = start + 1 + by % (block.len - 1);
                // SAFETY: nothing starts there; the heap promises to notice.
                let freed = unsafe { self.heap.kfree(at(inside)) };
                // Of a mapping the heap knows the start alone.
                let noticed = match freed {
                    Err(FreeError::Interior { .. } | FreeError::NotObject(_)) => true,
                    Err(FreeError::Foreign(_)) => self.heap.pages().at(start).is_none(),
                    _ => false,
                };
                prop_assert!(noticed, "{:?}", freed);
                Self::look(start, block.len, &block)?;
            }
            Op::FreeTwice { block } => {
                // Of a block of pages it is always noticed; of an object only when it was the last that its CPU kept.
                let large = |block: &Block| block.cache.is_none() && block.len > C::Classes::LARGEST;
                let Some((start, block)) = self.block(block, large) else { return Ok(()) };
                self.free(start, block, false)?;
                // SAFETY: the heap promises to notice.
                let again = unsafe { self.heap.kfree(at(start)) };
                prop_assert!(again.is_err());
            }
            Op::Kmalloc { size, zero } if self.blocks.len() < LIMIT => {
                let gfp = QUIET | if zero { Gfp::ZERO } else { Gfp::empty() };
                let block = self.heap.kmalloc(size, gfp);
                if !block.is_null() {
                    prop_assert!(self.heap.ksize(block).is_ok_and(|usable| usable >= size));
                    let natural = natural_alignment::<C>(size);
                    prop_assert!(!size.is_power_of_two() || block.addr().is_multiple_of(natural));
                }
                self.enter(block, size, None, zero)?;
            }
            Op::Aligned { size, align } if self.blocks.len() < LIMIT => {
                let block = self.heap.allocate_aligned(1 << align, size, QUIET);
                prop_assert!(block.addr().is_multiple_of(1 << align));
                self.enter(block, size, None, false)?;
            }
            Op::Krealloc { block, size, zero } => {
                let gfp = QUIET | if zero { Gfp::ZERO } else { Gfp::empty() };
                let Some((start, block)) = self.block(block, |block| block.cache.is_none()) else {
                    return Ok(());
                };
                // SAFETY: the model holds the block.
                let new = unsafe { self.heap.krealloc(at(start), size, gfp) };
                prop_assert!(new.is_ok() && new != Ok(ZERO_SIZE_PTR), "{:?}", new);
                self.resized(start, block, new.unwrap_or(std::ptr::null_mut()), size)?;
            }
            Op::Reallocate { block, size } => {
                let Some((start, block)) = self.block(block, |block| block.cache.is_none()) else {
                    return Ok(());
                };
                // SAFETY: the model holds the block.
                let new = unsafe { self.heap.reallocate(at(start), size, QUIET) };
                prop_assert!(new.is_ok(), "{:?}", new);
                self.resized(start, block, new.unwrap_or(std::ptr::null_mut()), size)?;
            }
            Op::Shrink { cache } => {
                if let Some((_, cache, ..)) = self.cache(cache) {
                    // SAFETY: the cache is alive.
                    unsafe { self.heap.shrink(cache) };
                }
            }
            Op::MoveTo { cpu } => self.machine.set_cpu(cpu),
            Op::CpuDead { cpu } => self.heap.cpu_dead(cpu),
            Op::Trim => {
                self.heap.trim(0);
            }
            Op::Refuse { nth } => self.heap.platform().fail_nth(nth),
            Op::Check => self.check()?,
            // Enough of them.
            Op::Create { .. }
            | Op::Alloc { .. }
            | Op::Bulk { .. }
            | Op::Kmalloc { .. }
            | Op::Aligned { .. } => {}
        }
        Ok(())
    }

    fn check(&self) -> Step {
        for (&start, block) in &self.blocks {
            Self::look(start, block.len, block)?;
        }
        for &(cache, ..) in self.caches.values() {
            let of_it = |block: &&Block| block.cache.is_some_and(|id| self.caches[&id].0 == cache);
            let expected = self.blocks.values().filter(of_it).count() as u64;
            // SAFETY: the cache is alive, and nobody else works on it.
            let (counts, valid) = unsafe { (self.heap.counts(cache), self.heap.validate_cache(cache)) };
            prop_assert_eq!(counts.in_use(), expected);
            prop_assert!(valid.is_ok(), "{:?}", valid);
        }
        let pages = self.heap.pages().validate(self.heap.platform());
        prop_assert!(pages.is_ok(), "{:?}", pages);
        Ok(())
    }

    /// Gives everything back: nothing is lost, and nothing is left.
    fn end(mut self) -> Step {
        self.heap.platform().fail_none();
        self.check()?;
        while let Some((&start, &block)) = self.blocks.first_key_value() {
            self.free(start, block, start % 3 == 0)?;
        }
        self.check()?;
        while let Some((_, (cache, ..))) = self.caches.pop_first() {
            let last = self.caches.values().all(|other| other.0 != cache);
            // SAFETY: the model holds a use of the cache, and none of its objects.
            prop_assert_eq!(unsafe { self.heap.destroy(cache) }, Ok(last));
        }
        self.heap.trim(0);
        let totals = self.heap.totals();
        prop_assert_eq!((totals.large_bytes, totals.huge_bytes), (0, 0));
        let pages = self.heap.pages().stats(self.heap.platform());
        prop_assert!(pages.in_use < 300, "{} pages are in use by an empty heap", pages.in_use);
        Ok(())
    }
}

fn hold<C: Config>(cases: u32, longest: usize) {
    let settings =
        Settings { cases, failure_persistence: None, max_shrink_iters: 20_000, ..Settings::default() };
    let mut runner = TestRunner::new(settings);
    let result = runner.run(&prop::collection::vec(op(), 1..longest), |ops| {
        let mut model = Model::<C>::new();
        ops.iter().try_for_each(|op| model.apply(op))?;
        model.end()
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
