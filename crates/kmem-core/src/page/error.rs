//! Why a request about pages was refused.

use core::fmt;

use super::desc::Kind;

/// Why a request about pages was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageError {
    /// The address belongs to no memory of this heap.
    Foreign,
    /// The address is not the start of a page.
    Misaligned,
    /// The pages are free already.
    DoubleFree,
    /// The address is inside a run that begins at this one.
    Interior {
        /// Address of the run.
        head: usize,
    },
    /// The run is of this many pages, not of the order named.
    WrongOrder {
        /// Pages of the run.
        pages: usize,
    },
    /// The pages belong to a slab or to a kmalloc block.
    NotPages(Kind),
    /// The range is empty, not in the window, or not made of whole blocks of 4 MiB.
    BadRange,
    /// No such node.
    BadNode,
    /// The range is not of that zone.
    BadZone,
    /// A part of the range is memory of the heap already.
    Present,
    /// A part of the range is no memory of the heap.
    Absent,
    /// A part of the range is in use.
    Busy,
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("the address belongs to no memory of this heap"),
            Self::Misaligned => f.write_str("the address is not the start of a page"),
            Self::DoubleFree => f.write_str("the pages are free already"),
            Self::Interior { head } => write!(f, "the address is inside the run of pages at {head:#x}"),
            Self::WrongOrder { pages } => write!(f, "wrong order: the run has {pages} pages"),
            Self::NotPages(kind) => write!(f, "the pages belong to a block of kind {kind:?}"),
            Self::BadRange => f.write_str("the range is not made of whole blocks of the window"),
            Self::BadNode => f.write_str("no such node"),
            Self::BadZone => f.write_str("the range is not of that zone"),
            Self::Present => f.write_str("a part of the range is memory of the heap already"),
            Self::Absent => f.write_str("a part of the range is no memory of the heap"),
            Self::Busy => f.write_str("a part of the range is in use"),
        }
    }
}

impl core::error::Error for PageError {}
