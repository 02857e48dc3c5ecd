//! What the floors need of this program: the length of a ring, and a typed floor of its own.
//!
//! The library `nothing` hands out the slots of a ring without looking (`peers/floors/nothing.c`), so that somebody has to tell it how
//! long the slots are and how many blocks live at once. Rows tell it; on any other allocator that is a look at a null pointer,
//! before anything is timed. [`Stack`] is what a typed cache cannot be faster than: an array of pointers and how many there are, in
//! the loop itself.

use std::ffi::c_void;
use std::hint::black_box;
use std::mem::transmute;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::small::{BATCH, shuffled};
use super::typed::Object;
use crate::clock::{per_operation, pin};

/// `nothing_ring` of the library, or null.
static RING: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
/// Slots for what the program itself has meanwhile.
const SPARE: usize = 64;
const LINE: usize = 64;

/// This process is on a floor: finds out whether it wants to be told of rings.
pub(crate) fn is_here() {
    // SAFETY: the name is a NUL-terminated string; the call looks it up and nothing else.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"nothing_ring".as_ptr()) };
    RING.store(found, Ordering::Relaxed); // read by this thread
}

/// From here on at most so many blocks of at most `size` bytes live at once.
pub(super) fn ring(size: usize, blocks: usize) {
    let function = RING.load(Ordering::Relaxed); // of this thread's own store
    if !function.is_null() {
        // SAFETY: this is the library's `void nothing_ring(size_t, size_t)`.
        let ring: extern "C" fn(usize, usize) = unsafe { transmute(function) };
        ring(slot(size, blocks), blocks + SPARE);
    }
}

/// The length of a slot: many long ones begin in different lines of a cache, as the blocks of allocators do.
fn slot(size: usize, blocks: usize) -> usize {
    let size = size.next_multiple_of(16);
    if blocks == 1 || size < 2 * LINE { size } else { size.next_multiple_of(LINE) | LINE }
}

/// Pointers to objects that are free. Full and empty are noticed, as any stack must.
struct Stack {
    free: [*mut Object; BATCH],
    count: usize,
}

impl Stack {
    /// All of these objects.
    fn of(objects: &mut [Object; BATCH]) -> Self {
        let mut stack = Self { free: [std::ptr::null_mut(); BATCH], count: 0 };
        objects.iter_mut().for_each(|object| stack.give(object));
        stack
    }

    /// An object of which one word is written, as in the rows beside.
    #[inline(always)]
    fn take(&mut self) -> *mut Object {
        let last = self.count.wrapping_sub(1);
        let object = *self.free.get(last).expect("as many objects as a row has at once");
        self.count = last;
        // SAFETY: the pointer is to an object that lives as long as the row, and nobody else has it.
        unsafe { object.cast::<u64>().write_volatile(1) };
        black_box(object)
    }

    #[inline(always)]
    fn give(&mut self, object: *mut Object) {
        *self.free.get_mut(self.count).expect("no more than there are") = object;
        self.count += 1;
    }
}

/// Calls `work` with a stack that is somewhere in memory, as far as the compiler knows.
fn with_stack(work: impl FnOnce(&mut Stack) -> f64) -> f64 {
    let mut objects = Box::new([Object::uninit(); BATCH]);
    let mut stack = Box::new(Stack::of(&mut objects));
    work(black_box(&mut stack))
}

pub(super) fn pair() -> f64 {
    pin();
    with_stack(|stack| {
        per_operation(|n| {
            for _ in 0..n {
                let object = stack.take();
                stack.give(object);
            }
        })
    })
}

pub(super) fn batch_rand() -> f64 {
    pin();
    let order = shuffled();
    let mut objects = [std::ptr::null_mut(); BATCH];
    let whole = with_stack(|stack| {
        per_operation(|n| {
            for _ in 0..n {
                objects.iter_mut().for_each(|object| *object = stack.take());
                order.iter().for_each(|&at| stack.give(objects[at]));
            }
        })
    });
    whole / BATCH as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_aligned_and_spread() {
        assert_eq!([16, 64, 512].map(|size| slot(size, 1)), [16, 64, 512]);
        assert_eq!([16, 64, 256, 1024].map(|size| slot(size, BATCH)), [16, 64, 320, 1088]);
        assert_eq!(slot(8, 1), 16);
    }

    #[test]
    fn objects_of_a_stack_are_different() {
        let mut objects = [Object::uninit(); BATCH];
        let mut stack = Stack::of(&mut objects);
        let mut taken: Vec<_> = (0..BATCH).map(|_| stack.take()).collect();
        taken.sort_unstable();
        taken.dedup();
        assert_eq!((taken.len(), stack.count), (BATCH, 0));
        stack.give(taken[7]);
        assert_eq!(stack.take(), taken[7]);
    }
}
