//! Objects in use, grouped by the stack that allocated them: what a program leaves at its end.
//!
//! ```text
//! <bytes> bytes in <n> objects of <size>[-<size>] bytes[, <class>], allocated at
//!         <frame>
//!
//! <bytes> bytes in <n> objects of <size> bytes[, <class>], of cache <name>
//!
//! ```
//! The second form is of caches without tracks, where only the cache is known.
//!
//! What is lost first, and of that the group with the most bytes. Sizes are those that were asked for, where the cache notes them (classes of
//! kmalloc), else those of the cache's objects.
//!
//! The table lies in pages of its own, for as long as the text is made: open addressing by the stack's number and the
//! call site. Nothing is allocated from the heap that is looked at.

use core::fmt;

use crate::debug::Debug;
use crate::debug::report::Frame;
use crate::debug::stacks::Handle;
use crate::gfp::Gfp;
use crate::page::{PageRun, Pages};
use crate::platform::{MAX_ORDER, PAGE_SIZE, Platform};

/// What is known of an object in use: whether the program can still come to it. Which one that is, is for the platform to find
/// out; the heap itself knows nothing but [`Class::InUse`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// It was not freed.
    #[default]
    InUse,
    /// No pointer to it is left.
    Lost,
    /// Only lost objects have pointers to it.
    Indirect,
    /// A pointer to it is left.
    Reachable,
}

impl Class {
    /// What a group's first line says.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::InUse => "",
            Self::Lost => ", definitely lost",
            Self::Indirect => ", indirectly lost",
            Self::Reachable => ", still reachable",
        }
    }
}

/// What one stack allocated. No objects: an empty slot.
#[derive(Clone, Copy)]
struct Group {
    class: Class,
    address: usize,
    stack: Handle,
    /// Start and length of the name of a cache without tracks; null: who allocated is known by `stack` or `address`.
    cache: (*const u8, usize),
    sizes: (usize, usize),
    count: u64,
    bytes: u64,
}

impl Group {
    /// The name of the cache, for objects without tracks.
    fn cache(&self) -> Option<&'static str> {
        let (start, len) = self.cache;
        // SAFETY: set by `Leaks::add_of` from one `&'static str`, or null.
        (!start.is_null())
            .then(|| unsafe { core::str::from_utf8_unchecked(core::slice::from_raw_parts(start, len)) })
    }
}

/// Sums of what was written, and of what was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Groups that were written.
    pub groups: u64,
    /// Their objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Groups that were written of which nobody knows who allocated them: only their cache.
    pub nameless: u64,
    /// Objects of groups that nobody wanted to see.
    pub hidden_objects: u64,
    /// Their bytes.
    pub hidden_bytes: u64,
    /// Objects that can still be reached, written or not; they are in none of the other sums.
    pub reachable_objects: u64,
    /// Their bytes.
    pub reachable_bytes: u64,
}

/// The table.
pub struct Leaks<'a, P: Platform> {
    platform: &'a P,
    pages: &'a Pages<P>,
    run: Option<PageRun>,
    slots: usize,
    used: usize,
    overflow: bool,
}

impl<'a, P: Platform> Leaks<'a, P> {
    /// An empty table in `2^order` pages; `None`: no memory. Not under a lock.
    pub fn new(platform: &'a P, pages: &'a Pages<P>, order: u32) -> Option<Self> {
        let order = order.min(MAX_ORDER);
        let run = pages.alloc(platform, Gfp::KERNEL | Gfp::NOWARN, order, None)?;
        let bytes = PAGE_SIZE << order;
        // A power of two of slots.
        let slots = (bytes / size_of::<Group>() + 1).next_power_of_two() / 2;
        // SAFETY: fresh pages of this table.
        unsafe { run.address().write_bytes(0, bytes) };
        Some(Self { platform, pages, run: Some(run), slots, used: 0, overflow: false })
    }

    fn table(&mut self) -> &mut [Group] {
        let base =
            self.run.as_ref().map_or(core::ptr::NonNull::dangling().as_ptr(), |run| run.address().cast());
        // SAFETY: the run has room for so many, was zeroed, which is a value of their numbers, and is this table's alone.
        unsafe { core::slice::from_raw_parts_mut(base, self.slots) }
    }

