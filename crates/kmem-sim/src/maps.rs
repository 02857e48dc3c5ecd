//! Mappings outside the window, for requests beyond the largest block.
//!
//! Each mapping reserves twice its length, so that whether it can grow in place is decided here and not
//! by the neighbourhood in the real process; a growth that may move does so half of the time, which
//! finds users of the old address. A moved mapping is aligned to a page and no better.

use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kmem_core::platform::PAGE_SIZE;

use crate::os::Region;
use crate::rng::SharedRng;

#[derive(Debug)]
struct Mapping {
    region: Region,
    len: usize,
}

#[derive(Debug, Default)]
struct Table {
    live: BTreeMap<usize, Mapping>,
    bytes: usize,
    /// Pages that nobody may touch, by address. The memory behind them stays readable: a test that touches one says so itself.
    forbidden: BTreeSet<usize>,
}

#[derive(Debug)]
pub(crate) struct Maps {
    table: Mutex<Table>,
    limit: usize,
    rng: SharedRng,
}

fn mapping(len: usize, align: usize) -> Option<Mapping> {
    let region = len
        .checked_mul(2)
        .and_then(|room| Region::reserve(room, align))
        .or_else(|| Region::reserve(len, align))?;
    region.open(0, len).then_some(Mapping { region, len })
}

impl Maps {
    pub(crate) fn new(limit: usize, seed: u64) -> Self {
        Self { table: Mutex::default(), limit, rng: SharedRng::new(seed) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn map(&self, len: usize, align: usize) -> Option<NonNull<u8>> {
        assert!(len > 0 && len.is_multiple_of(PAGE_SIZE), "a mapping of {len} bytes is not made of pages");
        assert!(align.is_power_of_two() && align >= PAGE_SIZE, "a mapping aligned to {align}");
        let mut table = self.table();
        if len > self.limit.saturating_sub(table.bytes) {
            return None;
        }
        let new = mapping(len, align)?;
        let ptr = new.region.base();
        table.bytes += len;
        table.live.insert(ptr.as_ptr() as usize, new);
        Some(ptr)
    }

    pub(crate) fn unmap(&self, ptr: NonNull<u8>, len: usize) {
        let mut table = self.table();
        let Some(old) = table.live.remove(&(ptr.as_ptr() as usize)) else {
            panic!("unmap of {ptr:p}, where no mapping lives");
        };
        table.bytes -= old.len;
        assert_eq!(old.len, len, "unmap of {ptr:p} with the length of something else");
        let start = ptr.as_ptr() as usize;
        table.forbidden.retain(|page| !(start..start + len).contains(page));
    }

    /// # Safety
    /// Nobody uses the mapping during the call, nor what a smaller length cuts off.
    pub(crate) unsafe fn remap(
        &self,
        ptr: NonNull<u8>,
        old: usize,
        new: usize,
        may_move: bool,
    ) -> Option<NonNull<u8>> {
        assert!(new > 0 && new.is_multiple_of(PAGE_SIZE), "a mapping of {new} bytes is not made of pages");
        let mut table = self.table();
        let room = self.limit.saturating_sub(table.bytes);
        let Some(entry) = table.live.get_mut(&(ptr.as_ptr() as usize)) else {
            panic!("remap of {ptr:p}, where no mapping lives");
        };
        assert_eq!(entry.len, old, "remap of {ptr:p} with the length of something else");
        if new <= old {
            if new < old {
                // SAFETY: the caller gives up what lies beyond the new length.
                unsafe { entry.region.close(new, old - new) };
                entry.len = new;
                table.bytes -= old - new;
            }
            return Some(ptr);
        }
        if new - old > room {
            return None;
        }
        let stays = new <= entry.region.len() && !(may_move && self.rng.next_u64() & 1 == 1);
        if stays {
            if !entry.region.open(old, new - old) {
                return None;
            }
            entry.len = new;
            table.bytes += new - old;
            return Some(ptr);
        }
        if !may_move {
            return None;
        }
        let moved = mapping(new, PAGE_SIZE)?;
        let place = moved.region.base();
        // SAFETY: both mappings are live, at least `old` long, and apart.
        unsafe { place.copy_from_nonoverlapping(ptr, old) };
        table.bytes += new - old;
        table.live.remove(&(ptr.as_ptr() as usize));
        table.live.insert(place.as_ptr() as usize, moved);
        Some(place)
    }

    /// Forbids whole pages of one mapping, or allows them.
    pub(crate) fn protect(&self, ptr: NonNull<u8>, len: usize, allow: bool) {
        let mut table = self.table();
        let start = ptr.as_ptr() as usize;
        assert!(
            start.is_multiple_of(PAGE_SIZE) && len.is_multiple_of(PAGE_SIZE),
            "pages are protected as a whole"
        );
        let inside =
            table.live.range(..=start).next_back().is_some_and(|(base, m)| start + len <= base + m.len);
        assert!(inside, "{len} bytes at {ptr:p} are not one mapping's");
        for page in (start..start + len).step_by(PAGE_SIZE) {
            if allow {
                table.forbidden.remove(&page)
            } else {
                table.forbidden.insert(page)
            };
        }
    }

    /// Nobody may touch the page that an address lies in.
    pub(crate) fn is_forbidden(&self, address: usize) -> bool {
        self.table().forbidden.contains(&(address & !(PAGE_SIZE - 1)))
    }

    /// Number and bytes of the live mappings.
    pub(crate) fn outstanding(&self) -> (usize, usize) {
        let table = self.table();
        (table.live.len(), table.bytes)
    }
}
