//! What debug letters keep of blocks that are mappings of their own.
//!
//! # Theory
//! A checked class surrounds each of its blocks inside a slab. The longest blocks have no slab: they are mappings, of which one entry
//! in a table knows ([`huge`](super::huge)). So what letters keep lies elsewhere:
//! - Z: what lies between the bytes asked for and the end of the last page is a *red zone*, at least a word of it, for which there is
//!   one more page if need be. What may be used is what was asked for and no more. There is no zone in front: a block starts where its
//!   mapping does, and what lies before is nothing, or the zone of another block.
//! - U: the track of the allocation, in the entry. How a block was asked for is kept there too.
//! - F: zones are looked at when a block is freed or resized, and by validation. The last freed mappings are remembered with both
//!   of their tracks, so that a second free can tell of the first; an address inside a block is told apart from one that is nobody's.
//! - P: nothing. What is freed is unmapped at once, and an access faults; poison would cost every page of a mapping that may be
//!   used in a few places only.
//!
//! The letters are those that the options ask for all caches, or for [`LARGE`].
//!
//! # Invariants
//! - I-MAPPED-1: while an entry with a zone is on the list, its bytes from what was asked for to its end are the zone's.
//! - I-MAPPED-2: an address that is remembered as freed starts no live mapping: it is forgotten when one is listed there.
//!
//! # Never
//! Tracks are not saved, and memory is not fetched, under the lock of the table.

use crate::config::Config;
use crate::debug::pattern::{self, RED_ACTIVE};
use crate::debug::{Asked, LARGE, Reporter, Track, Which};
use crate::flags::SlabFlags;
use crate::heap::Kmem;
use crate::kmalloc::FreeError;
use crate::kmalloc::huge::Entry;
use crate::platform::{PAGE_SIZE, Platform};

/// The least length of a zone: a word, as behind every checked object.
const LEAST_ZONE: usize = 8;

/// A mapping that was freed.
#[derive(Clone, Copy)]
struct Freed {
    /// 0: none.
    address: usize,
    size: usize,
    alloc: Track,
    free: Track,
}

/// How many are remembered: a page of them.
const REMEMBERED: usize = PAGE_SIZE / size_of::<Freed>();

/// The mappings that were freed last.
pub(crate) struct Gone {
    /// An array of [`REMEMBERED`]; null before the first.
    freed: *mut Freed,
    next: usize,
}

// SAFETY: the array belongs to it, and it is used under a lock.
unsafe impl Send for Gone {}

impl Gone {
    pub(crate) const fn new() -> Self {
        Self { freed: core::ptr::null_mut(), next: 0 }
    }

    fn all(&mut self) -> &mut [Freed] {
        if self.freed.is_null() {
            return &mut [];
        }
        // SAFETY: a page of this list alone, zero or written, which is a value of its numbers; the lock makes this the only access.
        unsafe { core::slice::from_raw_parts_mut(self.freed, REMEMBERED) }
    }

    fn put(&mut self, freed: Freed) {
        let at = self.next % REMEMBERED;
        if let Some(place) = self.all().get_mut(at) {
            *place = freed;
            self.next = at + 1;
        }
    }

    fn forget(&mut self, address: usize) {
        self.all().iter_mut().filter(|freed| freed.address == address).for_each(|freed| freed.address = 0);
    }

    fn find(&mut self, address: usize) -> Option<Freed> {
        self.all().iter().find(|freed| freed.address == address).copied()
    }
}

impl<P: Platform, C: Config> Kmem<P, C> {
    /// Bytes of a mapping for `size`, with its red zone.
    pub(crate) fn mapped_bytes(&self, size: usize) -> Option<usize> {
        let zone = if self.debug.large_letters().contains(SlabFlags::RED_ZONE) { LEAST_ZONE } else { 0 };
        size.checked_add(zone)?.checked_next_multiple_of(PAGE_SIZE)
    }

