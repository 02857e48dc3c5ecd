//! What an operation costs, in ticks of the time stamp counter: instructions, where the machine counts them as time
//! (`-icount shift=0`).
//!
//! # What is compared
//! The ways to own a CPU for an instant, each as a bare pair of pop and push, and the heap's calls on top of the way this kernel was
//! built for. The third way, a compare-and-exchange of head and transaction number by one instruction, is here only: it suits
//! a linked list, not an array (see [`crate::platform::area`]).
//!
//! Each number is the average of [`ROUNDS`] rounds, less the loop around it, with interrupts off, on warm stacks. A pair that changes
//! the interrupt flag pays a price on a processor that instructions do not show.

use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::mem::offset_of;

use kmem_core::cache::CacheArgs;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;
use kmem_core::percpu::Pushed;

use crate::cpu::serial::println;
use crate::cpu::{time, without_interrupts};
use crate::heap;
use crate::platform::{OWNERSHIP, masked, restart};
use crate::smp::Block;

const ROUNDS: u64 = 1000;

/// Ticks of one round of `work`, in tenths.
#[inline(always)]
fn tenths(mut work: impl FnMut()) -> u64 {
    let mut best = u64::MAX;
    for _ in 0..5 {
        let start = time::stamp();
        for _ in 0..ROUNDS {
            work();
            // SAFETY: nothing; it keeps the loop a loop.
            unsafe { asm!("", options(nostack, preserves_flags)) };
        }
        best = best.min(time::stamp() - start);
    }
    best * 10 / ROUNDS
}

fn show(name: &str, tenths: u64, empty: u64, operations: u64) {
    let each = tenths.saturating_sub(empty) / operations;
    println!("measure {name:<44} {:>6}.{}", each / 10, each % 10);
}

/// The single-instruction way: takes the head of this CPU's list.
///
/// # Safety
/// The list holds objects of its user, each with a link in its first word, and the processor has the instruction.
#[inline(always)]
unsafe fn exchange_pop() -> *mut u8 {
    let object: *mut u8;
    // SAFETY: no lock is needed: only this CPU uses its list, and the instruction is not divided by an interrupt. The transaction
    // number tells a head that went and came back.
    unsafe {
        asm!(
            "mov {save}, rbx",
            "2:",
            "mov rax, gs:[{at}]",
            "mov rdx, gs:[{at} + 8]",
            "test rax, rax",
            "jz 3f",
            "mov rbx, [rax]",
            "lea rcx, [rdx + 1]",
            "cmpxchg16b gs:[{at}]",
            "jnz 2b",
            "3:",
            "mov rbx, {save}",
            at = const offset_of!(Block, list),
            save = out(reg) _,
            out("rax") object,
            out("rcx") _,
            out("rdx") _,
            options(nostack)
        );
    }
    object
}

/// The single-instruction way: puts an object at the head of this CPU's list.
///
/// # Safety
/// As [`exchange_pop`]; the object is the caller's and has a word.
#[inline(always)]
unsafe fn exchange_push(object: *mut u8) {
    // SAFETY: as above; the link is written into the caller's own object.
    unsafe {
        asm!(
            "mov {save}, rbx",
            "mov rbx, {object}",
            "2:",
            "mov rax, gs:[{at}]",
            "mov rdx, gs:[{at} + 8]",
            "mov [rbx], rax",
            "lea rcx, [rdx + 1]",
            "cmpxchg16b gs:[{at}]",
            "jnz 2b",
            "mov rbx, {save}",
            at = const offset_of!(Block, list),
            save = out(reg) _,
            object = in(reg) object,
            out("rax") _,
            out("rcx") _,
            out("rdx") _,
            options(nostack)
        );
    }
}

