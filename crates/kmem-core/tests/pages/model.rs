//! Random operations against a model: a plain set of pages.

use std::collections::BTreeMap;

use kmem_core::gfp::Gfp;
use kmem_core::page::{Kind, PageError, PageRun, ZoneKind};
use kmem_core::platform::{BLOCK_PAGES, PAGE_SIZE};
use kmem_sim::{Machine, Rng};

use super::Heap;

/// What the model knows: runs by their first page.
struct Model {
    runs: BTreeMap<usize, PageRun>,
}

impl Model {
    fn held(&self) -> usize {
        self.runs.values().map(PageRun::pages).sum()
    }

    /// A new or longer run overlaps no other.
    fn assert_free(&self, first: usize, count: usize) {
        let before = self.runs.range(..first + count).next_back();
        if let Some((&start, run)) = before {
            assert!(start + run.pages() <= first, "pages {first}+{count} overlap {start}+{}", run.pages());
        }
    }

    fn insert(&mut self, heap: &Heap, run: PageRun) {
        let first = heap.pages.index(run.head());
        self.assert_free(first, run.pages());
        self.runs.insert(first, run);
    }

    fn take_any(&mut self, rng: &mut Rng) -> Option<PageRun> {
        let from = rng.below(1 << 20);
        let key = *self.runs.range(from..).next().or_else(|| self.runs.iter().next())?.0;
        self.runs.remove(&key)
    }
}

fn gfp(rng: &mut Rng) -> Gfp {
    let base = [Gfp::KERNEL, Gfp::NOWAIT, Gfp::ATOMIC][rng.below(3)];
    let kind = [Gfp::empty(), Gfp::RECLAIMABLE, Gfp::MOVABLE][rng.below(3)];
    let zone = [Gfp::empty(), Gfp::empty(), Gfp::empty(), Gfp::DMA, Gfp::DMA32, Gfp::THISNODE][rng.below(6)];
    base | kind | zone
}

fn walk(seed: u64, steps: usize) {
    let mut rng = Rng::new(seed);
    let heap = Heap::new(
        Machine::builder()
            .cpus(3)
            .nodes(2)
            .memory_per_node(4 * BLOCK_PAGES)
            .zones([BLOCK_PAGES, BLOCK_PAGES])
            .seed(seed)
            .scattered(),
    );
    heap.pages.set_trim_floor(rng.between(0, 1500));
    heap.machine.fail_probability(0.1);
    let mut model = Model { runs: BTreeMap::new() };
    let (m, pages) = (&heap.machine, &heap.pages);
    for step in 0..steps {
        m.set_cpu(rng.below(3));
        let node = rng.chance(0.3).then(|| rng.below(2));
        match rng.below(100) {
            0..35 => {
                let run =
                    pages.alloc(m, gfp(&mut rng), rng.below(11) as u32 / (1 + rng.below(4) as u32), node);
                run.into_iter().for_each(|run| model.insert(&heap, run));
            }
            35..45 => {
                let bits = rng.below(11);
                let size = 1 + rng.below(1 << bits);
                let run = pages.alloc_exact(m, gfp(&mut rng), size, node);
                run.into_iter().for_each(|run| model.insert(&heap, run));
            }
            45..75 => model.take_any(&mut rng).into_iter().for_each(|run| heap.free(run)),
            75..80 => {
                if let Some(run) = model.take_any(&mut rng) {
                    let head = pages.into_head(run);
                    let addr = pages.address(head).addr();
                    let inside = rng.below(head.pages()) * PAGE_SIZE;
                    if inside != 0 {
                        // SAFETY: refused, as it is not the start of a run.
                        let refused = unsafe { pages.free_at(m, addr + inside, None) };
                        assert_eq!(refused, Err(PageError::Interior { head: addr }), "step {step}");
                    }
                    // SAFETY: the run was taken out of the model, by its head.
                    unsafe { pages.free_at(m, addr, None) }.expect("owned");
                }
            }
            80..86 => {
                if let Some(mut run) = model.take_any(&mut rng) {
                    let less = 1 + rng.below(run.pages());
                    pages.truncate(m, &mut run, less);
                    model.insert(&heap, run);
                }
            }
            86..93 => {
                if let Some(mut run) = model.take_any(&mut rng) {
                    let (old, more) = (run.pages(), run.pages() + rng.below(40));
                    let grown = pages.try_extend(m, &mut run, more);
                    assert_eq!(run.pages(), if grown { more } else { old }, "step {step}");
                    model.insert(&heap, run);
                }
            }
            93..96 => {
                if let Some(mut run) = model.take_any(&mut rng) {
                    run.set_kind([Kind::Slab, Kind::Large, Kind::Allocated][rng.below(3)]);
                    pages.set_tag(&run, rng.below(100) as u16);
                    heap.free(run);
                }
            }
            96 => pages.drain_cpu(m, rng.below(3)),
            97 => {
                pages.trim(m, rng.below(3000));
            }
            _ => {
                let stats = heap.check(model.held());
                assert!(stats.peak_in_use >= stats.in_use);
            }
        }
    }
    heap.check(model.held());
    model.runs.into_values().for_each(|run| heap.free(run));
    heap.drain();
    let stats = heap.check(0);
    let allocs: u64 = (0..2)
        .flat_map(|node| ZoneKind::ALL.map(|zone| pages.zone_stats(m, node, zone)))
        .flatten()
        .map(|zone| zone.events.allocs)
        .sum();
    assert!(allocs as usize > steps / 4, "seed {seed} did little: {allocs} blocks in {steps} steps");
    // All joined: everything but the block of the books is whole again.
    m.fail_none();
    assert_eq!(stats.free, stats.managed);
    let blocks: usize = whole_blocks(&heap);
    assert_eq!(blocks, stats.managed / BLOCK_PAGES, "seed {seed}");
}

fn whole_blocks(heap: &Heap) -> usize {
    let mut text = String::new();
    heap.pages.buddyinfo(&heap.machine, &mut text).expect("writing to a string");
    text.lines()
        .map(|line| line.split_whitespace().last().expect("a column").parse::<usize>().expect("a number"))
        .sum()
}

#[test]
fn random_operations_agree_with_the_model() {
    let seeds = std::env::var("KMEM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    for seed in 0..seeds {
        walk(seed, 1500);
    }
}
