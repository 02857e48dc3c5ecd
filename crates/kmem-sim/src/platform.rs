//! The machine as a heap sees it: the contract of [`Platform`], and the rules that are watched while it is kept.

use std::ptr::NonNull;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, Ordering};

use kmem_core::page::{PAGEBLOCK_PAGES, ZoneKind};
use kmem_core::platform::{PageRange, Platform, Window};
use kmem_core::sync::rank;

use crate::counters::rank_name;
use crate::cpus::SimCpus;
use crate::machine::{FATAL, Machine};
use crate::thread;

/// The bits of a lock word that are its owner's token; the two above are flags.
const OWNER: u32 = (1 << 30) - 1;

impl Machine {
    fn point(&self) {
        let happened = self.0.schedule.point();
        self.0.tally.happened(happened);
    }

    /// The rule of [`kmem_core::sync`]: no lock but the registry's while the world works.
    fn no_lock_across(&self, call: &str) {
        if let Some(held) = self.0.schedule.highest_held()
            && held > rank::REGISTRY
        {
            broken(&format!("{call} was called with a lock of rank {held} ({}) held", rank_name(held)));
        }
    }
}

/// Panics, unless a panic is under way already: the first one tells more.
fn broken(rule: &str) {
    if !std::thread::panicking() {
        panic!("kmem-sim: {rule}");
    }
}

// SAFETY: the window is reserved once and lives with `Inner`; blocks are given to one taker at a time, opened before and
// fresh (zero) after closing, together with their descriptors and tags; discarded memory is dropped by the system and
// reads as zero; mappings are fresh regions of their own; numbers of CPUs and nodes are fixed and checked by `Builder`,
// and `set_cpu` and the schedule stay below them.
unsafe impl Platform for Machine {
    type Cpu = SimCpus;

    const NUMA: bool = true;

    fn cpu_area(&self) -> &SimCpus {
        &self.0.cpus
    }

    fn window(&self) -> Window {
        self.0.memory.window()
    }

    fn cpus(&self) -> usize {
        self.0.ncpus
    }

    fn current_cpu(&self) -> usize {
        let cpu = self.0.schedule.cpu();
        // Afterwards, so that the answer may be stale, as the contract warns.
        self.point();
        cpu
    }

    fn nodes(&self) -> usize {
        self.0.nodes
    }

    fn current_node(&self) -> usize {
        let node = self.node_of_cpu(self.0.schedule.cpu());
        self.point();
        node
    }

    fn zone_ends(&self) -> [usize; 2] {
        self.0.memory.zone_ends()
    }

    fn grow(&self, node: usize, zone: ZoneKind, pages: usize) -> Option<PageRange> {
        self.no_lock_across("grow");
        if self.0.faults.refuse() {
            return None;
        }
        let range = self.0.memory.grow(node, zone, pages)?;
        self.0.tally.grows.add(1);
        self.0.tally.grown_pages.add(range.count as u64);
        Some(range)
    }

    unsafe fn discard(&self, range: PageRange) -> bool {
        self.no_lock_across("discard");
        if self.0.keep_discards.load(Ordering::Relaxed) {
            return false;
        }
        // SAFETY: passed on to the caller.
        unsafe { self.0.memory.discard(range) };
        self.0.tally.discards.add(1);
        self.0.tally.discarded_pages.add(range.count as u64);
        true
    }

    const BACKS: bool = true;

    fn back(&self, range: PageRange) -> bool {
        self.no_lock_across("back");
        self.0.memory.back(range);
        self.0.tally.backed_pages.add(range.count as u64);
        true
    }

    fn back_whole(&self, range: PageRange) -> bool {
        assert!(range.count == PAGEBLOCK_PAGES && range.first.is_multiple_of(PAGEBLOCK_PAGES), "{range:?}");
        self.0.tally.backed_whole.add(1);
        self.back(range)
    }

