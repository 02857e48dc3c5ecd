//! The window: addresses for the heap, taken piece by piece.
//!
//! # Theory
//! The core wants one contiguous window so that a page's descriptor and tag are found by arithmetic.
//! Reserving a terabyte of addresses would do it, but a reservation counts against an address-space
//! limit (`ulimit -v`), and a heap that cannot start under a limit is no `malloc`. So nothing is reserved:
//! a place is chosen at random where nothing else lives, and pieces are mapped there as the heap
//! grows, each only if its place is still free (`MAP_FIXED_NOREPLACE`). A place somebody else took is
//! skipped. Everything lies at fixed distances from the window's base:
//!
//! ```text
//!  base - 64 GiB  states of a guarded heap, a byte for 16: up to 16 GiB (such a window has at most 256 GiB)
//!  base - 32 GiB  hot areas of the CPU layer, 64 KiB a CPU; one for "no CPU" 4 GiB - 64 KiB further on
//!  base - 28 GiB  cold areas, 512 KiB a CPU
//!  base - 24 GiB  descriptors, 64 bytes a page: up to 16 GiB
//!  base -  1/2 GiB  tags, 2 bytes a page: up to 512 MiB
//!  base           the window: DMA, DMA32, NORMAL
//! ```
//!
//! NORMAL memory grows from 4 GiB upward in pieces of one block (4 MiB) at first and an eighth of the
//! heap later; the DMA and DMA32 parts stay empty until somebody asks for such memory. Descriptors
//! come with each piece. Tags are readable from the first page to the end of the grown part, holes
//! included: whoever has an address below [`Span::end`] may look at its tag.
//!
//! # Invariants
//! - I-WIN-1: a block is given out at most once between two releases of it.
//! - I-WIN-2: `end` only rises, and the tags of all pages below it are readable before it does.
//! - I-WIN-3: a request never fails because a larger step than it needs could not be had.
//!
//! # Locks
//! One, below all locks of the core: `WINDOW_RANK`. It is held across the system calls that map
//! pieces, so that two CPUs that run out together grow once each, not twice over.

#[cfg(target_arch = "x86_64")]
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicUsize, Ordering};

use kmem_core::engine::watch::{GRAIN, GRAIN_SHIFT};
use kmem_core::page::{Page, ZoneKind};
use kmem_core::platform::{BLOCK_PAGES, PAGE_SHIFT, PAGE_SIZE, PageRange, Window};

use super::Options;
use super::sys::{self, Errno, Place};

/// Rank of the window's lock: above all of the core's.
pub(super) const WINDOW_RANK: u8 = 64;

/// Bytes of the smallest piece.
pub const BLOCK_SIZE: usize = BLOCK_PAGES * PAGE_SIZE;

const GIB: usize = 1 << 30;
/// Distance from the states of objects up to the window's base.
pub const STATES_BELOW: usize = 64 * GIB;
const HOT_BELOW: usize = 32 * GIB;
const COLD_BELOW: usize = 28 * GIB;
const DESCS_BELOW: usize = 24 * GIB;
/// Distance from the tags up to the window's base: a constant, so that one base register reaches both.
pub const TAGS_BELOW: usize = GIB / 2;

/// Pages of the largest window: 1 TiB.
pub(super) const MAX_PAGES: usize = 1 << 28;
/// Pages of the largest window of a guarded heap: 256 GiB.
pub(super) const MAX_WATCHED_PAGES: usize = 1 << 26;
/// Pages of the largest growth step: 64 MiB.
const MAX_STEP: usize = 16 * BLOCK_PAGES;
/// Tags are mapped in runs of this many bytes.
const TAG_STEP: usize = 64 << 10;
/// How often a request looks for another place when places are taken.
const ATTEMPTS: usize = 64;
/// Released ranges that are remembered for reuse.
const RELEASED: usize = 64;

