//! Arrays of free objects that belong to a node: the one its CPUs share, and one for each other node.
//!
//! The memory of an array is made when it is first needed and given back when the node is flushed, so that a
//! cache that nobody uses costs none. Whoever holds the lock around one owns it.
//!
//! # Invariants
//! - I-QUEUE-1: entries below `len` are free objects of the cache, oldest first; `len <= room`.

use core::ptr;

use crate::engine::slab::tunables::ALIEN_LIMIT;

/// An array of free objects.
pub struct Queue {
    entries: *mut *mut u8,
    room: u32,
    len: u32,
    /// A refill took objects since the node was last reaped.
    pub touched: bool,
}

// SAFETY: the array belongs to the queue, which is used under a lock.
unsafe impl Send for Queue {}

impl Queue {
    /// A queue without an array.
    pub(super) const fn new() -> Self {
        Self { entries: ptr::null_mut(), room: 0, len: 0, touched: false }
    }

    /// Bytes of an array for so many objects.
    pub(super) const fn bytes(room: usize) -> usize {
        room * size_of::<*mut u8>()
    }

    /// Objects in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// True when there is no object in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Objects that its array holds; 0: it has none.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.room as usize
    }

    /// Gets an array. False when it has one: the caller keeps the new one.
    ///
    /// # Safety
    /// `memory` is aligned to a word, has [`Queue::bytes`]`(room)` bytes, and is the queue's until [`Queue::remove`].
    pub(super) unsafe fn install(&mut self, memory: *mut u8, room: u32) -> bool {
        if !self.entries.is_null() {
            return false;
        }
        self.entries = memory.cast();
        self.room = room;
        true
    }

    /// Takes the array of an empty queue away: memory and room.
    pub(super) fn remove(&mut self) -> Option<(*mut u8, usize)> {
        if self.entries.is_null() || self.len != 0 {
            return None;
        }
        let memory = core::mem::replace(&mut self.entries, ptr::null_mut());
        Some((memory.cast(), core::mem::take(&mut self.room) as usize))
    }

    /// Adds objects of which the first is the oldest. Returns how many fitted: the rest are the newest.
    pub(super) fn push(&mut self, objects: &[*mut u8]) -> usize {
        let fit = objects.len().min((self.room - self.len) as usize);
        for &object in &objects[..fit] {
            // SAFETY: `len` is below `room`, so the entry is the queue's (I-QUEUE-1 and the contract of `install`).
            unsafe { self.entries.add(self.len as usize).write(object) };
            self.len += 1;
        }
        fit
    }

    /// Moves the newest objects to `out`, the newest of all first; returns how many.
    pub(super) fn pop(&mut self, out: &mut [*mut u8]) -> usize {
        let take = out.len().min(self.len as usize);
        for slot in &mut out[..take] {
            self.len -= 1;
            // SAFETY: I-QUEUE-1.
            *slot = unsafe { self.entries.add(self.len as usize).read() };
        }
        take
    }

    /// Moves the oldest objects to `out`; returns how many.
    pub(super) fn pop_oldest(&mut self, out: &mut [*mut u8]) -> usize {
        let take = out.len().min(self.len as usize);
        if take > 0 {
            // SAFETY: I-QUEUE-1: the first `len` entries are written, and `take` is not more; `out` is not in the array.
            unsafe {
                ptr::copy_nonoverlapping(self.entries, out.as_mut_ptr(), take);
                ptr::copy(self.entries.add(take), self.entries, self.len as usize - take);
            }
            self.len -= take as u32;
        }
        take
    }

    /// The objects in it, oldest first.
    #[must_use]
    pub fn objects(&self) -> &[*mut u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: I-QUEUE-1, and nobody changes the queue while it is borrowed.
        unsafe { core::slice::from_raw_parts(self.entries, self.len as usize) }
    }
}

/// Objects for one other node.
#[repr(C)]
pub(super) struct AlienRow {
    len: u64,
    entries: [*mut u8; ALIEN_LIMIT as usize],
}

/// The alien arrays of a node: one row for each node there is, in one block.
pub(super) struct Aliens {
    rows: *mut AlienRow,
    count: u32,
    /// Objects that came.
    pub(super) pushed: u64,
    /// Times a row was full.
    pub(super) overflows: u64,
}

// SAFETY: the rows belong to the structure, which is used under a lock.
unsafe impl Send for Aliens {}

impl Aliens {
    /// No arrays.
    pub(super) const fn new() -> Self {
        Self { rows: ptr::null_mut(), count: 0, pushed: 0, overflows: 0 }
    }

    /// Bytes of a block for so many nodes.
    pub(super) const fn bytes(nodes: usize) -> usize {
        nodes * size_of::<AlienRow>()
    }

    /// There is a block.
    pub(super) fn exists(&self) -> bool {
        !self.rows.is_null()
    }

