//! Blocks beyond the largest block of pages: each a mapping of its own, known by its address.
//!
//! # Theory
//! These lie outside the window, so no descriptor leads to them. An open-addressing table from
//! address to length does, under one lock that is held for a few instructions. The table itself is a
//! mapping; it doubles at half load, which happens outside the lock.
//!
//! A mapping may be longer than its block: one that grew and was freed is given to the next that grows (module `kept`).
//! What a block has behind its end is its *room*. Where it did not grow into that for a while the room is cut off.
//!
//! # Invariants
//! - I-HUGE-1: an entry stands for a live mapping, and no two entries for one address.
//! - I-HUGE-2: at least one slot in two is empty, so that a search ends. A removal moves later entries of the
//!   same run back, so there are no gravestones.

use core::ptr::NonNull;

use crate::config::Config;
use crate::debug::stacks::Handle;
use crate::gfp::Gfp;
use crate::heap::Kmem;
use crate::kmalloc::FreeError;
use crate::kmalloc::classes::MAX_BYTES;
use crate::platform::{PAGE_SHIFT, PAGE_SIZE, Platform};
use crate::sync::{Lock, rank};

#[derive(Clone, Copy)]
struct Entry {
    address: usize,
    bytes: usize,
    /// The stack that it was allocated by, a [`Handle`]; 0: not known.
    stack: usize,
    /// Bytes of the mapping, a multiple of the page size, and flags below that.
    room: usize,
}

/// In [`Entry::room`]: it was resized.
const GROWN: usize = 1;
/// In [`Entry::room`]: its length is what it was when the mappings were last aged.
const IDLE: usize = 2;

impl Entry {
    /// Bytes of the mapping.
    fn mapped(self) -> usize {
        self.room & !(PAGE_SIZE - 1)
    }
}

const _: () = assert!(FIRST_SLOTS.is_power_of_two());

struct Table {
    entries: *mut Entry,
    /// Number of slots: 0 or a power of two.
    slots: usize,
    used: usize,
    /// How many of the mappings are longer than their blocks, at most.
    roomy: usize,
}

// SAFETY: the table's memory belongs to it, and it is used under a lock.
unsafe impl Send for Table {}

const FIRST_SLOTS: usize = PAGE_SIZE / size_of::<Entry>();

impl Table {
    fn home(&self, address: usize) -> usize {
        // Multiplicative hashing by the golden section of a word: mappings differ in their page number only.
        const FACTOR: usize = (0x9e37_79b9_7f4a_7c15_u64 >> (u64::BITS - usize::BITS)) as usize;
        let hash = (address >> PAGE_SHIFT).wrapping_mul(FACTOR);
        hash >> (usize::BITS - self.slots.trailing_zeros())
    }

    fn entry(&self, slot: usize) -> Entry {
        debug_assert!(slot < self.slots);
        // SAFETY: `entries` has `slots` entries, zero or written, and the lock makes this the only access.
        unsafe { *self.entries.add(slot) }
    }

    fn set(&mut self, slot: usize, entry: Entry) {
        debug_assert!(slot < self.slots);
        // SAFETY: as in `entry`.
        unsafe { *self.entries.add(slot) = entry };
    }

    /// The slot of an address, or the empty slot where it would go.
    fn slot_of(&self, address: usize) -> usize {
        let mut slot = self.home(address);
        while self.entry(slot).address != 0 && self.entry(slot).address != address {
            slot = (slot + 1) & (self.slots - 1);
        }
        slot
    }

    fn find(&self, address: usize) -> Option<Entry> {
        if self.slots == 0 || address == 0 {
            return None;
        }
        let entry = self.entry(self.slot_of(address));
        (entry.address == address).then_some(entry)
    }

    fn insert(&mut self, entry: Entry) {
        let slot = self.slot_of(entry.address);
        self.set(slot, entry);
        self.used += 1;
    }

