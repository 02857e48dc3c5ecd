//! The machine as the heap sees it: the contract of [`kmem_core::platform::Platform`] on bare metal.
//!
//! | what | how |
//! |---|---|
//! | the window | all memory at its distance from physical 0: a page's index is its frame number |
//! | zones | DMA below 16 MiB, DMA32 below 4 GiB, NORMAL above |
//! | nodes | the firmware's |
//! | memory | all of it is given at boot ([`give_memory`]); there is no more to be had later |
//! | mappings | a pool set aside at boot ([`maps`]) |
//! | owning a CPU | [`area`]: pieces of code that an interrupt sets back, or interrupts off |
//! | locks | the owner runs without interrupts; waiters spin and answer calls |
//!
//! # Interrupts and locks
//! A handler may use the heap, so code that holds a lock of the heap must not be interrupted on its CPU.
//! [`Platform::lock_enter`] turns interrupts off, and the last [`Platform::lock_exit`] sets them back. A call that takes
//! no lock, which is nearly each, never touches the interrupt flag; one that takes several is open to interrupts between them.
//!
//! - I-IRQ-1: who holds a lock of the heap runs without interrupts.

pub(crate) mod area;
mod maps;
pub(crate) mod masked;
pub(crate) mod restart;

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use kmem_core::page::{PageError, Pages, ZoneKind};
use kmem_core::platform::{BLOCK_PAGES, PAGE_SHIFT, PAGE_SIZE, PageRange, Platform, Window};

use crate::boot::{early, paging};
use crate::cpu::{serial, time};
use crate::heap::World;
use crate::smp;
use area::Area;

/// The machine. All its state is in statics: there is one.
pub(crate) struct Machine;

/// Pages of the window.
static WINDOW_PAGES: AtomicUsize = AtomicUsize::new(0);
/// Pages that each CPU may keep on its lists.
static LISTED: AtomicUsize = AtomicUsize::new(64);
/// Nodes.
static NODES: AtomicUsize = AtomicUsize::new(1);

/// End of the DMA zone, in pages: 16 MiB.
const DMA_END: usize = 16 << (20 - PAGE_SHIFT);
/// End of the DMA32 zone, in pages: 4 GiB.
const DMA32_END: usize = 4 << (30 - PAGE_SHIFT);

/// Fixes the window and the number of nodes and sets the memory of mappings aside, before the heap asks.
pub(crate) fn init(nodes: usize) {
    WINDOW_PAGES.store((early::top() >> PAGE_SHIFT).next_multiple_of(BLOCK_PAGES), Ordering::Relaxed);
    NODES.store(nodes, Ordering::Relaxed);
    maps::init(early::bytes());
}

/// Gives all memory that is left to the heap's pages, block by block. Returns how many pages.
///
/// # Errors
/// The page floor's, when a block is refused.
pub(crate) fn give_memory(world: &World, pages: &Pages<World>) -> Result<usize, PageError> {
    let mut given = 0;
    while let Some((start, node)) = early::take_block() {
        let first = start >> PAGE_SHIFT;
        if paging::map_descriptors(first, BLOCK_PAGES, node).is_err() {
            // The two ends met: this block stays unused.
            break;
        }
        let block = core::ptr::with_exposed_provenance_mut::<u8>(paging::DIRECT + start);
        let zone = match first {
            ..DMA_END => ZoneKind::Dma,
            DMA_END..DMA32_END => ZoneKind::Dma32,
            _ => ZoneKind::Normal,
        };
        // SAFETY: the block is memory that left the early ranges (I-EARLY-1), mapped and cleared, with fresh descriptors and
        // tags; only the first CPU is here.
        unsafe {
            paging::clear(block, BLOCK_PAGES * PAGE_SIZE);
            pages.add_memory(world, PageRange { first, count: BLOCK_PAGES }, node, zone)?;
        }
        given += BLOCK_PAGES;
    }
    LISTED.store(listed(given, smp::count()), Ordering::Relaxed);
    Ok(given)
}

