//! What a heap costs beside what it serves: SLOB against SLUB, in pages. `docs/slob.md` shows these numbers.

use kmem_core::config::{Config, KernelConfig, UserConfig};
use kmem_core::engine::slob::Slob;
use kmem_core::engine::slub::Slub;
use kmem_core::heap::Kmem;
use kmem_sim::Rng;

use super::*;

/// Pages in use: of a fresh heap, and by blocks of so many sizes, each allocated so often; and the bytes asked.
fn pages<C: Config>(sizes: usize, largest: usize, each: usize) -> (usize, usize, usize) {
    let machine = Machine::builder().cpus(1).memory_per_node(8 * BLOCK_PAGES).build();
    let heap = Box::new(Kmem::<Machine, C>::new(machine.clone()));
    // SAFETY: the heap is boxed and shared with nobody yet.
    unsafe { heap.init() }.expect("memory");
    let in_use = || heap.pages().stats(&machine).in_use;
    let fresh = in_use();
    let mut rng = Rng::new(1);
    let mut bytes = 0;
    let sizes: Vec<_> = (0..sizes).map(|_| 1 + rng.below(largest)).collect();
    for _ in 0..each {
        for &size in &sizes {
            assert!(!heap.kmalloc(size, Gfp::KERNEL).is_null());
            bytes += size;
        }
    }
    (fresh, in_use() - fresh, bytes)
}

#[test]
fn a_small_heap_takes_fewer_pages_than_with_slub() {
    println!("{:<28} {:>12} {:>12} {:>12}", "pages", "fresh", "blocks", "asked, bytes");
    let mut fresh = Vec::new();
    for (text, sizes, largest, each) in [
        ("40 blocks up to 1000", 40, 1000, 1),
        ("400 blocks up to 1000", 400, 1000, 1),
        ("20000 blocks up to 300", 1000, 300, 20),
    ] {
        let rows = [
            ("slob kernel", pages::<KernelConfig<Slob>>(sizes, largest, each)),
            ("slub kernel", pages::<KernelConfig<Slub>>(sizes, largest, each)),
            ("slob user", pages::<UserConfig<Slob>>(sizes, largest, each)),
            ("slub user", pages::<UserConfig<Slub>>(sizes, largest, each)),
        ];
        println!("{text}");
        for (name, (first, then, bytes)) in rows {
            println!("  {name:<26} {first:>12} {then:>12} {bytes:>12}");
        }
        let [kernel, slub, user, fine] = rows.map(|(_, numbers)| numbers);
        assert!(kernel.1 < slub.1, "blocks as long as they were asked");
        if each == 1 {
            assert!(user.0 + user.1 < fine.0 + fine.1, "small heaps are smaller");
        }
        // No block costs more than its header, its grain, and what alignment leaves.
        assert!(kernel.1 * PAGE_SIZE <= kernel.2 * 2, "{kernel:?}");
        fresh.push((kernel.0, slub.0));
    }
    assert!(fresh.iter().all(|&(slob, slub)| slob <= 2 && slob * 3 <= slub), "{fresh:?}");
}