    fn remove(&mut self, address: usize) -> Option<Entry> {
        let found = self.find(address)?;
        let mut hole = self.slot_of(address);
        let mut slot = hole;
        loop {
            slot = (slot + 1) & (self.slots - 1);
            let entry = self.entry(slot);
            if entry.address == 0 {
                break;
            }
            // An entry may fill the hole unless its home lies behind the hole on its way.
            let home = self.home(entry.address);
            if (slot.wrapping_sub(home) & (self.slots - 1)) >= (slot.wrapping_sub(hole) & (self.slots - 1)) {
                self.set(hole, entry);
                hole = slot;
            }
        }
        self.set(hole, Entry { address: 0, bytes: 0, stack: 0, room: 0 });
        self.used -= 1;
        Some(found)
    }

    /// Cuts off the room of a block that did not grow since the call before; where it lies and its bytes.
    fn cut_one(&mut self, from: &mut usize) -> Option<(usize, usize)> {
        while *from < self.slots {
            let slot = *from;
            *from += 1;
            let entry = self.entry(slot);
            let spare = entry.mapped() - entry.bytes;
            if entry.address == 0 || spare == 0 {
                continue;
            }
            if entry.room & IDLE != 0 {
                self.set(slot, Entry { room: entry.bytes | entry.room & GROWN, ..entry });
                return Some((entry.address + entry.bytes, spare));
            }
            self.set(slot, Entry { room: entry.room | IDLE, ..entry });
            self.roomy += 1;
        }
        None
    }

    fn full(&self) -> bool {
        (self.used + 1) * 2 > self.slots
    }

    /// True when not even an entry that was here a moment ago can come back.
    fn crowded(&self) -> bool {
        self.used + 1 >= self.slots
    }
}

/// All mappings of a heap.
pub struct HugeTable<P: Platform> {
    table: Lock<Table, { rank::HUGE }>,
    platform: core::marker::PhantomData<fn(P)>,
}

impl<P: Platform> HugeTable<P> {
    /// No mappings.
    pub(crate) const fn new() -> Self {
        Self {
            table: Lock::new(Table { entries: core::ptr::null_mut(), slots: 0, used: 0, roomy: 0 }),
            platform: core::marker::PhantomData,
        }
    }

    /// Bytes of the mapping that starts at `address`.
    pub(crate) fn find(&self, platform: &P, address: usize) -> Option<usize> {
        if address & (PAGE_SIZE - 1) != 0 {
            return None;
        }
        self.table.lock(platform).find(address).map(|entry| entry.bytes)
    }

    /// Shows address, bytes and stack of every mapping.
    pub(crate) fn each(&self, platform: &P, mut visit: impl FnMut(usize, usize, Handle)) {
        let table = self.table.lock(platform);
        for slot in 0..table.slots {
            let entry = table.entry(slot);
            if entry.address != 0 {
                visit(entry.address, entry.bytes, entry.stack as Handle);
            }
        }
    }

    /// Where the table itself lies: first byte, and the one behind the last.
    pub(crate) fn place(&self, platform: &P) -> (usize, usize) {
        let table = self.table.lock(platform);
        let start = table.entries.addr();
        (start, start + table.slots * size_of::<Entry>())
    }

    /// Makes room for one more entry. False: no memory.
    fn reserve(&self, platform: &P) -> bool {
        loop {
            let slots = {
                let table = self.table.lock(platform);
                if !table.full() {
                    return true;
                }
                table.slots
            };
            let more = (slots * 2).max(FIRST_SLOTS);
            let Some(memory) = platform.map(more * size_of::<Entry>(), PAGE_SIZE) else { return false };
            let old = {
                let mut table = self.table.lock(platform);
                if table.slots == slots {
                    let roomy = table.roomy;
                    let mut new = Table { entries: memory.as_ptr().cast(), slots: more, used: 0, roomy };
                    for slot in 0..slots {
                        let entry = table.entry(slot);
                        if entry.address != 0 {
                            new.insert(entry);
                        }
                    }
                    let old = (table.entries, table.slots);
                    *table = new;
                    old
                } else {
                    // Somebody else was faster.
                    (memory.as_ptr().cast(), more)
                }
            };
            if let Some(entries) = NonNull::new(old.0.cast::<u8>()) {
                // SAFETY: this memory was mapped with that length, and the table does not use it (any more).
                unsafe { platform.unmap(entries, old.1 * size_of::<Entry>()) };
            }
        }
    }

