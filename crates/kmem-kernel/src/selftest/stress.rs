//! All CPUs at once: random sizes, random lives, blocks passed between CPUs, timers that allocate, and every byte checked.

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use kmem_core::gfp::Gfp;

use super::{Marked, Outcome, Random, STRESS, Test, ensure, everywhere, interrupts};
use crate::cpu::apic;
use crate::cpu::traps::on_timer;
use crate::{heap, smp};

pub(super) const TESTS: &[Test] = &[Test { name: "stress.all_cpus", run: all_cpus, cpus: 1, stacks: false }];

/// Blocks that any CPU may take over.
static MAIL: [AtomicPtr<Letter>; 64] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 64];
static WRONG: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// A block and its length, itself on the heap.
struct Letter {
    marked: Marked,
}

fn check(marked: Marked) {
    if !marked.check_and_free() {
        WRONG.fetch_add(1, Ordering::Relaxed);
    }
}

fn exchange(random: &mut Random, marked: Marked) {
    let letter = heap::kmalloc(size_of::<Letter>(), Gfp::KERNEL).cast::<Letter>();
    if letter.is_null() {
        REFUSED.fetch_add(1, Ordering::Relaxed);
        check(marked);
        return;
    }
    // SAFETY: a fresh block, large enough.
    unsafe { letter.write(Letter { marked }) };
    // AcqRel: the letter and what it leads to travel with the pointer.
    open(MAIL[random.below(64)].swap(letter, Ordering::AcqRel));
}

fn open(letter: *mut Letter) {
    if !letter.is_null() {
        // SAFETY: whoever takes it out of the mail owns it.
        let marked = unsafe {
            let marked = letter.read().marked;
            heap::kfree(letter.cast());
            marked
        };
        check(marked);
    }
}

fn work() {
    let mut random = Random(0xdead_beef_cafe + 7919 * smp::number() as u64);
    let mut blocks = [const { None::<Marked> }; 128];
    apic::timer(1000);
    for _ in 0..STRESS.load(Ordering::Relaxed) {
        let place = &mut blocks[random.below(128)];
        let Some(marked) = place.take() else {
            // Mostly small; now and then pages.
            let limit = [64, 64, 256, 256, 1024, 4096, 8192, 40_000][random.below(8)];
            *place = Marked::new(1 + random.below(limit), Gfp::KERNEL);
            if place.is_none() {
                REFUSED.fetch_add(1, Ordering::Relaxed);
            }
            continue;
        };
        if random.below(3) == 0 { exchange(&mut random, marked) } else { check(marked) }
    }
    apic::timer(0);
    blocks.into_iter().flatten().for_each(check);
    interrupts::clear();
}

fn all_cpus() -> Outcome {
    on_timer(interrupts::tick);
    everywhere(work);
    for place in &MAIL {
        open(place.swap(core::ptr::null_mut(), Ordering::AcqRel));
    }
    let (wrong, refused) = (WRONG.swap(0, Ordering::Relaxed), REFUSED.swap(0, Ordering::Relaxed));
    ensure!(wrong == 0, "{wrong} blocks were changed");
    ensure!(refused == 0, "{refused} requests were refused");
    Ok(())
}
