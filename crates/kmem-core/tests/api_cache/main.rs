//! The functions of `kmem_cache`, one by one: what each promises in the usual case, at its edges, and when it is misused.
//!
//! Each test is named after the function it asks. All run for both configurations: as the kernel is built, and as
//! programs use it.

mod aliases;
mod bulk;
mod create;
mod destroy;
mod links;
mod map;
mod objects;
mod sheaves;
#[path = "../api_support/mod.rs"]
mod support;
mod telling;
