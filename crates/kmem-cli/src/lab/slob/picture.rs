//! A snapshot of the pages of SLOB. Plain data, so that drawing needs no heap.
//!
//! # Invariants
//! - I-SLOBPIC-1: the runs of a page follow each other without gap or overlap, from its start to its end.
//! - I-SLOBPIC-2: no two free runs touch, and together they have as many bytes as the page counts free.
//! - I-SLOBPIC-3: a page is on a list exactly when something in it is free.
//!
//! [`Picture::check`] says where they do not hold.

use kmem_core::engine::slob::{PageSight, Where};
use kmem_core::platform::PAGE_SIZE;

use crate::lab::draw::letters;

/// Bytes in a unit.
pub(crate) const UNIT: usize = 2;

/// What a part of a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum What {
    /// An object of the student's cache.
    Object,
    /// A block of kmalloc, of so many bytes behind a header.
    Block(usize),
    /// Somebody else's: the heap keeps its own descriptors there too.
    Other,
    /// Free.
    Free,
}

/// A part of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Bytes from the start of the page.
    pub(crate) offset: usize,
    /// Its length, headers included.
    pub(crate) bytes: usize,
    /// What it is.
    pub(crate) what: What,
}

/// One page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Number of its letter: the same in all pictures of a lab.
    pub(crate) name: usize,
    /// What the heap tells.
    pub(crate) is: PageSight,
    /// Its parts in ascending order.
    pub(crate) runs: Vec<Run>,
}

/// A snapshot: the pages of the lists in the order of the search, then the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Picture {
    /// The pages.
    pub(crate) pages: Vec<Page>,
}

impl Page {
    /// A page with these free parts and these known ones; what is left is somebody else's. Both ascend.
    pub(crate) fn new(name: usize, is: PageSight, known: &[Run]) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        let mut at = 0;
        for run in known {
            if run.offset > at {
                runs.push(Run { offset: at, bytes: run.offset - at, what: What::Other });
            }
            runs.push(*run);
            at = run.offset + run.bytes;
        }
        let end = match is.place {
            Where::Whole(pages) => pages * PAGE_SIZE,
            _ => PAGE_SIZE,
        };
        if at < end {
            runs.push(Run { offset: at, bytes: end - at, what: What::Other });
        }
        Page { name, is, runs }
    }

    /// Its letter.
    pub(crate) fn label(&self) -> String {
        letters(self.name)
    }

    /// Its free parts.
    pub(crate) fn holes(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|run| run.what == What::Free)
    }

    /// Nothing in it is somebody else's.
    pub(crate) fn is_mine(&self) -> bool {
        self.runs.iter().all(|run| run.what != What::Other)
    }

    fn check(&self) -> Result<(), String> {
        let name = self.label();
        let mut at = 0;
        for run in &self.runs {
            if run.offset != at {
                return Err(format!("page {name}: a part begins at {}, not {at}", run.offset));
            }
            at += run.bytes;
        }
        let free: usize = self.holes().map(|run| run.bytes).sum();
        let shared = matches!(self.is.place, Where::Ring(_) | Where::Full);
        if shared && free != self.is.free {
            return Err(format!("page {name}: {free} bytes are free, {} counted", self.is.free));
        }
        if self.runs.windows(2).any(|pair| pair[0].what == What::Free && pair[1].what == What::Free) {
            return Err(format!("page {name}: two free parts were not joined"));
        }
        if shared && (free > 0) != matches!(self.is.place, Where::Ring(_)) {
            return Err(format!("page {name}: {free} bytes free and {:?}", self.is.place));
        }
        Ok(())
    }
}

impl Picture {
    /// The page of an address, and the offset there.
    pub(crate) fn locate(&self, address: usize) -> Option<(&Page, usize)> {
        let inside = |page: &&Page| {
            let bytes: usize = page.runs.iter().map(|run| run.bytes).sum();
            address >= page.is.base && address < page.is.base + bytes
        };
        let page = self.pages.iter().find(inside)?;
        Some((page, address - page.is.base))
    }

    /// `A24`: a letter for the page, a number for the unit.
    pub(crate) fn label(&self, address: usize) -> String {
        match self.locate(address) {
            Some((page, offset)) => format!("{}{}", page.label(), offset / UNIT),
            None => format!("{address:#x}"),
        }
    }

    /// The pages of a list, from where the next search begins.
    pub(crate) fn ring(&self, ring: usize) -> Vec<&Page> {
        self.pages.iter().filter(|page| page.is.place == Where::Ring(ring)).collect()
    }

    /// Checks the invariants above.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.pages.iter().try_for_each(Page::check)
    }
}
