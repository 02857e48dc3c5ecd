//! Memory comes and goes: growth on demand, hot-add, hot-remove.
//!
//! Memory moves in blocks of 4 MiB. A block enters as one free block of order 10 with the mobility
//! `Movable`, as zero as the platform promises; it can leave again once it is one free block of order 10. The first block of all gives its first pages for the books (the CPU lists and the block map),
//! and so never leaves.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::desc::{Kind, ZoneKind};
use super::zone::Home;
use super::{Mobility, PageError, Pages, block};
use crate::platform::{BLOCK_PAGES, PageRange, Platform};

impl<P: Platform> Pages<P> {
    /// Asks the platform for memory of `node`, of the highest zone allowed or a lower one.
    /// True when some came in that the request may use.
    #[cold]
    pub(super) fn fetch(&self, p: &P, pages: usize, node: usize, highest: ZoneKind) -> bool {
        for kind in ZoneKind::ALL.into_iter().rev().filter(|&kind| kind <= highest && self.has_room_for(kind))
        {
            if let Some(range) = p.grow(node, kind, pages) {
                debug_assert!(self.check_range(range).is_ok(), "the platform grew by {range:?}");
                self.admit(p, range, node);
                // Memory that this request cannot use is kept, but must not make it ask for ever.
                return self.zone_kind(range.first) <= highest;
            }
        }
        false
    }

    /// True when the window has addresses of this zone.
    fn has_room_for(&self, kind: ZoneKind) -> bool {
        let [dma, dma32] = [self.zone_ends[0].load(Relaxed), self.zone_ends[1].load(Relaxed)];
        match kind {
            ZoneKind::Dma => dma > 0,
            ZoneKind::Dma32 => dma32 > dma,
            ZoneKind::Normal => self.window_pages.load(Relaxed) > dma32,
        }
    }

    fn check_range(&self, range: PageRange) -> Result<(), PageError> {
        let whole = range.first.is_multiple_of(BLOCK_PAGES) && range.count.is_multiple_of(BLOCK_PAGES);
        let window = self.window_pages.load(Relaxed);
        let inside = range.count > 0 && range.first.checked_add(range.count).is_some_and(|end| end <= window);
        if whole && inside { Ok(()) } else { Err(PageError::BadRange) }
    }

    fn blocks(range: PageRange) -> impl DoubleEndedIterator<Item = usize> {
        (range.first..range.first + range.count).step_by(BLOCK_PAGES)
    }

    /// Makes fresh memory available. Nobody else admits any part of the range meanwhile.
    fn admit(&self, p: &P, range: PageRange, node: usize) {
        for first in Self::blocks(range) {
            let home = Home { node, zone: self.zone_kind(first) };
            let reserved = self.reserve_books(first);
            let zone = self.zone(home);
            let mut areas = zone.areas.lock(p);
            areas.admit(self.descs(), first, reserved);
            if reserved > 0 {
                let head = self.descs().page(first);
                head.set_home(home.node, home.zone, Mobility::Movable);
                head.set_order(reserved.next_power_of_two().trailing_zeros());
                head.set_span(reserved);
                head.set_kind(Kind::Allocated);
            }
            zone.managed.store(areas.managed, Relaxed);
            if let Some(byte) = self.block_byte(first) {
                let bits = block::PRESENT | (home.zone as u8) << block::ZONE_SHIFT | home.node as u8;
                // Release publishes the block's descriptors to the look-ups' Acquire.
                byte.store(bits, Release);
            }
        }
    }