/// Where windows may lie: first base, bytes of choice above it, pages.
///
/// Out of the way of executables (0x55...), libraries and stacks (0x7f...), memory laid out
/// bottom-up (from 0x2aaa...), and the shadows of sanitizers (below 0x1100...). The second is for machines
/// with 39-bit addresses.
const PLACES: [(usize, usize, usize); 2] =
    [(0x3000_0000_0000, 0x2000_0000_0000, MAX_PAGES), (0x18_0000_0000, 0x28_0000_0000, 1 << 24)];

/// Whether the heap has huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Where a large heap grows, and nowhere else, whatever the system does unasked: the heap asks for each of them, when it
    /// is about to use all of it. A huge page that comes by a touch, or later for what was given back piece by piece, is
    /// mostly resident for nothing.
    #[default]
    Grown,
    /// As the system is configured.
    System,
    /// Ask for them.
    Always,
    /// Refuse them.
    Never,
}

/// The facts that the fast path of `free` needs, in one place.
pub struct Span {
    base: AtomicUsize,
    end: AtomicUsize,
}

impl Span {
    /// Where the base lies in it, in bytes.
    #[cfg(target_arch = "x86_64")]
    pub(super) const BASE_AT: usize = offset_of!(Self, base);
    /// Where the end lies in it.
    #[cfg(target_arch = "x86_64")]
    pub(super) const END_AT: usize = offset_of!(Self, end);

    pub(super) const fn new() -> Self {
        Self { base: AtomicUsize::new(0), end: AtomicUsize::new(0) }
    }

    /// First address of the window; 0 before the platform is initialised.
    #[inline(always)]
    #[must_use]
    pub fn base(&self) -> usize {
        self.base.load(Ordering::Relaxed)
    }

    /// Bytes from the base to the end of the part that was ever grown. An address is of interest only if
    /// its distance from the base is below this; 0 before the platform is initialised.
    #[inline(always)]
    #[must_use]
    pub fn end(&self) -> usize {
        // Relaxed: whoever holds an address of the heap got it from somebody who saw it grow (I-WIN-2).
        self.end.load(Ordering::Relaxed)
    }

    /// The tag of the page around an address; nothing outside the part that was ever grown.
    #[inline(always)]
    #[must_use]
    pub fn tag(&self, address: usize) -> Option<u16> {
        // Loaded once: tags lie at a constant distance from the base.
        let base = self.base();
        let offset = address.wrapping_sub(base);
        if offset >= self.end() {
            return None;
        }
        let tags = base.wrapping_sub(TAGS_BELOW) as *const AtomicU16;
        // SAFETY: I-WIN-2: tags are readable for every page below the end.
        // Relaxed: whoever has a block got it from somebody who saw its tag written.
        Some(unsafe { (*tags.add(offset >> PAGE_SHIFT)).load(Ordering::Relaxed) })
    }

    /// The state of the object at an address, in a guarded heap.
    ///
    /// # Safety
    /// The address lies below [`Span::end`], in a piece that was mapped with states and not released.
    #[inline(always)]
    #[must_use]
    pub unsafe fn state(&self, address: usize) -> &AtomicU8 {
        let base = self.base();
        let states = base.wrapping_sub(STATES_BELOW) as *const AtomicU8;
        // SAFETY: a piece is mapped after its states, and those go after it (contract).
        unsafe { &*states.add(address.wrapping_sub(base) >> GRAIN_SHIFT) }
    }

    /// What a [`GRAIN`]th of an address is added to for the place of its [`Span::state`], wrapping. Constant once the host is made.
    #[must_use]
    pub fn states_of_all(&self) -> usize {
        let base = self.base();
        debug_assert!(base.is_multiple_of(GRAIN));
        base.wrapping_sub(STATES_BELOW).wrapping_sub(base >> GRAIN_SHIFT)
    }

    /// The descriptor of the page around an address.
    ///
    /// # Safety
    /// The address lies below [`Span::end`], in a piece that was mapped and not released.
    #[inline(always)]
    #[must_use]
    pub unsafe fn descriptor(&self, address: usize) -> &Page {
        let base = self.base();
        // SAFETY: a piece is mapped after its descriptors, and those go after it (contract); their fields are atomics.
        unsafe { &*descs(base).add(address.wrapping_sub(base) >> PAGE_SHIFT) }
    }

