//! The kmalloc family, function by function: what each promises in the usual case, at its edges, and when it is misused.
//!
//! Each test is named after the function it asks. All run for both configurations: as the kernel is built, and as
//! programs use it.

mod arrays;
mod buckets;
mod failures;
mod growing;
mod kmalloc;
mod large;
mod nolock;
mod realloc;
mod runs;
#[path = "../api_support/mod.rs"]
mod support;
mod typed;
mod usercopy;
mod vmalloc;