    /// Gives a block what the letters keep of it, before it is listed.
    ///
    /// # Safety
    /// The mapping has `entry.bytes` bytes, is the caller's, and is on no list.
    pub(crate) unsafe fn dress_mapping(&self, entry: Entry) -> Entry {
        let letters = self.debug.large_letters();
        if letters.is_empty() {
            return entry;
        }
        self.huge.gone.lock(&self.platform).forget(entry.address);
        let track = if letters.contains(SlabFlags::STORE_USER) {
            Track::capture(&self.debug, &self.platform, &self.pages)
        } else {
            Track::default()
        };
        let entry = Entry { track, ..entry }.with_zone(letters.contains(SlabFlags::RED_ZONE));
        // SAFETY: the caller's promise.
        unsafe { self.zone_mapping(entry) }
    }

    /// Writes the red zone of a block that has one.
    ///
    /// # Safety
    /// As [`Kmem::dress_mapping`].
    pub(crate) unsafe fn zone_mapping(&self, entry: Entry) -> Entry {
        if entry.has_zone() {
            let (start, len) = zone_of(&entry);
            let zone: *mut u8 = core::ptr::with_exposed_provenance_mut(start);
            // SAFETY: the caller's promise: the zone ends where the block does.
            unsafe { zone.write_bytes(RED_ACTIVE, len) };
        }
        entry
    }

    /// Whether the red zone of a block is whole. If not, that is reported, and the zone restored where the program goes on.
    ///
    /// # Safety
    /// The block stays mapped meanwhile: it is off the list and the caller's, or the list's lock is held.
    pub(crate) unsafe fn sound_mapping(&self, entry: &Entry) -> bool {
        if !entry.has_zone() || !self.debug.large_letters().contains(SlabFlags::CONSISTENCY_CHECKS) {
            return true;
        }
        let (start, len) = zone_of(entry);
        // SAFETY: the caller's promise.
        let Some((first, last)) = (unsafe { pattern::others(start, len, RED_ACTIVE) }) else { return true };
        let report = self.mapping_reporter();
        report.bug(format_args!("Right Redzone overwritten"));
        // SAFETY: as above.
        let got = unsafe { (first as *const u8).read_volatile() };
        let offset = first - entry.address;
        report.line(format_args!(
            "{first:#018x}-{last:#018x} @offset={offset}. First byte {got:#x} instead of {RED_ACTIVE:#x}"
        ));
        self.describe_mapping(&report, entry);
        report.line(format_args!(""));
        // SAFETY: as above.
        unsafe {
            report.section("Object   ", entry.address, entry.asked.size.min(PAGE_SIZE));
            report.section("Redzone  ", start, len);
        }
        report.end();
        report.fix(format_args!("Restoring Right Redzone {first:#018x}-{last:#018x}={RED_ACTIVE:#x}"));
        // SAFETY: as above; memory that no user may touch.
        unsafe { (first as *mut u8).write_bytes(RED_ACTIVE, last - first + 1) };
        false
    }

