//! A simulated machine for kmem: N CPUs, M nodes, and every request for memory can fail.
//!
//! # Theory
//! [`Machine`] is a [`Platform`](kmem_core::platform::Platform) whose world is a script. What a real
//! machine does by chance, a test does here on purpose:
//!
//! | the world | how a test says it |
//! |---|---|
//! | runs on CPU 3 | [`Machine::on_cpu`], [`Machine::set_cpu`] |
//! | moves a thread to another CPU between two instructions | [`Machine::migrating`], [`Machine::preempt_probability`] |
//! | runs another thread between two instructions | [`Machine::interrupted`] |
//! | has no memory | [`Machine::fail_nth`], [`Machine::fail_after`], [`Machine::fail_probability`], small zones |
//! | has no memory at each moment in turn | [`Builder::each_failure`], [`Builder::each_exhaustion`] |
//! | cannot take memory back | [`Machine::refuse_discards`] |
//! | lets time pass | [`Machine::advance`] |
//! | watches | [`Machine::counters`], [`Machine::outstanding`], [`Machine::resident_pages`], [`Machine::take_console`] |
//!
//! A `Machine` is a cheap handle: the heap owns one clone, the test steers with another. Everything
//! random comes from the seed, each thread with a stream of its own, so one thread on one seed
//! does the same thing each time.
//!
//! # What it checks all the time
//! - Locks are taken in rising rank, two locks of one rank never together, none taken twice by one
//!   thread, and none above `REGISTRY` is held across a call that asks the world for memory
//!   ([`Platform`](kmem_core::platform::Platform) says which).
//! - Memory that was not given (by `grow`) or was taken back (`release`, `unmap`) is not accessible,
//!   and neither are its page descriptors: a stray access faults at once.
//! - Only what was given is returned, once, in its own size.
//! - Entries above the top of a CPU stack are overwritten: code that reads a stale one finds [`STALE`].
//!
//! A broken rule panics with a message that names it: the simulator is the one platform that unwinds.
//!
//! # What it is not
//! A model checker: interleavings of single atomic accesses come only from real threads. Scheduling
//! points are the CPU operations, the locks, and the questions "which CPU, which node".

mod builder;
mod counters;
mod cpus;
mod explore;
mod faults;
mod locks;
mod machine;
mod maps;
mod memory;
mod os;
mod platform;
mod rng;
mod shadow;
mod symbols;
mod thread;

pub use builder::Builder;
pub use counters::{Counters, RANKS};
pub use cpus::{STALE, SimCpus};
pub use machine::{FATAL, Machine, Outstanding};
pub use rng::Rng;
pub use shadow::{Damage, Shadow};
