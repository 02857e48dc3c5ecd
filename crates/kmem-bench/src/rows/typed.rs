//! Typed caches, linked into this program: the size is known, the fast path inlined.

use std::hint::black_box;
use std::mem::MaybeUninit;

use kmem::{Cache, KBox};

use super::small::{BATCH, shuffled};
use crate::clock::{per_operation, pin};

/// As large as the blocks of the malloc rows beside. Not initialised, as malloc's blocks are not.
pub(crate) type Object = MaybeUninit<[u64; 8]>;

static CACHE: Cache<Object> = Cache::new("bench_object");

/// An object of which one word is written, as in the malloc rows.
#[inline]
pub(crate) fn take() -> KBox<'static, Object> {
    let mut object = CACHE.alloc(MaybeUninit::uninit()).expect("out of memory");
    // SAFETY: the first word lies within the object.
    unsafe { object.as_mut_ptr().cast::<u64>().write_volatile(1) };
    black_box(object)
}

pub(super) fn pair() -> f64 {
    pin();
    per_operation(|n| (0..n).for_each(|_| drop(take())))
}

pub(super) fn batch_rand() -> f64 {
    pin();
    let order = shuffled();
    let mut objects: Vec<Option<KBox<'static, Object>>> = (0..BATCH).map(|_| None).collect();
    let whole = per_operation(|n| {
        for _ in 0..n {
            objects.iter_mut().for_each(|object| *object = Some(take()));
            order.iter().for_each(|&at| objects[at] = None);
        }
    });
    whole / BATCH as f64
}
