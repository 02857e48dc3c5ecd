//! Fault injection: which requests fail, which never do, and that a heap without rules is as it was before.

#[path = "../api_support/mod.rs"]
mod support;

mod callers;
mod entries;
mod rules;

use kmem_core::fault::{Attributes, Fault};

/// A rule for the life of the test program, as a heap wants it.
fn rule(attributes: Attributes) -> &'static Fault {
    Box::leak(Box::new(Fault::new(attributes)))
}
