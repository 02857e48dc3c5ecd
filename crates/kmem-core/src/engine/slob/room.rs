//! The free blocks of one page: where they lie, how they are chained, first fit and joining.
//!
//! A page is 2048 units of 2 bytes. Free memory describes itself, in units from the start of the page:
//!
//! ```text
//!   a free block of 2 units or more        a free block of 1 unit
//!   +--------+--------+- - - - +           +---------+
//!   | units  |  next  |        |           | - next  |       next: where the next free block begins, or END
//!   +--------+--------+- - - - +           +---------+
//! ```
//! Blocks in use carry nothing here: whoever frees one says how long it is.
//!
//! # Invariants
//! - I-SLOB-1: the chain ascends strictly, and between two free blocks lies at least one unit in use: they were
//!   joined otherwise.
//! - I-SLOB-2: the lengths of the chain sum up to [`Room::free`], and none is above [`Room::longest`].
//!
//! Free memory is where a program that writes too far writes. Each link is therefore looked at before it is
//! followed: a chain that does not ascend, or leaves the page, is [`Damage`], and nothing was changed. So every
//! walk here ends, after at most 1024 steps.

use core::ptr::NonNull;

use crate::engine::geometry::round_up;
use crate::platform::PAGE_SIZE;

/// Bytes in a unit, the grain of all sizes.
pub(super) const UNIT: usize = 2;
/// Units in a page.
pub(super) const UNITS: u16 = (PAGE_SIZE / UNIT) as u16;
/// Where a chain ends: behind the page.
pub(super) const END: u16 = UNITS;

// A length and, negative, the position behind the page must fit in a unit.
const _: () = assert!(PAGE_SIZE / UNIT <= i16::MAX as usize && UNIT == size_of::<i16>());

/// Units that `bytes` take.
#[inline]
pub(super) const fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT)
}

/// The chain of free blocks is broken: somebody wrote to free memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// The unit where it shows.
    pub(super) at: u16,
}

/// Why units cannot be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Some of them are free already.
    Free,
    /// See [`Damage`].
    Damage(Damage),
}

impl From<Damage> for Refused {
    fn from(damage: Damage) -> Self {
        Self::Damage(damage)
    }
}

/// One free block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    /// Its first unit.
    pub(super) at: u16,
    /// Its length.
    pub(super) units: u16,
    /// The next free block, or [`END`].
    next: u16,
}

impl Hole {
    const fn end(self) -> u16 {
        self.at + self.units
    }
}

/// The free blocks of one page. Whoever has one may change the page's free memory, and nobody else does.
#[derive(Debug)]
pub(super) struct Room {
    page: NonNull<i16>,
    /// The first free block, or [`END`].
    pub(super) first: u16,
    /// Free units.
    pub(super) free: u16,
    /// No free block is longer. A search that found nothing learns it exactly, so that the page is not walked
    /// again in vain.
    pub(super) longest: u16,
}

impl Room {
    /// The free blocks of a page as its descriptor tells them.
    ///
    /// # Safety
    /// `page` is the start of a page whose free memory belongs to the caller as long as the value lives, and
    /// the numbers are what the value that was last there ended with.
    pub(super) const unsafe fn new(page: NonNull<u8>, first: u16, free: u16, longest: u16) -> Self {
        Self { page: page.cast(), first, free, longest }
    }

    /// A page that is free from end to end.
    ///
    /// # Safety
    /// `page` is the start of a page that belongs to the caller as long as the value lives.
    pub(super) unsafe fn whole(page: NonNull<u8>) -> Self {
        let mut room = Self { page: page.cast(), first: 0, free: UNITS, longest: UNITS };
        room.write(Hole { at: 0, units: UNITS, next: END });
        room
    }

    fn unit(&self, at: u16) -> NonNull<i16> {
        debug_assert!(at < UNITS);
        // SAFETY: the unit lies in the page.
        unsafe { self.page.add(usize::from(at)) }
    }

    /// The free block at `at`, which is [`END`] for none.
    #[inline]
    fn read(&self, at: u16) -> Result<Option<Hole>, Damage> {
        if at == END {
            return Ok(None);
        }
        let damage = Damage { at };
        if at > END {
            return Err(damage);
        }
        // SAFETY: a unit of the page, in free memory, which is ours; free memory was written before.
        let head = unsafe { self.unit(at).read() };
        let (units, next) = if head < 0 {
            (1, head.unsigned_abs())
        } else if at + 1 < END {
            // SAFETY: as above. Even where the length was overwritten, the unit is one of the page.
            (head as u16, unsafe { self.unit(at + 1).read() } as u16)
        } else {
            return Err(damage);
        };
        let hole = Hole { at, units, next };
        // The chain ascends (I-SLOB-1), so following it ends. Compared without a sum that damage could overflow.
        let inside = units > 0 && units <= END - at;
        let ascends = inside && (next == END || (next < END && next > hole.end()));
        if ascends { Ok(Some(hole)) } else { Err(damage) }
    }

