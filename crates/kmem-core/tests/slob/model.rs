//! Random blocks against a shadow map: who owns which bytes, and what they wrote there.

use std::collections::BTreeMap;

use kmem_sim::Rng;

use super::*;

/// How a block was asked for.
#[derive(Clone, Copy)]
enum How {
    Object,
    Kmalloc,
    Whole(u32),
}

/// A block in use; its bytes are all `fill`.
#[derive(Clone, Copy)]
struct Block {
    ptr: NonNull<u8>,
    bytes: usize,
    how: How,
    fill: u8,
}

struct Model {
    blocks: BTreeMap<usize, Block>,
}

impl Model {
    /// A new block overlaps no other; headers count as part of theirs.
    fn insert(&mut self, rng: &mut Rng, ptr: NonNull<u8>, bytes: usize, how: How) {
        let header = |how| if matches!(how, How::Kmalloc) { 8 } else { 0 };
        let (start, end) = (ptr.addr().get() - header(how), ptr.addr().get() + bytes);
        if let Some((&at, before)) = self.blocks.range(..end).next_back() {
            assert!(at + before.bytes <= start, "{start:#x}..{end:#x} overlaps {at:#x}+{}", before.bytes);
        }
        let fill = rng.below(256) as u8;
        // SAFETY: the block belongs to the test.
        unsafe { ptr.write_bytes(fill, bytes) };
        self.blocks.insert(ptr.addr().get(), Block { ptr, bytes, how, fill });
    }

    fn take_any(&mut self, rng: &mut Rng) -> Option<Block> {
        let keys = self.blocks.len();
        let key = *self.blocks.keys().nth(if keys == 0 { 0 } else { rng.below(keys) })?;
        self.blocks.remove(&key)
    }
}

fn free(f: &Fixture, block: Block) -> Result<(), BlockError> {
    match block.how {
        How::Object => f.free(block.ptr, block.bytes),
        How::Kmalloc => f.kfree(block.ptr),
        // SAFETY: the block is the test's, or is refused.
        How::Whole(_) => unsafe { f.heap.free_whole(f.world(), block.ptr.as_ptr(), std::ptr::null_mut()) },
    }
}

fn give_back(f: &Fixture, block: Block) {
    // SAFETY: the block belongs to the test, which filled it.
    let bytes = unsafe { std::slice::from_raw_parts(block.ptr.as_ptr(), block.bytes) };
    assert!(bytes.iter().all(|&byte| byte == block.fill), "somebody wrote to a block in use");
    if matches!(block.how, How::Kmalloc) {
        assert_eq!(f.heap.requested(f.world(), block.ptr.as_ptr()), Ok(block.bytes));
    }
    free(f, block).expect("in use");
    assert!(free(f, block).is_err(), "freed twice");
}

fn walk(seed: u64, steps: usize) {
    let mut rng = Rng::new(seed);
    let f = Fixture::new(
        Machine::builder().cpus(2).nodes(2).memory_per_node(2 * BLOCK_PAGES).seed(seed).scattered(),
    );
    let mut model = Model { blocks: BTreeMap::new() };
    let mut served = 0;
    // Every now and then the machine refuses memory.
    f.machine.fail_probability(0.2);
    for _ in 0..steps {
        f.machine.set_cpu(rng.below(2));
        let node = rng.chance(0.3).then(|| rng.below(2));
        let bits = 1 + rng.below(12);
        let bytes = 1 + rng.below(1 << bits);
        match rng.below(100) {
            0..30 => {
                let shifts = if rng.chance(0.1) { 10 } else { 3 };
                let align = 8 << rng.below(shifts);
                let gfp = Gfp::KERNEL;
                let ask = Ask { align, node, ..Ask::new(bytes, gfp) };
                if let Some(ptr) = f.heap.alloc(f.world(), &ask) {
                    assert_eq!(ptr.addr().get() % align, 0);
                    model.insert(&mut rng, ptr, bytes, How::Object);
                    served += 1;
                }
            }
            30..55 => {
                let size = bytes.min(4088);
                if let Some(ptr) = f.heap.kmalloc(f.world(), size, Gfp::ATOMIC, node) {
                    model.insert(&mut rng, ptr, size, How::Kmalloc);
                    served += 1;
                }
            }
            55..57 => {
                let order = rng.below(4) as u32;
                let owner = std::ptr::null_mut();
                if let Some(ptr) = f.heap.alloc_whole(f.world(), order, Gfp::KERNEL, node, owner) {
                    model.insert(&mut rng, ptr, PAGE_SIZE << order, How::Whole(order));
                    served += 1;
                }
            }
            57..97 => model.take_any(&mut rng).into_iter().for_each(|block| give_back(&f, block)),
            97 => {
                // Most of them at once, so that pages become empty.
                for _ in 0..model.blocks.len() * 3 / 4 {
                    model.take_any(&mut rng).into_iter().for_each(|block| give_back(&f, block));
                }
            }
            _ => check(&f, &model),
        }
    }
    check(&f, &model);
    assert!(served > steps / 3, "{served} of {steps}");
    std::mem::take(&mut model.blocks).into_values().for_each(|block| give_back(&f, block));
    f.check_empty();
}

fn check(f: &Fixture, model: &Model) {
    let stats = f.check();
    let (mut blocks, mut wholes, mut whole_pages, mut used) = (0, 0, 0, 0);
    for block in model.blocks.values() {
        match block.how {
            How::Whole(order) => {
                wholes += 1;
                whole_pages += 1 << order;
            }
            How::Object => {
                blocks += 1;
                used += block.bytes.next_multiple_of(2);
            }
            How::Kmalloc => {
                blocks += 1;
                used += block.bytes.next_multiple_of(2) + 8;
            }
        }
    }
    assert_eq!((stats.blocks, stats.wholes, stats.whole_pages), (blocks, wholes, whole_pages));
    assert_eq!(stats.free_bytes, stats.pages * PAGE_SIZE - used);
}

#[test]
fn random_blocks_agree_with_the_shadow_map() {
    let seeds = std::env::var("KMEM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    for seed in 0..seeds {
        walk(seed, 2500);
    }
}

/// Threads that share one heap; each checks its own blocks, the checkers the rest.
#[test]
fn threads_share_one_heap() {
    let f = Fixture::new(Machine::builder().cpus(4).memory_per_node(8 * BLOCK_PAGES));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let f = &f;
            scope.spawn(move || {
                f.machine.set_cpu(thread);
                let mut rng = Rng::new(thread as u64);
                let mut model = Model { blocks: BTreeMap::new() };
                for _ in 0..4000 {
                    if rng.chance(0.55) {
                        let size = 1 + rng.below(700);
                        let ptr = f.kmalloc(size);
                        model.insert(&mut rng, ptr, size, How::Kmalloc);
                    } else if let Some(block) = model.take_any(&mut rng) {
                        // Not twice: another thread may have its memory by then.
                        // SAFETY: the block is this thread's, which filled it.
                        let bytes = unsafe { std::slice::from_raw_parts(block.ptr.as_ptr(), block.bytes) };
                        assert!(bytes.iter().all(|&byte| byte == block.fill));
                        f.kfree(block.ptr).expect("in use");
                    }
                }
                model.blocks.into_values().for_each(|block| f.kfree(block.ptr).expect("in use"));
            });
        }
    });
    f.check_empty();
}