    /// The tags of the window's pages, by page index; readable below [`Span::end`].
    #[inline(always)]
    #[must_use]
    pub fn tags(&self) -> *const AtomicU16 {
        self.base().wrapping_sub(TAGS_BELOW) as *const AtomicU16
    }
}

/// The descriptors of the window at `base`.
#[inline]
pub(super) fn descs(base: usize) -> *mut Page {
    base.wrapping_sub(DESCS_BELOW) as *mut Page
}

/// What the window's lock guards.
pub(super) struct Growth {
    window: Window,
    zone_ends: [usize; 2],
    huge: HugePages,
    /// More nodes than one: pieces get a memory policy.
    numa: bool,
    /// Pieces get states.
    guarded: bool,
    /// First page of each zone that was never considered.
    next: [usize; 3],
    /// Pages mapped now.
    mapped: usize,
    /// Bytes of tags mapped.
    tags_mapped: usize,
    released: [PageRange; RELEASED],
}

// SAFETY: the raw pointers are addresses; nothing here is tied to a thread.
unsafe impl Send for Growth {}

const NOTHING: PageRange = PageRange { first: 0, count: 0 };

/// A chosen window, and where the CPU layer's areas lie.
pub(super) struct Chosen {
    pub(super) window: Window,
    pub(super) hot: usize,
    pub(super) cold: usize,
}

/// Chooses a free place for a window of at most `pages` pages and maps the areas of `cpus` CPUs beside it.
pub(super) fn choose(
    random: impl Fn() -> u64,
    pages: usize,
    hot_bytes: usize,
    no_cpu: usize,
    cold_bytes: usize,
) -> Result<Chosen, Errno> {
    let mut error = Errno(libc::ENOMEM);
    for (first, choice, most) in PLACES {
        for _ in 0..16 {
            let base = first + (random() as usize % choice) / BLOCK_SIZE * BLOCK_SIZE;
            let areas = [
                (base - HOT_BELOW, hot_bytes),
                (base - HOT_BELOW + no_cpu, 64 << 10),
                (base - COLD_BELOW, cold_bytes),
                // A token of the window: is there anything at its start?
                (base, BLOCK_SIZE),
            ];
            match map_all(&areas) {
                Ok(()) => {
                    // SAFETY: mapped just now to try the place; the window starts out empty.
                    let _ = unsafe { sys::unmap(base, BLOCK_SIZE) };
                    let window = Window {
                        base,
                        pages: pages.min(most),
                        descs: descs(base),
                        tags: (base - TAGS_BELOW) as *const AtomicU16,
                    };
                    return Ok(Chosen { window, hot: base - HOT_BELOW, cold: base - COLD_BELOW });
                }
                Err(why) => error = why,
            }
            if error != Errno(libc::EEXIST) {
                // No such addresses on this machine, or a limit: another place of this kind is no better.
                break;
            }
        }
    }
    Err(error)
}

/// Maps each (address, length), or nothing.
fn map_all(areas: &[(usize, usize)]) -> Result<(), Errno> {
    for (done, &(address, len)) in areas.iter().enumerate() {
        if let Err(why) = side_memory(address, len) {
            for &(address, len) in &areas[..done] {
                // SAFETY: mapped just above, and nobody knows of it.
                let _ = unsafe { sys::unmap(address, len) };
            }
            return Err(why);
        }
    }
    Ok(())
}

/// Memory for the allocator's own records: touched here and there, so neither counted nor in huge pages.
fn side_memory(address: usize, len: usize) -> Result<(), Errno> {
    sys::map(Place::Exactly(address), len, false)?;
    // SAFETY: changes no content. Kernels without huge pages refuse, which is as good.
    let _ = unsafe { sys::advise(address, len, libc::MADV_NOHUGEPAGE) };
    Ok(())
}

impl Growth {
    pub(super) const fn new() -> Self {
        Self {
            window: Window { base: 0, pages: 0, descs: core::ptr::null_mut(), tags: core::ptr::null() },
            zone_ends: [0; 2],
            huge: HugePages::Grown,
            numa: false,
            guarded: false,
            next: [0; 3],
            mapped: 0,
            tags_mapped: 0,
            released: [NOTHING; RELEASED],
        }
    }

