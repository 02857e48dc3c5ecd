//! The debug layer of SLUB: reports, repairs, error counts, options, tracks.
//!
//! Heaps here are small machines of their own; faults are made on purpose, by writing where nobody may.

#[path = "../api_support/mod.rs"]
mod support;

mod detections;
mod kmalloc;
mod kunit;
mod leaks;
mod letters;
mod mappings;
#[cfg(all(target_pointer_width = "64", target_endian = "little"))]
mod metadata;
mod options;
// The captured texts show addresses and bytes of a machine of 64 bits and little end.
#[cfg(all(target_pointer_width = "64", target_endian = "little"))]
mod reports;
mod rig;
#[cfg(all(target_pointer_width = "64", target_endian = "little"))]
mod text;
mod traces;
