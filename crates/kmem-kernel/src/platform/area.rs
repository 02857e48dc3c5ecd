//! Each CPU's stacks of free objects, on bare metal: the contract of [`CpuArea`].
//!
//! # Theory
//! Code never changes its CPU here, so only an interrupt on the same CPU can come between the steps of an operation, and what its
//! handler does to the stack must not be undone by the interrupted operation. Two ways, chosen when the kernel is built:
//! - [`super::restart`]: the interrupt's entry sets an unfinished piece back to its beginning (the default);
//! - `masked`: no interrupt comes while an operation runs.
//!
//! A compare-and-exchange of one instruction suits a linked list, whose push writes into the pushed object only. A push here
//! writes into the stack's array before it commits: a handler's own push would use the same place, and a seized
//! array may belong to somebody else by then. So it is not among the ways.
//!
//! # Seizing
//! The stack of a CPU that runs is taken by the CPU itself, called by an interrupt: no operation is under way there when
//! the handler runs (set back, or masked). That of a CPU that is offline is taken by the caller.

use core::sync::atomic::Ordering;

use kmem_core::percpu::{COLD_SIZE, COLD_STRIDE, CpuArea, Hot, Pushed, StackId, empty};

use crate::{cpu, smp};

#[cfg(feature = "masked")]
use super::masked as way;
#[cfg(not(feature = "masked"))]
use super::restart as way;

/// The CPU layer. Its state is in the CPUs' blocks.
pub(crate) struct Area;

// SAFETY: an operation works on the running CPU's own words, reached by `gs`, and code does not change its CPU; interrupts on
// that CPU come before or after it, or set it back (`way`). Nobody else moves an installed `top`: `seize` runs on the CPU itself,
// or for one that is offline. Blocks are never freed or moved; their hot words are made pointing at `empty` and cold memory zero.
unsafe impl CpuArea for Area {
    fn hot(&self, cpu: usize, id: StackId) -> &Hot {
        smp::hot(cpu, id)
    }

    fn cold(&self, cpu: usize, id: StackId) -> *mut u8 {
        let offset = usize::from(id) * COLD_SIZE;
        debug_assert!(offset < COLD_STRIDE);
        smp::cold(cpu).wrapping_add(offset)
    }

    fn publish(&self, id: StackId) {
        // Words are made pointing at `empty`, and a number is given back only after its stacks were seized.
        debug_assert!((0..smp::count()).all(|cpu| smp::hot(cpu, id).top.load(Ordering::Relaxed) == empty()));
    }

    #[inline]
    unsafe fn pop(&self, id: StackId) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { way::pop(id) }
    }

    #[inline]
    unsafe fn push(&self, id: StackId, object: *mut u8) -> Pushed {
        // SAFETY: the caller's promise.
        unsafe { way::push(id, object) }
    }

    unsafe fn pop_many(&self, id: StackId, out: &mut [*mut u8]) -> usize {
        // SAFETY: the caller's promise.
        unsafe { way::pop_many(id, out.as_mut_ptr(), out.len()) }
    }

    unsafe fn pop_oldest(&self, id: StackId, base: *mut *mut u8, out: &mut [*mut u8]) -> Option<usize> {
        if base.is_null() {
            return Some(0);
        }
        Some(cpu::without_interrupts(|| {
            // SAFETY: the array is this CPU's and installed (the caller's promise), code does not change its CPU, and nothing comes in
            // between: entries from `base` to `top` are free objects of the stack, and the rest moves to their place.
            unsafe {
                let word = smp::hot(smp::number(), id).top.word();
                let top = word.load(Ordering::Relaxed);
                let held = top.offset_from_unsigned(base);
                let taken = held.min(out.len());
                base.copy_to_nonoverlapping(out.as_mut_ptr(), taken);
                base.add(taken).copy_to(base, held - taken);
                word.store(top.sub(taken), Ordering::Relaxed);
                taken
            }
        }))
    }

    unsafe fn push_many(&self, id: StackId, objects: &[*mut u8]) -> usize {
        // SAFETY: the caller's promise.
        unsafe { way::push_many(id, objects.as_ptr(), objects.len()) }
    }

    unsafe fn seize(&self, cpu: usize, id: StackId) -> *mut *mut u8 {
        let mut order = Seizure { hot: smp::hot(cpu, id), top: empty() };
        let place = (&raw mut order).expose_provenance();
        if cpu == smp::number() {
            cpu::without_interrupts(|| take(place));
        } else {
            smp::call::on(1 << cpu, take, place);
        }
        // Volatile: another CPU wrote it, ordered by the call's answer.
        // SAFETY: a local; the call is over.
        unsafe { (&raw const order.top).read_volatile() }
    }
}

/// A stack to be taken, and what was found there.
struct Seizure {
    hot: &'static Hot,
    top: *mut *mut u8,
}

/// Takes a stack away: on its own CPU with interrupts off, or for a CPU that is offline.
fn take(place: usize) {
    // SAFETY: the address of a `Seizure` whose owner waits for this call.
    let order = unsafe { &mut *core::ptr::with_exposed_provenance_mut::<Seizure>(place) };
    // SAFETY: `empty` is a value that every stack word may have; what was there goes to the seizing CPU.
    // Relaxed: the call's answer orders it, and on this CPU nothing runs in between.
    order.top = unsafe { order.hot.top.word() }.swap(empty(), Ordering::AcqRel);
}