/// Pages that each of so many CPUs may keep, of `pages` in all. As Linux 6.1: all CPUs together what a zone's `low` mark leaves,
/// which is a quarter more than 4 sqrt(KiB) KiB.
fn listed(pages: usize, cpus: usize) -> usize {
    let reserve = (pages * (PAGE_SIZE >> 10) * 16).isqrt() / (PAGE_SIZE >> 10);
    ((reserve + reserve / 4) / cpus).max(64)
}

// SAFETY: the window is fixed before the heap starts; memory is given by `give_memory` only, which keeps the promises of
// `grow`; mappings are of memory that the window does not
// hold (`maps`); CPUs and nodes are counted before the heap starts and stay; `Area` keeps the contract of
// CPU operations.
unsafe impl Platform for Machine {
    /// A kernel that is not hardened is measured beside Linux's, which believes links too.
    const CHECKS_LINKS: bool = cfg!(feature = "hardened");

    type Cpu = Area;

    const NUMA: bool = true;

    fn cpu_area(&self) -> &Area {
        &Area
    }

    fn window(&self) -> Window {
        Window {
            base: paging::DIRECT,
            pages: WINDOW_PAGES.load(Ordering::Relaxed),
            descs: core::ptr::with_exposed_provenance_mut(paging::DESCS),
            tags: core::ptr::with_exposed_provenance(paging::TAGS),
        }
    }

    fn cpus(&self) -> usize {
        smp::count()
    }

    #[inline]
    fn current_cpu(&self) -> usize {
        smp::number()
    }

    fn nodes(&self) -> usize {
        NODES.load(Ordering::Relaxed)
    }

    #[inline]
    fn current_node(&self) -> usize {
        smp::node()
    }

    #[inline]
    fn listed_pages(&self) -> usize {
        // Relaxed: set before the other CPUs start.
        LISTED.load(Ordering::Relaxed)
    }

    fn zone_ends(&self) -> [usize; 2] {
        [DMA_END, DMA32_END]
    }

    fn grow(&self, _node: usize, _zone: ZoneKind, _pages: usize) -> Option<PageRange> {
        // All memory was given at boot.
        None
    }

    unsafe fn discard(&self, _range: PageRange) -> bool {
        // Nobody else could use it.
        false
    }

    unsafe fn release(&self, _range: PageRange) {
        // The range stays mapped; `give_memory` alone decides what comes in.
    }

    fn map(&self, len: usize, align: usize) -> Option<NonNull<u8>> {
        maps::map(len, align)
    }

    unsafe fn unmap(&self, ptr: NonNull<u8>, len: usize) {
        // SAFETY: the caller's promise.
        unsafe { maps::unmap(ptr, len) };
    }

    unsafe fn remap(&self, ptr: NonNull<u8>, old: usize, new: usize, may_move: bool) -> Option<NonNull<u8>> {
        // SAFETY: the caller's promise.
        unsafe { maps::remap(ptr, old, new, may_move) }
    }

    fn now(&self) -> u64 {
        time::nanoseconds()
    }

    fn entropy(&self) -> u64 {
        time::entropy()
    }

    fn console(&self, text: &str) {
        serial::print(format_args!("{text}"));
    }

    fn fatal(&self) -> ! {
        panic!("the heap stops");
    }

    #[inline]
    fn lock_token(&self) -> u32 {
        smp::number() as u32 + 1
    }

    fn lock_wait(&self, _word: &AtomicU32, value: u32) {
        // Flags aside, the word is its owner's token. A CPU that waits for itself would wait for ever: a handler used the heap
        // where interrupts were on under a lock.
        debug_assert!(
            value & 0xffff != smp::number() as u32 + 1,
            "CPU {} waits for its own lock",
            smp::number()
        );
        smp::call::answer();
        core::hint::spin_loop();
    }

    fn lock_wake(&self, _word: &AtomicU32) {
        // Waiters look for themselves.
    }

    fn lock_enter(&self) {
        // I-IRQ-1.
        smp::heap_locks::enter();
    }

    fn lock_exit(&self) {
        smp::heap_locks::exit();
    }
}

/// How CPUs are owned, for reports.
pub(crate) const OWNERSHIP: &str =
    if cfg!(feature = "masked") { "interrupts off" } else { "restarted pieces" };
