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
mod options;
mod reports;
mod rig;
mod text;
mod traces;
