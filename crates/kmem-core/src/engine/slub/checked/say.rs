//! The facts of a report about a slab or an object.

use core::fmt;
use core::sync::atomic::Ordering;

use crate::debug::Which;
use crate::engine::slub::checked::{Checked, is_checked_slab};
use crate::engine::slub::{slab, word};
use crate::flags::SlabFlags;
use crate::page::ZoneKind;
use crate::platform::{PAGE_SIZE, Platform};

/// The bit of a slab among a kernel's page flags, and where its zone stands.
const PAGE_SLAB: u64 = 0x200;
const ZONE_SHIFT: u32 = 62;

impl<P: Platform> Checked<'_, P> {
    /// An error of an object: title, tracks, slab, the object's memory.
    pub(super) fn object_error(&self, object: usize, title: fmt::Arguments<'_>) {
        self.report.bug(title);
        self.trailer(object);
        self.report.end();
    }

    /// An error of a range of an object's surroundings: title, the range, and the rest as above.
    pub(super) fn range_error(&self, object: usize, what: &str, range: (usize, usize), value: u8) {
        self.report.bug(format_args!("{what} overwritten"));
        let (first, last) = range;
        let got = self.byte(first);
        self.report.line(format_args!(
            "{first:#018x}-{last:#018x} @offset={}. First byte {got:#x} instead of {value:#x}",
            first - self.extent.base
        ));
        self.trailer(object);
        self.report.end();
    }

    /// An error of the slab: title and slab.
    pub(super) fn slab_error(&self, title: fmt::Arguments<'_>) {
        self.report.bug(title);
        self.slab_line();
        self.report.end();
    }

    /// The slab in one line.
    pub(super) fn slab_line(&self) {
        let zone = self.slab.zone();
        let number = match zone {
            ZoneKind::Dma => 0_u64,
            ZoneKind::Dma32 => 1,
            ZoneKind::Normal => 2,
        };
        self.report.line(format_args!(
            "Slab {:#018x} objects={} used={} fp={:#018x} flags={:#x}(slab|zone={number})",
            core::ptr::from_ref(self.slab) as usize,
            self.objects(),
            self.inuse(),
            self.shown_head(),
            PAGE_SLAB | number << ZONE_SHIFT
        ));
    }

    /// What would be handed out next. In a slab that is not checked that may be an object that was never carved.
    fn shown_head(&self) -> usize {
        if is_checked_slab(self.slab) {
            return self.head();
        }
        let carved = usize::from(self.slab.carved.load(Ordering::Relaxed));
        match word::load(self.slab).head() {
            Some(offset) => self.extent.base + offset as usize,
            None if carved < usize::from(self.objects()) => {
                let start = usize::from(self.slab.start.load(Ordering::Relaxed));
                let objects = self.objects().into();
                self.object(slab::index_at(self.cache, objects, start, carved))
            }
            None => 0,
        }
    }

    /// Who allocated and freed an object last.
    pub(super) fn tracks(&self, object: usize) {
        if self.geometry.tracks.is_none() {
            return;
        }
        for which in [Which::Alloc, Which::Free] {
            self.report.track(which, &self.track(object, which));
        }
    }

    fn trailer(&self, object: usize) {
        if !self.is_object(object) {
            self.slab_line();
            self.report.line(format_args!("Invalid pointer {object:#018x}"));
            return;
        }
        let geometry = self.geometry;
        let red_zone = self.flags.contains(SlabFlags::RED_ZONE);
        self.tracks(object);
        self.slab_line();
        let offset = object - self.extent.base;
        let next = self.next(object);
        self.report.line(format_args!("Object {object:#018x} @offset={offset} fp={next:#018x}"));
        self.report.line(format_args!(""));
        if red_zone {
            self.section("Redzone  ", object - geometry.red_left_pad, geometry.red_left_pad);
        } else if offset > 16 {
            self.section("Bytes b4 ", object - 16, 16);
        }
        self.section("Object   ", object, geometry.object_size.min(PAGE_SIZE));
        if red_zone {
            let right = geometry.inuse - geometry.object_size;
            self.section("Redzone  ", object + geometry.object_size, right);
        }
        let padding = geometry.slot_end() - geometry.metadata_end;
        self.section("Padding  ", object + geometry.metadata_end, padding);
    }

    /// The line of a traced allocation or free.
    pub(super) fn trace(&self, object: usize, what: Which) {
        if !self.flags.contains(SlabFlags::TRACE) {
            return;
        }
        self.report.speak();
        self.report.line(format_args!(
            "TRACE {} {} {object:#018x} inuse={} fp={:#018x}",
            self.cache.name,
            match what {
                Which::Alloc => "alloc",
                Which::Free => "free",
            },
            self.inuse(),
            self.head()
        ));
        if what == Which::Free {
            self.section("Object ", object, self.geometry.object_size);
        }
        self.report.here();
    }
}
