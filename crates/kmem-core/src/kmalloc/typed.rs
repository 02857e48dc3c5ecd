//! kmalloc by type: one object, an array, or a header with an array behind it.
//!
//! The size and the alignment come from the type, and the answer is a pointer to it. An object of no bytes is
//! [`ZERO_SIZE_PTR`](super::ZERO_SIZE_PTR) (which is aligned to 16, whatever the type asks). Counts that overflow: null.
//! All blocks are freed by [`Kmem::kfree`]; those of the `kv` functions by [`Kmem::kvfree`]. Nothing is
//! initialised except by the functions that clear: whether zero is a value of the type is for the caller to know.

use core::mem::offset_of;
use core::ptr;

use crate::config::Config;
use crate::gfp::Gfp;
use crate::heap::Kmem;
use crate::platform::Platform;

/// A header with `count` items behind it in the same block, which knows how many they are.
///
/// # Safety
/// [`FlexArray::set_count`] writes nothing outside the header.
pub unsafe trait FlexArray {
    /// What follows the header.
    type Item;
    /// The type of the field that holds the count.
    type Count: TryFrom<usize>;

    /// Writes the count into the header.
    ///
    /// # Safety
    /// `this` points to memory for a header, aligned and the caller's, initialised or not.
    unsafe fn set_count(this: *mut Self, count: Self::Count);
}

/// Where the items are: behind the header, at their alignment.
#[repr(C)]
struct Flex<H, I> {
    header: H,
    items: [I; 0],
}

/// Bytes from the start of a header to its first item.
#[must_use]
pub const fn flex_offset<H: FlexArray>() -> usize {
    offset_of!(Flex<H, H::Item>, items)
}

/// Bytes of a header with `count` items; `None` when they overflow.
#[must_use]
pub fn flex_size<H: FlexArray>(count: usize) -> Option<usize> {
    count
        .checked_mul(size_of::<H::Item>())?
        .checked_add(flex_offset::<H>())
        .map(|bytes| bytes.max(size_of::<H>()))
}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Memory for one `T` (`kmalloc_obj`). Null: no memory, or more than 4 MiB.
    pub fn kmalloc_obj<T>(&self, gfp: Gfp) -> *mut T {
        self.kmalloc_objs(1, gfp)
    }

    /// [`Kmem::kmalloc_obj`], cleared.
    pub fn kzalloc_obj<T>(&self, gfp: Gfp) -> *mut T {
        self.kmalloc_objs(1, gfp | Gfp::ZERO)
    }

    /// Memory for `n` values of type `T`, one after the other (`kmalloc_objs`).
    pub fn kmalloc_objs<T>(&self, n: usize, gfp: Gfp) -> *mut T {
        let bytes = n.checked_mul(size_of::<T>());
        bytes
            .map_or(ptr::null_mut(), |bytes| self.kmalloc_aligned_node(bytes, align_of::<T>(), gfp, None))
            .cast()
    }

    /// [`Kmem::kmalloc_objs`], cleared.
    pub fn kzalloc_objs<T>(&self, n: usize, gfp: Gfp) -> *mut T {
        self.kmalloc_objs(n, gfp | Gfp::ZERO)
    }

    /// [`Kmem::kmalloc_obj`] from kvmalloc.
    pub fn kvmalloc_obj<T>(&self, gfp: Gfp) -> *mut T {
        self.kvmalloc_objs(1, gfp)
    }

    /// [`Kmem::kvmalloc_obj`], cleared.
    pub fn kvzalloc_obj<T>(&self, gfp: Gfp) -> *mut T {
        self.kvmalloc_objs(1, gfp | Gfp::ZERO)
    }

    /// [`Kmem::kmalloc_objs`] from kvmalloc.
    pub fn kvmalloc_objs<T>(&self, n: usize, gfp: Gfp) -> *mut T {
        let bytes = n.checked_mul(size_of::<T>());
        bytes
            .map_or(ptr::null_mut(), |bytes| self.kvmalloc_node_align(bytes, align_of::<T>(), gfp, None))
            .cast()
    }

    /// [`Kmem::kvmalloc_objs`], cleared.
    pub fn kvzalloc_objs<T>(&self, n: usize, gfp: Gfp) -> *mut T {
        self.kvmalloc_objs(n, gfp | Gfp::ZERO)
    }

    /// Memory for a header and `count` items; the header's count is set, nothing else is. Null also when the count does
    /// not fit in the header's field.
    pub fn kmalloc_flex<H: FlexArray>(&self, count: usize, gfp: Gfp) -> *mut H {
        self.flex(count, |bytes, align| self.kmalloc_aligned_node(bytes, align, gfp, None))
    }

    /// [`Kmem::kmalloc_flex`], cleared but for the count.
    pub fn kzalloc_flex<H: FlexArray>(&self, count: usize, gfp: Gfp) -> *mut H {
        self.kmalloc_flex(count, gfp | Gfp::ZERO)
    }

    /// [`Kmem::kmalloc_flex`] from kvmalloc.
    pub fn kvmalloc_flex<H: FlexArray>(&self, count: usize, gfp: Gfp) -> *mut H {
        self.flex(count, |bytes, align| self.kvmalloc_node_align(bytes, align, gfp, None))
    }

    /// [`Kmem::kvmalloc_flex`], cleared but for the count.
    pub fn kvzalloc_flex<H: FlexArray>(&self, count: usize, gfp: Gfp) -> *mut H {
        self.kvmalloc_flex(count, gfp | Gfp::ZERO)
    }

    fn flex<H: FlexArray>(&self, count: usize, get: impl FnOnce(usize, usize) -> *mut u8) -> *mut H {
        let (Some(bytes), Ok(number)) = (flex_size::<H>(count), H::Count::try_from(count)) else {
            return ptr::null_mut();
        };
        let header = get(bytes, align_of::<Flex<H, H::Item>>()).cast::<H>();
        if !header.is_null() {
            // SAFETY: a fresh block, aligned, of at least a header's bytes; a header of none is only an address.
            unsafe { H::set_count(header, number) };
        }
        header
    }
}
