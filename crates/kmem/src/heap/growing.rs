//! Blocks that grow by resizing get room.
//!
//! # Theory
//! One class is for blocks that grow ([`kmem_core::kmalloc::growing`]); who resizes a block of a class to more than [`FROM`] bytes, and to more
//! than it has, gets one of that class where one is free or may be made. Such a block stays where it is until it is longer than
//! the class, or has no more than [`FROM`] bytes.
//!
//! # Never
//! The class serves no request but those of `realloc`; and while requests of the program are made to fail nobody is served by it, so
//! that each growth is one request.

use kmem_core::fault::Kind as Injected;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::classes::ClassSet;

use super::{
    HEAP, aging, class_at, heap, malloc as malloc_exact, place_of, pop_at_hand, pop_checked, reserve, unmark,
};
use crate::debugging;
use crate::engine::{Classes, Heap};
use crate::live;

/// Blocks of so many bytes and less are as cheap to copy as to find out more about them: a room is left for them.
pub(super) const FROM: usize = 1024;

/// The longest that have room; 0: the heap has no such class.
const ROOM: usize = match Classes::GROWING {
    Some(class) => Classes::SIZES[class] as usize,
    None => 0,
};

/// A block of `usable` bytes that is to have `size` is one that grows, and can go on doing so.
#[inline(always)]
// Where no class has room nothing is as short as 0.
#[allow(clippy::absurd_extreme_comparisons)]
pub(super) const fn suits(usable: usize, size: usize) -> bool {
    size > FROM && size > usable && size <= ROOM
}

/// A block for one that [`suits`]. Null: no memory.
#[inline]
pub(super) fn malloc(size: usize) -> *mut u8 {
    let Some(class) = Classes::GROWING else { return malloc_exact(size) };
    // SAFETY: the place of a class whose blocks have no headers.
    let block = unsafe { pop_at_hand(place_of(class), false) };
    if block.is_null() { malloc_slow(class, size) } else { block }
}

#[cold]
#[inline(never)]
fn malloc_slow(class: usize, size: usize) -> *mut u8 {
    let block = pop_checked(Heap::class_id(class));
    if !block.is_null() {
        return block;
    }
    if HEAP.fault(Injected::Malloc).is_none()
        && let Some(heap) = heap()
    {
        debugging::pace::tick(heap);
        live::tick(heap);
        aging::tick(heap);
        reserve::tick(heap);
        reserve::expect();
        let block = heap.kmalloc_growing(Gfp::KERNEL);
        // Letters may have come meanwhile: then it has no mark.
        if !block.is_null() && class_at(block).is_none_or(|class| unmark(block, place_of(class))) {
            return block;
        }
    }
    malloc_exact(size)
}
