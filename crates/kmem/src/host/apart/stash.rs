//! Pages of freed blocks, for the next blocks of their length.
//!
//! # Theory
//! What a large block costs is not the calls into the system but its pages: each is made and cleared by the kernel at the first touch, and
//! taken away at the free. Here the pages of a block outlive its addresses. At the free they move to a *place*, a mapping
//! whose address nobody has ever seen, and are cleared there; the block's own range is shut as always. The next block of the
//! same length gets a range of its own, as always, and the pages move there. Clearing a page that lies in a cache is a tenth of making one, and
//! a move is one call, which changes an entry of the page table for each page.
//!
//! The pages leave the block first and are cleared then: what still writes to the block faults, and cannot spoil what was cleared.
//! An empty place is kept too, since the next move to it finds all it needs in the page table.
//!
//! Only blocks of lengths that are written to all over are worth it ([`super::lengths`]), [`MOST`] bytes at a time; what nobody took
//! from one look to the next goes ([`Host::age_stash`]).
//!
//! # Invariants
//! - I-STASH-1: a listed place is mapped, readable and writable, nobody else's and in no range of this heap; each is listed once. The pages of a full one
//!   are all there, and zero.
//!
//! # Locks
//! That of the ranges; whoever took a place off the list owns it. No system call is made under it.

use core::sync::atomic::Ordering;

use kmem_core::engine::watch;
use kmem_core::platform::PAGE_SIZE;

use super::super::{Host, sys};

/// Places: full ones and empty ones.
const PLACES: usize = 32;
/// Bytes that may be kept, in all full places.
pub(super) const MOST: usize = 16 << 20;
/// Pages of a block that are looked at to find out whether it was written to all over.
const LOOKS: usize = 8;

/// Where pages of a block are, or may be. None where the length is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) start: usize,
    pub(super) len: usize,
    full: bool,
    /// Nobody took it since the last look.
    idle: bool,
}

/// All places; the one that was listed last is the first to be taken.
pub(super) struct Stash {
    places: [Place; PLACES],
    listed: usize,
    /// In full ones.
    bytes: usize,
}

impl Stash {
    pub(super) const NONE: Self =
        Self { places: [Place { start: 0, len: 0, full: false, idle: false }; PLACES], listed: 0, bytes: 0 };

    /// A place of so many bytes, full or not.
    fn take(&mut self, len: usize, full: bool) -> Option<Place> {
        let at =
            self.places[..self.listed].iter().rposition(|place| place.len == len && place.full == full)?;
        Some(self.remove(at))
    }

    /// Pages for a block of `len` bytes.
    pub(super) fn take_full(&mut self, len: usize) -> Option<Place> {
        self.take(len, true)
    }

    /// Where the pages of a block of `len` bytes may go: a place that has no start is to be made. Nothing: there are enough.
    pub(super) fn room_for(&mut self, len: usize) -> Option<Place> {
        if self.bytes + len > MOST {
            return None;
        }
        Some(self.take(len, false).unwrap_or(Place { len, ..Place::default() }))
    }

    fn remove(&mut self, at: usize) -> Place {
        let place = self.places[at];
        self.places.copy_within(at + 1..self.listed, at);
        self.listed -= 1;
        if place.full {
            self.bytes -= place.len;
        }
        place
    }

    /// Lists a place; the one that must go for it, if any.
    fn put(&mut self, place: Place, full: bool) -> Option<Place> {
        let gone = if self.listed == PLACES { Some(self.remove(0)) } else { None };
        self.places[self.listed] = Place { full, idle: false, ..place };
        self.listed += 1;
        if full {
            self.bytes += place.len;
        }
        gone
    }

    /// Any, taken off the list.
    fn take_last(&mut self) -> Option<Place> {
        self.listed.checked_sub(1).map(|last| self.remove(last))
    }

    /// One that nobody took since the last look, taken off the list. To be called until there is none; then [`Stash::looked`].
    fn take_idle(&mut self) -> Option<Place> {
        let at = self.places[..self.listed].iter().position(|place| place.idle)?;
        Some(self.remove(at))
    }

    /// A look is over. True: there is something left.
    fn looked(&mut self) -> bool {
        self.places[..self.listed].iter_mut().for_each(|place| place.idle = true);
        self.listed > 0
    }
}

