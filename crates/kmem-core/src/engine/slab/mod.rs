//! SLAB: objects in slabs that know their free ones by an index, arrays of free objects in front of them.

pub mod geometry;
pub mod index;
pub mod tunables;