    unsafe fn release(&self, range: PageRange) {
        self.no_lock_across("release");
        // SAFETY: passed on to the caller.
        unsafe { self.0.memory.release(range) };
        self.0.tally.released_pages.add(range.count as u64);
    }

    fn map(&self, len: usize, align: usize) -> Option<NonNull<u8>> {
        self.no_lock_across("map");
        if self.0.faults.refuse() {
            return None;
        }
        let ptr = self.0.maps.map(len, align)?;
        self.0.tally.maps.add(1);
        Some(ptr)
    }

    unsafe fn unmap(&self, ptr: NonNull<u8>, len: usize) {
        self.no_lock_across("unmap");
        self.0.maps.unmap(ptr, len);
        self.0.tally.unmaps.add(1);
    }

    unsafe fn remap(&self, ptr: NonNull<u8>, old: usize, new: usize, may_move: bool) -> Option<NonNull<u8>> {
        self.no_lock_across("remap");
        if new > old && self.0.faults.refuse() {
            return None;
        }
        // SAFETY: passed on to the caller.
        let ptr = unsafe { self.0.maps.remap(ptr, old, new, may_move)? };
        self.0.tally.remaps.add(1);
        Some(ptr)
    }

    unsafe fn protect(&self, ptr: NonNull<u8>, len: usize, allow: bool) -> bool {
        self.no_lock_across("protect");
        if allow && self.0.faults.refuse() {
            return false;
        }
        self.0.maps.protect(ptr, len, allow);
        true
    }

    fn watch_faults(&self) -> bool {
        // Tests report their accesses themselves.
        true
    }

    fn now(&self) -> u64 {
        self.0.clock.load(Ordering::Relaxed)
    }

    fn entropy(&self) -> u64 {
        self.0.entropy.next_u64()
    }

    fn console(&self, text: &str) {
        self.0.console.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
    }

    /// Panics with a message that begins with [`FATAL`]; [`Machine::expect_fatal`] catches it.
    fn fatal(&self) -> ! {
        let text = self.0.console.lock().unwrap_or_else(PoisonError::into_inner).clone();
        panic!("{FATAL}: {}", text.trim_end());
    }

    fn backtrace(&self, out: &mut [usize]) -> usize {
        let calls = self.0.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let mut len = 0;
        for (place, call) in out.iter_mut().zip(calls.iter()) {
            *place = self.0.symbols.address(call);
            len += 1;
        }
        len
    }

    fn symbol(&self, address: usize, out: &mut dyn std::fmt::Write) -> std::fmt::Result {
        match self.0.symbols.name(address) {
            Some(name) => out.write_str(name),
            None => write!(out, "{address:#x}"),
        }
    }

    fn lock_token(&self) -> u32 {
        // The last moment at which the world may change before the lock is taken.
        self.point();
        thread::token()
    }

    fn lock_wait(&self, word: &AtomicU32, value: u32) {
        if value & OWNER == thread::token() {
            panic!("kmem-sim: this thread waits for a lock that it holds itself");
        }
        self.0.tally.lock_waits.add(1);
        if !self.0.waiters.wait(word, value) {
            panic!("kmem-sim: deadlock: thread {} kept a lock for a minute", value & OWNER);
        }
    }

    fn lock_wake(&self, _word: &AtomicU32) {
        self.0.waiters.wake();
    }

    fn lock_taken(&self, rank: u8) {
        match self.0.schedule.lock_taken(rank) {
            Ok(cpu) => self.0.tally.lock_taken(rank, cpu),
            Err(held) => broken(&format!(
                "a lock of rank {rank} ({}) was taken while one of rank {held} ({}) is held",
                rank_name(rank),
                rank_name(held)
            )),
        }
    }

    fn lock_released(&self, rank: u8) {
        if !self.0.schedule.lock_released(rank) {
            broken(&format!(
                "a lock of rank {rank} ({}) was released that this thread does not hold",
                rank_name(rank)
            ));
        }
    }
}