    /// Takes a window into use.
    pub(super) fn start(&mut self, window: Window, zone_ends: [usize; 2], options: &Options, numa: bool) {
        self.window = window;
        self.zone_ends = zone_ends;
        self.next = [0, zone_ends[0], zone_ends[1]];
        self.huge = options.huge;
        self.guarded = options.guarded;
        self.numa = numa;
    }

    /// Where the zone ends.
    fn limit(&self, zone: ZoneKind) -> usize {
        match zone {
            ZoneKind::Dma => self.zone_ends[0],
            ZoneKind::Dma32 => self.zone_ends[1],
            ZoneKind::Normal => self.window.pages,
        }
    }

    /// See `Platform::grow`.
    pub(super) fn grow(
        &mut self,
        span: &Span,
        node: usize,
        zone: ZoneKind,
        pages: usize,
    ) -> Option<PageRange> {
        let need = pages.max(1).checked_next_multiple_of(BLOCK_PAGES)?;
        if let Some(range) = self.reuse(span, node, zone, need) {
            return Some(range);
        }
        let step = (self.mapped / 8 / BLOCK_PAGES * BLOCK_PAGES).clamp(BLOCK_PAGES, MAX_STEP);
        let mut want = need.max(step);
        let mut skip = BLOCK_PAGES;
        for _ in 0..ATTEMPTS {
            let first = self.next[zone as usize];
            let room = self.limit(zone).checked_sub(first)?;
            if room < need {
                return None;
            }
            want = want.min(room);
            match self.take(span, PageRange { first, count: want }, node) {
                Ok(range) => {
                    self.next[zone as usize] = first + want;
                    return Some(range);
                }
                // I-WIN-3: a smaller piece may fit before what is in the way, or under the limit.
                Err(_) if want > need => want = need,
                Err(Errno(libc::EEXIST)) => {
                    // Somebody lives here: leap further each time, they may have a lot.
                    self.next[zone as usize] = first.saturating_add(skip).min(self.limit(zone));
                    skip = skip.saturating_mul(2);
                }
                Err(_) => return None,
            }
        }
        None
    }

    /// Maps a piece with its descriptors and tags; all or nothing (but for tags, which stay).
    fn take(&mut self, span: &Span, range: PageRange, node: usize) -> Result<PageRange, Errno> {
        let (address, len) = self.bytes(range);
        self.map_tags(range.first + range.count)?;
        sys::map(Place::Exactly(address), len, true)?;
        let descs = self.window.descs.wrapping_add(range.first) as usize;
        let records = [(descs, range.count * size_of::<Page>()), self.states(range)];
        let records = if self.guarded { &records[..] } else { &records[..1] };
        if let Err(why) = map_all(records) {
            // SAFETY: mapped just above, and nobody knows of it.
            let _ = unsafe { sys::unmap(address, len) };
            return Err(why);
        }
        self.settle(span, range, node);
        Ok(range)
    }

    /// Where the states of a piece lie, and how many bytes they have.
    fn states(&self, range: PageRange) -> (usize, usize) {
        let per_page = PAGE_SIZE / GRAIN;
        (self.window.base - STATES_BELOW + range.first * per_page, range.count * per_page)
    }

    /// Policies and accounts of a piece that was mapped.
    fn settle(&mut self, span: &Span, range: PageRange, node: usize) {
        let (address, len) = self.bytes(range);
        if self.numa {
            // A preference: without it the kernel takes the node of whoever touches a page first.
            let _ = sys::prefer_node(address, len, node);
        }
        let advice = match self.huge {
            HugePages::Always => Some(libc::MADV_HUGEPAGE),
            // `Grown`: all of the heap is alike but for the moment of asking, so it is few mappings.
            HugePages::Never | HugePages::Grown => Some(libc::MADV_NOHUGEPAGE),
            HugePages::System => None,
        };
        if let Some(advice) = advice {
            // SAFETY: changes no content; refusal is harmless.
            let _ = unsafe { sys::advise(address, len, advice) };
        }
        self.mapped += range.count;
        let end = (range.first + range.count) << PAGE_SHIFT;
        // Only the holder of the lock writes. Release: the tags are readable before the end shows it (I-WIN-2).
        span.end.store(span.end().max(end), Ordering::Release);
    }

