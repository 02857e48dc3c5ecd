//! The CPU layer of a simulated machine.
//!
//! Each CPU has a mutex; an operation is a scheduling point (where the thread may be moved) and then,
//! on whichever CPU it is by now, the whole operation under that CPU's mutex. So operations are exact:
//! they happen or they do not, as the contract asks, and several threads may run "on" one CPU.
//!
//! A number that was not published yet has a null stack word, and an operation on it panics; so does publishing a
//! number whose last owner left a stack behind.
//!
//! What an operation takes off a stack it overwrites with [`STALE`]: nobody may read above the top.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kmem_core::percpu::{
    COLD_SIZE, COLD_STRIDE, CpuArea, FULL, HOT_STRIDE, Hot, MAX_STACKS, Pushed, StackId, empty, is_nothing,
};
use kmem_core::platform::CACHE_LINE;
use kmem_core::platform::PAGE_SIZE;

use crate::counters::Tally;
use crate::os::Region;
use crate::thread::Schedule;

/// What lies in the entries of a CPU stack from its top on, once they were used: an address that nothing owns.
pub const STALE: *mut u8 = ((0x57A1_E000_0000_57A2_u64 >> (u64::BITS - usize::BITS)) as usize | 2) as *mut u8;

/// A stack's word, to be written.
fn word_of(hot: &Hot) -> &AtomicPtr<*mut u8> {
    // SAFETY: this file stores `empty()`, or a top moved by what it pushed or popped, under the CPU's mutex.
    unsafe { hot.top.word() }
}

/// The CPUs of a [`Machine`](crate::Machine): see [`CpuArea`].
#[derive(Debug)]
pub struct SimCpus {
    locks: Vec<Mutex<()>>,
    hot: Region,
    cold: Region,
    schedule: Arc<Schedule>,
    tally: Arc<Tally>,
}

const _: () = assert!(COLD_SIZE.is_multiple_of(CACHE_LINE));

impl SimCpus {
    pub(crate) fn new(cpus: usize, schedule: Arc<Schedule>, tally: Arc<Tally>) -> Self {
        let area = |len: usize| {
            let region = Region::reserve(len.next_multiple_of(PAGE_SIZE), PAGE_SIZE)
                .expect("address space for CPU areas");
            assert!(region.open(0, region.len()), "memory for CPU areas");
            region
        };
        Self {
            locks: (0..cpus).map(|_| Mutex::new(())).collect(),
            hot: area(cpus * HOT_STRIDE),
            cold: area(cpus * COLD_STRIDE),
            schedule,
            tally,
        }
    }

    /// A scheduling point, then the CPU the thread is on, owned.
    fn enter(&self, id: StackId) -> (&Hot, MutexGuard<'_, ()>) {
        assert!(id != 0, "cache number 0 has no stacks");
        let happened = self.schedule.point();
        self.tally.happened(happened);
        let cpu = self.schedule.cpu();
        (self.hot(cpu, id), self.lock(cpu))
    }

    fn lock(&self, cpu: usize) -> MutexGuard<'_, ()> {
        self.locks[cpu].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn slot(cpu: usize, cpus: usize, id: StackId) -> usize {
    assert!(cpu < cpus, "CPU {cpu} of a machine with {cpus}");
    assert!(usize::from(id) < MAX_STACKS, "cache number {id} of {MAX_STACKS}");
    cpu * MAX_STACKS + usize::from(id)
}

// SAFETY: every operation runs under the mutex of its CPU, so no two interleave on one stack, and `seize` returns only
// when no operation of that CPU is under way (I-CPU-2). `publish` makes hot words point at `empty`, cold memory is fresh
// and zero, and both stay where they are.
unsafe impl CpuArea for SimCpus {
    fn hot(&self, cpu: usize, id: StackId) -> &Hot {
        let index = slot(cpu, self.locks.len(), id);
        // SAFETY: `index` is below CPUs x MAX_STACKS, which is what the region holds; all zero is a valid `Hot`.
        unsafe { &*self.hot.base().as_ptr().cast::<Hot>().add(index) }
    }

    fn cold(&self, cpu: usize, id: StackId) -> *mut u8 {
        let index = slot(cpu, self.locks.len(), id);
        self.cold.base().as_ptr().wrapping_add(index * COLD_SIZE)
    }

