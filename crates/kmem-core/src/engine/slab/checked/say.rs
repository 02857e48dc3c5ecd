//! Reports, in the kernel's words.

use core::fmt;

use crate::debug::pattern::{POISON_FREE, Row};
use crate::debug::report::Symbol;
use crate::debug::{Error, Which};
use crate::engine::slab::checked::Checked;
use crate::engine::slab::checked::layout::INACTIVE;
use crate::engine::slab::geometry::RED_ZONE_BYTES;
use crate::flags::SlabFlags;
use crate::platform::Platform;

/// Damaged rows of an object that are shown.
const MAX_ROWS: usize = 6;

impl<P: Platform> Checked<'_, P> {
    /// An error: in which check, of which cache, and who is here; with what lies around an object.
    pub(super) fn slab_error(&self, function: &str, message: fmt::Arguments<'_>, object: Option<usize>) {
        self.complain(function, message);
        if let Some(object) = object {
            self.words_line(object);
            self.tracks(object);
        }
        self.report.found(self.report.abort);
    }

    fn complain(&self, function: &str, message: fmt::Arguments<'_>) {
        let name = self.cache.name;
        self.report.debug.note(Error::Bug, name, message);
        self.report.line(format_args!("slab error in {function}(): cache `{name}': {message}"));
        self.report.here();
    }

    /// The words around an object. Where none starts: what lies where they would be.
    pub(super) fn words_line(&self, object: usize) {
        let Some(right) = self.cache.own.layout.red_zone else { return };
        self.report.line(format_args!(
            "{:016x}: redzone 1:{:#x}, redzone 2:{:#x}",
            object - RED_ZONE_BYTES,
            self.word(object - RED_ZONE_BYTES),
            self.word(object + right)
        ));
    }

    /// The index says that an object is free, which is being freed.
    pub(super) fn double_free(&self, object: usize) {
        match self.words(object) {
            None => self.report.here(),
            Some(words) => {
                let again = words == [INACTIVE; 2];
                let message =
                    if again { "double free detected" } else { "memory outside object was overwritten" };
                self.complain("verify_redzone_free", format_args!("{message}"));
                self.words_line(object);
            }
        }
        let name = self.cache.name;
        let message =
            format_args!("double free detected in cache '{name}', objp {:016x}", self.start_of(object));
        self.report.debug.note(Error::Bug, name, message);
        self.report.line(format_args!("slab: {message}"));
        self.tracks(object);
        self.report.found(self.report.abort);
    }

    /// Where the kernel counts an object from: its first word.
    fn start_of(&self, object: usize) -> usize {
        if self.word_places(object).is_some() { object - RED_ZONE_BYTES } else { object }
    }

    /// Poison that was written over: the damaged rows, and what lies around.
    pub(super) fn corruption(&self, object: usize) {
        let name = self.cache.name;
        let size = self.cache.geometry.object_size;
        let message = format_args!("Slab corruption");
        self.report.debug.note(Error::Bug, name, message);
        self.report.line(format_args!(
            "{message} ({}): {name} start={object:016x}, len={size}",
            self.report.debug.taint()
        ));
        self.facts(object);
        let damaged = (0..size).step_by(Row::BYTES).filter(|&row| self.row_is_damaged(object, row));
        for row in damaged.take(MAX_ROWS) {
            self.row(object, row);
        }
        let index = self.index_of(object);
        if let Some(before) = index.checked_sub(1) {
            self.neighbour("Prev", self.object(before));
        }
        if index + 1 < self.objects() {
            self.neighbour("Next", self.object(index + 1));
        }
        self.tracks(object);
        self.report.found(self.report.abort);
    }

    fn neighbour(&self, which: &str, object: usize) {
        let size = self.cache.geometry.object_size;
        self.report.line(format_args!("{which} obj: start={object:016x}, len={size}"));
        self.facts(object);
        for row in (0..size).step_by(Row::BYTES).take(2) {
            self.row(object, row);
        }
    }

    /// An object's words and its last user.
    fn facts(&self, object: usize) {
        if let Some([left, right]) = self.words(object) {
            self.report.line(format_args!("Redzone: {left:#x}/{right:#x}"));
        }
        match self.last_user(object) {
            None => {}
            Some(0) => self.report.line(format_args!("Last user: (0x0)")),
            Some(caller) => {
                self.report.line(format_args!("Last user: ({})", Symbol(self.report.platform, caller)));
            }
        }
    }

    /// The byte that a free object has at `at`.
    fn poison_at(&self, at: usize) -> u8 {
        if at + 1 == self.cache.geometry.object_size {
            crate::debug::pattern::POISON_END
        } else {
            POISON_FREE
        }
    }

    fn row_is_damaged(&self, object: usize, row: usize) -> bool {
        let end = (row + Row::BYTES).min(self.cache.geometry.object_size);
        (row..end).any(|at| self.word(object + at) as u8 != self.poison_at(at))
    }

    /// One row of an object. A single bit that differs in it is more often the memory's fault than a program's.
    fn row(&self, object: usize, row: usize) {
        let len = (self.cache.geometry.object_size - row).min(Row::BYTES);
        // SAFETY: memory of this slab.
        let bytes = unsafe { Row::read(object + row, len) };
        self.report.line(format_args!("{row:03x}: {bytes}"));
        let mut others =
            (row..row + len).map(|at| self.word(object + at) as u8).filter(|&byte| byte != POISON_FREE);
        if let (Some(byte), None) = (others.next(), others.next())
            && (byte ^ POISON_FREE).is_power_of_two()
        {
            self.report.line(format_args!("Single bit error detected. Probably bad RAM."));
            self.report.line(format_args!("Run memtest86+ or a similar memory test tool."));
        }
    }

    /// Who allocated and freed an object, with their stacks: what the kernel's SLAB does not know.
    pub(super) fn tracks(&self, object: usize) {
        let starts =
            object.checked_sub(self.first).is_some_and(|at| at.is_multiple_of(self.cache.geometry.size));
        if self.cache.geometry.tracks.is_some() && starts {
            for which in [Which::Alloc, Which::Free] {
                self.report.track(which, &self.track(object, which));
            }
        }
    }

    /// The line of a traced allocation or free.
    pub(super) fn trace(&self, object: usize, what: Which) {
        if self.has(SlabFlags::TRACE) {
            let (name, verb) = (self.cache.name, if what == Which::Alloc { "alloc" } else { "free" });
            let inuse = super::desc::active(self.slab);
            self.report.line(format_args!("TRACE {name} {verb} {object:#018x} inuse={inuse}"));
            self.report.here();
        }
    }
}