/// Measures everything and prints it. False when an operation failed.
pub(crate) fn run() -> bool {
    let args = CacheArgs { flags: Some(SlabFlags::NO_MERGE), sheaf_capacity: 100, ..CacheArgs::default() };
    let Ok(cache) = heap::with(|heap| heap.create("measured", 64, args)) else { return false };
    println!("\n--- measure (ticks; built for {OWNERSHIP})");
    // Sixteen objects wait on the stack, so that no operation leaves it.
    let mut objects = [core::ptr::null_mut::<u8>(); 16];
    let mut fine = true;
    for object in &mut objects {
        // SAFETY: the cache lives until the end of this function.
        *object = heap::with(|heap| unsafe { heap.alloc(cache, Gfp::KERNEL) });
        fine &= !object.is_null();
    }
    for object in objects {
        // SAFETY: as above; taken above, freed once.
        fine &= heap::with(|heap| unsafe { heap.free(cache, object) }).is_ok();
    }
    // SAFETY: as above.
    let id = unsafe { cache.stack_id() };
    without_interrupts(|| {
        let empty = tenths(|| {});
        let mut many = [core::ptr::null_mut::<u8>(); 16];
        // An engine without CPU stacks has nothing to pop.
        if heap::HAS_STACKS {
            // SAFETY: the cache lives; what is popped is pushed again.
            let pieces = tenths(|| unsafe { fine &= restart::push(id, restart::pop(id)) == Pushed::Done });
            show("pop + push, restarted pieces", pieces, empty, 1);
            // SAFETY: as above.
            let off = tenths(|| unsafe { fine &= masked::push(id, masked::pop(id)) == Pushed::Done });
            show("pop + push, interrupts off", off, empty, 1);
            let bulk = tenths(|| {
                // SAFETY: as above.
                unsafe {
                    let got = restart::pop_many(id, many.as_mut_ptr(), 16);
                    fine &= restart::push_many(id, many.as_ptr(), got) == 16;
                }
            });
            show("16 pops + 16 pushes, pieces, each pair", bulk, empty, 16);
            let bulk = tenths(|| {
                // SAFETY: as above.
                unsafe {
                    let got = masked::pop_many(id, many.as_mut_ptr(), 16);
                    fine &= masked::push_many(id, many.as_ptr(), got) == 16;
                }
            });
            show("16 pops + 16 pushes, off, each pair", bulk, empty, 16);
        }
        if __cpuid(1).ecx & 1 << 13 != 0 {
            let mut words = [0_u64; 8];
            // SAFETY: an array on this stack, alone on the list, taken off below.
            unsafe {
                exchange_push((&raw mut words).cast());
                show("pop + push, cmpxchg16b on a list", tenths(|| exchange_push(exchange_pop())), empty, 1);
                fine &= exchange_pop() == (&raw mut words).cast() && exchange_pop().is_null();
            }
        }
        let pair = tenths(|| {
            // SAFETY: as above.
            heap::with(|heap| unsafe {
                let object = heap.alloc(cache, Gfp::ATOMIC);
                fine &= heap.free(cache, object).is_ok();
            });
        });
        show("cache pair", pair, empty, 1);
        let pair = tenths(|| {
            // SAFETY: allocated here, freed once.
            unsafe { heap::kfree(heap::kmalloc(64, Gfp::ATOMIC)) };
        });
        show("kmalloc(64) + kfree", pair, empty, 1);
        let pair = tenths(|| {
            // SAFETY: as above.
            unsafe { heap::kfree(heap::kmalloc(core::hint::black_box(64), Gfp::ATOMIC)) };
        });
        show("kmalloc(size) + kfree", pair, empty, 1);
        let pair = tenths(|| {
            // SAFETY: as above.
            heap::with(|heap| unsafe {
                fine &= heap.alloc_bulk(cache, Gfp::ATOMIC, &mut many);
                fine &= heap.free_bulk(Some(cache), &mut many).is_ok();
            });
        });
        show("alloc_bulk(16) + free_bulk(16), each object", pair, empty, 16);
    });
    // SAFETY: no object is in use.
    fine &= heap::with(|heap| unsafe { heap.destroy(cache) }).is_ok();
    fine
}
