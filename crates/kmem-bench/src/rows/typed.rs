//! Typed caches, linked into this program: the size is known, the fast path inlined.

use std::hint::black_box;
use std::mem::MaybeUninit;

use kmem::{Cache, KBox, Sheaf};

use super::small::{BATCH, shuffled};
use crate::clock::{per_operation, pin};

/// As large as the blocks of the malloc rows beside. Not initialised, as malloc's blocks are not.
pub(crate) type Object = MaybeUninit<[u64; 8]>;

static CACHE: Cache<Object> = Cache::new("bench_object");

/// An object of which one word is written, as in the malloc rows.
#[inline]
pub(crate) fn take() -> KBox<'static, Object> {
    touched(CACHE.alloc(MaybeUninit::uninit()).expect("out of memory"))
}

#[inline]
fn touched(mut object: KBox<'static, Object>) -> KBox<'static, Object> {
    // SAFETY: the first word lies within the object.
    unsafe { object.as_mut_ptr().cast::<u64>().write_volatile(1) };
    // The address alone, which fits a register as malloc's does: of two words the whole box would go through memory and back.
    black_box(object.as_mut_ptr());
    object
}

/// Slots that their holder keeps.
pub(crate) const fn sheaf() -> Sheaf<'static, Object> {
    CACHE.sheaf()
}

/// The same as [`take`], from a sheaf, and back.
#[inline(always)]
pub(crate) fn through(sheaf: &mut Sheaf<'static, Object>) {
    let object = touched(sheaf.alloc(MaybeUninit::uninit()).expect("out of memory"));
    sheaf.free(object);
}

pub(super) fn pair() -> f64 {
    pin();
    per_operation(|n| (0..n).for_each(|_| drop(take())))
}

pub(super) fn sheaf_pair() -> f64 {
    pin();
    let mut sheaf = sheaf();
    per_operation(|n| (0..n).for_each(|_| through(&mut sheaf)))
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
