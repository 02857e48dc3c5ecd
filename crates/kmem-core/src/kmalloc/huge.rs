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
//! With debug letters more is kept of each: see module `mapped`.
//!
//! # Invariants
//! - I-HUGE-1: an entry stands for a live mapping, and no two entries for one address.
//! - I-HUGE-2: at least one slot in two is empty, so that a search ends. A removal moves later entries of the
//!   same run back, so there are no gravestones.

use core::ptr::NonNull;

use crate::config::Config;
use crate::debug::Asked;
use crate::gfp::Gfp;
use crate::heap::Kmem;
use crate::kmalloc::FreeError;
use crate::kmalloc::classes::MAX_BYTES;
use crate::kmalloc::mapped::Gone;
use crate::platform::{PAGE_SIZE, Platform};
use crate::sync::{Lock, rank};

mod table;

pub(crate) use table::Entry;

use table::{FIRST_SLOTS, GROWN, Table, bytes_of};

/// All mappings of a heap.
pub struct HugeTable<P: Platform> {
    table: Lock<Table, { rank::HUGE }>,
    /// The mappings that were freed last, where letters ask for it.
    pub(crate) gone: Lock<Gone, { rank::HUGE }>,
    platform: core::marker::PhantomData<fn(P)>,
}

/// Somebody is changing what was to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl<P: Platform> HugeTable<P> {
    /// No mappings.
    pub(crate) const fn new() -> Self {
        Self {
            table: Lock::new(Table { entries: core::ptr::null_mut(), slots: 0, used: 0, roomy: 0 }),
            gone: Lock::new(Gone::new()),
            platform: core::marker::PhantomData,
        }
    }

    /// Bytes that may be used of the mapping that starts at `address`.
    pub(crate) fn find(&self, platform: &P, address: usize) -> Option<usize> {
        self.entry(platform, address).map(Entry::usable)
    }

    /// What is known of the mapping that starts at `address`.
    pub(crate) fn entry(&self, platform: &P, address: usize) -> Option<Entry> {
        if address & (PAGE_SIZE - 1) != 0 {
            return None;
        }
        self.table.lock(platform).find(address)
    }

    /// Shows every mapping, with the table's lock held.
    pub(crate) fn each(&self, platform: &P, mut visit: impl FnMut(Entry)) {
        let table = self.table.lock(platform);
        for slot in 0..table.slots {
            let entry = table.entry(slot);
            if entry.address != 0 {
                visit(entry);
            }
        }
    }

    /// Changes what is known of a mapping; its address stays.
    pub(crate) fn change(&self, platform: &P, address: usize, change: impl FnOnce(&mut Entry)) {
        let mut table = self.table.lock(platform);
        if let Some(mut entry) = table.find(address) {
            change(&mut entry);
            let slot = table.slot_of(address);
            table.set(slot, Entry { address, ..entry });
        }
    }

    /// Where the table itself lies: first byte, and the one behind the last.
    pub(crate) fn place(&self, platform: &P) -> (usize, usize) {
        let table = self.table.lock(platform);
        let start = table.entries.addr();
        (start, start + bytes_of(table.slots))
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
            let Some(memory) = platform.map(bytes_of(more), PAGE_SIZE) else { return false };
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
                unsafe { platform.unmap(entries, bytes_of(old.1)) };
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

    /// Lists a block again that could not be given back.
    pub(crate) fn put_back(&self, platform: &P, entry: Entry) {
        self.insert_again(platform, entry);
    }

    fn remove(&self, platform: &P, address: usize) -> Option<Entry> {
        self.table.lock(platform).remove(address)
    }

    pub(crate) fn lock_for_fork(&self, platform: &P) {
        self.table.lock_for_fork(platform);
        self.gone.lock_for_fork(platform);
    }

    /// # Safety
    /// As [`Lock::unlock_after_fork`].
    pub(crate) unsafe fn unlock_after_fork(&self, platform: &P) {
        // SAFETY: the caller's promise.
        unsafe {
            self.gone.unlock_after_fork(platform);
            self.table.unlock_after_fork(platform);
        }
    }
}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// A mapping for `size` bytes, aligned to `align`; zero. Null: no memory.
    pub(crate) fn alloc_huge(&self, size: usize, align: usize) -> *mut u8 {
        let Some(bytes) = self.mapped_bytes(size) else { return core::ptr::null_mut() };
        if self.refuses_mapping(bytes, Gfp::KERNEL) {
            return core::ptr::null_mut();
        }
        let align = align.max(PAGE_SIZE);
        let mapped =
            if C::APART { self.platform.map_apart(bytes, align) } else { self.platform.map(bytes, align) };
        match mapped {
            Some(block) => self.list_huge(block, size, bytes, bytes),
            None => core::ptr::null_mut(),
        }
    }

    /// A mapping for a block of `size` bytes that grows: it may have room already. Not zero. Null: no memory.
    pub(crate) fn alloc_growing(&self, size: usize) -> *mut u8 {
        if Self::KEEPS
            && let Some(bytes) = self.mapped_bytes(size)
            && self.kept.bytes() >= bytes
            && !self.refuses_mapping(bytes, Gfp::KERNEL)
            && let Some(mapping) = self.take_kept(bytes)
            && let Some(block) = mapping.start()
        {
            return self.list_huge(block, size, bytes, mapping.bytes | GROWN);
        }
        self.alloc_huge(size, PAGE_SIZE)
    }

    /// Lists a mapping as a block of `bytes` bytes, for `size`; null, and it is unmapped: there is no memory for the list.
    fn list_huge(&self, block: NonNull<u8>, size: usize, bytes: usize, room: usize) -> *mut u8 {
        let entry = Entry::new(block.as_ptr().addr(), bytes, room, size);
        // SAFETY: a fresh mapping of at least that many bytes, which nobody knows.
        let entry = unsafe { self.dress_mapping(entry) };
        loop {
            if !self.huge.reserve(&self.platform) {
                // SAFETY: the caller's mapping; nobody knows it.
                unsafe { self.unmap(block, &entry) };
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
        // SAFETY: this thread took it off the list.
        if !unsafe { self.sound_mapping(&entry) } {
            self.keep_damaged(entry);
            return Ok(());
        }
        self.huge_stats.remove(entry.bytes);
        // One that grew had all the sizes below, and what is kept of it serves the next that does.
        if entry.bytes <= MAX_BYTES || entry.room & GROWN != 0 {
            self.first.freed(entry.bytes.min(MAX_BYTES));
        }
        // SAFETY: the mapping was listed, and this thread took it off the list.
        unsafe {
            if Self::KEEPS && entry.room & GROWN != 0 && self.debug.large_letters().is_empty() {
                self.keep(ptr.expose_provenance(), entry.mapped());
            } else {
                self.unmap(block, &entry);
            }
        }
        self.mapping_gone(&entry);
        Ok(())
    }

    /// Gives a mapping of [`Kmem::alloc_huge`] back to the platform.
    ///
    /// # Safety
    /// As [`Platform::unmap`]; `entry` is that of the mapping, which is off the list.
    unsafe fn unmap(&self, block: NonNull<u8>, entry: &Entry) {
        let bytes = entry.mapped();
        // SAFETY: the caller's promise.
        unsafe {
            if C::APART {
                self.platform.unmap_apart(block, bytes, entry.asked.size);
            } else {
                self.platform.unmap(block, bytes);
            }
        }
    }

    /// Notes how many bytes of a mapping its holder asked for, where that was not what it was made for.
    pub fn note_mapping(&self, ptr: *const u8, size: usize) {
        if C::APART {
            self.huge.change(&self.platform, ptr.addr(), |entry| {
                // A zone begins where what was asked for ends.
                if !entry.has_zone() {
                    entry.asked.size = size;
                }
            });
        }
    }

    /// The mapping beside which an address lies: its first byte, and how many its holder asked for. `around`: bytes before and behind
    /// a mapping of so many that are its own. For a handler of faults: nothing is waited for.
    ///
    /// # Errors
    /// The list is being changed; by this very thread, perhaps.
    pub fn mapping_beside(
        &self,
        address: usize,
        around: impl Fn(usize) -> (usize, usize),
    ) -> Result<Option<(usize, usize)>, Busy> {
        let table = self.huge.table.try_lock(&self.platform).ok_or(Busy)?;
        let beside = |entry: &Entry| {
            let (before, behind) = around(entry.mapped());
            let end = entry.address + entry.mapped();
            entry.address != 0
                && (address.wrapping_sub(end) < behind || entry.address.wrapping_sub(1 + address) < before)
        };
        let found = (0..table.slots).map(|slot| table.entry(slot)).find(beside);
        Ok(found.map(|entry| (entry.address, entry.asked.size)))
    }

    /// Resizes a mapping, moving it if need be. Null: nothing changed. With `zero` the bytes that it gains are zero.
    ///
    /// # Safety
    /// `ptr` is the start of a mapping that belongs to the caller; after success only the answer may be used.
    pub(crate) unsafe fn resize_huge(&self, ptr: *mut u8, size: usize, zero: bool) -> *mut u8 {
        let (Some(block), Some(bytes)) = (NonNull::new(ptr), self.mapped_bytes(size)) else {
            return core::ptr::null_mut();
        };
        let Some(seen) = self.huge.entry(&self.platform, ptr.addr()) else { return core::ptr::null_mut() };
        if bytes == seen.bytes && !seen.has_zone() && seen.track.known == 0 {
            self.note_mapping(ptr, size);
            return ptr;
        }
        if bytes > seen.bytes && self.refuses_mapping(bytes, Gfp::KERNEL) {
            return core::ptr::null_mut();
        }
        // Off the list before the address can belong to somebody else.
        let Some(entry) = self.huge.remove(&self.platform, ptr.addr()) else { return core::ptr::null_mut() };
        let (mapped, old, usable) = (entry.mapped(), entry.bytes, entry.usable());
        let fits = old <= bytes && bytes <= mapped;
        // SAFETY: the caller owns the mapping, all of it while it is off the list.
        let moved = unsafe {
            // Reported, and the block has another end now.
            self.sound_mapping(&entry);
            if zero && usable < bytes {
                ptr.add(usable).write_bytes(0, bytes.min(mapped) - usable);
            }
            if fits {
                Some(block)
            } else if C::APART {
                self.platform.remap_apart(block, mapped, bytes, entry.asked.size)
            } else {
                self.platform.remap(block, mapped, bytes, true)
            }
        };
        let entry = match moved {
            Some(block) => {
                let room = if fits { mapped } else { bytes } | GROWN;
                let new = Entry::new(block.as_ptr().addr(), bytes, room, size);
                let asked = Asked { size, exact: true, ..entry.asked };
                // SAFETY: the caller's block, off the list, with its new length.
                unsafe { self.dress_mapping(Entry { asked, ..new }) }
            }
            // SAFETY: the caller's block, off the list, as it was.
            None => unsafe { self.zone_mapping(entry) },
        };
        if entry.address != seen.address {
            self.mapping_gone(&seen);
        }
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