    fn mapping_reporter(&self) -> Reporter<'_, P> {
        Reporter { platform: &self.platform, debug: &self.debug, name: LARGE, abort: C::ABORT }
    }

    fn describe_mapping(&self, report: &Reporter<'_, P>, entry: &Entry) {
        report.track(Which::Alloc, &entry.track);
        report.line(format_args!(
            "Object {:#018x} @offset=0 size={} mapping={}",
            entry.address, entry.asked.size, entry.bytes
        ));
    }

    /// A block that a check failed for stays in use, as an object of a checked slab does.
    pub(crate) fn keep_damaged(&self, entry: Entry) {
        self.huge.put_back(&self.platform, entry);
        self.mapping_reporter().fix(format_args!("Object at {:#018x} not freed", entry.address));
    }

    /// Remembers that a block was freed, or has moved away.
    pub(crate) fn mapping_gone(&self, entry: &Entry) {
        if !self.debug.large_letters().contains(SlabFlags::CONSISTENCY_CHECKS) {
            return;
        }
        let free = if entry.track.known != 0 {
            Track::capture(&self.debug, &self.platform, &self.pages)
        } else {
            Track::default()
        };
        if self.huge.gone.lock(&self.platform).freed.is_null() {
            let Some(page) = self.platform.map(PAGE_SIZE, PAGE_SIZE) else { return };
            let mut gone = self.huge.gone.lock(&self.platform);
            if gone.freed.is_null() {
                gone.freed = page.as_ptr().cast();
            } else {
                drop(gone);
                // SAFETY: mapped just now; somebody else was faster.
                unsafe { self.platform.unmap(page, PAGE_SIZE) };
            }
        }
        let freed = Freed { address: entry.address, size: entry.asked.size, alloc: entry.track, free };
        // Another thread may have got the address meanwhile.
        if self.huge.entry(&self.platform, entry.address).is_none() {
            self.huge.gone.lock(&self.platform).put(freed);
        }
    }

    /// An address that is none of this heap's was given back: it may be a mapping's that is gone, or lie in one. Then that is
    /// reported, and is the error.
    #[cold]
    pub(crate) fn refused_mapping(&self, address: usize) -> FreeError {
        if !self.debug.large_letters().contains(SlabFlags::CONSISTENCY_CHECKS) {
            return FreeError::Foreign(address);
        }
        let report = self.mapping_reporter();
        let gone = self.huge.gone.lock(&self.platform).find(address);
        if let Some(freed) = gone {
            report.bug(format_args!("Object already free"));
            report.track(Which::Alloc, &freed.alloc);
            report.track(Which::Free, &freed.free);
            report.line(format_args!("Object {address:#018x} @offset=0 size={}", freed.size));
            report.end();
            report.fix(format_args!("Object at {address:#018x} not freed"));
            return FreeError::Double { address, cache: LARGE };
        }
        let mut around = None;
        self.huge.each(&self.platform, |entry| {
            if entry.address < address && address - entry.address < entry.bytes {
                around = Some(entry);
            }
        });
        let Some(entry) = around else { return FreeError::Foreign(address) };
        report.bug(format_args!("Invalid object pointer {address:#018x}"));
        self.describe_mapping(&report, &entry);
        report.end();
        report.fix(format_args!("Object at {address:#018x} not freed"));
        FreeError::Interior { address, cache: LARGE }
    }

    /// How a mapping was asked for, where that is kept.
    pub(crate) fn mapping_request(&self, address: usize) -> Option<Asked> {
        let entry = self.huge.entry(&self.platform, address)?;
        (entry.track.known != 0).then_some(entry.asked)
    }

    /// Looks at the red zones of all mappings now; how many there are.
    pub(crate) fn check_mappings(&self) -> u64 {
        let mut looked = 0;
        self.huge.each(&self.platform, |entry| {
            // SAFETY: the list's lock is held.
            unsafe { self.sound_mapping(&entry) };
            looked += u64::from(entry.has_zone());
        });
        looked
    }

    /// Shows track and unused bytes of every block without a cache whose allocation is known: mappings, and large blocks of pages.
    pub(crate) fn each_large_track(&self, visit: &mut dyn FnMut(&Track, usize)) {
        if !self.debug.tracks_large() {
            return;
        }
        self.huge.each(&self.platform, |entry| {
            if entry.track.known != 0 {
                visit(&entry.track, entry.usable() - entry.asked.size);
            }
        });
        self.each_large(|_, _, stack| {
            let address = self.debug.stacks.get(stack).first().copied().unwrap_or_default();
            let time = self.platform.now();
            visit(&Track { address, stack, known: 1, time, ..Track::default() }, 0);
        });
    }
}

/// Where the zone of a block lies: first byte and length.
fn zone_of(entry: &Entry) -> (usize, usize) {
    (entry.address + entry.asked.size, entry.bytes - entry.asked.size)
}