    /// True when some object found no place: a larger table is needed.
    #[must_use]
    pub fn overflowed(&self) -> bool {
        self.overflow
    }

    /// Adds one object.
    pub fn add(&mut self, class: Class, stack: Handle, address: usize, size: usize) {
        self.add_to(class, stack, address, (core::ptr::null(), 0), size);
    }

    /// Adds one object of a cache without tracks: those of a cache are a group.
    pub fn add_of(&mut self, class: Class, cache: &'static str, size: usize) {
        self.add_to(class, 0, cache.as_ptr().addr(), (cache.as_ptr(), cache.len()), size);
    }

    fn add_to(
        &mut self,
        class: Class,
        stack: Handle,
        address: usize,
        cache: (*const u8, usize),
        size: usize,
    ) {
        let mask = self.slots - 1;
        // One slot in four stays empty, so that searches are short and end.
        let full = self.used >= self.slots / 4 * 3;
        let mixed = (address as u64 ^ u64::from(stack).rotate_left(40) ^ class as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut at = (mixed >> 32) as usize & mask;
        let table = self.table();
        while table[at].count > 0
            && (table[at].stack, table[at].address, table[at].class) != (stack, address, class)
        {
            at = (at + 1) & mask;
        }
        let group = &mut table[at];
        if group.count == 0 {
            if full {
                self.overflow = true;
                return;
            }
            *group = Group { class, address, stack, cache, sizes: (size, size), count: 0, bytes: 0 };
        }
        group.count += 1;
        group.bytes += size as u64;
        group.sizes = (group.sizes.0.min(size), group.sizes.1.max(size));
        self.used += usize::from(self.table()[at].count == 1);
    }

    /// Writes the groups that `shown` wants to see, by their frames; the rest is added up. Groups that can be reached are written
    /// if `reachable`.
    ///
    /// # Errors
    /// What `out` answers.
    pub fn write(
        &mut self,
        debug: &Debug,
        shown: &mut dyn FnMut(&[usize]) -> bool,
        reachable: bool,
        out: &mut dyn fmt::Write,
    ) -> Result<Totals, fmt::Error> {
        let platform = self.platform;
        let mut totals = Totals::default();
        let table = self.table();
        // Empty slots come last.
        table.sort_unstable_by_key(|group| {
            (group.count == 0, group.class, core::cmp::Reverse((group.bytes, group.count, group.address)))
        });
        for group in table.iter().filter(|group| group.count > 0) {
            let stored = debug.stacks.get(group.stack);
            let site = [group.address];
            let cache = group.cache();
            let known = usize::from(group.address != 0 && cache.is_none());
            let frames = if stored.is_empty() { &site[..known] } else { stored };
            if !shown(frames) {
                totals.hidden_objects += group.count;
                totals.hidden_bytes += group.bytes;
                continue;
            }
            if group.class == Class::Reachable {
                totals.reachable_objects += group.count;
                totals.reachable_bytes += group.bytes;
                if !reachable {
                    continue;
                }
            } else {
                totals.groups += 1;
                totals.objects += group.count;
                totals.bytes += group.bytes;
            }
            let plural = if group.count == 1 { "" } else { "s" };
            write!(out, "{} bytes in {} object{plural} of {}", group.bytes, group.count, group.sizes.0)?;
            if group.sizes.1 > group.sizes.0 {
                write!(out, "-{}", group.sizes.1)?;
            }
            if let Some(cache) = cache {
                totals.nameless += 1;
                writeln!(out, " bytes{}, of cache {cache}\n", group.class.text())?;
                continue;
            }
            writeln!(out, " bytes{}, allocated at", group.class.text())?;
            if frames.is_empty() {
                out.write_str("        <not-available>\n")?;
            }
            for &frame in frames {
                writeln!(out, "        {}", Frame(platform, frame))?;
            }
            out.write_str("\n")?;
        }
        Ok(totals)
    }
}

impl<P: Platform> Drop for Leaks<'_, P> {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            self.pages.free(self.platform, run);
        }
    }
}
