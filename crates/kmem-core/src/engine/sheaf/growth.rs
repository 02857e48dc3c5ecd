//! Stacks that grow while their CPU trades more than they hold.
//!
//! # Theory
//! A program that takes a thousand objects and gives a thousand back, over and over, sends nearly all of them through barns and
//! slabs when a stack holds a hundred. A stack that holds a thousand serves it alone. But a thousand objects are a mebibyte where
//! they are large, for each class and CPU, and most classes never need them. So a stack starts with what its cache's capacity says,
//! and gets an array twice as large when it runs full, then empty, then full again ([`Trade`]): it missed objects that it had had
//! no room for, and has them again. A program that builds something and takes it down never makes it grow.
//!
//! What all stacks of a heap have grown by, in bytes of objects, stays within a [`Budget`].
//!
//! # Getting small again
//! Whoever runs a heap calls [`age`] now and then. A grown stack that handed out fewer objects since the last time than it holds is
//! taken away: its objects go to their slabs, and the next operation begins with a small one.
//!
//! # Invariants
//! - I-GROW-1: `capacity <= room <= most` for an installed stack of a cache whose stacks may grow, and `grown` is what its objects
//!   beyond the capacity have in bytes.
//! - I-GROW-2: the budget's sum is that of `grown` over all stacks. A stack's share goes back when its array is taken away.
//! - I-GROW-3: the old array is exchanged for the new one under the stack's lock, so nobody installs another in between.
//!
//! # Never
//! Grows on an allocation, and waits for memory: a free must not.

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{alloc_stack, drain_cpu, free_stack, take_stack};
use crate::engine::{Cache, Engine, Floor};
use crate::gfp::Gfp;
use crate::percpu::{CpuArea, empty, install};
use crate::platform::Platform;

/// Bytes of objects that stacks may have grown by, for each CPU there is.
const PER_CPU: usize = 2 << 20;

/// How much the stacks of a heap have grown by, in bytes of objects.
pub(crate) struct Budget {
    taken: AtomicUsize,
    closed: AtomicBool,
}

impl Budget {
    pub(crate) const fn new() -> Self {
        Self { taken: AtomicUsize::new(0), closed: AtomicBool::new(false) }
    }

    /// Bytes taken. Relaxed here and below: the sum guards nothing but itself.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Takes so many bytes, if no more than `limit` are taken then.
    fn take(&self, bytes: u32, limit: usize) -> bool {
        let add = |taken: usize| taken.checked_add(bytes as usize).filter(|&sum| sum <= limit);
        !self.closed.load(Ordering::Relaxed)
            && self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    /// Whether any more may be taken.
    pub(crate) fn allow(&self, allow: bool) {
        self.closed.store(!allow, Ordering::Relaxed);
    }

    pub(super) fn give_back(&self, bytes: u32) {
        if bytes != 0 {
            self.taken.fetch_sub(bytes as usize, Ordering::Relaxed);
        }
    }
}

/// What a stack went through since it last grew. All zero at first.
#[derive(Clone, Copy)]
pub(crate) struct Trade(u8);

impl Trade {
    const WAS_FULL: u8 = 1;
    const FULL_THEN_EMPTY: u8 = 2;

    pub(super) fn ran_empty(&mut self) {
        if self.0 == Self::WAS_FULL {
            self.0 = Self::FULL_THEN_EMPTY;
        }
    }

    /// True when it ran full, empty, and now full.
    fn ran_full(&mut self) -> bool {
        let again = self.0 == Self::FULL_THEN_EMPTY;
        self.0 = Self::WAS_FULL;
        again
    }
}

/// Makes the running CPU's stack, which is full, twice as large, if it ran empty since it was last full. False: it stays as it is.
pub(super) fn grow<P: Platform, E: Engine>(floor: Floor<'_, P, E>, cache: &Cache<E>) -> bool {
    if cache.most == 0 {
        return false;
    }
    let number = floor.platform.current_cpu();
    let Some(cpu) = cache.cpu(floor.platform, number) else { return false };
    let (before, old_room) = {
        let mut stack = cpu.stack.lock(floor.platform);
        if !stack.trade.ran_full() {
            return false;
        }
        (stack.base, stack.room)
    };
    // With its sentinels the array stays a power of two.
    let room = (2 * old_room + 2).min(cache.most);
    if before.is_null() || room <= old_room || cache.is_closed() {
        return false;
    }
    let bytes = (room - old_room) * cache.geometry.size as u32;
    if !floor.arrays.grown.take(bytes, PER_CPU * floor.platform.cpus()) {
        return false;
    }
    let base = alloc_stack(floor, room, Gfp::NOWAIT);
    if base.is_null() {
        floor.arrays.grown.give_back(bytes);
        return false;
    }
    let old = {
        let mut stack = cpu.stack.lock(floor.platform);
        let share = core::mem::take(&mut stack.grown);
        let same = stack.base == before && stack.room == old_room && !cache.is_closed();
        let (old, len) = if same {
            let (old, len, _) = take_stack(floor, cache, number, &mut stack);
            (old, len)
        } else {
            (ptr::null_mut(), 0)
        };
        if old.is_null() {
            stack.grown = share;
        } else {
            let hot = floor.platform.cpu_area().hot(number, cache.id);
            // SAFETY: the `len` entries from `old` on are free objects of this cache (I-CPU-1), and both arrays are this
            // thread's: the old one was detached, the new one is not installed yet and longer. It stays until it is seized.
            let installed = unsafe {
                ptr::copy_nonoverlapping(old, base, len);
                install(hot, base, len)
            };
            debug_assert!(installed, "I-GROW-3");
            stack.base = base;
            stack.room = room;
            stack.grown = share + bytes;
        }
        old
    };
    if old.is_null() {
        floor.arrays.grown.give_back(bytes);
        // SAFETY: nobody else saw the array.
        unsafe { free_stack(floor, base, room) };
        return false;
    }
    // SAFETY: the array was allocated with that room and is not installed any more.
    unsafe { free_stack(floor, old, old_room) };
    true
}

/// Takes the stack of `number` away if it has grown and handed out fewer objects since the last call than it holds, or in `any` case.
pub(crate) fn age<P: Platform, E: Engine>(
    floor: Floor<'_, P, E>,
    cache: &Cache<E>,
    number: usize,
    any: bool,
) {
    let hot = floor.platform.cpu_area().hot(number, cache.id);
    // Relaxed: nothing is read through it. Without a stack the CPU's memory need not be touched.
    let top = hot.top.load(Ordering::Relaxed);
    if top == empty() {
        return;
    }
    let Some(cpu) = cache.cpu(floor.platform, number) else { return };
    {
        let mut stack = cpu.stack.lock(floor.platform);
        let served = hot.allocs.load(Ordering::Relaxed) as u32;
        let since = served.wrapping_sub(core::mem::replace(&mut stack.served, served));
        let held = (top.addr().wrapping_sub(stack.base.addr())) / size_of::<*mut u8>();
        if stack.grown == 0 || since as usize >= held && !any {
            return;
        }
    }
    drain_cpu(floor, cache, number, |held| held);
}