    /// Gets a block. False when there is one: the caller keeps the new one.
    ///
    /// # Safety
    /// `memory` is aligned to a word, has [`Aliens::bytes`]`(nodes)` bytes, and stays until [`Aliens::remove`].
    pub(super) unsafe fn install(&mut self, memory: *mut u8, nodes: usize) -> bool {
        if self.exists() {
            return false;
        }
        self.rows = memory.cast();
        self.count = nodes as u32;
        for row in 0..nodes {
            let empty = AlienRow { len: 0, entries: [ptr::null_mut(); ALIEN_LIMIT as usize] };
            // SAFETY: the block has so many rows and belongs to this structure now.
            unsafe { self.rows.add(row).write(empty) };
        }
        true
    }

    /// Takes the block away when no row has objects: memory and the number of nodes.
    pub(super) fn remove(&mut self) -> Option<(*mut u8, usize)> {
        if !self.exists() || self.total() != 0 {
            return None;
        }
        let memory = core::mem::replace(&mut self.rows, ptr::null_mut());
        Some((memory.cast(), core::mem::take(&mut self.count) as usize))
    }

    fn row(&mut self, node: usize) -> Option<&mut AlienRow> {
        if node >= self.count as usize {
            return None;
        }
        // SAFETY: the block has `count` rows, all written by `install`.
        Some(unsafe { &mut *self.rows.add(node) })
    }

    /// Adds an object of `node`. A full row is first emptied into `full`, oldest first; returns how many those were, or
    /// nothing when there is no row.
    pub(super) fn push(
        &mut self,
        node: usize,
        object: *mut u8,
        full: &mut [*mut u8; ALIEN_LIMIT as usize],
    ) -> Option<usize> {
        let drained = if self.row(node)?.len == u64::from(ALIEN_LIMIT) { self.take(node, full) } else { 0 };
        self.pushed += 1;
        self.overflows += u64::from(drained > 0);
        let row = self.row(node)?;
        row.entries[row.len as usize] = object;
        row.len += 1;
        Some(drained)
    }

    /// Empties the row of `node` into `out`, oldest first; returns how many objects it had.
    pub(super) fn take(&mut self, node: usize, out: &mut [*mut u8; ALIEN_LIMIT as usize]) -> usize {
        let Some(row) = self.row(node) else { return 0 };
        let len = core::mem::take(&mut row.len) as usize;
        out[..len].copy_from_slice(&row.entries[..len]);
        len
    }

    /// The objects of `node`, oldest first.
    pub(super) fn objects(&mut self, node: usize) -> &[*mut u8] {
        self.row(node).map_or(&[], |row| &row.entries[..row.len as usize])
    }

    /// Objects in all rows.
    pub(super) fn total(&self) -> u64 {
        // SAFETY: the block has `count` rows, all written by `install`.
        (0..self.count as usize).map(|row| unsafe { (*self.rows.add(row)).len }).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(i: usize) -> *mut u8 {
        ptr::without_provenance_mut(i * 8)
    }

    #[test]
    fn a_queue_is_last_in_first_out_and_drains_from_the_bottom() {
        let mut memory = [ptr::null_mut::<u8>(); 4];
        let mut queue = Queue::new();
        assert_eq!(queue.push(&[object(1)]), 0, "no array, no room");
        // SAFETY: the array outlives the queue's use and has 4 entries.
        assert!(unsafe { queue.install(memory.as_mut_ptr().cast(), 4) });
        assert_eq!(queue.push(&[object(1), object(2), object(3)]), 3);
        // Only the oldest fits.
        assert_eq!(queue.push(&[object(4), object(5)]), 1);
        assert_eq!(queue.objects(), [1, 2, 3, 4].map(object));
        let mut out = [ptr::null_mut(); 2];
        assert_eq!((queue.pop(&mut out[..1]), out[0]), (1, object(4)));
        assert_eq!((queue.pop_oldest(&mut out), out), (2, [object(1), object(2)]));
        assert!(queue.remove().is_none(), "it has an object");
        assert_eq!((queue.pop(&mut out), out[0]), (1, object(3)));
        assert_eq!(queue.remove().map(|(_, room)| room), Some(4));
    }

    #[test]
    fn a_full_row_is_emptied_before_the_next_object() {
        let mut memory = [0_u64; Aliens::bytes(2) / 8];
        let mut aliens = Aliens::new();
        let mut out = [ptr::null_mut(); ALIEN_LIMIT as usize];
        assert_eq!(aliens.push(1, object(1), &mut out), None);
        // SAFETY: the block outlives its use and has two rows.
        assert!(unsafe { aliens.install(memory.as_mut_ptr().cast(), 2) });
        for i in 1..=12 {
            assert_eq!(aliens.push(1, object(i), &mut out), Some(0));
        }
        assert_eq!(aliens.push(1, object(13), &mut out), Some(12));
        assert_eq!((out[0], out[11]), (object(1), object(12)));
        assert_eq!((aliens.total(), aliens.push(2, object(1), &mut out)), (1, None));
        assert!(aliens.remove().is_none());
        assert_eq!((aliens.take(1, &mut out), out[0]), (1, object(13)));
        assert_eq!(aliens.remove().map(|(_, nodes)| nodes), Some(2));
    }
}
