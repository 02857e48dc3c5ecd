//! kmalloc by type.

use kmem_core::config::Config;
use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::ZERO_SIZE_PTR;
use kmem_core::kmalloc::typed::{FlexArray, flex_offset, flex_size};

use crate::support::{QUIET, Rig, fill, for_each_config, is_zero};

for_each_config! {
    kmalloc_obj
    kmalloc_objs
    kmalloc_flex
}

crate::support::for_slob! {
    kmalloc_obj
    kmalloc_objs
    kmalloc_flex
}

#[repr(align(128))]
struct Wide {
    _bytes: [u8; 200],
}

/// Pages alone are not aligned so.
#[repr(align(65536))]
struct Chunk {
    _bytes: [u8; 65536],
}

/// And `kzalloc_obj`, `kvmalloc_obj`, `kvzalloc_obj`.
fn kmalloc_obj<C: Config>() {
    let rig = Rig::<C>::new();
    let wide = [
        rig.heap.kmalloc_obj::<Wide>(Gfp::KERNEL),
        rig.heap.kzalloc_obj(Gfp::KERNEL),
        rig.heap.kvmalloc_obj(Gfp::KERNEL),
        rig.heap.kvzalloc_obj(Gfp::KERNEL),
    ];
    for (i, object) in wide.into_iter().enumerate() {
        assert!(!object.is_null() && object.is_aligned());
        if i % 2 == 1 {
            assert!(is_zero(object.cast(), size_of::<Wide>()));
        }
    }
    let number = rig.heap.kmalloc_obj::<u64>(Gfp::KERNEL);
    // SAFETY: memory for a number, the test's own.
    unsafe { number.write(7) };
    assert_eq!(rig.kfree(number.cast()), Ok(()));
    assert_eq!(rig.heap.kmalloc_obj::<()>(Gfp::KERNEL).cast(), ZERO_SIZE_PTR);
    assert!(rig.heap.kmalloc_obj::<[u8; 5 << 20]>(QUIET).is_null());
    assert!(!rig.heap.kvmalloc_obj::<[u8; 5 << 20]>(QUIET).is_null());
}

/// And `kzalloc_objs`, `kvmalloc_objs`, `kvzalloc_objs`.
fn kmalloc_objs<C: Config>() {
    let rig = Rig::<C>::new();
    for n in [usize::MAX, usize::MAX / 200, 1 << (usize::BITS - 4)] {
        assert!(rig.heap.kmalloc_objs::<Wide>(n, QUIET).is_null(), "{n}");
        assert!(rig.heap.kvmalloc_objs::<Wide>(n, QUIET).is_null(), "{n}");
    }
    assert_eq!(rig.heap.kmalloc_objs::<Wide>(0, Gfp::KERNEL).cast(), ZERO_SIZE_PTR);
    assert_eq!(rig.heap.kmalloc_objs::<()>(5, Gfp::KERNEL).cast(), ZERO_SIZE_PTR);
    for n in [1, 3, 5] {
        let spoiler = rig.kmalloc(40_000);
        let array = rig.heap.kmalloc_objs::<Chunk>(n, Gfp::KERNEL);
        assert!(!array.is_null() && array.is_aligned(), "{n}");
        let mapped = rig.heap.kvmalloc_objs::<Chunk>(n * 40, Gfp::KERNEL);
        assert!(!mapped.is_null() && mapped.is_aligned(), "{n}");
        assert!(rig.kfree(array.cast()).is_ok() && rig.kfree(mapped.cast()).is_ok() && !spoiler.is_null());
    }
    for n in [1, 3, 40, 1000] {
        let array = rig.heap.kmalloc_objs::<Wide>(n, Gfp::KERNEL);
        assert!(!array.is_null() && array.is_aligned());
        fill(array.cast(), n * size_of::<Wide>(), 1);
        assert_eq!(rig.kfree(array.cast()), Ok(()));
        let zeroed = rig.heap.kzalloc_objs::<Wide>(n, Gfp::KERNEL);
        assert!(zeroed.is_aligned() && is_zero(zeroed.cast(), n * size_of::<Wide>()));
        let mapped = rig.heap.kvzalloc_objs::<Wide>(n * 30, Gfp::KERNEL);
        assert!(mapped.is_aligned() && is_zero(mapped.cast(), n * 30 * size_of::<Wide>()));
    }
}

#[repr(C)]
struct Message {
    kind: u16,
    count: u8,
}

// SAFETY: only the header's field is written.
unsafe impl FlexArray for Message {
    type Item = u32;
    type Count = u8;
    unsafe fn set_count(this: *mut Self, count: u8) {
        // SAFETY: the caller's promise.
        unsafe { (&raw mut (*this).count).write(count) };
    }
}

/// And `kzalloc_flex`, `kvmalloc_flex`, `kvzalloc_flex`.
fn kmalloc_flex<C: Config>() {
    assert_eq!((flex_offset::<Message>(), flex_size::<Message>(3)), (4, Some(16)));
    assert_eq!((flex_size::<Message>(0), flex_size::<Message>(usize::MAX / 4)), (Some(4), None));
    let rig = Rig::<C>::new();
    for n in [0_usize, 1, 200, 255] {
        let bytes = flex_size::<Message>(n).expect("no overflow");
        for message in [
            rig.heap.kmalloc_flex::<Message>(n, Gfp::KERNEL),
            rig.heap.kzalloc_flex(n, Gfp::KERNEL),
            rig.heap.kvmalloc_flex(n, Gfp::KERNEL),
            rig.heap.kvzalloc_flex(n, Gfp::KERNEL),
        ] {
            // SAFETY: the count was written.
            assert_eq!(usize::from(unsafe { (&raw const (*message).count).read() }), n);
            assert!(rig.ksize(message.cast()) >= bytes);
            fill(message.cast(), bytes, 0xff);
            assert_eq!(rig.kfree(message.cast()), Ok(()));
        }
        let zeroed = rig.heap.kzalloc_flex::<Message>(n, Gfp::KERNEL);
        // SAFETY: the block was cleared.
        assert_eq!(unsafe { (&raw const (*zeroed).kind).read() }, 0);
        assert!(is_zero(zeroed.cast::<u8>().wrapping_add(4), bytes - 4));
    }
    for n in [256, 1000, usize::MAX] {
        assert!(rig.heap.kmalloc_flex::<Message>(n, Gfp::KERNEL).is_null(), "{n} does not fit the count");
    }
    assert_eq!(rig.said(), "");
}
