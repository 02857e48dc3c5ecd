//! Blocks of any size: kmalloc and its edges.

use core::ptr::{null_mut, without_provenance_mut};

use kmem_core::gfp::Gfp;
use kmem_core::kmalloc::classes::MAX_BYTES;
use kmem_core::kmalloc::{FreeError, ZERO_SIZE_PTR};

use crate::bench::{Bench, Heap, QUIET, fill, is_filled};
use crate::failure::{Outcome, ensure, equal, fail};
use crate::{Driver, bench};

pub(super) fn nothing_has_an_address<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let heap = b.heap();
    let nothings = [
        heap.kmalloc(0, Gfp::KERNEL),
        heap.kzalloc(0, Gfp::KERNEL),
        heap.kmalloc_node(0, Gfp::KERNEL, Some(0)),
        heap.kmalloc_array(0, 8, Gfp::KERNEL),
        heap.kcalloc(usize::MAX, 0, Gfp::KERNEL),
        heap.kvmalloc(0, Gfp::KERNEL),
    ];
    for nothing in nothings {
        equal!(nothing, ZERO_SIZE_PTR, "a block of no bytes");
    }
    equal!(ZERO_SIZE_PTR.addr(), 16, "its address");
    for nothing in [ZERO_SIZE_PTR, null_mut()] {
        equal!(heap.ksize(nothing), Ok(0), "its size");
        b.kfree(nothing)?;
        b.kfree(nothing)?;
    }
    equal!(Heap::<D>::kmalloc_size_roundup(0), 0, "what a request of no bytes gets");
    // Not so what programs ask for.
    let one = heap.allocate(0, Gfp::KERNEL);
    let two = heap.allocate(0, Gfp::KERNEL);
    ensure!(!one.is_null() && !two.is_null() && one != two && one != ZERO_SIZE_PTR, "malloc(0)");
    b.kfree(one)?;
    b.kfree(two)
}

pub(super) fn too_much_is_refused<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let heap = b.heap();
    for size in [MAX_BYTES + 1, 6 << 20, usize::MAX / 2, usize::MAX] {
        let said = b.faults().messages();
        ensure!(heap.kmalloc(size, QUIET).is_null(), "{size} bytes");
        equal!(b.faults().messages(), said, "messages of a request that wants none");
        ensure!(heap.kmalloc(size, Gfp::KERNEL).is_null(), "{size} bytes");
        ensure!(b.faults().messages() > said, "{size} bytes were refused without a word");
        equal!(Heap::<D>::kmalloc_size_roundup(size), size, "what a request that fails gets");
    }
    let most = b.kmalloc(MAX_BYTES)?;
    equal!(b.ksize(most)?, MAX_BYTES, "the largest block");
    b.kfree(most)
}

pub(super) fn blocks_hold_what_ksize_says<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let sizes = (0..=9).flat_map(|step| [1, 7, 8, 9, 13].map(|base| base + step * 27));
    for size in sizes.chain([511, 1000, 1025, 2000, 3000, 4089, 4096, 6000, 8192, 8193, 12_000, 100_000]) {
        let mut blocks = [null_mut(); 5];
        for (i, block) in blocks.iter_mut().enumerate() {
            *block = b.kmalloc(size)?;
            let usable = b.ksize(*block)?;
            ensure!(usable >= size, "{size} bytes became {usable}");
            let promised = Heap::<D>::kmalloc_size_roundup(size);
            ensure!(promised >= size, "{size} bytes were promised {promised}");
            fill(*block, usable, i);
        }
        for (i, &block) in blocks.iter().enumerate() {
            ensure!(is_filled(block, b.ksize(block)?, i), "{size} bytes were overwritten");
        }
        blocks.iter().try_for_each(|&block| b.kfree(block))?;
    }
    Ok(())
}

