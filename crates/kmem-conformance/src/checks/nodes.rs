//! Several nodes: where objects come from, and where they go.

use core::ptr::null_mut;

use kmem_core::cache::CacheArgs;
use kmem_core::flags::SlabFlags;
use kmem_core::gfp::Gfp;

use crate::bench::{Bench, QUIET};
use crate::failure::{Failure, Outcome, ensure, equal, fail};
use crate::shortage::Shortage;
use crate::{Cache, Driver};

fn node_of<D: Driver>(b: &Bench<'_, D>, block: *mut u8) -> Result<usize, Failure> {
    ensure!(!block.is_null(), "no memory");
    match b.driver.node_of(block) {
        Some(node) => Ok(node),
        None => fail!("{block:p} is on no node"),
    }
}

fn go_to_node<D: Driver>(b: &Bench<'_, D>, node: usize) -> Outcome {
    match b.driver.cpu_of_node(node) {
        Some(cpu) => b.go(cpu),
        None => fail!("node {node} has no CPU"),
    }
}

pub(super) fn a_preferred_node_is_served<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    for flags in [SlabFlags::empty(), SlabFlags::NOLEAKTRACE] {
        let args = CacheArgs { flags: Some(flags), ..CacheArgs::default() };
        let cache = b.create("nodes", 200, args)?;
        for here in 0..2 {
            go_to_node(b, here)?;
            for wanted in [0, 1] {
                for gfp in [Gfp::KERNEL, Gfp::KERNEL | Gfp::THISNODE] {
                    let mut objects = [null_mut(); 40];
                    for object in &mut objects {
                        *object = b.alloc_node(cache, gfp, Some(wanted));
                        equal!(node_of(b, *object)?, wanted, "node of an object, asked on node {here}");
                    }
                    b.free_all(cache, &objects)?;
                }
                for size in [100, 1000, 10_000, 100_000] {
                    let block = b.heap().kmalloc_node(size, Gfp::KERNEL | Gfp::THISNODE, Some(wanted));
                    equal!(node_of(b, block)?, wanted, "node of {size} bytes, asked on node {here}");
                    b.kfree(block)?;
                }
            }
            for nowhere in [None, Some(usize::MAX), Some(b.nodes())] {
                let object = b.alloc_node(cache, Gfp::KERNEL, nowhere);
                let node = node_of(b, object)?;
                ensure!(
                    node == here || !b.expected.near,
                    "node {node} of an object of no preference, on node {here}"
                );
                b.free(cache, object)?;
            }
        }
        b.destroy(cache)?;
    }
    Ok(())
}

pub(super) fn a_full_node_falls_back<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    let cache = b.cache("fallback", 700)?;
    // The other node must have pages of its own when the platform gives no more.
    let blocks = [0, 1].map(|node| b.heap().kmalloc_node(1 << 20, Gfp::KERNEL, Some(node)));
    blocks.iter().try_for_each(|&block| b.kfree(block))?;
    go_to_node(b, 0)?;
    let shortage = Shortage::begin(b, Some(1));
    let strict = b.alloc_node(cache, QUIET | Gfp::THISNODE, Some(1));
    let lenient = b.alloc_node(cache, QUIET, Some(1));
    let block = b.heap().kmalloc_node(700, QUIET | Gfp::THISNODE, Some(1));
    shortage.end(b)?;
    // A block of kmalloc may come from what its class kept on that node.
    if !block.is_null() {
        equal!(node_of(b, block)?, 1, "node of a block that was asked for strictly");
        b.kfree(block)?;
    }
    ensure!(strict.is_null(), "an object of a node without memory");
    equal!(node_of(b, lenient)?, 0, "node of an object whose node has no memory");
    b.free(cache, lenient)?;
    b.destroy(cache)
}

fn take_of_node<D: Driver>(
    b: &Bench<'_, D>,
    cache: Cache<D>,
    objects: &mut [*mut u8],
    node: usize,
) -> Outcome {
    for object in objects {
        *object = b.alloc_node(cache, Gfp::KERNEL | Gfp::THISNODE, Some(node));
        equal!(node_of(b, *object)?, node, "node of an object");
    }
    Ok(())
}

/// Frees on one node what came from the other: it never comes back as memory of the node where it was freed.
/// (Without [`Gfp::THISNODE`] it may: a CPU may keep a slab of another node into which it freed.)
fn send_home<D: Driver>(b: &Bench<'_, D>, cache: Cache<D>, in_bulk: bool) -> Outcome {
    let mut objects = [null_mut(); 250];
    for home in 0..2 {
        go_to_node(b, home)?;
        take_of_node(b, cache, &mut objects, home)?;
        go_to_node(b, 1 - home)?;
        if in_bulk {
            b.free_bulk(Some(cache), &mut objects)?;
        } else {
            b.free_all(cache, &objects)?;
        }
        equal!(b.in_use(cache), 0, "objects in use");
        take_of_node(b, cache, &mut objects, 1 - home)?;
        b.free_all(cache, &objects)?;
    }
    Ok(())
}

pub(super) fn objects_go_home<D: Driver>(b: &Bench<'_, D>) -> Outcome {
    for size in [64, 1000] {
        for flags in [SlabFlags::empty(), SlabFlags::NOLEAKTRACE] {
            let args = CacheArgs { flags: Some(flags), ..CacheArgs::default() };
            let cache = b.create("home", size, args)?;
            for in_bulk in [false, true] {
                send_home(b, cache, in_bulk)?;
            }
            b.destroy(cache)?;
        }
    }
    Ok(())
}
