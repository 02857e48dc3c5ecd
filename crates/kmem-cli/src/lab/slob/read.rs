//! The picture of the pages of SLOB, read from the live heap. What the heap does not know, whose a block is, the bench does.

use kmem_core::Config;
use kmem_core::engine::Engine;
use kmem_core::engine::slob::{Sight, Slob};
use kmem_core::platform::PAGE_SIZE;

use super::picture::{Page, Picture, Run, UNIT, What};
use crate::lab::heap::Heap;

/// Configurations with this engine.
pub(crate) trait Slobs: Config<Engine = Slob> {}
impl<C: Config<Engine = Slob>> Slobs for C {}

/// Bytes in front of a block of kmalloc.
pub(crate) const HEADER: usize = Slob::KMALLOC_HEADER;

/// All pages, and what is in them.
pub(crate) fn picture<C: Slobs>(heap: &Heap<C>) -> Picture {
    let mut pages = Vec::new();
    heap.kmem().each_slob_page(|sight| match sight {
        Sight::Page(page) => pages.push((page, Vec::new())),
        Sight::Free { offset, bytes } => {
            if let Some((_, runs)) = pages.last_mut() {
                runs.push(Run { offset, bytes, what: What::Free });
            }
        }
    });
    let size = heap.cache_size().next_multiple_of(UNIT);
    let objects = heap.live().iter().map(|object| (*object, size, What::Object));
    let blocks = heap.blocks().iter().map(|(block, size)| {
        let usable = heap.usable(*block);
        (*block - HEADER, HEADER + usable, What::Block(*size))
    });
    for (start, bytes, what) in objects.chain(blocks) {
        let inside = |base: usize| start >= base && start < base + PAGE_SIZE;
        if let Some((page, runs)) = pages.iter_mut().find(|(page, _)| inside(page.base)) {
            runs.push(Run { offset: start - page.base, bytes, what });
        }
    }
    let page = |(is, mut runs): (_, Vec<Run>)| {
        runs.sort_by_key(|run| run.offset);
        let is: kmem_core::engine::slob::PageSight = is;
        Page::new(heap.number_of(is.base), is, &runs)
    };
    Picture { pages: pages.into_iter().map(page).collect() }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
