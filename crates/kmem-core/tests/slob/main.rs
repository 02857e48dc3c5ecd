//! SLOB's pages on the simulated machine: the order of the search, what is noticed, and a model.
//!
//! Every test ends with the checkers of the heap and of the page floor ([`Fixture::check`]).

mod errors;
mod footprint;
mod heap;
mod model;
mod search;

use std::ptr::NonNull;

use kmem_core::debug::Debug;
use kmem_core::engine::slob::{Ask, BlockError, Heap, Stats, World};
use kmem_core::gfp::Gfp;
use kmem_core::page::Pages;
use kmem_core::platform::{BLOCK_PAGES, PAGE_SIZE};
use kmem_sim::{Builder, Machine};

/// A heap on a machine of its own.
struct Fixture {
    machine: Machine,
    pages: Box<Pages<Machine>>,
    heap: Box<Heap>,
    debug: Debug,
}

impl Fixture {
    fn new(builder: Builder) -> Self {
        let machine = builder.build();
        let pages = Box::new(Pages::new());
        pages.init(&machine);
        let heap = Box::new(Heap::new());
        heap.init(&machine);
        Self { machine, pages, heap, debug: Debug::new(false) }
    }

    fn world(&self) -> World<'_, Machine> {
        World { platform: &self.machine, pages: &self.pages, debug: &self.debug }
    }

    fn alloc(&self, bytes: usize) -> NonNull<u8> {
        self.heap.alloc(self.world(), &Ask::new(bytes, Gfp::KERNEL)).expect("memory")
    }

    fn free(&self, block: NonNull<u8>, bytes: usize) -> Result<(), BlockError> {
        // SAFETY: the tests free blocks that are theirs, and others only to see them refused.
        unsafe { self.heap.free(self.world(), block.as_ptr(), bytes) }
    }

    fn kmalloc(&self, size: usize) -> NonNull<u8> {
        self.heap.kmalloc(self.world(), size, Gfp::KERNEL, None).expect("memory")
    }

    fn kfree(&self, block: NonNull<u8>) -> Result<(), BlockError> {
        // SAFETY: as above.
        unsafe { self.heap.kfree(self.world(), block.as_ptr()) }
    }

    /// Checks everything, and that the page floor has as many pages in use as the heap.
    #[track_caller]
    fn check(&self) -> Stats {
        let stats = self.heap.validate(self.world()).unwrap_or_else(|fault| panic!("{fault}"));
        let pages = self.pages.validate(&self.machine).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(pages.in_use, stats.pages + stats.whole_pages, "{stats:?} {pages:?}");
        stats
    }

    /// Checks everything; nothing is in use.
    #[track_caller]
    fn check_empty(&self) {
        assert_eq!(self.check(), Stats::default());
    }
}

/// A machine with one CPU, one node and this many blocks of memory.
fn small(blocks: usize) -> Builder {
    Machine::builder().memory_per_node(blocks * BLOCK_PAGES)
}

/// The number of a block's page.
fn page_of(block: NonNull<u8>) -> usize {
    block.addr().get() / PAGE_SIZE
}