    fn publish(&self, id: StackId) {
        assert!(id != 0, "cache number 0 has no stacks");
        for cpu in 0..self.locks.len() {
            let hot = self.hot(cpu, id);
            let _own = self.lock(cpu);
            let left = hot.top.load(Ordering::Acquire);
            assert!(
                left.is_null() || left == empty(),
                "cache number {id} comes into use again, but CPU {cpu} still has a stack of its last owner"
            );
            // Release: whoever learns of the number sees the word.
            word_of(hot).store(empty(), Ordering::Release);
        }
    }

    unsafe fn pop(&self, id: StackId) -> *mut u8 {
        let (hot, _own) = self.enter(id);
        let mut object = ptr::null_mut();
        // SAFETY: passed on to the caller.
        if unsafe { take(hot, std::slice::from_mut(&mut object)) } == 0 {
            self.tally.empty_pops.add(1);
            return ptr::null_mut();
        }
        // Relaxed: the CPU's mutex makes this the only writer; readers want a rough number.
        let allocs = hot.allocs.load(Ordering::Relaxed);
        hot.allocs.store(allocs + 1, Ordering::Relaxed);
        self.tally.pops.add(1);
        object
    }

    unsafe fn push(&self, id: StackId, object: *mut u8) -> Pushed {
        assert!(!object.is_null() && object != FULL && object != STALE, "push of {object:p}");
        let (hot, _own) = self.enter(id);
        let top = top(hot);
        // SAFETY: by I-CPU-1 and I-CPU-3 there is an entry or a sentinel below the top.
        if unsafe { *top.sub(1) } == object {
            return Pushed::Double;
        }
        // SAFETY: passed on to the caller.
        if unsafe { put(hot, &[object]) } == 0 {
            self.tally.full_pushes.add(1);
            return Pushed::Full;
        }
        self.tally.pushes.add(1);
        Pushed::Done
    }

    unsafe fn pop_many(&self, id: StackId, out: &mut [*mut u8]) -> usize {
        let (hot, _own) = self.enter(id);
        self.tally.pop_batches.add(1);
        // SAFETY: passed on to the caller.
        unsafe { take(hot, out) }
    }

    unsafe fn push_many(&self, id: StackId, objects: &[*mut u8]) -> usize {
        let (hot, _own) = self.enter(id);
        self.tally.push_batches.add(1);
        // SAFETY: passed on to the caller.
        unsafe { put(hot, objects) }
    }

    unsafe fn seize(&self, cpu: usize, id: StackId) -> *mut *mut u8 {
        self.tally.seizes.add(1);
        let hot = self.hot(cpu, id);
        let _own = self.lock(cpu);
        top(hot);
        // Acquire and Release pair with `install`; operations on this stack are ordered by the mutex.
        word_of(hot).swap(empty(), Ordering::AcqRel)
    }
}

/// The top of a stack.
fn top(hot: &Hot) -> *mut *mut u8 {
    // Acquire pairs with the Release of `install` on another thread.
    let top = hot.top.load(Ordering::Acquire);
    assert!(!top.is_null(), "a cache number is used that was not published");
    top
}

/// Moves objects from the top of a stack to the front of `out`, in stack order; returns how many.
///
/// # Safety
/// The caller owns the CPU of this stack.
unsafe fn take(hot: &Hot, out: &mut [*mut u8]) -> usize {
    let top = top(hot);
    let mut count = 0;
    // SAFETY: I-CPU-1: below the top lie entries, and below them the sentinel ends the walk.
    unsafe {
        while count < out.len() && !is_nothing(*top.sub(count + 1)) {
            count += 1;
        }
        let from = top.sub(count);
        for (i, place) in out[..count].iter_mut().enumerate() {
            // The last pushed first, as everywhere.
            *place = top.sub(i + 1).replace(STALE);
            assert_ne!(*place, STALE, "a stale entry below the top of a CPU stack");
        }
        if count > 0 {
            // Release pairs with the Acquire of `seize`'s callers, which read the array.
            word_of(hot).store(from, Ordering::Release);
        }
    }
    count
}

/// Moves a prefix of `objects` onto a stack; returns how many.
///
/// # Safety
/// The caller owns the CPU of this stack.
unsafe fn put(hot: &Hot, objects: &[*mut u8]) -> usize {
    let top = top(hot);
    let mut count = 0;
    // SAFETY: I-CPU-1: from the top on lie stale entries, and after them the FULL sentinel ends the walk.
    unsafe {
        while count < objects.len() && *top.add(count) != FULL {
            top.add(count).write(objects[count]);
            count += 1;
        }
        if count > 0 {
            // Release pairs with the Acquire of `seize`'s callers, which read the array.
            word_of(hot).store(top.add(count), Ordering::Release);
        }
    }
    count
}
