//! The rows of a thousand: so many allocations, then as many frees in some order. What one CPU keeps is not
//! enough for them, so these rows measure the way to slabs and pages and back, for each operation.

use kmem_core::gfp::Gfp;
use kmem_core::page::PageRun;

use super::calls::Subject;
use super::{Wanted, sample, unseen};
use crate::cpu::without_interrupts;
use crate::heap;

const COUNT: usize = 1000;
/// Rounds before the one that counts: what caches learn, they know by then.
const WARM: usize = 4;

/// In which order objects are freed.
#[derive(Clone, Copy)]
enum Order {
    /// The last allocated first.
    Lifo,
    /// The first allocated first.
    Fifo,
    /// Some other order, the same in every round.
    Shuffled,
}

/// All rows of this file, interrupts off. False when an operation failed.
pub(super) fn run(wanted: Wanted<'_>) -> bool {
    let mut fine = true;
    for (name, size, order, cold) in [
        ("thousand_64_cold", 64, Order::Lifo, true),
        ("thousand_64_lifo", 64, Order::Lifo, false),
        ("thousand_64_fifo", 64, Order::Fifo, false),
        ("thousand_64_shuffled", 64, Order::Shuffled, false),
        ("thousand_20_lifo", 20, Order::Lifo, false),
        ("thousand_256_lifo", 256, Order::Lifo, false),
        ("thousand_1024_lifo", 1024, Order::Lifo, false),
        ("thousand_1024_fifo", 1024, Order::Fifo, false),
    ] {
        fine &= !wanted.has(name) || without_interrupts(|| objects(wanted, name, size, order, cold));
    }
    for (name, order) in [("thousand_pages_0", 0), ("thousand_pages_3", 3)] {
        fine &= !wanted.has(name) || without_interrupts(|| pages(wanted, name, order));
    }
    fine
}

/// Some permutation of the numbers below [`COUNT`].
fn shuffled() -> [u16; COUNT] {
    let mut places: [u16; COUNT] = core::array::from_fn(|i| i as u16);
    let mut state = 1_u32;
    for i in (1..COUNT).rev() {
        // A linear congruential step; its high bits are good enough to choose a place.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        places.swap(i, (state >> 8) as usize % (i + 1));
    }
    places
}

/// What one round costs: the allocations, the frees.
#[inline(never)]
fn round(cache: &Subject, objects: &mut [*mut u8; COUNT], order: Order) -> [u32; 2] {
    let alloc = sample(|| {
        for object in objects.iter_mut() {
            *object = cache.alloc(Gfp::ATOMIC);
        }
    });
    match order {
        Order::Lifo => objects.reverse(),
        Order::Fifo => {}
        Order::Shuffled => {
            let allocated = *objects;
            objects
                .iter_mut()
                .zip(shuffled())
                .for_each(|(object, place)| *object = allocated[usize::from(place)]);
        }
    }
    let free = sample(|| {
        for &object in objects.iter() {
            // SAFETY: allocated above, freed once.
            unsafe { cache.free(object) };
        }
    });
    [alloc, free]
}

/// Prints both halves of a row.
fn show(wanted: Wanted<'_>, name: &str, ticks: [u32; 2]) {
    for (part, ticks) in ["_alloc", "_free"].into_iter().zip(ticks) {
        wanted.show_part(name, part, ticks, COUNT as u64);
    }
}

fn objects(wanted: Wanted<'_>, name: &str, size: usize, order: Order, cold: bool) -> bool {
    let Some(cache) = Subject::new("thousand", size) else { return false };
    let mut objects = [core::ptr::null_mut(); COUNT];
    for _ in 0..WARM {
        round(&cache, &mut objects, order);
    }
    if cold {
        cache.shrink();
    }
    show(wanted, name, round(&cache, &mut objects, order));
    cache.end()
}

fn pages(wanted: Wanted<'_>, name: &str, order: usize) -> bool {
    let mut runs = [const { None::<PageRun> }; COUNT];
    let mut fine = true;
    let mut ticks = [0; 2];
    for _ in 0..=WARM {
        let alloc = sample(|| {
            for run in &mut runs {
                *run = heap::with(|heap| {
                    heap.pages().alloc(heap.platform(), Gfp::ATOMIC, unseen(order) as u32, None)
                });
            }
        });
        let free = sample(|| {
            for run in &mut runs {
                match run.take() {
                    Some(run) => heap::with(|heap| heap.pages().free(heap.platform(), run)),
                    None => fine = false,
                }
            }
        });
        ticks = [alloc, free];
    }
    show(wanted, name, ticks);
    fine
}
