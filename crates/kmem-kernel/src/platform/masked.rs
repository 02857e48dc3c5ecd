//! Operations on the running CPU's stacks with interrupts off.
//!
//! The same steps as in [`super::restart`], which see, between turning interrupts off and setting the flag back.

use core::sync::atomic::{AtomicPtr, Ordering};

use kmem_core::percpu::{FULL, Hot, Pushed, StackId, is_nothing};

use crate::{cpu, smp};

/// The running CPU's word of a cache.
///
/// # Safety
/// `id` is the number of a live cache; what is stored keeps its invariants.
unsafe fn word(id: StackId) -> (&'static Hot, &'static AtomicPtr<*mut u8>) {
    let hot = smp::hot(smp::number(), id);
    // SAFETY: the caller's promise.
    (hot, unsafe { hot.top.word() })
}

/// See [`kmem_core::percpu::CpuArea::pop`].
///
/// # Safety
/// As there.
#[inline]
pub(crate) unsafe fn pop(id: StackId) -> *mut u8 {
    let mut one = [core::ptr::null_mut()];
    // SAFETY: the caller's promise.
    unsafe {
        if pop_many(id, one.as_mut_ptr(), 1) == 1 {
            let hot = smp::hot(smp::number(), id);
            // A plain add on this CPU's own counter; an interrupt in between may lose one.
            hot.allocs.store(hot.allocs.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }
    one[0]
}

/// See [`kmem_core::percpu::CpuArea::push`].
///
/// # Safety
/// As there.
#[inline]
pub(crate) unsafe fn push(id: StackId, object: *mut u8) -> Pushed {
    cpu::without_interrupts(|| {
        // SAFETY: the caller's promise. By I-CPU-3 the words at and below every `top` are readable, by I-CPU-1 one that is not FULL is
        // free to be written; nothing comes in between. Relaxed: only this CPU moves its own top.
        unsafe {
            let (_, word) = word(id);
            let top = word.load(Ordering::Relaxed);
            if *top.sub(1) == object {
                return Pushed::Double;
            }
            if *top == FULL {
                return Pushed::Full;
            }
            *top = object;
            word.store(top.add(1), Ordering::Relaxed);
        }
        Pushed::Done
    })
}

/// See [`kmem_core::percpu::CpuArea::pop_many`].
///
/// # Safety
/// As there; `out` has room for `len` pointers.
pub(crate) unsafe fn pop_many(id: StackId, out: *mut *mut u8, len: usize) -> usize {
    cpu::without_interrupts(|| {
        // SAFETY: as in `push`; below the lowest object lies what no object is.
        unsafe {
            let (_, word) = word(id);
            let mut top = word.load(Ordering::Relaxed);
            let mut count = 0;
            while count < len && !is_nothing(*top.sub(1)) {
                top = top.sub(1);
                *out.add(count) = *top;
                count += 1;
            }
            if count > 0 {
                word.store(top, Ordering::Relaxed);
            }
            count
        }
    })
}

/// See [`kmem_core::percpu::CpuArea::push_many`].
///
/// # Safety
/// As there; `objects` holds `len` pointers that the caller owns.
pub(crate) unsafe fn push_many(id: StackId, objects: *const *mut u8, len: usize) -> usize {
    cpu::without_interrupts(|| {
        // SAFETY: as in `push`.
        unsafe {
            let (_, word) = word(id);
            let mut top = word.load(Ordering::Relaxed);
            let mut count = 0;
            while count < len && *top != FULL {
                *top = *objects.add(count);
                top = top.add(1);
                count += 1;
            }
            if count > 0 {
                word.store(top, Ordering::Relaxed);
            }
            count
        }
    })
}
