//! Where the engines differ, and how: one row an engine.
//!
//! What is not here is the same for all of them, and the checks ask it of all of them.

/// When a constructor runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Construction {
    /// Once for each object of a new slab; a freed object keeps its state.
    EachSlab,
    /// At each allocation.
    EachAllocation,
}

/// Which caches share slabs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Those with equal slots.
    Slots,
    /// The same, where the older one's alignment is a multiple of the newer one's.
    SlotsAndAlignment,
    /// None.
    Never,
}

/// In what order a fresh cache without random order hands its objects out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From the first object of a slab on.
    Ascending,
    /// In batches of so many, each from its last object to its first.
    Batches(usize),
    /// Side by side in a page, whatever else lies there.
    FirstFit,
}

/// What is peculiar to an engine.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Its name.
    pub engine: &'static str,
    /// When constructors run.
    pub construction: Construction,
    /// Which caches share slabs.
    pub sharing: Sharing,
    /// The order of a fresh cache.
    pub order: Order,
    /// Shrinking a cache tells whether slabs are left; otherwise it never does.
    pub tells_slabs: bool,
    /// Objects smaller than a page can be aligned to more than a page.
    pub beyond_a_page: bool,
    /// Without a preference, objects are of the caller's node while it has memory; otherwise of any.
    pub near: bool,
}

/// All engines.
pub const ENGINES: [Expected; 3] = [
    Expected {
        engine: "slub",
        construction: Construction::EachSlab,
        sharing: Sharing::Slots,
        order: Order::Ascending,
        tells_slabs: true,
        beyond_a_page: true,
        near: true,
    },
    Expected {
        engine: "slab",
        construction: Construction::EachSlab,
        sharing: Sharing::SlotsAndAlignment,
        order: Order::Batches(16),
        tells_slabs: true,
        beyond_a_page: true,
        near: true,
    },
    Expected {
        engine: "slob",
        construction: Construction::EachAllocation,
        sharing: Sharing::Never,
        order: Order::FirstFit,
        tells_slabs: false,
        beyond_a_page: false,
        near: false,
    },
];

impl Expected {
    /// The row of the engine of this name; nothing for an engine that nobody described.
    #[must_use]
    pub fn of(engine: &str) -> Option<&'static Self> {
        ENGINES.iter().find(|row| row.engine == engine)
    }
}
