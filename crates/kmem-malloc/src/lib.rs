//! malloc for any program on kmem's slabs, by LD_PRELOAD.
//!
//! # What for
//! `libkmem_malloc.so` defines every allocation entry point of the C library and the C++ operators,
//! so that a dynamically linked program uses the process-wide heap of the `kmem` crate for all of
//! its memory, whether the library is preloaded or linked with `-lkmem_malloc`. All entry points
//! are here because a missing one would mix two heaps: a block of one `malloc` reaching the `free`
//! of the other.
//!
//! # What it decides
//! The heap below speaks of memory only; this crate adds what a C program can observe:
//! - `errno`, return values and argument checks, as the newest glibc has them ([`blocks`], [`aligned`]);
//! - the statistics and tuning calls ([`inspect`]);
//! - the new-handler loop and `std::bad_alloc`, without depending on a C++ runtime ([`operators`]);
//! - what a program is told of errors, and what it decides then: `include/kmem_malloc.h` ([`callbacks`]);
//! - where the program's handlers of faults go while the heap watches for faults ([`signals`]);
//! - fork handlers, and the report a process leaves at its end ([`process`]).
//!
//! The package `kmem-record` builds the same sources into a second library, whose hooks (`record`) write down every
//! call; in this one they are empty functions and cost nothing.
//!
//! # Invariants
//! - I-MALLOC-1: nothing here needs a constructor to have run. The dynamic loader and constructors
//!   of other libraries allocate before ours does, and destructors allocate after ours.
//! - I-MALLOC-2: no entry point calls a C library function that allocates, except where the
//!   caller's own argument asks for it (`malloc_info` writes to the caller's stream) and when an
//!   operator `new` has already failed.
//! - I-MALLOC-3: the dynamic symbol table holds the public names and nothing else. A Rust
//!   program's own runtime symbols must never be replaced by ours.
//! - I-MALLOC-4: no thread-local storage of this crate; what the heap needs is initial-exec.
//!
//! # What it never does
//! It never falls back to another allocator, and the library is never unmapped once loaded.

#![cfg_attr(not(test), no_std)]

pub mod aligned;
pub mod blocks;
pub mod callbacks;
mod handover;
pub mod inspect;
#[cfg(target_arch = "x86_64")]
pub mod operators;
pub mod process;
#[cfg(recording)]
mod record;
#[cfg(not(recording))]
#[path = "record/off.rs"]
mod record;
mod runtime;
pub mod signals;
mod text;
