//! The debug layer of SLAB: its own words, poison and reports.

#[path = "../api_support/mod.rs"]
mod support;

mod letters;
mod reports;
mod rig;
mod text;
