//! Damage in a block of 64 bytes is reported, on a kernel whose command line asks for checks (`slub_debug=FZPU,kmalloc-64`).

use kmem_core::gfp::Gfp;

use super::{Outcome, Test, ensure};
use crate::heap;

pub(super) const TESTS: &[Test] = &[
    Test { name: "damage.behind_a_block", run: behind_a_block, cpus: 1, stacks: false },
    Test { name: "damage.after_the_end", run: after_the_end, cpus: 1, stacks: false },
];

/// Whether the command line asks for them.
pub(super) fn asked() -> bool {
    heap::with(|heap| heap.debug().options()).is_some_and(|options| options.contains("kmalloc-64"))
}

/// Reports so far.
fn reports() -> u64 {
    heap::with(|heap| heap.debug().errors())
}

/// A byte written behind a block is seen when the block is freed, and without it nothing is. A damaged block is repaired and
/// stays in use; then it can be freed.
fn behind_a_block() -> Outcome {
    for damage in [false, true] {
        let before = reports();
        let block = heap::kmalloc(64, Gfp::KERNEL);
        ensure!(!block.is_null(), "no memory");
        // SAFETY: the byte behind the block is the red zone of a checked cache, and belongs to nobody. The block is this test's.
        unsafe {
            if damage {
                block.add(64).write(0x11);
                heap::kfree(block);
            }
        }
        let seen = reports() - before;
        // SAFETY: still this test's.
        unsafe { heap::kfree(block) };
        ensure!((seen > 0) == damage, "damage: {damage}, reports: {seen}");
        ensure!(reports() - before == seen, "a block that was repaired is reported again");
    }
    Ok(())
}

/// A byte written into a block that was freed is seen when the slabs are looked through, and repaired.
fn after_the_end() -> Outcome {
    let before = reports();
    let block = heap::kmalloc(64, Gfp::KERNEL);
    ensure!(!block.is_null(), "no memory");
    // SAFETY: the block's memory stays mapped, and nobody else asks for one of this class before it is repaired.
    unsafe {
        heap::kfree(block);
        block.add(20).write(0x11);
    }
    heap::with(|heap| heap.validate_all());
    let seen = reports() - before;
    heap::with(|heap| heap.validate_all());
    ensure!(seen > 0, "nobody saw it");
    ensure!(reports() - before == seen, "it is seen twice");
    Ok(())
}