    /// Records a mapping; there is room.
    fn insert(&self, platform: &P, entry: Entry) -> bool {
        let mut table = self.table.lock(platform);
        if table.full() {
            return false;
        }
        table.insert(entry);
        true
    }

    /// Records a mapping again that was taken off the list a moment ago. There is room: new entries fill no more than
    /// half of the slots.
    fn insert_again(&self, platform: &P, entry: Entry) {
        let mut table = self.table.lock(platform);
        assert!(!table.crowded(), "as many blocks are being resized as the table of mappings has slots");
        table.insert(entry);
    }

    fn remove(&self, platform: &P, address: usize) -> Option<Entry> {
        self.table.lock(platform).remove(address)
    }

    pub(crate) fn lock_for_fork(&self, platform: &P) {
        self.table.lock_for_fork(platform);
    }

    /// # Safety
    /// As [`Lock::unlock_after_fork`].
    pub(crate) unsafe fn unlock_after_fork(&self, platform: &P) {
        // SAFETY: the caller's promise.
        unsafe { self.table.unlock_after_fork(platform) };
    }
}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// A mapping for `size` bytes, aligned to `align`; zero. Null: no memory.
    pub(crate) fn alloc_huge(&self, size: usize, align: usize) -> *mut u8 {
        let Some(bytes) = size.checked_next_multiple_of(PAGE_SIZE) else { return core::ptr::null_mut() };
        if self.refuses_mapping(bytes, Gfp::KERNEL) {
            return core::ptr::null_mut();
        }
        let align = align.max(PAGE_SIZE);
        let mapped =
            if C::APART { self.platform.map_apart(bytes, align) } else { self.platform.map(bytes, align) };
        match mapped {
            Some(block) => self.list_huge(block, bytes, bytes),
            None => core::ptr::null_mut(),
        }
    }

    /// A mapping for a block of `size` bytes that grows: it may have room already. Not zero. Null: no memory.
    pub(crate) fn alloc_growing(&self, size: usize) -> *mut u8 {
        if let Some(bytes) = size.checked_next_multiple_of(PAGE_SIZE)
            && Self::KEEPS
            && self.kept.bytes() >= bytes
            && !self.refuses_mapping(bytes, Gfp::KERNEL)
            && let Some(mapping) = self.take_kept(bytes)
            && let Some(block) = mapping.start()
        {
            return self.list_huge(block, bytes, mapping.bytes | GROWN);
        }
        self.alloc_huge(size, PAGE_SIZE)
    }

    /// Lists a mapping as a block of `bytes` bytes; null, and it is unmapped: there is no memory for the list.
    fn list_huge(&self, block: NonNull<u8>, bytes: usize, room: usize) -> *mut u8 {
        let stack = self.large_stack() as usize;
        let entry = Entry { address: block.as_ptr().addr(), bytes, stack, room };
        loop {
            if !self.huge.reserve(&self.platform) {
                // SAFETY: the caller's mapping; nobody knows it.
                unsafe { self.unmap(block, entry.mapped()) };
                return core::ptr::null_mut();
            }
            if self.huge.insert(&self.platform, entry) {
                break;
            }
        }
        self.huge_stats.add(bytes);
        block.as_ptr()
    }

    /// Frees a mapping.
    ///
    /// # Safety
    /// Nobody uses it any more.
    pub(crate) unsafe fn free_huge(&self, ptr: *mut u8) -> Result<(), FreeError> {
        let (Some(block), Some(entry)) = (NonNull::new(ptr), self.huge.remove(&self.platform, ptr.addr()))
        else {
            return Err(FreeError::Foreign(ptr.addr()));
        };
        self.huge_stats.remove(entry.bytes);
        // One that grew had all the sizes below, and what is kept of it serves the next that does.
        if entry.bytes <= MAX_BYTES || entry.room & GROWN != 0 {
            self.first.freed(entry.bytes.min(MAX_BYTES));
        }
        // SAFETY: the mapping was listed, and this thread took it off the list.
        unsafe {
            if Self::KEEPS && entry.room & GROWN != 0 {
                self.keep(ptr.expose_provenance(), entry.mapped());
            } else {
                self.unmap(block, entry.mapped());
            }
        }
        Ok(())
    }

    /// Gives a mapping of [`Kmem::alloc_huge`] back to the platform.
    ///
    /// # Safety
    /// As [`Platform::unmap`].
    unsafe fn unmap(&self, block: NonNull<u8>, bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            if C::APART { self.platform.unmap_apart(block, bytes) } else { self.platform.unmap(block, bytes) }
        }
    }

    /// Resizes a mapping, moving it if need be. Null: nothing changed. With `zero` the bytes that it gains are zero.
    ///
    /// # Safety
    /// `ptr` is the start of a mapping that belongs to the caller; after success only the answer may be used.
    pub(crate) unsafe fn resize_huge(&self, ptr: *mut u8, size: usize, zero: bool) -> *mut u8 {
        let (Some(block), Some(bytes)) = (NonNull::new(ptr), size.checked_next_multiple_of(PAGE_SIZE)) else {
            return core::ptr::null_mut();
        };
        let Some(old) = self.huge.find(&self.platform, ptr.addr()) else { return core::ptr::null_mut() };
        if bytes == old {
            return ptr;
        }
        if bytes > old && self.refuses_mapping(bytes, Gfp::KERNEL) {
            return core::ptr::null_mut();
        }
        // Off the list before the address can belong to somebody else.
        let Some(entry) = self.huge.remove(&self.platform, ptr.addr()) else { return core::ptr::null_mut() };
        let mapped = entry.mapped();
        let fits = old < bytes && bytes <= mapped;
        // SAFETY: the caller owns the mapping, all of it while it is off the list.
        let moved = unsafe {
            if zero && old < bytes {
                ptr.add(old).write_bytes(0, bytes.min(mapped) - old);
            }
            if fits {
                Some(block)
            } else if C::APART {
                self.platform.remap_apart(block, mapped, bytes)
            } else {
                self.platform.remap(block, mapped, bytes, true)
            }
        };
        let entry = match moved {
            Some(block) => {
                let room = if fits { mapped } else { bytes } | GROWN;
                Entry { address: block.as_ptr().addr(), bytes, room, ..entry }
            }
            None => entry,
        };
        self.huge.insert_again(&self.platform, entry);
        match moved {
            Some(block) => {
                self.huge_stats.resize(old, bytes);
                block.as_ptr()
            }
            None => core::ptr::null_mut(),
        }
    }

    /// Cuts off the room of mappings that did not grow since the call before. True: others have room still.
    pub(crate) fn cut_rooms(&self) -> bool {
        if !Self::KEEPS {
            return false;
        }
        let mut from = 0;
        self.huge.table.lock(&self.platform).roomy = 0;
        loop {
            // What the table does not name any more is this thread's.
            let (cut, roomy) = {
                let mut table = self.huge.table.lock(&self.platform);
                (table.cut_one(&mut from), table.roomy)
            };
            let Some((address, bytes)) = cut else { return roomy > 0 };
            if let Some(end) = NonNull::new(core::ptr::with_exposed_provenance_mut(address)) {
                // SAFETY: the end of a live mapping, which its block does not reach; the platform can cut.
                unsafe { self.platform.unmap(end, bytes) };
            }
        }
    }
}