pub(super) fn wrong_frees_are_told<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let blocks = [b.kmalloc(100)?, b.kmalloc(1000)?, b.kmalloc(100_000)?];
    let mapping = b.heap().kvmalloc(5 << 20, Gfp::KERNEL);
    ensure!(!mapping.is_null(), "no memory for a mapping");
    let before = b.heap().totals();
    for block in blocks {
        bench::fill(block, 100, 5);
        for by in [1, 4, 8, 16, 60] {
            let inside = block.wrapping_add(by);
            match b.try_kfree(inside) {
                Err(FreeError::Interior { address, .. } | FreeError::NotObject(address)) => {
                    equal!(address, inside.addr(), "the address told");
                }
                other => fail!("a free {by} bytes inside of a block: {other:?}"),
            }
            ensure!(b.heap().ksize(inside).is_err(), "ksize {by} bytes inside of a block");
        }
    }
    let mut local = 0_u64;
    let foreign = [
        (&raw mut local).cast(),
        without_provenance_mut(17),
        mapping.wrapping_add(4096),
        without_provenance_mut(!4095),
    ];
    for stray in foreign {
        equal!(b.try_kfree(stray), Err(FreeError::Foreign(stray.addr())), "a free of foreign memory");
        equal!(b.heap().ksize(stray), Err(FreeError::Foreign(stray.addr())), "its size");
    }
    equal!(b.heap().totals(), before, "what the heap holds");
    for block in blocks {
        ensure!(is_filled(block, 100, 5), "a wrong free changed a block");
        b.kfree(block)?;
        ensure!(b.try_kfree(block).is_err(), "a block was freed twice in a row, and nothing was told");
    }
    b.kfree(mapping)?;
    equal!(b.try_kfree(mapping), Err(FreeError::Foreign(mapping.addr())), "a mapping freed twice");
    let cache = b.cache("wrong", 120)?;
    let object = b.take(cache)?;
    ensure!(b.try_free(cache, object.wrapping_add(8)).is_err(), "a free inside of an object");
    ensure!(b.try_free(cache, (&raw mut local).cast()).is_err(), "a free of foreign memory to a cache");
    b.free(cache, object)?;
    ensure!(b.try_free(cache, object).is_err(), "an object was freed twice in a row, and nothing was told");
    equal!(b.in_use(cache), 0, "objects in use");
    b.destroy(cache)
}

pub(super) fn arrays_that_overflow_are_refused<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let heap = b.heap();
    let said = b.faults().messages();
    for (n, size) in [(usize::MAX, 2), (1 << 40, 1 << 40), (3, usize::MAX / 2)] {
        ensure!(heap.kmalloc_array(n, size, Gfp::KERNEL).is_null(), "{n} times {size}");
        ensure!(heap.kcalloc(n, size, Gfp::KERNEL).is_null(), "{n} times {size}");
        ensure!(heap.kvmalloc_array(n, size, Gfp::KERNEL).is_null(), "{n} times {size}");
    }
    equal!(b.faults().messages(), said, "messages: an overflow is no report");
    let block = heap.kmalloc_array(13, 11, Gfp::KERNEL);
    ensure!(!block.is_null() && b.ksize(block)? >= 143, "13 times 11");
    b.kfree(block)
}

pub(super) fn mappings_serve_what_kmalloc_does_not<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let heap = b.heap();
    for size in [MAX_BYTES + 1, 9 << 20] {
        let block = heap.kvmalloc(size, Gfp::KERNEL);
        ensure!(!block.is_null(), "no memory for {size} bytes");
        ensure!(b.ksize(block)? >= size, "{size} bytes became {}", b.ksize(block)?);
        for at in (0..size).step_by(4096) {
            // SAFETY: the block has `size` bytes.
            ensure!(unsafe { block.add(at).read() } == 0, "a mapping is dirty at {at}");
            // SAFETY: as above.
            unsafe { block.add(at).write(at.to_le_bytes()[1]) };
        }
        // SAFETY: the check holds the block.
        let grown = unsafe { heap.kvrealloc(block, size + (1 << 20), Gfp::KERNEL) };
        let Ok(grown) = grown else { fail!("kvrealloc of a good block: {grown:?}") };
        ensure!(!grown.is_null(), "no memory for a larger mapping");
        for at in (0..size).step_by(4096) {
            // SAFETY: the block is larger now.
            let found = unsafe { grown.add(at).read() };
            ensure!(found == at.to_le_bytes()[1], "a mapping lost its contents at {at}");
        }
        // SAFETY: the check holds the block.
        let freed = unsafe { heap.kvfree(grown) };
        ensure!(freed.is_ok(), "kvfree of a good block: {freed:?}");
    }
    ensure!(heap.kvmalloc(usize::MAX, QUIET).is_null(), "all of the address space");
    Ok(())
}