    /// Places the books at the start of this block, if they have no place yet. Returns how many pages they take.
    fn reserve_books(&self, first: usize) -> usize {
        if !self.books.load(Relaxed).is_null() {
            return 0;
        }
        let place = self.address_of(first).as_ptr().cast();
        // Release pairs with the Acquire of the look-ups. The memory is zero, which is what empty books look like.
        match self.books.compare_exchange(core::ptr::null_mut(), place, Release, Relaxed) {
            Ok(_) => {
                let map = self
                    .block_byte(0)
                    .map_or(core::ptr::null_mut(), |byte| core::ptr::from_ref(byte).cast_mut());
                self.known.map.store(map, Relaxed);
                // Release: as above. Until here addresses are looked up by the books alone.
                self.known.mapped.store(self.window_pages.load(Relaxed), Release);
                self.books_pages()
            }
            Err(_) => 0,
        }
    }

    /// Adds memory that the heap did not ask for (memory hot-add). It must be of `zone` as a whole.
    ///
    /// # Errors
    /// [`PageError::BadRange`], [`PageError::BadNode`], [`PageError::BadZone`], [`PageError::Present`].
    ///
    /// # Safety
    /// The range is what [`Platform::grow`] could have returned: readable, writable, zero, with readable and
    /// writable descriptors and zero tags; it belongs to nobody else, and nobody adds any part of it at the same time.
    pub unsafe fn add_memory(
        &self,
        p: &P,
        range: PageRange,
        node: usize,
        zone: ZoneKind,
    ) -> Result<(), PageError> {
        self.check_range(range)?;
        if node >= p.nodes() {
            return Err(PageError::BadNode);
        }
        for first in Self::blocks(range) {
            if self.zone_kind(first) != zone {
                return Err(PageError::BadZone);
            }
            if self.home_of(first).is_some() {
                return Err(PageError::Present);
            }
        }
        self.admit(p, range, node);
        Ok(())
    }

    /// Takes memory out of the heap and gives it back to the platform (memory hot-remove).
    ///
    /// # Errors
    /// [`PageError::BadRange`], [`PageError::Absent`]; [`PageError::Busy`] when a page of the range is in use, or is
    /// on its way through another thread's hands. Then all of the range stays.
    pub fn remove_memory(&self, p: &P, range: PageRange) -> Result<(), PageError> {
        self.check_range(range)?;
        if Self::blocks(range).any(|first| self.home_of(first).is_none()) {
            return Err(PageError::Absent);
        }
        for cpu in 0..p.cpus() {
            self.drain_cpu(p, cpu);
        }
        // Nobody uses what waits; some of it may lie there.
        while self.release_ended(p) {}
        for first in Self::blocks(range) {
            if !self.expel(p, first) {
                let done = PageRange { first: range.first, count: first - range.first };
                Self::blocks(done).for_each(|first| self.readmit(p, first));
                return Err(PageError::Busy);
            }
        }
        // SAFETY: every block left its zone as one free block, and no look-up finds it any more.
        unsafe { p.release(range) };
        Ok(())
    }

    pub(super) fn expel(&self, p: &P, first: usize) -> bool {
        let (Some(home), Some(byte)) = (self.home_of(first), self.block_byte(first)) else { return false };
        let zone = self.zone(home);
        let mut areas = zone.areas.lock(p);
        // Asked again under the lock: another removal of the same block may have been faster.
        if byte.load(Acquire) & block::PRESENT == 0 || !areas.expel(self.descs(), first) {
            return false;
        }
        zone.managed.store(areas.managed, Relaxed);
        // The rest of the byte stays until the block is given again, for `readmit`.
        byte.store(byte.load(Relaxed) & !block::PRESENT, Release);
        true
    }

    fn readmit(&self, p: &P, first: usize) {
        let Some(byte) = self.block_byte(first) else { return };
        let bits = byte.load(Relaxed) | block::PRESENT;
        let home = Home {
            node: usize::from(bits & block::NODE_MASK),
            zone: ZoneKind::from_bits(bits >> block::ZONE_SHIFT & 3),
        };
        let zone = self.zone(home);
        let mut areas = zone.areas.lock(p);
        areas.readmit(self.descs(), first);
        zone.managed.store(areas.managed, Relaxed);
        byte.store(bits, Release);
    }
}