impl Host {
    /// Moves the pages of a block that is being freed to the stash, and shuts its addresses. Unless it is `known` that all of it was
    /// written to, that is looked for. False: its addresses are not shut.
    ///
    /// # Safety
    /// The block is the caller's, a mapping of `len` bytes, and nobody uses it any more.
    pub(super) unsafe fn stash_pages(&self, block: usize, len: usize, known: bool) -> bool {
        // Relaxed: whether to try at all.
        if self.cannot_move.load(Ordering::Relaxed) {
            return false;
        }
        let Some(mut place) = self.held.0.lock(self).stash.room_for(len) else { return false };
        // SAFETY: the caller's promise.
        let written = unsafe { made_plain(block, len) && (known || is_written(block, len)) };
        if !known {
            self.held.0.lock(self).lengths.saw(len, written);
        }
        if !written {
            if place.start != 0 {
                self.list(place, false);
            }
            return false;
        }
        if place.start == 0 {
            let Ok(start) = sys::reserve(len) else { return false };
            place.start = start;
            if self.in_window(start, len) {
                self.unlist(place);
                return false;
            }
        }
        // SAFETY: block and place are this thread's.
        unsafe {
            if sys::remap_pages(block, len, place.start).is_err() {
                // Before Linux 5.7, or forbidden; or no memory even for that. The place may have lost its mapping, and its
                // addresses be somebody else's already, so they are nobody's affair any more.
                self.cannot_move.store(true, Ordering::Relaxed);
                return false;
            }
            // Not by a change of protection: what was written since the move goes.
            if sys::fence(block, len, true).is_err() {
                // No room for one more mapping. The pages that are left are the block's, and it is shut in some other way.
                self.unlist(place);
                return false;
            }
            core::ptr::with_exposed_provenance_mut::<u8>(place.start).write_bytes(0, len);
        }
        self.list(place, true);
        true
    }

    /// Moves pages from a full place to where a block of the same length is to be. False: the block's addresses are to be forgotten.
    ///
    /// # Safety
    /// The place is off the list, and the addresses are mapped, this thread's, and nobody knows them.
    pub(super) unsafe fn unstash_pages(&self, place: Place, block: usize) -> bool {
        // SAFETY: the caller's promise.
        if unsafe { sys::remap_pages(place.start, place.len, block) }.is_err() {
            self.cannot_move.store(true, Ordering::Relaxed);
            self.unlist(place);
            return false;
        }
        self.list(place, false);
        true
    }

    /// Lists a place of this thread's.
    fn list(&self, place: Place, full: bool) {
        let gone = self.held.0.lock(self).stash.put(place, full);
        if let Some(gone) = gone {
            self.unlist(gone);
        }
    }

    /// Removes a place that is off the list.
    fn unlist(&self, place: Place) {
        // SAFETY: I-STASH-1: it is this thread's now.
        unsafe {
            if sys::unmap(place.start, place.len).is_err() {
                // No room to split a mapping.
                let _ = sys::advise(place.start, place.len, libc::MADV_DONTNEED);
            }
        }
    }

    /// Gives back the pages of blocks that nobody took since the call before. True: there are others.
    pub(crate) fn age_stash(&self) -> bool {
        loop {
            let idle = {
                let stash = &mut self.held.0.lock(self).stash;
                match stash.take_idle() {
                    Some(place) => place,
                    None => return stash.looked(),
                }
            };
            self.unlist(idle);
        }
    }

    /// Gives back all that is in the stash. False: there was nothing.
    pub(crate) fn drop_stash(&self) -> bool {
        let mut some = false;
        // What others put there meanwhile is none of this caller's.
        for _ in 0..PLACES {
            let last = self.held.0.lock(self).stash.take_last();
            let Some(place) = last else { break };
            self.unlist(place);
            some = true;
        }
        some
    }
}

/// What its holder may have asked for a block, or for some of it, is no affair of the next one's: its protection, and what becomes of it in a child.
/// The calls find nothing to do as a rule, and cost a third of a microsecond each.
///
/// # Safety
/// As [`Host::stash_pages`].
unsafe fn made_plain(block: usize, len: usize) -> bool {
    // SAFETY: the caller's promise; no content changes.
    unsafe {
        sys::protect(block, len, true).is_ok()
            && sys::advise(block, len, libc::MADV_DOFORK).is_ok()
            && sys::advise(block, len, libc::MADV_KEEPONFORK).is_ok()
    }
}

