//! The table of mappings: entries by address.
//!
//! An empty slot is all zero, so fresh pages are an empty table (invariants in [the parent](super)). Everything here happens under
//! the lock of the table's owner; nothing waits, and nothing takes memory.

use crate::debug::{Asked, Origin, Track};
use crate::platform::{PAGE_SHIFT, PAGE_SIZE};

/// One mapping. All zero: none.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) address: usize,
    /// Bytes of the block with its red zone, a multiple of the page size.
    pub(crate) bytes: usize,
    /// Bytes of the mapping, a multiple of the page size, and flags below that.
    pub(crate) room: usize,
    /// How it was asked for.
    pub(crate) asked: Asked,
    /// Who allocated it, where that is kept.
    pub(crate) track: Track,
}

/// In [`Entry::room`]: it was resized.
pub(super) const GROWN: usize = 1;
/// In [`Entry::room`]: its length is what it was when the mappings were last aged.
const IDLE: usize = 2;
/// In [`Entry::room`]: what was not asked for is a red zone.
const ZONE: usize = 4;

impl Entry {
    const NONE: Self = Self {
        address: 0,
        bytes: 0,
        room: 0,
        asked: Asked { origin: Origin::Malloc, align: 0, size: 0, exact: false },
        track: Track { address: 0, stack: 0, cpu: 0, thread: 0, known: 0, time: 0 },
    };

    /// A block of `bytes` bytes in a mapping of `room`, flags included, of which `size` were asked for.
    pub(super) fn new(address: usize, bytes: usize, room: usize, size: usize) -> Self {
        let asked = Asked { size, exact: true, ..Asked::default() };
        Self { address, bytes, room, asked, track: Track::default() }
    }

    /// Bytes of the mapping.
    pub(super) fn mapped(self) -> usize {
        self.room & !(PAGE_SIZE - 1)
    }

    /// Bytes that its holder may use.
    pub(crate) fn usable(self) -> usize {
        if self.has_zone() { self.asked.size } else { self.bytes }
    }

    /// What lies between what was asked for and the end of the block is a red zone.
    pub(crate) fn has_zone(self) -> bool {
        self.room & ZONE != 0
    }

    /// The same block, with a red zone or without.
    pub(crate) fn with_zone(self, zone: bool) -> Self {
        Self { room: self.room & !ZONE | if zone { ZONE } else { 0 }, ..self }
    }
}

/// Slots of the first table.
pub(super) const FIRST_SLOTS: usize = 32;
const _: () = assert!(FIRST_SLOTS.is_power_of_two() && FIRST_SLOTS * size_of::<Entry>() <= PAGE_SIZE);

/// Bytes of a table of so many slots: whole pages.
pub(super) const fn bytes_of(slots: usize) -> usize {
    (slots * size_of::<Entry>()).next_multiple_of(PAGE_SIZE)
}

/// The entries, by address: open addressing.
pub(super) struct Table {
    pub(super) entries: *mut Entry,
    /// Number of slots: 0 or a power of two.
    pub(super) slots: usize,
    pub(super) used: usize,
    /// How many of the mappings are longer than their blocks, at most.
    pub(super) roomy: usize,
}

// SAFETY: the table's memory belongs to it, and it is used under a lock.
unsafe impl Send for Table {}

impl Table {
    fn home(&self, address: usize) -> usize {
        // Multiplicative hashing by the golden section of a word: mappings differ in their page number only.
        const FACTOR: usize = (0x9e37_79b9_7f4a_7c15_u64 >> (u64::BITS - usize::BITS)) as usize;
        let hash = (address >> PAGE_SHIFT).wrapping_mul(FACTOR);
        hash >> (usize::BITS - self.slots.trailing_zeros())
    }

    pub(super) fn entry(&self, slot: usize) -> Entry {
        debug_assert!(slot < self.slots);
        // SAFETY: `entries` has `slots` entries, zero or written, and the lock makes this the only access.
        unsafe { *self.entries.add(slot) }
    }

    pub(super) fn set(&mut self, slot: usize, entry: Entry) {
        debug_assert!(slot < self.slots);
        // SAFETY: as in `entry`.
        unsafe { *self.entries.add(slot) = entry };
    }

    /// The slot of an address, or the empty slot where it would go.
    pub(super) fn slot_of(&self, address: usize) -> usize {
        let mut slot = self.home(address);
        while self.entry(slot).address != 0 && self.entry(slot).address != address {
            slot = (slot + 1) & (self.slots - 1);
        }
        slot
    }

    pub(super) fn find(&self, address: usize) -> Option<Entry> {
        if self.slots == 0 || address == 0 {
            return None;
        }
        let entry = self.entry(self.slot_of(address));
        (entry.address == address).then_some(entry)
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        let slot = self.slot_of(entry.address);
        self.set(slot, entry);
        self.used += 1;
    }

    pub(super) fn remove(&mut self, address: usize) -> Option<Entry> {
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
        self.set(hole, Entry::NONE);
        self.used -= 1;
        Some(found)
    }

    /// Cuts off the room of a block that did not grow since the call before; where it lies and its bytes.
    pub(super) fn cut_one(&mut self, from: &mut usize) -> Option<(usize, usize)> {
        while *from < self.slots {
            let slot = *from;
            *from += 1;
            let entry = self.entry(slot);
            let spare = entry.mapped() - entry.bytes;
            if entry.address == 0 || spare == 0 {
                continue;
            }
            if entry.room & IDLE != 0 {
                self.set(slot, Entry { room: entry.bytes | entry.room & (GROWN | ZONE), ..entry });
                return Some((entry.address + entry.bytes, spare));
            }
            self.set(slot, Entry { room: entry.room | IDLE, ..entry });
            self.roomy += 1;
        }
        None
    }

    pub(super) fn full(&self) -> bool {
        (self.used + 1) * 2 > self.slots
    }

    /// True when not even an entry that was here a moment ago can come back.
    pub(super) fn crowded(&self) -> bool {
        self.used + 1 >= self.slots
    }
}
