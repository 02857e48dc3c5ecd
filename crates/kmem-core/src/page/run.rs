//! The owning token of allocated pages.

use core::ptr::NonNull;

use super::desc::{HAS_TAILS, Kind, Page, ZoneKind};
use super::list::Descs;

/// Ownership of a run of pages: whoever holds it may use the memory, and nobody else does.
///
/// A run ends by [`Pages::free`](super::Pages::free), or by [`Pages::into_head`](super::Pages::into_head)
/// when an engine keeps it by its descriptor (and later returns by [`Pages::adopt`](super::Pages::adopt)).
/// Dropping the token leaks the pages: a bug, which [`Pages::validate`](super::Pages::validate) reports.
#[derive(Debug)]
#[must_use = "dropping a run leaks its pages"]
pub struct PageRun {
    head: NonNull<Page>,
    address: NonNull<u8>,
    zeroed: bool,
}

// SAFETY: the token is plain ownership of memory and of atomics; nothing in it belongs to a thread.
unsafe impl Send for PageRun {}
// SAFETY: a shared token only reads the descriptor's atomics.
unsafe impl Sync for PageRun {}

impl PageRun {
    /// # Safety
    /// `head` is the head of a run that nobody else owns, `address` the address of its first page.
    /// `zeroed` only when all its memory is zero.
    pub(super) unsafe fn new(head: &Page, address: NonNull<u8>, zeroed: bool) -> Self {
        debug_assert!(head.kind().is_run());
        Self { head: NonNull::from(head), address, zeroed }
    }

    /// Ends the token; the run is now owned by whoever holds its head.
    pub(super) fn into_raw(self) -> NonNull<Page> {
        let head = self.head;
        core::mem::forget(self);
        head
    }

    /// The descriptor of the first page.
    #[inline]
    #[must_use]
    pub fn head(&self) -> &Page {
        // SAFETY: the run is allocated, so its memory was added and cannot be removed: I-PAGE-4.
        unsafe { self.head.as_ref() }
    }

    /// Where the memory begins.
    #[inline]
    #[must_use]
    pub fn address(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// Length in pages.
    #[inline]
    #[must_use]
    pub fn pages(&self) -> usize {
        self.head().pages()
    }

    /// log2 of the length in pages, rounded up.
    #[inline]
    #[must_use]
    pub fn order(&self) -> u32 {
        self.head().order()
    }

    /// The node of the memory.
    #[inline]
    #[must_use]
    pub fn node(&self) -> usize {
        self.head().node()
    }

    /// The zone of the memory.
    #[inline]
    #[must_use]
    pub fn zone(&self) -> ZoneKind {
        self.head().zone()
    }

    /// True when all the memory was known to be zero at the time it was handed out. False says nothing.
    #[inline]
    #[must_use]
    pub fn is_zeroed(&self) -> bool {
        self.zeroed
    }

    pub(super) fn forget_zeroed(&mut self) {
        self.zeroed = false;
    }

    /// Makes the run a slab of one object, which starts with it: nobody needs its other pages to lead to the head in
    /// one step, so they are not marked.
    pub fn make_slab_of_one(&mut self) {
        self.head().set_kind(Kind::Slab);
    }

    /// Declares what the run is used for: [`Kind::Allocated`], [`Kind::Slab`], [`Kind::Slob`] or [`Kind::Large`].
    ///
    /// A slab marks each of its pages, so that any object's page leads to the head in one step; the
    /// other kinds are found from their inside by looking at the aligned pages before it, which is
    /// slower and costs nothing here.
    ///
    /// # Panics
    /// With a kind that no run can have.
    pub fn set_kind(&mut self, kind: Kind) {
        assert!(kind.is_run(), "a run of pages cannot be {kind:?}");
        let head = self.head();
        if kind == Kind::Slab && head.pages() > 1 {
            mark_tails(head, 1, head.pages());
        }
        head.set_kind(kind);
    }
}

/// Marks pages `from..to` of a run as its tails.
pub(super) fn mark_tails(head: &Page, from: usize, to: usize) {
    let run = Descs::of_run(head);
    for i in from..to {
        let tail = run.page(i);
        tail.set_span(i);
        tail.set_kind(Kind::Tail);
    }
    head.add_mark(HAS_TAILS);
}

impl Drop for PageRun {
    /// Not a panic: the token may be dropped by a panic that unwinds, and two of them abort.
    fn drop(&mut self) {
        self.head().set_kind(Kind::Leaked);
    }
}
