//! The ways to own a CPU for an instant, each as a bare pair of pop and push.
//!
//! Two of them this kernel can be built for. The third, a compare-and-exchange of head and transaction number by one instruction,
//! is here only: it suits a linked list, not an array (see [`crate::platform::area`]).
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

use super::{Wanted, sample};
use crate::cpu::without_interrupts;
use crate::heap;
use crate::platform::{masked, restart};
use crate::smp::Block;

const ROUNDS: u64 = 1000;

/// Ticks of [`ROUNDS`] rounds of `work`.
#[inline(always)]
fn rounds(mut work: impl FnMut()) -> u32 {
    let mut all = || {
        for _ in 0..ROUNDS {
            work();
            // SAFETY: nothing; it keeps the loop a loop.
            unsafe { asm!("", options(nostack, preserves_flags)) };
        }
    };
    (0..5).map(|_| sample(&mut all)).min().unwrap_or(0)
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

/// All rows of this file. False when an operation failed.
pub(super) fn run(wanted: Wanted<'_>) -> bool {
    let show = |name: &str, ticks: u32, empty: u32, operations: u64| {
        wanted.show(name, ticks.saturating_sub(empty), ROUNDS * operations);
    };
    let args = CacheArgs { flags: Some(SlabFlags::NO_MERGE), sheaf_capacity: 100, ..CacheArgs::default() };
    let Ok(cache) = heap::with(|heap| heap.create("measured", 64, args)) else { return false };
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
        let empty = rounds(|| {});
        let mut many = [core::ptr::null_mut::<u8>(); 16];
        // An engine without CPU stacks has nothing to pop.
        if heap::HAS_STACKS {
            // SAFETY: the cache lives; what is popped is pushed again.
            let pieces = rounds(|| unsafe { fine &= restart::push(id, restart::pop(id)) == Pushed::Done });
            show("way_pieces", pieces, empty, 1);
            // SAFETY: as above.
            let off = rounds(|| unsafe { fine &= masked::push(id, masked::pop(id)) == Pushed::Done });
            show("way_masked", off, empty, 1);
            let bulk = rounds(|| {
                // SAFETY: as above.
                unsafe {
                    let got = restart::pop_many(id, many.as_mut_ptr(), 16);
                    fine &= restart::push_many(id, many.as_ptr(), got) == 16;
                }
            });
            show("way_pieces_16", bulk, empty, 16);
            let bulk = rounds(|| {
                // SAFETY: as above.
                unsafe {
                    let got = masked::pop_many(id, many.as_mut_ptr(), 16);
                    fine &= masked::push_many(id, many.as_ptr(), got) == 16;
                }
            });
            show("way_masked_16", bulk, empty, 16);
        }
        if __cpuid(1).ecx & 1 << 13 != 0 {
            let mut words = [0_u64; 8];
            // SAFETY: an array on this stack, alone on the list, taken off below.
            unsafe {
                exchange_push((&raw mut words).cast());
                show("way_exchange", rounds(|| exchange_push(exchange_pop())), empty, 1);
                fine &= exchange_pop() == (&raw mut words).cast() && exchange_pop().is_null();
            }
        }
    });
    // SAFETY: no object is in use.
    fine &= heap::with(|heap| unsafe { heap.destroy(cache) }).is_ok();
    fine
}
