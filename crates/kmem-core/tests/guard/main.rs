//! The sampling guard on a simulated machine: the kernel's unit tests of its sampling detector, every report word by
//! word, the pool's rules, and when a turn comes.
//!
//! The machine remembers which pages are forbidden and leaves them readable: a test that touches one says so to the heap, as
//! a platform's fault handler does.

#[path = "../api_support/mod.rs"]
mod support;

mod kunit;
mod pool;
mod rig;
mod turns;