    /// Makes the tags of all pages below `pages` readable.
    fn map_tags(&mut self, pages: usize) -> Result<(), Errno> {
        let wanted = (pages * 2).next_multiple_of(TAG_STEP);
        if wanted > self.tags_mapped {
            side_memory(self.window.tags as usize + self.tags_mapped, wanted - self.tags_mapped)?;
            self.tags_mapped = wanted;
        }
        Ok(())
    }

    /// A range released before, if one fits.
    fn reuse(&mut self, span: &Span, node: usize, zone: ZoneKind, need: usize) -> Option<PageRange> {
        let low = match zone {
            ZoneKind::Dma => 0,
            ZoneKind::Dma32 => self.zone_ends[0],
            ZoneKind::Normal => self.zone_ends[1],
        };
        let high = self.limit(zone);
        for i in 0..RELEASED {
            let old = self.released[i];
            if old.count < need || old.first < low || old.first >= high {
                continue;
            }
            let range = PageRange { first: old.first, count: need };
            let (address, len) = self.bytes(range);
            // Its descriptors and tags were kept, cleared.
            if sys::map(Place::Exactly(address), len, true).is_ok() {
                self.released[i] = PageRange { first: old.first + need, count: old.count - need };
                self.settle(span, range, node);
                return Some(range);
            }
        }
        None
    }

    /// See `Platform::release`.
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn release(&mut self, range: PageRange) {
        let (address, len) = self.bytes(range);
        // SAFETY: the caller's promise: the pages, their descriptors and their tags are out of use.
        unsafe {
            if sys::unmap(address, len).is_err() {
                // Splitting a mapping can exceed the kernel's limit of mappings: give back the memory at least.
                let _ = sys::advise(address, len, libc::MADV_DONTNEED);
                return;
            }
            // Blocks of descriptors are whole pages of any size up to 64 KiB.
            let descs = self.window.descs.add(range.first);
            if sys::advise(descs as usize, range.count * size_of::<Page>(), libc::MADV_DONTNEED).is_err() {
                descs.write_bytes(0, range.count);
            }
            if self.guarded {
                let (states, bytes) = self.states(range);
                if sys::advise(states, bytes, libc::MADV_DONTNEED).is_err() {
                    (states as *mut u8).write_bytes(0, bytes);
                }
            }
        }
        for page in range.first..range.first + range.count {
            // SAFETY: mapped when the range was given. Relaxed: nobody looks at these any more.
            unsafe { (*self.window.tags.add(page)).store(0, Ordering::Relaxed) };
        }
        self.mapped -= range.count;
        self.remember(range);
    }

    /// Notes a range for reuse, joined with its neighbours of the same zone. When there is no place for the note,
    /// the addresses are lost: the window is large.
    fn remember(&mut self, mut range: PageRange) {
        let zone = |page: usize| self.zone_ends.iter().filter(|&&end| page >= end).count();
        let mine = zone(range.first);
        for i in 0..RELEASED {
            let other = self.released[i];
            if other.count == 0 || zone(other.first) != mine {
                continue;
            }
            if other.first + other.count == range.first || range.first + range.count == other.first {
                range = PageRange { first: range.first.min(other.first), count: range.count + other.count };
                self.released[i] = NOTHING;
            }
        }
        if let Some(free) = self.released.iter_mut().find(|r| r.count == 0) {
            *free = range;
        }
    }

    fn bytes(&self, range: PageRange) -> (usize, usize) {
        (self.window.base + (range.first << PAGE_SHIFT), range.count << PAGE_SHIFT)
    }

    /// Pages mapped now.
    pub(super) fn mapped(&self) -> usize {
        self.mapped
    }
}

impl Span {
    pub(super) fn start(&self, base: usize) {
        // Release: pairs with whatever publishes the platform's initialisation.
        self.base.store(base, Ordering::Release);
    }
}
