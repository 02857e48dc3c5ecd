//! Colours: where in its slab the first object lies.
//!
//! Slabs are aligned to their size, so the first objects of all slabs of a cache would fall into the same few
//! sets of a processor cache. Each node therefore gives the slabs it grows one colour after the other.
//!
//! The count of colours is the tail over the step, rounded down. A tail that holds exactly one step would
//! allow two colours and counts as one: such a cache stays without colouring, as it was captured.
//!
//! Pure state, one number: whoever grows a slab holds its node's lock.

use super::Layout;

/// When a node moves on to the next colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Before a slab takes it, so that the first slab has colour 1 (6.1).
    BeforeUse,
    /// After a slab took it, so that the first slab has colour 0 (2.6).
    AfterUse,
}

/// Which colour a node's next slab of a cache has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColourCursor {
    number: usize,
}

impl ColourCursor {
    /// The cursor of a fresh cache.
    #[must_use]
    pub const fn new() -> Self {
        Self { number: 0 }
    }

    /// The colour of the next slab in bytes, less than `colours * colour_step` (0 when there are none).
    #[must_use]
    pub const fn advance(&mut self, layout: &Layout) -> usize {
        let before = self.number;
        self.number += 1;
        if self.number >= layout.colours {
            self.number = 0;
        }
        let number = match layout.rotation {
            Rotation::BeforeUse => self.number,
            Rotation::AfterUse => before,
        };
        number * layout.colour_step
    }
}