/// Some of the pages of a block, from its first to its last, are not zero: it was written to all over.
///
/// # Safety
/// The block is the caller's, of `len` bytes, mapped and readable.
unsafe fn is_written(block: usize, len: usize) -> bool {
    let last = len / PAGE_SIZE - 1;
    let zero = |page: usize| {
        let page = core::ptr::with_exposed_provenance::<u8>(block + page * PAGE_SIZE);
        // SAFETY: a page of the block.
        unsafe { watch::is_zero::<true>(page, PAGE_SIZE) }
    };
    (0..LOOKS).filter(|look| zero(last * look / (LOOKS - 1))).count() <= LOOKS / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(number: usize, len: usize) -> Place {
        Place { start: number << 24, len, ..Place::default() }
    }

    #[test]
    fn the_last_one_of_a_length_is_the_first_to_be_taken() {
        let mut stash = Stash::NONE;
        for number in 1..=4 {
            assert_eq!(stash.put(place(number, (number % 2 + 1) << 20), number != 4), None);
        }
        assert_eq!(stash.bytes, 5 << 20);
        let starts = |taken: Option<Place>| taken.map(|place| place.start >> 24);
        assert_eq!(starts(stash.take_full(3 << 20)), None);
        assert_eq!(starts(stash.take_full(1 << 20)), Some(2), "the fourth is empty");
        assert_eq!(starts(stash.room_for(1 << 20)), Some(4));
        assert_eq!(starts(stash.room_for(1 << 20)), Some(0), "one that is to be made");
        assert_eq!([3, 1].map(Some), [(); 2].map(|()| starts(stash.take_full(2 << 20))));
        assert_eq!((stash.listed, stash.bytes), (0, 0));
    }

    #[test]
    fn there_is_an_end_to_bytes_and_places() {
        let mut stash = Stash::NONE;
        for number in 1..=4 {
            assert!(stash.room_for(4 << 20).is_some());
            stash.put(place(number, 4 << 20), true);
        }
        assert!(stash.room_for(4096).is_none());
        stash.take_full(4 << 20);
        assert!(stash.room_for(4 << 20).is_some() && stash.room_for((4 << 20) + 4096).is_none());
        for number in 5..PLACES + 2 {
            assert_eq!(stash.put(place(number, 4096), false), None);
        }
        let gone = stash.put(place(100, 4096), true).expect("there are too many");
        assert_eq!((gone.start >> 24, gone.full, stash.listed), (1, true, PLACES));
        assert_eq!(stash.bytes, (8 << 20) + 4096);
    }

    #[test]
    fn what_nobody_takes_goes_at_the_second_look() {
        let mut stash = Stash::NONE;
        assert!(!stash.looked());
        stash.put(place(1, 4096), true);
        stash.put(place(2, 4096), true);
        assert!(stash.take_idle().is_none() && stash.looked());
        let used = stash.take_full(4096).expect("there are two");
        assert_eq!(stash.put(used, true), None);
        assert_eq!(stash.take_idle().map(|place| place.start >> 24), Some(1));
        assert!(stash.take_idle().is_none() && stash.looked());
        assert_eq!(stash.take_idle().map(|place| place.start >> 24), Some(2));
        assert!(!stash.looked());
        assert!(stash.take_last().is_none());
    }

    #[test]
    fn written_to_is_what_is_not_zero_nearly_everywhere() {
        let mut block = vec![0_u128; 64 * PAGE_SIZE / 16];
        let written = |block: &[u128]| {
            // SAFETY: all of it is there.
            unsafe { is_written(block.as_ptr().expose_provenance(), size_of_val(block)) }
        };
        assert!(!written(&block));
        block.chunks_mut(PAGE_SIZE / 16).for_each(|page| page[100] = 1);
        assert!(written(&block));
        block[..PAGE_SIZE].fill(0);
        assert!(!written(&block), "the first quarter of it is zero");
        let page = [7_u128; PAGE_SIZE / 16];
        assert!(written(&page));
    }
}