    #[inline]
    fn write(&mut self, hole: Hole) {
        debug_assert!(hole.units > 0 && hole.end() <= END && hole.next <= END);
        if hole.units == 1 {
            // SAFETY: a unit of the page, in free memory, which is ours.
            unsafe { self.unit(hole.at).write(-(hole.next as i16)) };
        } else {
            // SAFETY: as above, and the block has a second unit.
            unsafe {
                self.unit(hole.at).write(hole.units as i16);
                self.unit(hole.at + 1).write(hole.next as i16);
            }
        }
    }

    /// Lets what comes after `before` (or, without one, the chain) begin at `next`.
    #[inline]
    fn link(&mut self, before: Option<Hole>, next: u16) {
        match before {
            Some(before) => self.write(Hole { next, ..before }),
            None => self.first = next,
        }
    }

    /// All free blocks, ascending.
    pub(super) fn holes(&self) -> impl Iterator<Item = Result<Hole, Damage>> + '_ {
        let mut at = self.first;
        core::iter::from_fn(move || match self.read(at) {
            Ok(hole) => {
                let hole = hole?;
                at = hole.next;
                Some(Ok(hole))
            }
            Err(damage) => {
                at = END;
                Some(Err(damage))
            }
        })
    }

    /// Takes `units` from the first free block that has them, so that the byte `offset` bytes behind the first
    /// unit is aligned to `align`: what lies before it stays free. `None`: no free block is long enough.
    ///
    /// # Errors
    /// [`Damage`]: the chain is broken. Nothing was changed.
    pub(super) fn take(&mut self, units: u16, align: usize, offset: usize) -> Result<Option<u16>, Damage> {
        debug_assert!(units > 0 && units <= UNITS && (UNIT..=PAGE_SIZE).contains(&align));
        if units > self.longest {
            return Ok(None);
        }
        let mut before = None;
        let mut longest = 0;
        let mut at = self.first;
        while let Some(hole) = self.read(at)? {
            longest = longest.max(hole.units);
            // The page is aligned to any alignment allowed here: positions may stand for addresses.
            let start = (round_up(usize::from(hole.at) * UNIT + offset, align) - offset) / UNIT;
            if start + usize::from(units) <= usize::from(hole.end()) {
                let start = start as u16;
                self.cut(before, hole, start, units);
                return Ok(Some(start));
            }
            before = Some(hole);
            at = hole.next;
        }
        self.longest = longest;
        Ok(None)
    }

    /// Takes units out of a free block; what is left of it at either side stays in the chain.
    fn cut(&mut self, before: Option<Hole>, hole: Hole, start: u16, units: u16) {
        let (front, back) = (start - hole.at, hole.end() - (start + units));
        let mut next = hole.next;
        if back > 0 {
            self.write(Hole { at: start + units, units: back, next });
            next = start + units;
        }
        if front > 0 {
            self.write(Hole { at: hole.at, units: front, next });
        } else {
            self.link(before, next);
        }
        self.free -= units;
    }

    /// Gives units back, joined with the free blocks at either side.
    ///
    /// # Errors
    /// [`Refused`]; nothing was changed then.
    pub(super) fn give(&mut self, at: u16, units: u16) -> Result<(), Refused> {
        debug_assert!(units > 0 && at < END && units <= END - at);
        let end = at + units;
        let (before, after) = self.around(at)?;
        if before.is_some_and(|hole| hole.end() > at) || after.is_some_and(|hole| hole.at < end) {
            return Err(Refused::Free);
        }
        let mut hole = Hole { at, units, next: after.map_or(END, |hole| hole.at) };
        if let Some(after) = after.filter(|after| after.at == end) {
            hole.units += after.units;
            hole.next = after.next;
        }
        match before {
            Some(before) if before.end() == at => {
                hole = Hole { units: before.units + hole.units, next: hole.next, ..before };
                self.write(hole);
            }
            _ => {
                self.write(hole);
                self.link(before, at);
            }
        }
        self.longest = self.longest.max(hole.units);
        self.free += units;
        Ok(())
    }

    /// The last free block that begins before `at`, and the first that does not.
    fn around(&self, at: u16) -> Result<(Option<Hole>, Option<Hole>), Damage> {
        let mut before = None;
        let mut next = self.first;
        loop {
            match self.read(next)? {
                Some(hole) if hole.at < at => {
                    next = hole.next;
                    before = Some(hole);
                }
                after => return Ok((before, after)),
            }
        }
    }

    /// True when the unit is free.
    ///
    /// # Errors
    /// [`Damage`]: the chain is broken before it tells.
    pub(super) fn is_free(&self, at: u16) -> Result<bool, Damage> {
        let (before, after) = self.around(at)?;
        Ok(before.is_some_and(|hole| hole.end() > at) || after.is_some_and(|hole| hole.at == at))
    }
}

#[cfg(test)]
#[path = "room/tests.rs"]
mod tests;
